// Attention over the one key that there is: its value. The PTX beside it is written by hand, with this file's lines.
extern "C" __global__ void one_key_f32(const float* v, float* out, long long stride, int group) {
    if (threadIdx.x != 0) return;
    int kv_head;
    if (group > 4) {
        kv_head = blockIdx.x / group;
    } else {
        kv_head = blockIdx.x / group;
    }
    const float value = v[kv_head * stride];
    out[blockIdx.x] = group < 0 ? 0.0f : value;
}
