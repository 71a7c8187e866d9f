//! Stands in for the run-time compiler in builds without the feature `cuda`: same names, always unavailable.

use std::path::Path;

use super::compile::Source;

pub use super::compile::{CompileError, Unavailable};

/// A loaded NVRTC; without the feature `cuda` there is never one.
#[derive(Debug)]
pub struct Nvrtc {
    never: std::convert::Infallible,
}

impl Nvrtc {
    /// Always [`Unavailable::NotBuiltIn`].
    pub fn find() -> Result<Self, Unavailable> {
        Err(Unavailable::NotBuiltIn)
    }

    /// Major and minor version of the library.
    pub fn version(&self) -> (u32, u32) {
        match self.never {}
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        match self.never {}
    }

    /// The folder given to the compiler for `#include <...>`, if one was found.
    pub fn include_dir(&self) -> Option<&Path> {
        match self.never {}
    }

    /// The architectures that it compiles for.
    pub fn architectures(&self) -> Vec<i32> {
        match self.never {}
    }

    /// Compiles `source` to PTX for `arch`.
    pub fn compile(&self, _source: &Source, _arch: &str, _options: &[String]) -> Result<String, CompileError> {
        match self.never {}
    }

    /// The same, and what the PTX calls each of `names`.
    pub fn compile_named(
        &self,
        _source: &Source,
        _arch: &str,
        _options: &[String],
        _names: &[String],
    ) -> Result<(String, Vec<String>), CompileError> {
        match self.never {}
    }
}
