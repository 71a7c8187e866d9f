"""Shrinks failing cases with Hypothesis, as one would who has only its strategies.

    python3 -m pip install hypothesis
    cargo build --release --example judge
    python3 benches/shrinking/hypothesis_shrink.py target/release/examples/judge kernels/mutants/*/*.toml > hypothesis.tsv
    cargo bench --bench shrinking -- --others hypothesis.tsv

For each kernel a line: kernel, case as drawn, its signature, shrunk case, its signature, executions. Whether a case fails
is asked of `examples/judge.rs`; the same question is asked once. The ranges are those of `plain.rs`.
"""

import json
import subprocess
import sys

from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

MAX_CASES = 400
MAX_SHRINK = 2000
MAX_COST = 230_000
RECIPES = (
    "flat codes ones normal select sparse sink peaky huge extreme cold rising falling spikes ties cancel tiny"
    " underflow mixed"
).split()
RELATIONS = (
    "keys-permuted keys-repeated logits-shifted values-scaled values-negated values-raised weights-sum-to-one"
    " within-values heads-repeated requests-reversed request-alone cache-moved dims-reversed columns-reversed factors-moved"
    " appended steps-merged knobs-changed lses-merged scale-probe pages-permuted pages-resized"
).split()


class Judge:
    def __init__(self, command):
        self.process = subprocess.Popen([command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, kernel, question):
        self.process.stdin.write(f"{kernel}\t{question}\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer or answer.startswith("error: "):
            raise SystemExit(f"{kernel}: {question}: {answer or 'the judge ended'}")
        return answer


def numbers(found, most):
    """A range of a domain, up to `most`."""
    if isinstance(found, list):
        return st.sampled_from([n for n in found if n <= most] or found[:1])
    low, high = map(int, found.split("..="))
    return st.integers(low, max(low, min(high, most)))


@st.composite
def cases(draw, domain):
    heads = draw(numbers(domain["num_kv_heads"], 8))
    group = draw(numbers(domain["q_per_kv"], 16))
    d = draw(numbers(domain["head_dim"], 128))
    dv = draw(numbers(domain["v_head_dim"], 128)) if domain["v_head_dim"] else d
    request = st.tuples(numbers(domain["past_len"], 100), numbers(domain["q_len"], 16))
    requests = draw(st.lists(request, min_size=1, max_size=4))
    steps = draw(numbers(domain["steps"], 4))
    assume(any(q for _, q in requests))
    words = [f"kv={heads} g={group} d={d} dv={dv}"]
    words.append("past=" + ",".join(str(past) for past, _ in requests))
    words.append("q=" + ",".join(str(q) for _, q in requests))
    append = domain["append"]
    lengths = [past + (steps * q if append else 0) for past, q in requests]
    cost = sum(steps * q * max(length, 1) for (_, q), length in zip(requests, lengths)) * heads * group * (d + dv)
    assume(cost <= MAX_COST)
    if not append:
        words.append("append=no")
    if not draw(st.sampled_from(domain["causal"])):
        words.append("causal=no")
    if domain["window"]:
        window = draw(st.none() | numbers(domain["window"], 100))
        words += [] if window is None else [f"window={window}"]
    if domain["softcap"]:
        cap = draw(st.none() | st.sampled_from([1, 5, 30]))
        words += [] if cap is None else [f"softcap={cap}"]
    if domain["sinks"] and draw(st.booleans()):
        words.append("sinks=yes")
    words.append("dtype=" + draw(st.sampled_from(domain["dtype"])))
    order = draw(st.sampled_from(domain["cache"]))
    storage = draw(st.sampled_from(domain["storage"]))
    capacity = max(1, *lengths) + draw(st.integers(0, 16))
    pad = draw(numbers(domain["row_pad"], 64))
    words.append(f"cache={'packed-' if storage == 'packed' else ''}{order}:{capacity}+{pad}")
    if storage == "paged":
        size = draw(numbers(domain["page_size"], 128))
        seed_, spare, shared = draw(st.tuples(*[st.integers(0, 3)] * 3))
        words.append(f"pages={size},seed:{seed_},spare:{spare},shared:{shared}")
    default = d**-0.5
    scale = draw(st.sampled_from([1.0, default, 0.5])) if domain["any_scale"] else default
    words.append(f"scale={scale!r} steps={steps}")
    knobs = [f"{name}:{draw(numbers(found, 32))}" for name, found in domain["knobs"].items()]
    words += ["knobs=" + ",".join(knobs)] if knobs else []
    words.append(f"values={draw(st.sampled_from(RECIPES))}:{draw(st.integers(0, 65535))}")
    words.append(f"poison={draw(st.sampled_from(['nan', 'inf', 'huge']))} sched={draw(st.integers(0, 65535))}")
    if draw(st.integers(0, 7)) == 7:
        words.append("relation=" + draw(st.sampled_from(RELATIONS)))
    return " ".join(words)


def shrink(judge, kernel):
    """The first failing case drawn, what Hypothesis makes of it, and the executions in between; nothing if none fails."""
    known = {}
    failing = []
    executions = 0

    @seed(0)
    @settings(
        max_examples=MAX_CASES,
        phases=[Phase.generate, Phase.shrink],
        database=None,
        deadline=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases(json.loads(judge.ask(kernel, "domain"))))
    def agrees(case):
        nonlocal executions
        if case not in known:
            executions += bool(failing)
            known[case] = judge.ask(kernel, case) if executions <= MAX_SHRINK else "agree"
        answer = known[case]
        if answer.startswith("fail: "):
            failing.append((case, answer.removeprefix("fail: ")))
            raise AssertionError(answer)

    try:
        agrees()
    except AssertionError:
        pass
    if failing:
        # Hypothesis runs what it shrank to once more, last.
        print(kernel, *failing[0], *failing[-1], min(executions, MAX_SHRINK), sep="\t", flush=True)
    else:
        print(f"{kernel}: none of {MAX_CASES} cases fails", file=sys.stderr)


if __name__ == "__main__":
    judge = Judge(sys.argv[1])
    for kernel in sys.argv[2:]:
        shrink(judge, kernel)
