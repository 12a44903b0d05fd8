"""Real numbers as whole ones: mantissas with exponents, ratios as a multiplication and a shift."""

import math

import numpy as np

from neurotool.errors import ExportError
from neurotool.graph.fixed_point import LIMIT, STATE_BITS


def excess_bits(bound: float) -> int:
    """Bits that values up to `bound` have beyond those of a message."""
    return max(0, math.ceil(math.log2(max(bound, 1) / LIMIT)))


def mantissas(x: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Integers of `bits` bits and one exponent: x is about mantissas * 2^exponent."""
    limit = 2 ** (bits - 1) - 1
    largest = float(np.abs(x).max())
    exponent = math.ceil(math.log2(largest / limit)) if largest > 0 else 0
    return np.rint(x * 2.0**-exponent).astype(np.int8 if bits <= 8 else np.int16), exponent


def dyadic(ratio: float, bits: int = 15) -> tuple[int, int]:
    """(multiplier, shift) with multiplier / 2^shift about `ratio`, to so many bits; exact for powers of two.

    (0, 0) for a ratio that leaves nothing of a 24-bit message.
    """
    if ratio < 2.0**-STATE_BITS / 2:
        return 0, 0
    mantissa, exponent = math.frexp(ratio)  # ratio = mantissa * 2^exponent, 0.5 <= mantissa < 1
    if mantissa == 0.5:
        return (2 ** (exponent - 1), 0) if exponent >= 1 else (1, 1 - exponent)
    shift = bits - exponent
    return (round(ratio * 2.0**shift), shift) if shift >= 0 else (round(ratio), 0)


def whole(x: np.ndarray, what: str) -> np.ndarray:
    """x rounded to int32. Raises ExportError where it needs more than 24 bits."""
    y = np.rint(x)
    if np.abs(y).max() > LIMIT:
        raise ExportError(f"{what} reaches {np.abs(y).max():.3g} units of the output: 24 bits hold {LIMIT}")
    return y.astype(np.int32)
