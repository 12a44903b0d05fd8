"""What the numbers in a NIR file say about who wrote it: each tool gives `r` in a way of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import nir
import numpy as np
from scipy.special import lambertw

_CLOSE = 1e-4
Neurons = tuple[np.ndarray, np.ndarray]
"""tau and r."""


@dataclass(frozen=True)
class Law:
    """text: an equation that holds for all neurons of a file by one of `tools`. off: 0 where it holds, for dt, tau and
    r; dt: the time step for which it holds, from tau and r."""

    text: str
    tools: tuple[str, ...]
    off: Callable[[float, np.ndarray, np.ndarray], np.ndarray]
    dt: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


_UNIT = Law(
    "r dt / tau = 1", ("snntorch", "spikingjelly"), lambda dt, tau, r: r * dt / tau - 1, lambda tau, r: tau / r
)  # fmt: skip
_EXPONENTIAL = Law(
    "r dt / tau = exp(-dt / tau)", ("rockpool",), lambda dt, tau, r: r * dt / tau - np.exp(-dt / tau),
    lambda tau, r: tau * lambertw(1 / r).real,
)  # fmt: skip
_BETA = Law("r = 1 - dt / tau", ("spyx",), lambda dt, tau, r: r - (1 - dt / tau), lambda tau, r: tau * (1 - r))
_ONE = Law("r = 1", ("norse", "sinabs", "spikingjelly", "nengo"), lambda dt, tau, r: r - 1)
LIF_LAWS = (_ONE, _UNIT, _EXPONENTIAL, _BETA)
IF_LAWS = (
    Law("r = 1", ("norse", "sinabs", "spyx", "nengo"), lambda dt, tau, r: r - 1),
    Law("r dt = 1", ("spikingjelly",), lambda dt, tau, r: r * dt - 1, lambda tau, r: 1 / r),
)


class Numbers:
    """tau and r of the LIF and CubaLIF nodes of a file, and r of the IF nodes (tau is 1 there)."""

    def __init__(self, nodes: Mapping[str, nir.NIRNode]) -> None:
        self.lif: dict[str, Neurons] = {}
        self.charge: dict[str, Neurons] = {}
        for name, node in nodes.items():
            kept = self.charge if isinstance(node, nir.IF) else self.lif
            if isinstance(node, (nir.IF, nir.LIF, nir.CubaLIF)):
                kept[name] = _finite(getattr(node, "tau", getattr(node, "tau_mem", 1.0)), node.r)

    def points_at(self) -> tuple[str, tuple[str, ...]] | None:
        """The law that holds for one round time step, in words, and the tools that keep it; None for none."""
        for numbers, laws in ((self.lif, LIF_LAWS), (self.charge, IF_LAWS)):
            for law in laws:
                dt = self._time_step(law, numbers)
                if dt is not None:
                    at = f" at dt = {dt:.6g}" if law.dt else ""
                    return law.text + at, self._tools(law, dt)
        return None

    def of_other_dynamics(self, dt: float | None) -> bool:
        """Whether r is what tools write whose step is not v + dt / tau (r I - v)."""
        if not self.lif or self._holds(_ONE, self.lif, 1.0):
            return False
        if dt is None:
            pointed = self.points_at()
            return pointed is not None and pointed[1] in (_EXPONENTIAL.tools, _BETA.tools)
        return any(self._holds(law, self.lif, dt) for law in (_EXPONENTIAL, _BETA)) and not self._holds(
            _UNIT, self.lif, dt
        )

    def contradicts(self, tool: str | None, dt: float | None, unit_charge: bool) -> str:
        """One sentence where the numbers are not what `tool` writes for this time step; empty where they are."""
        for kind, numbers, all_laws in (("LIF", self.lif, LIF_LAWS), ("IF", self.charge, IF_LAWS)):
            laws = [law for law in all_laws if tool in law.tools]
            if kind == "IF" and not laws and not unit_charge:  # r = 1 is what tools write that add the input as it is
                laws = [law for law in all_laws if law.dt]
                numbers = {name: value for name, value in numbers.items() if np.allclose(value[1], 1)}
            if kind == "LIF" and not laws and self.of_other_dynamics(dt):
                laws = [_UNIT, _ONE]
            for name, value in numbers.items():
                if dt is None or not laws:
                    break
                if len(value[0]) and not any(_keeps(law, dt, value) for law in laws):
                    return self._contradiction(name, value, tool, dt, laws, numbers)
        return ""

    def _contradiction(
        self, name: str, value: Neurons, tool: str | None, dt: float, laws: list[Law], numbers: dict[str, Neurons]
    ) -> str:
        text, tools = self.points_at() or ("", ())
        for law in laws:
            if law.dt and text.startswith(law.text):  # the right law, and another time step
                step, by = self._time_step(law, numbers), f", as --from {tool} has it unless told" if tool else ""
                return (
                    f"the file's numbers fit a time step of {step:g} ({law.text}), and it is read with {dt:g}{by}: "
                    f"--time-step {step:g} says so"
                )
        told = f"--from {tool} and the time step {dt:.6g} mean" if tool else f"the time step {dt:.6g} means"
        found, by = text or f"r {value[1][0]:.6g}", f", as {' or '.join(tools)} writes it" if tools else ""
        return f"{told} {' or '.join(law.text for law in laws)}, but in node {name} the file has {found}{by}"

    def _tools(self, law: Law, dt: float) -> tuple[str, ...]:
        """Those of the law whose time step or time constants fit."""
        tools = law.tools
        if law is _UNIT and abs(dt / 1e-4 - 1) > _CLOSE:  # SpikingJelly takes any dt; 1 is nobody's
            tools = ("spikingjelly",) if dt < 1 else ()
        if law is _ONE:
            seconds = max((float(tau.max()) for tau, _ in self.lif.values() if len(tau)), default=1.0) < 0.5
            tools = ("norse", "spikingjelly") if seconds else ("sinabs",)
        return tools

    def _time_step(self, law: Law, numbers: dict[str, Neurons]) -> float | None:
        """The one for which the law holds everywhere, 1 for a law without any; None where there is none."""
        values = [value for value in numbers.values() if len(value[0])]
        if not values:
            return None
        if law.dt is None:
            return 1.0 if self._holds(law, numbers, 1.0) else None
        with np.errstate(all="ignore"):
            found = np.concatenate([law.dt(tau, r) for tau, r in values])
        dt = float(np.median(found))
        shortest = min(float(tau.min()) for tau, _ in values) if numbers is self.lif else np.inf
        if not (np.isfinite(dt) and 0 < dt <= shortest * (1 + _CLOSE) and np.allclose(found, dt, rtol=_CLOSE, atol=0)):
            return None
        rounded = float(f"{dt:.1g}")
        return rounded if abs(dt / rounded - 1) < _CLOSE else None

    @staticmethod
    def _holds(law: Law, numbers: dict[str, Neurons], dt: float) -> bool:
        return bool(numbers) and all(_keeps(law, dt, value) for value in numbers.values())


def _keeps(law: Law, dt: float, value: Neurons) -> bool:
    return bool(np.all(np.abs(law.off(dt, *value)) < _CLOSE))


def _finite(tau: Any, r: Any) -> tuple[np.ndarray, np.ndarray]:
    tau, r = np.broadcast_arrays(np.asarray(tau, np.float64), np.asarray(r, np.float64))
    usable = np.isfinite(tau) & np.isfinite(r) & (tau > 0) & (r != 0)
    return tau[usable].ravel(), r[usable].ravel()
