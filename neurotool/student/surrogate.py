"""Backpropagation through the time steps of a neuron layer, with a surrogate for the derivative of its spikes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from neurotool.student.neurons import NeuronDynamics, at_least_float32

ALPHA = 2.0


def atan_gradient(x: Tensor) -> Tensor:
    """Derivative of arctan(pi/2 alpha x) / pi + 1/2, in place of that of a spike; x = u - v_threshold, in thresholds.

    alpha/2 / (1 + (pi/2 alpha x)^2), alpha 2 (Fang et al. 2021, arXiv 2007.05785; SpikeBERT, section 3).
    """
    return (x * (math.pi * math.sqrt(ALPHA / 2))).square_().add_(2 / ALPHA).reciprocal_()


def unrolled_spikes(drive: Tensor, dynamics: NeuronDynamics) -> Tensor:
    """Spikes (T, ...) of a layer driven by `drive` (T, ...), differentiable. The reset is not differentiated: what a
    spike takes away counts as given."""
    spikes: Tensor = _Unrolled.apply(drive, dynamics)
    return spikes


def normed_spikes(
    current: Tensor, norm: nn.LayerNorm, v_threshold: Tensor | None, dynamics: NeuronDynamics, time_steps: int
) -> Tensor:
    """unrolled_spikes(norm(current) / v_threshold), all (T * batch, tokens, width); v_threshold None means 1. In the
    current's dtype, which holds spikes exactly."""
    spikes: Tensor = _NormedSpikes.apply(current, norm.weight, norm.bias, v_threshold, norm.eps, dynamics, time_steps)
    return spikes


def spike_linear(counts: Tensor, linear: nn.Linear) -> Tensor:
    """linear(counts) of whole numbers within -128 and 127, which are kept for the backward pass in a byte each."""
    out: Tensor = _SpikeLinear.apply(counts, linear.weight, linear.bias)
    return out


def _steps(drive: Tensor, dynamics: NeuronDynamics) -> tuple[list[Tensor], list[Tensor]]:
    """Of each time step the potentials before the reset, and the spikes."""
    u = torch.full_like(drive[0], dynamics.v_init)
    potentials, spikes = list[Tensor](), list[Tensor]()
    for x in drive:
        potentials.append(dynamics.integrate(u, x))
        spikes.append(dynamics.fire(potentials[-1]))
        u = dynamics.after(potentials[-1], spikes[-1])
    return potentials, spikes


def _to_drive(potentials: Sequence[Tensor], gradient: Tensor, dynamics: NeuronDynamics) -> Tensor:
    """The gradient of the drives, given that of the spikes."""
    to_drive = torch.empty_like(gradient, dtype=potentials[0].dtype)
    for t in range(len(potentials) - 1, -1, -1):
        slope = atan_gradient(potentials[t] - dynamics.firing_point)
        if dynamics.spikes == "ternary":
            slope += atan_gradient(potentials[t] + dynamics.firing_point)
        now = torch.mul(slope, gradient[t], out=to_drive[t])
        if t + 1 < len(potentials) and dynamics.reset == "soft":
            now.add_(to_drive[t + 1], alpha=dynamics.leak)
        elif t + 1 < len(potentials):
            now += to_drive[t + 1] * dynamics.leak * (1 - dynamics.fire(potentials[t]).abs())
    return to_drive


class _Unrolled(torch.autograd.Function):
    """One function for all steps: the potentials are all that is kept."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, dynamics: NeuronDynamics) -> Tensor:
        potentials, spikes = _steps(drive, dynamics)
        ctx.save_for_backward(*potentials)
        ctx.dynamics = dynamics
        return torch.stack(spikes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _to_drive(ctx.saved_tensors, gradients[0], ctx.dynamics), None


class _NormedSpikes(torch.autograd.Function):
    """Some tokens after the other, through norm and all time steps while they are in the processor's cache. The current
    is what is kept; the backward pass computes the potentials again."""

    @staticmethod
    def forward(
        ctx: Any,
        current: Tensor,
        weight: Tensor,
        bias: Tensor,
        v_threshold: Tensor | None,
        eps: float,
        dynamics: NeuronDynamics,
        time_steps: int,
    ) -> Tensor:
        ctx.save_for_backward(current, weight, bias, v_threshold)
        ctx.eps, ctx.dynamics, ctx.time_steps = eps, dynamics, time_steps
        spikes = torch.empty_like(current)
        for some, sent in zip(_in_cache(current, time_steps), _in_cache(spikes, time_steps), strict=True):
            drive, *_ = _normed(some, weight, bias, v_threshold, eps)
            for step, of_step in zip(sent, _steps(drive, dynamics)[1], strict=True):
                step.copy_(of_step)
        return spikes

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        current, weight, bias, v_threshold = ctx.saved_tensors
        to_current = torch.empty_like(current)
        to_weight, to_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        to_threshold = None if v_threshold is None else torch.zeros_like(v_threshold)
        whole = (current, gradients[0].contiguous(), to_current)
        for some, gradient, out in zip(*(_in_cache(x, ctx.time_steps) for x in whole), strict=True):
            drive, mean, deviation = _normed(some, weight, bias, v_threshold, ctx.eps)
            to_normed = _to_drive(_steps(drive, ctx.dynamics)[0], gradient, ctx.dynamics)
            if to_threshold is not None:
                to_normed /= v_threshold
                to_threshold -= (to_normed * drive).sum_to_size(v_threshold.shape)
            parts = torch.ops.aten.native_layer_norm_backward(
                to_normed, at_least_float32(some), weight.shape, mean, deviation, weight, bias, [True] * 3
            )
            out.copy_(parts[0])
            to_weight += parts[1]
            to_bias += parts[2]
        return to_current, to_weight, to_bias, to_threshold, None, None, None


_IN_CACHE = 2**16
"""Values of one time step that are worked on together on a CPU."""


def _in_cache(x: Tensor, time_steps: int) -> tuple[Tensor, ...]:
    """Views (T, some tokens, width) of x (T * batch, tokens, width)."""
    tokens = x.unflatten(0, (time_steps, -1)).flatten(1, -2)
    return tokens.split(len(tokens[0]) if x.is_cuda else max(1, _IN_CACHE // x.shape[-1]), 1)


def _normed(
    current: Tensor, weight: Tensor, bias: Tensor, v_threshold: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm(current) / v_threshold, and what its backward pass reads."""
    normed, mean, deviation = torch.native_layer_norm(at_least_float32(current), weight.shape, weight, bias, eps)
    return normed if v_threshold is None else normed.div_(v_threshold), mean, deviation


class _SpikeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, counts: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(counts.to(torch.int8), weight)
        return F.linear(counts, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        counts, weight = ctx.saved_tensors
        gradient = gradients[0].flatten(0, -2)
        to_weight = gradient.T @ counts.flatten(0, -2).to(gradient.dtype)
        to_counts = gradients[0] @ weight.to(gradient.dtype)
        return to_counts, to_weight.to(weight.dtype), gradient.sum(0).to(weight.dtype)
