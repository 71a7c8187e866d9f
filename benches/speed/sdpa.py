"""Seconds that PyTorch's attention takes: sdpa.py DTYPE CAUSAL Q_HEADS KV_HEADS HEAD_DIM BATCH TOKENS.

The fastest backend of scaled_dot_product_attention, with grouped queries, cold caches, median of 9.
"""

import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention


def seconds(backend, q, k, v, causal, flush):
    with sdpa_kernel([backend]):
        times = []
        for _ in range(10):
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()
            before.record()
            scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            after.record()
            torch.cuda.synchronize()
            times.append(before.elapsed_time(after) / 1e3)
    return sorted(times[1:])[4]


def main():
    dtype = {"f16": torch.float16, "bf16": torch.bfloat16}[sys.argv[1]]
    causal = sys.argv[2] == "1"
    q_heads, kv_heads, head_dim, batch, tokens = map(int, sys.argv[3:8])
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(batch, heads, tokens, head_dim, device="cuda", dtype=dtype)
        for heads in (q_heads, kv_heads, kv_heads)
    )
    flush = torch.empty(256 << 20, device="cuda", dtype=torch.uint8)
    best, refusals = None, []
    for backend in (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION):
        try:
            time = seconds(backend, q, k, v, causal, flush)
        except RuntimeError as error:
            refusals.append(f"{backend}: {error}")
            continue
        best = time if best is None else min(best, time)
    if best is None:
        sys.exit("; ".join(refusals))
    print(best)


main()
