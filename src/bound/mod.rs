//! Per-element error bounds: how far a correct kernel's output may be from the exact one.
//!
//! A bound is made of one row's [`Reference`] and a [`Contract`], what the kernel's author says about its
//! arithmetic. It comes in three strengths, in [`Bounds`]:
//!
//! | bound | needs | a violation means |
//! |---|---|---|
//! | `det` | the contract | the kernel is wrong |
//! | `sgn` | and V with independent random signs | wrong, but for a chance of at most `6 exp(-lambda^2/2)` an element |
//! | `hm`  | and independent rounding errors, which is a model | look again: test exact rows, shrink |
//!
//! [`accepts`] judges an output after rounding to its type. Outside [`domain_ok`] a correct kernel may
//! overflow, and its numbers are not to be judged.
//!
//! # Derivation
//! Symbols as in [`crate::reference`]; `u` is the accumulator's unit roundoff, `g(h) = (1+u)^h - 1`.
//! The first-order terms are kept together with all the others: nothing is dropped.
//!
//! 1. **Weights** (`weights`). The kernel's weights are `C w_j exp(theta_j)`, `|theta_j| <= D_j`, with a
//!    common `C`. Let `eta_j = expm1(D_j)`. A weight that may be flushed or cut off
//!    (`w_j <= w_cut e^(off + lazy) e^D_j`: itself, or the factor that rescales it) has a factor anywhere in `[0, e^D_j]`: `eta_j = max(1, expm1(D_j))`.
//!    Let `Z = sum p_j e^-D_j` over the others.
//! 2. **Exact sums of those weights**, `o~` (`sums`, `row`). Because `sum p_j (V_j - o) = 0`,
//!
//!    ```text
//!    o~ - o = sum p_j (e^theta_j - 1)(V_j - o) / sum p_j e^theta_j
//!    |o~ - o| <= E_w = min( sum p_j eta_j |V_j - o| / Z,  max(v_max - o, o - v_min) )
//!    ```
//!
//!    A common error cancels, constant V has none, and the convex hull keeps the bound finite however
//!    large the logits are.
//! 3. **Rounded sums** (`row`). With terms off by `nu_j`, weights in the denominator by `mu_j`, and
//!    underflow `z`, dividing the two sums gives, without approximation,
//!
//!    ```text
//!    E_n = ( S (1 + u_num) + u_num P + mu (|o| + E_w) + G (E_un + z (1 + |o| + E_w)) ) / (1 - mu - z)
//!    A^ = min( sum p_j (1 + eta_j) |V_j| / Z,  max |V| )           absolute sum under the kernel's weights
//!    S  = g(h_pv + R + k_pv) A^                                    additions, rescales, products
//!    mu = g(h_l + R + r_comb + 1)                                  the same in the denominator
//!    G  = 1 + g(h_pv + R + k_pv)                                   what the numerator makes of an underflow
//!    u_num = (1 + u_p)(1 + u_in)^2 (1 + [p_norm] e_div) - 1        rounding of a weight before its product
//!    P  = A^, or max(A^, (1 + 2 u_p) min( sum p_j (1 + eta_j) |V_j - o| / Z,  max |V - o| )) if `p_den` is `either`
//!    ```
//!
//!    If the denominator sums the *rounded* weights, rounding is an error of the weight (step 1), not of the term.
//! 4. **Any order, few heavy elements** (`terms`). An addition rounded to nearest errs by at most
//!    `min(u |a + b|, |a|, |b|)`. Of `K` large terms, at most `K - 1` additions have a large one on both
//!    sides; each sum of only small terms joins a large one once and costs at most itself. With `T` and
//!    `A_S` the small terms' weight and absolute sum, and `I = (1 + 2 g(n)) e^(2D)`:
//!
//!    ```text
//!    S  <= (u (K + R + k_pv + 1) A^ + A_S) I        mu <= (u (K + R + 2) + T) I
//!    ```
//! 5. **Division, store, reference** (`row`). `det = E_w + E_n + e_div (|o| + E_n) + subnormal + E_ref` where
//!    `|o|` stands for `|o| + E_w`, and the error of the f64 reference is at most
//!
//!    ```text
//!    E_ref = 2^-53 ( (n+16)(A + |o|) + sum p_j ((d+4) Q_j + 4 |s_j| + 4 (M - s_j) + 8) |V_j - o| )
//!    ```
//! 6. **Underflow** (`E_un`, `z`; `terms`, `sums`, `row`). In units of the kernel's denominator, which is at least
//!    `e^-off max(L Z, 1/2)` since the largest weight is about 1, and 1 where it divides before it
//!    rounds or combines: `3n + R + 4` operations (product, addition and rescale of every term) of at
//!    most `tau` each; weights in a format with subnormals lose at most half its spacing or themselves;
//!    a subnormal exponential is good to `3 * 2^-149`; flushed subnormal values cost `2 * 2^-126`.
//!
//! 7. **Exact rows** (`exact`). Where every correct kernel gives the same weights and sums without any
//!    rounding, only `e_div |o|` is left.
//! 8. **No division** (`p_lse`, `common`). Weights `exp(s_j - lse^)` keep an error that they have in common. What it
//!    comes to stands in for the division's error.
//!
//! Sources: Higham & Mary 2019, 2020 (probabilistic rounding error); Jeannerod & Rump 2013, Lange & Rump
//! 2017 (sums in any order); Blanchard, Higham & Higham 2021 (softmax); Fasi et al. 2021, Khattak &
//! Mikaitis 2025, Xie et al. 2025 (tensor cores). Steps 1 to 4 extend them to online softmax, splits and
//! the product with V.
//!
//! # Assumptions
//! Those of `weights`, and:
//! 1. The kernel computes `softmax` and the product with V by summing products of weights and values, in
//!    any order, tiling and splitting; stochastic rounding, dropout and Strassen-like sums are outside.
//! 2. Round-to-nearest additions for step 4; tensor cores, which truncate, do without it.
//! 3. Nothing overflows: [`domain_ok`].
//!
//! # Not covered
//! Additive biases (ALiBi), and the rounding of the store being anything but to nearest.

mod accept;
mod common;
mod constants;
mod contract;
mod exact;
mod formula;
mod model;
mod row;
mod sums;
mod terms;
mod weights;

pub use accept::{accepts, assess, interval, ratio};
pub use constants::Constant;
pub use contract::{Contract, EmptyRow, PDen, Resolved, Rounding, TensorCore, UnknownPreset};
pub use formula::{Depth, Formula, FormulaError};

use crate::float::lanes::Lanes;
use crate::float::larger;
use crate::float::tile::{padded, put_padded};
use crate::reference::Reference;
use model::Models;
use row::{Column, RowErrors, additions};
use serde::{Deserialize, Serialize};
use std::fmt;
use sums::{LANES, Tile};
use terms::Terms;
use weights::Weights;

/// Bounds on `|out - o|` before the store rounds, one per output column.
#[derive(Clone, Debug, PartialEq)]
pub struct Bounds {
    /// Holds for every kernel that keeps its contract. Infinite where the contract says too little.
    pub det: Vec<f64>,
    /// Holds with probability at least `1 - 6 exp(-lambda^2/2)` per element if the signs of V are
    /// independent and random. Never above `det`.
    pub sgn: Vec<f64>,
    /// Holds if rounding errors were independent and V's signs random. Never above `det`.
    pub hm: Vec<f64>,
    /// On the error of the log-sum-exp, in nats: [`lse_bound`].
    pub lse: f64,
}

/// The bounds of one row. `lambda` is how many standard deviations `sgn` and `hm` allow: 8 for a chance
/// of 8e-14 per element, 9 for campaigns beyond 1e11 elements.
pub fn bounds(reference: &Reference<'_>, contract: &Resolved, lambda: f64) -> Bounds {
    bounds_on(pulp::Arch::new(), reference, contract, lambda)
}

fn bounds_on(processor: pulp::Arch, reference: &Reference<'_>, contract: &Resolved, lambda: f64) -> Bounds {
    let columns = reference.v_head_dim;
    if reference.elements() == 0 {
        let zeros = vec![0.0; columns];
        return Bounds { det: zeros.clone(), sgn: zeros.clone(), hm: zeros, lse: 0.0 };
    }
    let weights = Weights::of(reference, contract);
    let terms = Terms::of(reference, contract, &weights);
    let tiles = sums::tiles(processor, reference, contract, &terms);
    let row = RowErrors::of(reference, contract, &weights, &terms);
    let lse = lse(reference, contract, &weights, &terms);
    let exact = exact::bounds(reference, contract, &weights.delta);
    let undivided = contract.p_lse.then(|| {
        let common = common::error(reference, contract, &weights, &terms, row.mu);
        Resolved { e_div: contract.e_div + common + contract.e_div * common, ..contract.clone() }
    });
    let contract = undivided.as_ref().unwrap_or(contract);
    let models = Models::of(contract, &row, lambda);
    let det = exact.unwrap_or_else(|| vec![f64::INFINITY; columns]);
    let mut bounds = Bounds { det, sgn: vec![0.0; columns], hm: vec![0.0; columns], lse };
    let arithmetic =
        Columns { contract, terms: &terms, row: &row, models: &models, tiles: &tiles, bounds: &mut bounds };
    processor.dispatch(arithmetic);
    bounds
}

/// The bounds of a row's columns for each kind of processor: the same operations in the same order, only their width differs.
struct Columns<'a> {
    contract: &'a Resolved,
    terms: &'a Terms,
    row: &'a RowErrors,
    models: &'a Models<'a>,
    tiles: &'a [Tile],
    /// `det` holds the bounds of exact rows.
    bounds: &'a mut Bounds,
}

impl pulp::WithSimd for Columns<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, simd: S) {
        let Self { contract, terms, row, models, tiles, bounds } = self;
        for (tile, start) in tiles.iter().zip((0..).step_by(LANES)) {
            let [mut det, mut sgn, mut hm] = [padded::<LANES>(&bounds.det, start); 3];
            for index in 0..LANES / S::F64_LANES {
                let column = Column::of(contract, terms, tile, row, simd, index);
                let error = column.reference_error;
                let proven = row.deterministic(contract, &column).min(Lanes::of(simd, &det, index));
                let (mut signs, mut roundings) = (proven, proven);
                if terms.kept > 0.0 {
                    signs = models.random_signs(&column).min(proven).where_finite(proven, proven);
                    let smaller = models.independent_roundings(&column).min(proven + error);
                    roundings = smaller.where_finite(proven, proven);
                }
                (proven + error).put(&mut det, index);
                (signs + error).put(&mut sgn, index);
                roundings.put(&mut hm, index);
            }
            put_padded(&mut bounds.det, start, &det);
            put_padded(&mut bounds.sgn, start, &sgn);
            put_padded(&mut bounds.hm, start, &hm);
        }
    }
}

/// Bound on the error of the log-sum-exp of a row, in nats.
///
/// Scaling every weight by at most `e^D_j` and dropping some moves `ln L` by at most
/// `max(ln sum p_j e^D_j, -ln Z)`; to that come the denominator's sum (`mu`), the logarithm
/// (`2^-21.4` for `lg2.approx`) and the roundings of its sum with the maximum.
pub fn lse_bound(reference: &Reference<'_>, contract: &Resolved) -> f64 {
    if reference.elements() == 0 {
        return 0.0;
    }
    let weights = Weights::of(reference, contract);
    let terms = Terms::of(reference, contract, &weights);
    lse(reference, contract, &weights, &terms)
}

fn lse(reference: &Reference<'_>, contract: &Resolved, weights: &Weights, terms: &Terms) -> f64 {
    let mu = growth(additions(contract.h_l, reference) + weights.most_rescales() + 1.0, contract.u);
    if mu >= 0.5 {
        return f64::INFINITY;
    }
    let mut weight_error = libm::log1p(terms.grown_mass);
    if terms.any_dropped {
        weight_error = weight_error.max(-libm::log(terms.kept));
    }
    weight_error + mu / (1.0 - mu) + rounding_of_lse(reference, contract)
}

/// What a log-sum-exp errs by beyond its weights and their sum: rounded weights in the sum, the logarithm, and the
/// roundings of its sum with the maximum.
fn rounding_of_lse(reference: &Reference<'_>, contract: &Resolved) -> f64 {
    let u = contract.u;
    let rounded_weights = if contract.p_den == PDen::No {
        0.0
    } else {
        contract.u_p + contract.tau_p * reference.elements() as f64 * libm::exp(contract.off) / reference.sum
    };
    // A maximum that lags or overshoots is made up for by the logarithm of the sum: both are larger by as much.
    let astray = contract.lazy.max(contract.off);
    rounded_weights
        + libm::exp2(-21.4)
        + 8.0 * u * (reference.lse.abs() + reference.max.abs() + astray)
        + 3.0 * u * (libm::log(reference.sum).abs() + astray)
}

/// Base of the logarithm in which a kernel returns log-sum-exps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LseBase {
    /// Natural logarithm.
    #[serde(rename = "e")]
    E,
    /// Binary logarithm.
    #[serde(rename = "2")]
    Two,
}

impl fmt::Display for LseBase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::E => "e",
            Self::Two => "2",
        })
    }
}

impl LseBase {
    /// Log-sum-exp in this base of one in nats.
    pub fn of_nats(self, nats: f64) -> f64 {
        match self {
            Self::E => nats,
            Self::Two => nats * std::f64::consts::LOG2_E,
        }
    }

    /// The reference's log-sum-exp in this base, and the bound on a kernel's error before it is stored; `bound` is
    /// [`Bounds::lse`], in nats.
    ///
    /// A kernel that works in nats may get to base 2 by one more multiplication, with a rounded constant.
    pub fn value_and_bound(self, reference: &Reference<'_>, contract: &Resolved, bound: f64) -> (f64, f64) {
        if self == Self::E || reference.lse.is_infinite() {
            return (reference.lse, bound);
        }
        let [value, bound] = [reference.lse, bound].map(|nats| self.of_nats(nats));
        (value, bound + 2.0 * contract.u * (value.abs() + bound))
    }
}

/// Whether nothing can overflow in a kernel that keeps `contract`. Where it may, numbers say nothing.
///
/// Leaves room for the query, and the dot product, times the scale and `log2 e`, twice over; for the sum
/// over values before it is divided, with weights up to `2^8` from a lagging maximum; and for a sink
/// that is exponentiated against the keys' maximum.
pub fn domain_ok(reference: &Reference<'_>, contract: &Resolved) -> bool {
    let limit = f64::from(f32::MAX) / 2.0;
    let scale = reference.scale.abs();
    let factor = (scale / std::f64::consts::LN_2).max(1.0) * 2.0;
    let dot = reference.dot_abs.iter().fold(0.0, |m, &q| larger(m, q));
    // A dot product is judged before its scale; a scale of zero makes every logit zero.
    let unscaled = if scale > 0.0 { dot / scale } else { dot };
    let mut values = 0.0;
    for (low, high) in reference.v_min.iter().zip(&reference.v_max) {
        values = larger(larger(values, low.abs()), high.abs());
    }
    let elements = reference.elements() as f64;
    let overhang = libm::exp(contract.lazy).max(256.0);
    reference.dot_abs.iter().all(|q| q.is_finite())
        && reference.s.iter().all(|s| s.is_finite())
        // An element of V that is not finite leaves no mean of its column that is.
        && reference.o.iter().all(|o| o.is_finite())
        && reference.q_max * factor < limit
        && unscaled * factor < limit
        && (reference.keys == 0 || elements * values * overhang < limit)
}

impl Resolved {
    /// Absolute error of an operation that underflows.
    fn underflow(&self) -> f64 {
        if self.ftz { FLUSH } else { GRADUAL }
    }

    /// Absolute error of the final operation: two ulp of a subnormal and its rounding, or a flush.
    fn final_underflow(&self) -> f64 {
        if self.ftz { FLUSH } else { 3.0 * SUBNORMAL }
    }
}

/// `(1 + u)^h - 1`.
fn growth(h: f64, u: f64) -> f64 {
    libm::expm1(h * libm::log1p(u))
}

/// Unit roundoff of binary64.
const F64_ROUNDOFF: f64 = f64::EPSILON / 2.0;
/// Smallest normal binary32: what a flush to zero may cost.
const FLUSH: f64 = f32::MIN_POSITIVE as f64;
/// Smallest subnormal binary32, `2^-149`.
const SUBNORMAL: f64 = FLUSH * f32::EPSILON as f64;
/// Half of it: what gradual underflow may cost.
const GRADUAL: f64 = SUBNORMAL / 2.0;
/// Above this, `exp` of an error would overflow, and the bound is the hull's anyway.
const LARGEST_EXPONENT: f64 = 700.0;
/// Keeps quotients finite.
const TINY: f64 = 1e-300;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::{Row, attend};
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    proptest! {
        /// One number at a time gives the bits that any width gives, in every column, whatever the contract.
        #[test]
        fn every_processor_gives_the_same_bits(
            (head_dim, v_head_dim, keys) in (1..40usize, 0..40usize, 0..80usize),
            seed: u64,
            magnitude in prop::sample::select(vec![0.0, 1e-30, 1.0, 50.0]),
            softcap in proptest::option::of(1f32..50.0),
            sink in proptest::option::of(-5f64..5.0),
            preset in prop::sample::select(Contract::presets().collect::<Vec<_>>()),
        ) {
            let mut dice = ChaCha8Rng::seed_from_u64(seed);
            let mut numbers = |count: usize, magnitude: f64| -> Vec<f64> {
                (0..count).map(|_| magnitude * dice.random_range(-2.0..2.0)).collect()
            };
            let (q, k, v) = (numbers(head_dim, magnitude), numbers(keys * head_dim, 1.0), numbers(keys * v_head_dim, 1.0));
            let reference = attend(&Row { q: &q, k: &k, v: &v, head_dim, v_head_dim, scale: 0.5, softcap, sink });
            let contract = Contract::preset(preset).expect("a preset").at(keys, head_dim);
            let bits = |processor| {
                let bounds = bounds_on(processor, &reference, &contract, 8.0);
                [bounds.det, bounds.sgn, bounds.hm].map(|all| all.into_iter().map(f64::to_bits).collect::<Vec<_>>())
            };
            let wide = bits(pulp::Arch::new());
            prop_assert_eq!(wide.each_ref().map(Vec::len), [v_head_dim; 3]);
            prop_assert_eq!(bits(pulp::Arch::Scalar), wide);
        }
    }
}
