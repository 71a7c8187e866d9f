//! What a campaign does when a device is lost under it.

use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::campaign::{Config, Event, run};
use attnfuzz::case::Case;
use attnfuzz::oracle::Examiner;
use attnfuzz::outcome::{Fault, FaultKind, Outcome};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Faults at its first case with more than four query heads a KV head, and refuses everything from then on, as a GPU
/// whose context a kernel has spoiled.
#[derive(Default)]
struct Fragile {
    spoiled: AtomicBool,
}

impl Backend for Fragile {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "fragile".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        if self.spoiled.load(Ordering::SeqCst) {
            return Err(BackendError::Unavailable("spoiled".into()));
        }
        if case.shape.q_per_kv > 4 {
            self.spoiled.store(true, Ordering::SeqCst);
            return Ok(Outcome::Fault(Fault::new(FaultKind::OutOfBounds, "illegal address")));
        }
        Emulator.run(kernel, case, run)
    }
}

fn campaign(backends: Vec<Arc<dyn Examiner>>, jobs: usize) -> (Vec<Event>, attnfuzz::campaign::Summary) {
    let kernels = vec![Arc::new(Kernel::open("gqa_decode").unwrap())];
    let config = Config { cases: Some(200), seed: 4, jobs, max_shrink: 100, ..Config::new(kernels, backends) };
    let mut events = Vec::new();
    let summary = run(&config, &mut |event| events.push(event));
    (events, summary)
}

/// With several threads an earlier case often sees the spoiled device before the case that spoiled it is looked at.
#[test]
fn the_case_that_spoils_a_device_is_not_lost() {
    for jobs in [1, 2, 8] {
        for _ in 0..10 {
            let (events, summary) = campaign(vec![Arc::new(Fragile::default())], jobs);
            let found: Vec<_> =
                events.iter().filter_map(|e| if let Event::Found(f) = e { Some(f) } else { None }).collect();
            assert_eq!(found.len(), 1, "with {jobs} threads");
            assert_eq!(found[0].finding.signature.class, "fault out-of-bounds");
            assert!(found[0].finding.case.shape.q_per_kv > 4);
            assert_eq!(found[0].executions, 0, "nothing can be run for shrinking any more");
            assert_eq!(summary.rows[0].findings, 1);
        }
    }
}

#[test]
fn a_lost_device_does_not_end_the_others() {
    let (events, summary) = campaign(vec![Arc::new(Fragile::default()), Arc::new(Emulator)], 2);
    assert!(events.iter().filter(|e| matches!(e, Event::BackendLost { .. })).count() <= 1);
    assert_eq!((summary.rows[1].cases, summary.rows[1].findings), (200, 0));
}
