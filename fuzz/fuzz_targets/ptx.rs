#![no_main]
use attnfuzz::harness::ptx;
use libfuzzer_sys::fuzz_target;

// Whatever the text, reading and lowering end without a panic; what is read can be printed and read again.
fuzz_target!(|data: &[u8]| {
    let text = ptx::text(data);
    if let Err(report) = ptx::check(&text) {
        panic!("{report}");
    }
});
