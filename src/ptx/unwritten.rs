//! Registers that a kernel may read before it writes them: those live where it starts.
//!
//! A write under a guard counts for reads under the same guard in the same basic block only; what is beyond that is for
//! the emulator to see as it runs.

use super::op::{Op, Role, Slot};
use super::program::{Guard, Inst};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Blocks visited for all registers together; past it, registers count as unwritten.
const MAX_VISITS: usize = 1 << 24;

/// Instructions with one way in and one way out.
#[derive(Debug, Default)]
struct Block {
    before: Vec<usize>,
    /// Written whatever the guards.
    written: HashSet<Slot>,
    /// Read before that, and where.
    read: HashMap<Slot, u32>,
}

/// Registers apart from those `filled` at the start, and the first instruction that may read each unwritten.
pub(super) fn unwritten(code: &[Inst], filled: &HashSet<Slot>) -> Vec<(Slot, u32)> {
    let blocks = blocks(code);
    // In order of the reads, so that the answer doesn't depend on hashing.
    let mut readers = BTreeMap::<u32, Vec<(Slot, usize)>>::new();
    for (index, block) in blocks.iter().enumerate() {
        for (slot, pc) in block.read.iter().filter(|(slot, _)| !filled.contains(slot)) {
            readers.entry(*pc).or_default().push((*slot, index));
        }
    }
    let mut by_slot = HashMap::<Slot, Vec<usize>>::new();
    let mut first = Vec::new();
    for (pc, slots) in &readers {
        for (slot, block) in slots {
            let readers = by_slot.entry(*slot).or_default();
            if readers.is_empty() {
                first.push((*slot, *pc));
            }
            readers.push(*block);
        }
    }
    let mut seen = vec![usize::MAX; blocks.len()];
    let mut visits = 0;
    let mut is_live_at_start = |number: usize, slot: Slot| {
        let mut open = by_slot.get(&slot).cloned().unwrap_or_default();
        while let Some(index) = open.pop() {
            if seen[index] == number {
                continue;
            }
            seen[index] = number;
            visits += 1;
            if index == 0 || visits > MAX_VISITS {
                return true;
            }
            open.extend(blocks[index].before.iter().filter(|b| !blocks[**b].written.contains(&slot)));
        }
        false
    };
    let live = first.into_iter().enumerate().filter(|(number, (slot, _))| is_live_at_start(*number, *slot));
    live.map(|(_, found)| found).collect()
}

/// Basic blocks; the kernel starts with the first.
fn blocks(code: &[Inst]) -> Vec<Block> {
    let mut starts = vec![false; code.len() + 1];
    starts[0] = true;
    for (pc, inst) in code.iter().enumerate() {
        starts[pc + 1] |= leaves(inst);
        targets(inst).iter().for_each(|target| starts[*target as usize] = true);
    }
    let mut number = 0;
    let numbers: Vec<usize> = starts[1..]
        .iter()
        .map(|next_starts| {
            let own = number;
            number += usize::from(*next_starts);
            own
        })
        .collect();
    let mut blocks = Vec::new();
    blocks.resize_with(numbers.last().map_or(0, |last| last + 1), Block::default);
    let mut start = 0;
    for end in (1..=code.len()).filter(|end| *end == code.len() || starts[*end]) {
        let number = numbers[start];
        scan(&code[start..end], start as u32, &mut blocks[number]);
        let last = &code[end - 1];
        for target in targets(last) {
            blocks[numbers[*target as usize]].before.push(number);
        }
        if end < code.len() && (!leaves(last) || last.guard != Guard::Always) {
            blocks[numbers[end]].before.push(number);
        }
        start = end;
    }
    blocks
}

fn scan(code: &[Inst], start: u32, block: &mut Block) {
    // Writes under a guard, and how often each predicate had been written by then.
    let mut guarded = HashMap::<Slot, (Guard, u32)>::new();
    let mut versions = HashMap::<Slot, u32>::new();
    for (inst, pc) in code.iter().zip(start..) {
        let guard = match inst.guard {
            Guard::Always => None,
            Guard::If(pred) | Guard::Unless(pred) => Some(Slot::Pred(pred)),
        };
        let version = guard.and_then(|pred| versions.get(&pred)).copied().unwrap_or(0);
        let key = (inst.guard, version);
        let read = |slot: Slot, block: &mut Block| {
            if !block.written.contains(&slot) && guarded.get(&slot) != Some(&key) {
                block.read.entry(slot).or_insert(pc);
            }
        };
        guard.into_iter().for_each(|pred| read(pred, block));
        let mut results = Vec::new();
        inst.op.operands(&mut |role, slot| match role {
            Role::Result => results.push(slot),
            _ => read(slot, block),
        });
        for slot in results {
            if let Slot::Pred(_) = slot {
                *versions.entry(slot).or_default() += 1;
            }
            if guard.is_none() {
                block.written.insert(slot);
            } else {
                guarded.insert(slot, key);
            }
        }
    }
}

/// Whether what follows isn't always next.
fn leaves(inst: &Inst) -> bool {
    matches!(inst.op, Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Exit | Op::Trap)
}

fn targets(inst: &Inst) -> &[u32] {
    match &inst.op {
        Op::Branch { target, .. } => std::slice::from_ref(target),
        Op::BranchIndexed { targets, .. } => targets,
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    const NONE: [u32; 0] = [];

    /// Lines that may be the first to read a register before it is written.
    fn lines(body: &str) -> Vec<u32> {
        let head = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u32 n)\n{\n";
        let registers = ".reg .pred %p<3>; .reg .b32 %r<5>; ld.param.u32 %r0, [n]; setp.eq.u32 %p0, %r0, 0;\n";
        let text = format!("{head}{registers}{body}\nret;\n}}\n");
        let program = crate::ptx::parse(&text).unwrap().lower("k").unwrap();
        program.unwritten().iter().map(|(_, pc)| program.code()[*pc as usize].line - 6).collect()
    }

    #[test]
    fn a_register_is_written_on_every_way_or_it_is_told() {
        assert_eq!(lines("add.u32 %r1, %r0, 1;\nadd.u32 %r2, %r1, %r1;"), NONE);
        assert_eq!(lines("mov.u32 %r1, 1;\nadd.u32 %r2, %r1, %r3;\nadd.u32 %r2, %r3, %r4;"), [2, 3]);
        assert_eq!(lines("@%p0 bra B;\nmov.u32 %r1, 1;\nbra C;\nB: mov.u32 %r1, 2;\nC: mov.u32 %r2, %r1;"), NONE);
        assert_eq!(lines("@%p0 bra B;\nmov.u32 %r1, 1;\nB:\nmov.u32 %r2, %r1;"), [4]);
        assert_eq!(lines("A: @%p0 bra B;\nmov.u32 %r2, %r1;\nB: mov.u32 %r1, 1;\n@%p0 bra A;"), [2]);
        assert_eq!(lines("@%p0 exit;\n@%p1 bra A;\nA: mov.u32 %r1, 1;"), [2]);
    }

    #[test]
    fn a_guarded_write_counts_for_the_same_guard() {
        assert_eq!(lines("@%p0 mov.u32 %r1, 1;\n@%p0 mov.u32 %r2, %r1;"), NONE);
        assert_eq!(lines("@%p0 mov.u32 %r1, 1;\n@!%p0 mov.u32 %r2, %r1;"), [2]);
        assert_eq!(lines("@%p0 mov.u32 %r1, 1;\nsetp.eq.u32 %p0, %r0, 1;\n@%p0 mov.u32 %r2, %r1;"), [3]);
        assert_eq!(lines("@%p0 mov.u32 %r1, 1;\nmov.u32 %r2, %r1;"), [2]);
    }

    #[test]
    fn the_shipped_kernel_writes_what_it_reads() {
        let module = crate::ptx::parse(include_str!("../../kernels/gqa_decode/kernel.ptx")).unwrap();
        for entry in module.entries() {
            assert_eq!(module.lower(entry).unwrap().unwritten(), &[], "{entry}");
        }
    }
}
