//! Making a failing case smaller when it fails only now and then, and when another bug is met on the way.

use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::campaign::{Config, Event, Minimised, minimise, run};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::{Fault, FaultKind, Outcome};
use attnfuzz::regression::{Finding, Replayed, Store, replay};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A device on which groups of more than four query heads race, in one of so many runs that have one.
struct Racy {
    one_in: u32,
    runs: AtomicU32,
}

impl Racy {
    fn new(one_in: u32) -> Self {
        Self { one_in, runs: AtomicU32::new(0) }
    }
}

impl Backend for Racy {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "racy".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        // A case is run twice; a race shows in the first of these.
        if case.shape.q_per_kv > 4 && run == Run::first(case) {
            let run = self.runs.fetch_add(1, Ordering::SeqCst);
            if run.is_multiple_of(self.one_in) {
                return Ok(Outcome::Fault(Fault::new(FaultKind::Race, "two threads, one slot")));
            }
        }
        Emulator.run(kernel, case, run)
    }
}

/// A device with two bugs: groups of more than four query heads fault, and what is left of them in rows of less than 16
/// traps.
struct TwoBugs;

impl Backend for TwoBugs {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulator
    }

    fn describe(&self) -> String {
        "two bugs".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let shape = &case.shape;
        Ok(Outcome::Fault(match (shape.q_per_kv > 4, shape.head_dim < 16) {
            (false, _) => return Emulator.run(kernel, case, run),
            (true, false) => Fault::new(FaultKind::OutOfBounds, "one"),
            (true, true) => Fault::new(FaultKind::Trap, "the other"),
        }))
    }
}

const CASE: &str = "kv=2 g=7 d=40 past=5,0 dtype=f16 cache=nhd:9 scale=0.5 values=normal:3";

fn minimised(backend: &impl Backend, max_executions: u32) -> Minimised {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let case: Case = CASE.parse().unwrap();
    let verdict = examine(backend, &kernel, &case).unwrap().verdict;
    minimise(&kernel, backend, &case, &verdict, "test".into(), max_executions).unwrap()
}

#[test]
fn a_flaky_finding_is_shrunk_marked_and_found_again() {
    let device = Racy::new(3);
    let finding = minimised(&device, 10_000).finding;
    assert_eq!(finding.line, "kv=1 g=5 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    let flaky = finding.flaky.unwrap();
    assert_eq!((flaky.failed, flaky.runs), (4, 12));
    let kernel = Kernel::open("gqa_decode").unwrap();
    for _ in 0..5 {
        assert!(matches!(replay(&finding, &kernel, &device), Replayed::StillFails(_)));
    }
    assert_eq!(replay(&finding, &kernel, &Emulator), Replayed::Fixed);
}

#[test]
fn a_steady_finding_is_not_called_flaky() {
    assert_eq!(minimised(&Racy::new(1), 10_000).finding.flaky, None);
}

#[test]
fn a_finding_that_never_comes_back_is_kept_as_it_was() {
    let device = Racy::new(u32::MAX);
    let finding = minimised(&device, 500).finding;
    assert_eq!(finding.line, CASE);
    assert_eq!(finding.flaky.map(|flaky| flaky.failed), Some(0));
}

#[test]
fn shrinking_never_takes_more_executions_than_allowed() {
    for budget in [0, 3, 50] {
        let minimised = minimised(&Racy::new(3), budget);
        assert!(minimised.executions <= budget + 12, "{} of {budget}", minimised.executions);
    }
}

#[test]
fn another_bug_met_on_the_way_is_not_followed() {
    let Minimised { finding, others, .. } = minimised(&TwoBugs, 2000);
    assert_eq!(finding.line, "kv=1 g=5 d=16 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    let [(case, Verdict::Fault(fault))] = &others[..] else { panic!("{others:?}") };
    assert_eq!(fault.kind, FaultKind::Trap);
    assert!(case.shape.q_per_kv > 4 && case.shape.head_dim < 16, "{case}");
}

#[test]
fn another_bug_met_on_the_way_is_saved_beside_the_first() {
    let folder = tempfile::tempdir().unwrap();
    for max_findings in [1, 2] {
        let config = Config {
            cases: Some(100),
            seed: 1,
            jobs: 2,
            max_findings,
            store: Some(Store::new(folder.path().join(max_findings.to_string()))),
            ..Config::new(vec![Arc::new(Kernel::open("gqa_decode").unwrap())], vec![Arc::new(TwoBugs)])
        };
        let (mut found, mut met) = (Vec::new(), Vec::new());
        let summary = run(&config, &mut |event| match event {
            Event::Found(event) => found.push(event.finding.signature.class),
            Event::Met(event) => met.push(event.finding.signature.class),
            _ => {}
        });
        // With room for two, the other one is shrunk too.
        assert_eq!((found.len(), met.len()), (max_findings, 2 - max_findings));
        assert_eq!(summary.rows[0].findings, 2);
        let saved = Finding::load_all(&folder.path().join(max_findings.to_string())).unwrap();
        let mut classes: Vec<_> = saved.into_iter().map(|(_, finding)| finding.signature.class).collect();
        classes.sort();
        assert_eq!(classes, ["fault out-of-bounds", "fault trap"]);
    }
}
