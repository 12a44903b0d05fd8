"""Neurons against hand-computed sequences, exact rational arithmetic, their own recurrence and their steady state."""

from collections.abc import Callable
from fractions import Fraction
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from neurotool.errors import ConfigError
from neurotool.student.emission import Membranes, NeuronLayer, SteadyState, WindowRates, WindowSpikes
from neurotool.student.neurons import (
    NeuronDynamics,
    RunningRate,
    average_spiking_rate,
    closed_form_rate,
    substitute,
)

BINARY = tuple(k / 16 for k in range(16))
TERNARY = tuple(k / 16 for k in range(-8, 8))


def dynamics_without_leak() -> st.SearchStrategy[NeuronDynamics]:
    """Every neuron that has a closed form."""
    return st.one_of(
        st.builds(NeuronDynamics, st.just("binary"), v_init=st.sampled_from(BINARY)),
        st.builds(NeuronDynamics, st.just("ternary"), v_init=st.sampled_from(TERNARY)),
    )


def ulps(x: Tensor, steps: int) -> Tensor:
    for _ in range(abs(steps)):
        x = torch.nextafter(x, torch.full_like(x, torch.inf if steps > 0 else -torch.inf))
    return x


@st.composite
def windows(draw: st.DrawFn) -> tuple[NeuronDynamics, Tensor, int]:
    """Dynamics, drives and T: any float at all, and floats within three ulps of where a count changes."""
    dynamics = draw(dynamics_without_leak())
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    time_steps = draw(st.one_of(st.integers(1, 40), st.integers(1, 1024)))
    width: Literal[32, 64] = 32 if dtype == torch.float32 else 64
    anything = draw(st.lists(st.floats(width=width, allow_nan=False), min_size=1, max_size=8))
    unit = draw(st.lists(st.floats(-1.5, 1.5, width=32), max_size=8))
    counts = draw(st.lists(st.integers(-time_steps - 1, time_steps + 1), min_size=1, max_size=8))
    offset = dynamics.v_init + 1 - dynamics.firing_point
    edges = torch.tensor([[(n - offset) / time_steps, n / time_steps] for n in counts], dtype=dtype).flatten()
    near = [ulps(edges, k) for k in range(-3, 4)]
    return dynamics, torch.cat([torch.tensor(anything + unit, dtype=dtype), *near]), time_steps


def exact_spikes(dynamics: NeuronDynamics, current: Fraction, v_threshold: Fraction, time_steps: int) -> list[int]:
    """The defining recurrence in physical units and exact arithmetic: integrate, compare, subtract the threshold."""
    firing = v_threshold if dynamics.spikes == "binary" else v_threshold / 2
    u = Fraction(dynamics.v_init) * v_threshold
    spikes = []
    for _ in range(time_steps):
        u += current
        s = 1 if u >= firing else -1 if dynamics.spikes == "ternary" and u < -firing else 0
        u -= s * v_threshold
        spikes.append(s)
    return spikes


def stepped(dynamics: NeuronDynamics, drive: Tensor, time_steps: int) -> tuple[Tensor, Tensor]:
    """(potential after the last step, spikes (T, ...)) of the plain float recurrence."""
    u, spikes = torch.full_like(drive, dynamics.v_init), []
    for _ in range(time_steps):
        u, s = dynamics.step(u, drive)
        spikes.append(s)
    return u, torch.stack(spikes)


@pytest.mark.parametrize(
    ("dynamics", "drive", "expected"),
    [
        (NeuronDynamics(), 0.375, [0, 0, 1, 0, 0, 1, 0, 1]),
        (NeuronDynamics(), 0.0, [0, 0, 0]),
        (NeuronDynamics(), -3.0, [0, 0, 0]),
        (NeuronDynamics(), 1.0, [1, 1, 1]),
        (NeuronDynamics(), 2.5, [1, 1, 1]),  # never more than one a step
        (NeuronDynamics(v_init=0.5), 0.25, [0, 1, 0, 0, 0, 1]),
        (NeuronDynamics(reset="hard"), 0.375, [0, 0, 1, 0, 0, 1, 0, 0]),
        (NeuronDynamics("ternary"), 0.375, [0, 1, 0, 1, 0, 0, 1, 0]),
        (NeuronDynamics("ternary"), -0.375, [0, -1, 0, 0, -1, 0, -1, 0]),  # -1/2 itself does not fire
        (NeuronDynamics("ternary"), -7.0, [-1, -1, -1]),
        (NeuronDynamics("ternary", v_init=-0.5), 0.25, [0, 0, 0, 1, 0]),
        (NeuronDynamics("ternary", reset="hard"), 0.375, [0, 1, 0, 1, 0, 1]),
        (NeuronDynamics(leak=0.5), 0.75, [0, 1, 0, 1, 0, 1]),  # u: .75, 1.125, .8125, 1.15625, ...
        (NeuronDynamics(leak=0.5), 0.375, [0] * 8),  # u stays below .375 / (1 - .5)
        (NeuronDynamics(leak=0.5, reset="hard", v_init=0.5), 0.75, [1, 0, 1, 0, 1, 0]),
        (NeuronDynamics("ternary", leak=0.5), -0.375, [0, -1, 0, 0, -1, 0]),  # u: -.375, -.5625, -.15625, -.453, -.602
    ],
)
def test_hand_computed_spikes(dynamics: NeuronDynamics, drive: float, expected: list[int]) -> None:
    x = torch.tensor([drive])
    assert [int(s) for s in dynamics.window(x, len(expected))] == expected
    assert stepped(dynamics, x, len(expected))[1].flatten().tolist() == expected
    if dynamics.has_closed_form:
        assert dynamics.spike_count(x, len(expected)) == sum(expected)


@settings(max_examples=150)
@given(windows())
def test_closed_form_equals_the_window_for_every_float(case: tuple[NeuronDynamics, Tensor, int]) -> None:
    dynamics, drive, time_steps = case
    allowed = {0, 1} if dynamics.spikes == "binary" else {-1, 0, 1}
    total, seen = torch.zeros_like(drive), set()
    for s in dynamics.window(drive, time_steps):
        assert s.dtype == drive.dtype
        seen |= set(s.tolist())
        total += s
    assert seen <= allowed
    assert torch.equal(total, dynamics.spike_count(drive, time_steps))
    assert torch.equal(total / time_steps, dynamics.rate(drive, time_steps))


@pytest.mark.parametrize("drive", [-1e-30, -1e-9, -(2.0**-26)])
def test_a_tiny_negative_drive_sends_one_spike_and_takes_none_back(drive: float) -> None:
    """From v_init -1/2 the first step crosses the lower edge; charge + 1 then rounds to 1."""
    spikes = NeuronDynamics("ternary", v_init=-0.5).window(torch.tensor(drive), 6)
    assert [int(s) for s in spikes] == [-1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saturated_neuron_has_rate_one(dtype: torch.dtype) -> None:
    """count * (1 / T) would not: 49 * (1 / 49) < 1."""
    one = torch.ones(1, dtype=dtype)
    assert all(NeuronDynamics().rate(one, time_steps) == 1 for time_steps in range(1, 1025))


@settings(max_examples=200)
@given(
    dynamics_without_leak(),
    st.integers(-600, 600),
    st.integers(0, 9),
    st.integers(-3, 3),
    st.integers(1, 48),
    st.sampled_from((torch.float32, torch.float64)),
)
def test_dyadic_drives_follow_the_exact_recurrence(
    dynamics: NeuronDynamics, numerator: int, bits: int, exponent: int, time_steps: int, dtype: torch.dtype
) -> None:
    current, v_threshold = Fraction(numerator, 2**bits), Fraction(2) ** exponent
    expected = exact_spikes(dynamics, current, v_threshold, time_steps)
    layer = NeuronLayer("n", float(v_threshold), False, dynamics).to(dtype)
    drive = layer.drive(torch.tensor([float(current)], dtype=dtype)).detach()
    assert [int(s) for s in dynamics.window(drive, time_steps)] == expected
    assert stepped(dynamics, drive, time_steps)[1].flatten().tolist() == expected
    assert dynamics.spike_count(drive, time_steps) == sum(expected)
    assert layer.dynamics.rate(drive, time_steps) == torch.tensor(sum(expected), dtype=dtype) / time_steps


@settings(max_examples=200)
@given(dynamics_without_leak(), st.integers(-300, 300), st.integers(1, 300), st.integers(1, 48))
def test_other_thresholds_differ_from_exact_arithmetic_at_ties_only(
    dynamics: NeuronDynamics, numerator: int, denominator: int, time_steps: int
) -> None:
    """current / v_threshold rounds; that can move a count only where the exact charge is an integer, and by one."""
    v_threshold = Fraction(denominator, 64)
    current = Fraction(numerator, 64)
    expected = sum(exact_spikes(dynamics, current, v_threshold, time_steps))
    drive = torch.tensor([float(current)], dtype=torch.float64) / float(v_threshold)
    difference = int(dynamics.spike_count(drive, time_steps)) - expected
    charge = Fraction(dynamics.v_init) + 1 - Fraction(dynamics.firing_point) + time_steps * current / v_threshold
    assert difference == 0 or (charge.denominator == 1 and difference in (-1, 1))


@settings(max_examples=100)
@given(dynamics_without_leak(), st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=30), st.integers(1, 1024))
def test_counts_are_monotone_in_the_drive(dynamics: NeuronDynamics, drives: list[float], time_steps: int) -> None:
    counts = dynamics.spike_count(torch.tensor(sorted(drives)), time_steps)
    assert (counts.diff() >= 0).all()


@settings(max_examples=150)
@given(st.sampled_from(("binary", "ternary")), st.floats(-3, 3), st.integers(1, 1024))
def test_rates_are_within_one_spike_of_the_steady_state(spikes: str, drive: float, time_steps: int) -> None:
    dynamics = NeuronDynamics(spikes)  # type: ignore[arg-type]
    x = torch.tensor([drive], dtype=torch.float64)
    count = Fraction(float(dynamics.spike_count(x, time_steps)))
    steady = Fraction(float(dynamics.steady_state(x)))
    bound = Fraction(1) if spikes == "binary" else Fraction(1, 2) + Fraction(1, 2**40)  # rounding of T * drive
    assert abs(count - time_steps * steady) <= bound


@settings(max_examples=150)
@given(st.floats(0, 2, width=32), st.integers(1, 1024))
def test_ternary_counts_are_odd_except_at_ties(drive: float, time_steps: int) -> None:
    dynamics = NeuronDynamics("ternary")
    x = torch.tensor([drive])
    plus, minus = dynamics.spike_count(x, time_steps), dynamics.spike_count(-x, time_steps)
    charge = x * time_steps
    if charge <= time_steps and (charge + 0.5) % 1 == 0:
        assert plus + minus == 1  # a half rounds up
    else:
        assert plus == -minus


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spikes": "quaternary"}, "quaternary"),
        ({"reset": "none"}, "none"),
        ({"leak": -0.25}, "-0.25"),
        ({"leak": 1.25}, "1.25"),
        ({"leak": float("nan")}, "nan"),
        ({"v_init": 1.0}, "1.0"),
        ({"v_init": -0.0625}, "-0.0625"),
        ({"v_init": 0.3}, "0.3"),
        ({"v_init": float("nan")}, "nan"),
        ({"spikes": "ternary", "v_init": 0.5}, "0.5"),
        ({"spikes": "ternary", "v_init": -0.5625}, "-0.5625"),
    ],
)
def test_impossible_dynamics_are_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NeuronDynamics(**arguments)  # type: ignore[arg-type]
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("dynamics", [NeuronDynamics(leak=0.9), NeuronDynamics(reset="hard")])
def test_no_closed_form_with_leak_or_hard_reset(dynamics: NeuronDynamics) -> None:
    with pytest.raises(ConfigError, match="no closed form"):
        dynamics.spike_count(torch.ones(1), 4)


def test_average_spiking_rate_by_hand() -> None:
    spikes = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, -1.0]), torch.tensor([0.0, -1.0])]
    assert torch.equal(average_spiking_rate(iter(spikes)), torch.tensor([0.5, -0.5]))
    # weights 1/8, 1/4, 1/2, 1 over 15/8
    assert torch.allclose(average_spiking_rate(iter(spikes), 0.5), torch.tensor([5 / 15, -12 / 15]))
    assert torch.equal(spikes[0], torch.tensor([1.0, 0.0]))  # the caller's spikes are left alone
    with pytest.raises(ConfigError, match="time_steps is 0"):
        _ = RunningRate(1.0).value


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
@pytest.mark.parametrize("leak", [0.5, 0.9, 0.99, 1.0])
def test_the_weighted_mean_leaves_only_the_last_potential(spikes: str, leak: float) -> None:
    """sum_t leak^(T-t) s[t] = drive * sum_t leak^(T-t) + leak^T u_0 - u_T, whatever the reset subtracted before."""
    dynamics = NeuronDynamics(spikes, leak, v_init=0.25)  # type: ignore[arg-type]
    drive = torch.linspace(dynamics.low, 1, 101, dtype=torch.float64)
    for time_steps in (1, 7, 200):
        u, s = stepped(dynamics, drive, time_steps)
        weights = sum(leak**t for t in range(time_steps))
        rate = average_spiking_rate(iter(s), leak)
        assert torch.allclose(rate, drive - (u - leak**time_steps * 0.25) / weights, atol=1e-12)


def test_a_leaky_neuron_under_constant_drive_stays_off_its_steady_state() -> None:
    """By up to 1 - leak, for either mean; with leak 1 the error falls like 1/T."""
    drive = torch.linspace(0, 1, 201, dtype=torch.float64)

    def error(leak: float, time_steps: int, weight: float) -> float:
        _, spikes = stepped(NeuronDynamics(leak=leak), drive, time_steps)
        return float((average_spiking_rate(iter(spikes), weight) - drive).abs().mean())

    assert error(1.0, 1000, 1.0) < 0.001
    weighted, plain = error(0.9, 1000, 0.9), error(0.9, 1000, 1.0)
    assert 0.03 < weighted < plain < 0.1
    assert abs(error(0.9, 2000, 0.9) - weighted) < 0.005 and abs(error(0.9, 2000, 1.0) - plain) < 0.005


def test_the_weighted_mean_reaches_the_steady_state_of_a_decaying_leak() -> None:
    """Its limit error is 1 - leak, so it vanishes as leak goes to 1."""
    drive = torch.linspace(0, 1, 201, dtype=torch.float64)
    for leak in (0.9, 0.99, 0.999):
        _, spikes = stepped(NeuronDynamics(leak=leak), drive, int(20 / (1 - leak)))
        assert (average_spiking_rate(iter(spikes), leak) - drive).abs().max() <= 1.001 * (1 - leak)


GRADIENT_CASES = [
    NeuronDynamics(),
    NeuronDynamics("ternary", v_init=-0.25),
    NeuronDynamics(leak=0.9),
    NeuronDynamics("ternary", leak=0.9),
    NeuronDynamics(reset="hard"),
]


@pytest.mark.parametrize("dynamics", GRADIENT_CASES, ids=str)
@pytest.mark.parametrize("time_steps", [1, 3, 200])
def test_the_gradient_of_a_rate_is_its_steady_states(dynamics: NeuronDynamics, time_steps: int) -> None:
    drive = torch.cat([torch.linspace(-2, 2, 33), torch.tensor([-1.0, 0.0, 1.0])])  # with both edges of the clamp
    weights = torch.arange(1.0, len(drive) + 1)

    def gradient(f: Callable[[Tensor], Tensor]) -> Tensor:
        x = drive.clone().requires_grad_()
        (f(x) * weights).sum().backward()
        assert x.grad is not None
        return x.grad

    assert torch.equal(gradient(lambda x: dynamics.rate(x, time_steps)), gradient(dynamics.steady_state))
    with torch.no_grad():
        value = dynamics.rate(drive, time_steps)
    assert torch.equal(dynamics.rate(drive.clone().requires_grad_(), time_steps), value)


@pytest.mark.parametrize("dynamics", GRADIENT_CASES, ids=str)
def test_memory_kept_for_the_gradient_does_not_grow_with_time(dynamics: NeuronDynamics) -> None:
    def saved(time_steps: int) -> int:
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            rate = dynamics.rate(torch.rand(100, requires_grad=True), time_steps)
        rate.sum().backward()
        return sum(sizes)

    assert saved(4) == saved(512) == (100 if dynamics.has_closed_form else 400)


def test_substituting_keeps_the_simulated_bits() -> None:
    steady = torch.rand(1000, requires_grad=True)
    simulated = torch.rand(1000)
    value = substitute(steady, simulated)
    assert torch.equal(value, simulated) and value.requires_grad
    value.sum().backward()
    assert steady.grad is not None and torch.equal(steady.grad, torch.ones(1000))


def test_a_layer_measures_currents_in_thresholds() -> None:
    layer = NeuronLayer("n", 2.0, False, NeuronDynamics())
    current = torch.tensor([1.5, 2.0, -1.0, 3.0])
    assert torch.equal(layer.drive(current), torch.tensor([0.75, 1.0, -0.5, 1.5]))
    assert torch.equal(WindowRates(4)(layer, current), torch.tensor([0.75, 1.0, 0.0, 1.0]))
    assert torch.equal(SteadyState()(layer, current), torch.tensor([0.75, 1.0, 0.0, 1.0]))
    window = WindowSpikes(4)
    assert torch.equal(window(layer, current), torch.tensor([0.75, 1.0, 0.0, 1.0]))
    assert window.spikes["n"][:, 0].tolist() == [0, 1, 1, 1]
    membranes = Membranes()
    for _ in range(3):
        membranes(layer, current)
    assert torch.equal(membranes.rates["n"], torch.tensor([2 / 3, 1.0, 0.0, 1.0]))
    assert membranes.potentials["n"].tolist() == [0.25, 0.0, -1.5, 1.5]
    assert not layer.log_gain.requires_grad


def test_a_learned_gain_scales_the_threshold_and_gets_a_gradient() -> None:
    layer = NeuronLayer("n", 2.0, True, NeuronDynamics())
    with torch.no_grad():
        layer.log_gain.fill_(torch.log(torch.tensor(1.5)))
    assert layer.v_threshold.item() == pytest.approx(3.0)
    current = torch.tensor([1.5, 2.25, -1.0, 9.0])
    WindowRates(8)(layer, current).sum().backward()
    # d clamp(I / (base * e^g)) / dg = -drive inside the clamp, 0 outside. T = 8: the drive .5 is known to lie in
    # [4/8, 5/8), the drive .75 in [6/8, 7/8), and their middles stand for them
    assert layer.log_gain.grad is not None
    assert layer.log_gain.grad.item() == pytest.approx(-(4.5 / 8 + 6.5 / 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_drives_of_half_precision_currents_are_float32(dtype: torch.dtype) -> None:
    layer = NeuronLayer("n", 1.0, False, NeuronDynamics())
    current = torch.tensor([0.75], dtype=dtype)
    assert layer.drive(current).dtype == torch.float32
    assert WindowRates(1000)(layer, current) == 0.75


@pytest.mark.parametrize("time_steps", [1, 2, 4, 16])
@pytest.mark.parametrize("dynamics", [NeuronDynamics(), NeuronDynamics(v_init=0.5), NeuronDynamics(spikes="ternary")])
def test_the_thresholds_gradient_is_unbiased(dynamics: NeuronDynamics, time_steps: int) -> None:
    """Estimated from rates; exactly, it is the sum of -drive / v_threshold over the neurons that are not clamped."""
    generator = torch.Generator().manual_seed(0)
    drive = torch.rand(100_000, generator=generator, dtype=torch.float64) * (1 - dynamics.low) + dynamics.low
    weight = 1 + drive  # so that an error of the sign of the drive does not cancel
    v_threshold = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    (closed_form_rate(2 * drive, v_threshold, dynamics, time_steps) * weight).sum().backward()
    assert v_threshold.grad is not None
    exact = -(drive * weight).sum() / 2
    at_this_resolution = 0.4 / time_steps**2  # weight varies within a level
    assert v_threshold.grad.item() == pytest.approx(exact.item(), rel=0.01 + at_this_resolution)


@pytest.mark.parametrize("v_init", [0.0, 0.25, -0.5])
@pytest.mark.parametrize("time_steps", [1, 3, 4])
def test_rectified_neurons_send_the_positive_counts(v_init: float, time_steps: int) -> None:
    ternary = NeuronDynamics("ternary", v_init=v_init)
    drive = torch.linspace(-2, 2, 1601)
    rectified = ternary.rectified
    assert torch.equal(rectified.spike_count(drive, time_steps), ternary.spike_count(drive, time_steps).clamp(min=0))
    binary = NeuronDynamics(v_init=0.5)
    assert binary.rectified is binary


def test_a_threshold_for_each_channel_has_its_own_gradient() -> None:
    """That of as many layers of one neuron each."""
    current = torch.tensor([[0.2, 0.9, -0.4], [1.7, 0.4, 0.6]])
    weights = torch.tensor([[1.0, -2.0, 0.5], [3.0, 1.0, 2.0]])
    dynamics = NeuronDynamics("ternary", v_init=0.25)
    layer = NeuronLayer("n", 0.8, True, dynamics, channels=3)
    with torch.no_grad():
        layer.log_gain.copy_(torch.tensor([0.0, 0.3, -0.5]))
    (layer.rate(current, 4) * weights).sum().backward()
    for channel in range(3):
        single = NeuronLayer("n", 0.8, True, dynamics)
        with torch.no_grad():
            single.log_gain.copy_(layer.log_gain[channel])
        rate = single.rate(current[:, channel], 4)
        assert torch.equal(rate, layer.rate(current, 4)[:, channel])
        (rate * weights[:, channel]).sum().backward()
        assert single.log_gain.grad is not None and layer.log_gain.grad is not None
        assert layer.log_gain.grad[channel] == pytest.approx(float(single.log_gain.grad))
