//! Common mistakes that no manifest can put right: the kernel computes something near attention.

use crate::backend::{Backend, Emulator, Kernel, Run};
use crate::bound::{self, EmptyRow};
use crate::case::values::{Role, RowAt};
use crate::case::{Case, Shape};
use crate::oracle::SGN_LAMBDA;
use crate::outcome::{Outcome, Output};
use crate::reference::{self, Row};

/// Something that a kernel may compute instead of attention.
pub(super) struct Twist {
    /// What would have to be so.
    pub(super) what: &'static str,
    /// The KV head of a query head.
    kv_head: fn(u32, &Shape) -> u32,
    /// The factor of the logits, for the case's.
    scale: fn(f32) -> f32,
}

pub(super) const ALL: [Twist; 5] = [
    Twist {
        what: "query head h has KV head h % num_kv_heads: the groups are interleaved, where query heads of a group stand together",
        kv_head: |head, shape| head % shape.num_kv_heads,
        scale: |scale| scale,
    },
    Twist { what: "the scale is 1: the kernel never multiplies by it", kv_head: in_groups, scale: |_| 1.0 },
    Twist { what: "the scale is applied twice", kv_head: in_groups, scale: |scale| scale * scale },
    Twist {
        what: "weights are powers of 2: the factor log2(e) is missing where exp2 stands for exp",
        kv_head: in_groups,
        scale: |scale| scale * std::f32::consts::LN_2,
    },
    Twist {
        what: "the factor log2(e) is applied although the kernel takes exp",
        kv_head: in_groups,
        scale: |scale| scale * std::f32::consts::LOG2_E,
    },
];

fn in_groups(head: u32, shape: &Shape) -> u32 {
    head / shape.q_per_kv
}

impl Twist {
    /// Whether the kernel's outputs of all `cases` are this.
    pub(super) fn explains(&self, kernel: &Kernel, cases: &[Case]) -> bool {
        cases.iter().all(|case| match Emulator.run(kernel, case, Run::first(case)) {
            Ok(Outcome::Output(output)) => self.is(kernel, case, &output),
            _ => false,
        })
    }

    fn is(&self, kernel: &Kernel, case: &Case, output: &Output) -> bool {
        let shape = &case.shape;
        let mut first_token = 0;
        for (request, lengths) in shape.requests.iter().enumerate() {
            for (step, query, head) in places(case.steps, lengths.q_len, shape.num_q_heads()) {
                let kv_head = (self.kv_head)(head, shape);
                let at = RowAt { request: request as u32, kv_head, member: 0, token: 0 };
                let (mut q, mut k, mut v) = (Vec::new(), Vec::new(), Vec::new());
                let own = RowAt {
                    kv_head: head / shape.q_per_kv,
                    member: head % shape.q_per_kv,
                    token: step * lengths.q_len + query,
                    ..at
                };
                case.row(Role::Q, own, &mut q);
                let keys = case.visible(request, step, query);
                let n = keys.len();
                for token in keys {
                    case.row(Role::K, RowAt { token, ..at }, &mut k);
                    case.row(Role::V, RowAt { token, ..at }, &mut v);
                }
                let row = Row {
                    q: &q,
                    k: &k,
                    v: &v,
                    head_dim: shape.head_dim as usize,
                    v_head_dim: shape.v_head_dim as usize,
                    scale: (self.scale)(case.scale),
                    softcap: case.features.softcap,
                    sink: case.sink(own.kv_head, own.member),
                };
                let reference = reference::attend(&row);
                let numbers = kernel.manifest.numerics.at_case(n, case);
                if reference.elements() == 0 && numbers.empty_row != EmptyRow::Zero {
                    continue;
                }
                let bounds = bound::bounds(&reference, &numbers, SGN_LAMBDA);
                let start = case.output_layout().offset(&[u64::from(first_token + query), u64::from(head), 0]);
                let out = &output.out[step as usize];
                let accepts =
                    |dim: usize| bound::accepts(out.value(start + dim), reference.o[dim], bounds.det[dim], case.dtype);
                if !(0..shape.v_head_dim as usize).all(accepts) {
                    return false;
                }
            }
            first_token += lengths.q_len;
        }
        true
    }
}

/// Every step, query token and query head of a request.
fn places(steps: u32, q_len: u32, heads: u32) -> impl Iterator<Item = (u32, u32, u32)> {
    (0..steps).flat_map(move |step| (0..q_len).flat_map(move |query| (0..heads).map(move |head| (step, query, head))))
}
