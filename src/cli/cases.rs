//! `attnfuzz cases`.

use super::{CasesArgs, Exit, Failure};
use crate::backend::Kernel;
use crate::generate::Statistics;
use std::io::Write;

pub(super) fn run(args: &CasesArgs) -> Result<Exit, Failure> {
    let kernel = Kernel::open(&args.kernel).map_err(Failure::usage)?;
    let space = kernel.space();
    let mut cases = (0..args.cases).map(|index| space.case_at(args.seed, index));
    // A reader that closes the pipe early has seen enough.
    let mut out = std::io::stdout().lock();
    if args.statistics {
        let _ = write!(out, "{}", cases.collect::<Statistics>());
    } else {
        let _ = cases.try_for_each(|case| writeln!(out, "{case}"));
    }
    Ok(Exit::Clean)
}
