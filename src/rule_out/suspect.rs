//! The suspects: a table.

use crate::backend::manifest::Manifest;
use crate::case::{
    CacheOrder, Case, CaseParts, Domain, Pages, Range, Recipe, Relation, Storage, StorageKind, default_scale,
};
use crate::outcome::FaultKind;

/// Something that an attention kernel gets wrong.
pub struct Suspect {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub what: &'static str,
    /// What its cases have in common.
    pub tried_with: &'static str,
    /// Values of its cases, in turn; empty: as drawn.
    pub recipes: &'static [Recipe],
    /// Relations that its cases ask for, in turn; one case in so many and one asks for none.
    pub relations: &'static [Relation],
    /// Why a kernel has no such thing.
    pub(super) unclaimed: fn(&Manifest) -> Option<&'static str>,
    /// Makes a drawn case one about the suspect; the number says which.
    pub(super) aim: fn(&mut CaseParts, &Domain, u32),
    /// Whether the suspect has a part in a case: where it has none, the case agrees however wrong it is.
    pub(super) shows: fn(&Case, &Domain) -> bool,
    /// How it is told from the others.
    pub(super) mark: Mark,
}

/// How a suspect is told from the others.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    /// By fields of the case: ways to make the suspect calm, of which one must make the case agree.
    Fields(&'static [fn(&mut CaseParts, &Domain)]),
    /// By what a signature's class begins with.
    Class(&'static [&'static str]),
    /// By these fault kinds.
    Faults(&'static [FaultKind]),
    /// By which values fail: see `blame.rs`.
    Values,
}

/// Every suspect, the plainest first.
pub fn suspects() -> impl Iterator<Item = &'static Suspect> {
    SUSPECTS.iter()
}

pub(super) const OUTPUT: &str = "output";
pub(super) const AGGREGATION: &str = "V aggregation";
pub(super) const PRODUCT: &str = "Q.K";
pub(super) const SCALE: &str = "scale";
pub(super) const SOFTMAX: &str = "softmax";

const ALWAYS: fn(&Manifest) -> Option<&'static str> = |_| None;
/// One in this many cases of V aggregation is long.
const LONG: u32 = 100;

/// A part in every case.
const IN_ALL: fn(&Case, &Domain) -> bool = |_, _| true;
/// Of one key, the weight is 1 whatever its logit.
const WITH_KEYS: fn(&Case, &Domain) -> bool = |case, _| longest(case) > 1;

const AS_DRAWN: fn(&mut CaseParts, &Domain, u32) = |_, _, _| {};

/// The table.
pub const SUSPECTS: &[Suspect] = &[
    Suspect {
        name: OUTPUT,
        what: "columns of V and of the output, its rounding and range",
        tried_with: "at most 4 keys, mostly of equal weight; values that tell their column, are tiny or cancel",
        recipes: &[Recipe::Codes, Recipe::Flat, Recipe::Ones, Recipe::Cancel, Recipe::Tiny, Recipe::Normal],
        relations: &[
            Relation::ColumnsReversed,
            Relation::ValuesScaled,
            Relation::ValuesNegated,
            Relation::ValuesRaised,
            Relation::WithinValues,
        ],
        unclaimed: ALWAYS,
        aim: |parts, domain, n| few_keys(parts, domain, n % 4),
        shows: IN_ALL,
        mark: Mark::Values,
    },
    Suspect {
        name: AGGREGATION,
        what: "the weighted sum of V: which keys, lengths and tails of tiles, the division by the weights' sum, its rounding",
        tried_with: "lengths about tiles, and some past 32,768; weights that are equal or select some keys",
        recipes: &[Recipe::Flat, Recipe::Select, Recipe::Spikes, Recipe::Codes],
        relations: &[Relation::KeysPermuted, Relation::KeysRepeated, Relation::WeightsSumToOne],
        unclaimed: ALWAYS,
        aim: |parts, domain, n| {
            if n % LONG == LONG / 2 {
                // Positions that 16 bits do not hold, in rows so short that an emulator can be asked about them.
                let shape = &mut parts.shape;
                shape.head_dim = domain.head_dim.low();
                shape.v_head_dim = domain.v_head_dim.as_ref().map_or(shape.head_dim, Range::low);
                for request in &mut shape.requests {
                    request.past_len = domain.past_len.nearest(32_768 + n % 64);
                }
            }
        },
        shows: WITH_KEYS,
        mark: Mark::Values,
    },
    Suspect {
        name: PRODUCT,
        what: "the products of queries and keys: every dimension, tails of head_dim",
        tried_with: "at most 15 keys, rows with few elements that aren't 0, the last among them",
        recipes: &[Recipe::Select, Recipe::Sparse, Recipe::Codes, Recipe::Normal],
        relations: &[Relation::DimsReversed, Relation::FactorsMoved],
        unclaimed: ALWAYS,
        aim: |parts, domain, n| few_keys(parts, domain, 1 + n % 14),
        shows: WITH_KEYS,
        mark: Mark::Values,
    },
    Suspect {
        name: SCALE,
        what: "the factor of the logits",
        tried_with: "1/sqrt(head_dim) and others, head_dim no power of two, two keys of known difference",
        recipes: &[Recipe::Codes, Recipe::Normal, Recipe::Peaky],
        relations: &[Relation::ScaleProbe],
        unclaimed: ALWAYS,
        aim: |parts, domain, n| few_keys(parts, domain, 1 + n % 14),
        shows: WITH_KEYS,
        mark: Mark::Values,
    },
    Suspect {
        name: SOFTMAX,
        what: "the maximum that is subtracted, rescaling from tile to tile, exponentials",
        tried_with: "logits that rise, fall, tie, are far below 0 or past where exp overflows, over several tiles",
        recipes: &[
            Recipe::Normal,
            Recipe::Rising,
            Recipe::Huge,
            Recipe::Cold,
            Recipe::Falling,
            Recipe::Extreme,
            Recipe::Spikes,
            Recipe::Peaky,
            Recipe::Ties,
            Recipe::Sink,
            Recipe::Underflow,
            Recipe::Mixed,
        ],
        relations: &[Relation::LogitsShifted, Relation::KeysPermuted, Relation::WeightsSumToOne],
        unclaimed: ALWAYS,
        aim: AS_DRAWN,
        shows: WITH_KEYS,
        mark: Mark::Values,
    },
    Suspect {
        name: "head mapping",
        what: "which KV head a query head reads (GQA)",
        tried_with: "several KV heads, groups that are no power of two, values that tell their head",
        recipes: &[Recipe::Codes, Recipe::Select, Recipe::Flat],
        relations: &[Relation::HeadsRepeated],
        unclaimed: |manifest| {
            let domain = &manifest.domain;
            (domain.num_kv_heads.high() == 1 && domain.q_per_kv.high() == 1).then_some("there is one head")
        },
        aim: |parts, domain, n| {
            let shape = &mut parts.shape;
            shape.num_kv_heads = domain.num_kv_heads.nearest(shape.num_kv_heads.max(2));
            if shape.q_per_kv < 3 {
                shape.q_per_kv = domain.q_per_kv.nearest(3 + n % 6);
            }
        },
        shows: |case, _| case.shape.num_q_heads() > 1,
        mark: Mark::Fields(&[|parts, domain| {
            parts.shape.num_kv_heads = domain.num_kv_heads.low();
            parts.shape.q_per_kv = domain.q_per_kv.low();
        }]),
    },
    Suspect {
        name: "batch",
        what: "which request a row belongs to, and its own length",
        tried_with: "several requests, most of them of different lengths",
        recipes: &[Recipe::Codes, Recipe::Select, Recipe::Flat, Recipe::Normal],
        relations: &[Relation::RequestsReversed, Relation::RequestAlone],
        unclaimed: |manifest| (manifest.domain.batch.high() == 1).then_some("there is one request"),
        aim: |parts, domain, n| {
            let first = parts.shape.requests[0];
            while parts.shape.requests.len() < 2 {
                let past_len = domain.past_len.nearest(first.past_len / 2 + n % 5);
                parts.shape.requests.insert(0, crate::case::Request { past_len, ..first });
            }
        },
        shows: |case, _| case.shape.requests.len() > 1,
        mark: Mark::Fields(&[|parts, _| {
            // The one with the most keys: it fails alone if what it takes is many.
            let longest = parts.shape.requests.iter().max_by_key(|request| request.past_len).copied();
            parts.shape.requests = longest.into_iter().collect();
        }]),
    },
    Suspect {
        name: "KV cache state",
        what: "appending to the cache, and positions from step to step",
        tried_with: "several steps on one cache, full and empty at first; every byte of the cache afterwards",
        recipes: &[],
        relations: &[Relation::Appended, Relation::StepsMerged],
        unclaimed: |manifest| (!manifest.domain.append).then_some("the kernel appends nothing"),
        aim: |parts, domain, n| parts.steps = domain.steps.nearest(2 + n % 3),
        shows: |case, domain| case.steps > 1 || domain.steps.high() == 1,
        mark: Mark::Fields(&[|parts, domain| parts.steps = domain.steps.low()]),
    },
    Suspect {
        name: "written caches",
        what: "what is in the caches after the last step, to the bit",
        tried_with: "every order, padding and length",
        recipes: &[],
        relations: &[],
        unclaimed: |manifest| (!manifest.domain.append).then_some("the kernel appends nothing"),
        aim: AS_DRAWN,
        shows: IN_ALL,
        mark: Mark::Class(&["diverge k_cache", "diverge v_cache"]),
    },
    Suspect {
        name: "masks",
        what: "causal masks and sliding windows: the first and the last key that a query sees",
        tried_with: "windows about tiles and lengths, several query tokens, causal and not",
        recipes: &[Recipe::Select, Recipe::Codes, Recipe::Flat, Recipe::Normal],
        relations: &[Relation::StepsMerged, Relation::KeysPermuted],
        unclaimed: |manifest| {
            let domain = &manifest.domain;
            let none = domain.window.is_none() && domain.q_len.high() <= 1;
            none.then_some("there is no window, and one query token sees every key")
        },
        aim: |parts, domain, n| {
            if let Some(range) = domain.window.as_ref().filter(|_| n % 3 != 0) {
                // A window that hides a key.
                let first = &mut parts.shape.requests[0];
                first.past_len = domain.past_len.nearest(first.past_len.max(2 + n % 40));
                let hides = |window: u32| window < first.past_len;
                if !parts.features.window.is_some_and(hides) {
                    parts.features.window = Some(range.nearest(1 + n % first.past_len.max(1)));
                }
            }
        },
        shows: |case, _| {
            case.features.window.is_some_and(|window| window < longest(case))
                || case.shape.requests.iter().any(|request| request.q_len > 1)
        },
        mark: Mark::Fields(&[
            |parts, _| parts.features.window = None,
            |parts, domain| {
                parts.features.window = None;
                parts.features.causal = parts.features.causal && !domain.causal.contains(&false);
                for request in &mut parts.shape.requests {
                    request.q_len = request.q_len.min(1);
                }
            },
        ]),
    },
    Suspect {
        name: "softcap",
        what: "the cap of the logits",
        tried_with: "caps that bend every logit, those of models, and one that bends none",
        recipes: &[],
        relations: &[Relation::ScaleProbe, Relation::KeysPermuted],
        unclaimed: |manifest| (!manifest.domain.softcap).then_some("the kernel takes none"),
        aim: |parts, _, n| {
            parts.features.softcap = parts.features.softcap.or(Some([0.5, 2.0, 15.0, 50.0][n as usize % 4]));
        },
        shows: |case, _| case.features.softcap.is_some(),
        mark: Mark::Fields(&[|parts, _| parts.features.softcap = None]),
    },
    Suspect {
        name: "sinks",
        what: "attention sinks, one logit more for each query head",
        tried_with: "sinks above, among and below the logits",
        recipes: &[],
        relations: &[Relation::ScaleProbe, Relation::HeadsRepeated],
        unclaimed: |manifest| (!manifest.domain.sinks).then_some("the kernel takes none"),
        aim: |parts, _, _| parts.features.sinks = true,
        shows: |case, _| case.features.sinks,
        mark: Mark::Fields(&[|parts, _| parts.features.sinks = false]),
    },
    Suspect {
        name: "layout",
        what: "orders of the axes, strides, padding, capacity, pages, packed batches",
        tried_with: "every order by several paddings and page sizes, pages shuffled, shared and spare",
        recipes: &[Recipe::Codes, Recipe::Select, Recipe::Normal],
        relations: &[Relation::CacheMoved, Relation::PagesPermuted, Relation::PagesResized],
        unclaimed: ALWAYS,
        aim: |parts, domain, n| {
            // Orders and storages in turn, then paddings, then page sizes: each with each of the others.
            let pick = |n: u32, count: usize| n as usize % count.max(1);
            parts.cache.order = domain.cache[pick(n, domain.cache.len())];
            let n = n / domain.cache.len() as u32;
            parts.cache.row_pad = domain.row_pad.nearest([0, 1, 8, 3, 64, 16][pick(n, 6)]);
            let n = n / 6;
            if let (Storage::Paged(pages), Some(sizes)) = (&mut parts.cache.storage, &domain.page_size) {
                let known = [16, 1, 64, 3, 128, 32];
                pages.size = sizes.nearest(known[pick(n, known.len())]);
                pages.seed = 2 + n;
            }
            parts.cache.capacity = parts.cache.capacity.saturating_add([0, 1, 7][pick(n, 3)]);
        },
        shows: IN_ALL,
        mark: Mark::Fields(&[
            |parts, domain| plain_layout(parts, domain, CacheOrder::Hnd),
            |parts, domain| plain_layout(parts, domain, CacheOrder::Nhd),
        ]),
    },
    Suspect {
        name: "launch knobs",
        what: "splits of the keys and other choices that must not change the result, and how parts are combined",
        tried_with: "few and many, more than there are keys",
        recipes: &[],
        relations: &[Relation::KnobsChanged, Relation::KeysPermuted],
        unclaimed: |manifest| manifest.domain.knobs.is_empty().then_some("the kernel has none"),
        aim: |parts, domain, n| {
            for (name, range) in &domain.knobs {
                let value = parts.knobs.entry(name.clone()).or_insert_with(|| range.low());
                *value = range.nearest((*value).max(range.low().saturating_add(1 + n % 7)));
            }
        },
        shows: |case, domain| {
            domain.knobs.iter().any(|(name, range)| {
                range.low() == range.high() || case.knobs.get(name).is_some_and(|value| *value > range.low())
            })
        },
        mark: Mark::Fields(&[|parts, domain| {
            parts.knobs = domain.knobs.iter().map(|(name, range)| (name.clone(), range.low())).collect();
        }]),
    },
    Suspect {
        name: "log-sum-exp",
        what: "the second output, by a bound of its own",
        tried_with: "all that is drawn for the kernel; parts merged by it",
        recipes: &[],
        relations: &[Relation::LsesMerged],
        unclaimed: |manifest| manifest.lse.is_none().then_some("the kernel returns none"),
        aim: AS_DRAWN,
        shows: IN_ALL,
        mark: Mark::Class(&["diverge lse", "relation lses-merged"]),
    },
    Suspect {
        name: "memory safety",
        what: "accesses out of bounds, misaligned or of what nobody wrote; inputs and guards that change",
        tried_with: "all that is drawn for the kernel, at once; the cases of every other suspect are watched too",
        recipes: &[],
        relations: &[],
        unclaimed: ALWAYS,
        aim: AS_DRAWN,
        shows: IN_ALL,
        mark: Mark::Faults(&[
            FaultKind::OutOfBounds,
            FaultKind::Misaligned,
            FaultKind::UninitialisedRead,
            FaultKind::InputModified,
            FaultKind::GuardTouched,
            FaultKind::ReadsPoison,
            FaultKind::LaunchFailed,
            FaultKind::DeviceError,
            FaultKind::Crash,
            FaultKind::Trap,
        ]),
    },
    Suspect {
        name: "determinism",
        what: "races, barriers and warps that wait, the same bits in every run",
        tried_with: "all that is drawn for the kernel, twice, in another order of warps and blocks where that can be chosen",
        recipes: &[],
        relations: &[],
        unclaimed: ALWAYS,
        aim: AS_DRAWN,
        shows: IN_ALL,
        mark: Mark::Faults(&[
            FaultKind::NotRepeatable,
            FaultKind::Race,
            FaultKind::DivergentBarrier,
            FaultKind::Deadlock,
            FaultKind::WarpMask,
            FaultKind::Hang,
        ]),
    },
];

/// Keys of the longest request, in the last step.
fn longest(case: &Case) -> u32 {
    (0..case.shape.requests.len()).map(|request| case.kv_len_at(request, case.steps - 1)).max().unwrap_or(0)
}

/// Cuts every request to at most so many keys in the cache.
pub(super) fn few_keys(parts: &mut CaseParts, domain: &Domain, most: u32) {
    for request in &mut parts.shape.requests {
        request.past_len = domain.past_len.nearest(request.past_len.min(most));
    }
}

/// Nothing but the order of axes that is wanted, or the one that there is.
fn plain_layout(parts: &mut CaseParts, domain: &Domain, order: CacheOrder) {
    parts.cache.order = domain.cache.iter().copied().find(|claimed| *claimed == order).unwrap_or(domain.cache[0]);
    parts.cache.row_pad = domain.row_pad.low();
    if let (Storage::Paged(pages), Some(sizes)) = (&mut parts.cache.storage, &domain.page_size) {
        *pages = Pages::of_size(sizes.high());
    }
    if domain.storage.contains(&StorageKind::PerRequest) {
        parts.cache.storage = Storage::PerRequest;
    }
    parts.cache.capacity = parts.needed_capacity();
}

/// Leaves 1/sqrt(head_dim).
pub(super) fn plain_scale(parts: &mut CaseParts) {
    parts.scale = default_scale(parts.shape.head_dim);
}
