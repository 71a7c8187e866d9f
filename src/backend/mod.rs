//! Kernels, their manifests, and the ways to execute them.
//!
//! A [`Backend`] runs one case of one kernel once and says what happened. It judges no number: that is the oracle's.
//! Three families of bad news stay apart: a [`Fault`](crate::outcome::Fault) is the kernel's doing and is data,
//! [`BackendError`] is this program's or the machine's limit, [`OpenError`] is a wrong file or name.

mod builder;
mod claim;
pub mod closure;
mod code;
pub mod compile;
mod compiler;
mod coverage;
mod cubin;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(not(feature = "cuda"))]
#[path = "cuda_absent.rs"]
pub mod cuda;
#[cfg(feature = "cuda")]
pub mod cuda_bare;
#[cfg(feature = "cuda")]
pub mod cuda_raw;
mod emulated;
mod explain;
mod kernel;
mod made;
pub mod manifest;
#[cfg(feature = "cuda")]
pub mod nvrtc;
#[cfg(not(feature = "cuda"))]
#[path = "nvrtc_absent.rs"]
pub mod nvrtc;
#[cfg(feature = "cuda")]
mod nvrtc_search;
mod plan;
mod sources;

pub use builder::KernelBuilder;
pub use claim::Claim;
pub use code::{Code, Image};
pub use compiler::cache_folder;
pub use coverage::{CoverageMap, Held, Point, PointKind, Points, Recording};
pub use emulated::{Emulator, Lines, Observed, Watch, elements_times_keys};
pub use explain::{Bound, Dims, Explained};
pub use kernel::{Kernel, MutantError, NoPtx, OpenError, SMALL_BUDGET, SMALL_WARPS, shipped_names};
pub use sources::{CompileJob, Mutant};

use crate::case::{Case, Poison};
use crate::expr::ExprError;
use crate::outcome::Outcome;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What may differ between two runs of the same case. Nothing a right kernel computes depends on the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Fill of everything that must not be read.
    pub poison: Poison,
    /// Order of warps and blocks, where the backend decides it.
    pub schedule_seed: u32,
    /// Seed of errors within what is documented for approximate functions, where the backend decides them; without one
    /// they are as accurate as they get. Unlike the rest, this may change results within their bound.
    pub perturb: Option<u32>,
}

impl Run {
    /// The run a case asks for.
    pub fn first(case: &Case) -> Self {
        Self { poison: case.poison, schedule_seed: case.schedule_seed, perturb: None }
    }

    /// A run of the same case under other poison and another schedule.
    pub fn next(self) -> Self {
        Self { poison: self.poison.next(), schedule_seed: self.schedule_seed.wrapping_add(1), ..self }
    }
}

/// One way to execute a kernel.
pub trait Backend: Send + Sync {
    /// Which way.
    fn kind(&self) -> BackendKind;

    /// The kind, and the device if there is one.
    fn describe(&self) -> String;

    /// Runs every step of `case` once.
    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError>;

    /// Why nothing more can be run, once a kernel has spoiled the state that runs share (on a GPU, the context).
    fn lost(&self) -> Option<String> {
        None
    }

    /// Runs every step of `case` once for each of `runs`, in order, up to the first that ends in a fault.
    fn run_each(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Result<Vec<Outcome>, BackendError> {
        let mut outcomes = Vec::with_capacity(runs.len());
        for &run in runs {
            outcomes.push(self.run(kernel, case, run)?);
            if matches!(outcomes.last(), Some(Outcome::Fault(_))) {
                break;
            }
        }
        Ok(outcomes)
    }

    /// Begins [`Self::run_each`]. A thread that begins several cases before it asks what came of the first need not wait for a
    /// device, where there is one.
    fn begin(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Begun<'_> {
        let outcomes = self.run_each(kernel, case, runs);
        Box::new(|| outcomes)
    }
}

/// Runs that were begun; says what came of them.
pub type Begun<'b> = Box<dyn FnOnce() -> Result<Vec<Outcome>, BackendError> + 'b>;

/// The ways to execute a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendKind {
    /// The PTX emulator, on the CPU.
    Emulator,
    /// A GPU, through the CUDA driver.
    Cuda,
    /// A closure of the caller's, see [`closure`].
    Closure,
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Emulator => "emulator",
            Self::Cuda => "cuda",
            Self::Closure => "closure",
        })
    }
}

/// Why a case could not be run, through no fault of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The emulator lacks something the kernel uses.
    #[error("the emulator can't run this kernel: {0}")]
    Unsupported(String),
    /// An expression of the manifest has no legal value for this case.
    #[error("the manifest gives no legal launch for this case: {0}")]
    Launch(String),
    /// The manifest names an entry point that the PTX lacks.
    #[error("the PTX has no entry {0:?}")]
    NoEntry(String),
    /// The kernel's code for this case can't be made, or does not fit the manifest.
    #[error("there is no code for this case: {0}")]
    NotMade(String),
    /// The device's driver can't load the code.
    #[error("the driver can't load the PTX: {0}")]
    NotLoaded(String),
    /// The device has too little memory for the case.
    #[error("out of memory on {0}")]
    OutOfMemory(String),
    /// The device can't be used, or can't be used any more.
    #[error("{0}")]
    Unavailable(String),
    /// The case takes too long here. Says nothing of the kernel.
    #[error("{0}")]
    TooSlow(String),
    /// This program went wrong.
    #[error("internal error, please report it: {0}")]
    Internal(String),
}

impl From<ExprError> for BackendError {
    fn from(error: ExprError) -> Self {
        Self::Launch(error.to_string())
    }
}
