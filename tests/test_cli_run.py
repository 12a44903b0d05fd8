"""`neurotool run` on a tiny student's bundle."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from neurotool.api.raster import COLOURS, _pixels
from neurotool.cli.main import cli
from neurotool.export.lower import lower
from neurotool.graph import GraphBuilder, Input, Linear, Neuron
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime import run as lava_run
from neurotool.lava_runtime.bundle import Bundle, read_bundle, write_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.tasks import Task

TEXTS = ("good w1 w2", "bad .")


@pytest.fixture(scope="module")
def bundle(make_student: Any, tiny_teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "model.lava"
    graph = make_student(1, vocab_size=40, time_steps=3, spikes="ternary").to_graph()
    ids = np.random.default_rng(0).integers(0, 29, (4, 8))
    graph = lower(graph, Emulator(graph).run(ids, observe=True).largest)
    files = {name: (tiny_teacher / name).read_text("utf-8") for name in ("tokenizer.json", "tokenizer_config.json")}
    task = Task("reviews", ("sentence",), ("negative", "positive"), ("accuracy",))
    write_bundle(path, Bundle(graph, files, asdict(task), {"plan": {"max_length": 12}}))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["run", *map(str, arguments)])


def emulate(*arguments: object) -> Result:
    return run(*arguments, "--backend", "emulator")


def test_texts_are_classified(bundle: Path) -> None:
    result = emulate(bundle, *TEXTS)
    assert result.exit_code == 0, result.stderr
    first, second, last = result.stdout.splitlines()
    assert first.split()[0] in ("negative", "positive")
    assert first.endswith(TEXTS[0]) and second.endswith(TEXTS[1])
    assert last.startswith("2 inputs on emulator in ") and "given texts" in last


@pytest.mark.skipif(compatibility.installation_problem() is not None, reason="no Lava")
def test_lava_says_what_the_emulator_says(bundle: Path, tmp_path: Path) -> None:
    recordings = [tmp_path / "lava.npz", tmp_path / "emulator.npz"]
    reports = []
    for backend, output in zip(("lava", "emulator"), recordings, strict=True):
        options = ("--record", "encoder.0.key", "--record", "embedding", "-o", output, "--json")
        limit = ("--timeout", 120) if backend == "lava" else ()
        result = run(bundle, *TEXTS, "--backend", backend, *options, *limit)
        assert result.exit_code == 0, result.stderr
        reports.append(json.loads(result.stdout))
    assert reports[0]["predictions"] == reports[1]["predictions"]
    assert [one["text"] for one in reports[0]["predictions"]] == list(TEXTS)
    assert (reports[0]["processes"], reports[0]["steps_per_input"]) == (4 + 2 * 13, 13 * 3)
    with np.load(recordings[0]) as lava, np.load(recordings[1]) as emulator:
        assert sorted(lava) == sorted(emulator)
        assert lava["encoder.0.key.spikes"].shape == (2, 3, 6, 16)  # [CLS], three words, [SEP], one padding
        assert lava["encoder.0.key.spikes"].any()
        assert lava["attention_mask"].sum(1).tolist() == [5, 4]
        assert "encoder.0.key.linear.messages" in lava and "embedding.norm.messages" in lava
        for name in lava:
            np.testing.assert_array_equal(lava[name], emulator[name])


def test_data_give_metrics(bundle: Path, tiny_data: Callable[[str], Path]) -> None:
    folder = tiny_data("classes")
    result = emulate(bundle, "--data", folder, "--samples", 40, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    rows = [line.split("\t") for line in (folder / "validation.tsv").read_text("utf-8").splitlines()[1:]]
    right = [one["label"] == row[1] for one, row in zip(report["predictions"], rows, strict=True)]
    assert report["metrics"] == {"accuracy": pytest.approx(np.mean(right))}
    assert f"accuracy: {np.mean(right):.4f}" in emulate(bundle, "--data", folder, "--samples", 40).stdout


def test_options_that_would_do_nothing(bundle: Path, tmp_path: Path) -> None:
    result = emulate(bundle, TEXTS[0], "--timeout", 5)
    assert result.exit_code == 2
    assert "--timeout 5: only Lava is stopped after a time; leave it out" in result.stderr
    build = GraphBuilder()
    build.add("n", Neuron(), build.add("y", Linear(np.eye(2)), build.add("x", Input(2, spiking=True))))
    path = tmp_path / "float.lava"
    write_bundle(path, Bundle(build.build(time_steps=2, schedule="concurrent")))
    result = emulate(path, "--overflow", "wrap")
    assert result.exit_code == 2
    assert "is not in fixed point, nothing overflows; leave it out" in result.stderr
    result = emulate(path)
    assert result.exit_code == 2
    assert "reads no text: give recordings with --input, or random inputs with --random" in result.stderr
    result = emulate(path, "--random")
    assert result.exit_code == 0, result.stderr
    assert "has no readout and predicts nothing; --record LAYER" in result.stdout


def test_raster_is_drawn_for_all_layers(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "spikes.svg"
    assert emulate(bundle, TEXTS[0], "--raster", path).exit_code == 0
    drawn = path.read_text("utf-8")
    assert drawn.count('<g id="axes_') == 13  # the embedding's and 2 x 6
    again = emulate(bundle, TEXTS[0], "--raster", path)
    assert again.exit_code == 2
    assert "exists" in again.stderr
    assert emulate(bundle, TEXTS[0], "--raster", path, "--record", "encoder.0.key", "--force").exit_code == 0
    assert path.read_text("utf-8").count('<g id="axes_') == 1
    assert (bundle.parent / "model.npz").is_file()


def test_a_raster_shows_spikes_of_both_signs() -> None:
    """Four neurons of one token, two steps, in two rows of pixels: two neurons share one."""
    spikes = np.array([[[1, 1, 0, 0]], [[-1, 0, -1, 1]]])
    white, blue, red = COLOURS / 255
    expected = [[blue, (red + white) / 2], [white, (red + blue) / 2]]
    np.testing.assert_allclose(_pixels(spikes, 2), expected)
    np.testing.assert_allclose(_pixels(spikes, 100)[3], [white, blue])


@pytest.mark.parametrize("option", ["-o", "--raster"])
@pytest.mark.parametrize("path", ["there.svg", "no_folder/new.svg"])
def test_outputs_are_checked_before_the_run(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, path: str
) -> None:
    monkeypatch.setattr("neurotool.api.model.Model.run", lambda *_: pytest.fail("ran"))
    (tmp_path / "there.svg").touch()
    recorded = ("--record", "encoder.0.key") if option == "-o" else ()
    result = emulate(bundle, "x", *recorded, option, tmp_path / path)
    assert result.exit_code == 2
    assert str(tmp_path / path) in result.stderr


def test_a_raster_adds_nothing_to_the_recording(bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "recorded.npz"
    options = ("--record", "embedding.norm", "--raster", tmp_path / "spikes.png", "-o", output)
    assert emulate(bundle, TEXTS[0], *options).exit_code == 0
    with np.load(output) as arrays:
        assert sorted(arrays) == ["attention_mask", "embedding.norm.messages"]


def test_a_manifest_without_task_is_damage(bundle: Path, tmp_path: Path) -> None:
    damaged = shutil.copytree(bundle, tmp_path / "damaged.lava")
    manifest = json.loads((damaged / "manifest.json").read_text("utf-8"))
    (damaged / "manifest.json").write_text(json.dumps(manifest | {"task": {}}), "utf-8")
    result = emulate(damaged, "x")
    assert result.exit_code == 2
    assert "describes no task" in result.stderr


def test_a_bundle_without_tokenizer_runs_on_random_inputs(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.lava"
    write_bundle(path, Bundle(read_bundle(bundle).graph))
    report = json.loads(emulate(path, "--samples", 3, "--random", "--json").stdout)
    assert np.shape(report["logits"]) == (3, 2)
    assert emulate(path, "a text").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--data", "y.tsv"], "--data y.tsv: texts are given, too"),
        (
            ["x", "--record", "encoder.9"],
            "--record encoder.9: there is no such layer; the neuron layers are embedding,",
        ),
        (["--data", "nowhere.tsv"], "nowhere.tsv"),
        (["x", "-o", "y.npz"], "-o y.npz: nothing is recorded"),
        (["x", "--raster", "y.xyz"], "--raster y.xyz: the name says no known format; end it in .png"),
        (["x", "--raster", "y.svg", "--record", "encoder.0.key", "-o", "y.svg"], "is the name of the raster, too"),
    ],
)
def test_bad_input(bundle: Path, arguments: list[str], message: str) -> None:
    result = emulate(bundle, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_without_lava_the_way_out_is_named(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lava_run.compatibility, "installation_problem", lambda: "lava-nc is not installed")
    result = run(bundle, TEXTS[0])
    assert result.exit_code == 1
    assert "lava-nc is not installed" in result.stderr
    assert "--executor emulator" in result.stderr
    assert "pip install" in result.stderr
