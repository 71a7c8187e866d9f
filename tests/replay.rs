//! Saved findings: their files, and that they still fail in the same way and with the same bits. Those of shipped kernels,
//! which must stay fixed, are replayed by `tests/regressions.rs`.

use attnfuzz::backend::{Backend, BackendError, BackendKind, Emulator, Kernel, Run};
use attnfuzz::campaign::minimise;
use attnfuzz::case::Case;
use attnfuzz::harness::Harness;
use attnfuzz::oracle::Examiner;
use attnfuzz::outcome::Outcome;
use attnfuzz::regression::{Bits, Digest, FORMAT, Finding, Flaky, Replayed, Saved, Store, replay, replay_times};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn replay_all(findings: Vec<(PathBuf, Finding)>) -> Vec<(PathBuf, Replayed)> {
    findings
        .into_iter()
        .map(|(file, finding)| {
            let kernel = finding.open_kernel(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let result = replay(&finding, &kernel, &Emulator);
            println!("{}: {result:?}", file.display());
            (file, result)
        })
        .collect()
}

#[test]
fn example_findings_still_fail() {
    let findings = Finding::load_all(&root().join("examples/findings")).unwrap();
    assert!(!findings.is_empty());
    for (file, result) in replay_all(findings) {
        assert!(matches!(result, Replayed::StillFails(_)), "{}: {result:?}", file.display());
    }
}

/// One stored file of each version that was ever written. They are never made again.
#[test]
fn a_file_of_every_version_still_means_its_case() {
    let folder = root().join("tests/formats");
    let read = |version: u32| Finding::load_all(&folder.join(format!("{version}.toml"))).unwrap().swap_remove(0).1;
    let first = read(1);
    assert_eq!(first.format, 1);
    assert_eq!(first.case.to_string(), "kv=2 g=3 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    assert!(first.case.features.is_plain() && first.flaky.is_none());
    let second = read(2);
    assert_eq!(second.format, 2);
    assert_eq!(
        second.case.to_string(),
        "kv=2 g=3 d=8 past=9,4 q=2,0 append=no causal=no window=5 softcap=30 sinks=yes dtype=f16 cache=nhd:12 \
         pages=4,seed:2,spare:3,shared:1 scale=0.5 knobs=num_splits:2 values=mixed:7 view=dims-reversed relation=cache-moved"
    );
    assert_eq!(second.flaky, Some(Flaky { failed: 3, runs: 12 }));
    assert_eq!(second.digest, None);
    let third = read(3);
    assert_eq!(third.format, 3);
    assert_eq!(third.digest.map(|digest| digest.to_string()).as_deref(), Some("0123456789abcdef"));
    assert_eq!(third.case, second.case);
    let fourth = read(4);
    assert_eq!(fourth.format, 4);
    assert_eq!(
        fourth.case.to_string(),
        "kv=2 g=3 d=8 past=0,9 dtype=f16 cache=hnd:10 scale=1 values=normal:7 only=q,k1.0.3.0-3,v1.*.4"
    );
    assert_eq!(FORMAT, 4, "a new version needs a stored file of its own");
}

fn example() -> (PathBuf, Finding) {
    Finding::load_all(&root().join("examples/findings")).unwrap().swap_remove(0)
}

#[test]
fn a_wrong_file_is_told_by_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    let (path, _) = example();
    let text = std::fs::read_to_string(&path).unwrap();
    let error = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Finding::load_all(Path::new(&file)).unwrap_err().to_string()
    };
    assert!(error("").contains("missing field `format`"));
    assert!(
        error(&text.replace("format = 1", "format = 99"))
            .ends_with("expected format 4 or older, found 99: a newer attnfuzz wrote it")
    );
    let line_of_steps = text.lines().position(|l| l.starts_with("steps")).unwrap() + 1;
    let bad = error(&text.replace("steps = ", "steps = -"));
    assert!(bad.contains(&format!("x.toml:{line_of_steps}: ")), "{bad}");
    let bad = error(&text.replace("num_kv_heads = ", "num_kv_heads = 9"));
    assert!(bad.contains("line: expected the same case as the table"), "{bad}");
    assert!(error(&text.replace("[case]", "nonsense = 1\n[case]")).contains("unknown field"));
}

/// The emulator, but for one bit of the first output, where `flips` says so of a run's number.
struct OneBit {
    kind: BackendKind,
    flips: fn(u32) -> bool,
    runs: AtomicU32,
}

impl OneBit {
    fn new(kind: BackendKind, flips: fn(u32) -> bool) -> Self {
        Self { kind, flips, runs: AtomicU32::new(0) }
    }
}

impl Backend for OneBit {
    fn kind(&self) -> BackendKind {
        self.kind
    }

    fn describe(&self) -> String {
        "one bit".into()
    }

    fn run(&self, kernel: &Kernel, case: &Case, run: Run) -> Result<Outcome, BackendError> {
        let mut outcome = Emulator.run(kernel, case, run)?;
        if let (Outcome::Output(output), true) = (&mut outcome, (self.flips)(self.runs.fetch_add(1, Ordering::SeqCst)))
        {
            let bits = output.out[0].bits(0);
            output.out[0].set_bits(0, bits ^ 1);
        }
        Ok(outcome)
    }
}

const M01: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/mutants/gqa_decode/m01_head_mod.toml");

fn found(kernel: &str, case: &str, backend: &dyn Examiner) -> (Kernel, Finding) {
    let kernel = Kernel::open(kernel).unwrap();
    let case: Case = case.parse().unwrap();
    let verdict = backend.examine(&kernel, &case).unwrap().verdict;
    let finding = minimise(&kernel, backend, &case, &verdict, "test".into(), 200).unwrap().finding;
    (kernel, finding)
}

const WRONG_HEAD: &str = "kv=3 g=4 d=20 past=5,9 dtype=f16 cache=nhd:11 scale=0.5 values=normal:3 sched=5";

#[test]
fn a_finding_comes_back_with_its_bits_and_a_changed_bit_is_told() {
    let (kernel, finding) = found(M01, WRONG_HEAD, &Emulator);
    let saved = finding.digest.expect("the emulator gives the same bits each time");
    for _ in 0..3 {
        assert_eq!(Digest::of_first_run(&Emulator, &kernel, &finding.case).unwrap(), saved);
    }
    let folder = tempfile::tempdir().unwrap();
    let Saved::New { path, .. } = Store::new(folder.path()).save("k", &finding).unwrap() else { panic!("not new") };
    let loaded = Finding::load(&path).unwrap();
    assert_eq!(loaded.digest, Some(saved));

    let again = |backend: &dyn Examiner| replay_times(&loaded, &kernel, backend, 4);
    let same = OneBit::new(BackendKind::Emulator, |_| false);
    for backend in [&Emulator as &dyn Examiner, &same] {
        let (result, bits) = again(backend);
        assert!(matches!(result, Replayed::StillFails(_)), "{result:?}");
        assert_eq!(bits, Bits::AsSaved);
    }
    let (result, bits) = again(&OneBit::new(BackendKind::Emulator, |_| true));
    assert!(matches!(result, Replayed::StillFails(_)), "{result:?}");
    assert!(matches!(bits, Bits::Other(now) if now != saved), "{bits:?}");
    // The third run of each replay is the one that the bits are taken of.
    let (result, bits) = again(&OneBit::new(BackendKind::Emulator, |run| run == 8));
    assert!(matches!(result, Replayed::StillFails(_)), "{result:?}");
    assert!(matches!(bits, Bits::Varying(one, other) if one == saved && other != saved), "{bits:?}");
}

#[test]
fn a_fault_without_output_has_a_digest_too() {
    let race =
        concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/mutants/gqa_decode/m46b_barrier_dropped_before_values.toml");
    let (kernel, finding) = found(race, WRONG_HEAD, &Emulator);
    assert_eq!(finding.signature.class, "fault race");
    assert_eq!(replay_times(&finding, &kernel, &Emulator, 3).1, Bits::AsSaved);
    let mut other = finding.clone();
    other.digest = Some("0123456789abcdef".parse().unwrap());
    assert!(matches!(replay_times(&other, &kernel, &Emulator, 3).1, Bits::Other(now) if Some(now) == finding.digest));
}

#[test]
fn bits_of_hardware_are_not_remembered_and_the_emulators_not_expected_of_it() {
    let device = OneBit::new(BackendKind::Cuda, |_| true);
    let (kernel, finding) = found(M01, WRONG_HEAD, &device);
    assert_eq!(finding.digest, None);
    assert_eq!(replay_times(&finding, &kernel, &Emulator, 2).1, Bits::Unknown);
    let (_, finding) = found(M01, WRONG_HEAD, &Emulator);
    let (result, bits) = replay_times(&finding, &kernel, &device, 2);
    assert!(matches!(result, Replayed::StillFails(_)), "{result:?}");
    assert_eq!(bits, Bits::Unknown);
}

#[test]
fn a_fixed_case_whose_bits_change_from_run_to_run_is_not_fixed() {
    let case = "kv=2 g=3 d=16 past=9 dtype=f32 cache=hnd:10 scale=0.25 values=normal:3 sched=5";
    let (_, mut finding) = found(M01, case, &Emulator);
    finding.case = case.parse().unwrap();
    finding.digest = None;
    let right = Kernel::open("gqa_decode").unwrap();
    // Three runs a replay, and all of every second one's have the bit.
    let (result, bits) = replay_times(&finding, &right, &OneBit::new(BackendKind::Cuda, |run| run / 3 % 2 == 1), 2);
    assert!(matches!(&result, Replayed::FailsDifferently(now, _) if now.class == "fault not-repeatable"), "{result:?}");
    assert!(matches!(bits, Bits::Varying(..)), "{bits:?}");
    let (result, bits) = replay_times(&finding, &right, &OneBit::new(BackendKind::Cuda, |_| true), 2);
    assert_eq!((result, bits), (Replayed::Fixed, Bits::Unknown));
}

#[test]
fn a_harness_names_each_saved_file_that_is_not_fixed() {
    let folder = tempfile::tempdir().unwrap();
    let harness = Harness::emulated("gqa_decode").unwrap();
    let replayed = || harness.replay_saved(folder.path());
    assert_eq!(replayed(), Ok(Vec::new()));

    let (_, finding) = found(M01, WRONG_HEAD, &Emulator);
    let store = Store::new(folder.path());
    let fixed = store.save("gqa_decode", &finding).unwrap().path().to_owned();
    // Another kernel's, which this harness has nothing to say about.
    store.save("gqa_decode.m01_head_mod", &finding).unwrap();
    assert_eq!(replayed(), Ok(vec![fixed.clone()]));

    let mutant = Harness::emulated(M01).unwrap();
    let error = mutant.replay_saved(folder.path()).unwrap_err();
    assert!(error.starts_with("still fails: ") && error.contains(&finding.case.id().to_string()), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");

    let broken = fixed.with_file_name("broken.toml");
    std::fs::write(&broken, "format = 3").unwrap();
    let mut other = finding.clone();
    other.signature.class = "diverge out nan".into();
    let other = store.save("gqa_decode.m01_head_mod", &other).unwrap().path().to_owned();
    assert!(replayed().unwrap_err().starts_with("cannot read: "), "{:?}", replayed());
    let error = mutant.replay_saved(folder.path()).unwrap_err();
    assert!(error.contains("fails differently: ") && error.contains(&other.display().to_string()), "{error}");
    assert_eq!(error.lines().count(), 2, "{error}");
}
