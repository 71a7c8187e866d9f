//! A budgeted search over kernels and backends.
//!
//! Case `i` of a kernel depends on the seed and `i` only. Worker threads take cases in order and may finish them in
//! any; their results are put back in order before anything is decided, so the findings are the same whatever the
//! number of threads. In a guided campaign case `i` also depends on what cases before it reached, all of which are looked
//! at before it is planned. The campaign prints nothing: it emits [`Event`]s.

mod compare;
mod dispatch;
mod guided;
mod journal;
mod minimise;
mod run;
mod sanitize;
mod statistic;

pub use compare::Comparison;
pub use guided::Guidance;
pub use journal::{Earlier, Head, Journal, JournalError};
pub use minimise::{Effort, Minimised, met, minimise};
pub use run::{Session, run, run_session};
pub use sanitize::Sanitizing;
pub use statistic::{Cell, Extent, Met, Statistic, bin, bin_limits};

use crate::backend::{BackendKind, Kernel};
use crate::case::{Case, Relation};
use crate::float::bits;
use crate::guide::Reach;
use crate::oracle::relation::Held;
use crate::oracle::{Examiner, Unconfirmed};
use crate::regression::{Finding, Saved, Store};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What to search, and for how long.
#[derive(Clone)]
pub struct Config {
    /// Kernels under test.
    pub kernels: Vec<Arc<Kernel>>,
    /// Devices; every case is examined on each.
    pub backends: Vec<Arc<dyn Examiner>>,
    /// Cases of each kernel; absent: until the time is up.
    pub cases: Option<u64>,
    /// Wall-clock limit of the whole campaign.
    pub time: Option<Duration>,
    /// Which cases.
    pub seed: u64,
    /// Relations to ask every case for, in turn; without any a case asks for what was drawn for it.
    pub relations: Vec<Relation>,
    /// Whether cases are planned by what others reached in the kernels' code, and what with; absent: every case is a draw.
    ///
    /// The emulator of this process then runs the cases of every backend that is an emulator: no other tells what it reached.
    pub guidance: Option<Guidance>,
    /// Threads.
    pub jobs: usize,
    /// Distinct findings after which a kernel is left alone on a backend.
    pub max_findings: usize,
    /// Executions a finding may be shrunk with.
    pub max_shrink: u32,
    /// Where findings are saved; absent: nowhere.
    pub store: Option<Store>,
}

impl Config {
    /// Every drawn case of these kernels on these devices, until told otherwise: seed 0, one thread, one finding of a kernel, shrunk
    /// with at most 2,000 executions and saved nowhere.
    pub fn new(kernels: Vec<Arc<Kernel>>, backends: Vec<Arc<dyn Examiner>>) -> Self {
        Self {
            kernels,
            backends,
            cases: None,
            time: None,
            seed: 0,
            relations: Vec::new(),
            guidance: None,
            jobs: 1,
            max_findings: 1,
            max_shrink: 2000,
            store: None,
        }
    }

    /// `case` as the `index`-th of its kernel: it asks for the relation whose turn it is.
    fn asked(&self, case: Case, index: u64) -> Case {
        if self.relations.is_empty() {
            return case;
        }
        let asked = self.relations[(index % self.relations.len() as u64) as usize];
        case.with(|parts| parts.relation = Some(asked)).unwrap_or(case)
    }
}

/// What happens in a campaign.
#[derive(Clone, Debug)]
pub enum Event {
    /// It starts.
    Started {
        /// Names of the kernels.
        kernels: Vec<String>,
        /// Descriptions of the backends.
        backends: Vec<String>,
        /// Cases of all kernels together, if limited.
        cases: Option<u64>,
        /// Seed.
        seed: u64,
    },
    /// So far. At most ten a second.
    Progress {
        /// Cases done, of all kernels together.
        cases: u64,
        /// Largest error over bound.
        worst_ratio: f64,
        /// Distinct findings.
        findings: usize,
        /// Of each kernel and backend.
        paces: Vec<Pace>,
        /// Of a guided campaign: how far it is, over all kernels.
        reach: Option<Reach>,
    },
    /// Cases are run under compute-sanitizer.
    Sanitizing {
        /// Name of the kernel.
        kernel: String,
        /// How many.
        cases: usize,
    },
    /// A failing case is being made smaller.
    Shrinking {
        /// Name of the kernel.
        kernel: String,
        /// The case, in one line.
        line: String,
    },
    /// A new bug, shrunk.
    Found(Box<Found>),
    /// Another new bug, met while one was shrunk, of a kernel that is left alone: as it was met, not shrunk.
    Met(Box<Found>),
    /// A backend can't go on.
    BackendLost {
        /// Its description.
        backend: String,
        /// Why.
        why: String,
    },
    /// The journal can't be written any more: the campaign ends with what it has.
    JournalLost {
        /// Why.
        why: String,
    },
    /// No more kept cases can be saved; the campaign goes on.
    CorpusLost {
        /// Why.
        why: String,
    },
    /// This program went wrong on a case. Please report it.
    Internal {
        /// Name of the kernel.
        kernel: String,
        /// The case, in one line.
        line: String,
        /// What it said.
        message: String,
    },
}

/// How one kernel on one backend gets on.
#[derive(Clone, Debug, PartialEq)]
pub struct Pace {
    /// Name of the kernel.
    pub kernel: String,
    /// Description of the backend.
    pub device: String,
    /// Cases judged.
    pub cases: u64,
    /// Cases not judged.
    pub skipped: u64,
    /// As [`Row::rate`].
    pub rate: Option<f64>,
    /// Largest error over bound of an agreeing case.
    pub worst_ratio: f64,
    /// Distinct findings.
    pub findings: usize,
}

/// A new finding and what became of it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Name of the kernel.
    pub kernel: String,
    /// The finding.
    pub finding: Finding,
    /// Executions that shrinking took.
    pub executions: u32,
    /// The time that hanging cases took, if shrinking was ended for it.
    pub hung: Option<Duration>,
    /// The file, if findings are saved.
    pub saved: Option<Result<Saved, String>>,
}

impl Found {
    /// A finding of `kernel`, saved if there is somewhere to.
    pub fn saved(kernel: &Kernel, finding: Finding, executions: u32, store: Option<&Store>) -> Self {
        let kernel = kernel.name().to_owned();
        let saved = store.map(|store| store.save(&kernel, &finding).map_err(|e| e.to_string()));
        Self { kernel, finding, executions, hung: None, saved }
    }
}

/// What came of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// One for each kernel and backend.
    pub rows: Vec<Row>,
    /// Hardware against emulator, for each kernel that ran on both.
    pub comparisons: Vec<(String, Comparison)>,
    /// What went wrong and did not come back, for each device where something did.
    pub unconfirmed: Vec<(String, Unconfirmed)>,
    /// Cases on which this program went wrong.
    pub internal_errors: u64,
    /// Threads.
    pub jobs: usize,
    /// Wall-clock time, that of the sessions before this one included.
    pub elapsed: Duration,
    /// Whether it was told to stop before it was done.
    pub interrupted: bool,
    /// Why the journal could not be written, which ended the campaign.
    pub journal_lost: Option<String>,
    /// Of a guided campaign: how far it is with each kernel.
    pub reach: Vec<(String, Reach)>,
    /// Why kept cases could not be saved.
    pub corpus_lost: Option<String>,
}

/// What came of one kernel on one backend.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// Name of the kernel.
    pub kernel: String,
    /// Backend.
    pub backend: BackendKind,
    /// Its device.
    pub device: String,
    /// Cases judged.
    pub cases: u64,
    /// Time spent in these cases, over all threads.
    pub busy: Duration,
    /// Output elements judged by a bound.
    pub elements: u64,
    /// Output elements of rows in which a right kernel may overflow.
    pub out_of_domain: u64,
    /// Cases not judged, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Largest error over bound of an agreeing case.
    #[serde(with = "bits")]
    pub worst_ratio: f64,
    /// The case it came from, in one line.
    pub worst_case: Option<String>,
    /// Cases that agree but err more than independent roundings would.
    pub suspect: u64,
    /// The largest error of a suspect case over what independent roundings would come to.
    #[serde(with = "bits")]
    pub worst_model_ratio: f64,
    /// The case it came from, in one line.
    pub suspect_case: Option<String>,
    /// What came of the relations that cases asked for.
    pub relations: BTreeMap<Relation, RelationCount>,
    /// Cases that failed, those of known findings included.
    pub failing: u64,
    /// Distinct findings.
    pub findings: usize,
    /// Cases that ran under compute-sanitizer.
    #[serde(default)]
    pub sanitized: u64,
    /// Cases that should have and could not, by reason.
    #[serde(default)]
    pub unsanitized: BTreeMap<String, u64>,
    /// What the judged cases were like; empty in a journal of an earlier program.
    #[serde(default)]
    pub statistic: Statistic,
}

/// What came of one relation.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct RelationCount {
    /// Cases in which it holds.
    pub holds: u64,
    /// Cases in which it doesn't, or a derived run failed.
    pub broken: u64,
    /// Cases about which it says nothing.
    pub does_not_apply: u64,
    /// How closely it holds, over all those cases.
    pub held: Held,
}

impl Row {
    /// Cases judged a second of the time that went into this kernel on this backend, with so many threads at work: what a
    /// campaign of it alone would come to. Nothing before the first case.
    pub fn rate(&self, jobs: usize) -> Option<f64> {
        let seconds = self.busy.as_secs_f64() / jobs.max(1) as f64;
        (self.cases > 0 && seconds > 0.0).then(|| self.cases as f64 / seconds)
    }

    /// How it gets on, with so many threads at work.
    pub fn pace(&self, jobs: usize) -> Pace {
        Pace {
            kernel: self.kernel.clone(),
            device: self.device.clone(),
            cases: self.cases,
            skipped: self.skipped.values().sum(),
            rate: self.rate(jobs),
            worst_ratio: self.worst_ratio,
            findings: self.findings,
        }
    }
}

impl Summary {
    /// Whether any kernel was found wrong.
    pub fn has_findings(&self) -> bool {
        self.rows.iter().any(|row| row.findings > 0)
    }

    /// Whether compute-sanitizer was asked for and could not look at all the cases it should have.
    pub fn lacks_sanitizer(&self) -> bool {
        self.rows.iter().any(|row| !row.unsanitized.is_empty())
    }

    /// Whether any case was judged at all.
    pub fn anything_ran(&self) -> bool {
        self.rows.iter().any(|row| row.cases > 0)
    }
}
