//! The rows of a case's output, each with its reference.

use crate::case::Case;
use crate::case::values::{Role, RowAt};
use crate::reference::{self, Row};

/// An output row and what attention should have put there.
pub struct ExpectedRow<'a> {
    /// Step, from 0.
    pub step: u32,
    /// `[token, q_head]` in the step's output.
    pub at: [u64; 2],
    /// Visible keys.
    pub n: usize,
    /// The reference's result for the row.
    pub reference: reference::Reference<'a>,
}

/// Hands every output row of `case` to `visit`, with its reference. Rows that share K and V come together.
pub fn for_each_row(case: &Case, mut visit: impl FnMut(ExpectedRow<'_>)) {
    heads(case).for_each(|(request, kv_head)| Head::of(case, request, kv_head).for_each_row(&mut visit));
}

/// Every request with every KV head.
pub(super) fn heads(case: &Case) -> impl Iterator<Item = (usize, u32)> {
    let kv_heads = case.shape.num_kv_heads;
    (0..case.shape.requests.len()).flat_map(move |request| (0..kv_heads).map(move |kv_head| (request, kv_head)))
}

/// The keys and values of a KV head of a request, those of every step.
pub(super) struct Head<'a> {
    case: &'a Case,
    pub(super) request: usize,
    pub(super) kv_head: u32,
    /// `[token, head_dim]`.
    pub(super) k: Vec<f64>,
    /// `[token, v_head_dim]`.
    pub(super) v: Vec<f64>,
}

impl<'a> Head<'a> {
    pub(super) fn of(case: &'a Case, request: usize, kv_head: u32) -> Self {
        let tokens = case.past_len_at(request, case.steps);
        let [mut k, mut v] =
            [case.shape.head_dim, case.shape.v_head_dim].map(|dim| Vec::with_capacity((tokens * dim) as usize));
        for token in 0..tokens {
            let at = RowAt { request: request as u32, kv_head, member: 0, token };
            case.row(Role::K, at, &mut k);
            case.row(Role::V, at, &mut v);
        }
        Self { case, request, kv_head, k, v }
    }

    pub(super) fn for_each_row(&self, visit: &mut impl FnMut(ExpectedRow<'_>)) {
        let Self { case, request, kv_head, .. } = *self;
        let shape = &case.shape;
        let q_len = shape.requests[request].q_len;
        let first_token: u32 = shape.requests[..request].iter().map(|r| r.q_len).sum();
        let [head_dim, v_head_dim] = [shape.head_dim, shape.v_head_dim].map(|n| n as usize);
        let mut q = Vec::with_capacity(head_dim);
        for step in 0..case.steps {
            for query in 0..q_len {
                let visible = case.visible(request, step, query);
                let (low, high) = (visible.start as usize, visible.end as usize);
                let (k, v) = (&self.k[low * head_dim..high * head_dim], &self.v[low * v_head_dim..high * v_head_dim]);
                for member in 0..shape.q_per_kv {
                    q.clear();
                    let at = RowAt { request: request as u32, kv_head, member, token: step * q_len + query };
                    case.row(Role::Q, at, &mut q);
                    let sink = case.sink(kv_head, member);
                    let softcap = case.features.softcap;
                    let row = Row { q: &q, k, v, head_dim, v_head_dim, scale: case.scale, softcap, sink };
                    let at = [first_token + query, kv_head * shape.q_per_kv + member].map(u64::from);
                    visit(ExpectedRow { step, at, n: visible.len(), reference: reference::attend(&row) });
                }
            }
        }
    }
}
