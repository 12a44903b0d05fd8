"""The same nodes in float64: what `neurotool.simulate` computes, for whole batches."""

import math

import numpy as np
from scipy.special import erf

from neurotool.graph import Gelu, Graph, LayerNorm, MeanPool, Neuron, Node, Scale, Softmax
from neurotool.lava_runtime.arithmetic import Arithmetic, Membrane


class FloatArithmetic(Arithmetic):
    """Neuron layers hand on rates; potentials are in units of the threshold."""

    dtype = np.float64

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.one_step = 1 / graph.time_steps

    def weight(self, name: str) -> np.ndarray:
        weight: np.ndarray = self.graph.nodes[name].weight  # type: ignore[attr-defined]
        return weight.astype(np.float64, copy=False)

    def bias(self, name: str) -> np.ndarray:
        bias: np.ndarray | None = self.graph.nodes[name].bias  # type: ignore[attr-defined]
        return np.zeros(()) if bias is None else bias.astype(np.float64)

    def at_port(self, name: str, port: int, x: np.ndarray) -> np.ndarray:
        node = self.graph.nodes[name]
        return (x + node.bias) / np.asarray(node.v_threshold, np.float64) if isinstance(node, Neuron) else x

    def product(self, name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return a @ b

    def function(self, name: str, node: Node, x: np.ndarray, real: np.ndarray) -> np.ndarray:
        match node:
            case Softmax():
                readable = real[..., None, None, :]
                e = np.exp(np.where(readable, x, -np.inf) - np.where(readable, x, -np.inf).max(-1, keepdims=True))
                return e / e.sum(-1, keepdims=True)
            case LayerNorm():
                centred = x - x.mean(-1, keepdims=True)
                deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + node.epsilon)
                return centred / deviation * node.weight + node.bias
            case Gelu():
                return x * (1 + erf(x / math.sqrt(2))) / 2
            case Scale():
                return x * node.factor
            case MeanPool(pooling="first"):
                return x[..., 0, :]
            case MeanPool():
                return (x * real[..., None]).sum(-2) / real.sum(-1)[..., None]
        raise NotImplementedError(type(node).__name__)

    def checked(self, name: str, y: np.ndarray) -> np.ndarray:
        return y

    def membrane(self, name: str, shape: tuple[int, ...]) -> "FloatMembrane":
        window = self.graph.schedule == "phased" and self._neuron(name).has_closed_form
        return FloatMembrane(self._neuron(name), shape, window)

    def has_closed_form(self, name: str, drive: np.ndarray) -> bool:
        return self._neuron(name).has_closed_form

    def closed_form(self, name: str, drive: np.ndarray) -> np.ndarray:
        node, time_steps = self._neuron(name), self.graph.time_steps
        lowest = 0 if node.spikes == "binary" else -time_steps
        charge = drive * time_steps + (node.v_init + 1 - node.firing_point)
        return np.clip(np.floor(charge), lowest, time_steps) / time_steps

    def emission_weights(self, name: str) -> np.ndarray:
        leak = np.atleast_1d(np.asarray(self._neuron(name).leak, np.float64))
        weights = leak ** np.arange(self.graph.time_steps - 1, -1, -1)[:, None]
        return weights / weights.sum(0)

    def spike_count(self, name: str, value: np.ndarray) -> np.ndarray:
        return np.rint(np.abs(value) * self.graph.time_steps).astype(np.int64)

    def enter(self, name: str, values: np.ndarray) -> np.ndarray:
        return values / (self.graph.time_steps if self.graph.schedule == "phased" else 1)

    def real(self, name: str, y: np.ndarray) -> np.ndarray:
        return y

    def rate_unit(self, name: str) -> float:
        return 1.0

    def _neuron(self, name: str) -> Neuron:
        node = self.graph.nodes[name]
        assert isinstance(node, Neuron)
        return node


class FloatMembrane(Membrane):
    """u <- leak u + drive, in units of the threshold.

    window: a window of IF neurons with soft reset under constant drive, where the charge after t steps is the product
    t * drive and not a running sum.
    """

    def __init__(self, node: Neuron, shape: tuple[int, ...], window: bool = False) -> None:
        self.node, self.window = node, window
        self.u = np.full(shape, node.v_init, np.float64)
        self.steps, self.sent, self.fired = 0, np.zeros(shape), np.zeros(shape)

    def step(self, drive: np.ndarray) -> np.ndarray:
        node = self.node
        self.steps += 1
        if self.window:
            shift = 1 - node.firing_point
            charge = drive * self.steps + (node.v_init + shift)
            s = (charge >= self.sent + 1).astype(np.float64)
            s -= (charge < self.sent) & (node.spikes == "ternary")
            self.sent += s
            self.u = charge - self.sent - shift
            return s
        u = self.u * np.asarray(node.leak, np.float64) + drive
        if node.reset == "soft-late":
            u -= self.fired
        elif node.reset == "hard-late":
            u *= self.fired == 0
        s = self._fired(u - (self.u >= 1) if node.reset == "soft-once" else u)
        match node.reset:
            case "soft" | "soft-once":
                u = u - s
            case "hard":
                u = np.where(s == 0, u, np.asarray(node.v_reset) / node.v_threshold)
        self.u = u if node.v_min is None else np.maximum(u, np.asarray(node.v_min) / node.v_threshold)
        self.fired = s
        return s

    def _fired(self, u: np.ndarray) -> np.ndarray:
        node = self.node
        if node.spikes == "several":
            return np.where(u >= 1, np.floor(u), 0.0)
        s = (u >= node.firing_point).astype(np.float64)
        s -= (u < -node.firing_point) & (node.spikes == "ternary")
        return s
