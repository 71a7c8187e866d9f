//! Findings end with few elements that aren't 0.

use crate::fabricated::featured_domain;
use crate::generate::wide_domain;
use attnfuzz::backend::{Emulator, Kernel};
use attnfuzz::campaign::minimise;
use attnfuzz::case::values::{Role, RowAt};
use attnfuzz::case::{Axis, Case, Domain, Only, Region, Span};
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::property::cases;
use attnfuzz::shrink::shrink;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};

/// Whether an element is what the recipe makes it, and not 0. Coordinates are in the order of the tensor's axes.
fn keeps(case: &Case, role: Role, place: &[u32]) -> bool {
    let on = |axis: Axis| role.axes().iter().position(|&a| a == axis).map_or(0, |i| place[i]);
    let at = RowAt {
        request: on(Axis::Request),
        kv_head: on(Axis::KvHead),
        member: on(Axis::Member),
        token: on(Axis::Token),
    };
    let mut row = Vec::new();
    case.row(role, at, &mut row);
    row.get(on(Axis::Dim) as usize).is_some_and(|&x| x != 0.0)
}

/// The same case, with other elements or another recipe at most.
fn is_still(case: &Case, start: &Case) -> bool {
    case.shape == start.shape && case.features == start.features && case.steps == start.steps
}

const START: &str = "kv=3 g=5 d=24 past=37,0,90 dtype=f16 cache=nhd:120 scale=0.5 values=normal:11 sched=4";

#[test]
fn two_needles_are_all_that_is_left() {
    let start: Case = START.parse().unwrap();
    let needles: [(Role, &[u32]); 2] = [(Role::V, &[2, 1, 77, 13]), (Role::K, &[0, 2, 5, 0])];
    let shrunk = shrink(start.clone(), &wide_domain(), 2000, &mut |c| {
        is_still(c, &start) && needles.iter().all(|(role, place)| keeps(c, *role, place))
    });
    assert_eq!(shrunk.case.only.clone().unwrap().to_string(), "k0.2.5.0,v2.1.77.13");
    assert_eq!(shrunk.case.nonzero_elements(8).unwrap().len(), 2);
    assert!(shrunk.executions < 300, "{}", shrunk.executions);
    assert!(shrunk.irrelevant.contains(&"dtype") && !shrunk.exhausted);
}

#[test]
fn one_of_two_is_enough_where_either_will_do() {
    let start: Case = START.parse().unwrap();
    let places: [&[u32]; 2] = [&[2, 1, 77, 13], &[0, 0, 0, 0]];
    let shrunk = shrink(start.clone(), &wide_domain(), 2000, &mut |c| {
        is_still(c, &start) && places.iter().any(|place| keeps(c, Role::V, place))
    });
    assert_eq!(shrunk.case.only.clone().unwrap().to_string(), "v0.0.0.0");
}

#[test]
fn values_that_do_not_matter_stay_as_they_are() {
    let start: Case = START.parse().unwrap();
    let shrunk = shrink(start.clone(), &wide_domain(), 2000, &mut |c| c.shape.q_per_kv > 2);
    assert_eq!(shrunk.case.to_string(), "kv=1 g=3 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0");
    assert!(shrunk.irrelevant.contains(&"values"));
    // The near miss: one element of the smallest case matters.
    let shrunk = shrink(start, &wide_domain(), 2000, &mut |c| c.shape.q_per_kv > 2 && keeps(c, Role::V, &[0, 0, 0, 0]));
    assert_eq!(
        shrunk.case.to_string(),
        "kv=1 g=3 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0 only=v0.0.0.0"
    );
    assert!(shrunk.irrelevant.contains(&"values"));
}

#[test]
fn a_whole_tensor_is_told_as_one() {
    let start: Case = START.parse().unwrap();
    let all = start.with(|parts| parts.only = Only::new(vec![Region::whole(Role::K)])).unwrap();
    let least = all.kept_elements();
    let shrunk = shrink(start.clone(), &wide_domain(), 2000, &mut |c| {
        let tokens = (0..3).flat_map(|r| (0..start.past_len_at(r, 1)).map(move |t| (r as u32, t)));
        is_still(c, &start)
            && tokens.into_iter().all(|(r, t)| (0..3 * 24).all(|n| keeps(c, Role::K, &[r, n / 24, t, n % 24])))
    });
    assert_eq!(shrunk.case.only.clone().unwrap().to_string(), "k");
    assert_eq!(shrunk.case.kept_elements(), least);
    assert!(shrunk.executions < 600, "{}", shrunk.executions);
}

#[test]
fn a_restricted_case_is_reduced_further() {
    let start: Case = format!("{START} only=q0,k0.0.3-9,v2.1").parse().unwrap();
    let shrunk = shrink(start.clone(), &wide_domain(), 2000, &mut |c| {
        is_still(c, &start) && keeps(c, Role::K, &[0, 0, 9, 5]) && c.only.is_some()
    });
    assert_eq!(shrunk.case.only.clone().unwrap().to_string(), "k0.0.9.5");
}

#[test]
fn a_derived_case_keeps_its_values() {
    let start: Case = format!("{START} view=requests-reversed").parse().unwrap();
    let shrunk = shrink(start.clone(), &wide_domain(), 2000, &mut |c| {
        assert_eq!(c.only, None);
        is_still(c, &start) && c.view.is_some()
    });
    assert_eq!(shrunk.case.view, start.view);
}

#[test]
fn the_budget_holds_where_every_element_matters() {
    let start: Case = START.parse().unwrap();
    let total = start.kept_elements();
    let shrunk =
        shrink(start.clone(), &wide_domain(), 2000, &mut |c| is_still(c, &start) && c.kept_elements() * 10 > total * 9);
    assert!(shrunk.executions < 600, "{}", shrunk.executions);
    assert!(shrunk.case.kept_elements() * 10 > total * 9);
}

#[test]
fn proptest_gets_few_elements_too() {
    let config = Config { failure_persistence: None, cases: 500, max_shrink_iters: 4000, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&cases(&wide_domain()).unwrap(), |case| {
        prop_assert!(!(case.shape.head_dim > 5 && keeps(&case, Role::V, &[0, 0, 0, 4])), "{}", case);
        Ok(())
    });
    match result {
        Err(TestError::Fail(why, case)) => {
            let line = "kv=1 g=1 d=6 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0 only=v0.0.0.4";
            assert_eq!(case.to_string(), line);
            assert!(why.message().contains(line), "{why}");
        }
        other => panic!("expected a failure, found {other:?}"),
    }
}

/// What proptest tells is how the case that it gives back failed, not how one did that was only asked about.
#[test]
fn proptest_tells_of_the_case_it_keeps() {
    let config = Config { failure_persistence: None, cases: 500, max_shrink_iters: 4000, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, rng).run(&cases(&wide_domain()).unwrap(), |case| {
        prop_assert!(case.shape.q_per_kv < 3, "{}", case);
        Ok(())
    });
    match result {
        Err(TestError::Fail(why, case)) => {
            assert_eq!(case.only, None);
            assert!(why.message().contains(&case.to_string()) && !why.message().contains("only="), "{why}");
        }
        other => panic!("expected a failure, found {other:?}"),
    }
}

fn smallest(mutant: &str) -> Case {
    let kernel = Kernel::open(&format!("{}/kernels/mutants/{mutant}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let failing = (0..200).find_map(|index| {
        let case = kernel.space().case_at(3, index);
        let verdict = examine(&Emulator, &kernel, &case).unwrap().verdict;
        verdict.signature().is_some().then_some((case, verdict))
    });
    let (case, verdict): (Case, Verdict) = failing.unwrap();
    minimise(&kernel, &Emulator, &case, &verdict, "test".into(), 2000).unwrap().finding.case
}

#[test]
fn a_wrong_head_shows_in_one_element() {
    let case = smallest("gqa_decode/m01_head_mod");
    let [element] = &case.nonzero_elements(8).unwrap()[..] else { panic!("{case}") };
    assert_eq!(element.role, Role::V);
    assert_eq!((case.shape.num_kv_heads, case.shape.q_per_kv), (2, 2));
}

#[test]
fn a_missing_barrier_needs_no_values() {
    let case = smallest("gqa_decode/m46_barrier_dropped_between_tiles");
    assert_eq!(case.only, None, "{case}");
}

/// A domain, a case of it, and so many of its elements.
fn needles() -> impl Strategy<Value = (Domain, Case, Vec<(Role, Vec<u32>)>)> {
    let shape = (1..5_u32, 1..6_u32, 1..70_u32, prop::collection::vec(0..60_u32, 1..5), 1..3_u32, any::<bool>());
    let needles = prop::collection::vec((0..4_usize, any::<[u32; 5]>()), 1..=4);
    (shape, any::<u16>(), needles).prop_map(|((kv, g, d, past, steps, sinks), seed, needles)| {
        let capacity = past.iter().max().unwrap() + steps;
        let past: Vec<String> = past.iter().map(u32::to_string).collect();
        let sinks = if sinks { " sinks=yes" } else { "" };
        let line = format!(
            "kv={kv} g={g} d={d} past={}{sinks} dtype=f32 cache=hnd:{capacity} scale=1 steps={steps} values=normal:{seed}",
            past.join(",")
        );
        let case: Case = line.parse().unwrap();
        let place = |(role, places): (usize, [u32; 5])| {
            let role = if sinks.is_empty() { [Role::Q, Role::K, Role::V][role % 3] } else { Role::ALL[role] };
            let mut region = Region::whole(role).within(&case).unwrap();
            let at = role.axes().iter().zip(places).map(|(&axis, n)| {
                // Tokens are those of the request chosen before.
                let span = region.within(&case).unwrap().span(axis);
                let n = span.first + n % span.count() as u32;
                region = region.with(axis, Span { first: n, last: n });
                n
            });
            (role, at.collect())
        };
        let needles = needles.into_iter().map(place).collect();
        (featured_domain(true), case, needles)
    })
}

proptest! {
    #[test]
    fn needles_are_found_and_nothing_else((domain, start, needles) in needles()) {
        prop_assume!(needles.iter().all(|(role, place)| keeps(&start, *role, place)));
        let shrunk = shrink(start.clone(), &domain, 2000, &mut |c| {
            is_still(c, &start) && needles.iter().all(|(role, place)| keeps(c, *role, place))
        });
        let mut expected: Vec<_> = needles.clone();
        expected.sort();
        expected.dedup();
        let left = shrunk.case.nonzero_elements(64).unwrap();
        let mut left: Vec<_> = left.into_iter().map(|element| (element.role, element.at)).collect();
        left.sort();
        prop_assert_eq!(left, expected, "{}", shrunk.case);
        prop_assert_eq!(shrunk.case.kept_elements(), shrunk.case.nonzero_elements(64).unwrap().len() as u64);
        prop_assert!(shrunk.executions < 600, "{}", shrunk.executions);
    }
}
