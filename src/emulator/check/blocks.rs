//! How blocks of a launch are ordered by their strong accesses to global memory. The rule is in `global`.

use super::pages::{Entry, Location};
use super::race::{Access, Horizon, Party, SharedRaces, conflicts, join};
use std::collections::HashMap;

/// Which blocks have synchronised where and when.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The running block.
    own: Synchronised,
    /// What other blocks have released, where they synchronised at all.
    others: HashMap<u32, Released>,
    /// Releases of the launch so far: its time, as far as blocks can tell.
    now: u32,
    /// Locations of strong accesses, connected ones with a common root.
    locations: HashMap<Location, u32>,
    roots: Vec<u32>,
}

/// How a block that has started is ordered with others, and its threads among themselves through global memory.
#[derive(Debug, Default)]
pub(in crate::emulator) struct Synchronised {
    /// Number of the block, from 1.
    block: u32,
    released: Released,
    /// When it last executed a fence.
    fenced: u32,
    /// When it last acquired.
    acquired: u32,
    /// What strong accesses to a location have released within the block.
    horizons: HashMap<Location, Horizon>,
}

impl Synchronised {
    /// The block at a position in the order of the launch, before it does anything.
    pub(in crate::emulator) fn of_block(position: u64) -> Self {
        Self { block: u32::try_from(position + 1).unwrap_or(u32::MAX), ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Released {
    /// The fence before a block's last strong write: what came before it is released.
    time: u32,
    /// That write; strong writes need no fence to be seen themselves.
    strong: u32,
    /// A location it synchronised at.
    location: Option<u32>,
}

impl Blocks {
    /// A launch starts.
    pub(super) fn clear(&mut self) {
        self.own = Synchronised::default();
        self.others.clear();
        self.now = 0;
        self.locations.clear();
        self.roots.clear();
    }

    /// A block starts or goes on.
    pub(super) fn enter(&mut self, block: Synchronised) {
        self.own = block;
    }

    /// The running block ends or stops for now.
    pub(super) fn leave(&mut self) -> Synchronised {
        if self.own.released.location.is_some() {
            self.others.insert(self.own.block, self.own.released);
        }
        std::mem::take(&mut self.own)
    }

    /// Number of the running block.
    pub(super) fn running(&self) -> u32 {
        self.own.block
    }

    /// An access of the running block, now.
    pub(super) fn entry(&self, order: &SharedRaces, lanes: u32, party: Party) -> Entry {
        let access = Access {
            clock: order.clock(party.warp as usize),
            lanes,
            pc: party.pc,
            warp: party.warp as u16,
            strong: party.strong,
        };
        Entry { access, block: self.own.block, time: self.now }
    }

    /// Whether an access of the running block conflicts with an earlier one, of which one is a write.
    #[inline]
    pub(super) fn conflicts(&self, earlier: &Entry, lanes: u32, party: Party, order: &SharedRaces) -> bool {
        if earlier.block == self.own.block {
            return conflicts(&earlier.access, lanes, party, order.horizon(party.warp as usize))
                && !order.ordered_within(&earlier.access, lanes, party);
        }
        earlier.block != 0 && !(earlier.access.strong && party.strong) && !self.ordered(earlier)
    }

    /// Whether what another block did is ordered before whatever the running block does now.
    #[inline]
    fn ordered(&self, earlier: &Entry) -> bool {
        let Some(own) = self.own.released.location else { return false };
        let Some(other) = self.others.get(&earlier.block) else { return false };
        let released = if earlier.access.strong { other.strong } else { other.time };
        let in_time = earlier.time < released.min(self.own.acquired);
        in_time && other.location.is_some_and(|other| self.root(other) == self.root(own))
    }

    /// Whether an earlier read is ordered before a new one, so that the new one stands for both.
    #[inline]
    pub(super) fn settles(&self, new: &Entry, old: &Entry, order: &SharedRaces) -> bool {
        if old.block != new.block {
            return self.ordered(old);
        }
        let horizon = order.horizon(usize::from(new.access.warp));
        old.access.clock <= horizon[usize::from(old.access.warp) % horizon.len()]
    }

    /// A warp of the running block makes a strong access.
    pub(super) fn acquire(&mut self, order: &mut SharedRaces, location: Location, warp: usize) {
        let next = self.roots.len() as u32;
        let id = *self.locations.entry(location).or_insert(next);
        if id == next {
            self.roots.push(next);
        }
        let connected = self.own.released.location.unwrap_or(id);
        let (from, to) = (self.root(id), self.root(connected));
        self.roots[from as usize] = to;
        self.own.released.location = Some(to);
        self.own.acquired = self.now;
        if let Some(horizon) = self.own.horizons.get(&location) {
            order.acquire_others(warp, horizon);
        }
    }

    /// A thread of the running block executes a fence.
    pub(super) fn fence(&mut self) {
        self.now = self.now.saturating_add(1);
        self.own.fenced = self.now;
    }

    /// A warp of the running block makes a strong write.
    pub(super) fn release(&mut self, order: &SharedRaces, location: Location, warp: usize) {
        self.now = self.now.saturating_add(1);
        self.own.released.strong = self.now;
        self.own.released.time = self.own.fenced;
        let into = self.own.horizons.entry(location).or_default();
        join(into, &order.done(warp));
    }

    fn root(&self, mut location: u32) -> u32 {
        while self.roots[location as usize] != location {
            location = self.roots[location as usize];
        }
        location
    }
}
