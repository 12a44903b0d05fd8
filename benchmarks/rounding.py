"""Which rounding of fixed point makes spikes differ: one at a time in the network with real numbers.

    python benchmarks/rounding.py model.ckpt [--data DATA] [--samples 16] [--only weights,gelu,all]

Of the spikes of each encoder layer: |difference of counts| over neurons x T x tokens, in percent. What is replaced:

weights, biases, thresholds, embeddings, norm parameters: by what their integers stand for;
softmax, norm, gelu: by the integer form, fed with the rounded input; NAME@k: only the output rounded to 2^-k;
noise:E: weights times 1 + E of a standard normal;
all: the fixed-point network; grid: the same, beside the network with real numbers whose parameters are its integers.
--precise lowers with the precise forms (docs/fixed_point.md).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from neurotool.api.lowering import ranges
from neurotool.api.model import NOTHING, open_model
from neurotool.export.lower import lower
from neurotool.graph import Context, Embedding, Gelu, Graph, LayerNorm, Linear, Neuron, Node, Softmax
from neurotool.graph.fixed_point import NORM_BITS
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.floating import FloatArithmetic
from neurotool.lava_runtime.integer import IntegerArithmetic

PARAMETERS = {"weights", "biases", "thresholds", "embeddings", "norm parameters"}
FUNCTIONS = {Softmax: "softmax", LayerNorm: "norm", Gelu: "gelu"}
ROWS = (
    *("all", *sorted(PARAMETERS), *FUNCTIONS.values(), "noise:1e-3", "noise:1e-5", "noise:1e-7"),
    *("softmax@14+norm@14+gelu@14", "softmax@17+norm@17+gelu@17", "softmax@20+norm@20+gelu@20", "grid"),
)


def replaced(graph: Graph, fixed: Graph, what: set[str]) -> Graph:
    """With the parameters that the integers of `fixed` stand for."""
    noise = next((float(name.split(":")[1]) for name in what if name.startswith("noise:")), 0.0)
    rng, nodes = np.random.default_rng(0), dict[str, Node]()
    for name, node in graph.nodes.items():
        whole: Any = fixed.nodes[name]
        form = fixed.fixed_point[name]
        if isinstance(node, Linear):
            if noise:
                node = replace(node, weight=node.weight * (1 + noise * rng.standard_normal(node.weight.shape)))
            if "weights" in what:
                unit = form.scale / fixed.fixed_point[fixed.source(name, "x")].scale
                exponents = np.zeros(len(whole.weight)) if form.exponents is None else form.exponents.astype(float)
                node = replace(node, weight=whole.weight * 2.0 ** exponents[:, None] * unit)
            if "biases" in what and whole.bias is not None:
                node = replace(node, bias=whole.bias * form.scale)
        elif isinstance(node, Neuron) and "thresholds" in what:
            multiplier, shift = form.rescale[0]
            unit = fixed.fixed_point[fixed.source(name, "x")].scale * 2.0**shift / multiplier
            node = replace(node, v_threshold=whole.v_threshold * unit)
        elif isinstance(node, Embedding) and "embeddings" in what:
            node = replace(node, weight=whole.weight * form.scale)
        elif isinstance(node, LayerNorm) and "norm parameters" in what:
            unit = form.scale * 2.0 ** ((form.fraction or NORM_BITS) - form.shift)
            node = replace(node, weight=whole.weight * unit, bias=whole.bias * form.scale)
        nodes[name] = node
    return replace(graph, nodes=nodes)


class Mixed(FloatArithmetic):
    """Real numbers, but for the functions named."""

    def __init__(self, graph: Graph, fixed: Graph, what: set[str]) -> None:
        super().__init__(graph)
        self.fixed, self.integers, self.what = fixed, IntegerArithmetic(fixed), what

    def compute(self, name: str, node: Node, context: Context, *x: np.ndarray) -> np.ndarray:
        function = FUNCTIONS.get(type(node), "")
        bits = [int(one.split("@")[1]) for one in self.what if function and one.startswith(f"{function}@")]
        if bits:
            unit = 2.0 ** -bits[0]
            return np.rint(super().compute(name, node, context, *x) / unit) * unit
        if function not in self.what:
            return super().compute(name, node, context, *x)
        form, source = self.fixed.fixed_point[name], self.fixed.fixed_point[self.fixed.source(name, "x")]
        multiplier, shift = form.rescale[0]
        whole = np.rint(x[0] / (source.scale * 2.0**shift / multiplier)).astype(np.int64)
        return self.integers.compute(name, self.fixed.nodes[name], context, whole) * form.scale


def rates(emulator: Emulator, batches: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    return [emulator.run(**batch, observe=True).rates for batch in batches]


def apart(a: list[Any], b: list[Any], batches: list[dict[str, Any]]) -> dict[str, float]:
    """Mean |difference of rates| of the real tokens, over the neuron layers of the embedding and each encoder layer."""
    found: dict[str, list[float]] = {}
    for name in a[0]:
        tokens = [np.asarray(batch["attention_mask"]).astype(bool) for batch in batches]
        differences = [np.abs(x[name] - y[name])[real] for x, y, real in zip(a, b, tokens, strict=True)]
        part = name.split(".")[1] if "." in name else name
        found.setdefault(part, []).append(float(np.concatenate(differences).mean()))
    return {
        "mean": float(np.mean([x for each in found.values() for x in each])),
        **{part: float(np.mean(x)) for part, x in found.items()},
    }


@click.command()
@click.argument("checkpoint", type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="By default the validation data.")
@click.option("--samples", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--only", default=",".join(ROWS), help="Rows, comma-separated; + joins several replacements.")
@click.option("--precise", is_flag=True)
def main(checkpoint: Path, data: Path | None, samples: int, only: str, precise: bool) -> None:
    told, texts = open_model(checkpoint).ready(data, samples, NOTHING)
    graph, batches = told.graph, texts.batches()
    fixed = lower(graph, ranges(graph, texts), precise=precise)
    exact = rates(Emulator(graph), batches)
    for row in only.split(","):
        what = set(row.split("+"))
        if row in ("all", "grid"):
            against = exact if row == "all" else rates(Emulator(replaced(graph, fixed, PARAMETERS)), batches)
            found = apart(against, rates(Emulator(fixed), batches), batches)
        else:
            mixed = Emulator(replaced(graph, fixed, what))
            mixed.arithmetic = Mixed(mixed.graph, fixed, what)
            found = apart(exact, rates(mixed, batches), batches)
        click.echo(f"| {row} | {' | '.join(f'{part} {100 * share:.2f}' for part, share in found.items())} |")


if __name__ == "__main__":
    main()
