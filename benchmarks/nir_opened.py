"""Files that neurotool wrote for other tools, opened and run there by each tool's own import.

    python benchmarks/nir_for.py build/nir-for             # where neurotool is
    python benchmarks/nir_opened.py build/nir-for          # in an environment with the tools
    python benchmarks/nir_table.py build/nir-networks --opened build/nir-for

Runs in any environment with `nir` and some of the tools. Writes beside every FOLDER/TOOL-NETWORK.nir an .opened.npy
(inputs, T, *shape), what the last layer sent there.
"""

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np

Told = dict[str, Any]
"""What is set after the import: reset, spikes, lowest."""


def in_steps(module: Any, x: np.ndarray) -> np.ndarray:
    """A module of one step and its state."""
    import torch

    state, sent = None, []
    for step in torch.from_numpy(x).unbind(1):
        out, state = module(step) if state is None else module(step, state)
        sent.append(out.numpy())
    return np.stack(sent, 1)


def in_norse(graph: nir.NIRGraph, x: np.ndarray, told: Told) -> np.ndarray:
    import norse.torch as norse
    from norse.torch.functional.reset import reset_subtract

    how = {"reset_method": reset_subtract} if told.get("reset") == "soft" else {}
    return in_steps(norse.from_nir(graph, **how), x)


def in_snntorch(graph: nir.NIRGraph, x: np.ndarray, told: Told) -> np.ndarray:
    import snntorch
    from snntorch.import_nir import import_from_nir

    module = import_from_nir(graph)
    for layer in module.modules():
        if isinstance(layer, (snntorch.Leaky, snntorch.Synaptic)) and "reset" in told:
            name, _, when = told["reset"].partition("-")
            mechanism = {"soft": "subtract", "hard": "zero", "none": "none"}[name]
            layer.reset_mechanism, layer.reset_delay = mechanism, when == "late"
            of = {"subtract": layer._base_sub, "zero": layer._base_zero, "none": layer._base_int}
            layer.state_function = of[mechanism]
    return in_steps(module, x)


def in_sinabs(graph: nir.NIRGraph, x: np.ndarray, told: Told) -> np.ndarray:
    import torch
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import LIF
    from sinabs.nir import from_nir

    module = from_nir(graph, batch_size=len(x))
    for layer in module.modules():
        if not isinstance(layer, LIF):  # IAF is one, too
            continue
        if told.get("spikes") == "binary":
            layer.spike_fn = SingleSpike
        if told.get("reset") == "hard":
            layer.reset_fn = MembraneReset()
        if "lowest" in told:
            lowest = told["lowest"]
            layer.min_v_mem = None if lowest is None else torch.nn.Parameter(torch.tensor(lowest), requires_grad=False)
    out = module(torch.from_numpy(x.reshape(-1, *x.shape[2:])))
    sent = (out[0] if isinstance(out, tuple) else out).numpy()
    return sent.reshape(*x.shape[:2], *sent.shape[1:])


def in_spikingjelly(graph: nir.NIRGraph, x: np.ndarray, told: Told) -> np.ndarray:
    from spikingjelly.activation_based.neuron import BaseNode
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    module = import_from_nir(graph)
    for layer in module.modules():
        if isinstance(layer, BaseNode) and told.get("reset") == "soft":
            layer.v_reset = None
    return in_steps(module, x)


def in_rockpool(graph: nir.NIRGraph, x: np.ndarray, told: Told) -> np.ndarray:
    import torch
    from rockpool.nn.modules.torch import LIFTorch
    from rockpool.nn.modules.torch.nir import from_nir

    module = from_nir(graph)
    for layer in module.modules():
        if isinstance(layer, LIFTorch) and told.get("spikes") == "binary":
            layer.max_spikes_per_dt = torch.tensor(1.0)
    out = module(torch.from_numpy(x))
    return (out[0] if isinstance(out, tuple) else out).numpy()


def in_spyx(graph: nir.NIRGraph, x: np.ndarray, told: Told) -> np.ndarray:
    import jax.numpy as jnp
    from spyx.nir import from_nir

    _, sent = from_nir(graph, jnp.asarray(x.swapaxes(0, 1)), dt=1)
    return np.asarray(sent).swapaxes(0, 1)


OPEN: dict[str, Callable[[nir.NIRGraph, np.ndarray, Told], np.ndarray]] = {
    "snntorch": in_snntorch,
    "norse": in_norse,
    "sinabs": in_sinabs,
    "spikingjelly": in_spikingjelly,
    "rockpool": in_rockpool,
    "spyx": in_spyx,
}


def opened(path: Path) -> np.ndarray:
    """What the last layer of one file sends in its tool. Raises ImportError where that is not installed."""
    arrays = np.load(path.with_suffix(".npz"))
    tool, x, told = path.stem.split("-")[0], arrays["x"], json.loads(str(arrays["told"]))
    if tool == "spyx":
        return OPEN[tool](nir.read(path), x, told)
    import torch

    with torch.no_grad():
        return OPEN[tool](nir.read(path), x, told)


def main(folder: Path, tools: list[str]) -> None:
    warnings.simplefilter("ignore")
    missing: set[str] = set()
    for path in sorted(folder.glob("*.nir")):
        tool = path.stem.split("-")[0]
        if tool not in tools or tool in missing:
            continue
        try:
            sent = opened(path)
        except ImportError as error:
            missing.add(tool)
            print(f"{tool}: left out, not installed ({error})")
            continue
        except Exception as error:  # whatever a tool raises is what the table says of it
            path.with_suffix(".failed.txt").write_text(f"{type(error).__name__}: {error}", "utf-8")
            print(f"{path.stem}: {type(error).__name__}: {error}")
            continue
        np.save(path.with_suffix(".opened.npy"), sent)
        print(f"{path.stem}: {sent.shape}, mean {sent.mean():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(OPEN))
