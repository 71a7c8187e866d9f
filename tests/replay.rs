//! Saved findings, run before anything else is searched: those of shipped kernels must stay fixed, and the example
//! findings, which are of planted bugs, must still fail.

use attnfuzz::backend::Emulator;
use attnfuzz::regression::{FORMAT, Finding, Flaky, Replayed, Store, replay};
use std::path::{Path, PathBuf};

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
fn a_saved_regressions_of_shipped_kernels_stay_fixed() {
    let folder = Store::new(root().join("proptest-regressions")).folder();
    let findings = Finding::load_all(&folder).unwrap();
    assert!(!findings.is_empty());
    for (file, result) in replay_all(findings) {
        assert_eq!(result, Replayed::Fixed, "{}", file.display());
    }
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
    assert_eq!(FORMAT, 2, "a new version needs a stored file of its own");
}

fn example() -> (PathBuf, Finding) {
    Finding::load_all(&root().join("examples/findings")).unwrap().swap_remove(0)
}

#[test]
fn a_finding_is_saved_once_and_never_over_another_bug() {
    use attnfuzz::regression::Saved;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let (_, finding) = example();
    let Saved::New(first) = store.save("k", &finding).unwrap() else { panic!("not new") };
    assert_eq!(store.save("k", &finding).unwrap(), Saved::Known(first.clone()));

    let mut other = finding.clone();
    other.signature.class = "fault race".into();
    let Saved::New(second) = store.save("k", &other).unwrap() else { panic!("not new") };
    assert_ne!(first, second);
    assert_eq!(Finding::load_all(&first).unwrap()[0].1, finding);
    assert_eq!(Finding::load_all(folder.path()).unwrap().len(), 2);
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
            .ends_with("expected format 2 or older, found 99: a newer attnfuzz wrote it")
    );
    let line_of_steps = text.lines().position(|l| l.starts_with("steps")).unwrap() + 1;
    let bad = error(&text.replace("steps = ", "steps = -"));
    assert!(bad.contains(&format!("x.toml:{line_of_steps}: ")), "{bad}");
    let bad = error(&text.replace("num_kv_heads = ", "num_kv_heads = 9"));
    assert!(bad.contains("line: expected the same case as the table"), "{bad}");
    assert!(error(&text.replace("[case]", "nonsense = 1\n[case]")).contains("unknown field"));
}
