//! Where the shrinker lands, and how fast.

use crate::generate::{knobbed_domain, narrow_domain, wide_domain};
use attnfuzz::case::{CacheOrder, Case, Domain, Range, Recipe, codec::fnv1a, default_scale};
use attnfuzz::float::Dtype;
use attnfuzz::generate::Space;
use attnfuzz::shrink::{Shrinker, complexity, irrelevant, shrink};
use proptest::prelude::*;
use std::collections::HashSet;

const MAX_EXECUTIONS: u32 = 2000;

/// Shrinks 40 random failing cases of `domain` and checks that each lands on `expected`.
fn land_in(domain: &Domain, expected: &str, fails: impl Fn(&Case) -> bool) {
    let space = Space::new(domain).unwrap();
    let starts = (0..).map(|i| space.case_at(7, i)).filter(|c| fails(c));
    let mut executions = Vec::new();
    for start in starts.take(40) {
        let shrunk = shrink(start.clone(), domain, MAX_EXECUTIONS, &mut |case| {
            assert_eq!(domain.excludes(case), None);
            fails(case)
        });
        assert_eq!(shrunk.case.to_string(), expected, "from {start:?}");
        assert!(!shrunk.exhausted);
        assert_eq!(shrunk.irrelevant, irrelevant(&shrunk.case, domain, &mut |c| fails(c)));
        executions.push(shrunk.executions);
    }
    executions.sort_unstable();
    assert!(executions[20] <= 150, "median of {executions:?}");
    assert!(executions[39] <= 300, "worst of {executions:?}");
}

fn lands_on(expected: &str, fails: impl Fn(&Case) -> bool) {
    land_in(&wide_domain(), expected, fails);
}

fn any_past(case: &Case, has: impl Fn(u32) -> bool) -> bool {
    case.shape.requests.iter().any(|r| has(r.past_len))
}

#[test]
fn everything_fails() {
    lands_on("kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |_| true);
}

#[test]
fn group_that_is_no_power_of_two() {
    lands_on("kv=2 g=3 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| {
        c.shape.num_kv_heads >= 2 && !c.shape.q_per_kv.is_power_of_two()
    });
}

#[test]
fn head_dim_with_a_tail_after_a_warp() {
    lands_on("kv=1 g=1 d=33 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| {
        c.shape.head_dim > 32 && !c.shape.head_dim.is_multiple_of(32)
    });
}

#[test]
fn tile_with_a_tail() {
    lands_on("kv=1 g=1 d=1 past=32 dtype=f32 cache=hnd:33 scale=1 values=flat:0", |c| {
        any_past(c, |n| n >= 32 && !(n + 1).is_multiple_of(32))
    });
}

#[test]
fn one_long_past() {
    lands_on("kv=1 g=1 d=1 past=5 dtype=f32 cache=hnd:6 scale=1 values=flat:0", |c| any_past(c, |n| n >= 5));
}

#[test]
fn two_requests_of_different_pasts() {
    lands_on("kv=1 g=1 d=1 past=0,1 dtype=f32 cache=hnd:2 scale=1 values=flat:0", |c| {
        any_past(c, |n| n != c.shape.requests[0].past_len)
    });
}

#[test]
fn two_requests_far_apart() {
    lands_on("kv=1 g=1 d=1 past=0,8 dtype=f32 cache=hnd:9 scale=1 values=flat:0", |c| {
        any_past(c, |n| any_past(c, |m| n >= m + 8))
    });
}

#[test]
fn two_requests_of_one_past() {
    lands_on("kv=1 g=1 d=1 past=1,1 dtype=f32 cache=hnd:2 scale=1 values=flat:0", |c| {
        let requests = c.shape.requests.iter().enumerate();
        requests
            .clone()
            .any(|(i, a)| a.past_len > 0 && requests.clone().any(|(j, b)| i != j && a.past_len == b.past_len))
    });
}

#[test]
fn many_tokens_in_all() {
    lands_on("kv=1 g=1 d=1 past=20 dtype=f32 cache=hnd:21 scale=1 values=flat:0", |c| {
        c.shape.requests.iter().map(|r| r.past_len).sum::<u32>() >= 20
    });
}

#[test]
fn many_query_heads() {
    lands_on("kv=1 g=12 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| c.shape.num_q_heads() >= 12);
}

#[test]
fn many_blocks() {
    lands_on("kv=6 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| {
        c.shape.batch() * c.shape.num_kv_heads >= 6
    });
}

#[test]
fn steps_and_a_past_of_one_residue() {
    lands_on("kv=1 g=1 d=1 past=3 dtype=f32 cache=hnd:5 scale=1 steps=2 values=flat:0", |c| {
        c.steps >= 2 && any_past(c, |n| n % 4 == 3)
    });
}

#[test]
fn a_length_reached_in_a_later_step() {
    lands_on("kv=1 g=1 d=1 past=9 dtype=f32 cache=hnd:10 scale=1 values=flat:0", |c| {
        (0..c.shape.requests.len()).any(|r| c.past_len_at(r, c.steps) >= 10)
    });
}

#[test]
fn several_query_tokens() {
    lands_on("kv=1 g=1 d=1 past=0 q=3 dtype=f32 cache=hnd:3 scale=1 values=flat:0", |c| {
        c.shape.requests.iter().any(|r| r.q_len >= 3)
    });
}

#[test]
fn a_large_cache() {
    lands_on("kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:24 scale=1 values=flat:0", |c| c.cache.capacity >= 24);
}

#[test]
fn a_large_cache_whose_room_was_used() {
    lands_on("kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:24 scale=1 steps=2 values=flat:0", |c| {
        c.cache.capacity >= 24 && c.steps >= 2
    });
}

#[test]
fn a_product_of_heads_and_dimension() {
    lands_on("kv=1 g=1 d=300 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| {
        c.shape.q_per_kv * c.shape.head_dim >= 300
    });
}

#[test]
fn padded_rows_in_one_order() {
    lands_on("kv=1 g=1 d=1 past=0 dtype=f16 cache=nhd:1+1 scale=1 values=flat:0", |c| {
        c.cache.order == CacheOrder::Nhd && c.cache.row_pad % 8 != 0 && c.dtype != Dtype::F32
    });
}

#[test]
fn a_scale_that_is_ignored() {
    lands_on("kv=1 g=1 d=1 past=1 dtype=f32 cache=hnd:2 scale=0.5 values=codes:0", |c| {
        c.scale != default_scale(c.shape.head_dim) && c.values.recipe != Recipe::Flat && any_past(c, |n| n > 0)
    });
}

#[test]
fn logits_that_overflow() {
    lands_on("kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 values=huge:0", |c| {
        matches!(c.values.recipe, Recipe::Huge | Recipe::Mixed)
    });
}

#[test]
fn value_dimension_of_its_own() {
    let domain = Domain { v_head_dim: Some(Range::Span(1, 512)), ..wide_domain() };
    land_in(&domain, "kv=1 g=1 d=1 dv=2 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| {
        c.shape.head_dim != c.shape.v_head_dim
    });
    land_in(&domain, "kv=1 g=1 d=5 past=0 dtype=f32 cache=hnd:1 scale=1 values=flat:0", |c| {
        c.shape.head_dim >= 5 || c.shape.v_head_dim >= 6
    });
}

#[test]
fn lists_and_fixed_scales_are_kept_to() {
    land_in(&narrow_domain(), "kv=3 g=4 d=128 past=1 dtype=f16 cache=nhd:2 scale=0.088388346 values=flat:0", |c| {
        c.shape.num_kv_heads >= 3 && c.shape.q_per_kv != 1 && c.shape.head_dim > 64
    });
}

#[test]
fn knobs_go_down_to_where_it_fails() {
    let knobs = |c: &Case, name: &str| c.knobs[name];
    land_in(
        &knobbed_domain(),
        "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 knobs=num_splits:1,tile:16 values=flat:0",
        |_| true,
    );
    land_in(
        &knobbed_domain(),
        "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 knobs=num_splits:3,tile:64 values=flat:0",
        |c| knobs(c, "num_splits") >= 3 && !knobs(c, "num_splits").is_power_of_two() && knobs(c, "tile") > 16,
    );
    let case = "kv=1 g=1 d=1 past=0 dtype=f32 cache=hnd:1 scale=1 knobs=num_splits:3,tile:16 values=flat:0";
    let told = irrelevant(&case.parse().unwrap(), &knobbed_domain(), &mut |_| true);
    assert!(told.contains(&"knobs"), "{told:?}");
    let told = irrelevant(&case.parse().unwrap(), &knobbed_domain(), &mut |c| knobs(c, "num_splits") > 1);
    assert!(!told.contains(&"knobs") && told.contains(&"steps"), "{told:?}");
}

/// 128 of 173 bugs that shipped in attention kernels needed two features at once, so every two of these are crossed.
#[test]
fn two_features_at_once_have_one_smallest_case() {
    let features: [fn(&Case) -> bool; 18] = [
        |c| c.shape.head_dim % 4 != 0 && c.shape.head_dim > 4,
        |c| c.shape.head_dim > 64,
        |c| c.shape.q_per_kv > 8,
        |c| !c.shape.q_per_kv.is_power_of_two(),
        |c| c.shape.num_kv_heads >= 2,
        |c| !c.shape.num_q_heads().is_multiple_of(8),
        |c| any_past(c, |n| n >= 16),
        |c| any_past(c, |n| n > 8 && !n.is_multiple_of(8)),
        |c| any_past(c, |n| n == 0),
        |c| any_past(c, |n| n != c.shape.requests[0].past_len),
        |c| c.shape.batch() >= 3,
        |c| c.steps >= 2,
        |c| c.cache.order == CacheOrder::Nhd,
        |c| c.dtype == Dtype::F16,
        |c| c.cache.row_pad > 0,
        |c| c.scale == default_scale(c.shape.head_dim) && c.scale != 1.0,
        |c| matches!(c.values.recipe, Recipe::Huge | Recipe::Mixed),
        |c| (0..c.shape.requests.len()).all(|r| c.cache.capacity > c.past_len_at(r, c.steps)),
    ];
    let domain = wide_domain();
    let space = Space::new(&domain).unwrap();
    let pool: Vec<Case> = (0..4000).map(|i| space.case_at(5, i)).collect();
    for (i, first) in features.iter().enumerate() {
        for (j, second) in features[..i].iter().enumerate() {
            let fails = |c: &Case| first(c) && second(c);
            let starts = pool.iter().filter(|c| fails(c)).take(6);
            let ends: HashSet<String> = starts
                .map(|start| shrink(start.clone(), &domain, MAX_EXECUTIONS, &mut |c| fails(c)))
                .map(|shrunk| shrunk.case.to_string())
                .collect();
            assert_eq!(ends.len(), 1, "{j} and {i}: {ends:?}");
        }
    }
}

#[test]
fn fields_that_could_be_anything_are_told() {
    let domain = wide_domain();
    let told = |line: &str, fails: &dyn Fn(&Case) -> bool| {
        let mut ran = 0;
        let fields = irrelevant(&line.parse().unwrap(), &domain, &mut |case| {
            assert_eq!(domain.excludes(case), None);
            ran += 1;
            fails(case)
        });
        assert!(ran <= 40, "{ran}");
        fields.join(" ")
    };
    let tail = "dtype=f32 cache=hnd:2 scale=1 values=flat:0";
    assert_eq!(
        told(&format!("kv=1 g=1 d=1 past=0 {tail}"), &|_| true),
        "kv g d past dtype cache scale steps values poison sched"
    );
    assert_eq!(
        told(&format!("kv=2 g=3 d=1 past=0 {tail}"), &|c| {
            c.shape.num_kv_heads >= 2 && !c.shape.q_per_kv.is_power_of_two()
        }),
        "d past dtype cache scale steps values poison sched"
    );
    assert_eq!(
        told(&format!("kv=1 g=1 d=1 past=0,1 {tail}"), &|c| {
            c.dtype == Dtype::F32 && any_past(c, |n| n != c.shape.requests[0].past_len)
        }),
        "kv g d cache scale steps values poison sched"
    );
}

#[test]
fn a_used_up_budget_is_told() {
    let domain = wide_domain();
    let start = Space::new(&domain).unwrap().case_at(7, 0);
    for budget in 0..8 {
        let mut ran = 0;
        let shrunk = shrink(start.clone(), &domain, budget, &mut |c| {
            ran += 1;
            c.shape.num_q_heads() >= start.shape.num_q_heads()
        });
        assert_eq!((shrunk.executions, ran), (budget, budget));
        assert!(shrunk.exhausted && shrunk.irrelevant.is_empty());
        assert!(shrunk.case.shape.num_q_heads() >= start.shape.num_q_heads());
    }
}

#[test]
fn a_start_outside_the_domain_stays_or_moves_in() {
    let domain = narrow_domain();
    let start = Space::new(&wide_domain()).unwrap().case_at(7, 0);
    let shrunk = shrink(start.clone(), &domain, MAX_EXECUTIONS, &mut |_| true);
    assert!(shrunk.case == start || domain.excludes(&shrunk.case).is_none());
}

proptest! {
    /// A predicate without rhyme or reason: a hash decides.
    #[test]
    fn any_predicate_ends_in_a_simpler_failing_case(seed: u64, salt: u64, share in 1..6_u64) {
        let domain = wide_domain();
        let start = Space::new(&domain).unwrap().case_at(seed, 0);
        let fails = |c: &Case| {
            c == &start || fnv1a(format!("{salt} {c}").as_bytes()).is_multiple_of(share)
        };
        let run = || shrink(start.clone(), &domain, 500, &mut |c| fails(c));
        let shrunk = run();
        prop_assert!(fails(&shrunk.case));
        prop_assert!(complexity(&shrunk.case) <= complexity(&start));
        prop_assert_eq!(domain.excludes(&shrunk.case), None);
        prop_assert_eq!(run(), shrunk);
    }

    #[test]
    fn proposals_are_new_simpler_and_of_the_domain(seed: u64, salt: u64, share in 1..40_u64) {
        let domain = wide_domain();
        let start = Space::new(&domain).unwrap().case_at(seed, 0);
        let mut seen = HashSet::from([start.to_string()]);
        let mut shrinker = Shrinker::new(start, domain.clone());
        while let Some(case) = shrinker.propose() {
            prop_assert!(complexity(&case) < complexity(shrinker.best()));
            prop_assert_eq!(domain.excludes(&case), None);
            prop_assert_eq!(shrinker.open(), Some(&case));
            prop_assert!(seen.insert(case.to_string()), "{:?} twice", case);
            if fnv1a(format!("{salt} {case}").as_bytes()).is_multiple_of(share) {
                shrinker.accept();
                prop_assert_eq!(shrinker.best(), &case);
            } else {
                shrinker.reject();
            }
        }
        prop_assert!(shrinker.propose().is_none());
    }
}
