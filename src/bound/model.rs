//! Bounds that hold with a probability.
//!
//! **Random signs** ([`Models::random_signs`]). The fuzzer chooses V, so let its signs be independent and random,
//! independent of Q, K, `|V|` and of the order of the sums. The kernel's weights and the rounding of P
//! depend on Q and K only; given them, sums over V are Rademacher sums, and by Hoeffding's inequality
//! each of these fails with probability at most `2 exp(-lambda^2/2)`:
//!
//! ```text
//! |sum p_j (e^theta_j - 1) V_j| <= lambda sqrt(sum p_j^2 eta_j^2 V_j^2)
//! |sum p^_j nu_j V_j|           <= lambda u_num T^          T^ = sqrt(sum p_j^2 (1 + eta_j)^2 V_j^2) / Z
//! every partial sum             <= lambda_n T^              lambda_n = sqrt(lambda^2 + 2 ln n)
//! ```
//!
//! the last over fewer than `n` partial sums. A partial sum over the elements `I` is at most `lambda_n T_I`,
//! `T_I^2` being the part of `T^^2` that its elements make. There are fewer than `n` additions, and an
//! element goes through at most `h_pv` of them, so by Cauchy and Schwarz
//! `sum_I T_I <= sqrt(n sum_I T_I^2) <= sqrt(n h_pv) T^`. Likewise at most `n` rescales, `R` an element,
//! and at most `n` of each kind of other rounding, one an element:
//!
//! ```text
//! S <= u (sqrt(n h_pv) + sqrt(n R) + (k_pv + r_comb) sqrt(n)) lambda_n T^
//! ```
//!
//! Tensor cores cut every addend by the largest one of its block, which is at most `lambda_n T^`, so they
//! cost `blocks * block_error` times that. No rounding error is assumed random: truncating tensor cores and biased exponentials are covered.
//! On V whose signs are not random it is wrong by factors of 10 and more.
//!
//! **Independent roundings** ([`Models::independent_roundings`]). If in addition rounding errors were independent
//! with mean zero, the kernel were one linear function of them, and its error at most `lambda` standard
//! deviations (Higham & Mary 2019, 2020). They are neither: on structured rows (ties, constant V, sorted
//! V) this fails by factors up to 170. It is a reason to look again, never a verdict.
//! Tensor-core sums, which are biased, enter linearly even here.

use super::contract::{PDen, Resolved};
use super::growth;
use super::row::{Column, RowErrors};
use crate::float::lanes::Lanes;
use pulp::Simd;

/// What is the same in both bounds for every column of a row.
pub(super) struct Models<'a> {
    contract: &'a Resolved,
    row: &'a RowErrors,
    lambda: f64,
    /// `S / T^` with random signs.
    signs_sum: f64,
    /// `S` over the sum of absolute values, with independent roundings.
    rounded_sum: f64,
    /// Of what a denominator errs by then, and rounded weights in it, the factor on `|o|`.
    denominator: f64,
    /// The roundings of a term's factors then, over their root of squares.
    operands: f64,
}

/// Second-order terms of independent roundings.
const HIGHER_ORDERS: f64 = 1e-3;
/// Rescales that a row of independent logits sees: records of a random sequence, about `ln n`.
const RECORDS: f64 = 64.0;

impl<'a> Models<'a> {
    pub(super) fn of(contract: &'a Resolved, row: &'a RowErrors, lambda: f64) -> Self {
        let u = contract.u;
        let lambda_n = (lambda * lambda + 2.0 * libm::log(row.n.max(2.0))).sqrt();
        let others = (row.n * row.rescales).sqrt() + (contract.k_pv + contract.r_comb) * row.n.sqrt();
        let records = row.rescales.min(RECORDS);
        let (additions, rounded_sum) = if let Some(tc) = contract.tc {
            let blocks = (row.n / f64::from(tc.width.max(1))).ceil();
            let error = |rescales: f64| (blocks + rescales + 1.0) * tc.block_error();
            (error(row.rescales) + u * others, error(records))
        } else {
            let independent = lambda * u * (row.h_pv + records + contract.k_pv).sqrt();
            (u * ((row.n * row.h_pv).sqrt() + others), independent)
        };
        let p_den = if contract.p_den == PDen::No { 0.0 } else { lambda * contract.u_p * row.p_norm2 };
        Self {
            contract,
            row,
            lambda,
            signs_sum: additions * lambda_n * (1.0 + 2.0 * growth(row.n, u)),
            rounded_sum,
            denominator: lambda * u * (row.h_l + records + 1.0).sqrt() + p_den,
            operands: lambda * (contract.u_p * contract.u_p + 2.0 * contract.u_in * contract.u_in).sqrt(),
        }
    }

    /// The bound for V with random signs, less the reference's error.
    #[inline(always)]
    pub(super) fn random_signs<S: Simd>(&self, column: &Column<S>) -> Lanes<S> {
        let Self { contract, row, lambda, .. } = *self;
        let weights = (lambda * column.weighted_rms + column.o.abs() * row.eta_mass) / row.kept;
        let o = column.o.abs() + weights;
        let sum = column.sum.min(self.signs_sum * column.term_rms);
        let p_den = if contract.p_den == PDen::Either { o * (1.0 + 2.0 * contract.u_p) } else { o.same(0.0) };
        let p_round = row.u_num * (lambda * column.term_rms + p_den);
        let sums = row.quotient(sum, p_round, o, column.underflow);
        weights + sums + contract.e_div * (o + sums) + contract.final_underflow()
    }

    /// The bound were rounding errors independent and V's signs random.
    #[inline(always)]
    pub(super) fn independent_roundings<S: Simd>(&self, column: &Column<S>) -> Lanes<S> {
        let Self { contract, row, lambda, .. } = *self;
        let o = column.o.abs();
        let total = lambda * column.sigma
            + column.systematic
            + self.rounded_sum * column.mean_abs.min(3.0 * column.rms)
            + self.operands * column.rms
            + self.denominator * o
            + column.underflow
            + row.underflow * (1.0 + o);
        total * (1.0 + HIGHER_ORDERS)
            + contract.e_div * (o + total)
            + column.reference_error
            + column.dropped
            + contract.final_underflow()
    }
}
