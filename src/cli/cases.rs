//! `attnfuzz cases`.

use super::{CasesArgs, Exit, Failure};
use crate::backend::Kernel;
use crate::generate::Statistics;
use crate::harness::seeds;
use std::io::Write;
use std::path::Path;

pub(super) fn run(args: &CasesArgs) -> Result<Exit, Failure> {
    let kernel = Kernel::open(&args.kernel).map_err(Failure::usage)?;
    if let Some(folder) = &args.seeds {
        return write_seeds(&kernel, args, folder);
    }
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

fn write_seeds(kernel: &Kernel, args: &CasesArgs, folder: &Path) -> Result<Exit, Failure> {
    let entries = seeds(kernel, args.seed, args.cases).map_err(Failure::usage)?;
    for entry in &entries {
        entry
            .save(folder)
            .map_err(|error| Failure::usage(format!("--seeds: can't write in {}: {error}", folder.display())))?;
    }
    eprintln!("{} entries for {} in {}", entries.len(), kernel.name(), folder.display());
    Ok(Exit::Clean)
}
