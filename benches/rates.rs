//! How fast cases are judged and PTX is emulated. `cargo bench` prints the table; docs/measurements.md keeps one.
//!
//! - `emulate`: a long and a short launch of the decode kernel, in lane instructions a second, with the optional checks
//!   on and off.
//! - `judge`: whole cases of the generator's distribution of each shipped kernel, two runs and the verdict, on 1 and 2
//!   threads.
//! - `small`: the same of the small cases that fuzz targets prefer, on one thread.

use attnfuzz::backend::{Emulator, Kernel, Run, shipped_names};
use attnfuzz::case::Case;
use attnfuzz::emulator::Checks;
use attnfuzz::generate::SMALL_BUDGET;
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

#[divan::bench(args = shipped_names(), threads = [1, 2], sample_count = 10)]
fn judge(bencher: Bencher, name: &str) {
    let kernel = Kernel::open(name).expect("a shipped kernel opens");
    let cases: Vec<Case> = (0..64).map(|index| kernel.space().case_at(0, index)).collect();
    bencher.counter(ItemsCount::new(cases.len())).bench(|| {
        for case in &cases {
            let verdict = examine(&Emulator, &kernel, case).expect("it runs").verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{case}");
        }
    });
}

#[divan::bench(args = shipped_names(), sample_count = 10)]
fn small(bencher: Bencher, name: &str) {
    let kernel = Kernel::open(name).expect("a shipped kernel opens");
    let space = kernel.space().clone().with_budget(SMALL_BUDGET);
    let cases: Vec<Case> = (0..64).map(|index| space.case_at(0, index)).collect();
    bencher.counter(ItemsCount::new(cases.len())).bench_local(|| {
        for case in &cases {
            let verdict = examine(&Emulator, &kernel, case).expect("it runs").verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{case}");
        }
    });
}
