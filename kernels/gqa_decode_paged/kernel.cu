// Decode attention with grouped query heads over a paged KV cache, split along the keys (flash-decoding).
//
// One decoding step of every request of a batch is two launches. For request r, whose kv_len[r] keys are all in the cache
// already, its own token's included, they attend from the single query token to positions 0 .. kv_len[r], or to the last
// `window` of them, in num_splits parts (partial) that are then combined (combine), and return the log-sum-exp of each row,
// natural logarithm, beside the output. A request may be empty: its rows are zeros, and their log-sum-exp -inf or the sink.
// How: ../decode_split.cuh, with who does what and the numerics.
//
// Entries: gqa_decode_paged_partial_{f32,f16,bf16}_{128,256} and gqa_decode_paged_combine_{f32,f16,bf16}. The element type T
// is that of q, both caches and out; partial results, sinks and lse are f32. The number at the end is the most that
// head_dim and v_head_dim may be; the smaller one takes fewer registers.
//
// Arguments, in order (shapes slowest dimension first; "contiguous" means no padding at all)
//   partial
//   q            [batch, num_q_heads, head_dim]     contiguous, read
//   k_cache      [num_pages, num_kv_heads, page_size, head_dim]  strided, visible positions read
//   v_cache      [num_pages, num_kv_heads, page_size, v_head_dim]  the same
//   block_table  [batch, pages_per_request]         i32, contiguous: position p of request r is in slot p % page_size of page
//                                                   block_table[r][p / page_size]; entries without a visible position are
//                                                   not read, so they may hold anything
//   partial_sum_v  [batch, num_q_heads, num_splits, v_head_dim]  f32, written but for splits without keys
//   partial_max  [batch, num_q_heads, num_splits]   f32, every element written; -inf for a split without keys
//   partial_sum  [batch, num_q_heads, num_splits]   f32, every element written; 0 for a split without keys
//   kv_len       [batch]                            i32, read
//   num_kv_heads, q_per_kv, head_dim, v_head_dim, num_splits, window, page_size, pages_per_request
//                                                   i32; window 0 means none
//   k_stride_page, k_stride_head, k_stride_token, v_stride_page, v_stride_head, v_stride_token
//                                                   i64, in elements; the last dimension is dense
//   scale                                           f32, multiplies q . k
//   softcap                                         f32, 0 means none
//   combine
//   partial_sum_v, partial_max, partial_sum         as above, read; of partial_sum_v only what was written
//   sinks        [num_q_heads]                      f32, read; null if there are none
//   out          [batch, num_q_heads, v_head_dim]   contiguous, every element written
//   lse          [batch, num_q_heads]               f32, every element written
//   num_q_heads, v_head_dim, num_splits             i32
//
// num_q_heads = num_kv_heads * q_per_kv, and query head h reads KV head h / q_per_kv. Pages may be shared by requests. HND
// and NHD pages differ only in the strides. Padding between rows, slots after a request's last position, and pages of no
// request are not read. Nothing is written to the cache.
//
// Domain
//   batch >= 1, num_kv_heads >= 1, batch * num_kv_heads < 2^31, q_per_kv in 1 ..= 64, head_dim and v_head_dim in 1 ..= 256
//   (any integers), page_size in 1 ..= 256 (any integer), kv_len[r] in 0 ..= pages_per_request * page_size, below 2^30.
//   Nothing need be aligned beyond its element size; what is, to 16 bytes, is loaded faster. No two tensors may overlap.
//   Every q . k * scale must be finite in f32. num_splits in 1 ..= 128; it may be more than there are tiles, or keys.
//
// Launch (dynamic shared memory 0)
//   partial  grid (batch * num_kv_heads, ceil(q_per_kv / 8), num_splits)   block (128, 1, 1)
//   combine  grid (batch * num_q_heads, 1, 1)                              block (128, 1, 1)
#include "decode_split.cuh"

template <typename T, int DIM>
__device__ __forceinline__ void attend(const T* q, const T* k_cache, const T* v_cache, const int* block_table,
                                       float* partial_sum_v, float* partial_max, float* partial_sum, const int* kv_len,
                                       int num_kv_heads, int q_per_kv, int head_dim, int v_head_dim, int num_splits,
                                       int window, int page_size, int pages_per_request, long long k_stride_page,
                                       long long k_stride_head, long long k_stride_token, long long v_stride_page,
                                       long long v_stride_head, long long v_stride_token, float scale, float softcap) {
    const long long request = blockIdx.x / num_kv_heads;
    const long long kv_head = blockIdx.x % num_kv_heads;
    const int first_head = blockIdx.y * HEADS_PER_BLOCK;  // within the group of this KV head
    const int num_keys = kv_len[request];
    const int first = window > 0 ? max(num_keys - window, 0) : 0;

    // The rows of q and of partial results that belong to this block are consecutive.
    const long long q_row = (request * num_kv_heads + kv_head) * q_per_kv + first_head;
    const PagedRows<T> rows = {k_cache + kv_head * k_stride_head,
                               v_cache + kv_head * v_stride_head,
                               block_table + request * pages_per_request,
                               page_size,
                               k_stride_page,
                               k_stride_token,
                               v_stride_page,
                               v_stride_token};
    partial<T, DIM>(q + q_row * head_dim, rows, first, num_keys - first, min(+HEADS_PER_BLOCK, q_per_kv - first_head),
                    head_dim, v_head_dim, num_splits, scale, softcap,
                    partial_sum_v + q_row * num_splits * v_head_dim, partial_max + q_row * num_splits,
                    partial_sum + q_row * num_splits);
}

#define PARTIAL_ENTRY(DTYPE, T, DIM)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK) gqa_decode_paged_partial_##DTYPE##_##DIM(          \
        const T* q, const T* k_cache, const T* v_cache, const int* block_table, float* partial_sum_v,                  \
        float* partial_max, float* partial_sum, const int* kv_len, int num_kv_heads, int q_per_kv, int head_dim,       \
        int v_head_dim, int num_splits, int window, int page_size, int pages_per_request, long long k_stride_page,     \
        long long k_stride_head, long long k_stride_token, long long v_stride_page, long long v_stride_head,           \
        long long v_stride_token, float scale, float softcap) {                                                        \
        attend<T, DIM>(q, k_cache, v_cache, block_table, partial_sum_v, partial_max, partial_sum, kv_len,              \
                       num_kv_heads, q_per_kv, head_dim, v_head_dim, num_splits, window, page_size, pages_per_request, \
                       k_stride_page, k_stride_head, k_stride_token, v_stride_page, v_stride_head, v_stride_token,     \
                       scale, softcap);                                                                                \
    }

#define ENTRIES(DTYPE, T)                                                                                              \
    PARTIAL_ENTRY(DTYPE, T, 128)                                                                                       \
    PARTIAL_ENTRY(DTYPE, T, 256)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK) gqa_decode_paged_combine_##DTYPE(                  \
        const float* partial_sum_v, const float* partial_max, const float* partial_sum, const float* sinks, T* out,    \
        float* lse, int num_q_heads, int v_head_dim, int num_splits) {                                                 \
        combine<T>(partial_sum_v, partial_max, partial_sum, sinks, out, lse, num_q_heads, v_head_dim, num_splits);     \
    }

ENTRIES(f32, float)
ENTRIES(f16, __half)
ENTRIES(bf16, __nv_bfloat16)
