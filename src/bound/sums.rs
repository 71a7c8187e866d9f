//! The sums over elements that the bound of each column is made of.

use super::contract::{PDen, Resolved};
use super::weights::{Weights, tensor_core_blocks};
use super::{FLUSH, LARGEST_EXPONENT, SUBNORMAL, TINY, growth};
use crate::float::tile::{ROWS, put, tile};
use crate::reference::Reference;

/// Per-element coefficients, and their sums over the row.
pub(super) struct Terms {
    /// `p_j eta_j`.
    eta: Vec<f64>,
    /// What rounding may take from a weight in its own format: `min(p_j (1 + eta_j) / Z, tau)`. Empty if nothing.
    p_underflow: Vec<f64>,
    /// `p_j` if the weight may be dropped, else 0.
    pub(super) dropped: Vec<f64>,
    /// `p_j sigma_j`: the weight's error as a standard deviation.
    sigma: Vec<f64>,
    /// `p_j (u X_j / 2 + underflow_j)`: errors that do not average out.
    systematic: Vec<f64>,
    /// `p_j ((d+4) Q_j + 4|s_j| + 4(M - s_j) + 8)`: the reference's own error, in units of `2^-53`.
    reference: Vec<f64>,
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
    threshold: f64,
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
            eta: Vec::with_capacity(n),
            p_underflow: Vec::new(),
            dropped: Vec::with_capacity(n),
            sigma: Vec::with_capacity(n),
            systematic: Vec::with_capacity(n),
            reference: Vec::with_capacity(n),
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
            terms.eta.push(p * eta);
            terms.eta_mass += p * eta;
            terms.dropped.push(if dropped { p } else { 0.0 });
            terms.sigma.push(p * deviation(reference, contract, weights, j));
            terms.systematic.push(p * (u * 0.5 * weights.argument[j] + weights.underflow[j]));
            let logit = (d + 4.0) * reference.dot_abs[j] + 4.0 * s.abs() + 4.0 * (reference.max - s) + 8.0;
            terms.reference.push(p * logit);
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
            terms.p_underflow =
                reference.p.iter().zip(&terms.eta).map(|(p, eta)| ((p + eta) / terms.kept).min(tau)).collect();
        }
        if contract.tc.is_none() {
            terms.split = Split::of(reference, contract, weights, &terms.eta);
        }
        terms
    }
}

impl Split {
    /// The split with the least `u (K + 2) + (weight of the small terms)`.
    fn of(reference: &Reference<'_>, contract: &Resolved, weights: &Weights, eta: &[f64]) -> Option<Self> {
        let n = reference.elements();
        // The first candidate, without small terms, costs this. A term that alone costs more is in no better candidate's
        // tail, so of those only the lightest can be a threshold.
        let limit = contract.u * (n as f64 + 2.0);
        let mut sorted: Vec<f64> = reference.p.iter().copied().filter(|&p| p <= limit).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let heavier = reference.p.iter().copied().filter(|&p| p > limit).min_by(f64::total_cmp);
        let (mut tail, mut best, mut threshold) = (0.0, f64::INFINITY, 0.0);
        // From the lightest up, so that the tails' sums lose nothing.
        for (p, k) in sorted.into_iter().chain(heavier).zip((0..n).rev()) {
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
                mass += p + eta[j];
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

/// Sums over elements, one per column: each the sum of a coefficient times `|V|`, `|V - o|` or a square.
pub(super) struct Columns {
    /// `sum p_j eta_j |V_j - o|`.
    pub(super) eta_deviation: Vec<f64>,
    /// `sum p_j (1 + eta_j) |V_j|`.
    pub(super) grown_absolute: Vec<f64>,
    /// `sum p_j (1 + eta_j) |V_j - o|`.
    pub(super) grown_deviation: Vec<f64>,
    /// `sum p_j (1 + eta_j) |V_j|` over the small terms.
    pub(super) small_absolute: Vec<f64>,
    /// `sum min(p_j (1 + eta_j), tau) |V_j|`.
    pub(super) p_underflow: Vec<f64>,
    /// `sum |V_j - o|`.
    pub(super) deviation: Vec<f64>,
    /// `sum` of the reference's error times `|V_j - o|`.
    pub(super) reference_deviation: Vec<f64>,
    /// `sum p_j^2 eta_j^2 V_j^2`.
    pub(super) eta_squares: Vec<f64>,
    /// `sum p_j^2 (1 + eta_j)^2 V_j^2`.
    pub(super) grown_squares: Vec<f64>,
    /// `sum p_j^2 sigma_j^2 (V_j - o)^2`.
    pub(super) sigma_squares: Vec<f64>,
    /// `sum p_j (u X_j / 2 + underflow_j) |V_j - o|`.
    pub(super) systematic_deviation: Vec<f64>,
    /// `sum p_j |V_j - o|` over weights that may be dropped.
    pub(super) dropped_deviation: Vec<f64>,
}

/// What the columns' sums multiply an element's value by.
#[derive(Clone, Copy, Default)]
struct Factors {
    eta: f64,
    /// `p_j (1 + eta_j)`.
    grown: f64,
    sigma: f64,
    systematic: f64,
    reference: f64,
}

impl Factors {
    #[inline(always)]
    fn of(reference: &Reference<'_>, terms: &Terms, j: usize) -> Self {
        Self {
            eta: terms.eta[j],
            grown: reference.p[j] + terms.eta[j],
            sigma: terms.sigma[j],
            systematic: terms.systematic[j],
            reference: terms.reference[j],
        }
    }
}

/// The pass over V for each kind of processor: the same operations in the same order, only their width differs.
struct Sum<'a, 'r> {
    sums: &'a mut Columns,
    reference: &'a Reference<'r>,
    terms: &'a Terms,
    either: bool,
}

impl pulp::WithSimd for Sum<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Self { sums, reference, terms, either } = self;
        let columns = reference.v_head_dim.max(1);
        for (values, block) in reference.v.chunks(columns * ROWS).zip(0..) {
            // One vector for each column's sums.
            match S::F64_LANES {
                8 => sums.add::<8>(reference, terms, either, block * ROWS, values),
                _ => sums.add::<4>(reference, terms, either, block * ROWS, values),
            }
        }
    }
}

impl Columns {
    /// One pass over V.
    pub(super) fn of(reference: &Reference<'_>, contract: &Resolved, terms: &Terms) -> Self {
        let columns = reference.v_head_dim;
        let zeros = || vec![0.0; columns];
        let mut sums = Self {
            eta_deviation: zeros(),
            grown_absolute: zeros(),
            grown_deviation: zeros(),
            small_absolute: zeros(),
            p_underflow: zeros(),
            deviation: zeros(),
            reference_deviation: zeros(),
            eta_squares: zeros(),
            grown_squares: zeros(),
            sigma_squares: zeros(),
            systematic_deviation: zeros(),
            dropped_deviation: zeros(),
        };
        let either = contract.p_den == PDen::Either;
        pulp::Arch::new().dispatch(Sum { sums: &mut sums, reference, terms, either });
        if reference.sink.is_some() {
            sums.add::<1>(reference, terms, either, reference.keys, &zeros());
        }
        sums
    }

    /// Adds the values of some keys, of which `first` is the first.
    #[inline(always)]
    fn add<const TILE: usize>(
        &mut self,
        reference: &Reference<'_>,
        terms: &Terms,
        either: bool,
        first: usize,
        values: &[f64],
    ) {
        let columns = reference.v_head_dim;
        let mut factors = [Factors::default(); ROWS];
        let keys = values.len() / columns.max(1);
        for (key, factors) in factors[..keys].iter_mut().enumerate() {
            *factors = Factors::of(reference, terms, first + key);
        }
        for tile in 0..columns / TILE {
            self.add_tile::<TILE>(reference, &factors[..keys], values, tile * TILE);
        }
        for column in columns - columns % TILE..columns {
            self.add_tile::<1>(reference, &factors[..keys], values, column);
        }
        for (v, j) in values.chunks_exact(columns.max(1)).zip(first..) {
            self.add_seldom(reference, terms, either, j, v);
        }
    }

    #[inline(always)]
    fn add_tile<const N: usize>(
        &mut self,
        reference: &Reference<'_>,
        factors: &[Factors],
        values: &[f64],
        start: usize,
    ) {
        let o: [f64; N] = tile(&reference.o, start);
        let mut eta_deviation: [f64; N] = tile(&self.eta_deviation, start);
        let mut grown_absolute: [f64; N] = tile(&self.grown_absolute, start);
        let mut grown_deviation: [f64; N] = tile(&self.grown_deviation, start);
        let mut deviation: [f64; N] = tile(&self.deviation, start);
        let mut reference_deviation: [f64; N] = tile(&self.reference_deviation, start);
        let mut systematic_deviation: [f64; N] = tile(&self.systematic_deviation, start);
        let mut eta_squares: [f64; N] = tile(&self.eta_squares, start);
        let mut grown_squares: [f64; N] = tile(&self.grown_squares, start);
        let mut sigma_squares: [f64; N] = tile(&self.sigma_squares, start);
        for (key, f) in factors.iter().enumerate() {
            let v: [f64; N] = tile(values, key * reference.v_head_dim + start);
            for t in 0..N {
                let (value, distance) = (v[t].abs(), (v[t] - o[t]).abs());
                let (x, y, z) = (f.eta * value, f.grown * value, f.sigma * distance);
                eta_deviation[t] += f.eta * distance;
                grown_absolute[t] += y;
                grown_deviation[t] += f.grown * distance;
                deviation[t] += distance;
                reference_deviation[t] += f.reference * distance;
                systematic_deviation[t] += f.systematic * distance;
                eta_squares[t] += x * x;
                grown_squares[t] += y * y;
                sigma_squares[t] += z * z;
            }
        }
        put(&mut self.eta_deviation, start, eta_deviation);
        put(&mut self.grown_absolute, start, grown_absolute);
        put(&mut self.grown_deviation, start, grown_deviation);
        put(&mut self.deviation, start, deviation);
        put(&mut self.reference_deviation, start, reference_deviation);
        put(&mut self.systematic_deviation, start, systematic_deviation);
        put(&mut self.eta_squares, start, eta_squares);
        put(&mut self.grown_squares, start, grown_squares);
        put(&mut self.sigma_squares, start, sigma_squares);
    }

    /// What only some terms are in.
    #[inline(always)]
    fn add_seldom(&mut self, reference: &Reference<'_>, terms: &Terms, either: bool, j: usize, v: &[f64]) {
        let columns = v.len();
        let o = &reference.o[..columns];
        if terms.split.as_ref().is_some_and(|split| reference.p[j] < split.threshold) {
            let grown = reference.p[j] + terms.eta[j];
            for (sum, v) in self.small_absolute.iter_mut().zip(v) {
                *sum += grown * v.abs();
            }
        }
        if let Some(&underflow) = terms.p_underflow.get(j) {
            for t in 0..columns {
                let deviation = if either { (v[t] - o[t]).abs() } else { 0.0 };
                self.p_underflow[t] += underflow * v[t].abs().max(deviation);
            }
        }
        if terms.dropped[j] > 0.0 {
            for t in 0..columns {
                self.dropped_deviation[t] += terms.dropped[j] * (v[t] - o[t]).abs();
            }
        }
    }
}
