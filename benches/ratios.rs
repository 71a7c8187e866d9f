//! What does not depend on the machine's speed, only on its kind: ratios of times measured in turns. `cargo bench` prints
//! them.
//!
//! - the decode kernel in the emulator against the same attention as plain scalar Rust;
//! - cases judged on one thread against the same cases on two.

use attnfuzz::backend::{Emulator, Kernel, Run};
use attnfuzz::case::{Case, Inputs};
use attnfuzz::emulator::Checks;
use attnfuzz::oracle::{Verdict, examine};
use attnfuzz::tensor::Buffer;
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

#[expect(clippy::print_stdout, reason = "a benchmark's result")]
fn main() {
    let kernel = Kernel::open("gqa_decode").expect("a shipped kernel opens");
    let print = |what: &str, ratio: f64| println!("{what}: {ratio:.2}");
    print("emulator / native", emulator_over_native(&kernel));
    print("speed-up of cases by a second thread", speed_up_of_cases(&kernel));
}

/// Median time of `a` over that of `b`.
fn ratio(turns: usize, mut a: impl FnMut(), mut b: impl FnMut()) -> f64 {
    let time = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed()
    };
    let (mut of_a, mut of_b): (Vec<Duration>, Vec<Duration>) = (0..turns).map(|_| (time(&mut a), time(&mut b))).unzip();
    of_a.sort_unstable();
    of_b.sort_unstable();
    of_a[turns / 2].as_secs_f64() / of_b[turns / 2].as_secs_f64()
}

/// Times the native attention runs for each emulated one, so that both take a while.
const REPEATS: usize = 10;

fn emulator_over_native(kernel: &Kernel) -> f64 {
    let text = "kv=2 g=8 d=128 past=255 dtype=f32 cache=hnd:256 scale=0.088388346 values=normal:0";
    let case: Case = text.parse().expect("a case");
    let inputs = Inputs::of(&case, case.poison);
    let floats = |buffer: &Buffer| -> Vec<f32> { (0..buffer.len()).map(|i| buffer.value(i) as f32).collect() };
    let step = &inputs.steps[0];
    let [q, k_new, v_new] = [&step.q, &step.k_new, &step.v_new].map(floats);
    let [k_cache, v_cache] = [&inputs.k_cache, &inputs.v_cache].map(floats);
    let emulated = || {
        black_box(Emulator.measure(kernel, &case, Run::first(&case), Checks::default()).expect("it runs"));
    };
    let native = || {
        for _ in 0..REPEATS {
            let k = black_box(&k_cache);
            black_box(scalar_attention(black_box(&q), &k_new, &v_new, k, &v_cache, case.scale));
        }
    };
    ratio(20, emulated, native) * REPEATS as f64
}

/// Decode attention with two KV heads of eight query heads each over 256 keys, as anyone would write it first: scalar, online softmax.
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

fn speed_up_of_cases(kernel: &Kernel) -> f64 {
    let cases: Vec<Case> = (0..128).map(|index| kernel.space().case_at(0, index)).collect();
    let judge = |cases: &mut dyn Iterator<Item = &Case>| {
        for case in cases {
            let verdict = examine(&Emulator, kernel, case).expect("it runs").verdict;
            assert!(matches!(verdict, Verdict::Agree(_)), "{case}");
        }
    };
    let two = || {
        thread::scope(|scope| {
            scope.spawn(|| judge(&mut cases.iter().step_by(2)));
            judge(&mut cases.iter().skip(1).step_by(2));
        });
    };
    ratio(5, || judge(&mut cases.iter()), two)
}
