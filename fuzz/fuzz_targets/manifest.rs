#![no_main]

use attnfuzz::harness::manifest::check;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| check(text));
