//! The set of cases a kernel claims to support.

use super::{CacheOrder, Case, KnobName, Require, StorageKind};
use crate::float::Dtype;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

/// An inclusive range of whole numbers, or a list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Range {
    /// From the first to the second, both included.
    Span(u32, u32),
    /// These numbers only, ascending.
    List(Vec<u32>),
}

/// What a kernel claims to support. Generators never leave it; outside it a kernel is not judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// Storage types.
    pub dtype: Vec<Dtype>,
    /// Elements of a query or key row.
    pub head_dim: Range,
    /// Elements of a value row; absent: the same as `head_dim`.
    #[serde(default)]
    pub v_head_dim: Option<Range>,
    /// KV heads.
    pub num_kv_heads: Range,
    /// Query heads of a KV head.
    pub q_per_kv: Range,
    /// Requests.
    pub batch: Range,
    /// New tokens of a request in a step.
    pub q_len: Range,
    /// Tokens in the cache before the first step.
    pub past_len: Range,
    /// Consecutive calls on one cache.
    pub steps: Range,
    /// Cache orders.
    pub cache: Vec<CacheOrder>,
    /// Elements of padding after each cache row.
    pub row_pad: Range,
    /// Whether any scale is taken; if not, only 1/sqrt(head_dim) is.
    #[serde(default = "yes")]
    pub any_scale: bool,
    /// Whether the kernel appends each step's keys and values to the cache; if not, they are there already.
    #[serde(default = "yes")]
    pub append: bool,
    /// Whether attention may be causal, and whether it may be otherwise.
    #[serde(default = "causal")]
    pub causal: Vec<bool>,
    /// Sliding windows that the kernel takes besides none; absent: none only.
    #[serde(default)]
    pub window: Option<Range>,
    /// Whether the kernel takes a cap of the logits.
    #[serde(default)]
    pub softcap: bool,
    /// Whether the kernel takes attention sinks.
    #[serde(default)]
    pub sinks: bool,
    /// Where the cache may have its tokens.
    #[serde(default = "per_request")]
    pub storage: Vec<StorageKind>,
    /// Tokens of a page, for a paged cache.
    #[serde(default)]
    pub page_size: Option<Range>,
    /// The kernel's knobs and the values they may have.
    #[serde(default)]
    pub knobs: BTreeMap<KnobName, Range>,
    /// Conditions that every case meets.
    #[serde(default)]
    pub require: Vec<Require>,
}

impl Range {
    /// Whether `n` is in the range.
    pub fn contains(&self, n: u32) -> bool {
        match self {
            Self::Span(low, high) => (*low..=*high).contains(&n),
            Self::List(list) => list.contains(&n),
        }
    }

    /// The smallest number.
    pub fn low(&self) -> u32 {
        match self {
            Self::Span(low, _) => *low,
            Self::List(list) => list.first().copied().unwrap_or(0),
        }
    }

    /// The largest number.
    pub fn high(&self) -> u32 {
        match self {
            Self::Span(_, high) => *high,
            Self::List(list) => list.last().copied().unwrap_or(0),
        }
    }

    /// The number of the range nearest to `n`; the smaller one of two.
    pub fn nearest(&self, n: u32) -> u32 {
        match self {
            Self::Span(low, high) => n.clamp(*low, *high),
            Self::List(list) => list.iter().copied().min_by_key(|&m| (m.abs_diff(n), m)).unwrap_or(n),
        }
    }

    /// The part of the range from `low` to `high`, in ascending order without repeats; nothing if that part is empty.
    pub fn within(&self, low: u32, high: u32) -> Option<Self> {
        match self {
            Self::Span(from, to) => {
                let (from, to) = (low.max(*from), high.min(*to));
                (from <= to).then_some(Self::Span(from, to))
            }
            Self::List(list) => {
                let mut list: Vec<u32> = list.iter().copied().filter(|n| (low..=high).contains(n)).collect();
                list.sort_unstable();
                list.dedup();
                (!list.is_empty()).then_some(Self::List(list))
            }
        }
    }

    /// How many numbers of the range are below `n`.
    pub fn rank(&self, n: u32) -> u32 {
        match self {
            Self::Span(low, high) if low <= high => n.clamp(*low, high.saturating_add(1)) - low,
            Self::Span(..) => 0,
            Self::List(list) => list.partition_point(|&m| m < n) as u32,
        }
    }

    /// The number with `rank` numbers below it.
    pub fn nth(&self, rank: u32) -> Option<u32> {
        match self {
            Self::Span(low, high) => low.checked_add(rank).filter(|n| n <= high),
            Self::List(list) => list.get(rank as usize).copied(),
        }
    }

    /// The largest number of the range that is not above `n`.
    pub fn at_most(&self, n: u32) -> Option<u32> {
        self.within(0, n).map(|part| part.high())
    }
}

impl From<u32> for Range {
    fn from(n: u32) -> Self {
        Self::Span(n, n)
    }
}

impl From<RangeInclusive<u32>> for Range {
    fn from(span: RangeInclusive<u32>) -> Self {
        Self::Span(*span.start(), *span.end())
    }
}

/// These numbers, in any order.
impl<const N: usize> From<[u32; N]> for Range {
    fn from(mut list: [u32; N]) -> Self {
        list.sort_unstable();
        let mut list = list.to_vec();
        list.dedup();
        Self::List(list)
    }
}

impl Domain {
    /// Why `case` is outside, or nothing.
    pub fn excludes(&self, case: &Case) -> Option<String> {
        let shape = &case.shape;
        let outside = |name: &str, found: u32, range: &Range| {
            (!range.contains(found)).then(|| format!("{name} is {found}, the kernel claims {range}"))
        };
        if !self.dtype.contains(&case.dtype) {
            return Some(format!("dtype {} is not one of the kernel's", case.dtype));
        }
        if !self.cache.contains(&case.cache.order) {
            return Some(format!("cache order {} is not one of the kernel's", case.cache.order));
        }
        if !self.any_scale && case.scale != default_scale(shape.head_dim) {
            return Some(format!("scale is {}, the kernel claims 1/sqrt(head_dim) only", case.scale));
        }
        let same = Range::Span(shape.head_dim, shape.head_dim);
        let requests = shape.requests.iter();
        outside("head_dim", shape.head_dim, &self.head_dim)
            .or_else(|| outside("v_head_dim", shape.v_head_dim, self.v_head_dim.as_ref().unwrap_or(&same)))
            .or_else(|| outside("num_kv_heads", shape.num_kv_heads, &self.num_kv_heads))
            .or_else(|| outside("q_per_kv", shape.q_per_kv, &self.q_per_kv))
            .or_else(|| outside("batch", shape.batch(), &self.batch))
            .or_else(|| outside("steps", case.steps, &self.steps))
            .or_else(|| outside("row_pad", case.cache.row_pad, &self.row_pad))
            .or_else(|| requests.clone().find_map(|r| outside("q_len", r.q_len, &self.q_len)))
            .or_else(|| requests.clone().find_map(|r| outside("past_len", r.past_len, &self.past_len)))
            .or_else(|| self.excludes_features(case))
            .or_else(|| self.excludes_storage(case))
            .or_else(|| self.excludes_knobs(case))
            .or_else(|| {
                let broken = self.require.iter().find(|require| !require.is_met(self, case))?;
                Some(format!("{} (the kernel claims {})", broken.because, broken.expr))
            })
    }

    fn excludes_features(&self, case: &Case) -> Option<String> {
        let features = &case.features;
        if features.append != self.append {
            let what = if self.append { "appends to its cache" } else { "finds every key in its cache" };
            return Some(format!("the kernel {what}, which this case does not ask for"));
        }
        if !self.causal.contains(&features.causal) {
            let what = if features.causal { "causal attention" } else { "attention that is not causal" };
            return Some(format!("the kernel does not claim {what}"));
        }
        if let Some(window) = features.window {
            match &self.window {
                None => return Some("the kernel claims no sliding window".into()),
                Some(range) if !range.contains(window) => {
                    return Some(format!("window is {window}, the kernel claims {range}"));
                }
                Some(_) => {}
            }
        }
        if features.softcap.is_some() && !self.softcap {
            return Some("the kernel claims no softcap".into());
        }
        (features.sinks && !self.sinks).then(|| "the kernel claims no sinks".into())
    }

    fn excludes_storage(&self, case: &Case) -> Option<String> {
        let storage = case.cache.storage;
        if !self.storage.contains(&storage.kind()) {
            return Some(format!("the kernel does not claim a cache that is {}", storage.kind()));
        }
        let (pages, range) = (storage.pages()?, self.page_size.as_ref()?);
        let size = pages.size;
        (!range.contains(size)).then(|| format!("the page size is {size}, the kernel claims {range}"))
    }

    fn excludes_knobs(&self, case: &Case) -> Option<String> {
        if let Some(name) = case.knobs.keys().find(|&name| !self.knobs.contains_key(name)) {
            return Some(format!("the kernel has no knob {name}"));
        }
        self.knobs.iter().find_map(|(name, range)| match case.knobs.get(name) {
            None => Some(format!("the knob {name} is missing, the kernel claims {range}")),
            Some(&n) => (!range.contains(n)).then(|| format!("the knob {name} is {n}, the kernel claims {range}")),
        })
    }
}

/// 1/sqrt(head_dim) in binary32, the scale of scaled dot-product attention.
pub fn default_scale(head_dim: u32) -> f32 {
    (1.0 / f64::from(head_dim).sqrt()) as f32
}

fn yes() -> bool {
    true
}

fn causal() -> Vec<bool> {
    vec![true]
}

fn per_request() -> Vec<StorageKind> {
    vec![StorageKind::PerRequest]
}

/// Plain decoding of one token in f32: what a literal with few fields of its own starts from.
impl Default for Domain {
    fn default() -> Self {
        Self {
            dtype: vec![Dtype::F32],
            head_dim: Range::Span(1, 256),
            v_head_dim: None,
            num_kv_heads: Range::Span(1, 64),
            q_per_kv: Range::Span(1, 64),
            batch: Range::Span(1, 64),
            q_len: Range::Span(1, 1),
            past_len: Range::Span(0, 4096),
            steps: Range::Span(1, 1),
            cache: vec![CacheOrder::Hnd, CacheOrder::Nhd],
            row_pad: Range::Span(0, 0),
            any_scale: true,
            append: true,
            causal: causal(),
            window: None,
            softcap: false,
            sinks: false,
            storage: per_request(),
            page_size: None,
            knobs: BTreeMap::new(),
            require: Vec::new(),
        }
    }
}

impl fmt::Display for StorageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PerRequest => "per-request",
            Self::Packed => "packed",
            Self::Paged => "paged",
        })
    }
}

impl fmt::Display for CacheOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hnd => "hnd",
            Self::Nhd => "nhd",
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Span(low, high) => write!(f, "{low}..={high}"),
            Self::List(list) => write!(f, "one of {list:?}"),
        }
    }
}

/// In TOML: `[1, 2, 4]` is a list, `"1..=256"` a span, `7` the one number.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a number, a list of numbers or a span like \"1..=256\"")]
enum RangeText {
    One(u32),
    List(Vec<u32>),
    Span(String),
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match RangeText::deserialize(deserializer)? {
            RangeText::One(n) => Ok(Self::Span(n, n)),
            RangeText::List(mut list) => {
                list.sort_unstable();
                list.dedup();
                if list.is_empty() {
                    return Err(D::Error::custom("expected at least one number, found an empty list"));
                }
                Ok(Self::List(list))
            }
            RangeText::Span(text) => text
                .split_once("..=")
                .and_then(|(low, high)| Some((low.trim().parse().ok()?, high.trim().parse().ok()?)))
                .filter(|(low, high)| low <= high)
                .map(|(low, high)| Self::Span(low, high))
                .ok_or_else(|| D::Error::custom(format!("expected a span like \"1..=256\", found {text:?}"))),
        }
    }
}

impl Serialize for Range {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Span(low, high) => RangeText::Span(format!("{low}..={high}")),
            Self::List(list) => RangeText::List(list.clone()),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_the_numbers_of_a_range() {
        for (range, numbers) in [
            (Range::Span(3, 6), vec![3, 4, 5, 6]),
            (Range::List(vec![1, 4, 96]), vec![1, 4, 96]),
            (Range::Span(u32::MAX - 1, u32::MAX), vec![u32::MAX - 1, u32::MAX]),
            (Range::Span(5, 4), vec![]),
        ] {
            for (rank, &n) in (0..).zip(&numbers) {
                assert_eq!((range.rank(n), range.nth(rank)), (rank, Some(n)), "{range}");
            }
            assert_eq!(range.nth(numbers.len() as u32), None, "{range}");
        }
        assert_eq!(Range::List(vec![1, 4, 96]).rank(5), 2);
        assert_eq!(Range::Span(3, 6).rank(100), 4);
    }

    #[test]
    fn ranges_are_written_as_rust_writes_them() {
        assert_eq!(Range::from(7), Range::Span(7, 7));
        assert_eq!(Range::from(0..=9), Range::Span(0, 9));
        assert_eq!(Range::from([128, 64, 128]), Range::List(vec![64, 128]));
    }

    #[test]
    fn a_part_of_a_range_is_ascending() {
        let list = Range::List(vec![96, 4, 4, 1]);
        assert_eq!(list.within(2, 100), Some(Range::List(vec![4, 96])));
        assert_eq!(list.within(5, 90), None);
        assert_eq!(Range::Span(3, 6).within(0, 4), Some(Range::Span(3, 4)));
        assert_eq!(Range::Span(3, 6).at_most(2), None);
        assert_eq!(Range::Span(3, 6).at_most(9), Some(6));
    }
}
