//! How far a kernel's softmax weights may be from the exact ones.
//!
//! The kernel's weight of element `j` is `C w_j exp(theta_j)` with a common factor `C` that cancels in
//! the output. This module bounds `|theta_j|` by `D_j`:
//!
//! ```text
//! D_j = Ds_j + u k_x (X_j + 2 lazy + off) + u k_m m_j (1 + u k_x) + e_abs + (R_j + r_comb + 1) e0 (1 + e0)
//! m_j = max(|s_j| + Ds_j, |max_i (s_i + Ds_i)|, |max_i (s_i - Ds_i)|) + max(lazy, off)
//! X_j = max_i (s_i + Ds_i) - s_j + Ds_j
//! ```
//!
//! **The logit, `Ds_j`.** A product of the dot product passes through `h` inexact additions and `k_qk`
//! more roundings, each a factor `1 + e`, `|e| <= u`, whatever the order (Jeannerod & Rump 2013). Adding
//! an exact zero is exact, so `h` never exceeds the nonzero products less one. `g(h) = (1+u)^h - 1`
//! holds for every `h`, unlike the classical `hu/(1-hu)`:
//!
//! ```text
//! E    = Q_j ((1 + g(min(h_qk, nz_j - 1) + k_qk)) (1 + u_in)^2 - 1)
//! Ds_j = E + k_s u (|r_j| + E) + underflow
//! ```
//!
//! Tensor cores: `g(h)` becomes `expm1(blocks * block_error)`, see [`TensorCore`]. If every partial sum
//! is a binary32 number ([`Reference::exact`]), the dot product has no error in any order and only the
//! scale's rounding is left; not so where the query was scaled before.
//!
//! **The exponential's argument.** An element is exponentiated against a running maximum and rescaled
//! each time the maximum grows. Maxima are machine numbers, so without rounding the factors telescope
//! to `exp(s_j - M)` on every path. Each argument's rounding is proportional to its size, and since
//! maxima only grow the sizes add up to `X_j + 2 lazy` at most: tiling, splitting and rescaling
//! do not increase this part. Only the count of exponentials does, `R_j + r_comb + 1` times `e0`.
//!
//! **Rescales.** A maximum that replaces another after `j` was seen belongs to an element whose computed
//! logit is larger than that of `j`. So `R_j` is at most the number of elements whose logit may have
//! come out larger: those with `s_i + Ds_i > s_j - Ds_j`, or with `s_i > s_j` where computed logits
//! are known to keep the order of the exact ones.
//!
//! **Softcap.** `x -> cap tanh(x / cap)` has slope at most 1, so `Ds_j` passes through. Rounding the
//! argument by a factor `exp(delta)` moves `tanh` by at most `0.45 |delta|`, since `|x| sech^2 x` stays
//! below 0.448; `tanh` itself is off by `e_tanh`, and the product with `cap` rounds once:
//!
//! ```text
//! E = Ds_j + cap e_tanh + min(0.45 cap, |r_j| + Ds_j) g(3),    Ds'_j = E + u (|s_j| + E)
//! ```
//!
//! **Sink.** Its logit is given, so `Ds = (k_s + 1) u |s|` for one product with a constant. A kernel may
//! leave the sink out of its maximum; then its argument is the distance to the keys' maximum.
//!
//! Assumptions:
//! 1. Additions, products and fused products err by a factor `1 + e`, `|e| <= u`; products, and only
//!    they, may also underflow by at most `2^-150`, or `2^-126` where subnormals are flushed.
//! 2. A rescale whose maximum did not change multiplies by exactly 1 (`ex2(0) = 1`, PTX ISA).
//! 3. A dot product over one nonzero product is a monotone function of that product.
//! 4. The contract tells the truth.

use super::contract::{Resolved, TensorCore};
use super::{FLUSH, growth};
use crate::float::larger;
use crate::reference::Reference;

/// Per element, the weight's error and its ingredients.
#[derive(Clone, Debug)]
pub(super) struct Weights {
    /// `D_j`.
    pub(super) delta: Vec<f64>,
    /// `Ds_j`.
    pub(super) logit: Vec<f64>,
    /// `X_j`.
    pub(super) argument: Vec<f64>,
    /// The part of `Ds_j` that underflow and flushed inputs make.
    pub(super) underflow: Vec<f64>,
    /// `R_j + r_comb`.
    pub(super) rescales: Vec<f64>,
}

impl Weights {
    /// The errors of every element of a row.
    pub(super) fn of(reference: &Reference<'_>, contract: &Resolved) -> Self {
        let (logit, underflow) = logit_errors(reference, contract);
        let argument = arguments(reference, &logit);
        let rescales = rescales(reference, contract, &logit);
        let u = contract.u;
        let once = contract.e0 * (1.0 + contract.e0);
        let largest = largest_maximum(reference, &logit, reference.elements());
        // The sink may be measured against the keys' maximum instead of its own.
        let largest_of_keys = reference.sink.map_or(0.0, |_| largest_maximum(reference, &logit, reference.keys));
        let delta = (0..reference.elements())
            .map(|j| {
                let maximum = if j < reference.keys { largest } else { largest.max(largest_of_keys) };
                let magnitude = (reference.s[j].abs() + logit[j]).max(maximum) + contract.lazy.max(contract.off);
                logit[j]
                    + u * contract.k_x * (argument[j] + 2.0 * contract.lazy + contract.off)
                    + u * contract.k_m * magnitude * (1.0 + u * contract.k_x)
                    + contract.e_abs
                    + (rescales[j] + 1.0) * once
            })
            .collect();
        Self { delta, logit, argument, underflow, rescales }
    }

    /// The largest `R_j + r_comb`: roundings that rescaling adds to a sum.
    pub(super) fn most_rescales(&self) -> f64 {
        self.rescales.iter().fold(0.0, |m, &r| larger(m, r))
    }
}

/// Relative error of a dot product over `blocks` tensor-core blocks.
pub(super) fn tensor_core_error(tc: TensorCore, blocks: f64) -> f64 {
    libm::expm1(blocks * tc.block_error())
}

/// Blocks of a sum of `terms` products.
pub(super) fn tensor_core_blocks(tc: TensorCore, terms: usize) -> f64 {
    (terms as f64 / f64::from(tc.width.max(1))).ceil()
}

/// `Ds_j`, and its part that is due to underflow.
fn logit_errors(reference: &Reference<'_>, contract: &Resolved) -> (Vec<f64>, Vec<f64>) {
    let d = reference.head_dim as f64;
    let (u, scale) = (contract.u, reference.scale.abs());
    let tau = contract.underflow();
    let operands = contract.u_in * (2.0 + contract.u_in);
    let exact_scale = is_power_of_two(scale);
    // Rows of one key matrix mostly have the same number of nonzero products.
    let mut known = (u32::MAX, 0.0);
    let mut errors = Vec::with_capacity(reference.elements());
    let mut underflows = Vec::with_capacity(reference.elements());
    for j in 0..reference.keys {
        let raw = reference.raw_logits()[j].abs();
        let mut underflow = scale * tau * (2.0 * d + 2.0);
        if contract.ftz {
            underflow += scale * d * FLUSH * (reference.q_max + reference.k_max(j));
        }
        if contract.prescale_lossy {
            underflow += d * tau * reference.k_max(j);
        }
        let mut error = if is_exact(reference, contract, j) {
            if exact_scale { 0.0 } else { u * raw }
        } else {
            let nonzeros = reference.nonzeros[j];
            if known.0 != nonzeros {
                known = (nonzeros, dot_error(contract, reference.head_dim, nonzeros));
            }
            reference.dot_abs[j] * (known.1 + operands + known.1 * operands)
        };
        error += contract.k_s * u * (raw + error) + underflow;
        if let Some(cap) = reference.softcap {
            let cap = cap.abs();
            let before = error + cap * contract.e_tanh + (0.45 * cap).min(raw + error) * growth(3.0, u);
            underflow += 4.0 * cap * tau;
            error = before + u * (reference.s[j].abs() + before) + 4.0 * cap * tau;
        }
        errors.push(error);
        underflows.push(underflow);
    }
    if let Some(logit) = reference.sink {
        errors.push((contract.k_s + 1.0) * u * logit.abs() + 4.0 * tau);
        underflows.push(4.0 * tau);
    }
    (errors, underflows)
}

/// Relative error, by the sum of absolute values, of a dot product with `nonzeros` products and its scale.
fn dot_error(contract: &Resolved, head_dim: usize, nonzeros: u32) -> f64 {
    let nonzeros = f64::from(nonzeros);
    if let Some(tc) = contract.tc {
        let blocks = tensor_core_blocks(tc, head_dim);
        // A block of zeros leaves the accumulator alone, if all of its bits are kept.
        let blocks = if tc.bits >= 23 { blocks.min(nonzeros) } else { blocks };
        return tensor_core_error(tc, blocks) + growth(contract.k_qk, contract.u);
    }
    let additions = contract.h_qk.unwrap_or(head_dim as f64).min((nonzeros - 1.0).max(0.0));
    growth(additions + contract.k_qk, contract.u)
}

/// Whether the kernel computes the dot product of element `j` without any error.
fn is_exact(reference: &Reference<'_>, contract: &Resolved, j: usize) -> bool {
    reference.exact[j] && !contract.prescale_lossy && keeps_24_bits(contract)
}

/// Whether sums of binary32 numbers that need at most 23 bits are exact.
pub(super) fn keeps_24_bits(contract: &Resolved) -> bool {
    contract.u <= libm::exp2(-24.0) && contract.u_in == 0.0 && contract.tc.is_none_or(|tc| tc.bits >= 23)
}

/// Whether `x` is a power of two, so that multiplying by it is exact.
fn is_power_of_two(x: f64) -> bool {
    x.is_normal() && x.to_bits() & ((1 << 52) - 1) == 0
}

/// The largest absolute value that the maximum of the first `elements` computed logits may have; 0 if there are none.
fn largest_maximum(reference: &Reference<'_>, logit: &[f64], elements: usize) -> f64 {
    let (mut high, mut low) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
    for (s, e) in reference.s.iter().zip(logit).take(elements) {
        (high, low) = (larger(high, s + e), larger(low, s - e));
    }
    if elements == 0 { 0.0 } else { high.abs().max(low.abs()) }
}

/// `X_j`.
fn arguments(reference: &Reference<'_>, logit: &[f64]) -> Vec<f64> {
    let s = &reference.s;
    let top = s.iter().zip(logit).fold(f64::NEG_INFINITY, |m, (s, e)| larger(m, s + e));
    let mut arguments: Vec<f64> = s.iter().zip(logit).map(|(s, e)| top - s + e).collect();
    if reference.sink.is_some() && reference.keys > 0 {
        let j = reference.keys;
        let keys = s[..j].iter().zip(logit).fold(f64::NEG_INFINITY, |m, (s, e)| larger(m, s - e));
        arguments[j] = arguments[j].max(s[j] - keys + logit[j]);
    }
    arguments
}

/// `R_j + r_comb`.
fn rescales(reference: &Reference<'_>, contract: &Resolved, logit: &[f64]) -> Vec<f64> {
    // A sink that is merged last may move the maximum once more than the contract counts.
    let declared = contract.r.map(|r| r + if reference.sink.is_some() { 1.0 } else { 0.0 });
    if declared == Some(0.0) {
        return vec![contract.r_comb; reference.elements()];
    }
    let declared = declared.unwrap_or(f64::INFINITY);
    let mut rescales = ranks(reference, contract, logit, declared);
    for r in &mut rescales {
        *r = r.min(declared) + contract.r_comb;
    }
    rescales
}

/// How many other elements may have a larger computed logit; of more than `most`, only that there are more.
fn ranks(reference: &Reference<'_>, contract: &Resolved, logit: &[f64], most: f64) -> Vec<f64> {
    let s = &reference.s;
    let ordered: Vec<bool> = (0..reference.elements()).map(|j| keeps_order(reference, contract, j)).collect();
    // An element may be above itself.
    let counted = if most < s.len() as f64 { most as usize + 2 } else { s.len() };
    let all = Largest::of(s.iter().zip(logit).map(|(s, e)| s + e), counted);
    if !ordered.contains(&true) {
        return s.iter().zip(logit).map(|(s, e)| (all.above(s - e) - usize::from(s + e > s - e)) as f64).collect();
    }
    let blurred = s.iter().zip(logit).zip(&ordered).filter(|(_, ordered)| !**ordered).map(|((s, e), _)| s + e);
    let blurred = Largest::of(blurred, counted);
    let sharp = Largest::of(s.iter().zip(&ordered).filter(|(_, ordered)| **ordered).map(|(&s, _)| s), counted);
    (0..s.len())
        .map(|j| {
            let (low, high) = (s[j] - logit[j], s[j] + logit[j]);
            let count = if ordered[j] {
                sharp.above(s[j]) + blurred.above(low)
            } else {
                all.above(low) - usize::from(high > low)
            };
            count as f64
        })
        .collect()
}

/// The largest of some numbers, from the least up.
struct Largest(Vec<f64>);

impl Largest {
    /// At most so many of them.
    fn of(numbers: impl Iterator<Item = f64>, count: usize) -> Self {
        let mut numbers: Vec<f64> = numbers.collect();
        let rest = numbers.len().saturating_sub(count);
        if rest > 0 {
            numbers.select_nth_unstable_by(rest, f64::total_cmp);
            numbers.drain(..rest);
        }
        numbers.sort_unstable_by(f64::total_cmp);
        Self(numbers)
    }

    /// How many are larger, as far as they were kept.
    fn above(&self, x: f64) -> usize {
        // Most elements are below all that were kept.
        if self.0.first().is_some_and(|&least| x < least) {
            return self.0.len();
        }
        self.0.len() - self.0.partition_point(|&y| y <= x)
    }
}

/// Whether computed logits of two such elements are in the order of their exact ones, or equal.
///
/// True of dot products without products; of exact ones, and of those over a single product, as long as
/// nothing rounds differently for different `k`: a query scaled or truncated before the product does,
/// unless it has just one nonzero entry. An approximate `tanh` need not keep the order.
pub(super) fn keeps_order(reference: &Reference<'_>, contract: &Resolved, j: usize) -> bool {
    if j >= reference.keys {
        return false;
    }
    if reference.nonzeros[j] == 0 {
        return true;
    }
    if reference.softcap.is_some() {
        return false;
    }
    let rounded_before = contract.prescale_lossy || contract.u_in > 0.0;
    let single = reference.nonzeros[j] == 1 && (!rounded_before || reference.q_nonzeros == 1);
    single || is_exact(reference, contract, j)
}
