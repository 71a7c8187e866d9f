//! Short texts, PTX and manifests, that ask for more time or memory than their size: each must be refused soon.

use attnfuzz::backend::manifest::Manifest;
use attnfuzz::backend::{Backend, BackendError, Emulator, Kernel, Run};
use attnfuzz::harness::manifest::check;
use attnfuzz::ptx::{self, Error};
use std::fmt::Write;
use std::path::Path;
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

const MANIFEST: &str = include_str!("manifests/params.toml");

fn replaced(from: &str, to: &str) -> String {
    assert!(MANIFEST.contains(from), "{from}");
    MANIFEST.replacen(from, to, 1)
}

/// The error of a manifest, which must come within seconds.
fn refused(text: &str) -> String {
    let start = Instant::now();
    let error = Manifest::parse(Path::new("k.toml"), text).expect_err("it is refused").to_string();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    check(text);
    assert!(error.len() < 2000, "{} bytes", error.len());
    error
}

#[test]
fn manifests_with_huge_or_deep_parts_are_refused_by_line_and_key() {
    let in_null = |arg: &str| replaced("{ null = true }", arg);
    let deep = |depth: usize| {
        let (open, close) = ("{ struct = [".repeat(depth), "] }".repeat(depth));
        in_null(&format!("{open}{{ null = true }}{close}"))
    };
    let error = refused(&deep(9));
    assert!(error.starts_with("k.toml:52: launch.args[10].struct[0]"), "{error}");
    assert!(error.ends_with("expected at most 4 structs inside of each other, found more"), "{error}");
    // Deeper than the TOML reader goes.
    assert!(refused(&deep(2000)).starts_with("k.toml:52: "));
    let fields = "{ value = \"1\", type = \"f64\" }, ".repeat(513);
    let error = refused(&in_null(&format!("{{ struct = [{fields}] }}")));
    assert!(error.contains("launch.args[10].struct[512]: expected a struct of at most 4096 bytes"), "{error}");
    let error = refused(&in_null("{ struct = [{ null = true, at = 18446744073709551615 }] }"));
    assert!(error.starts_with("k.toml:52: "), "{error}");
    let error = refused(&in_null("{ struct = [{ null = true, at = 9223372036854775807 }] }"));
    assert!(error.contains("at most 4096 bytes"), "{error}");
    for text in ["(".repeat(900), "-".repeat(900), "1+".repeat(400), "1^".repeat(400) + "1 +", "!".repeat(999)] {
        let error = refused(&replaced("grid = [\"num_kv_heads\"", &format!("grid = [\"{text}\"")));
        assert!(error.starts_with("k.toml:32: launch.grid: expected an expression"), "{error}");
    }
    let error = refused(&replaced("entry = \"params\"", &format!("entry = \"{}\"", "{dtype}".repeat(1000))));
    assert!(error.starts_with("k.toml:31: launch.entry: expected 1 to 1000 characters"), "{error}");
    assert!(refused(&replaced("\"1..=3\"", "\"1..=99999999999\"")).starts_with("k.toml:"));
    assert!(refused(&"[".repeat(100_000)).starts_with("k.toml:1: "));
    assert!(refused(&"a.".repeat(50_000)).starts_with("k.toml:1: "));
    assert!(refused(&format!("x = {}", "[".repeat(100_000))).starts_with("k.toml:1: "));
}

#[test]
fn expressions_that_are_legal_and_long_end() {
    for text in ["1+".repeat(499) + "1", "head_dim^".repeat(110) + "2", "-".repeat(999) + "1", "1 < ".repeat(249) + "1"]
    {
        let start = Instant::now();
        check(&replaced("grid = [\"num_kv_heads\"", &format!("grid = [\"{text}\"")));
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
}

#[test]
fn sizes_that_no_machine_has_are_no_launch() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    for (from, to, expected) in [
        ("dim = \"1\" }", "dim = \"10^9\" }", "layout.v_new: expected at most 2147483648 elements"),
        ("dim = \"1\" }", "dim = \"10^300\" }", "layout.v_new: expected \"10^300\" to be a whole number from 0 to"),
        (
            "out = \"head, token, dim\"",
            "out = \"999999999 of 10^9, head, token, dim\"",
            "layout.out: expected at most 2147483648 elements",
        ),
        (
            "out = \"head, token, dim\"",
            "out = \"head, token, dim / 10^300, dim\"",
            "layout.out: expected \"10^300\" to be a whole number from 1 to",
        ),
        (
            "out = \"head, token, dim\"",
            "out = \"head, token, dim / (head_dim - head_dim), dim\"",
            "to be a whole number from 1 to 2147483648, found 0",
        ),
        (
            "offset = \"element_bytes\"",
            "offset = \"2^60\"",
            "expected \"2^60\" to be a whole number from 0 to 1099511627776",
        ),
        ("block = [\"1\"", "block = [\"2^40\"", "expected \"2^40\" to be a whole number from 1 to 4294967295"),
        ("block = [\"1\"", "block = [\"0 / 0\"", "found NaN"),
    ] {
        let copy = tempfile::tempdir().unwrap();
        for name in ["params.cu", "params.ptx"] {
            std::fs::copy(folder.join(name), copy.path().join(name)).unwrap();
        }
        let path = copy.path().join("k.toml");
        std::fs::write(&path, replaced(from, to)).unwrap();
        let kernel = Kernel::open(&path.to_string_lossy()).unwrap();
        let case = (0..).map(|index| kernel.space().case_at(0, index)).find(|case| case.shape.head_dim > 8).unwrap();
        match Emulator.run(&kernel, &case, Run::first(&case)) {
            Err(BackendError::Launch(why)) => assert!(why.contains(expected), "{why}"),
            other => panic!("{to}: {other:?}"),
        }
    }
}
