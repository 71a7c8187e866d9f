//! What a launch has reached: outcomes of guards, comparisons and selections, by how many of the active lanes they held
//! for.
//!
//! Straight-line GPU code decides by predicates and selections more than by branches, so edges alone say little. For each
//! instruction there are six marks: its guard held for none, some, all of the active lanes; the condition that it
//! computes (`setp`) or selects by (`selp`) held for none, some, all of them. A conditional branch is a guarded
//! instruction, so its two edges and its divergence are three of these marks.

use crate::ptx::op::{Condition, Op};

/// The marks of a guard: it held for none, some, all of the active lanes.
pub(super) const GUARD: u8 = 0b111;
/// The marks of a decision, likewise.
pub(super) const DECISION: u8 = GUARD << 3;
/// The mark of `some` among those of a guard; those of a decision are three bits further.
pub(super) const SOME: u8 = 1 << 1;
/// The mark of an instruction that some lane executed. It tells no outcome, so it is no point.
const EXECUTED: u8 = 1 << 6;

/// Marks a program's launches have set. Mergeable across launches of one program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    marks: Vec<u8>,
}

impl Coverage {
    /// No marks, for a program of `instructions` instructions.
    pub fn new(instructions: usize) -> Self {
        Self { marks: vec![0; instructions] }
    }

    /// Adds the marks of another launch. Returns how many were new.
    pub fn merge(&mut self, other: &Self) -> usize {
        self.marks.resize(self.marks.len().max(other.marks.len()), 0);
        let mut new = 0;
        for (own, others) in self.marks.iter_mut().zip(&other.marks) {
            new += (others & !*own & !EXECUTED).count_ones() as usize;
            *own |= others;
        }
        new
    }

    /// Marks set, as numbers that stay the same for one program.
    pub fn points(&self) -> impl Iterator<Item = u32> {
        self.marks
            .iter()
            .zip(0u32..)
            .flat_map(|(marks, i)| (0..6).filter(move |bit| marks >> bit & 1 == 1).map(move |bit| i * 8 + bit))
    }

    /// Number of marks set.
    pub fn count(&self) -> usize {
        self.marks.iter().map(|m| (m & !EXECUTED).count_ones() as usize).sum()
    }

    /// The six marks of the instruction at `pc`, in the lowest bits: those of its guard, then those of its decision.
    pub fn outcomes(&self, pc: usize) -> u8 {
        self.marks.get(pc).map_or(0, |marks| marks & !EXECUTED)
    }

    /// Whether some lane executed the instruction at `pc`.
    pub fn is_executed(&self, pc: usize) -> bool {
        self.marks.get(pc).is_some_and(|marks| marks & EXECUTED != 0)
    }

    /// Whether some lane came to the instruction at `pc`, be it that its guard held for none.
    pub fn is_reached(&self, pc: usize) -> bool {
        self.marks.get(pc).is_some_and(|marks| *marks != 0)
    }

    /// Lanes `exec` execute the instruction at `pc`.
    #[inline(always)]
    pub(super) fn executed(&mut self, pc: u32, exec: u32) {
        if exec != 0 {
            self.mark(pc, EXECUTED);
        }
    }

    /// A guard held for `held` of the lanes `active`.
    #[inline(always)]
    pub(super) fn guard(&mut self, pc: u32, held: u32, active: u32) {
        self.mark(pc, class(held, active));
    }

    /// A decision held for `held` of the lanes `active`.
    #[inline(always)]
    pub(super) fn decision(&mut self, pc: u32, held: u32, active: u32) {
        self.mark(pc, class(held & active, active) << 3);
    }

    fn mark(&mut self, pc: u32, bits: u8) {
        if let Some(marks) = self.marks.get_mut(pc as usize) {
            *marks |= bits;
        }
    }
}

/// The condition that an operation computes or selects by.
#[inline]
pub(super) fn decision(op: &Op) -> Option<Condition> {
    match op {
        Op::Compare32 { d: Some(d), .. } | Op::Compare64 { d: Some(d), .. } | Op::CompareHalves { d: Some(d), .. } => {
            Some(Condition { pred: *d, negated: false })
        }
        Op::Select32 { p, .. } | Op::Select64 { p, .. } => Some(*p),
        _ => None,
    }
}

fn class(held: u32, active: u32) -> u8 {
    match held {
        0 => 1,
        held if held == active => 4,
        _ => SOME,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_counts_what_is_new() {
        let mut all = Coverage::new(2);
        let mut one = Coverage::new(2);
        one.guard(0, 0, 3);
        one.decision(1, 7, 3);
        assert_eq!(one.points().collect::<Vec<_>>(), [0, 13]);
        assert_eq!(one.outcomes(1), 1 << 5);
        assert_eq!(all.merge(&one), 2);
        assert_eq!(all.merge(&one), 0);
        assert_eq!(all.count(), 2);
    }
}
