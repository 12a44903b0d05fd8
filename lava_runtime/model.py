"""A layer graph on the emulator as a `neurotool.validate.Model`."""

from typing import Any, NamedTuple

import numpy as np

from neurotool.graph import Graph
from neurotool.lava_runtime.emulator import Emulation, Emulator
from neurotool.simulate import SynapseEvents
from neurotool.validate import Inputs, Run


class Executed(NamedTuple):
    """spikes: int8 (steps, tokens, width) per neuron layer; events: at every (node, port) that reads spikes."""

    spikes: dict[str, np.ndarray]
    events: dict[tuple[str, str], SynapseEvents]


class EmulatedModel:
    """Raises OverflowingError while running."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.emulator = Emulator(graph)

    def run(self, inputs: Inputs) -> Run:
        result = self._emulate(inputs)
        spikes, rates = ({name: x[0] for name, x in of.items()} for of in (result.spikes, result.rates))
        return Run(spikes, rates, None if result.logits is None else result.logits[0])

    def execute(self, graph: Graph, **inputs: Any) -> Executed:
        """Spikes and executed events of one input, for operation counts. graph: the model's own."""
        result = self._emulate(inputs)
        events = {
            port: SynapseEvents(
                int(count[0]),
                int(result.synaptic_operations[port][0]),
                int(result.active[port][0]),
                int(result.active_operations[port][0]),
            )
            for port, count in result.events.items()
        }
        return Executed({name: x[0] for name, x in result.spikes.items()}, events)

    def _emulate(self, inputs: Inputs) -> Emulation:
        batch: dict[str, Any] = {name: np.asarray(value)[None] for name, value in inputs.items() if name != "values"}
        values = {name: np.asarray(value)[None] for name, value in inputs.get("values", {}).items()}
        return self.emulator.run(**batch, values=values, record=True)

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        arithmetic, source = self.emulator.arithmetic, self.graph.source(layer, "x")
        if self.graph.fixed_point:
            currents = np.rint(currents / self.graph.fixed_point[source].scale).astype(np.int64)
        membrane = arithmetic.membrane(layer, currents.shape)
        drive = arithmetic.at_port(layer, 0, currents)
        return np.stack([membrane.step(drive) for _ in range(self.graph.time_steps)]).astype(np.int8)
