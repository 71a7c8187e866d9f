// Prefill without a cache, the slow way: a thread for each token's head. qkv: [token, 3, num_heads, dim], as a projection
// leaves it.
extern "C" __global__ void self_attention(const float* qkv, float* out, int dim, float scale) {
    const long long head = blockIdx.x, token = blockIdx.y, num_heads = gridDim.x;
    const auto row = [=](long long token, int which) { return qkv + ((token * 3 + which) * num_heads + head) * dim; };
    float* to = out + (token * num_heads + head) * dim;
    for (int d = 0; d < dim; d++) to[d] = 0.0f;
    float largest = -3.4e38f, weights = 0.0f;
    for (long long key = 0; key <= token; key++) {
        float logit = 0.0f;
        for (int d = 0; d < dim; d++) logit += row(token, 0)[d] * row(key, 1)[d];
        logit *= scale;
        const float next = fmaxf(largest, logit);
        const float old = expf(largest - next), weight = expf(logit - next);
        for (int d = 0; d < dim; d++) to[d] = to[d] * old + weight * row(key, 2)[d];
        weights = weights * old + weight;
        largest = next;
    }
    for (int d = 0; d < dim; d++) to[d] /= weights;
}
