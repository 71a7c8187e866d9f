//! Element values as functions of coordinates.
//!
//! A value depends on (seed, tensor, request, head, token, dim) and the recipe, never on a linear index. So making
//! one extent smaller leaves every surviving element as it was, a change of layout changes no value, and a worker
//! needs only the Case to rebuild its inputs.
//!
//! Only integer hashing and exactly rounded f64 operations are used: the values are the same on every machine.
//! Values are not yet rounded to the case's dtype; [`Values::row`] does that.

use crate::float::Dtype;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// How the elements of Q, K and V are made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// The family of values.
    pub recipe: Recipe,
    /// Which member of the family.
    pub seed: u32,
}

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
    /// Q and K are about normal with variance 1.
    Normal,
    /// Q is 6 times normal: few keys have weight.
    Peaky,
    /// Q is 150 times normal: logits in the hundreds, past where `exp` overflows without its maximum.
    Huge,
    /// Logits rise with the position, so the running maximum changes at every key.
    Rising,
    /// Logits fall with the position.
    Falling,
    /// Each query row is of another kind: normal, peaky, huge, flat or sparse.
    Mixed,
}

/// A tensor whose values a recipe gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Queries; `token` counts the query tokens of the request from the first step on.
    Q,
    /// Keys; `token` is the position in the request's sequence.
    K,
    /// Values; `token` is the position in the request's sequence.
    V,
}

/// Which row of a tensor.
#[derive(Clone, Copy, Debug)]
pub struct RowAt {
    /// Request in the batch.
    pub request: u32,
    /// KV head.
    pub kv_head: u32,
    /// Query head within the KV head's group; 0 for K and V.
    pub member: u32,
    /// Token, as the [`Role`] says.
    pub token: u32,
}

impl Recipe {
    /// Every recipe, simplest first.
    pub const ALL: [Self; 8] =
        [Self::Flat, Self::Codes, Self::Normal, Self::Peaky, Self::Huge, Self::Rising, Self::Falling, Self::Mixed];

    /// Whether V has independent random signs, independent of Q, K and |V|.
    pub fn v_is_sign_random(self) -> bool {
        self != Self::Codes
    }
}

impl Values {
    /// A row of `dim` elements, rounded to `dtype`, appended to `out`.
    pub fn row(&self, role: Role, at: RowAt, dim: u32, dtype: Dtype, out: &mut Vec<f64>) {
        let mut hash = mix(u64::from(self.seed) << 2 | role as u64);
        for coordinate in [at.request, at.kv_head, at.member, at.token] {
            hash = mix(hash ^ u64::from(coordinate));
        }
        let kind = self.row_kind(role, hash);
        out.extend((0..dim).map(|d| dtype.round(element(kind, at, d, mix(hash ^ u64::from(d))))));
    }

    fn row_kind(&self, role: Role, hash: u64) -> RowKind {
        match (self.recipe, role) {
            (Recipe::Codes, Role::V) => RowKind::Code,
            (Recipe::Codes, _) => RowKind::Ternary,
            (_, Role::V) => RowKind::SignedSteps,
            (Recipe::Flat, Role::Q) => RowKind::Scaled(0.0),
            (Recipe::Peaky, Role::Q) => RowKind::Scaled(6.0),
            (Recipe::Huge, Role::Q) => RowKind::Scaled(150.0),
            (Recipe::Rising | Recipe::Falling, Role::Q) => RowKind::Lead(16.0),
            (Recipe::Rising, Role::K) => RowKind::Ramp(0.125),
            (Recipe::Falling, Role::K) => RowKind::Ramp(-0.125),
            (Recipe::Mixed, Role::Q) => match hash >> 32 & 7 {
                0..=2 => RowKind::Scaled(1.0),
                3 => RowKind::Scaled(6.0),
                4 | 5 => RowKind::Scaled(150.0),
                6 => RowKind::Scaled(0.0),
                _ => RowKind::Sparse,
            },
            (Recipe::Flat | Recipe::Normal | Recipe::Peaky | Recipe::Huge | Recipe::Mixed, _) => RowKind::Scaled(1.0),
        }
    }
}

/// The kinds of row that recipes are put together from.
#[derive(Clone, Copy)]
enum RowKind {
    Scaled(f64),
    /// About one element in eight is not zero.
    Sparse,
    /// Element 0 has this value, the rest is small noise.
    Lead(f64),
    /// Element 0 is this slope times the token, the rest is small noise.
    Ramp(f64),
    Ternary,
    Code,
    SignedSteps,
}

fn element(kind: RowKind, at: RowAt, dim: u32, hash: u64) -> f64 {
    match kind {
        RowKind::Scaled(factor) => factor * normal(hash),
        RowKind::Sparse if hash >> 61 == 0 => 6.0 * normal(mix(hash)),
        RowKind::Sparse => 0.0,
        RowKind::Lead(factor) if dim == 0 => factor,
        RowKind::Ramp(slope) if dim == 0 => slope * f64::from(at.token % 1024),
        RowKind::Lead(_) | RowKind::Ramp(_) => 0.25 * normal(hash),
        RowKind::Ternary => (hash >> 32) as f64 % 3.0 - 1.0,
        RowKind::Code => f64::from((at.request * 29 + at.kv_head * 17 + at.token * 5 + dim) % 127 + 1),
        RowKind::SignedSteps => {
            let magnitude = 64.0 + (hash >> 40 & 63) as f64;
            if hash & 1 == 0 { magnitude / 64.0 } else { -magnitude / 64.0 }
        }
    }
}

/// Mean 0, variance 1, within ±3.47: the sum of four 16-bit uniforms.
fn normal(hash: u64) -> f64 {
    let sum: u64 = (0..4).map(|i| hash >> (16 * i) & 0xffff).sum();
    (sum as f64 - 131_070.0) / 37_837.227_7
}

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection that spreads every input bit.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flat => "flat",
            Self::Codes => "codes",
            Self::Normal => "normal",
            Self::Peaky => "peaky",
            Self::Huge => "huge",
            Self::Rising => "rising",
            Self::Falling => "falling",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn row(recipe: Recipe, role: Role, at: RowAt, dim: u32) -> Vec<f64> {
        let mut out = Vec::new();
        Values { recipe, seed: 7 }.row(role, at, dim, Dtype::F32, &mut out);
        out
    }

    const AT: RowAt = RowAt { request: 1, kv_head: 2, member: 0, token: 9 };

    #[test]
    fn a_shorter_row_is_a_prefix() {
        for recipe in Recipe::ALL {
            for role in [Role::Q, Role::K, Role::V] {
                assert_eq!(row(recipe, role, AT, 64)[..17], row(recipe, role, AT, 17)[..]);
            }
        }
    }

    #[test]
    fn every_coordinate_matters() {
        let base = row(Recipe::Normal, Role::Q, AT, 8);
        for at in [
            RowAt { request: 0, ..AT },
            RowAt { kv_head: 0, ..AT },
            RowAt { member: 1, ..AT },
            RowAt { token: 0, ..AT },
        ] {
            assert_ne!(row(Recipe::Normal, Role::Q, at, 8), base);
        }
        assert_ne!(row(Recipe::Normal, Role::K, AT, 8), base);
    }

    #[test]
    fn normal_values_have_mean_0_and_variance_1() {
        let many: Vec<f64> =
            (0..400).flat_map(|token| row(Recipe::Normal, Role::K, RowAt { token, ..AT }, 100)).collect();
        let mean = many.iter().sum::<f64>() / many.len() as f64;
        let variance = many.iter().map(|x| x * x).sum::<f64>() / many.len() as f64;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03, "{mean} {variance}");
    }

    #[test]
    fn rising_keys_rise() {
        let lead = |token| row(Recipe::Rising, Role::K, RowAt { token, ..AT }, 2)[0];
        assert!(lead(1) > lead(0) && lead(200) > lead(199));
        let lead = |token| row(Recipe::Falling, Role::K, RowAt { token, ..AT }, 2)[0];
        assert!(lead(1) < lead(0));
    }
}
