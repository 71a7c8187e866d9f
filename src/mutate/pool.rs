//! Cases that mutants are tried on, with what the right kernel does in them.

use super::build::{Mutant, Origin};
use super::trial::beyond;
use crate::backend::{Emulator, Kernel, Lines, Run, Watch};
use crate::case::Case;
use crate::oracle::{self, Agreement, Verdict};
use crate::outcome::{Outcome, Output};
use std::collections::HashMap;

/// A case on which the right kernel agrees.
pub(super) struct Pooled {
    pub(super) case: Case,
    /// Warp instructions of one run.
    pub(super) cost: u64,
    /// What its first run left.
    pub(super) output: Output,
    pub(super) agreement: Agreement,
    /// Lines that ran in its first two runs.
    lines: Lines,
    /// What trials came to, the later rounds counting more.
    pub(super) tries: f64,
    pub(super) kills: f64,
}

/// Instructions that make up for what a run costs beside them.
const FIXED_COST: f64 = 20_000.0;

impl Pooled {
    /// Runs the right kernel, twice as the oracle does; an error says why the case is of no use.
    pub(super) fn new(kernel: &Kernel, case: Case) -> Result<Self, String> {
        if let Some(why) = kernel.manifest.domain.excludes(&case) {
            return Err(format!("outside the kernel's domain: {why}"));
        }
        let first_run = Run::first(&case);
        let run = |run| {
            let observed = Emulator.observe(kernel, &case, run, Watch { lines: true, ..Watch::default() });
            let observed = observed.map_err(|error| error.to_string())?;
            match observed.outcome {
                Outcome::Output(output) => Ok((output, observed.stats.warp_instructions, observed.lines)),
                Outcome::Fault(fault) => Err(format!("the kernel itself: {}: {}", fault.kind, fault.detail)),
            }
        };
        let (output, cost, mut lines) = run(first_run)?;
        let (second, _, more) = run(first_run.next())?;
        if (&output.out, &output.lse) != (&second.out, &second.lse) {
            return Err("the kernel itself is not repeatable".into());
        }
        lines.executed.extend(more.executed);
        lines.reached.extend(more.reached);
        lines.outcomes.extend(more.outcomes);
        match oracle::judge(&case, &kernel.manifest, first_run.poison, &output) {
            Verdict::Agree(agreement) => {
                match beyond(kernel, &case, &output, agreement).map_err(|error| error.to_string())? {
                    Some((_, how)) => Err(format!("the kernel itself fails{how}")),
                    None => Ok(Self { case, cost, output, agreement, lines, tries: 0.0, kills: 0.0 }),
                }
            }
            Verdict::Diverge(divergence) => Err(format!("the kernel itself: {divergence}")),
            Verdict::Fault(fault) => Err(format!("the kernel itself: {}", fault.detail)),
            Verdict::Skip(why) => Err(why),
        }
    }

    /// Whether the right kernel comes to where the mutant differs, so that there is something to see.
    pub(super) fn covers(&self, mutant: &Mutant) -> bool {
        match mutant.origin {
            Origin::Planted(_) => true,
            Origin::Edited { guards: true, .. } => self.lines.reached.contains(&mutant.line),
            Origin::Edited { guards: false, .. } => self.lines.executed.contains(&mutant.line),
        }
    }

    /// Lets older rounds count less: what killed the many easy mutants says little of the few that are left.
    pub(super) fn fade(&mut self) {
        self.tries /= 4.0;
        self.kills /= 4.0;
    }

    /// How much a trial on this case promises: the share of mutants it has killed, the lines it runs, by what it costs.
    pub(super) fn promise(&self) -> f64 {
        let share = (self.kills + 1.0) / (self.tries + 2.0);
        share * self.lines.executed.len() as f64 / self.price()
    }

    fn price(&self) -> f64 {
        self.cost as f64 + FIXED_COST
    }
}

/// Orders `cases` so that any first part of them shows as much of what the kernel does as its cost allows: each next one
/// has most outcomes of guards and comparisons that the ones before it showed seldom.
pub(super) fn by_novelty(pool: &[Pooled], cases: &[usize]) -> Vec<usize> {
    let mut shown: HashMap<u32, i32> = HashMap::new();
    let worth = |case: usize, shown: &HashMap<u32, i32>| {
        let weights = pool[case].lines.outcomes.iter().map(|o| 0.25_f64.powi(shown.get(o).copied().unwrap_or(0)));
        weights.sum::<f64>() / pool[case].price()
    };
    let mut left: Vec<(f64, usize)> = cases.iter().map(|&case| (worth(case, &shown), case)).collect();
    let mut order = Vec::with_capacity(cases.len());
    let best = |left: &[(f64, usize)]| (0..left.len()).max_by(|&a, &b| left[a].0.total_cmp(&left[b].0));
    while let Some(at) = best(&left) {
        // Worth only falls, so the best by old numbers is the best if it still is by its new one.
        let (old, case) = left[at];
        let new = worth(case, &shown);
        if new < old {
            left[at].0 = new;
            continue;
        }
        left.swap_remove(at);
        order.push(case);
        pool[case].lines.outcomes.iter().for_each(|outcome| *shown.entry(*outcome).or_default() += 1);
    }
    order
}
