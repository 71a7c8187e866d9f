//! How fast cases are judged and PTX is emulated. `cargo bench` prints the table; docs/measurements.md keeps one.
//!
//! - `emulate`: the decode kernel in the emulator, in lane instructions a second, with the optional checks on and off.
//! - `native`: the same attention as plain scalar Rust, for the ratio to `emulate`.
//! - `judge`: whole cases of the generator's distribution, two runs and the verdict, on 1 and 2 threads.

use attnfuzz::backend::{Emulator, Kernel, Run};
use attnfuzz::case::{Case, Inputs};
use attnfuzz::emulator::Checks;
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::outcome::Outcome;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use std::sync::LazyLock;

fn main() {
    divan::main();
}

static KERNEL: LazyLock<Kernel> = LazyLock::new(|| Kernel::open("gqa_decode").expect("a shipped kernel opens"));

/// Two KV heads with eight query heads each, 256 keys.
static CASE: LazyLock<Case> = LazyLock::new(|| {
    "kv=2 g=8 d=128 past=255 dtype=f32 cache=hnd:256 scale=0.088388346 values=normal:0".parse().expect("a case")
});

#[divan::bench(args = [("checks on", true), ("checks off", false)], sample_count = 20)]
fn emulate(bencher: Bencher, (_, on): (&str, bool)) {
    let off = Checks { alignment: false, uninitialised: false, read_only: false, shared_races: false };
    let checks = if on { Checks::default() } else { off };
    let run = || Emulator.measure(&KERNEL, &CASE, Run::first(&CASE), checks).expect("it runs");
    let (outcome, stats) = run();
    assert!(matches!(outcome, Outcome::Output(_)));
    bencher.counter(ItemsCount::new(stats.lane_instructions)).bench(|| black_box(run()));
}

#[divan::bench(sample_count = 20)]
fn native(bencher: Bencher) {
    let inputs = Inputs::of(&CASE, CASE.poison);
    let floats =
        |buffer: &attnfuzz::tensor::Buffer| -> Vec<f32> { (0..buffer.len()).map(|i| buffer.value(i) as f32).collect() };
    let step = &inputs.steps[0];
    let [q, k_new, v_new] = [&step.q, &step.k_new, &step.v_new].map(floats);
    let [k_cache, v_cache] = [&inputs.k_cache, &inputs.v_cache].map(floats);
    bencher.bench_local(|| {
        black_box(scalar_attention(black_box(&q), &k_new, &v_new, black_box(&k_cache), &v_cache, CASE.scale))
    });
}

/// Decode attention for [`CASE`] as anyone would write it first: scalar, online softmax.
fn scalar_attention(q: &[f32], k_new: &[f32], v_new: &[f32], k: &[f32], v: &[f32], scale: f32) -> Vec<f32> {
    let (kv_heads, group, d, past) = (2, 8, 128, 255);
    let mut out = vec![0.0; kv_heads * group * d];
    for head in 0..kv_heads * group {
        let kv = head / group;
        let q = &q[head * d..][..d];
        let out = &mut out[head * d..][..d];
        let (mut max, mut sum) = (f32::NEG_INFINITY, 0.0f32);
        for token in 0..=past {
            let (k, v) = if token == past {
                (&k_new[kv * d..][..d], &v_new[kv * d..][..d])
            } else {
                let start = (kv * (past + 1) + token) * d;
                (&k[start..][..d], &v[start..][..d])
            };
            let mut dot = 0.0f32;
            for i in 0..d {
                dot += q[i] * k[i];
            }
            let score = dot * scale;
            let new_max = max.max(score);
            let (correction, weight) = ((max - new_max).exp(), (score - new_max).exp());
            max = new_max;
            sum = sum * correction + weight;
            for i in 0..d {
                out[i] = out[i] * correction + weight * v[i];
            }
        }
        for x in out {
            *x /= sum;
        }
    }
    out
}

#[divan::bench(threads = [1, 2], sample_count = 40)]
fn judge(bencher: Bencher) {
    let cases: Vec<Case> = (0..64).map(|index| KERNEL.space().case_at(0, index)).collect();
    bencher.counter(ItemsCount::new(cases.len())).bench(|| {
        for case in &cases {
            let verdict = examine(&Emulator, &KERNEL, case).expect("it runs").verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{case}");
        }
    });
}
