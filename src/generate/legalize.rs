//! Pulls any parts into a domain.

use super::budget::cost;
use crate::case::{
    Cache, Case, CaseParts, Domain, Features, KnobName, MAX_TOKENS, Pages, Poison, Range, Recipe, Request, Shape,
    Storage, StorageKind, Values, default_scale,
};
use std::fmt;
use std::sync::Arc;

/// Why no case at all is in a domain.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EmptyDomain {
    /// A field whose claimed values are all illegal.
    #[error("domain.{field}: expected a value from {low} to {high}, found {found}")]
    Range {
        /// The field, or the knob.
        field: String,
        /// Smallest legal value.
        low: u32,
        /// Largest legal value.
        high: u32,
        /// What the domain claims.
        found: String,
    },
    /// A field with no choice.
    #[error("domain.{0}: expected at least one choice, found none")]
    NoChoice(&'static str),
    /// No case that was drawn meets every condition.
    #[error(
        "domain.require: expected a case that meets every condition, found none among {drawn} that were drawn; {because}: {expr}"
    )]
    Unmet {
        /// How many.
        drawn: u64,
        /// A condition that the smallest case breaks, or the first.
        expr: String,
        /// Its reason.
        because: String,
    },
    /// Each field is legal, but even the smallest case of the domain is not.
    #[error("the smallest case of the domain is illegal: {0}")]
    Smallest(#[from] crate::case::Invalid),
}

/// A domain that is known to hold a case, cut to what a Case may be at all.
#[derive(Clone, Debug)]
pub struct Space {
    domain: Domain,
    pub(super) budget: u64,
    smallest: Case,
    limit: Option<Limit>,
    /// Some cases that meet the domain's conditions; none of a domain without.
    examples: Vec<Case>,
}

/// A number of each case, which is not to be too high.
#[derive(Clone)]
struct Limit {
    most: u64,
    of: Arc<dyn Fn(&Case) -> u64 + Send + Sync>,
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {}", self.most)
    }
}

impl Space {
    /// The cases of `domain`, or why there are none.
    pub fn new(domain: &Domain) -> Result<Self, EmptyDomain> {
        let mut domain = domain.clone();
        let appendable = |kind: &StorageKind| *kind != StorageKind::Packed;
        if domain.append && domain.storage.iter().any(appendable) {
            domain.storage.retain(appendable);
        }
        let choices = [
            ("dtype", domain.dtype.is_empty()),
            ("cache", domain.cache.is_empty()),
            ("causal", domain.causal.is_empty()),
            ("storage", domain.storage.is_empty()),
        ];
        for (field, empty) in choices {
            if empty {
                return Err(EmptyDomain::NoChoice(field));
            }
        }
        cut("num_kv_heads", &mut domain.num_kv_heads, 1, 1024)?;
        cut("q_per_kv", &mut domain.q_per_kv, 1, 1024)?;
        cut("head_dim", &mut domain.head_dim, 1, 4096)?;
        if let Some(range) = &mut domain.v_head_dim {
            cut("v_head_dim", range, 1, 4096)?;
        }
        cut("batch", &mut domain.batch, 1, 1 << 20)?;
        cut("q_len", &mut domain.q_len, 0, MAX_TOKENS)?;
        cut("past_len", &mut domain.past_len, 0, MAX_TOKENS)?;
        cut("steps", &mut domain.steps, 1, if domain.append { 1024 } else { 1 })?;
        cut("row_pad", &mut domain.row_pad, 0, 4096)?;
        if let Some(range) = &mut domain.window {
            cut("window", range, 1, u32::MAX)?;
        }
        if let Some(range) = &mut domain.page_size {
            cut("page_size", range, 1, 1 << 16)?;
        } else if domain.storage.contains(&StorageKind::Paged) {
            return Err(EmptyDomain::NoChoice("page_size"));
        }
        for (name, range) in &mut domain.knobs {
            cut(name.as_str(), range, 0, u32::MAX)?;
        }
        let smallest = Case::new(smallest(&domain))?;
        let open = Self { smallest, domain, budget: super::DEFAULT_BUDGET, limit: None, examples: Vec::new() };
        open.keeping_conditions()
    }

    /// The same space, where cases that break a condition become like these.
    pub(super) fn with_examples(self, examples: Vec<Case>, smallest: Case) -> Self {
        Self { examples, smallest, ..self }
    }

    pub(super) fn examples(&self) -> &[Case] {
        &self.examples
    }

    /// The same space, where [`Space::draw`] keeps the [cost](super::cost) of a case within `budget` wherever the domain has so small a case.
    pub fn with_budget(self, budget: u64) -> Self {
        Self { budget, ..self }
    }

    /// The same space, where [`Space::arbitrary`], [`Space::mutate`] and [`Space::splice`] also keep `of` a case at `most`
    /// wherever the domain has such a case: for what a case costs that the generator can't know.
    pub fn with_limit(self, most: u64, of: impl Fn(&Case) -> u64 + Send + Sync + 'static) -> Self {
        Self { limit: Some(Limit { most, of: Arc::new(of) }), ..self }
    }

    /// The domain, without the values that no Case may have.
    pub fn domain(&self) -> &Domain {
        &self.domain
    }

    /// The smallest case of the domain; where there are conditions, the cheapest that was found to meet them.
    pub fn smallest(&self) -> &Case {
        &self.smallest
    }

    /// The case of the domain nearest to `parts`, field by field; a case of the domain stays as it is.
    ///
    /// Where the fields together ask for too many tokens or elements, the cache's spare pages and capacity go first, then
    /// lengths, steps, the batch, the page size, padding, heads and at last the head dimension, each no further than it must.
    pub fn legalize(&self, parts: CaseParts) -> Case {
        self.legalize_if(parts, |_| true)
    }

    /// The same, where the case also costs no more than the space's budget and keeps its limit, or at least does no worse than
    /// the worst of `others`, as far as the domain has such a case.
    pub(super) fn afford(&self, mut parts: CaseParts, others: &[&Case]) -> Case {
        self.pull_fields(&mut parts);
        let spare = parts.cache.capacity.saturating_sub(parts.needed_capacity());
        let allowed = |own: u64, of: &dyn Fn(&Case) -> u64| others.iter().map(|case| of(case)).fold(own, u64::max);
        self.bring_down(&mut parts, allowed(self.budget, &|case| cost(case)), cost);
        if let Some(Limit { most, of }) = &self.limit {
            let of_parts = |parts: &CaseParts| Case::new(parts.clone()).map_or(u64::MAX, |case| of(&case));
            self.bring_down(&mut parts, allowed(*most, &**of), of_parts);
        }
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
        let elements = allowed(affordable_elements(self.budget), &|case| case.cached_elements());
        self.legalize_if(parts, |case| case.cached_elements() <= elements)
    }

    /// Lowers what `of` depends on, field by field, until it is at most `most`.
    fn bring_down(&self, parts: &mut CaseParts, most: u64, of: impl Fn(&CaseParts) -> u64) {
        for field in Field::BY_COST {
            let now = of(parts);
            if now <= most {
                return;
            }
            let mut least = parts.clone();
            self.cap(field, 0, &mut least);
            if of(&least) < now {
                self.lower(field, parts, |trial| of(&trial) <= most);
            }
        }
    }

    fn legalize_if(&self, parts: CaseParts, accept: impl Fn(&Case) -> bool) -> Case {
        self.meeting(self.fitted(parts, &accept), |parts| self.fitted(parts, &accept))
    }

    /// The same without the domain's conditions.
    fn fitted(&self, mut parts: CaseParts, accept: impl Fn(&Case) -> bool) -> Case {
        self.pull_fields(&mut parts);
        let capacity = parts.cache.capacity;
        parts.cache.capacity = capacity.clamp(1, MAX_TOKENS).max(parts.needed_capacity());
        let accepted = |parts: CaseParts| Case::new(parts).ok().filter(&accept);
        for field in Field::IN_ORDER_OF_LOSS {
            if let Some(case) = accepted(parts.clone()) {
                return case;
            }
            self.lower(field, &mut parts, |trial| accepted(trial).is_some());
        }
        // By now every field that an invariant speaks of is at its lowest.
        Case::new(parts).unwrap_or_else(|_| self.smallest.clone())
    }

    /// Each field on its own.
    pub(super) fn pull_fields(&self, parts: &mut CaseParts) {
        let domain = &self.domain;
        if !domain.dtype.contains(&parts.dtype) {
            parts.dtype = domain.dtype[0];
        }
        if !domain.cache.contains(&parts.cache.order) {
            parts.cache.order = domain.cache[0];
        }
        let shape = &mut parts.shape;
        shape.num_kv_heads = domain.num_kv_heads.nearest(shape.num_kv_heads);
        shape.q_per_kv = domain.q_per_kv.nearest(shape.q_per_kv);
        shape.head_dim = domain.head_dim.nearest(shape.head_dim);
        shape.v_head_dim = match &domain.v_head_dim {
            None => shape.head_dim,
            Some(range) => range.nearest(shape.v_head_dim),
        };
        let batch = u32::try_from(shape.requests.len()).unwrap_or(u32::MAX);
        let filler = Request { past_len: domain.past_len.low(), q_len: domain.q_len.low() };
        shape.requests.resize(domain.batch.nearest(batch) as usize, filler);
        for request in &mut shape.requests {
            request.past_len = domain.past_len.nearest(request.past_len);
            request.q_len = domain.q_len.nearest(request.q_len);
        }
        give_a_query(domain, &mut shape.requests);
        self.pull_features(&mut parts.features);
        parts.cache.storage = self.pulled_storage(parts.cache.storage);
        parts.steps = if parts.features.append { domain.steps.nearest(parts.steps) } else { 1 };
        parts.cache.row_pad = domain.row_pad.nearest(parts.cache.row_pad);
        let knobs = std::mem::take(&mut parts.knobs);
        let knob = |(name, range): (&KnobName, &Range)| {
            (name.clone(), range.nearest(knobs.get(name).copied().unwrap_or_else(|| range.low())))
        };
        parts.knobs = domain.knobs.iter().map(knob).collect();
        let legal_scale = parts.scale.is_finite() && parts.scale > 0.0;
        if !domain.any_scale || !legal_scale {
            parts.scale = default_scale(parts.shape.head_dim);
        }
    }

    /// Lowers one field to its highest value with which `parts` are accepted, or to its lowest of all.
    fn lower(&self, field: Field, parts: &mut CaseParts, accepted: impl Fn(CaseParts) -> bool) {
        let (mut good, mut bad) = (0, field.of(parts));
        // Lower is never worse, so the best cap can be found by bisection.
        while good + 1 < bad {
            let cap = good + (bad - good) / 2;
            let mut trial = parts.clone();
            self.cap(field, cap, &mut trial);
            if accepted(trial) {
                good = cap;
            } else {
                bad = cap;
            }
        }
        self.cap(field, good, parts);
    }

    /// Lowers `field` to `cap`, or as near above as the domain has it; the capacity follows.
    fn cap(&self, field: Field, cap: u32, parts: &mut CaseParts) {
        let domain = &self.domain;
        let capped = |range: &Range, n: u32| {
            if n <= cap { n } else { range.at_most(cap).unwrap_or_else(|| range.low()) }
        };
        let shape = &mut parts.shape;
        match field {
            Field::Knobs => {
                for (name, range) in &domain.knobs {
                    parts.knobs.entry(name.clone()).and_modify(|n| *n = capped(range, *n));
                }
            }
            Field::SparePages | Field::PageSize => {
                if let (Storage::Paged(pages), Some(sizes)) = (&mut parts.cache.storage, &domain.page_size) {
                    match field {
                        Field::SparePages => pages.spare = pages.spare.min(cap),
                        _ => pages.size = capped(sizes, pages.size),
                    }
                }
            }
            Field::Capacity => parts.cache.capacity = parts.cache.capacity.min(cap),
            Field::PastLen => {
                for request in &mut shape.requests {
                    request.past_len = capped(&domain.past_len, request.past_len);
                }
            }
            Field::QLen => {
                for request in &mut shape.requests {
                    request.q_len = capped(&domain.q_len, request.q_len);
                }
                give_a_query(domain, &mut shape.requests);
            }
            Field::Steps => parts.steps = capped(&domain.steps, parts.steps),
            Field::Batch => {
                let batch = capped(&domain.batch, shape.requests.len() as u32);
                shape.requests.truncate(batch as usize);
                give_a_query(domain, &mut shape.requests);
            }
            Field::RowPad => parts.cache.row_pad = capped(&domain.row_pad, parts.cache.row_pad),
            Field::QPerKv => shape.q_per_kv = capped(&domain.q_per_kv, shape.q_per_kv),
            Field::KvHeads => shape.num_kv_heads = capped(&domain.num_kv_heads, shape.num_kv_heads),
            Field::HeadDim => {
                let was_default = parts.scale == default_scale(shape.head_dim);
                shape.head_dim = capped(&domain.head_dim, shape.head_dim);
                shape.v_head_dim = match &domain.v_head_dim {
                    None => shape.head_dim,
                    Some(range) => capped(range, shape.v_head_dim),
                };
                if was_default {
                    parts.scale = default_scale(shape.head_dim);
                }
            }
        }
        let needed = parts.needed_capacity();
        parts.cache.capacity = match field {
            Field::Knobs | Field::SparePages | Field::PageSize | Field::Capacity => parts.cache.capacity.max(needed),
            _ => needed,
        };
    }
}

/// The fields that decide how big a case is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Knobs,
    SparePages,
    Capacity,
    PastLen,
    QLen,
    Steps,
    Batch,
    PageSize,
    RowPad,
    QPerKv,
    KvHeads,
    HeadDim,
}

impl Field {
    /// Those that decide what running a case takes.
    const BY_COST: [Self; 8] =
        [Self::Knobs, Self::PastLen, Self::QLen, Self::Steps, Self::Batch, Self::QPerKv, Self::KvHeads, Self::HeadDim];

    const IN_ORDER_OF_LOSS: [Self; 11] = [
        Self::SparePages,
        Self::Capacity,
        Self::PastLen,
        Self::QLen,
        Self::Steps,
        Self::Batch,
        Self::PageSize,
        Self::RowPad,
        Self::QPerKv,
        Self::KvHeads,
        Self::HeadDim,
    ];

    fn of(self, parts: &CaseParts) -> u32 {
        let shape = &parts.shape;
        let requests = shape.requests.iter();
        match self {
            Self::Knobs => parts.knobs.values().copied().max().unwrap_or(0),
            Self::SparePages => parts.cache.storage.pages().map_or(0, |pages| pages.spare),
            Self::PageSize => parts.cache.storage.pages().map_or(0, |pages| pages.size),
            Self::Capacity => parts.cache.capacity,
            Self::PastLen => requests.map(|r| r.past_len).max().unwrap_or(0),
            Self::QLen => requests.map(|r| r.q_len).max().unwrap_or(0),
            Self::Steps => parts.steps,
            Self::Batch => shape.requests.len() as u32,
            Self::RowPad => parts.cache.row_pad,
            Self::QPerKv => shape.q_per_kv,
            Self::KvHeads => shape.num_kv_heads,
            Self::HeadDim => shape.head_dim.max(shape.v_head_dim),
        }
    }
}

impl Space {
    fn pull_features(&self, features: &mut Features) {
        let domain = &self.domain;
        features.append = domain.append;
        if !domain.causal.contains(&features.causal) {
            features.causal = !features.causal;
        }
        features.window = domain.window.as_ref().and_then(|range| features.window.map(|window| range.nearest(window)));
        features.softcap = features.softcap.filter(|cap| domain.softcap && cap.is_finite() && *cap > 0.0);
        features.sinks &= domain.sinks;
    }

    fn pulled_storage(&self, storage: Storage) -> Storage {
        let domain = &self.domain;
        let kind = if domain.storage.contains(&storage.kind()) { storage.kind() } else { domain.storage[0] };
        match (kind, &domain.page_size) {
            (StorageKind::Paged, Some(sizes)) => {
                let pages = storage.pages().unwrap_or(Pages::of_size(sizes.low()));
                Storage::Paged(Pages { size: sizes.nearest(pages.size), spare: pages.spare.min(1 << 20), ..pages })
            }
            (StorageKind::Packed, _) => Storage::Packed,
            _ => Storage::PerRequest,
        }
    }
}

/// Most elements of a drawn cache's pages, unless one page for each request has more.
const AFFORDED: u64 = 1 << 22;

/// Most elements of a cache of a case that may cost so much.
fn affordable_elements(budget: u64) -> u64 {
    AFFORDED.min(budget.saturating_mul(32))
}

impl Space {
    /// Takes spare pages away, and then the page size, where a paged cache would be much larger than what it holds.
    pub(super) fn afford_pages(&self, parts: &mut CaseParts) {
        let (Storage::Paged(pages), Some(sizes)) = (&mut parts.cache.storage, &self.domain.page_size) else { return };
        let shape = &parts.shape;
        let dim = shape.head_dim.max(shape.v_head_dim).saturating_add(parts.cache.row_pad);
        let tokens = affordable_elements(self.budget) / (u64::from(shape.num_kv_heads) * u64::from(dim)).max(1);
        let most = |tokens: u64| u32::try_from(tokens).unwrap_or(u32::MAX);
        let size = most(tokens / shape.requests.len().max(1) as u64);
        if pages.size > size {
            pages.size = sizes.at_most(size).unwrap_or_else(|| sizes.low());
        }
        pages.spare = pages.spare.min(most(tokens / u64::from(pages.size)));
    }
}

/// The fewest query tokens of a request that has any; 0 in a domain where none has.
pub(super) fn fewest_queries(domain: &Domain) -> u32 {
    domain.q_len.nth(domain.q_len.rank(1)).unwrap_or(0)
}

/// At least one request has a query.
fn give_a_query(domain: &Domain, requests: &mut [Request]) {
    if requests.iter().all(|r| r.q_len == 0)
        && let Some(first) = requests.first_mut()
    {
        first.q_len = fewest_queries(domain);
    }
}

/// The smallest parts of a domain whose ranges are not empty.
fn smallest(domain: &Domain) -> CaseParts {
    let head_dim = domain.head_dim.low();
    let request = Request { past_len: domain.past_len.low(), q_len: domain.q_len.low() };
    let mut requests = vec![request; domain.batch.low() as usize];
    give_a_query(domain, &mut requests);
    let storage = match domain.storage[0] {
        StorageKind::PerRequest => Storage::PerRequest,
        StorageKind::Packed => Storage::Packed,
        StorageKind::Paged => Storage::Paged(Pages::of_size(domain.page_size.as_ref().map_or(1, Range::low))),
    };
    let mut parts = CaseParts {
        dtype: domain.dtype[0],
        scale: default_scale(head_dim),
        steps: if domain.append { domain.steps.low() } else { 1 },
        poison: Poison::Nan,
        schedule_seed: 0,
        shape: Shape {
            num_kv_heads: domain.num_kv_heads.low(),
            q_per_kv: domain.q_per_kv.low(),
            head_dim,
            v_head_dim: domain.v_head_dim.as_ref().map_or(head_dim, Range::low),
            requests,
        },
        cache: Cache { order: domain.cache[0], capacity: 1, row_pad: domain.row_pad.low(), storage },
        features: Features { append: domain.append, causal: domain.causal.contains(&true), ..Features::PLAIN },
        values: Values { recipe: Recipe::Flat, seed: 0 },
        only: None,
        view: None,
        relation: None,
        knobs: domain.knobs.iter().map(|(name, range)| (name.clone(), range.low())).collect(),
    };
    parts.cache.capacity = parts.needed_capacity();
    parts
}

/// Keeps the legal part of a range.
fn cut(field: &str, range: &mut Range, low: u32, high: u32) -> Result<(), EmptyDomain> {
    let Some(part) = range.within(low, high) else {
        return Err(EmptyDomain::Range { field: field.into(), low, high, found: range.to_string() });
    };
    *range = part;
    Ok(())
}
