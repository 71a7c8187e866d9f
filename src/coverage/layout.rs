//! Where a kernel's instructions and their points are in its source.

use crate::backend::{CoverageMap, Held, PointKind, Points};
use crate::ptx::op::{Op, Role, Slot};
use crate::ptx::{Guard, Program};
use std::collections::{BTreeMap, HashSet};

/// Instructions by their points, and the lines they belong to.
#[derive(Clone, Debug)]
pub struct Layout {
    entries: Vec<String>,
    instructions: Vec<Instruction>,
    places: Vec<Place>,
}

/// A line of an entry's source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the CUDA file; absent: the line is one of the PTX.
    pub file: Option<String>,
    /// Number, from 1.
    pub line: u32,
    /// Index of the entry.
    pub entry: usize,
}

/// An instruction that a path leads to.
#[derive(Clone, Debug)]
pub(super) struct Instruction {
    pub(super) ptx_line: u32,
    pub(super) text: String,
    /// Index of its line.
    pub(super) place: usize,
    /// The point of its block.
    pub(super) block: u32,
    pub(super) is_branch: bool,
    pub(super) guard: Outcomes,
    pub(super) decision: Outcomes,
    /// Whether what it compares decides a branch.
    pub(super) decides_branch: bool,
}

/// The points of a condition, for those of none, some and all that exist.
pub(super) type Outcomes = [Option<u32>; 3];

impl Instruction {
    pub(super) fn has_run(&self, is_reached: &impl Fn(u32) -> bool) -> bool {
        let is_unguarded = self.is_branch || self.guard.iter().all(Option::is_none);
        is_reached(self.block) && (is_unguarded || held(&self.guard, true).any(is_reached))
    }

    /// The points that show that a lane took the branch, or that one didn't.
    pub(super) fn goes(&self, taken: bool) -> impl Iterator<Item = u32> {
        held(&self.guard, taken)
    }
}

/// The points that show that a condition held for a lane, or that it didn't for one.
pub(super) fn held([none, some, all]: &Outcomes, holds: bool) -> impl Iterator<Item = u32> {
    [*some, if holds { *all } else { *none }].into_iter().flatten()
}

impl Layout {
    /// That of a kernel's points.
    pub fn of(points: &Points) -> Self {
        let mut layout = Self { entries: Vec::new(), instructions: Vec::new(), places: Vec::new() };
        let mut numbers = BTreeMap::<Place, usize>::new();
        for (name, program, reachable) in points.entries() {
            let entry = layout.entries.len();
            layout.entries.push(name.to_owned());
            let of_branches = program.code().iter().filter(|inst| matches!(inst.op, Op::Branch { .. }));
            let of_branches: HashSet<Guard> = of_branches.map(|inst| inst.guard).collect();
            for pc in reachable {
                let next = numbers.len();
                let place = *numbers.entry(place(program, pc, entry)).or_insert(next);
                let inst = &program.code()[pc];
                layout.instructions.push(Instruction {
                    ptx_line: inst.line,
                    text: program.line(inst.line).to_owned(),
                    place,
                    block: 0,
                    is_branch: false,
                    guard: [None; 3],
                    decision: [None; 3],
                    decides_branch: decides_branch(&inst.op, &of_branches),
                });
            }
        }
        let mut places: Vec<_> = numbers.into_iter().collect();
        places.sort_by_key(|(_, number)| *number);
        layout.places = places.into_iter().map(|(place, _)| place).collect();
        layout.attach(points);
        layout
    }

    /// Gives instructions their points. Both are in the order of entries and instructions.
    fn attach(&mut self, points: &Points) {
        let of_entries = points.entries().flat_map(|(_, program, reachable)| {
            reachable.map(|pc| (std::ptr::from_ref(program), pc, program.code()[pc].guard))
        });
        let mut points = points.iter().peekable();
        let mut block = 0;
        for (instruction, (program, pc, guard)) in self.instructions.iter_mut().zip(of_entries) {
            while let Some(point) = points.next_if(|point| std::ptr::eq(point.program, program) && point.pc == pc) {
                let number = Some(point.number);
                match point.kind {
                    PointKind::Block => block = point.number,
                    PointKind::Branch(held) => {
                        instruction.is_branch = guard != Guard::Always;
                        instruction.guard[index(held)] = number;
                    }
                    PointKind::Guard(held) => instruction.guard[index(held)] = number,
                    PointKind::Decision(held) => instruction.decision[index(held)] = number,
                }
            }
            instruction.block = block;
        }
    }

    /// Names of the entries.
    pub fn entries(&self) -> &[String] {
        &self.entries
    }

    /// Lines, each once for each entry it is compiled into.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    pub(super) fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// Adds a case, which reached `map`, to the cases that ran each place and to those in which each instruction, if it is
    /// a conditional branch, was taken and was not.
    pub(super) fn count(&self, map: &CoverageMap, ran: &mut [u64], edges: &mut [[u64; 2]]) {
        let mut seen = vec![false; self.places.len()];
        let is_reached = |number| map.contains(number);
        for (instruction, edges) in self.instructions.iter().zip(edges).filter(|(i, _)| is_reached(i.block)) {
            if !seen[instruction.place] && instruction.has_run(&is_reached) {
                seen[instruction.place] = true;
                ran[instruction.place] += 1;
            }
            if instruction.is_branch {
                edges[0] += u64::from(instruction.goes(true).any(is_reached));
                edges[1] += u64::from(instruction.goes(false).any(is_reached));
            }
        }
    }
}

/// Whether an operation computes a predicate that guards a branch.
fn decides_branch(op: &Op, guards: &HashSet<Guard>) -> bool {
    let mut decides = false;
    op.operands(&mut |role, slot| {
        if let (Role::Result, Slot::Pred(p)) = (role, slot) {
            decides |= guards.contains(&Guard::If(p)) || guards.contains(&Guard::Unless(p));
        }
    });
    decides
}

fn index(held: Held) -> usize {
    match held {
        Held::None => 0,
        Held::Some => 1,
        Held::All => 2,
    }
}

fn place(program: &Program, pc: usize, entry: usize) -> Place {
    let inst = &program.code()[pc];
    let (file, line) = inst.source;
    match program.file(file).filter(|_| line != 0) {
        Some(file) => Place { file: Some(file.to_owned()), line, entry },
        None => Place { file: None, line: inst.line, entry },
    }
}
