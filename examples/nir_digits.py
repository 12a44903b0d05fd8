"""A network of another tool, trained there on handwritten digits, with all that neurotool is given of it.

    python examples/nir_digits.py snntorch|norse|sinabs FOLDER [EPOCHS]

Writes FOLDER/digits.nir, as the tool's own exporter does; FOLDER/test.npz, 100 test images as spikes (inputs, steps,
64); and FOLDER/recorded.npz, the spikes that the tool itself sent on them. docs/first_hour_nir.md goes on from there.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

STEPS, HIDDEN, TEST = 20, 48, 100
Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Spikes (inputs, steps, 64) -> spikes of both layers (inputs, steps, neurons)."""


def spikes(images: np.ndarray, seed: int) -> Tensor:
    """Each pixel of 0 … 16 spikes in a step with probability pixel / 16."""
    random = np.random.default_rng(seed).random((len(images), STEPS, images.shape[1]))
    return torch.from_numpy((random < images[:, None] / 16).astype(np.float32))


def of_snntorch() -> tuple[nn.Module, Run, Callable[[], nir.NIRGraph]]:
    import snntorch
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    def neurons(n: int) -> nn.Module:
        leaks = {"beta": torch.full((n,), 0.9), "threshold": torch.ones(n), "reset_mechanism": "zero"}
        cell: nn.Module = snntorch.Leaky(**leaks, init_hidden=True)
        return cell

    net = nn.Sequential(nn.Linear(64, HIDDEN), neurons(HIDDEN), nn.Linear(HIDDEN, 10), neurons(10))

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        utils.reset(net)
        both: tuple[list[Tensor], list[Tensor]] = [], []
        for step in x.unbind(1):
            both[0].append(net[1](net[0](step)))
            both[1].append(net[3](net[2](both[0][-1])))
        return torch.stack(both[0], 1), torch.stack(both[1], 1)

    def export() -> nir.NIRGraph:
        utils.reset(net)
        return export_to_nir(net, torch.zeros(64))

    return net, run, export


def of_norse() -> tuple[nn.Module, Run, Callable[[], nir.NIRGraph]]:
    import norse.torch as norse
    from norse.torch.functional.lif_box import LIFBoxParameters

    def neurons(n: int) -> nn.Module:
        zero, one = torch.zeros(n), torch.ones(n)
        leaks = {"tau_mem_inv": 100 * one, "v_leak": zero, "v_th": 0.05 * one, "v_reset": zero}
        cell: nn.Module = norse.LIFBoxCell(LIFBoxParameters(**leaks, alpha=20))
        return cell

    net = norse.SequentialState(nn.Linear(64, HIDDEN), neurons(HIDDEN), nn.Linear(HIDDEN, 10), neurons(10))
    linear1, layer1, linear2, layer2 = net.children()

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        both: tuple[list[Tensor], list[Tensor]] = [], []
        state1 = state2 = None
        for step in x.unbind(1):
            first, state1 = layer1(linear1(step), state1)
            second, state2 = layer2(linear2(first), state2)
            both[0].append(first)
            both[1].append(second)
        return torch.stack(both[0], 1), torch.stack(both[1], 1)

    return net, run, lambda: norse.to_nir(net, torch.zeros(64), dt=1.0)


def of_sinabs() -> tuple[nn.Module, Run, Callable[[], nir.NIRGraph]]:
    import sinabs.activation
    import sinabs.layers
    from sinabs.nir import to_nir

    one = {"spike_fn": sinabs.activation.SingleSpike}
    layers = sinabs.layers.IAF(**one), sinabs.layers.IAF(**one)
    net = nn.Sequential(nn.Linear(64, HIDDEN), layers[0], nn.Linear(HIDDEN, 10), layers[1])

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in (net[1], net[3]):
            layer.reset_states()
        first = net[1](net[0](x))
        return first, net[3](net[2](first))

    return net, run, lambda: to_nir(net, torch.zeros(1, 1, 64))


TOOLS = {"snntorch": of_snntorch, "norse": of_norse, "sinabs": of_sinabs}


def names(graph: nir.NIRGraph) -> list[str]:
    """Of the neuron layers in the order of the network, as the tool calls them."""
    follow, name = dict(graph.edges), "input"
    found = []
    while name in follow:
        name = follow[name]
        found += [name] if isinstance(graph.nodes[name], (nir.IF, nir.LIF)) else []
    return found


def main(tool: str, folder: Path, epochs: int = 20) -> None:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    net, run, export = TOOLS[tool]()
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    x, y = spikes(images[:-TEST], 0), torch.from_numpy(labels[:-TEST])
    for epoch in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            loss = nn.functional.cross_entropy(run(x[batch])[1].sum(1), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        print(f"epoch {epoch + 1}: loss {float(loss.detach()):.3f}")
    test = spikes(images[-TEST:], 1)
    with torch.no_grad():
        first, second = (layer.detach().numpy() for layer in run(test))
        graph: Any = export()
    folder.mkdir(parents=True, exist_ok=True)
    nir.write(folder / "digits.nir", graph)
    hidden, output = names(graph)
    np.savez_compressed(folder / "test.npz", input=test.numpy())
    np.savez_compressed(folder / "recorded.npz", **{f"{hidden}.spikes": first, f"{output}.spikes": second})
    right = np.mean(second.sum(1).argmax(1) == labels[-TEST:])
    print(f"{tool}: {right:.0%} of {TEST} test images right; wrote {folder}/digits.nir, test.npz and recorded.npz")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
