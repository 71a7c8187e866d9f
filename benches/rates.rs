//! How fast cases are judged and PTX is emulated. `cargo bench` prints the table; docs/measurements.md keeps one.
//!
//! - `emulate`: a long and a short launch of the decode kernel, in lane instructions a second, with the optional checks
//!   on and off.
//! - `judge`: whole cases of the generator's distribution of each shipped kernel, two runs and the verdict, on 1 and 2
//!   threads.
//! - `judge_recorded`: the same with the coverage of each case recorded and merged.

use attnfuzz::backend::{Backend, Emulator, Kernel, Points, Recording, Run, shipped_names};
use attnfuzz::case::Case;
use attnfuzz::emulator::Checks;
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::Outcome;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use std::sync::LazyLock;

fn main() {
    divan::main();
}

static KERNEL: LazyLock<Kernel> = LazyLock::new(|| Kernel::open("gqa_decode").expect("a shipped kernel opens"));

const LONG: &str = "kv=2 g=8 d=128 past=1499 dtype=f32 cache=hnd:1536 scale=0.088388346 values=normal:0";
const SHORT: &str = "kv=2 g=8 d=128 past=2 dtype=f32 cache=hnd:3 scale=0.088388346 values=normal:0";

const OFF: Checks = Checks {
    alignment: false,
    uninitialised: false,
    read_only: false,
    shared_races: false,
    global_races: false,
    non_coherent: false,
};

#[divan::bench(args = ["long, checks on", "long, checks off", "short, checks on", "short, checks off"], sample_count = 20)]
fn emulate(bencher: Bencher, which: &str) {
    let case: Case = if which.starts_with("long") { LONG } else { SHORT }.parse().expect("a case");
    let checks = if which.ends_with("on") { Checks::default() } else { OFF };
    let run = || Emulator.measure(&KERNEL, &case, Run::first(&case), checks).expect("it runs");
    let (outcome, stats) = run();
    assert!(matches!(outcome, Outcome::Output(_)));
    bencher.counter(ItemsCount::new(stats.lane_instructions)).bench_local(|| black_box(run()));
}

/// Cases of a shipped kernel that are judged at a time.
const CASES: u64 = 64;

#[divan::bench(args = shipped_names(), threads = [1, 2], sample_count = 10)]
fn judge(bencher: Bencher, name: &str) {
    let (kernel, cases) = cases(name);
    bencher
        .counter(ItemsCount::new(cases.len()))
        .bench(|| cases.iter().for_each(|case| agrees(&Emulator, &kernel, case)));
}

#[divan::bench(args = shipped_names(), sample_count = 10)]
fn judge_recorded(bencher: Bencher, name: &str) {
    let (kernel, cases) = cases(name);
    let points = Points::of(&kernel);
    let mut all = points.none();
    bencher.counter(ItemsCount::new(cases.len())).bench_local(|| {
        for case in &cases {
            let recording = Recording::new(&points);
            agrees(&recording, &kernel, case);
            black_box(all.merge(&recording.take()));
        }
    });
}

fn cases(name: &str) -> (Kernel, Vec<Case>) {
    let kernel = Kernel::open(name).expect("a shipped kernel opens");
    let cases = (0..CASES).map(|index| kernel.space().case_at(0, index)).collect();
    (kernel, cases)
}

fn agrees(backend: &dyn Backend, kernel: &Kernel, case: &Case) {
    let verdict = examine(backend, kernel, case).expect("it runs").verdict;
    assert!(matches!(verdict, Verdict::Agree(_)), "{case}");
}
