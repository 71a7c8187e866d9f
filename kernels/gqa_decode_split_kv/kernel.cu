// Incremental decode attention with grouped query heads and a KV cache, split along the keys (flash-decoding).
//
// One decoding step of every request of a batch is two launches. For request r, whose cache already holds past_len[r]
// positions, they
//   1. append the step's K and V to the cache, at position past_len[r];
//   2. attend from the step's single query token to positions 0 ..= past_len[r], the new one included, in num_splits
//      parts (partial) that are then combined (combine);
//   3. return the log-sum-exp of each row, natural logarithm, beside the output.
//
// Entries: gqa_decode_split_kv_partial_{f32,f16,bf16} and gqa_decode_split_kv_combine_{f32,f16,bf16}. The element type
// T is that of q, k_new, v_new, both caches and out; partial results and lse are f32, and so is arithmetic.
//
// Arguments, in order (shapes slowest dimension first; "contiguous" means no padding at all)
//   partial
//   q            [batch, num_q_heads, head_dim]   contiguous, read
//   k_new        [batch, num_kv_heads, head_dim]  contiguous, read
//   v_new        [batch, num_kv_heads, head_dim]  contiguous, read
//   k_cache      [batch, num_kv_heads, capacity, head_dim]  strided, positions below past_len read, one written
//   v_cache      the same
//   partial_sum_v  [batch, num_q_heads, num_splits, head_dim]  f32, written but for splits without keys
//   partial_max  [batch, num_q_heads, num_splits]  f32, every element written; -inf for a split without keys
//   partial_sum  [batch, num_q_heads, num_splits]  f32, every element written; 0 for a split without keys
//   past_len     [batch]                          i32, read
//   num_kv_heads, q_per_kv, head_dim, num_splits  i32
//   cache_stride_request, cache_stride_head, cache_stride_token
//                                                 i64, in elements, shared by both caches; the last dimension is dense
//   scale                                         f32, multiplies q . k
//   combine
//   partial_sum_v, partial_max, partial_sum       as above, read; of partial_sum_v only what was written
//   out          [batch, num_q_heads, head_dim]   contiguous, every element written
//   lse          [batch, num_q_heads]             f32, every element written
//   batch, num_q_heads, head_dim, num_splits      i32
//
// num_q_heads = num_kv_heads * q_per_kv, and query head h reads KV head h / q_per_kv.
// HND and NHD caches differ only in the strides. Padding between rows is neither read nor written.
//
// Domain
//   That of gqa_decode: batch >= 1, num_kv_heads >= 1, batch * num_kv_heads < 2^31, q_per_kv in 1 ..= 64, head_dim in
//   1 ..= 256 (any integer), past_len[r] in 0 .. capacity. Nothing is aligned beyond its element size. Rows of the two
//   caches must not overlap each other, and no two tensors may overlap. Every q . k * scale must be finite in f32.
//   num_splits in 1 ..= 32; it may be more than there are tiles, or keys.
//
// Launch (dynamic shared memory 0)
//   partial  grid (batch * num_kv_heads, ceil(q_per_kv / 8), num_splits)   block (128, 1, 1)
//   combine  grid (ceil(batch * num_q_heads / 4), 1, 1)                    block (128, 1, 1)
//
// Who does what
//   Keys are cut into tiles of 32. Of the ceil(n / 32) tiles of a request (n = past_len + 1) each split gets
//   ceil(ceil(n / 32) / num_splits) in a row, so the last splits may have fewer or none.
//   partial: a block owns one KV head of one request, up to 8 of its query heads and one split, so each K and V element
//   is loaded once for all of them. It walks its tiles with three steps a tile and a barrier after each:
//     scores   warp w takes keys w, w + 4, ... of the tile; lane l of it holds dimensions l, l + 32, ...;
//     softmax  warp w takes query heads w and w + 4; lane l of it holds key l;
//     values   thread t takes dimensions t and t + 128, for all query heads and all keys of the tile.
//   Blocks with blockIdx.y == 0 and blockIdx.z == 0 write the cache. Every block takes the newest position from k_new
//   and v_new, never from the slot being written, so no block depends on another.
//   combine: a warp owns one row of out; lane l of it holds split l, then dimensions l, l + 32, ...
//
// Numerics (n keys, t = ceil(ceil(n / 32) / num_splits) tiles a split, s = min(num_splits, ceil(n / 32)) splits with
// keys at most, c = min(n, 32 t) keys of a split at most, and chunks of 32 dimensions)
//   q . k        per lane a chain of ceil(head_dim / 32) fmaf that starts at zero, then 5 butterfly additions. One more
//                rounding multiplies by scale. q is never scaled beforehand.
//   softmax      online within a split, base e, a running maximum per query head; it is always one of the scores, so
//                exact. A tile's weights are expf(score - maximum), kept in f32. A tile that raises the maximum rescales
//                the sums of earlier tiles by expf(old - new): a weight meets at most t - 1 such factors.
//   combination  of maxima and sums, not of log-sum-exps: a split's sums are multiplied by expf(its maximum - the
//                largest maximum), one more factor, exactly 1 for the split that holds the largest score. A split
//                without keys has maximum -inf, so its factor is exactly 0, and its sum_v is not read. No logarithm
//                enters the output.
//   numerator    1 rounding of its own product; in the split at most c - 1 additions and t - 1 rescales, each fmaf one
//                rounding; then the product with the split's factor and at most s - 1 additions, again fmaf.
//   denominator  5 butterfly additions within a tile, t - 1 of fmaf(sum, factor, tile) (the first tile is added to
//                zero), one product with the split's factor, 5 butterfly additions over the splits.
//   expf         CUDA's full-range function (2 ulp), not the fast intrinsic; expf(0) is exactly 1, expf(-inf) exactly 0.
//                It contains ex2.approx.ftz, whose result is scaled by a plain multiplication, so that subnormal weights
//                survive. No other operation flushes subnormals.
//   division     one IEEE division, to nearest even, per output element; then one rounding to the element type, also to
//                nearest even.
//   lse          largest maximum + logf(denominator): logf is CUDA's full-range function (1 ulp).
#include "common.cuh"
#include <math_constants.h>

enum : int {
    WARPS_PER_BLOCK = 4,
    THREADS_PER_BLOCK = WARPS_PER_BLOCK * WARP_SIZE,
    HEADS_PER_BLOCK = 8,
    HEADS_PER_WARP = HEADS_PER_BLOCK / WARPS_PER_BLOCK,
    TILE_KEYS = WARP_SIZE,
    MAX_HEAD_DIM = 256,
    DIMS_PER_THREAD = MAX_HEAD_DIM / THREADS_PER_BLOCK,
    DIMS_PER_LANE = MAX_HEAD_DIM / WARP_SIZE,
};

template <typename T>
__device__ __forceinline__ void partial(const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache,
                                        float* partial_sum_v, float* partial_max, float* partial_sum,
                                        const int* past_len, int num_kv_heads, int q_per_kv, int head_dim,
                                        int num_splits, long long cache_stride_request, long long cache_stride_head,
                                        long long cache_stride_token, float scale) {
    const int thread = threadIdx.x;
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp = threadIdx.x / WARP_SIZE;
    const long long request = blockIdx.x / num_kv_heads;
    const long long kv_head = blockIdx.x % num_kv_heads;
    const int first_head = blockIdx.y * HEADS_PER_BLOCK;  // within the group of this KV head
    const int num_heads = min(HEADS_PER_BLOCK, q_per_kv - first_head);
    const int split = blockIdx.z;
    const long long past = past_len[request];

    // The rows of q and of partial results that belong to this block are consecutive.
    const long long new_row = (request * num_kv_heads + kv_head) * head_dim;
    const long long q_row = (request * num_kv_heads + kv_head) * q_per_kv + first_head;
    const T* q_rows = q + q_row * head_dim;
    const long long cache_head = request * cache_stride_request + kv_head * cache_stride_head;

    // Append. Nobody reads this slot before the next step.
    if (blockIdx.y == 0 && split == 0) {
        const long long slot = cache_head + past * cache_stride_token;
#pragma unroll 1
        for (int dim = thread; dim < head_dim; dim += THREADS_PER_BLOCK) {
            k_cache[slot + dim] = k_new[new_row + dim];
            v_cache[slot + dim] = v_new[new_row + dim];
        }
    }

    // The keys of this split.
    const long long tiles = (past + TILE_KEYS) / TILE_KEYS;
    const long long tiles_per_split = (tiles + num_splits - 1) / num_splits;
    const long long begin = split * tiles_per_split * TILE_KEYS;
    const long long end = min(begin + tiles_per_split * TILE_KEYS, past + 1);
    if (begin >= end) {
        if (thread < num_heads) {
            const long long at = (q_row + thread) * num_splits + split;
            partial_max[at] = -CUDART_INF_F;
            partial_sum[at] = 0.0f;
        }
        return;
    }

    // Heads this block lacks have zero queries and zero weights throughout, so that no inner loop asks for them; a
    // row's dimensions up to the next multiple of a warp are zero for the same reason.
    __shared__ float query[HEADS_PER_BLOCK][MAX_HEAD_DIM];
    __shared__ float weight[HEADS_PER_BLOCK][TILE_KEYS];  // scores first, then their weights in place
    __shared__ float correction[HEADS_PER_BLOCK];
    const int padded_dim = (head_dim + WARP_SIZE - 1) / WARP_SIZE * WARP_SIZE;
#pragma unroll 1
    for (int head = warp; head < HEADS_PER_BLOCK; head += WARPS_PER_BLOCK) {
#pragma unroll 1
        for (int dim = lane; dim < padded_dim; dim += WARP_SIZE) {
            const bool present = head < num_heads && dim < head_dim;
            query[head][dim] = present ? to_float(q_rows[head * head_dim + dim]) : 0.0f;
        }
        weight[head][lane] = 0.0f;
        if (lane == 0) correction[head] = 0.0f;
    }
    __syncthreads();

    float running_max[HEADS_PER_WARP], running_sum[HEADS_PER_WARP];
    for (int i = 0; i < HEADS_PER_WARP; i++) {
        running_max[i] = -CUDART_INF_F;
        running_sum[i] = 0.0f;
    }
    float numerator[DIMS_PER_THREAD][HEADS_PER_BLOCK] = {};

    for (long long tile = begin; tile < end; tile += TILE_KEYS) {
        const int tile_len = min((long long)TILE_KEYS, end - tile);

        // Scores.
#pragma unroll 1
        for (int key = warp; key < tile_len; key += WARPS_PER_BLOCK) {
            const long long position = tile + key;
            const long long cached = cache_head + position * cache_stride_token;
            const T* k_row = position == past ? k_new + new_row : k_cache + cached;
            float dot[HEADS_PER_BLOCK] = {};
#pragma unroll 1
            for (int dim = lane; dim < padded_dim; dim += WARP_SIZE) {
                const float k = dim < head_dim ? to_float(k_row[dim]) : 0.0f;
#pragma unroll
                for (int head = 0; head < HEADS_PER_BLOCK; head++) dot[head] = fmaf(query[head][dim], k, dot[head]);
            }
#pragma unroll
            for (int head = 0; head < HEADS_PER_BLOCK; head++) {
                if (head >= num_heads) break;
                const float score = warp_sum(dot[head]) * scale;
                if (lane == 0) weight[head][key] = score;
            }
        }
        __syncthreads();

        // Softmax. The first tile corrects sums of zero by expf(-inf) = 0.
#pragma unroll
        for (int i = 0; i < HEADS_PER_WARP; i++) {
            const int head = warp + i * WARPS_PER_BLOCK;
            if (head >= num_heads) break;
            const float score = lane < tile_len ? weight[head][lane] : -CUDART_INF_F;
            const float new_max = fmaxf(running_max[i], warp_max(score));
            const float old_scale = expf(running_max[i] - new_max);
            const float w = expf(score - new_max);
            running_max[i] = new_max;
            running_sum[i] = fmaf(running_sum[i], old_scale, warp_sum(w));
            weight[head][lane] = w;
            if (lane == 0) correction[head] = old_scale;
        }
        __syncthreads();

        // Values.
#pragma unroll
        for (int i = 0; i < DIMS_PER_THREAD; i++) {
            const int dim = thread + i * THREADS_PER_BLOCK;
            if (dim >= head_dim) break;
#pragma unroll
            for (int head = 0; head < HEADS_PER_BLOCK; head++) numerator[i][head] *= correction[head];
#pragma unroll 1
            for (int key = 0; key < tile_len; key++) {
                const long long position = tile + key;
                const long long cached = cache_head + position * cache_stride_token;
                const T* v_row = position == past ? v_new + new_row : v_cache + cached;
                const float v = to_float(v_row[dim]);
#pragma unroll
                for (int head = 0; head < HEADS_PER_BLOCK; head++) {
                    numerator[i][head] = fmaf(weight[head][key], v, numerator[i][head]);
                }
            }
        }
        __syncthreads();  // the next tile's scores replace these weights
    }

#pragma unroll
    for (int i = 0; i < HEADS_PER_WARP; i++) {
        const int head = warp + i * WARPS_PER_BLOCK;
        if (head >= num_heads || lane != 0) break;
        const long long at = (q_row + head) * num_splits + split;
        partial_max[at] = running_max[i];
        partial_sum[at] = running_sum[i];
    }
#pragma unroll
    for (int i = 0; i < DIMS_PER_THREAD; i++) {
        const int dim = thread + i * THREADS_PER_BLOCK;
        if (dim >= head_dim) break;
#pragma unroll
        for (int head = 0; head < HEADS_PER_BLOCK; head++) {
            if (head >= num_heads) break;
            partial_sum_v[((q_row + head) * num_splits + split) * head_dim + dim] = numerator[i][head];
        }
    }
}

template <typename T>
__device__ __forceinline__ void combine(const float* partial_sum_v, const float* partial_max, const float* partial_sum,
                                        T* out, float* lse, int batch, int num_q_heads, int head_dim, int num_splits) {
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp = threadIdx.x / WARP_SIZE;
    const long long row = (long long)blockIdx.x * WARPS_PER_BLOCK + warp;
    if (row >= (long long)batch * num_q_heads) return;
    const long long request = row / num_q_heads;
    const long long head = row % num_q_heads;
    const long long first = (request * num_q_heads + head) * num_splits;  // the row's first split

    // Lane l holds split l; the first split always has keys.
    const bool present = lane < num_splits;
    const float split_max = present ? partial_max[first + lane] : -CUDART_INF_F;
    const float split_sum = present ? partial_sum[first + lane] : 0.0f;
    const float row_max = warp_max(split_max);
    const float factor = expf(split_max - row_max);
    // Not to be fused with the first addition, which would give partners of an exchange different bits.
    const float denominator = warp_sum(__fmul_rn(split_sum, factor));

    float numerator[DIMS_PER_LANE] = {};
#pragma unroll 1
    for (int split = 0; split < num_splits; split++) {
        const float split_factor = __shfl_sync(FULL_WARP, factor, split);
        if (split_factor == 0.0f) continue;  // without keys, or without weight
        const float* sum_v = partial_sum_v + (first + split) * head_dim;
#pragma unroll
        for (int i = 0; i < DIMS_PER_LANE; i++) {
            const int dim = lane + i * WARP_SIZE;
            if (dim >= head_dim) break;
            numerator[i] = fmaf(sum_v[dim], split_factor, numerator[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < DIMS_PER_LANE; i++) {
        const int dim = lane + i * WARP_SIZE;
        if (dim >= head_dim) break;
        out[row * head_dim + dim] = from_float<T>(numerator[i] / denominator);
    }
    if (lane == 0) lse[row] = row_max + logf(denominator);
}

#define SPLIT_KV_ENTRIES(DTYPE, T)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK) gqa_decode_split_kv_partial_##DTYPE(               \
        const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache, float* partial_sum_v, float* partial_max,  \
        float* partial_sum, const int* past_len, int num_kv_heads, int q_per_kv, int head_dim, int num_splits,         \
        long long cache_stride_request, long long cache_stride_head, long long cache_stride_token, float scale) {      \
        partial<T>(q, k_new, v_new, k_cache, v_cache, partial_sum_v, partial_max, partial_sum, past_len, num_kv_heads, \
                   q_per_kv, head_dim, num_splits, cache_stride_request, cache_stride_head, cache_stride_token,        \
                   scale);                                                                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK) gqa_decode_split_kv_combine_##DTYPE(               \
        const float* partial_sum_v, const float* partial_max, const float* partial_sum, T* out, float* lse, int batch, \
        int num_q_heads, int head_dim, int num_splits) {                                                               \
        combine<T>(partial_sum_v, partial_max, partial_sum, out, lse, batch, num_q_heads, head_dim, num_splits);       \
    }

SPLIT_KV_ENTRIES(f32, float)
SPLIT_KV_ENTRIES(f16, __half)
SPLIT_KV_ENTRIES(bf16, __nv_bfloat16)
