// Incremental decode attention with grouped query heads and a KV cache, split along the keys (flash-decoding).
//
// One decoding step of every request of a batch is two launches. For request r, whose cache already holds past_len[r]
// positions, they
//   1. append the step's K and V to the cache, at position past_len[r];
//   2. attend from the step's single query token to positions 0 ..= past_len[r], the new one included, or to the last
//      `window` of them, in num_splits parts (partial) that are then combined (combine);
//   3. return the log-sum-exp of each row, natural logarithm, beside the output.
// How: ../decode_split.cuh, with who does what and the numerics.
//
// Entries: gqa_decode_split_kv_partial_{f32,f16,bf16}_{128,256} and gqa_decode_split_kv_combine_{f32,f16,bf16}. The element
// type T is that of q, k_new, v_new, both caches and out; partial results, sinks and lse are f32. The number at the end is
// the most that head_dim and v_head_dim may be; the smaller one takes fewer registers.
//
// Arguments, in order (shapes slowest dimension first; "contiguous" means no padding at all)
//   partial
//   q            [batch, num_q_heads, head_dim]     contiguous, read
//   k_new        [batch, num_kv_heads, head_dim]    contiguous, read
//   v_new        [batch, num_kv_heads, v_head_dim]  contiguous, read
//   k_cache      [batch, num_kv_heads, capacity, head_dim]  strided, visible positions below past_len read, one written
//   v_cache      [batch, num_kv_heads, capacity, v_head_dim]  the same
//   partial_sum_v  [batch, num_q_heads, num_splits, v_head_dim]  f32, written but for splits without keys
//   partial_max  [batch, num_q_heads, num_splits]  f32, every element written; -inf for a split without keys
//   partial_sum  [batch, num_q_heads, num_splits]  f32, every element written; 0 for a split without keys
//   past_len     [batch]                           i32, read
//   num_kv_heads, q_per_kv, head_dim, v_head_dim, num_splits, window  i32; window 0 means none
//   k_stride_request, k_stride_head, k_stride_token, v_stride_request, v_stride_head, v_stride_token
//                                                  i64, in elements; the last dimension is dense
//   scale                                          f32, multiplies q . k
//   softcap                                        f32, 0 means none
//   combine
//   partial_sum_v, partial_max, partial_sum        as above, read; of partial_sum_v only what was written
//   sinks        [num_q_heads]                     f32, read; null if there are none
//   out          [batch, num_q_heads, v_head_dim]  contiguous, every element written
//   lse          [batch, num_q_heads]              f32, every element written
//   num_q_heads, v_head_dim, num_splits            i32
//
// num_q_heads = num_kv_heads * q_per_kv, and query head h reads KV head h / q_per_kv.
// HND and NHD caches differ only in the strides. Padding between rows is neither read nor written.
//
// Domain
//   batch >= 1, num_kv_heads >= 1, batch * num_kv_heads < 2^31, q_per_kv in 1 ..= 64, head_dim and v_head_dim in 1 ..= 256
//   (any integers), past_len[r] in 0 .. capacity, below 2^30. Nothing need be aligned beyond its element size; what is, to
//   16 bytes, is loaded faster. Rows of the two caches must not overlap each other, and no two tensors may overlap. Every
//   q . k * scale must be finite in f32. num_splits in 1 ..= 128; it may be more than there are tiles, or keys.
//
// Launch (dynamic shared memory 0)
//   partial  grid (batch * num_kv_heads, ceil(q_per_kv / 8), num_splits)   block (128, 1, 1)
//   combine  grid (batch * num_q_heads, 1, 1)                              block (128, 1, 1)
//
// Blocks with blockIdx.y == 0 and blockIdx.z == 0 write the cache. Every block takes the newest position from k_new and
// v_new, never from the slot being written, so no block depends on another.
#include "decode_split.cuh"

template <typename T, int DIM>
__device__ __forceinline__ void append_and_attend(const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache,
                                                  float* partial_sum_v, float* partial_max, float* partial_sum,
                                                  const int* past_len, int num_kv_heads, int q_per_kv, int head_dim,
                                                  int v_head_dim, int num_splits, int window,
                                                  long long k_stride_request, long long k_stride_head,
                                                  long long k_stride_token, long long v_stride_request,
                                                  long long v_stride_head, long long v_stride_token, float scale,
                                                  float softcap) {
    const long long request = blockIdx.x / num_kv_heads;
    const long long kv_head = blockIdx.x % num_kv_heads;
    const int first_head = blockIdx.y * HEADS_PER_BLOCK;  // within the group of this KV head
    const int past = past_len[request];
    const long long new_row = request * num_kv_heads + kv_head;
    const T* k_row = k_new + new_row * head_dim;
    const T* v_row = v_new + new_row * v_head_dim;
    T* keys = k_cache + request * k_stride_request + kv_head * k_stride_head;
    T* values = v_cache + request * v_stride_request + kv_head * v_stride_head;

    // Append. Nobody reads this slot before the next step.
    if (blockIdx.y == 0 && blockIdx.z == 0) {
#pragma unroll 1
        for (int dim = threadIdx.x; dim < head_dim; dim += THREADS_PER_BLOCK) {
            keys[past * k_stride_token + dim] = k_row[dim];
        }
#pragma unroll 1
        for (int dim = threadIdx.x; dim < v_head_dim; dim += THREADS_PER_BLOCK) {
            values[past * v_stride_token + dim] = v_row[dim];
        }
    }

    // The rows of q and of partial results that belong to this block are consecutive.
    const long long q_row = new_row * q_per_kv + first_head;
    const int first = window > 0 ? max(past + 1 - window, 0) : 0;
    const CacheRows<T> rows = {keys, values, k_row, v_row, k_stride_token, v_stride_token, past};
    partial<T, DIM>(q + q_row * head_dim, rows, first, past + 1 - first, min(+HEADS_PER_BLOCK, q_per_kv - first_head),
                    head_dim, v_head_dim, num_splits, scale, softcap,
                    partial_sum_v + q_row * num_splits * v_head_dim, partial_max + q_row * num_splits,
                    partial_sum + q_row * num_splits);
}

#define PARTIAL_ENTRY(DTYPE, T, DIM)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK) gqa_decode_split_kv_partial_##DTYPE##_##DIM(       \
        const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache, float* partial_sum_v, float* partial_max,  \
        float* partial_sum, const int* past_len, int num_kv_heads, int q_per_kv, int head_dim, int v_head_dim,         \
        int num_splits, int window, long long k_stride_request, long long k_stride_head, long long k_stride_token,     \
        long long v_stride_request, long long v_stride_head, long long v_stride_token, float scale, float softcap) {   \
        append_and_attend<T, DIM>(q, k_new, v_new, k_cache, v_cache, partial_sum_v, partial_max, partial_sum,          \
                                  past_len, num_kv_heads, q_per_kv, head_dim, v_head_dim, num_splits, window,          \
                                  k_stride_request, k_stride_head, k_stride_token, v_stride_request, v_stride_head,    \
                                  v_stride_token, scale, softcap);                                                     \
    }

#define ENTRIES(DTYPE, T)                                                                                              \
    PARTIAL_ENTRY(DTYPE, T, 128)                                                                                       \
    PARTIAL_ENTRY(DTYPE, T, 256)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK) gqa_decode_split_kv_combine_##DTYPE(               \
        const float* partial_sum_v, const float* partial_max, const float* partial_sum, const float* sinks, T* out,    \
        float* lse, int num_q_heads, int v_head_dim, int num_splits) {                                                 \
        combine<T>(partial_sum_v, partial_max, partial_sum, sinks, out, lse, num_q_heads, v_head_dim, num_splits);     \
    }

ENTRIES(f32, float)
ENTRIES(f16, __half)
ENTRIES(bf16, __nv_bfloat16)
