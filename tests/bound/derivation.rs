//! One test for each term of the bound that no field of the contract switches off.
//!
//! A term that loosens the bound is shown to be needed by a kernel that exceeds the bound less that term. One
//! that tightens it is shown to be needed by an error that only the tighter bound catches. Not tested alone:
//! second-order terms (`mu`'s `+ 1`, `1 + 2 u_p`, `e0 (1 + e0)`), which are below what other terms leave over,
//! and the `3 * 2^-126` of flushed values and quotients, which is below the `z` of the same row.

use super::double_double::attend as attend_precisely;
use super::extremal::tensor_core;
use super::inputs::Distribution;
use super::kernels::Inputs;
use super::simulated::judge;
use super::terms::{attempt, contract};
use attnfuzz::bound::{Contract, TensorCore, accepts};
use attnfuzz::float::Dtype;

const SUBNORMAL: f64 = 1.401298464324817e-45;

/// A row of given logits and values.
fn logits(s: &[f32], v: &[f32]) -> Inputs {
    Inputs { q: vec![1.0], k: s.to_vec(), v: v.to_vec(), d: 1, dv: 1, scale: 1.0, softcap: None, sink: None }
}

fn det(inputs: &Inputs, contract: &Contract) -> f64 {
    judge(inputs, contract).bounds.det[0]
}

/// The extremal kernel exceeds `without`, and keeps its bound.
fn loosens(what: &str, inputs: &Inputs, contract: &Contract, without: f64) {
    let tried = attempt(inputs, contract, contract);
    assert!(tried.error > without, "{what}: error {:e}, bound without {without:e}", tried.error);
    assert!(tried.error <= tried.with, "{what}: error {:e}, bound {:e}", tried.error, tried.with);
}

/// The extremal kernel keeps the bound, and an error twice as large as it is caught with the term only.
fn tightens(what: &str, inputs: &Inputs, contract: &Contract, without: f64) {
    let judged = judge(inputs, contract);
    let (o, with) = (judged.o[0], judged.bounds.det[0]);
    let tried = attempt(inputs, contract, contract);
    assert!(tried.error <= with, "{what}: error {:e}, bound {with:e}", tried.error);
    let wrong = Dtype::F32.round(o + 2.0 * with + o.abs() * 2f64.powi(-23));
    assert!(!accepts(wrong, o, with, Dtype::F32), "{what}: {wrong:e} for {o:e} within {with:e}");
    assert!(accepts(wrong, o, without, Dtype::F32), "{what}: {wrong:e} for {o:e} not within {without:e}");
}

#[test]
fn convex_hull() {
    let mut inputs = Distribution::NearTie.row(50, 32, 1, Dtype::F32, 1);
    inputs.q.iter_mut().for_each(|q| *q *= 1e8);
    // All logits may be off by more than 1000: the sum over elements is e^2000.
    let contract = contract("h_qk = 'any'\nk_qk = 2");
    let widest = inputs.v.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
    assert!(det(&inputs, &contract) < 2.1 * widest);
    tightens("hull", &inputs, &contract, f64::MAX);
}

#[test]
fn any_order_with_few_heavy_elements() {
    let mut s = vec![-30.0; 20_000];
    s[7] = 0.0;
    s[19_000] = -0.3;
    let inputs = logits(&s, &(0..s.len()).map(|j| 1.0 + (j % 7) as f32 / 7.0).collect::<Vec<_>>());
    let contract = contract("h_pv = 'any'\nh_l = 'any'");
    // Without: (1 + u)^n - 1 of the numerator and as much of the denominator.
    let o = judge(&inputs, &contract).o[0];
    tightens("any order", &inputs, &contract, 2.0 * o * 20_000.0 * 2f64.powi(-24));
}

#[test]
fn truncation_is_not_rounding_to_nearest() {
    // Step 4 says that an addition errs by no more than what is added. A tensor core that adds -2^-40 to 1 makes
    // 1 - 2^-24, 2^16 times as much, so the bound must not take that step for it.
    let tc = TensorCore { width: 4, bits: 50 };
    assert_eq!(tensor_core(tc, 1.0, &[-(2f64.powi(-40))]), 1.0 - 2f64.powi(-24));
    let inputs = logits(&[0.0, -30.0], &[1.0, -1.0]);
    let cut = det(&inputs, &contract("tc = { width = 4, bits = 23 }"));
    assert!(cut > 2f64.powi(-23), "{cut:e}");
    assert!(det(&inputs, &contract("")) < 2f64.powi(-23));
}

#[test]
fn exact_dot_products() {
    let integers = |scale: f32| Inputs {
        q: vec![3.0; 8],
        k: [[900.0, -901.0, 99.0, -99.0, 8.0, -8.0, 7.0, -5.0], [1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.0]].concat(),
        v: vec![1.0, -1.0],
        d: 8,
        dv: 1,
        scale,
        softcap: None,
        sink: None,
    };
    // An error of operands, however small, ends exactness.
    let around = "h_qk = 'd'\nk_qk = 2\nk_pv = 1";
    for scale in [0.25, 0.3] {
        let inexact = contract(&format!("{around}\nu_in = '2^-60'"));
        tightens("exact dot", &integers(scale), &contract(around), det(&integers(scale), &inexact));
    }
}

#[test]
fn exact_rows() {
    let inputs = logits(&vec![0.0; 300], &(0..300).map(|j| (j % 64) as f32).collect::<Vec<_>>());
    let around = "h_l = 'n'\nh_pv = 'n'\nk_pv = 2\ne_div = '2^-24'";
    let without = det(&inputs, &contract(&format!("{around}\nu_in = '2^-60'")));
    tightens("exact row", &inputs, &contract(around), without);
}

#[test]
fn additions_are_no_more_than_elements() {
    let inputs = logits(&[0.0, -0.1, 0.2], &[1.1, 1.2, 1.3]);
    let without = 2.0 * 1000.0 * 2f64.powi(-24);
    tightens("depth", &inputs, &contract("h_l = 1000\nh_pv = 1000"), without);
    let dots = Inputs { q: vec![0.7; 2], k: vec![0.3, 0.9, 0.8, 0.7], v: vec![1.0, -1.0], d: 2, ..inputs };
    tightens("depth of a dot product", &dots, &contract("h_qk = 1000\nk_qk = 2"), 500.0 * 2f64.powi(-24));
}

#[test]
fn rescales_are_no_more_than_larger_logits() {
    let inputs = logits(&[0.0, -1.0, 0.1], &[1.0, -1.0, 0.5]);
    let declared = "e0 = 0.0001\nr = 1000";
    // Without: a thousand exponentials.
    tightens("rank", &inputs, &contract(declared), 0.02);
}

#[test]
fn underflow_of_a_dot_product() {
    // The same logits with and without products of a few times 2^-149.
    let row = |shift: f32, scale: f32| Inputs {
        q: vec![3e-23 * shift; 8],
        k: [vec![1.7e-22 * shift; 8], vec![-1.7e-22 * shift; 8]].concat(),
        v: vec![1.0, -1.0],
        d: 8,
        dv: 1,
        scale,
        softcap: None,
        sink: None,
    };
    let contract = contract("");
    let without = det(&row(2f32.powi(30), 2f32.powi(67)), &contract);
    loosens("dot product", &row(1.0, 2f32.powi(127)), &contract, without);
}

#[test]
fn subnormal_exponentials() {
    let inputs = logits(&[0.0, -100.0], &[0.0, 1e30]);
    let contract = contract("");
    loosens("exp", &inputs, &contract, det(&inputs, &contract) - 2.9 * SUBNORMAL * 1e30);
}

#[test]
fn underflow_of_the_division() {
    // Sums are normal numbers, their quotient is not, and the division may be 2 ulp and a rounding off there.
    let inputs = logits(&[0.0; 4096], &[2f32.powi(-126) * 0.999; 4096]);
    let contract = contract("");
    loosens("division", &inputs, &contract, det(&inputs, &contract) - 3.0 * SUBNORMAL);
}

#[test]
fn underflow_of_sums() {
    // One key of weight 1 and many whose products with their values are flushed.
    let mut s = vec![-7.0; 2000];
    s[0] = 0.0;
    let mut v = vec![2f32.powi(-117); 2000];
    v[0] = 0.0;
    let inputs = logits(&s, &v);
    let contract = contract("ftz = true");
    // All that is left without z, at any size: the same row, far from underflow, and the last flushes.
    let far = logits(&s, &v.iter().map(|v| v * 2f32.powi(100)).collect::<Vec<_>>());
    let without = det(&far, &contract) * 2f64.powi(-100) + 3.0 * f64::from(f32::MIN_POSITIVE);
    loosens("z", &inputs, &contract, without);
}

/// The reference's own error: with a contract that allows nothing else, its bound is all there is.
#[test]
fn error_of_the_reference() {
    let perfect = contract("u = '2^-200'");
    let (mut inexact, mut most) = (0, 0.0f64);
    for distribution in Distribution::ALL {
        for seed in 0..6 {
            let inputs = distribution.row(3 + 17 * seed as usize, 24, 1, Dtype::F32, seed);
            let judged = judge(&inputs, &perfect);
            let (o, lse) = attend_precisely(&inputs);
            let error = o.minus(judged.o[0]).abs();
            let bound = judged.bounds.det[0];
            assert!(error <= bound, "{distribution:?} {seed}: error {error:e}, bound {bound:e}");
            assert!(lse.minus(judged.lse).abs() <= 1e-13 * (1.0 + judged.lse.abs()), "{distribution:?} {seed}");
            // What the bound would be without: underflow.
            if error > 1e4 * SUBNORMAL {
                inexact += 1;
                most = most.max(error / bound);
            }
        }
    }
    assert!(inexact > 50 && most > 0.005, "{inexact} rows are inexact, the worst by {most} of the bound");
}

#[test]
fn terms_of_the_log_sum_exp() {
    let row = logits(&[0.0, -0.5, 0.25, 0.1], &[1.0; 4]);
    let tried = |fields: &str, inputs: &Inputs| {
        let contract = contract(fields);
        attempt(inputs, &contract, &contract)
    };
    let bound = |fields: &str, inputs: &Inputs| judge(inputs, &contract(fields)).lse_bound;
    // The logarithm, where it is next to nothing itself.
    let logarithm = tried("", &logits(&[0.0, -20.0], &[1.0; 2]));
    assert!(logarithm.lse_error > logarithm.lse_with - (-21.4f64).exp2() && logarithm.lse_error <= logarithm.lse_with);
    // Weights, the sum's additions, rounded weights in it, dropped weights.
    let tail = logits(&[&[0.0f32][..], &[-15.0; 3000]].concat(), &vec![1.0; 3001]);
    let wide = logits(&(0..3000).map(|j| -0.001 * (j % 600) as f32).collect::<Vec<_>>(), &vec![1.0; 3000]);
    for (with, without, inputs) in [
        ("k_x = 500", "", &row),
        ("h_l = 'n'", "", &wide),
        ("p_round = 'bf16'\np_den = 'yes'", "p_round = 'bf16'", &row),
        ("w_cut = 'exp(0-14)'", "", &tail),
    ] {
        let (tried, without) = (tried(with, inputs), bound(without, inputs));
        assert!(tried.lse_error > without, "{with}: error {:e}, bound without {without:e}", tried.lse_error);
        assert!(tried.lse_error <= tried.lse_with, "{with}: error {:e}, bound {:e}", tried.lse_error, tried.lse_with);
    }
    // The sum of maximum and logarithm is rounded to binary32.
    let high = logits(&[1e6, 999_999.25], &[1.0; 2]);
    let judged = judge(&high, &contract(""));
    let stored = f64::from((f64::from(1e6f32) + (-0.75f64).exp().ln_1p()) as f32);
    let error = (stored - judged.lse).abs();
    assert!(error > 8e-3 && error <= judged.lse_bound, "{error:e}, {:e}", judged.lse_bound);
}

#[test]
fn domain() {
    let judged = |inputs: &Inputs, fields: &str| judge(inputs, &contract(fields)).in_domain;
    // A maximum that lags by 10 makes weights of e^10, and their sum over values overflows binary32.
    let inputs = logits(&[0.0, 9.9], &[0.0, 2e34]);
    assert!((9.9f32.exp() * 2e34).is_infinite());
    assert!(judged(&inputs, "lazy = 0") && !judged(&inputs, "lazy = 10"));
    // A query times its scale, and a product before it.
    let large = |q: f32, k: f32, scale: f32| Inputs { q: vec![q], scale, ..logits(&[k], &[1.0]) };
    assert!((1e30f32 * 1e9).is_infinite());
    assert!(judged(&large(1e30, 1e-30, 1e6), "") && !judged(&large(1e30, 1e-30, 1e9), ""));
    assert!((1e20f32 * 1e19).is_infinite());
    assert!(judged(&large(1e20, 1e17, 1e-37), "") && !judged(&large(1e20, 1e19, 1e-37), ""));
}

#[test]
fn normalised_weights_are_rounded_after_their_sum() {
    // So `p_den` says nothing of them: their rounding is an error of a term, which equal values do not cancel.
    let inputs = logits(&[0.0, -0.3, -0.7], &[1.1; 3]);
    for p_den in ["no", "yes", "either"] {
        let contract = contract(&format!("p_norm = true\np_round = 'f16'\np_den = '{p_den}'"));
        loosens(p_den, &inputs, &contract, 2f64.powi(-12));
    }
}
