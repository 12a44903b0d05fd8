"""The NIR paper's CNN on events: from input to output on every executor, with the very spikes of sinabs."""

import importlib.util
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import nir
import numpy as np
import pytest

from neurotool.export.chip import load_chip
from neurotool.export.fit import fit_report
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir
from neurotool.graph import Graph, Input, Neuron
from neurotool.lava_runtime import compatibility, emulator
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.run import run_on_lava
from neurotool.simulate import simulate

LAYERS = ("1", "3", "6", "10", "12")
PAPER = "Jegp--spinnaker2_demo--scnn_mnist-89e0a6.nir"


@pytest.fixture(scope="module")
def cnn(repository: Path) -> ModuleType:
    """benchmarks/nir_cnn.py"""
    specification = importlib.util.spec_from_file_location("nir_cnn", repository / "benchmarks" / "nir_cnn.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def file(cnn: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cnn") / "cnn.nir"
    nir.write(path, cnn.cnn())
    return path


def as_sinabs_reads(file: Path, time_steps: int) -> Graph:
    """sinabs's import keeps potentials above minus the threshold. Events are spikes."""
    graph = read_nir(file, tool="sinabs", lowest=-1.0, time_steps=time_steps)
    return replace(graph, nodes=graph.nodes | {"input": Input((2, 34, 34), spiking=True)})


def test_interpreter_and_emulator_send_the_same(file: Path, cnn: ModuleType) -> None:
    """Blocks of steps, parts of a batch and single inputs: every spike, count and potential."""
    graph, x = as_sinabs_reads(file, 9), cnn.events(3, 9, rate=0.02)
    emulated = Emulator(graph).run(values={"input": x}, record=True)
    for i, one in enumerate(x):
        oracle = simulate(graph, values={"input": one})
        for name in LAYERS:
            np.testing.assert_array_equal(emulated.spikes[name][i], oracle.spikes[name])
            np.testing.assert_allclose(emulated.potentials[name][i], oracle.potentials[name], rtol=0, atol=1e-9)
        assert emulated.one(i).events == oracle.events
    assert all(emulated.spikes[name].max() > 1 for name in LAYERS[1:])  # several in a step
    alone = Emulator(graph).run(values={"input": x}, record=("12",))
    assert list(alone.spikes) == ["12"] and np.array_equal(alone.spikes["12"], emulated.spikes["12"])
    for port, counts in emulated.events.items():
        assert np.array_equal(alone.events[port], counts)


@pytest.mark.slow
def test_integers_and_lava_send_what_the_emulator_sends(file: Path, cnn: ModuleType) -> None:
    graph, x = as_sinabs_reads(file, 12), cnn.events(2, 12, rate=0.02)
    emulated = Emulator(graph).run(values={"input": x}, record=True)
    fixed = lower(graph, emulated.largest)
    whole = Emulator(fixed).run(values={"input": x}, record=True)
    for name in LAYERS:  # 8-bit weights: not the same spikes, but rates alike
        rates = [run.spikes[name].sum(1).ravel().astype(float) for run in (whole, emulated)]
        assert np.corrcoef(*rates)[0, 1] > 0.9
        assert isinstance(fixed.nodes[name], Neuron) and whole.potentials[name].min() >= fixed.nodes[name].v_min
    if problem := compatibility.installation_problem():
        pytest.skip(problem)
    for one, expected in ((graph, emulated), (fixed, whole)):
        lava = run_on_lava(one, values={"input": x}, record=LAYERS, timeout=600)
        for name in LAYERS:
            np.testing.assert_array_equal(lava.spikes[name], expected.spikes[name])
            np.testing.assert_allclose(lava.potentials[name], expected.potentials[name], rtol=0, atol=1e-9)
        for port, counts in expected.events.items():
            np.testing.assert_array_equal(lava.events[port], counts)


@pytest.mark.slow
@pytest.mark.parametrize("paper", [False, True])
def test_spikes_are_those_of_sinabs(
    paper: bool, file: Path, cnn: ModuleType, repository: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All 300 steps, every layer. `$NEUROTOOL_NIRTOOLS`: the Python of an environment with sinabs (make nir-tools)."""
    python = Path(os.environ.get("NEUROTOOL_NIRTOOLS", repository / "build" / "nirtools" / "bin" / "python"))
    if not python.exists():
        pytest.skip(f"no environment with sinabs at {python}: make nir-tools, or set NEUROTOOL_NIRTOOLS")
    if paper:
        file = request.getfixturevalue("shared") / "nir" / "files" / PAPER
        if not file.exists():
            pytest.skip(f"no {file}")
    x = cnn.events(2, rate=0.01)
    np.save(tmp_path / "x.npy", x)
    command = [python, cnn.__file__, file, tmp_path / "x.npy", tmp_path / "sinabs.npz"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, input="", check=False)
    assert done.returncode == 0, done.stderr
    graph = as_sinabs_reads(file, cnn.STEPS)
    ours = Emulator(graph).run(values={"input": x}, record=True).spikes
    with np.load(tmp_path / "sinabs.npz") as theirs:
        assert set(theirs) == set(LAYERS)
        for name in LAYERS:
            np.testing.assert_array_equal(ours[name], theirs[name])
            assert ours[name].any()


def test_a_core_keeps_the_weights_of_a_convolution_once(file: Path, cnn: ModuleType) -> None:
    """25 x 2 lists of 16 weights of 8 bits and a header of 10, in words of 64: 50 x 192 bits, on each core."""
    graph, x = as_sinabs_reads(file, 9), cnn.events(2, 9, rate=0.02)
    fixed = lower(graph, Emulator(graph).run(values={"input": x}, observe=True).largest)
    chip = load_chip("loihi2")
    layers = {layer.name: layer for layer in fit_report(fixed, chip).layers}
    assert (layers["1"].cores, layers["1"].synapse_bits) == (1, 50 * 192)
    assert layers["3"].synapse_bits == 9 * 16 * 192
    assert layers["4"].synapse_bits == 4 * 64  # a pool's ones
    assert sum(layer.cores for layer in layers.values()) == 7
    without = {name: limit for name, limit in chip.limits.items() if name != "convolutions_share_weights"}
    layers = {layer.name: layer for layer in fit_report(fixed, replace(chip, limits=without)).layers}
    assert sum(layer.cores for layer in layers.values()) == 16
    assert layers["1"].synapse_bits >= 256 * 50 * 192  # of each place


def test_threads_and_blocks_change_nothing(file: Path, cnn: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch in one part; and in parts of 1, 2 and 4 rows, which are inputs or steps, in up to three threads."""
    graph, x = as_sinabs_reads(file, 7), cnn.events(3, 7, rate=0.02)
    whole = Emulator(graph).run(values={"input": x}, record=LAYERS)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    for rows in (1, 2, 4):
        monkeypatch.setattr(emulator, "ELEMENTS_AT_ONCE", rows * 4096)
        parts = Emulator(graph).run(values={"input": x}, record=LAYERS)
        for name in LAYERS:
            np.testing.assert_array_equal(parts.spikes[name], whole.spikes[name])
            np.testing.assert_allclose(parts.rates[name], whole.rates[name], rtol=1e-12)
        for port, counts in whole.events.items():
            np.testing.assert_array_equal(parts.events[port], counts)
            np.testing.assert_array_equal(parts.active_operations[port], whole.active_operations[port])
