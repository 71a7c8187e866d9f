#![no_main]
use arbitrary::Unstructured;
use attnfuzz::harness::Harness;
use libfuzzer_sys::{Corpus, fuzz_target};
use std::sync::LazyLock;

const REGRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../proptest-regressions");
static KERNELS: LazyLock<Vec<Harness>> =
    LazyLock::new(|| Harness::from_env(REGRESSIONS).unwrap_or_else(|e| panic!("{e}")));

fuzz_target!(|data: &[u8]| -> Corpus {
    let mut bytes = Unstructured::new(data);
    let Ok(harness) = bytes.choose(&KERNELS) else { return Corpus::Reject };
    let Ok(case) = harness.decode(&mut bytes) else { return Corpus::Reject };
    if let Err(report) = harness.check(&case) {
        panic!("{report}");
    }
    Corpus::Keep
});
