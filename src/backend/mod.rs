//! Kernels, their manifests, and the two ways to execute them.

pub mod compile;
#[cfg(feature = "cuda")]
pub mod nvrtc;
#[cfg(not(feature = "cuda"))]
#[path = "nvrtc_absent.rs"]
pub mod nvrtc;
#[cfg(feature = "cuda")]
mod nvrtc_search;
