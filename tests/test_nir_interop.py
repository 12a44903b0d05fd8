"""Files by norse and snnTorch, read here; files written here, run in norse and through nirtorch: same spikes."""

import dataclasses
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch

from neurotool.errors import ExportError, GraphError
from neurotool.export.nir import read_nir, write_for, write_nir
from neurotool.graph import CubaLIF, Graph, GraphBuilder, Input, Integrator, Linear, Neuron
from neurotool.simulate import simulate

# norse and snnTorch keep threads of their own tensors; their deprecation warnings are not ours.
pytestmark = pytest.mark.filterwarnings("ignore")
STEPS = 40


def inputs(width: int, seed: int = 0) -> np.ndarray:
    """Spike trains (steps, 1, width)."""
    return np.random.default_rng(seed).integers(0, 2, size=(STEPS, 1, width)).astype(np.float32)


def simulated(graph: Graph, x: np.ndarray) -> dict[str, np.ndarray]:
    """Spikes (steps, width) of every neuron layer."""
    (name,) = graph.of_type(Input)
    x = x if graph.has_tokens else x[:, 0]
    found = simulate(graph, values={name: x}).spikes
    return {layer: s[:, 0] for layer, s in found.items()} if graph.has_tokens else found


def busy(spikes: np.ndarray) -> bool:
    """Enough spikes, and enough silence, for a comparison to mean something."""
    return bool(0.05 < abs(spikes).mean() < 0.95)


@torch.no_grad()
def run_stateful(module: Any, x: np.ndarray) -> np.ndarray:
    """A norse network or nirtorch's module of a graph, stepped through x (steps, 1, width) -> (steps, width)."""
    state, steps = None, []
    for values in x:
        spikes, state = module(torch.from_numpy(values[0]), state)
        steps.append(spikes.numpy())
    return np.stack(steps)


def norse_net(*widths: int) -> Any:
    norse = pytest.importorskip("norse.torch")
    from norse.torch.functional.iaf import IAFParameters
    from norse.torch.functional.lif_box import LIFBoxParameters

    torch.manual_seed(3)
    a, b, c = widths
    lif = LIFBoxParameters(
        tau_mem_inv=torch.rand(b) * 0.5 + 0.3,
        v_leak=torch.zeros(b),
        v_th=torch.rand(b) * 0.2 + 0.1,
        v_reset=torch.zeros(b),
    )
    integrate = IAFParameters(v_th=torch.rand(c) + 0.3, v_reset=torch.zeros(c))
    return norse.SequentialState(
        torch.nn.Linear(a, b), norse.LIFBoxCell(lif, dt=1.0), torch.nn.Linear(b, c), norse.IAFCell(integrate)
    )


def test_one_number_for_all_neurons_is_read(tmp_path: Path) -> None:
    """norse's defaults, which stock nir.read refuses: docs/nir.md."""
    norse = pytest.importorskip("norse.torch")
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 9)
    torch.nn.init.normal_(linear.weight, 1.0, 2.0)
    net, x = norse.SequentialState(linear, norse.LIFBoxCell(dt=1e-3)), inputs(6)
    content = norse.to_nir(net, torch.zeros(6), dt=1.0)
    assert content.nodes["1"].v_threshold.shape == ()
    nir.write(tmp_path / "norse.nir", content, compression=None)
    graph = read_nir(tmp_path / "norse.nir", reset="hard", time_step=1e-3, time_steps=STEPS)
    spikes = simulated(graph, x)["1"]
    assert np.array_equal(spikes, run_stateful(net, x)) and busy(spikes)


def test_a_file_by_norse_spikes_as_in_norse(tmp_path: Path) -> None:
    net, x = norse_net(6, 9, 5), inputs(6)
    from norse.torch import to_nir

    nir.write(tmp_path / "norse.nir", to_nir(net, torch.zeros(6), dt=1.0))
    graph = read_nir(tmp_path / "norse.nir", reset="hard", time_step=1.0, time_steps=STEPS)
    spikes = simulated(graph, x)
    assert np.array_equal(spikes["3"], run_stateful(net, x))
    assert busy(spikes["1"])
    assert busy(spikes["3"])
    wrong = read_nir(tmp_path / "norse.nir", reset="soft", time_step=1.0, time_steps=STEPS)
    assert not np.array_equal(simulated(wrong, x)["3"], spikes["3"])


@pytest.mark.parametrize(("mechanism", "reset"), [("subtract", "soft"), ("zero", "hard")])
def test_a_file_by_snntorch_spikes_as_in_snntorch(mechanism: str, reset: Any, tmp_path: Path) -> None:
    snn = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(1)
    options = {"init_hidden": True, "reset_mechanism": mechanism, "reset_delay": False}
    leaky = snn.Leaky(beta=torch.rand(9) * 0.5 + 0.4, threshold=torch.full((9,), 1.0), **options)
    # alpha 0: the synaptic current lasts one step, the only CubaLIF that a graph can express exactly
    cuba = snn.Synaptic(alpha=torch.zeros(5), beta=torch.full((5,), 0.8), threshold=torch.full((5,), 0.7), **options)
    net = torch.nn.Sequential(torch.nn.Linear(6, 9), leaky, torch.nn.Linear(9, 5, bias=False), cuba)
    x = inputs(6)
    with torch.no_grad():
        expected = [net(torch.from_numpy(step))[0].numpy() for step in x]
        exported = export_to_nir(net, torch.zeros(6))
    nir.write(tmp_path / "snntorch.nir", exported)
    graph = read_nir(tmp_path / "snntorch.nir", reset=reset, time_step=1e-4, time_steps=STEPS)
    spikes = simulated(graph, x)
    assert np.array_equal(spikes[graph.of_type(Neuron)[-1]], expected)
    assert all(busy(layer) for layer in spikes.values())
    with pytest.raises(GraphError, match=r"does not say how neurons reset"):
        read_nir(tmp_path / "snntorch.nir", time_step=1e-4, time_steps=STEPS)
    with pytest.raises(GraphError, match=r"give --time-step DT"):
        read_nir(tmp_path / "snntorch.nir", reset=reset, time_steps=STEPS)


def test_a_recurrent_network_by_snntorch(tmp_path: Path) -> None:
    snn = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    torch.manual_seed(2)
    recurrent = snn.RLeaky(
        beta=torch.full((7,), 0.7), linear_features=7, threshold=torch.full((7,), 1.0), init_hidden=True,
        reset_mechanism="subtract", reset_delay=False, output=True,
    )  # fmt: skip
    net = torch.nn.Sequential(torch.nn.Linear(6, 7), recurrent)
    x = inputs(6)
    with torch.no_grad():
        expected = [net(torch.from_numpy(step))[0][0].numpy() for step in x]
        nir.write(tmp_path / "rnn.nir", export_to_nir(net, torch.zeros(6)))
    graph = read_nir(tmp_path / "rnn.nir", reset="soft", time_step=1e-4, time_steps=STEPS)
    assert graph.feedback
    (spikes,) = simulated(graph, x).values()
    assert np.array_equal(spikes, expected)
    assert busy(spikes)


def two_layers(reset: Any, leak: Any, seed: int = 9) -> Graph:
    rng = np.random.default_rng(seed)
    build = GraphBuilder()
    x = build.add("in", Input(6, spiking=True))
    x = build.add("first.linear", Linear(rng.normal(size=(9, 6)).astype(np.float32), np.full(9, 0.1, np.float32)), x)
    x = build.add("first", Neuron(rng.uniform(0.5, 1.5, 9).astype(np.float32), 1.0, reset), x)
    x = build.add("second.linear", Linear(rng.normal(size=(5, 9)).astype(np.float32)), x)
    build.add("second", Neuron(0.7, leak, reset), x)
    return build.build(time_steps=STEPS, schedule="concurrent")


def test_a_file_by_us_runs_in_norse(tmp_path: Path) -> None:
    """With norse's own import, which knows IF with hard reset; it ignores `r` and soft reset."""
    norse = pytest.importorskip("norse.torch")
    graph, x = two_layers("hard", 1.0), inputs(6)
    write_nir(graph, tmp_path / "ours.nir")
    content = nir.read(tmp_path / "ours.nir")
    segment = nir.NIRGraph.from_list(content.nodes["first.linear"], content.nodes["first"])
    spikes = run_stateful(norse.from_nir(segment, dt=1.0), x)
    assert np.array_equal(spikes, simulated(graph, x)["first"])
    assert busy(spikes)


class LeakyLayer(torch.nn.Module):
    """What our IF and LIF nodes mean, for nirtorch: one Euler step of dt, then the reset that the metadata name."""

    def __init__(self, node: Any, dt: float) -> None:
        super().__init__()
        self.share = torch.from_numpy(dt / node.tau) if isinstance(node, nir.LIF) else torch.zeros(1)
        self.gain = torch.from_numpy(node.r * (dt / node.tau if isinstance(node, nir.LIF) else dt))
        self.v_threshold = torch.from_numpy(node.v_threshold)
        self.soft = node.metadata["reset"] == "soft"

    def forward(self, x: torch.Tensor, state: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        v = (1 - self.share) * (0 if state is None else state) + self.gain * x
        spikes = (v >= self.v_threshold).to(v.dtype)
        return spikes, v - spikes * (self.v_threshold if self.soft else v)


def affine(node: nir.Affine) -> torch.nn.Linear:
    """nirtorch's default map sets `weight.bias` and leaves a random bias: this one sets the bias."""
    module = torch.nn.Linear(node.weight.shape[1], node.weight.shape[0]).double()
    module.weight.data, module.bias.data = (torch.from_numpy(a).double() for a in (node.weight, node.bias))
    return module


def linear(node: nir.Linear) -> torch.nn.Linear:
    module = torch.nn.Linear(node.weight.shape[1], node.weight.shape[0], bias=False).double()
    module.weight.data = torch.from_numpy(node.weight).double()
    return module


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("leak", [1.0, 0.85, np.array([0.3, 0.9, 0.0, 1.0, 0.5])], ids=["IF", "LIF", "per neuron"])
def test_a_whole_file_by_us_runs_through_nirtorch(reset: str, leak: Any, tmp_path: Path) -> None:
    nirtorch = pytest.importorskip("nirtorch")
    graph, x = two_layers(reset, leak), inputs(6).astype(np.float64)
    write_nir(graph, tmp_path / "ours.nir")
    content = nir.read(tmp_path / "ours.nir")
    dt = float(content.metadata["dt"])
    neurons = {kind: lambda node: LeakyLayer(node, dt) for kind in (nir.IF, nir.LIF)}
    module = nirtorch.nir_to_torch(content, neurons | {nir.Affine: affine, nir.Linear: linear}, dtype=torch.float64)
    spikes = run_stateful(module, x)
    expected = simulated(graph, x)
    assert np.array_equal(spikes, expected["second"])
    assert all(busy(layer) for layer in expected.values())


# Files for one tool, run there


def network_for_tools(kind: str, steps: int = STEPS) -> Graph:
    rng = np.random.default_rng(0)

    def neurons(n: int) -> Neuron:
        if kind == "cuba":
            return CubaLIF(1.3, 0.8, "hard", current_leak=0.6)
        return Neuron(1.3, 1.0 if kind == "if" else 0.8, "hard")

    build = GraphBuilder()
    first = build.add("l.0", Linear(rng.normal(0.1, 0.8, (9, 6)).astype("f")), build.add("x", Input((6,))))
    weight, bias = rng.normal(0.1, 0.8, (5, 9)), rng.normal(0, 0.1, 5)
    second = build.add("l.1", Linear(weight.astype("f"), bias.astype("f")), build.add("n.0", neurons(9), first))
    build.add("n.1", neurons(5), second)
    return build.build(time_steps=steps, schedule="concurrent")


@pytest.mark.parametrize("kind", ["if", "lif", "cuba"])
@pytest.mark.parametrize("tool", ["snntorch", "norse"])
def test_files_for_a_tool_spike_there_as_here(tool: str, kind: str, tmp_path: Path) -> None:
    pytest.importorskip(tool)
    graph, x = network_for_tools(kind), inputs(6)[:, 0]
    told = write_for(graph, tmp_path / "for.nir", tool)
    assert any(text.startswith("dt is") for text in told)
    content = nir.read(tmp_path / "for.nir")
    if tool == "norse":
        import norse.torch as norse

        module = norse.from_nir(content)
    else:
        from snntorch.import_nir import import_from_nir

        module = import_from_nir(content)
    spikes, state = [], None
    with torch.no_grad():
        for step in torch.from_numpy(x):
            out, state = module(step[None]) if state is None else module(step[None], state)
            spikes.append(out[0].numpy())
    expected = simulate(graph, values={"x": x}).spikes["n.1"]
    assert np.array_equal(spikes, expected) and busy(expected)
    # And our own reading of it, which needs no option: the file names the tool.
    read = read_nir(tmp_path / "for.nir", reset="hard")
    assert np.array_equal(simulate(read, values={"x": x}).spikes["n_1"], expected)


def test_what_is_set_after_the_import_is_said(tmp_path: Path) -> None:
    def told(tool: str, node: Neuron) -> list[str]:
        graph = network_for_tools("lif")
        nodes = graph.nodes | {"n.0": node, "n.1": node}
        return write_for(dataclasses.replace(graph, nodes=nodes), tmp_path / "a.nir", tool, force=True)

    late = told("snntorch", Neuron(1.3, 0.8, "soft-late"))
    assert (
        'n.1 has reset soft-late; the import of snntorch makes that hard: set reset_mechanism = "subtract"' in late[2]
    )
    assert not any("set" in text for text in told("sinabs", Neuron(1.3, 0.8, "soft", "several")))
    said = " ".join(told("sinabs", Neuron(1.3, 1.0, "soft")))
    assert "spikes binary; the import of sinabs makes that several: set spike_fn = SingleSpike" in said
    assert "n.0 has v_min None; the import makes that -1.3: set min_v_mem = None" in said
    said = " ".join(told("norse", CubaLIF(1.3, 0.8, "soft", current_leak=0.5)))
    assert "reset_method=reset_subtract" in said


LAYERS = np.arange(1.0, 6.0)
REFUSED = [
    ("norse", Neuron(1.3, 0.8, "soft"), "node n.1: reset is soft, and the tool's import makes hard"),
    ("norse", Neuron(1.3, 1.0, "hard", v_reset=-0.2), "its import takes no v_reset, and here it is 0.2"),
    ("norse", Neuron(1.3, 0.8, "hard", v_min=-1.0), "potentials have a lower limit (v_min), and the tool's have none"),
    ("norse", Neuron(1.3, np.array([0.8, 1, 1, 1, 1]), "hard"), "neurons without leak beside others"),
    ("norse", Neuron(1.3, 0.8, "hard", bias=0.1), "its potentials start at 0 thresholds (v_init), the tool's at 0.38"),
    ("snntorch", Neuron(1.3, 0.8, "hard", bias=0.1), "its import takes no bias of neurons"),
    ("snntorch", Neuron(1.3, 0.8, "soft"), "reset is soft, and the tool's import makes hard or soft-late or soft-once"),
    ("snntorch", Neuron(1.3, 0.8, "hard", v_init=0.5), "start at 0.5 thresholds (v_init), the tool's at 0"),
    ("sinabs", CubaLIF(1.3, 0.8, "hard-late", current_leak=0.5), "hard-late, and the tool's import makes soft"),
    ("sinabs", Integrator(0.5, current_leak=0.2), "its import takes an LI that leaks, without current"),
    ("spikingjelly", Neuron(1.3, LAYERS / 6, "hard"), "its import takes one tau for a layer"),
    ("spikingjelly", Neuron(1.3, 0.0, "hard"), "its leak is 0"),
    ("spikingjelly", Neuron(1.3, 0.8, "hard", v_reset=0.1), "takes a v_reset of leaky neurons for their rest"),
    ("rockpool", Neuron(1.3, 0.8, "soft", "several"), "its import reads no LIF and no IF, only CubaLIF"),
    ("rockpool", CubaLIF(1.3, 0.8, "hard", current_leak=0.5), "reset is hard, and the tool's import makes soft"),
    ("rockpool", CubaLIF(1.3, 0.8, "soft", "several"), "it has neurons without a synaptic current"),
    ("spyx", Neuron(1.3, 0.8, "hard"), "reset is hard, and the tool's import makes soft-late"),
    ("spyx", Neuron(1.3, 0.8, "soft-late"), "node l.1: a bias behind neurons, which send one step late there"),
]  # fmt: skip


FITTING = {
    "sinabs": Neuron(1.0, 0.8, "soft", "several"),
    "rockpool": CubaLIF(1.0, 0.8, "soft", "several", current_leak=0.5),
    "spyx": Neuron(1.0, 0.8, "soft-late"),
}


@pytest.mark.parametrize(("tool", "node", "message"), REFUSED, ids=[f"{tool}: {why[:30]}" for tool, _, why in REFUSED])
def test_what_a_tool_cannot_be_given(tool: str, node: Any, message: str, tmp_path: Path) -> None:
    graph = network_for_tools("lif")
    nodes = graph.nodes | {"n.0": FITTING.get(tool, Neuron(1.3, 0.8, "hard")), "n.1": node}
    if tool == "spyx" and "bias" not in message:
        nodes["l.1"] = Linear(np.ones((5, 9)))
    with pytest.raises(ExportError) as refused:
        write_for(dataclasses.replace(graph, nodes=nodes), tmp_path / "b.nir", tool)
    assert message in str(refused.value) and str(refused.value).startswith(f"--for {tool}: node ")
    assert len(str(refused.value)) <= 300 and "\n" not in str(refused.value)
    assert not (tmp_path / "b.nir").exists()


@pytest.mark.parametrize(
    ("tool", "message"),
    [
        ("lava-dl", "--for lava-dl: it has no import of .nir files; --target netx writes what its netx reads"),
        ("nengo", "--for nengo: it has no import of .nir files"),
        ("nir", "--for nir: it is no tool: leave out --for"),
    ],
)
def test_tools_without_an_import(tool: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        write_for(network_for_tools("lif"), tmp_path / "b.nir", tool)
    phased = dataclasses.replace(network_for_tools("if"), schedule="phased")
    with pytest.raises(ExportError, match="--for norse: the network runs in the phased schedule"):
        write_for(phased, tmp_path / "b.nir", "norse")


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["this", "nirtools"])
def test_files_for_every_tool_spike_there_as_here(environment: str, repository: Path, tmp_path: Path) -> None:
    """benchmarks/nir_for.py and nir_opened.py, whose outcomes docs/nir.md shows: nothing differs, nothing fails."""
    python, tools = Path(sys.executable), ["norse", "snntorch"]
    if environment == "nirtools":
        python = Path(os.environ.get("NEUROTOOL_NIRTOOLS", repository / "build" / "nirtools")) / "bin" / "python"
        tools = ["sinabs", "spikingjelly", "rockpool", "spyx"]
        if not python.exists():
            pytest.skip(f"no {python}: make nir-tools installs it, or NEUROTOOL_NIRTOOLS names another environment")
    scripts = repository / "benchmarks"
    for command in ([sys.executable, scripts / "nir_for.py"], [python, scripts / "nir_opened.py"]):
        subprocess.run([*command, tmp_path, *tools], check=True, capture_output=True)
    outcomes = runpy.run_path(str(scripts / "nir_table.py"))["outcome_there"]
    found = [outcomes(path) for path in sorted(tmp_path.glob("*.npz"))]
    assert {one.tool for one in found if one.verdict == "right"} == set(tools)
    assert [one for one in found if one.verdict not in ("right", "refused")] == []


@pytest.mark.parametrize(("mechanism", "reset"), [("subtract", "soft-late"), ("zero", "hard-late")])
@pytest.mark.parametrize("file", ["braille_noDelay_bias_zero-5e2efd", "braille_zero-11a0ee", "braille-111b0a"])
def test_the_nir_papers_braille_readers_spike_as_in_snntorch(
    shared: Path, file: str, mechanism: str, reset: Any
) -> None:
    """RSynaptic, which resets late whatever reset_delay is, and Synaptic."""
    snntorch = pytest.importorskip("snntorch")
    path = shared / "nir" / "files" / f"neuromorphs--paper--03_rnn--{file}.nir"
    graph, nodes = read_nir(path, tool="snntorch", reset=reset, time_steps=200), nir.read(path).nodes

    def linear(node: Any) -> Any:
        made = torch.nn.Linear(*reversed(node.weight.shape))
        made.weight.data, made.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
        return made

    def neurons(kind: Any, node: Any, **options: Any) -> Any:
        alpha, beta = (float(1 - 1e-4 / tau.flat[0]) for tau in (node.tau_syn, node.tau_mem))
        gain = float((node.w_in * 1e-4 / node.tau_syn).flat[0])
        return kind(alpha=alpha, beta=beta, threshold=1 / gain, reset_mechanism=mechanism, **options)

    hidden = len(nodes["fc1"].weight)
    first = neurons(snntorch.RSynaptic, nodes["lif1.lif"], linear_features=hidden, reset_delay=False)
    second = neurons(snntorch.Synaptic, nodes["lif2"])
    first.recurrent = linear(nodes["lif1.w_rec"])
    fc1, fc2 = linear(nodes["fc1"]), linear(nodes["fc2"])
    state, state2 = (torch.zeros(1, hidden),) * 3, (torch.zeros(1, 7),) * 2
    x = (np.random.default_rng(0).random((200, 12)) < 0.6).astype(np.float32)
    expected: dict[str, list[np.ndarray]] = {"lif1.lif": [], "lif2": []}
    with torch.no_grad():
        for step in torch.from_numpy(x):
            state = first(fc1(step[None]), *state)
            spikes, *rest = second(fc2(state[0]), *state2)
            state2 = tuple(rest)  # type: ignore[assignment]
            expected["lif1.lif"].append(state[0][0].numpy())
            expected["lif2"].append(spikes[0].numpy())
    found = simulate(graph, values={"input": x}).spikes
    for name, spikes in expected.items():
        assert np.array_equal(found[name], spikes) and np.sum(spikes) > 9, name
