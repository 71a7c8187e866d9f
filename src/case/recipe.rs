//! The families of values.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A family of values, simplest first.
///
/// Unless said otherwise V holds `±k/64` with k in 64..=127 and independent random signs: exact in every dtype,
/// and sums of up to 65,536 of them are exact in binary32.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recipe {
    /// Q is 0: every visible value has the same weight, whatever K is.
    Flat,
    /// Q and K are -1, 0 or 1, V is an integer that tells its coordinates: request, head, token and dim.
    Codes,
    /// V is 1, so that every output is 1 whatever the weights are. Q and K are normal.
    Ones,
    /// Q and K are about normal with variance 1.
    Normal,
    /// A query row selects some keys and gives the rest no weight: exact rows (see [`crate::bound`]).
    Select,
    /// A query row has two elements that aren't 0, the last one often among them.
    Sparse,
    /// The first key draws most of the weight.
    Sink,
    /// Q is 6 times normal: few keys have weight.
    Peaky,
    /// Q is 150 times normal: logits in the hundreds, past where `exp` overflows without its maximum.
    Huge,
    /// Logits up to about 100,000, raw products far beyond what f16 holds.
    Extreme,
    /// Every logit is far below 0.
    Cold,
    /// Logits rise with the position, so the running maximum changes at every key.
    Rising,
    /// Logits fall with the position.
    Falling,
    /// Keys at the first and last place of tiles, pages and splits have nearly all the weight.
    Spikes,
    /// Keys differ by little, so that many logits tie or nearly do.
    Ties,
    /// V alternates between large values of opposite sign: what is left is small.
    Cancel,
    /// V is in and around the dtype's subnormal numbers.
    Tiny,
    /// Most weights are so small that binary32 holds them badly or not at all.
    Underflow,
    /// Each query row is of another kind: normal, peaky, huge, flat, sparse, a selector or one with a sink.
    Mixed,
}

impl Recipe {
    /// Every recipe, simplest first.
    pub const ALL: [Self; 19] = [
        Self::Flat,
        Self::Codes,
        Self::Ones,
        Self::Normal,
        Self::Select,
        Self::Sparse,
        Self::Sink,
        Self::Peaky,
        Self::Huge,
        Self::Extreme,
        Self::Cold,
        Self::Rising,
        Self::Falling,
        Self::Spikes,
        Self::Ties,
        Self::Cancel,
        Self::Tiny,
        Self::Underflow,
        Self::Mixed,
    ];

    /// Whether V, and most weights, are far from the subnormal numbers.
    pub fn is_normal(self) -> bool {
        !matches!(self, Self::Tiny | Self::Underflow)
    }

    /// Whether V + 1 is a number of every dtype.
    pub fn v_has_few_bits(self) -> bool {
        !matches!(self, Self::Tiny | Self::Cancel)
    }

    /// Whether V has independent random signs, independent of Q, K and |V|.
    pub fn v_is_sign_random(self) -> bool {
        !matches!(self, Self::Codes | Self::Ones | Self::Cancel)
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flat => "flat",
            Self::Codes => "codes",
            Self::Ones => "ones",
            Self::Normal => "normal",
            Self::Select => "select",
            Self::Sparse => "sparse",
            Self::Sink => "sink",
            Self::Peaky => "peaky",
            Self::Huge => "huge",
            Self::Extreme => "extreme",
            Self::Cold => "cold",
            Self::Rising => "rising",
            Self::Falling => "falling",
            Self::Spikes => "spikes",
            Self::Ties => "ties",
            Self::Cancel => "cancel",
            Self::Tiny => "tiny",
            Self::Underflow => "underflow",
            Self::Mixed => "mixed",
        })
    }
}

impl FromStr for Recipe {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|r| r.to_string() == s)
            .ok_or_else(|| format!("expected one of {}, found {s:?}", Self::ALL.map(|r| r.to_string()).join(", ")))
    }
}
