//! Where in the shape space cases ran, and how close to their bounds they came: small whatever the number of cases.
//!
//! Adding cases in any order gives the same statistic.

use crate::case::Case;
use crate::float::bits;
use crate::oracle::Verdict;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What a number of a case is called, and how it is read off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// KV heads.
    NumKvHeads,
    /// Query heads of a KV head.
    QPerKv,
    /// Elements of a query or key row.
    HeadDim,
    /// Elements of a value row.
    VHeadDim,
    /// Requests.
    Batch,
    /// Keys of the longest request in the last step.
    KvLen,
    /// Query tokens of the longest request, in one step.
    QLen,
    /// Consecutive calls.
    Steps,
    /// Elements of padding after each cache row.
    RowPad,
    /// Tokens of a page; of a paged cache only.
    PageSize,
}

impl Extent {
    /// Every extent.
    pub const ALL: [Self; 10] = [
        Self::NumKvHeads,
        Self::QPerKv,
        Self::HeadDim,
        Self::VHeadDim,
        Self::Batch,
        Self::KvLen,
        Self::QLen,
        Self::Steps,
        Self::RowPad,
        Self::PageSize,
    ];

    /// Its value in a case, if the case has one.
    pub fn of(self, case: &Case) -> Option<u32> {
        let shape = &case.shape;
        Some(match self {
            Self::NumKvHeads => shape.num_kv_heads,
            Self::QPerKv => shape.q_per_kv,
            Self::HeadDim => shape.head_dim,
            Self::VHeadDim => shape.v_head_dim,
            Self::Batch => shape.batch(),
            Self::KvLen => (0..shape.requests.len()).map(|r| case.kv_len_at(r, case.steps - 1)).max().unwrap_or(0),
            Self::QLen => shape.requests.iter().map(|r| r.q_len).max().unwrap_or(0),
            Self::Steps => case.steps,
            Self::RowPad => case.cache.row_pad,
            Self::PageSize => case.cache.storage.pages()?.size,
        })
    }

    /// Its name, as manifests have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NumKvHeads => "num_kv_heads",
            Self::QPerKv => "q_per_kv",
            Self::HeadDim => "head_dim",
            Self::VHeadDim => "v_head_dim",
            Self::Batch => "batch",
            Self::KvLen => "kv_len",
            Self::QLen => "q_len",
            Self::Steps => "steps",
            Self::RowPad => "row_pad",
            Self::PageSize => "page_size",
        }
    }
}

impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Smallest and largest number met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Met {
    /// Smallest.
    pub low: u32,
    /// Largest.
    pub high: u32,
}

/// Cases whose two numbers lie in the same two bins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    /// Cases judged.
    pub cases: u64,
    /// Of them, those that failed.
    pub failing: u64,
    /// Largest error over bound of those that agree.
    #[serde(with = "bits")]
    pub worst_ratio: f64,
}

/// What the judged cases of one kernel on one backend were like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistic {
    /// Cases judged.
    pub cases: u64,
    /// Of each extent, what was met.
    pub met: BTreeMap<Extent, Met>,
    /// How many cases had which choice: storage types, orders, storages, recipes and features, by name.
    pub choices: BTreeMap<String, u64>,
    /// For each of [`Statistic::PLANES`], the cells that have a case, by [`bin`] of the first extent and of the second.
    pub planes: Vec<BTreeMap<u8, BTreeMap<u8, Cell>>>,
}

/// The bin of a number: 0, 1, 2 to 3, 4 to 7 and so on, each up to twice as large numbers as the one before.
pub fn bin(n: u32) -> u8 {
    (u32::BITS - n.leading_zeros()) as u8
}

/// Smallest and largest number of a bin.
pub fn bin_limits(bin: u8) -> [u32; 2] {
    match bin.min(32) {
        0 => [0, 0],
        bin => [1 << (bin - 1), u32::MAX >> (32 - bin)],
    }
}

impl Statistic {
    /// The pairs of extents that are counted together.
    pub const PLANES: [[Extent; 2]; 3] =
        [[Extent::KvLen, Extent::HeadDim], [Extent::QPerKv, Extent::HeadDim], [Extent::Batch, Extent::KvLen]];

    /// Counts a case that was judged; one that was skipped is not counted.
    pub fn add(&mut self, case: &Case, verdict: &Verdict) {
        let worst_ratio = match verdict {
            Verdict::Skip(_) => return,
            Verdict::Agree(agreement) => Some(agreement.worst_ratio),
            Verdict::Diverge(_) | Verdict::Fault(_) => None,
        };
        self.cases += 1;
        for extent in Extent::ALL {
            let Some(n) = extent.of(case) else { continue };
            let met = self.met.entry(extent).or_insert(Met { low: n, high: n });
            *met = Met { low: met.low.min(n), high: met.high.max(n) };
        }
        for choice in choices(case) {
            *self.choices.entry(choice).or_default() += 1;
        }
        self.planes.resize_with(Self::PLANES.len(), BTreeMap::new);
        for (plane, extents) in self.planes.iter_mut().zip(Self::PLANES) {
            let [Some(x), Some(y)] = extents.map(|extent| extent.of(case).map(bin)) else { continue };
            let cell = plane.entry(x).or_default().entry(y).or_default();
            cell.cases += 1;
            cell.failing += u64::from(worst_ratio.is_none());
            cell.worst_ratio = cell.worst_ratio.max(worst_ratio.unwrap_or(0.0));
        }
    }
}

fn choices(case: &Case) -> Vec<String> {
    let features = &case.features;
    let mut names = vec![
        format!("dtype {}", case.dtype),
        format!("order {}", case.cache.order),
        format!("storage {}", case.cache.storage.kind()),
        format!("values {}", case.values.recipe),
    ];
    let flags = [
        ("not causal", !features.causal),
        ("window", features.window.is_some()),
        ("softcap", features.softcap.is_some()),
        ("sinks", features.sinks),
        ("another scale than 1/sqrt(head_dim)", case.scale != crate::case::default_scale(case.shape.head_dim)),
    ];
    names.extend(flags.iter().filter(|(_, has)| *has).map(|(name, _)| (*name).to_owned()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::Agreement;

    #[test]
    fn every_number_lies_within_its_bin() {
        for n in (0..5000).chain([65_535, 65_536, u32::MAX - 1, u32::MAX]) {
            let [low, high] = bin_limits(bin(n));
            assert!((low..=high).contains(&n), "{n}: {low} to {high}");
            assert!(n == 0 || bin(low - 1) < bin(n));
        }
    }

    #[test]
    fn the_order_of_cases_does_not_matter_and_skips_do_not_count() {
        let case = |line: &str| -> Case { format!("{line} dtype=f32 scale=1 values=flat:0").parse().unwrap() };
        let cases = [case("kv=2 g=3 d=5 past=7 cache=hnd:9"), case("kv=1 g=7 d=64 past=0,3 cache=nhd:4")];
        let agree = |worst_ratio| Verdict::Agree(Agreement { worst_ratio, ..Agreement::default() });
        let (mut one, mut other) = (Statistic::default(), Statistic::default());
        one.add(&cases[0], &agree(0.25));
        one.add(&cases[1], &agree(0.5));
        one.add(&cases[1], &Verdict::Skip("no".into()));
        other.add(&cases[1], &agree(0.5));
        other.add(&cases[0], &agree(0.25));
        assert_eq!(one, other);
        assert_eq!(one.cases, 2);
        assert_eq!(one.met[&Extent::QPerKv], Met { low: 3, high: 7 });
        assert_eq!(one.met[&Extent::KvLen], Met { low: 4, high: 8 });
        assert_eq!(one.planes[0][&bin(8)][&bin(5)], Cell { cases: 1, failing: 0, worst_ratio: 0.25 });
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<Statistic>(&text).unwrap(), one);
    }
}
