//! Random cases.
//!
//! A case is about one or two fields: those are drawn first, from their wide tables; the rest is drawn small from what
//! the budget leaves, lengths last. Numbers of different fields are kept apart (a kernel that mixes up two extents is
//! right where they are equal), but for a share of cases where coincidences are welcome.
//!
//! Random numbers are made from `next_u64` by methods of this file only, so a later version of `rand` can't change which
//! cases a seed stands for. A change of this file or its tables can; a saved finding is therefore a Case, never a seed.

mod features;

use super::budget::{Axis, Purse, cost};
use super::dice::Dice;
use super::legalize::{Space, fewest_queries};
use super::presets::{PRESETS, Preset};
use super::tables;
use crate::case::{Case, CaseParts, Poison, Recipe, Relation, Request, Values, default_scale};
use rand::{RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Most multiply-adds of a drawn case, unless its domain has no case that small.
///
/// About 35 times the median case of a domain that excludes little: keeps the tail affordable where every multiply-add is emulated.
pub const DEFAULT_BUDGET: u64 = 230_000;

/// Salt of [`Space::case_at`], so that a campaign's numbers are not those of anyone else who seeds ChaCha so.
const CAMPAIGN: &[u8; 16] = b"attnfuzz case at";

impl Space {
    /// The `index`-th case of the campaign `seed`: the same on every machine, whichever cases were asked for before.
    pub fn case_at(&self, seed: u64, index: u64) -> Case {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&seed.to_le_bytes());
        key[8..16].copy_from_slice(&index.to_le_bytes());
        key[16..].copy_from_slice(CAMPAIGN);
        self.draw(&mut ChaCha8Rng::from_seed(key))
    }

    /// A random case of the domain.
    pub fn draw(&self, rng: &mut impl RngCore) -> Case {
        Draft {
            space: self,
            dice: Dice(rng),
            purse: Purse::new(self.domain(), self.budget),
            coincide: false,
            used: Vec::new(),
            model: None,
        }
        .case()
    }
}

/// A field that a case can be about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Focus {
    On(Axis),
    /// Steps, query tokens or both.
    Tokens,
}

/// How often a case is about what, as a list to pick from.
const FOCI: [Focus; 18] = [
    Focus::On(Axis::KvHeads),
    Focus::On(Axis::QPerKv),
    Focus::On(Axis::QPerKv),
    Focus::On(Axis::QPerKv),
    Focus::On(Axis::HeadDim),
    Focus::On(Axis::HeadDim),
    Focus::On(Axis::HeadDim),
    Focus::On(Axis::Batch),
    Focus::On(Axis::PastLen),
    Focus::On(Axis::PastLen),
    Focus::On(Axis::PastLen),
    Focus::On(Axis::PastLen),
    Focus::On(Axis::PastLen),
    Focus::On(Axis::PastLen),
    Focus::On(Axis::PastLen),
    Focus::Tokens,
    Focus::Tokens,
    Focus::Tokens,
];

/// Which part of the budget a case may spend, as a power of 1/2.
const PARTS_OF_BUDGET: [u32; 4] = [0, 1, 2, 3];

/// One in this many cases is as long as the budget allows. Few, because each takes about a second to emulate.
const LONG_CASES: u32 = 1200;

/// One in this many cases is deep: see [`Draft::deepen`].
const DEEP_CASES: u32 = 40;

/// One in this many cases, where rows of V have a length of their own, has the most keys for one query head that rows of
/// wide heads leave budget for: tiles in each of many splits.
const LONG_ROWS: u32 = 80;

/// One in this many cases asks for a relation too, which takes one or two runs more.
const RELATED: u32 = 8;

/// A case being drawn.
struct Draft<'a, R> {
    space: &'a Space,
    dice: Dice<'a, R>,
    purse: Purse<'a>,
    /// Whether equal numbers in different fields are welcome.
    coincide: bool,
    used: Vec<u32>,
    /// The model whose heads the case has, if they were chosen for that.
    model: Option<&'static Preset>,
}

impl<R: RngCore> Draft<'_, R> {
    fn case(mut self) -> Case {
        let mut parts = self.space.smallest().clone().into_parts();
        self.coincide = self.dice.one_in(8);
        let about = self.dice.pick(&[0, 0, 0, 1, 1, 2, 2]);
        let foci: Vec<Focus> = (0..about).map(|_| self.dice.pick(&FOCI)).collect();
        let part = self.dice.pick(&PARTS_OF_BUDGET);
        self.purse = Purse::new(self.space.domain(), self.space.budget >> part);
        let mut axes = Axis::ALL.to_vec();
        self.causality(&mut parts);
        if self.dice.one_in(LONG_CASES) {
            return self.long_case(parts);
        }
        if let Some(longest) = self.tiles(&mut parts) {
            return self.with_lengths(parts, longest);
        }
        if self.dice.one_in(9) && self.preset(&mut parts) {
            axes.retain(|axis| !matches!(axis, Axis::KvHeads | Axis::QPerKv | Axis::HeadDim));
        }
        let tokens = foci.contains(&Focus::Tokens);
        let wide_steps = self.dice.one_in(if tokens { 2 } else { 12 });
        let wide_q_len = tokens && !self.dice.one_in(3);
        let wide = |axis: Axis| match axis {
            Axis::Steps => wide_steps,
            Axis::QLen => wide_q_len,
            _ => foci.contains(&Focus::On(axis)),
        };
        // What the case is about first, so that nothing else has spent the budget.
        axes.sort_by_key(|&axis| !wide(axis));
        let mut longest = 0;
        while !axes.is_empty() {
            let axis = axes.remove(0);
            let cap = self.purse.cap(axis, &axes);
            let mut n = self.number(axis, wide(axis), cap);
            if axis == Axis::PastLen && n == 0 && !self.dice.one_in(3) {
                // Nothing but empty caches: a case of its own, but one of few faces.
                n = self.number(axis, wide(axis), cap);
            }
            if axis == Axis::QLen {
                // A case without a query is none.
                n = n.max(fewest_queries(self.space.domain()));
            }
            self.purse.spend(axis, n);
            let shape = &mut parts.shape;
            match axis {
                Axis::KvHeads => shape.num_kv_heads = n,
                Axis::QPerKv => shape.q_per_kv = n,
                Axis::HeadDim => shape.head_dim = n,
                Axis::Batch => shape.requests.resize(n as usize, shape.requests[0]),
                Axis::Steps => parts.steps = n,
                Axis::QLen => shape.requests[0].q_len = n,
                Axis::PastLen => longest = n,
            }
        }
        self.all_but_extents(&mut parts, longest);
        let deep = self.dice.one_in(DEEP_CASES);
        let long_row = !deep && self.space.domain().v_head_dim.is_some() && self.dice.one_in(LONG_ROWS);
        if deep || long_row {
            self.deepen(&mut parts, long_row);
        }
        self.knobs(&mut parts, deep);
        self.space.legalize(parts)
    }

    /// Several tiles of keys, a whole block of query heads and a long row at once, in one KV head of one request: what
    /// cases about one or two fields leave no budget for together. A `long_row` has fewest query heads and most keys.
    fn deepen(&mut self, parts: &mut CaseParts, long_row: bool) {
        let domain = self.space.domain();
        let was_default = parts.scale == default_scale(parts.shape.head_dim);
        let spare = parts.cache.capacity.saturating_sub(parts.needed_capacity());
        let head_dim = domain.head_dim.nearest(self.dice.pick(tables::DEEP_HEAD_DIM));
        parts.steps = domain.steps.low();
        let shape = &mut parts.shape;
        shape.num_kv_heads = domain.num_kv_heads.low();
        shape.q_per_kv = match long_row {
            true => domain.q_per_kv.low(),
            false => domain.q_per_kv.nearest(self.dice.pick(tables::DEEP_Q_PER_KV)),
        };
        (shape.head_dim, shape.v_head_dim) = (head_dim, head_dim);
        if let (true, Some(range)) = (long_row, &domain.v_head_dim) {
            shape.v_head_dim = range.nearest(self.dice.pick(tables::DEEP_HEAD_DIM));
        }
        shape.requests = vec![Request { past_len: 0, q_len: fewest_queries(domain) }; domain.batch.low() as usize];
        let mut purse = Purse::new(domain, self.space.budget);
        for (axis, n) in [
            (Axis::KvHeads, shape.num_kv_heads),
            (Axis::QPerKv, shape.q_per_kv),
            (Axis::HeadDim, head_dim),
            (Axis::Batch, shape.batch()),
        ] {
            purse.spend(axis, n);
        }
        let cap = purse.cap(Axis::PastLen, &[]);
        for r in &mut shape.requests {
            let past_len = match long_row {
                true => cap / 4 + self.dice.below(cap / 4 * 3 + 1),
                false => self.dice.pick(tables::DEEP_PAST_LEN).min(cap),
            };
            r.past_len = domain.past_len.nearest(past_len);
        }
        if was_default {
            parts.scale = default_scale(head_dim);
        }
        parts.cache.capacity = parts.needed_capacity().saturating_add(spare);
        self.space.afford_pages(parts);
    }

    /// One long request in the smallest heads, so that even an emulated kernel can be asked about it: positions beyond
    /// what 15 or 16 bits hold.
    fn long_case(mut self, parts: CaseParts) -> Case {
        self.purse = Purse::new(self.space.domain(), self.space.budget);
        let shape = &parts.shape;
        for (axis, n) in [
            (Axis::KvHeads, shape.num_kv_heads),
            (Axis::QPerKv, shape.q_per_kv),
            (Axis::HeadDim, shape.head_dim),
            (Axis::Batch, shape.batch()),
        ] {
            self.purse.spend(axis, n);
        }
        let cap = self.purse.cap(Axis::PastLen, &[]);
        let domain = self.space.domain();
        let fitting: Vec<u32> =
            tables::LONG_PAST_LEN.iter().copied().filter(|&n| n <= cap && domain.past_len.contains(n)).collect();
        let longest = if fitting.is_empty() { domain.past_len.nearest(cap) } else { self.dice.pick(&fitting) };
        self.with_lengths(parts, longest)
    }

    /// A case of the heads and the batch in `parts`.
    fn with_lengths(mut self, mut parts: CaseParts, longest: u32) -> Case {
        self.all_but_extents(&mut parts, longest);
        self.knobs(&mut parts, false);
        self.space.legalize(parts)
    }

    fn all_but_extents(&mut self, parts: &mut CaseParts, longest: u32) {
        self.requests(parts, longest);
        self.whole_prompts(parts);
        self.features(parts);
        self.rest(parts);
        self.storage(parts);
    }

    /// The heads of a model that the domain and the budget allow, if there is one.
    fn preset(&mut self, parts: &mut CaseParts) -> bool {
        let domain = self.space.domain();
        let cost = |p: &Preset| u64::from(p.num_q_heads) * u64::from(p.head_dim);
        let values =
            |p: &Preset| domain.v_head_dim.as_ref().map_or(p.v_head_dim == p.head_dim, |r| r.contains(p.v_head_dim));
        let allowed: Vec<_> = PRESETS
            .iter()
            .filter(|p| domain.num_kv_heads.contains(p.num_kv_heads))
            .filter(|p| domain.q_per_kv.contains(p.q_per_kv()))
            .filter(|p| domain.head_dim.contains(p.head_dim) && values(p))
            .filter(|p| cost(p) <= self.purse.left() / 4)
            .collect();
        if allowed.is_empty() {
            return false;
        }
        let preset = self.dice.pick(&allowed);
        self.model = Some(preset);
        let shape = &mut parts.shape;
        shape.num_kv_heads = preset.num_kv_heads;
        shape.q_per_kv = preset.q_per_kv();
        shape.head_dim = preset.head_dim;
        self.purse.spend(Axis::KvHeads, shape.num_kv_heads);
        self.purse.spend(Axis::QPerKv, shape.q_per_kv);
        self.purse.spend(Axis::HeadDim, shape.head_dim);
        self.used.extend([shape.num_kv_heads, shape.q_per_kv, shape.head_dim]);
        true
    }

    /// A number for one axis; one that no other axis has, where there is one.
    fn number(&mut self, axis: Axis, wide: bool, cap: u32) -> u32 {
        let range = axis.range(self.space.domain());
        let open = matches!(axis, Axis::HeadDim | Axis::QPerKv | Axis::PastLen);
        // A kernel's own corner is seldom a table's, so now and then any number will do.
        let mut choices = if wide && open && self.dice.one_in(5) {
            let high = range.rank(cap.min(320).saturating_add(1));
            let rank = self.dice.below(high);
            vec![range.nth(rank).unwrap_or(range.low())]
        } else {
            axis.table(self.space.domain()).choices(wide, range, cap)
        };
        if axis.is_tokens() {
            return self.dice.pick(&choices);
        }
        if !self.coincide {
            let fresh = |n: &u32| !self.used.contains(n);
            if choices.iter().any(fresh) {
                choices.retain(fresh);
            }
        }
        let n = self.dice.pick(&choices);
        self.used.push(n);
        n
    }

    /// Gives each request its lengths, the longest of `longest` tokens of past.
    fn requests(&mut self, parts: &mut CaseParts, longest: u32) {
        let q_len = parts.shape.requests[0].q_len;
        let batch = parts.shape.requests.len();
        let chosen = self.dice.below(batch as u32) as usize;
        let all_equal = self.coincide && self.dice.one_in(2);
        let wide = longest > 20;
        for index in 0..batch {
            let past_len = if index == chosen || all_equal {
                longest
            } else if self.dice.one_in(6) {
                0
            } else {
                let wide = wide && !self.dice.one_in(3);
                self.number(Axis::PastLen, wide, longest)
            };
            let q_len = if index == chosen { q_len } else { self.q_len(q_len) };
            parts.shape.requests[index] = Request { past_len, q_len };
        }
    }

    /// Everything that costs nothing.
    fn rest(&mut self, parts: &mut CaseParts) {
        let domain = self.space.domain();
        let dice = &mut self.dice;
        let head_dim = parts.shape.head_dim;
        parts.shape.v_head_dim = match (&domain.v_head_dim, self.model) {
            (Some(_), Some(model)) => model.v_head_dim,
            (Some(range), None) if dice.one_in(8) => {
                // Far from head_dim on either side, as long as the product with V costs no more than a case may.
                let factor = self.space.budget / cost(parts).max(1);
                let cap = u64::from(head_dim).saturating_mul(factor);
                dice.pick(&tables::HEAD_DIM.choices(true, range, u32::try_from(cap).unwrap_or(u32::MAX)))
            }
            (Some(range), None) if dice.one_in(2) => {
                let mut choices = tables::HEAD_DIM.choices(false, range, head_dim.saturating_mul(2));
                choices.extend([head_dim / 2, head_dim / 3 * 2].iter().filter(|&&n| range.contains(n)));
                dice.pick(&choices)
            }
            _ => head_dim,
        };
        parts.dtype = dice.pick(&domain.dtype);
        parts.cache.order = dice.pick(&domain.cache);
        parts.cache.row_pad = match dice.below(3) {
            0 => dice.pick(tables::ROW_PAD),
            _ => 0,
        };
        let needed = parts.needed_capacity();
        parts.cache.capacity = match dice.below(8) {
            0..=2 => needed,
            3 => needed.saturating_add(1),
            4 | 5 => needed.saturating_add(2 + dice.below(6)),
            _ => needed.checked_next_multiple_of(dice.pick(tables::TILES)).unwrap_or(needed),
        };
        let default = default_scale(head_dim);
        parts.scale = match dice.below(12) {
            0 => 1.0,
            1 => 0.5,
            2 => 2.0 / head_dim as f32,
            3 | 4 => (1 + dice.below(96)) as f32 / 64.0,
            _ => default,
        };
        parts.values = Values {
            recipe: match dice.below(14) {
                0..=3 => Recipe::Mixed,
                4..=6 => Recipe::Normal,
                _ => dice.pick(&Recipe::ALL),
            },
            seed: dice.below(1 << 16),
        };
        parts.poison = dice.pick(&Poison::ALL);
        parts.schedule_seed = dice.below(1 << 16);
        if dice.one_in(RELATED) {
            parts.relation = Some(dice.pick(&Relation::ALL));
        }
    }

    /// The kernel's own knobs. Last, so that a kernel without them gets the same cases.
    fn knobs(&mut self, parts: &mut CaseParts, low: bool) {
        let dice = &mut self.dice;
        for (name, range) in &self.space.domain().knobs {
            let choices = match dice.below(4) {
                _ if low => [1, 2, 3].map(|n| range.nearest(n)).to_vec(),
                0 => tables::knob_edges(range),
                1 => vec![range.nth(dice.below(range.rank(range.high()).saturating_add(1))).unwrap_or(range.low())],
                _ => tables::KNOB.choices(true, range, u32::MAX),
            };
            parts.knobs.insert(name.clone(), dice.pick(&choices));
        }
    }
}
