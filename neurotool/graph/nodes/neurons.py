"""Neurons, and their potentials through time."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    Shape,
    Stateful,
    check_choice,
    check_numbers,
    check_whole,
    expect_activation,
    expect_fitting,
    register,
)

Spikes = Literal["binary", "ternary", "several"]
Reset = Literal["soft", "hard", "none", "soft-late", "hard-late", "soft-once"]
MESSAGE_BITS = 24
"""Of a graded message, sign included: as Lava annotates it; Loihi 2 has up to 32."""


@register
@dataclass(frozen=True, eq=False)
class Neuron(Stateful):
    """Integrate-and-fire, IF where leak is 1, else LIF: u <- leak u + (x + bias) / v_threshold; s = fire(u); reset.

    binary:  fire(u) = 1 if u >= 1
    ternary: fire(u) = 1 if u >= 1/2, -1 if u < -1/2
    several: fire(u) = floor(u) if u >= 1: as many spikes in one step as there are thresholds in u
    soft reset: u <- u - s; hard reset: u <- v_reset / v_threshold where it fired; none: u stays.

    Three more, as other tools have them. soft-late: u <- leak u + (x + bias) / v_threshold - s, with the s of the step
    before, which so escapes the leak. hard-late: u is 0 in the step after a spike. soft-once: as soft, but a neuron
    that its reset left at its threshold or above fires next at twice the threshold.

    The potential u is in units of the threshold, starts at v_init and never falls below v_min / v_threshold. Each is
    one number, or one per neuron, (width,) for those of a token, else in the shape of the layer: v_threshold, leak,
    bias, v_reset, v_min, v_init. Leak 0 is a memoryless
    threshold. In a phased window of an IF layer with soft reset the charge after t steps is the product
    t * x / v_threshold and not a running sum, so that the count is clip(floor(v_init + T x / v_threshold), 0, T), for
    ternary spikes clip(floor(… + 1/2), -T, T).
    """

    v_threshold: float | np.ndarray = 1.0
    leak: float | np.ndarray = 1.0
    reset: Reset = "soft"
    spikes: Spikes = "binary"
    v_init: float | np.ndarray = 0.0
    bias: float | np.ndarray = 0.0
    v_reset: float | np.ndarray = 0.0
    v_min: float | np.ndarray | None = None
    later: ClassVar[tuple[str, ...]] = ("bias", "v_reset", "v_min")
    in_windows: ClassVar[bool] = True

    def check(self) -> None:
        check_numbers(self, "v_threshold", "above 0", lambda v: v > 0)
        check_numbers(self, "leak", "in [0, 1]", lambda v: (v >= 0) & (v <= 1))
        check_choice(self, "reset", get_args(Reset))
        check_choice(self, "spikes", get_args(Spikes))
        for name in ("v_init", "bias", "v_reset"):
            check_numbers(self, name, "a finite number", np.isfinite)
        if self.v_min is not None:
            check_numbers(self, "v_min", "0 or below", lambda v: v <= 0)
        if np.any(self.v_reset) and self.reset != "hard":
            raise GraphError(f"v_reset is {np.max(np.abs(self.v_reset))}: with {self.reset} reset it must be 0")
        if self.spikes != "binary" and self.reset not in ("soft", "hard", "none"):
            raise GraphError(f"reset is {self.reset}: that is for binary spikes, and these are {self.spikes}")

    @property
    def sends_spikes(self) -> bool:
        return True

    @property
    def firing_point(self) -> float:
        """The potential at and above which a positive spike is sent."""
        return 0.5 if self.spikes == "ternary" else 1.0

    @property
    def spike_type(self) -> type[np.signedinteger[Any]]:
        """Of arrays that its spikes are recorded in."""
        return np.int32 if self.spikes == "several" else np.int8

    @property
    def more_than_plain(self) -> str:
        """What it has, in words, that has no form in fixed point, in Lava's stock layers or closed; empty for none."""
        if self.reset not in ("soft", "hard"):
            return f"reset {self.reset}"
        if self.spikes == "several":
            return "several spikes in a step"
        given = {"a bias": np.any(self.bias), "a v_reset": np.any(self.v_reset), "a v_min": self.v_min is not None}
        return next((what for what, has in given.items() if has), "")

    @property
    def signed(self) -> bool:
        """Whether what it sends has a sign."""
        return self.spikes == "ternary"

    def events(self, spikes: np.ndarray) -> np.ndarray:
        """How often a synapse is reached by what a step sends."""
        return np.abs(spikes) if self.signed else spikes

    def counts_to(self, time_steps: int) -> int:
        """The count of spikes in a window that is a rate of 1."""
        return time_steps

    def count(self, drive: np.ndarray, time_steps: int) -> np.ndarray:
        """Of a window of constant drive, in units of the threshold, in closed form."""
        most = self.counts_to(time_steps)
        charge = drive * most + (self.v_init + 1 - self.firing_point)
        return np.clip(np.floor(charge), -most if self.signed else 0, most)

    @property
    def has_closed_form(self) -> bool:
        lowest = 0.0 if self.spikes == "binary" else -self.firing_point
        starts_inside = np.all((np.asarray(self.v_init) >= lowest) & (np.asarray(self.v_init) < self.firing_point))
        if_soft = bool(np.all(np.asarray(self.leak) == 1)) and self.reset == "soft"
        return if_soft and bool(starts_inside) and not self.more_than_plain

    def shape(self, *inputs: Shape) -> Shape:
        expect_activation("x", inputs[0], "neurons belong to tokens")
        expect_fitting(self, ("v_threshold", "leak", "v_init", "bias", "v_reset", "v_min"), inputs[0])
        return inputs[0]

    def drive(self, x: np.ndarray) -> np.ndarray:
        """x and the bias, in units of the threshold."""
        charge = x + np.asarray(self.bias, x.dtype) if np.any(self.bias) else x
        return charge if np.all(self.v_threshold == 1) else charge / np.asarray(self.v_threshold, x.dtype)

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> "Membrane":
        """A layer of `shape` before its first step."""
        return Membrane(self, shape, dtype, window)

    def emission_weights(self, time_steps: int) -> np.ndarray:
        """What a spike of step 1 … T counts in the average spiking rate, leak^(T-t) / sum_t leak^(T-t): (T, 1) or
        (T, …) for leak (…)."""
        leak = np.atleast_1d(np.asarray(self.leak, np.float64))
        weights = leak ** np.arange(time_steps - 1, -1, -1).reshape(-1, *[1] * leak.ndim)
        return weights / weights.sum(0)


@register
@dataclass(frozen=True, eq=False)
class GradedNeuron(Neuron):
    """In a window, which is one step, one message: the count n that `levels` = K steps of an IF neuron with soft reset
    would have, as its payload; none where n is 0.

    n = clip(floor(v_init + K x / v_threshold), 0, K), signed (spikes ternary) clip(floor(… + 1/2), -K, K), and 0 where
    |K x / v_threshold| < dead_zone. Its rate is n / K.
    """

    levels: int = 1
    dead_zone: float = 0.0

    def check(self) -> None:
        super().check()
        check_whole(self, "levels", 1)
        if self.payload_bits > MESSAGE_BITS:
            raise GraphError(f"levels is {self.levels}: its messages need {self.payload_bits} bits of {MESSAGE_BITS}")
        check_numbers(self, "dead_zone", f"in [0, {self.levels}]", lambda v: (v >= 0) & (v <= self.levels))
        if not self.has_closed_form:
            what = self.more_than_plain or f"leak {self.leak}, {self.reset} reset, v_init {self.v_init}"
            raise GraphError(f"{what}: graded messages are counts of IF neurons with soft reset that start at rest")

    @property
    def payload_bits(self) -> int:
        """Of a message, its sign included."""
        return int(self.levels).bit_length() + self.signed

    @property
    def silences(self) -> bool:
        """Whether the dead zone is wider than what rounds to a count of 0 anyway."""
        to_one = self.firing_point - np.asarray(self.v_init)
        return bool(np.any(np.asarray(self.dead_zone) > to_one))

    @property
    def spike_type(self) -> type[np.signedinteger[Any]]:
        return np.int8 if self.levels <= np.iinfo(np.int8).max else np.int32

    def events(self, spikes: np.ndarray) -> np.ndarray:
        return (spikes != 0).astype(spikes.dtype)

    def counts_to(self, time_steps: int) -> int:
        return self.levels

    def count(self, drive: np.ndarray, time_steps: int) -> np.ndarray:
        silent = np.abs(drive * self.levels) < self.dead_zone
        return np.where(silent, 0, super().count(drive, time_steps)).astype(drive.dtype, copy=False)

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> "GradedMembrane":
        return GradedMembrane(self, shape, dtype, window)

    def emission_weights(self, time_steps: int) -> np.ndarray:
        """What a count of 1 is in the rate: (1, 1)."""
        return np.full((1, 1), 1 / self.levels)


class Membrane:
    """Potentials u of a layer of neurons, in units of the threshold, at first at rest.

    window: of an IF layer with soft reset under constant drive, where the charge after t steps is a product of t.
    count: sum of the spikes of a window so far.
    """

    def __init__(self, node: Neuron, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> None:
        self.node, self.leak, self.window = node, np.asarray(node.leak, dtype), window
        self.leaks = bool(np.any(self.leak != 1))
        self.u = np.full(shape, node.v_init, dtype)
        self.lowest = None if node.v_min is None else np.asarray(node.v_min / node.v_threshold, dtype)
        self.after_spike = np.asarray(node.v_reset / node.v_threshold, dtype)
        self.s = np.zeros(shape, dtype)
        self.count, self.steps = np.zeros(shape, dtype), 0

    def step(self, drive: np.ndarray) -> np.ndarray:
        """Spikes (-1, 0, 1; more of several) for one step of a drive in units of the threshold."""
        self.steps += 1
        self.s = self._charged(drive) if self.window else self._integrated(drive)
        return self.s

    def _integrated(self, drive: np.ndarray) -> np.ndarray:
        reset, before = self.node.reset, self.u
        u = before * self.leak + drive if self.leaks else before + drive
        if reset == "soft-late":
            u -= self.s
        elif reset == "hard-late":
            u *= self.s == 0
        s = self._fired(u - (before >= 1) if reset == "soft-once" else u)
        if reset in ("soft", "soft-once"):
            u -= s
        elif reset == "hard":
            np.copyto(u, self.after_spike, where=s != 0)
        self.u = u if self.lowest is None else np.maximum(u, self.lowest)
        return s

    def _fired(self, u: np.ndarray) -> np.ndarray:
        if self.node.spikes == "several":
            return np.maximum(np.floor(u), 0)
        s = (u >= self.node.firing_point).astype(u.dtype)
        return s - (u < -self.node.firing_point) if self.node.spikes == "ternary" else s

    def _charged(self, drive: np.ndarray) -> np.ndarray:
        shift = 1 - self.node.firing_point
        charge = drive * self.steps + (self.node.v_init + shift)
        s = (charge >= self.count + 1).astype(charge.dtype)
        if self.node.spikes == "ternary":
            s = s - (charge < self.count)
        self.count = self.count + s
        self.u = charge - self.count - shift
        return s


class GradedMembrane(Membrane):
    """u: what is left of the charge, in units of a level."""

    node: GradedNeuron

    def step(self, drive: np.ndarray) -> np.ndarray:
        """The count of one window."""
        self.count = self.node.count(drive, 1)
        self.u = drive * self.node.levels + self.node.v_init - self.count
        return self.count
