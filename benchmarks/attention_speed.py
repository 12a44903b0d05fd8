"""Attention with a spiking value: torch's scaled_dot_product_attention, which students use, against the eager product.

    OMP_NUM_THREADS=1 python benchmarks/attention_speed.py [--tokens 32,128] [--runs 9] [--bf16]

32 texts, 12 heads of 32, float32 or bfloat16, a mask of padding; random queries, keys and values rates of T = 4. Both
take turns in one process; ratios of the medians of processor time. `same`: share of the counts (T = 4, threshold
0.3) on the results that are equal.
"""

import json
import statistics
import time
from collections.abc import Callable

import click
import torch
from torch import Tensor
from torch.nn import functional as F

TEXTS, HEADS, WIDTH, STEPS, V_THRESHOLD = 32, 12, 32, 4, 0.3


def eager(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    scores = query @ key.transpose(-1, -2) / WIDTH**0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ value


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def counts(context: Tensor) -> Tensor:
    return (context * STEPS / V_THRESHOLD).floor().clamp(0, STEPS)


def seconds(attend: Callable[..., Tensor], inputs: tuple[Tensor, ...], mask: Tensor, backward: bool) -> float:
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        context = attend(*inputs, mask)
        if backward:
            torch.autograd.grad(context.sum(), inputs)
    return time.process_time() - start


@click.command()
@click.option("--tokens", default="32,128", show_default=True, help="Of a text, comma-separated.")
@click.option("--runs", default=9, show_default=True)
@click.option("--bf16", is_flag=True)
def main(tokens: str, runs: int, bf16: bool) -> None:
    kind = torch.bfloat16 if bf16 else torch.float32
    report = {}
    for length in map(int, tokens.split(",")):
        torch.manual_seed(0)
        shape = TEXTS, HEADS, length, WIDTH
        value = torch.randint(0, STEPS + 1, shape) / STEPS
        inputs = tuple(x.to(kind).requires_grad_() for x in (torch.randn(shape), torch.randn(shape), value))
        mask = (torch.arange(length) < torch.randint(1, length + 1, (TEXTS, 1)))[:, None, None]
        found: dict[str, float] = {}
        for name, backward in (("forward", False), ("forward and backward", True)):
            taken = [[seconds(f, inputs, mask, backward) for f in (fused, eager)] for _ in range(runs + 1)][1:]
            ours, theirs = map(statistics.median, zip(*taken, strict=True))
            found[name] = round(ours / theirs, 2)
        with torch.no_grad():
            same = counts(fused(*inputs, mask)) == counts(eager(*inputs, mask))
        report[f"{length} tokens"] = found | {"same": float(same.double().mean())}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
