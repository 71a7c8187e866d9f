//! Instructions that could be left out: what they give is overwritten before it is read, or the register holds it
//! already.
//!
//! Each lane takes one way through the code, so what holds on all ways holds for every lane. What nothing but a lane's
//! data or the launch decides counts as possible: a branch that is never taken is a way like any other.

use super::op::{Op, Role, Slot};
use super::program::{Guard, Inst, Program};
use std::collections::{BTreeSet, HashMap, HashSet};

/// How many moves a constant is followed through.
const MAX_MOVES: u32 = 4;

/// Lines of such instructions, as numbered in the PTX text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Idle {
    /// No way from here reads what they give, and they do nothing else.
    pub unread: BTreeSet<u32>,
    /// Moves of a constant to a register that holds it on every way here.
    pub repeated: BTreeSet<u32>,
}

impl Program {
    /// Lines whose every instruction could be left out, wherever it was inlined.
    pub fn idle(&self) -> Idle {
        let code = &self.code;
        let flow = Flow::of(code);
        let mut unread = vec![false; code.len()];
        // What only the unread read is unread too.
        loop {
            let found: Vec<bool> = (0..code.len())
                .map(|pc| unread[pc] || (is_pure(&code[pc].op) && flow.is_unread(pc, &unread)))
                .collect();
            if found == unread {
                break;
            }
            unread = found;
        }
        let words = self.constants.words.iter().map(|(word, bits)| (Slot::Word(*word), u64::from(*bits)));
        let wides = self.constants.wides.iter().map(|(wide, bits)| (Slot::Wide(*wide), *bits));
        let constants: HashMap<Slot, u64> = words.chain(wides).collect();
        let is_repeated = |pc: usize| {
            let held = |slot| flow.constant(slot, pc, &constants, MAX_MOVES);
            moved(&code[pc].op).is_some_and(|(to, from)| held(to).is_some_and(|value| held(from) == Some(value)))
        };
        let lines = |holds: &dyn Fn(usize) -> bool| {
            let mut lines: BTreeSet<u32> = code.iter().map(|inst| inst.line).collect();
            (0..code.len()).filter(|pc| !holds(*pc)).for_each(|pc| {
                lines.remove(&code[pc].line);
            });
            lines
        };
        Idle { unread: lines(&|pc| unread[pc]), repeated: lines(&is_repeated) }
    }
}

/// Where a lane may come from and go to.
struct Flow<'a> {
    code: &'a [Inst],
    before: Vec<Vec<usize>>,
    after: Vec<Vec<usize>>,
}

impl<'a> Flow<'a> {
    fn of(code: &'a [Inst]) -> Self {
        let mut flow = Self { code, before: vec![Vec::new(); code.len()], after: vec![Vec::new(); code.len()] };
        for (pc, inst) in code.iter().enumerate() {
            let targets: &[u32] = match &inst.op {
                Op::Branch { target, .. } => std::slice::from_ref(target),
                Op::BranchIndexed { targets, .. } => targets,
                _ => &[],
            };
            let leaves = matches!(inst.op, Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Exit | Op::Trap);
            let next = (!leaves || inst.guard != Guard::Always).then_some(pc + 1);
            for to in targets.iter().map(|target| *target as usize).chain(next).filter(|to| *to < code.len()) {
                flow.after[pc].push(to);
                flow.before[to].push(pc);
            }
        }
        flow
    }

    /// Whether nothing but what is `ignored` may read what the instruction gives.
    fn is_unread(&self, pc: usize, ignored: &[bool]) -> bool {
        let results = slots(&self.code[pc], true);
        !results.is_empty() && results.into_iter().all(|slot| !self.is_read_after(slot, pc, ignored))
    }

    fn is_read_after(&self, slot: Slot, pc: usize, ignored: &[bool]) -> bool {
        let mut seen = HashSet::new();
        let mut open = self.after[pc].clone();
        while let Some(at) = open.pop() {
            if !seen.insert(at) {
                continue;
            }
            let inst = &self.code[at];
            if !ignored[at] && slots(inst, false).contains(&slot) {
                return true;
            }
            if inst.guard != Guard::Always || !slots(inst, true).contains(&slot) {
                open.extend(&self.after[at]);
            }
        }
        false
    }

    /// The constant that a slot holds on every way to `pc`.
    fn constant(&self, slot: Slot, pc: usize, constants: &HashMap<Slot, u64>, moves: u32) -> Option<u64> {
        if let Some(value) = constants.get(&slot) {
            return Some(*value);
        }
        let mut seen = HashSet::from([pc]);
        let mut open = vec![pc];
        let mut known = None;
        while let Some(at) = open.pop() {
            // The kernel starts with the first instruction, whatever jumps there.
            if at == 0 {
                return None;
            }
            for &from in &self.before[at] {
                let inst = &self.code[from];
                if slots(inst, true).contains(&slot) {
                    let (_, source) = moved(&inst.op)?;
                    let value = self.constant(source, from, constants, moves.checked_sub(1)?)?;
                    if *known.get_or_insert(value) != value {
                        return None;
                    }
                    if inst.guard == Guard::Always {
                        continue;
                    }
                }
                if seen.insert(from) {
                    open.push(from);
                }
            }
        }
        known
    }
}

/// What an instruction writes, or what it reads.
fn slots(inst: &Inst, written: bool) -> Vec<Slot> {
    let mut slots = Vec::new();
    match inst.guard {
        Guard::If(pred) | Guard::Unless(pred) if !written => slots.push(Slot::Pred(pred)),
        _ => {}
    }
    inst.op.operands(&mut |role, slot| {
        if (role == Role::Result) == written {
            slots.push(slot);
        }
    });
    slots
}

/// Destination and source of a move.
fn moved(op: &Op) -> Option<(Slot, Slot)> {
    match op {
        Op::Mov32 { d, a } => Some((Slot::Word(*d), Slot::Word(*a))),
        Op::Mov64 { d, a } => Some((Slot::Wide(*d), Slot::Wide(*a))),
        _ => None,
    }
}

/// Whether an operation gives its results and does nothing else, to memory, other lanes or what comes next.
fn is_pure(op: &Op) -> bool {
    op.is_function() || matches!(op, Op::Carry(_))
}

#[cfg(test)]
mod tests {
    const NONE: [u32; 0] = [];

    /// Lines of `body`, from 1, that are unread, and those that are repeated. `%r0` is the launch's, `%p0` made of it.
    fn lines(body: &str) -> (Vec<u32>, Vec<u32>) {
        let head =
            ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 to, .param .u32 n)\n{\n";
        let start = ".reg .pred %p<3>; .reg .b32 %r<5>; .reg .b64 %rd0; ld.param.u64 %rd0, [to]; \
                     ld.param.u32 %r0, [n]; setp.eq.u32 %p0, %r0, 0;\n";
        let text = format!("{head}{start}{body}\nret;\n}}\n");
        let idle = crate::ptx::parse(&text).unwrap().lower("k").unwrap().idle();
        let of_body = |lines: std::collections::BTreeSet<u32>| lines.into_iter().map(|line| line - 6).collect();
        (of_body(idle.unread), of_body(idle.repeated))
    }

    const STORE: &str = "st.global.u32 [%rd0], %r1;";

    #[test]
    fn a_result_overwritten_on_every_way_is_unread() {
        let unread = |body: &str| lines(&format!("{body}\n{STORE}")).0;
        assert_eq!(unread("add.u32 %r1, %r0, 1;\nadd.u32 %r1, %r0, 2;"), [1]);
        assert_eq!(unread("add.u32 %r1, %r0, 1;\nadd.u32 %r1, %r1, 2;"), NONE);
        assert_eq!(unread("add.u32 %r1, %r0, 1;\n@%p0 add.u32 %r1, %r0, 2;"), NONE, "some lanes keep it");
        assert_eq!(unread("add.u32 %r1, %r0, 1;\n@%p0 bra A;\nadd.u32 %r1, %r0, 2;\nA:"), NONE);
        assert_eq!(
            unread("add.u32 %r1, %r0, 1;\n@%p0 bra A;\nadd.u32 %r1, %r0, 2;\nbra B;\nA: mov.u32 %r1, %r0;\nB:"),
            [1]
        );
        assert_eq!(
            unread(
                "mov.u32 %r1, 1;\nA: st.global.u32 [%rd0], %r1;\nadd.u32 %r1, %r0, 1;\n@%p0 bra A;\nmov.u32 %r1, 2;"
            ),
            NONE
        );
    }

    #[test]
    fn what_only_the_unread_read_is_unread() {
        let body = format!("add.u32 %r2, %r0, 1;\nadd.u32 %r3, %r2, %r2;\nadd.u32 %r1, %r0, 1;\n{STORE}");
        assert_eq!(lines(&body).0, [1, 2]);
        let body = format!("add.u32 %r2, %r0, 1;\nadd.u32 %r3, %r2, %r2;\nadd.u32 %r1, %r2, 1;\n{STORE}");
        assert_eq!(lines(&body).0, [2]);
    }

    #[test]
    fn what_does_more_than_give_a_result_stays() {
        assert_eq!(lines("ld.global.u32 %r1, [%rd0];\natom.global.add.u32 %r2, [%rd0], 1;").0, NONE);
    }

    #[test]
    fn a_move_of_the_constant_that_is_there_is_repeated() {
        let repeated = |body: &str| lines(&format!("{body}\n{STORE}")).1;
        assert_eq!(repeated("mov.u32 %r1, 7;\nmov.u32 %r1, 7;"), [2]);
        assert_eq!(repeated("mov.u32 %r1, 7;\nmov.u32 %r1, 8;"), NONE);
        assert_eq!(repeated("mov.u32 %r2, 7;\nmov.u32 %r1, %r2;\n@%p0 bra A;\nmov.u32 %r1, %r2;\nA:"), [4]);
        assert_eq!(repeated("mov.u32 %r1, 7;\n@%p0 mov.u32 %r1, 8;\nmov.u32 %r1, 7;"), NONE, "eight in some lanes");
        assert_eq!(repeated("@%p0 mov.u32 %r1, 7;\nmov.u32 %r1, 7;"), NONE, "nothing yet in the others");
        assert_eq!(repeated("mov.u32 %r1, 7;\n@%p0 bra A;\nadd.u32 %r1, %r0, 1;\nA: mov.u32 %r1, 7;"), NONE);
        assert_eq!(repeated("A: mov.u32 %r1, 7;\n@%p0 bra A;"), NONE, "the first time it isn't there");
        assert_eq!(repeated("mov.u32 %r1, 7;\nA: mov.u32 %r1, 7;\n@%p0 bra A;"), [2]);
        assert_eq!(
            repeated(
                "mov.u32 %r1, 7;\nA: mov.u32 %r1, 7;\nst.global.u32 [%rd0], %r1;\nadd.u32 %r1, %r1, 1;\n@%p0 bra A;"
            ),
            NONE
        );
    }
}
