"""What netx loads sends the spikes of the emulator, one step later for each layer; what it cannot hold is refused."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.cli.main import cli
from neurotool.errors import ExportError
from neurotool.export.lower import lower
from neurotool.export.netx import not_held, rounded_thresholds, vth, write_netx
from neurotool.graph import Conv1d, Graph, GraphBuilder, Input, LayerNorm, Linear, MeanPool, Neuron, Readout
from neurotool.lava_runtime.compatibility import installation_problem
from neurotool.lava_runtime.emulator import Emulator

TIME_STEPS = 12
RUN_NETX = """
import json, sys
from neurotool.lava_runtime.compatibility import prepare
prepare()
import numpy as np
from lava.lib.dl import netx
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

for case in json.load(sys.stdin):
    spikes = np.load(case["folder"] + "/spikes.npy")
    net = netx.hdf5.Network(net_config=case["folder"] + "/net.h5", reset_interval=1000, reset_offset=1)
    steps = spikes.shape[-1] + len(net)
    source = Source(data=np.concatenate([spikes, np.zeros((*spikes.shape[:-1], len(net)), int)], -1).astype(np.int32))
    sink = Sink(shape=net.out.shape, buffer=steps)
    source.s_out.connect(net.inp)
    net.out.connect(sink.a_in)
    net.run(condition=RunSteps(steps), run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    np.save(case["folder"] + "/out.npy", sink.data.get())
    net.stop()
"""


def chain(*layers: tuple[Any, Neuron], tokens: int = 1, density: float = 0.5) -> Graph:
    """Input -> (synapse -> neurons) …, calibrated on random spikes."""
    build = GraphBuilder()
    first = layers[0][0]
    x = build.add("in", Input(first.weight.shape[1], spiking=True))
    for i, (synapse, neurons) in enumerate(layers):
        x = build.add(f"{i}", neurons, build.add(f"{i}.synapse", synapse, x))
    graph = build.build(time_steps=TIME_STEPS, schedule="concurrent", tokens=tokens)
    largest = Emulator(graph).run(values={"in": random_spikes(graph, 0, density)}, record=True).largest
    return lower(graph, largest, per_layer=True)


def random_spikes(graph: Graph, seed: int, density: float = 0.5) -> np.ndarray:
    """(1, T, tokens, width)"""
    width = graph.nodes["in"].width  # type: ignore[attr-defined]
    return (np.random.default_rng(seed).random((1, TIME_STEPS, graph.tokens, width)) < density).astype(int)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


IF = Neuron(v_threshold=0.8, reset="hard")
LIF = Neuron(v_threshold=0.7, leak=0.83, reset="hard")
CASES = {
    "one IF layer": lambda: chain((Linear(normal(5, 7)), IF)),
    "IF layers with biases": lambda: chain(
        (Linear(normal(6, 7), normal(6)), IF), (Linear(normal(5, 6), normal(5)), replace(IF, v_threshold=1.31))
    ),
    "three LIF layers with biases": lambda: chain(
        (Linear(normal(9, 7), normal(9)), LIF),
        (Linear(normal(8, 9), normal(8)), LIF),
        (Linear(normal(4, 8)), replace(LIF, leak=0.0)),
    ),
    "positive weights": lambda: chain(
        (Linear(abs(normal(5, 7))), replace(LIF, v_threshold=5.0)),
        (Linear(abs(normal(5, 5))), replace(IF, v_threshold=4.0)),
    ),
    "negative weights, kept alive by biases": lambda: chain((Linear(-abs(normal(5, 7)), 3 * abs(normal(5))), LIF)),
    "sums beyond 16 bits": lambda: chain(
        (Linear(1 - 0.1 * abs(normal(3, 700))), replace(LIF, v_threshold=480.0)), density=0.004
    ),
    "convolutions and a Linear over tokens": lambda: chain(
        (Conv1d(normal(6, 3, 3), normal(6)), LIF),
        (Linear(normal(5, 6), normal(5)), IF),
        (Conv1d(normal(4, 5, 5)), LIF),
        tokens=6,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def netx_spikes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each case what the emulator and what netx sends, (T, tokens, width)."""
    if problem := installation_problem():
        pytest.skip(f"Lava cannot run here: {problem}")
    if find_spec("torch") is None or find_spec("lava.lib") is None:
        pytest.skip("netx needs torch and lava-dl")
    root, jobs, expected = tmp_path_factory.mktemp("netx"), [], {}
    for i, (name, make) in enumerate(CASES.items()):
        folder = root / str(i)
        folder.mkdir()
        graph = make()
        held = write_netx(graph, folder / "net.h5")
        spikes = random_spikes(graph, i)
        last = list(graph.nodes)[-1]
        expected[name] = Emulator(held).run(values={"in": spikes}, record=True).spikes[last][0]
        # netx wants (width, T) or (tokens, 1, width, T).
        np.save(
            folder / "spikes.npy",
            spikes[0, :, 0].T
            if graph.tokens == 1 and not graph.of_type(Conv1d)
            else np.moveaxis(spikes[0], 0, -1)[:, None],
        )
        jobs.append({"folder": str(folder), "layers": len(graph.of_type(Neuron))})
    _run(json.dumps(jobs))
    return {
        name: (expected[name], _aligned(np.load(Path(job["folder"]) / "out.npy"), int(job["layers"])))
        for name, job in zip(CASES, jobs, strict=True)
    }


def _aligned(out: np.ndarray, layers: int) -> np.ndarray:
    """(T, tokens, width) of (width, steps) or (tokens, 1, width, steps): a step of delay for each layer."""
    out = out[None] if out.ndim == 2 else out[:, 0]
    return np.moveaxis(out, -1, 0)[layers : layers + TIME_STEPS]


def _run(jobs: str) -> None:
    """In a process group of its own: Lava leaves its processes behind when it hangs."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_NETX],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(jobs, timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"netx did not end: {output[-2000:]}")
    assert process.returncode == 0, output[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_netx_sends_the_spikes_of_the_emulator(
    case: str, netx_spikes: dict[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    expected, found = netx_spikes[case]
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(found, expected)


def test_file_by_hand(tmp_path: Path) -> None:
    """Weights -1 … 1 count 2^-6, so the threshold 0.8 is 51.2 units, 3277 in units of 2^-6 of those."""
    graph = chain((Linear(np.array([[1.0, -1.0], [0.5, 0.25]]), np.array([0.0, 0.125])), IF))
    assert graph.nodes["0"].v_threshold == 3277  # type: ignore[attr-defined]
    assert write_netx(graph, tmp_path / "net.h5") == graph
    with h5py.File(tmp_path / "net.h5") as file:
        layers = file["layer"]
        assert list(layers) == ["0", "1"]
        assert layers["0/type"][0] == b"input" and layers["0/shape"][()].tolist() == [2]
        assert layers["1/type"][0] == b"dense" and layers["1/shape"][()].tolist() == [2]
        assert layers["1/weight"][()].tolist() == [[64, -64], [32, 16]]
        assert layers["1/bias"][()].tolist() == [0, 8]
        neuron = {key: value[()] for key, value in layers["1/neuron"].items()}
    # Above 51 units is at 52 and more, the first whole number of units that reaches 51.2.
    assert neuron == {
        "type": b"CUBA", "iDecay": 4096, "vDecay": 0, "vThMant": 51, "refDelay": 1, "gradedSpike": False,
    }  # fmt: skip


@pytest.mark.parametrize(("threshold", "without_leak", "with_leak"), [(64, 0, 1), (65, 1, 1), (96, 1, 1), (98, 1, 2)])
def test_thresholds(threshold: int, without_leak: int, with_leak: int) -> None:
    """Without leak v = 64 k: at 64 and more is above 0; at 65 and more, above 64. With leak 64 m + 1 is nearest."""
    assert vth(Neuron(threshold, reset="hard")) == without_leak
    assert vth(Neuron(threshold, leak=0.5, reset="hard")) == with_leak


def test_rounding_changes_leaky_thresholds_by_half_a_unit_at_most() -> None:
    graph = CASES["three LIF layers with biases"]()
    for name, node in rounded_thresholds(graph).nodes.items():
        if isinstance(node, Neuron):
            before = graph.nodes[name].v_threshold  # type: ignore[attr-defined]
            assert int(node.v_threshold) % 64 == 1 and abs(node.v_threshold - before) <= 32
    graph = CASES["one IF layer"]()
    assert rounded_thresholds(graph) == graph


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reset": "soft"}, "soft reset"),
        ({"spikes": "ternary"}, "ternary spikes"),
        ({"v_init": 0.25}, "initial potentials other than 0"),
        ({"v_threshold": np.array([0.5, 0.75])}, "a threshold or leak for each neuron"),
        ({"leak": np.array([0.5, 1.0])}, "a threshold or leak for each neuron"),
    ],
)
def test_neurons_that_lava_does_not_have_are_refused(change: dict[str, Any], reason: str) -> None:
    assert not_held(chain((Linear(normal(2, 3)), replace(IF, **change)))) == {reason: ["0"]}


@pytest.mark.parametrize(
    ("weight", "bias", "reason"),
    [
        (np.zeros((2, 3)), np.ones(2), "weights that are all 0"),
        (normal(2, 3), np.array([0.0, 200.0]), "biases of 4096 units and more"),
        (np.ones((2, 1100)), None, "sums that may reach 131072 units"),
    ],
)
def test_synapses_that_lava_does_not_have_are_refused(weight: np.ndarray, bias: Any, reason: str) -> None:
    density = 0.02 if weight.shape[1] > 3 else 0.5
    graph = chain((Linear(weight * (2 - 1 / 64), bias), replace(IF, v_threshold=50.0)), density=density)
    assert reason in not_held(graph)


def test_all_that_cannot_be_held_is_listed_and_nothing_is_written(tmp_path: Path) -> None:
    build = GraphBuilder()
    x = build.add("in", Input(3))
    a = build.add("a", Linear(normal(3, 3)), x)
    b = build.add("b", Neuron(), build.add("norm", LayerNorm(np.ones(3), np.zeros(3)), a))
    c = build.add("c", Neuron(), build.add("c.linear", Linear(normal(3, 3)), b))
    build.add("readout", Readout(normal(2, 3)), build.add("pool", MeanPool(), build.add("d", Neuron(reset="hard"), c)))
    graph = build.build(time_steps=2, schedule="phased")
    largest = Emulator(graph).run(values={"in": np.ones((1, 1, 3))}, record=True).largest
    with pytest.raises(ExportError) as error:
        write_netx(lower(graph, largest, per_layer=True), tmp_path / "net.h5")
    message = str(error.value)
    for part in (
        "windows of the phased schedule: b, c, d",
        "inputs that are not spikes: in",
        "synapses without neurons behind them: a",
        "LayerNorm nodes: norm",
        "neurons without synapses before them: b, d",
        "soft reset: b, c",
        "MeanPool nodes: pool",
        "Readout nodes: readout",
    ):
        assert part in message
    assert "\n" not in message
    assert not list(tmp_path.iterdir())


def test_an_even_kernel_is_refused() -> None:
    """netx pads both sides alike."""
    graph = chain((Conv1d(normal(2, 2, 4)), IF), tokens=5)
    assert not_held(graph) == {"even kernels, whose padding is not the same on both sides": ["0.synapse"]}


def test_branches_feedback_and_channel_exponents_are_refused() -> None:
    build = GraphBuilder()
    x = build.add("in", Input(2, spiking=True))
    build.add("a", IF, build.add("a.linear", Linear(np.array([[1.0, 1.0], [0.01, 0.01]])), x))
    build.add("b", IF, build.add("b.linear", Linear(normal(2, 2)), x))
    build.add_feedback("c.linear", Linear(normal(2, 2)), "c")
    build.add("c", IF, "c.linear")
    graph = build.build(time_steps=3, schedule="concurrent")
    largest = Emulator(graph).run(values={"in": np.ones((1, 1, 2))}, record=True).largest
    reasons = not_held(lower(graph, largest))
    assert reasons["branches"] == ["in"]
    assert reasons["feedback"] == ["c.linear.x"]
    assert "a.linear" in reasons["an exponent for each channel (export with --per-layer)"]


def test_float_graphs_and_existing_files_are_refused(tmp_path: Path) -> None:
    build = GraphBuilder()
    build.add("a", IF, build.add("a.linear", Linear(normal(2, 2)), build.add("in", Input(2, spiking=True))))
    with pytest.raises(ExportError, match="lower it to fixed point first"):
        write_netx(build.build(time_steps=1, schedule="concurrent"), tmp_path / "net.h5")
    path = tmp_path / "net.h5"
    path.write_text("mine")
    with pytest.raises(ExportError, match="exists"):
        write_netx(CASES["one IF layer"](), path)
    assert path.read_text() == "mine"
    write_netx(CASES["one IF layer"](), path, force=True)
    assert h5py.is_hdf5(path)


def test_a_chain_of_another_tool_is_exported(tmp_path: Path) -> None:
    """NIR does not say that inputs are spikes; netx reads nothing else."""
    nodes = {
        "input": nir.Input({"input": np.array([3])}),
        "weight": nir.Linear(normal(4, 3)),
        "lif": nir.LIF(np.full(4, 4.0), np.full(4, 4.0), np.zeros(4), np.ones(4)),
        "output": nir.Output({"output": np.array([4])}),
    }
    edges = [("input", "weight"), ("weight", "lif"), ("lif", "output")]
    nir.write(tmp_path / "chain.nir", nir.NIRGraph(nodes, edges))
    options = ["--target", "netx", "--reset", "hard", "--time-step", "1", "-T", "8", "--per-layer", "--random"]
    result = CliRunner().invoke(cli, ["export", str(tmp_path / "chain.nir"), *options])
    assert result.exit_code == 0, result.stderr
    with h5py.File(tmp_path / "chain.hdf5") as file:
        assert [file[f"layer/{i}/type"][()] for i in range(2)] == [b"input", b"dense"]
