"""Fixed-point arithmetic: exactly what a chip with 24-bit states and messages computes.

Signals are int32 arrays: messages have 24 bits. What needs more on the way is int64. Counts of spikes may be float32,
which is what products need.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from neurotool.errors import OverflowingError
from neurotool.graph import (
    Add,
    AvgPool2d,
    Concat,
    Context,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Embedding,
    FixedPoint,
    Flatten,
    Gelu,
    GradedNeuron,
    Graph,
    Input,
    Integrator,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    NodeTable,
    Readout,
    Scale,
    Softmax,
    SumPool2d,
    Synapse,
    Weighted,
)
from neurotool.graph.fixed_point import (
    LIMIT,
    NORM_BITS,
    RATE_BITS,
    emission_weights,
    initial_potential,
    rate_scale,
    rescaled,
)
from neurotool.graph.nodes import State, largest
from neurotool.lava_runtime import nonlinear, precise
from neurotool.lava_runtime.arithmetic import Arithmetic
from neurotool.lava_runtime.membranes import (
    GradedIntegerMembrane,
    IntegerCubaMembrane,
    IntegerIntegrator,
    IntegerMembrane,
    Overflow,
    in_range,
    window_count,
)


class IntegerArithmetic(Arithmetic):
    """overflow: what becomes of a value beyond LIMIT: an OverflowingError, or it wraps or is clipped."""

    dtype = np.int32

    def __init__(self, graph: Graph, overflow: Overflow = "error") -> None:
        super().__init__(graph)
        self.overflow = overflow
        self.one_step = 1
        self._in_float32, self._largest_sums = cache(self._with_float32_weight), cache(self._sums_of_neurons)

    def compute(self, name: str, node: Node, context: Context, *x: np.ndarray) -> np.ndarray:
        return INTEGER_FORMS.of(name, node)(self, name, node, context, *x)

    def sums(self, name: str, context: Context, *x: np.ndarray) -> np.ndarray:
        return self.whole(name, self.products(name, context, *x))

    def whole(self, name: str, y: np.ndarray) -> np.ndarray:
        """`products` in integers."""
        return y.astype(np.int32 if y.dtype == np.float32 and self.fixed(name).bound < 2**31 else np.int64)

    def products(self, name: str, context: Context, *x: np.ndarray) -> np.ndarray:
        """BLAS has no integers: whole numbers in the smallest float that holds every partial sum exactly.

        Raises OverflowingError where none does.
        """
        node, known = self.graph.nodes[name], self._largest_sums(name)
        assert isinstance(node, Synapse)
        most = int(known.max()) if known is not None else node.largest_sum(*x)
        if most > 2**53:
            raise OverflowingError(
                f"sums of products reach {most}, more than float64 holds exactly: use smaller weights"
            )
        number = np.float32 if most <= 2**24 else np.float64
        return self._in_float32(name).sums(context, *(value.astype(number, copy=False) for value in x))

    def unfinished(self, name: str, context: Context, *x: np.ndarray) -> np.ndarray:
        """Whole numbers, in floats, that `finished` takes one by one, and in their order, to what a node gives: the
        sums of a Synapse; what a LayerNorm divides, with the signs of its weights."""
        node = self.graph.nodes[name]
        x = tuple(self.at_port(name, port, value) for port, value in enumerate(x))
        if not isinstance(node, LayerNorm):
            return self.products(name, context, *x)
        y = _normalised(self, name, node, x[0]).astype(np.float64, copy=False)
        return y * np.where(node.weight < 0, -1, 1) if (node.weight < 0).any() else y

    def finished(self, name: str, y: np.ndarray) -> np.ndarray:
        """See `unfinished`."""
        node, bias = self.graph.nodes[name], self.bias(name)
        if isinstance(node, LayerNorm):
            return _with_weight(self, name, node, np.where(node.weight < 0, -y, y))
        return y if bias is None else y + bias

    def largest_unfinished(self, name: str) -> np.ndarray | None:
        """What |unfinished| does not exceed, (width,) or one number; None where that is not known."""
        node, fixed = self.graph.nodes[name], self.fixed(name)
        if INTEGER_FORMS.of(name, node) not in (_synapse, _layer_norm):
            return None
        if isinstance(node, LayerNorm):
            return np.array((2 * math.isqrt(len(node.weight)) + 2) << (fixed.fraction or NORM_BITS))
        if not isinstance(self.graph.nodes[self.graph.inputs[name][-1]], Neuron):
            return None
        if isinstance(node, MatMul):
            return np.array(fixed.bound)
        sums = self._largest_sums(name)
        return sums if sums is None or fixed.exponents is None else sums << fixed.exponents.astype(np.int64)

    def _sums_of_neurons(self, name: str) -> np.ndarray | None:
        """What no |partial sum| of mantissas exceeds, for each output of a node with weights that reads neurons, which
        send no more than they can; None of others, whose input has to be seen."""
        node, source = self.graph.nodes[name], self.graph.inputs[name][0]
        if not isinstance(node, Weighted) or not isinstance(self.graph.nodes[source], Neuron):
            return None
        multiplier, shift = self.fixed(name).rescale[0]
        rows = np.abs(node.weight.astype(np.int64)).reshape(len(node.weight), -1).sum(1)
        return rows * rescaled(self._bound(source), multiplier, shift)

    def at_port(self, name: str, port: int, x: np.ndarray) -> np.ndarray:
        fixed = self.fixed(name)
        multiplier, shift = fixed.rescale[port]
        wide = self._bound(self.graph.inputs[name][port]) * multiplier >= 2**30 or shift > 30
        node = self.graph.nodes[name]
        if x.dtype == np.float32 and not (isinstance(node, Synapse) and (multiplier, shift) == (1, 0)):
            x = x.astype(np.int32)
        x = rescaled(x.astype(np.int64) if wide else x, multiplier, shift)
        return np.clip(x, -node.v_threshold, node.v_threshold) if fixed.clips and isinstance(node, Neuron) else x

    def checked(self, name: str, y: np.ndarray) -> np.ndarray:
        if self.fixed(name).bound > LIMIT:
            y = in_range(y, self.overflow, f"node {name}")
        return y.astype(np.int32, copy=False)

    def membrane(self, name: str, shape: tuple[int, ...]) -> State:
        state: State = INTEGER_FORMS.of(name, self.stateful(name))(self, name, self.stateful(name), shape)
        return state

    def has_closed_form(self, name: str, drive: np.ndarray) -> bool:
        """Where the potential would leave its range, it has to be watched step by step."""
        node = self.neuron(name)
        most = node.counts_to(self.graph.time_steps) * largest(drive) + largest(initial_potential(node))
        return node.has_closed_form and most <= LIMIT

    def closed_form(self, name: str, drive: np.ndarray) -> np.ndarray:
        return window_count(self.neuron(name), drive.astype(np.int32, copy=False), self.graph.time_steps)

    def emission_weights(self, name: str) -> np.ndarray:
        return emission_weights(self.neuron(name), self.graph.time_steps)

    def spike_count(self, name: str, value: np.ndarray) -> np.ndarray:
        if isinstance(self.neuron(name), GradedNeuron):
            return (value != 0).astype(np.int32)
        return np.abs(value) if self.neuron(name).signed else value

    def enter(self, name: str, values: np.ndarray) -> np.ndarray:
        return INTEGER_FORMS.of(name, self.graph.nodes[name])(self, name, self.graph.nodes[name], values)

    def real(self, name: str, y: np.ndarray) -> np.ndarray:
        return y * self.fixed(name).scale

    def rate_unit(self, name: str) -> float:
        return rate_scale(self.neuron(name), self.graph.time_steps)

    def fixed(self, name: str) -> FixedPoint:
        return self.graph.fixed_point[name]

    def _bound(self, name: str) -> int:
        return min(self.fixed(name).bound, LIMIT + 1)  # wrapping gives -2^23, too

    def _with_float32_weight(self, name: str) -> Any:
        """The node, its weight with the exponents of its rows."""
        node, exponents = self.graph.nodes[name], self.fixed(name).exponents
        if not isinstance(node, Weighted):
            return node
        rows = 1 if exponents is None else 2 ** exponents.astype(np.float32).reshape(-1, *[1] * (node.weight.ndim - 1))
        return replace(node, weight=node.weight.astype(np.float32) * rows)


def _entered(integers: IntegerArithmetic, name: str, node: Input, values: np.ndarray) -> np.ndarray:
    if node.spiking:
        return values.astype(np.int64)
    steps = integers.graph.time_steps if integers.graph.schedule == "phased" else 1
    return integers.checked(name, np.rint(values / (integers.fixed(name).scale * steps)).astype(np.int64))


def _waiting(integers: IntegerArithmetic, name: str, node: Delay, shape: tuple[int, ...]) -> State:
    return node.at_rest(shape, np.int32)


def _as_it_is(integers: IntegerArithmetic, name: str, node: Node, context: Context, *x: np.ndarray) -> np.ndarray:
    """Nodes whose equation is exact in whole numbers."""
    return node.compute(context, *x)


def _pooled(integers: IntegerArithmetic, name: str, node: SumPool2d, context: Context, x: np.ndarray) -> np.ndarray:
    """A sum; that it is a mean is a matter of units."""
    return node.sent(context, x.astype(np.int64))


def _synapse(integers: IntegerArithmetic, name: str, node: Synapse, context: Context, *x: np.ndarray) -> np.ndarray:
    sums, bias = integers.products(name, context, *x), integers.bias(name)
    if bias is not None and integers.fixed(name).bound <= 2**24 and integers.largest_unfinished(name) is not None:
        sums += bias.astype(sums.dtype)
        bias = None
    sums = integers.whole(name, sums)
    return sums if bias is None else sums + bias


def _softmax(integers: IntegerArithmetic, name: str, node: Softmax, context: Context, x: np.ndarray) -> np.ndarray:
    fixed, readable = integers.fixed(name), context.real[..., None, None, :]
    if fixed.fraction:
        return precise.softmax(x, readable, fixed.fraction)
    return (nonlinear.shift_softmax if fixed.powers_of_two else nonlinear.softmax)(x, readable)


def _layer_norm(integers: IntegerArithmetic, name: str, node: LayerNorm, context: Context, x: np.ndarray) -> np.ndarray:
    return _with_weight(integers, name, node, _normalised(integers, name, node, x).astype(np.int64, copy=False))


def _normalised(integers: IntegerArithmetic, name: str, node: LayerNorm, x: np.ndarray) -> np.ndarray:
    fraction, epsilon = integers.fixed(name).fraction, int(node.epsilon)
    return precise.normalised(x, epsilon, fraction) if fraction else nonlinear.normalised(x, epsilon)


def _with_weight(integers: IntegerArithmetic, name: str, node: LayerNorm, y: np.ndarray) -> np.ndarray:
    fixed = integers.fixed(name)
    y = rescaled(y * node.weight, 1, fixed.shift) + node.bias
    return np.clip(y, -LIMIT, LIMIT) if fixed.clips else y


def _gelu(integers: IntegerArithmetic, name: str, node: Gelu, context: Context, x: np.ndarray) -> np.ndarray:
    fixed = integers.fixed(name)
    y = precise.gelu(x, fixed.fraction) if fixed.fraction else nonlinear.gelu(x)
    return np.clip(y, -LIMIT, LIMIT) if fixed.clips else y


def _scale(integers: IntegerArithmetic, name: str, node: Scale, context: Context, x: np.ndarray) -> np.ndarray:
    return rescaled(x.astype(np.int64) * node.factor, 1, integers.fixed(name).shift)


def _mean_pool(integers: IntegerArithmetic, name: str, node: MeanPool, context: Context, x: np.ndarray) -> np.ndarray:
    if node.pooling == "first":
        return x[..., 0, :].astype(np.int64) << RATE_BITS
    real = context.real
    total, tokens = (x * real[..., None]).sum(-2, dtype=np.int64), real.sum(-1)[..., None]
    return ((total << (RATE_BITS + 1)) + tokens) // (2 * tokens)


INTEGER_FORMS: NodeTable[Callable[..., Any]] = NodeTable(
    "integer form",
    {
        Input: _entered,
        Embedding: _as_it_is,
        Linear: _synapse,
        Conv1d: _synapse,
        Conv2d: _synapse,
        SumPool2d: _pooled,
        AvgPool2d: _pooled,
        Flatten: _as_it_is,
        Neuron: IntegerMembrane,
        CubaLIF: IntegerCubaMembrane,
        Integrator: IntegerIntegrator,
        Delay: _waiting,
        GradedNeuron: GradedIntegerMembrane,
        MatMul: _synapse,
        Softmax: _softmax,
        LayerNorm: _layer_norm,
        Gelu: _gelu,
        Add: _as_it_is,
        Concat: _as_it_is,
        Scale: _scale,
        MeanPool: _mean_pool,
        Readout: _synapse,
    },
)
"""(arithmetic, name, node, context, *x) -> output, for x in the units that the node computes in. Of an Input
(arithmetic, name, node, values) -> what enters; of a node with a state (arithmetic, name, node, shape) -> at rest."""
