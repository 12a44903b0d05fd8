"""Which parts of a fixed-point graph share neurons, and how many cores of a chip they take.

A population is a layer of neurons on the chip with all that runs in them: the sums they receive, and the nodes that
act on these in place. Populations do not share cores, and each is split evenly in the order of its elements; so the
numbers are upper bounds of what a better placement needs.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from neurotool.export.chip import Chip
from neurotool.graph import (
    TOKENS,
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
    Node,
    NodeTable,
    Readout,
    Scale,
    Softmax,
    SumPool2d,
    Weighted,
)
from neurotool.graph.fixed_point import LIMIT, STATE_BITS, emission_weights

RELAY_BITS = 1
"""Of a synapse that only hands a message on."""


@dataclass(frozen=True)
class Connection:
    """Synapses of one port. Blocks of `reach` neighbouring elements read the same `senders` axons each.

    Dense: reach is the whole population; one to one: 1 sender and reach 1.
    operand_bits: what an element keeps of an operand of a product, for all tokens; 0 where the port is summed up.
    tokens: into a convolution, the tokens whose copies of the population, or the places of an image whose blocks, each
      sender reaches.
    kept: (elements, senders), which weights of a dense connection are not 0; None: they all take memory.
    """

    source: str
    senders: int
    reach: int
    weight_bits: int
    operand_bits: int = 0
    tokens: int = 1
    kept: np.ndarray | None = field(default=None, compare=False, repr=False)

    def axons(self, elements: int) -> int:
        """Input axons of a core with so many elements."""
        return -(-elements // self.reach) * self.senders

    def bits(self, elements: int, chip: Chip) -> int:
        """Synapse memory of the fullest core, in the shorter of the two formats."""
        dense = self.dense_bits(elements, chip)
        return min(dense, max(self.sparse_bits(elements, chip), default=dense))

    def dense_bits(self, elements: int, chip: Chip) -> int:
        """Synapse memory of a core that keeps every weight."""
        return self.axons(elements) * chunk_bits(min(elements, self.reach), self.weight_bits, chip)

    def sparse_bits(self, elements: int, chip: Chip) -> list[int]:
        """Synapse memory of each core that holds so many elements, as lists of the weights that are not 0, each with
        the index of its element; empty where there is no such format, or no zero."""
        if self.kept is None or (most := chip.get("sparse_index_bits")) is None:
            return []
        bits = self.weight_bits + index_bits(elements, most)
        weights = np.add.reduceat(self.kept, np.arange(0, len(self.kept), elements), axis=0, dtype=np.int64)
        lists = (np.unique(core, return_counts=True) for core in weights)  # how many axons have so many
        return [sum(int(n) * chunk_bits(int(k), bits, chip) for k, n in zip(*core, strict=True)) for core in lists]

    def is_sparse(self, elements: int, chip: Chip) -> bool:
        """Whether lists with indices are the shorter format."""
        dense = self.dense_bits(elements, chip)
        return max(self.sparse_bits(elements, chip), default=dense) < dense

    def all_bits(self, elements: int, of: int, chip: Chip) -> int:
        """Of all cores of a population of `of` elements."""
        if self.is_sparse(elements, chip):
            return sum(self.sparse_bits(elements, chip))
        cores = -(-of // elements)
        last = of - (cores - 1) * elements
        return (cores - 1) * self.dense_bits(elements, chip) + self.dense_bits(last, chip)


@dataclass(frozen=True)
class Convolution(Connection):
    """All blocks have the same weights, which a core keeps once where the chip can share them."""

    def dense_bits(self, elements: int, chip: Chip) -> int:
        if not chip.get("convolutions_share_weights"):
            return super().dense_bits(elements, chip)
        return self.senders * chunk_bits(min(elements, self.reach), self.weight_bits, chip)


@dataclass(frozen=True)
class Population:
    """name: of the last node. elements: for one token. message_bits: of what it sends, sign included.

    words: of state in an element, for each sum, potential and result that it keeps.
    """

    name: str
    nodes: tuple[str, ...]
    elements: int
    connections: tuple[Connection, ...]
    message_bits: int
    words: int
    compartments: int

    def state_bits(self, copies: int = 1) -> int:
        """Of an element that keeps the state of `copies` tokens."""
        return self.words * STATE_BITS * copies + sum(connection.operand_bits for connection in self.connections)

    def synapse_bits(self, elements: int, chip: Chip) -> int:
        return sum(connection.bits(elements, chip) for connection in self.connections)

    def axons(self, elements: int) -> int:
        return sum(connection.axons(elements) for connection in self.connections)


@dataclass(frozen=True)
class Placed:
    """elements: on each core but the last, which may have fewer. used: of each limit of the chip, on such a core."""

    population: Population
    elements: int
    cores: int
    used: dict[str, int]


def index_bits(elements: int, most: int) -> int:
    """Of the index of one of so many elements."""
    return min(max((elements - 1).bit_length(), 1), most)


def pays_from(weight_bits: int, index: int) -> float:
    """Share of zeros above which weights with an index each take less memory than all weights, but for headers."""
    return index / (weight_bits + index)


def chunk_bits(weights: int, weight_bits: int, chip: Chip) -> int:
    """Synapse memory of one input axon: chunks with a header, each in whole words."""
    per_chunk, header, word = (chip[name] for name in ("weights_per_chunk", "chunk_header_bits", "synapse_word_bits"))

    def chunk(count: int) -> int:
        return -(-(count * weight_bits + header) // word) * word if count else 0

    return weights // per_chunk * chunk(per_chunk) + chunk(weights % per_chunk)


def populations(graph: Graph, chip: Chip, tokens: int) -> list[Population]:
    """In emission order. What stays on the host has none, and neither has wiring. Raises GraphError."""
    where = {name: PLACES.of(name, node).where for name, node in graph.nodes.items()}
    readers: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for name, sources in graph.inputs.items():
        for source in sources if where[name] != "wiring" else ():
            for part in _wired(graph, source):
                readers[part].append(name)
    owner: dict[str, str] = {}
    for name, node in reversed(graph.nodes.items()):
        only = readers[name][0] if len(readers[name]) == 1 else ""
        joins = only and where[only] == "in place" and where[name] != "host" and not isinstance(node, Neuron)
        owner[name] = owner[only] if joins else name
    members: dict[str, list[str]] = {}
    for name in graph.nodes:
        if where[name] not in ("host", "wiring"):
            members.setdefault(owner[name], []).append(name)
    last_first = {name: members[name] for name in graph.nodes if name in members}
    return [_population(graph, chip, tokens, name, inside, owner) for name, inside in last_first.items()]


def place(parts: list[Population], chip: Chip, state_copies: int = 1) -> dict[str, Placed]:
    """Cores for one copy of each population. state_copies: tokens whose state a neuron keeps."""
    placed: dict[str, Placed] = {}
    for part in reversed(parts):  # what it sends to is placed before it, but for feedback
        targets = sum(
            math.ceil(target.cores * min(1, connection.reach / target.population.elements)) * connection.tokens
            for target in placed.values()
            for connection in target.population.connections
            if connection.source == part.name
        )
        low, high = 1, part.elements
        while low < high:  # the most elements that fit; use grows with them
            middle = (low + high + 1) // 2
            fits = not exceeded(_used(part, middle, targets, state_copies, chip), chip)
            low, high = (middle, high) if fits else (low, middle - 1)
        cores = -(-part.elements // low)
        elements = -(-part.elements // cores)
        while elements > 1 and exceeded(_used(part, elements, targets, state_copies, chip), chip):  # zeros lie unevenly
            cores += 1
            elements = -(-part.elements // cores)
        placed[part.name] = Placed(part, elements, cores, _used(part, elements, targets, state_copies, chip))
    return {part.name: placed[part.name] for part in parts}


def exceeded(used: dict[str, int], chip: Chip) -> list[str]:
    """Names of the chip's limits that are broken."""
    return [name for name, value in used.items() if value > (chip.get(name) or math.inf)]


def _used(part: Population, elements: int, targets: int, state_copies: int, chip: Chip) -> dict[str, int]:
    synapses = part.synapse_bits(elements, chip)
    return {
        "neurons_per_core": elements * part.compartments,
        "synapse_bits_per_core": synapses,
        "memory_bits_per_core": synapses + elements * part.state_bits(state_copies),
        "input_axons_per_core": part.axons(elements),
        "output_axons_per_core": elements * targets,
    }


def _population(
    graph: Graph, chip: Chip, tokens: int, name: str, inside: list[str], owner: dict[str, str]
) -> Population:
    elements = _elements(graph, name, tokens)
    connections = [
        _connection(graph, node, port, tokens, part, owner[part])
        for node in inside
        for port, source in enumerate(graph.inputs[node])
        for part in _wired(graph, source)
        if owner[part] != name or (node, graph.nodes[node].ports[port]) in graph.feedback
    ]
    nodes = {node: graph.nodes[node] for node in inside}
    soft = any(isinstance(node, Neuron) and node.reset == "soft" for node in nodes.values())
    results = sum(PLACES.of(name, node).words(node) for name, node in nodes.items())
    return Population(
        name,
        tuple(inside),
        elements,
        tuple(connections),
        message_bits(graph, name),
        results + sum(not connection.operand_bits for connection in connections),
        (chip.get("compartments_for_soft_reset") or 1) if soft else 1,
    )


def _elements(graph: Graph, name: str, tokens: int) -> int:
    """Of one token: of an attention matrix the rows of one token. All, where there are no tokens."""
    shape = graph.shapes()[name]
    sizes = [tokens if size == TOKENS else int(size) for size in shape]
    return math.prod(sizes) // (tokens if TOKENS in shape else 1)


def _wired(graph: Graph, source: str) -> list[str]:
    """The nodes whose outputs `source` hands on: itself, or what a Concat or Flatten reads."""
    if PLACES.of(source, graph.nodes[source]).where != "wiring":
        return [source]
    return [part for joined in graph.inputs[source] for part in _wired(graph, joined)]


def _connection(graph: Graph, name: str, port: int, tokens: int, part: str, source: str) -> Connection:
    """Of what `part`, which lies in the population `source`, sends to a port."""
    connect = PLACES.of(name, graph.nodes[name]).connect
    return connect(graph, name, port, tokens, part, source) if connect else Connection(source, 1, 1, RELAY_BITS)


def _weighted(graph: Graph, name: str, port: int, tokens: int, part: str, source: str) -> Connection:
    node = graph.nodes[name]
    assert isinstance(node, Weighted)
    kernel = node.weight[0].size // node.in_width
    senders = _elements(graph, part, tokens) * kernel
    zeros = isinstance(node, Linear) and not node.weight.all() and node.weight.shape[1] == senders
    kept = node.weight != 0 if zeros else None
    return Connection(source, senders, len(node.weight), weight_bits(node.weight), tokens=kernel, kept=kept)


def _conv2d(graph: Graph, name: str, port: int, tokens: int, part: str, source: str) -> Connection:
    """A block is the output channels of one group at one place of the image."""
    node = graph.nodes[name]
    assert isinstance(node, Conv2d)
    reach = len(node.weight) // node.groups
    kind = Convolution if node.groups == 1 else Connection  # a core with several groups needs the weights of each
    return kind(source, node.weight[0].size, reach, weight_bits(node.weight), tokens=node.windows.most)


def _pooled(graph: Graph, name: str, port: int, tokens: int, part: str, source: str) -> Connection:
    node = graph.nodes[name]
    assert isinstance(node, SumPool2d)
    return Convolution(source, node.size, 1, RELAY_BITS, tokens=node.windows.most)


def _product(graph: Graph, name: str, port: int, tokens: int, part: str, source: str) -> Connection:
    node, width = graph.nodes[name], graph.shapes()[graph.inputs[name][1]][1]
    assert isinstance(node, MatMul) and isinstance(width, int)
    per_head = width // node.heads
    terms, reach = (per_head, tokens) if node.transpose_b else (tokens, per_head)
    if port == 0:
        return Connection(source, terms, reach, RELAY_BITS)
    return Connection(source, terms, 1, RELAY_BITS, terms * value_bits(graph, graph.inputs[name][1]))


@dataclass(frozen=True)
class Place:
    """where: on the host; in place, that is in the neurons that receive what it reads; apart, in sums of its own; or
    nowhere, since it is wiring.

    holds: words of state that an element keeps, or a function of the node that says it: potentials, or a result that
    drives a window. connect: (graph, name, port, tokens, part, source) -> synapses of a port; None: one to one.
    program: why a node needs a programmable neuron, or empty.
    """

    where: Literal["host", "in place", "apart", "wiring"]
    holds: int | Callable[[Any], int] = 0
    connect: Callable[..., Connection] | None = None
    program: Callable[[Any], str] = lambda node: ""

    def words(self, node: Node) -> int:
        return self.holds(node) if callable(self.holds) else int(self.holds)


def _kind(node: Node) -> str:
    return type(node).__name__


def _neurons(node: Neuron) -> str:
    floor = "" if node.v_min is None else "a lowest potential"
    return floor if node.spikes == "binary" else f"{node.spikes} spikes"


HOST, FUNCTION = Place("host"), Place("in place", holds=True, program=_kind)
PLACES: NodeTable[Place] = NodeTable(
    "place on a chip",
    {
        Input: HOST,
        Embedding: HOST,
        Linear: Place("apart", connect=_weighted),
        Conv1d: Place("apart", connect=_weighted),
        Conv2d: Place("apart", connect=_conv2d),
        SumPool2d: Place("apart", connect=_pooled, program=_kind),
        AvgPool2d: Place("apart", connect=_pooled, program=_kind),
        Flatten: Place("wiring"),
        Neuron: Place("in place", holds=True, program=_neurons),
        CubaLIF: Place("in place", holds=2, program=_neurons),
        Integrator: Place("in place", holds=2, program=_kind),
        Delay: Place("apart", holds=lambda n: int(np.max(n.steps)), program=_kind),
        GradedNeuron: Place("in place", holds=True, program=lambda n: "graded messages"),
        MatMul: Place("apart", connect=_product, program=_kind),
        Softmax: FUNCTION,
        LayerNorm: FUNCTION,
        Gelu: FUNCTION,
        Add: Place("in place"),
        Concat: Place("wiring"),
        Scale: Place("in place", program=lambda n: "Scale with a factor for each element" if np.ndim(n.factor) else ""),
        MeanPool: HOST,
        Readout: HOST,
    },
)


def weight_bits(weight: np.ndarray) -> int:
    """What the mantissas need, sign included, without lowest bits that are 0 in all of them: a format of fewer bits
    holds the highest (Lava's Dense: num_weight_bits), as export writes the weights of a student of few bits."""
    used = int(np.bitwise_or.reduce(np.abs(weight.astype(np.int64)), axis=None))
    return (used // (used & -used)).bit_length() + 1 if used else 1


def message_bits(graph: Graph, name: str) -> int:
    """Width of one message of a node, sign included where it has one."""
    node = graph.nodes[name]
    if isinstance(node, GradedNeuron):
        return node.payload_bits
    if isinstance(node, Neuron):
        payload = graph.fixed_point[name].bound
        if graph.schedule == "phased":
            payload = emission_weights(node, graph.time_steps).max()
        return int(payload).bit_length() + (node.spikes == "ternary")
    return value_bits(graph, name)


def value_bits(graph: Graph, name: str) -> int:
    """Of the value that a node hands on, sign included; phased neuron layers hand on the sum of a window."""
    return min(graph.fixed_point[name].bound, LIMIT).bit_length() + 1
