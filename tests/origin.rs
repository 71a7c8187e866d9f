//! The two hand-written parity tests this project grew from, as cases: Qwen2.5-Coder-7B (28 query heads over 4 KV
//! heads, head_dim 128) and TinyLlama (32 over 4, head_dim 64), first token on an empty cache, second token with one
//! cached position. They judged by `diff > tolerance`, which NaN passes, and needed a GPU.
//!
//! Each test runs on the emulator always, and on a GPU when there is one.

use attnfuzz::backend::{Backend, Emulator, Kernel, cuda::Cuda};
use attnfuzz::case::{Case, default_scale};
use attnfuzz::oracle::{Verdict, examine};

const QWEN_CODER_7B: (u32, u32, u32) = (28, 4, 128);
const TINY_LLAMA: (u32, u32, u32) = (32, 4, 64);

/// A case for `heads` = (query heads, KV heads, head_dim), in the shape's words.
fn case((q_heads, kv_heads, d): (u32, u32, u32), past: &str, steps: u32, rest: &str) -> Case {
    let capacity = past.split(',').map(|p| p.parse::<u32>().unwrap()).max().unwrap() + steps;
    let scale = default_scale(d);
    let g = q_heads / kv_heads;
    format!("kv={kv_heads} g={g} d={d} past={past} cache=hnd:{capacity} scale={scale} steps={steps} {rest}")
        .parse()
        .unwrap()
}

pub(crate) fn backends() -> Vec<Box<dyn Backend>> {
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(Emulator)];
    if let Ok(cuda) = Cuda::open(0) {
        backends.push(Box::new(cuda));
    }
    backends
}

fn mutant(name: &str) -> Kernel {
    Kernel::open(&format!("{}/kernels/mutants/gqa_decode/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn verdict(backend: &dyn Backend, kernel: &Kernel, case: &Case) -> Verdict {
    examine(backend, kernel, case).unwrap_or_else(|e| panic!("{case}: {e}")).verdict
}

fn agrees_with_every_head_judged(case: &Case) {
    let kernel = Kernel::open("gqa_decode").unwrap();
    for backend in backends() {
        match verdict(&*backend, &kernel, case) {
            Verdict::Agree(agreement) => {
                let shape = &case.shape;
                let elements = shape.num_q_heads() * shape.head_dim * shape.batch() * case.steps;
                assert_eq!(agreement.elements, u64::from(elements), "{case}");
                assert!(agreement.worst_ratio <= 1.0);
            }
            other => panic!("{case} on {}: {other:?}", backend.describe()),
        }
    }
}

fn fails_on(name: &str, case: &Case) {
    let kernel = mutant(name);
    for backend in backends() {
        let verdict = verdict(&*backend, &kernel, case);
        assert!(matches!(verdict, Verdict::Diverge(_) | Verdict::Fault(_)), "{name} passes {case}: {verdict:?}");
    }
}

#[test]
fn qwen_coder_7b_first_token_on_an_empty_cache() {
    agrees_with_every_head_judged(&case(QWEN_CODER_7B, "0", 1, "dtype=f32 values=normal:1"));
}

#[test]
fn qwen_coder_7b_second_token_with_one_cached_position() {
    agrees_with_every_head_judged(&case(QWEN_CODER_7B, "1", 1, "dtype=f32 values=normal:1"));
}

#[test]
fn tiny_llama_first_token_on_an_empty_cache() {
    agrees_with_every_head_judged(&case(TINY_LLAMA, "0", 1, "dtype=f32 values=normal:1"));
}

#[test]
fn tiny_llama_second_token_with_one_cached_position() {
    agrees_with_every_head_judged(&case(TINY_LLAMA, "1", 1, "dtype=f32 values=normal:1"));
}

#[test]
fn trajectories_from_an_empty_and_from_a_ragged_cache() {
    for heads in [QWEN_CODER_7B, TINY_LLAMA] {
        for dtype in ["f32", "f16", "bf16"] {
            agrees_with_every_head_judged(&case(heads, "0", 6, &format!("dtype={dtype} values=normal:2")));
            agrees_with_every_head_judged(&case(heads, "31,0,65", 3, &format!("dtype={dtype} values=mixed:3")));
        }
    }
}

/// With distinct values in every head, each of the 28 query heads must read its own KV head: 7 in a row share one.
#[test]
fn all_28_query_heads_of_qwen_coder_7b_map_to_their_kv_head() {
    let case = case(QWEN_CODER_7B, "0", 1, "dtype=f32 values=codes:0");
    let kernel = Kernel::open("gqa_decode").unwrap();
    for backend in backends() {
        let output = examine(&*backend, &kernel, &case).unwrap().output.expect("the kernel ends");
        for q_head in 0..28u64 {
            // One key, so its value comes back to the bit; `codes` tells the head: 17 more for each KV head.
            let expected = f64::from((q_head as u32 / 7 * 17) % 127 + 1);
            let start = case.output_layout().offset(&[0, q_head, 0]);
            assert_eq!(output.out[0].value(start), expected, "query head {q_head} on {}", backend.describe());
        }
    }
}

#[test]
fn an_all_nan_output_fails() {
    for heads in [QWEN_CODER_7B, TINY_LLAMA] {
        fails_on("p01_all_nan", &case(heads, "0", 1, "dtype=f32 values=normal:1"));
        fails_on("p01_all_nan", &case(heads, "1", 1, "dtype=f32 values=normal:1"));
    }
}

#[test]
fn a_missing_scale_fails() {
    for heads in [QWEN_CODER_7B, TINY_LLAMA] {
        fails_on("p02_no_scale", &case(heads, "1", 1, "dtype=f32 values=normal:1"));
    }
}

#[test]
fn a_swapped_k_head_fails() {
    for heads in [QWEN_CODER_7B, TINY_LLAMA] {
        fails_on("p05_k_head_swapped", &case(heads, "1", 1, "dtype=f32 values=normal:1"));
    }
}

#[test]
fn a_missing_normalisation_fails() {
    for heads in [QWEN_CODER_7B, TINY_LLAMA] {
        fails_on("p03_no_normalisation", &case(heads, "1", 1, "dtype=f32 values=normal:1"));
    }
}

#[test]
fn an_f32_output_rounded_to_f16_fails() {
    for heads in [QWEN_CODER_7B, TINY_LLAMA] {
        fails_on("p04_output_rounded_to_half", &case(heads, "1", 1, "dtype=f32 values=normal:1"));
    }
}
