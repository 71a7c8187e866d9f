//! One mutant on one case.
//!
//! The checks are the oracle's, in an order that is cheapest first: a fault of the first run, its numbers, a fault of the
//! second run, other bits in it, the numbers with perturbed approximations, a closer look if they are suspect, the
//! relation that the case asks for. So a mutant that breaks several rules may be
//! booked under another of them than [`oracle::examine`] would name, but dies of the same ones.

use super::pool::Pooled;
use crate::backend::{BackendError, BackendKind, Emulator, Kernel, Run, Watch};
use crate::case::Case;
use crate::oracle::relation::{self, Checked};
use crate::oracle::{self, Agreement, Verdict};
use crate::outcome::{Outcome, Output};

/// What came of it.
pub(super) enum Trial {
    /// What noticed the mutant.
    Killed(String),
    /// Nothing did; the largest part of a bound that an error used.
    Agreed(f64),
    /// The emulator can't run it.
    CannotRun(String),
}

/// A mutant that takes this many times the right kernel's instructions, and [`HANG_BASE`] more, hangs.
const HANG_FACTOR: u64 = 64;
const HANG_BASE: u64 = 200_000;

/// Tries `mutant` on a case.
pub(super) fn trial(mutant: &Kernel, pooled: &Pooled) -> Trial {
    examine(mutant, pooled).unwrap_or_else(|error| Trial::CannotRun(error.to_string()))
}

fn examine(mutant: &Kernel, pooled: &Pooled) -> Result<Trial, BackendError> {
    let case = &pooled.case;
    let hang_after = HANG_BASE.saturating_add(pooled.cost.saturating_mul(HANG_FACTOR));
    let watch = Watch { hang_after: Some(hang_after), ..Watch::default() };
    let run = |run| Emulator.observe(mutant, case, run, watch).map(|observed| observed.outcome);
    let first_run = Run::first(case);
    let first = match run(first_run)? {
        Outcome::Output(output) => output,
        Outcome::Fault(fault) => return Ok(killed(&Verdict::Fault(fault), "")),
    };
    let mut agreement = pooled.agreement;
    if !is_same(&first, &pooled.output) {
        match oracle::judge(case, &mutant.manifest, first_run.poison, &first) {
            Verdict::Agree(found) => agreement = found,
            verdict => return Ok(killed(&verdict, "")),
        }
    }
    let second = match run(first_run.next())? {
        Outcome::Output(output) => output,
        Outcome::Fault(fault) => return Ok(killed(&Verdict::Fault(fault), "")),
    };
    if (&second.out, &second.lse) != (&first.out, &first.lse) {
        // The oracle says why they differ.
        return Ok(killed(&oracle::examine(&Emulator, mutant, case)?.verdict, ""));
    }
    if oracle::is_perturbed(BackendKind::Emulator, case) {
        let perturbed = Run { perturb: Some(case.schedule_seed), ..first_run };
        match run(perturbed)? {
            Outcome::Fault(fault) => return Ok(killed(&Verdict::Fault(fault), " perturbed")),
            Outcome::Output(output) => {
                let verdict = oracle::judge(case, &mutant.manifest, perturbed.poison, &output);
                if verdict.signature().is_some() {
                    return Ok(killed(&verdict, " perturbed"));
                }
            }
        }
    }
    if let Some((verdict, how)) = beyond(mutant, case, &first, agreement)? {
        return Ok(killed(&verdict, how));
    }
    Ok(Trial::Agreed(agreement.worst_ratio))
}

/// What other cases say of a kernel that agrees on this one: those of a closer look, those of its relation. Gives the
/// verdict of what fails, and how it was found.
pub(super) fn beyond(
    kernel: &Kernel,
    case: &Case,
    output: &Output,
    agreement: Agreement,
) -> Result<Option<(Verdict, &'static str)>, BackendError> {
    if agreement.is_suspect()
        && let Some((_, verdict)) = oracle::look_closer(&Emulator, kernel, case)?
    {
        return Ok(Some((verdict, " in a closer look")));
    }
    let Some(asked) = case.relation else { return Ok(None) };
    Ok(match relation::check(&Emulator, kernel, case, asked, Some(output))? {
        Checked::Broken(divergence) => Some((Verdict::Diverge(divergence), "")),
        Checked::Fault(fault) => Some((Verdict::Fault(fault), " in a relation")),
        Checked::Holds(_) | Checked::DoesNotApply(_) => None,
    })
}

/// Bit for bit; NaN is itself.
fn is_same(a: &Output, b: &Output) -> bool {
    a.out == b.out && a.lse == b.lse && a.k_cache == b.k_cache && a.v_cache == b.v_cache
}

fn killed(verdict: &Verdict, how: &str) -> Trial {
    let class = verdict.signature().map_or_else(|| "no verdict".into(), |signature| signature.class);
    Trial::Killed(match verdict {
        Verdict::Diverge(divergence) => format!("{class} {}{how}", divergence.tier),
        _ => format!("{class}{how}"),
    })
}
