"""Neuron layers and integrators in integers: thresholds and biases in units of their drive, decays as on a chip."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from neurotool.errors import ExportError
from neurotool.export.lowering import Lowered, Lowering, whole_leak, with_whole_leak
from neurotool.export.rounding import dyadic, whole
from neurotool.graph import CubaLIF, FixedPoint, Integrator, Neuron
from neurotool.graph.fixed_point import LIMIT, MOST_SPIKES, largest_rate, rate_scale


def lower_neuron(lowering: Lowering, name: str, node: Neuron) -> Lowered:
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
    lowered = replace(with_whole_leak(node), v_threshold=v_threshold, v_min=v_min)
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


def lower_integrator(lowering: Lowering, name: str, node: Integrator) -> Lowered:
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
        leak=whole_leak(node.leak),
        current_leak=whole_leak(node.current_leak),
        bias=_like_whole(node.bias, scale, "bias"),
        v_init=_like_whole(node.v_init, scale, "v_init"),
    )
    return lowered, FixedPoint(scale, LIMIT + 1, (dyadic(2.0**factor),))


def _like_whole(value: Any, scale: float, what: str) -> Any:
    units = whole(np.asarray(value) / scale, what)
    return units if units.ndim else int(units)
