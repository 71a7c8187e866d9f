//! Which marks of [`Coverage`](super::Coverage) can be set at all.
//!
//! What is left out is certain whatever the launch and its schedule: instructions that no path from the entry leads to,
//! and outcomes that would need two lanes of a warp to differ where none can. A condition is the same in every lane if it
//! is *fixed*: computed once, without regard to memory or lanes, from constants, parameters, and what is the same in a
//! whole warp. A loop's counter isn't, although most are uniform: nothing makes lanes that parted meet again in the same
//! turn.

use super::coverage::{DECISION, GUARD, SOME, decision};
use crate::ptx::op::{AccessSpace, AddressBase, Op, Role, Slot, Special};
use crate::ptx::{Guard, Inst, Program, Space};
use std::collections::{HashMap, HashSet};

/// For each instruction the marks that some launch might set, as [`Coverage::outcomes`](super::Coverage::outcomes) gives
/// them; nothing for an instruction that no path leads to.
pub fn possible_outcomes(program: &Program) -> Vec<Option<u8>> {
    let fixed = fixed(program);
    let one_lane = program.max_threads() == Some(1) || program.required_block() == Some([1; 3]);
    let is_fixed = |pred| one_lane || fixed.contains(&Slot::Pred(pred));
    let outcomes = |inst: &Inst| {
        let promised = matches!(inst.op, Op::Branch { uniform: true, .. });
        let guard = match inst.guard {
            Guard::Always => 0,
            Guard::If(p) | Guard::Unless(p) if promised || is_fixed(p) => GUARD & !SOME,
            Guard::If(_) | Guard::Unless(_) => GUARD,
        };
        let decision = match decision(&inst.op) {
            None => 0,
            Some(condition) if is_fixed(condition.pred) => DECISION & !(SOME << 3),
            Some(_) => DECISION,
        };
        guard | decision
    };
    let reachable = reachable(program.code());
    program.code().iter().zip(reachable).map(|(inst, is_there)| is_there.then(|| outcomes(inst))).collect()
}

/// Whether a path leads to each instruction.
fn reachable(code: &[Inst]) -> Vec<bool> {
    let mut seen = vec![false; code.len()];
    let mut open = vec![0];
    while let Some(pc) = open.pop() {
        if pc >= code.len() || std::mem::replace(&mut seen[pc], true) {
            continue;
        }
        let inst = &code[pc];
        let targets = match &inst.op {
            Op::Branch { target, .. } => std::slice::from_ref(target),
            Op::BranchIndexed { targets, .. } => targets,
            _ => &[],
        };
        open.extend(targets.iter().map(|target| *target as usize));
        let ends = matches!(inst.op, Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Exit | Op::Trap | Op::TooDeep);
        if !ends || inst.guard != Guard::Always {
            open.push(pc + 1);
        }
    }
    seen
}

/// Slots that hold one and the same value in every lane of a warp that reads them, at any time.
fn fixed(program: &Program) -> HashSet<Slot> {
    let code = program.code();
    let mut writers = HashMap::<Slot, usize>::new();
    for inst in code {
        inst.op.operands(&mut |role, slot| {
            if role == Role::Result {
                *writers.entry(slot).or_default() += 1;
            }
        });
    }
    let constants = program.constants();
    let of_a_warp = |special: &Special| {
        !matches!(
            special,
            Special::Tid(_)
                | Special::LaneId
                | Special::LanemaskEq
                | Special::LanemaskLe
                | Special::LanemaskLt
                | Special::LanemaskGe
                | Special::LanemaskGt
        )
    };
    let mut fixed: HashSet<Slot> = constants.words.iter().map(|(word, _)| Slot::Word(*word)).collect();
    fixed.extend(constants.wides.iter().map(|(wide, _)| Slot::Wide(*wide)));
    fixed.extend(constants.preds.iter().map(|(pred, _)| Slot::Pred(*pred)));
    fixed.extend(program.specials().iter().filter(|(_, s)| of_a_warp(s)).map(|(word, _)| Slot::Word(*word)));
    // A constant's slot that something writes would be none.
    fixed.retain(|slot| !writers.contains_key(slot));
    let unwritten: HashSet<Slot> = program.unwritten().iter().map(|(slot, _)| *slot).collect();
    loop {
        let before = fixed.len();
        for inst in code.iter().filter(|inst| is_function(&inst.op)) {
            let is_guard_fixed = match inst.guard {
                Guard::Always => true,
                Guard::If(p) | Guard::Unless(p) => fixed.contains(&Slot::Pred(p)),
            };
            let (mut results, mut depends) = (Vec::new(), !is_guard_fixed);
            inst.op.operands(&mut |role, slot| match role {
                Role::Result => results.push(slot),
                _ => depends |= !fixed.contains(&slot),
            });
            if !depends {
                fixed.extend(results.into_iter().filter(|slot| writers[slot] == 1 && !unwritten.contains(slot)));
            }
        }
        if fixed.len() == before {
            return fixed;
        }
    }
}

/// Whether the results depend on the operands alone.
fn is_function(op: &Op) -> bool {
    match op {
        Op::Unary32 { .. }
        | Op::Binary32 { .. }
        | Op::Ternary32 { .. }
        | Op::Bfi32 { .. }
        | Op::Unary64 { .. }
        | Op::Binary64 { .. }
        | Op::Ternary64 { .. }
        | Op::Shift64 { .. }
        | Op::Count64 { .. }
        | Op::Bfe64 { .. }
        | Op::Bfi64 { .. }
        | Op::MulWide { .. }
        | Op::MadWide { .. }
        | Op::Convert { .. }
        | Op::Compare32 { .. }
        | Op::Compare64 { .. }
        | Op::CompareHalves { .. }
        | Op::Select32 { .. }
        | Op::Select64 { .. }
        | Op::PredLogic { .. }
        | Op::PredMov { .. }
        | Op::Mov32 { .. }
        | Op::Mov64 { .. }
        | Op::Extract16 { .. }
        | Op::ExtractWord { .. }
        | Op::PackWords { .. } => true,
        Op::Load { access, address, .. } => {
            access.space == AccessSpace::Is(Space::Param) && address.base == AddressBase::Absolute
        }
        _ => false,
    }
}
