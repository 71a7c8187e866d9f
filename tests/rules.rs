//! The rules of others that `cargo bench --bench rules` compares with: each refuses what it should and passes a near miss.

#[path = "../benches/rules/low_precision.rs"]
mod low_precision;
#[path = "../benches/rules/peers.rs"]
mod peers;

use attnfuzz::case::Case;
use attnfuzz::float::Dtype;
use attnfuzz::oracle::for_each_row;
use low_precision::{Attention, Expected};
use peers::{Rule, Step};
use proptest::prelude::*;
use std::collections::HashSet;

/// Whether `rule` refuses `found`, the same computed in low precision being off by `low_error` in the first element.
fn refuses(rule: Rule, dtype: Dtype, found: &[f64], exact: &[f64], low_error: f64) -> bool {
    let mut low: Vec<f64> = exact.iter().map(|&x| dtype.round(x)).collect();
    low[0] += low_error;
    rule.refuses(&Step { dtype, found, exact, low_precision: &low, empty_cache: false })
}

#[test]
fn rules_have_distinct_names_and_accept_the_rounded_reference() {
    let names: HashSet<String> = Rule::ALL.iter().map(|rule| rule.name()).collect();
    assert_eq!(names.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        for dtype in Dtype::ALL {
            let exact = [1.0 / 3.0, -7.1, 1e-6];
            let found = exact.map(|x| dtype.round(x));
            assert!(!refuses(rule, dtype, &found, &exact, 0.0), "{} {dtype}", rule.name());
            assert!(refuses(rule, dtype, &[1.0, -7.1, 1e-6], &exact, 0.0), "{} {dtype}", rule.name());
        }
    }
}

#[test]
fn nmse_weighs_the_whole_output() {
    let exact = [1.0, -2.0, 3.0, 0.5];
    let nmse = |found: &[f64]| refuses(Rule::Nmse, Dtype::F32, found, &exact, 0.0);
    // Mean square 14.25 / 4: one element may err by sqrt(5e-4 * 14.25) = 0.0844.
    assert!(nmse(&[1.0, -2.0, 3.0, 0.4]));
    assert!(!nmse(&[1.0, -2.0, 3.0, 0.42]));
    assert!(nmse(&[1.0, f64::NAN, 3.0, 0.5]));
    assert!(nmse(&[1.0, f64::INFINITY, 3.0, 0.5]));
    assert!(!refuses(Rule::Nmse, Dtype::F32, &[0.0; 3], &[0.0; 3], 0.0), "0/0 is not above the limit");
    assert!(refuses(Rule::Nmse, Dtype::F32, &[0.0; 3], &[1.0; 3], 0.0), "1/0 is");
}

#[test]
fn allclose_is_absolute_and_relative() {
    let close = |rtol: f64, found: f64| !refuses(Rule::AllClose(rtol), Dtype::F32, &[found], &[2.0], 0.0);
    assert!(close(1e-3, 2.0029) && !close(1e-3, 2.0031));
    assert!(close(1e-2, 2.029) && !close(1e-2, 1.969));
    assert!(!close(1e-2, f64::NAN) && !close(1e-2, f64::NEG_INFINITY));
    let overflow = |found: f64| refuses(Rule::AllClose(1e-3), Dtype::F16, &[found], &[70_000.0], 0.0);
    assert!(!overflow(f64::INFINITY) && overflow(65504.0), "the expected value is infinite in binary16");
}

#[test]
fn assert_close_has_tolerances_for_each_dtype() {
    for (dtype, rtol) in [(Dtype::F32, 1.3e-6), (Dtype::F16, 1e-3), (Dtype::Bf16, 1.6e-2)] {
        let refused = |error: f64| refuses(Rule::AssertClose, dtype, &[64.0 + error], &[64.0], 0.0);
        let tolerance = 1e-5 + rtol * 64.0;
        assert!(!refused(0.99 * tolerance) && refused(1.01 * tolerance) && refused(f64::NAN), "{dtype}");
    }
}

#[test]
fn twice_the_low_precision_error_is_one_number_for_the_whole_output() {
    let exact = [1.0, 100.0];
    let refused = |slack: f64, found: [f64; 2], low_error: f64| {
        refuses(Rule::TwiceLowPrecision(slack), Dtype::F32, &found, &exact, low_error)
    };
    let low = 1.0 / 1024.0;
    assert!(!refused(0.0, [1.0, 100.0 + 2.0 * low], low), "the other element may err by as much");
    assert!(refused(0.0, [1.0, 100.0 + 2.1 * low], low));
    assert!(refused(0.0, [1.0 + 1e-7, 100.0], 0.0) && !refused(1e-5, [1.0 + 1e-7, 100.0], 0.0));
    assert!(refused(1e-5, [1.0 + 1.1e-5, 100.0], 0.0));
    assert!(refused(1e-5, [f64::NAN, 100.0], low), "NaN is at most nothing");
    assert!(refused(1e-5, exact, f64::NAN), "and nothing is at most NaN: right output, reference overflowed");
}

#[test]
fn hand_written_tests_pass_nan() {
    let step = |found: &'static [f64], empty_cache| {
        let exact = &[1.0, 2.0];
        Rule::HandWritten.refuses(&Step { dtype: Dtype::F32, found, exact, low_precision: exact, empty_cache })
    };
    assert!(!step(&[f64::NAN, f64::NAN], false));
    assert!(step(&[1.0011, 2.0], false) && !step(&[1.0009, 2.0], false));
    assert!(step(&[1.00011, 2.0], true) && !step(&[1.00009, 2.0], true));
}

#[test]
fn low_precision_rounds_scaled_keys_scores_weights_and_output() {
    let attention = |q: &[f64], k: &[f64], v: &[f64], scale: f32, dtype: Dtype| {
        Attention { scale, softcap: None, sink: None, dtype }.of(q, k, v, 1)
    };
    // Three scores of 0: weights are 1/3 rounded to bfloat16, 0.333984375, and so is their sum 1.001953125.
    let out = attention(&[0.0], &[1.0, 2.0, 3.0], &[1.0, 1.0, 1.0], 1.0, Dtype::Bf16);
    assert_eq!(out, [1.0]);
    let out = attention(&[0.0], &[1.0, 2.0, 3.0], &[3.0, 0.0, 0.0], 1.0, Dtype::Bf16);
    assert_eq!(out, [1.0]);
    let out = attention(&[0.0], &[1.0, 2.0, 3.0], &[1.0, 0.0, 0.0], 1.0, Dtype::Bf16);
    assert_eq!(out, [0.333984375]);
    // A scaled key of 0.1 becomes 0.10009765625 in bfloat16; times 1024 that is 102.5, the score.
    let out = attention(&[1024.0], &[1.0, 0.0], &[1.0, 0.0], 0.1, Dtype::Bf16);
    assert_eq!(out, [1.0]);
    // Beyond binary16 scores are infinite and their difference is NaN.
    assert!(attention(&[300.0], &[300.0, 300.0], &[1.0, 1.0], 1.0, Dtype::F16)[0].is_nan());
    assert_eq!(attention(&[1.0], &[], &[], 1.0, Dtype::F16), [0.0]);
    // A score of 8 capped at 4 is 4 tanh(2), which bfloat16 stores as 3.859375; a sink of the same takes half.
    let capped = Attention { scale: 1.0, softcap: Some(4.0), sink: Some(3.859375), dtype: Dtype::Bf16 };
    assert_eq!(capped.of(&[8.0], &[1.0], &[6.0], 1), [3.0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same with masks, a cap, sinks, pages that are shared, and rows without keys.
    #[test]
    fn both_references_see_the_same_features(seed in 0..1000u32, window in 1..9u32, causal in any::<bool>()) {
        let causal = if causal { "yes" } else { "no" };
        let line = format!(
            "kv=2 g=2 d=8 dv=4 past=9,7,2 q=1,3,5 append=no causal={causal} window={window} softcap=3 sinks=yes \
             dtype=f32 cache=nhd:16 pages=3,seed:4,shared:2 scale=0.35355338 values=normal:{seed}"
        );
        let expected = Expected::of(&line.parse().unwrap());
        for (exact, low) in expected.exact.iter().flatten().zip(expected.low_precision.iter().flatten()) {
            prop_assert!((exact - low).abs() < 1e-4 * (1.0 + exact.abs()), "{} and {}", exact, low);
        }
    }

    /// In binary32 the two references agree but for rounding, in every row of a case with ragged requests and two steps.
    #[test]
    fn both_references_see_the_same_rows(seed in 0..1000u32, group in 1..4u32, past in 0..9u32) {
        let line = format!(
            "kv=2 g={group} d=8 past={past},3 dtype=f32 cache=nhd:16 scale=0.35355338 steps=2 values=normal:{seed}"
        );
        let case: Case = line.parse().unwrap();
        let expected = Expected::of(&case);
        let mut rows = 0;
        for_each_row(&case, |_| rows += 1);
        prop_assert_eq!(rows, 2 * 2 * 2 * group);
        for (exact, low) in expected.exact.iter().flatten().zip(expected.low_precision.iter().flatten()) {
            prop_assert!((exact - low).abs() < 1e-5 && *exact != 0.0, "{exact} and {low}");
        }
    }
}
