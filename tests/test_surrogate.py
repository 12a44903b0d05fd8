"""The surrogate gradient against its formula and snnTorch's, backpropagation through time against autograd's."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from neurotool.student.emission import Membranes, NeuronLayer, Unrolled
from neurotool.student.neurons import NeuronDynamics
from neurotool.student.surrogate import ALPHA, atan_gradient, normed_spikes, spike_linear, unrolled_spikes

DYNAMICS = [
    NeuronDynamics(leak=0.9),
    NeuronDynamics(leak=0.5, v_init=0.25),
    NeuronDynamics(leak=0.0),
    NeuronDynamics(leak=0.9, reset="hard"),
    NeuronDynamics("ternary", leak=0.75),
]


def test_the_formula() -> None:
    """alpha/2 / (1 + (pi/2 alpha x)^2): alpha/2 at the threshold, half of it at x = 1 / pi for alpha 2."""
    x = torch.tensor([0.0, 1 / math.pi, -1 / math.pi, 1.0], dtype=torch.float64)
    assert torch.allclose(atan_gradient(x), torch.tensor([1.0, 0.5, 0.5, 1 / (1 + math.pi**2)], dtype=torch.float64))
    assert ALPHA == 2


def test_it_is_snntorchs() -> None:
    surrogate = pytest.importorskip("snntorch.surrogate")
    x = torch.linspace(-3, 3, 41, dtype=torch.float64, requires_grad=True)
    surrogate.atan(alpha=2.0)(x).sum().backward()
    assert torch.allclose(x.grad, atan_gradient(x.detach()))


class Fire(torch.autograd.Function):
    """One step's spikes, for autograd to build the graph over time from."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, dynamics: NeuronDynamics) -> Tensor:
        ctx.save_for_backward(u)
        ctx.dynamics = dynamics
        return dynamics.fire(u)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (u,) = ctx.saved_tensors
        points = [1.0] if ctx.dynamics.spikes == "binary" else [0.5, -0.5]
        return gradients[0] * sum(atan_gradient(u - point) for point in points), None


def by_autograd(drive: Tensor, dynamics: NeuronDynamics) -> Tensor:
    u, spikes = torch.full_like(drive[0], dynamics.v_init), []
    for x in drive:
        u = u * dynamics.leak + x
        spikes.append(Fire.apply(u, dynamics))
        s = spikes[-1].detach()
        u = u - s if dynamics.reset == "soft" else u * (1 - s.abs())
    return torch.stack(spikes)


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), time_steps=st.integers(1, 7))
def test_backpropagation_through_time(dynamics: NeuronDynamics, seed: int, time_steps: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    drive = torch.randn(time_steps, 3, 2, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(time_steps, 3, 2, dtype=torch.float64, generator=generator)
    spikes, expected = unrolled_spikes(drive, dynamics), by_autograd(drive, dynamics)
    assert torch.equal(spikes, expected)
    ours, theirs = (torch.autograd.grad((s * weight).sum(), drive)[0] for s in (spikes, expected))
    assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)
def test_unrolled_is_stepping(dynamics: NeuronDynamics) -> None:
    """Spikes, rates and counts of Unrolled are those that Membranes gives step by step."""
    neurons = NeuronLayer("layer", 0.7, True, dynamics).double()
    current = torch.randn(6, 2, 4, 3, dtype=torch.float64)
    counts: dict[str, Tensor] = {}
    membranes = Membranes(counts)
    stepped = torch.stack([membranes(neurons, x) for x in current])
    unrolled = Unrolled(6, {}, {})
    assert torch.equal(unrolled(neurons, current.flatten(0, 1)).unflatten(0, (6, -1)), stepped)
    assert unrolled.rates is not None and unrolled.counts is not None
    assert torch.equal(unrolled.rates["layer"], membranes.rates["layer"])
    assert torch.equal(unrolled.counts["layer"], counts["layer"])
    assert stepped.any()


def test_a_block_that_is_run_anew_leaves_the_first_rates() -> None:
    """Gradient checkpointing runs blocks again; what they computed then must not stay alive through their rates."""
    neurons, emission = NeuronLayer("layer", 1.0, False, NeuronDynamics()), Unrolled(2, {})
    assert emission.rates is not None
    emission(neurons, torch.ones(2, 3, 4))
    first = emission.rates["layer"]
    emission(neurons, torch.ones(2, 3, 4))
    assert emission.rates["layer"] is first


@pytest.mark.parametrize("dynamics", DYNAMICS, ids=str)
@pytest.mark.parametrize("v_threshold", [None, 0.7, (0.5, 0.7, 1.1)], ids=["one", "learned", "per channel"])
def test_normed_spikes_are_those_of_norm_and_neurons(
    dynamics: NeuronDynamics, v_threshold: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one function, some tokens after the other: the same spikes and gradients."""
    monkeypatch.setattr("neurotool.student.surrogate._IN_CACHE", 6)
    generator = torch.Generator().manual_seed(3)
    current = torch.randn(4 * 2, 5, 3, dtype=torch.float64, generator=generator).requires_grad_()
    weight = torch.randn(8, 5, 3, dtype=torch.float64, generator=generator)
    norm = torch.nn.LayerNorm(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.3, 0.8, 2.0]))
        norm.bias.copy_(torch.tensor([0.4, -0.1, 0.2]))
    threshold = None if v_threshold is None else torch.tensor(v_threshold, dtype=torch.float64, requires_grad=True)
    drive = norm(current) if threshold is None else norm(current) / threshold
    expected = unrolled_spikes(drive.unflatten(0, (4, -1)), dynamics).flatten(0, 1)
    spikes = normed_spikes(current, norm, threshold, dynamics, 4)
    assert torch.equal(spikes, expected) and spikes.unique().numel() > 1
    read = [current, *norm.parameters(), *([] if threshold is None else [threshold])]
    for ours, theirs in zip(*(torch.autograd.grad((s * weight).sum(), read) for s in (spikes, expected)), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_normed_spikes_under_autocast_are_those_of_float32_norms() -> None:
    norm, dynamics = torch.nn.LayerNorm(16), NeuronDynamics(leak=0.9)
    current = torch.randn(8, 5, 16, generator=torch.Generator().manual_seed(4)).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        spikes = normed_spikes(current, norm, None, dynamics, 4)
    expected = unrolled_spikes(norm(current.float()).unflatten(0, (4, -1)), dynamics).flatten(0, 1)
    assert spikes.dtype == torch.bfloat16 and torch.equal(spikes.float(), expected)
    spikes.float().sum().backward()
    assert current.grad is not None and current.grad.dtype == torch.bfloat16 and norm.weight.grad is not None


@pytest.mark.parametrize("autocast", [False, True])
def test_a_linear_map_of_counts_keeps_bytes(autocast: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    linear = torch.nn.Linear(6, 4)
    counts = torch.randint(-128, 128, (2, 3, 6), generator=generator).float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out, expected = spike_linear(counts, linear), linear(counts)
    assert torch.equal(out, expected) and out.dtype == expected.dtype
    kept = [x for x in out.grad_fn.saved_tensors if x.shape == counts.shape]
    assert [x.dtype for x in kept] == [torch.int8]
    read = [counts, linear.weight, linear.bias]
    for ours, theirs in zip(
        *(torch.autograd.grad(y.float().square().sum(), read) for y in (out, expected)), strict=True
    ):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=1e-2 if autocast else 1e-5, atol=1e-2 if autocast else 1e-5)
