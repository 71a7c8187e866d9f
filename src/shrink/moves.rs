//! Changes of a case that are not one number turned down: each is a list of cases to try, best first.

use super::knob::{Knob, followed};
use super::order::{SCALE_OF_ITS_OWN, SIMPLEST_CAP};
use crate::case::{CacheOrder, Case, CaseParts, Domain, Features, Pages, Poison, Recipe, Storage, default_scale};
use crate::float::Dtype;

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Move {
    /// Everything that merely decorates a shape at its simplest, at once.
    Plain,
    /// Fewer requests: runs of them left out, longest first.
    Drop,
    /// Requests in ascending order, or two neighbours.
    Sort,
    /// One request's past handed to the next.
    HandOn,
    /// One request's tokens handed to its neighbour, its queries too or not, and the request left out.
    Merge,
    /// The last step alone: the steps before it become past.
    StepsIntoPast,
    /// The last query token of each step alone: those before it become past. Where nothing is appended, the first query
    /// tokens alone: those after them go, with as many keys.
    QueriesIntoPast,
    /// Fewer requests, each with more KV heads.
    RequestsIntoHeads,
    /// Fewer KV heads, each with more query heads.
    HeadsIntoGroups,
    /// One dimension for values and keys, or each other's.
    Dims,
    /// Less of one number and more of another, so that their product stays.
    Trade,
    /// Without a window, a cap, sinks, or with a mask; or a simpler cap.
    Features,
    /// Slots of its own for every request, or one kind of storage for another.
    Storage,
    /// Pages in a simpler order.
    PageSeed,
    Order,
    Dtype,
    Scale,
    Recipe,
    Poison,
    ValueSeed,
    ScheduleSeed,
    /// Without the view, or without the relation.
    Relation,
}

impl Move {
    /// Those that change the shape, in order.
    pub(super) const OF_SHAPE: [Self; 10] = [
        Self::Drop,
        Self::Sort,
        Self::HandOn,
        Self::Merge,
        Self::StepsIntoPast,
        Self::QueriesIntoPast,
        Self::RequestsIntoHeads,
        Self::HeadsIntoGroups,
        Self::Dims,
        Self::Trade,
    ];

    /// Those that change one decoration, in order.
    pub(super) const OF_DECORATION: [Self; 11] = [
        Self::Relation,
        Self::Features,
        Self::Storage,
        Self::PageSeed,
        Self::Order,
        Self::Dtype,
        Self::Scale,
        Self::Recipe,
        Self::Poison,
        Self::ValueSeed,
        Self::ScheduleSeed,
    ];

    /// What to try on `case`, best first.
    pub(super) fn candidates(self, case: &Case, domain: &Domain) -> Vec<Case> {
        match self {
            Self::Plain => plain(case, domain),
            Self::Drop => fewer_requests(case),
            Self::Sort => sorted(case),
            Self::HandOn => hand_on(case),
            Self::Merge => merge(case),
            Self::StepsIntoPast => steps_into_past(case),
            Self::QueriesIntoPast => queries_into_past(case),
            Self::RequestsIntoHeads => requests_into_heads(case),
            Self::HeadsIntoGroups => heads_into_groups(case),
            Self::Dims => dims(case, domain),
            Self::Trade => trade(case, domain),
            Self::Features => features(case),
            Self::Storage => each(case, storages(domain), |parts, storage| parts.cache.storage = storage),
            Self::PageSeed => each(case, 0..4, |parts, seed| {
                if let Storage::Paged(pages) = &mut parts.cache.storage {
                    pages.seed = seed;
                }
            }),
            Self::Order => each(case, [CacheOrder::Hnd], |parts, order| {
                parts.cache.order = order;
            }),
            Self::Dtype => each(case, Dtype::ALL, |parts, dtype| parts.dtype = dtype),
            Self::Scale => {
                let default = default_scale(case.shape.head_dim);
                each(case, [1.0, default, SCALE_OF_ITS_OWN], |parts, scale| {
                    parts.scale = scale;
                })
            }
            Self::Recipe => each(case, Recipe::ALL, |parts, recipe| {
                parts.values.recipe = recipe;
            }),
            Self::Poison => each(case, Poison::ALL, |parts, poison| parts.poison = poison),
            Self::ValueSeed => each(case, 0..4, |parts, seed| parts.values.seed = seed),
            Self::ScheduleSeed => each(case, 0..4, |parts, seed| parts.schedule_seed = seed),
            Self::Relation => {
                let without: [fn(&mut CaseParts); 2] = [|parts| parts.relation = None, |parts| parts.view = None];
                without.into_iter().filter_map(|change| case.with(change).ok()).collect()
            }
        }
    }
}

/// `case` with one part set to each of `choices`.
pub(super) fn each<T>(case: &Case, choices: impl IntoIterator<Item = T>, set: impl Fn(&mut CaseParts, T)) -> Vec<Case> {
    choices.into_iter().filter_map(|choice| case.with(|parts| set(parts, choice)).ok()).collect()
}

fn plain(case: &Case, domain: &Domain) -> Vec<Case> {
    let layout = |parts: &mut CaseParts| {
        parts.cache.row_pad = domain.row_pad.low();
        parts.cache.storage = match (storages(domain).first(), parts.cache.storage) {
            (Some(Storage::Paged(_)), Storage::Paged(pages)) => Storage::Paged(Pages::of_size(pages.size)),
            (Some(&storage), _) => storage,
            (None, storage) => storage,
        };
        parts.cache.capacity = parts.needed_capacity();
        if domain.cache.contains(&CacheOrder::Hnd) {
            parts.cache.order = CacheOrder::Hnd;
        }
    };
    let causal = domain.causal.contains(&true);
    let features = |parts: &mut CaseParts| {
        parts.features =
            Features { append: parts.features.append, causal: parts.features.causal || causal, ..Features::PLAIN };
    };
    let numbers = |parts: &mut CaseParts| {
        parts.dtype = domain.dtype.iter().copied().min().unwrap_or(parts.dtype);
        parts.values.seed = 0;
        parts.schedule_seed = 0;
        parts.poison = Poison::Nan;
        parts.relation = None;
        if domain.any_scale {
            parts.scale = 1.0;
        }
    };
    let all = case.with(|parts| {
        layout(parts);
        features(parts);
        numbers(parts);
        parts.values.recipe = Recipe::Flat;
    });
    let keep_recipe = case.with(|parts| {
        layout(parts);
        features(parts);
        numbers(parts);
    });
    let keep_features = case.with(|parts| {
        layout(parts);
        numbers(parts);
    });
    let singly = [case.with(features), case.with(layout), case.with(numbers)];
    [all, keep_recipe, keep_features].into_iter().chain(singly).filter_map(Result::ok).collect()
}

/// The kinds of storage of a domain, simplest first.
fn storages(domain: &Domain) -> Vec<Storage> {
    let has = |storage: &Storage| domain.storage.contains(&storage.kind());
    let size = domain.page_size.as_ref().map_or(1, |sizes| sizes.low());
    let paged = Storage::Paged(Pages::of_size(size));
    [Storage::PerRequest, Storage::Packed, paged].into_iter().filter(has).collect()
}

fn features(case: &Case) -> Vec<Case> {
    let changes: [fn(&mut Features); 5] = [
        |features| features.window = None,
        |features| features.softcap = None,
        |features| features.softcap = features.softcap.map(|_| SIMPLEST_CAP),
        |features| features.sinks = false,
        |features| features.causal = true,
    ];
    each(case, changes, |parts, change| change(&mut parts.features))
}

fn fewer_requests(case: &Case) -> Vec<Case> {
    let count = case.shape.requests.len();
    let mut candidates = Vec::new();
    let mut run = count.saturating_sub(1);
    while run > 0 {
        let starts = (0..count).step_by(run);
        candidates.extend(starts.filter_map(|start| {
            followed(case, |parts| {
                let end = (start + run).min(count);
                // The last run is as long as the others.
                parts.shape.requests.drain(end - run..end);
            })
        }));
        run /= 2;
    }
    candidates
}

fn sorted(case: &Case) -> Vec<Case> {
    let requests = followed(case, |parts| {
        parts.shape.requests.sort_by_key(|r| (r.past_len, r.q_len));
    });
    let queries = followed(case, |parts| {
        let requests = &mut parts.shape.requests;
        let mut q_lens: Vec<u32> = requests.iter().map(|r| r.q_len).collect();
        q_lens.sort_unstable();
        for (r, q_len) in requests.iter_mut().zip(q_lens) {
            r.q_len = q_len;
        }
    });
    // Where the order matters to some of them.
    let neighbours = case.shape.requests.windows(2).enumerate();
    let descending =
        neighbours.filter(|(_, pair)| (pair[0].past_len, pair[0].q_len) > (pair[1].past_len, pair[1].q_len));
    let swapped = descending.filter_map(|(i, _)| followed(case, |parts| parts.shape.requests.swap(i, i + 1)));
    requests.into_iter().chain(queries).chain(swapped).collect()
}

fn hand_on(case: &Case) -> Vec<Case> {
    (1..case.shape.requests.len())
        .filter_map(|i| {
            followed(case, |parts| {
                let requests = &mut parts.shape.requests;
                let past_len = std::mem::take(&mut requests[i - 1].past_len);
                requests[i].past_len = requests[i].past_len.saturating_add(past_len);
            })
        })
        .collect()
}

fn merge(case: &Case) -> Vec<Case> {
    (1..case.shape.requests.len())
        .flat_map(|i| {
            let merged = move |with_queries: bool| {
                followed(case, |parts| {
                    let appended = parts.appended_len(i - 1);
                    let gone = parts.shape.requests.remove(i - 1);
                    let kept = &mut parts.shape.requests[i - 1];
                    let tokens = if with_queries { gone.past_len } else { gone.past_len + appended };
                    kept.past_len = kept.past_len.saturating_add(tokens);
                    kept.q_len += if with_queries { gone.q_len } else { 0 };
                })
            };
            [false, true].into_iter().filter_map(merged)
        })
        .collect()
}

fn steps_into_past(case: &Case) -> Vec<Case> {
    let fewer = [1, case.steps / 2, case.steps - 1];
    each_followed(case, fewer.into_iter().filter(|&n| n > 0), |parts, steps| {
        let gone = parts.steps - steps;
        parts.steps = steps;
        for r in &mut parts.shape.requests {
            r.past_len += gone * r.q_len;
        }
    })
}

fn queries_into_past(case: &Case) -> Vec<Case> {
    let most = case.shape.requests.iter().map(|r| r.q_len).max().unwrap_or(1);
    let fewer: &[u32] = if case.features.append { &[1, 2] } else { &[1, 2, most / 2, most - 1] };
    each_followed(case, fewer.iter().copied(), |parts, q_len| {
        for r in &mut parts.shape.requests {
            let gone = r.q_len.saturating_sub(q_len);
            r.q_len -= gone;
            r.past_len = if parts.features.append { r.past_len + gone } else { r.past_len.saturating_sub(gone) };
        }
    })
}

fn each_followed(case: &Case, choices: impl IntoIterator<Item = u32>, set: impl Fn(&mut CaseParts, u32)) -> Vec<Case> {
    choices.into_iter().filter_map(|choice| followed(case, |parts| set(parts, choice))).collect()
}

fn heads_into_groups(case: &Case) -> Vec<Case> {
    let shape = &case.shape;
    let (heads, total) = (shape.num_kv_heads, shape.num_q_heads());
    let mut fewer: Vec<u32> = vec![1, 2, 3, heads / 2, heads.saturating_sub(1)];
    fewer.retain(|&n| n > 0 && n < heads);
    fewer.dedup();
    fewer
        .into_iter()
        .flat_map(|kv_heads| {
            let q_per_kv = total.div_ceil(kv_heads);
            each(case, [shape.q_per_kv + 1, q_per_kv], move |parts, q_per_kv| {
                parts.shape.num_kv_heads = kv_heads;
                parts.shape.q_per_kv = q_per_kv;
            })
        })
        .collect()
}

fn requests_into_heads(case: &Case) -> Vec<Case> {
    let batch = case.shape.batch();
    let total = batch * case.shape.num_kv_heads;
    let mut fewer = vec![1, batch / 2, batch - 1];
    fewer.retain(|&n| n > 0 && n < batch);
    fewer.dedup();
    each_followed(case, fewer, |parts, batch| {
        parts.shape.num_kv_heads = total.div_ceil(batch);
        parts.shape.requests.truncate(batch as usize);
    })
}

fn dims(case: &Case, domain: &Domain) -> Vec<Case> {
    let (d, dv) = (case.shape.head_dim, case.shape.v_head_dim);
    let was_default = case.scale == default_scale(d);
    let mut dims = each(case, [(dv, dv), (d, d), (dv, d)], |parts, (d, dv)| {
        parts.shape.head_dim = d;
        parts.shape.v_head_dim = dv;
        if was_default {
            parts.scale = default_scale(d);
        }
    });
    // At the lowest dimension, 1, a scale of 1 is the usual one.
    dims.extend(case.with(|parts| {
        let low = domain.head_dim.low();
        parts.shape.head_dim = low;
        if d == dv {
            parts.shape.v_head_dim = low;
        }
        parts.scale = SCALE_OF_ITS_OWN;
    }));
    dims
}

fn trade(case: &Case, domain: &Domain) -> Vec<Case> {
    let pairs = [
        (Knob::KvHeads, Knob::HeadDim),
        (Knob::KvHeads, Knob::Capacity),
        (Knob::QPerKv, Knob::HeadDim),
        (Knob::HeadDim, Knob::Capacity),
    ];
    let mut candidates = Vec::new();
    for (less, more) in pairs {
        let (from, low) = (less.of(case), less.range(domain).low());
        let product = u64::from(from) * u64::from(more.of(case));
        let mut numbers = vec![low, low + 1, from / 2];
        numbers.retain(|&n| n >= low.max(1) && n < from);
        numbers.dedup();
        for n in numbers {
            let enough = u32::try_from(product.div_ceil(u64::from(n))).ok();
            let traded = less.turned(case, n).zip(enough);
            candidates.extend(traded.and_then(|(case, enough)| more.turned(&case, enough)));
        }
    }
    candidates.extend(part_with_past(case, domain));
    candidates.extend(window_with_past(case, domain));
    candidates
}

/// A window and every past, as many keys less of each: what is wrong at one end of a window stays there.
fn window_with_past(case: &Case, domain: &Domain) -> Vec<Case> {
    let Some((window, low)) = case.features.window.zip(domain.window.as_ref().map(|range| range.low())) else {
        return Vec::new();
    };
    let shortest = case.shape.requests.iter().map(|r| r.past_len).min().unwrap_or(0);
    let mut numbers = vec![low, low + 1, window / 2, window - 1, window.saturating_sub(shortest)];
    numbers.retain(|&n| n >= low && n < window);
    each_followed(case, numbers, |parts, n| {
        parts.features.window = Some(n);
        for r in &mut parts.shape.requests {
            r.past_len = r.past_len.saturating_sub(window - n);
        }
    })
}

/// Less of a knob of the kernel's own or of a page, and as much less of every past: what splits a sequence goes wrong at
/// the same place of a part.
fn part_with_past(case: &Case, domain: &Domain) -> Vec<Case> {
    let mut candidates = Vec::new();
    let pages = Some(Knob::PageSize).filter(|knob| knob.is_in(case));
    for knob in (0..case.knobs.len()).map(Knob::Own).chain(pages) {
        let (from, low) = (knob.of(case), knob.range(domain).low());
        let mut numbers = vec![low, low + 1, from / 2, from.saturating_sub(1)];
        numbers.retain(|&n| n >= low.max(1) && n < from);
        numbers.dedup();
        for n in numbers {
            candidates.extend(knob.turned(case, n).and_then(|turned| {
                followed(&turned, |parts| {
                    for r in &mut parts.shape.requests {
                        r.past_len = (u64::from(r.past_len) * u64::from(n)).div_ceil(u64::from(from)) as u32;
                    }
                })
            }));
        }
    }
    candidates
}
