"""What a NIR file leaves open, and what each tool means by it.

A .nir file says how fast a neuron leaks and where it fires, not how it is stepped through time. `TOOLS` holds how each
tool computes the networks that it exports; docs/nir.md has the table that a run of the tools gave.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from neurotool.errors import ConfigError
from neurotool.graph.nodes import Reset, Spikes

Fires = Literal[">", ">="]
Integration = Literal["euler", "euler-unit", "exponential", "exponential-unit", "exponential-late"]
"""One step of tau dv/dt = r I - v for x = dt / tau:
euler: v <- (1 - x) v + x r I; euler-unit: v <- (1 - x) v + I;
exponential: v <- e^-x v + (1 - e^-x) r I; exponential-unit: v <- e^-x v + I; exponential-late: v <- e^-x (v + I)."""
Start = Literal["reset", "leak"]

ROUNDING = 1e-6  # of the float32 numbers in a file


@dataclass(frozen=True)
class Rules:
    """How one tool steps the nodes it exports.

    version, source: the release that was compared, and where in it the rules stand.
    time_step: dt in the unit of the file's time constants; None where the file's owner must say it.
    reset: what a spike does to the potential; the tool's default. cuba_reset: of a CubaLIF, where that differs.
    fires: at or above the threshold. spikes: how many in a step.
    membrane, synapse, integrator: of LIF and CubaLIF; of the current of a CubaLIF or CubaLI; of LI.
    unit_charge: an IF adds its input as it is; else r dt times it, as NIR's text has it.
    start: a potential begins at v_reset (0 with soft reset) or at v_leak.
    lowest: what a potential never falls below; None for no limit.
    sends_late: a layer sends its spikes one step late.
    input_beside: the input of a recurrent layer comes to its neurons beside the recurrent weights, though in the file
      it goes through them.
    bias_from_start: recurrent weights add their bias from the first step on, in which no neuron has sent anything; else
      from the second.
    """

    version: str
    source: str
    reset: Reset | None
    time_step: float | None
    fires: Fires = ">"
    spikes: Spikes = "binary"
    membrane: Integration = "euler"
    synapse: Integration = "euler"
    integrator: Integration = "euler"
    unit_charge: bool = False
    start: Start = "reset"
    lowest: float | None = None
    sends_late: bool = False
    cuba_reset: Reset | None = None
    input_beside: bool = False
    bias_from_start: bool = True


TOOLS: dict[str, Rules] = {
    "snntorch": Rules("1.0.0", "_neurons/leaky.py, synaptic.py, rleaky.py; export_nir.py", "soft-late", 1e-4),
    "norse": Rules(
        "1.1.0", "torch/functional/lif_box.py, iaf.py, lif.py; utils/export_nir.py", "hard", 1e-3,
        synapse="euler-unit", unit_charge=True, start="leak", bias_from_start=False,
    ),
    "sinabs": Rules(
        "3.1.3", "layers/functional/lif.py, iaf.py; nir.py", "soft", 1.0, ">=", "several",
        membrane="exponential", integrator="exponential-unit", unit_charge=True,
    ),
    "spikingjelly": Rules(
        "2.0.0", "activation_based/neuron, nir_exchange", "hard", 1e-4, ">=", bias_from_start=False,
    ),
    "rockpool": Rules(
        "3.1.0", "nn/modules/torch/lif_neuron_torch.py, lif_torch.py, exp_syn_torch.py, nir.py", "soft", 1e-3, ">=",
        "several", membrane="exponential-unit", synapse="exponential-late", integrator="exponential-late",
    ),
    "spyx": Rules(
        "1.0.0", "nn.py, nir.py", "soft-late", 1.0,
        membrane="euler-unit", synapse="euler-unit", integrator="euler-unit", unit_charge=True, sends_late=True,
        cuba_reset="soft", input_beside=True,
    ),
    "nengo": Rules(
        "4.1.0", "neurons.py (LIF, tau_ref 0), as the NIR paper's nir_to_nengo.py sets it up", "hard", 1e-3,
        membrane="exponential", integrator="exponential", unit_charge=True, lowest=0.0,
    ),
    "lava-dl": Rules(
        "0.6.0", "slayer/neuron/cuba.py without its rounding, as the NIR paper's nir_to_lava.py has it", "hard",
        1e-4, ">=",
    ),
    "nir": Rules("1.0.8", "the equations in nir/ir/neuron.py, stepped by forward Euler", "hard", None),
}  # fmt: skip


def integrate(how: Integration, x: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For x = dt / tau: the shares of the state that a step keeps and loses, and the factor of the input.

    Infinite tau and r, as a tool without leak may write them, mean r dt / tau = 1.
    """
    kept, lost = (1 - x, x) if how.startswith("euler") else (np.exp(-x), -np.expm1(-x))
    match how:
        case "euler" | "exponential":
            with np.errstate(invalid="ignore"):
                gain = np.where((x == 0) & ~np.isfinite(r), 1.0, lost * r)
        case "exponential-late":
            gain = kept
        case _:
            gain = np.ones_like(x)
    return np.where(abs(kept) < ROUNDING, 0.0, kept), lost, np.where(abs(gain - 1) < ROUNDING, 1.0, gain)


@dataclass(frozen=True)
class Conventions:
    """What the caller says of a file; None is not said. tool: a name of TOOLS, whose rules the others go before."""

    tool: str | None = None
    reset: Reset | None = None
    time_step: float | None = None
    time_steps: int | None = None
    fires: Fires | None = None
    spikes: Spikes | None = None
    membrane: Integration | None = None
    lowest: float | None = None

    def check(self) -> None:
        """Raises ConfigError for a value out of its range."""
        for name, known in (
            ("tool", TOOLS),
            ("reset", get_args(Reset)),
            ("fires", get_args(Fires)),
            ("spikes", get_args(Spikes)),
            ("membrane", get_args(Integration)),
        ):
            value = getattr(self, name)
            if value is not None and value not in known:
                raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(known)}")
        for name, smallest in (("time_step", 0.0), ("time_steps", 1)):
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value >= smallest and value > 0):
                raise ConfigError(f"{name} is {value}: it must be {'at least 1' if smallest else 'above 0'}")
        if self.lowest is not None and not (np.isfinite(self.lowest) and self.lowest <= 0):
            raise ConfigError(f"lowest is {self.lowest}: it must be 0 or below, where potentials begin")
