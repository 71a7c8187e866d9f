//! What has been generated: how many cases had which feature.

use super::budget::cost;
use super::presets::PRESETS;
use crate::case::{CacheOrder, Case, Features, Pages, Poison, Recipe, Storage, default_scale};
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
    /// Cases with both features of a pair, in the order of [`Statistics::pairs`].
    pair_counts: Vec<u64>,
    /// Cases whose cost has this many binary digits.
    cost_digits: Vec<u64>,
}

macro_rules! features {
    ($($name:literal => |$case:ident| $has:expr,)*) => {
        [$(Feature { name: $name, has: |$case| $has },)*]
    };
}

impl Feature {
    /// The features of which pairs are counted too: those that only some kernels have, and that may break each other.
    pub const CROSSED: [&'static str; 15] = [
        "not causal",
        "a window that hides keys",
        "a softcap",
        "sinks",
        "v_head_dim below head_dim",
        "a request without keys",
        "a request without queries",
        "several query tokens",
        "more queries than keys",
        "several requests",
        "several steps",
        "packed",
        "paged",
        "shuffled pages",
        "shared pages",
    ];

    /// Every feature.
    pub const ALL: [Self; 106] = features! {
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
        "nothing appended" => |c| !c.features.append,
        "not causal" => |c| !c.features.causal,
        "a window" => |c| c.features.window.is_some(),
        "a window of one key" => |c| c.features.window == Some(1),
        "a window about a tile long" => |c| c.features.window.is_some_and(about_a_tile),
        "a window as long as a request" => |c| kv(c).any(|n| c.features.window == Some(n)),
        "a window one short of a request" => |c| kv(c).any(|n| n > 1 && c.features.window == Some(n - 1)),
        "a window longer than any request" => |c| kv(c).all(|n| c.features.window > Some(n)),
        "a window that hides keys" => |c| kv(c).any(|n| c.features.window.is_some_and(|window| window < n)),
        "a softcap" => |c| c.features.softcap.is_some(),
        "a softcap up to 5" => |c| c.features.softcap.is_some_and(|cap| cap <= 5.0),
        "a softcap of 30 or 50" => |c| [Some(30.0), Some(50.0)].contains(&c.features.softcap),
        "a softcap over 50" => |c| c.features.softcap > Some(50.0),
        "sinks" => |c| c.features.sinks,
        "no mask but causality, no softcap, no sinks" => |c| Features { append: true, ..c.features }.is_plain(),
        "v_head_dim below head_dim" => |c| c.shape.v_head_dim < c.shape.head_dim,
        "v_head_dim above head_dim" => |c| c.shape.v_head_dim > c.shape.head_dim,
        "a request without keys" => |c| kv(c).any(|n| n == 0),
        "no request with keys" => |c| kv(c).all(|n| n == 0),
        "a request without queries" => |c| c.shape.requests.iter().any(|r| r.q_len == 0),
        "one query among several" => |c| c.shape.requests.iter().any(|r| r.q_len == 1) && queries(c) > 1,
        "queries about a tile long" => |c| c.shape.requests.iter().any(|r| about_a_tile(r.q_len)),
        "queries about a tile of 64 or more long" => |c| {
            c.shape.requests.iter().any(|r| r.q_len > 60 && about_a_tile(r.q_len))
        },
        "more queries than keys" => |c| lens(c).any(|(q_len, kv_len)| q_len > kv_len && kv_len > 0),
        "a whole prompt" => |c| lens(c).any(|(q_len, kv_len)| q_len > 1 && q_len == kv_len),
        "a part of a prompt" => |c| lens(c).any(|(q_len, kv_len)| q_len > 1 && q_len < kv_len),
        "several tiles of queries and of keys" => |c| lens(c).any(|(q_len, kv_len)| q_len > 16 && kv_len > 32),
        "packed" => |c| c.cache.storage == Storage::Packed,
        "paged" => |c| c.cache.storage.pages().is_some(),
        "a page of one token" => |c| paged(c, |pages| pages.size == 1),
        "a page size no power of two" => |c| paged(c, |pages| !pages.size.is_power_of_two()),
        "pages in order" => |c| paged(c, |pages| pages.seed == 0),
        "pages in reverse" => |c| paged(c, |pages| pages.seed == 1),
        "shuffled pages" => |c| paged(c, |pages| pages.seed > 1) && c.num_pages() > 2,
        "spare pages" => |c| paged(c, |pages| pages.spare > 0),
        "shared pages" => |c| (1..c.shape.requests.len()).any(|r| c.shared_pages(r) > 0),
        "several shared pages" => |c| (1..c.shape.requests.len()).any(|r| c.shared_pages(r) > 1),
        "several pages of a request" => |c| paged(c, |pages| kv(c).any(|n| n > pages.size)),
        "a request that fills its last page" => |c| paged(c, |pages| kv(c).any(|n| n > 0 && n.is_multiple_of(pages.size))),
        "a last page of one token" => |c| paged(c, |pages| pages.size > 1 && kv(c).any(|n| n % pages.size == 1)),
        "a last page short of one token" => |c| paged(c, |pages| kv(c).any(|n| (n + 1).is_multiple_of(pages.size))),
        "a full row of the block table" => |c| c.block_table().iter().any(|row| row.len() as u32 == c.pages_per_request()),
        "unused entries in every row of the block table" => |c| {
            paged(c, |_| c.block_table().iter().all(|row| (row.len() as u32) < c.pages_per_request()))
        },
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
        let crossed = Feature::CROSSED.map(|name| Feature::ALL.iter().any(|f| f.name == name && (f.has)(case)));
        self.pair_counts.resize(crossed_pairs().count(), 0);
        for (count, (a, b)) in self.pair_counts.iter_mut().zip(crossed_pairs()) {
            *count += u64::from(crossed[a] && crossed[b]);
        }
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

    /// Every pair of names in [`Feature::CROSSED`] with the cases that had both features.
    pub fn pairs(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> {
        let counts = self.pair_counts.iter().copied().chain(std::iter::repeat(0));
        crossed_pairs().map(|(a, b)| [Feature::CROSSED[a], Feature::CROSSED[b]]).zip(counts)
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
        for ([one, other], count) in self.pairs().filter(|&(_, count)| count > 0) {
            writeln!(f, "{:6.2}%  {one}, and {other}", percent(count))?;
        }
        for (digits, &count) in self.cost_digits.iter().enumerate() {
            if count > 0 {
                writeln!(f, "{:6.2}%  cost below 2^{digits}", percent(count))?;
            }
        }
        Ok(())
    }
}

/// Places in [`Feature::CROSSED`], the smaller one first.
fn crossed_pairs() -> impl Iterator<Item = (usize, usize)> {
    let count = Feature::CROSSED.len();
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}

fn past(case: &Case) -> impl Iterator<Item = u32> {
    case.shape.requests.iter().map(|r| r.past_len)
}

/// Keys of each request in the last step.
fn kv(case: &Case) -> impl Iterator<Item = u32> {
    (0..case.shape.requests.len()).map(|r| case.kv_len_at(r, case.steps - 1))
}

/// Queries and keys of each request in the last step.
fn lens(case: &Case) -> impl Iterator<Item = (u32, u32)> {
    case.shape.requests.iter().map(|r| r.q_len).zip(kv(case))
}

fn queries(case: &Case) -> u32 {
    case.shape.requests.iter().map(|r| r.q_len).max().unwrap_or(0)
}

fn about_a_tile(n: u32) -> bool {
    [16, 32, 64, 128].iter().any(|tile| n.abs_diff(*tile) <= 1)
}

fn paged(case: &Case, has: impl FnOnce(Pages) -> bool) -> bool {
    case.cache.storage.pages().is_some_and(has)
}

fn spare(case: &Case) -> u32 {
    case.cache.capacity - case.needed_capacity()
}

/// Whether two of batch, KV heads, group and head_dim, or one of these and the longest past, are equal.
fn extents_coincide(case: &Case) -> bool {
    let shape = &case.shape;
    let mut extents =
        [shape.batch(), shape.num_kv_heads, shape.q_per_kv, shape.head_dim, past(case).max().unwrap_or(0)];
    extents.sort_unstable();
    extents.windows(2).any(|pair| pair[0] == pair[1])
}
