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

/// Whether the results depend on the operands alone; parameters are the same for every lane.
fn is_function(op: &Op) -> bool {
    let is_param = |space: AccessSpace| space == AccessSpace::Is(Space::Param);
    op.is_function()
        || matches!(op, Op::Load { access, address, .. } if is_param(access.space) && address.base == AddressBase::Absolute)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx;

    /// The outcomes of each setp, guard and selp, in order, as bits of none, some and all.
    fn outcomes(directive: &str, body: &str) -> Vec<u8> {
        let text = format!(
            ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry k(.param .u32 n, .param .u64 a) {directive} {{\n\
             .reg .pred %p<9>; .reg .b32 %r<9>; .reg .b64 %rd<9>;\n{body}\nL: exit; }}\n"
        );
        let program = ptx::parse(&text).unwrap().lower("k").unwrap();
        let marks = possible_outcomes(&program).into_iter().flatten();
        marks.flat_map(|marks| [marks & GUARD, marks >> 3]).filter(|bits| *bits != 0).collect()
    }

    const EITHER: u8 = GUARD & !SOME;

    #[test]
    fn a_parameter_is_the_same_in_every_lane_and_a_thread_index_is_not() {
        let of = |special: &str| {
            outcomes(
                "",
                &format!("ld.param.u32 %r1, [n]; mov.u32 %r2, %{special}; setp.lt.u32 %p1, %r2, %r1; @%p1 bra L;"),
            )
        };
        assert_eq!(of("ctaid.x"), [EITHER, EITHER]);
        assert_eq!(of("tid.x"), [GUARD, GUARD]);
        assert_eq!(of("laneid"), [GUARD, GUARD]);
    }

    #[test]
    fn a_register_written_twice_or_loaded_may_differ() {
        let twice =
            "ld.param.u32 %r1, [n]; mov.u32 %r2, 0; T: add.u32 %r2, %r2, 1; setp.lt.u32 %p1, %r2, %r1; @%p1 bra T;";
        assert_eq!(outcomes("", twice), [GUARD, GUARD]);
        let loaded = "ld.param.u64 %rd1, [a]; ld.global.u32 %r1, [%rd1]; setp.eq.u32 %p1, %r1, 0; @%p1 bra L;";
        assert_eq!(outcomes("", loaded), [GUARD, GUARD]);
        let selected =
            "ld.param.u32 %r1, [n]; setp.eq.u32 %p1, %r1, 0; selp.u32 %r2, 1, 2, %p1; setp.eq.u32 %p2, %r2, 1;";
        assert_eq!(outcomes("", selected), [EITHER; 3]);
    }

    #[test]
    fn a_promise_and_a_single_lane_leave_no_some() {
        let branch = |uni: &str| format!("mov.u32 %r1, %tid.x; setp.eq.u32 %p1, %r1, 0; @%p1 bra{uni} L;");
        assert_eq!(outcomes("", &branch("")), [GUARD, GUARD]);
        assert_eq!(outcomes("", &branch(".uni")), [GUARD, EITHER]);
        assert_eq!(outcomes(".reqntid 1", &branch("")), [EITHER, EITHER]);
        assert_eq!(outcomes(".maxntid 1, 1, 1", &branch("")), [EITHER, EITHER]);
        assert_eq!(outcomes(".reqntid 2", &branch("")), [GUARD, GUARD]);
    }

    #[test]
    fn what_no_path_leads_to_has_none() {
        assert_eq!(outcomes("", "mov.u32 %r1, %tid.x; bra L; setp.eq.u32 %p1, %r1, 0;"), [0; 0]);
    }
}
