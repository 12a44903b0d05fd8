"""What arrives at every port that reads spikes: summed from the activity of the layers that send them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

import numpy as np

from neurotool.activity import Activity, LayerActivity
from neurotool.errors import DataError
from neurotool.graph import Concat, Context, Conv1d, Conv2d, Delay, Flatten, Graph, Linear, MatMul, SumPool2d
from neurotool.graph.fixed_point import row_mantissas
from neurotool.graph.nodes import own_axes
from neurotool.simulate import SynapseEvents

Events = Mapping[tuple[str, str], SynapseEvents]
"""(node, port that reads spikes) -> what arrives over all inputs, padding left out."""

Zeros = Literal["kept", "float", "int8"]
"""Weights that cost nothing: none; those that are zero; those that are zero in 8 bits."""

SYNAPSES = (Linear, Conv1d, Conv2d, MatMul)
"""Where spikes cause accumulates."""

NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})

Sender = tuple[str, int]
"""A layer that spikes, and the column of a node's output at which its first neuron is."""


def spiking_sources(graph: Graph) -> dict[str, tuple[Sender, ...]]:
    """For every node the layers whose spikes it hands on: itself, several through an Add or a Concat, none where it is
    graded."""
    shapes, spiking = graph.shapes(), graph.spiking
    sources: dict[str, tuple[Sender, ...]] = {name: ((name, 0),) for name in spiking if graph.nodes[name].sends_spikes}
    for _ in range(2):  # what is fed back is known the second time
        for name in (name for name in graph.nodes if name in spiking and not graph.nodes[name].sends_spikes):
            found: list[Sender] = []
            start = 0
            for source in graph.inputs[name]:
                found += [(layer, start + column) for layer, column in sources.get(source, ())]
                start += math.prod(own_axes(shapes[source])) if isinstance(graph.nodes[name], Concat) else 0
            sources[name] = tuple(dict.fromkeys(found)) if name in sources else tuple(found)
    return {name: sources.get(name, ()) for name in graph.nodes}


def present_weights(weight: np.ndarray, zeros: Zeros) -> np.ndarray:
    """Which weights (out, in) are there."""
    if zeros == "int8":
        return row_mantissas(weight)[0] != 0
    return weight != 0 if zeros == "float" else np.ones(weight.shape, bool)


def events_of_activity(graph: Graph, activity: Activity, skip_zero: bool = False, *, int8: bool = False) -> Events:
    """Events at every port that reads spikes, of the whole run. skip_zero: none for weights that are zero; int8: in
    8 bits. Active neurons count once a window; where the record does not say, they are 0.

    Raises DataError where the activity does not say enough.
    """
    zeros: Zeros = "int8" if skip_zero and int8 else "float" if skip_zero else "kept"
    spiking, phased = spiking_sources(graph), graph.schedule == "phased"
    events = {}
    for name, node in graph.nodes.items():
        for port in node.ports:
            sources = spiking[graph.source(name, port)]
            if not sources or not isinstance(node, SYNAPSES):
                continue
            layers = senders(graph, activity, name, port, sources)
            if not phased:  # every step by itself
                layers = [(layer, layer, column) for layer, _, column in layers]
            events[name, port] = _events(graph, name, port, sources, layers, zeros)
    return events


def active_of_activity(graph: Graph, activity: Activity, zeros: Zeros) -> dict[tuple[str, str], SynapseEvents] | None:
    """What a network that skips zero activations multiplies, one value of each neuron and window: in the concurrent
    schedule, of the whole run; behind a pool one of each sum. None where the activity does not say what was active."""
    spiking, found = spiking_sources(graph), {}
    for name, node in graph.nodes.items():
        for port in node.ports:
            sources = spiking[graph.source(name, port)]
            if sources and isinstance(node, SYNAPSES):
                layers = senders(graph, activity, name, port, sources)
                if any(active is None for _, active, _ in layers):
                    return None
                found[name, port] = _events(graph, name, port, sources, layers, zeros, activity.pooled)
    return found


Sending = tuple[LayerActivity, LayerActivity | None, int]
"""Spikes of a layer, its active neurons, and the column of a node's input at which its first neuron is."""


def senders(graph: Graph, activity: Activity, name: str, port: str, sources: tuple[Sender, ...]) -> list[Sending]:
    if (name, port) in graph.feedback:
        if name not in activity.fed_back:
            raise DataError(
                f"node {name}: the record of activity has no spikes that are fed back into it by other nodes"
            )
        sending = [(activity.fed_back[name], 0)]
    else:
        known = activity.layers | activity.entered
        if missing := next((source for source, _ in sources if source not in known), None):
            raise DataError(f"node {name}: the record of activity has no spikes of {missing}; measure them with --data")
        sending = [(known[source], column) for source, column in sources]
    return [(layer, layer.active, column) for layer, column in sending]


def arriving_at_add(
    graph: Graph, activity: Activity, name: str, spiking: Mapping[str, tuple[Sender, ...]]
) -> dict[str, SynapseEvents]:
    """Spikes at the ports of an Add whose other port is graded; they cause adds and no synaptic operations."""
    arriving = {}
    for port in graph.nodes[name].ports:
        sources = spiking[graph.source(name, port)]
        if sources:
            layers = senders(graph, activity, name, port, sources)
            active = sum(active.spikes for _, active, _ in layers if active is not None)
            arriving[port] = SynapseEvents(sum(layer.spikes for layer, _, _ in layers), 0, active, 0)
    return arriving


def summing_pools(graph: Graph) -> frozenset[str]:
    """Pools of spikes whose sums somebody has to make: what reads them, through wiring, is neither a synapse, which
    their spikes reach one by one, nor another pool, or nothing reads them at all."""
    spiking, outputs = graph.spiking, set(graph.outputs.values())
    readers: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for name, sources in graph.inputs.items():
        for source in sources:
            readers[source].add(name)

    def read_by_synapses(pool: str) -> bool:
        todo, wiring = [pool], {pool}
        while todo:
            at = todo.pop()
            if at in outputs or not readers[at]:
                return False
            further = {reader for reader in readers[at] if isinstance(graph.nodes[reader], (Concat, Delay, Flatten))}
            if any(not isinstance(graph.nodes[reader], (*SYNAPSES, SumPool2d)) for reader in readers[at] - further):
                return False
            todo += further - wiring
            wiring |= further
        return True

    return frozenset(name for name in graph.of_type(SumPool2d) if name in spiking and not read_by_synapses(name))


def arriving_at_pool(
    graph: Graph, activity: Activity, name: str, spiking: Mapping[str, tuple[Sender, ...]]
) -> dict[str, SynapseEvents]:
    """Spikes at a pool, and as synaptic operations the windows that they are in."""
    sources, reach = spiking[graph.source(name, "x")], _windows_reached(graph, name)
    layers = senders(graph, activity, name, "x", sources)
    spikes, active = _by_name(sources, layers)
    counted: list[int] = []
    for each in (spikes, active):
        arrived = _arrived(graph, name, "x", each) if each else np.zeros(1)
        counted += [int(arrived.sum()), int((arrived * reach).sum())]
    return {"x": SynapseEvents(*counted)}


def _windows_reached(graph: Graph, name: str) -> np.ndarray:
    node = graph.nodes[name]
    assert isinstance(node, SumPool2d)
    _, height, width = own_axes(graph.shapes()[graph.source(name, "x")])
    return node.windows.reach((height, width))


def slots(graph: Graph, name: str, port: str, sources: tuple[Sender, ...]) -> int:
    """Spikes that arrive at a port in a step in which every neuron sends one: more than neurons where windows between
    overlap."""
    shapes = graph.shapes()
    ones = {source: np.ones(own_axes(shapes[source])) for source, _ in sources}
    return int(_behind(graph, graph.source(name, port), ones).sum())


def _events(
    graph: Graph,
    name: str,
    port: str,
    sources: tuple[Sender, ...],
    layers: list[Sending],
    zeros: Zeros,
    pooled: Mapping[str, np.ndarray] = NOTHING,
) -> SynapseEvents:
    """pooled: in place of the active neurons behind a pool, see Activity."""
    node, layer_names = graph.nodes[name], [source for source, _ in sources]
    if isinstance(node, Conv2d) or (isinstance(node, Linear) and _apart(graph, name, port, layer_names)):
        spikes, active = _by_name(sources, layers)
        counted = (
            *_through_windows(graph, name, port, spikes, zeros),
            *_through_windows(graph, name, port, active, zeros, pooled),
        )
        return SynapseEvents(*counted)
    assert isinstance(node, (Linear, Conv1d, MatMul))
    return SynapseEvents(*_sums(name, node, layers, zeros))


def _apart(graph: Graph, name: str, port: str, layers: list[str]) -> bool:
    """Whether neurons of a layer are not columns at a port: it has several axes; or windows lie between, and a spike is
    in several or in none."""
    if len(own_axes(graph.shapes()[graph.source(name, port)])) > 1:
        return True
    todo = [graph.source(name, port)]
    while todo:
        source = todo.pop()
        if source not in layers:
            if isinstance(graph.nodes[source], SumPool2d):
                return True
            todo += graph.inputs[source]
    return False


def _by_name(
    sources: tuple[Sender, ...], layers: list[Sending]
) -> tuple[dict[str, LayerActivity], dict[str, LayerActivity]]:
    """Spikes, and active neurons, by the layer that sends them."""
    named = [(source, *sent) for (source, _), sent in zip(sources, layers, strict=True)]
    spikes = {source: layer for source, layer, _, _ in named}
    return spikes, {source: active for source, _, active, _ in named if active is not None}


def _through_windows(
    graph: Graph,
    name: str,
    port: str,
    layers: dict[str, LayerActivity],
    zeros: Zeros,
    pooled: Mapping[str, np.ndarray] = NOTHING,
) -> tuple[int, int]:
    """Spikes, or active neurons, at a port and the synaptic operations that they cause, neuron by neuron."""
    if not layers:
        return 0, 0
    context, node = Context(np.ones(1, bool)), graph.nodes[name]
    assert isinstance(node, (Linear, Conv2d))
    arrived = _arrived(graph, name, port, layers, pooled).astype(np.float64)
    there = replace(node, weight=present_weights(node.weight, zeros).astype(np.float64), bias=None)
    return int(arrived.sum()), int(there.sums(context, arrived).sum())


def _arrived(
    graph: Graph,
    name: str,
    port: str,
    layers: dict[str, LayerActivity],
    pooled: Mapping[str, np.ndarray] = NOTHING,
) -> np.ndarray:
    """Spikes at each element of what a port reads."""
    shapes, found = graph.shapes(), dict(pooled)
    for source, layer in layers.items():
        if layer.per_neuron is None:
            raise DataError(f"node {name}: its kernel needs the spikes of each neuron; measure with --data")
        found[source] = layer.per_neuron.reshape(own_axes(shapes[source])).astype(np.int64)
    return _behind(graph, graph.source(name, port), found)


def _behind(graph: Graph, name: str, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a node hands on of the spikes that are known of nodes before it."""
    if name in known:
        return known[name]
    before = [_behind(graph, source, known) for source in graph.inputs[name]]
    if isinstance(graph.nodes[name], Delay):  # in the sum over a run
        return before[0]
    return graph.nodes[name].sent(Context(np.ones(1, bool)), *before)


def _sums(name: str, node: Linear | Conv1d | MatMul, layers: list[Sending], zeros: Zeros) -> tuple[int, int, int, int]:
    """The fields of SynapseEvents."""
    fan_out = _fan_out(name, node, zeros)
    active = [(each, column) for _, each, column in layers if each is not None]
    return (
        sum(layer.spikes for layer, _, _ in layers),
        sum(fan_out(layer, column) for layer, _, column in layers),
        sum(each.spikes for each, _ in active),
        sum(fan_out(each, column) for each, column in active),
    )


def _fan_out(name: str, node: Linear | Conv1d | MatMul, zeros: Zeros) -> Callable[[LayerActivity, int], int]:
    """(layer, column at which its neurons begin) -> synaptic operations that all its spikes cause at this port."""
    if isinstance(node, MatMul):
        return lambda layer, column: layer.spikes_times_tokens
    if isinstance(node, Conv1d):
        return lambda layer, column: len(node.weight) * _outputs_in_reach(name, node, layer)
    present = None if zeros == "kept" else present_weights(node.weight, zeros)
    if present is None or present.all():
        return lambda layer, column: layer.spikes * len(node.weight)
    weights = np.count_nonzero(present, axis=0)

    def skipping(layer: LayerActivity, column: int) -> int:
        if layer.per_neuron is None:
            raise DataError(
                f"node {name}: skipping its zero weights needs the spikes of each neuron; measure with --data"
            )
        return int(layer.per_neuron @ weights[column : column + layer.neurons])

    return skipping


def _outputs_in_reach(name: str, node: Conv1d, layer: LayerActivity) -> int:
    """Tokens whose output a spike changes, summed over spikes: its own, up to `after` before and `before` after it."""
    if not layer.spikes == sum(layer.by_position) == sum(layer.from_end):
        raise DataError(f"node {name} (Conv1d): the record of activity does not say which tokens sent the spikes")
    reached = ((layer.by_position, node.after), (layer.from_end, node.before))
    return layer.spikes + sum(
        spikes * min(distance, reach) for at, reach in reached for distance, spikes in enumerate(at)
    )
