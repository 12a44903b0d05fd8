"""What the process of one part does in a step, without Lava: it takes arrays of numbers and gives arrays of numbers.

A Program runs the inputs of a batch one after another; time step t belongs to input t // time_line.steps.
"""

from typing import Any

import numpy as np

from neurotool.executor import Run, sent_of
from neurotool.graph import Input, Neuron, Node, Readout, Stateful
from neurotool.graph.nodes import State, sizes
from neurotool.lava_runtime.emulator import arithmetic
from neurotool.lava_runtime.entering import Entering
from neurotool.lava_runtime.membranes import Overflow
from neurotool.lava_runtime.network import Network, Part


class Program:
    """record: nodes whose spikes, potentials and messages are kept in `results`."""

    def __init__(
        self, network: Network, part: Part, inputs: Entering, record: tuple[str, ...] = (), overflow: Overflow = "error"
    ) -> None:
        self.graph, self.time_line, self.part, self.inputs = network.graph, network.time_line, part, inputs
        self.phased = self.graph.schedule == "phased"
        self.overflow = overflow
        self.arithmetic = arithmetic(self.graph, overflow)
        self.record = tuple(name for name in part.nodes if name in record and not self.graph.nodes[name].at_end)
        self.shown = tuple(name for name in part.nodes if name in record and name in self.graph.analog)
        self.results: list[Run] = []
        self.t = -1 - network.delays[part.name]
        self.steps = len(inputs.real) * self.time_line.steps
        self._silence: dict[str, np.ndarray] = {}

    @property
    def running(self) -> bool:
        """False before its delay is over, and while parts behind it finish."""
        return 0 <= self.t < self.steps

    @property
    def finished(self) -> bool:
        """Whether this was the last step of the last input."""
        return self.t == self.steps - 1

    def begin_step(self) -> None:
        """Go on to the next step."""
        self.t += 1
        self.arriving: dict[str, np.ndarray] = {}
        self.leaving: dict[str, np.ndarray] = {}
        if not self.running:
            return
        self.input, step = divmod(self.t, self.time_line.steps)
        self.sweep, self.at = divmod(step, self.time_line.sweep_steps)
        if step == 0:
            self.context = self.inputs.rows(self.input).context()
            self.membranes: dict[str, State] = {}
            self.spikes: dict[str, list[np.ndarray]] = {name: [] for name in self.record}
            self.analog: dict[str, list[np.ndarray]] = {name: [] for name in self.shown}
            self.gathered: dict[str, Any] = {}
            self.totals: dict[str, np.ndarray] = {}
            self.result = Run()
        if self.at == 0:
            self.before, self.totals = self.totals, {}

    def receive(self, name: str, message: np.ndarray) -> None:
        """What node `name` of another part sends in this step."""
        if self.running and message.any():
            self.arriving[name] = message
            self._add(name, message)

    def act(self) -> dict[str, np.ndarray]:
        """Run the nodes; what those send that are not silent. Raises OverflowingError."""
        for name in self.part.nodes if self.running else ():
            node, first = self.graph.nodes[name], self.time_line.acts[name]
            if node.at_end:
                self._read_out(name, node)
            elif isinstance(node, (Input, Stateful)):
                if first <= self.at < first + self.time_line.window:
                    self._enter(name) if isinstance(node, Input) else self._step(name, self.at - first)
            elif name in self.time_line.passing:
                self._pass_on(name)
            elif self.at == first:
                self._evaluate(name)
            if name in self.shown and not node.at_end and self.at == self.time_line.sweep_steps - 1:
                self.analog[name].append(self.arithmetic.real(name, self._total(name)))
        return self.leaving

    def end_step(self) -> None:
        """Keep what the input gave, after its last step."""
        if not self.running or (self.t + 1) % self.time_line.steps:
            return
        for name in self.record:
            self.result.messages[name] = self._total(name)
            if isinstance(node := self.graph.nodes[name], Neuron):
                self.result.spikes[name] = np.array(self.spikes[name], node.spike_type)
                self.result.potentials[name] = self.membranes[name].u
        self.result.analog = {name: np.array(values) for name, values in self.analog.items()}
        self.results.append(self.result)

    def _evaluate(self, name: str) -> None:
        self._send(name, self.arithmetic.evaluate(name, self._at_ports(name), self.context))

    def _at_ports(self, name: str) -> tuple[np.ndarray, ...]:
        """What is complete at each port: of feedback, what came in the step or sweep before."""
        return tuple(
            self.before.get(source, self.silence(source))
            if (name, port) in self.graph.feedback
            else self._total(source)
            for port, source in zip(self.graph.nodes[name].ports, self.graph.inputs[name], strict=True)
        )

    def _pass_on(self, name: str) -> None:
        """What the spikes of this step add to the output."""
        *graded, spiking = self.graph.inputs[name]
        if spiking in self.arriving:
            complete = [self.arithmetic.at_port(name, i, self._total(source)) for i, source in enumerate(graded)]
            self._send(name, self.arithmetic.sums(name, self.context, *complete, self.arriving[spiking]))
        if self.at == 0 and (bias := self.arithmetic.bias(name)) is not None:
            self._send(name, self.silence(name) + bias)

    def _enter(self, name: str) -> None:
        values = self.inputs.values[name][self.input]
        if values.ndim > len(self.graph.nodes[name].shape()):
            values = values[self.at if self.phased else self.sweep]
        self._send(name, self.arithmetic.enter(name, values))

    def _step(self, name: str, step: int) -> None:
        """One step of a layer that keeps a state: the `step`-th of its window."""
        if name not in self.membranes or (self.phased and step == 0):
            self.membranes[name] = self.arithmetic.membrane(name, self.silence(name).shape)
        if step == 0:
            self.drive = self.arithmetic.at_port(name, 0, self._at_ports(name)[0])
        node, s = self.graph.nodes[name], self.membranes[name].step(self.drive)
        if not isinstance(node, Neuron):
            self._send(name, self.arithmetic.checked(name, s))
            return
        if name in self.record:
            self.spikes[name].append(s)
        self.counts: np.ndarray = node.events(s) + (self.counts if step else 0)  # of the window so far
        sent = sent_of(self.counts, self.graph.has_tokens)
        self.result.sent.setdefault(name, np.zeros((self.time_line.sweeps, *sent.shape), np.int64))[self.sweep] = sent
        self._send(name, s * self.arithmetic.emission_weights(name)[step] if self.phased else s)

    def _read_out(self, name: str, node: Node) -> None:
        (source,) = self.graph.inputs[name]
        if not self.graph.nodes[source].at_end and self.at == self.time_line.sweep_steps - 1:
            value = self._total(source)
            if not self.phased:
                value = value * self.arithmetic.pooling_weights(source)[self.sweep] + self.gathered.get(source, 0)
            self.gathered[source] = value
        if (self.t + 1) % self.time_line.steps == 0:
            self.gathered[name] = self.arithmetic.evaluate(name, (self.gathered[source],), self.context)
            if name in self.shown:
                self.analog[name].append(self.arithmetic.real(name, self.gathered[name]))
            if isinstance(node, Readout):
                self.result.logits = self.arithmetic.real(name, self.gathered[name])

    def silence(self, name: str) -> np.ndarray:
        """Zeros in the shape of what a node sends."""
        if name not in self._silence:
            shape = sizes(self.graph.shapes()[name], self.inputs.real.shape[1])
            self._silence[name] = np.zeros(shape, self.arithmetic.dtype)
        return self._silence[name]

    def _total(self, name: str) -> np.ndarray:
        """All that a node has sent in this sweep."""
        return self.arithmetic.checked(name, self.totals[name]) if name in self.totals else self.silence(name)

    def _send(self, name: str, message: np.ndarray) -> None:
        self.leaving[name] = self.leaving[name] + message if name in self.leaving else message
        self._add(name, message)

    def _add(self, name: str, message: np.ndarray) -> None:
        wide = np.result_type(self.arithmetic.dtype, np.int64)  # only complete sums have to fit the hardware
        self.totals[name] = np.add(self.totals.get(name, 0), message, dtype=wide)
