//! Campaigns that are guided by what cases reached in the kernel, and their corpora.

use attnfuzz::backend::{Emulator, Kernel, Points, Recording};
use attnfuzz::campaign::{Config, Event, Guidance, Head, Summary, run};
use attnfuzz::case::Case;
use attnfuzz::corpus::{self, Entry};
use attnfuzz::generate::cost;
use attnfuzz::guide::{AHEAD, Guide, reduce};
use attnfuzz::harness::{Harness, Target};
use attnfuzz::oracle::{Verdict, examine};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

const M08B: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/mutants/gqa_decode/m08b_literal_128.toml");

fn config(kernels: &[&str], cases: u64, jobs: usize, guidance: Guidance) -> Config {
    Config {
        kernels: kernels.iter().map(|name| Arc::new(Kernel::open(name).unwrap())).collect(),
        backends: vec![Arc::new(Emulator)],
        cases: Some(cases),
        time: None,
        seed: 3,
        relations: Vec::new(),
        guidance: Some(guidance),
        jobs,
        max_findings: 1,
        max_shrink: 20,
        store: None,
    }
}

/// The lines of what was found, and how the campaign ended.
fn campaign(config: &Config) -> (Vec<String>, Summary) {
    let mut found = Vec::new();
    let summary = run(config, &mut |event| {
        if let Event::Found(event) = event {
            found.push(format!("{} {}: {}", event.finding.found_as, event.finding.line, event.finding.found_by));
        }
    });
    assert_eq!(summary.internal_errors, 0);
    (found, summary)
}

fn files(folder: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    files
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(file).unwrap()))
        .collect()
}

#[test]
fn the_same_cases_are_kept_and_found_whatever_the_number_of_threads() {
    let one = |jobs| {
        let folder = tempfile::tempdir().unwrap();
        let guidance = Guidance { corpus: Vec::new(), folder: Some(folder.path().into()) };
        let (found, summary) = campaign(&config(&["gqa_decode", M08B], 120, jobs, guidance));
        let rows: Vec<_> = summary.rows.iter().map(|row| (row.cases, row.elements, row.worst_case.clone())).collect();
        (found, summary.reach, rows, files(folder.path()))
    };
    let first = one(1);
    assert_eq!(first.0.len(), 1, "{:?}", first.0);
    let (_, reach) = &first.1[0];
    assert!(reach.kept > 20 && reach.reached > 800 && reach.reached < reach.existing, "{reach:?}");
    for jobs in [2, 5] {
        assert_eq!(one(jobs), first, "with {jobs} threads");
    }
}

#[test]
fn a_saved_corpus_reaches_the_same_points_again_and_is_gone_on_from() {
    let folder = tempfile::tempdir().unwrap();
    let guidance = || Guidance {
        corpus: corpus::load(folder.path()).unwrap().into_iter().map(|(_, entry)| entry).collect(),
        folder: Some(folder.path().into()),
    };
    let (_, first) = campaign(&config(&["gqa_decode"], 80, 2, guidance()));
    let saved = files(folder.path());
    assert_eq!(saved.len(), first.reach[0].1.kept);
    // Nothing but the corpus: it reaches what it did, and no file is added.
    let (_, again) = campaign(&config(&["gqa_decode"], saved.len() as u64, 2, guidance()));
    assert_eq!(again.reach[0].1.reached, first.reach[0].1.reached);
    assert_eq!(files(folder.path()), saved);
    let (_, more) = campaign(&config(&["gqa_decode"], 200, 2, guidance()));
    assert!(more.reach[0].1.reached > first.reach[0].1.reached, "{:?}", more.reach);
    let grown = files(folder.path());
    assert!(grown.len() > saved.len() && saved.iter().all(|(name, text)| grown.get(name) == Some(text)));
    // The fuzz target takes every entry as the case it is.
    let target = Target::new(vec![Harness::emulated("gqa_decode").unwrap()]);
    let points = target.points();
    let mut reached = BTreeSet::new();
    for text in grown.values() {
        let entry: Entry = text.parse().unwrap();
        assert_eq!(target.decode(text.as_bytes()).unwrap().1, entry.case);
        target.run(text.as_bytes(), |point| _ = reached.insert(point)).unwrap();
    }
    assert_eq!((reached.len(), points), (more.reach[0].1.reached, more.reach[0].1.existing));
}

#[test]
fn the_corpus_of_the_fuzz_target_can_be_gone_on_from() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/attention_diff");
    let entries: Vec<Entry> = corpus::load(&seeds).unwrap().into_iter().map(|(_, entry)| entry).collect();
    let own = entries.iter().filter(|entry| entry.kernel == "gqa_decode").count() as u64;
    assert!(own > 10 && own < entries.len() as u64);
    let guidance = Guidance { corpus: entries, folder: None };
    let (_, summary) = campaign(&config(&["gqa_decode"], own, 2, guidance));
    let plain = campaign(&config(&["gqa_decode"], own, 2, Guidance::default())).1;
    assert_eq!(summary.rows[0].cases, own);
    assert!(summary.reach[0].1.reached > plain.reach[0].1.reached, "{:?} {:?}", summary.reach, plain.reach);
}

/// Number of the first case that `kernel` gets wrong, at most `limit`.
fn first_kill(kernel: &Kernel, seed: u64, limit: u64, is_guided: bool) -> u64 {
    let points = Arc::new(Points::of(kernel));
    let mut guide = Guide::new(kernel, points.clone(), seed, []);
    let mut planned: VecDeque<Case> = (0..AHEAD).map(|_| guide.plan()).collect();
    for index in 0..limit {
        let case = match is_guided {
            true => planned.pop_front().unwrap(),
            false => kernel.space().case_at(seed, index),
        };
        let recording = Recording::new(&points);
        if !matches!(examine(&recording, kernel, &case).unwrap().verdict, Verdict::Agree(_)) {
            return index;
        }
        if is_guided {
            guide.learn(&case, Some(&recording.take()));
            planned.push_back(guide.plan());
        }
    }
    limit
}

/// Each of four conditions, one within the other, is a branch that few cases reach.
#[test]
fn a_bug_behind_nested_conditions_is_found_in_half_the_cases() {
    let path = format!("{}/tests/guided/rare.toml", env!("CARGO_MANIFEST_DIR"));
    let kernel = Kernel::open(&path).unwrap();
    let [drawn, guided] = [false, true]
        .map(|is_guided| -> Vec<u64> { (0..8).map(|seed| first_kill(&kernel, seed, 3000, is_guided)).collect() });
    println!("drawn {drawn:?}, guided {guided:?}");
    assert!(guided.iter().sum::<u64>() * 2 < drawn.iter().sum(), "drawn {drawn:?}, guided {guided:?}");
}

#[test]
fn a_head_for_a_journal_is_refused() {
    let error = Head::new(&config(&["gqa_decode"], 1, 1, Guidance::default()), Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "a guided campaign keeps no journal");
}

#[test]
fn reducing_keeps_every_point_and_what_tells_nothing() {
    let kernel = Kernel::open("gqa_decode").unwrap();
    let mut cases: Vec<Case> = (0..40).map(|index| kernel.space().case_at(5, index)).collect();
    cases.push(cases[7].clone());
    let reduced = reduce(&kernel, &cases);
    assert!(reduced.kept.len() < 40 && !reduced.kept.contains(&40), "{reduced:?}");
    assert!(reduced.untold.is_empty());
    let mut kept: Vec<Case> = reduced.kept.iter().map(|&index| cases[index].clone()).collect();
    let again = reduce(&kernel, &kept);
    assert_eq!((again.reached, again.kept.len()), (reduced.reached, kept.len()));
    // The dearest was kept for a point that no other has.
    let dearest = (0..kept.len()).max_by_key(|&index| (cost(&kept[index]), index)).unwrap();
    kept.remove(dearest);
    assert!(reduce(&kernel, &kept).reached < reduced.reached);
    // Where the kernel faults nothing is known of a case.
    let wrong = Kernel::open(&M08B.replace("m08b_literal_128", "m12_masked_values_loaded")).unwrap();
    let reduced = reduce(&wrong, &cases);
    assert!(!reduced.untold.is_empty(), "{reduced:?}");
    assert!(reduced.untold.iter().all(|(index, why)| reduced.kept.contains(index) && why.contains("faults")));
}

fn attnfuzz(args: &[&str]) -> (Output, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_attnfuzz")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

#[test]
fn broken_files_of_a_corpus_are_told_and_stay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus");
    let corpus = path.to_string_lossy();
    let regressions = folder.path().join("found").to_string_lossy().into_owned();
    let fuzz = ["fuzz", "gqa_decode", "--guided", "--corpus", &corpus, "--cases", "60", "--regressions", &regressions];
    let (output, out, err) = attnfuzz(&fuzz);
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(out.contains("guided: gqa_decode: ") && out.contains(" points reached"), "{out}");
    let broken = [
        ("bad", "gqa_decode kv=2 g=x\n"),
        ("other", "my_kernel kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0\n"),
    ];
    for (name, text) in broken {
        std::fs::write(path.join(name), text).unwrap();
    }
    let (output, out, err) = attnfuzz(&[&fuzz[..], &["--format", "jsonl"]].concat());
    assert_eq!(output.status.code(), Some(0), "{out}{err}");
    assert!(err.contains("warning: passed over: ") && err.contains("bad: "), "{err}");
    assert!(out.lines().any(|line| line.contains("\"event\":\"reach\"") && line.contains("\"existing\":")), "{out}");
    let entry = files(&path).into_iter().find(|(name, _)| name.starts_with("gqa_decode-")).unwrap().1;
    std::fs::write(path.join("twice"), entry).unwrap();
    let before = files(&path);
    let dry = attnfuzz(&["corpus", "minimise", &corpus, "--dry-run"]);
    assert!(before.iter().all(|(name, text)| files(&path).get(name) == Some(text)));
    let (output, out, err) = attnfuzz(&["corpus", "minimise", &corpus]);
    assert_eq!(output.status.code(), Some(3), "{out}{err}");
    assert!(err.contains("bad: ") && err.contains("1 entries of my_kernel stay"), "{err}");
    assert!(out.starts_with("gqa_decode: ") && dry.1.ends_with(&out), "{out} {}", dry.1);
    let after = files(&path);
    assert!(broken.iter().all(|(name, text)| after.get(*name).is_some_and(|left| left == text)));
    // The two that are told and those that the line counts.
    let kept: usize = out.split(' ').nth(1).unwrap().parse().unwrap();
    assert_eq!(after.len(), kept + 2, "{out}");
    assert!(after.keys().all(|name| before.contains_key(name)) && after.len() < before.len(), "{out}");
}

#[test]
fn what_can_not_be_guided_is_refused() {
    let refused = |args: &[&str]| {
        let (output, _, err) = attnfuzz(&[&["fuzz", "gqa_decode", "--guided", "--cases", "1"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{err}");
        err
    };
    assert!(refused(&["--backend", "cuda"]).contains("--guided: expected --backend emulator"));
    assert!(refused(&["--backend", "all"]).contains("--guided: expected --backend emulator"));
    assert!(refused(&["--isolate", "yes"]).contains("--guided: expected --isolate no"));
    assert!(refused(&["--journal", "x"]).contains("cannot be used with"));
    let (output, _, err) = attnfuzz(&["fuzz", "gqa_decode", "--corpus", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err.contains("--guided"), "{err}");
}
