//! Cases per second on a fixed distribution, and what limits them. docs/measurements.md keeps the numbers.
//!
//! Decode with binary32 elements and normal values: 1 to 3 requests, 1 to 4 KV heads, 1 to 9 query heads each, head_dim of
//! 16, 32, 40, 64, 80, 96 or 128, 0 to 130 tokens of past. `loop.py` beside this file is the same differential loop as one
//! writes it in Python (hypothesis, CuPy and PyTorch in f64); it runs the same PTX.
//!
//! `cargo bench --bench throughput` prints lines of JSON: the rate of whole cases on the GPU, if there is one, by threads and by
//! the cases that each begins before it finishes the first; that of cases run there and not judged; and the rate without kernel, launches and copies (inputs, reference, bounds, verdict),
//! for which what the kernel leaves is recorded beforehand. `ATTNFUZZ_BENCH_SECONDS` is the length of each measurement, 5 by
//! default.

#![expect(clippy::print_stdout, reason = "a benchmark's result")]

use attnfuzz::backend::cuda::Cuda;
use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::case::{Case, Inputs, default_scale};
use attnfuzz::oracle::{UnderWay, Verdict};
use attnfuzz::outcome::Outcome;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{HashMap, VecDeque};
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
    let recorded_case = |index: u64| recorded.cases[index as usize % recorded.cases.len()].clone();
    for jobs in threads() {
        let rate = judged(&recorded, &kernel, (jobs, 1), time, recorded_case);
        tell("all but the kernel", jobs, 1, &rate);
    }
    let cuda = match Cuda::open_shared(0) {
        Ok(cuda) => cuda,
        Err(why) => return println!("{}", serde_json::json!({ "what": "no GPU", "why": why.to_string() })),
    };
    for (jobs, ahead) in threads().map(|jobs| (jobs, 4)).chain([(processors, 1), (processors, 2), (processors, 8)]) {
        let rate = judged(&cuda, &kernel, (jobs, ahead), time, case);
        tell(&cuda.describe(), jobs, ahead, &rate);
    }
    for ahead in [1, 4] {
        let begin = |index| {
            let case = case(index);
            let first = Run::first(&case);
            cuda.begin(&kernel, &case, &[first, first.next()])
        };
        let rate = rate((processors, ahead), time, begin, |begun| drop(black_box(begun().expect("it runs"))));
        tell("the same, not judged", processors, ahead, &rate);
    }
}

fn tell(what: &str, jobs: usize, ahead: usize, rate: &Rate) {
    let Rate { cases_per_s, processors_busy } = rate;
    let line = serde_json::json!({
        "what": what, "jobs": jobs, "ahead": ahead, "cases_per_s": cases_per_s, "processors_busy": processors_busy,
    });
    println!("{line}");
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

struct Rate {
    cases_per_s: f64,
    /// Where the system tells.
    processors_busy: Option<f64>,
}

/// The rate of cases with so many threads, each of which begins so many cases before it finishes the first.
fn rate<T>(
    (jobs, ahead): (usize, usize),
    time: Duration,
    begin: impl Fn(u64) -> T + Sync,
    finish: impl Fn(T) + Sync,
) -> Rate {
    let (next, start, before) = (AtomicU64::new(0), Instant::now(), processor_time());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                let mut begun = VecDeque::new();
                while start.elapsed() < time {
                    while begun.len() < ahead {
                        begun.push_back(begin(next.fetch_add(1, Ordering::Relaxed)));
                    }
                    begun.pop_front().into_iter().for_each(&finish);
                }
                begun.into_iter().for_each(&finish);
            });
        }
    });
    let (cases, elapsed) = (next.into_inner() as f64, start.elapsed().as_secs_f64());
    let busy = processor_time().zip(before).map(|(after, before)| (after - before) / elapsed);
    Rate { cases_per_s: cases / elapsed, processors_busy: busy }
}

/// Seconds that processors have spent on this process.
fn processor_time() -> Option<f64> {
    // proc(5): the name may hold anything but ends with the last bracket; utime and stime are fields 14 and 15, in hundredths.
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut times = text.rsplit(')').next()?.split_whitespace().skip(11).map_while(|field| field.parse::<f64>().ok());
    Some((times.next()? + times.next()?) / 100.0)
}

/// The rate of cases that are examined.
fn judged(
    backend: &dyn Backend,
    kernel: &Kernel,
    pace: (usize, usize),
    time: Duration,
    case: impl Fn(u64) -> Case + Sync,
) -> Rate {
    let begin = |index| {
        let case = case(index);
        let under_way = UnderWay::begin(backend, kernel, &case);
        (case, under_way)
    };
    let finish = |(case, under_way): (Case, UnderWay<'_>)| {
        let examined = under_way.finish(kernel, &case).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert!(matches!(examined.verdict, Verdict::Agree(_)), "{case}: {:?}", examined.verdict);
    };
    rate(pace, time, begin, finish)
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
