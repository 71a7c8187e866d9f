//! `attnfuzz emulate`, run as a user runs it.

use std::fmt::Write;
use std::path::Path;
use std::process::{Command, Output};

const SAXPY: &str = "tests/emulate/saxpy.ptx";
const REDUCE: &str = "tests/emulate/reduce.ptx";
const PAIR: &str = "tests/emulate/pair.ptx";

/// `attnfuzz emulate` with these words, and after them one `--arg` for each of `arguments`.
fn emulate(words: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).arg("emulate").args(words.split_whitespace());
    for argument in arguments {
        command.args(["--arg", argument]);
    }
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a run that must end with `code` says, on both streams.
fn ends(code: i32, words: &str, arguments: &[&str]) -> String {
    let output = emulate(words, arguments);
    let text = stdout(&output) + &String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words} {arguments:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[test]
fn saxpy_computes_and_counts() {
    let arguments = ["u32:100", "f32:2", "ro:buf:f32:100:iota", "buf:f32:100:=0.5"];
    let text = ends(0, &format!("{SAXPY} --grid 4 --block 32 --print y:f32:10 --trace-stats"), &arguments);
    assert!(text.starts_with("saxpy: no rule broken, "), "{text}");
    assert!(
        text.contains(
            "y: 100 elements of f32, the first 10\n       0: 0.5 2.5 4.5 6.5 8.5 10.5 12.5 14.5\n       8: 16.5 18.5\n"
        ),
        "{text}"
    );
    assert!(text.contains("buffer    x: 0 of 400 bytes written\nbuffer    y: 400 of 400 bytes written"), "{text}");
}

#[test]
fn coverage_tells_the_outcomes_of_guards_and_comparisons() {
    let arguments = ["u32:40", "f32:2", "buf:f32:40:zero", "buf:f32:40:zero"];
    let text = ends(0, &format!("{SAXPY} --grid 2 --block 32 --coverage"), &arguments);
    let expected = "\
coverage  2 of 2 guards and comparisons reached; lanes they held for:
  ptx 19: result none, some: setp.ge.u32 %p1, %r5, %r1;
  ptx 20: guard none, some: @%p1 bra DONE;
";
    assert!(text.ends_with(expected), "{text}");
}

#[test]
fn any_schedule_gives_the_same_sums() {
    for seed in 0..4 {
        let words = format!("{REDUCE} --entry reduce --grid 3 --block 64 --seed {seed} --print out");
        let text = ends(0, &words, &["ro:buf:u32:192:iota", "buf:u32:4:uninit"]);
        assert!(text.ends_with("out: 4 elements of u32\n       0: 2016 6112 10208 ?\n"), "{text}");
    }
}

#[test]
fn a_race_names_both_parties() {
    let words = format!("{REDUCE} --entry reduce_racy --grid 1 --block 64 --shared 256");
    let text = ends(100, &words, &["buf:u32:64:iota", "buf:u32:64:zero"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "error: shared race in `reduce_racy`", "{text}");
    let parties = [lines[1].strip_prefix("  --> ").unwrap(), lines[3].strip_prefix("   = and: ").unwrap()];
    assert!(parties[0].starts_with("reduce.cu:42, ptx 69: ld.shared.u32"), "{text}");
    assert!(parties[1].starts_with("reduce.cu:41, ptx 64: st.shared.u32"), "{text}");
    for party in parties {
        assert!(
            party.contains("block 0,0,0 warp ") && party.contains(" lane ") && party.contains(" thread "),
            "{text}"
        );
    }
}

#[test]
fn an_access_past_the_end_names_the_buffer() {
    let arguments = ["u32:33", "f32:2", "k=ro:buf:f32:32:iota", "buf:f32:64:zero"];
    let text = ends(100, &format!("{SAXPY} --grid 2 --block 32 --print 4:f32:1"), &arguments);
    assert!(text.starts_with("error: out of bounds in `saxpy`\n  --> ptx 26: ld.global.f32 %f2, [%rd4];"), "{text}");
    assert!(text.contains("block 1,0,0 warp 0 lane 0") && text.contains("`k`, 4 bytes past the end"), "{text}");
    assert!(text.contains("y: 64 elements of f32, the first 1"), "{text}");
}

#[test]
fn other_broken_rules_exit_100_too() {
    let read_only = ["u32:1", "f32:2", "buf:f32:1:zero", "ro:buf:f32:1:zero"];
    assert!(ends(100, &format!("{SAXPY} --grid 1 --block 1"), &read_only).contains("`y`, which is read-only"));
    let uninitialised = ["u32:1", "f32:2", "buf:f32:1:uninit", "buf:f32:1:zero"];
    assert!(ends(100, &format!("{SAXPY} --grid 1 --block 1"), &uninitialised).contains("which nothing has written"));
    let hung = ["u32:64", "f32:2", "buf:f32:64:zero", "buf:f32:64:zero"];
    assert!(ends(100, &format!("{SAXPY} --grid 2 --block 32 --budget 8"), &hung).contains("the kernel hangs"));
}

#[test]
fn what_was_printed_and_reached_before_the_fault_is_told() {
    let words = "tests/emulate/prints_then_traps.ptx --grid 1 --block 32 --coverage --trace-stats";
    let text = ends(100, words, &["u32:7"]);
    assert!(text.starts_with("n=7\nerror: trap in `prints_then_traps`"), "{text}");
    assert!(text.contains("of lanes active on average") && text.contains("2 of 2"), "{text}");
}

#[test]
fn structs_are_given_by_field_or_as_bytes() {
    let words = format!("{PAIR} --grid 1 --block 32 --print 1.1");
    let text = ends(0, &format!("{PAIR} --grid 1 --block 32 --print out"), &["{out=buf:u32:4:uninit, u32:3, f32:1.5}"]);
    assert!(text.starts_with("n=3 a=1.5\npair: no rule broken"), "{text}");
    assert!(text.contains("out: 4 elements of u32\n       0: 0 2 3 ?"), "{text}");
    assert!(
        ends(2, &words, &["{buf:u32:4:uninit, u32:3, f32:1.5}"])
            .contains("--print 1.1: expected the name of a buffer (`s.1`)")
    );
    let text = ends(100, &format!("{PAIR} --grid 1 --block 32"), &["hex:00000000000000000300000000000040"]);
    assert!(text.starts_with("error: out of bounds in `pair`"), "{text}");
}

#[test]
fn files_come_in_and_go_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let values: Vec<u8> = (0..64u32).flat_map(|i| (i * 3).to_le_bytes()).collect();
    std::fs::write(folder.path().join("in"), values).unwrap();
    let words = format!("{REDUCE} --entry reduce --grid 1 --block 64 --print in:u32:3 --write sum={}", path("out"));
    let text = ends(0, &words, &[&format!("ro:file:{}", path("in")), "sum=buf:u32:1:uninit"]);
    assert!(text.ends_with("in: 64 elements of u32, the first 3\n       0: 0 3 6\n"), "{text}");
    assert_eq!(std::fs::read(folder.path().join("out")).unwrap(), (2016 * 3u32).to_le_bytes());
}

#[test]
fn kernels_are_listed_with_their_parameters() {
    let text = ends(0, &format!("{REDUCE} --list"), &[]);
    let expected = "\
reduce: 256 bytes of static shared memory, at most 64 threads a block
  1  .u64  in
  2  .u64  out
reduce_racy: 0 bytes of static shared memory, at most 1024 threads a block
  1  .u64  in
  2  .u64  out
";
    assert_eq!(text, expected);
    assert!(ends(0, &format!("{PAIR} --list"), &[]).contains("\n  1  16 bytes  s\n"));
    assert!(ends(0, "tests/emulate/unsupported.ptx --list", &[]).starts_with("k: can't be run: line 7, "));
    for path in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")).unwrap() {
        let file = path.unwrap().path().join("kernel.ptx");
        if file.exists() {
            assert!(ends(0, &format!("{} --list", file.display()), &[]).contains("\n  1  "), "{}", file.display());
        }
    }
}

#[test]
fn wrong_use_exits_2_and_says_what_was_expected() {
    let good = ["u32:1", "f32:2", "buf:f32:1:zero", "buf:f32:1:zero"];
    let run = format!("{SAXPY} --grid 1 --block 1");
    let with = |index: usize, argument| {
        let mut arguments = good;
        arguments[index] = argument;
        arguments
    };
    let list = "the parameters of `saxpy` are:\n  1  .u32  n\n  2  .f32  a\n  3  .u64  x\n  4  .u64  y\n";
    for (arguments, message) in [
        (&good[..3], "error: expected 4 --arg, found 3"),
        (&with(0, "f32:1"), "error: --arg 1 (f32:1): expected .u32 for `n`, found .f32"),
        (&with(0, "u32:-1"), "error: --arg 1 (u32:-1): expected an integer of 0 to 4294967295 for u32, found \"-1\""),
        (&with(1, "1.5"), "error: --arg 2 (1.5): expected buf, file, hex, ptr, null, {…} or a type"),
        (&with(2, "f32:1"), "error: --arg 3 (f32:1): expected .u64 for `x`, found .f32"),
        (&with(2, "buf:f32:1"), "error: --arg 3 (buf:f32:1): expected buf:TYPE:COUNT:FILL"),
        (&with(3, "file:/nowhere"), "error: --arg 4 (file:/nowhere): can't read /nowhere"),
    ] {
        let text = ends(2, &run, arguments);
        assert!(text.starts_with(message) && text.ends_with(list), "{text}");
    }
    for (words, message) in [
        (SAXPY.to_owned(), "--grid"),
        (format!("{SAXPY} --grid 1,1,1,1 --block 1"), "expected up to three numbers, found 4"),
        (format!("{SAXPY} --grid x --block 1"), "expected a number, found \"x\""),
        (format!("{SAXPY} --grid 1 --block 1025"), "error: bad launch: a block of 1025 x 1 x 1 threads"),
        (format!("{run} --shared 999999"), "error: bad launch: 999999 bytes of shared memory"),
        (format!("{run} --print z"), "--print z: expected the name of a buffer (`x`, `y`)"),
        (format!("{run} --print y:float"), "expected a type (u8 "),
        (format!("{run} --print y:f32:all"), "expected a number of elements, found \"all\""),
        (format!("{run} --write y"), "--write y: expected NAME=PATH"),
        (format!("{run} --write y=/nowhere/at/all"), "can't write /nowhere/at/all"),
        (format!("{run} --entry other"), "expected --entry to be one of these, found \"other\":\n  saxpy"),
        (format!("{REDUCE} --grid 1 --block 1"), "expected --entry, since there are several:\n  reduce\n  reduce_racy"),
        ("/nowhere.ptx --list".into(), "can't read /nowhere.ptx"),
        ("/dev/zero --list".into(), "expected a regular file"),
        ("tests/ptx/fail/bad_character.ptx --list".into(), "bad_character.ptx: line "),
    ] {
        let text = ends(2, &words, &good);
        assert!(text.contains(message), "{words}: {text}");
    }
}

#[test]
fn what_the_emulator_cannot_run_exits_4() {
    let text = ends(4, "tests/emulate/unsupported.ptx --grid 1 --block 1", &[]);
    assert!(text.contains("line 7, column 2: `frobnicate.b32` is not supported"), "{text}");
    assert!(text.contains("a limit of this emulator, not a fault of the kernel"), "{text}");
}

/// No mistyped argument may crash the program: each gives one message.
#[test]
fn mangled_arguments_are_refused_or_run() {
    let good = ["u32:1", "f32:2", "ro:buf:f32:4:random:3", "{buf:f32:4:=1}"];
    for argument in good {
        for cut in (0..argument.len()).step_by(3) {
            let mut arguments = ["u32:1", "f32:2", "buf:f32:4:zero", "buf:f32:4:zero"].map(String::from);
            let mut mangled = argument.to_owned();
            let _ = write!(mangled, "{}", &argument[cut..]);
            arguments[2] = mangled;
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let code = emulate(&format!("{SAXPY} --grid 1 --block 1"), &arguments).status.code();
            assert!(matches!(code, Some(0 | 2)), "{arguments:?}: {code:?}");
        }
    }
}
