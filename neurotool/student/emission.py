"""How neuron layers turn currents into what the next layer reads. The network (spikingbert.py) is written once; the
schedules differ only in the emission they hand to it.

| emission     | a neuron layer returns                                        | used for                        |
|--------------|---------------------------------------------------------------|---------------------------------|
| SteadyState  | clamp(drive)                                                  | the limit T -> infinity         |
| WindowRates  | the exact rate of its window of T steps, closed form          | phased schedule                 |
| WindowSpikes | the same rate, from a loop over the window; keeps every spike | phased schedule, step by step   |
| Membranes    | this step's spikes; potentials persist between calls          | concurrent schedule             |
| Substituted  | a simulated rate, with the steady state's gradient            | training at the equilibrium     |
| Unrolled     | the spikes of all steps, with a surrogate gradient            | concurrent, layer by layer      |

`Recorded` and `SoftMessages` pass one of them through and keep what a layer returned, or how many of its neurons send.
"""

from typing import Protocol

import torch
from torch import Tensor, nn

from neurotool.student.neurons import (
    NeuronDynamics,
    RunningRate,
    at_least_float32,
    average_spiking_rate,
    closed_form_rate,
    substitute,
)
from neurotool.student.surrogate import normed_spikes, unrolled_spikes


class NeuronLayer(nn.Module):
    """The threshold of a layer of neurons: v_threshold = base * exp(log_gain), gain learned or fixed at 1; one for the
    layer, or one for each of `channels`."""

    base: Tensor

    def __init__(
        self, name: str, v_threshold: float, learned: bool, dynamics: NeuronDynamics, channels: int | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.dynamics = dynamics
        self.v_threshold_at_start = float(v_threshold)
        self.base = nn.Buffer(torch.tensor(self.v_threshold_at_start))
        self.unit = not learned and v_threshold == 1
        self.log_gain = nn.Parameter(torch.zeros(() if channels is None else channels), requires_grad=learned)

    @property
    def v_threshold(self) -> Tensor:
        return self.base * self.log_gain.exp()

    def drive(self, current: Tensor) -> Tensor:
        """current / v_threshold"""
        return at_least_float32(current) / self.v_threshold

    def rate(self, current: Tensor, time_steps: int) -> Tensor:
        """Rate of a window of constant current, differentiable in current and threshold."""
        if self.dynamics.has_closed_form:
            v_threshold = None if self.unit else self.v_threshold
            return closed_form_rate(current, v_threshold, self.dynamics, time_steps)
        return self.dynamics.rate(self.drive(current), time_steps)

    def messages(self, current: Tensor, time_steps: int) -> Tensor:
        """How many neurons send anything in a window, differentiably: (batch, tokens)."""
        return self.dynamics.soft_activity(self.drive(current), time_steps).sum(-1)


class Emission(Protocol):
    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor: ...


class SteadyState:
    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        return neurons.dynamics.steady_state(neurons.drive(current))


SpikeCounts = dict[str, Tensor]
"""Spikes, or graded messages, that each neuron of a layer sent, whatever their sign, in whole numbers: name ->
(batch, tokens, width)."""


def _count(counts: SpikeCounts, name: str, spikes: Tensor) -> None:
    counts[name] = counts[name] + spikes if name in counts else spikes


class WindowRates:
    """Adds up the spikes of every window in `counts` when given, and in `active` which neurons sent any; only for use
    without gradients."""

    def __init__(self, time_steps: int, counts: SpikeCounts | None = None, active: SpikeCounts | None = None) -> None:
        self.time_steps = time_steps
        self.counts, self.active = counts, active

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        if self.counts is None:
            return neurons.rate(current, self.time_steps)
        if neurons.dynamics.has_closed_form:  # under constant drive all spikes of a window have one sign
            rate = neurons.rate(current, self.time_steps)
            graded = neurons.dynamics.graded
            sent = rate.ne(0).float() if graded else (rate.abs() * self.time_steps).round_()
        else:
            window = WindowSpikes(self.time_steps)
            rate = window(neurons, current)
            sent = window.spikes[neurons.name].abs().sum(0)
        _count(self.counts, neurons.name, sent)
        if self.active is not None:
            _count(self.active, neurons.name, (sent != 0).to(sent.dtype))
        return rate


class WindowSpikes:
    """Keeps the spikes of every window in `spikes[name]`, shape (T, *current.shape)."""

    def __init__(self, time_steps: int) -> None:
        self.time_steps = time_steps
        self.spikes: dict[str, Tensor] = {}

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        dynamics = neurons.dynamics
        spikes = torch.stack(list(dynamics.window(neurons.drive(current), self.time_steps)))
        self.spikes[neurons.name] = spikes
        if dynamics.graded:
            return spikes[0] / self.time_steps
        return average_spiking_rate(iter(spikes), dynamics.leak)


class Membranes:
    """Every call advances a neuron layer by one step. Potentials, rates so far and last spikes by layer name.

    Adds up the spikes of all steps in `counts` when given.
    """

    def __init__(self, counts: SpikeCounts | None = None) -> None:
        self.counts = counts
        self.potentials: dict[str, Tensor] = {}
        self.running: dict[str, RunningRate] = {}
        self.last_spikes: dict[str, Tensor] = {}

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        name, dynamics, drive = neurons.name, neurons.dynamics, neurons.drive(current)
        if name not in self.potentials:
            self.potentials[name] = torch.full_like(drive, dynamics.v_init)
            self.running[name] = RunningRate(dynamics.leak)
        self.potentials[name], spikes = dynamics.step(self.potentials[name], drive)
        self.running[name].add(spikes)
        self.last_spikes[name] = spikes
        if self.counts is not None:
            _count(self.counts, name, spikes.abs())
        return spikes

    @property
    def rates(self) -> dict[str, Tensor]:
        return {name: running.value for name, running in self.running.items()}


class Substituted:
    def __init__(self, rates: dict[str, Tensor]) -> None:
        self.rates = rates

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        steady = neurons.dynamics.steady_state(neurons.drive(current))
        return substitute(steady, self.rates[neurons.name])


class Unrolled:
    """The concurrent schedule one layer after the other, its steps in the batch, (T * batch, tokens, width), as they
    may in a network without feedback. The spikes are those of Membranes; their gradient goes back through time.

    Keeps the ASR of every layer in `rates`, and adds up spikes in `counts`, when given.
    """

    def __init__(
        self, time_steps: int, rates: dict[str, Tensor] | None = None, counts: SpikeCounts | None = None
    ) -> None:
        self.time_steps, self.rates, self.counts = time_steps, rates, counts

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        drive = neurons.drive(current).unflatten(0, (self.time_steps, -1))
        return self._kept(neurons, unrolled_spikes(drive, neurons.dynamics).flatten(0, 1))

    def normed(self, neurons: NeuronLayer, norm: nn.LayerNorm, current: Tensor) -> Tensor:
        """The same on norm(current), in fewer passes over memory."""
        v_threshold = None if neurons.unit else neurons.v_threshold
        return self._kept(neurons, normed_spikes(current, norm, v_threshold, neurons.dynamics, self.time_steps))

    def _kept(self, neurons: NeuronLayer, sent: Tensor) -> Tensor:
        spikes = sent.unflatten(0, (self.time_steps, -1))
        if self.rates is not None and neurons.name not in self.rates:
            # Those of a block that is run anew in the backward pass would keep all that it computed.
            self.rates[neurons.name] = average_spiking_rate(map(at_least_float32, spikes), neurons.dynamics.leak)
        if self.counts is not None:
            _count(self.counts, neurons.name, at_least_float32(spikes.abs().sum(0)))
        return sent


class SoftMessages:
    """Passes another emission through and keeps how many neurons of each layer send anything, differentiably, as
    `messages[name]`, (batch, tokens)."""

    def __init__(self, emission: Emission, time_steps: int, messages: dict[str, Tensor]) -> None:
        self.emission, self.time_steps, self.messages = emission, time_steps, messages

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        self.messages[neurons.name] = neurons.messages(current, self.time_steps)
        return self.emission(neurons, current)


class Recorded:
    """Passes another emission through and keeps what each layer returned, as `rates[name]`."""

    def __init__(self, emission: Emission, rates: dict[str, Tensor] | None = None) -> None:
        self.emission = emission
        self.rates = {} if rates is None else rates

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        self.rates[neurons.name] = self.emission(neurons, current)
        return self.rates[neurons.name]
