// Decoding of one token a request, the head dimension and the type compiled in. A block is a request's KV head, a thread
// an element of its rows. Caches are [request, head, token, dim] through strides; everything else is dense.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

__device__ float widen(float x) { return x; }
__device__ float widen(__half x) { return __half2float(x); }
__device__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void narrow(float* to, float x) { *to = x; }
__device__ void narrow(__half* to, float x) { *to = __float2half(x); }
__device__ void narrow(__nv_bfloat16* to, float x) { *to = __float2bfloat16(x); }

template <typename T, int DIM>
__global__ void decode(const T* q, const T* k_new, const T* v_new, T* k_cache, T* v_cache, T* out, const int* past_len,
                       int q_per_kv, long long stride_request, long long stride_head, long long stride_token,
                       float scale) {
    __shared__ float product[DIM];
    const int d = threadIdx.x;
    const long long past = past_len[blockIdx.y];
    const long long head = static_cast<long long>(blockIdx.y) * gridDim.x + blockIdx.x;
    // A thread reads only the elements of the cache that it wrote itself or that were there before.
    const long long slot = blockIdx.y * stride_request + blockIdx.x * stride_head + d;
    k_cache[slot + past * stride_token] = k_new[head * DIM + d];
    v_cache[slot + past * stride_token] = v_new[head * DIM + d];
    for (int member = 0; member < q_per_kv; member++) {
        const long long row = (head * q_per_kv + member) * DIM + d;
        float largest = -__int_as_float(0x7f800000), weights = 0.0f, sum = 0.0f;
        for (long long token = 0; token <= past; token++) {
            product[d] = widen(q[row]) * widen(k_cache[slot + token * stride_token]);
            __syncthreads();
            float logit = 0.0f;
            for (int i = 0; i < DIM; i++) logit += product[i];
            __syncthreads();
            logit *= scale;
            const float next = fmaxf(largest, logit);
            const float old = expf(largest - next), weight = expf(logit - next);
            sum = sum * old + weight * widen(v_cache[slot + token * stride_token]);
            weights = weights * old + weight;
            largest = next;
        }
        narrow(&out[row], sum / weights);
    }
}
