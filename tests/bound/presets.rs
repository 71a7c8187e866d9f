//! Presets, without overrides, against kernels of their class.

use super::inputs::Distribution;
use super::kernels::{Bug, Kernel};
use super::simulated::judge;
use super::terms::attempt;
use attnfuzz::bound::{Contract, accepts};
use attnfuzz::float::Dtype;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Simulated kernels, the preset of their class with what it leaves to the manifest, and the types it is for.
const CLASSES: [(Kernel, &str, &[Dtype]); 11] = [
    (Kernel::Sequential, "preset = 'naive'", &Dtype::ALL),
    (Kernel::Pairwise, "preset = 'naive'", &Dtype::ALL),
    (Kernel::Warps, "preset = 'split'", &Dtype::ALL),
    (Kernel::Splits, "preset = 'split-lse'\nprescale_lossy = true", &Dtype::ALL),
    (Kernel::Tiles, "preset = 'online'\nk_m = 1\np_round = 'bf16'", &Dtype::ALL),
    // Scores are kept in binary32, which is less than the preset allows.
    (Kernel::Unfused, "preset = 'torch-math'", &[Dtype::F16]),
    (Kernel::Sequential, "preset = 'any'", &Dtype::ALL),
    (Kernel::Warps, "preset = 'any'", &Dtype::ALL),
    (Kernel::Splits, "preset = 'any'", &Dtype::ALL),
    (Kernel::Tiles, "preset = 'any'", &[Dtype::Bf16]),
    // Rounding to nearest loses less than cutting off.
    (Kernel::Tiles, "preset = 'any-tensor-core'", &[Dtype::Bf16]),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kernels_of_its_class_keep_a_preset(
        (kernel, preset, dtypes) in prop::sample::select(&CLASSES[..]),
        dtype: prop::sample::Index,
        distribution in prop::sample::select(&Distribution::ALL[..]),
        n in prop_oneof![1..9usize, 1..300usize],
        d in prop_oneof![1..9usize, 1..130usize],
        seed: u64,
    ) {
        let dtype = *dtype.get(dtypes);
        let inputs = distribution.row(n, d, 2, dtype, seed);
        let judged = judge(&inputs, &toml::from_str(preset).unwrap());
        prop_assume!(judged.in_domain);
        let (out, lse) = kernel.run(&inputs, Bug::None, seed);
        for t in 0..2 {
            let (out, o, b) = (dtype.round(f64::from(out[t])), judged.o[t], judged.bounds.det[t]);
            prop_assert!(accepts(out, o, b, dtype), "column {t}: {out:e}, reference {o:e}, bound {b:e}");
        }
        prop_assert!((f64::from(lse) - judged.lse).abs() <= judged.lse_bound, "log-sum-exp {lse}, {}", judged.lse);
    }

    /// Those no kernel is simulated for are kept by the kernel that uses all they allow, tensor cores included.
    #[test]
    fn the_extremal_kernel_keeps_every_preset(
        preset in prop::sample::select(Contract::presets().collect::<Vec<_>>()),
        distribution in prop::sample::select(&Distribution::ALL[..]),
        dtype in prop::sample::select(&[Dtype::F16, Dtype::Bf16][..]),
        n in prop_oneof![1..9usize, 1..200usize],
        d in prop_oneof![1..9usize, 1..130usize],
        seed: u64,
    ) {
        let inputs = distribution.row(n, d, 1, dtype, seed);
        let contract = Contract::preset(preset).unwrap();
        prop_assume!(judge(&inputs, &contract).in_domain);
        let tried = attempt(&inputs, &contract, &contract);
        prop_assert!(tried.error <= tried.with, "error {:e}, bound {:e}", tried.error, tried.with);
        prop_assert!(tried.lse_error <= tried.lse_with, "log-sum-exp: {:e}, bound {:e}", tried.lse_error, tried.lse_with);
    }
}

/// A preset that allows less than its class does would be violated by it; one that allows much more finds nothing.
#[test]
fn every_preset_is_used_by_its_class() {
    let mut unused = BTreeSet::new();
    for preset in Contract::presets() {
        let contract = Contract::preset(preset).unwrap();
        let share = |seed| {
            let inputs = Distribution::Peaky.row(40, 64, 1, Dtype::F16, seed);
            let tried = attempt(&inputs, &contract, &contract);
            tried.error / tried.with
        };
        let most = (0..20).map(share).fold(0.0, f64::max);
        if most < 0.2 {
            unused.insert(format!("{preset}: {most}"));
        }
    }
    assert!(unused.is_empty(), "{unused:?}");
}
