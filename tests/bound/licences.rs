//! One test for each term of the bound that a field of the contract makes: the extremal kernel, which uses the
//! licence, violates the bound without it and keeps the bound with it.
//!
//! `empty_row` is no bound: `oracle` judges it. `s_round` is `k_s` by another name, and `h_*` of a number of
//! elements that is smaller than the depth are in `limits`.

use super::inputs::Distribution;
use super::kernels::Inputs;
use super::terms::{attempt, contract};
use attnfuzz::float::Dtype;

/// The licence as it is tested, and the contract around it.
struct Licence {
    /// Fields of both contracts.
    around: &'static str,
    /// The licence.
    field: &'static str,
    /// The field without it.
    without: &'static str,
}

/// Runs the extremal kernel with a licence and checks both bounds.
fn needed_and_sufficient(licence: &Licence, inputs: &Inputs) {
    let with = contract(&format!("{}\n{}", licence.around, licence.field));
    let without = contract(&format!("{}\n{}", licence.around, licence.without));
    let tried = attempt(inputs, &with, &without);
    let field = licence.field;
    assert!(tried.error > 1.2 * tried.without, "{field}: error {:e}, bound without {:e}", tried.error, tried.without);
    assert!(tried.error <= tried.with, "{field}: error {:e}, bound with {:e}", tried.error, tried.with);
    assert!(tried.error > 0.03 * tried.with, "{field}: error {:e} is far from the bound {:e}", tried.error, tried.with);
}

/// A row of given logits and values: `q = 1`, so keys are the logits.
fn logits(s: &[f32], v: &[f32]) -> Inputs {
    Inputs { q: vec![1.0], k: s.to_vec(), v: v.to_vec(), d: 1, dv: 1, scale: 1.0, softcap: None, sink: None }
}

/// Positive queries and keys, so that nothing cancels in a dot product; values 1 and -1 by turns.
fn positive(n: usize, d: usize) -> Inputs {
    let mut inputs = Distribution::Normal.row(n, d, 1, Dtype::F32, 7);
    inputs.q.iter_mut().chain(&mut inputs.k).for_each(|x| *x = 0.5 + x.abs().fract() / 2.0);
    inputs.v.iter_mut().enumerate().for_each(|(j, v)| *v = if j % 2 == 0 { 1.0 } else { -1.0 });
    inputs
}

/// Equal values: errors of weights cancel, those of sums do not.
fn constant(n: usize) -> Inputs {
    let mut inputs = positive(n, 16);
    inputs.v.fill(1.1);
    inputs
}

macro_rules! licences {
    ($($name:ident: $around:literal, $field:literal over $without:literal, $inputs:expr;)*) => {
        $(#[test]
        fn $name() {
            needed_and_sufficient(&Licence { around: $around, field: $field, without: $without }, &$inputs);
        })*
    };
}

licences! {
    u: "h_pv = 'n'", "u = '2^-11'" over "u = '2^-24'", constant(50);
    h_qk: "", "h_qk = 'd'" over "h_qk = 0", positive(8, 64);
    h_qk_any: "", "h_qk = 'any'" over "h_qk = 0", positive(8, 64);
    k_qk: "", "k_qk = 2" over "k_qk = 0", positive(8, 64);
    u_in: "", "u_in = '2^-11'" over "u_in = 0", positive(8, 64);
    k_s: "", "k_s = 3" over "k_s = 0", positive(8, 64);
    s_round: "", "s_round = 'bf16'" over "s_round = 'none'", positive(8, 64);
    k_x: "", "k_x = 50" over "k_x = 0", logits(&[0.0, -2.0, -2.0], &[0.0, 1.0, -1.0]);
    k_m: "", "k_m = 50" over "k_m = 0", logits(&[9.0, 7.0, 7.0], &[0.0, 1.0, -1.0]);
    e0: "", "e0 = 0.0001" over "e0 = 0", logits(&[0.0, -1.0, -1.0], &[0.0, 1.0, -1.0]);
    e_abs: "r_comb = 1", "e_abs = 0.0001" over "e_abs = 0", logits(&[0.0, 0.0, 0.5, 0.5], &[1.0, 1.0, -1.0, -1.0]);
    e_tanh: "", "e_tanh = 0.001" over "e_tanh = 0", Inputs { softcap: Some(5.0), ..positive(8, 64) };
    r: "e0 = 0.0001", "r = 'any'" over "r = 0", logits(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], &[1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]);
    r_declared: "e0 = 0.0001", "r = 7" over "r = 0", logits(&[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], &[1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]);
    r_comb: "e0 = 0.0001", "r_comb = 1" over "r_comb = 0", logits(&[0.0, -0.1, -0.1, -0.1, -0.1, -0.1, 0.1, -0.1, -0.1, -0.1, -0.1, -0.1], &[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, -1.0, -1.0]);
    h_l: "", "h_l = 'n'" over "h_l = 0", constant(100);
    h_pv: "", "h_pv = 'n'" over "h_pv = 0", constant(100);
    h_l_any: "", "h_l = 'any'" over "h_l = 0", constant(100);
    h_pv_any: "", "h_pv = 'any'" over "h_pv = 0", constant(100);
    k_pv: "", "k_pv = 5" over "k_pv = 0", constant(100);
    p_round_f16: "", "p_round = 'f16'" over "p_round = 'none'", constant(30);
    p_round_bf16: "", "p_round = 'bf16'" over "p_round = 'none'", constant(30);
    // A weight of 2^-26 is below half the least binary16; relative rounding alone would take 2^-11 of it.
    p_round_subnormal: "", "p_round = 'f16'" over "p_round = 'bf16'", logits(&[0.0, -18.0], &[0.0, 60_000.0]);
    // Values of both signs: the division of each weight errs by the sum of |p V|, that of the output by nothing.
    p_norm: "e_div = 0.001", "p_norm = true" over "p_norm = false", positive(8, 64);
    // A light weight rounded up and a heavy one down, in both sums, do twice what rounding a term does.
    p_den_yes: "p_round = 'f16'", "p_den = 'yes'" over "p_den = 'no'", logits(&[0.0, -0.0625, -4.0], &[0.0, 0.0, 1.0]);
    p_den_no: "p_round = 'f16'", "p_den = 'no'" over "p_den = 'yes'", constant(30);
    p_den_either: "p_round = 'f16'", "p_den = 'either'" over "p_den = 'no'", logits(&[0.0, -0.0625, -4.0], &[0.0, 0.0, 1.0]);
    p_den_either_or: "p_round = 'f16'", "p_den = 'either'" over "p_den = 'yes'", constant(30);
    e_div: "", "e_div = 0.00001" over "e_div = 0", constant(30);
    w_cut: "", "w_cut = 'exp(0-20)'" over "w_cut = 0", logits(&[0.0, -21.0], &[0.0, 1e6]);
    off: "w_cut = 'exp(0-20)'", "off = 3" over "off = 0", logits(&[0.0, -18.0], &[0.0, 1e6]);
    // Two keys ahead of the first by less than the maximum lags: their arguments are 5, not 0.
    lazy: "k_x = 50\nr = 'any'", "lazy = 5.5" over "lazy = 0", logits(&[0.0, 5.0, 5.0], &[0.0, 1.0, -1.0]);
    ftz_values: "", "ftz = true" over "ftz = false", logits(&[0.0, 0.0], &[1e-38, 1e-38]);
    ftz_queries: "", "ftz = true" over "ftz = false", Inputs {
        q: vec![1e-38], k: vec![1e38, -1e38], v: vec![1.0, -1.0], d: 1, dv: 1, scale: 1.0, softcap: None, sink: None,
    };
    // 2^-126 e^2 of a weight that is flushed.
    ftz_weights: "", "ftz = true" over "ftz = false", logits(&[0.0, -88.0], &[0.0, 1e30]);
    // A query scaled first is rounded, which ends the exactness of a sum of small integers.
    prescale_lossy: "k_qk = 1", "prescale_lossy = true" over "prescale_lossy = false", Inputs {
        q: vec![3.0; 8],
        k: [[1000.0, -1000.0, 999.0, -999.0, 998.0, -998.0, 997.0, -996.0], [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.0]].concat(),
        v: vec![1.0, -1.0], d: 8, dv: 1, scale: 0.1, softcap: None, sink: None,
    };
    tc_dot: "", "tc = { width = 4, bits = 23 }" over "", {
        let mut inputs = positive(2, 64);
        // The other key has no error to match.
        inputs.k[64..].fill(0.0);
        Inputs { scale: 0.015625, ..inputs }
    };
    tc_sum: "", "tc = { width = 8, bits = 24 }" over "", constant(100);
    tc_bits: "", "tc = { width = 4, bits = 13 }" over "tc = { width = 4, bits = 23 }", constant(100);
    // A block of 4 is cut 25 times in 100 terms, one of 64 only twice.
    tc_width: "", "tc = { width = 4, bits = 25 }" over "tc = { width = 64, bits = 30 }", constant(100);
}
