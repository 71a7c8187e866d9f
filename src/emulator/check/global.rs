//! Races in global memory by happens-before, and non-coherent reads of what the launch writes.
//!
//! Threads of one block are ordered as the shared-memory check says, by the same clocks. Threads of different blocks are
//! concurrent for the whole launch, whichever ran first here, unless atomics order them: a block that makes a strong
//! (atomic or volatile) access to a location comes after everything that another block did before its own last strong
//! write to that location, or to one that any block's strong accesses connect with it. That is more order than the
//! hardware gives, so a missing fence beside an atomic, or an atomic whose result nobody looks at, hides a race. So does
//! a strong access that came too early, if the other block releases by the time of the race.
//!
//! A cell is as wide as the narrowest access the program makes to global memory. It remembers its last write and two
//! readers, of two blocks where there are two, enough that a write by any third still finds one. Regions the kernel may
//! only read have no cells; cells of the others come in pages, made when first touched. A read of bytes that only
//! another block writes, and that were uninitialised before, is reported as that or as a race, whichever comes first.
//!
//! PTX ISA, `ld.global.nc`: the data must be read-only for the whole launch. Such a read and a write, in either order and
//! by whomever, are a violation.

use super::Checks;
use super::race::{Access, Horizon, Party, SharedRaces, conflicts, join};
use super::violation::{Fault, ViolationKind, fault};
use crate::emulator::warp::LANES;
use std::collections::HashMap;

/// Cells of a page.
const PAGE: usize = 64;

/// A cell of a region.
type Location = (usize, usize);

/// State of the check for one launch.
#[derive(Debug, Default)]
pub(in crate::emulator) struct GlobalRaces {
    checks: Checks,
    cell_shift: u32,
    /// For each region, the number of each page plus one, or 0.
    regions: Vec<Vec<u32>>,
    cells: Vec<Cell>,
    /// Non-coherent reads, one of each cell.
    non_coherent: HashMap<Location, Entry>,
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
    /// When a block last released.
    time: u32,
    /// A location it synchronised at.
    location: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: Entry,
    /// Instruction of the write.
    step: u32,
    reads: [Entry; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    access: Access,
    /// 0 for none.
    block: u32,
    /// When it was made.
    time: u32,
}

/// Bytes of a region, as accessed.
#[derive(Clone, Copy, Debug)]
pub(in crate::emulator) struct Extent<'a> {
    pub(in crate::emulator) region: usize,
    pub(in crate::emulator) name: &'a str,
    pub(in crate::emulator) offset: usize,
    pub(in crate::emulator) bytes: usize,
}

impl GlobalRaces {
    /// Forgets everything: launches come one after the other. Regions of no bytes have no cells.
    pub(in crate::emulator) fn start_launch(
        &mut self,
        checks: Checks,
        cell_bytes: usize,
        sizes: impl Iterator<Item = usize>,
    ) {
        self.checks = checks;
        self.cell_shift = cell_bytes.trailing_zeros();
        let mut count = 0;
        for (index, size) in sizes.enumerate() {
            if self.regions.len() <= index {
                self.regions.push(Vec::new());
            }
            self.regions[index].clear();
            self.regions[index].resize((size >> self.cell_shift) / PAGE + 1, 0);
            count += 1;
        }
        self.regions.truncate(count);
        self.cells.clear();
        self.non_coherent.clear();
        self.own = Synchronised::default();
        self.others.clear();
        self.now = 0;
        self.locations.clear();
        self.roots.clear();
    }

    /// A block starts or goes on.
    pub(in crate::emulator) fn enter(&mut self, block: Synchronised) {
        self.own = block;
    }

    /// The running block ends or stops for now.
    pub(in crate::emulator) fn leave(&mut self) -> Synchronised {
        if self.own.released.location.is_some() {
            self.others.insert(self.own.block, self.own.released);
        }
        std::mem::take(&mut self.own)
    }

    /// Some lanes of a warp read one extent.
    pub(in crate::emulator) fn read(
        &mut self,
        order: &mut SharedRaces,
        extent: Extent<'_>,
        lanes: u32,
        party: Party,
        non_coherent: bool,
    ) -> Result<(), Box<Fault>> {
        let warp = party.warp as usize;
        for cell in self.cells_of(extent) {
            let location = (extent.region, cell);
            if party.strong {
                self.acquire(order, location, warp);
            }
            let index = self.index(location);
            let Cell { write, reads, .. } = self.cells[index];
            if self.checks.non_coherent && non_coherent && write.block != 0 {
                return Err(self.report(
                    ViolationKind::NonCoherentRead,
                    extent,
                    ("read", lanes, party),
                    ("written", write),
                ));
            }
            if self.checks.global_races && self.conflicts(&write, lanes, party, order) {
                return Err(self.report(ViolationKind::GlobalRace, extent, ("read", lanes, party), ("written", write)));
            }
            let entry = self.entry(order, lanes, party);
            if non_coherent && self.checks.non_coherent {
                self.non_coherent.insert(location, entry);
            }
            let reads = self.noted(reads, entry, order);
            self.cells[index].reads = reads;
        }
        Ok(())
    }

    /// One lane writes one extent. `same` says whether memory already holds the value, which decides between lanes of one
    /// instruction.
    pub(in crate::emulator) fn write(
        &mut self,
        order: &mut SharedRaces,
        extent: Extent<'_>,
        lane: usize,
        party: Party,
        same: impl Fn() -> bool,
    ) -> Result<(), Box<Fault>> {
        let warp = party.warp as usize;
        let lanes = 1u32 << lane;
        let now = ("written", lanes, party);
        for cell in self.cells_of(extent) {
            let location = (extent.region, cell);
            if party.strong {
                self.acquire(order, location, warp);
                self.release(order, location, warp);
            }
            let index = self.index(location);
            let Cell { write, step, reads } = self.cells[index];
            if self.checks.global_races {
                let one_instruction =
                    write.block == self.own.block && u32::from(write.access.warp) == party.warp && step == party.step;
                if self.conflicts(&write, lanes, party, order) && !(one_instruction && same()) {
                    return Err(self.report(ViolationKind::GlobalRace, extent, now, ("written", write)));
                }
                if let Some(read) = reads.iter().find(|read| self.conflicts(read, lanes, party, order)) {
                    return Err(self.report(ViolationKind::GlobalRace, extent, now, ("read", *read)));
                }
            }
            if !self.non_coherent.is_empty()
                && let Some(read) = self.non_coherent.get(&location)
            {
                return Err(self.report(ViolationKind::NonCoherentRead, extent, now, ("read", *read)));
            }
            let mut entry = self.entry(order, lanes, party);
            if party.strong {
                // It comes before what it releases.
                entry.time -= 1;
            }
            self.cells[index].write = entry;
            self.cells[index].step = party.step;
        }
        Ok(())
    }

    fn cells_of(&self, extent: Extent<'_>) -> std::ops::RangeInclusive<usize> {
        extent.offset >> self.cell_shift..=(extent.offset + extent.bytes - 1) >> self.cell_shift
    }

    /// Where a cell is kept; a new page if it has none yet.
    #[inline]
    fn index(&mut self, (region, cell): Location) -> usize {
        let page = &mut self.regions[region][cell / PAGE];
        if *page == 0 {
            self.cells.resize(self.cells.len() + PAGE, Cell::default());
            *page = (self.cells.len() / PAGE) as u32;
        }
        (*page as usize - 1) * PAGE + cell % PAGE
    }

    fn entry(&self, order: &SharedRaces, lanes: u32, party: Party) -> Entry {
        let access = Access {
            clock: order.clock(party.warp as usize),
            lanes,
            pc: party.pc,
            warp: party.warp as u16,
            strong: party.strong,
        };
        Entry { access, block: self.own.block, time: self.now }
    }

    #[inline]
    fn conflicts(&self, earlier: &Entry, lanes: u32, party: Party, order: &SharedRaces) -> bool {
        if earlier.block == self.own.block {
            return conflicts(&earlier.access, lanes, party, order.horizon(party.warp as usize));
        }
        earlier.block != 0 && !(earlier.access.strong && party.strong) && !self.ordered(earlier)
    }

    /// Whether what another block did is ordered before whatever the running block does now.
    #[inline]
    fn ordered(&self, earlier: &Entry) -> bool {
        let Some(own) = self.own.released.location else { return false };
        let Some(other) = self.others.get(&earlier.block) else { return false };
        let in_time = earlier.time < other.time.min(self.own.acquired);
        in_time && other.location.is_some_and(|other| self.root(other) == self.root(own))
    }

    /// Two readers, of two blocks if there are two.
    #[inline]
    fn noted(&self, mut reads: [Entry; 2], entry: Entry, order: &SharedRaces) -> [Entry; 2] {
        let new = entry.access;
        for read in &mut reads {
            let old = read.access;
            if read.block == entry.block && old.warp == new.warp && old.strong == new.strong && old.clock == new.clock {
                read.access.lanes |= new.lanes;
                read.access.pc = new.pc;
                read.time = entry.time;
                return reads;
            }
        }
        let horizon = order.horizon(usize::from(new.warp));
        for read in &mut reads {
            let settled = if read.block == entry.block {
                read.access.clock <= horizon[usize::from(read.access.warp) % horizon.len()]
            } else {
                read.block == 0 || self.ordered(read)
            };
            if settled {
                *read = entry;
                return reads;
            }
        }
        if reads[0].block == reads[1].block && reads[0].block != entry.block {
            reads[1] = entry;
        }
        reads
    }

    fn acquire(&mut self, order: &mut SharedRaces, location: Location, warp: usize) {
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

    fn release(&mut self, order: &SharedRaces, location: Location, warp: usize) {
        self.now = self.now.saturating_add(1);
        self.own.released.time = self.now;
        let into = self.own.horizons.entry(location).or_default();
        join(into, &order.done(warp));
    }

    fn root(&self, mut location: u32) -> u32 {
        while self.roots[location as usize] != location {
            location = self.roots[location as usize];
        }
        location
    }

    #[cold]
    fn report(
        &self,
        kind: ViolationKind,
        extent: Extent<'_>,
        (verb, lanes, party): (&str, u32, Party),
        (earlier_verb, earlier): (&str, Entry),
    ) -> Box<Fault> {
        let one_warp = earlier.block == self.own.block && u32::from(earlier.access.warp) == party.warp;
        let mut lane = lanes.trailing_zeros().min(LANES as u32 - 1);
        let own = if one_warp { 1 << lane } else { 0 };
        let rest = if earlier.access.lanes & !own != 0 { earlier.access.lanes & !own } else { earlier.access.lanes };
        let earlier_lane = rest.trailing_zeros().min(LANES as u32 - 1);
        if one_warp && earlier_lane == lane && lanes & !own != 0 {
            lane = (lanes & !own).trailing_zeros();
        }
        let whose = if earlier.block == self.own.block { "the same" } else { "another" };
        let why = match kind {
            ViolationKind::NonCoherentRead => "in one launch, though non-coherent reads need constant data",
            _ if earlier.block == self.own.block => "without a barrier between",
            _ => "with nothing to order the blocks",
        };
        let detail = format!(
            "`{}`+{:#x} {verb} by warp {} lane {lane} and {earlier_verb} by warp {} lane {earlier_lane} of {whose} block {why}",
            extent.name, extent.offset, party.warp, earlier.access.warp
        );
        let mut fault = fault(kind, lane as usize, detail);
        fault.other = Some((earlier.access.pc, earlier.access.warp.into(), earlier_lane));
        fault.other_position = (earlier.block != self.own.block).then(|| u64::from(earlier.block) - 1);
        fault
    }
}
