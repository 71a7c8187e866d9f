"""The differential loop of this benchmark as one writes it in Python: hypothesis (or a plain generator), the same PTX on
the GPU, PyTorch in f64 as the reference, one tolerance.

    loop.py PTX SECONDS hypothesis|plain

It prints a line of JSON with cases a second.
"""

import json
import random
import sys
import time

import cupy
import torch

DIMS = [16, 32, 40, 64, 80, 96, 128]
torch.set_num_threads(1)


def launcher(ptx, entry):
    function = cupy.RawModule(path=ptx).get_function(entry)
    scalars = {"i32": cupy.int32, "i64": cupy.int64, "f32": cupy.float32}

    def launch(grid, block, tensors, numbers):
        args = [cupy.from_dlpack(tensor) for tensor in tensors]
        function(grid, block, tuple(args + [scalars[kind](number) for kind, number in numbers]))

    return launch


def judge(launch, kv_heads, group, dim, past, seed):
    """Runs one case and compares it with f64."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    batch, heads, capacity = len(past), kv_heads * group, max(past) + 1
    normal = lambda *shape: torch.randn(*shape, device="cuda", generator=generator)
    q, k_new, v_new = normal(batch, heads, dim), normal(batch, kv_heads, dim), normal(batch, kv_heads, dim)
    k_cache, v_cache = normal(batch, kv_heads, capacity, dim), normal(batch, kv_heads, capacity, dim)
    out = torch.full((batch, heads, dim), float("nan"), device="cuda")
    lens = torch.tensor(past, dtype=torch.int32, device="cuda")
    scale = dim**-0.5
    strides = [kv_heads * capacity * dim, capacity * dim, dim]
    numbers = [("i32", n) for n in (kv_heads, group, dim)] + [("i64", n) for n in strides] + [("f32", scale)]
    tensors = [q, k_new, v_new, k_cache, v_cache, out, lens]
    launch((batch * kv_heads, -(-group // 8), 1), (128, 1, 1), tensors, numbers)
    for request, length in enumerate(past):
        keys = k_cache[request, :, : length + 1].double()
        values = v_cache[request, :, : length + 1].double()
        keys[:, length], values[:, length] = k_new[request].double(), v_new[request].double()
        queries = q[request].view(kv_heads, group, dim).double()
        weights = torch.softmax(queries @ keys.transpose(1, 2) * scale, dim=-1)
        expected = (weights @ values).view(heads, dim)
        assert torch.allclose(out[request].double(), expected, rtol=1e-4, atol=1e-4)


def main():
    ptx, seconds, how = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    launch = launcher(ptx, "gqa_decode_f32")
    judge(launch, 1, 1, 16, [0], 0)
    cases, start = 0, time.monotonic()
    if how == "plain":
        while time.monotonic() - start < seconds:
            dice = random.Random(cases)
            past = [dice.randint(0, 130) for _ in range(dice.randint(1, 3))]
            judge(launch, dice.randint(1, 4), dice.randint(1, 9), dice.choice(DIMS), past, cases)
            cases += 1
    else:
        from hypothesis import HealthCheck, given, settings, strategies as st

        while time.monotonic() - start < seconds:

            @settings(max_examples=200, database=None, deadline=None, suppress_health_check=list(HealthCheck))
            @given(
                st.integers(1, 4),
                st.integers(1, 9),
                st.sampled_from(DIMS),
                st.lists(st.integers(0, 130), min_size=1, max_size=3),
                st.integers(0, 2**31),
            )
            def case(kv_heads, group, dim, past, seed):
                nonlocal cases
                judge(launch, kv_heads, group, dim, past, seed)
                cases += 1

            case()
    rate = cases / (time.monotonic() - start)
    print(json.dumps({"what": f"Python loop, {how}", "cases_per_s": rate, "torch": torch.__version__, "cupy": cupy.__version__}))


main()
