//! Simulated kernels against the bounds: correct ones never violate them, incorrect ones do.

use super::inputs::Distribution;
use super::kernels::{Bug, Inputs, Kernel};
use attnfuzz::bound::{Bounds, Contract, accepts, bounds, domain_ok, lse_bound, ratio};
use attnfuzz::float::Dtype;
use attnfuzz::reference::{Row, attend};
use proptest::prelude::*;

const LAMBDA: f64 = 8.0;

/// A row's output and log-sum-exp, each with its bound.
pub(super) struct Judged {
    pub(super) o: Vec<f64>,
    pub(super) lse: f64,
    pub(super) bounds: Bounds,
    pub(super) lse_bound: f64,
    pub(super) in_domain: bool,
}

pub(super) fn judge(inputs: &Inputs, contract: &Contract) -> Judged {
    let widen = |x: &[f32]| x.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    let (q, k, v) = (widen(&inputs.q), widen(&inputs.k), widen(&inputs.v));
    let reference = attend(&Row {
        q: &q,
        k: &k,
        v: &v,
        head_dim: inputs.d,
        v_head_dim: inputs.dv,
        scale: inputs.scale,
        softcap: inputs.softcap,
        sink: inputs.sink.map(f64::from),
    });
    let contract = contract.at(reference.elements(), inputs.d);
    Judged {
        bounds: bounds(&reference, &contract, LAMBDA),
        lse_bound: lse_bound(&reference, &contract),
        in_domain: domain_ok(&reference, &contract),
        o: reference.o,
        lse: reference.lse,
    }
}

/// The largest share of the bound that any column uses.
fn worst(out: &[f32], o: &[f64], b: &[f64], dtype: Dtype) -> f64 {
    let ratios = out.iter().zip(o).zip(b).map(|((&out, &o), &b)| ratio(dtype.round(f64::from(out)), o, b, dtype));
    ratios.fold(0.0, f64::max)
}

fn sizes() -> impl Strategy<Value = (usize, usize, usize)> {
    let n = prop_oneof![1..9usize, 1..70usize, 1..400usize];
    (n, prop_oneof![1..9usize, 1..130usize], 1..4usize)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn correct_kernels_keep_their_bounds(
        kernel in prop::sample::select(&Kernel::ALL[..]),
        distribution in prop::sample::select(&Distribution::ALL[..]),
        dtype in prop::sample::select(&Dtype::ALL[..]),
        (n, d, dv) in sizes(),
        softcap in prop_oneof![5 => Just(None), 1 => Just(Some(5.0f32)), 1 => Just(Some(50.0))],
        sink in prop_oneof![5 => Just(None), 1 => (-8.0..8.0f32).prop_map(Some), 1 => Just(Some(200.0))],
        seed: u64,
        anything: bool,
    ) {
        let inputs = Inputs { softcap, sink, ..distribution.row(n, d, dv, dtype, seed) };
        let contract = if anything { weakened(kernel) } else { kernel.contract() };
        let judged = judge(&inputs, &contract);
        prop_assume!(judged.in_domain);
        let (out, lse) = kernel.run(&inputs, Bug::None, seed);
        for t in 0..dv {
            let (out, o) = (dtype.round(f64::from(out[t])), judged.o[t]);
            prop_assert!(
                accepts(out, o, judged.bounds.det[t], dtype),
                "column {t}: {out:e}, reference {o:e}, bound {:e}, ratio {}",
                judged.bounds.det[t], ratio(out, o, judged.bounds.det[t], dtype),
            );
            if distribution.random_signs() {
                prop_assert!(accepts(out, o, judged.bounds.sgn[t], dtype), "column {t}, random signs: {out:e}, reference {o:e}, bound {:e}", judged.bounds.sgn[t]);
            }
        }
        // A sink left out of the maximum makes exp overflow, and the kernel's log-sum-exp infinite.
        if lse.is_finite() {
            prop_assert!((f64::from(lse) - judged.lse).abs() <= judged.lse_bound, "log-sum-exp {lse}, reference {}, bound {:e}", judged.lse, judged.lse_bound);
        }
    }
}

/// What someone would say who knows little of the kernel.
fn weakened(kernel: Kernel) -> Contract {
    let p_round = match kernel {
        Kernel::Tiles => "bf16",
        Kernel::Unfused => "f16",
        _ => "none",
    };
    let p_norm = kernel == Kernel::Unfused;
    toml::from_str(&format!("preset = 'any'\np_round = '{p_round}'\np_norm = {p_norm}")).unwrap()
}

/// Runs a kernel over ordinary rows, and counts how many the bound catches.
fn caught(kernel: Kernel, bug: Bug, dtype: Dtype, distributions: &[Distribution]) -> f64 {
    let (mut runs, mut violations) = (0, 0);
    for &distribution in distributions {
        for seed in 0..40u64 {
            let inputs = distribution.row(20 + seed as usize * 3, 64, 8, dtype, seed);
            let judged = judge(&inputs, &kernel.contract());
            let (out, _) = kernel.run(&inputs, bug, seed);
            runs += 1;
            violations += u32::from(worst(&out, &judged.o, &judged.bounds.det, dtype) > 1.0);
        }
    }
    f64::from(violations) / f64::from(runs)
}

#[test]
fn planted_bugs_are_caught() {
    let ordinary = [Distribution::Normal, Distribution::ZeroQ];
    for kernel in Kernel::ALL {
        assert_eq!(caught(kernel, Bug::None, Dtype::F32, &Distribution::ALL), 0.0, "{kernel:?} is correct");
        for bug in [Bug::DroppedKey, Bug::LostValue] {
            let share = caught(kernel, bug, Dtype::F32, &ordinary);
            assert!(share >= 0.95, "{kernel:?} with {bug:?} is caught in {share} of runs");
        }
        // Rows where one key has all the weight do not depend on the scale.
        let share = caught(kernel, Bug::Scale, Dtype::F32, &[Distribution::Peaky]);
        assert!(share >= 0.75, "{kernel:?} with a wrong scale is caught in {share} of runs");
    }
    for kernel in [Kernel::Sequential, Kernel::Pairwise, Kernel::Warps] {
        let share = caught(kernel, Bug::HalfOutput, Dtype::F32, &ordinary);
        assert!(share >= 0.95, "{kernel:?} with a half-precision output is caught in {share} of runs");
    }
    for kernel in [Kernel::Warps, Kernel::Tiles, Kernel::Splits] {
        let share = caught(kernel, Bug::NoRescale, Dtype::F32, &[Distribution::Increasing]);
        assert!(share >= 0.95, "{kernel:?} without rescales is caught in {share} of runs");
    }
}

/// A bound that is never violated may be useless. The errors of half of all rows come within a factor of
/// 1000 of this one, and those of the worst within 100.
#[test]
fn the_bound_is_not_far_from_the_errors() {
    let mut report = String::new();
    for kernel in Kernel::ALL {
        for n in [7usize, 64, 257, 1000] {
            let mut ratios = Vec::new();
            for distribution in Distribution::ALL {
                for seed in 0..6 {
                    let inputs = distribution.row(n, 64, 8, Dtype::F32, seed);
                    let judged = judge(&inputs, &kernel.contract());
                    let (out, _) = kernel.run(&inputs, Bug::None, seed);
                    ratios.push(worst(&out, &judged.o, &judged.bounds.det, Dtype::F32));
                }
            }
            ratios.sort_by(f64::total_cmp);
            let (median, most) = (ratios[ratios.len() / 2], ratios[ratios.len() - 1]);
            report += &format!("{kernel:?} n={n}: median {median:.4}, most {most:.3}\n");
            assert!(most <= 1.0 && most > 0.01 && median > 1e-3, "{report}");
        }
    }
}
