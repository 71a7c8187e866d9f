//! Other values of each field of a case, to see which fields could be anything.

use super::knob::{Knob, followed};
use crate::case::{CacheOrder, Case, Domain, Recipe, Values, default_scale};

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
        ("dtype", dtypes(case, domain)),
        ("cache", caches(case, domain)),
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

fn dtypes(case: &Case, domain: &Domain) -> Vec<Case> {
    let dtypes = domain.dtype.iter();
    dtypes.filter_map(|&dtype| case.with(|parts| parts.dtype = dtype).ok()).collect()
}

fn caches(case: &Case, domain: &Domain) -> Vec<Case> {
    let orders = [CacheOrder::Hnd, CacheOrder::Nhd].map(|order| case.with(|parts| parts.cache.order = order).ok());
    let spare =
        [1, 16].map(|more| case.with(|parts| parts.cache.capacity = parts.cache.capacity.saturating_add(more)).ok());
    let mut all: Vec<Case> = orders.into_iter().chain(spare).flatten().collect();
    all.extend(up(Knob::RowPad, case, domain));
    all
}

fn scales(case: &Case) -> Vec<Case> {
    let scales = [1.0, default_scale(case.shape.head_dim), 0.375];
    scales.into_iter().filter_map(|scale| case.with(|parts| parts.scale = scale).ok()).collect()
}

fn values(case: &Case) -> Vec<Case> {
    [Recipe::Normal, Recipe::Codes, Recipe::Flat]
        .into_iter()
        .zip(1..)
        .filter_map(|(recipe, seed)| case.with(|parts| parts.values = Values { recipe, seed }).ok())
        .collect()
}

fn poisons(case: &Case) -> Vec<Case> {
    let next = case.poison.next();
    [next, next.next()].into_iter().filter_map(|poison| case.with(|parts| parts.poison = poison).ok()).collect()
}

fn schedules(case: &Case) -> Vec<Case> {
    [1, 2, 3].into_iter().filter_map(|seed| case.with(|parts| parts.schedule_seed = seed).ok()).collect()
}
