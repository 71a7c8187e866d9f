//! What each element adds to a row's errors: the coefficients of its value, and their sums.

use super::contract::{PDen, Resolved};
use super::weights::{Weights, tensor_core_blocks};
use super::{FLUSH, LARGEST_EXPONENT, SUBNORMAL, TINY, growth};
use crate::reference::Reference;

/// What a column's sums multiply an element's value by.
#[derive(Clone, Copy)]
pub(super) struct Factors {
    /// `p_j eta_j`.
    pub(super) eta: f64,
    /// `p_j (1 + eta_j)`.
    pub(super) grown: f64,
    /// `p_j` if the weight may be dropped, else 0.
    pub(super) dropped: f64,
    /// `p_j sigma_j`: the weight's error as a standard deviation.
    pub(super) sigma: f64,
    /// `p_j (u X_j / 2 + underflow_j)`: errors that do not average out.
    pub(super) systematic: f64,
    /// `p_j ((d+4) Q_j + 4|s_j| + 4(M - s_j) + 8)`: the reference's own error, in units of `2^-53`.
    pub(super) reference: f64,
}

/// The factors of a row's elements, and their sums.
pub(super) struct Terms {
    /// Per element.
    pub(super) factors: Vec<Factors>,
    /// What rounding may take from a weight in its own format: `min(p_j (1 + eta_j) / Z, tau)`. Empty if nothing.
    pub(super) p_underflow: Vec<f64>,
    /// `Z`.
    pub(super) kept: f64,
    /// Whether any weight may be dropped.
    pub(super) any_dropped: bool,
    /// `sum p_j eta_j`.
    pub(super) eta_mass: f64,
    /// `sum p_j expm1(D_j)`.
    pub(super) grown_mass: f64,
    /// One absolute unit of the kernel's sums, in units of its denominator (step 6).
    pub(super) unit: f64,
    /// One absolute unit of a weight before it is normalised, likewise.
    pub(super) unit_weight: f64,
    /// Large and small terms (step 4); none with tensor cores, or if it would not help.
    pub(super) split: Option<Split>,
}

/// Step 4: a row of few heavy elements is summed like a short row.
pub(super) struct Split {
    /// Elements with less are small.
    pub(super) threshold: f64,
    /// How many are large.
    pub(super) large: usize,
    /// `sum p_j (1 + eta_j)` over the small ones.
    pub(super) mass: f64,
    /// `I`.
    pub(super) inflation: f64,
}

impl Terms {
    pub(super) fn of(reference: &Reference<'_>, contract: &Resolved, weights: &Weights) -> Self {
        let n = reference.elements();
        let off = libm::exp(contract.off);
        // Under a maximum that lags, weights exceed 1, and what may be cut off is the factor that rescales them.
        let overhang = libm::exp(contract.off + contract.lazy);
        let rounded_in_sum = contract.p_den == PDen::Yes && contract.u_p > 0.0;
        let mut terms = Self {
            factors: Vec::with_capacity(n),
            p_underflow: Vec::new(),
            kept: 0.0,
            any_dropped: false,
            eta_mass: 0.0,
            grown_mass: 0.0,
            unit: 1.0,
            unit_weight: 1.0,
            split: None,
        };
        // A kernel that leaves the sink out of its maximum sees exp(sink - max) overflow, and every weight
        // vanish, where the exact weights are about to underflow anyway.
        let mut cut = contract.w_cut;
        if reference.sink.is_some() {
            cut = cut.max(FLUSH);
        }
        // Splits combined through their log-sum-exp are weighed against the largest sum, which may be n
        // times the largest weight: a split that underflows there may hold weights that are n times larger.
        let by_sum = contract.e_abs > 0.0;
        if by_sum {
            cut = cut.max(n as f64 * if contract.ftz { FLUSH } else { SUBNORMAL });
        }
        let d = reference.head_dim as f64;
        let u = contract.u;
        for j in 0..n {
            let (p, s) = (reference.p[j], reference.s[j]);
            let delta = weights.delta[j].min(LARGEST_EXPONENT);
            let relative = p * reference.sum;
            let mut eta = libm::expm1(delta);
            let grown = 1.0 + eta;
            terms.grown_mass += p * eta;
            let mut least = 1.0 / grown;
            let dropped = relative <= cut * overhang * grown;
            if dropped {
                eta = eta.max(1.0);
                least = 0.0;
                terms.any_dropped = true;
            }
            if rounded_in_sum {
                // The rounding belongs to the weight, up and down; in subnormals it takes at most all of it.
                let lost = contract.tau_p * off / relative.max(TINY);
                least = (least * (1.0 - contract.u_p) - lost).max(0.0);
                eta = (1.0 + eta) * (1.0 + contract.u_p) - 1.0 + lost.min(1.0 + eta);
            }
            terms.kept += p * least;
            terms.eta_mass += p * eta;
            let logit = (d + 4.0) * reference.dot_abs[j] + 4.0 * s.abs() + 4.0 * (reference.max - s) + 8.0;
            terms.factors.push(Factors {
                eta: p * eta,
                grown: p + p * eta,
                dropped: if dropped { p } else { 0.0 },
                sigma: p * deviation(reference, contract, weights, j),
                systematic: p * (u * 0.5 * weights.argument[j] + weights.underflow[j]),
                reference: p * logit,
            });
        }
        // The largest weight is 1 but for its rounding, so the denominator is at least 1/2 even if Z is tiny.
        terms.unit_weight = off * (1.0 / (reference.sum * terms.kept)).min(2.0);
        if by_sum {
            terms.unit_weight = terms.unit_weight.max(1.0);
        }
        terms.unit = if contract.p_norm { 1.0 } else { terms.unit_weight };
        // A normalised weight may underflow where the weight itself did not.
        let tau_p = if contract.p_norm { contract.tau_p.max(contract.underflow()) } else { contract.tau_p };
        if tau_p > 0.0 {
            let tau = tau_p * terms.unit;
            terms.p_underflow = terms.factors.iter().map(|f| (f.grown / terms.kept).min(tau)).collect();
        }
        if contract.tc.is_none() {
            terms.split = Split::of(reference, contract, weights, &terms.factors);
        }
        terms
    }
}

impl Split {
    /// The split with the least `u (K + 2) + (weight of the small terms)`.
    fn of(reference: &Reference<'_>, contract: &Resolved, weights: &Weights, factors: &[Factors]) -> Option<Self> {
        let n = reference.elements();
        // The first candidate, without small terms, costs this. A term that alone costs more is in no better candidate's
        // tail, so of those only the lightest can be a threshold.
        let limit = contract.u * (n as f64 + 2.0);
        let mut sorted: Vec<f64> = reference.p.iter().copied().filter(|&p| p <= limit).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let heavier = reference.p.iter().fold(f64::INFINITY, |m, &p| if p > limit && p < m { p } else { m });
        let (mut tail, mut best, mut threshold) = (0.0, f64::INFINITY, 0.0);
        // From the lightest up, so that the tails' sums lose nothing.
        for (p, k) in sorted.into_iter().chain([heavier]).zip((0..n).rev()) {
            let cost = contract.u * (k as f64 + 3.0) + tail;
            // On a tie the smaller K wins.
            if cost <= best {
                (best, threshold) = (cost, p);
            }
            tail += p;
        }
        let large = reference.p.iter().filter(|&&p| p >= threshold).count();
        if large == n {
            return None;
        }
        let (mut mass, mut worst) = (0.0, 0.0f64);
        for (j, &p) in reference.p.iter().enumerate() {
            if p >= threshold {
                worst = worst.max(weights.delta[j]);
            } else {
                mass += factors[j].grown;
            }
        }
        let inflation = (1.0 + 2.0 * growth(n as f64, contract.u)) * libm::exp((2.0 * worst).min(100.0));
        Some(Self { threshold, large, mass, inflation })
    }
}

/// `sigma_j`: the weight's error, were its rounding errors independent with mean zero and V's signs random.
///
/// ```text
/// sigma_j^2 = dot_j^2 + u^2 (k_x X_j^2 + k_m max(|s_j|,|M|)^2 + k_s s_j^2) + (R_j + 1) e0^2 + e_abs^2 + 2 (u_in Q2_j)^2
/// dot_j = u sqrt(min(h_qk, nz_j) + k_qk) min(Q_j, 3 Q2_j)
/// ```
///
/// Tensor cores truncate, so their errors all point the same way: theirs enter linearly.
fn deviation(reference: &Reference<'_>, contract: &Resolved, weights: &Weights, j: usize) -> f64 {
    let (u, s) = (contract.u, reference.s[j]);
    let raw = reference.raw_logits()[j];
    let unit = if let Some(tc) = contract.tc {
        tensor_core_blocks(tc, reference.head_dim) * tc.block_error()
    } else {
        let additions = contract.h_qk.unwrap_or(reference.head_dim as f64).min(f64::from(reference.nonzeros[j]));
        u * (additions + contract.k_qk).sqrt()
    };
    let operands = contract.u_in * reference.dot_rms[j];
    let dot = unit * reference.dot_abs[j].min(3.0 * reference.dot_rms[j]);
    let magnitude = s.abs().max(reference.max.abs());
    let argument = weights.argument[j];
    let roundings =
        contract.k_x * argument * argument + contract.k_m * magnitude * magnitude + contract.k_s * raw * raw;
    let mut variance = dot * dot
        + u * u * roundings
        + (weights.rescales[j].min(64.0) + 1.0) * contract.e0 * contract.e0
        + contract.e_abs * contract.e_abs
        + 2.0 * operands * operands;
    if let Some(cap) = reference.softcap {
        // An approximate tanh has errors of one sign over long stretches: no averaging.
        let tanh = cap.abs() * (contract.e_tanh + 3.0 * u);
        variance += tanh * tanh;
    }
    variance.sqrt()
}
