"""A model against spikes that another tool, or a chip, recorded of the same network on the same inputs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from neurotool.errors import DataError
from neurotool.executor import Executor, Inputs, runs
from neurotool.graph import Graph, Neuron
from neurotool.graph.nodes import sizes
from neurotool.inputs import time_step
from neurotool.recordings import Content, of_node, on_grid
from neurotool.validate import Comparison, Difference, LayerComparison, beyond, first_difference, nothing_compared


def compare_recorded(
    executor: Executor, inputs: list[Inputs], recorded: Content, tolerance: float | None = None
) -> Comparison:
    """Layer by layer: what `executor` sends on `inputs` as A, what is recorded as B.

    recorded: of every layer (inputs, steps, …), by the name of its node, or of an output; or of the one that is not
    named. A tool that sends a layer's spikes some steps late, as Lava does one for each layer, is compared in step:
    `LayerComparison.late` says how many. Steps that only one side has are left out.
    Raises DataError for what is recorded of no layer, or of another number of inputs or neurons.
    """
    graph = executor.graph
    result = Comparison(tolerance or 0.0, inputs=len(inputs))
    found = _layers(graph, recorded)
    sent = [run.spikes for _, run in runs(executor, inputs)]
    for name, spikes in found.items():
        a = np.stack([one[name].reshape(len(one[name]), -1) for one in sent])
        b = _recorded(graph, name, spikes, a.shape)
        result.layers[name] = _aligned(name, a, b, len(graph.of_type(Neuron)))
    result.first_difference = first_difference(result, graph)
    result.problems = beyond(result, 1e-9, 1.0)
    if nothing := nothing_compared(result):
        result.decided = False
        result.problems.append(f"{nothing}: no verdict")
    return result


def _layers(graph: Graph, recorded: Content) -> dict[str, Any]:
    """What is recorded of each neuron layer. What is recorded of others, such as inputs or potentials, is left out."""
    layers = graph.of_type(Neuron)
    ends = {name: node for name, node in graph.outputs.items() if node in layers}
    if not isinstance(recorded, Mapping):
        named = list(dict.fromkeys(ends.values())) or layers
        if len(named) != 1:
            raise DataError(
                f"one array is recorded, and the network has layers {', '.join(layers)}: name it, in a .npz"
            )
        return {named[0]: recorded}
    spikes = {key: value for key, value in recorded.items() if key.rpartition(".")[2] not in ("potentials", "messages")}
    found = {node: spikes[key] for name, node in ends.items() if (key := of_node(spikes, name))}
    found |= {name: spikes[key] for name in layers if (key := of_node(spikes, name))}
    if not found:
        raise DataError(f"nothing is recorded of {', '.join(layers)}: there is {', '.join(recorded)}")
    return {name: found[name] for name in layers if name in found}


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


def _in_step(a: np.ndarray, b: np.ndarray, late: int) -> tuple[np.ndarray, np.ndarray]:
    moved = b[:, late:]
    steps = min(a.shape[1], moved.shape[1])
    return a[:, :steps], moved[:, :steps]
