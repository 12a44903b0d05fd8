"""Integrate-and-fire neurons: one step, a window of steps, its closed form, and the steady state.

All potentials and drives here are in units of the threshold: `drive = current / v_threshold`, so a neuron fires at 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from neurotool.errors import ConfigError

Spikes = Literal["binary", "ternary"]
Reset = Literal["soft", "hard"]


@dataclass(frozen=True)
class NeuronDynamics:
    """How every neuron of a layer integrates and fires.

    binary:  s = 1 if u >= 1
    ternary: s = 1 if u >= 1/2, -1 if u < -1/2 (so that under constant drive the count rounds instead of flooring)
    soft reset: u <- u - s; hard reset: u <- 0 where it fired.

    `v_init` is the potential at the start of a window in units of the threshold; it lies below the firing point, in
    sixteenths, which keeps the closed form exact in float32 for windows of up to 1024 steps.

    graded: a window is one step, in which a neuron sends the count of spikes as one message, and none where it is 0 or
    |T drive| < dead_zone; T is then a number of levels.
    """

    spikes: Spikes = "binary"
    leak: float = 1.0
    reset: Reset = "soft"
    v_init: float = 0.0
    graded: bool = False
    dead_zone: float = 0.0

    def __post_init__(self) -> None:
        if self.spikes not in ("binary", "ternary"):
            raise ConfigError(f"spikes is {self.spikes!r}: choose binary or ternary")
        if self.reset not in ("soft", "hard"):
            raise ConfigError(f"reset is {self.reset!r}: choose soft or hard")
        if not 0 <= self.leak <= 1:
            raise ConfigError(f"leak is {self.leak}: it must be in [0, 1]; 1 means no leak (IF), 0 no memory")
        low, high = (0.0, 1.0) if self.spikes == "binary" else (-0.5, 0.5)
        if not low <= self.v_init < high or (self.v_init * 16) % 1:
            raise ConfigError(f"v_init is {self.v_init}: it must be in [{low}, {high}) and a multiple of 1/16")
        if self.graded and not self.has_closed_form:
            raise ConfigError(f"leak is {self.leak}, reset {self.reset}: graded messages need leak 1 and soft reset")
        if not 0 <= self.dead_zone < float("inf"):
            raise ConfigError(f"dead_zone is {self.dead_zone}: it must be a number of levels, at least 0")

    @property
    def low(self) -> float:
        """The smallest rate: 0 for binary, -1 for ternary spikes."""
        return 0.0 if self.spikes == "binary" else -1.0

    @property
    def firing_point(self) -> float:
        """The potential at and above which a positive spike is sent."""
        return 1.0 if self.spikes == "binary" else 0.5

    @property
    def offset(self) -> float:
        """Added to a potential so that it fires at 1, whatever the kind of spikes; includes v_init."""
        return self.v_init + 1 - self.firing_point

    @property
    def has_closed_form(self) -> bool:
        return self.leak == 1 and self.reset == "soft"

    @property
    def rectified(self) -> "NeuronDynamics":
        """Neurons that send the same positive spikes under constant drive, and no negative ones."""
        return self if self.low == 0 else replace(self, spikes="binary", v_init=self.offset)

    def fire(self, u: Tensor) -> Tensor:
        """Spikes of potentials `u`, in u's dtype: {0, 1} or {-1, 0, 1}. Compared to floats at once: on a CPU torch does
        that several times faster than to bools."""
        u = u.detach()
        spikes = torch.ge(u, self.firing_point, out=torch.empty_like(u))
        if self.spikes == "ternary":
            spikes -= torch.lt(u, -self.firing_point, out=torch.empty_like(u))
        return spikes

    def integrate(self, u: Tensor, drive: Tensor) -> Tensor:
        return u * self.leak + drive if self.leak != 1 else u + drive

    def after(self, u: Tensor, spikes: Tensor) -> Tensor:
        """The potential that the reset leaves."""
        return u - spikes if self.reset == "soft" else u * (1 - spikes.abs())

    def step(self, u: Tensor, drive: Tensor) -> tuple[Tensor, Tensor]:
        """One time step: leak, integrate, fire, reset. Returns (u, spikes)."""
        u = self.integrate(u, drive)
        spikes = self.fire(u)
        return self.after(u, spikes), spikes

    def steady_state(self, drive: Tensor) -> Tensor:
        """a* = clamp(f(a)/v_threshold, 0, 1), or [-1, 1] for ternary spikes."""
        return drive.clamp(self.low, 1.0)

    def soft_activity(self, drive: Tensor, time_steps: int, softness: float = 0.25) -> Tensor:
        """Differentiable count of neurons that send anything in a window of constant drive: a soft L0. A logistic step,
        `softness` levels wide, at the drive of the first spike of either sign."""
        levels = drive * time_steps
        active = torch.sigmoid((levels - max(1 - self.offset, self.dead_zone)) / softness)
        if self.low == 0:
            return active
        return active + torch.sigmoid((-max(self.offset, self.dead_zone) - levels) / softness)

    def spike_count(self, drive: Tensor, time_steps: int) -> Tensor:
        """Spikes (signed sum) in a window of constant drive: clip(floor(v_init + T*drive), 0, T).

        Ternary spikes fire half a threshold earlier, which makes it clip(floor(v_init + T*drive + 1/2), -T, T).
        Exact for IF neurons with soft reset; others have no closed form.
        """
        if not self.has_closed_form:
            raise ConfigError(f"no closed form with leak {self.leak} and {self.reset} reset: step the neuron instead")
        count = self._charge(drive, time_steps).floor_().clamp_(self.low * time_steps, time_steps)
        return count.masked_fill_((drive * time_steps).abs() < self.dead_zone, 0) if self.dead_zone else count

    def _charge(self, drive: Tensor, t: int) -> Tensor:
        """Potential after t steps of constant drive had the neuron not fired, shifted so that it fires at 1."""
        charge = drive * t
        return charge.add_(self.offset) if self.offset else charge

    def window(self, drive: Tensor, time_steps: int) -> Iterator[Tensor]:
        """The spikes of each step of a window in which `drive` is constant.

        An IF neuron's charge is a product of t and not a running sum, so no rounding error builds up and the total
        equals `spike_count` for every float drive.
        """
        if self.graded:
            yield self.spike_count(drive, time_steps)
        elif self.has_closed_form:
            count = torch.zeros_like(drive)
            for t in range(1, time_steps + 1):
                charge = self._charge(drive, t)
                spikes = (charge >= count + 1).to(charge.dtype)  # count + 1 is exact; charge - count need not be
                if self.spikes == "ternary":
                    spikes = spikes - (charge < count).to(charge.dtype)
                count = count + spikes
                yield spikes
        else:
            u = torch.full_like(drive, self.v_init)
            for _ in range(time_steps):
                u, spikes = self.step(u, drive)
                yield spikes

    def potential(self, drive: Tensor, spikes: Tensor, time_steps: int) -> Tensor:
        """What a window of constant drive leaves, given the `spikes` (T, *drive.shape) that it sent, graded in one
        step."""
        if self.has_closed_form:
            return self._charge(drive, time_steps) - spikes.sum(0) - (1 - self.firing_point)
        u = torch.full_like(drive, self.v_init)
        for s in spikes:
            u = self.after(self.integrate(u, drive), s)
        return u

    def rate(self, drive: Tensor, time_steps: int) -> Tensor:
        """Average spiking rate of a window of constant drive; gradient is the steady state's (straight through)."""
        if self.has_closed_form:
            return closed_form_rate(drive, None, self, time_steps)
        with torch.no_grad():
            simulated = average_spiking_rate(self.window(drive, time_steps), self.leak)
        return substitute(self.steady_state(drive), simulated)


def closed_form_rate(current: Tensor, v_threshold: Tensor | None, dynamics: NeuronDynamics, time_steps: int) -> Tensor:
    """spike_count(current / v_threshold) / T with the steady state's gradient; v_threshold: one number, one for each
    channel (the last axis), or None, which means 1. Computed in float32 at least; returned in the current's dtype where
    that holds every rate exactly, else in float32.

    The threshold's gradient, -drive / v_threshold where not clamped, takes the middle of the drives that give a rate
    for the drive, which is unbiased and needs nothing kept beyond the rate itself.
    """
    rate: Tensor = _ClosedFormRate.apply(current, v_threshold, dynamics, time_steps)
    return rate


_EXACT_IN_BFLOAT16 = 256
"""Whole numbers up to here have the 8 bits of its significand."""


def at_least_float32(x: Tensor) -> Tensor:
    """Counts up to T need more than bfloat16's 8 bits."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


class _ClosedFormRate(torch.autograd.Function):
    """One function from current to rate: few passes over memory, and one byte per neuron kept for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v_threshold: Tensor | None, dynamics: NeuronDynamics, time_steps: int
    ) -> Tensor:
        low, high = dynamics.low * time_steps, float(time_steps)
        power_of_two = time_steps & (time_steps - 1) == 0
        drive = at_least_float32(current)
        if power_of_two:  # scaling by it is exact: it goes into the threshold
            charge = drive * time_steps if v_threshold is None else drive / (v_threshold / time_steps)
        else:
            charge = (drive * 1 if v_threshold is None else drive / v_threshold).mul_(time_steps)
        inside = _equal(charge.clamp(low, high), charge) if any(ctx.needs_input_grad) else None
        silent = charge.abs() < dynamics.dead_zone if dynamics.dead_zone else None
        if dynamics.offset:
            charge.add_(dynamics.offset)
        rate = charge.floor_().clamp_(low, high).div_(time_steps)
        if silent is not None:
            rate.masked_fill_(silent, 0)
        if power_of_two and time_steps <= _EXACT_IN_BFLOAT16:
            rate = rate.to(current.dtype)
        ctx.save_for_backward(inside, v_threshold, rate if ctx.needs_input_grad[1] else None)
        ctx.to_middle = (0.5 - dynamics.offset) / time_steps
        ctx.dtype = current.dtype
        return rate

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        inside, v_threshold, rate = ctx.saved_tensors
        gradient = at_least_float32(gradients[0])
        if gradient.is_cuda or torch.compiler.is_compiling():
            gradient = gradient * inside
        else:
            gradient = inside.view(torch.uint8).to(gradient.dtype).mul_(gradient)  # twice as fast as with the bools
        if v_threshold is not None:
            gradient.div_(v_threshold)
        to_threshold = None
        if rate is not None:
            if v_threshold.ndim:
                of_rates, of_all = (x.flatten(0, -2).sum(0) for x in (gradient * rate, gradient))
                to_threshold = -of_rates - ctx.to_middle * of_all
            else:
                to_threshold = (
                    -torch.dot(gradient.flatten(), rate.flatten().to(gradient.dtype)) - ctx.to_middle * gradient.sum()
                )
        return gradient.to(ctx.dtype), to_threshold, None, None


def _equal(x: Tensor, y: Tensor) -> Tensor:
    """x == y; may overwrite x. On a CPU torch compares to floats and makes bools of these several times faster than it
    compares to bools."""
    return x.eq(y) if x.is_cuda or torch.compiler.is_compiling() else x.eq_(y).to(torch.bool)


def substitute(steady: Tensor, simulated: Tensor) -> Tensor:
    """Exactly the simulated rate as value, with the steady state's gradient (SpikingBERT, training step 3)."""
    return _Substitute.apply(steady, simulated)


class _Substitute(torch.autograd.Function):
    """Not steady + (simulated - steady): its rounding would make training see other rates than inference."""

    @staticmethod
    def forward(ctx: Any, steady: Tensor, simulated: Tensor) -> Tensor:
        return simulated.view_as(simulated)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class RunningRate:
    """ASR so far: sum_t leak^(T-t) s[t] / sum_t leak^(T-t), the plain mean for leak 1."""

    def __init__(self, leak: float) -> None:
        self.leak = leak
        self._weight = 0.0
        self._sum: Tensor | None = None

    def add(self, spikes: Tensor) -> None:
        self._weight = self._weight * self.leak + 1
        self._sum = spikes.clone() if self._sum is None else self._sum.mul_(self.leak).add_(spikes)

    @property
    def value(self) -> Tensor:
        if self._sum is None:
            raise ConfigError("time_steps is 0: an average spiking rate needs at least 1 step")
        return self._sum / self._weight


def average_spiking_rate(spikes: Iterator[Tensor], leak: float = 1.0) -> Tensor:
    """ASR of a sequence of spike tensors, weighted by leak^(T-t).

    Under constant drive it is exactly drive - (u_T - leak^T u_0) / sum_t leak^(T-t): within 1/T of the steady state
    for leak 1, and for leak < 1 within 1 - leak (in the limit), which no number of steps improves.
    """
    running = RunningRate(leak)
    for s in spikes:
        running.add(s)
    return running.value
