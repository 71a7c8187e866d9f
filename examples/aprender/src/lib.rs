//! The decode kernels of `aprender-gpu`, whose Rust builders write PTX with every dimension baked in.
//!
//! Each case asks the builder for its own PTX: heads, dims, the capacity of the cache and 1/sqrt(head_dim) are immediates,
//! and only the pointers and the number of keys are parameters.

use attnfuzz::backend::manifest::Scalar;
use attnfuzz::backend::{Kernel, KernelBuilder, OpenError};
use attnfuzz::case::{CacheOrder, Case, Domain, Range, TensorName};
use trueno_gpu::kernels::{IncrementalAttentionKernel, Kernel as Emit, MultiWarpIncrementalAttentionKernel};

/// What the crate's documentation claims of both kernels: one query token of one request, binary32, and keys and values
/// `[num_kv_heads, max_seq_len, head_dim]` that are there already. "Supports head_dim: 32, 64, 96, 128".
pub fn documented() -> Domain {
    Domain {
        head_dim: [32, 64, 96, 128].into(),
        num_kv_heads: (1..=32).into(),
        q_per_kv: (1..=16).into(),
        batch: 1.into(),
        past_len: (1..=2048).into(),
        cache: vec![CacheOrder::Hnd],
        any_scale: false,
        append: false,
        ..Domain::default()
    }
}

/// The same with a model's heads.
pub fn with_heads(num_q_heads: u32, num_kv_heads: u32, head_dim: u32) -> Domain {
    Domain {
        head_dim: head_dim.into(),
        num_kv_heads: num_kv_heads.into(),
        q_per_kv: (num_q_heads / num_kv_heads).into(),
        ..documented()
    }
}

/// `IncrementalAttentionKernel::with_gqa`: a block of one warp for each query head.
pub fn incremental(name: &str, domain: Domain) -> Result<Kernel, OpenError> {
    builder(name, "incremental_attention", domain, "32").ptx_for(|case| {
        let (capacity, head_dim, num_q_heads, num_kv_heads) = sizes(case);
        Ok(IncrementalAttentionKernel::with_gqa(capacity, head_dim, num_q_heads, num_kv_heads).emit_ptx())
    })
}

/// `MultiWarpIncrementalAttentionKernel`: the keys of a query head spread over `num_warps` warps of its block, 4 to 8 as
/// the documentation recommends.
pub fn multi_warp(name: &str, mut domain: Domain) -> Result<Kernel, OpenError> {
    let knob = "num_warps".parse().unwrap_or_else(|_| unreachable!("it is a knob's name"));
    domain.knobs.insert(knob, Range::from(4..=8));
    builder(name, "multi_warp_attention", domain, "32 * num_warps").ptx_for(|case| {
        let (capacity, head_dim, num_q_heads, num_kv_heads) = sizes(case);
        let num_warps = *case.knobs.get("num_warps").ok_or("the case has no num_warps")?;
        let kernel = MultiWarpIncrementalAttentionKernel::new(capacity, head_dim, num_q_heads, num_kv_heads, num_warps);
        Ok(kernel.emit_ptx())
    })
}

fn builder(name: &str, entry: &str, domain: Domain, block: &str) -> KernelBuilder {
    use TensorName::{KCache, Out, Q, VCache};
    KernelBuilder::new(name, domain)
        .launch(entry, ["num_q_heads", "1", "1"], [block, "1", "1"])
        .tensors([Q, KCache, VCache, Out])
        .value("kv_len_max", Scalar::U32)
}

fn sizes(case: &Case) -> (u32, u32, u32, u32) {
    let shape = &case.shape;
    (case.cache.capacity, shape.head_dim, shape.num_q_heads(), shape.num_kv_heads)
}
