//! What a closure gets and gives.

use super::Tensor;
use crate::backend::manifest::Index;
use crate::case::{self, CacheMap, Case, Poison, StepInputs};
use crate::float::Dtype;
use crate::tensor::Buffer;

/// The tensors of one step of a case, laid out as a caller of an attention kernel has them.
///
/// The closure owns them: it may change the caches in place and give them back. Whatever it must not read holds poison,
/// and other poison when the case runs again.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inputs {
    /// Which step of the case, from 0.
    pub step: u32,
    /// Queries, `[total_q_len, num_q_heads, head_dim]`, the tokens of all requests in a row.
    pub q: Tensor,
    /// New keys, `[total_q_len, num_kv_heads, head_dim]`; empty unless the domain has `append`.
    pub k_new: Tensor,
    /// New values, `[total_q_len, num_kv_heads, v_head_dim]`; empty unless the domain has `append`.
    pub v_new: Tensor,
    /// Key cache as the step before left it; a row starts at [`k_layout`](Self::k_layout)`.offset(request, kv_head, token)`.
    pub k_cache: Tensor,
    /// Value cache, with [`v_layout`](Self::v_layout).
    pub v_cache: Tensor,
    /// Where the rows of the key cache are: offsets and strides, in elements.
    pub k_layout: CacheMap,
    /// Where the rows of the value cache are.
    pub v_layout: CacheMap,
    /// Poison of the output's type and size, `[total_q_len, num_q_heads, v_head_dim]`. A closure that fills it and gives it
    /// back has elements that it forgot found.
    pub out: Tensor,
    /// The same for the log-sum-exps, `[total_q_len, num_q_heads]`; empty if the subject returns none.
    pub lse: Vec<f32>,
    /// Tokens in the cache before the step, of each request.
    pub past_len: Vec<i32>,
    /// Tokens in the cache after the step, of each request.
    pub kv_len: Vec<i32>,
    /// Query tokens of the step, of each request.
    pub q_len: Vec<i32>,
    /// Query tokens of the requests before each, and of all: `batch + 1` numbers.
    pub cu_q_len: Vec<i32>,
    /// Tokens in the cache after the step, of the requests before each, and of all: `batch + 1` numbers.
    pub cu_kv_len: Vec<i32>,
    /// Pages of each request, `[batch, pages_per_request]`, [`NO_PAGE`](crate::case::NO_PAGE) behind its last; empty without pages.
    pub block_table: Vec<i32>,
    /// Logits of the sinks, `[num_q_heads]`; empty without sinks.
    pub sinks: Vec<f32>,
    /// Factor of the logits.
    pub scale: f32,
}

/// What a subject made of a step.
#[derive(Clone, Debug)]
pub struct Outputs {
    out: Tensor,
    lse: Option<Vec<f32>>,
    caches: Option<[Tensor; 2]>,
}

impl Outputs {
    /// The output, `[total_q_len, num_q_heads, v_head_dim]`, of the case's dtype.
    pub fn new(out: impl Into<Tensor>) -> Self {
        Self { out: out.into(), lse: None, caches: None }
    }

    /// And the log-sum-exps, `[total_q_len, num_q_heads]`.
    #[must_use]
    pub fn lse(self, lse: Vec<f32>) -> Self {
        Self { lse: Some(lse), ..self }
    }

    /// And the caches as they are now, whole: asked for where the domain has `append`.
    #[must_use]
    pub fn caches(self, k_cache: impl Into<Tensor>, v_cache: impl Into<Tensor>) -> Self {
        Self { caches: Some([k_cache.into(), v_cache.into()]), ..self }
    }

    /// The output and the log-sum-exps, if they are what the case asks for; the caches are put where they belong.
    pub(super) fn check(
        self,
        case: &Case,
        with_lse: bool,
        caches: &mut Caches,
    ) -> Result<(Buffer, Option<Buffer>), String> {
        let is_right = |name: &str, found: &Tensor, len: usize| {
            if found.len() == len && found.dtype() == case.dtype {
                return Ok(());
            }
            let (dtype, found_dtype) = (case.dtype, found.dtype());
            Err(format!("{name}: expected {len} elements of {dtype}, found {} of {found_dtype}", found.len()))
        };
        is_right("out", &self.out, case.output_layout().span())?;
        let rows = case.lse_layout().span();
        let lse = match self.lse {
            Some(lse) if with_lse && lse.len() != rows => {
                return Err(format!("lse: expected {rows} elements, found {}", lse.len()));
            }
            None if with_lse => return Err(format!("lse: expected {rows} elements, found none")),
            lse => lse.filter(|_| with_lse).map(|lse| Tensor::F32(lse).to_buffer()),
        };
        match self.caches {
            Some([k, v]) => {
                is_right("k_cache", &k, caches.k.len())?;
                is_right("v_cache", &v, caches.v.len())?;
                *caches = Caches { k, v };
            }
            None if case.features.append => {
                return Err("caches: expected them back, since the domain has append = true, found none".into());
            }
            None => {}
        }
        Ok((self.out.to_buffer(), lse))
    }
}

/// Both caches, between steps.
#[derive(Clone, Debug)]
pub(super) struct Caches {
    pub(super) k: Tensor,
    pub(super) v: Tensor,
}

impl Caches {
    /// Before the first step.
    pub(super) fn of(inputs: &case::Inputs) -> Self {
        Self { k: Tensor::of(&inputs.k_cache), v: Tensor::of(&inputs.v_cache) }
    }
}

impl Inputs {
    pub(super) fn of(
        case: &Case,
        step: u32,
        tensors: StepInputs,
        sinks: Option<&Buffer>,
        caches: &Caches,
        with_lse: bool,
        poison: Poison,
    ) -> Self {
        // Lengths that are legal are below 2^31.
        let lengths = |which: Index| which.of(case, step).into_iter().map(|n| n as i32).collect::<Vec<i32>>();
        let lse_bits = poison.bits(Dtype::F32);
        Self {
            step,
            q: Tensor::of(&tensors.q),
            k_new: Tensor::of(&tensors.k_new),
            v_new: Tensor::of(&tensors.v_new),
            k_cache: caches.k.clone(),
            v_cache: caches.v.clone(),
            k_layout: case.cache_map(case.shape.head_dim),
            v_layout: case.cache_map(case.shape.v_head_dim),
            out: Tensor::of(&Buffer::filled(case.dtype, case.output_layout().span(), poison.bits(case.dtype))),
            lse: if with_lse { vec![f32::from_bits(lse_bits); case.lse_layout().span()] } else { Vec::new() },
            past_len: lengths(Index::PastLen),
            kv_len: lengths(Index::KvLen),
            q_len: lengths(Index::QLen),
            cu_q_len: lengths(Index::CuQLen),
            cu_kv_len: lengths(Index::CuKvLen),
            block_table: lengths(Index::Padded),
            sinks: sinks.map(|sinks| Tensor::of(sinks).to_f32()).unwrap_or_default(),
            scale: case.scale,
        }
    }
}
