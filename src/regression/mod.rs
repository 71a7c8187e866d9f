//! Saved findings and their replay.
//!
//! A finding is one TOML file, decoded: it holds the case itself, not a seed, so it means the same case whatever
//! becomes of the generators. Files lie at `<root>/cases/<kernel>/<case-id>.toml` and are written atomically.

mod digest;
mod replay;
mod store;

pub use digest::Digest;
pub use replay::{Bits, Replayed, replay, replay_times};
pub use store::{LoadError, SameSignature, Saved, Store};

use crate::backend::Kernel;
use crate::case::Case;
use crate::oracle::{Divergence, Signature, Verdict};
use crate::outcome::Fault;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Version of the files this program writes, and the newest it reads.
///
/// 1 had neither `flaky` nor, in a case, `features` and `cache.storage`; 2 had no `digest`; 3 had no `only` in a case.
pub const FORMAT: u32 = 4;

/// A failing case with everything known about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// Version of the file.
    pub format: u32,
    /// The kernel: a shipped one's name, or the path of a manifest.
    pub kernel: String,
    /// Backend that found it, and its device.
    pub backend: String,
    /// How it was found.
    pub found_by: String,
    /// The case as it was found, before shrinking, in one line.
    pub found_as: String,
    /// The case as it is, in one line: the same as the table `case`, for people.
    pub line: String,
    /// Keys of the line whose fields seem not to matter: the case fails with other values of each too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub irrelevant: Vec<String>,
    /// What the first run of the case left, if it was found in the emulator, which gives the same bits each time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// How often it comes back, if not every time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flaky: Option<Flaky>,
    /// What shrinking kept.
    pub signature: Signature,
    /// The smallest case that shows it.
    pub case: Case,
    /// The worst element, for a wrong number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub divergence: Option<Divergence>,
    /// The fault, for a wrong act.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// How often the same case failed in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flaky {
    /// Runs that failed so.
    pub failed: u32,
    /// Runs.
    pub runs: u32,
}

/// Where a finding came from.
#[derive(Clone, Debug)]
pub struct Provenance {
    /// The kernel, as [`Kernel::open`](crate::backend::Kernel::open) takes it.
    pub kernel: String,
    /// The backend's description.
    pub backend: String,
    /// How it was found.
    pub found_by: String,
}

impl Finding {
    /// Puts a finding together; nothing if `verdict` is no failure.
    pub fn new(origin: Provenance, found_as: &Case, case: Case, verdict: &Verdict) -> Option<Self> {
        let signature = verdict.signature()?;
        let (divergence, fault) = match verdict {
            Verdict::Diverge(divergence) => (Some(divergence.clone()), None),
            Verdict::Fault(fault) => (None, Some(fault.clone())),
            Verdict::Agree(_) | Verdict::Skip(_) => return None,
        };
        let Provenance { kernel, backend, found_by } = origin;
        let (found_as, line) = (found_as.to_string(), case.to_string());
        Some(Self {
            format: FORMAT,
            kernel,
            backend,
            found_by,
            found_as,
            line,
            irrelevant: Vec::new(),
            digest: None,
            flaky: None,
            signature,
            case,
            divergence,
            fault,
        })
    }

    /// What runs it again from its file: a command.
    pub fn replay(&self, file: &Path) -> String {
        match Kernel::test_of(&self.kernel) {
            Some(test) => format!("cargo test {test}"),
            None => format!("attnfuzz replay {}", quoted(&file.display().to_string())),
        }
    }

    /// What is wrong, in a line.
    pub fn what(&self) -> String {
        match (&self.divergence, &self.fault) {
            (Some(divergence), _) => divergence.to_string(),
            (None, Some(fault)) => format!("{}: {}", fault.kind, fault.detail),
            (None, None) => self.signature.to_string(),
        }
    }
}

/// A word of a shell's command line.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/=:,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
