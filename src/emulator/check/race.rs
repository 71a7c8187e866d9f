//! Shared-memory races by happens-before.
//!
//! Every warp has a clock, advanced where its accesses become ordered before others': at block barriers and at
//! `bar.warp.sync`. Every warp knows up to which clock each other warp's accesses are ordered before its own; barriers
//! exchange that knowledge among the warps that meet at them. Two accesses to a cell race when one is a write, the lanes
//! differ, and neither is ordered before the other: a verdict that doesn't depend on which happened to come first.
//!
//! A cell is as wide as the narrowest access the program makes. It remembers its last write and readers of two warps,
//! enough that a write by any third warp still finds one.
//!
//! Shuffles and votes order nothing, as on the hardware. Writes by one instruction of the text are a race only if they
//! differ, whichever lanes and warps make them: a flag that every thread may set, or a tile that a compiler has several
//! warps compute alike, has one outcome whoever wins. Atomic and volatile accesses don't race with each
//! other and order what surrounds them: a missing fence beside one is missed. A `bar.warp.sync` of part of a warp orders
//! the lanes it names. Global memory is `global`'s.

use super::violation::{Fault, ViolationKind, fault};
use crate::emulator::warp::{LANES, Lanes};
use std::collections::HashMap;

/// Warps of the largest block.
const WARPS: usize = 32;

/// For each warp, the clock up to which its accesses are ordered before whoever holds this.
pub(in crate::emulator) type Horizon = [u32; WARPS];

/// Who accesses, from where.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::emulator) struct Party {
    pub(in crate::emulator) warp: u32,
    pub(in crate::emulator) pc: u32,
    /// Atomic or volatile.
    pub(in crate::emulator) strong: bool,
}

/// State of the check for one block.
#[derive(Debug, Default)]
pub(in crate::emulator) struct SharedRaces {
    cells: Vec<Cell>,
    /// Logarithm of a cell's size.
    cell_shift: u32,
    clocks: Horizon,
    horizons: Vec<Horizon>,
    /// What strong accesses to a cell have released.
    released: HashMap<usize, Horizon>,
    /// For each warp, synchronisations of some of its lanes since the last of all.
    partial: Vec<Vec<LaneSync>>,
    /// Every clock of the blocks before is ordered.
    floor: u32,
}

/// A `bar.warp.sync` of some lanes, after their accesses up to a clock.
#[derive(Clone, Copy, Debug)]
struct LaneSync {
    clock: u32,
    lanes: u32,
}

/// Synchronisations of some lanes that are remembered; one more counts as one of all.
const MAX_PARTIAL: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    write: Access,
    reads: [Access; 2],
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Access {
    /// 0 for none.
    pub(super) clock: u32,
    pub(super) lanes: u32,
    pub(super) pc: u32,
    pub(super) warp: u16,
    pub(super) strong: bool,
}

impl SharedRaces {
    /// Starts a block. Cells keep their contents: earlier blocks' clocks lie below the new floor.
    pub(in crate::emulator) fn start_block(&mut self, shared_bytes: usize, cell_bytes: usize, warps: usize) {
        let cell_shift = cell_bytes.trailing_zeros();
        let count = (shared_bytes >> cell_shift) + 1;
        let highest = self.clocks.iter().copied().max().unwrap_or(0).max(self.floor);
        if self.cell_shift != cell_shift || highest > u32::MAX / 2 {
            self.cells.clear();
            self.floor = 0;
        } else {
            self.floor = highest;
        }
        self.cell_shift = cell_shift;
        self.cells.resize(count.max(self.cells.len()), Cell::default());
        self.clocks = [self.floor + 1; WARPS];
        self.horizons.clear();
        self.horizons.resize(warps, [self.floor; WARPS]);
        self.released.clear();
        self.partial.clear();
        self.partial.resize(warps, Vec::new());
    }

    /// What a warp's arrival at a barrier tells the others; its own later accesses come after.
    pub(in crate::emulator) fn release(&mut self, warp: usize) -> Horizon {
        let mut horizon = self.horizons[warp];
        horizon[warp] = self.clocks[warp];
        self.advance(warp);
        horizon
    }

    /// What a warp learns by leaving a barrier.
    pub(in crate::emulator) fn acquire(&mut self, warp: usize, from: &Horizon) {
        join(&mut self.horizons[warp], from);
    }

    /// The lanes of a warp have synchronised among themselves.
    fn advance(&mut self, warp: usize) {
        self.horizons[warp][warp] = self.clocks[warp];
        self.clocks[warp] += 1;
        self.partial[warp].clear();
    }

    /// The lanes `arrived` of a warp have synchronised, each with those in its mask.
    pub(in crate::emulator) fn warp_sync(&mut self, warp: usize, arrived: u32, live: u32, masks: &[u32; LANES]) {
        let mut left = arrived;
        while left != 0 {
            let lanes = masks[left.trailing_zeros() as usize] & arrived;
            if lanes == live || self.partial[warp].len() >= MAX_PARTIAL {
                return self.advance(warp);
            }
            self.partial[warp].push(LaneSync { clock: self.clocks[warp], lanes });
            left &= !lanes;
        }
        self.clocks[warp] += 1;
    }

    /// Whether synchronisations of some lanes order an access before one by `lanes` of the same warp.
    #[inline]
    pub(super) fn ordered_within(&self, earlier: &Access, lanes: u32, party: Party) -> bool {
        let syncs = &self.partial[party.warp as usize];
        !syncs.is_empty() && u32::from(earlier.warp) == party.warp && ordered_by(syncs, earlier, lanes)
    }

    /// Some lanes of a warp read `bytes` bytes at `offset`.
    #[inline]
    pub(in crate::emulator) fn read(
        &mut self,
        offset: usize,
        bytes: usize,
        lanes: u32,
        party: Party,
    ) -> Result<(), Box<Fault>> {
        let warp = party.warp as usize;
        let (first, last) = (offset >> self.cell_shift, (offset + bytes - 1) >> self.cell_shift);
        let clock = self.clocks[warp];
        for cell in first..=last {
            if party.strong {
                self.acquire_cell(cell, warp);
            }
            let horizon = &self.horizons[warp];
            let write = self.cells[cell].write;
            if conflicts(&write, lanes, party, horizon) && !self.ordered_within(&write, lanes, party) {
                return Err(race(offset, ("read", lanes, party), ("written", write)));
            }
            let reads = &mut self.cells[cell].reads;
            let access = Access { clock, warp: party.warp as u16, lanes, pc: party.pc, strong: party.strong };
            note_read(reads, access, horizon);
        }
        Ok(())
    }

    /// `count` lanes from `first` on read `bytes` bytes each, side by side from `offset`.
    pub(in crate::emulator) fn read_span(
        &mut self,
        offset: usize,
        bytes: usize,
        (first, count): (usize, usize),
        party: Party,
    ) -> Result<(), Box<Fault>> {
        if party.strong || bytes != 1 << self.cell_shift || !self.partial[party.warp as usize].is_empty() {
            return (0..count).try_for_each(|i| self.read(offset + i * bytes, bytes, 1 << (first + i), party));
        }
        let start = offset >> self.cell_shift;
        let warp = party.warp as usize;
        let (horizon, clock) = (&self.horizons[warp], self.clocks[warp]);
        // Nothing up to here can conflict with this warp, whoever did it.
        let settled = horizon.iter().take(self.horizons.len()).copied().min().unwrap_or(0);
        for (i, cell) in self.cells[start..start + count].iter_mut().enumerate() {
            let lanes = 1 << (first + i);
            if cell.write.clock > settled && conflicts(&cell.write, lanes, party, horizon) {
                return Err(race(offset + i * bytes, ("read", lanes, party), ("written", cell.write)));
            }
            let [one, other] = &cell.reads;
            let has =
                |r: &Access| u32::from(r.warp) == party.warp && r.clock == clock && r.lanes & lanes != 0 && !r.strong;
            if !has(one) && !has(other) {
                let access = Access { clock, warp: party.warp as u16, lanes, pc: party.pc, strong: false };
                note_read(&mut cell.reads, access, horizon);
            }
        }
        Ok(())
    }

    /// One lane writes `bytes` bytes at `offset`. `same` says whether memory already holds the value, which decides
    /// between writes by one instruction.
    #[inline]
    pub(in crate::emulator) fn write(
        &mut self,
        offset: usize,
        bytes: usize,
        lane: usize,
        party: Party,
        same: impl Fn() -> bool,
    ) -> Result<(), Box<Fault>> {
        let warp = party.warp as usize;
        let lanes = 1u32 << lane;
        let (first, last) = (offset >> self.cell_shift, (offset + bytes - 1) >> self.cell_shift);
        for cell in first..=last {
            if party.strong {
                self.acquire_cell(cell, warp);
                let done = self.done(warp);
                join(self.released.entry(cell).or_insert([0; WARPS]), &done);
            }
            let horizon = &self.horizons[warp];
            let Cell { write, reads } = &self.cells[cell];
            let races = |earlier: &Access| {
                conflicts(earlier, lanes, party, horizon) && !self.ordered_within(earlier, lanes, party)
            };
            if races(write) && !(write.pc == party.pc && same()) {
                return Err(race(offset, ("written", lanes, party), ("written", *write)));
            }
            if let Some(read) = reads.iter().find(|read| races(read)) {
                return Err(race(offset, ("written", lanes, party), ("read", *read)));
            }
            self.cells[cell].write =
                Access { clock: self.clocks[warp], warp: party.warp as u16, lanes, pc: party.pc, strong: party.strong };
        }
        Ok(())
    }

    fn acquire_cell(&mut self, cell: usize, warp: usize) {
        if let Some(released) = self.released.get(&cell).copied() {
            self.acquire_others(warp, &released);
        }
    }

    /// What a warp learns about others, through memory.
    pub(super) fn acquire_others(&mut self, warp: usize, released: &Horizon) {
        let own = self.horizons[warp][warp];
        join(&mut self.horizons[warp], released);
        // A warp's own lanes are ordered by `bar.warp.sync` alone.
        self.horizons[warp][warp] = own;
    }

    /// What a warp knows and has done.
    pub(super) fn done(&self, warp: usize) -> Horizon {
        let mut horizon = self.horizons[warp];
        horizon[warp] = self.clocks[warp];
        horizon
    }

    #[inline]
    pub(super) fn clock(&self, warp: usize) -> u32 {
        self.clocks[warp]
    }

    #[inline]
    pub(super) fn horizon(&self, warp: usize) -> &Horizon {
        &self.horizons[warp]
    }
}

/// The narrowest access is what a cell holds; programs without accesses to the space get the widest.
pub(in crate::emulator) fn cell_bytes(program: &crate::ptx::Program, of: crate::ptx::Space) -> usize {
    use crate::ptx::op::{AccessSpace, Element, Op};
    let fits = |space: AccessSpace| space == AccessSpace::Generic || space == AccessSpace::Is(of);
    let widths = program.code().iter().filter_map(|inst| match &inst.op {
        Op::Load { access, .. } | Op::Store { access, .. } if fits(access.space) => {
            Some(usize::from(access.element_bytes))
        }
        Op::Atomic { ty, space, .. } if fits(*space) => Some(ty.size_bytes()),
        // Lanes take elements side by side.
        Op::WmmaAccess(access) if fits(access.space) => match access.fragment.factor {
            Some(Element::Byte { .. }) => Some(1),
            _ => Some(2),
        },
        _ => None,
    });
    widths.min().unwrap_or(4).min(4)
}

/// Learns everything another horizon knows.
pub(in crate::emulator) fn join(into: &mut Horizon, from: &Horizon) {
    for (into, from) in into.iter_mut().zip(from) {
        *into = (*into).max(*from);
    }
}

#[inline(always)]
pub(super) fn conflicts(earlier: &Access, lanes: u32, party: Party, horizon: &Horizon) -> bool {
    let unordered = earlier.clock > horizon[(earlier.warp as usize) % WARPS];
    let other_lane =
        u32::from(earlier.warp) != party.warp || earlier.lanes & !lanes != 0 || lanes & !earlier.lanes != 0;
    unordered && other_lane && !(earlier.strong && party.strong)
}

/// Whether each lane of an access comes before each other lane in `lanes`, directly or through others.
#[cold]
fn ordered_by(syncs: &[LaneSync], earlier: &Access, lanes: u32) -> bool {
    (Lanes { mask: earlier.lanes, all: false }).iter().all(|lane| {
        let after = syncs.iter().filter(|sync| sync.clock >= earlier.clock);
        let reached = after.fold(
            1 << lane,
            |reached: u32, sync| {
                if reached & sync.lanes != 0 { reached | sync.lanes } else { reached }
            },
        );
        lanes & !reached == 0
    })
}

/// Keeps readers of two different warps; a third adds nothing that a later write wouldn't find anyway.
#[inline(always)]
fn note_read(reads: &mut [Access; 2], access: Access, horizon: &Horizon) {
    for read in reads {
        if read.warp == access.warp && read.clock == access.clock && read.strong == access.strong {
            read.lanes |= access.lanes;
            read.pc = access.pc;
            return;
        }
        if read.clock <= horizon[(read.warp as usize) % WARPS] {
            *read = access;
            return;
        }
    }
}

#[cold]
fn race(offset: usize, now: (&str, u32, Party), before: (&str, Access)) -> Box<Fault> {
    let (verb, lanes, party) = now;
    let (earlier_verb, earlier) = before;
    // Name two different lanes.
    let lane = lanes.trailing_zeros().min(LANES as u32 - 1);
    let own = if u32::from(earlier.warp) == party.warp { 1 << lane } else { 0 };
    let rest = if earlier.lanes & !own != 0 { earlier.lanes & !own } else { earlier.lanes };
    let earlier_lane = rest.trailing_zeros().min(LANES as u32 - 1);
    let lane = if u32::from(earlier.warp) == party.warp && earlier_lane == lane {
        (lanes & !(1 << lane)).trailing_zeros().min(LANES as u32 - 1)
    } else {
        lane
    };
    let detail = format!(
        "shared+{offset:#x} {verb} by warp {} lane {lane} and {earlier_verb} by warp {} lane {earlier_lane} without a barrier between",
        party.warp, earlier.warp
    );
    let mut fault = fault(ViolationKind::SharedRace, lane as usize, detail);
    fault.other = Some((earlier.pc, earlier.warp.into(), earlier_lane));
    fault
}
