//! Races in global memory by happens-before, and non-coherent reads of what the launch writes.
//!
//! Threads of one block are ordered as the shared-memory check says, by the same clocks. Threads of different blocks are
//! concurrent for the whole launch, whichever ran first here, unless atomics order them: a block that makes a strong
//! (atomic or volatile) access to a location comes after everything that another block did before a fence, by any of its
//! threads, and its own last strong write to that location after that, or to one that any block's strong accesses connect
//! with it. An access with `.release` is one behind a fence. That is more order than the hardware gives, so a fence that is
//! missing on the reader's side, or is another thread's, or an atomic whose result nobody looks at, hides a race. So does
//! a strong access that came too early, if the other block releases by the time of the race.
//!
//! A cell is as wide as the narrowest access the program makes to global memory. It remembers its last write and two
//! readers, of two blocks where there are two, enough that a write by any third still finds one. Regions the kernel may
//! only read have no cells. A read of bytes that only another block writes, and that were uninitialised before, is
//! reported as that or as a race, whichever comes first.
//!
//! PTX ISA, `ld.global.nc`: the data must be read-only for the whole launch. Such a read and a write, in either order and
//! by whomever, are a violation.

use super::Checks;
use super::blocks::{Blocks, Synchronised};
pub(in crate::emulator) use super::pages::Touched;
use super::pages::{Cell, Entry, Location, PAGE, Pages, Read, noted};
use super::race::{Party, SharedRaces};
use super::violation::{Fault, ViolationKind, fault};
use crate::emulator::warp::LANES;
use std::collections::HashMap;

/// State of the check for one launch.
#[derive(Debug, Default)]
pub(in crate::emulator) struct GlobalRaces {
    checks: Checks,
    cell_shift: u32,
    pages: Pages,
    /// Non-coherent reads, one of each cell.
    non_coherent: HashMap<Location, Entry>,
    blocks: Blocks,
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
        self.pages.clear(sizes.map(|size| size >> self.cell_shift));
        self.non_coherent.clear();
        self.blocks.clear();
    }

    /// What blocks have read and written so far.
    pub(in crate::emulator) fn touched(&self) -> Touched {
        self.pages.touched()
    }

    /// A block starts or goes on.
    pub(in crate::emulator) fn enter(&mut self, block: Synchronised) {
        self.blocks.enter(block);
    }

    /// The running block ends or stops for now.
    pub(in crate::emulator) fn leave(&mut self) -> Synchronised {
        self.blocks.leave()
    }

    /// The running block makes what it has done visible to the others.
    pub(in crate::emulator) fn fence(&mut self) {
        self.blocks.fence();
    }

    /// Some lanes of a warp read one extent: all of them all of it, or each `each` bytes, one after the other.
    pub(in crate::emulator) fn read(
        &mut self,
        order: &mut SharedRaces,
        extent: Extent<'_>,
        (lanes, each): (u32, Option<usize>),
        party: Party,
        non_coherent: bool,
    ) -> Result<(), Box<Fault>> {
        let each = match each {
            Some(bytes) if (bytes | extent.offset).is_multiple_of(1 << self.cell_shift) => bytes >> self.cell_shift,
            Some(bytes) => {
                return (lanes.trailing_zeros()..32).zip((0..extent.bytes).step_by(bytes)).try_for_each(
                    |(lane, at)| {
                        let extent = Extent { offset: extent.offset + at, bytes, ..extent };
                        self.read(order, extent, (1 << lane, None), party, non_coherent)
                    },
                );
            }
            None => 0,
        };
        let entry = self.blocks.entry(order, lanes, party);
        let first_lane = lanes.trailing_zeros() as usize;
        let cells = self.cells_of(extent);
        let (start, end) = (*cells.start(), *cells.end() + 1);
        let mut at = start;
        while at < end {
            let count = (PAGE - at % PAGE).min(end - at);
            let (lane, skipped) = match (at - start).checked_div(each) {
                Some(before) => (first_lane + before, (at - start) % each),
                None => (0, 0),
            };
            let read = Read {
                entry,
                first: (at % PAGE) as u8,
                count: count as u8,
                each: each as u8,
                lane: lane as u8,
                skipped: skipped as u8,
            };
            self.read_page(order, extent, (at / PAGE, read), party, non_coherent)?;
            at += count;
        }
        Ok(())
    }

    fn read_page(
        &mut self,
        order: &mut SharedRaces,
        extent: Extent<'_>,
        (page, read): (usize, Read),
        party: Party,
        non_coherent: bool,
    ) -> Result<(), Box<Fault>> {
        let non_coherent = non_coherent && self.checks.non_coherent;
        if !party.strong && !non_coherent {
            let settles = |old: &Entry| self.blocks.settles(&read.entry, old, order);
            if self.pages.log(extent.region, page, read, settles) {
                return Ok(());
            }
        }
        for cell in read.cells() {
            let location = (extent.region, page * PAGE + cell);
            if party.strong {
                self.blocks.acquire(order, location, party.warp as usize);
            }
            let Cell { write, mut reads, .. } = *self.pages.cell(location);
            let entry = read.entry_of(cell);
            let now = ("read", entry.access.lanes, party);
            if non_coherent && write.block != 0 {
                return Err(self.report(ViolationKind::NonCoherentRead, extent, now, ("written", write)));
            }
            if self.checks.global_races && self.blocks.conflicts(&write, entry.access.lanes, party, order) {
                return Err(self.report(ViolationKind::GlobalRace, extent, now, ("written", write)));
            }
            if non_coherent {
                self.non_coherent.insert(location, entry);
            }
            let [one, other] = reads.map(|old| self.blocks.settles(&entry, &old, order));
            noted(&mut reads, entry, |slot| if slot == 0 { one } else { other });
            self.pages.cell(location).reads = reads;
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
                self.blocks.acquire(order, location, warp);
                self.blocks.release(order, location, warp);
            }
            let Cell { write, reads } = *self.pages.cell(location);
            if self.checks.global_races {
                let one_store = write.block == self.blocks.running() && write.access.pc == party.pc;
                if self.blocks.conflicts(&write, lanes, party, order) && !(one_store && same()) {
                    return Err(self.report(ViolationKind::GlobalRace, extent, now, ("written", write)));
                }
                if let Some(read) = reads.iter().find(|read| self.blocks.conflicts(read, lanes, party, order)) {
                    return Err(self.report(ViolationKind::GlobalRace, extent, now, ("read", *read)));
                }
            }
            if !self.non_coherent.is_empty()
                && let Some(read) = self.non_coherent.get(&location)
            {
                return Err(self.report(ViolationKind::NonCoherentRead, extent, now, ("read", *read)));
            }
            let mut entry = self.blocks.entry(order, lanes, party);
            if party.strong {
                // It comes before what it releases.
                entry.time -= 1;
            }
            self.pages.cell(location).write = entry;
        }
        Ok(())
    }

    fn cells_of(&self, extent: Extent<'_>) -> std::ops::RangeInclusive<usize> {
        extent.offset >> self.cell_shift..=(extent.offset + extent.bytes - 1) >> self.cell_shift
    }

    #[cold]
    fn report(
        &self,
        kind: ViolationKind,
        extent: Extent<'_>,
        (verb, lanes, party): (&str, u32, Party),
        (earlier_verb, earlier): (&str, Entry),
    ) -> Box<Fault> {
        let one_warp = earlier.block == self.blocks.running() && u32::from(earlier.access.warp) == party.warp;
        let mut lane = lanes.trailing_zeros().min(LANES as u32 - 1);
        let own = if one_warp { 1 << lane } else { 0 };
        let rest = if earlier.access.lanes & !own != 0 { earlier.access.lanes & !own } else { earlier.access.lanes };
        let earlier_lane = rest.trailing_zeros().min(LANES as u32 - 1);
        if one_warp && earlier_lane == lane && lanes & !own != 0 {
            lane = (lanes & !own).trailing_zeros();
        }
        let whose = if earlier.block == self.blocks.running() { "the same" } else { "another" };
        let why = match kind {
            ViolationKind::NonCoherentRead => "in one launch, though non-coherent reads need constant data",
            _ if earlier.block == self.blocks.running() => "without a barrier between",
            _ => "with nothing to order the blocks",
        };
        let detail = format!(
            "`{}`+{:#x} {verb} by warp {} lane {lane} and {earlier_verb} by warp {} lane {earlier_lane} of {whose} block {why}",
            extent.name, extent.offset, party.warp, earlier.access.warp
        );
        let mut fault = fault(kind, lane as usize, detail);
        fault.other = Some((earlier.access.pc, earlier.access.warp.into(), earlier_lane));
        fault.other_position = (earlier.block != self.blocks.running()).then(|| u64::from(earlier.block) - 1);
        fault
    }
}
