//! A corpus to start from.

use crate::backend::{BackendError, Kernel, Points, Recording};
use crate::case::Case;
use crate::corpus::{Entry, minimal};
use crate::generate::cost;
use crate::oracle::{Verdict, examine};
use std::collections::{BTreeMap, BTreeSet};

/// Most multiply-adds of a seed with a model's heads: with more, what is mutated from it would be slow as well.
const MODEL_BUDGET: u64 = 1 << 13;

/// Entries for `kernel`: a token or two with each model's heads, where that is cheap, and of the first `cases` cases of the
/// campaign `seed`, made small, those that reach what no cheaper one reaches. The same each time.
///
/// # Errors
/// The kernel does not agree with one of them, or it can't be run: no seeds for a kernel that is known to fail.
pub fn seeds(kernel: &Kernel, seed: u64, cases: u64) -> Result<Vec<Entry>, String> {
    let space = kernel.small_space();
    let points = Points::of(kernel);
    let mut drawn = vec![space.smallest().clone()];
    drawn.extend((0..cases).map(|index| space.downsize(&space.case_at(seed, index))));
    let mut reached = Vec::new();
    for case in &drawn {
        let recording = Recording::new(&points);
        agrees(examine(&recording, kernel, case).map(|examined| examined.verdict), case)?;
        reached.push(recording.take().iter().collect::<BTreeSet<u32>>());
    }
    let kept = minimal(drawn.iter().map(|case| cost(case)).zip(&reached));
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let models = kernel.space().models().filter(|case| cost(case) <= MODEL_BUDGET);
    for case in kept.into_iter().map(|index| drawn[index].clone()).chain(models) {
        let entry = Entry { kernel: kernel.name().into(), case };
        entries.insert(entry.file_name(), entry);
    }
    Ok(entries.into_values().collect())
}

fn agrees(verdict: Result<Verdict, BackendError>, case: &Case) -> Result<(), String> {
    match verdict {
        Ok(Verdict::Agree(_)) => Ok(()),
        Ok(verdict) => Err(format!("expected a kernel that agrees, found {verdict:?} for {case}")),
        Err(error) => Err(format!("{case} can't be run: {error}")),
    }
}
