// What kernels of this folder share: element types, and reductions over a warp. Everything below is f32 but for the
// tensors' elements.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

enum : int { WARP_SIZE = 32 };
enum : unsigned { FULL_WARP = 0xffffffffu };

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// To nearest even.
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float(float x) { return x; }
template <> __device__ __forceinline__ __half from_float(float x) { return __float2half_rn(x); }
template <> __device__ __forceinline__ __nv_bfloat16 from_float(float x) { return __float2bfloat16_rn(x); }

// Butterflies: every lane ends with the same bits, because both partners of an exchange combine the same two numbers.
// All lanes take part.
__device__ __forceinline__ float warp_sum(float x) {
    for (int apart = WARP_SIZE / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(FULL_WARP, x, apart);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int apart = WARP_SIZE / 2; apart > 0; apart /= 2) x = fmaxf(x, __shfl_xor_sync(FULL_WARP, x, apart));
    return x;
}
