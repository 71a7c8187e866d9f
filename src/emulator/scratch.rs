//! Allocations that outlive a launch so that the next one needn't make them.

use super::warp::Warp;

/// Warps of earlier launches, to be cleaned and used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scratch {
    pub(super) warps: Vec<Warp>,
    pub(super) shared: super::memory::Segment,
    pub(super) races: super::check::race::SharedRaces,
    pub(super) global_races: super::check::global::GlobalRaces,
}
