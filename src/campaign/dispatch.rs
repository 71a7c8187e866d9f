//! Takes the results of a campaign's cases in order and decides what they mean.

use super::guided::Guides;
use super::journal::{Earlier, Journal, State};
use super::minimise::{met, minimise};
use super::run::{Examination, Judged, Message, Shared};
use super::sanitize::Sanitizing;
use super::{Event, Found, RelationCount, Row, Statistic, Summary};
use crate::backend::{BackendError, BackendKind, Kernel};
use crate::case::{Case, CaseId};
use crate::guide::Reach;
use crate::oracle::relation::Checked;
use crate::oracle::{Examined, Examiner, Signature, Verdict};
use crate::outcome::Outcome;
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Least time between two progress events.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// Time between two entries of the journal when nothing is found.
const ENTRY_EVERY: Duration = Duration::from_secs(1);

/// Which case of which kernel, on which backend.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) kernel: usize,
    pub(super) backend: usize,
    /// Over all kernels.
    pub(super) number: u64,
}

/// Who saw a case fail, and is asked about smaller ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Device,
    Sanitizer,
}

impl By {
    /// Executions that a finding may be shrunk with; one under compute-sanitizer takes seconds.
    fn max_shrink(self, of_device: u32) -> u32 {
        const SANITIZED: u32 = 60;
        match self {
            Self::Device => of_device,
            Self::Sanitizer => of_device.min(SANITIZED),
        }
    }
}

/// Takes results in the order of their cases and decides what they mean.
pub(super) struct Dispatcher<'a, 'b> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) sink: &'b mut dyn FnMut(Event),
    pub(super) state: State,
    pub(super) sanitizing: Sanitizing,
    start: Instant,
    /// Time that sessions before this one took.
    before: Duration,
    last_progress: Option<Instant>,
    journal: Option<Journal>,
    last_entry: Option<Instant>,
    /// Whether a finding was shrunk less than it could be; from then on nothing is written down.
    ended_early: bool,
    journal_lost: Option<String>,
    guides: Option<Guides<'a>>,
}

impl<'a, 'b> Dispatcher<'a, 'b> {
    pub(super) fn new(
        shared: &'a Shared<'a>,
        state: State,
        journal: Option<Journal>,
        sanitizing: Sanitizing,
        guides: Option<Guides<'a>>,
        sink: &'b mut dyn FnMut(Event),
    ) -> Self {
        let (start, before) = (Instant::now(), state.elapsed);
        Self {
            shared,
            sink,
            state,
            sanitizing,
            start,
            before,
            last_progress: None,
            journal,
            last_entry: None,
            ended_early: false,
            journal_lost: None,
            guides,
        }
    }

    pub(super) fn receive(&mut self, receiver: &mpsc::Receiver<Message>) {
        let mut early = BTreeMap::new();
        for (number, result) in receiver {
            early.insert(number, result);
            while let Some(result) = early.remove(&self.state.next) {
                let number = self.state.next;
                let kernel = (number % self.shared.config.kernels.len() as u64) as usize;
                let news = self.is_news(kernel, &result);
                if news {
                    // Shrinking may take long, and the process may not live to see its end.
                    self.note(true);
                }
                self.learn(kernel, &result);
                self.take(kernel, number, result);
                self.state.next += 1;
                if let Some(guides) = &mut self.guides {
                    guides.plan();
                }
                // What is found while the campaign is being ended is shrunk less than it could be: one that goes on finds
                // it again.
                self.ended_early |= news && self.shared.is_interrupted();
                if news || self.last_entry.is_none_or(|last| last.elapsed() >= ENTRY_EVERY) {
                    self.note(news);
                }
            }
        }
        if !self.shared.is_interrupted() {
            self.sanitize_rest();
        }
        self.note(true);
    }

    /// Tells the guide what a case reached, if the kernel agreed on it and was still looked at.
    fn learn(&mut self, kernel: usize, result: &Examination) {
        let Some(guides) = &mut self.guides else { return };
        let reached = result.results.iter().enumerate().find_map(|(backend, judged)| {
            let Judged { examined: Ok(examined), reached: Some(reached), .. } = judged.as_ref()? else { return None };
            let agrees = matches!(examined.verdict, Verdict::Agree(_)) && examined.closer.is_none();
            (agrees && !self.shared.is_closed(self.shared.pair(kernel, backend))).then_some(reached)
        });
        guides.learn(kernel, &result.case, reached, self.sink);
    }

    /// Whether there is something to be shrunk in a result.
    fn is_news(&self, kernel: usize, result: &Examination) -> bool {
        result.results.iter().enumerate().any(|(backend, judged)| {
            let pair = self.shared.pair(kernel, backend);
            let Some(Ok(examined)) = judged.as_ref().map(|judged| &judged.examined) else { return false };
            let closer = examined.closer.as_ref().map(|(_, verdict)| verdict);
            let mut signatures = [Some(&examined.verdict), closer].into_iter().flatten().filter_map(Verdict::signature);
            let is_new = |found: Signature| !self.state.known[pair].iter().any(|known| known.matches(&found));
            !self.shared.is_closed(pair) && signatures.any(is_new)
        })
    }

    /// Writes down how far the campaign is.
    pub(super) fn note(&mut self, important: bool) {
        let Some(journal) = self.journal.as_mut().filter(|_| !self.ended_early) else { return };
        let state = State { elapsed: self.before + self.start.elapsed(), ..self.state.clone() };
        let backends = self.shared.config.backends.iter();
        let unconfirmed = backends.zip(&state.unconfirmed).map(|(backend, before)| before.and(backend.unconfirmed()));
        let state = State { unconfirmed: unconfirmed.collect(), ..state };
        self.last_entry = Some(Instant::now());
        if let Err(error) = journal.append(&state, important) {
            self.journal = None;
            self.journal_lost = Some(error.to_string());
            (self.sink)(Event::JournalLost { why: error.to_string() });
            self.shared.stop();
        }
    }

    fn take(&mut self, kernel: usize, number: u64, result: Examination) {
        self.state.comparisons[kernel].merge(result.comparison);
        for (backend, judged) in result.results.into_iter().enumerate() {
            if let Some(judged) = judged {
                self.judged(At { kernel, backend, number }, &result.case, judged);
            }
        }
        if self.last_progress.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
            self.last_progress = Some(Instant::now());
            (self.sink)(Event::Progress {
                cases: self.state.next + 1,
                worst_ratio: self.state.rows.iter().map(|row| row.worst_ratio).fold(0.0, f64::max),
                findings: self.state.rows.iter().map(|row| row.findings).sum(),
                paces: self.state.rows.iter().map(|row| row.pace(self.shared.config.jobs)).collect(),
                reach: self.guides.as_ref().map(|guides| guides.reach().into_iter().sum::<Reach>()),
            });
        }
    }

    fn judged(&mut self, at: At, case: &Case, judged: Judged) {
        let At { kernel, backend, .. } = at;
        let pair = self.shared.pair(kernel, backend);
        if self.shared.is_closed(pair) {
            return;
        }
        self.state.rows[pair].busy += judged.took;
        let examined = match judged.examined {
            Ok(examined) => examined,
            Err(BackendError::Unavailable(why)) => {
                // Not the end of this backend's results: the case that spoiled it may be a later one, still to come.
                if self.shared.lose(backend) {
                    let backend = self.shared.config.backends[backend].describe();
                    (self.sink)(Event::BackendLost { backend, why });
                }
                Examined::plain(Verdict::Skip("the backend could not be used any more".into()))
            }
            Err(BackendError::Internal(message)) => return self.internal(kernel, case, message),
            Err(limit) => Examined::plain(Verdict::Skip(limit.to_string())),
        };
        let Examined { verdict, closer, relation, .. } = examined;
        let row = &mut self.state.rows[pair];
        if let Some((relation, checked)) = &relation {
            row.relations.entry(*relation).or_default().add(checked);
        }
        row.statistic.add(case, &verdict);
        self.sanitize_later(at, case, &verdict);
        let row = &mut self.state.rows[pair];
        match &verdict {
            Verdict::Skip(why) => *row.skipped.entry(why.clone()).or_default() += 1,
            Verdict::Agree(agreement) => {
                row.cases += 1;
                row.elements += agreement.elements;
                row.out_of_domain += agreement.out_of_domain;
                if agreement.worst_ratio > row.worst_ratio {
                    row.worst_ratio = agreement.worst_ratio;
                    row.worst_case = Some(case.to_string());
                }
                if agreement.is_suspect() {
                    row.suspect += 1;
                    if agreement.model_ratio > row.worst_model_ratio {
                        row.worst_model_ratio = agreement.model_ratio;
                        row.suspect_case = Some(case.to_string());
                    }
                }
                if let Some((closer, verdict)) = &closer {
                    row.failing += 1;
                    self.failing(at, closer, verdict, By::Device);
                }
            }
            Verdict::Diverge(_) | Verdict::Fault(_) => {
                row.cases += 1;
                row.failing += 1;
                self.failing(at, case, &verdict, By::Device);
            }
        }
    }

    /// This program went wrong on a case.
    fn internal(&mut self, kernel: usize, case: &Case, message: String) {
        self.state.internal_errors += 1;
        let kernel = self.shared.config.kernels[kernel].name().to_owned();
        (self.sink)(Event::Internal { kernel, line: case.to_string(), message });
    }

    pub(super) fn failing(&mut self, at: At, case: &Case, verdict: &Verdict, by: By) {
        let At { kernel, backend, number } = at;
        let pair = self.shared.pair(kernel, backend);
        let Some(signature) = verdict.signature() else {
            return;
        };
        if self.state.known[pair].iter().any(|known| known.matches(&signature)) {
            return;
        }
        self.state.known[pair].push(signature);
        self.state.rows[pair].findings += 1;
        if self.state.known[pair].len() >= self.shared.config.max_findings {
            self.shared.close(pair);
        }
        let config = self.shared.config;
        (self.sink)(Event::Shrinking { kernel: config.kernels[kernel].name().to_owned(), line: case.to_string() });
        let index = number / config.kernels.len() as u64;
        let found_by = format!("campaign with seed {}, case {index}", config.seed);
        let subject = &config.kernels[kernel];
        let Some(examiner) = self.examiner(backend, by) else { return };
        let device = Interruptible { device: &*examiner, shared: self.shared };
        let max_shrink = by.max_shrink(config.max_shrink);
        let Some(mut minimised) = minimise(subject, &device, case, verdict, found_by, max_shrink) else {
            return;
        };
        let id = minimised.finding.case.id();
        let seen = match by {
            By::Device => self.sanitize_finding(at, &mut minimised.finding, case, verdict),
            By::Sanitizer => None,
        };
        let saved = Found::saved(subject, minimised.finding, minimised.executions, config.store.as_ref());
        let found = Found { hung: minimised.hung, ..saved };
        self.state.found.extend(Earlier::of(&found, false));
        (self.sink)(Event::Found(Box::new(found)));
        for (case, message) in minimised.internal_errors {
            self.internal(kernel, &case, message);
        }
        for (case, verdict) in minimised.others {
            self.met(at, &case, &verdict, id, by);
        }
        if let Some((case, fault)) = seen {
            self.met(at, &case, &Verdict::Fault(fault), id, By::Sanitizer);
        }
    }

    /// Another bug, met while the finding `id` was shrunk. It is shrunk in its turn if the kernel is not left alone yet,
    /// and else saved as it is.
    pub(super) fn met(&mut self, at: At, case: &Case, verdict: &Verdict, id: CaseId, by: By) {
        let At { kernel, backend, .. } = at;
        let pair = self.shared.pair(kernel, backend);
        let Some(signature) = verdict.signature() else { return };
        if self.state.known[pair].iter().any(|known| known.matches(&signature)) {
            return;
        }
        if !self.shared.is_closed(pair) {
            return self.failing(at, case, verdict, by);
        }
        self.state.known[pair].push(signature);
        self.state.rows[pair].findings += 1;
        let config = self.shared.config;
        let kernel = &config.kernels[kernel];
        let Some(examiner) = self.examiner(backend, by) else { return };
        if let Some(finding) = met(kernel, &*examiner, case, verdict, id) {
            let found = Found::saved(kernel, finding, 0, config.store.as_ref());
            self.state.found.extend(Earlier::of(&found, true));
            (self.sink)(Event::Met(Box::new(found)));
        }
    }

    pub(super) fn summary(mut self) -> Summary {
        self.count_unsanitized();
        let config = self.shared.config;
        let names = || config.kernels.iter().map(|k| k.name().to_owned());
        let comparisons = names().zip(self.state.comparisons).filter(|(_, c)| c.cases > 0).collect();
        let told = config.backends.iter().zip(&self.state.unconfirmed);
        let told = told.map(|(backend, before)| (backend.describe(), before.and(backend.unconfirmed())));
        Summary {
            rows: self.state.rows,
            comparisons,
            unconfirmed: told.filter(|(_, unconfirmed)| !unconfirmed.is_empty()).collect(),
            internal_errors: self.state.internal_errors,
            jobs: config.jobs,
            elapsed: self.before + self.start.elapsed(),
            interrupted: self.shared.is_interrupted(),
            journal_lost: self.journal_lost,
            reach: self.guides.iter().flat_map(|guides| names().zip(guides.reach())).collect(),
            corpus_lost: self.guides.and_then(|guides| guides.lost),
        }
    }
}

/// A device of which nothing more is asked once the campaign is interrupted.
struct Interruptible<'a> {
    device: &'a dyn Examiner,
    shared: &'a Shared<'a>,
}

impl Examiner for Interruptible<'_> {
    fn kind(&self) -> BackendKind {
        self.device.kind()
    }

    fn describe(&self) -> String {
        self.device.describe()
    }

    fn examine(&self, kernel: &Kernel, case: &Case) -> Result<Examined, BackendError> {
        if self.shared.is_interrupted() {
            return Err(BackendError::Unavailable("the campaign was interrupted".into()));
        }
        self.device.examine(kernel, case)
    }

    fn run_first(&self, kernel: &Kernel, case: &Case) -> Result<Outcome, BackendError> {
        self.device.run_first(kernel, case)
    }
}

impl RelationCount {
    /// Counts what came of judging the relation once.
    pub fn add(&mut self, checked: &Checked) {
        match checked {
            Checked::Holds(held) => {
                self.holds += 1;
                self.held.elements += held.elements;
                self.held.equal += held.equal;
                self.held.worst_ratio = self.held.worst_ratio.max(held.worst_ratio);
            }
            Checked::Broken(_) | Checked::Fault(_) => self.broken += 1,
            Checked::DoesNotApply(_) => self.does_not_apply += 1,
        }
    }
}

impl Row {
    pub(super) fn new(kernel: &Kernel, backend: &dyn Examiner) -> Self {
        Self {
            kernel: kernel.name().to_owned(),
            backend: backend.kind(),
            device: backend.describe(),
            cases: 0,
            busy: Duration::ZERO,
            elements: 0,
            out_of_domain: 0,
            skipped: BTreeMap::new(),
            worst_ratio: 0.0,
            worst_case: None,
            suspect: 0,
            worst_model_ratio: 0.0,
            suspect_case: None,
            relations: BTreeMap::new(),
            failing: 0,
            findings: 0,
            sanitized: 0,
            unsanitized: BTreeMap::new(),
            statistic: Statistic::default(),
        }
    }
}
