//! The small faults: what each makes of one instruction, as PTX text to put in its place.
//!
//! An operator gives no mutant that is evidently the same: no swap of what commutes, no change of `x + 0` to `x - 0`.
//! Not mutated: `ld.param`, declarations, and whatever no operator names.

mod arithmetic;
mod control;
mod memory;

use super::liveness::Names;
use crate::ptx::{Instruction, Operand};

/// A change of one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Which operator made it, one of [`OPERATORS`].
    pub operator: &'static str,
    /// Which of the operator's changes of this instruction.
    pub variant: String,
    /// The instructions in its place; empty if it is dropped.
    pub text: String,
    /// Whether it matters where the instruction is reached, even if its guard holds for no lane.
    pub guards: bool,
}

/// Every operator, and what it does.
pub const OPERATORS: [(&str, &str); 27] = [
    ("relation", "comparison with and without equality (lt and le, gt and ge), or eq and ne"),
    ("bound", "integer comparison with a register less one"),
    ("constant", "integer immediate one more and one less"),
    ("float-constant", "floating-point immediate doubled, negated; 1 for 0, the largest number for infinity"),
    ("swap", "operands of sub, div, rem in the other order"),
    ("add-sub", "add for sub and sub for add"),
    ("mul-add", "add for mul"),
    ("fma-mul", "fma or mad without its addend"),
    ("min-max", "min for max and max for min"),
    ("and-or", "or for and, and for or and xor"),
    ("shift", "shift in the other direction"),
    ("sign", "neg, abs or not left out; the argument of an approximate function negated"),
    ("select", "selp with its values swapped"),
    ("rounding", "cvt with another rounding"),
    ("narrow", "64-bit index arithmetic through 32 bits"),
    ("drop-barrier", "barrier left out"),
    ("drop-fence", "fence or wait for asynchronous copies left out"),
    ("drop-guard", "instruction executed whatever its guard says"),
    ("negate-guard", "guard negated"),
    ("drop-branch", "conditional branch never taken"),
    ("drop-store", "store or reduction left out"),
    ("drop", "accumulation, or move of a register, left out: the destination keeps its value"),
    ("shuffle-distance", "shuffle over half and twice the distance"),
    ("shuffle-mode", "bfly for down, down for up, up for down, idx for bfly"),
    ("vote", "any for all and all for any"),
    ("offset", "address of a load or store one element further and one less; vector elements in reverse order"),
    ("atomic", "exchange for an atomic operation"),
];

/// Every change of `instruction`, in an order that depends on nothing else.
pub(super) fn edits(instruction: &Instruction, names: &Names) -> Vec<Edit> {
    let mut edits = Edits { instruction, list: Vec::new() };
    control::edits(&mut edits);
    arithmetic::edits(&mut edits);
    memory::edits(&mut edits, names);
    edits.list.retain(|edit| edit.text != instruction.to_string());
    edits.list
}

/// The changes of one instruction, as they are found.
struct Edits<'i> {
    instruction: &'i Instruction,
    list: Vec<Edit>,
}

impl<'i> Edits<'i> {
    fn push(&mut self, operator: &'static str, variant: impl Into<String>, text: impl ToString) {
        self.list.push(Edit { operator, variant: variant.into(), text: text.to_string(), guards: false });
    }

    /// A change of what the guard decides.
    fn push_guard(&mut self, operator: &'static str, text: impl ToString) {
        self.list.push(Edit { operator, variant: String::new(), text: text.to_string(), guards: true });
    }

    fn opcode(&self) -> &'i str {
        &self.instruction.opcode
    }

    fn operands(&self) -> &'i [Operand] {
        &self.instruction.operands
    }

    fn has(&self, modifier: &str) -> bool {
        self.instruction.modifiers.iter().any(|m| m == modifier)
    }

    /// The first modifier that is one of `names`.
    fn modifier(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().find(|name| self.has(name))
    }

    /// The last modifier: the type, but for a few instructions that have two.
    fn ty(&self) -> &'i str {
        self.instruction.modifiers.last().map_or("", String::as_str)
    }

    fn is_integer(&self) -> bool {
        matches!(self.ty().as_bytes(), [b'u' | b's' | b'b', b'0'..=b'9', ..])
    }

    /// The instruction with another opcode.
    fn with_opcode(&self, opcode: &str) -> Instruction {
        Instruction { opcode: opcode.into(), ..self.instruction.clone() }
    }

    /// The instruction with modifier `from` changed to `to`, or left out where that is empty.
    fn with_modifier(&self, from: &str, to: &str) -> Instruction {
        let mut changed = self.instruction.clone();
        let modifiers = changed.modifiers.iter().map(|m| if m == from { to.to_owned() } else { m.clone() });
        changed.modifiers = modifiers.filter(|m| !m.is_empty()).collect();
        changed
    }

    /// The instruction with operand `index` changed.
    fn with_operand(&self, index: usize, operand: Operand) -> Instruction {
        let mut changed = self.instruction.clone();
        changed.operands[index] = operand;
        changed
    }

    /// The instruction with two operands in each other's place.
    fn swapped(&self, a: usize, b: usize) -> Instruction {
        let mut changed = self.instruction.clone();
        changed.operands.swap(a, b);
        changed
    }

    /// `@p `, or nothing, for other instructions in the same place.
    fn guard_text(&self) -> String {
        self.instruction.guard.as_ref().map_or_else(String::new, |(name, negated)| {
            let sign = if *negated { "!" } else { "" };
            format!("@{sign}{name} ")
        })
    }
}
