// Decode attention of one token of one request, as plainly as it can be written, with mistakes to choose from.
extern "C" __global__ void __launch_bounds__(32)
    naive(const float* __restrict__ q, const float* __restrict__ k, const float* __restrict__ v, float* __restrict__ out,
          int num_heads, int num_kv_heads, int seq_len, int max_seq, int head_dim, float sm_scale)
{
    int head = blockIdx.x;
#ifdef INTERLEAVED
    int kv_head = head % num_kv_heads;
#else
    int kv_head = head / (num_heads / num_kv_heads);
#endif
#ifdef NHD
    size_t token_stride = (size_t)num_kv_heads * head_dim, head_stride = head_dim;
#else
    size_t token_stride = head_dim, head_stride = (size_t)max_seq * head_dim;
#endif
    const float* keys = k + kv_head * head_stride;
    const float* values = v + kv_head * head_stride;
    const float* query = q + head * head_dim;
    float largest = -1e30f, sum = 0.0f;
    for (int pass = 0; pass < 2; ++pass) {
        for (int dim = threadIdx.x; dim < head_dim || pass == 0; dim += 32) {
            float total = 0.0f;
            sum = 0.0f;
#ifdef COUNTS_FROM_POSITION
            for (int token = 0; token <= seq_len; ++token) {
#else
            for (int token = 0; token < seq_len; ++token) {
#endif
                float logit = 0.0f;
                for (int i = 0; i < head_dim; ++i) logit += query[i] * keys[token * token_stride + i];
#if defined(BAKED_AND_PASSED)
                logit *= sm_scale * rsqrtf((float)head_dim);
#elif defined(BAKED)
                logit *= rsqrtf((float)head_dim);
#elif !defined(UNSCALED)
                logit *= sm_scale;
#endif
                if (pass == 0) {
                    largest = fmaxf(largest, logit);
                } else {
#ifdef BASE_2
                    float weight = exp2f(logit - largest);
#else
                    float weight = expf(logit - largest);
#endif
                    sum += weight;
                    total += weight * values[token * token_stride + dim];
                }
            }
            if (pass == 0) break;
            out[head * head_dim + dim] = total / sum;
        }
    }
}
