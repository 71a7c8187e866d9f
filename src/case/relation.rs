//! Properties of attention that need no reference: how the output must change when the inputs do.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A property to be judged besides the comparison with the reference, by further runs of a case derived from it.
///
/// Unless a relation is said to hold to the bit, outputs may differ by what both runs' bounds allow, and by the
/// rounding of what is stored. A kernel's manifest may name more that hold to the bit (`relations.exact`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// The order of the keys doesn't matter, neither of those that every query sees (where one sees them all, of all)
    /// nor of those before every window. Catches dropped, doubled and stale keys, lost rescales, windows too wide.
    KeysPermuted,
    /// Every key and value twice, with a window twice as wide, gives the same output (and a log-sum-exp higher by
    /// ln 2). Catches tails and lengths.
    KeysRepeated,
    /// A constant added to every logit, through a dimension in which every key is alike, changes nothing (but the
    /// log-sum-exp, by as much). Catches a missing maximum and narrow accumulators.
    LogitsShifted,
    /// V times a power of two gives the output times it, to the bit. Catches clamps, and state that is not V's.
    ValuesScaled,
    /// -V gives the output negated, to the bit.
    ValuesNegated,
    /// V + 1 gives the output + 1, of a row that sees a key. Catches weights that don't sum to one.
    ValuesRaised,
    /// V of ones gives ones, whatever the weights are, and zeros where no key is seen. Catches the same, and columns that
    /// are lost.
    WeightsSumToOne,
    /// No output is outside the visible values of its column; a sink's is 0.
    WithinValues,
    /// With every KV head copied for each of its query heads, one query head each, the output is the same. Catches any
    /// wrong mapping of heads.
    HeadsRepeated,
    /// The requests in another order give their outputs in that order. Catches what one request takes from another.
    RequestsReversed,
    /// A request alone gives what it gives in the batch.
    RequestAlone,
    /// Another order of the cache's axes, another capacity and padding change nothing. Catches wrong strides.
    CacheMoved,
    /// Dimensions of Q and K in another order change nothing but roundings. Catches a lost tail of head_dim.
    DimsReversed,
    /// Columns of V in another order give the output's columns in that order. Catches lost and swapped columns.
    ColumnsReversed,
    /// Q times a power of two and K over it changes nothing, to the bit (f32 and bf16). Catches narrow intermediates.
    FactorsMoved,
    /// Tokens appended by an earlier step are the same as tokens that were in the cache. Catches wrong positions.
    Appended,
    /// Several query tokens at once give what they give one by one: in as many steps, or where nothing is appended one of
    /// them by itself. Catches masks that are off by one.
    StepsMerged,
    /// Other values of the kernel's knobs, such as the number of splits, change nothing but roundings. Catches what only
    /// one way through a kernel gets wrong.
    KnobsChanged,
    /// Attention over the first keys and over the rest, put together by their log-sum-exps, is attention over all.
    /// Catches a log-sum-exp in another base or without its maximum. For kernels that return it.
    LsesMerged,
    /// With two keys the output is a logistic function of the difference of their logits (with a cap and a sink, a
    /// function as simple): the one property that sees a wrong scale.
    ScaleProbe,
    /// Pages in another order, and others that belong to no request, change nothing. Catches a block table that is not
    /// read, or read at the wrong place.
    PagesPermuted,
    /// Pages of another size change nothing but roundings. Catches a size that is fixed, and tails of pages.
    PagesResized,
}

impl Relation {
    /// Every relation.
    pub const ALL: [Self; 22] = [
        Self::KeysPermuted,
        Self::KeysRepeated,
        Self::LogitsShifted,
        Self::ValuesScaled,
        Self::ValuesNegated,
        Self::ValuesRaised,
        Self::WeightsSumToOne,
        Self::WithinValues,
        Self::HeadsRepeated,
        Self::RequestsReversed,
        Self::RequestAlone,
        Self::CacheMoved,
        Self::DimsReversed,
        Self::ColumnsReversed,
        Self::FactorsMoved,
        Self::Appended,
        Self::StepsMerged,
        Self::KnobsChanged,
        Self::LsesMerged,
        Self::ScaleProbe,
        Self::PagesPermuted,
        Self::PagesResized,
    ];

    /// The relation's name as it stands in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeysPermuted => "keys-permuted",
            Self::KeysRepeated => "keys-repeated",
            Self::LogitsShifted => "logits-shifted",
            Self::ValuesScaled => "values-scaled",
            Self::ValuesNegated => "values-negated",
            Self::ValuesRaised => "values-raised",
            Self::WeightsSumToOne => "weights-sum-to-one",
            Self::WithinValues => "within-values",
            Self::HeadsRepeated => "heads-repeated",
            Self::RequestsReversed => "requests-reversed",
            Self::RequestAlone => "request-alone",
            Self::CacheMoved => "cache-moved",
            Self::DimsReversed => "dims-reversed",
            Self::ColumnsReversed => "columns-reversed",
            Self::FactorsMoved => "factors-moved",
            Self::Appended => "appended",
            Self::StepsMerged => "steps-merged",
            Self::KnobsChanged => "knobs-changed",
            Self::LsesMerged => "lses-merged",
            Self::ScaleProbe => "scale-probe",
            Self::PagesPermuted => "pages-permuted",
            Self::PagesResized => "pages-resized",
        }
    }

    /// Whether rounding can't tell the two runs apart, whatever the kernel's order of operations.
    pub fn is_exact(self) -> bool {
        matches!(self, Self::ValuesScaled | Self::ValuesNegated | Self::FactorsMoved)
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Relation {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|r| r.name() == s)
            .ok_or_else(|| format!("expected one of {}, found {s:?}", Self::ALL.map(Self::name).join(", ")))
    }
}
