//! The error that all weights of a row have in common, of kernels that divide by no sum of those weights (`p_lse`).
//!
//! Such a kernel's weights are `exp(s^_j - lse^)`, with a log-sum-exp of the same computed logits `s^`; or it weighs parts
//! by `exp(lse^_i - lse^)`, with one of the `lse^_i`. Let `p^_j` be the softmax of the computed logits, and `D'_j = D_j -
//! Ds_j` what is left of the weight's error without the logit's. The weights then sum to
//!
//! ```text
//! e^(lse(s^) - lse^) S,    S = sum p^_j e^theta'_j,    |theta'_j| <= D'_j,    p^_j <= p_j e^Ds_j / sum p_i e^-Ds_i
//! |S - 1| <= m = sum p_j e^Ds_j (expm1(D'_j) + [j may be dropped]) / sum p_j e^-Ds_j
//! ```
//!
//! and not to 1, where a kernel that divides gets 1 whatever its weights are. `lse^` was made of weights with the same
//! bounds, of a sum that errs by `mu`, and of a rounded logarithm and maximum. So the output is that of a kernel that
//! divides times a factor within
//!
//! ```text
//! exp(+-E),    E = -2 ln(1 - m) + mu / (1 - mu) + rounding_of_lse
//! ```
//!
//! The rounding grows with `|lse|`, and so does such a kernel's error: where logits are in the thousands it has lost
//! digits that one which divides has not.

use super::contract::Resolved;
use super::rounding_of_lse;
use super::terms::Terms;
use super::weights::Weights;
use crate::reference::Reference;

/// `expm1(E)`, finite; huge where nothing can be said.
pub(super) fn error(reference: &Reference<'_>, contract: &Resolved, weights: &Weights, terms: &Terms, mu: f64) -> f64 {
    let (mut mass, mut kept, mut largest) = (0.0, 0.0, 0.0f64);
    for (j, &p) in reference.p.iter().enumerate() {
        let logit = weights.logit[j].min(LARGEST_EXPONENT);
        let apart = (weights.delta[j] - weights.logit[j]).clamp(0.0, LARGEST_EXPONENT);
        mass += libm::exp(logit) * (p * libm::expm1(apart) + terms.factors[j].dropped);
        kept += p * libm::exp(-logit);
        largest = largest.max(logit);
    }
    let mass = mass / kept;
    if mass.is_nan() || mass >= 0.5 || mu.is_nan() || mu >= 0.5 {
        return libm::expm1(LARGEST_EXPONENT);
    }
    // The computed maximum is off by its logit's error, which the roundings below are proportional to as well.
    let rounding = rounding_of_lse(reference, contract) + 16.0 * contract.u * largest;
    libm::expm1((-2.0 * libm::log1p(-mass) + mu / (1.0 - mu) + rounding).min(LARGEST_EXPONENT))
}

/// Beyond this the bound allows everything, and its square is still a number.
const LARGEST_EXPONENT: f64 = 300.0;
