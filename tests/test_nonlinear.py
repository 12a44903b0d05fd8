"""Integer softmax, GELU, square root and normalisation against float, over the whole range of their inputs."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import erf

from neurotool.graph.fixed_point import GELU_BITS, GELU_SCALE, LIMIT, NORM_BITS, PROBABILITY_BITS, SOFTMAX_BITS
from neurotool.lava_runtime.nonlinear import exponential, gelu, integer_sqrt, normalised, shift_softmax, softmax

EXPONENTIAL_UNIT = 0.3585 / 4**SOFTMAX_BITS
PROBABILITY_UNIT = 2.0**-PROBABILITY_BITS
NORM_UNIT = 2.0**-NORM_BITS


def test_exponential_for_every_input() -> None:
    """Below exp(-60) < 2^-64 the result is 0; above, every input is tried."""
    x = np.arange(-60 * 2**SOFTMAX_BITS, 1)
    true = np.exp(x / 2**SOFTMAX_BITS)
    found = exponential(x) * EXPONENTIAL_UNIT
    assert (np.abs(found - true) <= 0.0038 * true + EXPONENTIAL_UNIT).all()
    assert (exponential(np.array([-60 * 2**SOFTMAX_BITS, -LIMIT, -(2**45)])) == 0).all()


def test_exponential_by_hand() -> None:
    """1 stands for 0.3585 2^-20; (0 + 1.353)^2 + 0.344 / 0.3585 at 0, with constants rounded to 2^-10 and 2^-20."""
    assert exponential(np.array([0])).tolist() == [1385**2 + 1006165]
    assert exponential(np.array([-710])).tolist() == [(1385**2 + 1006165) // 2]


def float_softmax(x: np.ndarray, readable: np.ndarray) -> np.ndarray:
    scores = np.where(readable, x / 2**SOFTMAX_BITS, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def softmax_error_within_bound(x: np.ndarray, readable: np.ndarray) -> bool:
    true, found = float_softmax(x, readable), softmax(x, readable)
    error = np.abs(found * PROBABILITY_UNIT - true)
    return (
        bool((error <= 0.008 * true + PROBABILITY_UNIT).all()) and not found[~np.broadcast_to(readable, x.shape)].any()
    )


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 7, 64, 512]),
    st.sampled_from([0, 1, 100, 2**12, 2**15, LIMIT]),
)
def test_softmax(seed: int, columns: int, span: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-span, span + 1, (4, columns))
    readable = rng.random(columns) < 0.7
    readable[rng.integers(columns)] = True
    assert softmax_error_within_bound(x, readable)


@pytest.mark.parametrize(
    "row",
    [
        [0] * 512,
        [LIMIT] * 512,
        [-LIMIT] * 512,
        [LIMIT] + [-LIMIT] * 511,
        [0] + [-710] * 511,  # exactly one halving
        [0] + [-5 * 1024] * 511,
        list(range(0, -512 * 20, -20)),
    ],
)
def test_softmax_of_adversarial_rows(row: list[int]) -> None:
    assert softmax_error_within_bound(np.array([row]), np.ones(512, bool))


def test_softmax_by_hand() -> None:
    assert softmax(np.array([[5, 5]]), np.array([True, True])).tolist() == [[2**14, 2**14]]
    assert softmax(np.array([[-7, 9000]]), np.array([True, False])).tolist() == [[2**15, 0]]


def test_softmax_does_not_change_when_all_scores_shift() -> None:
    x = np.random.default_rng(0).integers(-5000, 5000, (8, 32))
    readable = np.ones(32, bool)
    np.testing.assert_array_equal(softmax(x, readable), softmax(x + 123456, readable))


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 7, 512]), st.sampled_from([0, 1, 2**10, 2**13, 2**31 - 1]))
def test_shift_softmax_is_powers_of_two_within_its_factor(seed: int, columns: int, span: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(-span, span + 1, (4, columns)).astype(np.int32)
    readable = rng.random(columns) < 0.7
    readable[rng.integers(columns)] = True
    found, true = shift_softmax(x, readable), float_softmax(x * math.log(2), readable) / PROBABILITY_UNIT
    assert not found[:, ~readable].any()
    assert ((found & (found - 1)) == 0).all() and found.max() <= 2**PROBABILITY_BITS
    assert (found.sum(-1) <= math.sqrt(2) * 2**PROBABILITY_BITS).all()
    assert (found <= true * 2**1.501 + 1).all() and (found >= true / 2**1.501 - 1).all()


def test_shift_softmax_by_hand() -> None:
    """1, 1/2 and 1/4 sum to 7/4, nearest to 2; 1, 1/4 to 5/4, nearest to 1. 0.6 below is a halving, 0.4 below none."""
    one = 2**SOFTMAX_BITS
    row = np.array([[0, -one, -2 * one]])
    assert shift_softmax(row, np.array([True, True, True])).tolist() == [[2**14, 2**13, 2**12]]
    assert shift_softmax(row, np.array([True, False, True])).tolist() == [[2**15, 0, 2**13]]
    row = np.array([[0, -int(0.6 * one), -int(0.4 * one), -20 * one]])
    assert shift_softmax(row, np.ones(4, bool)).tolist() == [[2**14, 2**13, 2**14, 0]]


def test_gelu_for_every_input_of_24_bits() -> None:
    worst = 0.0
    for x in np.array_split(np.arange(-LIMIT - 1, LIMIT + 1), 32):
        real = x / 2**GELU_BITS
        worst = max(worst, float(np.abs(gelu(x) * GELU_SCALE - real * (1 + erf(real / math.sqrt(2))) / 2).max()))
    assert 0.018 < worst < 0.0186  # at 2.34; I-BERT's polynomial itself: 0.018


def test_gelu_by_hand() -> None:
    """0 at 0; x for large x and 0 for large -x, to a unit."""
    x = 5 * 2**GELU_BITS
    assert gelu(np.array([0, -x, -LIMIT])).tolist() == [0, 0, 0]
    assert gelu(np.array([x]))[0] == pytest.approx(5 / GELU_SCALE, abs=1)


def newton_sqrt(n: int) -> int:
    """I-BERT's algorithm 4 (arXiv 2101.01321), written from the paper."""
    if n == 0:
        return 0
    x = 2 ** math.ceil(n.bit_length() / 2)
    while (y := (x + n // x) // 2) < x:
        x = y
    return x


@given(st.integers(0, 2**62 - 1) | st.integers(1, 2**31 - 1).flatmap(lambda r: st.sampled_from([r * r, r * r - 1])))
@example(0)
@example(1)
@example((2**31 - 1) ** 2 - 1)
@example(2**62 - 1)
def test_integer_sqrt_is_the_floor_and_newtons_fixed_point(x: int) -> None:
    root = int(integer_sqrt(np.array([x]))[0])
    assert root == math.isqrt(x) == newton_sqrt(x)


def norm_error_within_bound(x: np.ndarray, epsilon: int) -> bool:
    """Both the float reference and the bound are derived from exact variances."""
    found = normalised(x, epsilon) * NORM_UNIT
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    true = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    # Mean rounded: 1/2 a unit; root of a variance, both rounded down: 3/2 units where it is 2 or more.
    bound = (0.5 + 1.5 * np.abs(true)) / np.maximum(deviation - 1.5, 1) + 1.5 * NORM_UNIT
    return bool((np.abs(found - true) <= bound)[np.broadcast_to(deviation >= 2, x.shape)].all())


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 3, 16, 384, 3072]),
    st.sampled_from([4, 10, 1000, 2**16, LIMIT]),
    st.sampled_from([0, 1, 10**6]),
)
def test_normalisation_of_random_rows(seed: int, width: int, span: int, epsilon: int) -> None:
    rng = np.random.default_rng(seed)
    offset = rng.integers(-(LIMIT - span), LIMIT - span + 1) if span < LIMIT else 0
    assert norm_error_within_bound(rng.integers(-span, span + 1, (3, width)) + offset, epsilon)


@given(arrays(np.int64, (2, 9), elements=st.integers(-LIMIT, LIMIT)), st.integers(0, 10**9))
def test_normalisation_of_any_row(x: np.ndarray, epsilon: int) -> None:
    assert norm_error_within_bound(x, epsilon)


@pytest.mark.parametrize("width", [2, 384, 3072])
@pytest.mark.parametrize("outlier", [2, 50, 2**12, LIMIT])
def test_normalisation_of_one_outlier(width: int, outlier: int) -> None:
    """All the same but one: sqrt(n - 1) deviations, the largest there can be, and within LayerNorm's proven bound."""
    x = np.full((1, width), -LIMIT if outlier == LIMIT else 3)
    x[0, 0] = outlier
    assert norm_error_within_bound(x, 0)
    assert np.abs(normalised(x, 0)).max() <= 2 * math.isqrt(width) + 2 << NORM_BITS


@given(arrays(np.int64, (3, 8), elements=st.integers(-3, 3)), st.integers(-LIMIT + 3, LIMIT - 3))
def test_tiny_deviations_stay_within_the_proven_bound(x: np.ndarray, offset: int) -> None:
    """Too small a deviation has no accuracy, but may not leave the range that LayerNorm's bound is proven from."""
    assert np.abs(normalised(x + offset, 0)).max() <= 2 * math.isqrt(8) + 2 << NORM_BITS


@pytest.mark.parametrize("value", [0, 1, -1, LIMIT, -LIMIT])
def test_constant_rows_normalise_to_zero(value: int) -> None:
    for epsilon in (0, 1, 10**9):
        assert not normalised(np.full((2, 384), value), epsilon).any()


def test_normalisation_by_hand() -> None:
    """Variance 12500 and epsilon 1900: the root is 120. 150 / 120 is 5120 in units of 2^-12, 50 / 120 is 1706.67."""
    assert normalised(np.array([[-150, -50, 50, 150]]), 1900).tolist() == [[-5120, -1707, 1707, 5120]]
