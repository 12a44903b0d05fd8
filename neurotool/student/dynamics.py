"""Layers of neurons that learn how fast they forget, run over whole sequences: LIF, CubaLIF and the LI readout.

A sequence is (batch, steps, width); a layer of one step continues where the last one stopped. The arithmetic is that of
the graph's nodes (neurotool/graph/nodes), operation by operation, so that in the same float type interpreter and layer
give the same bits. Each loop over steps is one autograd function with its own loop backwards: autograd's record of each
small operation would cost several times as much.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from neurotool.errors import ConfigError
from neurotool.graph import CubaLIF, Integrator, Neuron
from neurotool.student.building import array
from neurotool.student.neurons import NeuronDynamics, Reset, at_least_float32
from neurotool.student.surrogate import atan_gradient

Tau = float | tuple[float, float]
"""A time constant in steps: one for all channels, or the shortest and the longest of channels that are spread between
them, evenly in the logarithm."""


class NeuronState(NamedTuple):
    """What a layer of neurons keeps between steps, in units of the threshold, (batch, width) each: u, potentials after
    the reset; i, synaptic currents, None for neurons without. No gradient passes through it."""

    u: Tensor
    i: Tensor | None = None


class Decay(nn.Module):
    """The share of a state that a step keeps: 1 - 1 / tau (NIR's Euler step of dt = 1), one for each of `channels`, or
    where that is None one for all.

    Learned it is sigmoid(logit), which stays in (0, 1) (PLIF: Fang et al. 2021, arXiv 2007.05785). Raises ConfigError
    for a tau below 1, and for what no logit says where it is learned: 1 and infinity.
    """

    logit: nn.Parameter | None

    def __init__(self, channels: int | None, name: str, tau: Tau, learned: bool) -> None:
        super().__init__()
        ends = tau if isinstance(tau, tuple) else (tau, tau)
        for end in ends:
            if not end >= 1 or (learned and not 1 < end < math.inf):
                raise ConfigError(f"{name} is {end}: give time steps, {'above 1' if learned else 'at least 1'}")
        if channels is None:
            kept = torch.tensor(1 - 1 / math.sqrt(ends[0] * ends[1]))
        elif ends[0] == ends[1]:
            kept = torch.full((channels,), 1 - 1 / ends[0])
        else:
            kept = 1 - 1 / (ends[0] * (ends[1] / ends[0]) ** torch.linspace(0, 1, channels))
        if learned:
            self.logit = nn.Parameter(torch.logit(kept))
        else:
            self.logit = None
            self.kept = nn.Buffer(kept)

    def forward(self) -> Tensor:
        """(channels,), or one number."""
        return self.kept if self.logit is None else self.logit.sigmoid()


class CubaLIFLayer(nn.Module):
    """A layer of `width` CubaLIF neurons, one time constant and threshold each: i <- current_leak i + x / v_threshold;
    u <- leak u + i; s = 1 if u >= 1; reset. Without `synapse` a layer of LIF neurons: i = x / v_threshold. Not
    `per_channel`, all share one of each, as the neurons of Lava's LIF do.

    reset: hard: u <- 0 where it fired; soft: u <- u - s. tau_syn, tau_mem: time constants that it starts from, in time
    steps, of currents and potentials. v_threshold = its start * exp(log_gain) where it is learned. The gradient of a
    spike is `atan_gradient`'s; the reset is not differentiated.
    """

    base: Tensor

    def __init__(
        self,
        width: int,
        *,
        reset: Reset = "hard",
        synapse: bool = True,
        per_channel: bool = True,
        learn_tau_syn: bool = True,
        learn_tau_mem: bool = True,
        learn_threshold: bool = True,
        tau_syn: Tau = (2.0, 32.0),
        tau_mem: Tau = 2.0,
        v_threshold: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < v_threshold < math.inf:
            raise ConfigError(f"v_threshold is {v_threshold}: it must be a positive number")
        self.width, self.dynamics = width, NeuronDynamics(reset=reset)
        channels = width if per_channel else None
        self.synapse = Decay(channels, "tau_syn", tau_syn, learn_tau_syn) if synapse else None
        self.membrane = Decay(channels, "tau_mem", tau_mem, learn_tau_mem)
        self.base = nn.Buffer(torch.tensor(float(v_threshold)))
        self.log_gain = nn.Parameter(torch.zeros(width if per_channel else ())) if learn_threshold else None

    @property
    def v_threshold(self) -> Tensor:
        """(width,), or one number where all share it."""
        return self.base if self.log_gain is None else self.base * self.log_gain.exp()

    def forward(self, currents: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Spikes (batch, steps, width) of currents (batch, steps, width), differentiable, and the state they leave;
        state: what the steps before left, at rest where None."""
        drive, i = at_least_float32(currents) / self.v_threshold, None
        if self.synapse is not None:
            drive = decayed(drive, self.synapse(), None if state is None else state.i)
            i = drive.detach()[:, -1].clone()
        spikes, u = _Fired.apply(drive, self.membrane(), None if state is None else state.u, self.dynamics)
        return spikes, NeuronState(u, i)

    def step(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """One step of `forward`: current and spikes (batch, width)."""
        spikes, state = self(current[:, None], state)
        return spikes[:, 0], state

    def node(self) -> Neuron:
        """The graph's node with these parameters; the interpreter is exactly this layer, in the same float type."""
        leak, reset = _numbers(self.membrane()), self.dynamics.reset
        if self.synapse is None:
            return Neuron(_numbers(self.v_threshold), leak, reset)
        return CubaLIF(_numbers(self.v_threshold), leak, reset, current_leak=_numbers(self.synapse()))


class LIReadout(nn.Module):
    """Integrators without spikes: v <- leak v + x, one time constant for each of `width` channels; the answer is v,
    after any step. tau: what it starts from; infinite, and not learned, it adds up."""

    def __init__(self, width: int, *, learn_tau: bool = True, tau: Tau = 16.0) -> None:
        super().__init__()
        self.width = width
        self.membrane = Decay(width, "tau", tau, learn_tau)

    def forward(self, currents: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Potentials (batch, steps, width) of currents (batch, steps, width), differentiable, and the last of them
        (batch, width), the state."""
        v = decayed(at_least_float32(currents), self.membrane(), state)
        return v, v.detach()[:, -1].clone()

    def step(self, current: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step of `forward`: current and potential (batch, width)."""
        v, state = self(current[:, None], state)
        return v[:, 0], state

    def node(self) -> Integrator:
        """The graph's node with these parameters."""
        return Integrator(leak=_numbers(self.membrane()))


def _numbers(tensor: Tensor) -> float | np.ndarray:
    values = array(tensor)
    return values if values.ndim else float(values)


def decayed(x: Tensor, kept: Tensor, start: Tensor | None = None) -> Tensor:
    """y_t = kept y_(t-1) + x_t, differentiable in x (batch, steps, width) and kept (width,); y_0 = start (batch,
    width), 0 where None, without gradient."""
    y: Tensor = _Decayed.apply(x, kept, start)
    return y


class _Decayed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kept: Tensor, start: Tensor | None) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        before = start
        for now in y.unbind(1):
            if (
                before is not None
            ):  # a product and a sum: fused they would round once, where the interpreter rounds twice
                now.add_(before * kept)
            before = now
        ctx.save_for_backward(y, kept, start)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        y, kept, start = ctx.saved_tensors
        to_x = gradients[0].clone(memory_format=torch.contiguous_format)
        _accumulate_back(to_x, kept.expand_as(y[:, 1:]))
        return to_x, _to_kept(to_x, y, start).sum_to_size(kept.shape) if ctx.needs_input_grad[1] else None, None


class _Fired(torch.autograd.Function):
    """Spikes, and the potential behind the last reset; the potentials before each reset are all that is kept."""

    @staticmethod
    def forward(
        ctx: Any, drive: Tensor, leak: Tensor, start: Tensor | None, dynamics: NeuronDynamics
    ) -> tuple[Tensor, Tensor]:
        potentials = drive.clone(memory_format=torch.contiguous_format)
        u = start
        for now in potentials.unbind(1):
            if u is not None:
                now.add_(u * leak)
            u = dynamics.after(now, dynamics.fire(now))
        assert u is not None
        ctx.save_for_backward(potentials, leak, start)
        ctx.dynamics = dynamics
        ctx.mark_non_differentiable(u)
        return dynamics.fire(potentials), u

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (potentials, leak, start), dynamics = ctx.saved_tensors, ctx.dynamics
        to_drive = atan_gradient(potentials - dynamics.firing_point).mul_(gradients[0])
        fired = dynamics.fire(potentials)
        hard = dynamics.reset == "hard"
        _accumulate_back(to_drive, leak * (1 - fired[:, :-1]) if hard else leak.expand_as(potentials[:, 1:]))
        to_leak = None
        if ctx.needs_input_grad[1]:
            to_leak = _to_kept(to_drive, dynamics.after(potentials, fired), start).sum_to_size(leak.shape)
        return to_drive, to_leak, None, None


def _accumulate_back(gradient: Tensor, kept: Tensor) -> None:
    """In place: g_t <- g_t + kept_t g_(t+1), from the last step but one to the first; kept (batch, steps - 1, …)."""
    steps = gradient.unbind(1)
    for t, factor in reversed(list(enumerate(kept.unbind(1)))):
        steps[t].addcmul_(steps[t + 1], factor)


def _to_kept(gradient: Tensor, states: Tensor, start: Tensor | None) -> Tensor:
    """The gradient of what a step keeps, (width,): each step's, times the state that the step before left."""
    summed = torch.einsum("btw,btw->w", gradient[:, 1:], states[:, :-1])
    return summed if start is None else summed + (gradient[:, 0] * start).sum(0)
