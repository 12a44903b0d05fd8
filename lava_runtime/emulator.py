"""Our executor of layer graphs: numpy, batched over inputs, no Lava and no torch.

A fixed-point graph gives bit for bit what the Lava processes give; any other graph runs in float64, as in
`neurotool.simulate`. Windows of IF neurons are computed in closed form unless their spikes are asked for; in the
concurrent schedule without feedback a node works off a block of steps before the next node does. Parts of a batch run
in threads.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np

from neurotool.errors import GraphError
from neurotool.executor import COUNTS, Record, Run, joined
from neurotool.graph import Graph, Input, Neuron, Node, Readout, Stateful, Synapse
from neurotool.graph.nodes import State, sizes
from neurotool.lava_runtime.arithmetic import Arithmetic
from neurotool.lava_runtime.decisions import Decision, decisions
from neurotool.lava_runtime.entering import Entering, entering
from neurotool.lava_runtime.floating import FloatArithmetic
from neurotool.lava_runtime.integer import IntegerArithmetic
from neurotool.lava_runtime.membranes import Overflow

ELEMENTS_AT_ONCE = 2**18
"""Of the widest activation, where there are no tokens."""
TOKENS_AT_ONCE = 256
"""A batch is worked off in parts whose activations stay in the processor's cache: 1.4 times as fast at 384 wide."""


@dataclass(frozen=True)
class Signal:
    """value: (rows, tokens, width), without tokens (rows, …), or (rows, heads, tokens, tokens); in units of
    FixedPoint.scale where there is one. Rows are the inputs, those of a block of steps one behind another.

    sent, active: where these are spikes, how many each token sent, and how many of its neurons sent any: (rows, tokens,
    1); or the same of each element, (rows, …). One array where no neuron sends more than one.
    """

    value: np.ndarray
    sent: np.ndarray | None = None
    active: np.ndarray | None = None


def arithmetic(graph: Graph, overflow: Overflow = "error") -> Arithmetic:
    """The arithmetic that `graph` asks for."""
    return IntegerArithmetic(graph, overflow) if graph.fixed_point else FloatArithmetic(graph)


class Emulator:
    """Raises OverflowingError, when running, for values that do not fit and overflow "error"."""

    def __init__(self, graph: Graph, overflow: Overflow = "error") -> None:
        self.graph, self.shapes, self.spiking = graph, graph.shapes(), graph.spiking
        self.arithmetic = arithmetic(graph, overflow)
        self.decisions: dict[str, Decision] | None = None  # found when a batch is worth it

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
        seen = bool(record) or observe
        real = np.ones_like(inputs.real) if seen or not self.graph.has_tokens else inputs.real
        lengths = real.shape[1] - real[:, ::-1].argmax(1)  # what lies beyond is padding that nobody looks at
        parts = list(self._parts(lengths))
        decided = self._decisions(record, observe) if len(parts) > 1 else {}

        def part(rows: np.ndarray) -> Run:
            tokens = int(lengths[rows[0]])
            some = inputs.rows(rows).cut(tokens) if tokens < real.shape[1] else inputs.rows(rows)
            return _Run(self, some, record, observe, self._inputs_at_once(tokens), decided).run()

        with _several_threads(len(parts)) as over:
            return joined(list(over(part, parts))).rows(np.argsort(np.concatenate(parts)))

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

    def _decisions(self, record: Record, observe: bool) -> dict[str, Decision]:
        """Those whose nodes nobody looks at."""
        if observe or record is True or not isinstance(self.arithmetic, IntegerArithmetic):
            return {}
        if self.decisions is None:
            self.decisions = decisions(self.arithmetic)
        seen = set(record or ())
        return {name: d for name, d in self.decisions.items() if seen.isdisjoint((d.head, *d.between, name))}

    def _parts(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of inputs that are run together, the longest first."""
        order = np.argsort(-lengths, kind="stable")
        while len(order):
            together = self._inputs_at_once(int(lengths[order[0]]))
            yield order[:together]
            order = order[together:]

    def _inputs_at_once(self, tokens: int) -> int:
        if self.graph.has_tokens:
            return max(1, TOKENS_AT_ONCE // tokens)
        return max(1, ELEMENTS_AT_ONCE // max(math.prod(sizes(s, tokens)) for s in self.shapes.values()))


class EmulatedStream:
    """An emulator that gets its input piece by piece and keeps its state between them.

    Raises GraphError for a network whose steps do not follow one another, or that answers at the end of a run only.
    """

    def __init__(self, graph: Graph, overflow: Overflow = "error") -> None:
        if graph.has_tokens or graph.schedule != "concurrent" or any(node.at_end for node in graph.nodes.values()):
            raise GraphError("only a network that takes its tokens in time answers after each")
        emulator, nothing = Emulator(graph, overflow), Entering({}, {}, np.ones((1, 1), bool))
        self._run = _Run(emulator, nothing, (*graph.of_type(Neuron), *graph.analog), False, at_once=1)

    def send(self, values: dict[str, np.ndarray], steps: int) -> Run:
        """`steps` steps of constant values (…) of each Input: what these did, as one input; its events are theirs."""
        run = self._run
        run.result = Run()
        for kept in (*run.spikes.values(), *run.analog.values()):
            kept.clear()
        for name, value in values.items():
            run.inputs.values[name] = np.broadcast_to(value, (1, steps, *value.shape))
        together = 1 if self._run.graph.feedback else steps
        for t in range(0, steps, together):
            run.go_on(range(t, t + together))
        return run.recorded()


@contextmanager
def _several_threads(parts: int) -> Iterator[Any]:
    """A `map` for so many parts: over the threads that OMP_NUM_THREADS allows, or all processors, and BLAS with one."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    threads = min(parts, int(allowed) if allowed.isdigit() else os.cpu_count() or 1)
    if threads <= 1:
        yield map
        return
    with _thread_pools().limit(limits=1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        yield pool.map


@cache
def _thread_pools() -> Any:
    """Those of the libraries that are loaded; finding them takes as long as running some texts."""
    from threadpoolctl import ThreadpoolController  # Lava's worker, which runs one program by one, goes without

    return ThreadpoolController()


class _Run:
    """Of a part of a batch. at_once: rows that nodes work off together. decided: neuron layers that are."""

    def __init__(
        self,
        emulator: Emulator,
        inputs: Entering,
        record: Record,
        observe: bool,
        at_once: int,
        decided: Mapping[str, Decision] = MappingProxyType({}),
    ) -> None:
        self.decided, self.heads = decided, {decision.head for decision in decided.values()}
        self.between = {name for decision in decided.values() for name in decision.between}
        self.graph, self.arithmetic, self.inputs = emulator.graph, emulator.arithmetic, inputs
        self.shapes, self.spiking = emulator.shapes, emulator.spiking
        self.phased = self.graph.schedule == "phased"
        self.batch = len(inputs.real)
        alone = self.phased or bool(self.graph.feedback)  # the next step needs what the last node of this one sends
        self.block = 1 if alone else min(self.graph.time_steps, max(1, at_once // self.batch))
        self.observe = observe or record is True
        self.record = set(self.graph.nodes) if record is True else set(record or ())
        self.rated = set(self.graph.of_type(Neuron)) if self.observe else self.record
        self.membranes: dict[str, State] = {}
        self.sent: dict[str, State] = {}
        self.analog: dict[str, list[np.ndarray]] = {name: [] for name in self.graph.analog if name in self.record}
        self.spikes: dict[str, list[np.ndarray]] = {
            name: [] for name in self.graph.of_type(Neuron) if name in self.record
        }
        self.before: dict[str, Signal] = {}
        at_end = [name for name, node in self.graph.nodes.items() if node.at_end]
        read_at_end = (source for name in at_end for source in self.graph.inputs[name])
        self.gathered: dict[str, Any] = {source: 0 for source in read_at_end if source not in at_end}
        self.result = Run()

    def run(self) -> Run:
        passes = self.graph.feedback_sweeps if self.phased else self.graph.time_steps
        for t in range(0, passes, self.block):
            self.go_on(range(t, min(t + self.block, passes)))
        self._read_out(self.gathered)
        return self.recorded()

    def go_on(self, t: range) -> None:
        """These steps; phased, sweeps."""
        graph, signals = self.graph, dict[str, Signal]()
        self.context = self.inputs.context(len(t))
        for name, node in graph.nodes.items():
            if node.at_end:
                continue
            at_ports = tuple(
                self._fed_back(self.before, name, port) if (name, port) in graph.feedback else signals[source]
                for port, source in zip(node.ports, graph.inputs[name], strict=True)
            )
            self._count(name, at_ports)
            signals[name] = self._signal(name, t, at_ports)
            self._observe(name, signals[name].value, t.start)
            if name in self.analog:
                self.analog[name] += self._steps(self.arithmetic.real(name, signals[name].value))
            if name in self.gathered:
                self.gathered[name] = self._gather(name, signals[name].value, self.gathered[name], t.start)
        self.before = signals

    def recorded(self) -> Run:
        """What was done, and kept of it."""
        kept = {name: signal.value[-self.batch :] for name, signal in self.before.items() if name in self.record}
        self.result.messages = kept
        self.result.spikes = {name: np.stack(steps, 1) for name, steps in self.spikes.items()}
        self.result.potentials = {name: self.membranes[name].u for name in self.spikes}
        self.result.analog = {name: np.stack(steps, 1) for name, steps in self.analog.items()}
        return self.result

    def _signal(self, name: str, t: range, at_ports: tuple[Signal, ...]) -> Signal:
        node = self.graph.nodes[name]
        if name in self.heads:
            assert isinstance(self.arithmetic, IntegerArithmetic)
            return Signal(self.arithmetic.unfinished(name, self.context, *(signal.value for signal in at_ports)))
        if name in self.between:
            return at_ports[0]
        if name in self.decided:
            return self._counted(self.decided[name].counts(at_ports[0].value).astype(np.float32))
        match node:
            case Input():
                return self._enter(name, node, t)
            case Neuron():
                return self._window(name, at_ports[0].value) if self.phased else self._stepped(name, node, at_ports[0])
            case Stateful():
                return self._stepped(name, node, at_ports[0])
        value = self.arithmetic.evaluate(name, tuple(signal.value for signal in at_ports), self.context)
        sent = [signal.sent for signal in at_ports if signal.sent is not None]
        active = [signal.active for signal in at_ports if signal.active is not None]
        if not node.hands_on_spikes or len(sent) < len(at_ports):
            return Signal(value)
        as_value = type(node).sent is Node.sent and all(signal.sent is signal.value for signal in at_ports)
        spikes = value if as_value else self._handed_on(node, sent)
        once = all(one is other for one, other in zip(sent, active, strict=True))
        return Signal(value, spikes, spikes if once else self._handed_on(node, active))

    def _handed_on(self, node: Node, sent: list[np.ndarray]) -> np.ndarray:
        numbers: np.ndarray = np.sum(sent, 0) if self.graph.has_tokens else node.sent(self.context, *sent)
        return numbers

    def _enter(self, name: str, node: Input, t: range) -> Signal:
        values, time_steps = self.inputs.values[name], self.graph.time_steps
        if values.ndim == 1 + len(node.shape()):
            values = np.broadcast_to(values[:, None], (len(values), time_steps, *values.shape[1:]))
        steps = self.arithmetic.enter(name, values if self.phased else values[:, t.start : t.stop])
        if self.phased:  # in a window, of T values that each fit
            value, sent = steps.sum(1), (steps != 0).sum(1)
        else:
            value = np.ascontiguousarray(steps.swapaxes(0, 1)).reshape(-1, *steps.shape[2:])
            sent = (value != 0).astype(np.int32)
        value = self.arithmetic.checked(name, value)
        return self._spikes(value, sent) if node.spiking else Signal(value)

    def _spikes(self, value: np.ndarray, sent: np.ndarray, once: bool = False) -> Signal:
        """sent: how many spikes of each element; once: no more than one."""
        if not self.graph.has_tokens:
            return Signal(value, sent, sent if once else (sent != 0).astype(sent.dtype))
        return Signal(value, sent.sum(-1, keepdims=True), np.count_nonzero(sent, -1, keepdims=True))

    @staticmethod
    def _counted(value: np.ndarray) -> Signal:
        """Spikes of tokens that are whole numbers in float32: BLAS adds them up, and all sums are small."""
        sizes, ones = np.abs(value).reshape(-1, value.shape[-1]), np.ones(value.shape[-1], np.float32)
        numbers = (each.reshape(*value.shape[:-1], 1) for each in (sizes @ ones, np.minimum(sizes, 1) @ ones))
        return Signal(value, *numbers)

    def _window(self, name: str, drive: np.ndarray) -> Signal:
        shape, drive, node = drive.shape, self.arithmetic.at_port(name, 0, drive), self.arithmetic.neuron(name)
        if name not in self.spikes and self.arithmetic.has_closed_form(name, drive):
            value = self.arithmetic.closed_form(name, drive)
            return self._spikes(value, self.arithmetic.spike_count(name, value))
        self.membranes[name] = self.arithmetic.membrane(name, shape)  # a window starts afresh
        steps = [self.membranes[name].step(drive) for _ in range(self.graph.time_steps)]
        self._keep(name, node, steps)
        value = sum(s * weight for s, weight in zip(steps, self.arithmetic.emission_weights(name), strict=True))
        return self._spikes(value, np.stack([node.events(s) for s in steps]).sum(0, np.int64))

    def _stepped(self, name: str, node: Stateful, signal: Signal) -> Signal:
        """A layer that keeps a state, step by step."""
        if name not in self.membranes:
            self.membranes[name] = self.arithmetic.membrane(name, signal.value[: self.batch].shape)
        drive = self._steps(self.arithmetic.at_port(name, 0, signal.value))
        steps = [self.membranes[name].step(one) for one in drive]
        if isinstance(node, Neuron):
            self._keep(name, node, steps)
            value = np.concatenate(steps)
            return self._spikes(value, node.events(value), once=node.spikes != "several")
        value = self.arithmetic.checked(name, np.concatenate(steps))
        if not node.hands_on_spikes or signal.sent is None or signal.active is None:
            return Signal(value)
        both = [self._steps(spikes) for spikes in (signal.sent, signal.active)]
        if name not in self.sent:
            self.sent[name] = node.at_rest((2, *both[0][0].shape), np.int64)
        counts = [self.sent[name].step(np.stack(one)) for one in zip(*both, strict=True)]
        return Signal(value, *np.concatenate(counts, 1))

    def _steps(self, rows: np.ndarray) -> list[np.ndarray]:
        """Those of each step of a block."""
        return list(rows.reshape(-1, self.batch, *rows.shape[1:]))

    def _keep(self, name: str, node: Neuron, steps: Iterable[np.ndarray]) -> None:
        if name in self.spikes:
            self.spikes[name] += [s.astype(node.spike_type) for s in steps]

    def _observe(self, name: str, value: np.ndarray, t: int | None = None) -> None:
        """t: the first of its steps, of a node that runs in every step."""
        result = self.result
        if self.observe:
            largest = float(np.abs(self.arithmetic.real(name, value)).max())
            result.largest[name] = max(result.largest.get(name, 0), largest)
        if name not in self.rated or t is None or not isinstance(self.graph.nodes[name], Neuron):
            return
        if self.phased:
            result.rates[name] = self.arithmetic.real(name, value)
            return
        steps, weights = self._steps(value), self.arithmetic.emission_weights(name) * self.arithmetic.rate_unit(name)
        for s, weight in zip(steps, weights[t:], strict=False):
            result.rates[name] = result.rates.get(name, 0) + s * weight

    def _gather(self, name: str, value: np.ndarray, before: Any, t: int) -> np.ndarray:
        """Towards the average over the run, which a window is already."""
        if self.phased:
            return value
        for one, weight in zip(self._steps(value), self.arithmetic.pooling_weights(name)[t:], strict=False):
            before = before + one * weight
        gathered: np.ndarray = before
        return gathered

    def _fed_back(self, before: dict[str, Signal], name: str, port: str) -> Signal:
        source, (batch, tokens) = self.graph.source(name, port), self.inputs.real.shape
        silence = np.zeros((batch, *sizes(self.shapes[source], tokens)), self.arithmetic.dtype)
        if (
            source not in before and name in self.spiking
        ):  # silence is no spikes, and no reason to take others for graded
            return self._spikes(silence, silence, once=True)
        return before.get(source, Signal(silence))

    def _read_out(self, gathered: dict[str, np.ndarray]) -> None:
        for name, node in self.graph.nodes.items():
            if node.at_end:
                sources = tuple(gathered[source] for source in self.graph.inputs[name])
                gathered[name] = self.arithmetic.evaluate(name, sources, self.inputs.context())
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
            if signal.sent is None or signal.active is None:
                continue
            reach, result = node.reach(self.context, signal.value.shape), self.result
            sent = self._caused(signal.sent, reach)
            active = sent if signal.active is signal.sent else self._caused(signal.active, reach)
            for kind, caused in zip(COUNTS, (*sent, *active), strict=True):
                counts = getattr(result, kind)
                counts[name, port] = counts.get((name, port), 0) + caused

    def _caused(self, spikes: np.ndarray, reach: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """How many spikes each input's rows hold, and how many accumulations these cause."""
        if self.graph.has_tokens:
            spikes = spikes.astype(np.int64) * self.context.real[..., None]
            events = spikes.reshape(len(spikes), -1).sum(1)
            operations = (spikes * reach).reshape(len(spikes), -1).sum(1) if np.ndim(reach) else events * reach
        else:  # whole numbers in float64, for which there is a product that is fast
            rows = spikes.reshape(len(spikes), -1).astype(np.float64, copy=False)
            events = rows.sum(1)
            operations = rows @ np.broadcast_to(reach, spikes.shape[1:]).ravel() if np.ndim(reach) else events * reach
        return tuple(each.reshape(-1, self.batch).sum(0).astype(np.int64) for each in (events, operations))
