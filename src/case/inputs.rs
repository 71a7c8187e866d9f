//! The tensors of a case, as bytes in memory order.

use super::values::{Role, RowAt};
use super::{Case, Poison};
use crate::tensor::Buffer;
use std::fmt;

/// The tensors a kernel of this kind may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TensorName {
    /// Queries of a step, `[token, q_head, head_dim]`.
    Q,
    /// New keys of a step, `[token, kv_head, head_dim]`.
    KNew,
    /// New values of a step, `[token, kv_head, v_head_dim]`.
    VNew,
    /// Key cache, `[request, kv_head, token, head_dim]` through strides.
    KCache,
    /// Value cache, `[request, kv_head, token, v_head_dim]` through strides.
    VCache,
    /// Output of a step, `[token, q_head, v_head_dim]`.
    Out,
    /// Log-sum-exp of each row of a step, `[token, q_head]`, in binary32 whatever the case's dtype.
    Lse,
}

impl TensorName {
    /// Every tensor.
    pub const ALL: [Self; 7] = [Self::Q, Self::KNew, Self::VNew, Self::KCache, Self::VCache, Self::Out, Self::Lse];
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
}

impl Inputs {
    /// Makes the tensors of `case`, with `poison` wherever nothing may be read.
    pub fn of(case: &Case, poison: Poison) -> Self {
        let tokens = |request: usize| 0..case.shape.requests[request].past_len;
        Self {
            steps: (0..case.steps).map(|step| StepInputs::of(case, step)).collect(),
            k_cache: cache(case, Role::K, poison, tokens),
            v_cache: cache(case, Role::V, poison, tokens),
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
                    let at = RowAt { request, kv_head, member: 0, token: position };
                    case.row(Role::K, at, &mut k_new);
                    case.row(Role::V, at, &mut v_new);
                }
            }
        }
        let past_lens = (0..shape.requests.len()).map(|r| case.past_len_at(r, step)).collect();
        let [q, k_new, v_new] = [q, k_new, v_new].map(|values| Buffer::of_values(case.dtype, &values));
        Self { q, k_new, v_new, past_lens }
    }
}

/// A cache that holds `tokens` of each request and poison everywhere else.
fn cache(case: &Case, role: Role, poison: Poison, tokens: impl Fn(usize) -> std::ops::Range<u32>) -> Buffer {
    let dim = if role == Role::K { case.shape.head_dim } else { case.shape.v_head_dim };
    let layout = case.cache_layout(dim);
    let mut buffer = Buffer::filled(case.dtype, layout.span(), poison.bits(case.dtype));
    let mut row = Vec::new();
    for request in 0..case.shape.batch() {
        for kv_head in 0..case.shape.num_kv_heads {
            for token in tokens(request as usize) {
                row.clear();
                case.row(role, RowAt { request, kv_head, member: 0, token }, &mut row);
                let offset = layout.offset(&[request, kv_head, token, 0].map(u64::from));
                buffer.set_values(offset, &row);
            }
        }
    }
    buffer
}

impl Case {
    /// Element ranges of the cache (rows of `dim`) that hold past tokens when step `step` starts.
    pub fn cached_ranges(&self, dim: u32, step: u32) -> impl Iterator<Item = std::ops::Range<usize>> {
        let layout = self.cache_layout(dim);
        (0..self.shape.batch()).flat_map(move |request| {
            let layout = layout.clone();
            let tokens = self.past_len_at(request as usize, step);
            (0..self.shape.num_kv_heads).flat_map(move |head| {
                let layout = layout.clone();
                (0..tokens).map(move |token| {
                    let start = layout.offset(&[request, head, token, 0].map(u64::from));
                    start..start + dim as usize
                })
            })
        })
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
        })
    }
}
