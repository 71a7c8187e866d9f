//! The order in which cases get simpler.
//!
//! Cases are compared field by field, the first difference decides: requests, steps, query tokens, KV heads, query heads
//! of a KV head, whether v_head_dim differs from head_dim, head_dim, v_head_dim, tokens of past, each past, each query
//! length, each of the kernel's knobs, window, softcap, sinks, whether a query sees later keys, how the cache is stored, its
//! pages (size, spare ones, shared ones, order), row padding, capacity, cache order, dtype, scale, elements that keep their values, names for them, recipe, poison, value seed,
//! schedule seed, view and relation. What shapes the
//! work comes first, what merely decorates it last.
//!
//! Without a window, a cap and sinks is simplest, then less of each; causal is simpler than not, being what the domains
//! have in common. A cache in which every request has its own slots is simplest, one with pages least.
//!
//! Values of which all but a few are 0 are simpler than all of a simpler recipe: what is left can be looked at.
//!
//! Every field is a whole number bounded below, so a sequence of ever smaller cases ends.

use crate::case::{CacheOrder, CaseParts, Poison, Recipe, Storage, default_scale};
use crate::float::Dtype;

/// How complex a case is; smaller is simpler.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complexity {
    extents: [u64; 9],
    past_lens: Vec<u32>,
    q_lens: Vec<u32>,
    knobs: Vec<u32>,
    features: [u32; 4],
    storage: [u32; 5],
    layout: [u32; 5],
    elements: [u64; 2],
    decoration: [u32; 6],
}

/// The complexity of a case.
pub fn complexity(case: &CaseParts) -> Complexity {
    let shape = &case.shape;
    let requests = shape.requests.iter();
    let past_lens: Vec<u32> = requests.clone().map(|r| r.past_len).collect();
    let q_lens: Vec<u32> = requests.map(|r| r.q_len).collect();
    let sum = |lens: &[u32]| lens.iter().map(|&n| u64::from(n)).sum();
    Complexity {
        extents: [
            shape.requests.len() as u64,
            u64::from(case.steps),
            sum(&q_lens),
            u64::from(shape.num_kv_heads),
            u64::from(shape.q_per_kv),
            u64::from(shape.v_head_dim != shape.head_dim),
            u64::from(shape.head_dim),
            u64::from(shape.v_head_dim),
            sum(&past_lens),
        ],
        past_lens,
        q_lens,
        knobs: case.knobs.values().copied().collect(),
        features: [
            case.features.window.unwrap_or(0),
            softcap_rank(case),
            u32::from(case.features.sinks),
            u32::from(!case.features.causal),
        ],
        storage: match case.cache.storage {
            Storage::PerRequest => [0; 5],
            Storage::Packed => [1, 0, 0, 0, 0],
            Storage::Paged(pages) => [2, pages.size, pages.spare, pages.shared, pages.seed],
        },
        layout: [
            case.cache.row_pad,
            case.cache.capacity,
            u32::from(case.cache.order == CacheOrder::Nhd),
            place(&Dtype::ALL, &case.dtype),
            scale_rank(case),
        ],
        elements: [case.kept_elements(), case.only.as_ref().map_or(0, |only| only.regions().len() as u64)],
        decoration: [
            place(&Recipe::ALL, &case.values.recipe),
            place(&Poison::ALL, &case.poison),
            case.values.seed,
            case.schedule_seed,
            u32::from(case.view.is_some()),
            u32::from(case.relation.is_some()),
        ],
    }
}

/// The simplest cap.
pub(super) const SIMPLEST_CAP: f32 = 1.0;

/// None is simplest, then 1, then any other.
fn softcap_rank(case: &CaseParts) -> u32 {
    match case.features.softcap {
        None => 0,
        Some(SIMPLEST_CAP) => 1,
        Some(_) => 2,
    }
}

/// The simplest scale that is not 1/sqrt(head_dim), where 1 is.
pub(super) const SCALE_OF_ITS_OWN: f32 = 0.5;

/// 1 is simplest, then 1/sqrt(head_dim), then 1/2, then any other number.
fn scale_rank(case: &CaseParts) -> u32 {
    if case.scale == 1.0 {
        0
    } else if case.scale == default_scale(case.shape.head_dim) {
        1
    } else if case.scale == SCALE_OF_ITS_OWN {
        2
    } else {
        3
    }
}

fn place<T: PartialEq>(all: &[T], one: &T) -> u32 {
    all.iter().position(|other| other == one).unwrap_or(all.len()) as u32
}
