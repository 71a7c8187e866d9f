//! Element values as functions of coordinates.
//!
//! A value depends on (seed, tensor, request, head, token, dim) and the recipe, never on a linear index. So making
//! one extent smaller leaves every surviving element as it was, a change of layout changes no value, and a worker
//! needs only the Case to rebuild its inputs. Query rows of a few recipes are an exception: they single out the last
//! dimension, whichever that is.
//!
//! Only integer hashing and exactly rounded f64 operations are used: the values are the same on every machine.
//! Values are not yet rounded to the case's dtype; [`Values::row`] does that.

use super::recipe::Recipe;
use crate::float::Dtype;
use serde::{Deserialize, Serialize};

/// How the elements of Q, K and V are made.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Values {
    /// The family of values.
    pub recipe: Recipe,
    /// Which member of the family.
    pub seed: u32,
}

/// A tensor whose values a recipe gives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Queries; `token` counts the query tokens of the request from the first step on.
    Q,
    /// Keys; `token` is the position in the request's sequence.
    K,
    /// Values; `token` is the position in the request's sequence.
    V,
    /// The logit of a query head's sink: one element, the same for every request and token.
    Sink,
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

impl Values {
    /// A row of `dim` elements, rounded to `dtype`, appended to `out`.
    pub fn row(&self, role: Role, at: RowAt, dim: u32, dtype: Dtype, out: &mut Vec<f64>) {
        let mut hash = mix(u64::from(self.seed) << 2 | role as u64);
        for coordinate in [at.request, at.kv_head, at.member, at.token] {
            hash = mix(hash ^ u64::from(coordinate));
        }
        match self.row_kind(role, hash, dim, dtype) {
            // Nearly every row is of one of these two, and most of a case's inputs are such rows.
            RowKind::Scaled(factor) => fill(out, hash, dim, dtype, |_, hash| factor * normal(hash)),
            RowKind::SignedSteps => fill(out, hash, dim, dtype, |_, hash| signed_steps(hash)),
            kind => fill(out, hash, dim, dtype, |d, hash| element(kind, at, d, hash)),
        }
    }

    fn row_kind(&self, role: Role, hash: u64, dim: u32, dtype: Dtype) -> RowKind {
        let seed = u64::from(self.seed);
        match (self.recipe, role) {
            (Recipe::Codes, Role::V) => RowKind::Code,
            (Recipe::Ones, Role::V) => RowKind::Constant(1.0),
            (Recipe::Cancel, Role::V) => RowKind::Alternating(48.0),
            (Recipe::Tiny, Role::V) => RowKind::Subnormal(dtype.min_exponent()),
            (_, Role::V) => RowKind::SignedSteps,
            (Recipe::Flat | Recipe::Codes, Role::Sink) => RowKind::Scaled(1.0),
            (_, Role::Sink) => match hash >> 32 & 7 {
                // Beyond what exp takes without a maximum; beneath notice; about as large as logits.
                0 => RowKind::Constant(96.0),
                1 => RowKind::Constant(-96.0),
                2..=4 => RowKind::Scaled(8.0),
                _ => RowKind::Scaled(1.5),
            },
            (Recipe::Codes, _) => RowKind::Ternary,
            (Recipe::Flat, Role::Q) => RowKind::Scaled(0.0),
            (Recipe::Select, Role::Q) => RowKind::OneHot(last_or_any(hash, dim, 1, 0)),
            (Recipe::Select, Role::K) => RowKind::Selectable { seed, every: 1 },
            (Recipe::Sparse, Role::Q) => sparse(hash, dim),
            (Recipe::Sink, Role::Q) => RowKind::Marked { dim: 0, value: SINK, noise: 1.0 },
            (Recipe::Sink, Role::K) => RowKind::FirstMarked,
            (Recipe::Peaky, Role::Q) => RowKind::Scaled(6.0),
            (Recipe::Huge, Role::Q) => RowKind::Scaled(150.0),
            (Recipe::Extreme, Role::Q) => RowKind::Scaled(1000.0),
            (Recipe::Extreme, Role::K) => RowKind::Scaled(100.0),
            (Recipe::Cold, Role::Q) => RowKind::Marked { dim: 0, value: -96.0, noise: 0.25 },
            (Recipe::Cold, Role::K) => RowKind::Marked { dim: 0, value: 16.0, noise: 0.25 },
            (Recipe::Rising | Recipe::Falling | Recipe::Spikes | Recipe::Underflow, Role::Q) => {
                RowKind::Marked { dim: 0, value: 16.0, noise: 0.25 }
            }
            (Recipe::Rising, Role::K) => RowKind::Ramp(0.125),
            (Recipe::Falling, Role::K) => RowKind::Ramp(-0.125),
            (Recipe::Spikes, Role::K) => RowKind::Spikes(16 << (self.seed % 4)),
            (Recipe::Ties, Role::K) => RowKind::Alike(seed),
            (Recipe::Underflow, Role::K) => RowKind::Sinking,
            (Recipe::Mixed, Role::K) => RowKind::Selectable { seed, every: SELECTOR_EVERY },
            (Recipe::Mixed, Role::Q) => match hash >> 32 & 15 {
                0..=2 => RowKind::Scaled(1.0),
                3 | 4 => RowKind::Scaled(6.0),
                5 | 6 => RowKind::Scaled(150.0),
                7 => RowKind::Scaled(0.0),
                8..=10 => sparse(hash, dim),
                11 if dim > SINK_DIM => RowKind::Marked { dim: SINK_DIM, value: SINK, noise: 1.0 },
                _ if dim >= SELECTOR_EVERY => {
                    RowKind::OneHot(last_or_any(hash, dim / SELECTOR_EVERY, SELECTOR_EVERY, SELECTOR_EVERY - 1))
                }
                _ => RowKind::Scaled(0.0),
            },
            (
                Recipe::Flat
                | Recipe::Ones
                | Recipe::Normal
                | Recipe::Sparse
                | Recipe::Peaky
                | Recipe::Huge
                | Recipe::Ties
                | Recipe::Cancel
                | Recipe::Tiny,
                _,
            ) => RowKind::Scaled(1.0),
        }
    }
}

/// Appends a row of `dim` elements, each of its dimension and its own hash.
#[inline(always)]
fn fill(out: &mut Vec<f64>, hash: u64, dim: u32, dtype: Dtype, element: impl Fn(u32, u64) -> f64) {
    let start = out.len();
    out.resize(start + dim as usize, 0.0);
    pulp::Arch::new().dispatch(Fill { row: &mut out[start..], hash, dtype, element });
}

/// What [`fill`] does for each kind of processor: the same operations, only their width differs.
struct Fill<'a, F> {
    row: &'a mut [f64],
    hash: u64,
    dtype: Dtype,
    element: F,
}

impl<F: Fn(u32, u64) -> f64> pulp::WithSimd for Fill<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { row, hash, dtype, element } = self;
        for (x, d) in row.iter_mut().zip(0..) {
            *x = element(d, mix(hash ^ u64::from(d)));
        }
        match dtype {
            Dtype::F32 => row.iter_mut().for_each(|x| *x = f64::from(*x as f32)),
            Dtype::F16 | Dtype::Bf16 => row.iter_mut().for_each(|x| *x = dtype.round(*x)),
        }
    }
}

/// In [`Recipe::Mixed`] the last dimension of so many is one by which keys can be selected: the last of all where
/// head_dim is a multiple.
const SELECTOR_EVERY: u32 = 8;
/// The dimension by which the first key draws weight in [`Recipe::Mixed`].
const SINK_DIM: u32 = 6;
const SINK: f64 = 16.0;

/// The last of `count` places `every` apart half of the time, else any.
fn last_or_any(hash: u64, count: u32, every: u32, offset: u32) -> u32 {
    let place = if hash >> 40 & 1 == 0 { count.saturating_sub(1) } else { (hash >> 41) as u32 % count.max(1) };
    place * every + offset
}

fn sparse(hash: u64, dim: u32) -> RowKind {
    let other = (hash >> 16) as u32 % dim.max(1);
    RowKind::Sparse([last_or_any(hash, dim, 1, 0), other])
}

/// The kinds of row that recipes are put together from.
#[derive(Clone, Copy)]
enum RowKind {
    Scaled(f64),
    Constant(f64),
    /// 0 but for these elements.
    Sparse([u32; 2]),
    /// 0 but for this element, which is so large that a key has weight only where it is 0 there.
    OneHot(u32),
    /// Every so many dimensions one that is 0 for selected keys and -1 for the others; the rest normal, or 0 at
    /// [`SINK_DIM`] but for the first key.
    Selectable {
        seed: u64,
        every: u32,
    },
    /// This element has this value, the rest is noise.
    Marked {
        dim: u32,
        value: f64,
        noise: f64,
    },
    /// Element 0 is large for the first token only.
    FirstMarked,
    /// Element 0 is this slope times the token, the rest is small noise.
    Ramp(f64),
    /// Element 0 is large at the first and last token of tiles of this many, the rest is small noise.
    Spikes(u32),
    /// Nearly the same for every token.
    Alike(u64),
    /// Element 0 is 0 for one token in seven and far below for the others.
    Sinking,
    Ternary,
    Code,
    SignedSteps,
    /// This value for even tokens, its negative for odd ones, and a small step.
    Alternating(f64),
    /// Multiples of a small part of the smallest normal number, 2 to this power.
    Subnormal(i32),
}

fn element(kind: RowKind, at: RowAt, dim: u32, hash: u64) -> f64 {
    let noise = |factor: f64| factor * normal(hash);
    match kind {
        RowKind::Scaled(factor) => noise(factor),
        RowKind::Constant(value) => value,
        RowKind::Sparse(dims) if dims.contains(&dim) => noise(6.0),
        RowKind::OneHot(hot) if dim == hot => 16_384.0,
        RowKind::Sparse(_) | RowKind::OneHot(_) => 0.0,
        RowKind::Selectable { seed, every } if (dim + 1).is_multiple_of(every) => {
            if is_selected(seed, at, dim, hash) {
                0.0
            } else {
                -1.0
            }
        }
        RowKind::Selectable { .. } if dim == SINK_DIM => {
            if at.token == 0 {
                SINK
            } else {
                0.0
            }
        }
        RowKind::Selectable { .. } => noise(1.0),
        RowKind::Marked { dim: marked, value, .. } if dim == marked => value,
        RowKind::Marked { noise: factor, .. } => noise(factor),
        RowKind::FirstMarked if dim == 0 && at.token == 0 => SINK,
        RowKind::FirstMarked => noise(1.0),
        RowKind::Ramp(slope) if dim == 0 => slope * f64::from(at.token % 1024),
        RowKind::Spikes(tile) if dim == 0 => {
            if [0, tile - 1].contains(&(at.token % tile)) {
                16.0
            } else {
                0.0
            }
        }
        RowKind::Sinking if dim == 0 => {
            if at.token.is_multiple_of(7) {
                0.0
            } else {
                -39.0 - (hash >> 40 & 63) as f64 / 1.5
            }
        }
        RowKind::Ramp(_) | RowKind::Spikes(_) | RowKind::Sinking => noise(0.25),
        RowKind::Alike(seed) => {
            let common = (mix(seed ^ u64::from(dim)) >> 60) as f64 / 8.0 - 1.0;
            if hash >> 58 == 0 { common + 1.0 / 128.0 } else { common }
        }
        RowKind::Ternary => (hash >> 32) as f64 % 3.0 - 1.0,
        RowKind::Code => f64::from((at.request * 29 + at.kv_head * 17 + at.token * 5 + dim) % 127 + 1),
        RowKind::SignedSteps => signed_steps(hash),
        RowKind::Alternating(large) => {
            let large = if at.token.is_multiple_of(2) { large } else { -large };
            large + (hash >> 40 & 7) as f64 / 4.0
        }
        RowKind::Subnormal(smallest) => {
            let steps = 1.0 + (hash >> 40 & 127) as f64;
            signed(hash, steps * f64::from_bits(((smallest - 6 + 1023) as u64) << 52))
        }
    }
}

#[inline(always)]
fn signed_steps(hash: u64) -> f64 {
    signed(hash, (64.0 + (hash >> 40 & 63) as f64) / 64.0)
}

#[inline(always)]
fn signed(hash: u64, magnitude: f64) -> f64 {
    if hash & 1 == 0 { magnitude } else { -magnitude }
}

/// Whether a selector's dimension selects the token. Each dimension of a head has a rule of its own; sets of about half
/// of the keys are the most telling, for any two keys that are swapped differ in half of them.
fn is_selected(seed: u64, at: RowAt, dim: u32, hash: u64) -> bool {
    let rule = mix(mix(seed ^ 0x5e1e_c7ed) ^ u64::from(at.kv_head) << 32 ^ u64::from(dim));
    let tile = 16 << (rule >> 8 & 3);
    match rule & 7 {
        0 => at.token.is_multiple_of(tile),
        1 => at.token % tile == tile - 1,
        2 => at.token == 0,
        3 => hash >> 61 == 0,
        _ => hash >> 63 == 0,
    }
}

/// Mean 0, variance 1, within ±3.47: the sum of four 16-bit uniforms.
#[inline(always)]
fn normal(hash: u64) -> f64 {
    let sum: u64 = (0..4).map(|i| hash >> (16 * i) & 0xffff).sum();
    // Times the reciprocal, since a division takes longer than all the rest. Rounded to any dtype it is the quotient.
    (sum as f64 - 131_070.0) * (1.0 / DEVIATION)
}

/// Standard deviation of the sum of four 16-bit uniforms.
const DEVIATION: f64 = 37_837.227_7;

/// The finaliser of splitmix64 (Steele, Lea and Flood, 2014): a bijection that spreads every input bit.
#[inline(always)]
pub(super) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
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
        let singles_out_the_last = |recipe| matches!(recipe, Recipe::Select | Recipe::Sparse | Recipe::Mixed);
        for recipe in Recipe::ALL {
            for role in [Role::Q, Role::K, Role::V] {
                if role == Role::Q && singles_out_the_last(recipe) {
                    continue;
                }
                assert_eq!(row(recipe, role, AT, 64)[..17], row(recipe, role, AT, 17)[..], "{recipe}");
            }
        }
    }

    #[test]
    fn the_last_dimension_is_singled_out_often() {
        for recipe in [Recipe::Select, Recipe::Sparse] {
            for dim in [1, 7, 64, 100] {
                let last = |member| row(recipe, Role::Q, RowAt { member, ..AT }, dim)[dim as usize - 1];
                let hits = (0..64).filter(|&member| last(member) != 0.0).count();
                assert!((16..=64).contains(&hits), "{recipe} {dim}: {hits} of 64");
            }
        }
    }

    #[test]
    fn selectors_select_some_keys_but_rarely_all() {
        let mut shares = Vec::new();
        for dim in 0..64 {
            let key = |token| row(Recipe::Select, Role::K, RowAt { token, ..AT }, 64)[dim];
            let selected = (0..1024).filter(|&token| key(token) == 0.0).count();
            assert!((0..1024).all(|token| [0.0, -1.0].contains(&key(token))));
            assert!(selected < 700, "dimension {dim} selects {selected} of 1024");
            shares.push(selected);
        }
        assert!(shares.iter().filter(|&&s| (400..624).contains(&s)).count() >= 20, "{shares:?}");
        assert!(shares.iter().any(|&s| s <= 64), "{shares:?}");
    }

    #[test]
    fn mixed_has_selectors_and_a_sink() {
        let keys = |token| row(Recipe::Mixed, Role::K, RowAt { token, ..AT }, 64);
        assert!((0..100).all(|token| keys(token).iter().skip(7).step_by(8).all(|x| [0.0, -1.0].contains(x))));
        assert_eq!(keys(0)[SINK_DIM as usize], SINK);
        assert_eq!(keys(1)[SINK_DIM as usize], 0.0);
        let queries: Vec<_> = (0..200).map(|member| row(Recipe::Mixed, Role::Q, RowAt { member, ..AT }, 64)).collect();
        let one_hot = |q: &Vec<f64>| q.iter().filter(|x| **x != 0.0).count() == 1;
        assert!(queries.iter().any(|q| one_hot(q) && q[63] != 0.0), "a selector at the last dimension");
        assert!(queries.iter().any(|q| q[SINK_DIM as usize] == SINK), "a sink");
        assert!(queries.iter().any(|q| q.iter().all(|x| *x == 0.0)), "a flat row");
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

    /// So that saved cases mean what they meant when it was a quotient.
    #[test]
    fn normal_values_are_quotients_in_every_dtype() {
        let mean = 2 * 0xffff;
        for distance in -mean..=mean {
            // A hash whose four parts sum to this.
            let sum = (distance + mean) as u64;
            let hash = (0..4).fold(0, |hash, i| hash | (sum.saturating_sub(i * 0xffff)).min(0xffff) << (16 * i));
            let quotient = f64::from(distance) / DEVIATION;
            for factor in [0.25, 1.0, 1.5, 6.0, 8.0, 100.0, 150.0, 1000.0] {
                for dtype in Dtype::ALL {
                    let (found, expected) = (dtype.round(factor * normal(hash)), dtype.round(factor * quotient));
                    assert_eq!(found.to_bits(), expected.to_bits(), "{dtype}: {factor} times {distance}");
                }
            }
        }
    }

    #[test]
    fn rising_keys_rise() {
        let lead = |token| row(Recipe::Rising, Role::K, RowAt { token, ..AT }, 2)[0];
        assert!(lead(1) > lead(0) && lead(200) > lead(199));
        let lead = |token| row(Recipe::Falling, Role::K, RowAt { token, ..AT }, 2)[0];
        assert!(lead(1) < lead(0));
    }
}
