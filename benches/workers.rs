//! What it costs to examine a case in a worker process: the same small cases in this process and in one of the program, on
//! 1 and 2 threads. `cargo bench --bench workers`.

use attnfuzz::backend::{BackendKind, Emulator, Kernel};
use attnfuzz::case::Case;
use attnfuzz::oracle::Examiner;
use attnfuzz::worker::{Isolated, Options};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

fn main() {
    divan::main();
}

static KERNEL: LazyLock<Kernel> = LazyLock::new(|| Kernel::open("gqa_decode").expect("a shipped kernel opens"));

static WORKER: LazyLock<Isolated> = LazyLock::new(|| {
    let options = Options { threads: 2, limit: Duration::from_secs(60), outputs: false };
    let start = |threads: usize| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
        command.args(["worker", "--backend", "emulator", "--threads", &threads.to_string()]);
        command
    };
    Isolated::open(BackendKind::Emulator, options, start).expect("a worker starts")
});

const SMALL: &str = "kv=1 g=1 d=8 past=1 dtype=f32 cache=hnd:2 scale=1 values=flat:0";
/// Outside the kernel's domain, so nothing is run: all that is left is what is said.
const NONE: &str = "kv=1 g=1 d=4000 past=1 dtype=f32 cache=hnd:2 scale=1 values=flat:0";

#[divan::bench(args = ["small case", "nothing"], threads = [1, 2])]
fn own_process(bencher: Bencher, what: &str) {
    examine(bencher, &Emulator, what);
}

#[divan::bench(args = ["small case", "nothing"], threads = [1, 2])]
fn worker_process(bencher: Bencher, what: &str) {
    examine(bencher, &*WORKER, what);
}

fn examine(bencher: Bencher, examiner: &dyn Examiner, what: &str) {
    let case: Case = if what == "nothing" { NONE } else { SMALL }.parse().expect("a case");
    let examine = || examiner.examine(&KERNEL, &case).expect("it can be examined");
    examine();
    bencher.counter(ItemsCount::new(1_usize)).bench(|| black_box(examine()));
}
