"""The oracle: a plain interpreter of a layer graph that steps every neuron through time. Slow and obviously right.

Torch students, the executor and Lava must give the same spikes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurotool.errors import DataError, GraphError
from neurotool.executor import Record, Run, Simulation, SynapseEvents, batched, unstacked
from neurotool.graph import Context, Embedding, Graph, Input, Neuron, Node, Readout, Stateful, Synapse
from neurotool.graph.nodes import State, is_size_of, sizes, text


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
    values: for every Input node (tokens, width), or its shape, constant, or (T, …), one for each step; dtype: of what
    nodes hand on, and of potentials. A node computes in float64 and its result is rounded once: float32 then means the
    same in whatever order a library adds up.
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


class Interpreter:
    """`simulate` as an executor; dtype: see there."""

    def __init__(self, graph: Graph, dtype: Any = np.float64) -> None:
        self.graph, self.dtype = graph, dtype

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
    ) -> Run:
        """Input after input: see `Executor.run`."""
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        return batched(
            [simulate(self.graph, **one, dtype=self.dtype) for one in unstacked(batch | {"values": values})]
        ).keep(record)

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        """See `Executor.drive`."""
        if not self.graph.has_tokens:
            return np.stack([self._driven(layer, Input(one.shape), one) for one in currents], 1)
        return self._driven(layer, Input(currents.shape[1]), currents)

    def _driven(self, layer: str, source: Input, currents: np.ndarray) -> np.ndarray:
        nodes = {"current": source, layer: self.graph.nodes[layer]}
        steps, schedule = self.graph.time_steps, self.graph.schedule
        alone = Graph(nodes, {"current": (), layer: ("current",)}, steps, schedule, tokens=len(currents))
        return simulate(alone, values={"current": currents}, dtype=self.dtype).spikes[layer]


@dataclass(frozen=True)
class _Signal:
    """What a node hands on: its value and, where these are spikes, behind each element the number of spikes and of
    neurons that sent any."""

    value: np.ndarray
    sent: np.ndarray | None = None
    active: np.ndarray | None = None


class _Layer:
    """One neuron layer: its membrane, all spikes that it sent, and its average spiking rate."""

    def __init__(self, node: Neuron, shape: tuple[int, ...], dtype: np.dtype, window: bool) -> None:
        self.leak, self.membrane = np.asarray(node.leak), node.at_rest(shape, dtype, window)
        self.spikes: list[np.ndarray] = []
        self._weighted, self._weight = np.zeros(shape, dtype), np.zeros(np.shape(node.leak))

    def step(self, drive: np.ndarray) -> np.ndarray:
        s = self.membrane.step(drive)
        self.spikes.append(s.astype(self.membrane.node.spike_type))
        self._weighted = self._weighted * self.leak.astype(s.dtype) + s
        self._weight = self._weight * self.leak + self.membrane.node.counts_to(1)
        return s

    @property
    def rate(self) -> np.ndarray:
        """sum_t leak^(T-t) s[t] / sum_t leak^(T-t)."""
        return self._weighted / self._weight.astype(self._weighted.dtype)


class _Run:
    def __init__(
        self, graph: Graph, ids: Any, mask: Any, types: Any, values: dict[str, np.ndarray], dtype: np.dtype
    ) -> None:
        self.graph, self.dtype, self.shapes, self.spiking = graph, dtype, graph.shapes(), graph.spiking
        self.values = {name: _input(graph, name, values, dtype) for name in graph.of_type(Input)}
        self.ids = _ids(graph, ids, types)
        lengths = {name: len(x) for name, x in self.ids.items()}
        lengths |= {n: x.shape[-2] if graph.has_tokens else 1 for n, x in self.values.items()}
        if mask is not None:
            lengths["attention_mask"] = len(mask)
        self.tokens = max(lengths.values())
        if len(set(lengths.values())) > 1 or not 1 <= self.tokens <= graph.tokens:
            given = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise DataError(f"number of tokens: {given}; they must agree and lie in 1 … {graph.tokens}")
        self.ids["position_ids"] = np.arange(self.tokens)
        real = np.ones(self.tokens, bool) if mask is None else np.asarray(mask).astype(bool)
        if not real.any():
            raise DataError("attention_mask has no token: at least one must be 1")
        self.context = Context(real, self.ids)
        self.layers: dict[str, _Layer] = {}
        self.states: dict[str, tuple[State, State]] = {}
        self.analog: dict[str, list[np.ndarray]] = {name: [] for name in graph.analog}
        self.spikes: dict[str, list[np.ndarray]] = {name: [] for name in graph.of_type(Neuron)}
        self.events: dict[tuple[str, str], SynapseEvents] = {}

    def run(self) -> Simulation:
        graph = self.graph
        phased = graph.schedule == "phased"
        before: dict[str, _Signal] = {}
        at_end = [name for name, node in graph.nodes.items() if node.at_end]
        pooled = {source for name in at_end for source in graph.inputs[name] if source not in at_end}
        total: dict[str, np.ndarray] = dict.fromkeys(pooled, np.zeros((), self.dtype))
        passes = graph.feedback_sweeps if phased else graph.time_steps
        for t in range(passes):
            signals: dict[str, _Signal] = {}
            for name, node in graph.nodes.items():
                if node.at_end:
                    continue
                at_ports = [
                    self._fed_back(before, name, port) if (name, port) in graph.feedback else signals[source]
                    for port, source in zip(node.ports, graph.inputs[name], strict=True)
                ]
                self._count(name, node, at_ports)
                signals[name] = self._apply(name, node, t, *at_ports)
                if name in self.analog:
                    self.analog[name].append(signals[name].value)
                if name in pooled:
                    total[name] = total[name] + signals[name].value
            before = signals
        averages = {name: before[name].value if phased else total[name] / passes for name in pooled}
        rates = {name: layer.rate for name, layer in self.layers.items()}
        averages |= rates
        logits = self._logits(averages)
        return Simulation(
            spikes={name: np.stack(spikes) for name, spikes in self.spikes.items()},
            potentials={name: layer.membrane.u for name, layer in self.layers.items()},
            rates=rates,
            events=self.events,
            logits=logits,
            messages={name: signal.value for name, signal in before.items()},
            analog={name: np.stack(steps or [averages[name]]) for name, steps in self.analog.items()},
        )

    def _fed_back(self, before: dict[str, _Signal], name: str, port: str) -> _Signal:
        source = self.graph.source(name, port)
        silence = np.zeros(sizes(self.shapes[source], self.tokens), self.dtype)
        if (
            source not in before and name in self.spiking
        ):  # silence is no spikes, and no reason to take others for graded
            return _spikes(silence, silence)
        return before.get(source, _Signal(silence))

    def _apply(self, name: str, node: Node, t: int, *at_ports: _Signal) -> _Signal:
        match node:
            case Input():
                return self._enter(node, self.values[name], t)
            case Neuron():
                return self._neurons(name, node, node.drive(at_ports[0].value))
            case Stateful():
                return self._stepped(name, node, at_ports[0])
        sent = [signal.sent for signal in at_ports if signal.sent is not None]
        active = [signal.active for signal in at_ports if signal.active is not None]
        value = self._compute(node, *(signal.value for signal in at_ports))
        if node.hands_on_spikes and len(sent) == len(at_ports):
            return _Signal(value, node.sent(self.context, *sent), node.sent(self.context, *active))
        return _Signal(value)

    def _compute(self, node: Node, *x: np.ndarray) -> np.ndarray:
        y = node.compute(self.context, *(value.astype(np.float64, copy=False) for value in x))
        return y.astype(self.dtype, copy=False)

    def _neurons(self, name: str, node: Neuron, drive: np.ndarray) -> _Signal:
        phased = self.graph.schedule == "phased"
        if phased or name not in self.layers:  # a window starts afresh
            self.layers[name] = _Layer(node, drive.shape, self.dtype, phased and node.has_closed_form)
        layer = self.layers[name]
        if not phased:
            s = layer.step(drive)
            self.spikes[name].append(layer.spikes[-1])
            return _spikes(s, abs(s))
        for _ in range(self.graph.time_steps):
            layer.step(drive)
        self.spikes[name].extend(layer.spikes)
        return _spikes(layer.rate, node.events(np.array(layer.spikes)).sum(0, np.int64))

    def _stepped(self, name: str, node: Stateful, signal: _Signal) -> _Signal:
        """One step of a layer that keeps a state, and of a second one through which the numbers of spikes pass."""
        shape = signal.value.shape
        if name not in self.states:
            self.states[name] = node.at_rest(shape, self.dtype), node.at_rest((2, *shape), np.int64)
        values, spikes = self.states[name]
        value = values.step(node.drive(signal.value))
        if not node.hands_on_spikes or signal.sent is None or signal.active is None:
            return _Signal(value)
        return _Signal(value, *spikes.step(np.stack([signal.sent, signal.active])))

    def _enter(self, node: Input, values: np.ndarray, t: int) -> _Signal:
        constant = values.ndim == len(node.shape())
        if self.graph.schedule == "concurrent":
            value, sent = (values, values != 0) if constant else (values[t], values[t] != 0)
        elif constant:
            value, sent = values, (values != 0) * self.graph.time_steps
        else:
            value, sent = values.sum(0) / self.graph.time_steps, (values != 0).sum(0)
        return _spikes(value, sent.astype(np.int64)) if node.spiking else _Signal(value)

    def _logits(self, averages: dict[str, np.ndarray]) -> np.ndarray | None:
        """What acts at the end reads averages over the run: rates where they come from neurons."""
        logits = None
        for name, node in self.graph.nodes.items():
            if node.at_end:
                averages[name] = self._compute(node, *(averages[source] for source in self.graph.inputs[name]))
                logits = averages[name] if isinstance(node, Readout) else logits
        return logits

    def _count(self, name: str, node: Node, at_ports: list[_Signal]) -> None:
        if not isinstance(node, Synapse):
            return
        for port, signal in zip(node.ports, at_ports, strict=True):
            if signal.sent is not None and signal.active is not None:
                # The axis of tokens, where there is one, is the last but one of what spikes can be.
                real = self.context.real[:, None] if self.graph.has_tokens else 1
                reach = node.reach(self.context, signal.value.shape)
                sent, active = ((spikes * real).astype(np.int64) for spikes in (signal.sent, signal.active))
                arrived = (sent, sent * reach, active, active * reach)
                so_far = self.events.get((name, port), SynapseEvents(0, 0))
                self.events[name, port] = so_far + SynapseEvents(*(int(each.sum()) for each in arrived))


def _spikes(value: np.ndarray, sent: np.ndarray) -> _Signal:
    return _Signal(value, sent, (sent != 0).astype(np.int64))


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
    """Values of one Input node: its shape, or one such for each time step."""
    shape = graph.nodes[name].shape()
    if name not in values:
        raise DataError(f"values for Input {name} are missing: give {text(shape)} or one such per time step")
    x = np.asarray(values[name], dtype)
    wanted = [(*steps, *shape) for steps in ((), (graph.time_steps,))]
    if not any(is_size_of(x.shape, to) for to in wanted) or not np.isfinite(x).all():
        raise DataError(
            f"values for Input {name} have shape {np.shape(values[name])}: they must be finite numbers, "
            f"{' or '.join(map(text, wanted))}"
        )
    return x
