"""NIR nodes with a state, or that fire -> layers of the graph, as the conventions of a file have them stepped."""

from collections.abc import Callable
from typing import Any, get_args

import nir
import numpy as np

from neurotool.errors import GraphError
from neurotool.export.conventions import ROUNDING, integrate
from neurotool.export.nir_meaning import Meaning
from neurotool.export.nir_shapes import title
from neurotool.graph import CubaLIF, Delay, GradedNeuron, Integrator, Neuron, Scale, Stateful
from neurotool.graph.nodes import Reset

FIRING = (nir.IF, nir.LIF, nir.CubaLIF)
INTEGRATING = (nir.I, nir.LI, nir.CubaLI)
STATES = (*FIRING, *INTEGRATING, nir.Threshold, nir.Delay)
# Above rounding in float64, below the resolution of float32: a threshold that v = v_threshold does not reach.
_STRICTLY = 1 + 2.0**-40
_WITHOUT_LEAK = ("tau", "tau_mem", "tau_syn", "r", "w_in")  # may be infinite: snnTorch writes beta = 1 so
LONGEST = 2**27
"""Values that wait in a Delay, of all its steps."""
Shape = tuple[int, ...]


class Layers:
    """folded: parameters in the shape of a node's output -> as the graph has them. gain: of the layer that was made
    last, the Scale that its input goes through; None for none."""

    def __init__(self, meant: Meaning, folded: Callable[[np.ndarray], np.ndarray]) -> None:
        self.meant, self.rules, self._folded = meant, meant.rules, folded
        self.gain: Scale | None = None

    def sends_late(self, node: nir.NIRNode) -> bool:
        """Whether a tool's layer sends its spikes one step late."""
        return self.rules.sends_late and isinstance(node, FIRING)

    def layer(self, name: str, node: Any, shape: Shape) -> Stateful:
        """shape: of what it gives. Raises GraphError for what cannot be expressed."""
        self.gain = None
        if isinstance(node, nir.Threshold):
            return self._threshold(name, node, shape)
        if isinstance(node, nir.Delay):
            return self._delay(name, node, shape)
        return self._neuron(name, node, shape) if isinstance(node, FIRING) else self._integrator(name, node, shape)

    def values(self, name: str, node: Any, parameter: str, shape: Shape) -> float | np.ndarray:
        """One number, or one for each element."""
        return _scalar(self._each(name, node, parameter, shape))

    def _neuron(self, name: str, node: Any, shape: Shape) -> Neuron:
        keep, lost, gain, current = self._dynamics(name, node, shape)
        told, reset = node.metadata, self._reset(name, node)
        spikes = self.meant.given.spikes or str(told.get("spikes", self.rules.spikes))
        rest = self._each(name, node, "v_leak", shape) if hasattr(node, "v_leak") else np.zeros(1)
        back = self._each(name, node, "v_reset", shape) if reset == "hard" else np.zeros(1)
        if not np.all(np.isfinite(gain)) or np.any(gain == 0):
            wrong = gain[~np.isfinite(gain) | (gain == 0)][0]
            raise GraphError(f"{title(name, node)} multiplies its input by {wrong:g}: that must be finite, and not 0")
        if np.any(gain < 0):
            self.gain, gain = Scale(_scalar(np.sign(gain))), abs(gain)
        threshold = self._each(name, node, "v_threshold", shape)
        given = self.meant.given.lowest
        lowest = told.get("v_min", self.rules.lowest) if given is None else given
        if reset == "hard" and lowest is None and np.array_equal(back, rest):  # potentials can be measured from rest
            threshold, rest, back = threshold - rest, np.zeros(1), np.zeros(1)
        # A ternary neuron subtracts twice where it fires.
        threshold = threshold * (2 if spikes == "ternary" else 1) * (_STRICTLY if self.rules.fires == ">" else 1.0)
        if np.any(threshold <= 0):
            raise GraphError(f"{title(name, node)}: v_threshold is {np.min(threshold):.6g}: it must be above 0")
        start = rest if self.rules.start == "leak" and hasattr(node, "v_leak") else back
        parameters: dict[str, Any] = {
            "v_threshold": _scalar(threshold / gain),
            "leak": _scalar(keep),
            "reset": reset,
            "spikes": spikes,
            "v_init": _scalar(np.atleast_1d(told["v_init"]) if "v_init" in told else start / threshold),
            "bias": _scalar(lost * rest / gain),
            "v_reset": _scalar(back / gain),
            "v_min": None if lowest is None else _scalar(np.atleast_1d(lowest) / gain),
        }
        try:
            if "levels" in told:
                parameters |= {"levels": int(told["levels"]), "dead_zone": float(told["dead_zone"])}
                made: Neuron = GradedNeuron(**parameters)
            else:
                made = CubaLIF(**parameters, current_leak=_scalar(current)) if np.any(current) else Neuron(**parameters)
            made.check()
        except KeyError as error:
            raise GraphError(f"{title(name, node)} has metadata with levels, but without {error.args[0]}") from error
        except (TypeError, ValueError) as error:
            raise GraphError(f"{title(name, node)} has metadata that cannot be used: {error}") from error
        except GraphError as error:
            raise GraphError(f"{title(name, node)}: {error}") from error
        return made

    def _integrator(self, name: str, node: Any, shape: Shape) -> Integrator:
        keep, lost, gain, current = self._dynamics(name, node, shape)
        if not np.all(np.isfinite(gain)):
            wrong = gain[~np.isfinite(gain)][0]
            raise GraphError(f"{title(name, node)} multiplies its input by {wrong:g}: that must be finite")
        self.gain = None if np.all(gain == 1) else Scale(_scalar(gain))
        rest = self._each(name, node, "v_leak", shape) if hasattr(node, "v_leak") else np.zeros(1)
        told = node.metadata.get("v_init")
        start = rest if self.rules.start == "leak" else np.zeros(1)
        start = start if told is None else np.atleast_1d(told)
        return Integrator(_scalar(keep), _scalar(current), _scalar(lost * rest), _scalar(start))

    def _threshold(self, name: str, node: Any, shape: Shape) -> Neuron:
        threshold = self._each(name, node, "threshold", shape) * (_STRICTLY if self.rules.fires == ">" else 1.0)
        if np.any(threshold <= 0):
            raise GraphError(f"{title(name, node)}: threshold is {np.min(threshold):.6g}: it must be above 0")
        return Neuron(_scalar(threshold), leak=0.0, reset="none")

    def _delay(self, name: str, node: Any, shape: Shape) -> Delay:
        delay, dt = self._each(name, node, "delay", shape), self.rules.time_step
        assert dt is not None  # conventions.meaning asks for it
        steps = np.rint(delay / dt)
        if np.any(odd := (abs(delay / dt - steps) > 1e-4) | (steps < 0)):
            raise GraphError(f"{title(name, node)}: delay {delay[odd][0]:g} is no whole number of time steps of {dt:g}")
        if steps.max() * np.prod(shape) > LONGEST:
            raise GraphError(
                f"{title(name, node)}: delays of up to {steps.max():g} steps of {np.prod(shape)} values: the limit is "
                f"{LONGEST} values that wait"
            )
        return Delay(int(steps[0]) if steps.size == 1 or np.all(steps == steps.flat[0]) else steps.astype(np.int64))

    def _dynamics(self, name: str, node: Any, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Shares of the potential that a step keeps and loses, the factor of the input, and the share of the synaptic
        current that a step keeps."""
        r = self._each(name, node, "r", shape)
        if isinstance(node, (nir.IF, nir.I)):
            unit = self.rules.unit_charge or (self.rules.time_step is None and np.all(r == 1))
            charge = np.ones(1) if unit else r * (self.rules.time_step or 1.0)
            return np.ones(1), np.zeros(1), np.where(abs(charge - 1) < ROUNDING, 1.0, charge), np.zeros(1)
        constant = "tau" if isinstance(node, (nir.LIF, nir.LI)) else "tau_mem"
        how = self.rules.integrator if isinstance(node, nir.LI) else self.rules.membrane
        keep, lost, gain = integrate(how, self._share(name, node, constant, shape, how), r)
        current = np.zeros(1)
        if hasattr(node, "tau_syn"):
            how = self.rules.synapse
            w_in = self._each(name, node, "w_in", shape)
            current, _, factor = integrate(how, self._share(name, node, "tau_syn", shape, how), w_in)
            gain = gain * factor
        return keep, lost, np.where(abs(gain - 1) < ROUNDING, 1.0, gain), current

    def _share(self, name: str, node: Any, constant: str, shape: Shape, how: str) -> np.ndarray:
        """dt / tau, with dt rounded as tau is: tools compute tau from dt."""
        dt = self.rules.time_step
        assert dt is not None  # conventions.meaning asks for it
        tau = self._each(name, node, constant, shape)
        kind = getattr(node, constant).dtype if getattr(node, constant).dtype.kind == "f" else np.float64
        if not np.all(tau > 0) or (how.startswith("euler") and np.any(dt / tau > 1 + ROUNDING)):
            raise GraphError(
                f"{title(name, node)} has {constant} {np.min(tau)}: it must not be below the time step {dt}"
            )
        return np.asarray(dt, kind).astype(np.float64) / tau

    def _reset(self, name: str, node: Any) -> Reset:
        cuba = self.rules.cuba_reset if isinstance(node, nir.CubaLIF) else None
        reset: Any = self.meant.given.reset or node.metadata.get("reset") or cuba or self.rules.reset
        if reset not in get_args(Reset):
            raise GraphError(f"{title(name, node)} has reset {reset!r}: known are {', '.join(get_args(Reset))}")
        return reset

    def _each(self, name: str, node: Any, parameter: str, shape: Shape) -> np.ndarray:
        """In `shape`, or (1,) for one number, in float64."""
        value = np.asarray(getattr(node, parameter), np.float64)
        usable = ~np.isnan(value) if parameter in _WITHOUT_LEAK else np.isfinite(value)
        if not np.all(usable):
            raise GraphError(f"{title(name, node)} has a {parameter} that is not finite")
        if value.size and np.all(value == value.flat[0]):
            return value.reshape(-1)[:1]
        in_shape = value.reshape(shape) if value.size == np.prod(shape) else np.broadcast_to(value, shape)
        return self._folded(in_shape)


def _scalar(value: np.ndarray) -> float | np.ndarray:
    return float(value.flat[0]) if np.all(value == value.flat[0]) else value
