//! What the cases of a kernel reach in it, by line of its source.
//!
//! [`run`] examines cases in the emulator as a campaign does and counts those that reach each point; a [`Listing`] books
//! the points under lines of CUDA where the PTX tells them, and under its own lines else.
//!
//! An instruction counts as run in a case if its basic block was reached and, unless it is a branch, its guard held for
//! some lane. A case that faults counts for all of the block it stopped in.
//!
//! Findings are kept, by signature, and not shrunk: that is `campaign`'s.

mod layout;
mod listing;
mod run;

pub use layout::{Layout, Place};
pub use listing::{File, Line, Listing, Miss, MissKind, Source};
pub use run::run;

use crate::backend::{PointKind, Points};
use crate::case::Case;
use crate::oracle::Signature;
use std::collections::BTreeMap;
use std::time::Duration;

/// Which cases to run, and how.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Cases that come before those that are drawn.
    pub corpus: Vec<Case>,
    /// Cases to draw; absent: until the time is up.
    pub cases: Option<u64>,
    /// Wall-clock limit.
    pub time: Option<Duration>,
    /// Which cases are drawn.
    pub seed: u64,
    /// Threads.
    pub jobs: usize,
}

/// What cases have reached in a kernel.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Name of the kernel.
    pub kernel: String,
    /// Which cases were drawn.
    pub seed: u64,
    /// Cases judged.
    pub cases: u64,
    /// Cases not judged, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Findings by signature.
    pub failing: BTreeMap<String, Failing>,
    /// Cases on which this program went wrong: their lines and what it said.
    pub internal: Vec<(String, String)>,
    /// For each point the cases that reached it.
    pub reached: Vec<u64>,
    /// For each place of the layout the cases that ran it.
    pub ran: Vec<u64>,
    /// For each instruction of the layout, if it is a conditional branch, the cases in which a lane took it, and in which
    /// one didn't.
    pub edges: Vec<[u64; 2]>,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// Some of those that exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Reached.
    pub reached: u64,
    /// There are.
    pub existing: u64,
}

impl Share {
    fn add(&mut self, is_reached: bool) {
        self.reached += u64::from(is_reached);
        self.existing += 1;
    }

    /// In percent; nothing of nothing is all of it.
    pub fn percent(self) -> f64 {
        if self.existing == 0 { 100.0 } else { 100.0 * self.reached as f64 / self.existing as f64 }
    }
}

/// How much of a kernel was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Points, of every kind.
    pub points: Share,
    /// Instructions, of those that a path leads to.
    pub instructions: Share,
    /// Ways that conditional branches can go: two each.
    pub edges: Share,
    /// Outcomes of conditional branches: taken by none, some, all of the active lanes.
    pub branches: Share,
    /// Outcomes of other guards, of comparisons and of selections, likewise.
    pub predicates: Share,
}

impl Totals {
    /// Those of `points`, laid out as `layout` says, where cases reached what `measured` says.
    pub fn of(points: &Points, layout: &Layout, measured: &Measured) -> Self {
        let mut totals = Self::default();
        let is_reached = |number: u32| measured.reached[number as usize] > 0;
        for point in points.iter() {
            let reached = is_reached(point.number);
            totals.points.add(reached);
            match point.kind {
                PointKind::Block => {}
                PointKind::Branch(_) => totals.branches.add(reached),
                PointKind::Guard(_) | PointKind::Decision(_) => totals.predicates.add(reached),
            }
        }
        for instruction in layout.instructions() {
            totals.instructions.add(instruction.has_run(&is_reached));
            if instruction.is_branch {
                for goes in [true, false] {
                    totals.edges.add(instruction.goes(goes).any(is_reached));
                }
            }
        }
        totals
    }
}

impl Measured {
    fn new(kernel: &str, seed: u64, points: &Points, layout: &Layout) -> Self {
        Self {
            kernel: kernel.to_owned(),
            seed,
            cases: 0,
            skipped: BTreeMap::new(),
            failing: BTreeMap::new(),
            internal: Vec::new(),
            reached: vec![0; points.len()],
            ran: vec![0; layout.places().len()],
            edges: vec![[0; 2]; layout.instructions().len()],
            elapsed: Duration::ZERO,
        }
    }

    /// Whether any case failed.
    pub fn has_findings(&self) -> bool {
        !self.failing.is_empty()
    }

    /// Case `number` failed, or another that follows from it.
    fn failed(&mut self, signature: &Signature, number: u64, case: &Case) {
        let new = || Failing { cases: 0, first: number, line: case.to_string() };
        self.failing.entry(signature.to_string()).or_insert_with(new).cases += 1;
    }
}

/// Cases that fail in one way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failing {
    /// How many.
    pub cases: u64,
    /// Number of the first, from 0, those of the corpus first.
    pub first: u64,
    /// The first, in one line.
    pub line: String,
}

impl Failing {
    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        if other.first < self.first {
            (self.first, self.line) = (other.first, other.line);
        }
    }
}
