//! Cases near a case: the steps of a fuzzer that keeps the cases which reached something new and goes on from there.

use super::budget::Axis;
use super::dice::Dice;
use super::legalize::Space;
use super::presets::{PRESETS, Preset};
use super::tables;
use crate::case::{
    Case, CaseParts, Pages, Poison, Range, Recipe, Relation, Storage, StorageKind, Values, default_scale,
};
use rand::RngCore;

/// Attempts at a case that is not the one before; only domains of next to no choice need many.
const TRIES: u32 = 32;

impl Space {
    /// A case of the domain near `case`, which may be any: mostly one field of it is changed, now and then a few. It is
    /// another case wherever the domain has one that can be reached so.
    ///
    /// It keeps the space's budget and limit, or does no worse than `case`: what would be too much is taken back from knobs
    /// and lengths first.
    pub fn mutate(&self, case: &Case, rng: &mut impl RngCore) -> Case {
        let mut walk = Walk { space: self, dice: Dice(rng) };
        let start = self.start(case);
        for _ in 0..TRIES {
            let mut parts = start.clone().into_parts();
            let changes = walk.dice.pick(&[1, 1, 1, 1, 1, 2, 2, 4]);
            for _ in 0..changes {
                walk.change(&mut parts);
            }
            let next = self.afford(parts, &[&start]);
            if next != start {
                return next;
            }
        }
        start
    }

    /// A case of the domain with some fields of `case` and the rest of `other`, within the space's budget and limit, or
    /// no worse than the worse of the two.
    pub fn splice(&self, case: &Case, other: &Case, rng: &mut impl RngCore) -> Case {
        let mut dice = Dice(rng);
        let (start, other) = (self.start(case), self.start(other));
        let mut parts = start.clone().into_parts();
        for field in Field::ALL {
            if dice.one_in(2) {
                settled(&mut parts, |parts| field.take(parts, &other));
            }
        }
        self.afford(parts, &[&start, &other])
    }

    /// The case nearest to `case` that is in the domain and keeps the space's budget and limit.
    pub fn downsize(&self, case: &Case) -> Case {
        self.afford(self.start(case).into_parts(), &[])
    }

    /// The smallest case with the heads, window, cap and sinks of each model that the domain takes, and one or two tokens.
    pub fn models(&self) -> impl Iterator<Item = Case> {
        PRESETS.iter().filter_map(|preset| {
            let mut parts = self.smallest().clone().into_parts();
            settled(&mut parts, |parts| set_model(parts, preset));
            parts.shape.requests[0].past_len = 1;
            parts.cache.capacity = parts.needed_capacity();
            parts.values.recipe = Recipe::Normal;
            let case = self.legalize(parts);
            let shape = &case.shape;
            let heads = (shape.num_kv_heads, shape.q_per_kv, shape.head_dim, shape.v_head_dim);
            let wanted = (preset.num_kv_heads, preset.q_per_kv(), preset.head_dim, preset.v_head_dim);
            (heads == wanted).then_some(case)
        })
    }

    /// `case` in the domain, where it is not derived from another.
    fn start(&self, case: &Case) -> Case {
        let mut parts = case.clone().into_parts();
        parts.view = None;
        self.legalize(parts)
    }
}

/// What a step can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    KvHeads,
    QPerKv,
    HeadDim,
    VHeadDim,
    Batch,
    PastLen,
    QLen,
    Steps,
    Dtype,
    Order,
    RowPad,
    Capacity,
    Scale,
    Recipe,
    ValueSeed,
    Poison,
    Schedule,
    Relation,
    Causal,
    Window,
    Softcap,
    Sinks,
    Storage,
    PageSize,
    PagePlaces,
    Knobs,
}

impl Field {
    pub(super) const ALL: [Self; 26] = [
        Self::KvHeads,
        Self::QPerKv,
        Self::HeadDim,
        Self::VHeadDim,
        Self::Batch,
        Self::PastLen,
        Self::QLen,
        Self::Steps,
        Self::Dtype,
        Self::Order,
        Self::RowPad,
        Self::Capacity,
        Self::Scale,
        Self::Recipe,
        Self::ValueSeed,
        Self::Poison,
        Self::Schedule,
        Self::Relation,
        Self::Causal,
        Self::Window,
        Self::Softcap,
        Self::Sinks,
        Self::Storage,
        Self::PageSize,
        Self::PagePlaces,
        Self::Knobs,
    ];

    /// Makes the field what it is in `other`.
    pub(super) fn take(self, parts: &mut CaseParts, other: &CaseParts) {
        let (shape, others) = (&mut parts.shape, &other.shape);
        let pairs = || others.requests.iter().cycle();
        match self {
            Self::KvHeads => shape.num_kv_heads = others.num_kv_heads,
            Self::QPerKv => shape.q_per_kv = others.q_per_kv,
            Self::HeadDim => shape.head_dim = others.head_dim,
            Self::VHeadDim => shape.v_head_dim = others.v_head_dim,
            Self::Batch => {
                let own = shape.requests.clone();
                shape.requests = own.iter().cycle().copied().take(others.requests.len()).collect();
            }
            Self::PastLen => shape.requests.iter_mut().zip(pairs()).for_each(|(r, o)| r.past_len = o.past_len),
            Self::QLen => shape.requests.iter_mut().zip(pairs()).for_each(|(r, o)| r.q_len = o.q_len),
            Self::Steps => parts.steps = other.steps,
            Self::Dtype => parts.dtype = other.dtype,
            Self::Order => parts.cache.order = other.cache.order,
            Self::RowPad => parts.cache.row_pad = other.cache.row_pad,
            Self::Capacity => parts.cache.capacity = parts.needed_capacity() + spare_tokens(other),
            Self::Scale => parts.scale = other.scale,
            Self::Recipe => parts.values.recipe = other.values.recipe,
            Self::ValueSeed => parts.values.seed = other.values.seed,
            Self::Poison => parts.poison = other.poison,
            Self::Schedule => parts.schedule_seed = other.schedule_seed,
            Self::Relation => parts.relation = other.relation,
            Self::Causal => parts.features.causal = other.features.causal,
            Self::Window => parts.features.window = other.features.window,
            Self::Softcap => parts.features.softcap = other.features.softcap,
            Self::Sinks => parts.features.sinks = other.features.sinks,
            Self::Storage => parts.cache.storage = other.cache.storage,
            Self::PageSize | Self::PagePlaces => {
                if let (Storage::Paged(own), Some(pages)) = (&mut parts.cache.storage, other.cache.storage.pages()) {
                    *own = match self {
                        Self::PageSize => Pages { size: pages.size, ..*own },
                        _ => Pages { size: own.size, ..pages },
                    };
                }
            }
            Self::Knobs => parts.knobs.clone_from(&other.knobs),
        }
    }
}

/// Unused token slots of a request with the most tokens.
fn spare_tokens(parts: &CaseParts) -> u32 {
    parts.cache.capacity.saturating_sub(parts.needed_capacity())
}

/// Applies `change`; unless it is about them, unused slots stay as many and a default scale stays the default.
pub(super) fn settled(parts: &mut CaseParts, change: impl FnOnce(&mut CaseParts)) {
    let (capacity, scale) = (parts.cache.capacity, parts.scale);
    let (spare, was_default) = (spare_tokens(parts), parts.scale == default_scale(parts.shape.head_dim));
    change(parts);
    if parts.cache.capacity == capacity {
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
    }
    if was_default && parts.scale == scale {
        parts.scale = default_scale(parts.shape.head_dim);
    }
}

fn set_model(parts: &mut CaseParts, preset: &Preset) {
    let shape = &mut parts.shape;
    shape.num_kv_heads = preset.num_kv_heads;
    shape.q_per_kv = preset.q_per_kv();
    (shape.head_dim, shape.v_head_dim) = (preset.head_dim, preset.v_head_dim);
    let features = &mut parts.features;
    (features.window, features.softcap) = (preset.window, preset.softcap);
    features.sinks = preset.sinks;
}

/// A case being changed.
struct Walk<'a, R> {
    space: &'a Space,
    dice: Dice<'a, R>,
}

impl<R: RngCore> Walk<'_, R> {
    /// Changes one field that the domain leaves a choice about, most likely lengths.
    fn change(&mut self, parts: &mut CaseParts) {
        for _ in 0..TRIES {
            let mut changed = parts.clone();
            settled(&mut changed, |parts| match self.dice.below(32) {
                0 => self.model(parts),
                1 | 2 => self.dice.pick(&Field::ALL).take(parts, self.space.smallest()),
                3..=9 => self.vary(Field::PastLen, parts),
                _ => {
                    let field = self.dice.pick(&Field::ALL);
                    self.vary(field, parts);
                }
            });
            self.space.pull_fields(&mut changed);
            if changed != *parts {
                *parts = changed;
                return;
            }
        }
    }

    fn vary(&mut self, field: Field, parts: &mut CaseParts) {
        let domain = self.space.domain();
        match field {
            Field::KvHeads => parts.shape.num_kv_heads = self.on_axis(Axis::KvHeads, parts.shape.num_kv_heads, parts),
            Field::QPerKv => parts.shape.q_per_kv = self.on_axis(Axis::QPerKv, parts.shape.q_per_kv, parts),
            Field::HeadDim => parts.shape.head_dim = self.on_axis(Axis::HeadDim, parts.shape.head_dim, parts),
            Field::VHeadDim => {
                if let Some(range) = &domain.v_head_dim {
                    let table = Axis::HeadDim.table(domain).wide;
                    parts.shape.v_head_dim = self.number(parts.shape.v_head_dim, range, table, &[parts.shape.head_dim]);
                }
            }
            Field::Batch => self.requests(parts),
            Field::PastLen | Field::QLen => self.lengths(field, parts),
            Field::Steps => parts.steps = self.on_axis(Axis::Steps, parts.steps, parts),
            Field::Dtype => parts.dtype = self.dice.pick(&domain.dtype),
            Field::Order => parts.cache.order = self.dice.pick(&domain.cache),
            Field::RowPad => {
                parts.cache.row_pad = self.number(parts.cache.row_pad, &domain.row_pad, tables::ROW_PAD, &[]);
            }
            Field::Capacity => {
                let needed = parts.needed_capacity();
                let rounded = needed.checked_next_multiple_of(self.dice.pick(tables::TILES)).unwrap_or(needed);
                let spare = self.dice.pick(&[0, 1, 2, 7, rounded - needed]);
                parts.cache.capacity = needed.saturating_add(spare);
            }
            Field::Scale => {
                let sixty_fourths = (1 + self.dice.below(96)) as f32 / 64.0;
                parts.scale = self.dice.pick(&[default_scale(parts.shape.head_dim), 1.0, 0.5, sixty_fourths]);
            }
            Field::Recipe => parts.values.recipe = self.dice.pick(&Recipe::ALL),
            Field::ValueSeed => parts.values = Values { seed: self.dice.below(1 << 16), ..parts.values },
            Field::Poison => parts.poison = self.dice.pick(&Poison::ALL),
            Field::Schedule => parts.schedule_seed = self.dice.below(1 << 16),
            Field::Relation => parts.relation = self.dice.one_in(2).then(|| self.dice.pick(&Relation::ALL)),
            Field::Causal => parts.features.causal = !parts.features.causal,
            Field::Window => self.window(parts),
            Field::Softcap => {
                let sixteenths = (8 + self.dice.below(73)) as f32 / 16.0;
                let cap = if self.dice.one_in(2) { sixteenths } else { self.dice.pick(tables::SOFTCAP) };
                parts.features.softcap = (!self.dice.one_in(3)).then_some(cap);
            }
            Field::Sinks => parts.features.sinks = !parts.features.sinks,
            Field::Storage | Field::PageSize | Field::PagePlaces => self.storage(field, parts),
            Field::Knobs => {
                let knobs: Vec<_> = domain.knobs.iter().collect();
                if !knobs.is_empty() {
                    let (name, range) = self.dice.pick(&knobs);
                    let table = [tables::KNOB.wide, &tables::knob_edges(range)].concat();
                    let n = parts.knobs.get(name).copied().unwrap_or_else(|| range.low());
                    parts.knobs.insert(name.clone(), self.number(n, range, &table, &lengths_of(parts)));
                }
            }
        }
    }

    /// The heads of a model.
    fn model(&mut self, parts: &mut CaseParts) {
        let preset = &PRESETS[self.dice.below(PRESETS.len() as u32) as usize];
        set_model(parts, preset);
    }

    /// One request more, or less, or another order of them.
    fn requests(&mut self, parts: &mut CaseParts) {
        let batch = parts.shape.batch();
        let wanted = match self.dice.below(4) {
            0 => batch + 1,
            1 => batch - 1,
            2 => self.on_axis(Axis::Batch, batch, parts).min(batch * 2),
            _ => batch,
        };
        let requests = &mut parts.shape.requests;
        let other = requests[self.dice.below(batch) as usize];
        match wanted.checked_sub(batch) {
            Some(0) => requests.rotate_left(1),
            Some(_) => requests.resize(wanted as usize, other),
            None if wanted + 1 == batch && wanted > 0 => drop(requests.remove(self.dice.below(batch) as usize)),
            None => requests.truncate(wanted.max(1) as usize),
        }
    }

    /// The length of one request, or now and then of all.
    fn lengths(&mut self, field: Field, parts: &mut CaseParts) {
        let index = self.dice.below(parts.shape.batch()) as usize;
        let request = parts.shape.requests[index];
        let all = self.dice.one_in(4);
        let chosen = |other: usize| all || other == index;
        if field == Field::PastLen {
            let past_len = self.on_axis(Axis::PastLen, request.past_len, parts);
            let requests = parts.shape.requests.iter_mut().enumerate();
            requests.filter(|(other, _)| chosen(*other)).for_each(|(_, r)| r.past_len = past_len);
        } else {
            let q_len = self.on_axis(Axis::QLen, request.q_len, parts);
            let requests = parts.shape.requests.iter_mut().enumerate();
            requests.filter(|(other, _)| chosen(*other)).for_each(|(_, r)| r.q_len = q_len);
        }
    }

    fn window(&mut self, parts: &mut CaseParts) {
        let Some(range) = &self.space.domain().window else { return };
        parts.features.window = match parts.features.window {
            Some(_) if self.dice.one_in(4) => None,
            window => {
                let n = window.unwrap_or_else(|| self.dice.pick(&lengths_of(parts)));
                Some(self.number(n, range, tables::WINDOW.wide, &lengths_of(parts)))
            }
        };
    }

    /// The kind of storage, the size of its pages, or which pages are where.
    fn storage(&mut self, field: Field, parts: &mut CaseParts) {
        let domain = self.space.domain();
        let Some(sizes) = domain.page_size.as_ref().filter(|_| domain.storage.contains(&StorageKind::Paged)) else {
            parts.cache.storage = match self.dice.pick(&domain.storage) {
                StorageKind::Packed => Storage::Packed,
                _ => Storage::PerRequest,
            };
            return;
        };
        let mut pages = parts.cache.storage.pages().unwrap_or(Pages::of_size(sizes.low()));
        match field {
            Field::PageSize => pages.size = self.number(pages.size, sizes, tables::PAGE_SIZE.wide, &lengths_of(parts)),
            Field::PagePlaces => match self.dice.below(3) {
                0 => pages.seed = self.dice.below(256),
                1 => pages.spare = self.dice.below(8),
                _ => pages.shared = self.dice.pick(&[0, 1, 2, 3, 255]),
            },
            _ => {
                parts.cache.storage = match self.dice.pick(&domain.storage) {
                    StorageKind::PerRequest => Storage::PerRequest,
                    StorageKind::Packed => Storage::Packed,
                    StorageKind::Paged => Storage::Paged(pages),
                };
                return;
            }
        }
        if parts.cache.storage.kind() == StorageKind::Paged {
            parts.cache.storage = Storage::Paged(pages);
        }
    }

    fn on_axis(&mut self, axis: Axis, n: u32, parts: &CaseParts) -> u32 {
        let domain = self.space.domain();
        let beside = if axis == Axis::PastLen { boundaries(n, parts) } else { lengths_of(parts) };
        self.number(n, axis.range(domain), axis.table(domain).wide, &beside)
    }

    /// A number of `range` near `n`: some steps from it, twice or half of it, one of a table, or about one of `beside`.
    fn number(&mut self, n: u32, range: &Range, table: &[u32], beside: &[u32]) -> u32 {
        let rank = range.rank(n);
        let steps = self.dice.pick(&[1, 1, 2, 3, 4, 8, 16, 32]);
        let wanted = match self.dice.below(8) {
            0 | 1 => range.nth(rank.saturating_add(steps)).unwrap_or_else(|| range.high()),
            2 | 3 => range.nth(rank.saturating_sub(steps)).unwrap_or_else(|| range.low()),
            4 => n.saturating_mul(2),
            5 => n / 2,
            6 if !beside.is_empty() => (self.dice.pick(beside).saturating_add(self.dice.below(3))).saturating_sub(1),
            _ => self.dice.pick(table),
        };
        range.nearest(wanted)
    }
}

/// Numbers of tokens that other numbers of a case may coincide with.
fn lengths_of(parts: &CaseParts) -> Vec<u32> {
    let first = parts.shape.requests[0];
    let pages = parts.cache.storage.pages().map(|pages| pages.size);
    [parts.kv_len_at(0, parts.steps - 1), first.past_len, first.q_len].into_iter().chain(pages).collect()
}

/// Where tiles, pages and windows end after `n` tokens.
fn boundaries(n: u32, parts: &CaseParts) -> Vec<u32> {
    let pages = parts.cache.storage.pages().map(|pages| pages.size);
    let sizes = tables::TILES.iter().copied().chain(pages).chain(parts.features.window);
    sizes.filter_map(|size| n.checked_next_multiple_of(size)).chain(lengths_of(parts)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Domain;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// Every field, from one case.
    #[test]
    fn fields_are_told_apart() {
        assert!(Field::ALL.iter().enumerate().all(|(place, &field)| field as usize == place));
    }

    #[test]
    fn a_domain_of_one_shape_still_has_other_values() {
        let one = Range::Span(1, 1);
        let domain = Domain {
            head_dim: one.clone(),
            num_kv_heads: one.clone(),
            q_per_kv: one.clone(),
            batch: one.clone(),
            past_len: one.clone(),
            q_len: one.clone(),
            steps: one,
            ..Domain::default()
        };
        let space = Space::new(&domain).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut case = space.smallest().clone();
        for _ in 0..500 {
            let next = space.mutate(&case, &mut rng);
            assert_ne!(next, case);
            assert_eq!(next.shape, case.shape);
            case = next;
        }
    }
}
