"""A model against spikes that another tool, or a chip, recorded of the same network on the same inputs."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from neurotool.errors import DataError, NeurotoolWarning, listing
from neurotool.executor import Executor, Inputs, runs
from neurotool.graph import Graph, Neuron
from neurotool.graph.nodes import sizes
from neurotool.inputs import time_step
from neurotool.recordings import Content, of_node, on_grid
from neurotool.validate import (
    Comparison,
    Difference,
    LayerComparison,
    OutputComparison,
    beyond,
    first_difference,
    nothing_compared,
)

SINGLE_PRECISION = 1e-4
"""What recorded values may differ by, relative to the largest: tools compute in float32."""


def compare_recorded(
    executor: Executor, inputs: list[Inputs], recorded: Content, tolerance: float | None = None
) -> Comparison:
    """Layer by layer: what `executor` sends on `inputs` as A, what is recorded as B.

    recorded: of every layer, integrator or analog output (inputs, steps, …), by the name of its node, or of an output;
    or of the one that is not named. A tool that sends a layer's spikes some steps late, as Lava does one for each
    layer, is compared in step: `LayerComparison.late` says how many. Steps that only one side has are left out, and a
    warning (NeurotoolWarning) says so.
    Raises DataError for what is recorded of no layer, or of another number of inputs or neurons.
    """
    graph = executor.graph
    result = Comparison(tolerance or 0.0, inputs=len(inputs))
    most, sent = len(graph.of_type(Neuron)), [run for _, run in runs(executor, inputs)]
    for name, found in _found(graph, recorded).items():
        is_layer = name in graph.of_type(Neuron)
        a = np.stack([(run.spikes if is_layer else run.analog)[name] for run in sent])
        a = a.reshape(*a.shape[:2], -1)
        b = _recorded(graph, name, found, a.shape)
        if a.shape[1] != b.shape[1]:
            warnings.warn(
                f"{name} is recorded for {b.shape[1]} steps, and T is {a.shape[1]}: what only one has is not compared",
                NeurotoolWarning,
                stacklevel=2,
            )
        if is_layer:
            result.layers[name] = _aligned(name, a, b, most)
        else:
            result.outputs[name] = _closest(a, b, most)
    result.first_difference = first_difference(result, graph)
    result.problems = beyond(result, SINGLE_PRECISION, 1.0, floor=0.0)
    if nothing := nothing_compared(result):
        result.decided = False
        result.problems.append(f"{nothing}: no verdict")
    return result


def _found(graph: Graph, recorded: Content) -> dict[str, Any]:
    """What is recorded of each neuron layer, integrator and analog output. What is recorded of others, such as inputs
    or potentials, is left out."""
    known = [*graph.of_type(Neuron), *graph.analog]
    ends = {name: node for name, node in graph.outputs.items() if node in known}
    if not isinstance(recorded, Mapping):
        named = list(dict.fromkeys(ends.values())) or known
        if len(named) != 1:
            raise DataError(f"one array is recorded, and the network has {', '.join(known)}: name it, in a .npz")
        return {named[0]: recorded}
    kept = {key: value for key, value in recorded.items() if key.rpartition(".")[2] not in ("potentials", "messages")}
    found = {node: kept[key] for name, node in ends.items() if (key := of_node(kept, name))}
    found |= {name: kept[key] for name in known if (key := of_node(kept, name))}
    if not found:
        raise DataError(
            f"nothing is recorded of {listing(known)}: there is {listing(recorded)}; name arrays as the layers are"
        )
    return {name: found[name] for name in known if name in found}


def _recorded(graph: Graph, name: str, recorded: Any, wanted: tuple[int, ...]) -> np.ndarray:
    """(inputs, steps, neurons)."""
    inputs, steps, neurons = wanted
    of_a_token = int(np.prod(sizes(graph.shapes()[name], 1)))
    x = on_grid(name, recorded, steps, of_a_token, time_step(graph))
    fits = x.ndim >= 2 and len(x) == inputs and (x.size == 0 or x[0, 0].size == neurons)
    if not fits:
        raise DataError(f"{name} is recorded as {x.shape}: (inputs = {inputs}, steps, {neurons} neurons) is wanted")
    return x.reshape(inputs, x.shape[1], neurons).astype(np.float64)


def _aligned(name: str, a: np.ndarray, b: np.ndarray, most: int) -> LayerComparison:
    """B moved by the steps, up to `most`, with which the smallest share differs."""
    best: tuple[float, int] = (np.inf, 0)
    for late in range(min(most, max(b.shape[1] - 1, 0)) + 1):
        x, y = _in_step(a, b, late)
        differing = float(np.mean(x != y)) if x.size else 1.0
        best = min(best, (differing, late))
    x, y = _in_step(a, b, best[1])
    places = np.argwhere(x != y)
    layer = LayerComparison(int(np.abs(x).sum()), int(np.abs(y).sum()), x.size, len(places), late=best[1])
    difference = np.abs(x.mean(1) - y.mean(1))
    layer.rates, layer.sum_of_rate_differences = difference.size, float(difference.sum())
    layer.max_rate_difference = float(difference.max(initial=0.0))
    if len(places):
        of, step, neuron = min((tuple(map(int, place)) for place in places), key=lambda at: (at[0], at[1]))
        sent = int(x[of, step, neuron]), int(y[of, step, neuron])
        layer.first_difference = Difference(name, of, step, 0, neuron, *sent)
    return layer


def _closest(a: np.ndarray, b: np.ndarray, most: int) -> OutputComparison:
    """Of values, B moved by the steps with which they differ least."""
    lates = range(min(most, max(b.shape[1] - 1, 0)) + 1)
    return min((_outputs(*_in_step(a, b, late)) for late in lates), key=lambda output: output.sum_of_differences)


def _outputs(a: np.ndarray, b: np.ndarray) -> OutputComparison:
    output = OutputComparison()
    if a.size:
        output.add(a, b)
    return output


def _in_step(a: np.ndarray, b: np.ndarray, late: int) -> tuple[np.ndarray, np.ndarray]:
    moved = b[:, late:]
    steps = min(a.shape[1], moved.shape[1])
    return a[:, :steps], moved[:, :steps]
