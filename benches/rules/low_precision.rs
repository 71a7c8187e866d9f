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
                    case.row(Role::K, RowAt { token, ..at }, &mut keys);
                }
                keys_of = Some((request, kv_head));
            }
            let mut q = Vec::new();
            let token = row.step * case.shape.requests[request as usize].q_len + query;
            let at = RowAt { member: q_head % case.shape.q_per_kv, token, ..at };
            case.row(Role::Q, at, &mut q);
            let visible = case.visible(request as usize, row.step, query);
            let k = &keys[visible.start as usize * q.len()..visible.end as usize * q.len()];
            let sink = case.sink(kv_head, at.member);
            let low = Attention { scale: case.scale, softcap: case.features.softcap, sink, dtype: case.dtype };
            let low = low.of(&q, k, row.reference.v, case.shape.v_head_dim as usize);
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

/// Attention of one row, each result of which (scaled keys, scores, weights, output) is stored in `dtype`; products are
/// summed in binary32.
pub(crate) struct Attention {
    pub(crate) scale: f32,
    pub(crate) softcap: Option<f32>,
    /// The logit of an element more, whose value is zero.
    pub(crate) sink: Option<f64>,
    pub(crate) dtype: Dtype,
}

impl Attention {
    /// The output for keys `k` and values `v`, rows of `v_dim`; zeros without keys.
    pub(crate) fn of(&self, q: &[f64], k: &[f64], v: &[f64], v_dim: usize) -> Vec<f64> {
        let store = |x: f32| self.dtype.round(f64::from(x)) as f32;
        let product =
            |k: &[f64]| q.iter().zip(k).fold(0.0, |sum, (&q, &k)| sum + q as f32 * store(k as f32 * self.scale));
        let capped = |score: f32| self.softcap.map_or(score, |cap| store(cap * store(score / cap).tanh()));
        let scores: Vec<f32> = k.chunks(q.len()).map(|k| capped(store(product(k)))).collect();
        let sink = self.sink.map(|sink| store(sink as f32));
        let max = scores.iter().copied().chain(sink).fold(f32::NEG_INFINITY, f32::max);
        let exponentials: Vec<f32> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum = exponentials.iter().sum::<f32>() + sink.map_or(0.0, |sink| (sink - max).exp());
        let weights: Vec<f32> = exponentials.iter().map(|x| store(x / sum)).collect();
        (0..v_dim)
            .map(|dim| {
                let sum = weights.iter().zip(v.chunks(v_dim)).fold(0.0, |sum, (&w, v)| sum + w * v[dim] as f32);
                f64::from(store(sum))
            })
            .collect()
    }
}
