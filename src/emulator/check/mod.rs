//! What a kernel can do wrong, and how it is reported.
//!
//! Handlers in `ops/` compute; the checks here look at what they are about to do and object. Each check can be switched
//! off in [`Checks`], except those without which an operation has no meaning (bounds, barriers, traps).

pub(super) mod access;
pub(super) mod blocks;
pub(super) mod global;
mod pages;
pub(super) mod perturb;
pub(super) mod race;
pub(super) mod taint;
mod violation;

pub(super) use violation::{Fault, fault, unsupported};
pub use violation::{Site, Violation, ViolationKind};

/// Which checks are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Natural alignment of every access.
    pub alignment: bool,
    /// Uses of data nobody wrote: to decide what is executed, as an address, as output.
    pub uninitialised: bool,
    /// Writes to regions that aren't writable.
    pub read_only: bool,
    /// Races in shared memory.
    pub shared_races: bool,
    /// Races in global memory.
    pub global_races: bool,
    /// Non-coherent reads of data written in the same launch.
    pub non_coherent: bool,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            alignment: true,
            uninitialised: true,
            read_only: true,
            shared_races: true,
            global_races: true,
            non_coherent: true,
        }
    }
}
