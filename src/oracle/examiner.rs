//! Who examines a case: a backend of this process, or something that asks another process.

use super::{Examined, examine};
use crate::backend::{Backend, BackendError, BackendKind, Kernel, Run};
use crate::case::Case;
use crate::outcome::Outcome;
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Examines one case of one kernel, as [`examine`] does, on a device it stands for.
pub trait Examiner: Send + Sync {
    /// Which way kernels are executed.
    fn kind(&self) -> BackendKind;

    /// The kind, and the device if there is one.
    fn describe(&self) -> String;

    /// Runs `case` as often as it takes and judges it. May be called from several threads.
    ///
    /// # Errors
    /// This program's or the machine's limit, never the kernel's. A panic on the way is [`BackendError::Internal`].
    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError>;

    /// Runs every step of `case` once: the first run of [`Examiner::examine`], not judged.
    ///
    /// # Errors
    /// As for [`Examiner::examine`].
    fn run_first(&self, kernel: &Kernel, case: &Case) -> Result<Outcome, BackendError>;

    /// What went wrong so far and tells nothing of any kernel, because it did not happen again.
    fn unconfirmed(&self) -> Unconfirmed {
        Unconfirmed::default()
    }
}

/// What did not come back when the cases that were under way were run again, one at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unconfirmed {
    /// Deaths of worker processes.
    pub deaths: u64,
    /// Cases that failed.
    #[serde(default)]
    pub failures: u64,
    /// What was seen of the last one.
    pub last: Option<String>,
}

impl Unconfirmed {
    /// These, and then `later` ones.
    pub fn and(&self, later: Self) -> Self {
        Self {
            deaths: self.deaths + later.deaths,
            failures: self.failures + later.failures,
            last: later.last.or_else(|| self.last.clone()),
        }
    }

    /// Whether there was nothing of the kind.
    pub fn is_empty(&self) -> bool {
        self.deaths == 0 && self.failures == 0
    }
}

/// In this process.
impl<B: Backend> Examiner for B {
    fn kind(&self) -> BackendKind {
        Backend::kind(self)
    }

    fn describe(&self) -> String {
        Backend::describe(self)
    }

    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        caught(|| examine(self, kernel, case))
    }

    fn run_first(&self, kernel: &Kernel, case: &Case) -> Result<Outcome, BackendError> {
        caught(|| self.run(kernel, case, Run::first(case)))
    }
}

/// What `what` gives; a panic in it is [`BackendError::Internal`].
///
/// # Errors
/// The panic's message, or what `what` gives.
pub(crate) fn caught<T>(what: impl FnOnce() -> Result<T, BackendError>) -> Result<T, BackendError> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| Err(BackendError::Internal(panic_text(&*panic))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}
