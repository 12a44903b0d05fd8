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

from dataclasses import dataclass
from typing import Any, Literal

import nir
import numpy as np

from neurotool.errors import GraphError
from neurotool.export.nir_structure import Structure
from neurotool.graph import Add, Conv1d, GradedNeuron, Graph, GraphBuilder, Input, Linear, Neuron, Node, Scale
from neurotool.graph.nodes import Reset

Fires = Literal[">", ">="]
SUPPORTED = (nir.Affine, nir.Linear, nir.Scale, nir.Conv1d, nir.IF, nir.LIF, nir.CubaLIF, nir.Flatten)
NEURONS = (nir.IF, nir.LIF, nir.CubaLIF)
# Above rounding in float64, below the resolution of float32: a threshold that v = v_threshold does not reach.
_STRICTLY = 1 + 2.0**-40
_ROUNDING = 1e-6  # of the float32 numbers in a file
_LARGEST_UNROLLED = 2**27  # weights of a Conv1d written out as a Linear: 0.5 GB in float32


@dataclass(frozen=True)
class Conventions:
    """What NIR leaves open; None where only the file may say it."""

    reset: Reset | None = None
    time_step: float | None = None
    time_steps: int | None = None
    fires: Fires | None = None

    def completed(self, metadata: dict[str, Any]) -> "Conventions":
        """With what the graph's metadata say (keys reset, dt, time_steps, fires) where nothing is given."""
        found = {"reset": str, "dt": float, "time_steps": int, "fires": str}
        try:
            said = {key: kind(metadata[key]) for key, kind in found.items() if key in metadata}
        except (TypeError, ValueError) as error:
            raise GraphError(f"the file's metadata cannot be used: {error}") from error
        return Conventions(
            self.reset or said.get("reset"),
            self.time_step or said.get("dt"),
            self.time_steps or said.get("time_steps"),
            self.fires or said.get("fires", ">"),
        )


def from_nir(content: nir.NIRGraph, conventions: Conventions) -> Graph:
    """Raises GraphError: a node that is not supported or not exactly expressible, or conventions that are missing."""
    structure = Structure(content)
    for name, node in structure.nodes.items():
        if not isinstance(node, (nir.Input, *SUPPORTED)):
            known = ", ".join(kind.__name__ for kind in SUPPORTED)
            raise GraphError(f"node {name} ({type(node).__name__}) is not supported: known are {known}, Input, Output")
    completed = conventions.completed(content.metadata)
    if completed.time_steps is None:
        raise GraphError("the file does not say how long to run: give time_steps (--time-steps T)")
    return _Reader(structure, completed, conventions.reset).read(completed.time_steps)


class _Reader:
    def __init__(self, structure: Structure, conventions: Conventions, given_reset: Reset | None) -> None:
        self.structure, self.conventions, self.given_reset = structure, conventions, given_reset
        self.order, self.feedback = structure.order()
        self.shapes = self._shapes()
        self.tokens = self._tokens()
        self.build = GraphBuilder()

    def read(self, time_steps: int) -> Graph:
        for name in self.order:
            node = self._node(name, self.structure.nodes[name])
            sources = self.structure.sources[name]
            if name in self.feedback:
                self.build.add_feedback(name, node, sources[0])
            else:
                self.build.add(name, node, *([self._sum(name, sources)] if node.ports else []))
        for name, sources in self.structure.outputs.items():
            if len(sources) > 1:
                self._sum(name, sources)
        return self.build.build(time_steps=time_steps, schedule="concurrent", tokens=self.tokens)

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
                return Input(self._width(name), spiking=bool(node.metadata.get("spiking", False)))
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
        keep, gain = self._dynamics(name, node)
        reset = self._reset(name, node)
        spikes = str(node.metadata.get("spikes", "binary"))
        rest = self._per_neuron(name, node, "v_leak") if hasattr(node, "v_leak") else 0.0
        back = self._per_neuron(name, node, "v_reset")
        if np.any(rest) and reset == "soft":
            raise GraphError(f"{_title(name, node)} has v_leak {np.max(rest)}: with soft reset only 0 can be expressed")
        if np.any(back != rest):
            raise GraphError(f"{_title(name, node)} resets to {np.max(back)}: only a reset to v_leak can be expressed")
        # Potentials are measured from rest, in units of the threshold; a ternary neuron subtracts twice where it fires.
        threshold = (self._per_neuron(name, node, "v_threshold") - rest) * (2 if spikes == "ternary" else 1)
        if not np.all(np.isfinite(gain)) or np.any(gain <= 0):
            raise GraphError(f"{_title(name, node)} multiplies its input by {np.min(gain)}: that must be above 0")
        strictly = _STRICTLY if self.conventions.fires == ">" else 1.0
        try:
            v_init = float(node.metadata.get("v_init", 0.0))
            settings: dict[str, Any] = {"v_threshold": _scalar(threshold / gain * strictly), "leak": _scalar(keep)}
            settings |= {"reset": reset, "spikes": spikes, "v_init": v_init}
            if "levels" not in node.metadata:
                return Neuron(**settings)
            levels, dead_zone = int(node.metadata["levels"]), float(node.metadata["dead_zone"])
            return GradedNeuron(**settings, levels=levels, dead_zone=dead_zone)
        except (TypeError, ValueError, KeyError) as error:
            raise GraphError(f"{_title(name, node)} has metadata that cannot be used: {error}") from error

    def _dynamics(self, name: str, node: Any) -> tuple[np.ndarray, np.ndarray]:
        """(share of the potential kept in a step, factor of the input)"""
        r = self._per_neuron(name, node, "r")
        if isinstance(node, nir.IF):
            return np.ones(1), r
        share = self._share(name, node, "tau" if isinstance(node, nir.LIF) else "tau_mem")
        gain = r * share
        if isinstance(node, nir.CubaLIF):
            synaptic = self._share(name, node, "tau_syn")
            if np.any(abs(synaptic - 1) > _ROUNDING):
                raise GraphError(
                    f"{_title(name, node)} has a synaptic current with tau_syn {np.max(node.tau_syn)}: only tau_syn "
                    f"equal to the time step {self.conventions.time_step}, a current of one step, can be expressed"
                )
            gain = gain * self._per_neuron(name, node, "w_in")
        keep = 1 - share
        return np.where(abs(keep) < _ROUNDING, 0.0, keep), gain

    def _share(self, name: str, node: Any, constant: str) -> np.ndarray:
        """dt / tau, with dt rounded as tau is: tools compute tau from dt."""
        dt = self.conventions.time_step
        if dt is None:
            raise GraphError(f"{_title(name, node)} has a time constant: give the time step it is for (--time-step)")
        tau = self._per_neuron(name, node, constant)
        kind = getattr(node, constant).dtype if getattr(node, constant).dtype.kind == "f" else np.float64
        if not np.all(tau > 0) or np.any(dt / tau > 1 + _ROUNDING):
            raise GraphError(
                f"{_title(name, node)} has {constant} {np.min(tau)}: it must not be below the time step {dt}"
            )
        return np.asarray(dt, kind).astype(np.float64) / tau

    def _reset(self, name: str, node: Any) -> Reset:
        reset = self.given_reset or node.metadata.get("reset") or self.conventions.reset
        if reset not in ("soft", "hard"):
            raise GraphError(
                f"{_title(name, node)}: the file does not say how neurons reset, and tools write soft and hard reset "
                "alike: give reset (--reset soft or hard)"
            )
        return reset

    def _width(self, name: str) -> int:
        return int(np.prod(self.shapes[name])) // self.tokens

    def _per_neuron(self, name: str, node: Any, parameter: str) -> np.ndarray:
        """(width,), or (1,) for one number, in float64."""
        value = np.asarray(getattr(node, parameter), np.float64)
        if not np.all(np.isfinite(value)):
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
