//! Executes lowered PTX on the CPU under checks: grid, block, warp, 32 lanes side by side.
//!
//! [`launch`] runs a [`Program`](crate::ptx::Program) on a [`Memory`] and returns [`Stats`], or the first rule the kernel
//! broke as a [`Violation`]. The same program, memory, launch and options give the same result on every machine.
//!
//! Deliberately absent: timing, caches, and any knowledge of what the kernel is for. The module's own `.global`
//! variables start anew at each launch.
//!
//! Not supported, and refused by name when lowering: `wgmma`, sparse, 4-bit and 8-bit floating-point `mma`, 8-bit integer
//! `wmma`, clusters, bulk and tensor-map copies, textures, indirect calls and recursion.
//!
//! Source: the PTX ISA manual; the CUDA programming guide on independent thread scheduling.

mod barrier;
mod bitmap;
mod block;
mod check;
mod coverage;
mod execute;
mod grid;
mod launch;
mod memory;
mod ops;
mod parallel;
mod possible;
mod print;
mod random;
mod run;
mod scratch;
mod spaces;
mod warp;

pub use bitmap::BitMap;
pub use check::{Checks, Site, Violation, ViolationKind};
pub use coverage::Coverage;
pub use launch::{Launch, Options, Stats, Stop, launch, observe};
pub use memory::{GAP_BYTES, Initialised, Memory, Region, RegionId};
pub use ops::matrix::TensorCore;
pub use possible::possible_outcomes;
