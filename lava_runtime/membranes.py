"""Neurons and integrators in whole numbers: states of 24 bits, stepped as a chip steps them."""

from typing import Literal, Protocol

import numpy as np

from neurotool.errors import OverflowingError
from neurotool.graph import CubaLIF, FixedPoint, GradedNeuron, Integrator, Neuron
from neurotool.graph.fixed_point import (
    DECAY_BITS,
    LIMIT,
    STATE_BITS,
    dead_zone,
    decay_mantissa,
    decayed,
    initial_potential,
    leak_mantissa,
)
from neurotool.graph.nodes import largest

Overflow = Literal["error", "wrap", "clip"]


class Bounds(Protocol):
    """overflow: what becomes of a value beyond LIMIT: an OverflowingError, or it wraps or is clipped."""

    overflow: Overflow

    def fixed(self, name: str) -> FixedPoint: ...


class IntegerMembrane:
    """u <- decayed u + drive, in units of the drive; soft or hard reset; never below v_min; 24 bits."""

    def __init__(self, integers: Bounds, name: str, node: Neuron, shape: tuple[int, ...]) -> None:
        self.node, self.overflow, self.name = node, integers.overflow, name
        self.threshold = np.asarray(node.v_threshold, np.int64)
        self.leak = leak_mantissa(node)
        self.leaks = bool(np.any(self.leak != 2**DECAY_BITS))
        self.most = integers.fixed(name).bound  # of spikes in one step
        self.lowest = None if node.v_min is None else np.asarray(node.v_min, np.int64)
        self.u = np.broadcast_to(initial_potential(node), shape).copy()

    def step(self, drive: np.ndarray) -> np.ndarray:
        kept = decayed(self.u, self.leak) if self.leaks else self.u
        u = in_range(kept + drive, self.overflow, f"potential of {self.name}")
        s = self._fired(u)
        u = u - s * self.threshold if self.node.reset == "soft" else np.where(s == 0, u, 0)
        self.u = u if self.lowest is None else np.maximum(u, self.lowest)
        return s

    def _fired(self, u: np.ndarray) -> np.ndarray:
        if self.node.spikes == "binary":
            return (u >= self.threshold).astype(np.int64)
        if self.node.spikes == "ternary":
            return (2 * u >= self.threshold).astype(np.int64) - (2 * u < -self.threshold)
        s: np.ndarray = np.maximum(u // self.threshold, 0)
        if largest(s) <= self.most:
            return s
        if self.overflow != "error":
            return np.minimum(s, self.most)
        raise OverflowingError(
            f"{self.name} sends {largest(s)} spikes in one step, but its messages are made for {self.most}: "
            "calibrate on inputs like this, or choose --overflow clip"
        )


class IntegerCubaMembrane(IntegerMembrane):
    """i <- decayed i + drive, then the membrane on i; 24 bits each."""

    def __init__(self, integers: Bounds, name: str, node: CubaLIF, shape: tuple[int, ...]) -> None:
        super().__init__(integers, name, node, shape)
        self.current_leak, self.i = decay_mantissa(node.current_leak), np.zeros(shape, np.int64)

    def step(self, drive: np.ndarray) -> np.ndarray:
        self.i = in_range(decayed(self.i, self.current_leak) + drive, self.overflow, f"current of {self.name}")
        return super().step(self.i)


class IntegerIntegrator:
    """i <- decayed i + drive; u <- decayed u + i + bias; 24 bits each."""

    def __init__(self, integers: Bounds, name: str, node: Integrator, shape: tuple[int, ...]) -> None:
        self.overflow, self.name = integers.overflow, name
        self.leak, self.current_leak = decay_mantissa(node.leak), decay_mantissa(node.current_leak)
        self.bias, self.i = np.asarray(node.bias, np.int64), np.zeros(shape, np.int64)
        self.u = np.broadcast_to(np.asarray(node.v_init, np.int64), shape).copy()

    def step(self, drive: np.ndarray) -> np.ndarray:
        self.i = in_range(decayed(self.i, self.current_leak) + drive, self.overflow, f"current of {self.name}")
        u = decayed(self.u, self.leak) + self.i + self.bias
        self.u = in_range(u, self.overflow, f"potential of {self.name}")
        return self.u


class GradedIntegerMembrane(IntegerMembrane):
    """u: what is left of the charge of one window."""

    node: GradedNeuron

    def step(self, drive: np.ndarray) -> np.ndarray:
        """The count of one window. A drive beyond the threshold counts like one at it, and need not fit times K."""
        drive = np.clip(drive.astype(np.int64), -self.threshold, self.threshold)
        charge = in_range(drive * self.node.levels + self.u, self.overflow, f"potential of {self.name}")
        s = window_count(self.node, drive, 1)
        self.u = charge - s * self.threshold
        return s


def window_count(node: Neuron, drive: np.ndarray, time_steps: int) -> np.ndarray:
    """Of a window of constant drive, whose charge the type of `drive` holds twice."""
    threshold, most = np.asarray(node.v_threshold, drive.dtype), node.counts_to(time_steps)
    charge = drive * most
    silent = np.abs(charge) < dead_zone(node) if isinstance(node, GradedNeuron) and node.dead_zone else None
    charge += initial_potential(node).astype(drive.dtype)
    if node.signed:
        charge *= 2
        charge += threshold
        charge //= 2 * threshold
    else:
        charge //= threshold
    count: np.ndarray = np.clip(charge, -most if node.signed else 0, most, out=charge)
    if silent is not None:
        count[silent] = 0
    return count


def in_range(y: np.ndarray, overflow: Overflow, what: str) -> np.ndarray:
    """y as 24 bits hold it."""
    if largest(y) <= LIMIT:
        return y
    if overflow == "clip":
        return np.clip(y, -LIMIT, LIMIT)
    if overflow == "wrap":
        return (y + LIMIT + 1) % (2 * (LIMIT + 1)) - (LIMIT + 1)
    raise OverflowingError(
        f"{what} reaches {largest(y)}, but {STATE_BITS} bits hold at most {LIMIT}: calibrate on text like this, or "
        "choose --overflow wrap or clip"
    )
