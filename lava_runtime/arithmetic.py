"""What each node of a layer graph computes, in integers (fixed-point graphs) and in float64 (others).

Emulator and Lava processes share it; they differ in when a node runs and on what. Arrays have any number of leading
batch axes: activations (…, tokens, width) or of a shape without tokens, attention matrices (…, heads, tokens, tokens).
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from neurotool.graph import Context, Graph, Neuron, Node, Stateful, Weighted
from neurotool.graph.nodes import State


class Arithmetic(ABC):
    """What is the same in integers and floats. `dtype`: of all signals; `one_step`: what one of T equal steps counts in
    an average."""

    dtype: Any
    one_step: Any

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def evaluate(self, name: str, inputs: tuple[np.ndarray, ...], context: Context) -> np.ndarray:
        """Output of any node but Input and those with a state, for what arrived at its ports."""
        x = (self.at_port(name, port, value) for port, value in enumerate(inputs))
        return self.checked(name, self.compute(name, self.graph.nodes[name], context, *x))

    @abstractmethod
    def compute(self, name: str, node: Node, context: Context, *x: np.ndarray) -> np.ndarray:
        """Output of a node for x in the units that it computes in."""

    @abstractmethod
    def sums(self, name: str, context: Context, *x: np.ndarray) -> np.ndarray:
        """`Synapse.sums` of a node, in units of its output."""

    def bias(self, name: str) -> np.ndarray | None:
        """In units of the output; None where the node has none."""
        node = self.graph.nodes[name]
        return node.per_output(node.bias) if isinstance(node, Weighted) and node.bias is not None else None

    @abstractmethod
    def at_port(self, name: str, port: int, x: np.ndarray) -> np.ndarray:
        """x in the units that the node computes in."""

    @abstractmethod
    def checked(self, name: str, y: np.ndarray) -> np.ndarray:
        """y, or what becomes of it where it leaves the range of a message."""

    @abstractmethod
    def membrane(self, name: str, shape: tuple[int, ...]) -> State:
        """At rest, of a layer of `shape` that keeps a state; its drive is as `at_port` gives it."""

    @abstractmethod
    def has_closed_form(self, name: str, drive: np.ndarray) -> bool:
        """Whether a neuron layer's window under this drive may be computed without stepping."""

    @abstractmethod
    def closed_form(self, name: str, drive: np.ndarray) -> np.ndarray:
        """What a window hands on, of a layer of IF neurons with soft reset, without stepping."""

    @abstractmethod
    def spike_count(self, name: str, value: np.ndarray) -> np.ndarray:
        """How many spikes, or graded messages, sent the value of a closed form."""

    @abstractmethod
    def enter(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values of an Input, one for each step, so that their sum is what it hands on."""

    @abstractmethod
    def real(self, name: str, y: np.ndarray) -> np.ndarray:
        """float64 numbers that the output y of a node stands for."""

    @abstractmethod
    def emission_weights(self, name: str) -> np.ndarray:
        """(T, 1) or (T, …): what a spike of each step of a window counts in the value that is handed on."""

    @abstractmethod
    def rate_unit(self, name: str) -> float:
        """What 1 stands for in a sum of spikes times emission weights: their sum, as a rate."""

    def pooling_weights(self, name: str) -> np.ndarray:
        """(T, 1) or (T, …): what the value of each step counts in the average that a MeanPool reads."""
        if isinstance(self.graph.nodes[name], Neuron):
            return self.emission_weights(name)
        return np.full((self.graph.time_steps, 1), self.one_step)

    def stateful(self, name: str) -> Stateful:
        node = self.graph.nodes[name]
        assert isinstance(node, Stateful)
        return node

    def neuron(self, name: str) -> Neuron:
        node = self.graph.nodes[name]
        assert isinstance(node, Neuron)
        return node
