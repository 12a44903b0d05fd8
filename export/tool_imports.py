"""What each tool's own import makes of a .nir file: what for_tool.py writes for it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from neurotool.export.conventions import Integration
from neurotool.graph import (
    Add,
    AvgPool2d,
    Conv2d,
    CubaLIF,
    Flatten,
    Input,
    Integrator,
    Linear,
    Neuron,
    Node,
    SumPool2d,
)
from neurotool.graph.nodes import Reset, Spikes

Gain = Callable[[np.ndarray, float], np.ndarray]
"""r, or w_in, for time constants and dt."""
VECTORS: tuple[type[Node], ...] = (Input, Linear, Neuron, Add)


def unit(tau: np.ndarray, dt: float) -> np.ndarray:
    return np.ones_like(tau)


def per_step(tau: np.ndarray, dt: float) -> np.ndarray:
    return tau / dt


@dataclass(frozen=True)
class Import:
    """What a tool's own import makes of a file.

    source: the code that was read, and run. nodes: types that it knows. r, w_in: what it wants there; what of them and
    its rules is left as a gain goes into the thresholds. membrane: where its import integrates in another way than its
    export. only_lif, only_cuba: an IF, or an LIF, is not what it says there. only_affine: a Linear is lost. uniform:
    parameters that must be one number in a layer. v_reset: whether it reads one. bias: whether it reads v_leak.
    reset, spikes, floor: what it gives its neurons; floor: of IF, in thresholds.
    resets, all_spikes, floors: what else its neurons can be given after the import, and how. chain: the nodes stand in
    one line. depth_first: nodes run as a walk along the edges meets them, into the depth first, and one that comes too
    late gives what it did a step before. recurrent: cycles run. padding: of pools. keeps: an LIF must keep something of
    its potential.
    """

    source: str
    nodes: tuple[type[Node], ...]
    r: Gain = per_step
    w_in: Gain = per_step
    membrane: Integration | None = None
    only_lif: bool = False
    only_cuba: bool = False
    only_affine: bool = False
    uniform: tuple[str, ...] = ()
    v_reset: bool = False
    bias: bool = False
    reset: Reset = "hard"
    cuba_reset: Reset | None = None
    spikes: Spikes = "binary"
    floor: float | None = None
    resets: Mapping[str, str] = field(default_factory=dict)
    cuba_resets: Mapping[str, str] = field(default_factory=dict)
    all_spikes: Mapping[str, str] = field(default_factory=dict)
    floors: str = ""
    chain: bool = False
    depth_first: bool = False
    recurrent: bool = False
    padding: bool = True
    keeps: bool = False


IMPORTS = {
    "snntorch": Import(
        "import_nir.py: an IF becomes a Leaky of beta 0.9",
        (*VECTORS, CubaLIF, Conv2d, AvgPool2d, Flatten),
        only_lif=True,
        uniform=("v_threshold",),
        resets={
            "soft-late": 'reset_mechanism = "subtract", state_function = _base_sub, reset_delay = True',
            "soft-once": 'reset_mechanism = "subtract", state_function = _base_sub',
            "none": 'reset_mechanism = "none", state_function = _base_int',
        },
        cuba_resets={"hard-late": "reset_delay = True"},
    ),
    "norse": Import(
        "torch/utils/import_nir.py: r of an LIF is not read, nor the weight of a Linear",
        (*VECTORS, CubaLIF, Conv2d, SumPool2d, Flatten),
        r=unit,
        only_affine=True,
        bias=True,
        cuba_resets={"soft": "from_nir(…, reset_method=reset_subtract)"},
        padding=False,
        depth_first=True,
        recurrent=True,
    ),
    "sinabs": Import(
        "nir.py: norm_input=False; a Linear is lost",
        (*VECTORS, Conv2d, SumPool2d, Flatten, Integrator),
        r=unit,
        membrane="exponential-unit",
        only_affine=True,
        reset="soft",
        spikes="several",
        floor=-1.0,
        resets={"hard": "reset_fn = MembraneReset()"},
        all_spikes={"binary": "spike_fn = SingleSpike"},
        floors="min_v_mem",
        depth_first=True,
        padding=False,
    ),
    "spikingjelly": Import(
        "activation_based/nir_exchange/from_nir.py",
        (*VECTORS, CubaLIF, Conv2d, AvgPool2d, Flatten),
        uniform=("v_threshold", "tau", "tau_mem", "tau_syn", "v_reset"),
        v_reset=True,
        keeps=True,
        recurrent=True,
        resets={"soft": "module.v_reset = None"},
    ),
    "rockpool": Import(
        "nn/modules/torch/nir.py: dt is tau_mem / (1 + r); an LIF is asked for a tau_mem that it does not have",
        (*VECTORS, CubaLIF),
        r=lambda tau, dt: tau / dt - 1,
        w_in=unit,
        only_cuba=True,
        reset="soft",
        spikes="several",
        all_spikes={"binary": "max_spikes_per_dt = torch.tensor(1.0)"},
    ),
    "spyx": Import(
        "nir.py: one layer after the other; r is not read",
        (*VECTORS, CubaLIF),
        r=lambda tau, dt: 1 - dt / tau,
        w_in=unit,
        reset="soft-late",
        cuba_reset="soft",
        chain=True,
    ),
}  # fmt: skip
"""Tools whose own import was read and run: docs/nir.md has what that gave."""

WITHOUT_IMPORT = {
    "nengo": "has no import of .nir files",
    "lava-dl": "has no import of .nir files; --target netx writes what its netx reads",
    "nir": "is no tool: leave out --for, a file by neurotool is standard NIR",
}
