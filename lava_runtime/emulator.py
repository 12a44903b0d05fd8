"""Our executor of layer graphs: numpy, batched over inputs, no Lava and no torch.

A fixed-point graph gives bit for bit what the Lava processes give; any other graph runs in float64, as in
`neurotool.simulate`. Windows of IF neurons are computed in closed form unless spikes are asked for.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from neurotool.errors import DataError, GraphError
from neurotool.executor import Record, Run, joined
from neurotool.graph import Context, Embedding, Graph, Input, Neuron, Readout, Stateful, Synapse
from neurotool.graph.nodes import State, is_size_of, sizes, text
from neurotool.lava_runtime.arithmetic import Arithmetic
from neurotool.lava_runtime.floating import FloatArithmetic
from neurotool.lava_runtime.integer import IntegerArithmetic, Overflow

ELEMENTS_AT_ONCE = 2**18
"""Of the widest activation, where there are no tokens."""
TOKENS_AT_ONCE = 256
"""A batch is worked off in parts whose activations stay in the processor's cache: 1.4 times as fast at 384 wide."""


@dataclass(frozen=True)
class Signal:
    """value: (batch, tokens, width), without tokens (batch, …), or (batch, heads, tokens, tokens); in units of
    FixedPoint.scale where there is one.

    sent: where these are spikes, how many each token sent, and how many of its neurons sent any: (2, batch, tokens, 1);
    or the same of each element, (2, batch, …).
    """

    value: np.ndarray
    sent: np.ndarray | None = None


def arithmetic(graph: Graph, overflow: Overflow = "error") -> Arithmetic:
    """The arithmetic that `graph` asks for."""
    return IntegerArithmetic(graph, overflow) if graph.fixed_point else FloatArithmetic(graph)


class Emulator:
    """Raises OverflowingError, when running, for values that do not fit and overflow "error"."""

    def __init__(self, graph: Graph, overflow: Overflow = "error") -> None:
        self.graph = graph
        self.arithmetic = arithmetic(graph, overflow)

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
        observe: bool = False,
    ) -> Run:
        """Run a batch: see `Executor.run`. record: steps through every window; observe: keep rates and largest."""
        inputs = entering(self.graph, input_ids, attention_mask, token_type_ids, values or {})
        inputs_at_once = self._inputs_at_once(inputs.real.shape[1])
        starts = range(0, len(inputs.real), inputs_at_once)
        parts = (inputs.rows(slice(start, start + inputs_at_once)) for start in starts)
        recording = bool(record)
        kept = True if observe and not recording else record  # of each part: a batch may be long
        return joined([_Run(self, part, observe or recording, recording).run().keep(kept) for part in parts])

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        """See `Executor.drive`."""
        source = self.graph.source(layer, "x")
        if self.graph.fixed_point:
            currents = np.rint(currents / self.graph.fixed_point[source].scale).astype(np.int64)
        membrane = self.arithmetic.membrane(layer, currents.shape)
        drive = self.arithmetic.at_port(layer, 0, currents)
        node = self.graph.nodes[layer]
        assert isinstance(node, Neuron)
        return np.stack([membrane.step(drive) for _ in range(self.graph.time_steps)]).astype(node.spike_type)

    def _inputs_at_once(self, tokens: int) -> int:
        if self.graph.has_tokens:
            return max(1, TOKENS_AT_ONCE // tokens)
        return max(1, ELEMENTS_AT_ONCE // max(math.prod(sizes(s, tokens)) for s in self.graph.shapes().values()))


class EmulatedStream:
    """An emulator that gets its input piece by piece and keeps its state between them.

    Raises GraphError for a network whose steps do not follow one another, or that answers at the end of a run only.
    """

    def __init__(self, graph: Graph, overflow: Overflow = "error") -> None:
        if graph.has_tokens or graph.schedule != "concurrent" or any(node.at_end for node in graph.nodes.values()):
            raise GraphError("only a network that takes its tokens in time answers after each")
        emulator, nothing = Emulator(graph, overflow), Entering({}, {}, np.ones((1, 1), bool))
        self._run = _Run(emulator, nothing, observe=False, record=True)

    def send(self, values: dict[str, np.ndarray], steps: int) -> Run:
        """`steps` steps of constant values (…) of each Input: what these did, as one input; its events are theirs."""
        run = self._run
        run.result = Run()
        for kept in (*run.spikes.values(), *run.analog.values()):
            kept.clear()
        for name, value in values.items():
            run.inputs.values[name] = value[None, None]
        for _ in range(steps):
            run.step(0)
        return run.recorded()


@dataclass(frozen=True)
class Entering:
    """Checked inputs of a batch. ids: what Embedding nodes look up; values: of each Input; real: no padding."""

    ids: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    real: np.ndarray

    def rows(self, rows: Any) -> "Entering":
        """Some inputs, or one of them without a batch axis."""
        ids, values = ({name: x[rows] for name, x in arrays.items()} for arrays in (self.ids, self.values))
        return Entering(ids, values, self.real[rows])

    @property
    def context(self) -> Context:
        return Context(self.real, self.ids)


def entering(
    graph: Graph, input_ids: Any, attention_mask: Any, token_type_ids: Any, values: dict[str, Any]
) -> Entering:
    """Raises DataError."""
    embeddings = [node for node in graph.nodes.values() if isinstance(node, Embedding)]
    if embeddings and input_ids is None:
        raise DataError("input_ids are missing: the graph has Embedding nodes")
    if missing := [name for name in graph.of_type(Input) if name not in values]:
        raise DataError(f"values for Input {missing[0]} are missing")
    arrays = {name: np.asarray(values[name]) for name in graph.of_type(Input)}
    shapes = {name: graph.nodes[name].shape() for name in arrays}
    for name, array in arrays.items():
        wanted = [("batch", *steps, *shapes[name]) for steps in ((), (graph.time_steps,))]
        if (
            not any(is_size_of(array.shape, shape) for shape in wanted)
            or not array.size
            or not np.isfinite(array).all()
        ):
            raise DataError(
                f"values for Input {name} have shape {array.shape}: they must be finite numbers, "
                f"{' or '.join(map(text, wanted))}"
            )
    sizes_given = ((len(x), x.shape[-2] if graph.has_tokens else 1) for x in arrays.values())
    shape = np.shape(input_ids) if embeddings else next(sizes_given)
    if len(shape) != 2 or not 1 <= shape[1] <= graph.tokens:
        raise DataError(f"inputs have shape {shape}: give (batch, tokens) with at most {graph.tokens} tokens")
    ids = {
        "input_ids": np.asarray(input_ids),
        "token_type_ids": np.zeros(shape, np.int64) if token_type_ids is None else np.asarray(token_type_ids),
        "position_ids": np.broadcast_to(np.arange(shape[1]), shape),
    }
    for node in embeddings:
        array, rows = ids[node.ids], len(node.weight)
        if array.shape != shape or array.min() < 0 or array.max() >= rows:
            raise DataError(f"{node.ids} {array.shape}, {array.min()} … {array.max()}: {rows} rows, {shape}")
    for name, array in arrays.items():
        given = len(array), array.shape[-2] if graph.has_tokens else 1
        if given != tuple(shape):
            raise DataError(f"values for Input {name} are of (batch, tokens) {given}, but others of {tuple(shape)}")
    real = np.ones(shape, bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if real.shape != shape or not real.any(1).all():
        raise DataError(f"attention_mask {real.shape} must be {shape}, with a token in every row")
    return Entering({node.ids: ids[node.ids] for node in embeddings}, arrays, real)


class _Run:
    def __init__(self, emulator: Emulator, inputs: Entering, observe: bool, record: bool) -> None:
        self.graph, self.arithmetic, self.inputs = emulator.graph, emulator.arithmetic, inputs
        self.context, self.shapes = inputs.context, emulator.graph.shapes()
        self.spiking = self.graph.spiking
        self.observe, self.record = observe, record
        self.phased = self.graph.schedule == "phased"
        self.membranes: dict[str, State] = {}
        self.sent: dict[str, State] = {}
        self.analog: dict[str, list[np.ndarray]] = {name: [] for name in self.graph.analog if record}
        self.spikes: dict[str, list[np.ndarray]] = {name: [] for name in self.graph.of_type(Neuron)}
        self.before: dict[str, Signal] = {}
        at_end = [name for name, node in self.graph.nodes.items() if node.at_end]
        read_at_end = (source for name in at_end for source in self.graph.inputs[name])
        self.gathered: dict[str, Any] = {source: 0 for source in read_at_end if source not in at_end}
        self.result = Run()

    def run(self) -> Run:
        for t in range(self.graph.feedback_sweeps if self.phased else self.graph.time_steps):
            self.step(t)
        self._read_out(self.gathered)
        return self.recorded()

    def step(self, t: int) -> None:
        """One step; phased, one sweep."""
        graph, signals = self.graph, dict[str, Signal]()
        for name, node in graph.nodes.items():
            if node.at_end:
                continue
            at_ports = tuple(
                self._fed_back(self.before, name, port) if (name, port) in graph.feedback else signals[source]
                for port, source in zip(node.ports, graph.inputs[name], strict=True)
            )
            self._count(name, at_ports)
            signals[name] = self._signal(name, t, at_ports)
            self._observe(name, signals[name].value, t)
            if name in self.analog:
                self.analog[name].append(self.arithmetic.real(name, signals[name].value))
            if name in self.gathered:
                self.gathered[name] = self._gather(name, signals[name].value, self.gathered[name], t)
        self.before = signals

    def recorded(self) -> Run:
        """What was done since the last time, where it is recorded."""
        if self.record:
            self.result.messages = {name: signal.value for name, signal in self.before.items()}
            self.result.spikes = {name: self._recorded(name, steps) for name, steps in self.spikes.items()}
            self.result.potentials = {name: self.membranes[name].u for name in self.spikes}
            self.result.analog = {name: np.stack(steps, 1) for name, steps in self.analog.items()}
        return self.result

    def _signal(self, name: str, t: int, at_ports: tuple[Signal, ...]) -> Signal:
        node = self.graph.nodes[name]
        match node:
            case Input():
                return Signal(*self._enter(name, node, t))
            case Neuron():
                return self._window(name, at_ports[0].value) if self.phased else self._step(name, at_ports[0].value)
            case Stateful():
                return self._stepped(name, node, at_ports[0])
        value = self.arithmetic.evaluate(name, tuple(signal.value for signal in at_ports), self.context)
        sent = [signal.sent for signal in at_ports if signal.sent is not None]
        hands_on = node.hands_on_spikes and len(sent) == len(at_ports)
        if not hands_on:
            return Signal(value)
        return Signal(value, node.sent(self.context, *sent) if not self.graph.has_tokens else np.sum(sent, 0))

    def _enter(self, name: str, node: Input, t: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Value and, of a spiking Input, `Signal.sent`."""
        values, time_steps = self.inputs.values[name], self.graph.time_steps
        if values.ndim == 1 + len(node.shape()):
            values = np.broadcast_to(values[:, None], (len(values), time_steps, *values.shape[1:]))
        steps = self.arithmetic.enter(name, values if self.phased else values[:, t : t + 1])
        value = self.arithmetic.checked(name, steps.sum(1))  # in a window, of T values that each fit
        return value, self._sent((steps != 0).sum(1)) if node.spiking else None

    def _sent(self, spikes: np.ndarray) -> np.ndarray:
        """`Signal.sent` of the number of spikes of each element."""
        if not self.graph.has_tokens:
            return np.stack([spikes, spikes != 0]).astype(np.int64)
        return np.stack([spikes.sum(-1, keepdims=True), np.count_nonzero(spikes, -1, keepdims=True)])

    def _window(self, name: str, drive: np.ndarray) -> Signal:
        shape, drive, node = drive.shape, self.arithmetic.at_port(name, 0, drive), self.arithmetic.neuron(name)
        if not self.record and self.arithmetic.has_closed_form(name, drive):
            value = self.arithmetic.closed_form(name, drive)
            return Signal(value, self._sent(self.arithmetic.spike_count(name, value)))
        self.membranes[name] = self.arithmetic.membrane(name, shape)  # a window starts afresh
        steps = [self.membranes[name].step(drive) for _ in range(self.graph.time_steps)]
        self.spikes[name] += steps if self.record else []
        value = sum(s * weight for s, weight in zip(steps, self.arithmetic.emission_weights(name), strict=True))
        return Signal(value, self._sent(np.stack([node.events(s) for s in steps]).sum(0, np.int64)))

    def _step(self, name: str, drive: np.ndarray) -> Signal:
        if name not in self.membranes:
            self.membranes[name] = self.arithmetic.membrane(name, drive.shape)
        s = self.membranes[name].step(self.arithmetic.at_port(name, 0, drive))
        self.spikes[name] += [s] if self.record else []
        return Signal(s, self._sent(self.arithmetic.neuron(name).events(s)))

    def _stepped(self, name: str, node: Stateful, signal: Signal) -> Signal:
        if name not in self.membranes:
            self.membranes[name] = self.arithmetic.membrane(name, signal.value.shape)
        value = self.membranes[name].step(self.arithmetic.at_port(name, 0, signal.value))
        sent = signal.sent if node.hands_on_spikes else None
        if sent is not None:
            self.sent.setdefault(name, node.at_rest(sent.shape, np.int64))
            sent = self.sent[name].step(sent)
        return Signal(self.arithmetic.checked(name, value), sent)

    def _recorded(self, name: str, steps: list[np.ndarray]) -> np.ndarray:
        node = self.graph.nodes[name]
        assert isinstance(node, Neuron)
        return np.stack(steps, 1).astype(node.spike_type)

    def _observe(self, name: str, value: np.ndarray, t: int | None = None) -> None:
        """t: the step, of a node that runs in every step."""
        if not self.observe:
            return
        largest, result = float(np.abs(self.arithmetic.real(name, value)).max()), self.result
        result.largest[name] = max(result.largest.get(name, 0), largest)
        if isinstance(self.graph.nodes[name], Neuron):
            if self.phased:
                result.rates[name] = self.arithmetic.real(name, value)
            else:
                weight = self.arithmetic.emission_weights(name)[t] * self.arithmetic.rate_unit(name)
                result.rates[name] = result.rates.get(name, 0) + value * weight

    def _gather(self, name: str, value: np.ndarray, before: Any, t: int) -> np.ndarray:
        """Towards the average over the run, which a window is already."""
        return value if self.phased else before + value * self.arithmetic.pooling_weights(name)[t]

    def _fed_back(self, before: dict[str, Signal], name: str, port: str) -> Signal:
        source, (batch, tokens) = self.graph.source(name, port), self.inputs.real.shape
        silence = np.zeros((batch, *sizes(self.shapes[source], tokens)), self.arithmetic.dtype)
        if (
            source not in before and name in self.spiking
        ):  # silence is no spikes, and no reason to take others for graded
            return Signal(silence, self._sent(silence))
        return before.get(source, Signal(silence))

    def _read_out(self, gathered: dict[str, np.ndarray]) -> None:
        for name, node in self.graph.nodes.items():
            if node.at_end:
                sources = tuple(gathered[source] for source in self.graph.inputs[name])
                gathered[name] = self.arithmetic.evaluate(name, sources, self.context)
                self._observe(name, gathered[name])
                if name in self.analog:
                    self.analog[name] = [self.arithmetic.real(name, gathered[name])]
                if isinstance(node, Readout):
                    self.result.logits = self.arithmetic.real(name, gathered[name])

    def _count(self, name: str, at_ports: tuple[Signal, ...]) -> None:
        node = self.graph.nodes[name]
        if not isinstance(node, Synapse):
            return
        for port, signal in zip(node.ports, at_ports, strict=True):
            if signal.sent is not None:
                sent, active = signal.sent.astype(np.int64)
                if self.graph.has_tokens:
                    sent, active = (spikes * self.context.real[..., None] for spikes in (sent, active))
                reach, result = node.reach(self.context, signal.value.shape), self.result
                for counts, caused in (
                    (result.events, sent),
                    (result.synaptic_operations, sent * reach),
                    (result.active, active),
                    (result.active_operations, active * reach),
                ):
                    counts[name, port] = counts.get((name, port), 0) + caused.reshape(len(caused), -1).sum(1)
