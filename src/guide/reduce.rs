//! A smaller corpus that reaches as much.

use crate::backend::{Kernel, Points, Recording};
use crate::case::Case;
use crate::corpus::minimal;
use crate::generate::cost;
use crate::oracle::Examiner;
use crate::outcome::Outcome;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// What is left of a corpus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduced {
    /// Indices of the cases to keep, in order: those that together reach every point that any does, and those that tell nothing.
    pub kept: Vec<usize>,
    /// Cases that tell nothing of what they reach, and why: the kernel faults, or they can't be run.
    pub untold: Vec<(usize, String)>,
    /// Points that are reached.
    pub reached: usize,
    /// Points that the kernel has.
    pub existing: usize,
}

/// Runs each case on `kernel` in the emulator, and chooses those to keep; cheaper ones are preferred, the earlier one of two.
/// A case is run as the kernel's domain has it.
pub fn reduce(kernel: &Kernel, cases: &[Case]) -> Reduced {
    let points = Points::of(kernel);
    let run = |case: &Case| -> Result<(u64, BTreeSet<u32>), String> {
        kernel.ptx().map_err(|error| error.to_string())?;
        let case = kernel.space().legalize(case.clone().into_parts());
        let recording = Recording::new(&points);
        match recording.run_first(kernel, &case) {
            Ok(Outcome::Output(_)) => Ok((cost(&case), recording.take().iter().collect())),
            Ok(Outcome::Fault(fault)) => Err(format!("the kernel faults: {}", fault.detail)),
            Err(error) => Err(error.to_string()),
        }
    };
    let told: Vec<_> = cases.par_iter().map(run).collect();
    let (mut known, mut untold) = (Vec::new(), Vec::new());
    for (index, told) in told.into_iter().enumerate() {
        match told {
            Ok((cost, reached)) => known.push((index, cost, reached)),
            Err(why) => untold.push((index, why)),
        }
    }
    let cover = minimal(known.iter().map(|(_, cost, reached)| (*cost, reached)));
    let mut kept: Vec<usize> = cover.into_iter().map(|place| known[place].0).collect();
    kept.extend(untold.iter().map(|(index, _)| index));
    kept.sort_unstable();
    let reached: BTreeSet<u32> = known.into_iter().flat_map(|(_, _, reached)| reached).collect();
    Reduced { kept, untold, reached: reached.len(), existing: points.len() }
}
