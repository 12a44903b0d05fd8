"""The NIR paper's neuron and its reader of Braille letters, from input to output: interpreter, emulator, integers,
Lava; spikes as in norse and snnTorch. Networks of the same form stand in where the paper's files are not at hand."""

from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from neurotool.export.lower import lower
from neurotool.export.nir import read_nir
from neurotool.graph import Graph, Input
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.run import run_on_lava
from neurotool.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore")
DT, STEPS = 1e-4, 60
PAPER = {
    "neuron": "jeshraghian--tests--lif-ce5f8e",
    "reader": "neuromorphs--paper--03_rnn--braille_noDelay_bias_zero-5e2efd",
    "reader with delay": "neuromorphs--paper--03_rnn--braille_zero-11a0ee",
}


def neuron() -> nir.NIRGraph:
    """tau 2.5 ms, threshold 0.1."""
    one = np.ones(1, np.float32)
    lif = nir.LIF(tau=0.0025 * one, r=one, v_leak=0 * one, v_threshold=0.1 * one)
    return nir.NIRGraph.from_list(nir.Affine(np.ones((1, 1), np.float32), 0 * one), lif)


def reader() -> nir.NIRGraph:
    """12 - 20 recurrent - 7 CubaLIF, as snnTorch's RSynaptic and Synaptic."""
    rng = np.random.default_rng(3)

    def affine(inputs: int, outputs: int, size: float) -> nir.Affine:
        weight = rng.normal(0.02, size, (outputs, inputs)).astype(np.float32)
        return nir.Affine(weight, rng.normal(0, 0.05, outputs).astype(np.float32))

    def neurons(n: int, alpha: float, beta: float) -> nir.CubaLIF:
        tau_syn, tau_mem = (np.full(n, DT / (1 - decay)) for decay in (alpha, beta))
        ones = np.ones(n)
        return nir.CubaLIF(tau_syn, tau_mem, tau_mem / DT, 0 * ones, ones, w_in=tau_syn / DT)

    nodes = {
        "input": nir.Input(np.array([12])),
        "fc1": affine(12, 20, 0.25),
        "lif1.lif": neurons(20, 0.55, 0.8),
        "lif1.w_rec": affine(20, 20, 0.3),
        "fc2": affine(20, 7, 0.3),
        "lif2": neurons(7, 0.5, 0.6),
        "output": nir.Output(np.array([7])),
    }
    edges = [
        ("input", "fc1"), ("fc1", "lif1.lif"), ("lif1.lif", "lif1.w_rec"), ("lif1.w_rec", "lif1.lif"),
        ("lif1.lif", "fc2"), ("fc2", "lif2"), ("lif2", "output"),
    ]  # fmt: skip
    return nir.NIRGraph(nodes, edges)


@pytest.fixture(params=[*PAPER, "our neuron", "our reader"])
def network(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    """File, and inputs (inputs, T, …)."""
    kind = request.param
    if kind.startswith("our"):
        path = tmp_path / "own.nir"
        nir.write(path, neuron() if kind == "our neuron" else reader())
    else:
        shared = request.getfixturevalue("shared")
        path = shared / "nir" / "files" / f"{PAPER[kind]}.nir"
        if not path.exists():
            pytest.skip(f"no {path}")
    rng = np.random.default_rng(0)
    if kind == "neuron":
        recorded = np.loadtxt(shared / "nir" / "traces" / "lif_norse.csv", delimiter=",")
        return path, recorded[None, :, :1].astype(np.float32)
    shape, rate = ((2, 400, 1), 0.3) if kind == "our neuron" else ((2, STEPS, 12), 0.6)
    return path, (rng.random(shape) < rate).astype(np.float32)


def simulated(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    (name,) = graph.of_type(Input)
    runs = [simulate(graph, values={name: one}).spikes for one in x]
    return {layer: np.stack([run[layer] for run in runs]) for layer in runs[0]}


def as_norse(path: Path, steps: int) -> Graph:
    return read_nir(path, tool="norse", time_step=DT, time_steps=steps)


def test_spikes_are_those_of_norse(network: tuple[Path, np.ndarray]) -> None:
    """By its own import, with the dt of the file."""
    norse = pytest.importorskip("norse.torch")
    path, x = network
    module, state, sent = norse.from_nir(nir.read(path), dt=DT), None, []
    with torch.no_grad():
        for step in torch.from_numpy(x).unbind(1):
            out, state = module(step, state)
            sent.append(out.numpy())
    found = list(simulated(as_norse(path, x.shape[1]), x).values())[-1]
    assert np.array_equal(found, np.stack(sent, 1)) and found.sum() >= 4


@pytest.mark.parametrize("reset", ["hard", "soft-late", "hard-late"])
def test_every_executor_sends_the_same(network: tuple[Path, np.ndarray], reset: Any) -> None:
    """As snnTorch's Leaky, Synaptic and RSynaptic reset; integers have a form for hard resets."""
    path, x = network
    graph = read_nir(path, tool="snntorch", reset=reset, time_steps=x.shape[1])
    (name,) = graph.of_type(Input)
    expected = simulated(graph, x)
    assert all(spikes.sum() >= 4 for spikes in expected.values())
    emulated = Emulator(graph).run(values={name: x}, record=True, observe=True)
    for layer, spikes in expected.items():
        np.testing.assert_array_equal(emulated.spikes[layer], spikes)
    graphs = [(graph, emulated)]
    if reset == "hard":
        fixed = lower(graph, emulated.largest)
        whole = Emulator(fixed).run(values={name: x}, record=True)
        graphs.append((fixed, whole))
        for layer, spikes in expected.items():
            assert abs(whole.spikes[layer].mean() - spikes.mean()) < 0.1 * spikes.mean() + 0.002
    if problem := compatibility.installation_problem():
        pytest.skip(problem)
    for one, run in graphs:
        lava = run_on_lava(one, values={name: x}, record=tuple(one.nodes), timeout=200)
        for layer in expected:
            np.testing.assert_array_equal(lava.spikes[layer], run.spikes[layer])


@pytest.mark.parametrize(("mechanism", "reset"), [("subtract", "soft-late"), ("zero", "hard-late")])
def test_a_reader_of_the_same_form_spikes_as_in_snntorch(mechanism: str, reset: Any, tmp_path: Path) -> None:
    """Exported by snnTorch itself; test_nir_interop.py has the paper's."""
    snntorch = pytest.importorskip("snntorch")
    from snntorch import utils
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(0)
    options = {"reset_mechanism": mechanism, "init_hidden": True}
    hidden = snntorch.RSynaptic(alpha=0.55, beta=0.8, linear_features=20, **options)
    net = torch.nn.Sequential(
        torch.nn.Linear(12, 20),
        hidden,
        torch.nn.Linear(20, 7),
        snntorch.Synaptic(alpha=torch.full((7,), 0.5), beta=torch.full((7,), 0.6), threshold=torch.ones(7), **options),
    )
    x = (np.random.default_rng(0).random((2, STEPS, 12)) < 0.6).astype(np.float32)
    with torch.no_grad():
        for weights in (net[0].weight, net[2].weight):
            weights *= 3
        nir.write(tmp_path / "reader.nir", export_to_nir(net, torch.zeros(12)), compression=None)
        utils.reset(net)
        sent = np.stack([_spikes(net(step)) for step in torch.from_numpy(x).unbind(1)], 1)
    graph = read_nir(tmp_path / "reader.nir", tool="snntorch", reset=reset, time_steps=STEPS)
    found = list(simulated(graph, x).values())[-1]
    assert np.array_equal(found, sent) and found.sum() > 50


def _spikes(out: Any) -> np.ndarray:
    spikes: np.ndarray = (out[0] if isinstance(out, tuple) else out).numpy()
    return spikes
