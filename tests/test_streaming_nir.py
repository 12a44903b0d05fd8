"""Streaming networks elsewhere: their files in norse, snnTorch and nirtorch, whole sentences, every layer and step."""

import os
import subprocess
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from streaming_graphs import INPUT, READOUT, streaming_graph, token_currents
from test_streaming import make, texts

from neurotool.errors import ExportError
from neurotool.executor import Simulation
from neurotool.export.chains import as_chain, walked_in_order
from neurotool.export.nir import write_for, write_nir
from neurotool.export.to_nir import to_nir
from neurotool.graph import Add, Graph, Neuron
from neurotool.simulate import simulate

pytestmark = pytest.mark.filterwarnings("ignore")
"""The tools' deprecation warnings are not ours."""


TAPS = "student with taps"
KINDS = ("residual as an edge", "one threshold and decay for a layer", "residual with weights", "student")


def network(kind: str) -> tuple[Graph, np.ndarray]:
    """A network and the currents of a sentence, (steps, width)."""
    if kind.startswith("student"):
        student = make(taps=2 if kind == TAPS else 0)
        graph, values = student.to_graph(), texts(student)[0]["values"][INPUT]
        return graph, np.pad(values, [(0, graph.time_steps - len(values)), (0, 0)])
    graph = streaming_graph(each=kind != KINDS[1], weighted=kind == KINDS[2])
    return graph, token_currents(graph)[INPUT][0]


def expected(graph: Graph, currents: np.ndarray) -> Simulation:
    found = simulate(graph, values={INPUT: currents})
    for name, spikes in found.spikes.items():
        assert 0.02 < spikes.mean() < 0.98, name
    return found


@torch.no_grad()
def stepped(module: Any, currents: np.ndarray, layers: list[str]) -> tuple[dict[str, np.ndarray], list[Any]]:
    """What each layer of a tool's module sends in every step, (steps, width), and the module's states after each."""
    sent: dict[str, list[np.ndarray]] = {name: [] for name in layers}

    def keep(name: str) -> Any:
        def hook(layer: Any, given: Any, result: Any) -> None:
            spikes = result[0] if isinstance(result, tuple) else result
            sent[name].append(spikes.reshape(-1).numpy())

        return hook

    for name in layers:
        getattr(module, name.replace(".", "_")).register_forward_hook(keep(name))
    state, states = None, []
    for step in torch.from_numpy(currents):
        _, state = module(step[None]) if state is None else module(step[None], state)
        states.append(state)
    return {name: np.stack(steps) for name, steps in sent.items()}, states


def loaded(tool: str, path: Path) -> Any:
    """By the tool's own import."""
    content = nir.read(path)
    if tool == "norse":
        import norse.torch as norse

        return norse.from_nir(content)
    from snntorch.import_nir import import_from_nir

    return import_from_nir(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tool", ["norse", "snntorch"])
def test_a_whole_sentence_spikes_there_as_here(tool: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip(tool)
    graph, currents = network(kind)
    here = expected(graph, currents)
    told = write_for(graph, tmp_path / "for.nir", tool)
    assert f"{READOUT} never fires: its potential is the value of the integrator" in told
    module, layers = loaded(tool, tmp_path / "for.nir"), graph.of_type(Neuron)
    there, states = stepped(module, currents, layers)
    for name in layers:
        width = here.spikes[name].shape[1]  # behind them, where a tool runs chains alone, relays of the residual
        assert np.array_equal(there[name][:, :width], here.spikes[name]), name
    state = states[-1].state[READOUT][0][1].v if tool == "norse" else getattr(module, READOUT).mem
    np.testing.assert_allclose(state.reshape(-1).numpy(), here.analog[READOUT][-1], rtol=1e-4)


def affine(node: nir.Affine) -> torch.nn.Linear:
    """nirtorch's default map leaves a random bias."""
    module = torch.nn.Linear(*node.weight.shape[::-1])
    module.weight.data, module.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    return module


class Stepped(torch.nn.Module):
    """What a NIR node says, for nirtorch: Euler steps of dt, firing above the threshold, back to v_reset."""

    def __init__(self, node: Any, dt: float) -> None:
        super().__init__()
        self.node, self.dt = node, dt

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        node, (i, v) = self.node, state or (0.0, 0.0)
        if isinstance(node, nir.CubaLIF):
            i = i + torch.from_numpy(self.dt / node.tau_syn) * (torch.from_numpy(node.w_in) * x - i)
            x, tau = i, node.tau_mem
        else:
            tau = node.tau
        v = v + torch.from_numpy(self.dt / tau) * (torch.from_numpy(node.v_leak) - v + torch.from_numpy(node.r) * x)
        if isinstance(node, nir.LI):
            return v, (i, v)
        spikes = v > torch.from_numpy(node.v_threshold)
        return spikes.to(x.dtype), (i, torch.where(spikes, torch.from_numpy(node.v_reset), v))


class Delayed(torch.nn.Module):
    """NIR's Delay, for nirtorch: what arrived so many steps before, at first nothing."""

    def __init__(self, node: nir.Delay) -> None:
        super().__init__()
        (self.steps,) = {int(steps) for steps in node.delay}

    def forward(self, x: torch.Tensor, state: Any = None) -> tuple[torch.Tensor, Any]:
        waiting = [*(state or [torch.zeros_like(x)] * self.steps), x]
        return waiting[0], waiting[1:]


@pytest.mark.parametrize("tool", ["norse", "snntorch", "sinabs"])
def test_taps_are_refused_where_no_import_knows_a_delay(tool: str, tmp_path: Path) -> None:
    graph, _ = network(TAPS)
    with pytest.raises(ExportError, match=f"--for {tool}: node encoder.0.mixing.delay1: .*Delay"):
        write_for(graph, tmp_path / "for.nir", tool)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [*KINDS, TAPS])
def test_the_standard_nodes_alone_spike_as_here_through_nirtorch(kind: str, tmp_path: Path) -> None:
    """No metadata are read: dt is 1, and the rest is NIR's own text."""
    nirtorch = pytest.importorskip("nirtorch")
    graph, currents = network(kind)
    currents = currents.astype(np.float64)
    here = expected(graph, currents)
    write_nir(graph, tmp_path / "ours.nir")
    content = nir.read(tmp_path / "ours.nir")
    kinds: dict[Any, Any] = {kind: lambda node: Stepped(node, 1.0) for kind in (nir.LIF, nir.CubaLIF, nir.LI)}
    kinds |= {nir.Affine: affine, nir.Delay: Delayed}
    module, layers = nirtorch.nir_to_torch(content, kinds, dtype=torch.float64), graph.of_type(Neuron)
    there, _ = stepped(module, currents, [*layers, READOUT])
    for name in layers:
        assert np.array_equal(there[name], here.spikes[name]), name
    np.testing.assert_allclose(there[READOUT], here.analog[READOUT], rtol=1e-9)


def test_a_chain_sends_what_the_network_with_residuals_sends() -> None:
    graph = streaming_graph(weighted=True)
    assert not walked_in_order(to_nir(graph).edges, INPUT) and walked_in_order(to_nir(streaming_graph()).edges, INPUT)
    chain, currents = as_chain(graph), token_currents(graph)[INPUT][0]
    assert walked_in_order(to_nir(chain).edges, INPUT) and not chain.of_type(Add)
    here, there = expected(graph, currents), simulate(chain, values={INPUT: currents})
    for name, spikes in here.spikes.items():
        assert np.array_equal(there.spikes[name][:, : spikes.shape[1]], spikes), name
    assert np.array_equal(there.spikes["encoder.0.mix"][:, 12:], here.spikes["embedded"])
    np.testing.assert_allclose(there.analog[READOUT], here.analog[READOUT], rtol=1e-12)


@pytest.mark.parametrize("kind", [KINDS[0], *KINDS[2:]])
def test_a_whole_sentence_in_sinabs(kind: str, repository: Path, tmp_path: Path) -> None:
    """A whole sentence at once, as sinabs runs; its LIF has to be told to reset hard and to send one spike."""
    tools = os.environ.get("NEUROTOOL_NIRTOOLS", repository / "build" / "nirtools")
    python = Path(tools) / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python}: make nir-tools installs it, or NEUROTOOL_NIRTOOLS names another environment")
    graph, currents = network(kind)
    here = expected(graph, currents)
    told = write_for(graph, tmp_path / "for.nir", "sinabs")
    assert any("encoder.0.mix" in text and "has reset hard" in text and "MembraneReset" in text for text in told)
    np.save(tmp_path / "x.npy", currents)
    script = Path(__file__).parent / "streaming_in_sinabs.py"
    command = [python, script, tmp_path / "for.nir", tmp_path / "x.npy", tmp_path / "out.npz"]
    subprocess.run(command, check=True, capture_output=True)
    there = np.load(tmp_path / "out.npz")
    for name, spikes in here.spikes.items():
        found = there[name.replace(".", "_")]
        assert np.array_equal(found[:, : spikes.shape[1]], spikes), name
    np.testing.assert_allclose(there[READOUT], here.analog[READOUT], rtol=1e-4, atol=1e-5)
