//! Saving findings: nothing that was found is lost, and what may be one bug is said to be.

use attnfuzz::regression::{Finding, Replayed, SameSignature, Saved, Store, replay};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestError, TestRunner};
use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Barrier;

/// A finding of the case that this line makes of a small one.
fn finding(change: &str) -> Finding {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/findings");
    let mut finding = Finding::load(&examples.join("m01_head_mod.toml")).unwrap();
    let line = format!("kv=2 {change} past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    finding.case = line.parse().unwrap();
    finding.line = finding.case.to_string();
    finding
}

fn with_class(change: &str, class: &str) -> Finding {
    let mut finding = finding(change);
    finding.signature.class = class.into();
    finding
}

/// The path of a new file, and what it is told to be like.
fn new(saved: Saved) -> (PathBuf, Option<SameSignature>) {
    match saved {
        Saved::New { path, same_signature_as } => (path, same_signature_as),
        known => panic!("not new: {known:?}"),
    }
}

#[test]
fn a_finding_is_saved_once_and_never_over_another_bug() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let finding = finding("g=3 d=1");
    let (first, _) = new(store.save("k", &finding).unwrap());
    assert_eq!(store.save("k", &finding).unwrap(), Saved::Known(first.clone()));

    let (second, _) = new(store.save("k", &with_class("g=3 d=1", "fault race")).unwrap());
    assert_ne!(first, second);
    assert_eq!(Finding::load(&first).unwrap(), finding);
    assert_eq!(Finding::load_all(folder.path()).unwrap().len(), 2);
}

#[test]
fn a_finding_with_the_signature_of_another_is_saved_and_said_to_be_like_the_simplest() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let (first, alone) = new(store.save("k", &finding("g=3 d=8")).unwrap());
    assert_eq!(alone, None);
    let like = |path: &Path, new_is_simpler| Some(SameSignature { path: path.into(), new_is_simpler });
    assert_eq!(new(store.save("k", &finding("g=3 d=9")).unwrap()).1, like(&first, false));
    let (simplest, other) = new(store.save("k", &finding("g=3 d=7")).unwrap());
    assert_eq!(other, like(&first, true));
    assert_eq!(new(store.save("k", &finding("g=3 d=6")).unwrap()).1, like(&simplest, true));

    // Near misses: another kernel, another class, another place.
    assert_eq!(new(store.save("other", &finding("g=3 d=8")).unwrap()).1, None);
    assert_eq!(new(store.save("k", &with_class("g=3 d=8", "diverge out nan")).unwrap()).1, None);
    let placed = |change: &str, place: &str| {
        let mut finding = with_class(change, "fault race");
        finding.signature.place = Some(place.into());
        finding
    };
    let (race, other) = new(store.save("k", &placed("g=3 d=8", "kernel.cu:1")).unwrap());
    assert_eq!(other, None);
    assert_eq!(new(store.save("k", &placed("g=3 d=7", "kernel.cu:2")).unwrap()).1, None);
    assert_eq!(new(store.save("k", &placed("g=3 d=9", "kernel.cu:1")).unwrap()).1, like(&race, false));
    assert_eq!(Finding::load_all(folder.path()).unwrap().len(), 9);
}

#[test]
fn what_can_not_be_read_stops_no_save_and_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let (old, _) = new(store.save("k", &finding("g=3 d=8")).unwrap());
    let id = finding("g=3 d=7").case.id();
    let broken = old.with_file_name(format!("{id}.toml"));
    std::fs::write(&broken, "not a finding").unwrap();
    std::fs::write(old.with_file_name("binary.toml"), [0xff, 0xfe]).unwrap();
    std::fs::create_dir(old.with_file_name("folder.toml")).unwrap();

    let (path, other) = new(store.save("k", &finding("g=3 d=7")).unwrap());
    assert_ne!(path, broken);
    assert_eq!(other, Some(SameSignature { path: old, new_is_simpler: true }));
    assert_eq!(std::fs::read_to_string(&broken).unwrap(), "not a finding");
    assert_eq!(store.save("k", &finding("g=3 d=7")).unwrap(), Saved::Known(path.clone()));

    // Both names taken by something else: a third one.
    std::fs::write(&path, "gone wrong").unwrap();
    let (third, _) = new(store.save("k", &finding("g=3 d=7")).unwrap());
    assert_eq!(Finding::load(&third).unwrap(), finding("g=3 d=7"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "gone wrong");
}

/// Programs that save at the same moment: equal findings are saved once, and others with the same case lose nothing.
#[test]
fn savers_at_the_same_moment_lose_nothing() {
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let start = Barrier::new(8);
        let saved: Vec<Saved> = std::thread::scope(|scope| {
            let savers: Vec<_> = (0..8)
                .map(|n| {
                    let (start, store) = (&start, Store::new(folder.path()));
                    scope.spawn(move || {
                        let finding = with_class("g=3 d=8", ["diverge out value", "fault race"][n % 2]);
                        start.wait();
                        store.save("k", &finding).unwrap()
                    })
                })
                .collect();
            savers.into_iter().map(|saver| saver.join().unwrap()).collect()
        });
        let new = saved.iter().filter(|saved| matches!(saved, Saved::New { .. })).count();
        assert_eq!(new, 2, "round {round}: {saved:?}");
        let classes: HashSet<String> =
            Finding::load_all(folder.path()).unwrap().into_iter().map(|(_, f)| f.signature.class).collect();
        assert_eq!(classes.len(), 2, "round {round}: {saved:?}");
        let files = std::fs::read_dir(folder.path().join("cases/k")).unwrap().count();
        assert_eq!(files, 2, "temporary files are left behind");
    }
}

/// proptest keeps its seeds in the folder that holds our findings; neither reads the other's.
#[test]
fn the_seeds_of_proptest_lie_beside_findings() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("proptest-regressions");
    let store = Store::new(&root);
    let (ours, _) = new(store.save("gqa_decode", &finding("g=3 d=8")).unwrap());
    let theirs = root.join("suite.txt");
    let persistence: &'static str = Box::leak(theirs.display().to_string().into_boxed_str());
    let failing_numbers = || {
        let config = Config {
            failure_persistence: Some(Box::new(FileFailurePersistence::Direct(persistence))),
            source_file: Some(file!()),
            max_shrink_iters: 0,
            ..Config::default()
        };
        let seen = RefCell::new(Vec::new());
        let result = TestRunner::new(config).run(&any::<u64>(), |n| {
            seen.borrow_mut().push(n);
            prop_assert!(n % 3 != 0);
            Ok(())
        });
        match result {
            Err(TestError::Fail(_, n)) => (seen.into_inner(), n),
            other => panic!("expected a failure, found {other:?}"),
        }
    };
    let before = std::fs::read(&ours).unwrap();
    let (_, n) = failing_numbers();
    let seeds = std::fs::read_to_string(&theirs).unwrap();
    assert!(seeds.lines().any(|line| line.starts_with("cc ")), "{seeds}");
    // It starts from its own seed, and only from that: the first number again, and nothing of ours.
    assert_eq!(failing_numbers(), (vec![n], n));
    assert_eq!(std::fs::read(&ours).unwrap(), before);

    assert_eq!(store.files().unwrap(), std::slice::from_ref(&ours));
    for path in [&root, &store.folder()] {
        let findings = Finding::load_all(path).unwrap();
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].0, ours);
    }
    let harness = attnfuzz::harness::Harness::emulated("gqa_decode").unwrap();
    assert_eq!(harness.replay_saved(&root), Ok(vec![ours.clone()]));
    let kernel = harness.kernel();
    assert_eq!(replay(&Finding::load(&ours).unwrap(), kernel, &attnfuzz::backend::Emulator), Replayed::Fixed);
    assert_eq!(std::fs::read_to_string(&theirs).unwrap(), seeds);
}
