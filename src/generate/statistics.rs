//! What has been generated: how many cases had which feature.

use super::budget::cost;
use super::presets::PRESETS;
use crate::case::{CacheOrder, Case, Poison, Recipe, default_scale};
use crate::float::Dtype;
use std::fmt;

/// Something about a case that a kernel may get wrong.
#[derive(Clone, Copy)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// Whether a case has it.
    pub has: fn(&Case) -> bool,
}

/// Counts over many cases.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    cases: u64,
    counts: Vec<u64>,
    /// Cases whose cost has this many binary digits.
    cost_digits: Vec<u64>,
}

macro_rules! features {
    ($($name:literal => |$case:ident| $has:expr,)*) => {
        [$(Feature { name: $name, has: |$case| $has },)*]
    };
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 63] = features! {
        "f32" => |c| c.dtype == Dtype::F32,
        "f16" => |c| c.dtype == Dtype::F16,
        "bf16" => |c| c.dtype == Dtype::Bf16,
        "layout hnd" => |c| c.cache.order == CacheOrder::Hnd,
        "layout nhd" => |c| c.cache.order == CacheOrder::Nhd,
        "row padding" => |c| c.cache.row_pad != 0,
        "row padding not of 16 bytes" => |c| !(c.cache.row_pad as usize * c.dtype.size_bytes()).is_multiple_of(16),
        "capacity exactly as needed" => |c| spare(c) == 0,
        "capacity one more than needed" => |c| spare(c) == 1,
        "capacity a multiple of 16 with spare" => |c| c.cache.capacity.is_multiple_of(16) && spare(c) > 0,
        "one request" => |c| c.shape.batch() == 1,
        "several requests" => |c| c.shape.batch() > 1,
        "more than four requests" => |c| c.shape.batch() > 4,
        "every past empty" => |c| past(c).all(|n| n == 0),
        "an empty past among others" => |c| past(c).any(|n| n == 0) && past(c).any(|n| n > 0),
        "ragged past" => |c| past(c).any(|n| n != c.shape.requests[0].past_len),
        "equal past" => |c| c.shape.batch() > 1 && past(c).all(|n| n == c.shape.requests[0].past_len),
        "first step crosses 16" => |c| past(c).any(|n| (15..=17).contains(&n)),
        "first step crosses 32" => |c| past(c).any(|n| (31..=33).contains(&n)),
        "first step crosses 64" => |c| past(c).any(|n| (63..=65).contains(&n)),
        "first step crosses 128" => |c| past(c).any(|n| (127..=129).contains(&n)),
        "first step crosses 256" => |c| past(c).any(|n| (255..=257).contains(&n)),
        "past over 256" => |c| past(c).any(|n| n > 257),
        "one kv head" => |c| c.shape.num_kv_heads == 1,
        "kv heads no power of two" => |c| !c.shape.num_kv_heads.is_power_of_two(),
        "one query head of a kv head" => |c| c.shape.q_per_kv == 1,
        "q_per_kv no power of two" => |c| !c.shape.q_per_kv.is_power_of_two(),
        "q_per_kv over 8" => |c| c.shape.q_per_kv > 8,
        "q_per_kv over 32" => |c| c.shape.q_per_kv > 32,
        "head_dim below a warp" => |c| c.shape.head_dim < 32,
        "head_dim a multiple of 32" => |c| c.shape.head_dim.is_multiple_of(32),
        "head_dim over 32 and no multiple of it" => |c| c.shape.head_dim > 32 && !c.shape.head_dim.is_multiple_of(32),
        "head_dim odd" => |c| !c.shape.head_dim.is_multiple_of(2),
        "head_dim over 128" => |c| c.shape.head_dim > 128,
        "several steps" => |c| c.steps > 1,
        "several query tokens" => |c| c.shape.requests.iter().any(|r| r.q_len > 1),
        "scale 1/sqrt(head_dim)" => |c| c.scale == default_scale(c.shape.head_dim),
        "another scale" => |c| c.scale != default_scale(c.shape.head_dim),
        "recipe flat" => |c| c.values.recipe == Recipe::Flat,
        "recipe codes" => |c| c.values.recipe == Recipe::Codes,
        "recipe ones" => |c| c.values.recipe == Recipe::Ones,
        "recipe normal" => |c| c.values.recipe == Recipe::Normal,
        "recipe select" => |c| c.values.recipe == Recipe::Select,
        "recipe sparse" => |c| c.values.recipe == Recipe::Sparse,
        "recipe sink" => |c| c.values.recipe == Recipe::Sink,
        "recipe peaky" => |c| c.values.recipe == Recipe::Peaky,
        "recipe huge" => |c| c.values.recipe == Recipe::Huge,
        "recipe extreme" => |c| c.values.recipe == Recipe::Extreme,
        "recipe cold" => |c| c.values.recipe == Recipe::Cold,
        "recipe rising" => |c| c.values.recipe == Recipe::Rising,
        "recipe falling" => |c| c.values.recipe == Recipe::Falling,
        "recipe spikes" => |c| c.values.recipe == Recipe::Spikes,
        "recipe ties" => |c| c.values.recipe == Recipe::Ties,
        "recipe cancel" => |c| c.values.recipe == Recipe::Cancel,
        "recipe tiny" => |c| c.values.recipe == Recipe::Tiny,
        "recipe underflow" => |c| c.values.recipe == Recipe::Underflow,
        "recipe mixed" => |c| c.values.recipe == Recipe::Mixed,
        "head_dim over 128 and past over 31" => |c| c.shape.head_dim > 128 && past(c).any(|n| n > 31),
        "a relation too" => |c| c.relation.is_some(),
        "poison not nan" => |c| c.poison != Poison::Nan,
        "heads of a model" => |c| PRESETS.iter().any(|p| {
            (p.num_kv_heads, p.q_per_kv(), p.head_dim) == (c.shape.num_kv_heads, c.shape.q_per_kv, c.shape.head_dim)
        }),
        "two extents equal" => |c| extents_coincide(c),
        "all extents distinct" => |c| !extents_coincide(c),
    };
}

impl Statistics {
    /// Counts one case.
    pub fn observe(&mut self, case: &Case) {
        self.counts.resize(Feature::ALL.len(), 0);
        self.cost_digits.resize(65, 0);
        self.cases += 1;
        for (count, feature) in self.counts.iter_mut().zip(&Feature::ALL) {
            *count += u64::from((feature.has)(case));
        }
        self.cost_digits[(u64::BITS - cost(case).leading_zeros()) as usize] += 1;
    }

    /// Cases counted.
    pub fn cases(&self) -> u64 {
        self.cases
    }

    /// Every feature's name with the cases that had it.
    pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counts = self.counts.iter().copied().chain(std::iter::repeat(0));
        Feature::ALL.iter().map(|f| f.name).zip(counts)
    }

    /// Cases that had the feature of that name; nothing if there is no such feature.
    pub fn count(&self, name: &str) -> Option<u64> {
        self.counts().find(|&(n, _)| n == name).map(|(_, count)| count)
    }
}

impl FromIterator<Case> for Statistics {
    fn from_iter<I: IntoIterator<Item = Case>>(cases: I) -> Self {
        let mut statistics = Self::default();
        for case in cases {
            statistics.observe(&case);
        }
        statistics
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} cases", self.cases)?;
        let percent = |count: u64| 100.0 * count as f64 / self.cases.max(1) as f64;
        for (name, count) in self.counts() {
            writeln!(f, "{:6.2}%  {name}", percent(count))?;
        }
        for (digits, &count) in self.cost_digits.iter().enumerate() {
            if count > 0 {
                writeln!(f, "{:6.2}%  cost below 2^{digits}", percent(count))?;
            }
        }
        Ok(())
    }
}

fn past(case: &Case) -> impl Iterator<Item = u32> {
    case.shape.requests.iter().map(|r| r.past_len)
}

fn spare(case: &Case) -> u32 {
    case.cache.capacity - super::legalize::needed_capacity(case)
}

/// Whether two of batch, KV heads, group and head_dim, or one of these and the longest past, are equal.
fn extents_coincide(case: &Case) -> bool {
    let shape = &case.shape;
    let mut extents =
        [shape.batch(), shape.num_kv_heads, shape.q_per_kv, shape.head_dim, past(case).max().unwrap_or(0)];
    extents.sort_unstable();
    extents.windows(2).any(|pair| pair[0] == pair[1])
}
