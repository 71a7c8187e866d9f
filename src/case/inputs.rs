//! The tensors of a case, as bytes in memory order.

use super::values::{Role, RowAt};
use super::{Case, Poison};
use crate::float::Dtype;
use crate::tensor::Buffer;
use std::fmt;

/// The tensors a kernel of this kind may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorName {
    /// Queries of a step, `[token, q_head, head_dim]`.
    Q,
    /// New keys of a step, `[token, kv_head, head_dim]`; none if nothing is appended.
    KNew,
    /// New values of a step, `[token, kv_head, v_head_dim]`; none if nothing is appended.
    VNew,
    /// Key cache, rows of `head_dim`, where [`CacheMap`](super::CacheMap) says.
    KCache,
    /// Value cache, rows of `v_head_dim`.
    VCache,
    /// Output of a step, `[token, q_head, v_head_dim]`.
    Out,
    /// Log-sum-exp of each row of a step, `[token, q_head]`, in binary32 whatever the case's dtype.
    Lse,
    /// Logits of the sinks, `[q_head]`, in binary32 whatever the case's dtype.
    Sinks,
}

impl TensorName {
    /// Every tensor.
    pub const ALL: [Self; 8] =
        [Self::Q, Self::KNew, Self::VNew, Self::KCache, Self::VCache, Self::Out, Self::Lse, Self::Sinks];
}

/// Inputs of one step.
#[derive(Clone, Debug)]
pub struct StepInputs {
    /// See [`TensorName::Q`].
    pub q: Buffer,
    /// See [`TensorName::KNew`].
    pub k_new: Buffer,
    /// See [`TensorName::VNew`].
    pub v_new: Buffer,
    /// Tokens in the cache of each request before the step.
    pub past_lens: Vec<u32>,
}

/// All input tensors of a case.
#[derive(Clone, Debug)]
pub struct Inputs {
    /// One for each step.
    pub steps: Vec<StepInputs>,
    /// Key cache before the first step: past tokens, and poison elsewhere.
    pub k_cache: Buffer,
    /// Value cache before the first step.
    pub v_cache: Buffer,
    /// See [`TensorName::Sinks`]; nothing without sinks.
    pub sinks: Option<Buffer>,
}

impl Inputs {
    /// Makes the tensors of `case`, with `poison` wherever nothing may be read.
    pub fn of(case: &Case, poison: Poison) -> Self {
        let tokens = |request: usize| 0..case.shape.requests[request].past_len;
        Self {
            steps: (0..case.steps).map(|step| StepInputs::of(case, step)).collect(),
            k_cache: cache(case, Role::K, poison, tokens),
            v_cache: cache(case, Role::V, poison, tokens),
            sinks: sinks(case),
        }
    }

    /// The caches `(k, v)` as a right kernel leaves them after the last step.
    pub fn final_caches(case: &Case, poison: Poison) -> (Buffer, Buffer) {
        let tokens = |request: usize| 0..case.past_len_at(request, case.steps);
        (cache(case, Role::K, poison, tokens), cache(case, Role::V, poison, tokens))
    }
}

impl StepInputs {
    fn of(case: &Case, step: u32) -> Self {
        let shape = &case.shape;
        let mut q = Vec::new();
        let mut k_new = Vec::new();
        let mut v_new = Vec::new();
        for (index, r) in shape.requests.iter().enumerate() {
            let request = index as u32;
            for query in 0..r.q_len {
                let position = case.past_len_at(index, step) + query;
                for kv_head in 0..shape.num_kv_heads {
                    for member in 0..shape.q_per_kv {
                        let at = RowAt { request, kv_head, member, token: step * r.q_len + query };
                        case.row(Role::Q, at, &mut q);
                    }
                    if case.features.append {
                        let at = RowAt { request, kv_head, member: 0, token: position };
                        case.row(Role::K, at, &mut k_new);
                        case.row(Role::V, at, &mut v_new);
                    }
                }
            }
        }
        let past_lens = (0..shape.requests.len()).map(|r| case.past_len_at(r, step)).collect();
        let [q, k_new, v_new] = [q, k_new, v_new].map(|values| Buffer::of_values(case.dtype, &values));
        Self { q, k_new, v_new, past_lens }
    }
}

fn sinks(case: &Case) -> Option<Buffer> {
    let heads = (0..case.shape.num_kv_heads).flat_map(|kv_head| (0..case.shape.q_per_kv).map(move |g| (kv_head, g)));
    let logits: Option<Vec<f64>> = heads.map(|(kv_head, member)| case.sink(kv_head, member)).collect();
    logits.map(|logits| Buffer::of_values(Dtype::F32, &logits))
}

/// A cache that holds `tokens` of each request and poison everywhere else.
fn cache(case: &Case, role: Role, poison: Poison, tokens: impl Fn(usize) -> std::ops::Range<u32>) -> Buffer {
    let dim = if role == Role::K { case.shape.head_dim } else { case.shape.v_head_dim };
    let map = case.cache_map(dim);
    let mut buffer = Buffer::filled(case.dtype, map.span(), poison.bits(case.dtype));
    let mut row = Vec::new();
    for request in 0..case.shape.batch() {
        for kv_head in 0..case.shape.num_kv_heads {
            for token in tokens(request as usize) {
                row.clear();
                case.row(role, RowAt { request, kv_head, member: 0, token }, &mut row);
                buffer.set_values(map.offset(request, kv_head, token), &row);
            }
        }
    }
    buffer
}

impl Case {
    /// Element ranges of the cache (rows of `dim`) that hold past tokens when step `step` starts. Shared rows come for each
    /// request that has them.
    pub fn cached_ranges(&self, dim: u32, step: u32) -> Vec<std::ops::Range<usize>> {
        let map = self.cache_map(dim);
        let mut ranges = Vec::new();
        for request in 0..self.shape.batch() {
            for head in 0..self.shape.num_kv_heads {
                ranges.extend((0..self.past_len_at(request as usize, step)).map(|token| {
                    let start = map.offset(request, head, token);
                    start..start + dim as usize
                }));
            }
        }
        ranges
    }
}

impl fmt::Display for TensorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q => "q",
            Self::KNew => "k_new",
            Self::VNew => "v_new",
            Self::KCache => "k_cache",
            Self::VCache => "v_cache",
            Self::Out => "out",
            Self::Lse => "lse",
            Self::Sinks => "sinks",
        })
    }
}
