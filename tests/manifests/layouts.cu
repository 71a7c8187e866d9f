// Decoding of one token, the slow way: a thread for each request's KV head. What it is for is where the tensors are: several
// in one buffer, rows cut into groups, other pages for values than for keys.

// Attends from `member`s of a group. `K` and `V` give the place of an element of a token, in elements.
template <class Q, class K, class V, class Out>
__device__ void attend(Q q, K k, V v, Out out, int tokens, int q_per_kv, int dim, float scale) {
    for (int member = 0; member < q_per_kv; member++) {
        for (int d = 0; d < dim; d++) *out(member, d) = 0.0f;
        float largest = -3.4e38f, weights = 0.0f;
        for (int token = 0; token < tokens; token++) {
            float logit = 0.0f;
            for (int d = 0; d < dim; d++) logit += *q(member, d) * *k(token, d);
            logit *= scale;
            const float next = fmaxf(largest, logit);
            const float old = expf(largest - next), weight = expf(logit - next);
            for (int d = 0; d < dim; d++) *out(member, d) = *out(member, d) * old + weight * *v(token, d);
            weights = weights * old + weight;
            largest = next;
        }
        for (int d = 0; d < dim; d++) *out(member, d) /= weights;
    }
}

// qkv: [request, num_q_heads + 2 * num_kv_heads, dim]; kv_cache: [2, page, page_size, num_kv_heads, dim].
extern "C" __global__ void concatenated(const float* qkv, float* kv_cache, const int* block_table, const int* past_len,
                                        float* out, int num_pages, int page_size, int pages_per_request, int q_per_kv,
                                        int dim, float scale) {
    const long long kv_head = blockIdx.x, request = blockIdx.y, num_kv_heads = gridDim.x;
    const long long num_q_heads = num_kv_heads * q_per_kv, past = past_len[request];
    const float* row = qkv + request * (num_q_heads + 2 * num_kv_heads) * dim;
    const auto cached = [=](int which, int token) {
        const long long page = block_table[request * pages_per_request + token / page_size];
        return kv_cache + (((which * num_pages + page) * page_size + token % page_size) * num_kv_heads + kv_head) * dim;
    };
    for (int d = 0; d < dim; d++) {
        cached(0, past)[d] = row[(num_q_heads + kv_head) * dim + d];
        cached(1, past)[d] = row[(num_q_heads + num_kv_heads + kv_head) * dim + d];
    }
    attend([=](int member, int d) { return row + (kv_head * q_per_kv + member) * dim + d; },
           [=](int token, int d) { return cached(0, token) + d; }, [=](int token, int d) { return cached(1, token) + d; },
           [=](int member, int d) { return out + (request * num_q_heads + kv_head * q_per_kv + member) * dim + d; },
           past + 1, q_per_kv, dim, scale);
}

// qkv: [request, num_kv_heads, q_per_kv + 2, dim]; the caches: [page, 2, page_size, num_kv_heads, dim], by a pointer to the
// keys, a pointer to the values, and strides. The last argument, if not 0, is how far from a new value a 1 is written too.
extern "C" __global__ void grouped(const float* qkv, float* k_cache, float* v_cache, const int* block_table,
                                   const int* past_len, float* out, long long stride_page, long long stride_token,
                                   long long stride_head, int page_size, int pages_per_request, int q_per_kv, int dim,
                                   float scale, int astray) {
    const long long kv_head = blockIdx.x, request = blockIdx.y, num_kv_heads = gridDim.x, past = past_len[request];
    const float* group = qkv + (request * num_kv_heads + kv_head) * (q_per_kv + 2) * dim;
    const auto cached = [=](int token) {
        const long long page = block_table[request * pages_per_request + token / page_size];
        return page * stride_page + token % page_size * stride_token + kv_head * stride_head;
    };
    for (int d = 0; d < dim; d++) {
        k_cache[cached(past) + d] = group[q_per_kv * dim + d];
        v_cache[cached(past) + d] = group[(q_per_kv + 1) * dim + d];
        if (astray) v_cache[cached(past) + d + astray] = 1.0f;
    }
    attend([=](int member, int d) { return group + member * dim + d; },
           [=](int token, int d) { return k_cache + cached(token) + d; },
           [=](int token, int d) { return v_cache + cached(token) + d; },
           [=](int member, int d) {
               return out + ((request * num_kv_heads + kv_head) * q_per_kv + member) * dim + d;
           },
           past + 1, q_per_kv, dim, scale);
}

// k_cache: [page, num_kv_heads, dim / x, page_size, x]; v_cache: [page, num_kv_heads, dim, page_size], each with pages of
// its own.
extern "C" __global__ void split_rows(const float* q, const float* k_new, const float* v_new, float* k_cache,
                                      float* v_cache, const int* k_table, const int* v_table, const int* past_len,
                                      float* out, int page_size, int pages_per_request, int q_per_kv, int dim, int x,
                                      float scale) {
    const long long kv_head = blockIdx.x, request = blockIdx.y, num_kv_heads = gridDim.x, past = past_len[request];
    const long long head = request * num_kv_heads + kv_head;
    const auto place = [=](const int* table, int token) {
        return (table[request * pages_per_request + token / page_size] * num_kv_heads + kv_head) * dim * page_size;
    };
    const auto k = [=](int token, int d) {
        return k_cache + place(k_table, token) + (static_cast<long long>(d / x) * page_size + token % page_size) * x + d % x;
    };
    const auto v = [=](int token, int d) {
        return v_cache + place(v_table, token) + static_cast<long long>(d) * page_size + token % page_size;
    };
    for (int d = 0; d < dim; d++) {
        *k(past, d) = k_new[head * dim + d];
        *v(past, d) = v_new[head * dim + d];
    }
    attend([=](int member, int d) { return q + (head * q_per_kv + member) * dim + d; }, k, v,
           [=](int member, int d) { return out + (head * q_per_kv + member) * dim + d; }, past + 1, q_per_kv, dim, scale);
}
