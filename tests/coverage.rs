//! What a case reaches: which points exist, and that their numbers and sets can be relied on.

use attnfuzz::backend::{CoverageMap, Emulator, Held, Kernel, PointKind, Points, Recording, Run, Watch, shipped_names};
use attnfuzz::case::Case;
use attnfuzz::oracle::{Verdict, examine};
use proptest::prelude::*;
use std::collections::BTreeSet;
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
