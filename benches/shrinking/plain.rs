//! The cases of a domain as one writes them with proptest alone: ranges, lists and choices put together, what is no case
//! or too costly filtered out, and proptest's own shrinking.

use attnfuzz::case::{
    Cache, Case, CaseParts, Domain, Features, Knobs, Pages, Poison, Range, Recipe, Relation, Request, Shape, Storage,
    StorageKind, Values, default_scale,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// Multiply-adds of a case.
const MAX_COST: u64 = 230_000;

/// A number of a range, at most `most`.
fn number(range: &Range, most: u32) -> BoxedStrategy<u32> {
    match range.within(0, most) {
        None => Just(range.low()).boxed(),
        Some(Range::List(list)) => select(list).boxed(),
        Some(Range::Span(low, high)) => (low..=high).boxed(),
    }
}

/// Cases of `domain`, of sizes as a test of one kernel has them.
pub(crate) fn cases(domain: &Domain) -> impl Strategy<Value = Case> {
    let heads = (
        number(&domain.num_kv_heads, 8),
        number(&domain.q_per_kv, 16),
        number(&domain.head_dim, 128),
        domain
            .v_head_dim
            .as_ref()
            .map(|range| number(range, 128))
            .map_or(Just(None).boxed(), |n| n.prop_map(Some).boxed()),
    );
    let request = (number(&domain.past_len, 100), number(&domain.q_len, 16));
    let requests = vec(request.prop_map(|(past_len, q_len)| Request { past_len, q_len }), 1..=4);
    let append = domain.append;
    let features = (
        select(domain.causal.clone()),
        domain.window.as_ref().map_or(Just(None).boxed(), |range| option::of(number(range, 100)).boxed()),
        if domain.softcap { option::of(select(vec![1.0_f32, 5.0, 30.0])).boxed() } else { Just(None).boxed() },
        if domain.sinks { any::<bool>().boxed() } else { Just(false).boxed() },
    )
        .prop_map(move |(causal, window, softcap, sinks)| Features { append, causal, window, softcap, sinks });
    let size = domain.page_size.as_ref().map_or(Just(1).boxed(), |range| number(range, 128));
    let pages = (size, 0..=3_u32, 0..=3_u32, 0..=3_u32).prop_map(|(size, seed, spare, shared)| Pages {
        size,
        seed,
        spare,
        shared,
    });
    let storage = (select(domain.storage.clone()), pages).prop_map(|(kind, pages)| match kind {
        StorageKind::PerRequest => Storage::PerRequest,
        StorageKind::Packed => Storage::Packed,
        StorageKind::Paged => Storage::Paged(pages),
    });
    let cache = (select(domain.cache.clone()), 0..=16_u32, number(&domain.row_pad, 64), storage)
        .prop_map(|(order, capacity, row_pad, storage)| Cache { order, capacity, row_pad, storage });
    let scale = if domain.any_scale { select(vec![Some(1.0), None, Some(0.5)]).boxed() } else { Just(None).boxed() };
    let values = (select(Recipe::ALL.to_vec()), 0..=65_535_u32).prop_map(|(recipe, seed)| Values { recipe, seed });
    let rest = (
        select(domain.dtype.clone()),
        number(&domain.steps, 4),
        select(Poison::ALL.to_vec()),
        0..=65_535_u32,
        option::weighted(0.125, select(Relation::ALL.to_vec())),
    );
    let names: Vec<_> = domain.knobs.keys().cloned().collect();
    let knobs: Vec<BoxedStrategy<u32>> = domain.knobs.values().map(|range| number(range, 32)).collect();
    let knobs = knobs.prop_map(move |numbers| names.iter().cloned().zip(numbers).collect::<Knobs>());
    let domain = domain.clone();
    (heads, requests, features, cache, scale, values, rest, knobs).prop_filter_map(
        "no case of the domain, or too costly",
        move |(
            (num_kv_heads, q_per_kv, head_dim, v_head_dim),
            requests,
            features,
            cache,
            scale,
            values,
            rest,
            knobs,
        )| {
            let (dtype, steps, poison, schedule_seed, relation) = rest;
            let v_head_dim = v_head_dim.unwrap_or(head_dim);
            let shape = Shape { num_kv_heads, q_per_kv, head_dim, v_head_dim, requests };
            let scale = scale.unwrap_or_else(|| default_scale(head_dim));
            let (view, spare) = (None, cache.capacity);
            let mut parts = CaseParts {
                dtype,
                scale,
                steps,
                poison,
                schedule_seed,
                shape,
                cache,
                features,
                values,
                only: None,
                knobs,
                view,
                relation,
            };
            parts.cache.capacity = (parts.needed_capacity() + spare).max(1);
            (cost(&parts) <= MAX_COST)
                .then(|| Case::new(parts).ok())
                .flatten()
                .filter(|case| domain.excludes(case).is_none())
        },
    )
}

fn cost(case: &CaseParts) -> u64 {
    let shape = &case.shape;
    let appended = if case.features.append { case.steps } else { 0 };
    let keys = |r: &Request| u64::from((r.past_len + appended * r.q_len).max(1));
    let pairs: u64 = shape.requests.iter().map(|r| u64::from(case.steps * r.q_len) * keys(r)).sum();
    pairs * u64::from(shape.num_q_heads()) * u64::from(shape.head_dim + shape.v_head_dim)
}
