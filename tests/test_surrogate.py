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
from neurotool.student.surrogate import ALPHA, atan_gradient, unrolled_spikes

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
