"""Post-training quantisation: a layer graph with real parameters -> the same graph in integers.

Weights become int8 mantissas with an exponent for each output channel (or each layer); everything after them follows:
units of a layer are the units of its synapses' sums, thresholds and biases are whole numbers of them. Shifts that keep
values within 24 bits are chosen from the ranges seen on calibration inputs, with room to spare.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from neurotool.errors import ExportError
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    FixedPoint,
    Gelu,
    Graph,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    Readout,
    Scale,
    Softmax,
)
from neurotool.graph.fixed_point import (
    DECAY_BITS,
    GELU_BITS,
    GELU_SCALE,
    LIMIT,
    NORM_BITS,
    PROBABILITY_BITS,
    RATE_BITS,
    SOFTMAX_BITS,
    STATE_BITS,
    emission_weights,
    leak_mantissa,
    rate_scale,
)

WEIGHT_BITS = 8
PARAMETER_BITS = 16
"""Of embeddings, of LayerNorm's weight and of Scale's factor."""
ROOM = 4.0
"""How far beyond the largest value seen in calibration a value may go before it leaves its bits."""
FARTHEST = 200
"""Bits between 1 and the smallest and largest units: float64 then holds all that is made of them."""
SPREAD = 8
"""Largest difference between the exponents of one layer's output channels."""


def lower(graph: Graph, largest: dict[str, float], per_layer: bool = False, shift_softmax: bool = False) -> Graph:
    """The fixed-point graph.

    largest: max |output| of every node on calibration inputs, as real numbers.
    per_layer: one weight exponent for all output channels of a layer.
    shift_softmax: probabilities are powers of two, whose products are shifts.
    Raises ExportError for a node that has no fixed-point form, naming it.
    """
    if graph.fixed_point:
        raise ExportError("the graph is a fixed-point graph already")
    lowering = _Lowering(graph, largest, 0 if per_layer else SPREAD, shift_softmax)
    nodes = {name: lowering.add(name, node) for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes, fixed_point=lowering.fixed)


def weight_error(exact: Graph, fixed: Graph, name: str) -> float:
    """|W - W'| / |W| (Frobenius norms) of one node that has a weight, in the power-of-two unit that fits best."""
    weight, mantissa = (np.asarray(graph.nodes[name].weight, np.float64) for graph in (exact, fixed))  # type: ignore[attr-defined]
    exponents = fixed.fixed_point[name].exponents
    if exponents is not None:
        mantissa = mantissa * 2.0 ** exponents.reshape(-1, *[1] * (mantissa.ndim - 1))
    norm, fit = float(np.linalg.norm(weight)), float(np.vdot(weight, mantissa))
    if not norm or fit <= 0:
        return 0.0 if not norm else 1.0
    unit = 2.0 ** round(math.log2(fit / float(np.vdot(mantissa, mantissa))))
    return float(np.linalg.norm(weight - mantissa * unit)) / norm


class _Lowering:
    def __init__(self, graph: Graph, largest: dict[str, float], spread: int, shift_softmax: bool) -> None:
        self.graph, self.largest, self.spread, self.shift_softmax = graph, largest, spread, shift_softmax
        self.phased = graph.schedule == "phased"
        self.fixed: dict[str, FixedPoint] = {}

    def add(self, name: str, node: Node) -> Node:
        """The integer form of one node; its FixedPoint goes to `fixed`."""
        try:
            lowered, self.fixed[name] = self._lower(name, node)
            if not 2.0**-FARTHEST < self.fixed[name].scale < 2.0**FARTHEST:
                raise ExportError(f"a unit of its output is {self.fixed[name].scale:.3g}: scale weights or factor")
        except ExportError as error:
            raise ExportError(f"node {name} ({type(node).__name__}): {error}") from None
        return lowered

    def _lower(self, name: str, node: Node) -> tuple[Node, FixedPoint]:
        match node:
            case Input():
                return self._input(name, node)
            case Embedding():
                mantissa, exponent = mantissas(node.weight, PARAMETER_BITS)
                return replace(node, weight=mantissa), FixedPoint(2.0**exponent, int(np.abs(mantissa).max()))
            case Linear() | Conv1d() | Readout():
                return self._synapse(name, node)
            case MatMul():
                return node, self._product(name, node)
            case Neuron():
                return self._neuron(name, node)
            case LayerNorm():
                return self._norm(name, node)
            case Scale():
                return self._scale(name, node)
        return node, self._function(name, node)

    def _source(self, name: str, port: str = "x") -> tuple[float, int]:
        """Scale and bound of what a port reads. Of a MeanPool: the average over the run."""
        source = self.graph.source(name, port)
        node = self.graph.nodes[source]
        gathers = isinstance(self.graph.nodes[name], MeanPool) and not self.phased
        if isinstance(node, Neuron):
            weights = emission_weights(_with_whole_leak(node), self.graph.time_steps)
            if self.phased or gathers:
                return rate_scale(node, self.graph.time_steps), int(weights.sum(0).max())
            return 1.0, 1
        if source not in self.fixed:
            raise ExportError(f"feedback from {source}, which is not a neuron layer, has no fixed-point form")
        fixed = self.fixed[source]
        steps = self.graph.time_steps if gathers else 1
        return fixed.scale / steps, min(fixed.bound, LIMIT + 1) * steps

    def _seen(self, name: str, scale: float) -> float:
        """Largest output of a node to make room for, in units of `scale`."""
        return ROOM * self.largest[name] / scale

    def _input(self, name: str, node: Input) -> tuple[Node, FixedPoint]:
        steps = self.graph.time_steps if self.phased else 1
        if node.spiking:
            return node, FixedPoint(1 / steps, steps)
        largest = max(self._seen(name, 1.0), 2.0**-STATE_BITS)
        return node, FixedPoint(2.0 ** math.ceil(math.log2(largest / LIMIT)), LIMIT + 1)

    def _synapse(self, name: str, node: Linear | Conv1d | Readout) -> tuple[Node, FixedPoint]:
        scale_in, bound_in = self._source(name)
        spikes = bound_in < 2**WEIGHT_BITS
        for spread in range(self.spread, -1, -1):
            mantissa, exponent, exponents = row_mantissas(node.weight, spread)
            sums = np.abs(mantissa.astype(np.int64)).reshape(len(mantissa), -1).sum(1) << exponents
            largest_bias = 0.0 if node.bias is None else np.abs(node.bias) / (scale_in * 2.0**exponent)
            bound = int((sums * bound_in + largest_bias).max()) + 1
            if bound <= LIMIT or not spikes:
                break
        # Spikes cannot be shifted away; graded messages have bits to spare.
        shift = 0 if spikes else _excess_bits(bound)
        scale = scale_in * 2.0 ** (exponent + shift)
        bias = None if node.bias is None else whole(node.bias / scale, "bias")
        fixed = FixedPoint(scale, (bound >> shift) + int(sums.max()) * (shift > 0), ((1, shift),), exponents)
        return replace(node, weight=mantissa, bias=bias), fixed

    def _product(self, name: str, node: MatMul) -> FixedPoint:
        (scale_a, bound_a), (scale_b, bound_b) = self._source(name, "a"), self._source(name, "b")
        width = self.graph.shapes()[self.graph.source(name, "b")][1]
        assert isinstance(width, int)
        terms = width // node.heads if node.transpose_b else self.graph.tokens
        total = terms * bound_a
        if isinstance(self.graph.nodes[self.graph.source(name, "a")], Softmax):
            # Rows sum to 1, but for rounding; in powers of two to sqrt 2 at most.
            total = math.isqrt(2 * 4**PROBABILITY_BITS) + 1 if self.shift_softmax else 2**PROBABILITY_BITS
            total += self.graph.tokens
        shift = _excess_bits(total * bound_b)
        # The operand with more bits is the graded one: it can spare some.
        shifts = (shift, 0) if bound_a >= bound_b else (0, shift)
        bound = (total * bound_b >> shift) + (terms * min(bound_a, bound_b) if shift else 0)
        return FixedPoint(scale_a * scale_b * 2**shift, bound, tuple((1, k) for k in shifts))

    def _neuron(self, name: str, node: Neuron) -> tuple[Node, FixedPoint]:
        scale, bound = self._source(name)
        steps = self.graph.time_steps
        threshold = np.asarray(node.v_threshold, np.float64)
        factor = self._units(name, node, bound)
        whole_threshold = np.rint(threshold / scale * 2.0**factor).astype(np.int32)
        if whole_threshold.min() < 1:
            raise ExportError(
                f"v_threshold {threshold.min():.3g} is less than half a unit ({scale / 2.0**factor:.3g}) of its drive: "
                "drives reach too far beyond it"
            )
        v_threshold = whole_threshold if whole_threshold.ndim else int(whole_threshold)
        lowered = replace(_with_whole_leak(node), v_threshold=v_threshold)
        weights = emission_weights(lowered, steps)
        rescale = (dyadic(2.0**factor),)
        if self.phased:
            return lowered, FixedPoint(rate_scale(lowered, steps), int(weights.sum(0).max()), rescale)
        return lowered, FixedPoint(1.0, 1, rescale)

    def _units(self, name: str, node: Neuron, bound: int) -> int:
        """k where 2^k units of the potential are one unit of the drive, at most the 6 of Lava's own neurons.

        Potentials and thresholds fit for every input if that leaves thresholds of 8 bits, else for those seen.
        """
        scale, _ = self._source(name)
        threshold = np.asarray(node.v_threshold) / scale
        proven, seen = (
            math.floor(math.log2(LIMIT / max(self.graph.time_steps * drive + threshold.max(), 1)))
            for drive in (bound, self._seen(self.graph.source(name, "x"), scale))
        )
        return min(6, proven if threshold.min() * 2.0**proven >= 2**8 and node.has_closed_form else seen)

    def _norm(self, name: str, node: LayerNorm) -> tuple[Node, FixedPoint]:
        scale_in, bound = self._source(name)
        factor = math.floor(math.log2(LIMIT / max(bound, 1)))
        scale_in /= 2.0**factor
        weight, exponent = mantissas(node.weight, PARAMETER_BITS)
        shift = PARAMETER_BITS - 1
        scale = 2.0 ** (exponent + shift - NORM_BITS)
        bias = whole(node.bias / scale, "bias")
        # |x - mean| <= sqrt(n) deviations; the whole-number deviation may be half the true one.
        largest = 2 * math.isqrt(len(weight)) + 2 << NORM_BITS
        bound = int(((largest * np.abs(weight.astype(np.int64)) >> shift) + 1 + np.abs(bias)).max())
        lowered = replace(node, weight=weight, bias=bias, epsilon=round(min(node.epsilon / scale_in**2, 2.0**60)))
        return lowered, FixedPoint(scale, bound, (dyadic(2.0**factor),), shift=shift)

    def _scale(self, name: str, node: Scale) -> tuple[Node, FixedPoint]:
        scale, bound = self._source(name)
        if np.ndim(node.factor) == 0:  # a matter of units
            factor = float(node.factor)
            return Scale(int(np.sign(factor))), FixedPoint(scale * abs(factor) or scale, bound, ((1, 0),))
        mantissa, exponent = mantissas(np.asarray(node.factor), PARAMETER_BITS)
        shift = PARAMETER_BITS - 1
        return Scale(mantissa), FixedPoint(scale * 2.0 ** (exponent + shift), bound, ((1, 0),), shift=shift)

    def _function(self, name: str, node: Node) -> FixedPoint:
        match node:
            case Add() | Concat():
                largest: Callable[[list[Any]], Any] = sum if isinstance(node, Add) else max
                scales, bounds = zip(*(self._source(name, port) for port in node.ports), strict=True)
                scale = min(scales)
                scale *= 2 ** _excess_bits(largest([s * b for s, b in zip(scales, bounds, strict=True)]) / scale)
                rescale = tuple(dyadic(s / scale) for s in scales)
                in_units = [(b * m >> k) + (k > 0) for b, (m, k) in zip(bounds, rescale, strict=True)]
                return FixedPoint(scale, largest(in_units), rescale)
            case Softmax():
                scale, _ = self._source(name)
                base = math.log2(math.e) if self.shift_softmax else 1.0
                rescale = (dyadic(scale * base * 2**SOFTMAX_BITS),)
                return FixedPoint(
                    2.0**-PROBABILITY_BITS, 2**PROBABILITY_BITS, rescale, powers_of_two=self.shift_softmax
                )
            case Gelu():
                scale, bound = self._source(name)
                multiplier, shift = dyadic(scale * 2**GELU_BITS)
                bound = math.ceil(((bound * multiplier >> shift) + 1) * 2.0**-GELU_BITS / GELU_SCALE) + 1
                return FixedPoint(GELU_SCALE, bound, ((multiplier, shift),))
            case MeanPool():
                scale, bound = self._source(name)
                shift = _excess_bits(bound << RATE_BITS)
                bound = (bound >> shift) + (shift > 0) << RATE_BITS
                return FixedPoint(scale * 2.0 ** (shift - RATE_BITS), bound, ((1, shift),))
        raise ExportError("has no fixed-point form")


def _with_whole_leak(node: Neuron) -> Neuron:
    """With the leak that a chip has; what its spikes count in the rate follows from that one."""
    return replace(node, leak=_like(node.leak, leak_mantissa(node) / 2**DECAY_BITS))


def _excess_bits(bound: float) -> int:
    """Bits that values up to `bound` have beyond those of a message."""
    return max(0, math.ceil(math.log2(max(bound, 1) / LIMIT)))


def mantissas(x: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Integers of `bits` bits and one exponent: x is about mantissas * 2^exponent."""
    limit = 2 ** (bits - 1) - 1
    largest = float(np.abs(x).max())
    exponent = math.ceil(math.log2(largest / limit)) if largest > 0 else 0
    return np.rint(x * 2.0**-exponent).astype(np.int8 if bits <= 8 else np.int16), exponent


def row_mantissas(weight: np.ndarray, spread: int) -> tuple[np.ndarray, int, np.ndarray]:
    """int8 mantissas of a weight (out, …), the lowest exponent, and how far each row's lies above it, up to `spread`.

    Weights that are such integers already, as those trained with few bits are, are taken as they are, with the largest
    exponent that leaves them whole. Else a row takes the exponent with the smaller squared error: the first that holds
    all its weights, or one below, which clips the largest but is finer for the others.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    limit = 2 ** (WEIGHT_BITS - 1) - 1
    exponents = _whole_exponents(rows)
    if exponents is not None:
        exponents = np.minimum(exponents, exponents.min() + spread)
        mantissa = rows * 2.0 ** -exponents[:, None]
        if np.abs(mantissa).max() <= limit:
            lowest = int(exponents.min())
            return mantissa.astype(np.int8).reshape(weight.shape), lowest, (exponents - lowest).astype(np.int8)
    largest = np.abs(rows).max(1)
    largest = np.maximum(largest, largest.max() * 2.0**-spread if largest.any() else 1.0)
    exponents = np.ceil(np.log2(largest / limit)).astype(np.int64)

    def quantised(e: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(rows * 2.0 ** -e[:, None]), -limit, limit)

    def error(e: np.ndarray) -> np.ndarray:
        return ((quantised(e) * 2.0 ** e[:, None] - rows) ** 2).sum(1)

    if spread:
        exponents = exponents - (error(exponents - 1) < error(exponents))
    elif error(exponents - 1).sum() < error(exponents).sum():
        exponents = exponents - 1
    exponents = np.maximum(exponents, exponents.max() - spread)
    lowest = int(exponents.min())
    return quantised(exponents).astype(np.int8).reshape(weight.shape), lowest, (exponents - lowest).astype(np.int8)


def _whole_exponents(rows: np.ndarray) -> np.ndarray | None:
    """Of each row the largest e for which row * 2^-e is whole, of a row of zeros a very large one. None where all are
    zero, or some weight has more bits than mantissas."""
    fraction, exponent = np.frexp(rows)  # row = fraction * 2^exponent, 0.5 <= |fraction| < 1
    digits = fraction * 2.0**WEIGHT_BITS
    if not rows.any() or not np.array_equal(digits, np.rint(digits)):
        return None
    digits = digits.astype(np.int64)
    lowest_bit = np.log2(np.maximum(digits & -digits, 1)).astype(np.int64)
    exponents: np.ndarray = np.where(digits, exponent - WEIGHT_BITS + lowest_bit, 2**20).min(1)
    return exponents


def dyadic(ratio: float) -> tuple[int, int]:
    """(multiplier, shift) with multiplier / 2^shift about `ratio`, to 15 bits; exact for powers of two.

    (0, 0) for a ratio that leaves nothing of a 24-bit message.
    """
    if ratio < 2.0**-STATE_BITS / 2:
        return 0, 0
    mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2^exponent, 0.5 <= mantissa < 1
    if mantissa == 0.5:
        return (2 ** (exponent - 1), 0) if exponent >= 1 else (1, 1 - exponent)
    shift = 15 - exponent
    return (round(ratio * 2.0**shift), shift) if shift >= 0 else (round(ratio), 0)


def whole(x: np.ndarray, what: str) -> np.ndarray:
    """x rounded to int32. Raises ExportError where it needs more than 24 bits."""
    y = np.rint(x)
    if np.abs(y).max() > LIMIT:
        raise ExportError(f"{what} reaches {np.abs(y).max():.3g} units of the output: 24 bits hold {LIMIT}")
    return y.astype(np.int32)


def _like(original: Any, value: np.ndarray) -> Any:
    return value if np.ndim(original) else float(value)
