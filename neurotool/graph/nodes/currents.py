"""Layers with other states than a membrane alone: synaptic currents, integrators that send no spikes, delays."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.neurons import Membrane, Neuron
from neurotool.graph.nodes.node import (
    TOKENS,
    Shape,
    Stateful,
    check_numbers,
    expect_activation,
    expect_fitting,
    register,
)


@register
@dataclass(frozen=True, eq=False)
class CubaLIF(Neuron):
    """A Neuron behind a synaptic current: i <- current_leak i + x; u <- leak u + (i + bias) / v_threshold; and so on.

    What arrives counts in the same step. Loihi's own neuron (Davies 2018), whose decays are du = 1 - current_leak and
    dv = 1 - leak. The current starts at 0, as it does in each window of the phased schedule. current_leak: one number,
    or one per neuron; 0 is a plain Neuron.
    """

    current_leak: float | np.ndarray = 0.0

    def check(self) -> None:
        super().check()
        check_numbers(self, "current_leak", "in [0, 1]", lambda v: (v >= 0) & (v <= 1))

    @property
    def has_closed_form(self) -> bool:
        return False

    def shape(self, *inputs: Shape) -> Shape:
        expect_fitting(self, ("current_leak",), super().shape(*inputs))
        return inputs[0]

    def drive(self, x: np.ndarray) -> np.ndarray:
        return x / np.asarray(self.v_threshold, x.dtype)

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> "CubaMembrane":
        return CubaMembrane(self, shape, dtype)


class CubaMembrane(Membrane):
    """i: synaptic currents, in units of the threshold."""

    def __init__(self, node: CubaLIF, shape: tuple[int, ...], dtype: Any = np.float64) -> None:
        super().__init__(node, shape, dtype)
        self.current_leak, self.i = np.asarray(node.current_leak, dtype), np.zeros(shape, dtype)
        self.bias = np.asarray(node.bias / node.v_threshold, dtype)

    def step(self, drive: np.ndarray) -> np.ndarray:
        self.i = self.i * self.current_leak + drive
        return super().step(self.i + self.bias)


@register
@dataclass(frozen=True, eq=False)
class Integrator(Stateful):
    """No spikes: i <- current_leak i + x; v <- leak v + i + bias; y = v in every step.

    NIR's I where leak is 1, else LI; with current_leak CubaLI. The potential starts at v_init, the current at 0. Each
    is one number, or one per element.
    """

    leak: float | np.ndarray = 1.0
    current_leak: float | np.ndarray = 0.0
    bias: float | np.ndarray = 0.0
    v_init: float | np.ndarray = 0.0

    def check(self) -> None:
        for name in ("leak", "current_leak"):
            check_numbers(self, name, "in [0, 1]", lambda v: (v >= 0) & (v <= 1))
        for name in ("bias", "v_init"):
            check_numbers(self, name, "a finite number", np.isfinite)

    def shape(self, *inputs: Shape) -> Shape:
        expect_activation("x", inputs[0], "it integrates activations")
        expect_fitting(self, ("leak", "current_leak", "bias", "v_init"), inputs[0])
        return inputs[0]

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> "Integrated":
        return Integrated(self, shape, dtype)


class Integrated:
    """u: potentials; i: synaptic currents."""

    def __init__(self, node: Integrator, shape: tuple[int, ...], dtype: Any) -> None:
        self.leak, self.current_leak, self.bias = (
            np.asarray(value, dtype) for value in (node.leak, node.current_leak, node.bias)
        )
        self.u, self.i = np.broadcast_to(np.asarray(node.v_init, dtype), shape).copy(), np.zeros(shape, dtype)

    def step(self, drive: np.ndarray) -> np.ndarray:
        self.i = self.i * self.current_leak + drive
        self.u = self.u * self.leak + self.i + self.bias
        return self.u


@register
@dataclass(frozen=True, eq=False)
class Delay(Stateful):
    """y_t = x_(t - steps), 0 before the first; steps: one whole number or, without tokens, one per element. Spikes stay
    spikes."""

    steps: int | np.ndarray = 1
    hands_on_spikes: ClassVar[bool] = True

    def check(self) -> None:
        check_numbers(self, "steps", "a whole number of at least 0", lambda v: (v >= 0) & (np.mod(v, 1) == 0))

    def shape(self, *inputs: Shape) -> Shape:
        expect_activation("x", inputs[0], "it delays activations")
        expect_fitting(self, ("steps",), inputs[0])
        if TOKENS in inputs[0] and np.ndim(self.steps):
            raise GraphError("steps is an array: tokens are delayed by one number of steps")
        return inputs[0]

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> "Waiting":
        return Waiting(self, shape, dtype)


class Waiting:
    """What has not come out yet, in a ring of steps. u: what came out last."""

    def __init__(self, node: Delay, shape: tuple[int, ...], dtype: Any) -> None:
        self.steps = np.broadcast_to(np.asarray(node.steps, np.int64), shape)
        self.ring = np.zeros((int(self.steps.max()) + 1, *shape), dtype)
        self.u, self.now = self.ring[0], 0

    def step(self, drive: np.ndarray) -> np.ndarray:
        self.ring[self.now % len(self.ring)] = drive
        places = (self.now - self.steps) % len(self.ring)
        self.u = np.take_along_axis(self.ring, places[None], 0)[0]
        self.now += 1
        return self.u
