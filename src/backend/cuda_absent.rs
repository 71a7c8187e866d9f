//! Stands in for the CUDA backend in a build without the feature `cuda`: everything answers that it is not there.

use super::{Backend, BackendError, BackendKind, Kernel, Run};
use crate::case::Case;
use crate::outcome::Outcome;

/// A GPU. None can be opened in this build.
pub struct Cuda(std::convert::Infallible);

/// What the driver says of the machine.
#[derive(Clone, Debug)]
pub struct Device {
    /// Index, as `--device` counts.
    pub ordinal: usize,
    /// Marketing name.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Device memory in bytes.
    pub memory_bytes: usize,
}

/// Why there is no GPU to use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

fn absent<T>() -> Result<T, Unavailable> {
    Err(Unavailable("this build has no CUDA backend: the feature `cuda` is off".into()))
}

/// Version of the CUDA driver API.
pub fn driver_version() -> Result<(i32, i32), Unavailable> {
    absent()
}

/// Every GPU the driver shows.
pub fn devices() -> Result<Vec<Device>, Unavailable> {
    absent()
}

impl Cuda {
    /// Opens the GPU with this index.
    pub fn open(_ordinal: usize) -> Result<Self, Unavailable> {
        absent()
    }

    /// Opens the GPU with this index for several cases at a time.
    pub fn open_shared(_ordinal: usize) -> Result<Self, Unavailable> {
        absent()
    }
}

impl Backend for Cuda {
    fn kind(&self) -> BackendKind {
        match self.0 {}
    }

    fn describe(&self) -> String {
        match self.0 {}
    }

    fn run(&self, _: &Kernel, _: &Case, _: Run) -> Result<Outcome, BackendError> {
        match self.0 {}
    }
}
