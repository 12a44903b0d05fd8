"""The oracle: a plain interpreter of a layer graph that steps every neuron through time. Slow and obviously right.

Torch students, the executor and Lava must give the same spikes.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurotool.errors import DataError, GraphError
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    Gelu,
    Graph,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    Readout,
    Scale,
    Softmax,
)


@dataclass(frozen=True)
class SynapseEvents:
    """What one port of a Linear, Conv1d or MatMul received from spiking layers during the run.

    events: spikes (nonzero elements, one per time step) sent to it by tokens that are not padding.
    synaptic_operations: accumulations these caused: events times fan-out. Fan-out counts tokens that are not padding
      and every weight, zero or not: Linear, its outputs; Conv1d, its outputs times the tokens within reach; MatMul,
      the tokens (key j is added to the scores of all queries i, value j to the context of all queries i). Where both
      operands of a MatMul spike, each port has its own count.
    Spikes that several layers send through an Add (a residual stream) or a Concat arrive as separate events.
    """

    events: int
    synaptic_operations: int


@dataclass(frozen=True)
class Simulation:
    """What one input did.

    spikes: per Neuron node, int8 (steps, tokens, width); steps is T, in the phased schedule T * feedback_sweeps, and
      step 0 is the first of the layer's own window.
    potentials: per Neuron node, (tokens, width) after the last step, in units of the threshold.
    rates: per Neuron node its average spiking rate (tokens, width), of the last sweep.
    events: per (node, port) that reads spikes.
    logits: (labels,); None where the graph has no Readout.
    outputs: per node of Graph.outputs what it gave in each step (phased: sweep), (steps, …); a MeanPool once.
    """

    spikes: dict[str, np.ndarray]
    potentials: dict[str, np.ndarray]
    rates: dict[str, np.ndarray]
    events: dict[tuple[str, str], SynapseEvents]
    logits: np.ndarray | None
    outputs: dict[str, np.ndarray] = field(default_factory=dict)


def simulate(
    graph: Graph,
    input_ids: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    values: dict[str, np.ndarray] | None = None,
    dtype: Any = np.float64,
) -> Simulation:
    """Run one input, without batch axis.

    Args: input_ids, token_type_ids, attention_mask (1 = token, 0 = padding; default no padding): (tokens,) integers;
    values: for every Input node (tokens, width), constant, or (T, tokens, width); dtype: of what nodes hand on, and of
    potentials. A node computes in float64 and its result is rounded once: float32 then means the same in whatever order
    a library adds up.
    Raises DataError for an input the graph cannot take, GraphError for a fixed-point graph: its integers mean nothing
    without their units, and `neurotool.lava_runtime` runs them.
    """
    if graph.fixed_point:
        raise GraphError("the graph holds integers, which the interpreter does not run: use its Lava bundle")
    return _Run(graph, input_ids, attention_mask, token_type_ids, values or {}, np.dtype(dtype)).run()


def simulate_batch(graph: Graph, batch: dict[str, Any], dtype: Any = np.float64) -> list[Simulation]:
    """`simulate` for each row of a tokeniser's output: input_ids, attention_mask, token_type_ids of (batch, tokens)."""
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch]
    rows: Iterable[tuple[Any, ...]] = zip(*(np.asarray(batch[name]) for name in names), strict=True)
    return [simulate(graph, **dict(zip(names, row, strict=True)), dtype=dtype) for row in rows]


@dataclass(frozen=True)
class _Signal:
    """What a node hands on: its value, and the number of spikes behind each element where these are spikes."""

    value: np.ndarray
    sent: np.ndarray | None = None


class _Membrane:
    """State of one neuron layer. All potentials in units of the threshold."""

    def __init__(self, node: Neuron, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.node = node
        self.leak = np.asarray(node.leak, dtype)
        self.u = np.full(shape, node.v_init, dtype)
        self.spikes: list[np.ndarray] = []
        self._weighted, self._weight = np.zeros(shape, dtype), np.zeros(np.shape(node.leak))

    def step(self, drive: np.ndarray) -> np.ndarray:
        self.u = self.u * self.leak + drive
        s = (self.u >= self.node.firing_point).astype(self.u.dtype)
        if self.node.spikes == "ternary":
            s = s - (self.u < -self.node.firing_point)
        self.u = self.u - s if self.node.reset == "soft" else self.u * (1 - abs(s))
        return self._emit(s)

    def step_of_window(self, drive: np.ndarray, t: int) -> np.ndarray:
        """Step t = 1 … T of a window of constant drive, for IF with soft reset: the charge is a product of t."""
        shift = 1 - self.node.firing_point
        charge, count = drive * t + (self.node.v_init + shift), self._weighted  # leak is 1: a plain sum of the spikes
        s = (charge >= count + 1).astype(charge.dtype)
        if self.node.spikes == "ternary":
            s = s - (charge < count)
        self.u = charge - (count + s) - shift
        return self._emit(s)

    def _emit(self, s: np.ndarray) -> np.ndarray:
        self.spikes.append(s.astype(np.int8))
        self._weighted = self._weighted * self.leak + s
        self._weight = self._weight * np.asarray(self.node.leak) + 1
        return s

    @property
    def rate(self) -> np.ndarray:
        """sum_t leak^(T-t) s[t] / sum_t leak^(T-t)."""
        return self._weighted / self._weight.astype(self.u.dtype)


class _Run:
    def __init__(
        self, graph: Graph, ids: Any, mask: Any, types: Any, values: dict[str, np.ndarray], dtype: np.dtype
    ) -> None:
        self.graph, self.dtype = graph, dtype
        self.values = {name: _input(graph, name, values, dtype) for name in graph.of_type(Input)}
        self.ids = _ids(graph, ids, types)
        lengths = {name: len(x) for name, x in self.ids.items()} | {n: x.shape[-2] for n, x in self.values.items()}
        if mask is not None:
            lengths["attention_mask"] = len(mask)
        self.tokens = max(lengths.values())
        if len(set(lengths.values())) > 1 or not 1 <= self.tokens <= graph.tokens:
            given = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise DataError(f"number of tokens: {given}; they must agree and lie in 1 … {graph.tokens}")
        self.ids["position_ids"] = np.arange(self.tokens)
        self.real = np.ones(self.tokens, bool) if mask is None else np.asarray(mask).astype(bool)
        if not self.real.any():
            raise DataError("attention_mask has no token: at least one must be 1")
        self.membranes: dict[str, _Membrane] = {}
        self.spikes: dict[str, list[np.ndarray]] = {name: [] for name in graph.of_type(Neuron)}
        self.events: dict[tuple[str, str], SynapseEvents] = {}

    def run(self) -> Simulation:
        graph = self.graph
        phased = graph.schedule == "phased"
        before: dict[str, _Signal] = {}
        pooled = {graph.source(name, "x") for name in graph.of_type(MeanPool)}
        outputs: dict[str, list[np.ndarray]] = {name: [] for name in graph.outputs}
        total: dict[str, np.ndarray] = dict.fromkeys(pooled, np.zeros((), self.dtype))
        passes = graph.feedback_sweeps if phased else graph.time_steps
        for t in range(passes):
            signals: dict[str, _Signal] = {}
            for name, node in graph.nodes.items():
                if isinstance(node, (MeanPool, Readout)):
                    continue
                at_ports = [
                    self._fed_back(before, name, port) if (name, port) in graph.feedback else signals[source]
                    for port, source in zip(node.ports, graph.inputs[name], strict=True)
                ]
                self._count(name, node, at_ports)
                signals[name] = self._apply(name, node, t, *at_ports)
                if name in outputs:
                    outputs[name].append(signals[name].value)
                if name in pooled:
                    total[name] = total[name] + signals[name].value
            before = signals
        averages = {name: before[name].value if phased else total[name] / passes for name in pooled}
        rates = {name: membrane.rate for name, membrane in self.membranes.items()}
        averages |= rates
        logits = self._logits(averages)
        return Simulation(
            spikes={name: np.stack(spikes) for name, spikes in self.spikes.items()},
            potentials={name: membrane.u for name, membrane in self.membranes.items()},
            rates=rates,
            events=self.events,
            logits=logits,
            outputs={name: np.stack(given or [averages[name]]) for name, given in outputs.items()},
        )

    def _fed_back(self, before: dict[str, _Signal], name: str, port: str) -> _Signal:
        node = self.graph.nodes[name]
        assert isinstance(node, (Linear, Conv1d))  # Graph.check
        return before.get(self.graph.source(name, port), _Signal(np.zeros((self.tokens, node.in_width), self.dtype)))

    def _apply(self, name: str, node: Node, t: int, *at_ports: _Signal) -> _Signal:
        match node:
            case Input():
                return self._enter(node, self.values[name], t)
            case Neuron():
                return self._neurons(name, node, at_ports[0].value / np.asarray(node.v_threshold, self.dtype))
        value = self._compute(node, *(signal.value.astype(np.float64, copy=False) for signal in at_ports))
        sent, spikes = [signal.sent for signal in at_ports if signal.sent is not None], None
        if isinstance(node, (Add, Concat)) and len(sent) == len(at_ports):
            spikes = np.sum(sent, 0) if isinstance(node, Add) else np.concatenate(sent, -1)
        return _Signal(value.astype(self.dtype, copy=False), spikes)

    def _compute(self, node: Node, *x: np.ndarray) -> np.ndarray:
        match node:
            case Embedding():
                return node.weight[self.ids[node.ids]]
            case Linear():
                return _plus(x[0] @ node.weight.T.astype(np.float64), node.bias)
            case Conv1d():
                return _plus(self._convolve(node, x[0]), node.bias)
            case MatMul():
                return self._multiply(node, *x)
            case Softmax():
                e = np.exp(np.where(self.real, x[0] - x[0][..., self.real].max(-1, keepdims=True), -np.inf))
                return e / e.sum(-1, keepdims=True)
            case LayerNorm():
                centred = x[0] - x[0].mean(-1, keepdims=True)
                deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + node.epsilon)
                return centred / deviation * node.weight + node.bias
            case Gelu():
                return x[0] * (1 + _erf(x[0] / math.sqrt(2))) / 2
            case Add():
                return x[0] + x[1]
            case Concat():
                return np.concatenate(x, -1)
            case Scale():
                return x[0] * node.factor
        raise NotImplementedError(type(node).__name__)

    def _neurons(self, name: str, node: Neuron, drive: np.ndarray) -> _Signal:
        phased = self.graph.schedule == "phased"
        if phased or name not in self.membranes:
            self.membranes[name] = _Membrane(node, drive.shape, self.dtype)  # a window starts afresh
        membrane = self.membranes[name]
        if not phased:
            s = membrane.step(drive)
            self.spikes[name].append(membrane.spikes[-1])
            return _Signal(s, abs(s))
        for t in range(1, self.graph.time_steps + 1):
            _ = membrane.step_of_window(drive, t) if node.has_closed_form else membrane.step(drive)
        self.spikes[name].extend(membrane.spikes)
        return _Signal(membrane.rate, np.abs(membrane.spikes).sum(0))

    def _enter(self, node: Input, values: np.ndarray, t: int) -> _Signal:
        constant = values.ndim == 2
        if self.graph.schedule == "concurrent":
            value, sent = (values, values != 0) if constant else (values[t], values[t] != 0)
        elif constant:
            value, sent = values, (values != 0) * self.graph.time_steps
        else:
            value, sent = values.sum(0) / self.graph.time_steps, (values != 0).sum(0)
        return _Signal(value, sent if node.spiking else None)

    def _convolve(self, node: Conv1d, x: np.ndarray) -> np.ndarray:
        weight = node.weight.astype(np.float64)
        padded = np.pad(x * self.real[:, None], ((node.before, node.after), (0, 0)))
        taps = [padded[k : k + self.tokens] @ weight[:, :, k].T for k in range(weight.shape[2])]
        return np.sum(taps, axis=0)

    def _multiply(self, node: MatMul, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        b = _split(b, node.heads)
        if node.transpose_b:
            return _split(a, node.heads) @ b.swapaxes(1, 2)
        context = (a * self.real) @ b
        return context.swapaxes(0, 1).reshape(self.tokens, -1)

    def _logits(self, averages: dict[str, np.ndarray]) -> np.ndarray | None:
        """MeanPool and Readout read averages over the run: rates where they come from neurons."""
        logits = None
        for name, node in self.graph.nodes.items():
            if isinstance(node, MeanPool):
                x = averages[self.graph.source(name, "x")]
                averages[name] = x[0] if node.pooling == "first" else x[self.real].mean(0)
            elif isinstance(node, Readout):
                x = averages[self.graph.source(name, "x")].astype(np.float64)
                logits = _plus(node.weight @ x, node.bias).astype(self.dtype)
        return logits

    def _count(self, name: str, node: Node, at_ports: list[_Signal]) -> None:
        if not isinstance(node, (Linear, Conv1d, MatMul)):
            return
        fan_out = self._fan_out(node)
        for port, signal in zip(node.ports, at_ports, strict=True):
            if signal.sent is not None:
                per_token = (signal.sent.sum(-1) * self.real).astype(np.int64)
                so_far = self.events.get((name, port), SynapseEvents(0, 0))
                self.events[name, port] = SynapseEvents(
                    so_far.events + int(per_token.sum()), so_far.synaptic_operations + int(per_token @ fan_out)
                )

    def _fan_out(self, node: Linear | Conv1d | MatMul) -> np.ndarray:
        """Accumulations that one event of each token causes, (tokens,)."""
        if isinstance(node, MatMul):
            return np.full(self.tokens, self.real.sum())
        if isinstance(node, Linear):
            return np.full(self.tokens, len(node.weight))
        # Token j is read by the outputs j - after … j + before.
        reached = np.convolve(self.real.astype(np.int64), np.ones(node.weight.shape[2], np.int64))
        return len(node.weight) * reached[node.before : node.before + self.tokens]


def _plus(x: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    return x if bias is None else x + bias


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """(tokens, width) -> (heads, tokens, width / heads)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x.ravel().tolist()], x.dtype).reshape(x.shape)


def _ids(graph: Graph, input_ids: Any, token_type_ids: Any) -> dict[str, np.ndarray]:
    """The integers that Embedding nodes look up, checked against their tables."""
    rows: dict[str, int] = {node.ids: len(node.weight) for node in graph.nodes.values() if isinstance(node, Embedding)}
    if input_ids is None:
        if rows:
            raise DataError("input_ids are missing: the graph has Embedding nodes")
        return {}
    ids = {"input_ids": np.asarray(input_ids)}
    ids["token_type_ids"] = np.zeros_like(ids["input_ids"]) if token_type_ids is None else np.asarray(token_type_ids)
    for name, array in ids.items():
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise DataError(f"{name} has shape {array.shape} and type {array.dtype}: give integers (tokens,)")
        if name in rows and array.size and not 0 <= array.min() <= array.max() < rows[name]:
            raise DataError(f"{name} has values in {array.min()} … {array.max()}: the embedding has {rows[name]} rows")
    return ids


def _input(graph: Graph, name: str, values: dict[str, np.ndarray], dtype: np.dtype) -> np.ndarray:
    """Values of one Input node, (tokens, width) or (T, tokens, width)."""
    node = graph.nodes[name]
    assert isinstance(node, Input)
    if name not in values:
        raise DataError(f"values for Input {name} are missing: give (tokens, {node.width}) or one such per time step")
    x = np.asarray(values[name], dtype)
    steps = (graph.time_steps,) if x.ndim == 3 else ()
    if x.ndim not in (2, 3) or x.shape != (*steps, x.shape[-2], node.width) or not np.isfinite(x).all():
        raise DataError(
            f"values for Input {name} have shape {np.shape(values[name])}: they must be finite numbers, "
            f"(tokens, {node.width}) or ({graph.time_steps}, tokens, {node.width})"
        )
    return x
