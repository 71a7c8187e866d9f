// Decoding of one token from a paged cache, the slow way: a thread for each request's KV head. What it is for is how it
// finds tokens: keys by one list of all pages, values by rows of slots, new tokens by their slots. It trusts what its
// workspaces hold at the start.

extern "C" __global__ void pages(const float* q, const float* k_new, const float* v_new, float* k_cache, float* v_cache,
                                 float* out, const int* kv_indptr, const long long* kv_indices,
                                 const int* kv_last_page_len, const long long* slot_mapping, const int* first_slots,
                                 const float* lowest, const unsigned* one, const unsigned* marks, int page_size,
                                 int pages_per_request, int q_per_kv, int dim, float scale) {
    if (one[blockIdx.y] != 1 || marks[blockIdx.y] != 0x5a5a5a5a) __trap();
    const long long kv_head = blockIdx.x, request = blockIdx.y, num_kv_heads = gridDim.x;
    const long long* indices = kv_indices + kv_indptr[request];
    const int pages = kv_indptr[request + 1] - kv_indptr[request];
    const int tokens = (pages - 1) * page_size + kv_last_page_len[request];
    const int* slots = first_slots + request * pages_per_request;
    const long long head = request * num_kv_heads + kv_head;
    for (int d = 0; d < dim; d++) {
        k_cache[(slot_mapping[request] * num_kv_heads + kv_head) * dim + d] = k_new[head * dim + d];
        v_cache[(slot_mapping[request] * num_kv_heads + kv_head) * dim + d] = v_new[head * dim + d];
    }
    for (int member = 0; member < q_per_kv; member++) {
        const float* row = q + (head * q_per_kv + member) * dim;
        float* to = out + (head * q_per_kv + member) * dim;
        for (int d = 0; d < dim; d++) to[d] = 0.0f;
        float largest = lowest[request], weights = 0.0f;
        for (int token = 0; token < tokens; token++) {
            const int page = token / page_size, place = token % page_size;
            const float* k = k_cache + ((indices[page] * page_size + place) * num_kv_heads + kv_head) * dim;
            const float* v = v_cache + ((slots[page] + static_cast<long long>(place)) * num_kv_heads + kv_head) * dim;
            float logit = 0.0f;
            for (int d = 0; d < dim; d++) logit += row[d] * k[d];
            logit *= scale;
            const float next = fmaxf(largest, logit);
            const float old = expf(largest - next), weight = expf(logit - next);
            for (int d = 0; d < dim; d++) to[d] = to[d] * old + weight * v[d];
            weights = weights * old + weight;
            largest = next;
        }
        for (int d = 0; d < dim; d++) to[d] /= weights;
    }
}
