"""Backpropagation through the time steps of a neuron layer, with a surrogate for the derivative of its spikes."""

import math
from typing import Any

import torch
from torch import Tensor

from neurotool.student.neurons import NeuronDynamics

ALPHA = 2.0


def atan_gradient(x: Tensor) -> Tensor:
    """Derivative of arctan(pi/2 alpha x) / pi + 1/2, in place of that of a spike; x = u - v_threshold, in thresholds.

    alpha/2 / (1 + (pi/2 alpha x)^2), alpha 2 (Fang et al. 2021, arXiv 2007.05785; SpikeBERT, section 3).
    """
    return ALPHA / 2 / (1 + (math.pi / 2 * ALPHA * x).square())


def unrolled_spikes(drive: Tensor, dynamics: NeuronDynamics) -> Tensor:
    """Spikes (T, ...) of a layer driven by `drive` (T, ...), differentiable. The reset is not differentiated: what a
    spike takes away counts as given."""
    spikes: Tensor = _Unrolled.apply(drive, dynamics)
    return spikes


class _Unrolled(torch.autograd.Function):
    """One function for all steps: the potentials are all that is kept."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, dynamics: NeuronDynamics) -> Tensor:
        u = torch.full_like(drive[0], dynamics.v_init)
        potentials, spikes = torch.empty_like(drive), torch.empty_like(drive)
        for t, x in enumerate(drive):
            potentials[t] = dynamics.integrate(u, x)
            spikes[t] = dynamics.fire(potentials[t])
            u = dynamics.after(potentials[t], spikes[t])
        ctx.save_for_backward(potentials)
        ctx.dynamics = dynamics
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (potentials,), dynamics = ctx.saved_tensors, ctx.dynamics
        to_drive = torch.empty_like(potentials)
        for t in range(len(potentials) - 1, -1, -1):  # step by step: nothing else is as large as the potentials
            slope = atan_gradient(potentials[t] - dynamics.firing_point)
            if dynamics.spikes == "ternary":
                slope += atan_gradient(potentials[t] + dynamics.firing_point)
            torch.mul(slope, gradients[0][t], out=to_drive[t])
            if t + 1 < len(potentials):
                kept = to_drive[t + 1] * dynamics.leak
                if dynamics.reset == "hard":
                    kept *= 1 - dynamics.fire(potentials[t]).abs()
                to_drive[t] += kept
        return to_drive, None
