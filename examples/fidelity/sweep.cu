// Every f32 through each approximate function of the hardware, against the same function in f64.
//
// Each kernel keeps, for two classes of inputs (0: where the manual states a bound; 1: elsewhere), the largest error in
// ulp, absolute and relative, each with the input that shows it, and counts. The f64 functions err by less than 2 ulp
// of f64, 2^-28 ulp of f32.

typedef unsigned int u32;
typedef unsigned long long u64;

struct Stats {
    u64 worst_ulp, worst_absolute, worst_relative; // f32 bits of the error above the input
    u64 count;
    u64 not_nearest;   // not the correctly rounded result
    u64 special;       // NaN or infinity where the other side has none, or the other sign of infinity
    u64 special_input; // the largest such input plus 1
    u64 unused;
};

struct Local {
    float ulp = 0, absolute = 0, relative = 0;
    u32 at_ulp = 0, at_absolute = 0, at_relative = 0;
    u64 count = 0, not_nearest = 0, special = 0, special_input = 0;

    __device__ void add(u32 input, float found, double exact) {
        count++;
        float nearest = (float)exact;
        not_nearest += __float_as_uint(found) != __float_as_uint(nearest) && !(found != found && nearest != nearest);
        bool odd_found = !(fabsf(found) <= 3.402823466e38f), odd_nearest = !(fabs(exact) < 3.4028235677973366e38);
        if (odd_found || odd_nearest) {
            bool same = found != found ? nearest != nearest : found == nearest;
            if (!same) {
                special++;
                special_input = special_input > input + 1ull ? special_input : input + 1ull;
            }
            return;
        }
        double error = fabs((double)found - exact);
        int exponent = exact == 0 ? -126 : ilogb(exact);
        float in_ulp = (float)scalbn(error, 23 - (exponent < -126 ? -126 : exponent));
        float in_relative = exact == 0 ? 0 : (float)(error / fabs(exact));
        if (in_ulp > ulp) { ulp = in_ulp; at_ulp = input; }
        if ((float)error > absolute) { absolute = (float)error; at_absolute = input; }
        if (in_relative > relative) { relative = in_relative; at_relative = input; }
    }

    __device__ void merge(Stats *stats) {
        if (!count) return;
        atomicMax(&stats->worst_ulp, (u64)__float_as_uint(ulp) << 32 | at_ulp);
        atomicMax(&stats->worst_absolute, (u64)__float_as_uint(absolute) << 32 | at_absolute);
        atomicMax(&stats->worst_relative, (u64)__float_as_uint(relative) << 32 | at_relative);
        atomicAdd(&stats->count, count);
        atomicAdd(&stats->not_nearest, not_nearest);
        if (special) atomicAdd(&stats->special, special);
        if (special) atomicMax(&stats->special_input, special_input);
    }
};

__device__ float flush(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; }
__device__ double flush_exact(double x) { return fabs(x) < 1.1754943508222875e-38 ? copysign(0.0, x) : x; }

#define SWEEP(NAME, FOUND, EXACT, OUTSIDE)                                                                             \
    extern "C" __global__ void sweep_##NAME(Stats *stats) {                                                            \
        Local local[2];                                                                                                \
        u64 step = (u64)gridDim.x * blockDim.x;                                                                        \
        for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i >> 32 == 0; i += step) {                            \
            float x = __uint_as_float((u32)i);                                                                         \
            double d = x, exact = EXACT;                                                                               \
            float found = FOUND;                                                                                       \
            if (OUTSIDE) local[1].add((u32)i, found, exact);                                                           \
            else local[0].add((u32)i, found, exact);                                                                   \
        }                                                                                                              \
        local[0].merge(stats);                                                                                         \
        local[1].merge(stats + 1);                                                                                     \
    }

#define APPROXIMATE(NAME, OPCODE)                                                                                      \
    __device__ float NAME(float x) {                                                                                   \
        float y;                                                                                                       \
        asm(OPCODE ".f32 %0, %1;" : "=f"(y) : "f"(x));                                                                 \
        return y;                                                                                                      \
    }

APPROXIMATE(ex2, "ex2.approx")
APPROXIMATE(ex2_ftz, "ex2.approx.ftz")
APPROXIMATE(rcp, "rcp.approx")
APPROXIMATE(rcp_ftz, "rcp.approx.ftz")
APPROXIMATE(root, "sqrt.approx")
APPROXIMATE(root_ftz, "sqrt.approx.ftz")
APPROXIMATE(rroot, "rsqrt.approx")
APPROXIMATE(rroot_ftz, "rsqrt.approx.ftz")
APPROXIMATE(lg2, "lg2.approx")
APPROXIMATE(lg2_ftz, "lg2.approx.ftz")
APPROXIMATE(sine, "sin.approx")
APPROXIMATE(sine_ftz, "sin.approx.ftz")
APPROXIMATE(cosine, "cos.approx")
APPROXIMATE(cosine_ftz, "cos.approx.ftz")
APPROXIMATE(htan, "tanh.approx")

#define SUBNORMAL (fabs(exact) < 1.1754943508222875e-38)
#define NOT_NEAR_1 !(x > 0.5f && x < 2.0f)
#define PAST_PI !(fabsf(x) <= 3.14159274f)

SWEEP(ex2, ex2(x), exp2(d), SUBNORMAL)
SWEEP(ex2_ftz, ex2_ftz(x), flush_exact(exp2((double)flush(x))), SUBNORMAL)
SWEEP(rcp, rcp(x), 1.0 / d, SUBNORMAL)
SWEEP(rcp_ftz, rcp_ftz(x), flush_exact(1.0 / (double)flush(x)), SUBNORMAL)
SWEEP(sqrt, root(x), sqrt(d), false)
SWEEP(sqrt_ftz, root_ftz(x), sqrt((double)flush(x)), false)
SWEEP(rsqrt, rroot(x), 1.0 / sqrt(d), false)
SWEEP(rsqrt_ftz, rroot_ftz(x), 1.0 / sqrt((double)flush(x)), false)
SWEEP(lg2, lg2(x), log2(d), NOT_NEAR_1)
SWEEP(lg2_ftz, lg2_ftz(x), log2((double)flush(x)), NOT_NEAR_1)
SWEEP(sin, sine(x), sin(d), PAST_PI)
SWEEP(sin_ftz, sine_ftz(x), sin((double)flush(x)), PAST_PI)
SWEEP(cos, cosine(x), cos(d), PAST_PI)
SWEEP(cos_ftz, cosine_ftz(x), cos((double)flush(x)), PAST_PI)
SWEEP(tanh, htan(x), tanh(d), false)
SWEEP(expf, expf(x), exp(d), SUBNORMAL)
SWEEP(fast_expf, __expf(x), exp(d), SUBNORMAL)

__device__ u32 scramble(u64 z) {
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (u32)(z >> 32);
}

// Pairs of random bits; the second number of a case is 2 * input + 1 scrambled, the first 2 * input.
#define PAIRS(NAME, FOUND)                                                                                             \
    extern "C" __global__ void sweep_##NAME(Stats *stats) {                                                            \
        Local local[2];                                                                                                \
        u64 step = (u64)gridDim.x * blockDim.x;                                                                        \
        for (u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x; i >> 32 == 0; i += step) {                            \
            float x = __uint_as_float(scramble(2 * i)), y = __uint_as_float(scramble(2 * i + 1));                      \
            double exact = (double)x / (double)y;                                                                      \
            float found = FOUND;                                                                                       \
            float size = fabsf(y);                                                                                     \
            bool inside = size >= 1.17549435e-38f && size <= 8.50705917e37f && !SUBNORMAL;                             \
            if (inside) local[0].add((u32)i, found, exact);                                                            \
            else local[1].add((u32)i, found, exact);                                                                   \
        }                                                                                                              \
        local[0].merge(stats);                                                                                         \
        local[1].merge(stats + 1);                                                                                     \
    }

__device__ float div_full(float x, float y) {
    float z;
    asm("div.full.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
    return z;
}

PAIRS(fast_divide, __fdividef(x, y))
PAIRS(div_full, div_full(x, y))
