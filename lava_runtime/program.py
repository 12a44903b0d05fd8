"""What the process of one part does in a step, without Lava: it takes arrays of numbers and gives arrays of numbers.

A Program runs the inputs of a batch one after another; time step t belongs to input t // time_line.steps.
"""

from typing import Any

import numpy as np

from neurotool.executor import Run
from neurotool.graph import Input, Neuron, Node, Readout
from neurotool.graph.nodes import sizes
from neurotool.lava_runtime.arithmetic import Membrane
from neurotool.lava_runtime.emulator import Entering, arithmetic
from neurotool.lava_runtime.integer import Overflow
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
            self.context = self.inputs.rows(self.input).context
            self.membranes: dict[str, Membrane] = {}
            self.spikes: dict[str, list[np.ndarray]] = {name: [] for name in self.record}
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
            elif isinstance(node, (Input, Neuron)):
                if first <= self.at < first + self.time_line.window:
                    self._enter(name) if isinstance(node, Input) else self._fire(name, self.at - first)
            elif name in self.time_line.passing:
                self._pass_on(name)
            elif self.at == first:
                self._evaluate(name)
        return self.leaving

    def end_step(self) -> None:
        """Keep what the input gave, after its last step."""
        if not self.running or (self.t + 1) % self.time_line.steps:
            return
        for name in self.record:
            self.result.messages[name] = self._total(name)
            if name in self.membranes:
                node = self.graph.nodes[name]
                assert isinstance(node, Neuron)
                self.result.spikes[name] = np.array(self.spikes[name], node.spike_type)
                self.result.potentials[name] = self.membranes[name].u
        self.results.append(self.result)

    def _evaluate(self, name: str) -> None:
        sources = self.graph.inputs[name]
        if self.part.feedback:
            at_ports = tuple(self.before.get(source, self.silence(source)) for source in sources)
        else:
            at_ports = tuple(self._total(source) for source in sources)
        self._send(name, self.arithmetic.evaluate(name, at_ports, self.context))

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
        if values.ndim == 3:
            values = values[self.at if self.phased else self.sweep]
        self._send(name, self.arithmetic.enter(name, values))

    def _fire(self, name: str, step: int) -> None:
        """One step of a neuron layer: the `step`-th of its window."""
        if name not in self.membranes or (self.phased and step == 0):
            self.membranes[name] = self.arithmetic.membrane(name, self.silence(name).shape)
        if step == 0:
            self.drive = self.arithmetic.at_port(name, 0, self._total(self.graph.inputs[name][0]))
        s = self.membranes[name].step(self.drive)
        if name in self.record:
            self.spikes[name].append(s)
        sent = self.result.sent.setdefault(name, np.zeros((self.time_line.sweeps, len(s), 2), np.int64))
        self.counts: np.ndarray = np.abs(s) + (self.counts if step else 0)  # of the window so far
        sent[self.sweep] = np.stack([self.counts.sum(-1), np.count_nonzero(self.counts, -1)], -1)
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
