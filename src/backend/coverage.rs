//! What a case reaches in a kernel: points, their numbers, and a set of them.
//!
//! A kernel's points are those of all its entry points, in the order of their names: an entry's basic blocks, and what
//! each guard, comparison and selection came to ([`PointKind`]). Which exist is known beforehand ([`Points`]), and a
//! point keeps its number from run to run: it depends on the kernel's PTX alone.
//!
//! [`Recording`] is the emulator with an ear for the *first* run of a case. The oracle's further runs (other poison,
//! another schedule, perturbed functions, derived cases) reach little else, and what they reach says more of the
//! schedule than of the case.

use super::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use crate::case::Case;
use crate::emulator::{self, possible_outcomes};
use crate::outcome::Outcome;
use crate::ptx::op::Op;
use crate::ptx::{Guard, Program};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// The bit of a basic block among those of its first instruction; below it are the six outcomes.
const BLOCK: u8 = 1 << 6;

/// The points of a kernel.
#[derive(Clone, Debug)]
pub struct Points {
    /// Of the PTX that the points are in.
    ptx_hash: Option<u64>,
    entries: Vec<Entry>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    program: Arc<Program>,
    /// For each instruction that a path leads to, which of its seven points exist, and the number of the first.
    existing: Vec<Option<(u8, u32)>>,
}

/// A place in a program, and what may happen there.
#[derive(Clone, Copy, Debug)]
pub struct Point<'p> {
    /// Its number, from 0 and below [`Points::len`].
    pub number: u32,
    /// Name of the entry point.
    pub entry: &'p str,
    /// The entry's program.
    pub program: &'p Program,
    /// Index of the instruction in the program.
    pub pc: usize,
    /// What happens.
    pub kind: PointKind,
}

/// What a point stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PointKind {
    /// A lane came to the basic block that starts here.
    Block,
    /// The branch here was taken by so many of a warp's active lanes.
    Branch(Held),
    /// The guard of what is no branch held for so many.
    Guard(Held),
    /// The comparison made here, or the condition that is selected by, held for so many.
    Decision(Held),
}

/// For how many of the active lanes of a warp something held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Held {
    /// For no lane.
    None,
    /// For some lanes and not for others.
    Some,
    /// For every lane.
    All,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Some => "some",
            Self::All => "all",
        })
    }
}

impl Points {
    /// Those of `kernel`. Entries that can't be lowered have none, nor has a kernel whose code is made for each case.
    pub fn of(kernel: &Kernel) -> Self {
        let (mut entries, mut next) = (Vec::new(), 0);
        for (name, program) in kernel.lowered() {
            let existing = existing(&program).into_iter().map(|bits| {
                let (bits, first) = (bits?, next);
                next += bits.count_ones();
                Some((bits, first))
            });
            entries.push(Entry { name: name.to_owned(), existing: existing.collect(), program });
        }
        Self { ptx_hash: kernel.ptx_hash(), entries, len: next as usize }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none, as of a kernel that the emulator can't run.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Every point, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = Point<'_>> {
        self.entries.iter().flat_map(|entry| {
            let instructions = entry.existing.iter().enumerate();
            instructions.filter_map(|(pc, existing)| Some((pc, (*existing)?))).flat_map(move |(pc, (bits, first))| {
                let bits = (0..7).filter(move |bit| bits >> bit & 1 == 1);
                (first..).zip(bits).map(move |(number, bit)| Point {
                    number,
                    entry: &entry.name,
                    program: &entry.program,
                    pc,
                    kind: entry.kind(pc, bit),
                })
            })
        })
    }

    /// Each entry point that can be run: its name, its program, and the indices of the instructions that a path leads to.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Program, impl Iterator<Item = usize>)> {
        self.entries.iter().map(|entry| {
            let instructions = entry.existing.iter().enumerate();
            let reachable = instructions.filter_map(|(pc, existing)| existing.is_some().then_some(pc));
            (entry.name.as_str(), &*entry.program, reachable)
        })
    }

    /// No point reached yet.
    pub fn none(&self) -> CoverageMap {
        CoverageMap { words: vec![0; self.len.div_ceil(64)] }
    }

    /// Adds what a launch of `entry` has reached.
    fn add(&self, map: &mut CoverageMap, entry: &str, coverage: &emulator::Coverage) {
        let Ok(index) = self.entries.binary_search_by(|known| known.name.as_str().cmp(entry)) else { return };
        for (pc, existing) in self.entries[index].existing.iter().enumerate() {
            let Some((existing, first)) = existing.filter(|_| coverage.is_reached(pc)) else { continue };
            let mut reached = (coverage.outcomes(pc) | BLOCK) & existing;
            while reached != 0 {
                let below = existing & ((reached & reached.wrapping_neg()) - 1);
                map.insert(first + below.count_ones());
                reached &= reached - 1;
            }
        }
    }
}

impl Entry {
    fn kind(&self, pc: usize, bit: u8) -> PointKind {
        let held = [Held::None, Held::Some, Held::All][usize::from(bit % 3)];
        let is_branch = matches!(self.program.code()[pc].op, Op::Branch { .. });
        match bit {
            0..3 if is_branch => PointKind::Branch(held),
            0..3 => PointKind::Guard(held),
            3..6 => PointKind::Decision(held),
            _ => PointKind::Block,
        }
    }
}

/// The bits of the points of each instruction that a path leads to.
fn existing(program: &Program) -> Vec<Option<u8>> {
    let code = program.code();
    let mut leads = vec![false; code.len()];
    let mut lead = |pc: usize| leads.get_mut(pc).into_iter().for_each(|leads| *leads = true);
    lead(0);
    for (pc, inst) in code.iter().enumerate() {
        match &inst.op {
            Op::Branch { target, .. } => lead(*target as usize),
            Op::BranchIndexed { targets, .. } => targets.iter().for_each(|target| lead(*target as usize)),
            Op::Exit => {}
            _ => continue,
        }
        if inst.guard != Guard::Always || matches!(inst.op, Op::Exit) {
            lead(pc + 1);
        }
    }
    let possible = possible_outcomes(program).into_iter().zip(leads);
    possible.map(|(outcomes, leads)| Some(outcomes? | if leads { BLOCK } else { 0 })).collect()
}

/// A set of a kernel's points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoverageMap {
    words: Vec<u64>,
}

impl CoverageMap {
    /// Adds the points of another map of the same kernel. Returns how many were new.
    pub fn merge(&mut self, other: &Self) -> usize {
        debug_assert_eq!(self.words.len(), other.words.len(), "maps of one kernel");
        let mut new = 0;
        for (own, others) in self.words.iter_mut().zip(&other.words) {
            new += (others & !*own).count_ones() as usize;
            *own |= others;
        }
        new
    }

    /// How many points of `other` are not in here.
    pub fn lacks(&self, other: &Self) -> usize {
        self.words.iter().zip(&other.words).map(|(own, others)| (others & !own).count_ones() as usize).sum()
    }

    /// Whether a point is in here.
    pub fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Numbers of its points, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.words.iter().zip(0u32..).flat_map(|(&word, index)| {
            let lower = std::iter::successors((word != 0).then_some(word), |rest| match rest & (rest - 1) {
                0 => None,
                rest => Some(rest),
            });
            lower.map(move |rest| index * 64 + rest.trailing_zeros())
        })
    }

    /// How many points it has.
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    fn insert(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut(number as usize / 64) {
            *word |= 1 << (number % 64);
        }
    }
}

/// The emulator, recording what the first run of a case reaches, up to a fault if there is one.
///
/// Runs of a kernel with other PTX than that of the points are run and not recorded.
pub struct Recording<'p> {
    points: &'p Points,
    reached: Mutex<Option<CoverageMap>>,
}

impl<'p> Recording<'p> {
    /// Will record the next run.
    pub fn new(points: &'p Points) -> Self {
        Self { points, reached: Mutex::new(None) }
    }

    /// What the first run since the last call has reached; no point if none ran. The next run is recorded again.
    pub fn take(&self) -> CoverageMap {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.take().unwrap_or_else(|| self.points.none())
    }
}

impl Backend for Recording<'_> {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulator
    }

    fn describe(&self) -> String {
        Emulator.describe()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let mut outcomes = self.run_each(kernel, case, &[run])?;
        outcomes.pop().ok_or_else(|| BackendError::Unavailable("a run without an outcome".into()))
    }

    fn run_each(&self, kernel: &Kernel, case: &Case, runs: &[Run]) -> Result<Vec<Outcome>, BackendError> {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        if reached.is_some() || kernel.ptx_hash() != self.points.ptx_hash {
            drop(reached);
            return Emulator.run_each(kernel, case, runs);
        }
        let map = reached.insert(self.points.none());
        let mut record = |program: &Program, coverage: &_| self.points.add(map, program.name(), coverage);
        Emulator.run_each_recorded(kernel, case, runs, Some(&mut record))
    }
}
