//! What was reached, by file and line. A template that is compiled to many entries is one line here.
//!
//! Entries that no case launched are listed by name; lines tell of the others only.

use super::layout::{Instruction, held};
use super::{Layout, Measured};
use crate::backend::Kernel;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A kernel's sources, annotated.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// CUDA files by name, then the PTX, where lines of it have no place in those.
    pub files: Vec<File>,
    /// Names of the entries that ran.
    pub launched: Vec<String>,
    /// Names of the entries that no case ran.
    pub unlaunched: Vec<String>,
}

/// A file of source, annotated.
#[derive(Clone, Debug)]
pub struct File {
    /// Where it is, and what it says.
    pub source: Source,
    /// Its lines that are compiled into an entry that ran, by number.
    pub lines: BTreeMap<u32, Line>,
}

/// A file of source.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it is or would be.
    pub path: PathBuf,
    /// Its lines; none if it can't be read.
    pub text: Vec<String>,
}

/// What came of a line.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Cases that ran it, once for each entry they ran it in.
    pub cases: u64,
    /// How many entries that ran have it.
    pub entries: usize,
    /// Its conditional branches: in how many cases each was taken, and in how many it wasn't; nothing if no case came to
    /// it. The nth branches of all entries are one.
    pub branches: Vec<Option<[u64; 2]>>,
    /// What no case did.
    pub misses: Vec<Miss>,
}

/// Something about a line that did not happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// What.
    pub kind: MissKind,
    /// In so many of its instructions, of those that it could happen in and that were run.
    pub instructions: usize,
    /// Those.
    pub of: usize,
    /// Names of the entries it did not happen in.
    pub entries: Vec<String>,
    /// The first such instruction: its line in the PTX, and the line's text.
    pub example: (u32, String),
}

/// What can fail to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MissKind {
    /// No instruction of the line was run.
    Run,
    /// A branch was never taken.
    Taken,
    /// A branch was always taken.
    NotTaken,
    /// A condition that decides no branch never held.
    Held,
    /// Such a condition always held.
    NotHeld,
}

impl Listing {
    /// What `measured` says of `kernel`.
    pub fn of(kernel: &Kernel, layout: &Layout, measured: &Measured) -> Self {
        let is_reached = |number: u32| measured.reached[number as usize] > 0;
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); layout.places().len()];
        let mut has_run = vec![false; layout.entries().len()];
        for (index, instruction) in layout.instructions().iter().enumerate() {
            places[instruction.place].push(index);
            has_run[layout.places()[instruction.place].entry] |= is_reached(instruction.block);
        }
        let mut files = BTreeMap::<(bool, Option<String>), BTreeMap<u32, Line>>::new();
        for ((place, instructions), &cases) in layout.places().iter().zip(&places).zip(&measured.ran) {
            if !has_run[place.entry] {
                continue;
            }
            let file = files.entry((place.file.is_none(), place.file.clone())).or_default();
            let line = file.entry(place.line).or_default();
            let all = instructions.iter().map(|&index| (&layout.instructions()[index], measured.edges[index]));
            line.add(&layout.entries()[place.entry], cases, all, &is_reached);
        }
        let names = |ran: bool| {
            let entries = layout.entries().iter().zip(&has_run);
            entries.filter(|(_, has_run)| **has_run == ran).map(|(name, _)| name.clone()).collect()
        };
        let files = files.into_iter().map(|((_, name), lines)| File { source: Source::of(kernel, name), lines });
        Self { files: files.collect(), launched: names(true), unlaunched: names(false) }
    }
}

impl Source {
    fn of(kernel: &Kernel, name: Option<String>) -> Self {
        let lines = |text: &str| text.lines().map(str::to_owned).collect();
        match name {
            // A kernel without PTX of its own has no lines to list.
            None => Self {
                path: kernel.ptx_file().map(Path::to_owned).unwrap_or_default(),
                text: kernel.ptx().map(lines).unwrap_or_default(),
            },
            Some(name) => match kernel.source_file(&name) {
                Some((path, text)) => Self { path, text: lines(&text) },
                None => Self { path: name.into(), text: Vec::new() },
            },
        }
    }
}

impl Line {
    /// Adds the line's instructions in one entry, each with the cases in which it was taken and in which it was not.
    fn add<'i>(
        &mut self,
        entry: &str,
        cases: u64,
        instructions: impl Iterator<Item = (&'i Instruction, [u64; 2])>,
        is_reached: &impl Fn(u32) -> bool,
    ) {
        self.cases += cases;
        self.entries += 1;
        let mut branch = 0;
        for (instruction, edges) in instructions {
            if instruction.is_branch {
                if self.branches.len() == branch {
                    self.branches.push(None);
                }
                if is_reached(instruction.block) {
                    let [taken, not] = self.branches[branch].unwrap_or_default();
                    self.branches[branch] = Some([taken + edges[0], not + edges[1]]);
                }
                branch += 1;
            }
            if cases == 0 {
                self.note(MissKind::Run, true, entry, instruction);
            } else if instruction.has_run(is_reached) {
                self.conditions(entry, instruction, is_reached);
            }
        }
    }

    fn conditions(&mut self, entry: &str, instruction: &Instruction, is_reached: &impl Fn(u32) -> bool) {
        let (when, unless) = if instruction.is_branch {
            (MissKind::Taken, MissKind::NotTaken)
        } else {
            (MissKind::Held, MissKind::NotHeld)
        };
        let mut conditions = vec![(&instruction.guard, when, unless)];
        if !instruction.decides_branch {
            conditions.push((&instruction.decision, MissKind::Held, MissKind::NotHeld));
        }
        for (outcomes, when, unless) in conditions {
            if outcomes.iter().all(Option::is_none) {
                continue;
            }
            for (kind, holds) in [(when, true), (unless, false)] {
                let is_missed = !held(outcomes, holds).any(is_reached);
                self.note(kind, is_missed, entry, instruction);
            }
        }
    }

    /// Counts an instruction in which something could happen, and whether it did not.
    fn note(&mut self, kind: MissKind, is_missed: bool, entry: &str, instruction: &Instruction) {
        let index = self.misses.iter().position(|miss| miss.kind == kind);
        let index = index.unwrap_or_else(|| {
            let example = (0, String::new());
            self.misses.push(Miss { kind, instructions: 0, of: 0, entries: Vec::new(), example });
            self.misses.len() - 1
        });
        let miss = &mut self.misses[index];
        miss.of += 1;
        if is_missed {
            if miss.instructions == 0 {
                miss.example = (instruction.ptx_line, instruction.text.clone());
            }
            miss.instructions += 1;
            if miss.entries.last().is_none_or(|last| last != entry) {
                miss.entries.push(entry.to_owned());
            }
        }
    }

    /// What did not happen although it could.
    pub fn missed(&self) -> impl Iterator<Item = &Miss> {
        self.misses.iter().filter(|miss| miss.instructions > 0)
    }

    /// Whether no entry ran it.
    pub fn is_unrun(&self) -> bool {
        self.cases == 0
    }
}
