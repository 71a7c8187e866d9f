// Prefill attention with grouped query heads over a batch of requests of different lengths, on tensor cores.
//
// For each request r of a batch, with queries q_len[r] and keys kv_len[r] of its own, one launch
//   1. attends from every query to the keys it may see, which all are in the cache already;
//   2. returns the log-sum-exp of each row, natural logarithm, beside the output.
//
// Entries: gqa_prefill_{f16,bf16}_d{64,128,192,256}. The element type T is that of q, both caches and out; lse, sinks
// and arithmetic are f32. The number is what head_dim and v_head_dim are padded to, in shared memory and registers only:
//   d64      head_dim <= 64,  v_head_dim <= 64
//   d128     head_dim <= 128, v_head_dim <= 128
//   d192     head_dim <= 192, v_head_dim <= 128
//   d256     head_dim <= 256, v_head_dim <= 256
//
// Arguments, in order (shapes slowest dimension first; "contiguous" means no padding at all)
//   q            [total_q, num_q_heads, head_dim]     contiguous, read
//   k_cache      [total_kv, num_kv_heads, head_dim]   strided, read
//   v_cache      [total_kv, num_kv_heads, v_head_dim] strided, read
//   out          [total_q, num_q_heads, v_head_dim]   contiguous, every element written
//   lse          [total_q, num_q_heads]               f32, every element written
//   cu_q_len     [batch + 1]                          i32, read; request r has rows cu_q_len[r] .. cu_q_len[r + 1] of q
//   cu_kv_len    [batch + 1]                          i32, read; and these tokens of the caches
//   sinks        [num_q_heads]                        f32, read; null for none
//   q_per_kv, head_dim, v_head_dim                    i32
//   k_stride_head, k_stride_token, v_stride_head, v_stride_token
//                                                     i64, in elements; the last dimension is dense
//   scale, softcap                                    f32; softcap 0 for none
//   causal, window                                    i32; causal 0 or 1, window 0 for none
//
// num_q_heads = num_kv_heads * q_per_kv, and query head h reads KV head h / q_per_kv. HND and NHD caches differ only in
// the strides. Nothing between rows, and no token of another request, is read.
//
// Attention
//   Query i of a request is at position p = kv_len - q_len + i, which may be negative. It sees the keys below kv_len,
//   of them with causal those up to p, and with a window those above p - window.
//   The logit of a key is x = scale * q . k, or with a softcap softcap * tanh(x / softcap). A sink is one logit more,
//   neither scaled nor capped, in the denominator and the log-sum-exp of each row of its head; its value is zero.
//   A row that sees no key gets zeros, and a log-sum-exp of -inf, or of its sink.
//
// Domain
//   head_dim and v_head_dim are multiples of 8 from 8 to 256. All tensors of T begin at multiples of 16 bytes, and all
//   strides are multiples of 8 elements. Requests may have no queries, no keys, or more queries than keys; lengths and
//   window are below 2^30, batch and num_q_heads below 2^16. softcap is at least 0; any scale. No two tensors overlap.
//   q . k, and its product with scale and log2(e), must be finite in f32.
//
// Launch
//   grid (ceil(longest q_len / R), num_q_heads, batch)   block (128, 1, 1)
//   R = 128 rows a block, but 64 in d256; dynamic shared memory at least 2 * (R * K + 2 * X * (K + V)) bytes, K and V
//   the padded dimensions, X = 64 keys a tile, but 32 in d192 and d256:
//   d64 49152      d128 98304      d192 90112      d256 98304
//
// Who does what
//   A block owns R queries of one head of one request. Each of its four warps owns R / 4 of them, as one or two tiles
//   of mma. The queries stay in shared memory; K and V of the keys that any of them sees go through it in tiles of X,
//   which begin at multiples of X. While one tile is worked on the next is copied (cp.async) to the other of two stages:
//   one barrier a tile. Dimensions, keys and queries past the last are zeros in shared memory. Warps skip tiles that
//   none of their rows sees; only tiles that a row doesn't see all of are masked.
//   Chunks of 16 bytes lie in shared memory with their column's lowest three bits exclusive-or their row's, so that no
//   ldmatrix and no copy meets a bank twice. Four lanes hold a row of scores and of the numerator. A warp's output goes
//   through its own queries' place in shared memory, and from there in chunks of 16 bytes.
//
// Numerics (n visible keys; at most t = ceil((n - 1) / X) + 1 tiles hold some of them)
//   q . k        mma.m16n8k16 with f32 sums over the padded dimensions, in their order; zeros change no sum.
//   logit        in base 2: one rounding multiplies q . k by scale * log2(e), itself one rounding and 0.23 units of
//                roundoff for the constant. With a softcap c: y = q . k times fl(2 log2(e) scale / c), then
//                fma(-2 c', 1 / (1 + 2^y), c') with c' = fl(c log2(e)). tanh is 1 - z with z = 2 / (1 + 2^y), 0 to 2. In
//                units of roundoff z has 3 of the reciprocal, 1 of the sum and (1 - z / 2) times 5 of ex2: tanh's absolute
//                error is at most 4 z + 5 z (1 - z / 2), 8.1 at most. y's relative one is 3, and 0.23 for the constant.
//   sink         one rounding multiplies it by log2(e). It is where maximum and sum begin: weight 1.
//   softmax      online, base 2, a running maximum per row; it is always one of the logits, so exact. Weights are
//                ex2.approx.ftz(logit - maximum), the difference rounded once; those below 2^-126 are 0. A tile that
//                raises the maximum rescales the sums of earlier tiles by ex2.approx.ftz(old - new), at most t - 1 times;
//                where the maximum stays the factor is exactly 1. A row that has seen nothing subtracts 0, not -inf.
//   numerator    weights rounded to T, to nearest, then mma with f32 sums over the keys of the tile, in their order. A
//                rescale is one rounding.
//   denominator  of weights not rounded to T: in each lane a sum from zero over its X / 4 keys of a tile, at most 15
//                roundings; one fma(sum, factor, tile), exact in the first tile but for a sink; 2 butterfly additions.
//   division     1 / denominator, rounded to nearest, and one product; then one rounding to T, to nearest even.
//   lse          fma(maximum, ln 2, logf(denominator)): logf is CUDA's full-range function (1 ulp).
//   No operation but ex2 and the softcap's reciprocal flushes subnormals.
#include "common.cuh"

#include <math_constants.h>

enum : int {
    WARPS_PER_BLOCK = 4,
    THREADS_PER_BLOCK = WARPS_PER_BLOCK * WARP_SIZE,
    CHUNK_BYTES = 16,      // of one cp.async, one row of an ldmatrix and one store
    CHUNK = 8,             // elements of it
    CHUNKS_PER_PASS = 8,   // a row's chunks that one pass of the block's threads copies
    ROWS_PER_PASS = THREADS_PER_BLOCK / CHUNKS_PER_PASS,
    PASS_DIMS = CHUNKS_PER_PASS * CHUNK,
    MMA_M = 16,
    MMA_N = 8,
    MMA_K = 16,
    UNBOUNDED = 1 << 30,
};

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

__device__ __forceinline__ float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 1 / (1 + 2^x)
__device__ __forceinline__ float logistic(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n\t"
        "add.rn.f32 %0, %0, 0f3F800000;\n\t"
        "rcp.approx.ftz.f32 %0, %0;"
        : "=f"(y)
        : "f"(x));
    return y;
}

// Two numbers rounded to T, to nearest, the first in the lower half.
template <typename T> __device__ __forceinline__ unsigned pack(float low, float high);
template <> __device__ __forceinline__ unsigned pack<__half>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
template <> __device__ __forceinline__ unsigned pack<__nv_bfloat16>(float low, float high) {
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

// c += a b, all of 16 by 16 elements; c as two halves of 8 columns, one behind the other.
template <typename T>
__device__ __forceinline__ void mma(float (*c)[4], const unsigned (&a)[4], const unsigned (&b)[4]);
template <>
__device__ __forceinline__ void mma<__half>(float (*c)[4], const unsigned (&a)[4], const unsigned (&b)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0,%1,%2,%3}, {%8,%9,%10,%11}, {%12,%13}, {%0,%1,%2,%3};\n\t"
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%14,%15}, {%4,%5,%6,%7};"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
          "+f"(c[1][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]));
}
template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (*c)[4], const unsigned (&a)[4], const unsigned (&b)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0,%1,%2,%3}, {%8,%9,%10,%11}, {%12,%13}, {%0,%1,%2,%3};\n\t"
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%4,%5,%6,%7}, {%8,%9,%10,%11}, {%14,%15}, {%4,%5,%6,%7};"
        : "+f"(c[0][0]), "+f"(c[0][1]), "+f"(c[0][2]), "+f"(c[0][3]), "+f"(c[1][0]), "+f"(c[1][1]), "+f"(c[1][2]),
          "+f"(c[1][3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]));
}

// Four 8 by 8 matrices, lane 8 j + i at the address of row i of the j-th.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// One chunk to shared memory, or zeros in its place, without a look at `from`.
__device__ __forceinline__ void copy_or_zero(unsigned to, const void* from, bool copied) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(copied ? CHUNK_BYTES : 0)
                 : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Byte of a chunk in a tile of shared memory whose rows have DIMS elements. The chunks of one column in eight rows lie
// in different banks.
template <int DIMS> __device__ __forceinline__ unsigned chunk_at(int row, int chunk) {
    return row * DIMS * 2 + (chunk ^ (row % 8)) * CHUNK_BYTES;
}

// The byte `dim` elements to the right of a chunk_at() whose chunk is 0 or 1; `dim` is a multiple of 16.
__device__ __forceinline__ unsigned columns_on(unsigned chunk, int dim) {
    return (chunk ^ (dim % PASS_DIMS * 2)) + dim / PASS_DIMS * PASS_DIMS * 2;
}

// The first ROWS rows of a matrix to a tile: `dims` elements of each of the first `rows`, zeros elsewhere.
template <int ROWS, int DIMS, typename T>
__device__ __forceinline__ void copy_rows(unsigned tile, const T* from, long long stride, int rows, int dims) {
    const int row = threadIdx.x / CHUNKS_PER_PASS;
    const int chunk = threadIdx.x % CHUNKS_PER_PASS;
    const T* source = from + row * stride + chunk * CHUNK;
    const unsigned target = tile + chunk_at<DIMS>(row, chunk);
#pragma unroll
    for (int i = 0; i < ROWS; i += ROWS_PER_PASS) {
#pragma unroll
        for (int j = 0; j < DIMS; j += PASS_DIMS) {
            const bool present = row + i < rows && chunk * CHUNK + j < dims;
            copy_or_zero(target + (i * DIMS + j) * 2, source + i * stride + j, present);
        }
    }
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 1));
    return fmaxf(x, __shfl_xor_sync(FULL_WARP, x, 2));
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(FULL_WARP, x, 1);
    return x + __shfl_xor_sync(FULL_WARP, x, 2);
}

template <int M_TILES, int SCORE_TILES, typename F>
__device__ __forceinline__ void for_each_score(float (&score)[M_TILES][SCORE_TILES][4], F f) {
#pragma unroll
    for (int i = 0; i < M_TILES * SCORE_TILES * 4; i++) f(score[i / 4 / SCORE_TILES][i / 4 % SCORE_TILES][i % 4]);
}

template <typename T, int K_DIMS, int V_DIMS, int M_TILES, int TILE_KEYS>
__device__ __forceinline__ void prefill(const T* q, const T* k_cache, const T* v_cache, T* out, float* lse,
                                        const int* cu_q_len, const int* cu_kv_len, const float* sinks, int q_per_kv,
                                        int head_dim, int v_head_dim, long long k_stride_head, long long k_stride_token,
                                        long long v_stride_head, long long v_stride_token, float scale, float softcap,
                                        int causal, int window) {
    constexpr int WARP_ROWS = M_TILES * MMA_M;
    constexpr int BLOCK_ROWS = WARPS_PER_BLOCK * WARP_ROWS;
    constexpr int SCORE_TILES = TILE_KEYS / MMA_N;
    constexpr int OUT_TILES = V_DIMS / MMA_N;
    constexpr unsigned K_BYTES = TILE_KEYS * K_DIMS * 2;
    constexpr unsigned STAGE_BYTES = K_BYTES + TILE_KEYS * V_DIMS * 2;

    const int lane = threadIdx.x % WARP_SIZE;
    const int warp = threadIdx.x / WARP_SIZE;
    const int request = blockIdx.z;
    const int head = blockIdx.y;
    const int num_q_heads = gridDim.y;
    const int kv_head = head / q_per_kv;
    const int q_begin = cu_q_len[request];
    const int q_len = cu_q_len[request + 1] - q_begin;
    const int kv_begin = cu_kv_len[request];
    const int kv_len = cu_kv_len[request + 1] - kv_begin;
    // With causal masking later rows see more keys: those blocks start first.
    const int block_row = (gridDim.x - 1 - blockIdx.x) * BLOCK_ROWS;
    if (block_row >= q_len) return;

    // The keys that a row of the request sees: [first_key, end_key). Rows past its last one see none.
    const int past = kv_len - q_len;  // position of row 0; negative if there are more queries than keys
    const int to_the_left = window > 0 ? window - 1 : UNBOUNDED;
    const int to_the_right = causal ? 0 : UNBOUNDED;
    const auto first_key = [&](int row) { return max(past + row - to_the_left, 0); };
    const auto end_key = [&](int row) {
        return row < q_len ? min(max(past + row + to_the_right + 1, 0), kv_len) : 0;
    };
    const int warp_row = block_row + warp * WARP_ROWS;
    const int warp_last = min(warp_row + WARP_ROWS, q_len) - 1;
    const int block_last = min(block_row + BLOCK_ROWS, q_len) - 1;
    const int begin = first_key(block_row) / TILE_KEYS * TILE_KEYS;
    const int end = end_key(block_last);

    extern __shared__ __align__(128) unsigned char shared[];
    const unsigned q_tile = __cvta_generic_to_shared(shared);
    unsigned stage = q_tile + BLOCK_ROWS * K_DIMS * 2;
    unsigned next_stage = stage + STAGE_BYTES;
    const long long q_row = (long long)q_begin * num_q_heads + head;  // of row 0, in rows of q, out and lse
    const T* k_head = k_cache + kv_begin * k_stride_token + kv_head * k_stride_head;
    const T* v_head = v_cache + kv_begin * v_stride_token + kv_head * v_stride_head;
    const auto copy_tile = [&](unsigned to, int tile) {
        copy_rows<TILE_KEYS, K_DIMS>(to, k_head + tile * k_stride_token, k_stride_token, kv_len - tile, head_dim);
        copy_rows<TILE_KEYS, V_DIMS>(to + K_BYTES, v_head + tile * v_stride_token, v_stride_token, kv_len - tile,
                                     v_head_dim);
        commit_copies();
    };
    const long long q_stride = (long long)num_q_heads * head_dim;
    // Rows of warps without any query are left as they are: nobody looks at them.
    static_assert(WARP_ROWS % ROWS_PER_PASS == 0, "a warp's rows are copied together");
#pragma unroll 1
    for (int row = 0; row < (block_last - block_row) / WARP_ROWS * WARP_ROWS + WARP_ROWS; row += ROWS_PER_PASS) {
        copy_rows<ROWS_PER_PASS, K_DIMS>(q_tile + row * K_DIMS * 2, q + q_row * head_dim + (block_row + row) * q_stride,
                                         q_stride, q_len - block_row - row, head_dim);
    }
    commit_copies();

    // Of the fragments' rows a lane holds rows lane / 4 and lane / 4 + 8 of each 16, columns 2 (lane % 4) and the next
    // of each 8. Logits are kept in base 2.
    const int quad = lane / 4;
    const int member = lane % 4;
    const float log2_scale = scale * LOG2_E;
    const float factor = softcap > 0.0f ? 2.0f * log2_scale / softcap : log2_scale;
    const float log2_cap = softcap * LOG2_E;
    const float sink = sinks != nullptr ? sinks[head] * LOG2_E : -CUDART_INF_F;
    float running_max[M_TILES][2], running_sum[M_TILES][2];
    float numerator[M_TILES][OUT_TILES][4] = {};
#pragma unroll
    for (int m = 0; m < M_TILES; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            // The sink is an element that was seen before all keys. Four lanes' sums are added at the end.
            running_max[m][half] = sink;
            running_sum[m][half] = sinks != nullptr && member == 0 ? 1.0f : 0.0f;
        }
    }

    // Where this lane's row of an ldmatrix is: four matrices cover 16 rows and 16 columns, of K those of 8 rows first.
    const unsigned q_lane = chunk_at<K_DIMS>(warp * WARP_ROWS + lane % 16, lane / 16);
    const unsigned k_lane = chunk_at<K_DIMS>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
    const unsigned v_lane = chunk_at<V_DIMS>(lane % 16, lane / 16);
    const int warp_begin = first_key(warp_row);
    const int warp_end = warp_row < q_len ? end_key(warp_last) : 0;
    const int seen_by_all_begin = first_key(warp_row + WARP_ROWS - 1);
    const int seen_by_all_end = min(end_key(warp_row), end_key(warp_row + WARP_ROWS - 1));

    // No warp sees anything of the tile before the first: that iteration starts the first one's copies.
#pragma unroll 1
    for (int tile = begin - TILE_KEYS; tile < end; tile += TILE_KEYS) {
        wait_for_copies();
        __syncthreads();  // this tile is there for all, and nobody needs the one before
        const unsigned keys = stage;
        stage = next_stage;
        next_stage = keys;
        if (tile + TILE_KEYS < end) copy_tile(stage, tile + TILE_KEYS);
        if (tile >= warp_end || tile + TILE_KEYS <= warp_begin) continue;

        // Logits.
        float score[M_TILES][SCORE_TILES][4] = {};
#pragma unroll
        for (int dim = 0; dim < K_DIMS; dim += MMA_K) {
            unsigned a[M_TILES][4];
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
                load_matrices(a[m], q_tile + m * MMA_M * K_DIMS * 2 + columns_on(q_lane, dim));
            }
#pragma unroll
            for (int key = 0; key < TILE_KEYS; key += MMA_K) {
                unsigned b[4];
                load_matrices(b, keys + key * K_DIMS * 2 + columns_on(k_lane, dim));
#pragma unroll
                for (int m = 0; m < M_TILES; m++) {
                    mma<T>(&score[m][key / MMA_N], a[m], b);
                }
            }
        }
        // Roundings are spelled out where a fused multiply-add would change what is equal to what.
        for_each_score(score, [&](float& x) { x = __fmul_rn(x, factor); });
        if (softcap > 0.0f) {
            // tanh(y) = 1 - 2 / (1 + e^(2y))
            for_each_score(score, [&](float& x) { x = fmaf(-2.0f * log2_cap, logistic(x), log2_cap); });
        }
        if (tile < seen_by_all_begin || tile + TILE_KEYS > seen_by_all_end) {
#pragma unroll
            for (int i = 0; i < 2 * M_TILES; i++) {
                const int row = warp_row + i * 8 + quad;
                const int from = first_key(row) - tile - 2 * member;
                const int to = end_key(row) - tile - 2 * member;
#pragma unroll
                for (int n = 0; n < SCORE_TILES; n++) {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        const int key = n * MMA_N + j;
                        if (key < from || key >= to) score[i / 2][n][i % 2 * 2 + j] = -CUDART_INF_F;
                    }
                }
            }
        }

        // Softmax.
#pragma unroll
        for (int m = 0; m < M_TILES; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float new_max = running_max[m][half];
#pragma unroll
                for (int n = 0; n < SCORE_TILES; n++) {
                    new_max = fmaxf(new_max, fmaxf(score[m][n][2 * half], score[m][n][2 * half + 1]));
                }
                new_max = quad_max(new_max);
                // A row that has seen nothing yet subtracts 0, not its maximum of -inf.
                const float subtracted = new_max == -CUDART_INF_F ? 0.0f : new_max;
                const float correction = exp2_approx(running_max[m][half] - subtracted);
                running_max[m][half] = new_max;
                float sum = 0.0f;
#pragma unroll
                for (int n = 0; n < SCORE_TILES; n++) {
#pragma unroll
                    for (int j = 0; j < 2; j++) {
                        float& x = score[m][n][2 * half + j];
                        x = exp2_approx(x - subtracted);
                        sum += x;
                    }
                }
                running_sum[m][half] = fmaf(running_sum[m][half], correction, sum);
#pragma unroll
                for (int n = 0; n < OUT_TILES; n++) {
                    numerator[m][n][2 * half] *= correction;
                    numerator[m][n][2 * half + 1] *= correction;
                }
            }
        }

        // Values. The layout of a result of mma is that of its left operand.
#pragma unroll
        for (int key = 0; key < TILE_KEYS; key += MMA_K) {
            unsigned a[M_TILES][4];
#pragma unroll
            for (int m = 0; m < M_TILES; m++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float(&x)[4] = score[m][key / MMA_N + i / 2];
                    a[m][i] = pack<T>(x[i % 2 * 2], x[i % 2 * 2 + 1]);
                }
            }
#pragma unroll
            for (int dim = 0; dim < V_DIMS; dim += MMA_K) {
                unsigned b[4];
                load_matrices_transposed(b, keys + K_BYTES + key * V_DIMS * 2 + columns_on(v_lane, dim));
#pragma unroll
                for (int m = 0; m < M_TILES; m++) {
                    mma<T>(&numerator[m][dim / MMA_N], a[m], b);
                }
            }
        }
    }

    // The output goes through the warp's own rows of the query tile, so that whole chunks are stored.
    static_assert(V_DIMS <= K_DIMS, "an output row fits into a query row");
    __syncwarp();
    unsigned char* column[CHUNKS_PER_PASS];
#pragma unroll
    for (int n = 0; n < CHUNKS_PER_PASS; n++) {
        column[n] = shared + chunk_at<K_DIMS>(warp * WARP_ROWS + quad, n) + member * 4;
    }
#pragma unroll
    for (int i = 0; i < 2 * M_TILES; i++) {
        const float denominator = quad_sum(running_sum[i / 2][i % 2]);
        const float inverse = denominator > 0.0f ? 1.0f / denominator : 0.0f;
        const int row = i * 8 + quad;
        if (member == 0 && warp_row + row < q_len) {
            lse[q_row + (long long)(warp_row + row) * num_q_heads] =
                denominator > 0.0f ? fmaf(running_max[i / 2][i % 2], LN_2, logf(denominator)) : -CUDART_INF_F;
        }
#pragma unroll
        for (int n = 0; n < OUT_TILES; n++) {
            const float* x = &numerator[i / 2][n][i % 2 * 2];
            unsigned char* to = column[n % CHUNKS_PER_PASS] + i * 8 * K_DIMS * 2 + n / CHUNKS_PER_PASS * PASS_DIMS * 2;
            *reinterpret_cast<unsigned*>(to) = pack<T>(x[0] * inverse, x[1] * inverse);
        }
    }
    __syncwarp();
#pragma unroll 1
    for (int row = lane / CHUNKS_PER_PASS; row < WARP_ROWS; row += WARP_SIZE / CHUNKS_PER_PASS) {
        if (warp_row + row >= q_len) break;
        T* to = out + (q_row + (long long)(warp_row + row) * num_q_heads) * v_head_dim;
#pragma unroll 1
        for (int chunk = lane % CHUNKS_PER_PASS; chunk * CHUNK < v_head_dim; chunk += CHUNKS_PER_PASS) {
            const unsigned char* from = shared + chunk_at<K_DIMS>(warp * WARP_ROWS + row, chunk);
            *reinterpret_cast<uint4*>(to + chunk * CHUNK) = *reinterpret_cast<const uint4*>(from);
        }
    }
}

#define PREFILL_ENTRY(DTYPE, T, DIMS, V_DIMS, M_TILES, TILE_KEYS, BLOCKS_PER_SM)                                       \
    extern "C" __global__ void __launch_bounds__(THREADS_PER_BLOCK, BLOCKS_PER_SM) gqa_prefill_##DTYPE##_d##DIMS(      \
        const T* q, const T* k_cache, const T* v_cache, T* out, float* lse, const int* cu_q_len, const int* cu_kv_len, \
        const float* sinks, int q_per_kv, int head_dim, int v_head_dim, long long k_stride_head,                       \
        long long k_stride_token, long long v_stride_head, long long v_stride_token, float scale, float softcap,       \
        int causal, int window) {                                                                                      \
        prefill<T, DIMS, V_DIMS, M_TILES, TILE_KEYS>(q, k_cache, v_cache, out, lse, cu_q_len, cu_kv_len, sinks,        \
                                                     q_per_kv, head_dim, v_head_dim, k_stride_head, k_stride_token,    \
                                                     v_stride_head, v_stride_token, scale, softcap, causal, window);   \
    }

#define PREFILL_ENTRIES(DTYPE, T)                  \
    PREFILL_ENTRY(DTYPE, T, 64, 64, 2, 64, 3)      \
    PREFILL_ENTRY(DTYPE, T, 128, 128, 2, 64, 2)    \
    PREFILL_ENTRY(DTYPE, T, 192, 128, 2, 32, 2)    \
    PREFILL_ENTRY(DTYPE, T, 256, 256, 1, 32, 2)

PREFILL_ENTRIES(f16, __half)
PREFILL_ENTRIES(bf16, __nv_bfloat16)
