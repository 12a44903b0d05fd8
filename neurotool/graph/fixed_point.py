"""The fixed-point form of a layer graph: the same nodes with integer parameters, and one FixedPoint for each.

A signal is an integer x that stands for the real number x * scale. What a node's integers mean:

Embedding, Linear, Conv1d, Readout: weight is the mantissa (8 bits; tables of embeddings, which the host looks up, 16),
    and row j counts 2^exponents[j]. bias is in units of the output.
LayerNorm, Scale: y = (x * weight >> shift) + bias with a 16-bit weight; a LayerNorm's epsilon is in squared units of x.
Neuron: v_threshold is in units of the drive, as is the potential, which starts at `initial_potential`. With leak the
    potential decays as Loihi's does: sign(u) (|u| * leak_mantissa >> 12). v_min is in units of the drive, too.
All shifts to the right round to nearest, half up (`rescaled`), but for the decay.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from neurotool.graph.nodes import GradedNeuron, Neuron, same_value

STATE_BITS = 24
"""Of potentials and graded messages, sign included (Loihi 1 and 2, Lava's annotations)."""
LIMIT = 2 ** (STATE_BITS - 1) - 1
"""Largest |value| of a message, an accumulator or a potential; Lava clips v to it."""
WEIGHT_BITS = 8
SPREAD = 8
"""Largest difference between the exponents of one layer's output channels."""
MOST_SPIKES = 2 ** (WEIGHT_BITS - 1) - 1
"""That a neuron may send in one step, as one message that says how many."""
DECAY_BITS = 12
RATE_BITS = 10
"""Fraction of a leaky neuron's weighted rate, and of the mean over tokens."""
SOFTMAX_BITS = 10
"""Fraction of the scores that a Softmax reads."""
PROBABILITY_BITS = 15
"""Fraction of what a Softmax gives."""
NORM_BITS = 12
"""Fraction of what a LayerNorm gives."""
GELU_BITS = 10
"""Fraction of what a Gelu reads."""
GELU_ONE = round(2 * 4**GELU_BITS / 0.2888)
"""1 in the units of I-BERT's polynomial for erf (x / sqrt 2), whose leading coefficient is 0.2888."""
GELU_SHIFT = 23
GELU_SCALE = 2.0 ** (GELU_SHIFT - GELU_BITS) / (2 * GELU_ONE)
"""The real number that 1 stands for in what a Gelu gives."""
FINE_BITS = 18
"""Fraction of what a precise Softmax and Gelu read."""


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """How the integers of one node are to be read.

    scale: the real number that 1 stands for in the output.
    bound: the output lies in -bound … bound for every input, which is proven from the parameters; where it is above
      LIMIT, values are checked when running.
    rescale: (multiplier, shift) for each port: x <- x * multiplier >> shift, to the scale that the node computes in.
    exponents: (out,) of the rows of a weight, all >= 0; None: 0.
    shift: of the product with the weight of LayerNorm and Scale.
    powers_of_two: of a Softmax that gives nothing else.
    fraction: of a precise Softmax, LayerNorm or Gelu, the bits of its fraction; 0: the short forms, after I-BERT.
    clips: of a neuron whose drive is cut off at its threshold, beyond which a window sends no more; of a precise
      LayerNorm or Gelu that only such neurons read, and whose output is cut off at LIMIT.
    """

    scale: float
    bound: int
    rescale: tuple[tuple[int, int], ...] = ()
    exponents: np.ndarray | None = None
    shift: int = 0
    powers_of_two: bool = False
    fraction: int = 0
    clips: bool = False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FixedPoint) and all(
            same_value(a, b) for a, b in zip(vars(self).values(), vars(other).values(), strict=True)
        )


Whole = TypeVar("Whole", np.ndarray, int)


def rescaled(x: Whole, multiplier: int, shift: int) -> Whole:
    """x * multiplier / 2^shift to the nearest integer, half up. The type of x must hold the product."""
    if multiplier != 1:
        x = x * multiplier
    shift = min(shift, 62)  # far beyond what any x holds; a larger one would not fit an integer
    return x if shift == 0 else (x + (1 << (shift - 1))) >> shift


def decay_mantissa(leak: float | np.ndarray) -> np.ndarray:
    """leak * 2^12, whole."""
    return np.rint(np.asarray(leak) * 2**DECAY_BITS).astype(np.int64)


def leak_mantissa(node: Neuron) -> np.ndarray:
    """leak * 2^12, whole."""
    return decay_mantissa(node.leak)


def decayed(x: np.ndarray, mantissa: np.ndarray) -> np.ndarray:
    """x * leak for `mantissa` leak * 2^12, towards 0, as Loihi decays its states."""
    return np.sign(x) * (np.abs(x) * mantissa >> DECAY_BITS)


def initial_potential(node: Neuron) -> np.ndarray:
    """v_init in units of the drive, like the integer threshold of `node`."""
    return np.floor(node.v_init * np.asarray(node.v_threshold) + 0.5).astype(np.int64)


def dead_zone(node: GradedNeuron) -> np.ndarray:
    """Charges below it send nothing; in units of the drive, like the integer threshold of `node`."""
    return np.floor(node.dead_zone * np.asarray(node.v_threshold) + 0.5).astype(np.int64)


def row_mantissas(weight: np.ndarray, spread: int = SPREAD) -> tuple[np.ndarray, int, np.ndarray]:
    """int8 mantissas of a weight (out, …), the lowest exponent, and how far each row's lies above it, up to `spread`.

    A row takes the exponent with the smaller squared error: the first that holds all its weights, or one below, which
    clips the largest but is finer for the others.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    limit = 2 ** (WEIGHT_BITS - 1) - 1
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


def emission_weights(node: Neuron, time_steps: int) -> np.ndarray:
    """What a spike of step 1 … T counts in the neuron's average spiking rate: (T, 1) or (T, …), whole.

    1 without leak. With leak, leak^(T-t) / sum_t leak^(T-t) with RATE_BITS fraction bits: the spike's graded payload.
    """
    if np.all(np.asarray(node.leak) == 1):
        return np.ones((time_steps, 1), np.int64)
    return np.rint(node.emission_weights(time_steps) * 2**RATE_BITS).astype(np.int64)


def rate_scale(node: Neuron, time_steps: int) -> float:
    """What 1 stands for in the sum of the weighted spikes of a neuron."""
    return 1 / node.counts_to(time_steps) if np.all(np.asarray(node.leak) == 1) else 2.0**-RATE_BITS


def largest_rate(node: Neuron, time_steps: int) -> int:
    """Largest sum of weighted spikes of a window, in that unit."""
    weights = emission_weights(node, time_steps)
    return int(weights.sum(0).max()) * node.counts_to(time_steps) // time_steps
