//! Short PTX texts that ask for more time or memory than their size: each must be refused soon.

use attnfuzz::ptx::{self, Error};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// The limit that stops `text`, which must be passed within seconds.
fn limit(text: &str) -> &'static str {
    let start = Instant::now();
    let outcome = ptx::parse(text).and_then(|module| module.lower("k").map(|_| ()));
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    match outcome {
        Err(Error::TooLarge { what, .. }) => what,
        other => panic!("expected a limit, found {other:?}"),
    }
}

#[test]
fn doubling_calls_of_empty_functions_end() {
    let mut text = String::from(".version 8.4\n.target sm_80\n.func f0() { }\n");
    for level in 1..31 {
        let below = level - 1;
        let _ = writeln!(text, ".func f{level}() {{ call f{below}; call f{below}; }}");
    }
    text += ".visible .entry k() { call f30; ret; }";
    assert_eq!(limit(&text), "statements after inlining");
}

#[test]
fn long_target_lists_used_often_end() {
    let list = vec!["a"; 20_000].join(", ");
    let jumps = "brx.idx %r1, t;\n".repeat(20_000);
    let text = format!(
        ".version 8.4\n.target sm_80\n.visible .entry k() {{ .reg .b32 %r<2>;\nt: .branchtargets {list};\na:\n{jumps} }}"
    );
    assert_eq!(limit(&text), "targets of indexed branches");
}

#[test]
fn many_functions_called_often_are_found_at_once() {
    let mut text = String::from(".version 8.4\n.target sm_80\n");
    for number in 0..40_000 {
        let _ = writeln!(text, ".func f{number}() {{ ret; }}");
    }
    let calls = "call f39999;\n".repeat(40_000);
    let _ = writeln!(text, ".visible .entry k() {{ {calls} ret; }}");
    let start = Instant::now();
    ptx::parse(&text).unwrap().lower("k").unwrap();
    // A search of the list at each call takes some 12 s, a table well under one.
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
}
