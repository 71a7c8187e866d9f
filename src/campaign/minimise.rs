//! A failing case made small: what campaigns, tests, fuzz targets and `attnfuzz shrink` share.

use crate::backend::{BackendError, BackendKind, Kernel};
use crate::case::{Case, CaseId};
use crate::oracle::{Examiner, Signature, Verdict};
use crate::outcome::{Fault, FaultKind};
use crate::regression::{Digest, Finding, Flaky, Provenance};
use crate::shrink;
use std::time::{Duration, Instant};

/// What making a case smaller may cost.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often a case may be examined.
    pub executions: u32,
    /// Time that cases which hang may take on hardware, all together: each costs as long as a case may take.
    pub hanging: Duration,
}

/// So many executions, and a minute of hangs.
impl From<u32> for Effort {
    fn from(executions: u32) -> Self {
        Self { executions, hanging: Duration::from_secs(60) }
    }
}

/// What came of making a failing case smaller.
#[derive(Clone, Debug)]
pub struct Minimised {
    /// The smallest case found with the same signature.
    pub finding: Finding,
    /// How often a case was examined.
    pub executions: u32,
    /// The time that hanging cases took, if the search was ended for it.
    pub hung: Option<Duration>,
    /// Other bugs met on the way, each with the first case that showed it.
    pub others: Vec<(Case, Verdict)>,
    /// Cases on which this program went wrong, with what it said. They count as not failing.
    pub internal_errors: Vec<(Case, String)>,
}

/// Runs that tell whether a finding on hardware comes back every time.
const REPEATS: u32 = 4;
/// As many as that of a hang: it was seen twice before it was called one.
const REPEATS_OF_HANG: u32 = 2;
/// Runs that a flaky finding gets to come back in, for each smaller case: with a chance of a quarter, it is missed in 3 %.
const TRIES: u32 = 12;

/// Shrinks a failing case, keeping its signature, and puts the finding together. Nothing if `verdict` is no failure.
///
/// On hardware the case is run a few times first. If it does not fail each time the finding is flaky, as races are: then
/// every smaller case may try several times, and the finding says how often it came back at last. The emulator gives the
/// same result for the same case, so there nothing is repeated. Nor is a hang before it is shrunk; cases that hang take so long
/// that their time is limited, and what is smallest then is the finding.
pub fn minimise(
    kernel: &Kernel,
    backend: &dyn Examiner,
    case: &Case,
    verdict: &Verdict,
    found_by: String,
    effort: impl Into<Effort>,
) -> Option<Minimised> {
    let Effort { executions: max_executions, hanging } = effort.into();
    let mut search = Search {
        kernel,
        backend,
        signature: verdict.signature()?,
        max_executions,
        executions: 0,
        hanging: (backend.kind() != BackendKind::Emulator).then_some(hanging),
        hung: Duration::ZERO,
        ended_by_hangs: false,
        lost: false,
        failing: vec![(case.clone(), verdict.clone())],
        others: Vec::new(),
        internal_errors: Vec::new(),
    };
    let repeats = backend.kind() != BackendKind::Emulator && max_executions > REPEATS;
    let steady = !repeats || hangs(verdict) || search.votes(case, REPEATS) == REPEATS;
    let tries = if steady { 1 } else { TRIES };
    let domain = &kernel.manifest.domain;
    let shrunk = shrink::shrink(case.clone(), domain, max_executions, &mut |candidate| {
        (0..tries).any(|_| search.fails(candidate))
    });
    let flaky = (repeats && !search.lost && !search.ended_by_hangs).then(|| {
        let runs = if hangs(verdict) { REPEATS_OF_HANG } else { TRIES };
        // What they take is known, and how sure a finding is matters more than how small.
        (search.max_executions, search.hanging) = (search.max_executions + runs, None);
        Flaky { failed: search.votes(&shrunk.case, runs), runs }
    });
    // The shrinker also asks about cases it doesn't keep.
    let Search { failing, others, internal_errors, executions, hung, ended_by_hangs, .. } = search;
    let (smallest, verdict) = failing.into_iter().rfind(|(case, _)| *case == shrunk.case)?;
    let origin = Provenance { kernel: kernel.reference(), backend: backend.describe(), found_by };
    let mut finding = Finding::new(origin, case, smallest, &verdict)?;
    finding.digest = Digest::to_remember(backend, kernel, &finding.case);
    finding.irrelevant = shrunk.irrelevant.into_iter().map(String::from).collect();
    finding.flaky = flaky.filter(|flaky| flaky.failed < flaky.runs);
    Some(Minimised { finding, executions, hung: ended_by_hangs.then_some(hung), others, internal_errors })
}

fn hangs(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Fault(Fault { kind: FaultKind::Hang, .. }))
}

/// The finding of another bug, met while the finding `id` was shrunk, as it was met. Nothing if `verdict` is no failure.
pub fn met(kernel: &Kernel, backend: &dyn Examiner, case: &Case, verdict: &Verdict, id: CaseId) -> Option<Finding> {
    let found_by = format!("met while {id} was shrunk");
    let origin = Provenance { kernel: kernel.reference(), backend: backend.describe(), found_by };
    let mut finding = Finding::new(origin, case, case.clone(), verdict)?;
    finding.digest = Digest::to_remember(backend, kernel, case);
    Some(finding)
}

/// A search under way.
struct Search<'a> {
    kernel: &'a Kernel,
    backend: &'a dyn Examiner,
    signature: Signature,
    max_executions: u32,
    executions: u32,
    /// Time that cases which hang may take, and took; unlimited where hangs end by themselves.
    hanging: Option<Duration>,
    hung: Duration,
    /// Whether a case was not run for that.
    ended_by_hangs: bool,
    /// Whether the backend can't be used any more.
    lost: bool,
    /// Every case that failed with the signature.
    failing: Vec<(Case, Verdict)>,
    others: Vec<(Case, Verdict)>,
    internal_errors: Vec<(Case, String)>,
}

impl Search<'_> {
    /// Whether `case` fails with the signature, in one run.
    fn fails(&mut self, case: &Case) -> bool {
        if self.lost || self.executions >= self.max_executions {
            return false;
        }
        if self.hanging.is_some_and(|limit| self.hung >= limit) {
            self.ended_by_hangs = true;
            return false;
        }
        let start = Instant::now();
        let verdict = match self.backend.examine(self.kernel, case) {
            Ok(examined) => examined.verdict,
            Err(error) => {
                match error {
                    BackendError::Unavailable(_) => self.lost = true,
                    BackendError::Internal(message) => self.internal_errors.push((case.clone(), message)),
                    _ => {}
                }
                return false;
            }
        };
        self.executions += 1;
        if hangs(&verdict) {
            self.hung += start.elapsed();
        }
        let Some(found) = verdict.signature() else { return false };
        let same = found.matches(&self.signature);
        let known = |(_, other): &(Case, Verdict)| other.signature().is_some_and(|other| other.matches(&found));
        if same {
            self.failing.push((case.clone(), verdict));
        } else if !self.others.iter().any(known) {
            self.others.push((case.clone(), verdict));
        }
        same
    }

    /// In how many of so many runs `case` fails with the signature.
    fn votes(&mut self, case: &Case, runs: u32) -> u32 {
        (0..runs).map(|_| u32::from(self.fails(case))).sum()
    }
}
