"""Exact operation counts of every node of a layer graph, for the spiking network and for its dense twin.

The dense twin is the same graph with graded activations in place of spikes, run once. What the spikes did enters as
`Events`, which two sources give: `events_of_activity` (the torch student, fast) and `neurotool.energy.measure` (the
interpreter, or whatever else executes the graph and counts its events).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.operations import RULES, Operations, Setting
from neurotool.errors import DataError
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Graph,
    Input,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    Readout,
    Shape,
)
from neurotool.simulate import SynapseEvents

Events = Mapping[tuple[str, str], SynapseEvents]
"""(node, port that reads spikes) -> events and synaptic operations over all inputs, padding left out."""


@dataclass(frozen=True)
class Elements:
    """Values that arrived at a port over the run, by class: no spike, spike of a binary layer, of a ternary layer, or
    graded. Each source counts by itself where several layers spike into one port."""

    zero: int = 0
    binary: int = 0
    ternary: int = 0
    graded: int = 0

    @property
    def spikes(self) -> int:
        return self.binary + self.ternary

    @property
    def rate(self) -> float | None:
        """Spikes per element and step; None where nothing spikes."""
        slots = self.zero + self.spikes
        return self.spikes / slots if slots else None


@dataclass(frozen=True)
class NodeCount:
    """One node over all inputs. elements: at each port of a node that multiplies. weights, values: sizes of the
    memories behind it, in values."""

    name: str
    kind: str
    dense: Operations
    spiking: Operations
    elements: dict[str, Elements]
    weights: int
    values: int

    @property
    def synapses(self) -> int:
        """Multiply-accumulates of the dense twin's weights and products; those of norms are no synapses."""
        return self.dense.macs if self.elements else 0

    @property
    def spikes_per_synapse(self) -> float | None:
        """Synaptic operations per MAC of the dense twin; None where nothing spikes."""
        return self.spiking.accumulates / self.synapses if self.synapses and self.spiking.accumulates else None

    @property
    def spikes_in(self) -> int:
        return sum(elements.spikes for elements in self.elements.values())

    @property
    def rate(self) -> float | None:
        """Spikes per element and step at the ports that spike."""
        slots = sum(e.zero + e.spikes for e in self.elements.values())
        return self.spikes_in / slots if slots else None


@dataclass(frozen=True)
class Counts:
    """nodes: in emission order; uncounted: names of nodes that no rule covers."""

    graph: Graph
    activity: Activity
    nodes: tuple[NodeCount, ...]
    uncounted: tuple[str, ...]

    def total(self, dense: bool = False) -> Operations:
        return sum(((node.dense if dense else node.spiking) for node in self.nodes), Operations())

    @property
    def synapses(self) -> int:
        return sum(node.synapses for node in self.nodes)

    @property
    def spikes_per_synapse(self) -> float:
        """Synaptic operations per inference and MAC, over the whole network."""
        return self.total().accumulates / self.synapses if self.synapses else 0.0


def count(graph: Graph, activity: Activity, events: Events, skip_zero: bool = False) -> Counts:
    """Operations of `graph` under what `activity` (lengths, spikes sent) and `events` say it did.

    skip_zero: weights that are zero cost nothing; `events` must then come from `events_of_activity`.
    """
    shapes, spiking, varying = graph.shapes(), spiking_sources(graph), _varying(graph)
    passes = activity.steps // activity.time_steps if graph.schedule == "phased" else activity.steps
    nodes = []
    for name, node in graph.nodes.items():
        if type(node) not in RULES:
            continue
        ports = dict(zip(node.ports, graph.inputs[name], strict=True))
        there = {port: events[name, port] for port in ports if (name, port) in events}
        if isinstance(node, Add) and not spiking[name]:
            there = _added_spikes(graph, activity, name, spiking)
        pools = isinstance(node, (MeanPool, Readout))
        once = not varying[name] or pools
        steps = passes if varying[name] else 1
        if isinstance(node, Neuron) or any(spiking[source] for source in ports.values()):
            steps = activity.steps
        if pools:  # of the last pass, whatever the number of passes
            steps = min(steps, activity.time_steps) if graph.schedule == "concurrent" or spiking[ports["x"]] else 1
        source = graph.nodes.get(ports.get("x", ""))
        weighted = isinstance(node, MeanPool) and isinstance(source, Neuron) and graph.schedule == "concurrent"
        dense = Setting(activity, {port: shapes[s] for port, s in ports.items()}, shapes[name], skip_zero=skip_zero)
        setting = replace(
            dense,
            runs=1 if once else passes,
            steps=steps,
            events={port: synapse.events for port, synapse in there.items()},
            accumulates={port: synapse.synaptic_operations for port, synapse in there.items()},
            sent=activity.layers[name].spikes if isinstance(node, Neuron) else 0,
            leak=source.leak if weighted and isinstance(source, Neuron) else 1.0,
        )
        multiplies = isinstance(node, (Linear, Conv1d, MatMul, Readout))
        elements = {port: _elements(graph, name, port, setting, passes) for port in ports} if multiplies else {}
        rule = RULES[type(node)]
        costs = rule(node, dense), rule(node, setting)
        nodes.append(NodeCount(name, type(node).__name__, *costs, elements, *_memories(node, setting)))
    return Counts(graph, activity, tuple(nodes), tuple(n for n, node in graph.nodes.items() if type(node) not in RULES))


Sender = tuple[str, int]
"""A layer that spikes, and the column of a node's output at which its first neuron is."""


def spiking_sources(graph: Graph) -> dict[str, tuple[Sender, ...]]:
    """For every node the layers whose spikes it hands on: itself, several through an Add or a Concat, none where it is
    graded."""
    sources: dict[str, tuple[Sender, ...]] = {}
    shapes = graph.shapes()
    for name, node in graph.nodes.items():
        sources[name] = ()
        if isinstance(node, Neuron) or (isinstance(node, Input) and node.spiking):
            sources[name] = ((name, 0),)
        elif isinstance(node, (Add, Concat)) and all(sources[source] for source in graph.inputs[name]):
            start = 0
            for source in graph.inputs[name]:
                sources[name] += tuple((layer, start + column) for layer, column in sources[source])
                start += int(shapes[source][-1]) if isinstance(node, Concat) else 0
    return sources


def events_of_activity(graph: Graph, activity: Activity, skip_zero: bool = False) -> Events:
    """Events at every port that reads spikes. Raises DataError where the activity does not say enough."""
    spiking = spiking_sources(graph)
    events = {}
    for name, node in graph.nodes.items():
        for port in node.ports:
            sources = spiking[graph.source(name, port)]
            if not sources or not isinstance(node, (Linear, Conv1d, MatMul)):
                continue
            layers = _senders(graph, activity, name, port, sources)
            operations = [_accumulates(name, node, layer, column, skip_zero) for layer, column in layers]
            events[name, port] = SynapseEvents(sum(layer.spikes for layer, _ in layers), sum(operations))
    return events


def _senders(
    graph: Graph, activity: Activity, name: str, port: str, sources: tuple[Sender, ...]
) -> list[tuple[LayerActivity, int]]:
    if (name, port) in graph.feedback:
        return [(activity.fed_back[name], 0)]
    return [(activity.layers[source], column) for source, column in sources]


def _added_spikes(
    graph: Graph, activity: Activity, name: str, spiking: Mapping[str, tuple[Sender, ...]]
) -> dict[str, SynapseEvents]:
    """Spikes at the ports of an Add whose other port is graded; they cause adds and no synaptic operations."""
    arriving = {}
    for port in graph.nodes[name].ports:
        sources = spiking[graph.source(name, port)]
        if sources and all(source in activity.layers for source, _ in sources):
            layers = _senders(graph, activity, name, port, sources)
            arriving[port] = SynapseEvents(sum(layer.spikes for layer, _ in layers), 0)
    return arriving


def _accumulates(name: str, node: Linear | Conv1d | MatMul, layer: LayerActivity, column: int, skip_zero: bool) -> int:
    """Synaptic operations that the spikes of `layer`, whose neurons begin at `column`, cause at one port."""
    if isinstance(node, MatMul):
        return layer.spikes_times_tokens
    if isinstance(node, Conv1d):
        return len(node.weight) * _outputs_in_reach(name, node, layer)
    if not skip_zero or np.all(node.weight):
        return layer.spikes * len(node.weight)
    if layer.per_neuron is None:
        raise DataError(f"node {name}: skipping its zero weights needs the spikes of each neuron; measure with --data")
    return int(layer.per_neuron @ np.count_nonzero(node.weight[:, column : column + layer.neurons], axis=0))


def _outputs_in_reach(name: str, node: Conv1d, layer: LayerActivity) -> int:
    """Tokens whose output a spike changes, summed over spikes: its own, up to `after` before and `before` after it."""
    if not layer.spikes == sum(layer.by_position) == sum(layer.from_end):
        raise DataError(f"node {name} (Conv1d): the record of activity does not say which tokens sent the spikes")
    reached = ((layer.by_position, node.after), (layer.from_end, node.before))
    return layer.spikes + sum(
        spikes * min(distance, reach) for at, reach in reached for distance, spikes in enumerate(at)
    )


def _varying(graph: Graph) -> dict[str, bool]:
    """Whether a node's value changes during the run: what only constants reach is computed once."""
    varying: dict[str, bool] = {}
    for name, node in graph.nodes.items():
        fed_back = any((name, port) in graph.feedback for port in node.ports)
        starts = isinstance(node, (Neuron, Input))
        varying[name] = starts or fed_back or any(varying[source] for source in graph.inputs[name])
    return varying


def _elements(graph: Graph, name: str, port: str, setting: Setting, passes: int) -> Elements:
    size = setting.size(setting.at_ports[port])
    if port not in setting.events:
        return Elements(graded=size * setting.runs)
    sources = [source for source, _ in spiking_sources(graph)[graph.source(name, port)]]
    steps = setting.steps
    if (name, port) in graph.feedback:
        steps -= steps // passes  # it reads the pass before
    spikes = setting.events[port]
    ternary = any(not isinstance(node := graph.nodes[s], Neuron) or node.spikes == "ternary" for s in sources)
    shapes = graph.shapes()
    zero = steps * sum(setting.size(shapes[source]) for source in sources) - spikes
    return Elements(zero, ternary=spikes) if ternary else Elements(zero, binary=spikes)


def _memories(node: Node, setting: Setting) -> tuple[int, int]:
    """Sizes, in values, of a node's weight memory and of its activations or potentials, for the longest input.

    In a product of activations the second operand stands in for the weights.
    """
    longest = max(setting.activity.lengths)

    def size(shape: Shape) -> int:
        return math.prod(axis if isinstance(axis, int) else longest for axis in shape)

    if isinstance(node, MatMul):
        return size(setting.at_ports["b"]), size(setting.shape)
    weight: np.ndarray | None = getattr(node, "weight", None)
    return 0 if weight is None else weight.size, size(setting.shape)
