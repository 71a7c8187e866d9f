//! Runs cases on worker threads and counts what they reach.

use super::{Config, Layout, Measured};
use crate::backend::{Kernel, Points, Recording};
use crate::case::Case;
use crate::oracle::{self, Verdict};
use std::collections::btree_map::Entry;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

/// Runs the cases that `config` asks for on `kernel`, and tells `progress` how many are done. Unless time ends it, the
/// result is the same for any number of threads.
pub fn run(
    kernel: &Kernel,
    points: &Points,
    layout: &Layout,
    config: &Config,
    progress: &(dyn Fn(u64) + Sync),
) -> Measured {
    let start = Instant::now();
    let work = Work {
        kernel,
        points,
        layout,
        config,
        deadline: config.time.map(|time| start + time),
        next: AtomicU64::new(0),
        done: AtomicU64::new(0),
        progress,
    };
    let empty = || Measured::new(kernel.name(), config.seed, points, layout);
    let mut all = empty();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..config.jobs.max(1)).map(|_| scope.spawn(|| work.share(empty()))).collect();
        for worker in workers {
            match worker.join() {
                Ok(share) => all.add(share),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    all.elapsed = start.elapsed();
    all
}

struct Work<'a> {
    kernel: &'a Kernel,
    points: &'a Points,
    layout: &'a Layout,
    config: &'a Config,
    deadline: Option<Instant>,
    next: AtomicU64,
    done: AtomicU64,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Work<'_> {
    /// One thread's part.
    fn share(&self, mut own: Measured) -> Measured {
        while self.deadline.is_none_or(|deadline| Instant::now() < deadline) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = self.case(number) else { break };
            match catch_unwind(AssertUnwindSafe(|| self.examine(&case, number, &mut own))) {
                Ok(()) => {}
                Err(panic) => own.internal.push((case.to_string(), said(&*panic))),
            }
            (self.progress)(self.done.fetch_add(1, Ordering::Relaxed) + 1);
        }
        own
    }

    fn case(&self, number: u64) -> Option<Case> {
        let corpus = &self.config.corpus;
        if let Some(case) = usize::try_from(number).ok().and_then(|number| corpus.get(number)) {
            return Some(case.clone());
        }
        let index = number - corpus.len() as u64;
        let is_asked = self.config.cases.is_none_or(|cases| index < cases);
        is_asked.then(|| self.kernel.space().case_at(self.config.seed, index))
    }

    fn examine(&self, case: &Case, number: u64, own: &mut Measured) {
        let recording = Recording::new(self.points);
        let examined = match oracle::examine(&recording, self.kernel, case) {
            Ok(examined) => examined,
            Err(limit) => {
                *own.skipped.entry(limit.to_string()).or_default() += 1;
                return;
            }
        };
        if let Verdict::Skip(why) = examined.verdict {
            *own.skipped.entry(why).or_default() += 1;
            return;
        }
        own.cases += 1;
        let map = recording.take();
        map.iter().for_each(|point| own.reached[point as usize] += 1);
        self.layout.count(&map, &mut own.ran, &mut own.edges);
        let closer = examined.closer.as_ref().map(|(case, verdict)| (case, verdict));
        for (case, verdict) in [(case, &examined.verdict)].into_iter().chain(closer) {
            if let Some(signature) = verdict.signature() {
                own.failed(&signature, number, case);
            }
        }
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").to_owned()
}

impl Measured {
    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        for (why, count) in other.skipped {
            *self.skipped.entry(why).or_default() += count;
        }
        for (signature, failing) in other.failing {
            match self.failing.entry(signature) {
                Entry::Vacant(vacant) => {
                    vacant.insert(failing);
                }
                Entry::Occupied(mut own) => own.get_mut().add(failing),
            }
        }
        self.internal.extend(other.internal);
        self.internal.sort();
        let sums = [(&mut self.reached, &other.reached), (&mut self.ran, &other.ran)];
        for (own, others) in sums {
            own.iter_mut().zip(others).for_each(|(own, other)| *own += other);
        }
        for (own, others) in self.edges.iter_mut().zip(&other.edges) {
            own.iter_mut().zip(others).for_each(|(own, other)| *own += other);
        }
    }
}
