//! Allocations that outlive a launch so that the next one needn't make them.

use super::block::Block;
use super::check::global::GlobalRaces;

/// What earlier launches leave behind, to be cleaned and used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(super) blocks: Vec<Block>,
    pub(super) global_races: GlobalRaces,
}

impl Clone for Scratch {
    /// Nothing in it is worth a copy.
    fn clone(&self) -> Self {
        Self::default()
    }
}
