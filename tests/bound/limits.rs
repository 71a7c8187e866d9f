//! What the bound does at its edges.

use super::inputs::Distribution;
use super::kernels::{Inputs, Kernel};
use super::simulated::judge;
use attnfuzz::bound::{Contract, accepts};
use attnfuzz::float::Dtype;

/// A contract with an exponential that is this bad.
fn exponential(e0: f64) -> Contract {
    toml::from_str(&format!("preset = 'naive'\ne0 = {e0}")).unwrap()
}

#[test]
fn errors_of_weights_cancel_where_values_are_equal() {
    for (distribution, grows) in [(Distribution::ConstantV, false), (Distribution::Normal, true)] {
        let inputs = distribution.row(60, 32, 2, Dtype::F32, 1);
        let det = |e0| judge(&inputs, &exponential(e0)).bounds.det[0];
        let ratio = det(1e-3) / det(1e-8);
        assert_eq!(ratio > 20.0, grows, "{distribution:?}: {ratio}");
        assert!(ratio >= 0.999, "{distribution:?}: {ratio}");
    }
}

#[test]
fn the_bound_is_finite_however_large_the_logits() {
    let contracts: Vec<(String, Contract)> = Kernel::ALL
        .iter()
        .map(|kernel| (format!("{kernel:?}"), kernel.contract()))
        .chain(Contract::presets().map(|name| (name.to_owned(), Contract::preset(name).unwrap())))
        .collect();
    // One key far ahead of the others, and all of them nearly tied.
    let rows = [Distribution::Normal, Distribution::NearTie];
    for (distribution, exponent) in rows.into_iter().flat_map(|row| (1..=12).map(move |exponent| (row, exponent))) {
        let mut inputs = distribution.row(50, 32, 2, Dtype::F32, 1);
        inputs.q.iter_mut().for_each(|q| *q *= 10f32.powi(exponent));
        let widest = inputs.v.iter().fold(0.0f64, |m, &v| m.max(f64::from(v).abs()));
        for (name, contract) in &contracts {
            let judged = judge(&inputs, contract);
            assert!(judged.in_domain);
            for b in &judged.bounds.det {
                // A kernel that trusts its log-sum-exp loses every digit there.
                assert!(
                    contract.p_lse || *b < 3.0 * widest,
                    "{name}, {distribution:?}, 1e{exponent}: {b}, values up to {widest}"
                );
            }
        }
    }
}

#[test]
fn a_row_of_one_key_is_its_value() {
    let inputs = Distribution::Normal.row(1, 64, 3, Dtype::F32, 4);
    let judged = judge(&inputs, &Kernel::Sequential.contract());
    for (t, &v) in inputs.v.iter().enumerate() {
        assert_eq!(judged.o[t], f64::from(v));
        // The weight is 1 whatever the logit: three roundings and the division.
        assert!(judged.bounds.det[t] <= 7.0 * 2f64.powi(-24) * f64::from(v.abs()));
    }
}

#[test]
fn nothing_is_expected_where_a_kernel_may_overflow() {
    let in_domain = |change: &dyn Fn(&mut Inputs)| {
        let mut inputs = Distribution::Normal.row(9, 16, 2, Dtype::F32, 3);
        change(&mut inputs);
        judge(&inputs, &Contract::default()).in_domain
    };
    assert!(in_domain(&|_| ()));
    assert!(in_domain(&|inputs| inputs.scale = 0.0));
    assert!(!in_domain(&|inputs| inputs.k[3] = f32::NAN));
    assert!(!in_domain(&|inputs| inputs.v[3] = f32::INFINITY));
    assert!(!in_domain(&|inputs| inputs.v[3] = 1e37));
    assert!(!in_domain(&|inputs| inputs.q[0] = 3e38));
    assert!(!in_domain(&|inputs| inputs.scale = 1e38));
}

#[test]
fn an_empty_row_has_no_error() {
    for sink in [None, Some(2.0)] {
        let inputs = Inputs { sink, ..Distribution::Normal.row(0, 16, 2, Dtype::F32, 3) };
        let judged = judge(&inputs, &Contract::default());
        assert!(judged.in_domain);
        for t in 0..2 {
            assert!(accepts(0.0, judged.o[t], judged.bounds.det[t], Dtype::F32));
            assert!(!accepts(1e-30, judged.o[t], judged.bounds.det[t], Dtype::F32));
        }
        assert_eq!(judged.lse, sink.map_or(f64::NEG_INFINITY, f64::from));
    }
}
