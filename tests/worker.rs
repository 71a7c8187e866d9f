//! Kernels in processes of their own: what dies, what is blamed, and that nothing else changes.

mod stand_in;

use attnfuzz::backend::{BackendError, BackendKind, Emulator, Kernel};
use attnfuzz::campaign::{Config, Effort, Event, Found, Summary, minimise, run};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Examined, Examiner, Verdict};
use attnfuzz::outcome::FaultKind;
use attnfuzz::report::human;
use attnfuzz::worker::{Isolated, Options};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Cases under way at once in one worker.
const THREADS: usize = 4;

fn options(limit: Duration) -> Options {
    Options { threads: THREADS, limit, outputs: false }
}

fn stand_in(mode: &'static str, folder: &Path) -> Isolated {
    // Short where it has to be waited for; else nothing may time out, however busy the machine is.
    let limit =
        if ["hang", "silence", "late"].contains(&mode) { Duration::from_secs(4) } else { Duration::from_secs(300) };
    Isolated::open(BackendKind::Cuda, options(limit), stand_in::launch(mode, &folder.join("met"))).unwrap()
}

/// The emulator in workers of the real program.
fn emulator(outputs: bool) -> Isolated {
    let options = Options { outputs, ..options(Duration::from_secs(300)) };
    Isolated::open(BackendKind::Emulator, options, |threads| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
        command.args(["worker", "--backend", "emulator", "--threads", &threads.to_string()]);
        command
    })
    .unwrap()
}

/// What a campaign tells that it must tell in the same way however it is run.
struct Told {
    found: Vec<Found>,
    internal: Vec<String>,
    lost: Vec<String>,
    summary: Summary,
}

fn campaign(kernel: &str, backend: Arc<dyn Examiner>, cases: u64, max_shrink: u32) -> Told {
    let config = Config {
        cases: Some(cases),
        seed: 4,
        jobs: THREADS,
        max_findings: 2,
        max_shrink,
        ..Config::new(vec![Arc::new(Kernel::open(kernel).unwrap())], vec![backend])
    };
    let (mut found, mut internal, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    let summary = run(&config, &mut |event| match event {
        Event::Found(event) | Event::Met(event) => found.push(*event),
        Event::Internal { message, .. } => internal.push(message),
        Event::BackendLost { why, .. } => lost.push(why),
        _ => {}
    });
    Told { found, internal, lost, summary }
}

const GOOD: &str = "kv=1 g=2 d=8 past=3 dtype=f32 cache=hnd:4 scale=1 values=normal:0";
const BAD: &str = "kv=1 g=5 d=8 past=3 dtype=f32 cache=hnd:4 scale=1 values=normal:0";

fn examined(examiner: &dyn Examiner, case: &str) -> Result<Examined, BackendError> {
    examiner.examine(&Kernel::open("gqa_decode").unwrap(), &case.parse::<Case>().unwrap())
}

#[test]
fn a_kernel_that_ends_its_process_is_found_and_shrunk_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    for (mode, class, detail) in [
        ("abort", "fault crash", "the device fell off the bus"),
        ("exit", "fault crash", "exit status: 3"),
        ("spoil", "fault out-of-bounds", "illegal address"),
    ] {
        let told = campaign("gqa_decode", Arc::new(stand_in(mode, folder.path())), 100, 2000);
        let [found] = &told.found[..] else { panic!("{mode}: {:?}", told.found) };
        assert_eq!(found.finding.signature.class, class);
        assert_eq!(found.finding.line, "kv=1 g=5 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", "{mode}");
        assert!(found.finding.fault.as_ref().unwrap().detail.contains(detail), "{:?}", found.finding.fault);
        assert_eq!(found.finding.flaky, None);
        let row = &told.summary.rows[0];
        assert_eq!((row.cases, row.findings, row.skipped.len()), (100, 1, 0), "{mode}");
        assert!(told.internal.is_empty() && told.lost.is_empty() && told.summary.unconfirmed.is_empty(), "{mode}");
    }
}

#[test]
fn a_case_that_never_ends_is_a_hang_and_the_next_one_is_judged() {
    let folder = tempfile::tempdir().unwrap();
    for mode in ["hang", "silence"] {
        let device = stand_in(mode, folder.path());
        let Verdict::Fault(fault) = examined(&device, BAD).unwrap().verdict else { panic!() };
        assert_eq!(fault.kind, FaultKind::Hang);
        assert!(matches!(examined(&device, GOOD).unwrap().verdict, Verdict::Agree(_)));
        assert_eq!(device.unconfirmed().deaths, 0);
    }
}

#[test]
fn a_death_that_does_not_come_back_is_counted_and_blames_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let told = campaign("gqa_decode", Arc::new(stand_in("abort-once", folder.path())), 60, 100);
    assert!(told.found.is_empty() && told.internal.is_empty() && told.lost.is_empty());
    assert_eq!(told.summary.rows[0].cases, 60);
    let [(device, unconfirmed)] = &told.summary.unconfirmed[..] else { panic!("{:?}", told.summary.unconfirmed) };
    assert_eq!((&**device, unconfirmed.deaths), ("stand-in", 1));
}

/// What another case writes out of its bounds may be in this one's memory.
#[test]
fn a_failure_is_a_finding_only_if_it_comes_back_alone() {
    let folder = tempfile::tempdir().unwrap();
    let suffers = campaign("gqa_decode", Arc::new(stand_in("suffers", folder.path())), 60, 100);
    assert!(suffers.found.is_empty() && suffers.internal.is_empty() && suffers.lost.is_empty());
    let row = &suffers.summary.rows[0];
    assert_eq!((row.cases, row.failing), (60, 0));
    let [(_, unconfirmed)] = &suffers.summary.unconfirmed[..] else { panic!("{:?}", suffers.summary.unconfirmed) };
    assert!(unconfirmed.deaths == 0 && unconfirmed.failures > 0);
    assert!(unconfirmed.last.as_ref().unwrap().starts_with("diverge out value, with the case kv="), "{unconfirmed:?}");
    assert!(human::summary(&suffers.summary).contains("a case failed on stand-in beside others and did not alone"));

    let wrong = campaign("gqa_decode", Arc::new(stand_in("wrong", folder.path())), 60, 100);
    let [found] = &wrong.found[..] else { panic!("{:?}", wrong.found) };
    assert_eq!(found.finding.signature.class, "diverge out value");
    assert!(wrong.summary.unconfirmed.is_empty() && wrong.summary.rows[0].failing > 1);
}

#[test]
fn a_sick_device_is_no_finding() {
    let folder = tempfile::tempdir().unwrap();
    let told = campaign("gqa_decode", Arc::new(stand_in("sick", folder.path())), 60, 100);
    assert!(told.found.is_empty() && told.internal.is_empty());
    let [why] = &told.lost[..] else { panic!("{:?}", told.lost) };
    assert!(why.starts_with("stand-in does not get a case right that any should"), "{why}");
}

/// Deaths come of cases that the kernel gets right too, of another kind than the finding's or just of its kind: without another
/// look at the device they would pass for smaller cases that fail.
#[test]
fn a_device_that_goes_bad_while_a_finding_is_shrunk_is_lost_and_the_finding_stays_true() {
    for mode in ["sick-later", "sick-alike"] {
        let folder = tempfile::tempdir().unwrap();
        let told = campaign("gqa_decode", Arc::new(stand_in(mode, folder.path())), 100, 2000);
        let [found] = &told.found[..] else { panic!("{mode}: {:?}", told.found) };
        assert_eq!(found.finding.signature.class, "fault crash");
        assert!(found.finding.fault.as_ref().unwrap().detail.contains("signal: 6"), "{:?}", found.finding.fault);
        assert!(found.finding.case.shape.q_per_kv > 4, "{mode}: {}", found.finding.line);
        let [why] = &told.lost[..] else { panic!("{mode}: {:?}", told.lost) };
        assert!(why.contains("does not get a case right that any should"), "{mode}: {why}");
    }
}

/// Once a kernel is known to hang, its cases get no longer than many times what cases take that end; and all hangs together get
/// no longer than they are given.
#[test]
fn a_hang_is_shrunk_without_waiting_each_time_for_as_long_as_a_case_may_take() {
    let folder = tempfile::tempdir().unwrap();
    let device = stand_in("hang", folder.path());
    let kernel = Kernel::open("gqa_decode").unwrap();
    let case: Case = "kv=1 g=6 d=2 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0".parse().unwrap();
    let fault = |verdict: &Verdict| match verdict {
        Verdict::Fault(fault) => (fault.kind, fault.detail.clone()),
        verdict => panic!("{verdict:?}"),
    };
    let verdict = device.examine(&kernel, &case).unwrap().verdict;
    let (kind, detail) = fault(&verdict);
    assert!(kind == FaultKind::Hang && detail.starts_with("no answer within 4.0 s"), "{detail}");
    let (kind, detail) = fault(&device.examine(&kernel, &case).unwrap().verdict);
    assert!(kind == FaultKind::Hang && detail.starts_with("no answer within 2.0 s"), "{detail}");
    assert!(detail.contains("a case of this kernel had hung for 4.0 s"), "{detail}");
    // A kernel that has not hung yet gets all the time there is.
    let other = Kernel::open("kernels/mutants/gqa_decode/m01_head_mod.toml").unwrap();
    let (_, detail) = fault(&device.examine(&other, &case).unwrap().verdict);
    assert!(detail.starts_with("no answer within 4.0 s"), "{detail}");

    let effort = Effort { executions: 2000, hanging: Duration::from_secs(3) };
    let cut = minimise(&kernel, &device, &case, &verdict, "a test".into(), effort).unwrap();
    // Two hangs use it up, and the third is not run.
    let hung = cut.hung.unwrap();
    assert!(hung >= Duration::from_secs(3) && hung < Duration::from_secs(60), "{hung:?}");
    assert!(cut.finding.case.shape.q_per_kv > 4 && cut.finding.flaky.is_none(), "{}", cut.finding.line);
    let kernel_name = kernel.name().to_owned();
    let found =
        Found { kernel: kernel_name, executions: cut.executions, hung: cut.hung, saved: None, finding: cut.finding };
    assert!(human::found(&found).contains("shrinking was ended after"), "{}", human::found(&found));
}

/// What a worker's own children say when it has been given up long since is nobody's answer.
#[cfg(unix)]
#[test]
fn an_answer_that_comes_too_late_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let device = stand_in("late", folder.path());
    let Verdict::Fault(fault) = examined(&device, BAD).unwrap().verdict else { panic!() };
    assert_eq!(fault.kind, FaultKind::Hang);
    // Until the last of them has spoken.
    std::thread::sleep(Duration::from_secs(7));
    assert!(matches!(examined(&device, GOOD).unwrap().verdict, Verdict::Agree(_)));
    let Verdict::Fault(again) = examined(&device, BAD).unwrap().verdict else { panic!() };
    assert_eq!((again.kind, device.unconfirmed().deaths), (FaultKind::Hang, 0));
}

/// What is wrong with this program or the machine is never the kernel's doing.
#[test]
fn panics_nonsense_and_kills_from_outside_are_no_findings() {
    let folder = tempfile::tempdir().unwrap();
    for mode in ["panic", "garbage", "other-case"] {
        let device = stand_in(mode, folder.path());
        let Err(BackendError::Internal(message)) = examined(&device, BAD) else { panic!("{mode}") };
        let expected = match mode {
            "panic" => "a bug of this program",
            "garbage" => "spoke nonsense: EOF while parsing",
            _ => "the answer about",
        };
        assert!(message.contains(expected), "{mode}: {message}");
        assert!(matches!(examined(&device, GOOD).unwrap().verdict, Verdict::Agree(_)));
        assert_eq!(device.unconfirmed().deaths, 0, "{mode}");
    }
    let killed = stand_in("killed", folder.path());
    assert!(matches!(examined(&killed, BAD), Err(BackendError::OutOfMemory(_))));
    // The first of two equal answers is one.
    let told = campaign("gqa_decode", Arc::new(stand_in("twice", folder.path())), 60, 100);
    assert!(told.found.is_empty() && told.internal.is_empty() && told.lost.is_empty(), "{:?}", told.internal);
    assert_eq!(told.summary.rows[0].cases, 60);
}

#[test]
fn a_panic_in_a_worker_costs_its_case_only() {
    let folder = tempfile::tempdir().unwrap();
    let told = campaign("gqa_decode", Arc::new(stand_in("panic", folder.path())), 60, 100);
    assert!(told.found.is_empty() && told.lost.is_empty() && told.summary.unconfirmed.is_empty());
    assert!(!told.internal.is_empty());
    assert_eq!(told.summary.rows[0].cases + told.internal.len() as u64, 60);
}

#[test]
fn a_program_that_is_no_worker_is_told_at_once() {
    let start = |command: &'static str| {
        let launch = move |_| {
            let mut shell = Command::new("sh");
            shell.args(["-c", command]);
            shell
        };
        Isolated::open(BackendKind::Emulator, options(Duration::from_secs(9)), launch).map(drop).unwrap_err()
    };
    assert!(start("echo no >&2; exit 3").contains("exit status: 3; its last words: no"));
    assert!(start("exec >&-; sleep 30").contains("closed its output"));
    assert!(start(r#"echo '@{"unavailable":"no GPU"}'"#).contains("no GPU"));
    assert!(start(r#"echo '@{"ready":{"protocol":0,"device":"old"}}'"#).contains("version 1, found 0"));
    let missing = Isolated::open(BackendKind::Emulator, options(Duration::ZERO), |_| Command::new("/nowhere"));
    assert!(missing.map(drop).unwrap_err().contains("/nowhere"));
}

/// Right kernels and wrong ones give the same verdicts, numbers and smallest cases in a worker.
#[test]
fn isolation_changes_no_result() {
    for (kernel, cases) in [("gqa_decode", 60), ("kernels/mutants/gqa_decode/m01_head_mod.toml", 60)] {
        let [own, other] = [Arc::new(Emulator) as Arc<dyn Examiner>, Arc::new(emulator(false))]
            .map(|backend| campaign(kernel, backend, cases, 300));
        let findings = |told: &Told| told.found.iter().map(|found| found.finding.clone()).collect::<Vec<_>>();
        assert_eq!(findings(&own), findings(&other));
        assert_eq!(kernel == "gqa_decode", own.found.is_empty());
        let [mut own, mut other] = [own, other].map(|told| told.summary.rows[0].clone());
        (own.busy, other.busy) = (Duration::ZERO, Duration::ZERO);
        assert_eq!(format!("{own:?}"), format!("{other:?}"));
    }
}

#[test]
fn outputs_travel_whole() {
    let line = "kv=2 g=3 d=40 past=0,5 dtype=f16 cache=nhd:6 scale=0.158 values=normal:1";
    let [own, other] = [&Emulator as &dyn Examiner, &emulator(true)].map(|e| examined(e, line).unwrap());
    assert!(own.output.is_some());
    assert_eq!((own.output, own.verdict), (other.output, other.verdict));
    let (isolated, case) = (emulator(false), line.parse().unwrap());
    assert!(examined(&isolated, line).unwrap().output.is_none());
    let kernel = Kernel::open("gqa_decode").unwrap();
    let [own, other] = [&Emulator as &dyn Examiner, &isolated].map(|e| e.run_first(&kernel, &case).unwrap());
    assert_eq!(format!("{own:?}"), format!("{other:?}"));
}

#[test]
fn a_kernel_that_changed_on_disk_is_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/gqa_decode");
    for file in ["kernel.toml", "kernel.ptx", "kernel.cu"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let manifest = folder.path().join("kernel.toml");
    let kernel = Kernel::open(&manifest.to_string_lossy()).unwrap();
    let workers = emulator(false);
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text + "\n").unwrap();
    let error = workers.examine(&kernel, &GOOD.parse().unwrap()).unwrap_err();
    assert!(matches!(&error, BackendError::Unavailable(why) if why.contains("has changed")), "{error}");
}

/// Whether a process is there and is no corpse.
#[cfg(target_os = "linux")]
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).is_some_and(|state| state != "Z")
}

#[cfg(target_os = "linux")]
pub(super) fn children(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    let pids = std::fs::read_dir("/proc").unwrap().filter_map(|e| e.ok()?.file_name().to_string_lossy().parse().ok());
    pids.filter(|&pid| parent_of(pid) == Some(parent)).collect()
}

#[cfg(target_os = "linux")]
fn soon(what: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    while !what() {
        if start.elapsed() > Duration::from_secs(60) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

#[cfg(target_os = "linux")]
#[test]
fn workers_end_with_their_owner() {
    let folder = tempfile::tempdir().unwrap();
    let mut owner = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    owner.args(["fuzz", "gqa_decode", "--backend", "emulator", "--isolate", "yes", "--time", "10m", "--regressions"]);
    let mut owner = owner.arg(folder.path()).stdout(std::process::Stdio::null()).spawn().unwrap();
    assert!(soon(|| !children(owner.id()).is_empty()));
    let workers = children(owner.id());
    owner.kill().unwrap();
    owner.wait().unwrap();
    assert!(soon(|| !workers.iter().any(|&pid| is_alive(pid))));
}

/// The program leaves SIGPIPE at its default, so it must never write to a worker that is gone.
#[cfg(target_os = "linux")]
#[test]
fn workers_killed_from_outside_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut owner = Command::new(env!("CARGO_BIN_EXE_attnfuzz"));
    owner.args(["fuzz", "gqa_decode", "--backend", "emulator", "--isolate", "yes", "--cases", "100", "--jobs", "4"]);
    let journal = folder.path().join("journal");
    owner.arg("--regressions").arg(folder.path()).arg("--journal").arg(&journal);
    let owner = owner.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let entries = || std::fs::read_to_string(&journal).unwrap_or_default().lines().count();
    assert!(soon(|| entries() >= 2));
    for _ in 0..3 {
        std::thread::sleep(Duration::from_millis(200));
        for worker in children(owner.id()) {
            Command::new("kill").args(["-9", &worker.to_string()]).status().unwrap();
        }
    }
    let output = owner.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text.contains("no finding in"), "{text}");
}
