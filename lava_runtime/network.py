"""How a layer graph is spread over few wide processes, and when each of its nodes acts.

Phased: the spikes of Input nodes arrive in the first window of T steps; then each neuron layer has its own window, in
emission order. All that reads spikes adds up what arrives. A node that is no synapse acts once, in the first step in
which all it reads is complete, and sends its output in that step; synapses, and attention products whose other operand
is complete, pass on what each step's spikes make of them. Concurrent: every node acts in every step.

A message arrives in the step in which it is sent. On a chip each hop takes a step more, which sums do not mind. Lava's
own Dense, too, hands on one step later: what reads from behind it runs that much later.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from neurotool.graph import (
    Add,
    AvgPool2d,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Embedding,
    Flatten,
    Gelu,
    GradedNeuron,
    Graph,
    Input,
    Integrator,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    NodeTable,
    Readout,
    Scale,
    Softmax,
    SumPool2d,
    Synapse,
)
from neurotool.lava_runtime.stock import StockParameters, stock_parameters


@dataclass(frozen=True)
class PartKind:
    """kind: of the process that runs a node (see Part). joins: the kind of process that it is part of where it can be:
    that of its only reader, or that of all it reads."""

    kind: str
    joins: str = ""


PART_KINDS: NodeTable[PartKind] = NodeTable(
    "kind of Lava process",
    {
        Input: PartKind("source"),
        Embedding: PartKind("source"),
        Linear: PartKind("synapse"),
        Conv1d: PartKind("synapse"),
        Conv2d: PartKind("synapse"),
        SumPool2d: PartKind("operation"),
        AvgPool2d: PartKind("operation"),
        Flatten: PartKind("operation"),
        Neuron: PartKind("neurons"),
        CubaLIF: PartKind("neurons"),
        Integrator: PartKind("neurons"),
        Delay: PartKind("operation"),
        GradedNeuron: PartKind("neurons"),
        MatMul: PartKind("attention"),
        Softmax: PartKind("operation"),
        LayerNorm: PartKind("operation"),
        Gelu: PartKind("operation", joins="neurons"),
        Add: PartKind("operation", joins="source"),
        Concat: PartKind("operation"),
        Scale: PartKind("operation"),
        MeanPool: PartKind("readout"),
        Readout: PartKind("readout"),
    },
)


@dataclass(frozen=True)
class Part:
    """The nodes of one process.

    kind: "source" (what the host sends), "synapse" (all that reads the same spikes), "neurons" (or another layer with
      a state), "attention", "operation" or "readout".
    nodes: in emission order. reads: nodes of other parts; sends: its own nodes that other parts read.
    reads_back: nodes of other parts whose messages of the step or sweep before it reads: it sends first and receives
      these then.
    """

    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()
    reads_back: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.nodes[-1]


@dataclass(frozen=True)
class TimeLine:
    """Steps of one input: `sweeps` times `sweep_steps`. All steps are counted from 0, within a sweep.

    acts: the step in which a node acts: once, or, for an Input or a neuron layer, the first step of its window.
    window: steps of a window.
    passing: synapses and products that act in every step, on what arrives in it.
    """

    sweeps: int
    sweep_steps: int
    window: int
    acts: dict[str, int]
    passing: frozenset[str]

    @property
    def steps(self) -> int:
        return self.sweeps * self.sweep_steps


@dataclass(frozen=True)
class Network:
    """A graph with its parts and their time line. record: nodes whose messages have to be seen."""

    graph: Graph
    record: tuple[str, ...] = ()

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        return tuple(_parts(self.graph))

    @cached_property
    def time_line(self) -> TimeLine:
        return _phased(self.graph) if self.graph.schedule == "phased" else _concurrent(self.graph)

    @cached_property
    def stock(self) -> dict[str, StockParameters]:
        """Neuron layers that, each with the Linear before it, are a stock Dense and LIF.

        None where paths with different delays would meet.
        """
        graph = self.graph
        alone = {part.nodes[0] for part in self.parts if len(part.nodes) == 1}
        found = {
            name: parameters
            for name in graph.of_type(Neuron)
            if {name, graph.source(name, "x")} <= alone - (set(self.record) - {name})
            and (parameters := stock_parameters(graph, name)) is not None
        }
        if not found or graph.feedback:
            return {}
        delays = _delays(graph, found)
        ours = (part for part in self.parts if part.name not in found)
        meeting = any(len({delays[name] for name in (*part.nodes, *part.reads)}) > 1 for part in ours)
        return {} if meeting else found

    @cached_property
    def delays(self) -> dict[str, int]:
        """Steps by which each node runs later than the source."""
        return _delays(self.graph, self.stock) if self.stock else dict.fromkeys(self.graph.nodes, 0)


def _delays(graph: Graph, stock: dict[str, StockParameters]) -> dict[str, int]:
    delays: dict[str, int] = {}
    for name, sources in graph.inputs.items():
        delays[name] = (name in stock) + max((delays[source] for source in sources), default=0)
    return delays


def _concurrent(graph: Graph) -> TimeLine:
    return TimeLine(graph.time_steps, 1, 1, dict.fromkeys(graph.nodes, 0), frozenset())


def _phased(graph: Graph) -> TimeLine:
    window = graph.time_steps
    acts: dict[str, int] = {}
    complete: dict[str, int] = {}
    next_window = window if graph.of_type(Input) else 0
    for name, node in graph.nodes.items():
        sources = [complete[source] for port, source in _forward(graph, name)]
        acts[name] = complete[name] = max(sources, default=0)
        if isinstance(node, Neuron):
            acts[name], next_window = next_window, next_window + window
            complete[name] = next_window
        elif isinstance(node, Input):
            complete[name] = window
    passing = frozenset(name for name in graph.nodes if _passes(graph, name, acts, complete))
    once = [name for name, node in graph.nodes.items() if name not in passing and not node.at_end]
    return TimeLine(graph.feedback_sweeps, max(acts[name] for name in once) + window, window, acts, passing)


def _passes(graph: Graph, name: str, acts: dict[str, int], complete: dict[str, int]) -> bool:
    """Whether a node may act on each step's spikes, so that the sum of its outputs is its output for the sum."""
    node, last = graph.nodes[name], len(graph.inputs[name]) - 1
    fed_back = any((name, port) in graph.feedback for port in node.ports)
    if not isinstance(node, Synapse) or node.at_end or fed_back:
        return False
    spikes = graph.inputs[name][last]
    if not isinstance(graph.nodes[spikes], (Neuron, Input)):
        return False
    # Shifts to the right round: only complete sums may be shifted.
    whole = not graph.fixed_point or graph.fixed_point[name].rescale[last] == (1, 0)
    return whole and all(complete[source] <= acts[spikes] for source in graph.inputs[name][:last])


def _parts(graph: Graph) -> Iterator[Part]:
    groups = _groups(graph)
    part_of = {name: key for key, (_, nodes) in groups.items() for name in nodes}
    for key, (kind, nodes) in groups.items():
        outside: dict[bool, dict[str, None]] = {False: {}, True: {}}
        for name in nodes:
            for port, source in zip(graph.nodes[name].ports, graph.inputs[name], strict=True):
                if part_of[source] != key:
                    outside[(name, port) in graph.feedback][source] = None
        read_outside = {source for name, at in part_of.items() if at != key for source in graph.inputs[name]}
        part = Part(kind, tuple(nodes), reads=tuple(outside[False]), reads_back=tuple(outside[True]))
        yield replace(part, sends=tuple(name for name in nodes if name in read_outside))


def _groups(graph: Graph) -> dict[str, tuple[str, list[str]]]:
    """Kind and nodes of each part, by a key."""
    groups: dict[str, tuple[str, list[str]]] = {}
    key_of: dict[str, str] = {}
    readers = {name: [n for n in graph.nodes if name in graph.inputs[n]] for name in graph.nodes}

    def put(name: str, key: str, kind: str) -> None:
        key_of[name] = key
        groups.setdefault(key, (kind, []))[1].append(name)

    for name, node in graph.nodes.items():
        sources, how = graph.inputs[name], PART_KINDS.of(name, node)
        reader = readers[name][0] if len(readers[name]) == 1 else ""
        at_source = {key_of.get(source) for source in sources} == {"source"}  # of feedback there is no key yet
        if how.kind == "source" or (how.joins == "source" and at_source):
            put(name, "source", "source")
        elif how.kind == "synapse":
            fed_back = (name, node.ports[0]) in graph.feedback
            put(name, f"{'feedback' if fed_back else 'synapses'} of {sources[0]}", "synapse")
        elif how.kind == "neurons":
            put(name, f"neurons {name}", "neurons")
        elif how.joins == "neurons" and reader and isinstance(graph.nodes[reader], Neuron):
            put(name, f"neurons {reader}", "neurons")
        elif how.kind == "readout":
            put(name, "readout", "readout")
        else:
            # Joining what nobody else reads cannot close a circle of parts that wait for each other.
            chain = [s for s in sources if readers[s] == [name] and groups[key_of[s]][0] in ("operation", "attention")]
            put(name, key_of[chain[0]] if chain else f"operation {name}", "operation")
            if how.kind == "attention":
                groups[key_of[name]] = ("attention", groups[key_of[name]][1])
    return groups


def _forward(graph: Graph, name: str) -> Iterator[tuple[str, str]]:
    """(port, source) of all ports but those of feedback."""
    for port, source in zip(graph.nodes[name].ports, graph.inputs[name], strict=True):
        if (name, port) not in graph.feedback:
            yield port, source
