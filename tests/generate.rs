//! What the generators promise.

use arbitrary::Unstructured;
use attnfuzz::case::{CacheOrder, Case, Domain, Range};
use attnfuzz::float::Dtype;
use attnfuzz::generate::{DEFAULT_BUDGET, EmptyDomain, Feature, Space, Statistics, cost};

/// A kernel that claims nearly everything.
pub(crate) fn wide_domain() -> Domain {
    Domain {
        dtype: Dtype::ALL.to_vec(),
        head_dim: Range::Span(1, 1024),
        v_head_dim: None,
        num_kv_heads: Range::Span(1, 64),
        q_per_kv: Range::Span(1, 128),
        batch: Range::Span(1, 64),
        q_len: Range::Span(1, 64),
        past_len: Range::Span(0, 65536),
        steps: Range::Span(1, 8),
        cache: vec![CacheOrder::Hnd, CacheOrder::Nhd],
        row_pad: Range::Span(0, 64),
        any_scale: true,
    }
}

/// A decode kernel written for one family of models.
fn narrow_domain() -> Domain {
    Domain {
        dtype: vec![Dtype::F16],
        head_dim: Range::List(vec![64, 128]),
        v_head_dim: None,
        num_kv_heads: Range::Span(2, 8),
        q_per_kv: Range::List(vec![1, 4, 7]),
        batch: Range::Span(1, 4),
        q_len: Range::Span(1, 1),
        past_len: Range::Span(1, 4095),
        steps: Range::Span(1, 1),
        cache: vec![CacheOrder::Nhd],
        row_pad: Range::Span(0, 0),
        any_scale: false,
    }
}

fn drawn(domain: &Domain, count: u64) -> Vec<Case> {
    let space = Space::new(domain).unwrap();
    (0..count).map(|i| space.case_at(2026, i)).collect()
}

#[test]
fn drawn_cases_are_in_the_domain_and_the_budget() {
    for domain in [wide_domain(), narrow_domain()] {
        for case in drawn(&domain, 5000) {
            assert_eq!(domain.excludes(&case), None, "{case:?}");
            assert!(
                cost(&case) <= DEFAULT_BUDGET,
                "{case:?} costs {}",
                cost(&case)
            );
        }
    }
}

#[test]
fn half_of_the_cases_are_small() {
    let mut costs: Vec<u64> = drawn(&wide_domain(), 5000)
        .iter()
        .map(|c| cost(c))
        .collect();
    costs.sort_unstable();
    let median = costs[costs.len() / 2];
    assert!((2500..10_000).contains(&median), "{median}");
}

#[test]
fn every_feature_comes_up() {
    let statistics: Statistics = drawn(&wide_domain(), 2000).into_iter().collect();
    for (name, count) in statistics.counts() {
        assert!(count >= 10, "{name}: {count} of 2000\n{statistics}");
    }
    let share = |name: &str| statistics.count(name).unwrap() as f64 / 2000.0;
    for (name, low, high) in [
        ("heads of a model", 0.05, 0.25),
        ("two extents equal", 0.01, 0.15),
        ("q_per_kv no power of two", 0.5, 0.8),
        ("an empty past among others", 0.1, 0.5),
        ("row padding", 0.2, 0.5),
        ("several steps", 0.05, 0.3),
        ("scale 1/sqrt(head_dim)", 0.5, 0.8),
    ] {
        assert!(
            (low..high).contains(&share(name)),
            "{name}: {}\n{statistics}",
            share(name)
        );
    }
}
