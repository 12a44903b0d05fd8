"""A layer graph on the emulator as a `neurotool.validate.Model`."""

from typing import Any

import numpy as np

from neurotool.graph import Graph
from neurotool.lava_runtime.emulator import Emulator
from neurotool.validate import Inputs, Run


class EmulatedModel:
    """Raises OverflowingError while running."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.emulator = Emulator(graph)

    def run(self, inputs: Inputs) -> Run:
        batch: dict[str, Any] = {name: np.asarray(value)[None] for name, value in inputs.items() if name != "values"}
        values = {name: np.asarray(value)[None] for name, value in inputs.get("values", {}).items()}
        result = self.emulator.run(**batch, values=values, record=True)
        spikes, rates = ({name: x[0] for name, x in of.items()} for of in (result.spikes, result.rates))
        return Run(spikes, rates, None if result.logits is None else result.logits[0])

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        arithmetic, source = self.emulator.arithmetic, self.graph.source(layer, "x")
        if self.graph.fixed_point:
            currents = np.rint(currents / self.graph.fixed_point[source].scale).astype(np.int64)
        membrane = arithmetic.membrane(layer, currents.shape)
        drive = arithmetic.at_port(layer, 0, currents)
        return np.stack([membrane.step(drive) for _ in range(self.graph.time_steps)]).astype(np.int8)
