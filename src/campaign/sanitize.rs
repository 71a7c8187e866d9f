//! Cases of a campaign that also run under compute-sanitizer.
//!
//! Those are one in so many of each kernel, all that are suspect or fail, and the smallest case of each finding. They wait until
//! there are some, for the tool takes long to start, and run while the dispatcher looks at no result: so what is found does not
//! depend on the number of threads.

use super::Event;
use super::dispatch::{At, By, Dispatcher};
use crate::backend::BackendError;
use crate::case::Case;
use crate::oracle::{Examiner, Verdict};
use crate::outcome::{Fault, FaultKind};
use crate::regression::Finding;
use crate::worker::Sanitizer;
use std::sync::Arc;

/// Cases that run together.
const TOGETHER: usize = 16;

/// Which cases run under compute-sanitizer.
#[derive(Clone, Default)]
pub struct Sanitizing {
    /// For each backend, what they run under, or why they can't; empty: none do.
    pub by_backend: Vec<Result<Arc<Sanitizer>, String>>,
    /// One case of a kernel in so many.
    pub every: u64,
}

impl Dispatcher<'_, '_> {
    /// Who is asked about cases of a backend.
    pub(super) fn examiner(&self, backend: usize, by: By) -> Option<Arc<dyn Examiner>> {
        match by {
            By::Device => Some(self.shared.config.backends[backend].clone()),
            By::Sanitizer => match self.sanitizing.by_backend.get(backend) {
                Some(Ok(sanitizer)) => Some(sanitizer.clone()),
                Some(Err(_)) | None => None,
            },
        }
    }

    /// Puts a case that was judged aside if it is to run under compute-sanitizer; those that wait run once they are enough.
    pub(super) fn sanitize_later(&mut self, at: At, case: &Case, verdict: &Verdict) {
        if self.sanitizing.by_backend.is_empty() || matches!(verdict, Verdict::Skip(_)) {
            return;
        }
        let index = at.number / self.shared.config.kernels.len() as u64;
        let is_suspect = match verdict {
            Verdict::Agree(agreement) => agreement.is_suspect(),
            // A new finding is looked at when it has been shrunk.
            Verdict::Diverge(_) | Verdict::Fault(_) => self.is_known(at, verdict) && !hangs(verdict),
            Verdict::Skip(_) => false,
        };
        if !is_suspect && !index.is_multiple_of(self.sanitizing.every.max(1)) || self.is_new(at, verdict) {
            return;
        }
        let pair = self.shared.pair(at.kernel, at.backend);
        self.state.to_sanitize.resize(self.state.rows.len(), Vec::new());
        self.state.to_sanitize[pair].push(case.to_string());
        if self.state.to_sanitize[pair].len() >= TOGETHER {
            self.sanitize(at);
        }
    }

    fn is_known(&self, at: At, verdict: &Verdict) -> bool {
        let known = &self.state.known[self.shared.pair(at.kernel, at.backend)];
        verdict.signature().is_some_and(|found| known.iter().any(|known| known.matches(&found)))
    }

    fn is_new(&self, at: At, verdict: &Verdict) -> bool {
        verdict.signature().is_some() && !self.is_known(at, verdict)
    }

    /// Runs the cases of a kernel on a backend that wait.
    fn sanitize(&mut self, at: At) {
        let pair = self.shared.pair(at.kernel, at.backend);
        let Some(lines) = self.state.to_sanitize.get_mut(pair).map(std::mem::take) else { return };
        let cases: Vec<Case> = lines.iter().filter_map(|line| line.parse().ok()).collect();
        if cases.is_empty() || self.shared.is_closed(pair) {
            return;
        }
        for (case, told) in cases.iter().zip(self.check_each(at, &cases)) {
            let Some(fault) = told else { continue };
            let verdict = Verdict::Fault(fault);
            self.state.rows[pair].failing += 1;
            if self.is_new(at, &verdict) && !self.shared.is_closed(pair) {
                self.note(true);
                self.failing(at, case, &verdict, By::Sanitizer);
            }
        }
    }

    /// Runs all cases that wait.
    pub(super) fn sanitize_rest(&mut self) {
        let number = self.state.next.saturating_sub(1);
        for kernel in 0..self.shared.config.kernels.len() {
            for backend in 0..self.shared.config.backends.len() {
                self.sanitize(At { kernel, backend, number });
            }
        }
    }

    /// Looks at a failing case that was just made smaller, and at how it was found if nothing is seen in the small one. A fault
    /// that the finding is about already tells its place; another is given back with its case.
    pub(super) fn sanitize_finding(
        &mut self,
        at: At,
        finding: &mut Finding,
        found: &Case,
        verdict: &Verdict,
    ) -> Option<(Case, Fault)> {
        // A case that hangs would do so under the tool as well.
        if self.sanitizing.by_backend.is_empty() || hangs(verdict) || self.shared.is_interrupted() {
            return None;
        }
        let smallest = finding.case.clone();
        let again = (smallest != *found).then(|| found.clone());
        for case in std::iter::once(smallest).chain(again) {
            let Some(Some(fault)) = self.check_each(at, std::slice::from_ref(&case)).pop() else { continue };
            let same = |known: &&mut Fault| known.kind == fault.kind && known.site.is_none();
            let Some(known) = finding.fault.as_mut().filter(same) else { return Some((case, fault)) };
            known.detail = format!("{}; {}", known.detail, fault.detail);
            (known.site, known.other) = (fault.site, fault.other);
            return None;
        }
        None
    }

    /// What compute-sanitizer says of each case. Those that it could not look at are counted.
    fn check_each(&mut self, at: At, cases: &[Case]) -> Vec<Option<Fault>> {
        let pair = self.shared.pair(at.kernel, at.backend);
        let kernel = &self.shared.config.kernels[at.kernel];
        let told: Vec<Result<Option<Fault>, String>> = match &self.sanitizing.by_backend[at.backend] {
            Err(why) => vec![Err(why.clone()); cases.len()],
            Ok(sanitizer) => {
                (self.sink)(Event::Sanitizing { kernel: kernel.name().to_owned(), cases: cases.len() });
                let told = sanitizer.check_each(kernel, cases).into_iter();
                told.map(|told| told.map_err(|error: BackendError| error.to_string())).collect()
            }
        };
        let row = &mut self.state.rows[pair];
        let count = |told: Result<Option<Fault>, String>| match told {
            Ok(fault) => {
                row.sanitized += 1;
                fault
            }
            Err(why) => {
                *row.unsanitized.entry(why).or_default() += 1;
                None
            }
        };
        told.into_iter().map(count).collect()
    }

    /// What still waits when the campaign ends early was not looked at.
    pub(super) fn count_unsanitized(&mut self) {
        for (pair, lines) in self.state.to_sanitize.iter().enumerate() {
            if !lines.is_empty() && !self.shared.is_closed(pair) {
                let why = "the campaign ended before".to_owned();
                *self.state.rows[pair].unsanitized.entry(why).or_default() += lines.len() as u64;
            }
        }
    }
}

fn hangs(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Fault(Fault { kind: FaultKind::Hang | FaultKind::Deadlock, .. }))
}
