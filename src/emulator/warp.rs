//! A warp: registers as 32 lanes side by side, and its lanes in groups of equal program counter.

use super::check::taint::{Origin, Shadow};
use super::memory::Segment;
use super::spaces::Place;
use crate::ptx::op::{Condition, Pred, Slot, Special, Wide, Word};
use crate::ptx::{Program, op::Reg};

/// Lanes of a warp.
pub(super) const LANES: usize = 32;

/// The register files of one warp.
#[derive(Clone, Debug, Default)]
pub(super) struct Registers {
    words: Vec<[u32; LANES]>,
    wides: Vec<[u64; LANES]>,
    preds: Vec<u32>,
}

/// Lanes an operation is executed for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lanes {
    /// One bit a lane.
    pub(super) mask: u32,
    /// Every living lane is in the mask, so that writing all 32 lanes harms nobody.
    pub(super) all: bool,
}

impl Lanes {
    /// The lanes of the mask, lowest first.
    #[inline]
    pub(super) fn iter(self) -> impl Iterator<Item = usize> {
        let mut left = self.mask;
        std::iter::from_fn(move || {
            (left != 0).then(|| {
                let lane = left.trailing_zeros() as usize;
                left &= left - 1;
                lane
            })
        })
    }

    /// The lowest lane.
    pub(super) fn first(self) -> usize {
        (self.mask.trailing_zeros() as usize).min(LANES - 1)
    }
}

impl Registers {
    #[inline(always)]
    pub(super) fn word(&self, slot: Word) -> &[u32; LANES] {
        &self.words[slot.0 as usize]
    }

    #[inline(always)]
    pub(super) fn wide(&self, slot: Wide) -> &[u64; LANES] {
        &self.wides[slot.0 as usize]
    }

    #[inline(always)]
    pub(super) fn pred(&self, slot: Pred) -> u32 {
        self.preds[slot.0 as usize]
    }

    #[inline(always)]
    pub(super) fn condition(&self, condition: Condition) -> u32 {
        let bits = self.pred(condition.pred);
        if condition.negated { !bits } else { bits }
    }

    /// Any register as 64-bit values.
    pub(super) fn values(&self, reg: Reg) -> [u64; LANES] {
        match reg {
            Reg::Word(word) => self.word(word).map(u64::from),
            Reg::Wide(wide) => *self.wide(wide),
        }
    }

    #[inline(always)]
    pub(super) fn set_word(&mut self, slot: Word, lanes: Lanes, value: [u32; LANES]) {
        let target = &mut self.words[slot.0 as usize];
        if lanes.all {
            *target = value;
        } else {
            for lane in 0..LANES {
                target[lane] = if lanes.mask & 1 << lane != 0 { value[lane] } else { target[lane] };
            }
        }
    }

    #[inline(always)]
    pub(super) fn set_wide(&mut self, slot: Wide, lanes: Lanes, value: [u64; LANES]) {
        let target = &mut self.wides[slot.0 as usize];
        if lanes.all {
            *target = value;
        } else {
            for lane in 0..LANES {
                target[lane] = if lanes.mask & 1 << lane != 0 { value[lane] } else { target[lane] };
            }
        }
    }

    /// Writes the low bits of each value that the register holds.
    pub(super) fn set_values(&mut self, reg: Reg, lanes: Lanes, value: [u64; LANES]) {
        match reg {
            Reg::Word(word) => self.set_word(word, lanes, value.map(|v| v as u32)),
            Reg::Wide(wide) => self.set_wide(wide, lanes, value),
        }
    }

    #[inline(always)]
    pub(super) fn set_pred(&mut self, slot: Pred, lanes: Lanes, bits: u32) {
        let target = &mut self.preds[slot.0 as usize];
        *target = (*target & !lanes.mask) | (bits & lanes.mask);
    }
}

/// Lanes of a warp that wait somewhere else than the running group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) pc: u32,
    pub(super) mask: u32,
    /// At an instruction that needs other lanes first.
    pub(super) waits: bool,
}

/// One warp of a running block.
#[derive(Clone, Debug, Default)]
pub(super) struct Warp {
    pub(super) index: u32,
    /// Lanes that haven't exited.
    pub(super) live: u32,
    /// The running group.
    pub(super) pc: u32,
    pub(super) mask: u32,
    pub(super) others: Vec<Group>,
    pub(super) registers: Registers,
    /// Whether its registers have room for the program and hold its constants.
    pub(super) is_prepared: bool,
    /// Local memory of all lanes, one frame after the other.
    pub(super) local: Segment,
    /// Instructions executed since lanes last ran apart without meeting.
    pub(super) apart: u32,
    /// Waiting at a block barrier, at this instruction.
    pub(super) at_barrier: Option<u32>,
    pub(super) copies: Copies,
    /// Undefined bits of its registers.
    pub(super) shadow: Shadow,
}

/// Asynchronous copies of a warp that haven't landed.
#[derive(Clone, Debug, Default)]
pub(super) struct Copies {
    pub(super) pending: Vec<PendingCopy>,
    /// For each lane, the number of its open group.
    pub(super) open: [u32; LANES],
}

/// One lane's copy under way.
#[derive(Clone, Debug)]
pub(super) struct PendingCopy {
    pub(super) lane: u8,
    pub(super) group: u32,
    pub(super) place: Place,
    pub(super) bytes: [u8; 16],
    pub(super) size: u8,
    /// Bytes that nobody had written at the source, one bit each, and where they come from.
    pub(super) undefined: u64,
    pub(super) origin: Origin,
}

/// What a block's registers are filled with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BlockContext {
    pub(super) grid: [u32; 3],
    pub(super) block: [u32; 3],
    pub(super) block_index: [u32; 3],
    pub(super) dynamic_shared_bytes: u32,
    pub(super) total_shared_bytes: u32,
}

impl BlockContext {
    pub(super) fn threads(&self) -> u32 {
        self.block.iter().product()
    }

    /// Thread index of a lane.
    pub(super) fn thread(&self, warp: u32, lane: u32) -> [u32; 3] {
        let linear = warp * LANES as u32 + lane;
        let [x, y, _] = self.block.map(|d| d.max(1));
        [linear % x, linear / x % y, linear / x / y]
    }
}

impl Warp {
    /// Makes room for a program and its constants, unless that has been done.
    pub(super) fn prepare(&mut self, program: &Program) {
        if std::mem::replace(&mut self.is_prepared, true) {
            return;
        }
        let (words, wides, preds) = program.slots();
        let registers = &mut self.registers;
        registers.words.clear();
        registers.words.resize(words, [0; LANES]);
        registers.wides.clear();
        registers.wides.resize(wides, [0; LANES]);
        registers.preds.clear();
        registers.preds.resize(preds, 0);
        let constants = program.constants();
        for (slot, value) in &constants.words {
            registers.words[slot.0 as usize] = [*value; LANES];
        }
        for (slot, value) in &constants.wides {
            registers.wides[slot.0 as usize] = [*value; LANES];
        }
        for (slot, value) in &constants.preds {
            registers.preds[slot.0 as usize] = if *value { u32::MAX } else { 0 };
        }
        self.local.name.clear();
        self.local.name.push_str("local frame");
        self.local.bytes.resize(program.local_bytes() * LANES, 0);
        self.local.writable = true;
    }

    /// Sets the warp to the start of a block.
    pub(super) fn start(&mut self, program: &Program, context: &BlockContext, index: u32) {
        let threads = context.threads().saturating_sub(index * LANES as u32).min(LANES as u32);
        self.index = index;
        self.live = if threads == LANES as u32 { u32::MAX } else { (1 << threads) - 1 };
        self.pc = 0;
        self.mask = self.live;
        self.others.clear();
        self.apart = 0;
        self.at_barrier = None;
        self.copies.pending.clear();
        self.copies.open = [0; LANES];
        if program.local_bytes() > 0 {
            self.local.bytes.fill(0);
            self.local.initialised = super::BitMap::new(self.local.bytes.len(), false);
            self.local.written = super::BitMap::new(self.local.bytes.len(), false);
        }
        self.reset_registers(program);
        for (slot, special) in program.specials() {
            self.registers.words[slot.0 as usize] = special_value(*special, context, index);
        }
    }

    /// A kernel that reads a register before writing it must do the same every time. No other register's earlier contents
    /// can be seen.
    fn reset_registers(&mut self, program: &Program) {
        let registers = &mut self.registers;
        for (slot, _) in program.unwritten() {
            match slot {
                Slot::Word(word) => registers.words[word.0 as usize] = [0; LANES],
                Slot::Wide(wide) => registers.wides[wide.0 as usize] = [0; LANES],
                Slot::Pred(pred) => registers.preds[pred.0 as usize] = 0,
            }
        }
    }

    /// The lowest program counter among groups that can run, apart from the running one.
    pub(super) fn next_ready(&self) -> u32 {
        self.others.iter().filter(|g| !g.waits).map(|g| g.pc).min().unwrap_or(u32::MAX)
    }
}

fn special_value(special: Special, context: &BlockContext, warp: u32) -> [u32; LANES] {
    let dim = |v: [u32; 3], i: u8| v.get(usize::from(i)).copied().unwrap_or(0);
    std::array::from_fn(|lane| {
        let bit = 1u32 << lane;
        match special {
            Special::Tid(i) => dim(context.thread(warp, lane as u32), i),
            Special::Ntid(i) => dim(context.block, i),
            Special::Ctaid(i) => dim(context.block_index, i),
            Special::Nctaid(i) => dim(context.grid, i),
            Special::LaneId => lane as u32,
            Special::WarpId => warp,
            Special::NwarpId => context.threads().div_ceil(LANES as u32),
            Special::LanemaskEq => bit,
            Special::LanemaskLt => bit - 1,
            Special::LanemaskLe => bit | (bit - 1),
            Special::LanemaskGt => !(bit | (bit - 1)),
            Special::LanemaskGe => !(bit - 1),
            Special::SmId | Special::GridId => 0,
            Special::NsmId => 1,
            Special::DynamicSharedBytes => context.dynamic_shared_bytes,
            Special::TotalSharedBytes => context.total_shared_bytes,
        }
    })
}
