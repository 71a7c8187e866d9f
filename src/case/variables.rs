//! The variables of expressions that depend on a case.

use super::{Case, Domain};

/// Variables of manifest expressions, in the order of [`variables`]; the kernel's knobs come after them.
pub const VARIABLES: [&str; 30] = [
    "batch",
    "num_kv_heads",
    "q_per_kv",
    "num_q_heads",
    "head_dim",
    "v_head_dim",
    "total_q_len",
    "q_len_max",
    "past_len_max",
    "kv_len_max",
    "capacity",
    "scale",
    "step",
    "element_bytes",
    "k_stride_request",
    "k_stride_head",
    "k_stride_token",
    "v_stride_request",
    "v_stride_head",
    "v_stride_token",
    "total_kv_len",
    "causal",
    "window",
    "softcap",
    "sinks",
    "page_size",
    "num_pages",
    "pages_per_request",
    "k_stride_page",
    "v_stride_page",
];

/// Values of [`VARIABLES`] and then of the knobs of `domain` for one step. Lengths in tokens, strides in elements.
///
/// `causal` and `sinks` are 0 or 1; `window` and `softcap` are 0 if there is none. A stride that the cache has not, such as
/// that from request to request in a packed one, is NaN, which no argument takes.
pub fn variables(domain: &Domain, case: &Case, step: u32) -> Vec<f64> {
    let shape = &case.shape;
    let max = |f: &dyn Fn(usize) -> u32| f64::from((0..shape.requests.len()).map(f).max().unwrap_or(0));
    let k = case.cache_map(shape.head_dim);
    let v = case.cache_map(shape.v_head_dim);
    let stride = |stride: Option<u64>| stride.map_or(f64::NAN, |n| n as f64);
    let page_size = case.cache.storage.pages().map_or(f64::NAN, |pages| f64::from(pages.size));
    let features = &case.features;
    let total_kv_len: u64 = (0..shape.requests.len()).map(|r| u64::from(case.kv_len_at(r, step))).sum();
    let fixed: [f64; VARIABLES.len()] = [
        f64::from(shape.batch()),
        f64::from(shape.num_kv_heads),
        f64::from(shape.q_per_kv),
        f64::from(shape.num_q_heads()),
        f64::from(shape.head_dim),
        f64::from(shape.v_head_dim),
        f64::from(shape.total_q_len()),
        max(&|r| shape.requests[r].q_len),
        max(&|r| case.past_len_at(r, step)),
        max(&|r| case.kv_len_at(r, step)),
        f64::from(case.cache.capacity),
        f64::from(case.scale),
        f64::from(step),
        case.dtype.size_bytes() as f64,
        stride(k.request_stride()),
        k.head_stride() as f64,
        k.token_stride() as f64,
        stride(v.request_stride()),
        v.head_stride() as f64,
        v.token_stride() as f64,
        total_kv_len as f64,
        f64::from(u8::from(features.causal)),
        f64::from(features.window.unwrap_or(0)),
        f64::from(features.softcap.unwrap_or(0.0)),
        f64::from(u8::from(features.sinks)),
        page_size,
        case.num_pages() as f64,
        f64::from(case.pages_per_request()),
        stride(k.page_stride()),
        stride(v.page_stride()),
    ];
    let knobs = domain.knobs.keys().map(|name| case.knobs.get(name).map_or(f64::NAN, |&n| f64::from(n)));
    fixed.into_iter().chain(knobs).collect()
}
