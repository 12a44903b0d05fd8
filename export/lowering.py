"""What the integer form of a node depends on: units and bounds of what it reads, and what calibration saw of it."""

import math
from dataclasses import replace
from typing import Any

import numpy as np

from neurotool.errors import ExportError
from neurotool.graph import CubaLIF, FixedPoint, Graph, Neuron, Node
from neurotool.graph.fixed_point import (
    DECAY_BITS,
    GELU_BITS,
    LIMIT,
    MOST_SPIKES,
    NORM_BITS,
    decay_mantissa,
    largest_rate,
    rate_scale,
)

PRECISE_BITS = 20
"""Fraction of what a precise Softmax gives, and the most that LayerNorm and Gelu do; theirs has to fit a message."""
ROOM = 4.0
"""How far beyond the largest value seen in calibration a value may go before it leaves its bits."""

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

    def source(self, name: str, port: str = "x") -> tuple[float, int]:
        """Scale and bound of what a port reads. Of a MeanPool: the average over the run."""
        source = self.graph.source(name, port)
        node = self.graph.nodes[source]
        gathers = self.graph.nodes[name].at_end and not node.at_end and not self.phased
        if isinstance(node, Neuron):
            most = 1 if node.spikes != "several" else self.fixed[source].bound if source in self.fixed else MOST_SPIKES
            if self.phased or gathers:
                node = with_whole_leak(node)
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


def with_whole_leak(node: Neuron) -> Neuron:
    """With the leak that a chip has; what its spikes count in the rate follows from that one."""
    if isinstance(node, CubaLIF):
        node = replace(node, current_leak=whole_leak(node.current_leak))
    return replace(node, leak=whole_leak(node.leak))


def whole_leak(leak: Any) -> Any:
    return _like(leak, decay_mantissa(leak) / 2**DECAY_BITS)


def _like(original: Any, value: np.ndarray) -> Any:
    return value if np.ndim(original) else float(value)
