"""Networks built in other tools, exported to .nir by each tool's own exporter, with the spikes the tool itself sends.

    python benchmarks/nir_tools.py FOLDER [TOOL …]

Runs in any environment with `nir` and some of the tools; a tool that is not installed is named and left out. Writes for
every network FOLDER/TOOL-NETWORK.nir, and .npz with `x` (T, *shape), what the network was given, `y` (T, *shape), what
its last layer sent, and `told`, JSON: options of `neurotool`, which say what the owner knows and neither the file nor
the tool's defaults do. benchmarks/nir_table.py reads them and compares.
"""

import importlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import nir
import numpy as np

STEPS = 60
Network = tuple[str, nir.NIRGraph, np.ndarray, np.ndarray, dict[str, Any]]
"""Name, exported graph, x, y, told."""


class Data(NamedTuple):
    """Random numbers of one network; the weights are such that about every third neuron fires in a step."""

    rng: np.random.Generator

    def spikes(self, *shape: int) -> np.ndarray:
        return self.rng.integers(0, 2, size=(STEPS, *shape)).astype(np.float32)

    def fill(self, module: Any, size: float = 1.0) -> Any:
        """A torch Linear or convolution with random weights and bias."""
        import torch

        for parameter in module.parameters():
            fan = np.sqrt(np.prod(parameter.shape[1:])) if parameter.ndim > 1 else 10
            values = self.rng.normal(0.1, 1, size=parameter.shape) * size * 1.5 / fan
            parameter.data = torch.from_numpy(values.astype(np.float32))
        return module

    def tensor(self, low: float, high: float, *shape: int) -> Any:
        import torch

        return torch.from_numpy(self.rng.uniform(low, high, size=shape).astype(np.float32))


def data(seed: int) -> Data:
    return Data(np.random.default_rng(seed))


def of_snntorch() -> Iterator[Network]:
    import snntorch as snn
    import torch
    from snntorch.export_nir import export_to_nir
    from torch import nn

    def chain(name: str, layers: Callable[[Data], list[Any]], shape: tuple[int, ...], **told: Any) -> Network:
        made = data(1)
        net, x = nn.Sequential(*layers(made)), made.spikes(*shape)
        y = np.stack([_first(net(torch.from_numpy(step)[None]))[0].numpy() for step in x])
        sample = torch.zeros(shape) if len(shape) == 1 else torch.zeros(1, *shape)
        return name, export_to_nir(net, sample, **({} if len(shape) == 1 else {"ignore_dims": [0]})), x, y, told

    def leaky(beta: float | None = None, **options: Any) -> Callable[[Data], list[Any]]:
        def layers(d: Data) -> list[Any]:
            low, high = (0.4, 0.95) if beta is None else (beta, beta)
            kinds = [
                snn.Leaky(beta=d.tensor(low, high, n), threshold=torch.ones(n), init_hidden=True, **options)
                for n in (9, 5)
            ]
            return [d.fill(nn.Linear(6, 9)), kinds[0], d.fill(nn.Linear(9, 5), 2), kinds[1]]

        return layers

    def synaptic(**options: Any) -> Callable[[Data], list[Any]]:
        def layers(d: Data) -> list[Any]:
            both = [
                snn.Synaptic(
                    alpha=d.tensor(0.2, 0.8, n), beta=d.tensor(0.4, 0.9, n), threshold=torch.ones(n),
                    init_hidden=True, **options,
                ) for n in (9, 5)
            ]  # fmt: skip
            return [d.fill(nn.Linear(6, 9)), both[0], d.fill(nn.Linear(9, 5)), both[1]]

        return layers

    def recurrent(kind: Any, **options: Any) -> Callable[[Data], list[Any]]:
        def layers(d: Data) -> list[Any]:
            decays = {"alpha": 0.5} if kind is snn.RSynaptic else {}
            cell = kind(beta=0.8, init_hidden=True, **decays, **options)
            return [d.fill(nn.Linear(6, 7)), d.fill(cell, 0.5) if "V" not in options else cell]

        return layers

    soft_once = {"reset": "soft-once"}
    yield chain("leaky", leaky(), (6,))
    yield chain("leaky-no-delay", leaky(reset_delay=False), (6,), **soft_once)
    yield chain("leaky-zero", leaky(reset_mechanism="zero"), (6,), reset="hard")
    yield chain("leaky-zero-no-delay", leaky(reset_mechanism="zero", reset_delay=False), (6,), reset="hard")
    yield chain("leaky-none", leaky(reset_mechanism="none"), (6,), reset="none")
    yield chain("leaky-beta-1", leaky(beta=1.0), (6,))
    yield chain("leaky-beta-0", leaky(beta=0.0), (6,))
    yield chain("synaptic", synaptic(), (6,))
    yield chain("synaptic-no-delay", synaptic(reset_delay=False), (6,), **soft_once)
    yield chain("synaptic-zero", synaptic(reset_mechanism="zero"), (6,), reset="hard-late")
    yield chain("synaptic-zero-no-delay", synaptic(reset_mechanism="zero", reset_delay=False), (6,), reset="hard")
    yield chain("rleaky", recurrent(snn.RLeaky, linear_features=7), (6,))
    yield chain("rleaky-no-delay", recurrent(snn.RLeaky, linear_features=7, reset_delay=False), (6,), **soft_once)
    yield chain("rleaky-one-to-one", recurrent(snn.RLeaky, all_to_all=False, V=torch.full((7,), 0.4)), (6,))
    yield chain("rsynaptic", recurrent(snn.RSynaptic, linear_features=7), (6,))
    yield chain(
        "convolution",
        lambda d: [
            d.fill(nn.Conv2d(2, 4, 3, padding=1), 2),
            snn.Leaky(d.tensor(0.8, 0.9, 4, 8, 8), torch.ones(4, 8, 8), init_hidden=True), nn.AvgPool2d(2),
            nn.Flatten(), d.fill(nn.Linear(64, 5), 3),
            snn.Leaky(d.tensor(0.8, 0.9, 5), torch.ones(5), init_hidden=True),
        ],
        (2, 8, 8),
    )  # fmt: skip


def of_norse() -> Iterator[Network]:
    import norse.torch as norse
    import torch
    from norse.torch.functional.iaf import IAFParameters
    from norse.torch.functional.leaky_integrator_box import LIBoxParameters
    from norse.torch.functional.lif import LIFParameters
    from norse.torch.functional.lif_box import LIFBoxParameters
    from torch import nn

    def chain(name: str, layers: Callable[[Data], list[Any]], shape: tuple[int, ...], dt: float = 1.0) -> Network:
        made = data(2)
        net, x = norse.SequentialState(*layers(made)), made.spikes(*shape)
        state, y = None, []
        for step in x:
            out, state = net(torch.from_numpy(step), state)
            y.append(out.numpy())
        return name, norse.to_nir(net, torch.zeros(shape), dt=dt), x, np.stack(y), {}

    def lif_box(d: Data, n: int, leak: float = 0.0) -> Any:
        return norse.LIFBoxCell(
            LIFBoxParameters(
                tau_mem_inv=d.tensor(100, 600, n), v_th=d.tensor(0.3, 0.5, n), v_leak=torch.full((n,), leak),
                v_reset=torch.zeros(n),
            )
        )  # fmt: skip

    def iaf(n: int) -> Any:
        return norse.IAFCell(IAFParameters(v_th=torch.full((n,), 0.8), v_reset=torch.zeros(n)))

    def lif(d: Data, n: int) -> Any:
        return norse.LIFCell(
            LIFParameters(
                tau_syn_inv=d.tensor(100, 600, n), tau_mem_inv=d.tensor(100, 600, n), v_th=torch.full((n,), 0.6),
                v_leak=torch.zeros(n), v_reset=torch.zeros(n),
            )
        )  # fmt: skip

    def two(d: Data, leak: float = 0.0) -> list[Any]:
        return [d.fill(nn.Linear(6, 9), 2), lif_box(d, 9, leak), d.fill(nn.Linear(9, 5), 3), lif_box(d, 5, leak)]

    yield chain("lif-box", two, (6,))
    yield chain("lif-box-default-dt", two, (6,), dt=0.001)
    yield chain("lif-box-defaults", lambda d: [d.fill(nn.Linear(6, 9), 9), norse.LIFBoxCell()], (6,))
    yield chain("lif-box-v-leak", lambda d: two(d, 0.2), (6,))
    yield chain("iaf", lambda d: [d.fill(nn.Linear(6, 9)), iaf(9), d.fill(nn.Linear(9, 5), 2), iaf(5)], (6,))
    yield chain("lif", lambda d: [d.fill(nn.Linear(6, 9)), lif(d, 9), d.fill(nn.Linear(9, 5), 2), lif(d, 5)], (6,))
    yield chain("mixed", lambda d: [d.fill(nn.Linear(6, 9), 2), lif_box(d, 9), d.fill(nn.Linear(9, 5)), iaf(5)], (6,))
    yield chain(
        "li-box",
        lambda d: [
            d.fill(nn.Linear(6, 9), 2), lif_box(d, 9), d.fill(nn.Linear(9, 5)),
            norse.LIBoxCell(LIBoxParameters(tau_mem_inv=d.tensor(100, 600, 5), v_leak=torch.zeros(5))),
        ],
        (6,),
    )  # fmt: skip


def of_sinabs() -> Iterator[Network]:
    import sinabs.layers as sl
    import torch
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.nir import to_nir
    from torch import nn

    def chain(name: str, layers: Callable[[Data], list[Any]], shape: tuple[int, ...], **told: Any) -> Network:
        made = data(3)
        net, x = nn.Sequential(*layers(made)), made.spikes(*shape)
        y = net(torch.from_numpy(x)).numpy().reshape(STEPS, -1)
        graph = to_nir(net, torch.from_numpy(x))
        graph.infer_types()
        return name, graph, x, y.reshape(STEPS, *_output_shape(net, x)), told

    def _output_shape(net: Any, x: np.ndarray) -> tuple[int, ...]:
        return tuple(net(torch.from_numpy(x)).shape[1:])

    def iaf(**options: Any) -> Any:
        return sl.IAFSqueeze(batch_size=1, **options)

    def lif(d: Data, n: int, **options: Any) -> Any:
        return sl.LIFSqueeze(tau_mem=d.tensor(3, 20, n), spike_threshold=torch.ones(n), batch_size=1, **options)

    def fed(kind: Callable[[Data, int], Any], size: float) -> Callable[[Data], list[Any]]:
        return lambda d: [d.fill(nn.Linear(6, 9), size), kind(d, 9), d.fill(nn.Linear(9, 5), size), kind(d, 5)]

    yield chain("iaf", fed(lambda d, n: iaf(), 3), (6,))
    yield chain("iaf-single", fed(lambda d, n: iaf(spike_fn=SingleSpike), 2), (6,), spikes="binary")
    yield chain(
        "iaf-single-hard",
        fed(lambda d, n: iaf(spike_fn=SingleSpike, reset_fn=MembraneReset()), 2), (6,), spikes="binary", reset="hard",
    )  # fmt: skip
    yield chain("iaf-lowest", fed(lambda d, n: iaf(min_v_mem=-1.0), 3), (6,), lowest=-1.0)
    yield chain("lif", fed(lambda d, n: lif(d, n), 12), (6,))
    yield chain(
        "lif-not-normalised", fed(lambda d, n: lif(d, n, norm_input=False), 2), (6,), membrane="exponential-unit"
    )
    yield chain(
        "exp-leak",
        lambda d: [
            d.fill(nn.Linear(6, 9), 9), lif(d, 9), d.fill(nn.Linear(9, 5)),
            sl.ExpLeakSqueeze(tau_mem=d.tensor(3, 20, 5), batch_size=1),
        ],
        (6,),
    )  # fmt: skip
    yield chain(
        "convolution",
        lambda d: [
            d.fill(nn.Conv2d(2, 4, 3, stride=1, padding=1, bias=False), 2), iaf(), sl.SumPool2d(2),
            d.fill(nn.Conv2d(4, 4, 3, padding=1, bias=False)), iaf(), nn.Flatten(), d.fill(nn.Linear(64, 5)), iaf(),
        ],
        (2, 8, 8),
    )  # fmt: skip


def of_spikingjelly() -> Iterator[Network]:
    import torch
    from spikingjelly.activation_based import layer, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir
    from torch import nn

    def chain(
        name: str, layers: Callable[[Data], list[Any]], shape: tuple[int, ...], dt: float = 1e-4, **told: Any
    ) -> Network:
        made = data(4)
        net, x = nn.Sequential(*layers(made)), made.spikes(*shape)
        y = np.stack([net(torch.from_numpy(step)[None])[0].detach().numpy() for step in x])
        return name, export_to_nir(net, torch.zeros(1, *shape), dt=dt), x, y, told

    def fed(kind: Callable[[], Any], size: float = 2.0) -> Callable[[Data], list[Any]]:
        return lambda d: [d.fill(layer.Linear(6, 9), size), kind(), d.fill(layer.Linear(9, 5), size), kind()]

    yield chain("if", fed(neuron.IFNode), (6,))
    yield chain("if-dt-1e-3", fed(neuron.IFNode), (6,), dt=1e-3, time_step=1e-3)
    yield chain("if-v-reset", fed(lambda: neuron.IFNode(v_reset=-0.3)), (6,))
    yield chain("lif", fed(lambda: neuron.LIFNode(tau=3.0), 4), (6,))
    yield chain("lif-input-not-decayed", fed(lambda: neuron.LIFNode(tau=3.0, decay_input=False)), (6,))
    yield chain("lif-v-reset", fed(lambda: neuron.LIFNode(tau=3.0, v_reset=-0.3), 4), (6,))
    yield chain("plif", fed(lambda: neuron.ParametricLIFNode(init_tau=2.5), 4), (6,))
    yield chain("cuba-lif", fed(lambda: neuron.CUBALIFNode(c_decay=0.4, v_decay=0.7), 1), (6,))
    yield chain(
        "convolution",
        lambda d: [
            d.fill(layer.Conv2d(2, 4, 3, padding=1), 2), neuron.IFNode(), layer.AvgPool2d(2), layer.Flatten(),
            d.fill(layer.Linear(64, 5), 4), neuron.LIFNode(),
        ],
        (2, 8, 8),
    )  # fmt: skip


def of_rockpool() -> Iterator[Network]:
    import torch
    from rockpool.nn.combinators import Sequential
    from rockpool.nn.modules.torch import ExpSynTorch, LIFNeuronTorch, LIFTorch, LinearTorch
    from rockpool.nn.modules.torch.nir import to_nir

    def chain(name: str, layers: Callable[[Data], list[Any]], shape: tuple[int, ...], **told: Any) -> Network:
        made = data(7)
        net, x = Sequential(*layers(made)), made.spikes(*shape)
        y = net(torch.from_numpy(x)[None])[0][0].numpy()
        graph = to_nir(net, torch.from_numpy(x)[None])
        for node in graph.nodes.values():  # of an LI it hands on its own parameters, which nir cannot write
            vars(node).update({name: v.detach() for name, v in vars(node).items() if torch.is_tensor(v)})
        return name, graph, x, y, told

    def linear(d: Data, a: int, b: int, size: float) -> Any:
        return LinearTorch((a, b), weight=torch.from_numpy((d.rng.normal(0.1, size, (a, b)) / np.sqrt(a)).astype("f")))

    def lif(d: Data, n: int, dt: float = 1e-3, **options: Any) -> Any:
        return LIFNeuronTorch((n,), tau_mem=d.tensor(5e-3, 30e-3, n), dt=dt, **options)

    def cuba(d: Data, n: int, **options: Any) -> Any:
        taus = {"tau_mem": d.tensor(5e-3, 30e-3, n), "tau_syn": d.tensor(2e-3, 9e-3, n)}
        return LIFTorch((n, n), dt=1e-3, bias=torch.zeros(n), **taus, **options)

    def fed(kind: Callable[[Data, int], Any], size: float) -> Callable[[Data], list[Any]]:
        return lambda d: [linear(d, 6, 9, size), kind(d, 9), linear(d, 9, 5, size), kind(d, 5)]

    yield chain("lif-neuron", fed(lif, 2), (6,))
    yield chain("lif-neuron-dt", fed(lambda d, n: lif(d, n, dt=5e-4), 2), (6,), time_step=5e-4)
    yield chain("lif-neuron-single", fed(lambda d, n: lif(d, n, max_spikes_per_dt=1), 3), (6,), spikes="binary")
    yield chain("lif", fed(cuba, 1.5), (6,))
    yield chain(
        "exp-syn",
        lambda d: [linear(d, 6, 9, 2), lif(d, 9), linear(d, 9, 5, 1), ExpSynTorch((5,), d.tensor(5e-3, 2e-2, 5))],
        (6,),
    )


def of_spyx() -> Iterator[Network]:
    import jax.numpy as jnp
    from flax import nnx
    from spyx import nn as snn
    from spyx.nir import to_nir

    def chain(
        name: str, layers: Callable[[nnx.Rngs], list[Any]], shape: tuple[int, ...], out: tuple[int, ...]
    ) -> Network:
        made = data(6)
        net, x = snn.Sequential(*layers(nnx.Rngs(6))), made.spikes(*shape)
        for layer in net.layers:
            if isinstance(layer, (nnx.Linear, nnx.Conv)):
                layer.kernel[...] = layer.kernel[...] * 3 + 0.05
        y, _ = snn.run(net, jnp.asarray(x)[:, None])
        graph = to_nir(net, {"input": np.array(shape)}, {"output": np.array(out)})
        return name, graph, x, np.asarray(y)[:, 0], {}

    def fed(kind: Callable[..., Any]) -> Callable[[nnx.Rngs], list[Any]]:
        return lambda r: [nnx.Linear(6, 9, rngs=r), kind((9,), rngs=r), nnx.Linear(9, 5, rngs=r), kind((5,), rngs=r)]

    for name in ("IF", "LIF", "CuBaLIF", "RIF", "RLIF", "RCuBaLIF", "PSU_LIF"):
        yield chain(name.lower().replace("_", "-"), fed(getattr(snn, name)), (6,), (5,))


TOOLS: dict[str, Callable[[], Iterator[Network]]] = {
    "snntorch": of_snntorch,
    "norse": of_norse,
    "sinabs": of_sinabs,
    "spikingjelly": of_spikingjelly,
    "rockpool": of_rockpool,
    "spyx": of_spyx,
}


def networks(tool: str) -> list[Network]:
    """Those of one tool. Raises ImportError where it is not installed."""
    importlib.import_module(tool)
    if tool == "spyx":
        return list(TOOLS[tool]())
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        return list(TOOLS[tool]())


def _first(result: Any) -> Any:
    return result[0] if isinstance(result, tuple) else result


def main(folder: Path, tools: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    for tool in tools:
        try:
            for name, graph, x, y, told in networks(tool):
                path = folder / f"{tool}-{name}"
                nir.write(path.with_suffix(".nir"), graph, compression=None)
                np.savez_compressed(path.with_suffix(".npz"), x=x, y=y, told=json.dumps(told))
                print(f"{tool} {name}: {x.shape} -> {y.shape}, mean {y.mean():.3f}, largest {y.max():.3g}")
        except ImportError as error:
            print(f"{tool}: left out, not installed ({error})")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(TOOLS))
