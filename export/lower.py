"""Post-training quantisation: a layer graph with real parameters -> the same graph in integers.

Weights become int8 mantissas with an exponent for each output channel (or each layer); everything after them follows:
units of a layer are the units of its synapses' sums, thresholds and biases are whole numbers of them. Shifts that keep
values within 24 bits are chosen from the ranges seen on calibration inputs, with room to spare.
"""

import math
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np

from neurotool.errors import ExportError
from neurotool.export.lower_neurons import lower_integrator, lower_neuron
from neurotool.export.lowering import PRECISE_BITS, Lowered, Lowering
from neurotool.export.rounding import dyadic, excess_bits, mantissas, whole
from neurotool.graph import (
    Add,
    AvgPool2d,
    Concat,
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
    Weighted,
)
from neurotool.graph.fixed_point import (
    FINE_BITS,
    GELU_BITS,
    GELU_SCALE,
    LIMIT,
    NORM_BITS,
    PROBABILITY_BITS,
    RATE_BITS,
    SOFTMAX_BITS,
    SPREAD,
    STATE_BITS,
    WEIGHT_BITS,
    row_mantissas,
)

PARAMETER_BITS = 16
"""Of embeddings, of LayerNorm's weight and of Scale's factor."""
FARTHEST = 200
"""Bits between 1 and the smallest and largest units: float64 then holds all that is made of them."""


def lower(
    graph: Graph,
    largest: dict[str, float],
    per_layer: bool = False,
    shift_softmax: bool = False,
    precise: bool = False,
) -> Graph:
    """The fixed-point graph.

    largest: max |output| of every node on calibration inputs, as real numbers.
    per_layer: one weight exponent for all output channels of a layer.
    shift_softmax: probabilities are powers of two, whose products are shifts.
    precise: softmax, norm and GELU as exact as messages of 24 bits can be (lava_runtime/precise.py).
    Raises ExportError for a node that has no fixed-point form, naming it.
    """
    if graph.fixed_point:
        raise ExportError("the graph is a fixed-point graph already")
    graph = replace(graph, nodes={name: _widened(node) for name, node in graph.nodes.items()})
    lowering = Lowering(graph, largest, 0 if per_layer else SPREAD, shift_softmax, precise)
    nodes = {name: _lowered(lowering, name, node) for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes, fixed_point=lowering.fixed)


def _widened(node: Node) -> Node:
    """With parameters that hold what is computed from them: half precision ends at 65504, 8-bit integers at 127."""
    narrow = {
        f.name: value.astype(np.float64)
        for f in fields(node)
        if isinstance(value := getattr(node, f.name), np.ndarray) and value.dtype not in (np.float32, np.float64)
    }
    return replace(node, **narrow) if narrow else node


def _lowered(lowering: Lowering, name: str, node: Node) -> Node:
    """The integer form of one node; its FixedPoint goes to `lowering.fixed`."""
    try:
        lowered, fixed = LOWERINGS.of(name, node)(lowering, name, node)
        if not 2.0**-FARTHEST < fixed.scale < 2.0**FARTHEST:
            raise ExportError(f"a unit of its output is {fixed.scale:.3g}: scale weights or factor")
    except ExportError as error:
        raise ExportError(f"node {name} ({type(node).__name__}): {error}") from None
    lowering.fixed[name] = fixed
    return lowered


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


def _input(lowering: Lowering, name: str, node: Input) -> Lowered:
    steps = lowering.graph.time_steps if lowering.phased else 1
    if node.spiking:
        return node, FixedPoint(1 / steps, steps)
    largest = max(lowering.seen(name, 1.0), 2.0**-STATE_BITS)
    return node, FixedPoint(2.0 ** math.ceil(math.log2(largest / LIMIT)), LIMIT + 1)


def _embedding(lowering: Lowering, name: str, node: Embedding) -> Lowered:
    mantissa, exponent = mantissas(node.weight, PARAMETER_BITS)
    return replace(node, weight=mantissa), FixedPoint(2.0**exponent, int(np.abs(mantissa).max()))


def _synapse(lowering: Lowering, name: str, node: Weighted) -> Lowered:
    scale_in, bound_in = lowering.source(name)
    spikes = bound_in < 2**WEIGHT_BITS or (
        not lowering.phased and lowering.graph.inputs[name][0] in lowering.graph.spiking
    )
    for spread in range(lowering.spread, -1, -1):
        mantissa, exponent, exponents = row_mantissas(node.weight, spread)
        sums = np.abs(mantissa.astype(np.int64)).reshape(len(mantissa), -1).sum(1) << exponents
        largest_bias = 0.0 if node.bias is None else np.abs(node.bias) / (scale_in * 2.0**exponent)
        bound = int((sums * bound_in + largest_bias).max()) + 1
        if bound <= LIMIT or not spikes:
            break
    # Spikes cannot be shifted away; graded messages have bits to spare.
    shift = 0 if spikes else excess_bits(bound)
    scale = scale_in * 2.0 ** (exponent + shift)
    bias = None if node.bias is None else whole(node.bias / scale, "bias")
    fixed = FixedPoint(scale, (bound >> shift) + int(sums.max()) * (shift > 0), ((1, shift),), exponents)
    return replace(node, weight=mantissa, bias=bias), fixed


def _product(lowering: Lowering, name: str, node: MatMul) -> Lowered:
    (scale_a, bound_a), (scale_b, bound_b) = lowering.source(name, "a"), lowering.source(name, "b")
    width = lowering.graph.shapes()[lowering.graph.source(name, "b")][1]
    assert isinstance(width, int)
    terms = width // node.heads if node.transpose_b else lowering.graph.tokens
    total = terms * bound_a
    if isinstance(lowering.graph.nodes[lowering.graph.source(name, "a")], Softmax):
        # Rows sum to 1, but for rounding; in powers of two to sqrt 2 at most.
        total = math.isqrt(2 * 4**PROBABILITY_BITS) + 1 if lowering.shift_softmax else bound_a
        total += lowering.graph.tokens
    most = total * bound_b
    if lowering.precise:  # proven bounds are far from what occurs: those seen, and the product is watched
        most = min(most, math.ceil(lowering.seen(name, scale_a * scale_b)))
    shift = excess_bits(most)
    # The operand with more bits is the graded one: it can spare some.
    shifts = (shift, 0) if bound_a >= bound_b else (0, shift)
    bound = (total * bound_b >> shift) + (terms * min(bound_a, bound_b) if shift else 0)
    return node, FixedPoint(scale_a * scale_b * 2**shift, bound, tuple((1, k) for k in shifts))


def _delay(lowering: Lowering, name: str, node: Delay) -> Lowered:
    scale, bound = lowering.source(name)
    steps = node.steps.astype(np.int32) if isinstance(node.steps, np.ndarray) else int(node.steps)
    return replace(node, steps=steps), FixedPoint(scale, bound, ((1, 0),))


def _flatten(lowering: Lowering, name: str, node: Flatten) -> Lowered:
    scale, bound = lowering.source(name)
    return node, FixedPoint(scale, bound, ((1, 0),))


def _pooled(lowering: Lowering, name: str, node: SumPool2d) -> Lowered:
    """The sum of a window; of a mean, in smaller units."""
    scale, bound = lowering.source(name)
    shift = excess_bits(bound * node.size)
    bound = (bound * node.size >> shift) + node.size * (shift > 0)
    scale *= 2.0**shift / (node.size if isinstance(node, AvgPool2d) else 1)
    return node, FixedPoint(scale, bound, ((1, shift),))


def _norm(lowering: Lowering, name: str, node: LayerNorm) -> Lowered:
    scale_in, bound = lowering.source(name)
    factor = math.floor(math.log2(LIMIT / max(bound, 1)))
    scale_in /= 2.0**factor
    weight, exponent = mantissas(node.weight, PARAMETER_BITS)
    shift = PARAMETER_BITS - 1
    # |x - mean| <= sqrt(n) deviations; the whole-number deviation of the short form may be half the true one.
    most = math.isqrt(len(weight)) + 1
    unit = 2.0 ** (exponent + shift)
    fraction, clips = lowering.precise_bits(name, float((most * np.abs(node.weight) + np.abs(node.bias)).max()) / unit)
    scale = unit * 2.0 ** -(fraction or NORM_BITS)
    bias = whole(node.bias / scale, "bias")
    largest = most << fraction if fraction else 2 * most << NORM_BITS
    bound = int(((largest * np.abs(weight.astype(np.int64)) >> shift) + 1 + np.abs(bias)).max())
    lowered = replace(node, weight=weight, bias=bias, epsilon=round(min(node.epsilon / scale_in**2, 2.0**60)))
    form = FixedPoint(scale, min(bound, LIMIT) if clips else bound, (dyadic(2.0**factor),), shift=shift)
    return lowered, replace(form, fraction=fraction, clips=clips)


def _scale(lowering: Lowering, name: str, node: Scale) -> Lowered:
    scale, bound = lowering.source(name)
    if np.ndim(node.factor) == 0:  # a matter of units
        factor = float(node.factor)
        return Scale(int(np.sign(factor))), FixedPoint(scale * abs(factor) or scale, bound, ((1, 0),))
    mantissa, exponent = mantissas(np.asarray(node.factor), PARAMETER_BITS)
    shift = PARAMETER_BITS - 1
    return Scale(mantissa), FixedPoint(scale * 2.0 ** (exponent + shift), bound, ((1, 0),), shift=shift)


def _joined(lowering: Lowering, name: str, node: Add | Concat) -> Lowered:
    most: Callable[[list[Any]], Any] = sum if isinstance(node, Add) else max
    scales, bounds = zip(*(lowering.source(name, port) for port in node.ports), strict=True)
    scale = min(scales)
    scale *= 2 ** excess_bits(most([s * b for s, b in zip(scales, bounds, strict=True)]) / scale)
    rescale = tuple(dyadic(s / scale) for s in scales)
    in_units = [(b * m >> k) + (k > 0) for b, (m, k) in zip(bounds, rescale, strict=True)]
    return node, FixedPoint(scale, most(in_units), rescale)


def _softmax(lowering: Lowering, name: str, node: Softmax) -> Lowered:
    scale, _ = lowering.source(name)
    if lowering.precise and not lowering.shift_softmax:
        rescale = (dyadic(scale * 2**FINE_BITS, STATE_BITS),)
        return node, FixedPoint(2.0**-PRECISE_BITS, 2**PRECISE_BITS, rescale, fraction=PRECISE_BITS)
    rescale = (dyadic(scale * (math.log2(math.e) if lowering.shift_softmax else 1.0) * 2**SOFTMAX_BITS),)
    bound = 2**PROBABILITY_BITS
    return node, FixedPoint(2.0**-PROBABILITY_BITS, bound, rescale, powers_of_two=lowering.shift_softmax)


def _gelu(lowering: Lowering, name: str, node: Gelu) -> Lowered:
    scale, bound = lowering.source(name)
    fraction, clips = lowering.precise_bits(name, bound * scale)
    if fraction:
        largest = LIMIT if clips else math.ceil(bound * scale * 2.0**fraction) + 1
        rescale = (dyadic(scale * 2**FINE_BITS, STATE_BITS),)
        return node, FixedPoint(2.0**-fraction, largest, rescale, fraction=fraction, clips=clips)
    multiplier, shift = dyadic(scale * 2**GELU_BITS)
    bound = math.ceil(((bound * multiplier >> shift) + 1) * 2.0**-GELU_BITS / GELU_SCALE) + 1
    return node, FixedPoint(GELU_SCALE, bound, ((multiplier, shift),))


def _mean_pool(lowering: Lowering, name: str, node: MeanPool) -> Lowered:
    scale, bound = lowering.source(name)
    shift = excess_bits(bound << RATE_BITS)
    bound = (bound >> shift) + (shift > 0) << RATE_BITS
    return node, FixedPoint(scale * 2.0 ** (shift - RATE_BITS), bound, ((1, shift),))


LOWERINGS: NodeTable[Callable[[Lowering, str, Any], Lowered]] = NodeTable(
    "fixed-point form",
    {
        Input: _input,
        Embedding: _embedding,
        Linear: _synapse,
        Conv1d: _synapse,
        Conv2d: _synapse,
        SumPool2d: _pooled,
        AvgPool2d: _pooled,
        Flatten: _flatten,
        Neuron: lower_neuron,
        CubaLIF: lower_neuron,
        Integrator: lower_integrator,
        Delay: _delay,
        GradedNeuron: lower_neuron,
        MatMul: _product,
        Softmax: _softmax,
        LayerNorm: _norm,
        Gelu: _gelu,
        Add: _joined,
        Concat: _joined,
        Scale: _scale,
        MeanPool: _mean_pool,
        Readout: _synapse,
    },
)
"""(lowering, name, node) -> the node with whole parameters, and how they are to be read."""
