//! What depends on data that nobody wrote.
//!
//! Undefined data may be loaded, computed with and stored. It breaks a rule where it decides what is executed or by whom
//! (guards, indices, masks), where it is part of an address, and where the launch leaves it in a buffer.
//!
//! Every register has a shadow: its undefined bits, and for each lane where they come from. Memory's shadow is the bitmap
//! of initialised bytes. A warp whose registers are all defined has no shadow and pays nothing; a load of undefined bytes
//! gives it one, and it runs with [`execute`] until its registers are defined again. Which registers may be read before
//! they are written is known from the program.
//!
//! Moves, logic, shifts, permutations, selections and exchanges between lanes are followed bit by bit, halves one by one,
//! matrix products element by element. Of everything else a result is undefined if a bit of an operand is.

mod matrix;
mod memory;
mod registers;
mod uses;

pub(in crate::emulator) use memory::Taint;
pub(in crate::emulator) use uses::{check_uses, report};

use super::Fault;
use crate::emulator::execute::execute as execute_plain;
use crate::emulator::run::Counters;
use crate::emulator::spaces::{Place, Spaces};
use crate::emulator::warp::{LANES, Lanes, Warp};
use crate::ptx::Program;
use crate::ptx::op::{Op, Role, Slot};

/// An instruction as executed by one lane.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::emulator) struct Actor {
    pub(in crate::emulator) pc: u32,
    pub(in crate::emulator) warp: u32,
    pub(in crate::emulator) lane: u32,
    /// Position of the block in the order of the launch.
    pub(in crate::emulator) block: u64,
}

/// Where undefined data comes from.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::emulator) struct Origin {
    /// The load, or the first reader of a register.
    pub(in crate::emulator) by: Actor,
    /// What was loaded; `None` for a register that nothing has written.
    pub(in crate::emulator) from: Option<Place>,
}

/// Undefined bits of a register.
#[derive(Clone, Debug)]
struct Undefined {
    bits: [u64; LANES],
    origins: [Origin; LANES],
}

impl Undefined {
    const NONE: Self = Self {
        bits: [0; LANES],
        origins: [Origin { by: Actor { pc: 0, warp: 0, lane: 0, block: 0 }, from: None }; LANES],
    };

    fn put(&mut self, lane: usize, bits: u64, origin: Origin) {
        self.bits[lane] |= bits;
        self.origins[lane] = origin;
    }
}

/// Undefined bits of a warp's registers.
#[derive(Clone, Debug, Default)]
pub(in crate::emulator) struct Shadow {
    /// Words, wides and predicates; those that are defined have none. Empty until needed.
    slots: Vec<Option<Box<Undefined>>>,
    sizes: (usize, usize, usize),
    /// Registers with undefined bits.
    count: usize,
}

impl Shadow {
    /// Starts a block: registers that may be read before they are written are undefined.
    pub(in crate::emulator) fn start(&mut self, program: &Program, by: Actor, enabled: bool) {
        if self.count > 0 || self.sizes != program.slots() {
            self.slots.clear();
            self.count = 0;
            self.sizes = program.slots();
        }
        if !enabled {
            return;
        }
        for (slot, reader) in program.unwritten() {
            let origin = |lane| Origin { by: Actor { pc: *reader, lane: lane as u32, ..by }, from: None };
            let value = Undefined { bits: [full(*slot); LANES], origins: std::array::from_fn(origin) };
            self.set(*slot, Lanes { mask: u32::MAX, all: true }, &value);
        }
    }

    /// Whether a register has undefined bits.
    pub(in crate::emulator) fn is_tainted(&self) -> bool {
        self.count > 0
    }

    fn index(&self, slot: Slot) -> usize {
        let (words, wides, _) = self.sizes;
        match slot {
            Slot::Word(word) => word.0 as usize,
            Slot::Wide(wide) => words + wide.0 as usize,
            Slot::Pred(pred) => words + wides + pred.0 as usize,
        }
    }

    fn undefined(&self, slot: impl Into<Slot>) -> Option<&Undefined> {
        self.slots.get(self.index(slot.into()))?.as_deref()
    }

    fn bits(&self, slot: impl Into<Slot>) -> [u64; LANES] {
        self.undefined(slot).map_or([0; LANES], |u| u.bits)
    }

    fn word(&self, slot: impl Into<Slot>) -> [u32; LANES] {
        self.bits(slot).map(|bits| bits as u32)
    }

    /// A predicate's undefined lanes.
    fn pred(&self, slot: impl Into<Slot>) -> u32 {
        lanes_with(&self.bits(slot))
    }

    fn set(&mut self, slot: Slot, lanes: Lanes, value: &Undefined) {
        if lanes_with(&value.bits) & lanes.mask == 0 {
            return self.clear(slot, lanes);
        }
        if self.slots.is_empty() {
            let (words, wides, preds) = self.sizes;
            self.slots.resize(words + wides + preds, None);
        }
        let index = self.index(slot);
        let target = self.slots[index].get_or_insert_with(|| {
            self.count += 1;
            Box::new(Undefined::NONE)
        });
        for lane in lanes.iter() {
            target.bits[lane] = value.bits[lane] & full(slot);
            target.origins[lane] = value.origins[lane];
        }
    }

    fn clear(&mut self, slot: Slot, lanes: Lanes) {
        let index = self.index(slot);
        let Some(target) = self.slots.get_mut(index) else { return };
        let Some(undefined) = target else { return };
        lanes.iter().for_each(|lane| undefined.bits[lane] = 0);
        if lanes.all || undefined.bits == [0; LANES] {
            *target = None;
            self.count -= 1;
        }
    }

    fn clear_results(&mut self, op: &Op, lanes: Lanes) {
        op.operands(&mut |role, slot| {
            if role == Role::Result {
                self.clear(slot, lanes);
            }
        });
    }
}

/// What an operation does to shadows, known before it is executed.
#[derive(Debug, Default)]
struct Effect {
    registers: Vec<(Slot, Undefined)>,
    bytes: Vec<Bytes>,
}

/// Bytes that one lane writes.
#[derive(Clone, Copy, Debug)]
struct Bytes {
    lane: usize,
    place: Place,
    size: usize,
    /// One bit a byte.
    undefined: u64,
    /// The undefined bits of each byte, where it is one.
    bits: [u8; WIDEST],
    origin: Origin,
}

/// Bytes of the widest access.
const WIDEST: usize = 32;

impl Bytes {
    /// Bytes that are defined.
    fn new(lane: usize, place: Place, size: usize) -> Self {
        Self { lane, place, size, undefined: 0, bits: [u8::MAX; WIDEST], origin: Origin::default() }
    }
}

/// An operation and what it does to shadows.
#[inline(never)]
pub(in crate::emulator) fn execute(
    op: &Op,
    warp: &mut Warp,
    lanes: Lanes,
    spaces: &mut Spaces<'_>,
    counters: &mut Counters,
) -> Result<(), Box<Fault>> {
    let effect = memory::effect(op, warp, lanes, spaces)
        .or_else(|| matrix::effect(op, &warp.shadow))
        .or_else(|| registers::effect(op, warp, lanes));
    spaces.taint.follows = memory::is_followed(op);
    let outcome = execute_plain(op, warp, lanes, spaces, counters);
    spaces.taint.follows = false;
    outcome?;
    warp.shadow.clear_results(op, lanes);
    let Some(effect) = effect else { return Ok(()) };
    for (slot, value) in &effect.registers {
        warp.shadow.set(*slot, lanes, value);
    }
    for bytes in effect.bytes {
        memory::write(spaces, bytes);
    }
    Ok(())
}

/// Every bit of a register.
fn full(slot: Slot) -> u64 {
    match slot {
        Slot::Word(_) => u32::MAX.into(),
        Slot::Wide(_) => u64::MAX,
        Slot::Pred(_) => 1,
    }
}

/// Lanes with any bit.
fn lanes_with(bits: &[u64; LANES]) -> u32 {
    bits.iter().enumerate().fold(0, |lanes, (lane, bits)| lanes | u32::from(*bits != 0) << lane)
}
