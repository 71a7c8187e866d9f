//! The proptest strategy: proptest drives, our search shrinks.

use crate::generate::wide_domain;
use attnfuzz::case::Case;
use attnfuzz::property::cases;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestError, TestRunner};
use std::cell::Cell;

fn runner() -> TestRunner {
    TestRunner::new_with_rng(
        Config { failure_persistence: None, cases: 500, max_shrink_iters: 4000, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    )
}

fn bad_group(case: &Case) -> bool {
    case.shape.num_kv_heads >= 2 && !case.shape.q_per_kv.is_power_of_two()
}

const SIMPLEST: &str = "kv=2 g=3 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0";

#[test]
fn a_failure_shrinks_to_the_simplest() {
    let strategy = cases(&wide_domain()).unwrap();
    let result = runner().run(&strategy, |case| {
        prop_assert!(!bad_group(&case));
        Ok(())
    });
    match result {
        Err(TestError::Fail(_, case)) => assert_eq!(case.to_string(), SIMPLEST),
        other => panic!("expected a failure, found {other:?}"),
    }
}

#[test]
fn the_parts_of_a_tuple_all_shrink() {
    let strategy = (cases(&wide_domain()).unwrap(), 0_u32..1000);
    let result = runner().run(&strategy, |(case, n)| {
        prop_assert!(!(bad_group(&case) && n >= 10));
        Ok(())
    });
    match result {
        Err(TestError::Fail(_, (case, n))) => {
            assert_eq!((case.to_string().as_str(), n), (SIMPLEST, 10));
        }
        other => panic!("expected a failure, found {other:?}"),
    }
}

#[test]
fn stopping_early_leaves_a_failing_case() {
    let strategy = cases(&wide_domain()).unwrap();
    for limit in 0..30 {
        let config = Config { max_shrink_iters: limit, ..runner().config().clone() };
        let result = TestRunner::new(config).run(&strategy, |case| {
            prop_assert!(!bad_group(&case));
            Ok(())
        });
        match result {
            Err(TestError::Fail(_, case)) => assert!(bad_group(&case), "{case:?}"),
            other => panic!("expected a failure, found {other:?}"),
        }
    }
}

#[test]
fn proptest_decides_how_many_cases_run() {
    let ran = Cell::new(0);
    let config = Config { cases: 17, failure_persistence: None, ..Config::default() };
    let strategy = cases(&wide_domain()).unwrap();
    let result = TestRunner::new(config).run(&strategy, |_| {
        ran.set(ran.get() + 1);
        Ok(())
    });
    assert!(result.is_ok());
    assert_eq!(ran.get(), 17);
}

#[test]
fn a_tree_at_its_end_stays_there() {
    let strategy = cases(&wide_domain()).unwrap();
    let mut tree = strategy.new_tree(&mut runner()).unwrap();
    while tree.simplify() {}
    let end = tree.current();
    assert!(!tree.simplify() && !tree.complicate() && !tree.complicate());
    assert_eq!(tree.current(), end);
}
