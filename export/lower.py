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
    DECAY_BITS,
    FINE_BITS,
    GELU_BITS,
    GELU_SCALE,
    LIMIT,
    MOST_SPIKES,
    NORM_BITS,
    PROBABILITY_BITS,
    RATE_BITS,
    SOFTMAX_BITS,
    SPREAD,
    STATE_BITS,
    WEIGHT_BITS,
    decay_mantissa,
    largest_rate,
    rate_scale,
    row_mantissas,
)

PARAMETER_BITS = 16
"""Of embeddings, of LayerNorm's weight and of Scale's factor."""
PRECISE_BITS = 20
"""Fraction of what a precise Softmax gives, and the most that LayerNorm and Gelu do; theirs has to fit a message."""
ROOM = 4.0
"""How far beyond the largest value seen in calibration a value may go before it leaves its bits."""
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
    nodes = {name: lowering.add(name, node) for name, node in graph.nodes.items()}
    return replace(graph, nodes=nodes, fixed_point=lowering.fixed)


def _widened(node: Node) -> Node:
    """With parameters that hold what is computed from them: half precision ends at 65504, 8-bit integers at 127."""
    narrow = {
        f.name: value.astype(np.float64)
        for f in fields(node)
        if isinstance(value := getattr(node, f.name), np.ndarray) and value.dtype not in (np.float32, np.float64)
    }
    return replace(node, **narrow) if narrow else node


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


Lowered = tuple[Node, FixedPoint]


class Lowering:
    """What the form of a node depends on. fixed: FixedPoint of the nodes before it."""

    def __init__(
        self, graph: Graph, largest: dict[str, float], spread: int, shift_softmax: bool, precise: bool
    ) -> None:
        self.graph, self.largest, self.spread = graph, largest, spread
        self.shift_softmax, self.precise = shift_softmax, precise
        self.phased = graph.schedule == "phased"
        self.fixed: dict[str, FixedPoint] = {}

    def add(self, name: str, node: Node) -> Node:
        """The integer form of one node; its FixedPoint goes to `fixed`."""
        try:
            lowered, self.fixed[name] = LOWERINGS.of(name, node)(self, name, node)
            if not 2.0**-FARTHEST < self.fixed[name].scale < 2.0**FARTHEST:
                raise ExportError(f"a unit of its output is {self.fixed[name].scale:.3g}: scale weights or factor")
        except ExportError as error:
            raise ExportError(f"node {name} ({type(node).__name__}): {error}") from None
        return lowered

    def source(self, name: str, port: str = "x") -> tuple[float, int]:
        """Scale and bound of what a port reads. Of a MeanPool: the average over the run."""
        source = self.graph.source(name, port)
        node = self.graph.nodes[source]
        gathers = self.graph.nodes[name].at_end and not node.at_end and not self.phased
        if isinstance(node, Neuron):
            most = 1 if node.spikes != "several" else self.fixed[source].bound if source in self.fixed else MOST_SPIKES
            if self.phased or gathers:
                node = _with_whole_leak(node)
                return rate_scale(node, self.graph.time_steps), largest_rate(node, self.graph.time_steps) * most
            return 1.0, most
        if source not in self.fixed:
            raise ExportError(f"feedback from {source}, which is not a neuron layer, has no fixed-point form")
        fixed = self.fixed[source]
        steps = self.graph.time_steps if gathers else 1
        return fixed.scale / steps, min(fixed.bound, LIMIT + 1) * steps

    def clips(self, node: Node) -> bool:
        """Whether a drive beyond the threshold does nothing more: that of a window without leak, with soft reset."""
        return self.precise and self.phased and isinstance(node, Neuron) and node.has_closed_form

    def precise_bits(self, name: str, bound: float) -> tuple[int, bool]:
        """Fraction bits of the precise form of a node whose output is `bound` at most; 0 where it has none. And whether
        it is cut off at the end of a message, which is beyond the thresholds of all neurons that read it."""
        readers = [node for reader, node in self.graph.nodes.items() if name in self.graph.inputs[reader]]
        clips = bool(readers) and all(self.clips(node) for node in readers)
        if clips:
            bound = min(bound, max(float(np.max(node.v_threshold)) for node in readers))  # type: ignore[attr-defined]
        fraction = min(PRECISE_BITS, math.floor(math.log2(LIMIT / (bound + 1)))) if self.precise else 0
        return (fraction, clips) if fraction > max(NORM_BITS, GELU_BITS) else (0, False)

    def seen(self, name: str, scale: float) -> float:
        """Largest output of a node to make room for, in units of `scale`."""
        return ROOM * self.largest[name] / scale


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


def _neuron(lowering: Lowering, name: str, node: Neuron) -> Lowered:
    if more := _more_than_whole(lowering, node):
        raise ExportError(f"{more} has no fixed-point form: leave out quantisation")
    scale, bound = lowering.source(name)
    steps = lowering.graph.time_steps
    threshold = np.asarray(node.v_threshold, np.float64)
    clips = lowering.clips(node)
    factor = _units(lowering, name, node, math.ceil(threshold.max() / scale) if clips else bound)
    whole_threshold = np.rint(threshold / scale * 2.0**factor).astype(np.int32)
    if whole_threshold.min() < 1:
        raise ExportError(
            f"v_threshold {threshold.min():.3g} is less than half a unit ({scale / 2.0**factor:.3g}) of its drive: "
            "drives reach too far beyond it"
        )
    v_threshold = whole_threshold if whole_threshold.ndim else int(whole_threshold)
    v_min = None if node.v_min is None else _like_whole(node.v_min, scale / 2.0**factor, "v_min")
    lowered = replace(_with_whole_leak(node), v_threshold=v_threshold, v_min=v_min)
    rescale = (dyadic(2.0**factor),)
    if lowering.phased:
        return lowered, FixedPoint(rate_scale(lowered, steps), largest_rate(lowered, steps), rescale, clips=clips)
    most = min(MOST_SPIKES, math.ceil(max(1, lowering.seen(name, 1.0)))) if node.spikes == "several" else 1
    return lowered, FixedPoint(1.0, most, rescale)


def _more_than_whole(lowering: Lowering, node: Neuron) -> str:
    """What it has, in words, that has no form in integers; empty for none. Steps may send several spikes, and stop at a
    v_min; windows may not."""
    several = not lowering.phased and node.spikes == "several"
    v_min = node.v_min if lowering.phased else None
    return replace(node, spikes="binary" if several else node.spikes, v_min=v_min).more_than_plain


def _units(lowering: Lowering, name: str, node: Neuron, bound: int) -> int:
    """k where 2^k units of the potential are one unit of the drive, at most the 6 of Lava's own neurons.

    Potentials and thresholds fit for every input if that leaves thresholds of 8 bits, else for those seen.
    """
    scale, _ = lowering.source(name)
    threshold, most = np.asarray(node.v_threshold) / scale, float(node.counts_to(lowering.graph.time_steps))
    if isinstance(node, CubaLIF):
        most = _gain(node.leak, lowering.graph.time_steps) * _gain(node.current_leak, lowering.graph.time_steps)
    elif node.spikes == "several" and node.v_min is not None:
        most = 1.0  # it starts each step between v_min and its threshold
    proven, seen = (
        math.floor(math.log2(LIMIT / max(most * drive + threshold.max(), 1)))
        for drive in (bound, lowering.seen(lowering.graph.source(name, "x"), scale))
    )
    return min(6, proven if threshold.min() * 2.0**proven >= 2**8 and node.has_closed_form else seen)


def _gain(leak: float | np.ndarray, time_steps: int) -> float:
    """Largest sum of leak^k over so many steps: what a constant drive becomes."""
    return float((np.max(leak) ** np.arange(time_steps)).sum())


def _integrator(lowering: Lowering, name: str, node: Integrator) -> Lowered:
    """Up to 6 bits finer than its drive, as neurons are: a decay cuts off what it leaves below a unit."""
    scale, _ = lowering.source(name)
    current = lowering.seen(lowering.graph.source(name, "x"), scale) * _gain(
        node.current_leak, lowering.graph.time_steps
    )
    start = float(np.max(np.abs(node.v_init))) / scale
    factor = min(6, math.floor(math.log2(LIMIT / max(current, lowering.seen(name, scale), start, 1))))
    scale *= 2.0**-factor
    lowered = replace(
        node,
        leak=_whole_leak(node.leak),
        current_leak=_whole_leak(node.current_leak),
        bias=_like_whole(node.bias, scale, "bias"),
        v_init=_like_whole(node.v_init, scale, "v_init"),
    )
    return lowered, FixedPoint(scale, LIMIT + 1, (dyadic(2.0**factor),))


def _like_whole(value: Any, scale: float, what: str) -> Any:
    units = whole(np.asarray(value) / scale, what)
    return units if units.ndim else int(units)


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
        Neuron: _neuron,
        CubaLIF: _neuron,
        Integrator: _integrator,
        Delay: _delay,
        GradedNeuron: _neuron,
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


def _with_whole_leak(node: Neuron) -> Neuron:
    """With the leak that a chip has; what its spikes count in the rate follows from that one."""
    if isinstance(node, CubaLIF):
        node = replace(node, current_leak=_whole_leak(node.current_leak))
    return replace(node, leak=_whole_leak(node.leak))


def _whole_leak(leak: Any) -> Any:
    return _like(leak, decay_mantissa(leak) / 2**DECAY_BITS)


def _like(original: Any, value: np.ndarray) -> Any:
    return value if np.ndim(original) else float(value)
