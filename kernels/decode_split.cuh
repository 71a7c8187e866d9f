// Decode attention of one query token a request, split along the keys (flash-decoding): what gqa_decode_split_kv and
// gqa_decode_paged share. Two launches: partial sums over each split's keys, then their combination. The kernels differ
// in where a key's row is (CacheRows, PagedRows) and in whether the step's own key and value come with it.
//
// T is the element type of q, K, V and out, everything else is f32. A query sees n keys, those in a row from `first` on.
//
// Who does what
//   Keys are cut into tiles of 16, counted from the first visible one. Of the ceil(n / 16) tiles of a request each split
//   gets ceil(ceil(n / 16) / num_splits) in a row, so the last splits may have fewer or none.
//   partial: a block owns one KV head of one request, up to 8 of its query heads and one split, so each K and V element is
//   loaded once for all of them. Its 4 warps take turns at the split's tiles, each with a maximum and sums of its own; no
//   warp waits for another until all tiles are done. Then the block adds up its warps' sums.
//   Lane 4 g + t of a warp holds the scores, and then the weights, of keys g and g + 8 of a tile and of query heads 2 t
//   and 2 t + 1. That is where mma.sync leaves them: with elements of 16 bits the tile's scores are K q, a 16 x d by d x 8
//   product, and its values V' w, a v x 16 by 16 x 8 product, straight from registers (Products<T>). In f32 the same sums
//   are chains of fused multiply-adds, lane l holding dimensions l, l + 32, ... (Products<float>).
//   Rows whose address and length are multiples of 16 bytes are loaded 16 bytes at a time, others element by element.
//   Rows that are not visible, and dimensions past the row's end, are not read.
//   combine: a block owns one row of out. Thread i holds split i; then warp w adds up splits w, w + 4, ...
//
// Numerics (S = num_splits, t = ceil(ceil(ceil(n / 16) / S) / 4) tiles a warp, s = min(S, ceil(n / 16)) splits with keys
// at most)
//   q . k        f32: per lane a chain of ceil(head_dim / 32) fmaf that starts at zero, then 5 butterfly additions.
//                16 bits: exact products, accumulated in f32 by tensor cores, 8 or 16 at a time. A group of 8 holds
//                dimensions 2 i, 2 i + 1 of each 8 of a run of 32, so a run that is not full has up to 4 groups as well.
//                One more rounding multiplies by scale. q is never scaled beforehand.
//   softcap      cap * tanhf(score / cap), if there is one: a division and a product, both rounded, and tanhf (2 ulp).
//   softmax      online within a warp, base e, a running maximum per query head; it is always one of the scores, so
//                exact. A tile's weights are expf(score - maximum). A tile that raises the maximum rescales the sums of
//                the warp's earlier tiles by expf(old - new): a weight meets at most t - 1 such factors.
//   combination  of maxima and sums, not of log-sum-exps, twice: a warp's sums are multiplied by expf(its maximum - the
//                block's), a split's by expf(its maximum - the row's), exactly 1 where the maximum is the same. Without
//                keys the maximum is -inf, so the factor is exactly 0, and sum_v is not read. No logarithm enters the
//                output.
//   numerator    16 bits: weights are rounded to T, to nearest even, before they meet V; products are exact and are
//                accumulated by tensor cores, keys 8 i ... 8 i + 7 as a group. f32: an fmaf a key, in the order of the
//                warp's keys. Then fmaf over the block's 4 warps, fmaf over every 4th split, and 2 additions.
//   denominator  of weights that are not rounded. Keys g and g + 8 of a tile are added, then fmaf(sum, factor, pair) a tile
//                after the first, 3 butterfly additions over the lanes, 2 over the block's warps, 5 over splits
//                32 i ... 32 i + 31 and 2 over those, each product with a factor rounded by itself.
//   sink         joins in the combination: the row's maximum is at least the sink, and expf(sink - maximum) is added to
//                the denominator last. It has no value.
//   expf         CUDA's full-range function (2 ulp), not the fast intrinsic; expf(0) is exactly 1, expf(-inf) exactly 0.
//                It contains ex2.approx.ftz, whose result is scaled by a plain multiplication, so that subnormal weights
//                survive. No other operation flushes subnormals.
//   division     one IEEE division, to nearest even, per output element; then one rounding to T, also to nearest even.
//   lse          maximum + logf(denominator), natural: logf is CUDA's full-range function (1 ulp).
//   empty row    without a key and without a sink: zeros, and a log-sum-exp of -inf. With a sink: zeros and the sink.
#include "common.cuh"
#include <math_constants.h>

enum : int {
    WARPS_PER_BLOCK = 4,
    THREADS_PER_BLOCK = WARPS_PER_BLOCK * WARP_SIZE,
    HEADS_PER_BLOCK = 8,
    TILE_KEYS = 16,
    MAX_SPLITS = THREADS_PER_BLOCK,
    MAX_HEAD_DIM = 256,
    DIMS_PER_LANE = MAX_HEAD_DIM / WARP_SIZE,
};

__device__ __forceinline__ int ceil_div(int a, int b) { return (a + b - 1) / b; }

// Whether every row can be loaded 16 bytes at a time.
template <typename T>
__device__ __forceinline__ bool is_aligned(const T* first, long long stride, int dims) {
    return ((reinterpret_cast<unsigned long long>(first) | (stride | dims) * sizeof(T)) & 15) == 0;
}

// The rows of one KV head of one request in a cache with strides. The newest key is not in the cache yet.
template <typename T> struct CacheRows {
    const T *k, *v, *k_newest, *v_newest;
    long long k_stride_token, v_stride_token;
    int newest;

    struct Tile {
        const CacheRows& rows;
        int first;

        __device__ __forceinline__ const T* key(int i) const {
            const int position = first + i;
            return position == rows.newest ? rows.k_newest : rows.k + position * rows.k_stride_token;
        }
        __device__ __forceinline__ const T* value(int i) const {
            const int position = first + i;
            return position == rows.newest ? rows.v_newest : rows.v + position * rows.v_stride_token;
        }
    };

    __device__ __forceinline__ Tile tile(int first, int) const { return {*this, first}; }
    __device__ __forceinline__ bool keys_aligned(int dims) const {
        return is_aligned(k, k_stride_token, dims) && is_aligned(k_newest, 0, 0);
    }
    __device__ __forceinline__ bool values_aligned(int dims) const {
        return is_aligned(v, v_stride_token, dims) && is_aligned(v_newest, 0, 0);
    }
};

// The rows of one KV head of one request in a cache of pages. All of them are in the cache.
template <typename T> struct PagedRows {
    const T *k, *v;    // of page 0
    const int* table;  // the request's pages in order
    int page_size;
    long long k_stride_page, k_stride_token, v_stride_page, v_stride_token;

    // Lane i holds where key i is, so that each entry of the table is looked up once. All lanes ask together.
    struct Tile {
        const PagedRows& rows;
        int page, slot;

        __device__ __forceinline__ const T* key(int i) const {
            const long long p = __shfl_sync(FULL_WARP, page, i), s = __shfl_sync(FULL_WARP, slot, i);
            return rows.k + p * rows.k_stride_page + s * rows.k_stride_token;
        }
        __device__ __forceinline__ const T* value(int i) const {
            const long long p = __shfl_sync(FULL_WARP, page, i), s = __shfl_sync(FULL_WARP, slot, i);
            return rows.v + p * rows.v_stride_page + s * rows.v_stride_token;
        }
    };

    __device__ __forceinline__ Tile tile(int first, int len) const {
        const int lane = threadIdx.x % WARP_SIZE;
        if (lane >= len) return {*this, 0, 0};
        const int position = first + lane;
        return {*this, table[position / page_size], position % page_size};
    }
    __device__ __forceinline__ bool keys_aligned(int dims) const {
        return is_aligned(k, k_stride_page | k_stride_token, dims);
    }
    __device__ __forceinline__ bool values_aligned(int dims) const {
        return is_aligned(v, v_stride_page | v_stride_token, dims);
    }
};

// chunks[i][r]: 8 elements of 16 bits of rows[r], from dimension dim + i * STRIDE on. Dimensions past the rows' end are
// zeros, and so are rows that are not present.
template <bool ALIGNED, int STRIDE, typename T, int CHUNKS, int ROWS>
__device__ __forceinline__ void load8(const T* const (&rows)[ROWS], const bool (&present)[ROWS], int dim, int dims,
                                      uint4 (&chunks)[CHUNKS][ROWS]) {
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            chunks[i][r] = make_uint4(0, 0, 0, 0);
            if (!ALIGNED || !present[r] || dim + i * STRIDE >= dims) continue;
            chunks[i][r] = *reinterpret_cast<const uint4*>(rows[r] + dim + i * STRIDE);
        }
    }
    if (ALIGNED) return;
#pragma unroll 1
    for (int element = 7; element >= 0; element--) {
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                if (i * STRIDE >= dims) break;
                const int at = dim + i * STRIDE + element;
                const bool exists = present[r] && at < dims;
                const unsigned bits = exists ? reinterpret_cast<const unsigned short*>(rows[r])[at] : 0;
                uint4& words = chunks[i][r];
                words.w = __funnelshift_l(words.z, words.w, 16);
                words.z = __funnelshift_l(words.y, words.z, 16);
                words.y = __funnelshift_l(words.x, words.y, 16);
                words.x = words.x << 16 | bits;
            }
        }
    }
}

__device__ __forceinline__ unsigned pack(__half low, __half high) {
    return __half_as_ushort(low) | static_cast<unsigned>(__half_as_ushort(high)) << 16;
}
__device__ __forceinline__ unsigned pack(__nv_bfloat16 low, __nv_bfloat16 high) {
    return __bfloat16_as_ushort(low) | static_cast<unsigned>(__bfloat16_as_ushort(high)) << 16;
}

// d += a b: 16 x 16 by 16 x 8. Lane 4 g + t holds, as pairs,
//   a  rows g and g + 8 at columns 2 t, then the same at columns 2 t + 8
//   b  column g at rows 2 t, then at rows 2 t + 8
//   d  row g at columns 2 t, then row g + 8
__device__ __forceinline__ void mma(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                    unsigned b1, __half) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(float (&d)[4], unsigned a0, unsigned a1, unsigned a2, unsigned a3, unsigned b0,
                                    unsigned b1, __nv_bfloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// Of an 8 x 8 matrix, lane 4 g + t gives row g at columns 2 t and 2 t + 1, and gets column g at rows 2 t and 2 t + 1.
__device__ __forceinline__ unsigned transposed(unsigned pair) {
    unsigned result;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
    return result;
}

// A warp's products of q and K, and of weights and V: by tensor cores. Which dimension a row or column of a product stands
// for is free, so lanes take 8 in a row, as they lie in memory.
template <typename T, int DIM> struct Products {
    uint4 query[DIM / 32][1];   // head g, dimensions 32 i + 8 t + 0 ... 7
    float sum_v[DIM / 16][4];   // dimensions 64 i + 8 g + 2 j and the next of heads 2 t and 2 t + 1 at [4 i + j]
    uint4 values[DIM / 64][4];  // keys 2 t, 2 t + 1, 2 t + 8, 2 t + 9, dimensions 64 i + 8 g + 0 ... 7
    int lane, head_dim, v_head_dim;
    bool keys_aligned, values_aligned;

    template <typename Rows>
    __device__ __forceinline__ Products(const T* q, int num_heads, const Rows& rows, int head_dim, int v_head_dim)
        : lane(threadIdx.x % WARP_SIZE), head_dim(head_dim), v_head_dim(v_head_dim),
          keys_aligned(rows.keys_aligned(head_dim)), values_aligned(rows.values_aligned(v_head_dim)) {
        const int head = lane / 4;
        const T* const row[1] = {q + head * head_dim};
        const bool present[1] = {head < num_heads};
        load8<false, 32>(row, present, lane % 4 * 8, head_dim, query);
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) sum_v[i][0] = sum_v[i][1] = sum_v[i][2] = sum_v[i][3] = 0.0f;
    }

    template <typename Tile>
    __device__ __forceinline__ void load_keys(const Tile& tile, int len, uint4 (&keys)[DIM / 32][2]) const {
        const int key = lane / 4, dim = lane % 4 * 8;
        const T* const rows[2] = {tile.key(key), tile.key(key + 8)};
        const bool present[2] = {key < len, key + 8 < len};
        if (keys_aligned) {
            load8<true, 32>(rows, present, dim, head_dim, keys);
        } else {
            load8<false, 32>(rows, present, dim, head_dim, keys);
        }
    }

    template <typename Tile> __device__ __forceinline__ void load_values(const Tile& tile, int len) {
        const int key = lane % 4 * 2, dim = lane / 4 * 8;
        const T* const rows[4] = {tile.value(key), tile.value(key + 1), tile.value(key + 8), tile.value(key + 9)};
        const bool present[4] = {key < len, key + 1 < len, key + 8 < len, key + 9 < len};
        if (values_aligned) {
            load8<true, 64>(rows, present, dim, v_head_dim, values);
        } else {
            load8<false, 64>(rows, present, dim, v_head_dim, values);
        }
    }

    // Values are on their way while scores are computed, where there are registers for both.
    enum : bool { VALUES_EARLY = DIM <= 128 };

    // q . k of a tile: keys g and g + 8 of heads 2 t and 2 t + 1 at [0], [2] and [1], [3].
    template <typename Tile> __device__ __forceinline__ void dot(const Tile& tile, int len, float (&d)[4]) {
        uint4 keys[DIM / 32][2];
        load_keys(tile, len, keys);
        if (VALUES_EARLY) load_values(tile, len);
        d[0] = d[1] = d[2] = d[3] = 0.0f;
#pragma unroll
        for (int i = 0; i < DIM / 32; i++) {
            if (32 * i >= head_dim) break;
            const uint4 &low = keys[i][0], &high = keys[i][1], &q = query[i][0];
            mma(d, low.x, high.x, low.y, high.y, q.x, q.y, T());
            mma(d, low.z, high.z, low.w, high.w, q.z, q.w, T());
        }
    }

    // Rescales the sums by their heads' factors and adds the tile's values with their weights, laid out as dot leaves them.
    template <typename Tile>
    __device__ __forceinline__ void add(const Tile& tile, int len, const float (&weight)[4], const float (&factor)[2]) {
        if (!VALUES_EARLY) load_values(tile, len);
        const unsigned w_low = transposed(pack(from_float<T>(weight[0]), from_float<T>(weight[1])));
        const unsigned w_high = transposed(pack(from_float<T>(weight[2]), from_float<T>(weight[3])));
#pragma unroll
        for (int i = 0; i < DIM / 64; i++) {
            if (64 * i >= v_head_dim) break;
            const uint4(&v)[4] = values[i];
            add_pair(sum_v[4 * i + 0], factor, v[0].x, v[1].x, v[2].x, v[3].x, w_low, w_high);
            add_pair(sum_v[4 * i + 1], factor, v[0].y, v[1].y, v[2].y, v[3].y, w_low, w_high);
            add_pair(sum_v[4 * i + 2], factor, v[0].z, v[1].z, v[2].z, v[3].z, w_low, w_high);
            add_pair(sum_v[4 * i + 3], factor, v[0].w, v[1].w, v[2].w, v[3].w, w_low, w_high);
        }
    }

    // Two dimensions of four keys, v0 ... v3: rows g and g + 8 of a product.
    static __device__ __forceinline__ void add_pair(float (&sum)[4], const float (&factor)[2], unsigned v0, unsigned v1,
                                                    unsigned v2, unsigned v3, unsigned w_low, unsigned w_high) {
        sum[0] *= factor[0];
        sum[1] *= factor[1];
        sum[2] *= factor[0];
        sum[3] *= factor[1];
        enum : unsigned { LOW_HALVES = 0x5410, HIGH_HALVES = 0x7632 };
        mma(sum, __byte_perm(v0, v1, LOW_HALVES), __byte_perm(v0, v1, HIGH_HALVES), __byte_perm(v2, v3, LOW_HALVES),
            __byte_perm(v2, v3, HIGH_HALVES), w_low, w_high, T());
    }

    __device__ __forceinline__ void store(float (&sums)[HEADS_PER_BLOCK][DIM]) const {
        const int head = lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < DIM / 16; i++) {
            const int dim = i / 4 * 64 + lane / 4 * 8 + i % 4 * 2;
            if (i / 4 * 64 >= v_head_dim) break;
            sums[head][dim] = sum_v[i][0];
            sums[head + 1][dim] = sum_v[i][1];
            sums[head][dim + 1] = sum_v[i][2];
            sums[head + 1][dim + 1] = sum_v[i][3];
        }
    }
};

// The same by fused multiply-adds. Lane l holds dimensions 32 i + l.
template <int DIM> struct Products<float, DIM> {
    float query[HEADS_PER_BLOCK][DIM / 32];
    float sum_v[HEADS_PER_BLOCK][DIM / 32];
    int lane, num_heads, head_dim, v_head_dim;

    template <typename Rows>
    __device__ __forceinline__ Products(const float* q, int num_heads, const Rows&, int head_dim, int v_head_dim)
        : lane(threadIdx.x % WARP_SIZE), num_heads(num_heads), head_dim(head_dim), v_head_dim(v_head_dim) {
#pragma unroll
        for (int head = 0; head < HEADS_PER_BLOCK; head++) {
#pragma unroll
            for (int i = 0; i < DIM / 32; i++) {
                const int dim = 32 * i + lane;
                query[head][i] = head < num_heads && dim < head_dim ? q[head * head_dim + dim] : 0.0f;
                sum_v[head][i] = 0.0f;
            }
        }
    }

    template <typename Tile> __device__ __forceinline__ void dot(const Tile& tile, int len, float (&d)[4]) const {
        d[0] = d[1] = d[2] = d[3] = 0.0f;
#pragma unroll 2
        for (int key = 0; key < len; key++) {
            const float* row = tile.key(key);
            float sum[HEADS_PER_BLOCK] = {};
#pragma unroll
            for (int i = 0; i < DIM / 32; i++) {
                if (32 * i >= head_dim) break;
                const int dim = 32 * i + lane;
                const float k = dim < head_dim ? row[dim] : 0.0f;
#pragma unroll
                for (int head = 0; head < HEADS_PER_BLOCK; head++) sum[head] = fmaf(query[head][i], k, sum[head]);
            }
#pragma unroll
            for (int head = 0; head < HEADS_PER_BLOCK; head++) {
                if (head >= num_heads) break;
                const float total = warp_sum(sum[head]);
                const bool mine = lane == key % 8 * 4 + head / 2;
                d[head % 2] = mine && key < 8 ? total : d[head % 2];
                d[2 + head % 2] = mine && key >= 8 ? total : d[2 + head % 2];
            }
        }
    }

    template <typename Tile>
    __device__ __forceinline__ void add(const Tile& tile, int len, const float (&weight)[4], const float (&factor)[2]) {
#pragma unroll
        for (int head = 0; head < HEADS_PER_BLOCK; head++) {
            const float head_factor = __shfl_sync(FULL_WARP, factor[head % 2], head / 2);
#pragma unroll
            for (int i = 0; i < DIM / 32; i++) sum_v[head][i] *= head_factor;
        }
#pragma unroll 2
        for (int key = 0; key < len; key++) {
            const float* row = tile.value(key);
            float w[HEADS_PER_BLOCK];
#pragma unroll
            for (int head = 0; head < HEADS_PER_BLOCK; head++) {
                const float mine = key < 8 ? weight[head % 2] : weight[2 + head % 2];
                w[head] = __shfl_sync(FULL_WARP, mine, key % 8 * 4 + head / 2);
            }
#pragma unroll
            for (int i = 0; i < DIM / 32; i++) {
                if (32 * i >= v_head_dim) break;
                const int dim = 32 * i + lane;
                const float v = dim < v_head_dim ? row[dim] : 0.0f;
#pragma unroll
                for (int head = 0; head < HEADS_PER_BLOCK; head++) sum_v[head][i] = fmaf(w[head], v, sum_v[head][i]);
            }
        }
    }

    __device__ __forceinline__ void store(float (&sums)[HEADS_PER_BLOCK][DIM]) const {
#pragma unroll
        for (int head = 0; head < HEADS_PER_BLOCK; head++) {
#pragma unroll
            for (int i = 0; i < DIM / 32; i++) sums[head][32 * i + lane] = sum_v[head][i];
        }
    }
};

// The largest, or the sum, of what lanes with the same t hold. Every lane ends with the same bits as its partners.
__device__ __forceinline__ float max_over_keys(float x) {
    for (int apart = 4; apart < WARP_SIZE; apart *= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, apart));
    return x;
}
__device__ __forceinline__ float sum_over_keys(float x) {
    for (int apart = 4; apart < WARP_SIZE; apart *= 2) x += __shfl_xor_sync(FULL_WARP, x, apart);
    return x;
}

// One split of the `num_keys` visible keys from position `first` on, for `num_heads` query heads. Of q and of the partial
// results these are the rows of the first head; the block's split is blockIdx.z.
template <typename T, int DIM, typename Rows>
__device__ __forceinline__ void partial(const T* q, const Rows& rows, int first, int num_keys, int num_heads,
                                        int head_dim, int v_head_dim, int num_splits, float scale, float softcap,
                                        float* partial_sum_v, float* partial_max, float* partial_sum) {
    const int thread = threadIdx.x;
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp = threadIdx.x / WARP_SIZE;
    const int split = blockIdx.z;

    // The keys of this split.
    const int split_keys = ceil_div(ceil_div(num_keys, TILE_KEYS), num_splits) * TILE_KEYS;
    const int begin = split * split_keys;
    const int end = min(begin + split_keys, num_keys);
    if (begin >= end) {
        if (thread < num_heads) {
            partial_max[thread * num_splits + split] = -CUDART_INF_F;
            partial_sum[thread * num_splits + split] = 0.0f;
        }
        return;
    }

    Products<T, DIM> products(q, num_heads, rows, head_dim, v_head_dim);
    float running_max[2] = {-CUDART_INF_F, -CUDART_INF_F};
    float running_sum[2] = {};
#pragma unroll 1
    for (int key = begin + warp * TILE_KEYS; key < end; key += WARPS_PER_BLOCK * TILE_KEYS) {
        const int tile_len = min(static_cast<int>(TILE_KEYS), end - key);
        const auto tile = rows.tile(first + key, tile_len);
        float weight[4];
        products.dot(tile, tile_len, weight);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float score = weight[i] * scale;
            if (softcap > 0.0f) score = softcap * tanhf(score / softcap);
            weight[i] = lane / 4 + i / 2 * 8 < tile_len ? score : -CUDART_INF_F;
        }
        // The first tile corrects sums of zero by expf(-inf) = 0.
        float factor[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float new_max = fmaxf(running_max[i], max_over_keys(fmaxf(weight[i], weight[i + 2])));
            factor[i] = expf(running_max[i] - new_max);
            weight[i] = expf(weight[i] - new_max);
            weight[i + 2] = expf(weight[i + 2] - new_max);
            running_max[i] = new_max;
            running_sum[i] = fmaf(running_sum[i], factor[i], weight[i] + weight[i + 2]);
        }
        products.add(tile, tile_len, weight, factor);
    }

    // Each warp leaves its sums; those of a warp without keys are not read.
    __shared__ float sums[WARPS_PER_BLOCK][HEADS_PER_BLOCK][DIM];
    __shared__ float maxima[WARPS_PER_BLOCK][HEADS_PER_BLOCK];
    __shared__ float denominators[WARPS_PER_BLOCK][HEADS_PER_BLOCK];
    __shared__ float factors[WARPS_PER_BLOCK][HEADS_PER_BLOCK];
    if (begin + warp * TILE_KEYS < end) products.store(sums[warp]);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const float sum = sum_over_keys(running_sum[i]);
        if (lane >= 4) continue;
        maxima[warp][2 * lane + i] = running_max[i];
        denominators[warp][2 * lane + i] = sum;
    }
    __syncthreads();

    // Lane 8 w + h of the first warp holds head h of warp w.
    if (warp == 0) {
        const int part = lane / HEADS_PER_BLOCK, head = lane % HEADS_PER_BLOCK;
        float block_max = maxima[part][head];
        for (int apart = HEADS_PER_BLOCK; apart < WARP_SIZE; apart *= 2) {
            block_max = fmaxf(block_max, __shfl_xor_sync(FULL_WARP, block_max, apart));
        }
        const float factor = expf(maxima[part][head] - block_max);
        factors[part][head] = factor;
        // Not to be fused with the first addition, which would give partners of an exchange different bits.
        float block_sum = __fmul_rn(denominators[part][head], factor);
        for (int apart = HEADS_PER_BLOCK; apart < WARP_SIZE; apart *= 2) {
            block_sum += __shfl_xor_sync(FULL_WARP, block_sum, apart);
        }
        if (part == 0 && head < num_heads) {
            partial_max[head * num_splits + split] = block_max;
            partial_sum[head * num_splits + split] = block_sum;
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int head = 0; head < num_heads; head++) {
        float* sum_v = partial_sum_v + (static_cast<long long>(head) * num_splits + split) * v_head_dim;
#pragma unroll 1
        for (int dim = thread; dim < v_head_dim; dim += THREADS_PER_BLOCK) {
            float sum = 0.0f;
#pragma unroll
            for (int part = 0; part < WARPS_PER_BLOCK; part++) {
                const float factor = factors[part][head];
                if (factor == 0.0f) continue;  // without keys, or without weight
                sum = fmaf(sums[part][head][dim], factor, sum);
            }
            sum_v[dim] = sum;
        }
    }
}

// One row of out from its splits' sums. `sinks` may be null.
template <typename T>
__device__ __forceinline__ void combine(const float* partial_sum_v, const float* partial_max, const float* partial_sum,
                                        const float* sinks, T* out, float* lse, int num_q_heads, int v_head_dim,
                                        int num_splits) {
    const int thread = threadIdx.x;
    const int lane = threadIdx.x % WARP_SIZE;
    const int warp = threadIdx.x / WARP_SIZE;
    const long long row = blockIdx.x;
    const long long first = row * num_splits;  // the row's first split
    __shared__ float maxima[WARPS_PER_BLOCK];
    __shared__ float denominators[WARPS_PER_BLOCK];
    __shared__ float factors[MAX_SPLITS];
    __shared__ float sums[WARPS_PER_BLOCK][MAX_HEAD_DIM];

    // Thread i holds split i.
    const bool present = thread < num_splits;
    const float split_max = present ? partial_max[first + thread] : -CUDART_INF_F;
    const float split_sum = present ? partial_sum[first + thread] : 0.0f;
    const float warp_maximum = warp_max(split_max);
    if (lane == 0) maxima[warp] = warp_maximum;
    __syncthreads();
    const float sink = sinks != nullptr ? sinks[row % num_q_heads] : -CUDART_INF_F;
    const float keys_max = fmaxf(fmaxf(maxima[0], maxima[1]), fmaxf(maxima[2], maxima[3]));
    const float row_max = fmaxf(keys_max, sink);
    if (keys_max == -CUDART_INF_F) {  // no key to see
#pragma unroll 1
        for (int dim = thread; dim < v_head_dim; dim += THREADS_PER_BLOCK) {
            out[row * v_head_dim + dim] = from_float<T>(0.0f);
        }
        if (thread == 0) lse[row] = sink;
        return;
    }
    const float factor = expf(split_max - row_max);
    factors[thread] = factor;
    // Not to be fused with the first addition, which would give partners of an exchange different bits.
    const float warp_denominator = warp_sum(__fmul_rn(split_sum, factor));
    if (lane == 0) denominators[warp] = warp_denominator;
    __syncthreads();
    const float keys_sum = (denominators[0] + denominators[1]) + (denominators[2] + denominators[3]);
    const float denominator = keys_sum + expf(sink - row_max);

    float numerator[DIMS_PER_LANE] = {};
#pragma unroll 4
    for (int split = warp; split < num_splits; split += WARPS_PER_BLOCK) {
        const float split_factor = factors[split];
        const bool weighs = split_factor != 0.0f;  // if not, it has no keys, or no weight
        const float* sum_v = partial_sum_v + (first + split) * v_head_dim;
#pragma unroll
        for (int i = 0; i < DIMS_PER_LANE; i++) {
            const int dim = lane + i * WARP_SIZE;
            const float value = weighs && dim < v_head_dim ? sum_v[dim] : 0.0f;
            numerator[i] = fmaf(value, split_factor, numerator[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < DIMS_PER_LANE; i++) sums[warp][lane + i * WARP_SIZE] = numerator[i];
    __syncthreads();
#pragma unroll 1
    for (int dim = thread; dim < v_head_dim; dim += THREADS_PER_BLOCK) {
        const float sum = (sums[0][dim] + sums[1][dim]) + (sums[2][dim] + sums[3][dim]);
        out[row * v_head_dim + dim] = from_float<T>(sum / denominator);
    }
    if (thread == 0) lse[row] = row_max + logf(denominator);
}
