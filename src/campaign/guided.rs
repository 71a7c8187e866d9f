//! Cases that are planned by what those before them reached.
//!
//! The dispatcher plans: [`AHEAD`] cases of each kernel before anything has run, and then one whenever it has looked at the result
//! of one. It looks at results in order, so case `i` is a function of the seed, the corpus and the results up to `i - AHEAD`, and
//! of nothing that a number of threads could change.

use super::{Config, Event};
use crate::backend::{CoverageMap, Points};
use crate::case::Case;
use crate::corpus::Entry;
use crate::guide::{AHEAD, Guide, Reach};
use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long a worker waits for a plan before it looks whether the campaign is over.
const PATIENCE: Duration = Duration::from_millis(20);

/// What a guided campaign begins with, and where it puts what it keeps.
#[derive(Clone, Debug, Default)]
pub struct Guidance {
    /// Cases to begin with; those of other kernels are passed over.
    pub corpus: Vec<Entry>,
    /// Folder that kept cases are saved in; absent: nowhere.
    pub folder: Option<PathBuf>,
}

/// Cases that were planned and not begun, in order.
#[derive(Default)]
pub(super) struct Plans {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    cases: VecDeque<(u64, Case)>,
    is_complete: bool,
}

impl Plans {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, number: u64, case: Case) {
        self.lock().cases.push_back((number, case));
        self.more.notify_one();
    }

    /// No other will be added.
    fn complete(&self) {
        self.lock().is_complete = true;
        self.more.notify_all();
    }

    /// The next case, as soon as there is one, unless the campaign is over.
    pub(super) fn take(&self, is_over: impl Fn() -> bool) -> Option<(u64, Case)> {
        let mut queue = self.lock();
        loop {
            if is_over() {
                return None;
            }
            if let Some(case) = queue.cases.pop_front() {
                return Some(case);
            }
            if queue.is_complete {
                return None;
            }
            queue = self.more.wait_timeout(queue, PATIENCE).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The guides of a campaign's kernels.
pub(super) struct Guides<'a> {
    config: &'a Config,
    guides: Vec<Guide>,
    plans: &'a Plans,
    /// Cases of all kernels together, if limited.
    total: Option<u64>,
    planned: u64,
    /// Lines that are in the corpus's folder already.
    saved: HashSet<String>,
    folder: Option<PathBuf>,
    pub(super) lost: Option<String>,
}

impl<'a> Guides<'a> {
    /// Plans the first cases.
    pub(super) fn new(
        config: &'a Config,
        guidance: &Guidance,
        points: &[Arc<Points>],
        plans: &'a Plans,
        total: Option<u64>,
    ) -> Self {
        let guides = config.kernels.iter().zip(points).map(|(kernel, points)| {
            let own = guidance.corpus.iter().filter(|entry| entry.kernel == kernel.name());
            Guide::new(kernel, points.clone(), config.seed, own.map(|entry| entry.case.clone()))
        });
        let saved = guidance.corpus.iter().map(Entry::to_string).collect();
        let folder = guidance.folder.clone();
        let mut guides = Self { config, guides: guides.collect(), plans, total, planned: 0, saved, folder, lost: None };
        for _ in 0..AHEAD * guides.guides.len() as u64 {
            guides.plan();
        }
        guides
    }

    /// Plans the next case of all kernels.
    pub(super) fn plan(&mut self) {
        let kernels = self.guides.len() as u64;
        if kernels == 0 || self.total.is_some_and(|total| self.planned >= total) {
            return self.plans.complete();
        }
        let case = self.guides[(self.planned % kernels) as usize].plan();
        self.plans.add(self.planned, self.config.asked(case, self.planned / kernels));
        self.planned += 1;
    }

    /// Learns what the next case of `kernel` reached, if the kernel agreed on it. A case that is kept is saved.
    pub(super) fn learn(
        &mut self,
        kernel: usize,
        case: &Case,
        reached: Option<&CoverageMap>,
        sink: &mut dyn FnMut(Event),
    ) {
        if !self.guides[kernel].learn(case, reached) {
            return;
        }
        let Some(folder) = &self.folder else { return };
        let entry = Entry { kernel: self.config.kernels[kernel].name().to_owned(), case: case.clone() };
        if !self.saved.insert(entry.to_string()) {
            return;
        }
        if let Err(error) = entry.save(folder) {
            let why = format!("can't write in {}: {error}", folder.display());
            sink(Event::CorpusLost { why: why.clone() });
            (self.folder, self.lost) = (None, Some(why));
        }
    }

    /// How far each is.
    pub(super) fn reach(&self) -> Vec<Reach> {
        self.guides.iter().map(Guide::reach).collect()
    }
}
