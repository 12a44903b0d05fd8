"""Fixed-point arithmetic: exactly what a chip with 24-bit states and messages computes.

Signals are int32 arrays: messages have 24 bits. What needs more on the way is int64.
"""

from functools import cache
from typing import Literal

import numpy as np

from neurotool.errors import OverflowingError
from neurotool.graph import Gelu, Graph, Input, LayerNorm, MeanPool, Neuron, Node, Scale, Softmax
from neurotool.graph.fixed_point import (
    DECAY_BITS,
    LIMIT,
    RATE_BITS,
    STATE_BITS,
    FixedPoint,
    emission_weights,
    initial_potential,
    leak_mantissa,
    rate_scale,
    rescaled,
)
from neurotool.lava_runtime import nonlinear
from neurotool.lava_runtime.arithmetic import Arithmetic, Membrane

Overflow = Literal["error", "wrap", "clip"]


class IntegerArithmetic(Arithmetic):
    """overflow: what becomes of a value beyond LIMIT: an OverflowingError, or it wraps or is clipped."""

    dtype = np.int32

    def __init__(self, graph: Graph, overflow: Overflow = "error") -> None:
        super().__init__(graph)
        self.overflow = overflow
        self.one_step = 1
        self._weight = cache(self._float_weight)

    def weight(self, name: str) -> np.ndarray:
        return self._weight(name)

    def bias(self, name: str) -> np.ndarray:
        bias: np.ndarray | None = self.graph.nodes[name].bias  # type: ignore[attr-defined]
        return np.zeros((), np.int32) if bias is None else bias

    def at_port(self, name: str, port: int, x: np.ndarray) -> np.ndarray:
        multiplier, shift = self._fixed(name).rescale[port]
        wide = self._bound(self.graph.inputs[name][port]) * multiplier >= 2**30 or shift > 30
        return rescaled(x.astype(np.int64) if wide else x, multiplier, shift)

    def product(self, name: str, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        y, fixed = exact_product(a, b), self._fixed(name)
        if fixed.exponents is None or not fixed.exponents.any():
            return y
        return (y if fixed.bound < 2**31 else y.astype(np.int64)) << fixed.exponents

    def function(self, name: str, node: Node, x: np.ndarray, real: np.ndarray) -> np.ndarray:
        match node:
            case Softmax():
                softmax = nonlinear.shift_softmax if self._fixed(name).powers_of_two else nonlinear.softmax
                return softmax(x, real[..., None, None, :])
            case LayerNorm():
                y = nonlinear.normalised(x, int(node.epsilon)) * node.weight
                return rescaled(y, 1, self._fixed(name).shift) + node.bias
            case Gelu():
                return nonlinear.gelu(x)
            case Scale():
                return rescaled(x.astype(np.int64) * node.factor, 1, self._fixed(name).shift)
            case MeanPool(pooling="first"):
                return x[..., 0, :].astype(np.int64) << RATE_BITS
            case MeanPool():
                total, tokens = (x * real[..., None]).sum(-2, dtype=np.int64), real.sum(-1)[..., None]
                return ((total << (RATE_BITS + 1)) + tokens) // (2 * tokens)
        raise NotImplementedError(type(node).__name__)

    def checked(self, name: str, y: np.ndarray) -> np.ndarray:
        if self._fixed(name).bound > LIMIT:
            y = in_range(y, self.overflow, f"node {name}")
        return y.astype(np.int32, copy=False)

    def membrane(self, name: str, shape: tuple[int, ...]) -> "IntegerMembrane":
        return IntegerMembrane(self._neuron(name), shape, self.overflow, name)

    def has_closed_form(self, name: str, drive: np.ndarray) -> bool:
        """Where the potential would leave its range, it has to be watched step by step."""
        node = self._neuron(name)
        largest = self.graph.time_steps * _largest(drive) + _largest(initial_potential(node))
        return node.has_closed_form and largest <= LIMIT

    def closed_form(self, name: str, drive: np.ndarray) -> np.ndarray:
        node, time_steps = self._neuron(name), self.graph.time_steps
        threshold = np.asarray(node.v_threshold, np.int32)
        charge = drive.astype(np.int32, copy=False) * time_steps  # has_closed_form: it fits
        charge += initial_potential(node).astype(np.int32)
        if node.spikes == "binary":
            charge //= threshold
            return np.clip(charge, 0, time_steps, out=charge)
        charge *= 2
        charge += threshold
        charge //= 2 * threshold
        return np.clip(charge, -time_steps, time_steps, out=charge)

    def emission_weights(self, name: str) -> np.ndarray:
        return emission_weights(self._neuron(name), self.graph.time_steps)

    def spike_count(self, name: str, value: np.ndarray) -> np.ndarray:
        return value if self._neuron(name).spikes == "binary" else np.abs(value)

    def enter(self, name: str, values: np.ndarray) -> np.ndarray:
        node, steps = self.graph.nodes[name], self.graph.time_steps if self.graph.schedule == "phased" else 1
        assert isinstance(node, Input)
        if node.spiking:
            return values.astype(np.int64)
        return self.checked(name, np.rint(values / (self._fixed(name).scale * steps)).astype(np.int64))

    def real(self, name: str, y: np.ndarray) -> np.ndarray:
        return y * self._fixed(name).scale

    def rate_unit(self, name: str) -> float:
        return rate_scale(self._neuron(name), self.graph.time_steps)

    def _neuron(self, name: str) -> Neuron:
        node = self.graph.nodes[name]
        assert isinstance(node, Neuron)
        return node

    def _fixed(self, name: str) -> FixedPoint:
        return self.graph.fixed_point[name]

    def _bound(self, name: str) -> int:
        return min(self._fixed(name).bound, LIMIT + 1)  # wrapping gives -2^23, too

    def _float_weight(self, name: str) -> np.ndarray:
        weight: np.ndarray = self.graph.nodes[name].weight  # type: ignore[attr-defined]
        return weight.astype(np.float32)


class IntegerMembrane(Membrane):
    """u <- decayed u + drive, in units of the drive; soft or hard reset; 24 bits."""

    def __init__(self, node: Neuron, shape: tuple[int, ...], overflow: Overflow = "error", name: str = "") -> None:
        self.node, self.overflow, self.name = node, overflow, name
        self.threshold = np.asarray(node.v_threshold, np.int64)
        self.leak = leak_mantissa(node)
        self.u = np.broadcast_to(initial_potential(node), shape).copy()

    def step(self, drive: np.ndarray) -> np.ndarray:
        decayed = np.sign(self.u) * ((np.abs(self.u) * self.leak) >> DECAY_BITS)
        u = in_range(decayed + drive, self.overflow, f"potential of {self.name}")
        if self.node.spikes == "binary":
            s = (u >= self.threshold).astype(np.int64)
        else:
            s = (2 * u >= self.threshold).astype(np.int64) - (2 * u < -self.threshold)
        self.u = u - s * self.threshold if self.node.reset == "soft" else np.where(s == 0, u, 0)
        return s


def exact_product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a b of whole numbers. BLAS has no integers: in the smallest float that holds every partial sum exactly.

    Raises OverflowingError where none does.
    """
    largest = a.shape[-1] * _largest(a) * _largest(b)
    if largest > 2**53:
        raise OverflowingError(
            f"sums of products reach {largest}, more than float64 holds exactly: use smaller weights"
        )
    dtype = np.float32 if largest <= 2**24 else np.float64
    y = np.matmul(a.astype(dtype, copy=False), b.astype(dtype, copy=False))
    return y.astype(np.int32 if largest <= 2**24 else np.int64)


def in_range(y: np.ndarray, overflow: Overflow, what: str) -> np.ndarray:
    """y as 24 bits hold it."""
    if _largest(y) <= LIMIT:
        return y
    if overflow == "clip":
        return np.clip(y, -LIMIT, LIMIT)
    if overflow == "wrap":
        return (y + LIMIT + 1) % (2 * (LIMIT + 1)) - (LIMIT + 1)
    raise OverflowingError(
        f"{what} reaches {_largest(y)}, but {STATE_BITS} bits hold at most {LIMIT}: calibrate on text like this, or "
        "choose --overflow wrap or clip"
    )


def _largest(x: np.ndarray) -> int:
    return int(max(x.max(), -x.min())) if x.size else 0
