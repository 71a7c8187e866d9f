//! Running a saved finding again.

use super::store::{files_below, load};
use super::{Digest, Finding, LoadError};
use crate::backend::{BackendKind, Kernel, OpenError};
use crate::oracle::{self, Examiner, Signature};
use crate::outcome::FaultKind;
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

    /// Reads one file.
    pub fn load(file: &Path) -> Result<Self, LoadError> {
        load(file)
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

/// The bits of a replayed finding's case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bits {
    /// Nothing can be said: it could not be run, or the finding doesn't say which they were.
    Unknown,
    /// Those of when it was saved.
    AsSaved,
    /// Others.
    Other(Digest),
    /// Others from run to run: these two came.
    Varying(Digest, Digest),
}

/// Replays `finding` so many times (at least once), and looks at the bits that each first run leaves.
///
/// The worst end counts: that it still fails, else that it fails differently, which it does too if nothing fails and the
/// bits change from run to run, else that it could not be run. Bits are compared with those that were saved if `backend` is
/// of the kind that the finding is from.
pub fn replay_times(finding: &Finding, kernel: &Kernel, backend: &dyn Examiner, times: u32) -> (Replayed, Bits) {
    let mut worst = Replayed::Fixed;
    let mut bits = Bits::Unknown;
    let mut first = None;
    for _ in 0..times.max(1) {
        let result = replay(finding, kernel, backend);
        if result.severity() > worst.severity() {
            worst = result;
        }
        if matches!(worst, Replayed::CannotRun(_)) {
            return (worst, Bits::Unknown);
        }
        let Ok(digest) = Digest::of_first_run(backend, kernel, &finding.case) else { continue };
        let known = *first.get_or_insert(digest);
        bits = match (bits, finding.digest.filter(|_| backend.kind() == BackendKind::Emulator)) {
            (varying @ Bits::Varying(..), _) => varying,
            _ if digest != known => Bits::Varying(known, digest),
            (_, None) => Bits::Unknown,
            (_, Some(saved)) if saved == digest => Bits::AsSaved,
            (_, Some(_)) => Bits::Other(digest),
        };
    }
    if worst == Replayed::Fixed && matches!(bits, Bits::Varying(..)) {
        let signature = Signature { class: format!("fault {}", FaultKind::NotRepeatable), place: None };
        worst = Replayed::FailsDifferently(signature, "it doesn't fail, but its bits change from run to run".into());
    }
    (worst, bits)
}

impl Replayed {
    fn severity(&self) -> u8 {
        match self {
            Self::Fixed => 0,
            Self::CannotRun(_) => 1,
            Self::FailsDifferently(..) => 2,
            Self::StillFails(_) => 3,
        }
    }

    /// The word for it, as `attnfuzz replay` says it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::StillFails(_) => "still fails",
            Self::FailsDifferently(..) => "fails differently",
            Self::Fixed => "fixed",
            Self::CannotRun(_) => "cannot run",
        }
    }

    /// What is wrong with `finding`, in a line; empty if nothing is.
    pub fn detail(&self, finding: &Finding) -> String {
        match self {
            Self::StillFails(what) | Self::CannotRun(what) => what.clone(),
            Self::FailsDifferently(signature, what) => {
                format!("{what} (now {signature}, saved as {})", finding.signature)
            }
            Self::Fixed => String::new(),
        }
    }
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
