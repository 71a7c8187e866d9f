//! Cases under compute-sanitizer, played by a script that starts the worker as the tool does and prints what it prints.

#![cfg(unix)]

use attnfuzz::backend::{BackendError, BackendKind, Emulator, Kernel};
use attnfuzz::campaign::{Config, Event, Found, Sanitizing, Session, Summary, minimise, run_session};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Examiner, Verdict};
use attnfuzz::outcome::FaultKind;
use attnfuzz::regression::Store;
use attnfuzz::worker::{Sanitizer, Tool, is_sanitized};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Runs the worker, then writes the log of the tool: with what it found if a case has more than four query heads a KV head,
/// unless `mode` says otherwise. Remembers how it was called.
const SCRIPT: &str = r#"#!/bin/sh
logs="@LOGS@"; mode="@MODE@"
while :; do case "$1" in
    --tool) tool=$2; shift 2;;
    --log-file) log=$2; shift 2;;
    --*) shift 2;;
    *) break;;
esac; done
input=$(cat)
echo "$tool $(printf '%s\n' "$input" | wc -l)" >> "$0.calls"
clean=clean; [ "$tool" = racecheck ] && clean=clean_racecheck
case "$mode" in
    unsupported|api_error) printf '%s\n' "$input" | "$@"; cat "$logs/$mode.log" > "$log"; exit 1;;
    no_worker) cat "$logs/clean.log" > "$log"; exit 0;;
    dies) "$@" < /dev/null; cat "$logs/clean.log" > "$log"; exit 1;;
esac
printf '%s\n' "$input" | "$@" || exit $?
if [ "$tool" = "$mode" ] && printf '%s\n' "$input" | grep -qE ' g=([5-9]|[1-9][0-9])'; then
    cat "$logs/$tool.log" > "$log"
else
    cat "$logs/$clean.log" > "$log"
fi
"#;

fn script(folder: &Path, mode: &str) -> PathBuf {
    let logs = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sanitizer");
    let file = folder.join("compute-sanitizer");
    fs::write(&file, SCRIPT.replace("@LOGS@", &logs.display().to_string()).replace("@MODE@", mode)).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file
}

/// The real worker, with the emulator in place of the GPU.
fn worker(kernel: &Kernel, limit: Duration) -> Vec<OsString> {
    let limit = format!("{}s", limit.as_secs());
    let words = ["worker", "--backend", "emulator", "--bare", &kernel.reference(), "--limit", &limit, "--content"];
    let content = kernel.content_hash().to_string();
    [env!("CARGO_BIN_EXE_attnfuzz")].into_iter().chain(words).chain([&*content]).map(OsString::from).collect()
}

fn sanitizer(folder: &Path, mode: &str, tools: &[Tool]) -> Sanitizer {
    let on = (BackendKind::Cuda, "stand-in");
    Sanitizer::new(script(folder, mode), tools.to_vec(), on, Duration::from_secs(60), worker)
}

/// How often the script was started, with which tool and how many cases.
fn calls(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("compute-sanitizer.calls")).unwrap_or_default();
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn case(group: u32) -> Case {
    format!("kv=1 g={group} d=8 past=3 dtype=f32 cache=hnd:4 scale=1 values=normal:0").parse().unwrap()
}

#[test]
fn the_guilty_case_of_several_is_found_by_the_tool_that_sees_it() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    for (tool, kind) in [
        (Tool::Memcheck, FaultKind::OutOfBounds),
        (Tool::Racecheck, FaultKind::Race),
        (Tool::Initcheck, FaultKind::UninitialisedRead),
        (Tool::Synccheck, FaultKind::DivergentBarrier),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let sanitizer = sanitizer(folder.path(), tool.name(), &Tool::ALL);
        let told = sanitizer.check_each(&kernel, &[case(2), case(5), case(4)]);
        assert_eq!((&told[0], &told[2]), (&Ok(None), &Ok(None)));
        let Ok(Some(fault)) = &told[1] else { panic!("{:?}", told[1]) };
        assert_eq!(fault.kind, kind);
        assert!(fault.detail.starts_with(tool.name()), "{}", fault.detail);
        let alone = calls(folder.path()).iter().filter(|call| **call == format!("{tool} 1")).count();
        assert_eq!(alone, 3, "{:?}", calls(folder.path()));
    }
    let folder = tempfile::tempdir().unwrap();
    let told = sanitizer(folder.path(), "none", &Tool::ALL).check_each(&kernel, &[case(2), case(5)]);
    assert_eq!(told, [Ok(None), Ok(None)]);
    assert_eq!(calls(folder.path()), ["memcheck 2", "racecheck 2", "initcheck 2", "synccheck 2"]);
}

/// Whatever keeps the tool from looking at a case is said, and is no pass.
#[test]
fn a_tool_that_did_not_look_says_nothing_of_the_kernel() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    for (mode, expected) in [
        ("unsupported", "Device not supported"),
        ("api_error", "counts 1 errors"),
        ("no_worker", "its last words"),
        ("dies", "ended before the case was done"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let sanitizer = sanitizer(folder.path(), mode, &[Tool::Memcheck]);
        let told = sanitizer.check_each(&kernel, &[case(2), case(3)]);
        for told in told {
            let error = told.as_ref().map_err(BackendError::to_string).unwrap_err();
            assert!(error.contains(expected), "{mode}: {error}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let missing = Sanitizer::new(
        folder.path().join("nothing"),
        vec![Tool::Memcheck],
        (BackendKind::Cuda, "none"),
        Duration::from_secs(9),
        worker,
    );
    assert!(matches!(missing.examine(&kernel, &case(2)), Err(BackendError::Unavailable(_))));
}

struct Told {
    found: Vec<Found>,
    summary: Summary,
}

fn campaign(kernel: &str, jobs: usize, every: u64, folder: &Path, sanitizer: Result<Sanitizer, String>) -> Told {
    let config = Config {
        cases: Some(60),
        seed: 4,
        jobs,
        max_shrink: 12,
        store: Some(Store::new(folder)),
        ..Config::new(vec![Arc::new(Kernel::open(kernel).unwrap())], vec![Arc::new(Emulator)])
    };
    let mut found = Vec::new();
    let session =
        Session { sanitizing: Sanitizing { by_backend: vec![sanitizer.map(Arc::new)], every }, ..Session::default() };
    let summary = run_session(&config, session, &mut |event| {
        if let Event::Found(event) | Event::Met(event) = event {
            found.push(*event);
        }
    });
    Told { found, summary }
}

#[test]
fn what_only_the_sanitizer_sees_is_found_shrunk_and_saved_whatever_the_number_of_threads() {
    let found = [1, 3].map(|jobs| {
        let folder = tempfile::tempdir().unwrap();
        let sanitizer = sanitizer(folder.path(), "racecheck", &[Tool::Racecheck]);
        let told = campaign("gqa_decode", jobs, 4, folder.path(), Ok(sanitizer));
        let [found] = &told.found[..] else { panic!("{:?}", told.found) };
        let finding = &found.finding;
        assert_eq!(finding.signature.to_string(), "fault race at kernel.cu:173");
        assert_eq!(finding.backend, "stand-in under compute-sanitizer (racecheck)");
        assert!(finding.case.shape.q_per_kv > 4 && found.executions > 4, "{} {}", finding.line, found.executions);
        assert!(matches!(found.saved, Some(Ok(_))));
        let row = &told.summary.rows[0];
        assert!(row.sanitized > 0 && row.unsanitized.is_empty() && row.findings == 1);
        finding.line.clone()
    });
    assert_eq!(found[0], found[1]);
}

#[test]
fn a_clean_kernel_has_one_case_in_so_many_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let sanitizer = sanitizer(folder.path(), "none", &[Tool::Memcheck]);
    let told = campaign("gqa_decode", 2, 4, folder.path(), Ok(sanitizer));
    assert!(told.found.is_empty());
    assert_eq!(told.summary.rows[0].sanitized, 15);
    assert_eq!(calls(folder.path()), ["memcheck 15"], "together");
}

/// The finding of a value gets the race that explains it beside it.
#[test]
fn a_finding_s_case_is_looked_at_too() {
    let folder = tempfile::tempdir().unwrap();
    let sanitizer = sanitizer(folder.path(), "racecheck", &[Tool::Racecheck]);
    let mutant = "kernels/mutants/gqa_decode/m02_group_padded_to_power_of_two.toml";
    let told = campaign(mutant, 2, 1000, folder.path(), Ok(sanitizer));
    let classes: Vec<_> = told.found.iter().map(|found| &*found.finding.signature.class).collect();
    assert_eq!(classes[0], "diverge out value");
    assert!(classes.len() == 1 || classes == ["diverge out value", "fault race"], "{classes:?}");
    // Of two query heads a KV head the stand-in says nothing, and the case as it was found is tried as well.
    let looked = told.summary.rows[0].sanitized;
    assert!((1..=2).contains(&looked), "{looked}");
}

#[test]
fn a_missing_tool_is_a_skip_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let told = campaign("gqa_decode", 2, 4, folder.path(), Err("compute-sanitizer is not installed: gone".into()));
    let row = &told.summary.rows[0];
    assert_eq!(row.sanitized, 0);
    assert_eq!(
        row.unsanitized.iter().collect::<Vec<_>>(),
        [(&"compute-sanitizer is not installed: gone".to_owned(), &15)]
    );
    assert!(told.summary.lacks_sanitizer());
}

fn attnfuzz(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

/// What `attnfuzz shrink --sanitize` does: the case that only a tool complains about is made smaller by what the tool says, and one
/// that it says nothing of fails nowhere.
#[test]
fn a_case_that_only_the_sanitizer_sees_is_shrunk_by_what_it_sees() {
    let folder = tempfile::tempdir().unwrap();
    let kernel = Kernel::open("gqa_decode").unwrap();
    let tool = sanitizer(folder.path(), "racecheck", &[Tool::Racecheck]);
    assert!(matches!(tool.examine(&kernel, &case(4)).unwrap().verdict, Verdict::Agree(_)));
    assert!(matches!(Emulator.examine(&kernel, &case(7)).unwrap().verdict, Verdict::Agree(_)));
    let verdict = tool.examine(&kernel, &case(7)).unwrap().verdict;
    let minimised = minimise(&kernel, &tool, &case(7), &verdict, "a test".into(), 60).unwrap();
    assert_eq!(minimised.finding.signature.class, "fault race");
    assert_eq!(minimised.finding.line, "kv=1 g=5 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    assert!(is_sanitized(&minimised.finding.backend) && minimised.finding.flaky.is_none());
}

/// The emulator is no GPU: it is not what `--sanitize` asks for, and nothing passes there instead.
#[test]
fn shrinking_under_the_sanitizer_takes_a_gpu() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["shrink", "--backend=emulator", "--kernel=gqa_decode", &case(7).to_string(), "--regressions"];
    let exit = |more: &[&str]| {
        let output = attnfuzz(&args).arg(folder.path()).args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, text) = exit(&["--sanitize"]);
    assert!(code == Some(4) && text.contains("compute-sanitizer watches GPUs only"), "{code:?} {text}");
    let (code, text) = exit(&[]);
    assert!(code == Some(0) && text.contains("does not fail on emulator"), "{code:?} {text}");
}

#[test]
fn the_program_says_that_nothing_was_looked_at_and_does_not_pass() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["fuzz", "gqa_decode", "--backend=emulator", "--cases=3", "--sanitize", "--regressions"];
    let output = attnfuzz(&args).arg(folder.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(text.contains("NOT looked at by compute-sanitizer: 1 cases of gqa_decode on emulator"), "{text}");
    let output = attnfuzz(&["fuzz", "--sanitize=memcheck,valgrind"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("valgrind"), "{output:?}");
    let missing = folder.path().join("nothing");
    let output = attnfuzz(&["doctor"]).env("ATTNFUZZ_COMPUTE_SANITIZER", &missing).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("sanitizer  missing") && text.contains(&*missing.to_string_lossy()), "{text}");
    let there = script(folder.path(), "none");
    let output = attnfuzz(&["doctor"]).env("ATTNFUZZ_COMPUTE_SANITIZER", &there).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains(&*there.to_string_lossy()));
}
