//! Inputs of the fuzz target `attention_diff` on the command line: what it crashed on, and files of its corpus.

use super::Failure;
use crate::backend::Kernel;
use crate::case::Case;
use crate::harness::Target;
use std::path::Path;

/// More is no input: libFuzzer makes them of 4,096 bytes at most unless asked for longer ones.
const MAX_BYTES: u64 = 1 << 20;

/// Whether a path is that of an input rather than of findings.
pub(super) fn is_input(path: &Path) -> bool {
    path.is_file() && path.extension().is_none_or(|extension| extension != "toml")
}

/// The kernel and the case that an input stands for in the fuzz target.
pub(super) fn read(file: &Path, kernel: Option<&str>) -> Result<(Kernel, Case), Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::usage(format!("{}: {why}", file.display()));
    let size = file.metadata().map_err(|error| wrong(&error))?.len();
    if size > MAX_BYTES {
        return Err(wrong(&format!("expected an input of at most {MAX_BYTES} bytes, found {size}")));
    }
    let input = std::fs::read(file).map_err(|error| wrong(&error))?;
    let target = Target::decoder(kernel).map_err(Failure::usage)?;
    let (harness, case) = target.decode(&input).map_err(|error| wrong(&error))?;
    Ok((Kernel::open(&harness.kernel().reference()).map_err(Failure::usage)?, case))
}
