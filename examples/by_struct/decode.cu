// Decode attention in a style that is not that of the shipped kernels: everything in one struct by value, queries and outputs
// head-major, lengths of 64 bits, the cache through byte strides, a warp for each query head of a request and several warps
// a block.
//
// Appends nothing: every key is in the cache. Binary16 in and out, binary32 between. A request without keys gives zeros.
#include <cuda_fp16.h>

struct Tensor {
    const char* data;
    long long stride_batch;  // bytes
    long long stride_head;
    long long stride_token;
};

struct Params {
    const __half* q;              // [num_q_heads, batch, head_dim]
    __half* out;                  // the same
    Tensor k, v;
    const long long* kv_lens;     // [batch]
    float softcap;                // of logits in nats, if is_capped
    float scale_log2;             // scale times log2(e)
    unsigned short num_q_heads;
    unsigned short q_per_kv;
    short head_dim;               // at most 128, even
    bool is_capped;
    int batch;
};

__device__ float warp_sum(float x)
{
    for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(0xffffffffu, x, lanes);
    return x;
}

extern "C" __global__ void __launch_bounds__(128) by_struct_decode(const __grid_constant__ Params p)
{
    const int lane = threadIdx.x % 32;
    const int row = blockIdx.x * 4 + threadIdx.x / 32;  // request-major rows of a head
    if (row >= p.batch * p.num_q_heads) return;
    const int request = row / p.num_q_heads, head = row % p.num_q_heads;
    const int pairs = p.head_dim / 2;
    const size_t at = ((size_t)head * p.batch + request) * p.head_dim;
    const __half2* q = reinterpret_cast<const __half2*>(p.q + at);
    __half2* out = reinterpret_cast<__half2*>(p.out + at);
    const char* keys = p.k.data + request * p.k.stride_batch + head / p.q_per_kv * p.k.stride_head;
    const char* values = p.v.data + request * p.v.stride_batch + head / p.q_per_kv * p.v.stride_head;
    const float log2e = 1.4426950408889634f;

    float largest = -__int_as_float(0x7f800000), sum = 0.0f;
    float2 part[2] = {{0.0f, 0.0f}, {0.0f, 0.0f}};
    for (long long token = 0; token < p.kv_lens[request]; ++token) {
        const __half2* key = reinterpret_cast<const __half2*>(keys + token * p.k.stride_token);
        const __half2* value = reinterpret_cast<const __half2*>(values + token * p.v.stride_token);
        float dot = 0.0f;
        for (int pair = lane; pair < pairs; pair += 32) {
            const float2 a = __half22float2(q[pair]), b = __half22float2(key[pair]);
            dot += a.x * b.x + a.y * b.y;
        }
        float logit = warp_sum(dot) * p.scale_log2;
        if (p.is_capped) logit = p.softcap * log2e * tanhf(logit / (p.softcap * log2e));
        const float next = fmaxf(largest, logit);
        const float old = exp2f(largest - next), weight = exp2f(logit - next);
        largest = next;
        sum = sum * old + weight;
        for (int slot = 0; slot < 2; ++slot) {
            const int pair = lane + 32 * slot;
            if (pair >= pairs) continue;
            const float2 v = __half22float2(value[pair]);
            part[slot].x = part[slot].x * old + weight * v.x;
            part[slot].y = part[slot].y * old + weight * v.y;
        }
    }
    for (int slot = 0; slot < 2; ++slot) {
        const int pair = lane + 32 * slot;
        if (pair >= pairs) continue;
        const float over = sum > 0.0f ? 1.0f / sum : 0.0f;
        out[pair] = __floats2half2_rn(part[slot].x * over, part[slot].y * over);
    }
}
