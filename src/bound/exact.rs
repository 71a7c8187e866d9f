//! Rows on which every correct kernel is exact, in any order and at any length.
//!
//! Let the largest logit be exactly 0, reached without rounding, and every other logit at most -105.
//! Then `exp(0) = 1` and `exp(-105) = 0` in binary32 (with a softcap, `tanh(0) = 0` before), so weights are
//! 1 and 0, 1 is 1 in every format of P, and the denominator is the number of keys with logit 0. If the
//! values of those keys are multiples of `2^-g` and their absolute sum is at most `2^(23-g)`, every partial
//! sum of the numerator is a binary32 number. Only the division is left:
//!
//! ```text
//! |out - o| <= e_div |o| + 8 n 2^-149 (max |V| + |o|)
//! ```
//!
//! The last term is for exponentials that give a subnormal or two instead of 0; an addition rounded to
//! nearest then errs by no more than what is added. Tensor cores may lose an ulp to it, so there it must
//! vanish when P is rounded to 16 bits.
//!
//! Two ways to get such a row: `q = 0`, whose output is the mean of all visible values; and a selector,
//! `q = 2048 e_k` with `K[., k]` 0 for the keys to select and -1 for the others. Both see a wrong length,
//! a dropped, repeated or swapped key bit by bit, however long the row is. Both are blind to the scale.
//!
//! Not for kernels that add an offset to the maximum (weights are no longer 1), that normalise weights
//! before they are rounded or meet the values, that combine splits through a logarithm (`e_abs > 0`), that truncate the
//! values (`u_in > 0`), or whose exponential is so coarse (`e0 > 2^-20`) that `exp(0)` may not be 1.

use super::contract::Resolved;
use super::weights::{keeps_24_bits, keeps_order};
use super::{FLUSH, SUBNORMAL};
use crate::float::lowest_bit;
use crate::reference::Reference;

/// Logits that are not selected are at most this: `exp` of it is below half the smallest subnormal.
const UNSELECTED: f64 = -105.0;

/// The bound of each column before the store, less the reference's error, where the theorem applies; infinity for a
/// column where it does not.
pub(super) fn bounds(reference: &Reference<'_>, contract: &Resolved, delta: &[f64]) -> Option<Vec<f64>> {
    let suited = keeps_24_bits(contract)
        && contract.off == 0.0
        && contract.e_abs == 0.0
        && contract.e0 <= libm::exp2(-20.0)
        && !contract.p_norm
        && !contract.p_lse
        && (contract.tc.is_none() || contract.u_p > 0.0);
    if !suited || reference.max != 0.0 {
        return None;
    }
    let mut selected = Vec::with_capacity(reference.elements());
    for (j, delta) in delta.iter().enumerate() {
        // A dot product of zero is computed as zero if it has no products, or none that rounds.
        let zero = reference.s[j] == 0.0 && is_computed_exactly(reference, contract, j);
        if !zero && reference.s[j] + delta > UNSELECTED {
            return None;
        }
        selected.push(zero);
    }
    let columns = reference.v_head_dim;
    let (mut lowest, mut total) = (vec![i32::MAX; columns], vec![0.0; columns]);
    for (v, _) in reference.value_rows().zip(&selected).filter(|(_, selected)| **selected) {
        for t in 0..columns {
            lowest[t] = lowest[t].min(lowest_bit(v[t]));
            total[t] += v[t].abs();
        }
    }
    let n = reference.elements() as f64;
    let bound = |t: usize| {
        let representable = total[t] == 0.0
            // Multiples of a normal number are never flushed.
            || (libm::exp2(f64::from(lowest[t])) >= FLUSH && total[t] <= libm::exp2(f64::from(lowest[t] + 23)));
        let o = reference.o[t].abs();
        let largest = reference.v_max[t].abs().max(reference.v_min[t].abs());
        if !representable {
            return f64::INFINITY;
        }
        contract.e_div * o + 8.0 * n * SUBNORMAL * (largest + o) + contract.final_underflow()
    };
    Some((0..columns).map(bound).collect())
}

fn is_computed_exactly(reference: &Reference<'_>, contract: &Resolved, j: usize) -> bool {
    j < reference.keys && (reference.nonzeros[j] == 0 || (reference.exact[j] && keeps_order(reference, contract, j)))
}
