//! Cases per second on a fixed distribution, and what limits them. docs/measurements.md keeps the numbers.
//!
//! Decode with binary32 elements and normal values: 1 to 3 requests, 1 to 4 KV heads, 1 to 9 query heads each, head_dim of
//! 16, 32, 40, 64, 80, 96 or 128, 0 to 130 tokens of past. `loop.py` beside this file is the same differential loop as one
//! writes it in Python (hypothesis, CuPy and PyTorch in f64); it runs the same PTX.
//!
//! `cargo bench --bench throughput` prints lines of JSON: the rate of whole cases on the GPU, if there is one, by threads;
//! that of cases run there and not judged; and the rate without kernel, launches and copies (inputs, reference, bounds, verdict),
//! for which what the kernel leaves is recorded beforehand. `ATTNFUZZ_BENCH_SECONDS` is the length of each measurement, 5 by
//! default.

#![expect(clippy::print_stdout, reason = "a benchmark's result")]

use attnfuzz::backend::cuda::Cuda;
use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::case::{Case, Inputs, default_scale};
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::Outcome;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::HashMap;
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn main() {
    let kernel = Kernel::open("gqa_decode").expect("a shipped kernel opens");
    let seconds = std::env::var("ATTNFUZZ_BENCH_SECONDS").map_or(5, |text| text.parse().expect("whole seconds"));
    let time = Duration::from_secs(seconds);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let recorded = Recorded::of(&kernel, 64);
    let threads =
        || std::iter::successors(Some(1), |n| Some(n * 2)).take_while(|&n| n < processors).chain([processors]);
    for jobs in threads() {
        let rate = rate(jobs, time, |index| {
            judged(&recorded, &kernel, &recorded.cases[index as usize % recorded.cases.len()]);
        });
        println!("{}", serde_json::json!({ "what": "all but the kernel", "jobs": jobs, "cases_per_s": rate }));
    }
    match Cuda::open_shared(0) {
        Err(why) => println!("{}", serde_json::json!({ "what": "no GPU", "why": why.to_string() })),
        Ok(cuda) => {
            for jobs in threads().chain([2 * processors, 4 * processors]) {
                let whole = rate(jobs, time, |index| judged(&cuda, &kernel, &case(index)));
                println!("{}", serde_json::json!({ "what": cuda.describe(), "jobs": jobs, "cases_per_s": whole }));
                let run = rate(jobs, time, |index| {
                    let case = case(index);
                    let first = Run::first(&case);
                    black_box(cuda.run_each(&kernel, &case, &[first, first.next()]).expect("it runs"));
                });
                println!("{}", serde_json::json!({ "what": "the same, not judged", "jobs": jobs, "cases_per_s": run }));
            }
        }
    }
}

/// Case `index` of the distribution.
fn case(index: u64) -> Case {
    let mut dice = ChaCha8Rng::seed_from_u64(index);
    let kv = dice.random_range(1..=4);
    let group = dice.random_range(1..=9);
    let dim = [16, 32, 40, 64, 80, 96, 128][dice.random_range(0..7)];
    let past: Vec<u32> = (0..dice.random_range(1..=3)).map(|_| dice.random_range(0..=130)).collect();
    let capacity = past.iter().max().map_or(1, |longest| longest + 1);
    let list = past.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let scale = default_scale(dim);
    let line = format!(
        "kv={kv} g={group} d={dim} past={list} dtype=f32 cache=hnd:{capacity} scale={scale} values=normal:{index} sched={index}"
    );
    line.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Cases a second that `jobs` threads work on.
fn rate(jobs: usize, time: Duration, work: impl Fn(u64) + Sync) -> f64 {
    let (next, start) = (AtomicU64::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while start.elapsed() < time {
                    work(next.fetch_add(1, Ordering::Relaxed));
                }
            });
        }
    });
    next.into_inner() as f64 / start.elapsed().as_secs_f64()
}

fn judged(backend: &dyn Backend, kernel: &Kernel, case: &Case) {
    let examined = examine(backend, kernel, case).unwrap_or_else(|error| panic!("{case}: {error}"));
    assert!(matches!(examined.verdict, Verdict::Agree(_)), "{case}: {:?}", examined.verdict);
}

/// What a kernel left in memory in earlier runs, in place of the kernel.
struct Recorded {
    cases: Vec<Case>,
    outcomes: HashMap<(String, &'static str), Outcome>,
}

impl Recorded {
    fn of(kernel: &Kernel, count: u64) -> Self {
        let cases: Vec<Case> = (0..count).map(case).collect();
        let mut outcomes = HashMap::new();
        for case in &cases {
            let first = Run::first(case);
            for run in [first, first.next()] {
                let outcome = Emulator.run(kernel, case, run).expect("it runs");
                outcomes.insert(key(case, run), outcome);
            }
        }
        Self { cases, outcomes }
    }
}

fn key(case: &Case, run: Run) -> (String, &'static str) {
    (case.to_string(), if run == Run::first(case) { "first" } else { "second" })
}

impl Backend for Recorded {
    fn kind(&self) -> BackendKind {
        BackendKind::Cuda
    }

    fn describe(&self) -> String {
        "recorded".into()
    }

    fn run(&self, _: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        black_box(Inputs::of(case, run.poison));
        Ok(self.outcomes[&key(case, run)].clone())
    }

    /// As the backends do: inputs are made once.
    fn run_each(&self, _: &Kernel, case: &Case, runs: &[Run]) -> Result<Vec<Outcome>, BackendError> {
        black_box(Inputs::of(case, case.poison));
        Ok(runs.iter().map(|&run| self.outcomes[&key(case, run)].clone()).collect())
    }
}
