//! Makes a failing case smaller.
//!
//! The shrinker has a target and a predicate and knows nothing else: no kernel, no verdict, no randomness. It proposes a
//! case, is told whether that one still fails, and goes on from there. A proposal is always a case of the domain, always
//! simpler by [`complexity`], and never made twice; so it comes to an end, and the end is a case that none of its moves
//! makes simpler.
//!
//! Values come last: when nothing else gets simpler, a small set of elements is looked for that must not be 0.
//!
//! At the end it tells which fields of the result seem not to matter.
//!
//! One search, two doors: [`shrink`] runs a predicate, [`Shrinker`] is the same search step by step, for those who must
//! not be called back (proptest's value tree).
//!
//! Misses: a failure that returns only after three or more numbers change together.

mod descent;
mod irrelevance;
mod knob;
mod moves;
mod order;
mod reduction;
mod shrinker;

pub use order::{Complexity, complexity};
pub use shrinker::Shrinker;

use crate::case::{Case, Domain};

/// The end of a search.
#[derive(Clone, Debug, PartialEq)]
pub struct Shrunk {
    /// The simplest case found that fails.
    pub case: Case,
    /// How often the predicate ran.
    pub executions: u32,
    /// Whether the search stopped because it had used up its executions, not because nothing simpler fails.
    pub exhausted: bool,
    /// Keys of the one-line form whose fields seem not to matter, see [`irrelevant`]; none if there were no executions left to tell.
    pub irrelevant: Vec<&'static str>,
}

/// The simplest case of `domain` found from `start`, which fails, by at most `max_executions` of `still_fails`.
///
/// The end of the search is not the last case that `still_fails` says yes to: to tell which fields matter, it is asked
/// about others afterwards.
pub fn shrink(start: Case, domain: &Domain, max_executions: u32, still_fails: &mut dyn FnMut(&Case) -> bool) -> Shrunk {
    let mut executions = 0;
    // Nothing when the executions are used up.
    let mut fails = |case: &Case| {
        (executions < max_executions).then(|| {
            executions += 1;
            still_fails(case)
        })
    };
    let mut shrinker = Shrinker::new(start, domain.clone());
    let mut exhausted = false;
    while let Some(candidate) = shrinker.propose() {
        match fails(&candidate) {
            Some(true) => shrinker.accept(),
            Some(false) => shrinker.reject(),
            None => {
                exhausted = true;
                break;
            }
        }
    }
    let case = shrinker.into_best();
    let irrelevant = irrelevant(&case, domain, &mut |other| fails(other) == Some(true));
    Shrunk { case, executions, exhausted, irrelevant }
}

/// Keys of the one-line form of `case`, which fails, whose fields seem not to matter.
///
/// Such a field has other values in `domain`, and the case fails with each of a few of them. That is evidence, not proof:
/// another value may pass, and two irrelevant fields may matter together. At most 60 executions and four for each knob of the kernel, of cases about as
/// small as `case`, but not simpler.
pub fn irrelevant(case: &Case, domain: &Domain, still_fails: &mut dyn FnMut(&Case) -> bool) -> Vec<&'static str> {
    irrelevance::probes(case, domain)
        .into_iter()
        .filter(|probe| !probe.others.is_empty() && probe.others.iter().all(&mut *still_fails))
        .map(|probe| probe.field)
        .collect()
}
