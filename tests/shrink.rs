//! Where the shrinker lands, and how fast.

use crate::generate::wide_domain;
use attnfuzz::case::{Case, Recipe};
use attnfuzz::generate::Space;
use attnfuzz::shrink::{complexity, shrink};

/// Shrinks 40 random failing cases and checks that each lands on `expected`.
fn lands_on(expected: &str, fails: impl Fn(&Case) -> bool) {
    let domain = wide_domain();
    let space = Space::new(&domain).unwrap();
    let starts = (0..).map(|i| space.case_at(7, i)).filter(|c| fails(c));
    let mut executions = Vec::new();
    for start in starts.take(40) {
        let shrunk = shrink(start.clone(), &domain, 2000, &mut |case| {
            assert_eq!(domain.excludes(case), None);
            assert!(complexity(case) < complexity(&start));
            fails(case)
        });
        assert_eq!(shrunk.case.to_string(), expected, "from {start:?}");
        assert!(!shrunk.exhausted);
        executions.push(shrunk.executions);
    }
    executions.sort_unstable();
    let median = executions[20];
    assert!(median <= 300, "{executions:?}");
    eprintln!("{expected}: {executions:?}");
}

#[test]
fn everything_fails() {
    lands_on(
        "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0",
        |_| true,
    );
}

#[test]
fn group_that_is_no_power_of_two() {
    lands_on(
        "kv=2 g=3 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0",
        |c| c.shape.num_kv_heads >= 2 && !c.shape.q_per_kv.is_power_of_two(),
    );
}

#[test]
fn head_dim_with_a_tail_after_a_warp() {
    lands_on(
        "kv=1 g=1 d=33 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0",
        |c| c.shape.head_dim > 32 && !c.shape.head_dim.is_multiple_of(32),
    );
}

#[test]
fn one_long_past() {
    lands_on(
        "kv=1 g=1 d=1 past=5 dtype=f32 cache=hnd:6 scale=1 values=flat:0",
        |c| c.shape.requests.iter().any(|r| r.past_len >= 5),
    );
}

#[test]
fn two_requests_of_different_pasts() {
    lands_on(
        "kv=1 g=1 d=1 past=0,1 dtype=f32 cache=hnd:2 scale=1 values=flat:0",
        |c| {
            let requests = &c.shape.requests;
            requests.iter().any(|r| r.past_len != requests[0].past_len)
        },
    );
}

#[test]
fn many_query_heads() {
    lands_on(
        "kv=1 g=12 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0",
        |c| c.shape.num_q_heads() >= 12,
    );
}

#[test]
fn steps_and_a_past_of_one_residue() {
    lands_on(
        "kv=1 g=1 d=1 past=3 dtype=f32 cache=hnd:5 scale=1 steps=2 values=flat:0",
        |c| c.steps >= 2 && c.shape.requests.iter().any(|r| r.past_len % 4 == 3),
    );
}

#[test]
fn logits_that_overflow() {
    lands_on(
        "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=huge:0",
        |c| matches!(c.values.recipe, Recipe::Huge | Recipe::Mixed),
    );
}
