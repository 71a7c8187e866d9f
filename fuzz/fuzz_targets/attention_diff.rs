#![no_main]
mod counters;

use attnfuzz::harness::{Failure, Target};
use libfuzzer_sys::{Corpus, fuzz_crossover, fuzz_mutator, fuzz_target};
use std::sync::{LazyLock, Once};

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proptest-regressions");
static TARGET: LazyLock<Target> = LazyLock::new(|| Target::from_env(REGRESSIONS).unwrap_or_else(|e| panic!("{e}")));
static FIRST: Once = Once::new();

fuzz_target!(|data: &[u8]| -> Corpus {
    match counters::of_kernel_only(&TARGET, data) {
        Ok(()) => Corpus::Keep,
        Err(Failure::Report(report)) => panic!("{report}"),
        Err(Failure::Input(_)) => Corpus::Reject,
        Err(skipped) => {
            FIRST.call_once(|| eprintln!("skipped, as others may be: {skipped}"));
            Corpus::Reject
        }
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| { TARGET.mutate(data, size, max_size, seed) });
fuzz_crossover!(|one: &[u8], other: &[u8], out: &mut [u8], seed: u32| { TARGET.cross(one, other, out, seed) });
