//! Other values of each field of a case, to see which fields could be anything.

use super::knob::{Knob, followed};
use super::moves::each;
use crate::case::{CacheOrder, Case, Domain, Pages, Recipe, Storage, Values, default_scale};

/// A field, named as in the one-line form, and the case with other values of it.
pub(super) struct Probe {
    pub(super) field: &'static str,
    pub(super) others: Vec<Case>,
}

/// What to try, field by field; only cases of the domain.
pub(super) fn probes(case: &Case, domain: &Domain) -> Vec<Probe> {
    [
        ("kv", up(Knob::KvHeads, case, domain)),
        ("g", up(Knob::QPerKv, case, domain)),
        ("d", up(Knob::HeadDim, case, domain)),
        ("past", pasts(case, domain)),
        ("q", q_lens(case, domain)),
        ("causal", each(case, [true, false], |parts, causal| parts.features.causal = causal)),
        ("window", windows(case, domain)),
        ("softcap", each(case, [None, Some(1.0), Some(30.0)], |parts, cap| parts.features.softcap = cap)),
        ("sinks", each(case, [false, true], |parts, sinks| parts.features.sinks = sinks)),
        ("dtype", dtypes(case, domain)),
        ("cache", caches(case, domain)),
        ("pages", pages(case, domain)),
        ("scale", scales(case)),
        ("steps", up(Knob::Steps, case, domain)),
        ("knobs", (0..case.knobs.len()).flat_map(|i| up(Knob::Own(i), case, domain)).collect()),
        ("values", values(case)),
        ("poison", poisons(case)),
        ("sched", schedules(case)),
    ]
    .into_iter()
    .map(|(field, mut others)| {
        others.retain(|other| other != case && domain.excludes(other).is_none());
        Probe { field, others }
    })
    .collect()
}

/// The smallest number of the domain, the next ones, and one further up.
fn up(knob: Knob, case: &Case, domain: &Domain) -> Vec<Case> {
    let range = knob.range(domain);
    let rank = range.rank(knob.of(case));
    let ranks = [1, 2, 7].map(|more| rank.saturating_add(more));
    std::iter::once(0).chain(ranks).filter_map(|rank| range.nth(rank)).filter_map(|n| knob.turned(case, n)).collect()
}

fn pasts(case: &Case, domain: &Domain) -> Vec<Case> {
    let low = domain.past_len.low();
    let set = |change: &dyn Fn(usize, u32) -> u32| {
        followed(case, |parts| {
            for (i, r) in parts.shape.requests.iter_mut().enumerate() {
                r.past_len = change(i, r.past_len);
            }
        })
    };
    let next = |n: u32| domain.past_len.nth(domain.past_len.rank(n).saturating_add(1));
    [set(&|_, _| low), set(&|_, n| next(n).unwrap_or(n)), set(&|i, n| n.saturating_add(2 * i as u32 + 4))]
        .into_iter()
        .flatten()
        .collect()
}

/// Other numbers of query tokens, the same for every request.
fn q_lens(case: &Case, domain: &Domain) -> Vec<Case> {
    let rank = domain.q_len.rank(case.shape.requests[0].q_len);
    let others =
        [0, rank.saturating_add(1), rank.saturating_add(2)].into_iter().filter_map(|rank| domain.q_len.nth(rank));
    let set = |q_len: u32| followed(case, |parts| parts.shape.requests.iter_mut().for_each(|r| r.q_len = q_len));
    others.filter_map(set).collect()
}

/// None, the narrowest, one that is a key too narrow for the longest request, and one that hides nothing.
fn windows(case: &Case, domain: &Domain) -> Vec<Case> {
    let Some(range) = &domain.window else { return Vec::new() };
    let longest = (0..case.shape.requests.len()).map(|r| case.past_len_at(r, case.steps)).max().unwrap_or(0);
    let some = [range.low(), range.nearest(longest.saturating_sub(1)), range.nearest(longest)].map(Some);
    each(case, some.into_iter().chain([None]), |parts, window| parts.features.window = window)
}

fn pages(case: &Case, domain: &Domain) -> Vec<Case> {
    let Some(sizes) = &domain.page_size else { return Vec::new() };
    let least = Pages::of_size(sizes.low());
    let pages = case.cache.storage.pages().unwrap_or(least);
    let size = sizes.nth(sizes.rank(pages.size).saturating_add(1)).unwrap_or(pages.size);
    let others = [
        Storage::PerRequest,
        Storage::Paged(least),
        Storage::Paged(Pages { size, ..pages }),
        Storage::Paged(Pages { seed: pages.seed.wrapping_add(1), spare: pages.spare.saturating_add(1), ..pages }),
        Storage::Paged(Pages { shared: pages.shared.saturating_add(1), ..pages }),
    ];
    each(case, others, |parts, storage| parts.cache.storage = storage)
}

fn dtypes(case: &Case, domain: &Domain) -> Vec<Case> {
    each(case, domain.dtype.iter().copied(), |parts, dtype| parts.dtype = dtype)
}

fn caches(case: &Case, domain: &Domain) -> Vec<Case> {
    let orders = [CacheOrder::Hnd, CacheOrder::Nhd].map(|order| case.with(|parts| parts.cache.order = order).ok());
    let spare =
        [1, 16].map(|more| case.with(|parts| parts.cache.capacity = parts.cache.capacity.saturating_add(more)).ok());
    let mut all: Vec<Case> = orders.into_iter().chain(spare).flatten().collect();
    all.extend(up(Knob::RowPad, case, domain));
    if case.cache.storage.pages().is_none() {
        let storages = [Storage::PerRequest, Storage::Packed];
        all.extend(each(case, storages, |parts, storage| parts.cache.storage = storage));
    }
    all
}

fn scales(case: &Case) -> Vec<Case> {
    let scales = [1.0, default_scale(case.shape.head_dim), 0.375];
    each(case, scales, |parts, scale| parts.scale = scale)
}

fn values(case: &Case) -> Vec<Case> {
    let recipes = [Recipe::Normal, Recipe::Codes, Recipe::Flat].into_iter().zip(1..);
    each(case, recipes, |parts, (recipe, seed)| {
        parts.values = Values { recipe, seed };
        // Where every element is 0 whatever the recipe, another recipe would tell nothing.
        parts.only = parts.only.take().filter(|only| !only.regions().is_empty());
    })
}

fn poisons(case: &Case) -> Vec<Case> {
    let next = case.poison.next();
    each(case, [next, next.next()], |parts, poison| parts.poison = poison)
}

fn schedules(case: &Case) -> Vec<Case> {
    each(case, [1, 2, 3], |parts, seed| parts.schedule_seed = seed)
}
