//! Conditions that tie the fields of a domain: every door keeps them, a case that breaks one is refused with its reason.

use crate::generate::wide_domain;
use arbitrary::Unstructured;
use attnfuzz::case::{Case, Domain, Range, Require};
use attnfuzz::generate::Space;
use attnfuzz::shrink::shrink;
use proptest::prelude::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::sync::LazyLock;

fn domain(conditions: &[(&str, &str)]) -> Domain {
    Domain {
        knobs: [("num_splits".parse().unwrap(), Range::Span(1, 16))].into(),
        require: conditions.iter().map(|(expr, because)| Require::new(*expr, *because)).collect(),
        ..wide_domain()
    }
}

const CONDITIONS: [(&str, &str); 3] = [
    ("head_dim <= 64 || num_splits == 1", "no room for the partial sums"),
    ("mod(num_q_heads, 2) == 0", "heads go in pairs"),
    ("kv_len_max >= num_splits", "no split is empty"),
];

static TIED: LazyLock<Space> = LazyLock::new(|| Space::new(&domain(&CONDITIONS)).unwrap());
static OPEN: LazyLock<Space> = LazyLock::new(|| Space::new(&domain(&[])).unwrap());

fn kept(case: &Case) -> Result<(), TestCaseError> {
    prop_assert_eq!(TIED.domain().excludes(case), None);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_door_keeps_conditions(seed: u64, bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (one, other) = (TIED.draw(&mut rng), TIED.draw(&mut rng));
        kept(&one)?;
        kept(&TIED.mutate(&one, &mut rng))?;
        kept(&TIED.splice(&one, &other, &mut rng))?;
        kept(&TIED.arbitrary(&mut Unstructured::new(&bytes)).unwrap())?;
        let foreign = OPEN.draw(&mut rng);
        kept(&TIED.legalize(foreign.clone().into_parts()))?;
        kept(&TIED.downsize(&foreign))?;
        prop_assert_eq!(&TIED.legalize(one.clone().into_parts()), &one, "it was in the domain");
    }
}

#[test]
fn both_sides_of_a_condition_are_drawn_and_most_of_a_case_stays() {
    let cases: Vec<Case> = (0..400).map(|index| TIED.case_at(1, index)).collect();
    let splits = |case: &Case| *case.knobs.values().next().unwrap();
    let count = |wanted: &dyn Fn(&Case) -> bool| cases.iter().filter(|case| wanted(case)).count();
    assert!(count(&|case| case.shape.head_dim > 64) > 15, "{}", count(&|case| case.shape.head_dim > 64));
    assert!(count(&|case| splits(case) > 1) > 100, "{}", count(&|case| splits(case) > 1));
    // Those that meet the conditions anyhow are the same as without.
    let open: Vec<Case> = (0..400).map(|index| OPEN.case_at(1, index)).collect();
    let same = cases.iter().zip(&open).filter(|(tied, open)| tied == open).count();
    let meeting = open.iter().filter(|case| TIED.domain().excludes(case).is_none()).count();
    assert!(same >= meeting && meeting > 50, "{same} of {meeting}");
}

#[test]
fn a_broken_condition_is_told_with_its_reason() {
    let case = |line: &str| format!("kv=2 g=1 dtype=f32 cache=hnd:9 scale=1 values=flat:0 {line}").parse().unwrap();
    let excludes = |line: &str| TIED.domain().excludes(&case(line));
    assert_eq!(excludes("d=64 past=4 knobs=num_splits:4"), None);
    let room = "no room for the partial sums (the kernel claims head_dim <= 64 || num_splits == 1)";
    assert_eq!(excludes("d=65 past=4 knobs=num_splits:4").as_deref(), Some(room));
    // In the first of two steps there are 3 keys.
    let empty = "no split is empty (the kernel claims kv_len_max >= num_splits)";
    assert_eq!(excludes("d=8 past=2 steps=2 knobs=num_splits:4").as_deref(), Some(empty));
    assert_eq!(excludes("d=8 past=3 steps=2 knobs=num_splits:4"), None);
}

#[test]
fn a_domain_that_is_empty_or_nearly_so_says_so() {
    let error = |expr: &str| Space::new(&domain(&[(expr, "no reason")])).unwrap_err().to_string();
    let expected = "domain.require: expected a case that meets every condition, found none among 4096 that were drawn; \
                    no reason: head_dim < 0";
    assert_eq!(error("head_dim < 0"), expected);
    assert!(error("head_dim == 517 && num_kv_heads == 61 && q_per_kv == 113 && batch == 59").contains("4096"));
    assert!(error("page_size == 4").contains("no reason"), "there are no pages");
}

#[test]
fn shrinking_stays_inside() {
    let domain = TIED.domain().clone();
    let fails = |case: &Case| case.shape.requests.iter().any(|r| r.past_len >= 3);
    let start = (0..).map(|index| TIED.case_at(2, index)).find(|case| fails(case)).unwrap();
    let shrunk = shrink(start, &domain, 2000, &mut |case| {
        assert_eq!(domain.excludes(case), None);
        fails(case)
    });
    let shape = &shrunk.case.shape;
    assert_eq!(shape.num_q_heads() % 2, 0);
    assert!(shape.num_q_heads() == 2 && shape.head_dim == 1 && shape.requests.len() == 1, "{}", shrunk.case);
}
