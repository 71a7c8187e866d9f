//! Running a saved finding again.

use super::store::{files_below, load};
use super::{Finding, LoadError};
use crate::backend::{Kernel, OpenError};
use crate::oracle::{self, Examiner, Signature};
use std::path::{Path, PathBuf};

/// What became of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The same bug is still there.
    StillFails(String),
    /// The case fails, but as another bug.
    FailsDifferently(Signature, String),
    /// The case agrees.
    Fixed,
    /// It could not be run or judged here, and why.
    CannotRun(String),
}

impl Finding {
    /// Reads the findings that `path` stands for: one file, or every `.toml` file below a folder.
    pub fn load_all(path: &Path) -> Result<Vec<(PathBuf, Self)>, LoadError> {
        files_below(path)?.into_iter().map(|file| Ok((file.clone(), load(&file)?))).collect()
    }

    /// Opens the finding's kernel. A path is tried as it stands, then relative to each folder above `file`.
    pub fn open_kernel(&self, file: &Path) -> Result<Kernel, OpenError> {
        let direct = Kernel::open(&self.kernel);
        let Err(OpenError::Unknown { .. }) = &direct else {
            return direct;
        };
        file.ancestors()
            .skip(1)
            .map(|folder| folder.join(&self.kernel))
            .find(|path| path.is_file())
            .map_or(direct, |path| Kernel::open(&path.to_string_lossy()))
    }
}

/// Runs that a flaky finding gets to come back in.
const TRIES: u32 = 24;

/// Runs `finding` on `backend`; a flaky one until it fails again, but not for ever.
pub fn replay(finding: &Finding, kernel: &Kernel, backend: &dyn Examiner) -> Replayed {
    let tries = if finding.flaky.is_some() { TRIES } else { 1 };
    let mut last = Replayed::Fixed;
    for _ in 0..tries {
        last = replay_once(finding, kernel, backend);
        if last != Replayed::Fixed {
            break;
        }
    }
    last
}

fn replay_once(finding: &Finding, kernel: &Kernel, backend: &dyn Examiner) -> Replayed {
    let verdict = match backend.examine(kernel, &finding.case) {
        Ok(examined) => examined.verdict,
        Err(error) => return Replayed::CannotRun(error.to_string()),
    };
    match (&verdict, verdict.signature()) {
        (oracle::Verdict::Skip(why), _) => Replayed::CannotRun(why.clone()),
        (oracle::Verdict::Diverge(d), Some(found)) => same_or_other(finding, found, d.to_string()),
        (oracle::Verdict::Fault(f), Some(found)) => same_or_other(finding, found, format!("{}: {}", f.kind, f.detail)),
        _ => Replayed::Fixed,
    }
}

fn same_or_other(finding: &Finding, found: Signature, what: String) -> Replayed {
    // Only the class: a place in the PTX moves whenever the kernel is compiled again.
    if found.class == finding.signature.class {
        Replayed::StillFails(what)
    } else {
        Replayed::FailsDifferently(found, what)
    }
}
