// Incremental decode attention with grouped query heads and a KV cache.
//
// One launch serves one decoding step of every request of a batch. For request r, whose cache already
// holds past_len[r] positions, it
//   1. appends the step's K and V to the cache, at position past_len[r];
//   2. attends from the step's single query token to positions 0 ..= past_len[r], the new one included.
//
// Three entries share one template: gqa_decode_f32, gqa_decode_f16, gqa_decode_bf16. The element type is that
// of all seven tensors; arithmetic is f32 in every entry.
//
// Arguments, in order (shapes slowest dimension first; "contiguous" means no padding at all)
//   q         [batch, num_q_heads, head_dim]   contiguous, read
//   k_new     [batch, num_kv_heads, head_dim]  contiguous, read
//   v_new     [batch, num_kv_heads, head_dim]  contiguous, read
//   k_cache   [batch, num_kv_heads, capacity, head_dim]  strided, positions below past_len read, one written
//   v_cache   the same
//   out       [batch, num_q_heads, head_dim]   contiguous, every element written, none read
//   past_len  [batch]                          i32, read
//   num_kv_heads, q_per_kv, head_dim           i32
//   cache_stride_request, cache_stride_head, cache_stride_token
//                                              i64, in elements, shared by both caches; the last dimension is dense
//   scale                                      f32, multiplies q . k
//
// num_q_heads = num_kv_heads * q_per_kv, and query head h reads KV head h / q_per_kv.
// HND and NHD caches differ only in the strides. Padding between rows is neither read nor written.
//
// Domain
//   batch >= 1, num_kv_heads >= 1, batch * num_kv_heads < 2^31, q_per_kv in 1 ..= 64, head_dim in 1 ..= 256 (any
//   integer), past_len[r] in 0 .. capacity. Nothing is aligned beyond its element size. Rows of the two caches
//   must not overlap each other, and no two tensors may overlap. Every q . k * scale must be finite in f32.
//
// Launch
//   grid  (batch * num_kv_heads, ceil(q_per_kv / 8), 1)      block (128, 1, 1)      dynamic shared memory 0
//   The batch rides on grid.x, the one grid dimension that is not limited to 65535.
//
// Who does what
//   A block owns one KV head of one request and up to 8 of its query heads, so each K and V element is loaded once
//   for all of them. It walks the keys in tiles of 32, with three steps a tile and a barrier after each:
//     scores   warp w takes keys w, w + 4, ... of the tile; lane l of it holds dimensions l, l + 32, ...;
//     softmax  warp w takes query heads w and w + 4; lane l of it holds key l;
//     values   thread t takes dimensions t and t + 128, for all query heads and all keys of the tile.
//   Blocks with blockIdx.y == 0 write the cache. Every block takes the newest position from k_new and v_new, never
//   from the slot being written, so no block depends on another.
//
// Numerics (n = past_len + 1 keys, T = ceil(n / 32) tiles, c = ceil(head_dim / 32) chunks)
//   q . k      per lane a chain of c fmaf that starts at zero, then 5 butterfly additions: a product passes through at
//              most c + 5 roundings, its own included. One more multiplies by scale. q is never scaled beforehand.
//   softmax    online, base e, a running maximum per query head; it is always one of the scores, so exact. A tile's
//              weights are expf(score - maximum), kept in f32. A tile that raises the maximum rescales the sums of
//              earlier tiles by expf(old - new): a weight meets at most T - 1 such factors.
//   sums       numerator: per tile one multiplication by the rescale factor (exactly 1 if the maximum stays), then one
//              fmaf a key in the order of positions, the first onto zero: at most n + T - 1 roundings.
//              Denominator: 5 butterfly additions within a tile, then fmaf(sum, factor, tile): at most T + 4 roundings
//              of any weight (the first tile is added to zero).
//   expf       CUDA's full-range function (2 ulp), not the fast intrinsic; expf(0) is exactly 1. It contains
//              ex2.approx.ftz, whose result is scaled by a plain multiplication, so that subnormal weights survive. No
//              other operation flushes subnormals.
//   division   one IEEE division, to nearest even, per output element; then one rounding to the element type, also to
//              nearest even.
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
};

template <typename T>
__device__ __forceinline__ void decode_step(const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache, T* out,
                                            const int* past_len, int num_kv_heads, int q_per_kv, int head_dim,
                                            long long cache_stride_request, long long cache_stride_head,
                                            long long cache_stride_token, float scale) {
    const int thread = threadIdx.x;
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp = threadIdx.x / WARP_SIZE;
    const long long request = blockIdx.x / num_kv_heads;
    const long long kv_head = blockIdx.x % num_kv_heads;
    const int first_head = blockIdx.y * HEADS_PER_BLOCK;  // within the group of this KV head
    const int num_heads = min(HEADS_PER_BLOCK, q_per_kv - first_head);
    const long long past = past_len[request];

    // The rows of q and out that belong to this block are consecutive.
    const long long new_row = (request * num_kv_heads + kv_head) * head_dim;
    const long long q_row = (request * num_kv_heads + kv_head) * q_per_kv + first_head;
    const T* q_rows = q + q_row * head_dim;
    T* out_rows = out + q_row * head_dim;
    const long long cache_head = request * cache_stride_request + kv_head * cache_stride_head;

    // Append. Nobody reads this slot before the next launch.
    if (blockIdx.y == 0) {
        const long long slot = cache_head + past * cache_stride_token;
#pragma unroll 1
        for (int dim = thread; dim < head_dim; dim += THREADS_PER_BLOCK) {
            k_cache[slot + dim] = k_new[new_row + dim];
            v_cache[slot + dim] = v_new[new_row + dim];
        }
    }

    // Heads this block lacks have zero queries and zero weights throughout, so that no inner loop asks for them; a
    // row's dimensions up to the next multiple of a warp are zero for the same reason.
    __shared__ float query[HEADS_PER_BLOCK][MAX_HEAD_DIM];
    __shared__ float weight[HEADS_PER_BLOCK][TILE_KEYS];  // scores first, then their weights in place
    __shared__ float correction[HEADS_PER_BLOCK];
    __shared__ float denominator[HEADS_PER_BLOCK];
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

    for (long long tile = 0; tile <= past; tile += TILE_KEYS) {
        const int tile_len = min((long long)TILE_KEYS, past + 1 - tile);

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
            if (lane == 0) {
                correction[head] = old_scale;
                denominator[head] = running_sum[i];
            }
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
    for (int i = 0; i < DIMS_PER_THREAD; i++) {
        const int dim = thread + i * THREADS_PER_BLOCK;
        if (dim >= head_dim) break;
#pragma unroll
        for (int head = 0; head < HEADS_PER_BLOCK; head++) {
            if (head >= num_heads) break;
            out_rows[head * head_dim + dim] = from_float<T>(numerator[i][head] / denominator[head]);
        }
    }
}

#define GQA_DECODE_ENTRY(NAME, T)                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK)                                                    \
    NAME(const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache, T* out, const int* past_len,              \
         int num_kv_heads, int q_per_kv, int head_dim, long long cache_stride_request,                                 \
         long long cache_stride_head, long long cache_stride_token, float scale) {                                     \
        decode_step<T>(q, k_new, v_new, k_cache, v_cache, out, past_len, num_kv_heads, q_per_kv, head_dim,             \
                       cache_stride_request, cache_stride_head, cache_stride_token, scale);                            \
    }

GQA_DECODE_ENTRY(gqa_decode_f32, float)
GQA_DECODE_ENTRY(gqa_decode_f16, __half)
GQA_DECODE_ENTRY(gqa_decode_bf16, __nv_bfloat16)
