"""What every executor of a layer graph has in common: the same inputs, the same result.

Executors are devices of one kind: the torch student, the interpreter, the emulator and Lava, which
neurotool/api/executors.py lists.
"""

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

import numpy as np

from neurotool.graph import Context, Graph, Input, Node, Stateful, Synapse
from neurotool.graph.nodes import State

Inputs = dict[str, Any]
"""Keyword arguments of `simulate` for one input, of `Executor.run` for a batch."""
Record = bool | Collection[str]
"""Names of the nodes whose spikes, rates, potentials and messages are kept; True for all, False for none."""
COUNTS = ("events", "synaptic_operations", "active", "active_operations")
PER_NODE = ("rates", "messages", "spikes", "potentials", "analog")


@dataclass(frozen=True)
class SynapseEvents:
    """What one port of a Linear, Conv1d or MatMul received from spiking layers during the run.

    events: spikes (nonzero elements, one per time step) sent to it by tokens that are not padding.
    synaptic_operations: accumulations these caused: events times fan-out. Fan-out counts tokens that are not padding
      and every weight, zero or not: Linear, its outputs; Conv1d, its outputs times the tokens within reach; MatMul,
      the tokens (key j is added to the scores of all queries i, value j to the context of all queries i). Where both
      operands of a MatMul spike, each port has its own count.
    active, active_operations: the same two where the spikes of a window, which are known before they are sent, count
      once: neurons that sent any, and these times the fan-out. In the concurrent schedule a window is one step.
    Spikes that several layers send through an Add (a residual stream) or a Concat arrive as separate events.
    """

    events: int
    synaptic_operations: int
    active: int = 0
    active_operations: int = 0

    def __add__(self, other: "SynapseEvents") -> "SynapseEvents":
        return SynapseEvents(*map(operator.add, vars(self).values(), vars(other).values()))


@dataclass(frozen=True)
class Simulation:
    """What one input did.

    spikes: per Neuron node, int8 (int32 of several in a step), (steps, tokens, width), counts where messages are
      graded; steps is T, in the phased schedule T * feedback_sweeps, and step 0 is the first of the layer's own window.
    potentials: per Neuron node, (tokens, width) after the last step, in units of the threshold.
    rates: per Neuron node its average spiking rate (tokens, width), of the last sweep.
    events: per (node, port) that reads spikes.
    logits: (labels,); None where the graph has no Readout.
    messages: per node its last output.
    analog: per node of Graph.analog its value in every step (phased: sweep), real numbers, (steps, …); of one that acts
      at the end, once.
    """

    spikes: dict[str, np.ndarray]
    potentials: dict[str, np.ndarray]
    rates: dict[str, np.ndarray]
    events: dict[tuple[str, str], SynapseEvents]
    logits: np.ndarray | None
    messages: dict[str, np.ndarray] = field(default_factory=dict)
    analog: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Run:
    """What a batch did. Integers of a fixed-point graph are in units of `FixedPoint.scale` of their node.

    logits: (inputs, labels), real numbers; None without a Readout.
    events, synaptic_operations, active, active_operations: int64 (inputs,) for each (node, port) that reads spikes: see
      SynapseEvents.

    Of the nodes that are recorded:
    rates: average spiking rate of every neuron layer, (inputs, tokens, width), real numbers; of the last sweep.
    spikes: int8 (int32 of several in a step), (inputs, steps, tokens, width) of every neuron layer; steps is T, in the
      phased schedule T * feedback_sweeps, and step 0 is the first of the layer's own window.
    potentials: (inputs, tokens, width) after the last step; in units of the threshold for a graph of real numbers.
    messages: last output of every node; torch has none.
    analog: of nodes of Graph.analog, real numbers, (inputs, steps or sweeps, …), see Simulation. Torch has none.

    largest: max |output| of every node, padding included, real numbers; of an emulator that observes.
    sent: spikes that each token of a neuron layer sent in each sweep (phased) or step (concurrent), and its neurons
      that sent any, int64 (inputs, passes, tokens, 2); of executors whose events are counted from it. Without tokens
      of each neuron, (inputs, passes, …, 2).
    """

    logits: np.ndarray | None = None
    events: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    synaptic_operations: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    active: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    active_operations: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    rates: dict[str, np.ndarray] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    messages: dict[str, np.ndarray] = field(default_factory=dict)
    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    potentials: dict[str, np.ndarray] = field(default_factory=dict)
    sent: dict[str, np.ndarray] = field(default_factory=dict)
    analog: dict[str, np.ndarray] = field(default_factory=dict)

    def keep(self, record: Record) -> "Run":
        """The same with no other nodes than these."""
        if record is not True:
            names = set(record or ())
            for kind in PER_NODE:
                setattr(self, kind, {name: x for name, x in getattr(self, kind).items() if name in names})
        return self

    def rows(self, rows: np.ndarray) -> "Run":
        """Some inputs, or all in another order."""
        kept = {kind: {key: x[rows] for key, x in getattr(self, kind).items()} for kind in (*COUNTS, "sent", *PER_NODE)}
        return Run(logits=None if self.logits is None else self.logits[rows], largest=self.largest, **kept)

    def one(self, i: int) -> Simulation:
        """What the i-th input did."""
        per_node = ({name: x[i] for name, x in getattr(self, kind).items()} for kind in PER_NODE)
        rates, messages, spikes, potentials, analog = per_node
        events = {port: SynapseEvents(*(int(getattr(self, kind)[port][i]) for kind in COUNTS)) for port in self.events}
        logits = None if self.logits is None else self.logits[i]
        return Simulation(spikes, potentials, rates, events, logits, messages, analog)

    def count_events(self, graph: Graph, inputs: Inputs, real: np.ndarray) -> "Run":
        """Fills the counts of events from `sent`; real: (inputs, tokens), False for padding."""
        for arrived in self._arriving(graph, inputs, real):
            self._add(graph, arrived, Context(real))
        return self

    def pieces(self, graph: Graph, inputs: Inputs, real: np.ndarray, passes: int) -> list["Run"]:
        """Cut in time, with the spikes, analog values and events of `passes` passes each."""
        arrived = list(self._arriving(graph, inputs, real))
        found = []
        for start in range(0, len(arrived), passes):
            steps = slice(start, start + passes)
            spikes, analog = (
                {name: x[:, steps] for name, x in values.items()} for values in (self.spikes, self.analog)
            )
            found.append(Run(spikes=spikes, analog=analog))
            for one in arrived[steps]:
                found[-1]._add(graph, one, Context(real))
        return found

    def _arriving(self, graph: Graph, inputs: Inputs, real: np.ndarray) -> "Iterator[Arrived]":
        sent = self.sent | {name: _entered(graph, name, inputs) for name in graph.of_type(Input)}
        return _arriving(graph, sent, Context(real))

    def _add(self, graph: Graph, arrived: "Arrived", context: Context) -> None:
        """The events of one pass."""
        for (name, port), (spikes, active) in arrived.items():
            node = graph.nodes[name]
            assert isinstance(node, Synapse)
            reach = node.reach(context, spikes.shape)
            for kind, caused in zip(COUNTS, (spikes, spikes * reach, active, active * reach), strict=True):
                counts = getattr(self, kind)
                counts[name, port] = counts.get((name, port), 0) + caused.reshape(len(caused), -1).sum(1)


class Executor(Protocol):
    """Runs a layer graph. Raises DataError for inputs that the graph cannot take."""

    graph: Graph

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
    ) -> Run:
        """Run a batch.

        input_ids, token_type_ids, attention_mask (1 = token, 0 = padding): (inputs, tokens) integers; values: for every
        Input node (inputs, tokens, width), or its shape behind the inputs, constant, or (inputs, T, …), one a step.
        """

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        """Spikes (T, n, width) of one neuron layer by itself under constant currents (n, width); without tokens, under
        (n, …) in the shape of the layer."""


def batched(inputs: list[Simulation]) -> Run:
    """One run of several inputs of one length."""
    run, first = Run(), inputs[0]
    for kind in PER_NODE:
        setattr(
            run, kind, {name: np.stack([getattr(one, kind)[name] for one in inputs]) for name in getattr(first, kind)}
        )
    for kind in COUNTS:
        setattr(
            run, kind, {port: np.array([getattr(one.events[port], kind) for one in inputs]) for port in first.events}
        )
    if first.logits is not None:
        run.logits = np.stack([one.logits for one in inputs if one.logits is not None])
    return run


def joined(runs: list[Run]) -> Run:
    """One batch of several."""

    def of(name: str) -> dict[Any, np.ndarray]:
        return {key: np.concatenate([getattr(run, name)[key] for run in runs]) for key in getattr(runs[0], name)}

    largest = {name: max(run.largest[name] for run in runs) for name in runs[0].largest}
    known = [run.logits for run in runs if run.logits is not None]
    parts = {name: of(name) for name in (*COUNTS, "sent", *PER_NODE)}
    return Run(logits=np.concatenate(known) if known else None, largest=largest, **parts)


def stacked(inputs: Iterable[Inputs]) -> Inputs:
    """Several inputs of one length as a batch."""
    rows = list(inputs)
    return {
        name: {key: np.stack([np.asarray(one[name][key]) for one in rows]) for key in value}
        if isinstance(value, dict)
        else np.stack([np.asarray(one[name]) for one in rows])
        for name, value in rows[0].items()
        if value is not None
    }


def unstacked(batch: Mapping[str, Any]) -> list[Inputs]:
    """The inputs of a batch, one by one."""
    arrays = {name: value for name, value in batch.items() if value is not None and name != "values"}
    values = batch.get("values") or {}
    count = len(next(iter([*arrays.values(), *values.values()]), ()))
    rows = [{name: np.asarray(array)[i] for name, array in arrays.items()} for i in range(count)]
    if values:
        for i, row in enumerate(rows):
            row["values"] = {name: np.asarray(x)[i] for name, x in values.items()}
    return rows


def runs(executor: Executor, inputs: Iterable[Inputs], at_once: int = 1) -> Iterator[tuple[Inputs, Simulation]]:
    """Every input with what the executor did with it, all recorded; `at_once`: inputs that run together."""
    remaining = iter(inputs)
    while part := list(islice(remaining, at_once)):
        run = executor.run(**stacked(part), record=True)
        yield from ((one, run.one(i)) for i, one in enumerate(part))


def sent_of(spikes: np.ndarray, has_tokens: bool) -> np.ndarray:
    """One pass in `Run.sent` from the numbers of spikes (…, tokens, width), or without tokens of each neuron."""
    active = (spikes != 0).astype(np.int64)
    if has_tokens:
        return np.stack([spikes.sum(-1), active.sum(-1)], -1)
    return np.stack([spikes, active], -1)


def sent_in_passes(spikes: np.ndarray, passes: int, has_tokens: bool = True) -> np.ndarray:
    """`Run.sent` of one layer from what it sent, `Neuron.events` (inputs, steps, …)."""
    inputs, _, *shape = spikes.shape
    return sent_of(spikes.astype(np.int64).reshape(inputs, passes, -1, *shape).sum(2), has_tokens)


def _entered(graph: Graph, name: str, inputs: Inputs) -> np.ndarray | None:
    """`sent` of an Input node, None where it holds no spikes."""
    node = graph.nodes[name]
    assert isinstance(node, Input)
    if not node.spiking:
        return None
    spikes = np.asarray(inputs["values"][name]) != 0
    steps = spikes if spikes.ndim == 2 + len(node.shape()) else np.repeat(spikes[:, None], graph.time_steps, 1)
    if graph.schedule == "concurrent":
        return sent_in_passes(steps, graph.time_steps, graph.has_tokens)
    return sent_in_passes(steps, 1, graph.has_tokens).repeat(graph.feedback_sweeps, 1)


Arrived = dict[tuple[str, str], np.ndarray]
"""Of each (node, port) that adds up spikes: spikes and active neurons, (2, inputs, tokens, 1), or without tokens
(2, inputs, …)."""


def _arriving(graph: Graph, sent: Mapping[str, np.ndarray | None], context: Context) -> Iterator[Arrived]:
    """What arrives in each pass, of spikes that nodes such as Add hand on."""
    known = {name: np.moveaxis(counts, -1, 0) for name, counts in sent.items() if counts is not None}
    states: dict[str, State] = {}
    before: dict[str, np.ndarray] = {}
    for i in range(next((counts.shape[2] for counts in known.values()), 0)):
        arrived: Arrived = {}
        passing = {name: counts[:, :, i] for name, counts in known.items()}
        if graph.has_tokens:
            passing = {name: counts[..., None] * context.real[..., None] for name, counts in passing.items()}
        for name, node in graph.nodes.items():
            ports = list(zip(node.ports, graph.inputs[name], strict=True))
            back = [(name, port) in graph.feedback for port, _ in ports]
            at_ports = [
                (before if late else passing).get(source) for late, (_, source) in zip(back, ports, strict=True)
            ]
            if isinstance(node, Synapse):
                arrived |= {
                    (name, port): spikes
                    for (port, _), spikes in zip(ports, at_ports, strict=True)
                    if spikes is not None
                }
            elif node.hands_on_spikes and name in graph.spiking:
                there = [spikes for spikes in at_ports if spikes is not None]
                passing[name] = _handed_on(graph, node, context, there, states, name)
        before = passing
        yield arrived


def _handed_on(
    graph: Graph, node: Node, context: Context, there: list[np.ndarray], states: dict[str, State], name: str
) -> np.ndarray:
    """Numbers of spikes behind a node, from those at its ports."""
    if isinstance(node, Stateful):
        return states.setdefault(name, node.at_rest(there[0].shape, np.int64)).step(there[0])
    silent = [np.zeros_like(there[0])] * (len(node.ports) - len(there))  # of feedback in the first pass
    return np.sum(there, 0) if graph.has_tokens else node.sent(context, *there, *silent)
