// Right decode attention, computed in many ways: the subjects on which a bound must never cry wolf.
//
// Every variant does what ../gqa_decode does, with the same arguments (see there for shapes), and differs in order,
// rounding and approximations only. Its manifest names it with -DVARIANT=... and says what its arithmetic may cost; the
// counts behind those numbers stand at each variant here. Written to be read and counted, not to be fast.
//
// Launch
//   grid (batch * num_q_heads, 1, 1)      block (THREADS, 1, 1), as the manifest says
//   A block owns one output row. Blocks of the first query head of a group append K and V to the cache; every block takes
//   the newest position from k_new and v_new, so no block depends on another.
//
// Counting (n keys, d = head_dim, u = 2^-24)
//   A sum that starts at zero adds its first term exactly: a chain over n terms has n - 1 rounded additions, and a fused
//   multiply-add's rounding counts as the addition's. The first one rounds the product instead (k_qk, k_pv), even if all
//   others don't. Rescales are counted by r and r_comb, not by h_pv and h_l. A running maximum is one of the scores: exact.
//   expf is CUDA's full-range function (2 ulp). It contains ex2.approx.ftz, but on an argument that it has reduced, and
//   multiplies by a power of two afterwards: nothing above 2^-149 is flushed.
#include "common.cuh"
#include <math_constants.h>

enum : int {
    MAX_HEAD_DIM = 256,
    DIMS_PER_LANE = MAX_HEAD_DIM / WARP_SIZE,
    DIMS_PER_THREAD = MAX_HEAD_DIM / THREADS,
};

// `x` after a stay in format T.
template <typename T> __device__ __forceinline__ float through(float x) { return to_float(from_float<T>(x)); }

// One output row, and the keys and values that it sees.
template <typename T> struct Row {
    const T *q, *k_new, *v_new, *k_cache, *v_cache;
    T* out;
    long long token_stride;
    int n, d;
    float scale;

    __device__ __forceinline__ float query(int dim) const { return to_float(q[dim]); }
    __device__ __forceinline__ const T* key(int j) const {
        return j == n - 1 ? k_new : k_cache + j * token_stride;
    }
    __device__ __forceinline__ float value(int j, int dim) const {
        return to_float((j == n - 1 ? v_new : v_cache + j * token_stride)[dim]);
    }
    // A chain of d fused multiply-adds from zero: h_qk = d - 1.
    __device__ __forceinline__ float dot(int j, float factor = 1.0f) const {
        const T* k = key(j);
        float sum = 0.0f;
#pragma unroll 1
        for (int dim = 0; dim < d; dim++) sum = fmaf(query(dim) * factor, to_float(k[dim]), sum);
        return sum;
    }
};

// Two passes, scores and weights of the whole row in shared memory. Every sum is a chain in the order of positions, and
// with -fmad=false products are rounded before they are added.
//   h_qk = d - 1    k_qk = 2 (product, scale)    h_l = h_pv = n - 1    k_pv = 1 (product)    k_x = 1 (subtraction)
extern __shared__ float weight[];

template <typename T> __device__ __forceinline__ float scores(const Row<T>& row) {
#pragma unroll 1
    for (int j = threadIdx.x; j < row.n; j += THREADS) {
        const T* k = row.key(j);
        float dot = 0.0f;
#pragma unroll 1
        for (int dim = 0; dim < row.d; dim++) dot += row.query(dim) * to_float(k[dim]);
        weight[j] = dot * row.scale;
    }
    __syncthreads();
    float max = -CUDART_INF_F;
#pragma unroll 1
    for (int j = 0; j < row.n; j++) max = fmaxf(max, weight[j]);
    __syncthreads();
    return max;
}

// P is the format that weights stay in for a while before they are summed and meet the values.
template <typename T, typename P> __device__ __forceinline__ void two_pass(const Row<T>& row) {
    const float max = scores(row);
#pragma unroll 1
    for (int j = threadIdx.x; j < row.n; j += THREADS) weight[j] = through<P>(expf(weight[j] - max));
    __syncthreads();
    float sum = 0.0f;
#pragma unroll 1
    for (int j = 0; j < row.n; j++) sum += weight[j];
#pragma unroll 1
    for (int dim = threadIdx.x; dim < row.d; dim += THREADS) {
        float acc = 0.0f;
#pragma unroll 1
        for (int j = 0; j < row.n; j++) acc += weight[j] * row.value(j, dim);
        row.out[dim] = from_float<T>(acc / sum);
    }
}

template <typename T> __device__ __forceinline__ void two_pass_sequential(const Row<T>& row) { two_pass<T, float>(row); }

// The same with weights in binary16, in the denominator too: p_round = f16, p_den = yes.
template <typename T> __device__ __forceinline__ void two_pass_f16_weights(const Row<T>& row) { two_pass<T, __half>(row); }

// The same, but weights come normalised, as exp(s - lse), and nothing is divided: p_lse. An error of lse scales the row.
//   k_x = 1 (s - lse: |s - lse| is at most M - s + ln n, the latter in e_abs)    e_div = 0
template <typename T> __device__ __forceinline__ void lse_normalised(const Row<T>& row) {
    const float max = scores(row);
    float sum = 0.0f;
#pragma unroll 1
    for (int j = 0; j < row.n; j++) sum += expf(weight[j] - max);
    const float lse = max + logf(sum);
    __syncthreads();
#pragma unroll 1
    for (int j = threadIdx.x; j < row.n; j += THREADS) weight[j] = expf(weight[j] - lse);
    __syncthreads();
#pragma unroll 1
    for (int dim = threadIdx.x; dim < row.d; dim += THREADS) {
        float acc = 0.0f;
#pragma unroll 1
        for (int j = 0; j < row.n; j++) acc += weight[j] * row.value(j, dim);
        row.out[dim] = from_float<T>(acc);
    }
}

// A sum as a binary tree: partial sums of 2^level terms, joined like the carries of a counter.
//   A term passes through `level` additions in its partial sum, and at the end through one for each larger partial sum
//   and one for the smaller ones together: floor(log2(terms)) + 1 at most.
struct Pairwise {
    float part[32];
    unsigned count = 0;

    __device__ __forceinline__ void add(float x) {
        int level = 0;
#pragma unroll 1
        for (; count >> level & 1; level++) x = __fadd_rn(part[level], x);
        part[level] = x;
        count++;
    }
    __device__ __forceinline__ float sum() const {
        float sum = 0.0f;
#pragma unroll 1
        for (int level = 0; count >> level; level++) {
            if (count >> level & 1) sum = __fadd_rn(part[level], sum);
        }
        return sum;
    }
};

// Two passes, every sum a tree, no fused operation.
//   h_qk = floor(log2 d) + 1    k_qk = 2    h_l = h_pv = floor(log2 n) + 1    k_pv = 1    k_x = 1
template <typename T> __device__ __forceinline__ void two_pass_pairwise(const Row<T>& row) {
    float max = -CUDART_INF_F;
#pragma unroll 1
    for (int j = threadIdx.x; j < row.n; j += THREADS) {
        const T* k = row.key(j);
        Pairwise dot;
#pragma unroll 1
        for (int dim = 0; dim < row.d; dim++) dot.add(__fmul_rn(row.query(dim), to_float(k[dim])));
        weight[j] = __fmul_rn(dot.sum(), row.scale);
    }
    __syncthreads();
#pragma unroll 1
    for (int j = 0; j < row.n; j++) max = fmaxf(max, weight[j]);
    __syncthreads();
#pragma unroll 1
    for (int j = threadIdx.x; j < row.n; j += THREADS) weight[j] = expf(weight[j] - max);
    __syncthreads();
    Pairwise sum;
#pragma unroll 1
    for (int j = 0; j < row.n; j++) sum.add(weight[j]);
    const float denominator = sum.sum();
#pragma unroll 1
    for (int dim = threadIdx.x; dim < row.d; dim += THREADS) {
        Pairwise acc;
#pragma unroll 1
        for (int j = 0; j < row.n; j++) acc.add(__fmul_rn(weight[j], row.value(j, dim)));
        row.out[dim] = from_float<T>(acc.sum() / denominator);
    }
}

// What a warp knows of its keys: a running maximum, and what the sums come to against it. A lane holds every 32nd dim.
struct Partial {
    float max = -CUDART_INF_F;
    float sum = 0.0f;
    float acc[DIMS_PER_LANE] = {};
};

// Online softmax key by key, a warp to all of them. Each key may raise the maximum and rescale what was there.
//   dot: a chain of ceil(d / 32) in each lane and 5 butterfly additions: h_qk = ceil(d / 32) + 4, k_qk = 2
//   sums over m keys: fmaf(sum, factor, weight) and fmaf(weight, v, acc * factor): h_l = h_pv = m - 1, r = m - 1, k_pv = 1
//   k_x = 1: each argument is one subtraction of scores or maxima
template <typename T> __device__ __forceinline__ Partial online(const Row<T>& row, int begin, int end) {
    const int lane = threadIdx.x % WARP_SIZE;
    Partial part;
#pragma unroll 1
    for (int j = begin; j < end; j++) {
        const T* k = row.key(j);
        float dot = 0.0f;
#pragma unroll 1
        for (int dim = lane; dim < row.d; dim += WARP_SIZE) dot = fmaf(row.query(dim), to_float(k[dim]), dot);
        const float score = warp_sum(dot) * row.scale;
        const float max = fmaxf(part.max, score);
        const float factor = expf(part.max - max);  // expf(-inf) is 0
        const float w = expf(score - max);
        part.max = max;
        part.sum = fmaf(part.sum, factor, w);
#pragma unroll
        for (int i = 0; i < DIMS_PER_LANE; i++) {
            const int dim = lane + i * WARP_SIZE;
            if (dim >= row.d) break;
            part.acc[i] = fmaf(w, row.value(j, dim), part.acc[i] * factor);
        }
    }
    return part;
}

// One warp. The division is an IEEE reciprocal and a product: e_div = (1 + u)^2 - 1.
template <typename T> __device__ __forceinline__ void online_keys(const Row<T>& row) {
    const Partial part = online(row, 0, row.n);
    const float inverse = 1.0f / part.sum;
#pragma unroll
    for (int i = 0; i < DIMS_PER_LANE; i++) {
        const int dim = threadIdx.x + i * WARP_SIZE;
        if (dim < row.d) row.out[dim] = from_float<T>(part.acc[i] * inverse);
    }
}

// Four warps, each with a quarter of the keys in a row (m = ceil(n / 4)), combined through their log-sum-exps.
//   h_l = h_pv = m - 1 + 3 (adding four parts)    r = m - 1    r_comb = 1    k_pv = 2 (product, a part's own division)
//   lse = max + log(sum), in nats: logf errs by 1 ulp (2u ln n), the addition by u (|max| + ln n), and the difference of
//   two of them by u (distance of maxima + ln n): k_m = 1, k_x = 1, e_abs = 4u ln n, and a little for the second order.
//   A part's sum cancels between its quotient and its lse, so that its error counts in the denominator alone.
// DIVIDES: by the sum of the parts' weights. If not, weights are exp(lse_part - lse) as in FlashAttention's combine kernel:
// p_lse, e_div = 0, and e_abs = 5u ln n, since lse may exceed the parts' maximum by ln n.
template <bool DIVIDES, typename T> __device__ __forceinline__ void split(const Row<T>& row) {
    enum : int { SPLITS = THREADS / WARP_SIZE };
    __shared__ float lse[SPLITS];
    __shared__ float parts[SPLITS][MAX_HEAD_DIM];
    const int lane = threadIdx.x % WARP_SIZE, warp = threadIdx.x / WARP_SIZE;
    const int keys = (row.n + SPLITS - 1) / SPLITS;
    const int begin = min(warp * keys, row.n), end = min(begin + keys, row.n);
    const Partial part = online(row, begin, end);
    if (lane == 0) lse[warp] = begin < end ? part.max + logf(part.sum) : -CUDART_INF_F;
#pragma unroll
    for (int i = 0; i < DIMS_PER_LANE; i++) {
        const int dim = lane + i * WARP_SIZE;
        if (dim < row.d) parts[warp][dim] = begin < end ? part.acc[i] / part.sum : 0.0f;
    }
    __syncthreads();
    float max = -CUDART_INF_F, sum = 0.0f;
    for (int split = 0; split < SPLITS; split++) max = fmaxf(max, lse[split]);
    for (int split = 0; split < SPLITS; split++) sum += expf(lse[split] - max);
    const float reference = DIVIDES ? max : max + logf(sum);
#pragma unroll 1
    for (int dim = threadIdx.x; dim < row.d; dim += THREADS) {
        float acc = 0.0f;
        for (int split = 0; split < SPLITS; split++) acc = fmaf(expf(lse[split] - reference), parts[split][dim], acc);
        row.out[dim] = from_float<T>(DIVIDES ? acc / sum : acc);
    }
}

template <typename T> __device__ __forceinline__ void split_lse(const Row<T>& row) { split<true>(row); }
template <typename T> __device__ __forceinline__ void split_lse_undivided(const Row<T>& row) { split<false>(row); }

// One warp whose lanes take every 32nd key each, with a maximum and sums of their own, combined at the end by butterflies.
//   dot: h_qk = d - 1, k_qk = 2    m = ceil(n / 32) keys a lane: r = m - 1, r_comb = 1, h_l = h_pv = m - 1 + 5, k_pv = 1
//   __expf: ex2.approx.ftz of a product with log2 e, documented as 2 + floor(1.173 |x|) ulp: k_x = 1 + 2.35, ftz
template <typename T> __device__ __forceinline__ void warp_lanes(const Row<T>& row) {
    const int lane = threadIdx.x;
    float acc[MAX_HEAD_DIM];
#pragma unroll 1
    for (int dim = 0; dim < row.d; dim++) acc[dim] = 0.0f;
    float max = -CUDART_INF_F, sum = 0.0f;
#pragma unroll 1
    for (int j = lane; j < row.n; j += WARP_SIZE) {
        const float score = row.dot(j) * row.scale;
        const float new_max = fmaxf(max, score);
        const float factor = __expf(max - new_max), w = __expf(score - new_max);
        max = new_max;
        sum = fmaf(sum, factor, w);
#pragma unroll 1
        for (int dim = 0; dim < row.d; dim++) acc[dim] = fmaf(w, row.value(j, dim), acc[dim] * factor);
    }
    const float factor = __expf(max - warp_max(max));  // 0 in lanes without keys
    const float denominator = warp_sum(sum * factor);
#pragma unroll 1
    for (int dim = 0; dim < row.d; dim++) {
        const float numerator = warp_sum(acc[dim] * factor);
        if (lane == dim % WARP_SIZE) row.out[dim] = from_float<T>(numerator / denominator);
    }
}

// Online softmax in tiles of THREADS keys, one to a thread. How a tile's scores become weights is Softmax's.
//   dot: h_qk = d - 1    sums: chains that go on from tile to tile: h_l = h_pv = n - 1, r = ceil(n / THREADS) - 1, k_pv = 1
template <typename Softmax, typename T> __device__ __forceinline__ void tiles(const Row<T>& row, const Softmax& softmax) {
    __shared__ float tile_weight[THREADS];
    float max = -CUDART_INF_F, sum = 0.0f, acc[DIMS_PER_THREAD] = {};
#pragma unroll 1
    for (int tile = 0; tile < row.n; tile += THREADS) {
        const int len = min(THREADS, row.n - tile), j = tile + threadIdx.x;
        const float score = j < row.n ? softmax.score(row, j) : -CUDART_INF_F;
        tile_weight[threadIdx.x] = score;
        __syncthreads();
        float new_max = max;
#pragma unroll 1
        for (int key = 0; key < len; key++) new_max = fmaxf(new_max, tile_weight[key]);
        __syncthreads();
        tile_weight[threadIdx.x] = softmax.weight(score, new_max);
        __syncthreads();
        const float factor = softmax.factor(max, new_max);
        max = new_max;
        sum *= factor;
#pragma unroll 1
        for (int key = 0; key < len; key++) sum += tile_weight[key];
#pragma unroll
        for (int i = 0; i < DIMS_PER_THREAD; i++) {
            const int dim = threadIdx.x + i * THREADS;
            if (dim >= row.d) break;
            acc[i] *= factor;
#pragma unroll 1
            for (int key = 0; key < len; key++) {
                acc[i] = fmaf(softmax.stored(tile_weight[key]), row.value(tile + key, dim), acc[i]);
            }
        }
        __syncthreads();  // the next tile's scores replace these weights
    }
#pragma unroll
    for (int i = 0; i < DIMS_PER_THREAD; i++) {
        const int dim = threadIdx.x + i * THREADS;
        if (dim < row.d) row.out[dim] = from_float<T>(softmax.quotient(acc[i], sum));
    }
}

// FlashAttention's arithmetic, with -use_fast_math: the scale is folded into the exponent, exp2(s c - m c) in one fma.
//   k_qk = 1 (product; no scale)    c = scale * log2 e is off by 1.3u (constant, product), the same for every argument
//   weight: fma u |argument|, and fl(m c) u |m c|: k_m = 1    factor: subtraction and product, 2u: k_x = 1.3 + 2
//   k_m's |m| may exceed the exact one by an error of the dot product: a tenth of a rounding in k_qk covers that.
struct FastExp2 {
    float c;
    template <typename T> __device__ __forceinline__ float score(const Row<T>& row, int j) const { return row.dot(j); }
    __device__ __forceinline__ float weight(float s, float max) const { return exp2f(fmaf(s, c, -(max * c))); }
    __device__ __forceinline__ float factor(float old, float max) const { return exp2f((old - max) * c); }
    __device__ __forceinline__ float stored(float w) const { return w; }
    __device__ __forceinline__ float quotient(float a, float b) const { return __fdividef(a, b); }
};

template <typename T> __device__ __forceinline__ void tiles_fast_math(const Row<T>& row) {
    tiles(row, FastExp2{row.scale * 1.4426950408889634f});
}

// The query is multiplied by scale * log2 e before the dot product: prescale_lossy. exp2f (2 ulp) of plain differences.
//   k_qk = 2 (the query's element, product)    c is off by 1.3u, the same for every argument: k_x = 1 + 1.3
struct PrescaledExp2 {
    float c;
    template <typename T> __device__ __forceinline__ float score(const Row<T>& row, int j) const { return row.dot(j, c); }
    __device__ __forceinline__ float weight(float s, float max) const { return exp2f(s - max); }
    __device__ __forceinline__ float factor(float old, float max) const { return exp2f(old - max); }
    __device__ __forceinline__ float stored(float w) const { return w; }
    __device__ __forceinline__ float quotient(float a, float b) const { return a / b; }
};

template <typename T> __device__ __forceinline__ void tiles_prescaled(const Row<T>& row) {
    tiles(row, PrescaledExp2{row.scale * 1.4426950408889634f});
}

// Weights meet the values in the tensors' type, and are summed before they are rounded: p_round = storage, p_den = no.
//   k_qk = 1: products of 16-bit numbers are exact, the scale is not. k_x = 1.
template <typename P> struct RoundedExp {
    template <typename T> __device__ __forceinline__ float score(const Row<T>& row, int j) const {
        return row.dot(j) * row.scale;
    }
    __device__ __forceinline__ float weight(float s, float max) const { return expf(s - max); }
    __device__ __forceinline__ float factor(float old, float max) const { return expf(old - max); }
    __device__ __forceinline__ float stored(float w) const { return through<P>(w); }
    __device__ __forceinline__ float quotient(float a, float b) const { return a / b; }
};

template <typename T> __device__ __forceinline__ void tiles_stored_weights(const Row<T>& row) {
    tiles(row, RoundedExp<T>{});
}

#define DECODE_ENTRY(NAME, T)                                                                                          \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
    NAME(const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache, T* out, const int* past_len,              \
         int num_kv_heads, int q_per_kv, int head_dim, long long cache_stride_request,                                 \
         long long cache_stride_head, long long cache_stride_token, float scale) {                                     \
        const long long q_row = blockIdx.x, new_row = q_row / q_per_kv * head_dim;                                     \
        const long long request = q_row / q_per_kv / num_kv_heads, kv_head = q_row / q_per_kv % num_kv_heads;          \
        const long long cache = request * cache_stride_request + kv_head * cache_stride_head;                          \
        const int past = past_len[request];                                                                            \
        if (q_row % q_per_kv == 0) {                                                                                   \
            const long long slot = cache + past * cache_stride_token;                                                  \
            _Pragma("unroll 1") for (int dim = threadIdx.x; dim < head_dim; dim += THREADS) {                          \
                k_cache[slot + dim] = k_new[new_row + dim];                                                            \
                v_cache[slot + dim] = v_new[new_row + dim];                                                            \
            }                                                                                                          \
        }                                                                                                              \
        VARIANT<T>({q + q_row * head_dim, k_new + new_row, v_new + new_row, k_cache + cache, v_cache + cache,          \
                    out + q_row * head_dim, cache_stride_token, past + 1, head_dim, scale});                           \
    }

DECODE_ENTRY(decode_f32, float)
DECODE_ENTRY(decode_f16, __half)
DECODE_ENTRY(decode_bf16, __nv_bfloat16)
