"""Students that read spikes: labelled recordings in, trained, and the same network everywhere after."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from neurotool.api.comparing import compare
from neurotool.api.lowering import Quantisation, make_bundle
from neurotool.api.measuring import Source, measure
from neurotool.api.model import open_model
from neurotool.checkpoint import read_checkpoint, write_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import CheckpointError, ConfigError, DataError
from neurotool.export.lower import lower
from neurotool.graph import CubaLIF, Neuron
from neurotool.inputs import Given
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.network import Network
from neurotool.recordings import Events, read_recording
from neurotool.simulate import simulate
from neurotool.spike_data import load_recordings, load_spikes
from neurotool.student.spike_classifier import SpikeClassifier, SpikeClassifierConfig, to_checkpoint
from neurotool.tasks import Task
from neurotool.train.options import plan_from

CHANNELS, STEPS = 6, 20


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def early_or_late(count: int, late: bool, seed: int) -> np.ndarray:
    """Each channel spikes once, early or late, and once anywhere: (count, STEPS, CHANNELS)."""
    random, spikes = np.random.default_rng(seed), np.zeros((count, STEPS, CHANNELS), np.int8)
    for one in spikes:
        one[random.integers(0, 4, CHANNELS) + (12 if late else 2), np.arange(CHANNELS)] = 1
        one[random.integers(0, STEPS, CHANNELS), np.arange(CHANNELS)] = 1
    return spikes


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings") / "timing"
    for split, count, seed in (("train", 48, 0), ("validation", 12, 10)):
        (folder / split).mkdir(parents=True)
        for i, name in enumerate(("early", "late")):
            np.savez(folder / split / f"{name}.npz", spikes=early_or_late(count, bool(i), seed + i))
    return folder


TRAINING = ["--student", "streaming", "--input", "spikes", "--hidden-size", "16", "--batch-size", "8"]


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("models")

    def make(tau_syn: str) -> Path:
        path = folder / f"{tau_syn}.ckpt"
        if not path.exists():
            options = ["--epochs", 12, "--learning-rate", 0.01, "--tau-syn", tau_syn, "--prune", 0.5]
            result = run("train", "--data", data, *TRAINING, *map(str, options), "-o", path)
            assert result.exit_code == 0, result.output
        return path

    return make


def small(tau_syn: float | None = 3.0, **settings: Any) -> SpikeClassifier:
    torch.manual_seed(0)
    shape = {"channels": CHANNELS, "time_steps": STEPS, "num_labels": 2, "hidden_size": 8, "num_hidden_layers": 2}
    student = SpikeClassifier(SpikeClassifierConfig(**shape | {"tau_syn": tau_syn, "tau_mem": 4.0} | settings))
    student.fit(torch.from_numpy(early_or_late(16, False, 5)).float())
    for layer in student.spiking_layers:
        layer.linear.weight.data.mul_(3)  # so that all layers spike
    return student


@pytest.mark.parametrize("tau_syn", [3.0, None], ids=["CubaLIF", "LIF"])
@pytest.mark.parametrize("per_channel", [False, True], ids=["shared", "per channel"])
def test_student_and_graph_are_equal(tau_syn: float | None, per_channel: bool) -> None:
    student = small(tau_syn, per_channel=per_channel).double()
    graph = student.to_graph()
    assert {type(graph.nodes[name]) for name in graph.of_type(Neuron)} == {CubaLIF if tau_syn else Neuron}
    layers = set()
    for spikes in early_or_late(3, True, 1).astype(float):
        output = student(torch.from_numpy(spikes)[None])
        there = simulate(graph, values={"spikes": spikes})
        for name, sent in output.spikes.items():
            assert np.array_equal(there.spikes[name], sent[0].detach().numpy())
            layers |= {name} if sent.any() else set()
        np.testing.assert_allclose(there.analog["readout"][-1], output.logits[0].detach().numpy(), rtol=1e-12)
    assert layers == {"encoder.0", "encoder.1"}


@pytest.mark.parametrize(("v_threshold", "stock"), [(1 + 2**-11, {"encoder.1"}), (1.0, set())])
@pytest.mark.parametrize("per_channel", [False, True], ids=["shared", "per channel"])
def test_lavas_own_lif_stands_in_for_layers_that_it_can_say(
    per_channel: bool, v_threshold: float, stock: set[str]
) -> None:
    """Those that share their time constants, and whose threshold is 64 k + 1 units, 2049 here: Lava has no finer ones,
    and the potential of what fades takes any value. The first layer reads an Input, which may send -1."""
    student = small(per_channel=per_channel, v_threshold=v_threshold, learn_v_threshold=False)
    with torch.no_grad():
        for layer in student.spiking_layers:
            for decay in (layer.neurons.synapse, layer.neurons.membrane):
                decay.logit.add_(0.3 * torch.rand_like(decay.logit))
    graph, spikes = student.to_graph(), early_or_late(2, True, 1)
    seen = Emulator(graph).run(values={"spikes": spikes}, observe=True)
    network = Network(lower(graph, seen.largest))
    assert set(network.stock) == (set() if per_channel else stock)


@pytest.mark.parametrize("tau_syn", ["learned", "none"])
def test_training_learns_timing(trained: Callable[[str], Path], tau_syn: str) -> None:
    """Counts of spikes are the same in both classes, and a potential alone remembers too little; half of the weights
    are 0; the file says what it holds."""
    checkpoint = read_checkpoint(trained(tau_syn))
    assert checkpoint.training["metrics"]["accuracy"] >= (0.8 if tau_syn == "learned" else 0.5)
    assert np.mean(checkpoint.tensors["layers.0.linear.weight"] == 0) == pytest.approx(0.5, abs=0.02)
    assert checkpoint.labels == ["early", "late"] and checkpoint.tokenizer == {}
    assert checkpoint.config["input"] == "spikes"
    assert (checkpoint.config["tau_syn"] is None) == (tau_syn == "none")


def test_learned_and_fixed_time_constants(data: Path, tmp_path: Path) -> None:
    options = ["--epochs", "1", "--tau-syn", "3", "--tau-mem", "learned", "--learning-rate", "0.05"]
    path = tmp_path / "m.ckpt"
    assert run("train", "--data", data, *TRAINING, *options, "-o", path).exit_code == 0
    node = open_model(path).graph.nodes["encoder.0"]
    assert isinstance(node, CubaLIF)
    assert node.current_leak == pytest.approx(1 - 1 / 3)
    assert abs(node.leak - 0.9) > 1e-4  # where it started


def test_everything_reads_it(trained: Callable[[str], Path], data: Path, tmp_path: Path) -> None:
    """evaluate, NIR and back, integers, emulator: the same spikes and answers."""
    path = trained("learned")
    model = open_model(path)
    result = model.evaluate()
    assert result.metrics == pytest.approx(model.record["metrics"])
    assert model.evaluate(data).metrics == result.metrics
    written = tmp_path / "m.nir"
    assert run("export", path, "-o", written).exit_code == 0
    kinds = {type(node).__name__ for node in nir.read(written).nodes.values()}
    assert kinds == {"Input", "Linear", "CubaLIF", "LI", "Output"}
    compared = compare(model, written, samples=6)
    assert compared.passed and compared.result.inputs == 6
    there = open_model(written, tokenizer=path).evaluate(data)
    assert there.metrics == result.metrics
    bundle = tmp_path / "m.lava"
    report = model.export(bundle, "lava", samples=24)
    rows = {row["layer"]: row for row in report["quantisation"]["layers"]}
    sent, differing = (rows["encoder.0"][kind] for kind in ("spikes", "differing_spikes"))
    assert sent > 0 and 0 <= differing < sent
    assert set(report["calibration"]["after"]) == {"accuracy"}
    in_integers = open_model(bundle).evaluate(data)
    assert in_integers.metrics["accuracy"] == pytest.approx(report["calibration"]["after"]["accuracy"], abs=1e-9)
    shown = run("run", path, "--input", data / "validation" / "late.npz")
    assert shown.exit_code == 0 and shown.stdout.count("late  0.") >= 9, shown.output


def test_differing_spikes_are_counted(data: Path) -> None:
    """Against both graphs run by themselves."""
    path = data.parent / "one.ckpt"
    task = Task("timing", ("spikes",), ("early", "late"), ("accuracy",))
    write_checkpoint(path, to_checkpoint(small(), task, {"plan": {"data": str(data)}}))
    model = open_model(path)
    bundle = make_bundle(model, Quantisation(samples=10))
    inputs = model.batch(model.samples(count=10))["values"]
    runs = [Emulator(graph).run(values=inputs, record=True).spikes for graph in (model.graph, bundle.graph)]
    rows = {row["layer"]: row for row in bundle.record["quantisation"]["layers"]}
    for name in ("encoder.0", "encoder.1"):
        assert rows[name]["spikes"] == np.count_nonzero(runs[0][name])
        assert rows[name]["differing_spikes"] == np.count_nonzero(runs[0][name] != runs[1][name])


@pytest.mark.parametrize(("tau_syn", "decays"), [(3.0, 2), (None, 1)], ids=["CubaLIF", "LIF"])
def test_decays_are_counted(data: Path, tmp_path: Path, tau_syn: float | None, decays: int) -> None:
    """Two for each update of a CubaLIF neuron, one of a LIF neuron and of the readout's integrators."""
    path = tmp_path / "m.ckpt"
    task = Task("timing", ("spikes",), ("early", "late"), ("accuracy",))
    write_checkpoint(path, to_checkpoint(small(tau_syn), task, {}))
    counts = measure(open_model(path), Source(str(data), samples=4)).counts
    ops = {node.name: node.work["spiking"].total for node in counts.nodes}
    for name in ("encoder.0", "encoder.1"):
        assert ops[name].updates == 4 * STEPS * 8 and ops[name].leaks == decays * ops[name].updates
    assert ops["readout"].updates == ops["readout"].leaks == 4 * STEPS * 2
    spikes = load_recordings(data, task, STEPS, CHANNELS, None).spikes
    chosen = spikes[np.linspace(0, len(spikes) - 1, 4).astype(int)]
    assert ops["encoder.0.linear"].accumulates == np.count_nonzero(chosen) * 8
    dense = sum(node.work["dense"].total.macs for node in counts.nodes)
    assert dense == 4 * STEPS * (CHANNELS * 8 + 8 * 8 + 8 * 2), "the dense network works in every step, too"


def arrays_in(folder: Path, split: str, name: str, **arrays: np.ndarray) -> Path:
    (folder / split).mkdir(parents=True, exist_ok=True)
    np.savez(folder / split / f"{name}.npz", **arrays)
    return folder / split / f"{name}.npz"


def test_recordings_of_every_kind(tmp_path: Path) -> None:
    """Arrays, events in steps and in seconds, NIRData, in files and in folders of classes; shorter ones end in
    silence."""
    arrays_in(tmp_path, "train", "a", spikes=np.eye(5, 3)[None])
    (tmp_path / "train" / "b").mkdir()
    (tmp_path / "train" / "b" / "1.csv").write_text("time,neuron,sample\n0,2,0\n3,1,1\n", encoding="utf-8")
    data = nir.NIRNodeData({"spikes": nir.TimeGriddedData(np.eye(4, 3, dtype=bool)[None], 1e-3)})
    nir.write_data(tmp_path / "train" / "b" / "2.h5", nir.NIRGraphData({"in": data}))
    np.save(tmp_path / "train" / "b" / "3.npy", np.eye(2, 3))
    arrays_in(tmp_path, "dev", "b", time=np.array([1, 2]), neuron=np.array([0, 2]))
    loaded = load_spikes(tmp_path)
    assert loaded.task.label_names == ("a", "b") and loaded.train.spikes.shape == (5, 5, 3)
    assert loaded.train.labels.tolist() == [0, 1, 1, 1, 1] and loaded.time_step == 1e-3
    assert np.argwhere(loaded.train.spikes[2]).tolist() == [[3, 1]]
    assert np.array_equal(loaded.train.spikes[3], np.eye(5, 3) * (np.arange(5) < 4)[:, None])
    assert np.argwhere(loaded.validation.spikes[0]).tolist() == [[1, 0], [2, 2]]
    assert load_spikes(tmp_path, time_steps=9).train.spikes.shape == (5, 9, 3)


def test_times_need_a_step(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        arrays_in(tmp_path, split, "a", time=np.array([0.0, 0.0031]), neuron=np.array([0, 1]))
        arrays_in(tmp_path, split, "b", time=np.array([0.002]), neuron=np.array([1]))
    with pytest.raises(DataError, match=r"a.npz: has times such as 0.*--time-step"):
        load_spikes(tmp_path)
    loaded = load_spikes(tmp_path, time_step=1e-3)
    assert loaded.train.spikes.shape == (2, 4, 2) and loaded.time_step == 1e-3
    assert np.argwhere(loaded.train.spikes[0]).tolist() == [[0, 0], [3, 1]]


def test_events_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", time=[3, 1], neuron=[0, 1], sample=[1, 0])
    events = read_recording(tmp_path / "e.npz")
    assert isinstance(events, Events) and events.samples == 2 and events.in_steps
    np.savez(tmp_path / "bad.npz", time=[3, 1], neuron=[0, -1])
    with pytest.raises(DataError, match=r"bad.npz: neuron has -1: whole numbers are wanted"):
        read_recording(tmp_path / "bad.npz")


@pytest.mark.parametrize(
    ("split", "name", "array", "said"),
    [
        ("train", "c", np.full((1, 4, 3), 2), "has the value 2 in a step: spikes are 0 and 1"),
        ("train", "c", np.zeros((1, 4, 5)), "has 5 channels|have 5"),
        ("train", "c", np.zeros(4), r"has shape \(4,\)"),
        ("validation", "c", np.zeros((1, 4, 3)), "class 'c' is none of those that were trained: a, b"),
        ("validation", "a", np.zeros((1, 6, 3)), "has 6 steps, T is 4"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, split: str, name: str, array: np.ndarray, said: str) -> None:
    for where in ("train", "validation"):
        for known in ("a", "b"):
            arrays_in(tmp_path, where, known, spikes=np.zeros((2, 4, 3), bool))
    arrays_in(tmp_path, split, name, spikes=array)
    with pytest.raises(DataError, match=said):
        load_spikes(tmp_path)


def test_folders_that_hold_something_else(tmp_path: Path, data: Path) -> None:
    with pytest.raises(DataError, match=r"no such folder; give one with train/"):
        load_spikes(tmp_path / "none")
    with pytest.raises(DataError, match=r"has no folder train; spike recordings are train/CLASS.npz"):
        load_spikes(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"notes.txt: is no recording"):
        load_spikes(tmp_path)
    (tmp_path / "train" / "notes.txt").unlink()
    arrays_in(tmp_path, "train", "a", spikes=np.zeros((1, 4, 3)))
    (tmp_path / "validation").mkdir()
    with pytest.raises(DataError, match=r"validation: holds no recordings"):
        load_spikes(tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"student": "spikebert"}, "--input spikes: student spikebert reads text; give --student streaming"),
        ({"corpus": "demo"}, "--corpus demo: a student that reads spikes has no such setting"),
        ({"data": None}, "--input spikes: no --data"),
        ({"tau_syn": "fast"}, "--tau-syn fast: it is neither a number of steps, learned or none"),
        ({"tau_mem": "none"}, "--tau-mem none: it is neither a number of steps, learned"),
        ({"tau_mem": "0.2"}, "--tau-mem 0.2: it must be 1 to 1e"),
        ({"prune_scope": "global"}, "--prune-scope global: is for --prune"),
        ({"prune": 1.0}, "--prune 1.0: it must be above 0 and below 1"),
        ({"metric": "f1"}, "--metric f1: classes of recordings are measured by accuracy"),
        ({"input": "tokens", "tau_syn": "none"}, "--tau-syn: is for recordings; give --input spikes"),
    ],
    ids=str,
)
def test_options_that_mean_nothing(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        plan_from({"student": "streaming", "input": "spikes", "data": Path("d")} | options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.config.update(hidden_size=9), "hidden_size is 9"),
        (lambda c: c.config.update(num_labels=3), "num_labels is 3, of 2 labels"),
        (lambda c: c.config.update(tau_mem=0.5), "tau_mem is 0.5"),
        (lambda c: c.config.update(extra=1), "extra"),
        (lambda c: c.tensors.pop("classifier.weight"), "tensor classifier.weight has shape None"),
        (lambda c: c.training.pop("task"), "lacks task"),
    ],
)
def test_altered_checkpoints_are_refused(tmp_path: Path, change: Callable[[Any], Any], said: str) -> None:
    task = Task("timing", ("spikes",), ("early", "late"), ("accuracy",))
    checkpoint = to_checkpoint(small(), task, {})
    change(checkpoint)
    write_checkpoint(tmp_path / "m.ckpt", checkpoint)
    with pytest.raises(CheckpointError, match=said):
        open_model(tmp_path / "m.ckpt")


def test_commands_for_text_refuse_it(trained: Callable[[str], Path], tmp_path: Path) -> None:
    path = trained("learned")
    for command in (["predict", path, "a film"], ["run", path, "a film"]):
        result = run(*command)
        assert result.exit_code == 2 and "reads spikes, not text" in result.stderr, result.output
    result = run("run", path, "--stream", "a film")
    assert result.exit_code == 2 and "reads spikes; --stream is for words" in result.stderr, result.output
    result = run("run", path, "--random", "--executor", "torch")
    assert result.exit_code == 2 and "executor torch runs students of checkpoints" in result.stderr
    assert run("run", path, "--random").exit_code == 0
    assert open_model(path).samples(given=Given(random=True)).source == "random inputs"


@pytest.mark.slow
def test_on_lava(trained: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("lava")
    bundle = tmp_path / "m.lava"
    open_model(trained("learned")).export(bundle, "lava", samples=8)
    assert compare((bundle, "emulator"), (bundle, "lava"), samples=2).passed


def test_resume_after_the_end(data: Path, tmp_path: Path) -> None:
    """The run's folder says what it read; --json says what it reached."""
    result = run("train", "--data", data, *TRAINING, "--epochs", "1", "-o", tmp_path / "m.ckpt", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["teacher"] == {} and 0 <= report["student"]["accuracy"] <= 1 and report["mean_spiking_rate"] > 0
    toml = (tmp_path / "runs" / "m.ckpt" / "run.toml").read_text(encoding="utf-8")
    assert 'input = "spikes"' in toml
    again = run("train", "--config", tmp_path / "runs" / "m.ckpt" / "run.toml", "-o", tmp_path / "n.ckpt")
    assert again.exit_code == 0, again.output
    first, second = (read_checkpoint(tmp_path / name).tensors for name in ("m.ckpt", "n.ckpt"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
