//! Both kernels in the emulator, within what their documentation claims.

use attnfuzz::backend::{Kernel, OpenError};
use attnfuzz::case::Domain;
use attnfuzz::harness::{Harness, Settings};
use attnfuzz_aprender::{documented, incremental, multi_warp, with_heads};

/// Heads of Qwen2.5-7B, TinyLlama, Llama-3.1-8B, Qwen2.5-1.5B and Qwen2.5-0.5B: query heads, KV heads, head_dim.
const MODELS: [[u32; 3]; 5] = [[28, 4, 128], [32, 4, 64], [32, 8, 128], [12, 2, 128], [14, 2, 64]];

fn tested(kernel: Result<Kernel, OpenError>, cases: u64) -> Result<(), String> {
    Harness::of_kernel(kernel.map_err(|error| error.to_string())?).test(&Settings::cases(cases))
}

#[test]
fn incremental_attention_agrees() {
    tested(incremental("incremental_attention", documented()), 500).unwrap();
    for [num_q_heads, num_kv_heads, head_dim] in MODELS {
        let domain = with_heads(num_q_heads, num_kv_heads, head_dim);
        tested(incremental("incremental_attention", domain), 100).unwrap();
    }
}

#[test]
fn multi_warp_attention_agrees_at_head_dim_128() {
    tested(multi_warp("multi_warp_attention", Domain { head_dim: 128.into(), ..documented() }), 500).unwrap();
    for [num_q_heads, num_kv_heads, head_dim] in MODELS.into_iter().filter(|model| model[2] == 128) {
        let domain = with_heads(num_q_heads, num_kv_heads, head_dim);
        tested(multi_warp("multi_warp_attention", domain), 100).unwrap();
    }
}

/// What is wrong in 0.72.3: see README.md. A release without it makes this test fail, and then it is to go.
#[test]
fn multi_warp_attention_reads_behind_its_shared_memory_below_128() {
    for head_dim in [32, 64, 96] {
        let domain = Domain { head_dim: head_dim.into(), ..documented() };
        let report = tested(multi_warp("multi_warp_attention", domain), 20).unwrap_err();
        // (2 num_warps + 2 + num_warps * head_dim) floats, with the four warps that shrinking leaves.
        let end = (10 + 4 * head_dim) * 4;
        let expected = format!("past the end of its {end} bytes in shared memory");
        assert!(report.contains("out of bounds in `multi_warp_attention`") && report.contains(&expected), "{report}");
        assert!(report.contains(&format!("kv=1 g=1 d={head_dim} past=1 ")), "{report}");
        println!("{report}");
    }
}
