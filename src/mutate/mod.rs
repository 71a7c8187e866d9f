//! Mutation: how many small faults in a kernel the cases and the oracle notice.
//!
//! A mutant is the kernel with one instruction of its PTX changed ([`operators`]), or one of the planted bugs that ship
//! with it. Every mutant runs the same cases, cheapest and most telling first, until a case kills it or the
//! time is up ([`run()`]).
//!
//! A mutant is only tried on cases in which the right kernel comes to the changed line. That loses nothing: until it
//! first gets there, a mutant does what the right kernel does. So a mutant that no case could kill because no case
//! reached its line is told from one that survived.
//!
//! Deliberately absent: the equivalence of mutants is recognised only where it is evident (the same lowered program, a
//! result that no way reads, a constant moved to where it is). A survivor is a question to a person, not an answer.

mod build;
mod liveness;
pub mod operators;
mod pool;
mod run;
mod trial;

pub use build::{Mutant, Origin, edits_of, mutants, sample};
pub use run::run;

use std::time::Duration;

/// What to mutate, and for how long.
#[derive(Clone, Debug)]
pub struct Config {
    /// Wall-clock time for one kernel.
    pub budget: Duration,
    /// Cases that a mutant may be tried on; absent: until the time is up.
    pub cases: Option<u64>,
    /// Which cases, and which mutants where not all are wanted.
    pub seed: u64,
    /// Threads.
    pub jobs: usize,
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Mutants in all.
    pub mutants: usize,
    /// Mutants that are dead.
    pub killed: usize,
    /// Runs of a mutant on a case.
    pub trials: u64,
    /// Cases that mutants are tried on.
    pub cases: usize,
}

/// What came of one kernel.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the kernel.
    pub kernel: String,
    /// Which cases.
    pub seed: u64,
    /// In the order they were given.
    pub results: Vec<MutantResult>,
    /// Cases drawn that the right kernel agreed on.
    pub cases: usize,
    /// Cases drawn that could not be used, because the kernel itself fails them or they can't be run.
    pub unusable: usize,
    /// Such a case, and why.
    pub first_unusable: Option<String>,
    /// Runs of a mutant on a case.
    pub trials: u64,
    /// Wall-clock time.
    pub elapsed: Duration,
}

/// What came of one mutant.
#[derive(Clone, Debug)]
pub struct MutantResult {
    /// The mutant.
    pub mutant: Mutant,
    /// Alive or not.
    pub status: Status,
    /// Cases it was tried on.
    pub tried: u64,
    /// Processor time of these trials.
    pub busy: Duration,
    /// Largest part of its bound that an element's error used in a case it survived.
    pub worst_ratio: f64,
}

/// Whether a mutant lives.
#[derive(Clone, Debug, PartialEq)]
pub enum Status {
    /// A case told it from the right kernel.
    Killed {
        /// The verdict's class, with the bound that was broken: what noticed it.
        by: String,
        /// The case, in one line.
        case: String,
    },
    /// Every case it was tried on agreed.
    Survived,
    /// No case came to its line.
    NotExecuted,
    /// Cases come to its line, but the time was up before it was tried.
    NotTried,
    /// It can't be told from the right kernel, for this reason.
    Equivalent(String),
    /// It is no PTX, or the emulator can't run it, for this reason.
    Stillborn(String),
}

impl Status {
    /// The word for it in reports.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Killed { .. } => "killed",
            Self::Survived => "survived",
            Self::NotExecuted => "not-executed",
            Self::NotTried => "not-tried",
            Self::Equivalent(_) => "equivalent",
            Self::Stillborn(_) => "stillborn",
        }
    }
}

/// Mutants by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "named after Status")]
pub struct Tally {
    pub killed: usize,
    pub survived: usize,
    pub not_executed: usize,
    pub not_tried: usize,
    pub equivalent: usize,
    pub stillborn: usize,
}

impl Tally {
    /// Counts `results`.
    pub fn of<'r>(results: impl IntoIterator<Item = &'r MutantResult>) -> Self {
        let mut tally = Self::default();
        for result in results {
            *match result.status {
                Status::Killed { .. } => &mut tally.killed,
                Status::Survived => &mut tally.survived,
                Status::NotExecuted => &mut tally.not_executed,
                Status::NotTried => &mut tally.not_tried,
                Status::Equivalent(_) => &mut tally.equivalent,
                Status::Stillborn(_) => &mut tally.stillborn,
            } += 1;
        }
        tally
    }

    /// Killed mutants in percent of those that were killed or survived; nothing if there are none.
    pub fn score(&self) -> Option<f64> {
        let judged = self.killed + self.survived;
        (judged > 0).then(|| 100.0 * self.killed as f64 / judged as f64)
    }
}
