"""Exact operation counts of every node of a layer graph, in the spiking network and in the networks it is held against.

The dense twin is the same graph with graded activations in place of spikes, run once. What the spikes did enters as
`Events`, which two sources give: `events_of_activity` (the torch student, fast) and `neurotool.energy.measure` (the
interpreter, or whatever else executes the graph and counts its events).
"""

import math
from dataclasses import dataclass, field, replace

import numpy as np

from neurotool.activity import Activity
from neurotool.energy.dataflow import LEMAIRE, Dataflow
from neurotool.energy.events import (
    Events,
    Zeros,
    active_of_activity,
    arriving_at_add,
    arriving_at_pool,
    events_of_activity,
    present_weights,
    slots,
    spiking_sources,
    summing_pools,
)
from neurotool.energy.node_count import Elements, NodeCount, Sizes
from neurotool.energy.operations import Operations
from neurotool.energy.rules import RULES, Network, Setting, payload_bits
from neurotool.graph import (
    Add,
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
    Stateful,
    Synapse,
)
from neurotool.graph.graded import levels
from neurotool.simulate import SynapseEvents
from neurotool.streams import STEPS_PER_TOKEN

__all__ = ["Counts", "Elements", "Events", "NodeCount", "Sizes", "count", "events_of_activity"]


@dataclass(frozen=True)
class Counts:
    """nodes: in emission order. made: what `under` counted before."""

    graph: Graph
    activity: Activity
    nodes: tuple[NodeCount, ...]
    events: Events
    dataflow: Dataflow = LEMAIRE
    zeros: Zeros = "kept"
    made: dict[tuple[Dataflow, Zeros], "Counts"] = field(default_factory=dict, compare=False, repr=False)

    def under(self, dataflow: Dataflow, int8: bool = False) -> "Counts":
        """The same activity in another dataflow; int8: where zero weights are skipped, those that 8 bits round to 0."""
        zeros: Zeros = "kept" if self.zeros == "kept" else "int8" if int8 else "float"
        if (dataflow, zeros) == (self.dataflow, self.zeros):
            return self
        if (dataflow, zeros) not in self.made:
            events = self.events
            if zeros != self.zeros:
                events = events_of_activity(self.graph, self.activity, True, int8=int8)
            self.made[dataflow, zeros] = _count(self.graph, self.activity, events, dataflow, zeros)
        return self.made[dataflow, zeros]

    def total(self, network: Network = "spiking") -> Operations:
        return sum((node.work[network].total for node in self.nodes), Operations())

    @property
    def time_steps(self) -> int:
        """T: steps of a window, or the levels of a graded message."""
        return levels(self.graph) or self.activity.time_steps

    @property
    def knows_active(self) -> bool:
        """Whether the record says how many neurons were active, which all but the spike dataflow needs."""
        return all(layer.active is not None for layer in self.activity.layers.values())

    @property
    def synapses(self) -> int:
        return sum(node.synapses for node in self.nodes)

    @property
    def synaptic_operations(self) -> int:
        return sum(node.synaptic_operations for node in self.nodes)

    @property
    def spikes_per_synapse(self) -> float:
        """Synaptic operations per inference and MAC, over the whole network."""
        return self.synaptic_operations / self.synapses if self.synapses else 0.0

    @property
    def density(self) -> float | None:
        """Share of all MACs of the dense twin at which an activation is not 0, those that read no spikes included."""
        if not self.knows_active or not self.synapses:
            return None
        return sum(n.work["zero-skipping"].total.macs for n in self.nodes if n.elements) / self.synapses


def count(
    graph: Graph, activity: Activity, events: Events, skip_zero: bool = False, dataflow: Dataflow = LEMAIRE
) -> Counts:
    """Operations of `graph` under what `activity` (lengths, spikes sent) and `events` say it did.

    skip_zero: weights that are zero cost nothing; `events` must then come from `events_of_activity`.
    Raises GraphError for a node that no rule covers.
    """
    return _count(graph, activity, events, dataflow, "float" if skip_zero else "kept")


def _count(graph: Graph, activity: Activity, events: Events, dataflow: Dataflow, zeros: Zeros) -> Counts:
    there = _Counting(graph, activity, events, dataflow, zeros)
    return Counts(graph, activity, tuple(map(there.node, graph.nodes)), events, dataflow, zeros)


class _Counting:
    """The settings of all nodes."""

    def __init__(self, graph: Graph, activity: Activity, events: Events, dataflow: Dataflow, zeros: Zeros) -> None:
        self.graph, self.activity, self.events, self.dataflow, self.zeros = graph, activity, events, dataflow, zeros
        self.shapes, self.spiking, self.varying = graph.shapes(), spiking_sources(graph), _varying(graph)
        self.phased = graph.schedule == "phased"
        self.passes = activity.steps // activity.time_steps if self.phased else activity.steps
        self.active = active_of_activity(graph, activity, zeros)
        self.summing = summing_pools(graph)

    def node(self, name: str) -> NodeCount:
        node = self.graph.nodes[name]
        ports = dict(zip(node.ports, self.graph.inputs[name], strict=True))
        setting = self._spiking(name, node, ports)
        multiplies = isinstance(node, (Synapse, Readout))
        elements = {port: self._elements(name, port, setting) for port in ports} if multiplies else {}
        driver = setting.arriving[setting.driver] if multiplies and setting.arriving else SynapseEvents(0, 0)
        rule = RULES.of(name, node)
        work = {network: rule(node, one) for network, one in self._networks(name, node, setting).items()}
        bits = 0
        if setting.arriving and self.dataflow.order == "graded":
            bits = self._count_bits(name, setting)
        bits = max(bits, *(self._payload_bits(ports[port]) for port in setting.payload), 0)
        return NodeCount(name, type(node).__name__, work, elements, self._sizes(node, setting), driver, bits)

    def _spiking(self, name: str, node: Node, ports: dict[str, str]) -> Setting:
        """Of the spiking network."""
        passes, steps = self.passes, self.activity.steps
        there = {port: self.events[name, port] for port in ports if (name, port) in self.events}
        if isinstance(node, Add) and not self.spiking[name]:
            there = arriving_at_add(self.graph, self.activity, name, self.spiking)
        elif name in self.summing:
            there = arriving_at_pool(self.graph, self.activity, name, self.spiking)
        pools, reads_spikes = isinstance(node, (MeanPool, Readout)), any(self.spiking[s] for s in ports.values())
        runs = 1 if not self.varying[name] or pools else passes
        if not isinstance(node, Neuron) and not reads_spikes:
            steps = passes if self.varying[name] else 1
        if pools:  # of the last pass, whatever the number of passes
            steps = min(steps, self.activity.time_steps) if reads_spikes or not self.phased else 1
        source = self.graph.nodes[ports["x"]] if isinstance(node, MeanPool) else None
        layer = self.activity.layers[name] if isinstance(node, Neuron) else None
        return Setting(
            self.activity,
            {port: self.shapes[s] for port, s in ports.items()},
            self.shapes[name],
            network="spiking",
            dataflow=self.dataflow,
            runs=runs,
            steps=steps,
            windows=passes if self.phased else 0,
            arriving=there,
            payload=frozenset(port for port in there if self.phased and self._payload_bits(ports[port])),
            sent=(layer.spikes, layer.active.spikes if layer.active else 0) if layer else (0, 0),
            weights=self._weights(node),
            spikes=bool(ports) and all(self.spiking[s] for s in ports.values()),
            leak=source.leak if isinstance(source, Neuron) and not self.phased else 1.0,
        )

    def _networks(self, name: str, node: Node, spiking: Setting) -> dict[Network, Setting]:
        """The same node in every network."""
        dense = replace(spiking, network="dense", runs=1, steps=0, windows=0, arriving={}, payload=frozenset())
        runs = spiking.runs if self.phased else 1
        settings: dict[Network, Setting] = {"spiking": spiking, "dense": dense}
        settings["dense mode"] = replace(dense, network="dense mode", runs=spiking.runs)
        if self.active is not None:
            there = {port: self.active[name, port] for port in spiking.at_ports if (name, port) in self.active}
            settings["zero-skipping"] = replace(dense, network="zero-skipping", runs=runs, arriving=there)
            settings["quantising"] = replace(settings["zero-skipping"], network="quantising")
        return settings

    def _payload_bits(self, source: str) -> int:
        return max(payload_bits(self.graph.nodes[layer]) for layer, _ in self.spiking[source])

    def _count_bits(self, name: str, setting: Setting) -> int:
        """Of the largest count of a window that arrives."""
        sources = [
            self.graph.nodes[layer]
            for port in setting.arriving
            for layer, _ in self.spiking[self.graph.source(name, port)]
        ]
        if any(isinstance(node, Neuron) and node.spikes == "several" for node in sources):
            return VALUE_BITS
        return max(rate_bits(node, self.activity.time_steps if self.phased else 1) for node in sources)

    def _weights(self, node: Node) -> int:
        if isinstance(node, Linear) and self.zeros != "kept":
            return int(np.count_nonzero(present_weights(node.weight, self.zeros)))
        weight: np.ndarray | None = getattr(node, "weight", None)
        return 0 if weight is None else weight.size

    def _elements(self, name: str, port: str, setting: Setting) -> Elements:
        graph, size = self.graph, setting.size(setting.at_ports[port])
        if port not in setting.arriving:
            return Elements(graded=size * setting.runs)
        sources = [source for source, _ in self.spiking[graph.source(name, port)]]
        steps = setting.steps
        if (name, port) in graph.feedback:
            steps -= steps // self.passes  # it reads the pass before
        spikes = setting.arriving[port].events
        ternary = any(not isinstance(node := graph.nodes[s], Neuron) or node.spikes == "ternary" for s in sources)
        if graph.has_tokens:
            places = sum(setting.size(self.shapes[source]) for source in sources)
        else:
            places = self.activity.inputs * slots(graph, name, port, self.spiking[graph.source(name, port)])
        zero = max(steps * places - spikes, 0)
        return Elements(zero, ternary=spikes) if ternary else Elements(zero, binary=spikes)

    def _sizes(self, node: Node, setting: Setting) -> Sizes:
        longest = 1 if STEPS_PER_TOKEN in self.graph.metadata else max(self.activity.lengths)  # in time, one is there

        def size(shape: Shape, tokens: int = longest) -> int:
            return math.prod(axis if isinstance(axis, int) else tokens for axis in shape)

        values, alive = size(setting.shape), longest
        if self.phased and isinstance(node, (Linear, Neuron, Add)):
            alive = 1
        elif self.phased and isinstance(node, Conv1d):
            alive = min(longest, node.weight.shape[2])
        states = size(setting.shape, alive)
        if isinstance(node, MatMul):
            other = "a" if setting.arriving and setting.driver == "b" else "b"
            return Sizes(size(setting.at_ports["b"]), size(setting.at_ports[other]), values, states, values)
        return Sizes(setting.weights, setting.weights, values, states, values)


VALUE_BITS = 8
"""Of a payload whose largest count is not known, where a neuron may send several spikes in a step."""


def rate_bits(node: Node, time_steps: int) -> int:
    """`count_bits` of a layer that spikes."""
    if not isinstance(node, Neuron):  # an Input, whose spikes have a sign
        return count_bits(time_steps, ternary=True)
    return count_bits(node.counts_to(time_steps), node.signed)


def count_bits(time_steps: int, ternary: bool) -> int:
    """Bits of a value that says as much as a neuron's spikes in a window: ceil(log2(T + 1)), Yan et al. (arXiv
    2409.08290); a ternary neuron has 2 T + 1 counts."""
    return math.ceil(math.log2((2 if ternary else 1) * time_steps + 1))


def _varying(graph: Graph) -> dict[str, bool]:
    """Whether a node's value changes during the run: what only constants reach is computed once."""
    varying: dict[str, bool] = {}
    for name, node in graph.nodes.items():
        fed_back = any((name, port) in graph.feedback for port in node.ports)
        starts = isinstance(node, (Stateful, Input))
        varying[name] = starts or fed_back or any(varying[source] for source in graph.inputs[name])
    return varying
