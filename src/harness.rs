//! One call for tests and fuzz targets: judge a case, and if it fails shrink it, save it and tell about it.
//!
//! ```
//! use attnfuzz::harness::Harness;
//!
//! let harness = Harness::emulated("gqa_decode")?;
//! let case = "kv=2 g=3 d=40 past=0,5 dtype=f16 cache=nhd:6 scale=0.158 values=normal:1".parse()?;
//! assert_eq!(harness.check(&case), Ok(()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod manifest;
mod own;
pub mod ptx;
mod seeds;
mod target;

pub use crate::backend::closure::{Inputs, Outputs, Storable, Tensor};
pub use own::Settings;
pub use seeds::seeds;
pub use target::{Failure, InputError, Target};

use crate::backend::cuda::{Cuda, Unavailable};
use crate::backend::{BackendError, Emulator, Kernel, OpenError, shipped_names};
use crate::campaign::{Found, Minimised, met, minimise};
use crate::case::Case;
use crate::oracle::{Examined, Examiner, Verdict};
use crate::regression::{Finding, Replayed, Store, replay};
use crate::report::human;
use arbitrary::Unstructured;
use std::path::PathBuf;

/// Executions a failing case is shrunk with.
const MAX_SHRINK: u32 = 2000;

/// A kernel on a backend, ready to be asked about cases.
pub struct Harness {
    kernel: Kernel,
    backend: Box<dyn Examiner>,
    store: Option<Store>,
}

/// Why a harness can't be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// The kernel can't be opened.
    #[error(transparent)]
    Kernel(#[from] OpenError),
    /// There is no GPU.
    #[error(transparent)]
    Gpu(#[from] Unavailable),
    /// An environment variable has a value that means nothing.
    #[error("ATTNFUZZ_BACKEND: expected emulator or cuda, found {0:?}")]
    Backend(String),
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The kernels that the environment names: `ATTNFUZZ_KERNEL`, or every shipped one.
fn kernels_from_env() -> Vec<String> {
    variable("ATTNFUZZ_KERNEL")
        .map_or_else(|| shipped_names().into_iter().map(String::from).collect(), |name| vec![name])
}

impl Harness {
    /// The kernel of this name or path, on the emulator. Findings are not saved.
    pub fn emulated(kernel: &str) -> Result<Self, OpenError> {
        Ok(Self { kernel: Kernel::open(kernel)?, backend: Box::new(Emulator), store: None })
    }

    /// One harness for each kernel, as the environment says:
    /// `ATTNFUZZ_KERNEL` (name or path; unset: every shipped kernel), `ATTNFUZZ_BACKEND` (`emulator`, the default, or
    /// `cuda`), `ATTNFUZZ_REGRESSIONS` (folder that findings are saved below; unset: `default_store`).
    pub fn from_env(default_store: &str) -> Result<Vec<Self>, SetupError> {
        let store = Store::new(variable("ATTNFUZZ_REGRESSIONS").unwrap_or_else(|| default_store.into()));
        let backend = variable("ATTNFUZZ_BACKEND").unwrap_or_else(|| "emulator".into());
        let open = |kernel: String| {
            let backend: Box<dyn Examiner> = match backend.as_str() {
                "emulator" => Box::new(Emulator),
                "cuda" => Box::new(Cuda::open(0)?),
                other => return Err(SetupError::Backend(other.into())),
            };
            Ok(Self { kernel: Kernel::open(&kernel)?, backend, store: Some(store.clone()) })
        };
        kernels_from_env().into_iter().map(open).collect()
    }

    /// The kernel.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Reads a case of the kernel's domain from a fuzzer's bytes. Any bytes give one.
    pub fn decode(&self, bytes: &mut Unstructured<'_>) -> arbitrary::Result<Case> {
        self.kernel.space().arbitrary(bytes)
    }

    /// Judges `case` and says what is wrong with it, in a line. For callers that shrink by themselves, as proptest does.
    ///
    /// A case that can't be run is an error too: nothing that was not judged may read as a pass.
    pub fn judge(&self, case: &Case) -> Result<(), String> {
        let examined = self.backend.examine(&self.kernel, case);
        match examined.map_err(|error| format!("{case} can't be run: {error}"))?.verdict {
            Verdict::Agree(_) => Ok(()),
            Verdict::Diverge(divergence) => Err(divergence.to_string()),
            Verdict::Fault(fault) => Err(format!("{}: {}", fault.kind, fault.detail)),
            Verdict::Skip(why) => Err(format!("{case} was not judged: {why}")),
        }
    }

    /// Judges `case`; if it fails, shrinks and saves it. The error is the whole report, ready to print.
    pub fn check(&self, case: &Case) -> Result<(), String> {
        self.check_on(&*self.backend, case).map_err(|failure| failure.to_string())
    }

    /// The same, where the case is first judged on `backend`, another way to the harness's own.
    fn check_on(&self, backend: &dyn Examiner, case: &Case) -> Result<(), Failure> {
        let cannot = |error: &BackendError| format!("{case} can't be run: {error}");
        let (case, verdict) = match backend.examine(&self.kernel, case) {
            Ok(Examined { closer: Some((closer, verdict)), .. }) => (&closer.clone(), verdict),
            Ok(examined) => (case, examined.verdict),
            // Nor can any other case be, or this program is wrong.
            Err(error @ (BackendError::Unavailable(_) | BackendError::Internal(_))) => {
                return Err(Failure::Report(cannot(&error)));
            }
            Err(error) => return Err(Failure::Skipped(cannot(&error))),
        };
        match &verdict {
            Verdict::Agree(_) => return Ok(()),
            Verdict::Skip(why) => return Err(Failure::Skipped(format!("{case} was not judged: {why}"))),
            Verdict::Diverge(_) | Verdict::Fault(_) => {}
        }
        let found = minimise(&self.kernel, &*self.backend, case, &verdict, "harness".into(), MAX_SHRINK);
        let Some(Minimised { finding, executions, hung, others, internal_errors }) = found else {
            return Err(Failure::Report(format!("{case}: {verdict:?}")));
        };
        let id = finding.case.id();
        let mut report = human::found(&Found { hung, ..self.saved(finding, executions) });
        for (case, message) in internal_errors {
            report += &format!("{case}: internal error, please report it: {message}\n");
        }
        for (case, verdict) in others {
            if let Some(finding) = met(&self.kernel, &*self.backend, &case, &verdict, id) {
                report += &human::met(&self.saved(finding, 0));
            }
        }
        Err(Failure::Report(report))
    }

    /// Runs the findings of this kernel that were saved below `root`, in order of their files, and gives the files.
    ///
    /// To be called before anything is searched, so that a bug that came back is told by the file that has it:
    ///
    /// ```
    /// # use attnfuzz::harness::Harness;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let harness = Harness::emulated("gqa_decode")?;
    /// let replayed = harness.replay_saved("proptest-regressions")?;
    /// println!("{} saved findings stay fixed", replayed.len());
    /// # assert!(!replayed.is_empty());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// proptest's own files, and findings of other kernels, may be there too and are not looked at.
    ///
    /// # Errors
    /// A finding still fails, fails differently, can't be run or can't be read; the text has a line for each such file.
    pub fn replay_saved(&self, root: impl Into<PathBuf>) -> Result<Vec<PathBuf>, String> {
        self.replay_from(&Store::new(root))
    }

    fn replay_from(&self, store: &Store) -> Result<Vec<PathBuf>, String> {
        let files = store.files_of(self.kernel.name()).map_err(|e| e.to_string())?;
        let wrong: Vec<String> = files
            .iter()
            .filter_map(|file| match Finding::load(file) {
                Err(error) => Some(format!("cannot read: {error}")),
                Ok(finding) => match replay(&finding, &self.kernel, &*self.backend) {
                    Replayed::Fixed => None,
                    result => {
                        let (word, detail) = (result.word(), result.detail(&finding));
                        Some(format!("{word}: {}: {}: {detail}", file.display(), finding.line))
                    }
                },
            })
            .collect();
        if wrong.is_empty() { Ok(files) } else { Err(wrong.join("\n")) }
    }

    fn saved(&self, finding: Finding, executions: u32) -> Found {
        Found::saved(&self.kernel, finding, executions, self.store.as_ref())
    }
}
