//! Campaigns that are killed, interrupted or run out of disk, and what is left of them.

use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::campaign::{Config, Event, Head, Journal, JournalError, Session, Summary, run, run_session};
use attnfuzz::case::Case;
use attnfuzz::outcome::{Fault, FaultKind, Outcome};
use attnfuzz::regression::Finding;
use proptest::prelude::*;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

/// Two bugs, and cases that can't be run. Says so without running anything, until it is `tired`.
struct Quick {
    runs: AtomicU32,
    tired_after: u32,
    tired: Arc<AtomicBool>,
}

impl Quick {
    fn new(tired_after: u32) -> Self {
        Self { runs: AtomicU32::new(0), tired_after, tired: Arc::default() }
    }
}

impl Backend for Quick {
    fn kind(&self) -> BackendKind {
        BackendKind::Emulator
    }

    fn describe(&self) -> String {
        "quick".into()
    }

    fn run(&self, _: &Kernel, case: &Case, _: Run) -> Result<Outcome, BackendError> {
        if self.runs.fetch_add(1, Ordering::SeqCst) == self.tired_after {
            self.tired.store(true, Ordering::SeqCst);
        }
        match (case.shape.q_per_kv, case.shape.head_dim) {
            (5.., 16..) => Ok(Outcome::Fault(Fault::new(FaultKind::OutOfBounds, "one"))),
            (5.., _) => Ok(Outcome::Fault(Fault::new(FaultKind::Trap, "the other"))),
            _ => Err(BackendError::Unsupported("a small group".into())),
        }
    }
}

fn config(backend: Quick, cases: u64) -> Config {
    let kernels = vec![Arc::new(Kernel::open("gqa_decode").unwrap())];
    let base = Config::new(kernels, vec![Arc::new(backend)]);
    Config { cases: Some(cases), seed: 1, jobs: 2, max_findings: 3, max_shrink: 500, ..base }
}

fn head(config: &Config) -> Head {
    Head::new(config, vec!["attnfuzz".into(), "fuzz".into()]).unwrap()
}

/// What must be the same however often a campaign was ended: the findings, and the counters.
fn told(findings: &[Finding], summary: &Summary) -> String {
    let mut rows = summary.rows.clone();
    rows.iter_mut().for_each(|row| row.busy = Duration::ZERO);
    let mut findings: Vec<_> = findings.iter().map(|f| format!("{} {}", f.signature, f.line)).collect();
    findings.sort();
    format!("{findings:#?} {rows:#?}")
}

fn collect(findings: &mut Vec<Finding>) -> impl FnMut(Event) + '_ {
    |event| match event {
        Event::Found(found) | Event::Met(found) => findings.push(found.finding),
        _ => {}
    }
}

/// Goes on with the campaign in a journal.
fn resumed(path: &Path, cases: u64, findings: &mut Vec<Finding>) -> Summary {
    let config = config(Quick::new(u32::MAX), cases);
    let (written, journal) = Journal::open(path).unwrap();
    journal.check(&written, &head(&config)).unwrap();
    run_session(&config, Session { journal: Some(journal), ..Session::default() }, &mut collect(findings))
}

#[test]
fn a_journal_cut_anywhere_goes_on_to_the_same_end() {
    const CASES: u64 = 200;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let config = config(Quick::new(u32::MAX), CASES);
    let mut expected = Vec::new();
    let journal = Some(Journal::create(&path, &head(&config)).unwrap());
    let summary = run_session(&config, Session { journal, ..Session::default() }, &mut collect(&mut expected));
    assert_eq!((expected.len(), summary.rows[0].findings), (2, 2));
    let expected_text = told(&expected, &summary);
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = (0..whole.len()).filter(|&i| whole[i] == b'\n').collect();
    assert!(ends.len() >= 5, "a head, two entries for each of two findings, and the end: {}", ends.len());
    let cut = folder.path().join("cut");
    for length in ends[0] + 1..=whole.len() {
        std::fs::write(&cut, &whole[..length]).unwrap();
        assert!(Journal::open(&cut).is_ok(), "cut after {length} bytes");
        let left = std::fs::read(&cut).unwrap();
        assert!(left.ends_with(b"\n") && left == whole[..left.len()]);
        if length % 211 == 0 || ends.contains(&(length - 1)) {
            // What was found before the cut was told, and saved, before.
            let mut again = expected.clone();
            let summary = resumed(&cut, CASES, &mut again);
            again.sort_by_key(|finding| finding.line.clone());
            again.dedup();
            assert_eq!(told(&again, &summary), expected_text, "cut after {length} bytes");
        }
    }
    assert!(matches!(Journal::create(&path, &head(&config)), Err(JournalError::File { .. })), "nothing is overwritten");
}

#[test]
fn an_interrupted_campaign_goes_on_to_the_same_end() {
    const CASES: u64 = 100;
    let folder = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let summary = run(&config(Quick::new(u32::MAX), CASES), &mut collect(&mut expected));
    let expected = told(&expected, &summary);
    // Interrupted before, while and after things are shrunk.
    let mut shrinking = 0;
    for after in [0, 1, 5, 20, 40, 60, 80, 100, 140, 180] {
        let path = folder.path().join(after.to_string());
        let device = Quick::new(after);
        let stop = device.tired.clone();
        let first = config(device, CASES);
        let journal = Some(Journal::create(&path, &head(&first)).unwrap());
        let mut before = Vec::new();
        let summary = run_session(&first, Session { stop, journal, ..Session::default() }, &mut collect(&mut before));
        assert!(summary.interrupted, "after {after} runs");
        shrinking += usize::from(!before.is_empty());
        let mut findings = Vec::new();
        let summary = resumed(&path, CASES, &mut findings);
        // Found again unless it had been shrunk to its end.
        findings.extend(before.into_iter().filter(|f| expected.contains(&format!("{} {}", f.signature, f.line))));
        findings.sort_by_key(|finding| finding.line.clone());
        findings.dedup_by_key(|finding| finding.line.clone());
        assert_eq!(told(&findings, &summary), expected, "after {after} runs");
    }
    assert!(shrinking > 0);
}

/// The journal of a short campaign.
static WRITTEN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let config = config(Quick::new(u32::MAX), 40);
    let journal = Some(Journal::create(&path, &head(&config)).unwrap());
    run_session(&config, Session { journal, ..Session::default() }, &mut |_| {});
    std::fs::read(&path).unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_damaged_line_is_named(line in 0..4_usize, at in 0.0..1.0, flip in 1..=255_u8) {
        let mut bytes = WRITTEN.clone();
        let mut starts = vec![0];
        starts.extend((0..bytes.len()).filter(|&i| bytes[i] == b'\n').map(|i| i + 1));
        let length = starts[line + 1] - starts[line] - 1;
        let index = starts[line] + (at * length as f64) as usize;
        // A new end of a line makes two wrong ones of it, of which the first is named too.
        bytes[index] ^= flip;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let error = Journal::open(file.path()).map(|_| ()).unwrap_err();
        let JournalError::Damaged { line: named, .. } = error else { panic!("{error}") };
        prop_assert_eq!(named, line + 1);
    }
}

#[test]
fn another_campaign_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let config = config(Quick::new(u32::MAX), 10);
    let written = head(&config);
    let journal = Journal::create(&path, &written).unwrap();
    assert!(journal.check(&written, &written).is_ok());
    let other_seed = head(&Config { seed: 2, ..config.clone() });
    let other_device = head(&Config { backends: vec![Arc::new(Emulator)], ..config });
    for (other, what) in [(other_seed, "first case"), (other_device, "devices")] {
        let error = journal.check(&written, &other).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

const MUTANT: &str = "kernels/mutants/gqa_decode/m01_head_mod.toml";

fn attnfuzz(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::piped()).stderr(Stdio::piped());
    if !args.contains(&"--resume") {
        command.arg("--regressions").arg(folder.join("found")).arg("--journal").arg(folder.join("journal"));
    }
    command
}

const CAMPAIGN: [&str; 11] =
    ["fuzz", MUTANT, "--backend", "emulator", "--cases", "60", "--format", "jsonl", "--jobs", "2", "--max-findings=3"];

/// The last row, without times, and the findings saved.
fn left(folder: &Path, output: &Output) -> (String, Vec<String>) {
    let text = String::from_utf8_lossy(&output.stdout);
    let row = text.lines().rfind(|line| line.contains(r#""event":"row""#)).unwrap_or_else(|| panic!("{output:?}"));
    let mut row: serde_json::Value = serde_json::from_str(row).unwrap();
    for key in ["busy_s", "cases_per_s"] {
        row.as_object_mut().unwrap().remove(key).unwrap();
    }
    let found = Finding::load_all(&folder.join("found")).unwrap().into_iter();
    (row.to_string(), found.map(|(_, f)| format!("{} {}", f.signature, f.line)).collect())
}

#[test]
fn a_killed_campaign_goes_on_to_the_same_end() {
    let folder = tempfile::tempdir().unwrap();
    let output = attnfuzz(folder.path(), &CAMPAIGN).output().unwrap();
    assert_eq!(output.status.code(), Some(100), "{output:?}");
    let expected = left(folder.path(), &output);
    assert!(!expected.1.is_empty());
    // Before anything is found, while the first finding is shrunk, and after.
    for lines in [1, 2, 3] {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal");
        let mut killed = attnfuzz(folder.path(), &CAMPAIGN).stdout(Stdio::null()).spawn().unwrap();
        let written = || std::fs::read_to_string(&journal).unwrap_or_default().lines().count();
        while written() < lines && killed.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        killed.kill().unwrap();
        killed.wait().unwrap();
        let output = attnfuzz(folder.path(), &["fuzz", "--resume", journal.to_str().unwrap()]).output().unwrap();
        assert_eq!(output.status.code(), Some(100), "{output:?}");
        assert_eq!(left(folder.path(), &output), expected, "killed after {lines} lines");
    }
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_a_campaign_with_what_it_found() {
    let folder = tempfile::tempdir().unwrap();
    let program = attnfuzz(folder.path(), &CAMPAIGN);
    // Files of at most 512 or 1024 bytes: more than the head takes, less than an entry or a finding.
    let mut limited = Command::new("sh");
    limited.args(["-c", r#"trap "" XFSZ; ulimit -f 2; exec "$0" "$@""#]).arg(program.get_program());
    limited.args(program.get_args()).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = limited.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(100), "{output:?}");
    for event in [r#""event":"journal_lost""#, r#""event":"found""#, r#""event":"finished""#] {
        assert!(text.contains(event), "{event}: {text}");
    }
    let found = text.lines().find(|line| line.contains(r#""event":"found""#)).unwrap();
    let found: serde_json::Value = serde_json::from_str(found).unwrap();
    assert!(found["not_saved"].is_string() && found["file"].is_null(), "{found}");
}

/// The first waits for the cases under way, which here never end.
#[cfg(target_os = "linux")]
#[test]
fn a_second_interrupt_ends_a_campaign_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["fuzz", "gqa_decode", "--backend=emulator", "--time=10m", "--format=jsonl", "--isolate=yes"];
    let mut command = attnfuzz(folder.path(), &args);
    let mut campaign = command.arg("--case-timeout=10m").spawn().unwrap();
    let journal = folder.path().join("journal");
    let start = Instant::now();
    while std::fs::read_to_string(&journal).unwrap_or_default().lines().count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(300));
        std::thread::sleep(Duration::from_millis(10));
    }
    let signal = |name: &str, pid: u32| {
        Command::new("kill").args([name, &pid.to_string()]).status().unwrap();
    };
    let workers = super::worker::children(campaign.id());
    assert!(!workers.is_empty());
    workers.iter().for_each(|&worker| signal("-STOP", worker));
    signal("-INT", campaign.id());
    std::thread::sleep(Duration::from_secs(1));
    assert!(campaign.try_wait().unwrap().is_none(), "it waits for the cases under way");
    signal("-INT", campaign.id());
    let output = campaign.wait_with_output();
    workers.iter().for_each(|&worker| signal("-CONT", worker));
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains(r#""event":"finished""#));
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_a_campaign_with_its_summary_and_quiet_workers() {
    let folder = tempfile::tempdir().unwrap();
    for isolate in ["--isolate=yes", "--isolate=no"] {
        let folder = tempfile::tempdir_in(folder.path()).unwrap();
        let args = ["fuzz", "gqa_decode", "--backend=emulator", "--time=10m", "--format=jsonl", isolate];
        let campaign = attnfuzz(folder.path(), &args).spawn().unwrap();
        let journal = folder.path().join("journal");
        let start = Instant::now();
        while std::fs::read_to_string(&journal).unwrap_or_default().lines().count() < 2 {
            assert!(start.elapsed() < Duration::from_secs(300));
            std::thread::sleep(Duration::from_millis(10));
        }
        Command::new("kill").args(["-INT", &campaign.id().to_string()]).status().unwrap();
        let output = campaign.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(r#""interrupted":true"#));
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}
