"""The same nodes in float64: what `neurotool.simulate` computes, for whole batches."""

import numpy as np

from neurotool.graph import Context, GradedNeuron, Graph, Neuron, Node, Stateful, Synapse
from neurotool.graph.nodes import State
from neurotool.lava_runtime.arithmetic import Arithmetic


class FloatArithmetic(Arithmetic):
    """Neuron layers hand on rates; potentials are in units of the threshold."""

    dtype = np.float64

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.one_step = 1 / graph.time_steps

    def compute(self, name: str, node: Node, context: Context, *x: np.ndarray) -> np.ndarray:
        return node.compute(context, *x).astype(np.float64, copy=False)

    def sums(self, name: str, context: Context, *x: np.ndarray) -> np.ndarray:
        node = self.graph.nodes[name]
        assert isinstance(node, Synapse)
        return node.sums(context, *x)

    def at_port(self, name: str, port: int, x: np.ndarray) -> np.ndarray:
        node = self.graph.nodes[name]
        return node.drive(x) if isinstance(node, Stateful) else x

    def checked(self, name: str, y: np.ndarray) -> np.ndarray:
        return y

    def membrane(self, name: str, shape: tuple[int, ...]) -> State:
        node = self.stateful(name)
        window = isinstance(node, Neuron) and self.graph.schedule == "phased" and node.has_closed_form
        return node.at_rest(shape, window=window)

    def has_closed_form(self, name: str, drive: np.ndarray) -> bool:
        return self.neuron(name).has_closed_form

    def closed_form(self, name: str, drive: np.ndarray) -> np.ndarray:
        node, time_steps = self.neuron(name), self.graph.time_steps
        return node.count(drive, time_steps) / node.counts_to(time_steps)

    def emission_weights(self, name: str) -> np.ndarray:
        return self.neuron(name).emission_weights(self.graph.time_steps)

    def spike_count(self, name: str, value: np.ndarray) -> np.ndarray:
        if isinstance(self.neuron(name), GradedNeuron):
            return (value != 0).astype(np.int64)
        return np.rint(np.abs(value) * self.graph.time_steps).astype(np.int64)

    def enter(self, name: str, values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64, copy=False)
        return values / self.graph.time_steps if self.graph.schedule == "phased" else values

    def real(self, name: str, y: np.ndarray) -> np.ndarray:
        return y

    def rate_unit(self, name: str) -> float:
        return 1.0
