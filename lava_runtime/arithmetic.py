"""What each node of a layer graph computes, in integers (fixed-point graphs) and in float64 (others).

Emulator and Lava processes share it; they differ in when a node runs and on what. Arrays have any number of leading
batch axes: activations (…, tokens, width), attention matrices (…, heads, tokens, tokens).
"""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from neurotool.graph import Add, Concat, Conv1d, Embedding, Graph, Linear, MatMul, Neuron, Node, Readout


class Membrane(ABC):
    """Potentials `u` of one neuron layer, stepped."""

    u: np.ndarray

    @abstractmethod
    def step(self, drive: np.ndarray) -> np.ndarray:
        """Spikes -1, 0, 1 for one step of a drive as `Arithmetic.at_port` gives it."""


class Arithmetic(ABC):
    """What is the same in integers and floats. `dtype`: of all signals."""

    dtype: Any

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def evaluate(self, name: str, inputs: tuple[np.ndarray, ...], real: np.ndarray) -> np.ndarray:
        """Output of any node but Input, Embedding and Neuron, for what arrived at its ports.

        real: (…, tokens), False for padding.
        """
        node = self.graph.nodes[name]
        x = [self.at_port(name, port, value) for port, value in enumerate(inputs)]
        match node:
            case Linear() | Conv1d():
                y = self.synapse(name, x[0], real) + self.bias(name)
            case Readout():
                y = self.synapse(name, x[0][..., None, :], real)[..., 0, :] + self.bias(name)
            case MatMul():
                y = self.multiply(name, x[0], x[1], real)
            case Add():
                y = x[0] + x[1]
            case Concat():
                y = np.concatenate(x, -1)
            case _:
                y = self.function(name, node, x[0], real)
        return self.checked(name, y)

    def synapse(self, name: str, x: np.ndarray, real: np.ndarray) -> np.ndarray:
        """What Linear, Conv1d and Readout add up, without bias. x: (…, tokens, width)."""
        node, weight = self.graph.nodes[name], self.weight(name)
        if not isinstance(node, Conv1d):
            return self.product(name, x, weight.T)
        padding = [(0, 0)] * (x.ndim - 2) + [(node.before, node.after), (0, 0)]
        padded = np.pad(x * real[..., None], padding)
        windows = [padded[..., k : k + x.shape[-2], :] for k in range(weight.shape[2])]
        return self.product(name, np.concatenate(windows, -1), np.concatenate(np.moveaxis(weight, 2, 0), 1).T)

    def multiply(self, name: str, a: np.ndarray, b: np.ndarray, real: np.ndarray) -> np.ndarray:
        """The products of a MatMul, heads split and merged."""
        node = self.graph.nodes[name]
        assert isinstance(node, MatMul)
        b = _split(b, node.heads)
        if node.transpose_b:
            return self.product(name, _split(a, node.heads), b.swapaxes(-1, -2))
        context = self.product(name, a * real[..., None, None, :], b).swapaxes(-2, -3)
        return context.reshape(*context.shape[:-2], -1)

    def look_up(self, name: str, ids: np.ndarray) -> np.ndarray:
        """Rows of an Embedding."""
        node = self.graph.nodes[name]
        assert isinstance(node, Embedding)
        return node.weight[ids].astype(self.dtype)

    @abstractmethod
    def weight(self, name: str) -> np.ndarray:
        """The node's weight in the type that `product` multiplies."""

    @abstractmethod
    def bias(self, name: str) -> np.ndarray:
        """In units of the output; 0 where the node has none."""

    @abstractmethod
    def at_port(self, name: str, port: int, x: np.ndarray) -> np.ndarray:
        """x in the units that the node computes in."""

    @abstractmethod
    def product(self, name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The matrix product a b, in units of the output of `name`."""

    @abstractmethod
    def function(self, name: str, node: Node, x: np.ndarray, real: np.ndarray) -> np.ndarray:
        """Softmax, LayerNorm, Gelu, Scale, MeanPool."""

    @abstractmethod
    def checked(self, name: str, y: np.ndarray) -> np.ndarray:
        """y, or what becomes of it where it leaves the range of a message."""

    @abstractmethod
    def membrane(self, name: str, shape: tuple[int, ...]) -> Membrane:
        """At rest, of a layer of `shape`."""

    @abstractmethod
    def has_closed_form(self, name: str, drive: np.ndarray) -> bool:
        """Whether a neuron layer's window under this drive may be computed without stepping."""

    @abstractmethod
    def closed_form(self, name: str, drive: np.ndarray) -> np.ndarray:
        """What a window hands on, of a layer of IF neurons with soft reset, without stepping."""

    @abstractmethod
    def spike_count(self, name: str, value: np.ndarray) -> np.ndarray:
        """How many spikes sent the value of a closed form."""

    @abstractmethod
    def enter(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values of an Input, one for each step (…, steps, tokens, width), so that their sum is what it hands on."""

    @abstractmethod
    def real(self, name: str, y: np.ndarray) -> np.ndarray:
        """float64 numbers that the output y of a node stands for."""

    @abstractmethod
    def emission_weights(self, name: str) -> np.ndarray:
        """(T, 1) or (T, width): what a spike of each step of a window counts in the value that is handed on."""

    @abstractmethod
    def rate_unit(self, name: str) -> float:
        """What 1 stands for in a sum of spikes times emission weights: their sum, as a rate."""

    def pooling_weights(self, name: str) -> np.ndarray:
        """(T, 1) or (T, width): what the value of each step counts in the average that a MeanPool reads."""
        if isinstance(self.graph.nodes[name], Neuron):
            return self.emission_weights(name)
        return np.full((self.graph.time_steps, 1), self.one_step)

    one_step: Any
    """What one of T equal steps counts in an average."""


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """(…, tokens, width) -> (…, heads, tokens, width / heads)."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)
