"""Standard NIR nodes -> layer graph (concurrent schedule), for files that other tools wrote.

| NIR            | layer graph                                                                             |
|----------------|-----------------------------------------------------------------------------------------|
| Affine, Linear | Linear                                                                                  |
| Conv1d         | Conv1d where all nodes are (channels, tokens) and it keeps the tokens, else a Linear    |
| Scale          | Scale                                                                                   |
| IF             | Neuron: v <- v + r I                                                                    |
| LIF            | Neuron: v <- (1 - dt/tau) v + r dt/tau I                                                |
| CubaLIF        | as LIF with r w_in, where tau_syn = dt: the synaptic current then lasts one step        |
| Flatten        | nothing: values are flat already                                                        |
| several edges  | Add                                                                                     |
| NIRGraph       | its nodes, names prefixed                                                               |
Cycles become feedback: a Linear on the way back reads what its source gave in the step before.
"""

import warnings
from typing import Any, get_args

import nir
import numpy as np

from neurotool.errors import GraphError, NeurotoolWarning
from neurotool.export.conventions import ROUNDING, Conventions, integrate
from neurotool.export.nir_meaning import Meaning, meaning
from neurotool.export.nir_structure import Structure
from neurotool.export.to_nir import OUTPUTS_KEY
from neurotool.graph import Add, Conv1d, Graph, GraphBuilder, Input, Linear, Neuron, Node, Scale
from neurotool.graph.nodes import Reset

SUPPORTED = (nir.Affine, nir.Linear, nir.Scale, nir.Conv1d, nir.IF, nir.LIF, nir.CubaLIF, nir.Flatten)
# Above rounding in float64, below the resolution of float32: a threshold that v = v_threshold does not reach.
_STRICTLY = 1 + 2.0**-40
_WITHOUT_LEAK = ("tau", "tau_mem", "tau_syn", "r", "w_in")  # may be infinite: snnTorch writes beta = 1 so
_LARGEST_UNROLLED = 2**27  # weights of a Conv1d written out as a Linear: 0.5 GB in float32


def from_nir(content: nir.NIRGraph, conventions: Conventions) -> Graph:
    """Warns (NeurotoolWarning) where what is told and what the file says disagree, and where it leaves an order open.

    Raises GraphError: a node that is not supported or not exactly expressible, or conventions that are missing.
    """
    structure = Structure(content)
    for name, node in structure.nodes.items():
        if not isinstance(node, (nir.Input, *SUPPORTED)):
            known = ", ".join(kind.__name__ for kind in SUPPORTED)
            raise GraphError(f"node {name} ({type(node).__name__}) is not supported: known are {known}, Input, Output")
    meant = meaning(conventions, content.metadata, structure.nodes)
    reader = _Reader(structure, meant)
    for text in (*meant.warnings, *structure.open_orders):
        warnings.warn(text, NeurotoolWarning, stacklevel=3)
    return reader.read()


class _Reader:
    def __init__(self, structure: Structure, meant: Meaning) -> None:
        self.structure, self.meant, self.rules = structure, meant, meant.rules
        self.order, self.feedback = structure.order()
        self.shapes = self._shapes()
        self.tokens = self._tokens()
        self.build = GraphBuilder()

    def read(self) -> Graph:
        for name in self.order:
            node = self._node(name, self.structure.nodes[name])
            sources = self.structure.sources[name]
            if name in self.feedback:
                self.build.add_feedback(name, node, sources[0])
            else:
                self.build.add(name, node, *([self._sum(name, sources)] if node.ports else []))
        outputs = {name: self._sum(name, sources) for name, sources in self.structure.outputs.items()}
        return self.build.build(
            time_steps=self.meant.time_steps,
            schedule="concurrent",
            tokens=self.tokens,
            metadata=self._metadata(outputs),
        )

    def _metadata(self, outputs: dict[str, str]) -> dict[str, Any]:
        step = self.rules.time_step
        return ({OUTPUTS_KEY: outputs} if outputs else {}) | ({} if step in (None, 1) else {"time_step": step})

    def _sum(self, name: str, sources: tuple[str, ...]) -> str:
        total = sources[0]
        for i, source in enumerate(sources[1:], start=1):
            total = self.build.add(self.structure.free(f"{name}.sum{i}"), Add(), total, source)
        return total

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Output shape of every node."""
        shapes: dict[str, tuple[int, ...]] = {}
        for name in self.order:
            node, sources = self.structure.nodes[name], self.structure.sources[name]
            given = [] if name in self.feedback else [shapes[source] for source in sources]
            if any(np.prod(shape) != np.prod(given[0]) for shape in given):
                raise GraphError(f"{_title(name, node)} sums inputs of shapes {', '.join(map(str, given))}")
            shapes[name] = _output_shape(name, node, given[0] if given else None)
        return shapes

    def _tokens(self) -> int:
        """N where every node works on (channels, N), alike for all N; else 1, and values are flat vectors."""
        lengths = {shape[1] if len(shape) == 2 else 1 for shape in self.shapes.values()}
        alike = all(_same_for_all_tokens(node, self.shapes[name]) for name, node in self.structure.nodes.items())
        return lengths.pop() if len(lengths) == 1 and alike and not self.structure.flattens else 1

    def _node(self, name: str, node: nir.NIRNode) -> Node:
        match node:
            case nir.Input():
                told = node.metadata.get("spiking")
                return Input(self._width(name), spiking=None if told is None else bool(told))
            case nir.Affine():
                return Linear(node.weight, node.bias)
            case nir.Linear():
                return Linear(node.weight)
            case nir.Scale():
                return Scale(_scalar(self._per_neuron(name, node, "scale")))
            case nir.Conv1d():
                if self.tokens > 1:
                    return Conv1d(_ungrouped(node), node.bias)
                length = self.shapes[self.structure.sources[name][0]][-1]
                return _unrolled(name, node, length, self.shapes[name][-1])
        return self._neuron(name, node)

    def _neuron(self, name: str, node: Any) -> Neuron:
        keep, lost, gain = self._dynamics(name, node)
        told, reset = node.metadata, self._reset(name, node)
        spikes = self.meant.given.spikes or str(told.get("spikes", self.rules.spikes))
        rest = self._per_neuron(name, node, "v_leak") if hasattr(node, "v_leak") else np.zeros(1)
        back = self._per_neuron(name, node, "v_reset") if reset == "hard" else np.zeros(1)
        if not np.all(np.isfinite(gain)) or np.any(gain <= 0):
            raise GraphError(f"{_title(name, node)} multiplies its input by {np.min(gain)}: that must be above 0")
        threshold = self._per_neuron(name, node, "v_threshold")
        lowest = (
            self.meant.given.lowest if self.meant.given.lowest is not None else told.get("v_min", self.rules.lowest)
        )
        if reset == "hard" and lowest is None and np.array_equal(back, rest):  # potentials can be measured from rest
            threshold, rest, back = threshold - rest, np.zeros(1), np.zeros(1)
        # A ternary neuron subtracts twice where it fires.
        threshold = threshold * (2 if spikes == "ternary" else 1) * (_STRICTLY if self.rules.fires == ">" else 1.0)
        if np.any(threshold <= 0):
            raise GraphError(f"{_title(name, node)}: v_threshold is {np.min(threshold):.6g}: it must be above 0")
        start = rest if self.rules.start == "leak" and hasattr(node, "v_leak") else back
        try:
            return Neuron(
                _scalar(threshold / gain), _scalar(keep), reset, spikes,  # type: ignore[arg-type]
                v_init=_scalar(np.atleast_1d(told["v_init"]) if "v_init" in told else start / threshold),
                bias=_scalar(lost * rest / gain),
                v_reset=_scalar(back / gain),
                v_min=None if lowest is None else _scalar(np.atleast_1d(lowest) / gain),
            )  # fmt: skip
        except (TypeError, ValueError) as error:
            raise GraphError(f"{_title(name, node)} has metadata that cannot be used: {error}") from error

    def _dynamics(self, name: str, node: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the potential that a step keeps and loses, and the factor of the input."""
        r = self._per_neuron(name, node, "r")
        if isinstance(node, nir.IF):
            unit = self.rules.unit_charge or (self.rules.time_step is None and np.all(r == 1))
            charge = np.ones(1) if unit else r * (self.rules.time_step or 1.0)
            return np.ones(1), np.zeros(1), np.where(abs(charge - 1) < ROUNDING, 1.0, charge)
        constant = "tau" if isinstance(node, nir.LIF) else "tau_mem"
        keep, lost, gain = integrate(self.rules.membrane, self._share(name, node, constant), r)
        if isinstance(node, nir.CubaLIF):
            w_in = self._per_neuron(name, node, "w_in")
            kept, _, factor = integrate(self.rules.synapse, self._share(name, node, "tau_syn"), w_in)
            if np.any(kept):
                raise GraphError(
                    f"{_title(name, node)} has a synaptic current with tau_syn {np.max(node.tau_syn)}: only tau_syn "
                    f"equal to the time step {self.rules.time_step}, a current of one step, can be expressed"
                )
            gain = gain * factor
        return keep, lost, gain

    def _share(self, name: str, node: Any, constant: str) -> np.ndarray:
        """dt / tau, with dt rounded as tau is: tools compute tau from dt."""
        dt = self.rules.time_step
        assert dt is not None  # conventions.meaning asks for it
        tau = self._per_neuron(name, node, constant)
        kind = getattr(node, constant).dtype if getattr(node, constant).dtype.kind == "f" else np.float64
        euler = self.rules.synapse if constant == "tau_syn" else self.rules.membrane
        if not np.all(tau > 0) or (euler.startswith("euler") and np.any(dt / tau > 1 + ROUNDING)):
            raise GraphError(
                f"{_title(name, node)} has {constant} {np.min(tau)}: it must not be below the time step {dt}"
            )
        return np.asarray(dt, kind).astype(np.float64) / tau

    def _reset(self, name: str, node: Any) -> Reset:
        cuba = self.rules.cuba_reset if isinstance(node, nir.CubaLIF) else None
        reset: Any = self.meant.given.reset or node.metadata.get("reset") or cuba or self.rules.reset
        if reset not in get_args(Reset):
            raise GraphError(f"{_title(name, node)} has reset {reset!r}: known are {', '.join(get_args(Reset))}")
        return reset

    def _width(self, name: str) -> int:
        return int(np.prod(self.shapes[name])) // self.tokens

    def _per_neuron(self, name: str, node: Any, parameter: str) -> np.ndarray:
        """(width,), or (1,) for one number, in float64."""
        value = np.asarray(getattr(node, parameter), np.float64)
        usable = ~np.isnan(value) if parameter in _WITHOUT_LEAK else np.isfinite(value)
        if not np.all(usable):
            raise GraphError(f"{_title(name, node)} has a {parameter} that is not finite")
        if value.size == 1:
            return value.reshape(1)
        if value.size != np.prod(self.shapes[name]):
            raise GraphError(f"{_title(name, node)} has {value.size} values of {parameter} for {self.shapes[name]}")
        return value.ravel()[:: self.tokens]


def _title(name: str, node: nir.NIRNode) -> str:
    return f"node {name} ({type(node).__name__})"


def _scalar(value: np.ndarray) -> float | np.ndarray:
    return float(value[0]) if np.all(value == value[0]) else value


def _output_shape(name: str, node: Any, given: tuple[int, ...] | None) -> tuple[int, ...]:
    if isinstance(node, nir.Input):
        shape = node.input_type.get("input")
        if shape is None or not np.size(shape):
            raise GraphError(f"{_title(name, node)} has no shape")
        return tuple(int(size) for size in np.ravel(shape))
    if isinstance(node, (nir.Affine, nir.Linear)):
        if node.weight.ndim != 2:
            raise GraphError(f"{_title(name, node)} has weight {node.weight.shape}: only (out, in) is supported")
        return node.weight.shape[:1]
    assert given is not None  # Structure: every node but an Input has a source
    if isinstance(node, nir.Conv1d):
        if len(given) != 2 or given[0] != node.weight.shape[1] * node.groups:
            raise GraphError(f"{_title(name, node)} has weight {node.weight.shape} and input {given}")
        return len(node.weight), len(_reach(node, given[1]))
    return given


def _same_for_all_tokens(node: Any, shape: tuple[int, ...]) -> bool:
    """Whether a node on (channels, tokens) is one that the graph can share between tokens."""
    if isinstance(node, nir.Conv1d):
        kernel = node.weight.shape[2]
        keeps_tokens = node.padding == "same" or (
            kernel % 2 == 1 and np.array_equal(np.ravel(node.padding), [kernel // 2])
        )
        return keeps_tokens and int(np.ravel(node.stride)[0]) == int(np.ravel(node.dilation)[0]) == 1
    arrays = [a.reshape(shape) for a in vars(node).values() if isinstance(a, np.ndarray) and a.size == np.prod(shape)]
    return all(np.array_equal(a, np.broadcast_to(a[..., :1], shape)) for a in arrays)


def _reach(node: Any, length: int) -> list[int]:
    """Where the kernel's first weight lies for each output, in tokens; negative in the padding."""
    span = int(np.ravel(node.dilation)[0]) * (node.weight.shape[2] - 1)
    if isinstance(node.padding, str):
        before, around = (span // 2, span) if node.padding == "same" else (0, 0)
    else:
        before = int(np.ravel(node.padding)[0])
        around = 2 * before
    return list(range(-before, length + around - before - span, int(np.ravel(node.stride)[0])))


def _ungrouped(node: Any) -> np.ndarray:
    """Weight (out, in, kernel) with zeros between groups."""
    out, per_group, kernel = node.weight.shape
    weight = np.zeros((out, per_group * int(node.groups), kernel), node.weight.dtype)
    for i, rows in enumerate(np.split(np.arange(out), int(node.groups))):
        weight[rows, i * per_group : (i + 1) * per_group] = node.weight[rows]
    return weight


def _unrolled(name: str, node: Any, length: int, out_length: int) -> Linear:
    """The Linear that does to flat (channels, tokens) vectors what the Conv1d does."""
    weight = _ungrouped(node)
    out, channels, kernel = weight.shape
    if out * out_length * channels * length > _LARGEST_UNROLLED:
        raise GraphError(
            f"{_title(name, node)} as a Linear has {out * out_length} x {channels * length} weights: the limit is "
            f"{_LARGEST_UNROLLED}; only networks of (channels, tokens) nodes keep a Conv1d as it is"
        )
    dense = np.zeros((out, out_length, channels, length), weight.dtype)
    for o, start in enumerate(_reach(node, length)):
        for k in range(kernel):
            i = start + k * int(np.ravel(node.dilation)[0])
            if 0 <= i < length:
                dense[:, o, :, i] = weight[:, :, k]
    return Linear(dense.reshape(out * out_length, -1), np.repeat(node.bias, out_length))
