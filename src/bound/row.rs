//! The error of a quotient of two rounded sums: steps 2, 3, 5 and 6 of the derivation.

use super::contract::{PDen, Resolved};
use super::sums::{LANES, Tile};
use super::terms::Terms;
use super::weights::{Weights, tensor_core_blocks, tensor_core_error};
use super::{F64_ROUNDOFF, FLUSH, SUBNORMAL, TINY, growth};
use crate::float::lanes::Lanes;
use crate::reference::Reference;
use pulp::Simd;

/// What is the same for every column of a row.
pub(super) struct RowErrors {
    /// Elements, as a number.
    pub(super) n: f64,
    /// `max_j R_j + r_comb`.
    pub(super) rescales: f64,
    /// `mu`.
    pub(super) mu: f64,
    /// `z`.
    pub(super) underflow: f64,
    /// Factor on `A^` in `S`.
    pub(super) sum: f64,
    /// The factors on `A^` and `A_S` of step 4, where it applies.
    pub(super) split: Option<(f64, f64)>,
    /// `u_num`.
    pub(super) u_num: f64,
    /// `Z`.
    pub(super) kept: f64,
    /// `sum p_j eta_j`.
    pub(super) eta_mass: f64,
    /// `sqrt(sum p_j^2)`.
    pub(super) p_norm2: f64,
    /// Additions in numerator and denominator.
    pub(super) h_pv: f64,
    pub(super) h_l: f64,
}

impl RowErrors {
    pub(super) fn of(reference: &Reference<'_>, contract: &Resolved, weights: &Weights, terms: &Terms) -> Self {
        let n = reference.elements() as f64;
        let u = contract.u;
        let rescales = weights.most_rescales();
        let (h_pv, h_l) = (additions(contract.h_pv, reference), additions(contract.h_l, reference));
        let mut mu = growth(h_l + rescales + 1.0, u);
        let sum = if let Some(tc) = contract.tc {
            let blocks = tensor_core_blocks(tc, reference.elements()) + rescales + 1.0;
            tensor_core_error(tc, blocks) + growth(rescales + contract.k_pv, u)
        } else {
            growth(h_pv + rescales + contract.k_pv, u)
        };
        let split = terms.split.as_ref().map(|split| {
            let small = split.mass / terms.kept.max(TINY);
            mu = mu.min((u * (split.large as f64 + rescales + 2.0) + small) * split.inflation);
            (u * (split.large as f64 + rescales + contract.k_pv + 1.0) * split.inflation, split.inflation)
        });
        // A weight that is divided first is rounded after the denominator is known.
        let p_round = if contract.p_den == PDen::Yes && !contract.p_norm { 0.0 } else { contract.u_p };
        let division = if contract.p_norm { contract.e_div } else { 0.0 };
        let u_num = (1.0 + p_round) * (1.0 + contract.u_in) * (1.0 + contract.u_in) * (1.0 + division) - 1.0;
        Self {
            n,
            rescales,
            mu,
            underflow: (3.0 * n + rescales + 4.0) * contract.underflow() * terms.unit,
            sum,
            split,
            u_num,
            kept: terms.kept,
            eta_mass: terms.eta_mass,
            p_norm2: reference.p.iter().map(|p| p * p).sum::<f64>().sqrt(),
            h_pv,
            h_l,
        }
    }

    /// `det` less `E_ref`: steps 3 and 5.
    #[inline(always)]
    pub(super) fn deterministic<S: Simd>(&self, contract: &Resolved, column: &Column<S>) -> Lanes<S> {
        if self.mu + self.underflow >= 0.5 || self.mu.is_nan() {
            return column.o.same(f64::INFINITY);
        }
        let p_round = match contract.p_den {
            PDen::Either => column.absolute.max(column.deviation * (1.0 + 2.0 * contract.u_p)),
            PDen::No | PDen::Yes => column.absolute,
        };
        let o = column.o.abs() + column.weights;
        let sums = self.quotient(column.sum, self.u_num * p_round, o, column.underflow);
        column.weights + sums + contract.e_div * (o + sums) + contract.final_underflow()
    }

    /// `E_n`: the error of a quotient of two rounded sums whose exact quotient is at most `o`.
    #[inline(always)]
    pub(super) fn quotient<S: Simd>(
        &self,
        sum: Lanes<S>,
        p_round: Lanes<S>,
        o: Lanes<S>,
        underflow: Lanes<S>,
    ) -> Lanes<S> {
        // What underflows is rounded, summed and rescaled afterwards.
        let underflow = (underflow + self.underflow * (1.0 + o)) * (1.0 + self.sum);
        (sum * (1.0 + self.u_num) + p_round + self.mu * o + underflow) / (1.0 - self.mu - self.underflow)
    }
}

/// What the bounds of a column are made of, for some columns side by side.
pub(super) struct Column<S: Simd> {
    pub(super) o: Lanes<S>,
    /// `E_w`.
    pub(super) weights: Lanes<S>,
    /// `A^`.
    pub(super) absolute: Lanes<S>,
    /// `min(sum p_j (1 + eta_j) |V_j - o| / Z, max |V_j - o|)`.
    pub(super) deviation: Lanes<S>,
    /// `S`.
    pub(super) sum: Lanes<S>,
    /// `E_un`.
    pub(super) underflow: Lanes<S>,
    /// `E_ref`.
    pub(super) reference_error: Lanes<S>,
    /// `sqrt(sum p_j^2 eta_j^2 V_j^2)`.
    pub(super) weighted_rms: Lanes<S>,
    /// `sqrt(sum p_j^2 (1 + eta_j)^2 V_j^2) / Z`: at least the rms of the kernel's terms.
    pub(super) term_rms: Lanes<S>,
    /// `T2`.
    pub(super) rms: Lanes<S>,
    /// `A`.
    pub(super) mean_abs: Lanes<S>,
    /// `sqrt(sum p_j^2 sigma_j^2 (V_j - o)^2)`.
    pub(super) sigma: Lanes<S>,
    /// `sum p_j (u X_j / 2 + underflow_j) |V_j - o|`.
    pub(super) systematic: Lanes<S>,
    /// `sum p_j |V_j - o|` over weights that may be dropped.
    pub(super) dropped: Lanes<S>,
}

impl<S: Simd> Column<S> {
    /// Those of vector `index` of a tile.
    #[inline(always)]
    pub(super) fn of(contract: &Resolved, terms: &Terms, tile: &Tile, row: &RowErrors, simd: S, index: usize) -> Self {
        let columns = |all: &[f64; LANES]| Lanes::of(simd, all, index);
        let o = columns(&tile.o);
        let (v_min, v_max) = (columns(&tile.v_min), columns(&tile.v_max));
        let hull = (v_max - o).max(o - v_min);
        let largest = v_max.abs().max(v_min.abs());
        let (weights, absolute, deviation) = if terms.kept > 0.0 {
            (
                (columns(&tile.eta_deviation) / terms.kept).min(hull),
                (columns(&tile.grown_absolute) / terms.kept).min(largest),
                (columns(&tile.grown_deviation) / terms.kept).min(hull),
            )
        } else {
            (hull, largest, hull)
        };
        let mut sum = row.sum * absolute;
        if let Some((large, small)) = row.split {
            let split = large * absolute + small * columns(&tile.small_absolute) / terms.kept.max(TINY);
            sum = sum.min(split);
        }
        let mut underflow = columns(&tile.p_underflow) + 3.0 * SUBNORMAL * terms.unit_weight * columns(&tile.deviation);
        if contract.ftz {
            underflow = underflow + 2.0 * FLUSH;
        }
        let mean_abs = columns(&tile.mean_abs);
        let reference_error =
            F64_ROUNDOFF * ((row.n + 16.0) * (mean_abs + o.abs()) + columns(&tile.reference_deviation));
        Self {
            o,
            weights,
            absolute,
            deviation,
            sum,
            underflow,
            reference_error,
            weighted_rms: columns(&tile.eta_squares).sqrt(),
            term_rms: if terms.kept > 0.0 {
                columns(&tile.grown_squares).sqrt() / terms.kept
            } else {
                o.same(f64::INFINITY)
            },
            rms: columns(&tile.rms),
            mean_abs,
            sigma: columns(&tile.sigma_squares).sqrt(),
            systematic: columns(&tile.systematic_deviation),
            dropped: columns(&tile.dropped_deviation),
        }
    }
}

/// Inexact additions a term goes through: the contract's, and never more than there are elements, since
/// adding an exact zero is exact.
pub(super) fn additions(depth: Option<f64>, reference: &Reference<'_>) -> f64 {
    let n = reference.elements() as f64;
    // The sink's term is added to sums whose depth was counted without it.
    let sink = if reference.sink.is_some() { 1.0 } else { 0.0 };
    depth.map_or(n, |depth| (depth + sink).min(n))
}
