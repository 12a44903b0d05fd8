"""LayerNorm, softmax and GELU in whole numbers, with errors of about the last bit of what they hand on.

A threshold turns small differences into spikes, and layers multiply these (docs/fixed_point.md): what is to send the
spikes of the network with real numbers needs errors far below those of I-BERT's polynomials (nonlinear.py). Small
tables and products of up to 62 bits take their place. `bits`: fraction bits of the result.
"""

import math

import numpy as np

from neurotool.graph.fixed_point import FINE_BITS
from neurotool.lava_runtime.nonlinear import integer_sqrt

_ONE = 30  # fraction bits of tables
_LOW = FINE_BITS - 8  # bits of a score that the second table of exponentials reads
_LOWEST = 22 << FINE_BITS  # beyond this an exponential rounds to 0
_HIGH_EXPONENTIALS = np.rint(np.exp(-np.arange((_LOWEST >> _LOW) + 1) * 2.0 ** (_LOW - FINE_BITS)) * 2**_ONE)
_HIGH_EXPONENTIALS = _HIGH_EXPONENTIALS.astype(np.int64)
_LOW_EXPONENTIALS = np.rint(np.exp(-np.arange(2**_LOW) * 2.0**-FINE_BITS) * 2**_ONE).astype(np.int64)
_SUM = 62  # fraction bits of a product with a reciprocal

_CELL = FINE_BITS - 6  # bits of a cell of the table of the normal distribution, 1/64 wide
_CELLS = 6 << 6  # up to 6, where it is 1 - 10^-9
_MIDDLES = (np.arange(_CELLS) + 0.5) / 64
_DENSITIES = np.exp(-(_MIDDLES**2) / 2) / math.sqrt(2 * math.pi)
_SLOPE = 16  # further fraction bits of what is multiplied with the place in a cell
_DISTRIBUTION = np.array([(1 + math.erf(x / math.sqrt(2))) / 2 * 2**_ONE for x in _MIDDLES]).round().astype(np.int64)
_FIRST = np.rint(_DENSITIES * 2.0 ** (_ONE + _SLOPE - FINE_BITS)).astype(np.int64)
_SECOND = np.rint(-_MIDDLES * _DENSITIES / 2 * 2.0 ** (_ONE + _SLOPE - 2 * FINE_BITS)).astype(np.int64)


def softmax(x: np.ndarray, readable: np.ndarray, bits: int) -> np.ndarray:
    """Over the last axis, of the columns where `readable`; the others are 0. x: FINE_BITS fraction bits.

    exp(a + b) = exp(a) exp(b), each from a table. Error below one unit and 2^-19 for up to 2^13 columns.
    """
    x = x.astype(np.int64, copy=False)
    largest = x.max(-1, keepdims=True, where=readable, initial=np.iinfo(np.int64).min)
    below = np.clip(largest - x, 0, _LOWEST)
    e = _HIGH_EXPONENTIALS[below >> _LOW] * _LOW_EXPONENTIALS[below & (2**_LOW - 1)]
    e = ((e + (1 << (_ONE - 1))) >> _ONE) * readable
    reciprocal = 2**_SUM // e.sum(-1, keepdims=True)
    return (e * reciprocal + (1 << (_SUM - bits - 1))) >> (_SUM - bits)


def gelu(x: np.ndarray, bits: int) -> np.ndarray:
    """x times the normal distribution, FINE_BITS fraction bits in x; the distribution is a parabola in each of 384
    cells.

    |error| below 2^-21 and a unit for |x| up to 8; beyond, 2^-30 |x| and a unit.
    """
    x = x.astype(np.int64, copy=False)
    size = np.abs(x)
    cell = np.minimum(size >> _CELL, _CELLS - 1)
    place = (size & (2**_CELL - 1)) - 2 ** (_CELL - 1)
    distribution = _DISTRIBUTION[cell] + ((_FIRST[cell] + _SECOND[cell] * place) * place >> _SLOPE)
    distribution[size >= _CELLS << _CELL] = 2**_ONE
    distribution = np.where(x < 0, 2**_ONE - distribution, distribution)
    shift = _ONE + FINE_BITS - bits
    return (x * distribution + (1 << (shift - 1))) >> shift


def normalised(x: np.ndarray, epsilon: int, bits: int) -> np.ndarray:
    """(x - mean) / sqrt(var + epsilon) over the last axis; 0 where the root is 0. |x| below 2^24, at most 2^16 columns.

    Distances from the mean are counted in parts of a unit and shifted until their squares use all of 62 bits. Relative
    error below 2^-20 for up to 2^10 columns, 2^-17 for more, and a unit.
    """
    n = x.shape[-1]
    x = x.astype(np.int64, copy=False)
    distance = n * x - x.sum(-1, keepdims=True)  # n times
    most = (_SUM - n.bit_length()) // 2
    largest = np.maximum(np.abs(distance).max(-1, keepdims=True), n * math.sqrt(epsilon))
    shift = most - np.frexp(largest)[1].astype(np.int64)
    distance = np.where(shift >= 0, distance << np.maximum(shift, 0), distance >> np.maximum(-shift, 0))
    squares = np.einsum("...i,...i->...", distance, distance)[..., None]
    root = integer_sqrt(squares // n + (epsilon * float(n) ** 2 * 4.0**shift).astype(np.int64))  # of epsilon a shift
    width = _SUM - 1 - (n.bit_length() + 1) // 2  # |distance| <= sqrt(n) root
    reciprocal = np.where(root > 0, 2**width // np.maximum(root, 1), 0)
    return (distance * reciprocal + (1 << (width - bits - 1))) >> (width - bits)
