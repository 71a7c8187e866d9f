//! A campaign's worker threads, and what they share with the dispatcher.

use super::dispatch::Dispatcher;
use super::guided::{Guides, Plans};
use super::journal::{Journal, State};
use super::sanitize::Sanitizing;
use super::{Comparison, Config, Event, Summary};
use crate::backend::{BackendError, BackendKind, CoverageMap, Points, Recording};
use crate::case::Case;
use crate::oracle::{Examined, Examiner};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Results that workers may be ahead of the oldest unfinished case.
const MAX_AHEAD: usize = 4096;

/// One case of one kernel, run on every backend.
pub(super) struct Examination {
    pub(super) case: Case,
    /// In the order of the config's backends; absent where that pair is closed.
    pub(super) results: Vec<Option<Judged>>,
    pub(super) comparison: Comparison,
}

pub(super) struct Judged {
    /// Without its output.
    pub(super) examined: Result<Examined, BackendError>,
    pub(super) took: Duration,
    /// In a guided campaign, if the backend tells.
    pub(super) reached: Option<CoverageMap>,
}

/// The number of a case, and its result.
pub(super) type Message = (u64, Examination);

/// Beyond what a campaign is: what it goes on from, and what may end it.
#[derive(Default)]
pub struct Session {
    /// Ends the campaign soon once it is set, as if its time were up.
    pub stop: Arc<AtomicBool>,
    /// Where it writes down how far it is, and what it goes on from.
    pub journal: Option<Journal>,
    /// Which cases also run under compute-sanitizer.
    pub sanitizing: Sanitizing,
}

/// Runs a campaign, tells `sink` what happens, and sums up.
pub fn run(config: &Config, sink: &mut dyn FnMut(Event)) -> Summary {
    run_session(config, Session::default(), sink)
}

/// [`run`], from where the session's journal ends.
pub fn run_session(config: &Config, session: Session, sink: &mut dyn FnMut(Event)) -> Summary {
    let start = Instant::now();
    let kernels = config.kernels.len() as u64;
    let total = config.cases.map(|cases| cases.saturating_mul(kernels));
    sink(Event::Started {
        kernels: config.kernels.iter().map(|k| k.name().to_owned()).collect(),
        backends: config.backends.iter().map(|b| b.describe()).collect(),
        cases: total,
        seed: config.seed,
    });
    let state = session.journal.as_ref().and_then(Journal::state).unwrap_or_else(|| State::new(config));
    let shared = Shared {
        config,
        total,
        deadline: config.time.map(|time| start + time.saturating_sub(state.elapsed)),
        next: AtomicU64::new(state.next),
        stop: AtomicBool::new(false),
        interrupted: session.stop,
        closed: flags(config.kernels.len() * config.backends.len()),
        lost: flags(config.backends.len()),
        points: config
            .guidance
            .iter()
            .flat_map(|_| config.kernels.iter().map(|kernel| Arc::new(Points::of(kernel))))
            .collect(),
        plans: Plans::default(),
    };
    for (pair, known) in state.known.iter().enumerate() {
        if known.len() >= config.max_findings {
            shared.close(pair);
        }
    }
    let guides = config.guidance.as_ref().map(|with| Guides::new(config, with, &shared.points, &shared.plans, total));
    let mut dispatcher = Dispatcher::new(&shared, state, session.journal, session.sanitizing, guides, sink);
    let (sender, receiver) = mpsc::sync_channel(MAX_AHEAD);
    std::thread::scope(|scope| {
        for _ in 0..config.jobs.max(1) {
            let sender = sender.clone();
            let shared = &shared;
            scope.spawn(move || shared.work(&sender));
        }
        drop(sender);
        dispatcher.receive(&receiver);
    });
    dispatcher.summary()
}

fn flags(count: usize) -> Vec<AtomicBool> {
    (0..count).map(|_| AtomicBool::new(false)).collect()
}

/// What all threads see.
pub(super) struct Shared<'a> {
    pub(super) config: &'a Config,
    total: Option<u64>,
    deadline: Option<Instant>,
    next: AtomicU64,
    stop: AtomicBool,
    /// Set by the campaign's owner, at any time.
    interrupted: Arc<AtomicBool>,
    /// For each kernel and backend: whether it is to be left alone from now on.
    closed: Vec<AtomicBool>,
    /// For each backend: whether it can't be used any more.
    lost: Vec<AtomicBool>,
    /// Of each kernel, in a guided campaign.
    points: Vec<Arc<Points>>,
    /// The cases of a guided campaign.
    plans: Plans,
}

impl Shared<'_> {
    pub(super) fn pair(&self, kernel: usize, backend: usize) -> usize {
        kernel * self.config.backends.len() + backend
    }

    pub(super) fn is_closed(&self, pair: usize) -> bool {
        self.closed[pair].load(Ordering::Relaxed)
    }

    pub(super) fn close(&self, pair: usize) {
        self.closed[pair].store(true, Ordering::Relaxed);
        self.stop_if_idle();
    }

    /// Marks a backend as lost; whether it was not known yet.
    pub(super) fn lose(&self, backend: usize) -> bool {
        let news = !self.lost[backend].swap(true, Ordering::Relaxed);
        self.stop_if_idle();
        news
    }

    fn is_lost(&self, backend: usize) -> bool {
        self.lost[backend].load(Ordering::Relaxed)
    }

    /// Stops the workers once no kernel is left on any backend.
    fn stop_if_idle(&self) {
        let backends = self.config.backends.len();
        if (0..self.closed.len()).all(|pair| self.is_closed(pair) || self.is_lost(pair % backends)) {
            self.stop.store(true, Ordering::Relaxed);
        }
    }

    /// Lets no further case begin.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// A worker: takes cases until there are none.
    fn work(&self, sender: &mpsc::SyncSender<Message>) {
        while let Some((number, case)) = self.next_case() {
            let kernel = (number % self.config.kernels.len() as u64) as usize;
            if sender.send((number, self.run_case(kernel, case))).is_err() {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        let is_late = || self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        self.stop.load(Ordering::Relaxed) || self.is_interrupted() || is_late()
    }

    fn next_case(&self) -> Option<(u64, Case)> {
        if self.config.guidance.is_some() {
            return self.plans.take(|| self.is_over());
        }
        if self.is_over() {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if self.total.is_some_and(|total| number >= total) {
            return None;
        }
        let kernels = self.config.kernels.len() as u64;
        let (kernel, index) = (&self.config.kernels[(number % kernels) as usize], number / kernels);
        Some((number, self.config.asked(kernel.space().case_at(self.config.seed, index), index)))
    }

    fn run_case(&self, kernel: usize, case: Case) -> Examination {
        let mut outputs = Vec::new();
        let results = self.config.backends.iter().enumerate().map(|(index, backend)| {
            if self.is_closed(self.pair(kernel, index)) || self.is_lost(index) {
                return None;
            }
            let start = Instant::now();
            let (mut examined, reached) = self.examine(kernel, &**backend, &case);
            let took = start.elapsed();
            outputs.extend(examined.as_mut().ok().and_then(|examined| examined.output.take()));
            Some(Judged { examined, took, reached })
        });
        let results = results.collect();
        let mut comparison = Comparison::default();
        if let [first, rest @ ..] = &outputs[..] {
            rest.iter().for_each(|other| comparison.add(first, other));
        }
        Examination { case, results, comparison }
    }

    fn examine(
        &self,
        kernel: usize,
        backend: &dyn Examiner,
        case: &Case,
    ) -> (Result<Examined, BackendError>, Option<CoverageMap>) {
        let subject = &self.config.kernels[kernel];
        match self.points.get(kernel).filter(|_| backend.kind() == BackendKind::Emulator) {
            None => (backend.examine(subject, case), None),
            Some(points) => {
                let recording = Recording::new(points);
                (Examiner::examine(&recording, subject, case), Some(recording.take()))
            }
        }
    }
}
