// Attention with appending, the slow way: a thread for each request's KV head. What it is for are its arguments: a
// struct by value with another inside, an array of pointers, 64-bit lengths, a pointer that does not point to the start,
// one that is null, and tensors in four layouts.

struct Strides {
    long long head, token;
};

struct Problem {
    short dim;
    unsigned char q_per_kv;
    bool is_causal;
    int longest;
    Strides cache;
    float scale_of_two;
};

extern "C" __global__ void params(Problem problem, const float* second_of_q, const float* k_new, const float* v_new,
                                  float* const* k_rows, float* const* v_rows, float* out, float* lse,
                                  const long long* past_len, const long long* cu_q_len, const float* bias) {
    if (bias != nullptr || !problem.is_causal) __trap();
    const int dim = problem.dim, kv_head = blockIdx.x, num_q_heads = gridDim.x * problem.q_per_kv;
    const float* q = second_of_q - 1;
    const long long past = past_len[blockIdx.y], first = cu_q_len[blockIdx.y], total = cu_q_len[gridDim.y];
    const long long count = cu_q_len[blockIdx.y + 1] - first;
    float* k = k_rows[blockIdx.y] + kv_head * problem.cache.head;
    float* v = v_rows[blockIdx.y] + kv_head * problem.cache.head;
    for (long long i = 0; i < count; i++) {
        const long long slot = (past + i) * problem.cache.token;
        for (int d = 0; d < dim; d++) {
            k[slot + d] = k_new[(kv_head * total + first + i) * dim + d];
            v[slot + d] = v_new[((first + i) * gridDim.x + kv_head) * (dim + 3) + d];
        }
    }
    for (int member = 0; member < problem.q_per_kv; member++) {
        const long long head = kv_head * problem.q_per_kv + member;
        for (long long i = 0; i < count; i++) {
            const float* row = q + ((blockIdx.y * num_q_heads + head) * problem.longest + i) * dim;
            float* to = out + (head * total + first + i) * dim;
            for (int d = 0; d < dim; d++) to[d] = 0.0f;
            float largest = __int_as_float(0xff800000), weights = 0.0f;
            for (long long token = 0; token <= past + i; token++) {
                float logit = 0.0f;
                for (int d = 0; d < dim; d++) logit += row[d] * k[token * problem.cache.token + d];
                logit *= problem.scale_of_two;
                const float next = fmaxf(largest, logit);
                const float old = exp2f(largest - next), weight = exp2f(logit - next);
                for (int d = 0; d < dim; d++) to[d] = to[d] * old + weight * v[token * problem.cache.token + d];
                weights = weights * old + weight;
                largest = next;
            }
            for (int d = 0; d < dim; d++) to[d] /= weights;
            lse[head * total + first + i] = largest + log2f(weights);
        }
    }
}
