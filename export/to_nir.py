"""Layer graph -> NIR graph. Every synapse and neuron layer is a standard node; what NIR lacks is kept in the metadata.

One node stands for all tokens (a per-token template), so types are (width,); without tokens they are whole shapes. An
operation X that NIR cannot express is where the NIR graph is cut: an Output `X.port` ends what it reads, an Input `X`
begins what it gives.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np

from neurotool import __version__
from neurotool.errors import ExportError
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
from neurotool.graph.nodes import own_axes, same_value

NIR_FORMAT_VERSION = 1
METADATA_KEY = "neurotool"
# Stands for "no leak" where only some neurons of a layer have none: in double precision 1 - 1 / 2^60 is exactly 1.
TAU_WITHOUT_LEAK = 2.0**60


def to_nir(graph: Graph) -> nir.NIRGraph:
    """Times are in time steps: dt is 1. The arrays are those of `graph`, not copies. Raises ExportError."""
    if graph.fixed_point:
        raise ExportError(
            "the graph holds integers with units of their own, which NIR cannot say: export the checkpoint"
        )
    translation = _Translation(graph)
    translation.connect()
    try:
        return nir.NIRGraph(translation.nodes, translation.edges, metadata=_metadata(graph, translation.nodes))
    except ValueError as error:  # nir's own check of structure and types
        raise ExportError(f"the graph has no valid NIR form: {error}") from error


def expressible(graph: Graph) -> set[str]:
    """Names of the nodes that NIR has a word for; an Add is a sum of edges."""
    translation = _Translation(graph)
    return {name for name, terms in translation.terms.items() if name in translation.nodes or terms != (name,)}


def beyond(graph: Graph) -> list[str]:
    """What the standard nodes of its file do not say, and the metadata do, in words."""
    said = expressible(graph)
    found: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        if name not in said:
            found.setdefault(type(node).__name__, []).append(name)
        if isinstance(node, Neuron):
            graded = f"graded messages of {node.levels} levels" if isinstance(node, GradedNeuron) else ""
            for what, differs in (
                (f"reset {node.reset}", node.reset != "hard"),
                (graded or f"{node.spikes} spikes", graded or node.spikes != "binary"),
                ("v_init", np.any(node.v_init)),
                ("v_min", node.v_min is not None),
            ):
                if differs:
                    found.setdefault(what, []).append(name)
    listed = [f"{what} ({names[0] if len(names) == 1 else f'{len(names)} nodes'})" for what, names in found.items()]
    steps = f"{graph.time_steps} time steps of length 1, {graph.schedule}"
    return [*listed, steps, "neurons fire at their threshold, not only above it"]


Sizes = tuple[int, ...]
"""Of an activation without tokens: (width,), (channels, height, width), …"""


def _input(node: Input, shape: Sizes, tokens: int) -> nir.NIRNode:
    told = {} if node.spiking is None else {"spiking": node.spiking}
    return nir.Input({"input": np.array(shape)}, metadata=told)


def _weights(node: Weighted, shape: Sizes, tokens: int) -> nir.NIRNode | None:
    if len(shape) > 1:  # NIR's act on vectors
        return None
    return nir.Linear(node.weight) if node.bias is None else nir.Affine(node.weight, node.bias)


def _conv1d(node: Conv1d, shape: Sizes, tokens: int) -> nir.NIRNode:
    bias = np.zeros(shape, node.weight.dtype) if node.bias is None else node.bias
    return nir.Conv1d(tokens, node.weight, stride=1, padding="same", dilation=1, groups=1, bias=bias)


def _conv2d(node: Conv2d, shape: Sizes, tokens: int) -> nir.NIRNode | None:
    """nir takes a kernel's width to be its height: where that gives another shape, the graph is cut. And it takes
    the channels of one group for all: groups are written as one, with weights of 0 between them, and a kernel along a
    line, a plane of height 1, as a square one, with rows of 0 beside it."""
    bias = np.zeros(len(node.weight), node.weight.dtype) if node.bias is None else node.bias
    weight, stride, padding = node.ungrouped, node.stride, node.padding
    kernel = weight.shape[3]
    same = padding == "same"
    if shape[1] == weight.shape[2] == 1 < kernel and (same or padding[0] == 0):
        row = (kernel - 1) // 2 if same else kernel // 2
        weight = np.zeros((*weight.shape[:2], kernel, kernel), weight.dtype)
        weight[:, :, row] = node.ungrouped[:, :, 0]
        if not same:
            stride, padding = (kernel, stride[1]), (row, int(padding[1]))
    written = nir.Conv2d(shape[1:], weight, stride, padding, node.dilation, 1, bias)
    return written if tuple(written.output_type["output"]) == node.shape(shape) else None


def _sum_pool(node: SumPool2d, shape: Sizes, tokens: int) -> nir.NIRNode:
    return nir.SumPool2d(*map(np.array, (node.kernel, node.stride, node.padding)))


def _average_pool(node: AvgPool2d, shape: Sizes, tokens: int) -> nir.NIRNode:
    return nir.AvgPool2d(*map(np.array, (node.kernel, node.stride, node.padding)))


def _flatten(node: Flatten, shape: Sizes, tokens: int) -> nir.NIRNode:
    first = len(shape) - node.axes
    return nir.Flatten({"input": np.array(shape)}, start_dim=first, end_dim=len(shape) - 1)


def _scale(node: Scale, shape: Sizes, tokens: int) -> nir.NIRNode:
    return nir.Scale(_vector(node.factor, shape))


def _neuron(node: Neuron, shape: Sizes, tokens: int) -> nir.NIRNode:
    """IF: v <- v + I. LIF: v <- leak v + I, which is NIR's Euler step of dt = 1 for tau = r = 1 / (1 - leak).

    A bias is v_leak / tau: with one, an IF becomes an LIF whose tau is so long that it does not leak.
    """
    v_threshold, v_reset, settings = _firing(node, shape)
    if np.all(np.asarray(node.leak) == 1) and not np.any(node.bias):
        return nir.IF(r=np.ones(shape), v_threshold=v_threshold, v_reset=v_reset, metadata=settings)
    tau = _tau(node.leak, shape)
    v_leak = tau * _vector(node.bias, shape)
    return nir.LIF(tau=tau, r=tau, v_leak=v_leak, v_threshold=v_threshold, v_reset=v_reset, metadata=settings)


def _firing(node: Neuron, shape: Sizes) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """v_threshold, v_reset, and what NIR has no word for."""
    # A ternary neuron fires at half of what it subtracts; NIR's v_threshold is where a neuron fires.
    threshold = _vector(node.v_threshold if node.firing_point == 1 else node.v_threshold * node.firing_point, shape)
    settings: dict[str, Any] = {
        "reset": node.reset,
        "spikes": node.spikes,
        "v_init": node.v_init if np.ndim(node.v_init) else float(node.v_init),
    }
    if isinstance(node, GradedNeuron):
        settings |= {"levels": node.levels, "dead_zone": float(node.dead_zone)}
    if node.v_min is not None:
        settings["v_min"] = node.v_min
    return threshold, _vector(node.v_reset, shape), settings


def _cuba_lif(node: CubaLIF, shape: Sizes, tokens: int) -> nir.NIRNode:
    """i <- current_leak i + I, v <- leak v + i: Euler steps of dt = 1 with tau_syn = w_in and tau_mem = r."""
    v_threshold, v_reset, settings = _firing(node, shape)
    tau_syn, tau_mem = _tau(node.current_leak, shape), _tau(node.leak, shape)
    v_leak = tau_mem * _vector(node.bias, shape)
    return nir.CubaLIF(tau_syn, tau_mem, tau_mem, v_leak, v_threshold, v_reset, w_in=tau_syn, metadata=settings)


def _integrator(node: Integrator, shape: Sizes, tokens: int) -> nir.NIRNode:
    """I: v <- v + I. LI and CubaLI: Euler steps of dt = 1 with tau = r, and tau_syn = w_in; a bias is v_leak / tau."""
    settings = {"v_init": node.v_init}
    if np.any(node.current_leak):
        tau_syn, tau_mem = _tau(node.current_leak, shape), _tau(node.leak, shape)
        rest = tau_mem * _vector(node.bias, shape)
        return nir.CubaLI(tau_syn, tau_mem, r=tau_mem, v_leak=rest, w_in=tau_syn, metadata=settings)
    if np.all(np.asarray(node.leak) == 1) and not np.any(node.bias):
        return nir.I(r=np.ones(shape), metadata=settings)
    tau = _tau(node.leak, shape)
    return nir.LI(tau=tau, r=tau, v_leak=tau * _vector(node.bias, shape), metadata=settings)


def _delay(node: Delay, shape: Sizes, tokens: int) -> nir.NIRNode:
    return nir.Delay(_vector(node.steps, shape))


def _tau(leak: Any, shape: Sizes) -> np.ndarray:
    """Time constant in time steps, for a state that keeps `leak` of itself in one."""
    lost = 1 - _vector(leak, shape).astype(np.float64)
    return np.divide(1, lost, out=np.full(shape, TAU_WITHOUT_LEAK), where=lost > 0)


def _vector(value: Any, shape: Sizes) -> np.ndarray:
    if isinstance(value, np.ndarray):
        return value if value.shape == shape else np.broadcast_to(value, shape).copy()
    return np.full(shape, float(value))


@dataclass(frozen=True)
class NirForm:
    """write: (node, shape, tokens) -> the NIR node that says the same for an output of that shape, or None; None where
    NIR has none. reads: the shape is that of what the node reads. per_token: it acts on (width,), and not on
    (channels, tokens). is_sum: several edges into a node say it."""

    write: Callable[[Any, Sizes, int], nir.NIRNode | None] | None = None
    reads: bool = False
    per_token: bool = True
    is_sum: bool = False


IN_METADATA = NirForm()
NIR_FORMS: NodeTable[NirForm] = NodeTable(
    "NIR form",
    {
        Input: NirForm(_input),
        Embedding: IN_METADATA,
        Linear: NirForm(_weights),
        Conv1d: NirForm(_conv1d, per_token=False),
        Conv2d: NirForm(_conv2d, reads=True),
        SumPool2d: NirForm(_sum_pool, reads=True),
        AvgPool2d: NirForm(_average_pool, reads=True),
        Flatten: NirForm(_flatten, reads=True),
        Neuron: NirForm(_neuron),
        CubaLIF: NirForm(_cuba_lif),
        Integrator: NirForm(_integrator),
        Delay: NirForm(_delay),
        GradedNeuron: NirForm(_neuron),
        MatMul: IN_METADATA,
        Softmax: IN_METADATA,
        LayerNorm: IN_METADATA,
        Gelu: IN_METADATA,
        Add: NirForm(is_sum=True),
        Concat: IN_METADATA,
        Scale: NirForm(_scale),
        MeanPool: IN_METADATA,
        Readout: NirForm(_weights),
    },
)


class _Translation:
    """NIR nodes and edges of a graph. A signal is named by the node that gives it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.shapes = graph, graph.shapes()
        self.nodes: dict[str, nir.NIRNode] = {}
        self.edges: list[tuple[str, str]] = []
        self.terms: dict[str, tuple[str, ...]] = {}
        self.forms = {name: NIR_FORMS.of(name, node) for name, node in graph.nodes.items()}
        for name, node in graph.nodes.items():
            form = self.forms[name]
            self.terms[name] = self._sum(name) if form.is_sum else (name,)
            if form.write and (self._per_token(name) or node.at_end):
                written = form.write(node, self._sizes(graph.inputs[name][0] if form.reads else name), graph.tokens)
                if written is not None:
                    self.nodes[name] = written
        # The NIR node that gives a signal. A Conv1d is (channels, tokens), not per token: the graph is cut around it.
        self.gives = {name: name for name in self.nodes if self.forms[name].per_token}
        self.joined = frozenset(self.gives)

    def connect(self) -> None:
        graph = self.graph
        read = {source for sources in graph.inputs.values() for source in sources}
        for output, source in graph.outputs.items():
            if self.joined.intersection(self.terms.get(source, ())):
                self._end(output, source, "output of the graph")
        read.update(graph.outputs.values())
        for name, node in graph.nodes.items():
            kind = type(node).__name__
            for port, source in zip(node.ports, graph.inputs[name], strict=True):
                if name in self.joined:
                    self.edges += [(self._giver(term), name) for term in self.terms[source]]
                elif self.terms[name] == (name,) and self.joined.intersection(self.terms[source]):
                    self._end(f"{name}.{port}", source, kind)  # else: an Add that edges express
            if not self.forms[name].per_token:
                self._surround(name, node)
            if name not in read and self.joined.intersection(self.terms[name]):
                self._end(f"{name}.output", name, "output of the graph")

    def _per_token(self, name: str) -> bool:
        return TOKENS not in self.shapes[name][1:]

    def _sizes(self, name: str) -> Sizes:
        return own_axes(self.shapes[name]) or (0,)

    def _sum(self, name: str) -> tuple[str, ...]:
        """Several edges into a node mean a sum. Where that takes two edges from one source, an Add stays itself."""
        later = [source for source in self.graph.inputs[name] if source not in self.terms]  # fed back
        if any(self.forms[source].is_sum for source in later):
            return (name,)
        terms = tuple(term for source in self.graph.inputs[name] for term in self.terms.get(source, (source,)))
        return terms if self._per_token(name) and len(set(terms)) == len(terms) else (name,)

    def _giver(self, signal: str) -> str:
        """The NIR node that gives a signal: its own, or an Input where the graph was cut."""
        if signal not in self.gives:
            kind = type(self.graph.nodes[signal]).__name__
            begin = signal if self.forms[signal].per_token else self._free(f"{signal}.y")
            self.gives[signal] = self._place(begin, nir.Input, "input", self._sizes(signal), kind)
        return self.gives[signal]

    def _end(self, name: str, source: str, operation: str) -> None:
        end = self._place(self._free(name), nir.Output, "output", self._sizes(source), operation)
        self.edges += [(self._giver(term), end) for term in self.terms[source]]

    def _surround(self, name: str, node: Node) -> None:
        (source,), kind = self.graph.inputs[name], type(node).__name__
        inside, outside = ((*self._sizes(at), self.graph.tokens) for at in (source, name))
        begin = self._place(self._free(f"{name}.x.tokens"), nir.Input, "input", inside, kind)
        end = self._place(self._free(f"{name}.y.tokens"), nir.Output, "output", outside, kind)
        self.edges += [(begin, name), (name, end)]

    def _place(self, name: str, kind: type[nir.NIRNode], side: str, shape: tuple[int, ...], operation: str) -> str:
        self.nodes[name] = kind({side: np.array(shape)}, metadata={"operation": operation})
        return name

    def _free(self, name: str) -> str:
        while name in self.nodes or name in self.graph.nodes:
            name += "_"
        return name


def _metadata(graph: Graph, nodes: dict[str, nir.NIRNode]) -> dict[str, Any]:
    """The whole graph, but for the arrays that standard nodes hold already; and in plain words what NIR leaves open."""
    description, arrays = graph.to_arrays()
    if json.loads(json.dumps(description)) != description:
        raise ExportError("the graph's metadata would change in JSON: use text keys, lists and finite numbers")
    own = {key: array for key, array in arrays.items() if not same_value(held_array(nodes, key), array)}
    text = {"nir_format_version": NIR_FORMAT_VERSION, "written_by": f"neurotool {__version__}", "graph": description}
    return {
        METADATA_KEY: json.dumps(text),
        "arrays": own,
        "dt": 1.0,
        "time_unit": "time step",
        "time_steps": graph.time_steps,
        "schedule": graph.schedule,
        "fires": ">=",
    }


def held_array(nodes: dict[str, nir.NIRNode], key: str) -> np.ndarray | None:
    """What the standard node of "node.parameter" holds under that name."""
    name, parameter = key.rsplit(".", 1)
    return getattr(nodes.get(name), parameter, None)
