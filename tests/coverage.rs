//! What a case reaches: which points exist, and that their numbers and sets can be relied on.

use attnfuzz::backend::{CoverageMap, Emulator, Held, Kernel, PointKind, Points, Recording, Run, Watch, shipped_names};
use attnfuzz::case::Case;
use attnfuzz::coverage::{self, Config, Layout, Listing, Measured, Share, Totals};
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::report;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

static SHIPPED: LazyLock<Vec<(Kernel, Points)>> = LazyLock::new(|| {
    let open = |name| {
        let kernel = Kernel::open(name).unwrap();
        let points = Points::of(&kernel);
        (kernel, points)
    };
    shipped_names().into_iter().map(open).collect()
});

/// What the oracle's examination of a case reaches.
fn reached(kernel: &Kernel, points: &Points, case: &Case) -> CoverageMap {
    let recording = Recording::new(points);
    let verdict = examine(&recording, kernel, case).unwrap().verdict;
    assert!(matches!(verdict, Verdict::Agree(_)), "{case}");
    recording.take()
}

#[test]
fn numbers_are_dense_and_entries_share_none() {
    for (kernel, points) in &*SHIPPED {
        let again = Points::of(kernel);
        let all: Vec<_> = points.iter().collect();
        assert!(all.iter().map(|p| p.number as usize).eq(0..points.len()), "{}", kernel.name());
        let same = |(a, b): (&_, _)| {
            let (a, b): (&attnfuzz::backend::Point<'_>, attnfuzz::backend::Point<'_>) = (a, b);
            (a.number, a.entry, a.pc, a.kind) == (b.number, b.entry, b.pc, b.kind)
        };
        assert!(all.iter().zip(again.iter()).all(same), "{}", kernel.name());
        let places: BTreeSet<_> = all.iter().map(|p| (p.entry, p.pc, p.kind)).collect();
        assert_eq!(places.len(), points.len(), "{}", kernel.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_reached_exists(which in 0..4usize, index in 0..1000u64) {
        let (kernel, points) = &SHIPPED[which];
        let case = kernel.space().case_at(5, index);
        let watch = Watch { lines: true, ..Watch::default() };
        let lines = Emulator.observe(kernel, &case, Run::first(&case), watch).unwrap().lines;
        let bit = |kind| Some(match kind {
            PointKind::Branch(held) | PointKind::Guard(held) => held as u32,
            PointKind::Decision(held) => 3 + held as u32,
            PointKind::Block => return None,
        });
        let line = |p: &attnfuzz::backend::Point<'_>| p.program.code()[p.pc].line;
        let outcome = |p: attnfuzz::backend::Point<'_>| Some(line(&p) * 8 + bit(p.kind)?);
        let existing: BTreeSet<u32> = points.iter().filter_map(outcome).collect();
        let impossible: Vec<_> = lines.outcomes.difference(&existing).collect();
        prop_assert!(impossible.is_empty(), "{case}: 8 * line + outcome of {impossible:?}");
        // And the map has each of them, and nothing else.
        let map = reached(kernel, points, &case);
        let found: BTreeSet<u32> = points.iter().filter(|p| map.contains(p.number)).filter_map(outcome).collect();
        prop_assert_eq!(found, lines.outcomes);
        let blocks = points.iter().filter(|p| map.contains(p.number) && p.kind == PointKind::Block);
        prop_assert!(blocks.map(|p| line(&p)).all(|line| lines.reached.contains(&line)));
    }

    #[test]
    fn the_same_case_reaches_the_same_points(which in 0..4usize, index in 0..1000u64) {
        let (kernel, points) = &SHIPPED[which];
        let case = kernel.space().case_at(6, index);
        let here = reached(kernel, points, &case);
        let there = std::thread::scope(|scope| scope.spawn(|| reached(kernel, points, &case)).join().unwrap());
        prop_assert_eq!(here, there);
    }

    #[test]
    fn merging_is_a_union(indices in proptest::collection::vec(0..200u64, 3)) {
        let (kernel, points) = &SHIPPED[0];
        let maps: Vec<_> = indices.iter().map(|&i| reached(kernel, points, &kernel.space().case_at(7, i))).collect();
        let merged = |order: [usize; 3]| order.into_iter().fold(points.none(), |mut all, index| {
            let lacked = all.lacks(&maps[index]);
            assert_eq!(all.merge(&maps[index]), lacked);
            assert_eq!(all.lacks(&maps[index]), 0);
            all
        });
        let all = merged([0, 1, 2]);
        prop_assert_eq!(&all, &merged([2, 0, 1]));
        prop_assert_eq!(&all, &merged([1, 2, 0]));
        let union: BTreeSet<u32> = maps.iter().flat_map(CoverageMap::iter).collect();
        prop_assert!(all.iter().eq(union.iter().copied()));
        prop_assert_eq!(all.count(), union.len());
        prop_assert!(union.iter().all(|point| all.contains(*point)));
    }
}

#[test]
fn a_recording_keeps_the_first_run_until_it_is_taken() {
    let (kernel, points) = &SHIPPED[0];
    let (small, other) = (
        "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0",
        "kv=2 g=5 d=64 past=9 dtype=bf16 cache=nhd:16 scale=0.5 values=normal:3",
    );
    let [small, other]: [Case; 2] = [small, other].map(|line| line.parse().unwrap());
    let recording = Recording::new(points);
    assert_eq!(recording.take(), points.none());
    for case in [&small, &other] {
        examine(&recording, kernel, case).unwrap();
    }
    assert_eq!(recording.take(), reached(kernel, points, &small));
    examine(&recording, kernel, &other).unwrap();
    assert_eq!(recording.take(), reached(kernel, points, &other));
}

#[test]
fn runs_of_other_ptx_are_not_recorded() {
    let (_, points) = &SHIPPED[0];
    let mutant = Kernel::open("kernels/mutants/gqa_decode/m01_head_mod.toml").unwrap();
    let recording = Recording::new(points);
    examine(&recording, &mutant, &mutant.space().case_at(0, 0)).unwrap();
    assert_eq!(recording.take(), points.none());
}

#[test]
fn a_case_reaches_only_the_entry_of_its_dtype() {
    let (kernel, points) = &SHIPPED[0];
    let case = "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0".parse().unwrap();
    let map = reached(kernel, points, &case);
    let entries: BTreeSet<_> = points.iter().filter(|p| map.contains(p.number)).map(|p| p.entry).collect();
    assert_eq!(entries.len(), 1, "{entries:?}");
    let held = |p: &attnfuzz::backend::Point<'_>| matches!(p.kind, PointKind::Branch(Held::Some));
    assert!(points.iter().any(|p| held(&p)));
}

/// The kernel of `tests/coverage` with groups of at most `group` query heads.
fn one_key(group: u32) -> (tempfile::TempDir, Kernel) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/coverage");
    let folder = tempfile::tempdir().unwrap();
    for file in ["one_key.cu", "one_key.ptx", "one_key.toml"] {
        let text = fs::read_to_string(from.join(file)).unwrap();
        let text = text.replace("q_per_kv = \"1..=8\"", &format!("q_per_kv = \"1..={group}\""));
        fs::write(folder.path().join(file), text).unwrap();
    }
    let kernel = Kernel::open(&folder.path().join("one_key.toml").to_string_lossy()).unwrap();
    (folder, kernel)
}

/// The annotated source, the totals and the tracefile, with the folder's name left out.
fn measured(group: u32, jobs: usize) -> (String, Totals, String, Measured) {
    let (folder, kernel) = one_key(group);
    let points = Points::of(&kernel);
    let layout = Layout::of(&points);
    let config = Config { cases: Some(60), jobs, ..Config::default() };
    let measured = coverage::run(&kernel, &points, &layout, &config, &|_| {});
    assert!(!measured.has_findings() && measured.cases == 60, "{measured:?}");
    let listing = Listing::of(&kernel, &layout, &measured);
    let short = |text: String| {
        let folder = folder.path().canonicalize().unwrap();
        text.replace(&format!("{}/", folder.display()), "")
    };
    let (text, records) = (report::coverage::listing(&listing, false), report::lcov::records("one_key", &listing));
    (short(text), Totals::of(&points, &layout, &measured), short(records), measured)
}

#[test]
fn a_branch_that_no_group_is_large_enough_for_is_missed() {
    let (text, totals, records, _) = measured(4, 1);
    let expected = "\
one_key.cu: 1 of 7 lines never run
       60     3 |     if (threadIdx.x != 0) return;
        -     4 |     int kv_head;
       60     5 |     if (group > 4) {
                | = never taken: in one_key_f32: ptx 23: @%p2 bra LARGE;
    #####     6 |         kv_head = blockIdx.x / group;
        -     7 |     } else {
       60     8 |         kv_head = blockIdx.x / group;
        -     9 |     }
       60    10 |     const float value = v[kv_head * stride];
       60    11 |     out[blockIdx.x] = group < 0 ? 0.0f : value;
                | = never holds: 2 of 2 conditions, in one_key_f32: ptx 40: setp.lt.s32 %p3, %r2, 0;
       60    12 | }
";
    assert_eq!(text, expected);
    // `%p1` differs between lanes; `%p2` and `%p3` are the same in all of them, so that `some` is no outcome of theirs.
    let share = |reached, existing| Share { reached, existing };
    assert_eq!(totals.edges, share(3, 4));
    assert_eq!(totals.branches, share(2, 5));
    assert_eq!(totals.predicates, share(4, 9));
    assert_eq!(totals.instructions, share(23, 24));
    assert_eq!(
        records,
        "TN:one_key\nSF:one_key.cu\nBRDA:3,0,0,60\nBRDA:3,0,1,60\nBRDA:5,0,0,0\nBRDA:5,0,1,60\nBRF:4\nBRH:3\n\
         DA:3,60\nDA:5,60\nDA:6,0\nDA:8,60\nDA:10,60\nDA:11,60\nDA:12,60\nLH:6\nLF:7\nend_of_record\n"
    );
}

#[test]
fn it_is_reached_where_groups_are_larger() {
    let (text, totals, records, _) = measured(8, 1);
    assert!(!text.contains("never taken") && !text.contains("#####"), "{text}");
    assert_eq!(totals.edges, Share { reached: 4, existing: 4 });
    assert!(records.contains("BRF:4\nBRH:4\n") && records.contains("LH:7\nLF:7\n"), "{records}");
}

#[test]
fn what_is_measured_is_the_same_for_any_number_of_threads() {
    let (one, three) = (measured(8, 1), measured(8, 3));
    assert_eq!((&one.0, &one.1, &one.2), (&three.0, &three.1, &three.2));
    assert_eq!(one.3.reached, three.3.reached);
}

/// A tracefile's lines and branches by file, read as geninfo(1) describes it; every total must be right.
fn parse_lcov(text: &str) -> BTreeMap<String, (BTreeMap<u32, u64>, usize)> {
    let mut files = BTreeMap::new();
    let (mut name, mut lines, mut branches) = (String::new(), BTreeMap::new(), Vec::new());
    for record in text.lines() {
        let (key, value) = record.split_once(':').unwrap_or((record, ""));
        let number = || value.parse::<usize>().unwrap();
        match key {
            "TN" => assert!(value.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{record}"),
            "SF" => name = value.to_owned(),
            "DA" => {
                let (line, count) = value.split_once(',').unwrap();
                assert_eq!(lines.insert(line.parse::<u32>().unwrap(), count.parse::<u64>().unwrap()), None, "{record}");
            }
            "BRDA" => {
                let [line, block, branch, taken] = value.split(',').collect::<Vec<_>>()[..] else { panic!("{record}") };
                let [..] = [line, block, branch].map(|number| number.parse::<u32>().unwrap());
                branches.push(if taken == "-" { 0 } else { taken.parse::<u64>().unwrap() });
            }
            "BRF" => assert_eq!(number(), branches.len()),
            "BRH" => assert_eq!(number(), branches.iter().filter(|taken| **taken > 0).count()),
            "LF" => assert_eq!(number(), lines.len()),
            "LH" => assert_eq!(number(), lines.values().filter(|count| **count > 0).count()),
            "end_of_record" => {
                files.insert(std::mem::take(&mut name), (std::mem::take(&mut lines), branches.len()));
                branches.clear();
            }
            _ => panic!("{record}"),
        }
    }
    assert!(name.is_empty() && lines.is_empty() && branches.is_empty(), "it ends within a record");
    files
}

#[test]
fn a_tracefile_reads_back() {
    for (kernel, points) in &*SHIPPED {
        let layout = Layout::of(points);
        let config = Config { cases: Some(6), jobs: 2, ..Config::default() };
        let measured = coverage::run(kernel, points, &layout, &config, &|_| {});
        let listing = Listing::of(kernel, &layout, &measured);
        let files = parse_lcov(&report::lcov::records(kernel.name(), &listing));
        assert_eq!(files.len(), listing.files.len());
        for file in &listing.files {
            let path = file.source.path.canonicalize().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.lines().eq(&file.source.text), "{} is not what is annotated", path.display());
            let (lines, branches) = &files[&path.display().to_string()];
            assert!(lines.iter().eq(file.lines.iter().map(|(n, line)| (n, &line.cases)).collect::<BTreeMap<_, _>>()));
            assert_eq!(*branches, file.lines.values().map(|line| 2 * line.branches.len()).sum::<usize>());
            assert!(lines.keys().all(|line| *line as usize <= file.source.text.len()), "{}", path.display());
        }
    }
}
