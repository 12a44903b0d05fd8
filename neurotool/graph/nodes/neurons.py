"""Neurons, and their potentials through time."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    TOKENS,
    Node,
    Shape,
    check_choice,
    check_numbers,
    expect_shape,
    register,
    text,
)

Spikes = Literal["binary", "ternary"]
Reset = Literal["soft", "hard"]


@register
@dataclass(frozen=True, eq=False)
class Neuron(Node):
    """Integrate-and-fire: u <- leak u + x / v_threshold; s = fire(u); then reset. IF where leak is 1, else LIF.

    binary:  fire(u) = 1 if u >= 1
    ternary: fire(u) = 1 if u >= 1/2, -1 if u < -1/2
    soft reset: u <- u - s; hard reset: u <- 0 where it fired.

    The potential u is in units of the threshold and starts at v_init, below the firing point. v_threshold and leak: one
    number, or one per neuron (width,). Leak 0 is a memoryless threshold. In a phased window of an IF layer with
    soft reset the charge after t steps is the product t * x / v_threshold and not a running sum, so that the count
    is clip(floor(v_init + T x / v_threshold), 0, T), for ternary spikes clip(floor(… + 1/2), -T, T).
    """

    v_threshold: float | np.ndarray = 1.0
    leak: float | np.ndarray = 1.0
    reset: Reset = "soft"
    spikes: Spikes = "binary"
    v_init: float = 0.0

    def check(self) -> None:
        check_numbers(self, "v_threshold", "above 0", lambda v: v > 0)
        check_numbers(self, "leak", "in [0, 1]", lambda v: (v >= 0) & (v <= 1))
        check_choice(self, "reset", get_args(Reset))
        check_choice(self, "spikes", get_args(Spikes))
        low = 0.0 if self.spikes == "binary" else -self.firing_point
        if np.ndim(self.v_init):
            raise GraphError("v_init is an array: it must be one number, the same for the whole layer")
        limit = f"in [{low}, {self.firing_point})"
        check_numbers(self, "v_init", limit, lambda v: (v >= low) & (v < self.firing_point))

    @property
    def sends_spikes(self) -> bool:
        return True

    @property
    def firing_point(self) -> float:
        """The potential at and above which a positive spike is sent."""
        return 1.0 if self.spikes == "binary" else 0.5

    @property
    def has_closed_form(self) -> bool:
        return bool(np.all(np.asarray(self.leak) == 1)) and self.reset == "soft"

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (TOKENS, None), "neurons belong to tokens")
        for name in ("v_threshold", "leak"):
            size = np.shape(getattr(self, name))
            if size not in ((), inputs[0][1:]):
                raise GraphError(f"port x has shape {text(inputs[0])}, but {name} is {size}: one per neuron, or one")
        return inputs[0]

    def drive(self, x: np.ndarray) -> np.ndarray:
        """x in units of the threshold."""
        return x / np.asarray(self.v_threshold, x.dtype)

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> "Membrane":
        """A layer of `shape` before its first step."""
        return Membrane(self, shape, dtype, window)

    def emission_weights(self, time_steps: int) -> np.ndarray:
        """What a spike of step 1 … T counts in the average spiking rate, leak^(T-t) / sum_t leak^(T-t): (T, 1) or
        (T, width)."""
        weights = np.atleast_1d(np.asarray(self.leak, np.float64)) ** np.arange(time_steps - 1, -1, -1)[:, None]
        return weights / weights.sum(0)


class Membrane:
    """Potentials u of a layer of neurons, in units of the threshold, at first at rest; count: sum of its spikes so far.

    window: of an IF layer with soft reset under constant drive, where the charge after t steps is a product of t.
    """

    def __init__(self, node: Neuron, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> None:
        self.node, self.leak, self.window = node, np.asarray(node.leak, dtype), window
        self.u = np.full(shape, node.v_init, dtype)
        self.count, self.steps = np.zeros(shape, dtype), 0

    def step(self, drive: np.ndarray) -> np.ndarray:
        """Spikes -1, 0, 1 for one step of a drive in units of the threshold."""
        self.steps += 1
        s = self._charged(drive) if self.window else self._integrated(drive)
        self.count = self.count + s
        return s

    def _integrated(self, drive: np.ndarray) -> np.ndarray:
        self.u = self.u * self.leak + drive
        s = (self.u >= self.node.firing_point).astype(self.u.dtype)
        if self.node.spikes == "ternary":
            s = s - (self.u < -self.node.firing_point)
        self.u = self.u - s if self.node.reset == "soft" else self.u * (1 - abs(s))
        return s

    def _charged(self, drive: np.ndarray) -> np.ndarray:
        shift = 1 - self.node.firing_point
        charge = drive * self.steps + (self.node.v_init + shift)
        s = (charge >= self.count + 1).astype(charge.dtype)
        if self.node.spikes == "ternary":
            s = s - (charge < self.count)
        self.u = charge - (self.count + s) - shift
        return s
