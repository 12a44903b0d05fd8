"""Neuron layers by themselves, on currents that put them exactly at their thresholds: real inputs hardly ever do."""

import numpy as np

from neurotool.executor import Executor
from neurotool.graph import GradedNeuron, Graph, Neuron
from neurotool.graph.fixed_point import DECAY_BITS, dead_zone, initial_potential, leak_mantissa, rescaled
from neurotool.graph.nodes import own_axes

# Drives on which every neuron layer is tried by itself, in units of the one that makes it fire at once.
_DRIVES = (1.0, 0.5, 0.25, 0.3, 0.7, 0.8, 1.3, 2.0, -0.3, -1.0, -1.2)


def try_neurons(a: Executor, b: Executor, layer: str) -> str:
    """Where two executors differ on such currents of one layer, in words; empty where they do not."""
    node = a.graph.nodes[layer]
    shape = own_axes(a.graph.shapes()[layer])
    assert isinstance(node, Neuron)
    least = _least_firing_message(a.graph, layer, node) if a.graph.fixed_point else _least_firing_current(node)
    currents = np.array(_DRIVES).reshape(-1, *[1] * len(shape)) * np.broadcast_to(least, shape)
    spikes_a, spikes_b = a.drive(layer, currents), b.drive(layer, currents)
    steps = min(len(spikes_a), len(spikes_b))
    places = np.argwhere(spikes_a[:steps] != spikes_b[:steps])
    if not len(places):
        return ""
    step, drive, *at = (int(k) for k in places[0])
    neuron = (drive, *at)
    return (
        f"{layer}: neuron {', '.join(map(str, at))} under a current of {currents[neuron]:.17g} sends "
        f"{spikes_a[step][neuron]} in A and {spikes_b[step][neuron]} in B in step {step}"
    )


def _least_firing_current(node: Neuron) -> np.ndarray:
    """The smallest float64 that makes a neuron fire in its first step: it is on the threshold, to the last bit."""
    v_threshold, kept = np.asarray(node.v_threshold, np.float64), np.asarray(node.leak) * node.v_init
    if isinstance(node, GradedNeuron):
        return _least_sending_current(node, v_threshold)
    current = v_threshold * (node.firing_point - kept) * (1 - 2.0**-50) - node.bias
    while np.any(silent := kept + (current + node.bias) / v_threshold < node.firing_point):
        current = np.where(silent, np.nextafter(current, np.inf), current)
    return current


def _least_sending_current(node: GradedNeuron, v_threshold: np.ndarray) -> np.ndarray:
    """The same for a count other than 0."""
    current = v_threshold * max(node.firing_point - node.v_init, node.dead_zone) / node.levels * (1 - 2.0**-50)
    while np.any(silent := node.count(current / v_threshold, 1) == 0):
        current = np.where(silent, np.nextafter(current, np.inf), current)
    return current


def _least_firing_message(graph: Graph, layer: str, node: Neuron) -> np.ndarray:
    """The same of a fixed-point neuron: the smallest message of its source that makes it fire, as a real number."""
    fixed, source = graph.fixed_point[layer], graph.fixed_point[graph.source(layer, "x")]
    multiplier, shift = fixed.rescale[0]
    threshold = np.asarray(node.v_threshold, np.int64)
    kept = initial_potential(node) * leak_mantissa(node) >> DECAY_BITS
    needed = (threshold if node.spikes == "binary" else (threshold + 1) // 2) - kept
    if isinstance(node, GradedNeuron):
        needed = -(-np.maximum(needed, dead_zone(node)) // node.levels)
    message = (needed << shift) // max(multiplier, 1) - 1
    for _ in range(3):
        message = np.where(rescaled(message, multiplier, shift) < needed, message + 1, message)
    return message * source.scale
