//! Attention in the tensors' own type, step by step, as FlashAttention's tests compute it (`attention_ref` with
//! `upcast=False, reorder_ops=True`) to learn what error is to be expected.

use attnfuzz::case::Case;
use attnfuzz::case::values::{Role, RowAt};
use attnfuzz::float::Dtype;
use attnfuzz::oracle::for_each_row;

/// What a right kernel would leave, by two references: `[step][element]`.
pub(crate) struct Expected {
    /// In f64.
    pub(crate) exact: Vec<Vec<f64>>,
    /// In the tensors' type.
    pub(crate) low_precision: Vec<Vec<f64>>,
}

impl Expected {
    /// Both references of every row of `case`.
    pub(crate) fn of(case: &Case) -> Self {
        let layout = case.output_layout();
        let zeros = vec![vec![0.0; layout.span()]; case.steps as usize];
        let (mut exact, mut low_precision) = (zeros.clone(), zeros);
        // Rows that share keys come together.
        let (mut keys, mut keys_of) = (Vec::new(), None);
        for_each_row(case, |row| {
            let [token, q_head] = row.at.map(|x| x as u32);
            let (request, query) = request_of(case, token);
            let kv_head = q_head / case.shape.q_per_kv;
            let at = RowAt { request, kv_head, member: 0, token: 0 };
            if keys_of != Some((request, kv_head)) {
                keys.clear();
                for token in 0..case.past_len_at(request as usize, case.steps) {
                    case.values.row(Role::K, RowAt { token, ..at }, case.shape.head_dim, case.dtype, &mut keys);
                }
                keys_of = Some((request, kv_head));
            }
            let mut q = Vec::new();
            let token = row.step * case.shape.requests[request as usize].q_len + query;
            let at = RowAt { member: q_head % case.shape.q_per_kv, token, ..at };
            case.values.row(Role::Q, at, case.shape.head_dim, case.dtype, &mut q);
            let k = &keys[..row.n * q.len()];
            let low = attention(&q, k, row.reference.v, case.scale, case.dtype);
            let start = layout.offset(&[row.at[0], row.at[1], 0]);
            let step = row.step as usize;
            exact[step][start..][..low.len()].copy_from_slice(&row.reference.o);
            low_precision[step][start..][..low.len()].copy_from_slice(&low);
        });
        Self { exact, low_precision }
    }
}

/// The request that a token of a step's output belongs to, and which of its queries it is.
fn request_of(case: &Case, token: u32) -> (u32, u32) {
    let mut query = token;
    for (request, r) in case.shape.requests.iter().enumerate() {
        if query < r.q_len {
            return (request as u32, query);
        }
        query -= r.q_len;
    }
    unreachable!("a token of the output belongs to a request")
}

/// Attention of one row over keys `k` and values `v`: each result is stored in `dtype` (scaled keys, scores, weights,
/// output), products are summed in binary32.
pub(crate) fn attention(q: &[f64], k: &[f64], v: &[f64], scale: f32, dtype: Dtype) -> Vec<f64> {
    let store = |x: f32| dtype.round(f64::from(x)) as f32;
    let scores: Vec<f32> = k
        .chunks(q.len())
        .map(|k| store(q.iter().zip(k).fold(0.0, |sum, (&q, &k)| sum + q as f32 * store(k as f32 * scale))))
        .collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exponentials: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
    let sum: f32 = exponentials.iter().sum();
    let weights: Vec<f32> = exponentials.iter().map(|x| store(x / sum)).collect();
    let dims = v.len() / scores.len();
    (0..dims)
        .map(|dim| {
            let sum = weights.iter().zip(v.chunks(dims)).fold(0.0, |sum, (&w, v)| sum + w * v[dim] as f32);
            f64::from(store(sum))
        })
        .collect()
}
