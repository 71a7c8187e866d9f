//! A fixed grid of shapes, as tests of attention kernels have.
//!
//! Axes as in FlashInfer's `test_batch_decode_with_paged_kv_cache` (heads 4 over 4 and 32 over 4, head_dim 128 and 256, page
//! sizes 1, 8 and 16, lengths 54, 97 and 512, softcap none and 30, f16, all requests equally long), with what FlashAttention's
//! `test_flash_attn_kvcache` adds (6 heads over 6, 3 and 1; head_dim 32, 59, 64 and 80; lengths 128, 339 and 1024; windows).
//! Batches are of 1 and 2 where the tests have 12 and 17, or 2, and shapes of more than [`AFFORDABLE`] multiply-adds are left
//! out, because all of it is emulated. Prefill has 17 and 37 queries, and as many as keys, causal and not.
//!
//! Values are normal, the scale is the default one, the cache is just large enough.

use attnfuzz::backend::Kernel;
use attnfuzz::case::{
    CacheOrder, Case, CaseParts, Features, Pages, Recipe, Request, Storage, StorageKind, Values, default_scale,
};
use attnfuzz::float::Dtype;
use attnfuzz::generate::cost;

/// Most multiply-adds of a shape.
const AFFORDABLE: u64 = 1 << 20;

const HEADS: [(u32, u32); 5] = [(4, 4), (4, 32), (6, 6), (3, 6), (1, 6)];
const HEAD_DIMS: [u32; 6] = [128, 256, 32, 59, 64, 80];
const LENGTHS: [u32; 6] = [54, 97, 512, 128, 339, 1024];
const BATCHES: [u32; 2] = [1, 2];
const PAGE_SIZES: [u32; 3] = [1, 8, 16];

/// The grid's cases that the kernel claims. The batch varies fastest, then lengths, page sizes, heads, head_dim, as stacked
/// parameters of those tests do, features last.
pub(crate) fn cases(kernel: &Kernel) -> Vec<Case> {
    let domain = &kernel.manifest.domain;
    let is_paged = !domain.storage.iter().any(|kind| *kind != StorageKind::Paged);
    let page_sizes = if is_paged { &PAGE_SIZES[..] } else { &[0] };
    let mut cases = Vec::new();
    for features in features(kernel.space().smallest().features) {
        for head_dim in HEAD_DIMS {
            for (num_kv_heads, heads) in HEADS {
                for &page_size in page_sizes {
                    for kv_len in LENGTHS {
                        for batch in BATCHES {
                            for q_len in q_lens(kernel, kv_len) {
                                let mut parts = kernel.space().smallest().clone().into_parts();
                                parts.features = features;
                                let shape = &mut parts.shape;
                                (shape.num_kv_heads, shape.q_per_kv) = (num_kv_heads, heads / num_kv_heads);
                                (shape.head_dim, shape.v_head_dim) = (head_dim, head_dim);
                                let past_len = if features.append { kv_len - q_len } else { kv_len };
                                shape.requests = vec![Request { past_len, q_len }; batch as usize];
                                if is_paged {
                                    parts.cache.storage = Storage::Paged(Pages::of_size(page_size));
                                }
                                cases.extend(case(kernel, parts));
                            }
                        }
                    }
                }
            }
        }
    }
    cases
}

/// Those that are tested: none, a softcap, a window, and not causal.
fn features(plain: Features) -> [Features; 4] {
    let plain = Features { causal: true, window: None, softcap: None, sinks: false, ..plain };
    [
        plain,
        Features { softcap: Some(30.0), ..plain },
        Features { window: Some(64), ..plain },
        Features { causal: false, ..plain },
    ]
}

fn q_lens(kernel: &Kernel, kv_len: u32) -> Vec<u32> {
    if kernel.manifest.domain.q_len.high() == 1 { vec![1] } else { vec![17, 37, kv_len] }
}

fn case(kernel: &Kernel, mut parts: CaseParts) -> Option<Case> {
    parts.dtype = Dtype::F16;
    parts.scale = default_scale(parts.shape.head_dim);
    parts.cache.order = CacheOrder::Nhd;
    parts.cache.capacity = parts.needed_capacity();
    parts.values = Values { recipe: Recipe::Normal, seed: 0 };
    let case = Case::new(parts).ok()?;
    (kernel.manifest.domain.excludes(&case).is_none() && cost(&case) <= AFFORDABLE).then_some(case)
}
