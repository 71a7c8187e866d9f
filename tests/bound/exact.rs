//! Rows whose bound collapses: every correct kernel is exact on them, so one key too few is seen at any length.

use super::kernels::{Bug, Inputs, Kernel};
use super::simulated::judge;
use attnfuzz::bound::accepts;
use attnfuzz::float::Dtype;

/// Values with random signs that are multiples of 1/64 between 1 and 2.
fn values(n: usize, dv: usize, seed: u64) -> Vec<f32> {
    (0..(n * dv) as u64)
        .map(|i| {
            let h = (i + seed * 1_000_003)
                .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                .rotate_left(29)
                .wrapping_mul(0xBF58_476D_1CE4_E5B9);
            let sign = if h >> 63 == 0 { 1.0 } else { -1.0 };
            sign * ((h >> 40) % 64 + 64) as f32 / 64.0
        })
        .collect()
}

/// All keys are selected: `q = 0`.
fn uniform(n: usize, seed: u64) -> Inputs {
    let (d, dv) = (64, 4);
    let k = values(n, d, seed + 77);
    Inputs { q: vec![0.0; d], k, v: values(n, dv, seed), d, dv, scale: 0.125, softcap: None, sink: None }
}

/// The last key and about half of the others are selected.
fn selector(n: usize, seed: u64) -> Inputs {
    let mut inputs = uniform(n, seed);
    let last = inputs.d - 1;
    inputs.q[last] = 2048.0;
    for j in 0..n {
        let selected = j == n - 1 || inputs.k[j * inputs.d] > 0.0;
        inputs.k[j * inputs.d + last] = if selected { 0.0 } else { -1.0 };
    }
    inputs
}

#[test]
fn the_bound_collapses_and_correct_kernels_keep_it() {
    // Not the kernels that normalise first or go through a logarithm.
    for kernel in [Kernel::Sequential, Kernel::Pairwise, Kernel::Warps, Kernel::Tiles] {
        for (n, seed) in [(1, 1), (5, 2), (64, 3), (257, 4), (3000, 5)] {
            for inputs in [uniform(n, seed), selector(n, seed)] {
                let contract = kernel.contract();
                let judged = judge(&inputs, &contract);
                let (right, _) = kernel.run(&inputs, Bug::None, 2);
                let (wrong, _) = kernel.run(&inputs, Bug::DroppedKey, 2);
                let mut seen = false;
                for t in 0..inputs.dv {
                    let (o, b) = (judged.o[t], judged.bounds.det[t]);
                    let division = contract.at(n, inputs.d).e_div * o.abs();
                    assert!(
                        b <= 1.001 * division + 1e-14 * n as f64,
                        "{kernel:?} n={n}: bound {b:e}, division {division:e}"
                    );
                    for dtype in Dtype::ALL {
                        let stored = |x: f32| dtype.round(f64::from(x));
                        assert!(accepts(stored(right[t]), o, b, dtype), "{kernel:?} n={n} {dtype}");
                    }
                    seen |= !accepts(f64::from(wrong[t]), o, b, Dtype::F32);
                }
                // Without its only key a kernel divides by zero.
                assert!(seen, "{kernel:?} n={n}: a dropped key went unseen");
            }
        }
    }
}

#[test]
fn a_uniform_row_is_the_mean() {
    let inputs = uniform(100, 9);
    let judged = judge(&inputs, &Kernel::Sequential.contract());
    for t in 0..inputs.dv {
        let mean = inputs.v.iter().skip(t).step_by(inputs.dv).map(|&v| f64::from(v)).sum::<f64>() / 100.0;
        assert!((judged.o[t] - mean).abs() < 1e-15);
    }
    assert!((judged.lse - 100f64.ln()).abs() < 1e-15);
}
