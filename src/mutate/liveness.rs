//! Which registers nothing reads. By name and for a whole function: no flow, so only what is evident.

use crate::ptx::{Base, Instruction, Operand};
use std::collections::{HashMap, HashSet};

/// What is known of the names of one function.
#[derive(Debug, Default)]
pub(super) struct Names {
    read: HashSet<String>,
    /// The integer a register holds, where its only writer is a `mov` of it.
    constants: HashMap<String, Option<u64>>,
}

impl Names {
    /// Of the instructions of one function.
    pub(super) fn of(instructions: &[&Instruction]) -> Self {
        let mut names = Self::default();
        instructions.iter().for_each(|instruction| names.note_constant(instruction));
        // What only the dead read is dead too.
        let mut dead = vec![false; instructions.len()];
        loop {
            names.read.clear();
            instructions.iter().zip(&dead).filter(|(_, dead)| !**dead).for_each(|(i, _)| names.note_reads(i));
            let next: Vec<bool> = instructions.iter().map(|instruction| names.is_dead(instruction)).collect();
            if next == dead {
                return names;
            }
            dead = next;
        }
    }

    fn note_reads(&mut self, instruction: &Instruction) {
        self.read.extend(instruction.guard.iter().map(|(name, _)| name.clone()));
        for operand in instruction.operands.iter().skip(results(instruction)) {
            each_name(operand, &mut |name| self.read.extend([name.to_owned()]));
        }
    }

    fn note_constant(&mut self, instruction: &Instruction) {
        let constant = match (instruction.opcode.as_str(), instruction.operands.get(1)) {
            ("mov", Some(Operand::Int(value))) if instruction.guard.is_none() => Some(*value),
            _ => None,
        };
        for operand in instruction.operands.iter().take(results(instruction)) {
            each_name(operand, &mut |name| {
                let known = self.constants.contains_key(name);
                self.constants.insert(name.into(), constant.filter(|_| !known));
            });
        }
    }

    /// The integer that an operand is.
    pub(super) fn integer(&self, operand: &Operand) -> Option<u64> {
        match operand {
            Operand::Int(value) => Some(*value),
            Operand::Name(name) => *self.constants.get(name)?,
            _ => None,
        }
    }

    /// Whether an instruction does nothing but give results that nothing reads.
    pub(super) fn is_dead(&self, instruction: &Instruction) -> bool {
        let pure = !matches!(instruction.opcode.as_str(), "atom" | "shfl" | "vote" | "match" | "redux" | "call");
        let written = results(instruction);
        let mut is_read = false;
        for operand in instruction.operands.iter().take(written) {
            each_name(operand, &mut |name| is_read |= name != "_" && self.read.contains(name));
        }
        let carries = instruction.modifiers.iter().any(|m| m == "cc");
        pure && !carries && written > 0 && !is_read
    }
}

/// How many of an instruction's operands, from the first, are written and not read.
fn results(instruction: &Instruction) -> usize {
    match instruction.opcode.as_str() {
        "st" | "red" | "bra" | "brx" | "bar" | "barrier" | "membar" | "fence" | "ret" | "exit" | "trap" | "call"
        | "cp" | "stmatrix" | "prefetch" | "prefetchu" | "mbarrier" | "nanosleep" | "pmevent" | "brkpt" | "wmma"
        | "griddepcontrol" => 0,
        _ => 1,
    }
}

fn each_name(operand: &Operand, visit: &mut impl FnMut(&str)) {
    match operand {
        Operand::Name(name) | Operand::Offset(name, _) | Operand::Address { base: Base::Name(name), .. } => visit(name),
        Operand::Not(inner) => each_name(inner, visit),
        Operand::Pair(first, second) => {
            each_name(first, visit);
            each_name(second, visit);
        }
        Operand::Vector(items) | Operand::List(items) | Operand::Place(items) => {
            items.iter().for_each(|item| each_name(item, visit));
        }
        Operand::Int(_) | Operand::F32(_) | Operand::F64(_) | Operand::Address { base: Base::Absolute, .. } => {}
    }
}
