"""Integer-only LayerNorm, softmax and GELU, after I-BERT (Kim et al. 2021, arXiv 2101.01321).

The polynomials are I-BERT's (equations 8 to 16); inputs come with a fixed number of fraction
bits (neurotool.graph.fixed_point), so their constants are the same in every layer.
"""

import numpy as np

from neurotool.graph.fixed_point import GELU_BITS, GELU_ONE, GELU_SHIFT, NORM_BITS, PROBABILITY_BITS, SOFTMAX_BITS

# exp(p) = 0.3585 (p + 1.353)^2 + 0.344 for p in (-ln 2, 0]
_LN2 = round(np.log(2) * 2**SOFTMAX_BITS)
_EXP_B = round(1.353 * 2**SOFTMAX_BITS)
_EXP_C = round(0.344 / 0.3585 * 4**SOFTMAX_BITS)
_EXP_RECIPROCAL = 46  # bits; the sum of at least one and at most 2^13 exponentials keeps 12 to 25 of them

_POWER_BITS = 30  # of the largest power of two

# erf(x / sqrt 2) = sign(x) (1 - 0.2888 (min(|x|, B) / sqrt 2 - 1.769)^2) with B = 1.769 sqrt 2
_ERF_B = round(1.769 * np.sqrt(2) * 2**GELU_BITS)

_NORM_RECIPROCAL = 36


def exponential(x: np.ndarray) -> np.ndarray:
    """exp(x / 2^SOFTMAX_BITS) * 2^(2 SOFTMAX_BITS) / 0.3585 for x <= 0; error below 0.38 % and one unit."""
    halvings = -x // _LN2
    rest = x + halvings * _LN2
    return ((rest + _EXP_B) ** 2 + _EXP_C) >> np.minimum(halvings, 62)


# Both functions have few different values: they are looked up.
_EXPONENTIAL_STARTS = -_LN2 * 23  # below this it is 0
_EXPONENTIAL = exponential(np.arange(_EXPONENTIAL_STARTS, 1)).astype(np.float64)


def softmax(x: np.ndarray, readable: np.ndarray) -> np.ndarray:
    """Over the last axis, of the columns where `readable`; the others are 0. PROBABILITY_BITS fraction bits.

    Error below 0.8 % and one unit, 2^-15, for up to 2^13 columns.
    """
    if readable.all():
        largest = x.max(-1, keepdims=True)
    else:
        largest = x.max(-1, keepdims=True, where=readable, initial=np.iinfo(x.dtype).min)
    e = _EXPONENTIAL.take(np.subtract(x, largest + _EXPONENTIAL_STARTS, dtype=np.int64), mode="clip") * readable
    reciprocal = 2**_EXP_RECIPROCAL // e.sum(-1, keepdims=True).astype(np.int64)
    e *= reciprocal * 2.0 ** (PROBABILITY_BITS - _EXP_RECIPROCAL)  # below 2^46 of these units: floats are exact
    e += 0.5
    return e.astype(np.int32)  # which rounds down


def shift_softmax(x: np.ndarray, readable: np.ndarray) -> np.ndarray:
    """2^x / sum 2^x over the last axis, with SOFTMAX_BITS and PROBABILITY_BITS fraction bits as in `softmax`.

    All in powers of two, so that a product with what it gives is a shift: exponents are whole, and the sum is the
    nearest power of two by its logarithm (after Sorbet, arXiv 2409.15298). Elements are within a factor 2^1.5 and one
    unit, row sums at most 2^15 sqrt 2.
    """
    largest = x.max(-1, keepdims=True, where=readable, initial=np.iinfo(x.dtype).min)
    halvings = (np.maximum(largest - x.astype(np.int64), 0) + (1 << (SOFTMAX_BITS - 1))) >> SOFTMAX_BITS
    e = (2**_POWER_BITS >> np.minimum(halvings, 62)) * readable
    # 181/128 is sqrt 2; frexp is exact and gives one more than the floor of the logarithm.
    exponent = np.frexp(e.sum(-1, keepdims=True) * (181 / 128))[1] - 1
    return e >> (exponent - PROBABILITY_BITS)


def gelu(x: np.ndarray) -> np.ndarray:
    """x (1 + erf(x / sqrt 2)) / 2 for x with GELU_BITS fraction bits, in units of GELU_SCALE.

    |error| below 0.0186 for all x of 24 bits, largest at |x| = 2.34; that of I-BERT's polynomial itself is 0.018.
    """
    y = _GELU[np.clip(x, -_ERF_B, _ERF_B) + _ERF_B]
    beyond = x > _ERF_B
    if beyond.any():
        y = y.astype(np.int64)
        y[beyond] = polynomial_gelu(x[beyond])
    return y


def polynomial_gelu(x: np.ndarray) -> np.ndarray:
    """What `gelu` looks up."""
    x = x.astype(np.int64)
    erf = np.sign(x) * (GELU_ONE - (np.minimum(np.abs(x), _ERF_B) - _ERF_B) ** 2)
    return (x * (GELU_ONE + erf) + (1 << (GELU_SHIFT - 1))) >> GELU_SHIFT


_GELU = polynomial_gelu(np.arange(-_ERF_B, _ERF_B + 1)).astype(np.int32)
GELU_TURNS = int(_GELU.argmin()) - _ERF_B
"""Up to here `gelu` does not rise, from here on it does not fall (a test looks at every value)."""


def integer_sqrt(x: np.ndarray) -> np.ndarray:
    """floor(sqrt(x)) for 0 <= x < 2^62; what I-BERT's Newton iteration (its algorithm 4) ends with."""
    root = np.sqrt(x.astype(np.float64)).astype(np.int64)  # off by one at most
    root -= root * root > x
    return root + ((root + 1) ** 2 <= x)


def normalised(x: np.ndarray, epsilon: int) -> np.ndarray:
    """(x - mean) / sqrt(var + epsilon) over the last axis, NORM_BITS fraction bits; 0 where the root is 0. In
    float64, whole.

    With a root r of 2 and more the error is below (1/2 + 3/2 |y|) / (r - 3/2) and 1.5 units of 2^-12: x needs units so
    small that rows deviate by many. |x| must be below 2^24.
    """
    n = x.shape[-1]
    mean = (2 * x.sum(-1, keepdims=True, dtype=np.int64) + n) // (2 * n)
    centred = x - mean.astype(np.float64)  # whole numbers: floats have products that are fast
    squares = np.einsum("...i,...i->...", centred, centred)[..., None]
    if squares.max(initial=0) >= 2**53:  # and below that all of these are exact
        squares = np.einsum("...i,...i->...", x - mean, x - mean)[..., None]
    deviation = integer_sqrt(squares.astype(np.int64) // n + epsilon)
    # One division a token: elements are multiplied with the reciprocal. |centred| < 2 sqrt(n) deviation: exact, too.
    reciprocal = np.where(deviation > 0, 2**_NORM_RECIPROCAL // np.maximum(deviation, 1), 0)
    centred *= reciprocal * 2.0 ** (NORM_BITS - _NORM_RECIPROCAL)
    centred += 0.5
    return np.floor(centred, out=centred)
