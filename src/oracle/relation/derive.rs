//! From a case to the cases that a relation compares, and which of their output rows belong together.

use crate::case::{CacheOrder, Case, CaseParts, Domain, Features, Pages, Relation, Request, Storage, View};

/// Factor of V in [`Relation::ValuesScaled`] as a power of two: large enough for clamps at 448 and 240 (8-bit formats),
/// small enough for binary16.
const VALUE_POWER: i32 = 6;
/// Power of two that [`Relation::FactorsMoved`] moves from K to Q.
const FACTOR_POWER: i32 = 4;
/// What [`Relation::LogitsShifted`] puts into every key: times the scale of a head_dim of 512 or less it is past 88,
/// where binary32's exponential overflows.
const SHIFT: i32 = 2048;

/// The two cases whose outputs a relation compares.
pub(super) struct Pair {
    /// The case itself, or one prepared for the relation; the same as the other where a formula says what to expect.
    pub(super) base: Case,
    /// The case whose output follows from the base's.
    pub(super) other: Case,
}

/// Whether the output follows from a formula, so that one run is enough.
pub(super) fn has_formula(relation: Relation) -> bool {
    matches!(relation, Relation::WeightsSumToOne | Relation::WithinValues | Relation::ScaleProbe)
}

/// The cases to run for a relation, or why it says nothing about `given`.
pub(super) fn pair(relation: Relation, given: &Case, domain: &Domain) -> Result<Pair, &'static str> {
    if given.view.is_some() {
        return Err("the case is itself derived from another");
    }
    let mut base = if looks_up_tokens(relation) { unshared(given)? } else { given.clone() };
    let case = &base.clone();
    let viewed = |view: View| case.with(|parts| parts.view = Some(view)).ok();
    let q_len = case.shape.requests[0].q_len;
    let one_q_len = case.shape.requests.iter().all(|r| r.q_len == q_len);
    let other = match relation {
        Relation::KeysPermuted => {
            let exchanges = |r: usize| case.interchangeable(r).iter().any(|keys| keys.len() > 1);
            let mut queried = (0..case.shape.requests.len()).filter(|&r| case.shape.requests[r].q_len > 0);
            require(queried.any(exchanges), "no request has two keys to exchange")?;
            viewed(View::KeysPermuted)
        }
        Relation::KeysRepeated => {
            // One query and the window before it are as far from the end as twice the keys and twice the window are.
            let alike = |r: usize| case.shape.requests[r].q_len <= 1 || case.sees_all(r);
            let all_alike = case.steps == 1 && (0..case.shape.requests.len()).all(alike);
            require(all_alike, "several query tokens see different keys")?;
            require(!case.features.sinks, "a sink does not weigh twice as much")?;
            case.with(|parts| {
                parts.view = Some(View::KeysRepeated(2));
                for request in 0..parts.shape.requests.len() {
                    let appended = parts.appended_len(request);
                    let r = &mut parts.shape.requests[request];
                    r.past_len = r.past_len.saturating_mul(2).saturating_add(appended);
                }
                parts.features.window = parts.features.window.map(|window| window.saturating_mul(2));
                parts.cache.capacity = parts.cache.capacity.saturating_mul(2);
            })
            .ok()
        }
        Relation::LogitsShifted => {
            require(case.shape.head_dim > 1, "there is no dimension to spare")?;
            require(case.features.softcap.is_none(), "a cap takes the shift away")?;
            require(!case.features.sinks, "the logits of sinks are not shifted")?;
            base = viewed(View::Reserved(0)).ok_or("no such case")?;
            viewed(View::Reserved(SHIFT))
        }
        Relation::ValuesScaled => {
            require(case.values.recipe.is_normal(), "scaling subnormal numbers is not exact")?;
            viewed(View::ValuesScaled(VALUE_POWER))
        }
        Relation::ValuesNegated => viewed(View::ValuesNegated),
        Relation::ValuesRaised => {
            require(case.values.recipe.v_has_few_bits(), "V + 1 is not exact")?;
            require(!case.features.sinks, "the weights of keys beside a sink do not sum to one")?;
            viewed(View::ValuesRaised)
        }
        Relation::WeightsSumToOne => {
            require(!case.features.sinks, "the weights of keys beside a sink do not sum to one")?;
            viewed(View::ValuesOne)
        }
        Relation::WithinValues => Some(case.clone()),
        Relation::HeadsRepeated => {
            let q_per_kv = case.shape.q_per_kv;
            require(q_per_kv > 1, "every query head has its own KV head")?;
            case.with(|parts| {
                parts.view = Some(View::HeadsRepeated(q_per_kv));
                parts.shape.num_kv_heads = parts.shape.num_q_heads();
                parts.shape.q_per_kv = 1;
            })
            .ok()
        }
        Relation::RequestsReversed => {
            require(case.shape.batch() > 1, "there is one request")?;
            case.with(|parts| {
                parts.view = Some(View::RequestsReversed);
                parts.shape.requests.reverse();
            })
            .ok()
        }
        Relation::RequestAlone => {
            require(case.shape.batch() > 1, "there is one request")?;
            let request = alone(case);
            case.with(|parts| {
                parts.view = Some(View::Request(request));
                parts.shape.requests = vec![parts.shape.requests[request as usize]];
            })
            .ok()
        }
        Relation::CacheMoved => case
            .with(|parts| {
                let order = match parts.cache.order {
                    CacheOrder::Hnd => CacheOrder::Nhd,
                    CacheOrder::Nhd => CacheOrder::Hnd,
                };
                if domain.cache.contains(&order) {
                    parts.cache.order = order;
                }
                parts.cache.capacity = parts.cache.capacity.saturating_add(3);
                let pad = parts.cache.row_pad;
                parts.cache.row_pad =
                    [pad + 1, pad + 8, 0].into_iter().find(|&pad| domain.row_pad.contains(pad)).unwrap_or(pad);
            })
            .ok(),
        Relation::DimsReversed => {
            require(case.shape.head_dim > 1, "there is one dimension")?;
            viewed(View::DimsReversed)
        }
        Relation::ColumnsReversed => {
            require(case.shape.v_head_dim > 1, "there is one column")?;
            viewed(View::ColumnsReversed)
        }
        Relation::FactorsMoved => {
            // Binary16 has too few exponents to move a factor exactly.
            require(case.dtype.min_exponent() <= -126, "the dtype has too few exponents")?;
            viewed(View::FactorsMoved(FACTOR_POWER))
        }
        Relation::Appended => {
            require(case.features.append, "nothing is appended")?;
            require(one_q_len, "requests have different numbers of query tokens")?;
            let earlier = (case.steps - 1) * q_len;
            let enough = case.shape.requests.iter().all(|r| r.past_len >= q_len);
            require(earlier > 0 || enough, "a request has no past to be appended")?;
            case.with(|parts| {
                if earlier > 0 {
                    parts.steps = 1;
                    parts.view = Some(View::QueriesFrom(earlier));
                    parts.shape.requests.iter_mut().for_each(|r| r.past_len += earlier);
                } else {
                    parts.steps = 2;
                    parts.view = Some(View::QueriesFrom(q_len.wrapping_neg()));
                    parts.shape.requests.iter_mut().for_each(|r| r.past_len -= q_len);
                }
            })
            .ok()
        }
        Relation::StepsMerged if !case.features.append => Some(one_query_of(case)?),
        Relation::StepsMerged => {
            require(case.features.causal, "what is appended later is seen too")?;
            require(one_q_len, "requests have different numbers of query tokens")?;
            require(
                (q_len == 1) != (case.steps == 1),
                "there is one query token, or there are several in several steps",
            )?;
            case.with(|parts| {
                let (steps, q_len) = (q_len, parts.steps);
                parts.steps = steps;
                parts.shape.requests.iter_mut().for_each(|r| r.q_len = q_len);
            })
            .ok()
        }
        Relation::KnobsChanged => Some(other_knobs(case, domain)?),
        Relation::LsesMerged => return Err("it takes three runs"),
        Relation::ScaleProbe => case
            .with(|parts| {
                parts.steps = 1;
                let past_len = if parts.features.append { 1 } else { 2 };
                parts.shape.requests.fill(Request { past_len, q_len: 1 });
                parts.features.window = parts.features.window.filter(|&window| window >= 2);
                parts.cache.capacity = parts.cache.capacity.clamp(2, 8);
            })
            .ok(),
        Relation::PagesPermuted => Some(other_pages(case)?),
        Relation::PagesResized => {
            let pages = case.cache.storage.pages().ok_or("the cache has no pages")?;
            let sizes = domain.page_size.as_ref().ok_or("the kernel has no pages")?;
            let next = sizes.nth(sizes.rank(pages.size).saturating_add(1)).unwrap_or(sizes.low());
            require(next != pages.size, "the pages have one size only")?;
            case.with(|parts| parts.cache.storage = Storage::Paged(Pages { size: next, ..pages })).ok()
        }
    };
    let other = in_domain(other, domain)?;
    let base = if has_formula(relation) { other.clone() } else { base };
    Ok(Pair { base, other })
}

/// Whether the derived case finds a request's tokens under another request or place, where sharing pages would mix them
/// up.
fn looks_up_tokens(relation: Relation) -> bool {
    matches!(
        relation,
        Relation::KeysPermuted
            | Relation::KeysRepeated
            | Relation::RequestsReversed
            | Relation::RequestAlone
            | Relation::Appended
            | Relation::StepsMerged
            | Relation::LsesMerged
            | Relation::PagesResized
    )
}

/// `case` with pages of its own for every request, however long its past becomes.
fn unshared(case: &Case) -> Result<Case, &'static str> {
    let Some(pages) = case.cache.storage.pages().filter(|pages| pages.shared > 0) else { return Ok(case.clone()) };
    let own = case.with(|parts| parts.cache.storage = Storage::Paged(Pages { shared: 0, ..pages }));
    own.map_err(|_| "without shared pages the case has no legal shape")
}

/// One query token of each request, the same from the start in all, over the keys up to its position (or all keys).
fn one_query_of(case: &Case) -> Result<Case, &'static str> {
    let query = query_alone(case);
    require(case.shape.requests.iter().any(|r| r.q_len > 1), "there is one query token")?;
    let Features { causal, window, .. } = case.features;
    require(causal || window.is_none(), "the window is where the query is, and the keys are not")?;
    let one = case.with(|parts| {
        parts.view = Some(View::QueriesFrom(query));
        for r in parts.shape.requests.iter_mut().filter(|r| r.q_len > 0) {
            if causal {
                r.past_len = (r.past_len + query + 1).saturating_sub(r.q_len);
            }
            r.q_len = 1;
        }
    });
    one.map_err(|_| "the derived case has no legal shape")
}

/// The query token that [`Relation::StepsMerged`] takes by itself where nothing is appended.
fn query_alone(case: &CaseParts) -> u32 {
    let fewest = case.shape.requests.iter().map(|r| r.q_len).filter(|&q_len| q_len > 0).min();
    case.values.seed % fewest.unwrap_or(1)
}

fn other_knobs(case: &Case, domain: &Domain) -> Result<Case, &'static str> {
    require(!case.knobs.is_empty(), "the kernel has no knobs")?;
    let mut knobs = case.knobs.clone();
    for (name, n) in &mut knobs {
        let range = domain.knobs.get(name).ok_or("the kernel has no such knob")?;
        let next = range.nth(range.rank(*n).saturating_add(1)).unwrap_or(range.low());
        let mut others = vec![range.low(), next, range.high()];
        others.retain(|other| other != n);
        if !others.is_empty() {
            *n = others[case.values.seed as usize % others.len()];
        }
    }
    require(knobs != case.knobs, "no knob has another value")?;
    case.with(|parts| parts.knobs = knobs).map_err(|_| "the derived case has no legal shape")
}

/// The same with one spare page more, and another block table.
fn other_pages(case: &Case) -> Result<Case, &'static str> {
    let pages = case.cache.storage.pages().ok_or("the cache has no pages")?;
    let table = case.block_table();
    require(table.iter().any(|row| !row.is_empty()), "no request has a page")?;
    let reseeded = |more: u32| {
        let pages = Pages { seed: pages.seed.wrapping_add(more), spare: pages.spare.saturating_add(1), ..pages };
        case.with(|parts| parts.cache.storage = Storage::Paged(pages)).ok()
    };
    // A shuffle of few pages may leave them in place.
    let mut others = (1..=8).filter_map(reseeded).filter(|other| other.block_table() != table);
    others.next().ok_or("no other order of the pages is legal")
}

fn in_domain(derived: Option<Case>, domain: &Domain) -> Result<Case, &'static str> {
    let derived = derived.and_then(|case| case.with(|parts| parts.relation = None).ok());
    let derived = derived.ok_or("the derived case has no legal shape")?;
    require(domain.excludes(&derived).is_none(), "the derived case is outside the kernel's domain")?;
    Ok(derived)
}

/// The cases of [`Relation::LsesMerged`]: all keys, the first ones, and the rest.
pub(super) fn halves(given: &Case, domain: &Domain) -> Result<[Case; 3], &'static str> {
    require(given.view.is_none(), "the case is itself derived from another")?;
    let case = unshared(given)?;
    let all_alike = case.steps == 1 && (0..case.shape.requests.len()).all(|r| case.sees_all(r));
    require(all_alike, "a query token does not see every key")?;
    require(!case.features.sinks, "a sink would weigh in both parts")?;
    let queried = (0..case.shape.requests.len()).filter(|&r| case.shape.requests[r].q_len > 0);
    let fewest = queried.clone().map(|r| case.kv_len_at(r, 0)).min().unwrap_or(0);
    require(fewest > 1, "a request has one key only")?;
    let first = fewest / 2;
    // What a step appends is the end of either part.
    let has_room = |r: usize| case.appended_len(r) <= first && case.shape.requests[r].past_len >= first;
    require(queried.into_iter().all(has_room), "a part would be shorter than what is appended")?;
    let parted = |view: Option<View>, past_len: &dyn Fn(u32, u32) -> u32| {
        let part = case.with(|parts| {
            parts.view = view;
            for request in 0..parts.shape.requests.len() {
                let appended = parts.appended_len(request);
                let r = &mut parts.shape.requests[request];
                r.past_len = past_len(r.past_len, appended);
            }
        });
        in_domain(part.ok(), domain)
    };
    let front = parted(None, &|past, appended| past.min(first.saturating_sub(appended)))?;
    let back = parted(Some(View::KeysFrom(first)), &|past, _| past.saturating_sub(first))?;
    Ok([in_domain(Some(case), domain)?, front, back])
}

/// By how much the log-sum-exp of `other` is above the base's, in nats.
pub(super) fn lse_shift(relation: Relation, case: &CaseParts) -> f64 {
    match relation {
        Relation::KeysRepeated => std::f64::consts::LN_2,
        Relation::LogitsShifted => f64::from(case.scale) * f64::from(SHIFT),
        _ => 0.0,
    }
}

fn require(holds: bool, otherwise: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(otherwise) }
}

/// The request that [`Relation::RequestAlone`] runs alone: one that has queries.
fn alone(case: &CaseParts) -> u32 {
    let queried: Vec<u32> =
        (0..).zip(&case.shape.requests).filter(|(_, r)| r.q_len > 0).map(|(index, _)| index).collect();
    queried[case.values.seed as usize % queried.len()]
}

/// The base's step and token whose output row is that of `other`'s; nothing if it has none.
pub(super) fn base_row(relation: Relation, base: &Case, other: &Case, step: u32, token: u64) -> Option<(u32, u64)> {
    let q_len = base.shape.requests[0].q_len;
    match relation {
        Relation::RequestsReversed => {
            let (request, query) = place(other, token)?;
            Some((step, first_token(base, base.shape.requests.len() - 1 - request) + query))
        }
        Relation::RequestAlone => Some((step, first_token(base, alone(base) as usize) + token)),
        Relation::Appended if base.steps > 1 => Some((base.steps - 1, token)),
        Relation::Appended => (step == 1).then_some((0, token)),
        Relation::StepsMerged if !base.features.append => {
            let (request, _) = place(other, token)?;
            Some((step, first_token(base, request) + u64::from(query_alone(base))))
        }
        Relation::StepsMerged if q_len > 1 => Some((0, token * u64::from(q_len) + u64::from(step))),
        Relation::StepsMerged => {
            let steps = u64::from(base.steps);
            Some(((token % steps) as u32, token / steps))
        }
        _ => Some((step, token)),
    }
}

/// Request and query of a step's token.
fn place(case: &CaseParts, token: u64) -> Option<(usize, u64)> {
    let request = (0..case.shape.requests.len()).rfind(|&r| first_token(case, r) <= token)?;
    Some((request, token - first_token(case, request)))
}

/// A step's first token of a request.
pub(super) fn first_token(case: &CaseParts, request: usize) -> u64 {
    case.shape.requests[..request].iter().map(|r| u64::from(r.q_len)).sum()
}

/// Output of `other` that follows from the base's output `x` of a row that sees so many keys.
pub(super) fn expected(relation: Relation, x: f64, keys: usize) -> f64 {
    match relation {
        Relation::ValuesRaised if keys > 0 => x + 1.0,
        _ => x * factor(relation),
    }
}

/// How much a difference in the base's output is worth in the other's.
pub(super) fn factor(relation: Relation) -> f64 {
    match relation {
        Relation::ValuesScaled => libm::ldexp(1.0, VALUE_POWER),
        Relation::ValuesNegated => -1.0,
        _ => 1.0,
    }
}
