"""What Python users call, and the commands that say what a file is and repeat a run."""

import json
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result

import neurotool
from neurotool.api.reading import spread
from neurotool.cli.main import cli
from neurotool.cli.train import train as train_command
from neurotool.errors import ConfigError
from neurotool.train.config import read_config, write_config
from neurotool.train.options import DEFAULTS, OPTIONS, plan_from
from neurotool.train.teacher import DEMO_TEACHER


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def distilled(
    tiny_teacher: Path, tiny_data: Callable[[str], Path], teacher_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> neurotool.Model:
    """A student of one layer, distilled in Python."""
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROTOOL_CACHE", str(teacher_cache))
        return neurotool.distil(
            tiny_data("classes"),
            output=folder / "model.ckpt",
            teacher=str(tiny_teacher),
            layers=1,
            spikes="ternary",
            time_steps=2,
            epochs=4,
            batch_size=16,
            learning_rate=3e-3,
            teacher_epochs=12,
            teacher_learning_rate=3e-3,
            run_folder=folder / "run",
        )


def test_what_a_user_gets(distilled: neurotool.Model, tiny_data: Callable[[str], Path], tmp_path: Path) -> None:
    """The calls of docs/python.md, one after another."""
    assert distilled.kind == "checkpoint" and distilled.graph.time_steps == 2 and distilled.task is not None
    assert distilled.record["metrics"]["accuracy"] > 0.6
    (prediction,) = distilled.predict(["good fine w3"])
    assert prediction["text"] == "good fine w3" and prediction["label"] in distilled.task.label_names
    distilled.export(tmp_path / "model.nir")
    report = distilled.export(tmp_path / "model.lava", target="lava", calibration=tiny_data("classes"))
    assert report["precision"] == "fixed" and report["calibration"]["inputs"] == 40
    nir = neurotool.open(tmp_path / "model.nir", tokenizer=distilled.path)
    bundle = neurotool.open(tmp_path / "model.lava")
    assert (nir.kind, bundle.kind) == ("NIR file", "bundle")
    evaluated = {model.kind: model.evaluate(tiny_data("classes")) for model in (distilled, nir, bundle)}
    assert evaluated["NIR file"].metrics == evaluated["checkpoint"].metrics == distilled.record["metrics"]
    assert evaluated["NIR file"].activity.layers.keys() == evaluated["checkpoint"].activity.layers.keys()
    assert abs(evaluated["bundle"].metrics["accuracy"] - distilled.record["metrics"]["accuracy"]) < 0.2
    assert neurotool.compare(distilled, nir, samples=6).passed
    assert neurotool.compare(distilled.path, (tmp_path / "model.lava", "emulator"), samples=6).executors == (
        "torch",
        "emulator",
    )
    energies = [model.energy(tiny_data("classes"), samples=6) for model in (distilled, nir)]
    assert energies[0].counts.total() == energies[1].counts.total()
    assert "<svg" in energies[0].to_html(tmp_path / "report.html") and (tmp_path / "report.html").stat().st_size > 1000
    assert json.loads(energies[0].to_json())["inputs"] == 6 and energies[0].to_csv() and energies[0].to_latex()
    assert distilled.at(5).run(["good"]).spikes["embedding"].shape[1] == 5
    with pytest.raises(ConfigError, match="integers made for T = 2"):
        bundle.at(5)


def test_another_t_is_that_of_every_executor(distilled: neurotool.Model, tmp_path: Path) -> None:
    distilled.export(tmp_path / "model.nir")
    texts = ["good fine", "bad poor"]
    by_torch = distilled.at(7).logits(texts)
    np.testing.assert_allclose(by_torch, distilled.at(7).logits(texts, "interpreter"), atol=1e-5)
    assert not np.allclose(by_torch, distilled.logits(texts), atol=1e-5)
    ours = neurotool.open(tmp_path / "model.nir", time_steps=7, tokenizer=distilled.path)
    np.testing.assert_allclose(by_torch, ours.logits(texts), atol=1e-5)


def test_samples_are_spread_over_a_file() -> None:
    assert spread(10, 3).tolist() == [0, 4, 9]
    assert spread(3, 10).tolist() == spread(3, None).tolist() == [0, 1, 2]


def test_every_command_takes_every_kind_of_file(distilled: neurotool.Model, tmp_path: Path) -> None:
    path = distilled.path
    distilled.export(tmp_path / "model.nir")
    distilled.export(tmp_path / "model.lava", target="lava", samples=10)
    tokenizer = ("--tokenizer", path)
    answers = {}
    for file, further in ((path, ()), (tmp_path / "model.nir", tokenizer), (tmp_path / "model.lava", ())):
        result = run("predict", file, "good fine", "bad poor", "--json", *further)
        assert result.exit_code == 0, result.stderr
        answers[file.suffix] = [json.loads(line)["label"] for line in result.stdout.splitlines()]
        result = run("run", file, "good fine", "bad poor", "--json", "--executor", "emulator", *further)
        assert result.exit_code == 0, result.stderr
        assert [one["label"] for one in json.loads(result.stdout)["predictions"]] == answers[file.suffix]
        result = run("evaluate", file, "--samples", 12, "--json", *further)
        assert result.exit_code == 0 and json.loads(result.stdout)["examples"] == 12, result.output
        result = run("energy", "report", file, "--samples", 3, "--executor", "emulator", "--json", *further)
        assert result.exit_code == 0 and json.loads(result.stdout)["inputs"] == 3, result.output
        result = run("validate", path, file, "--samples", 3, "--executor", "interpreter,emulator", *further)
        assert result.exit_code == (0 if file.suffix != ".lava" or "PASS" in result.stdout else 1), result.output
    assert answers[".nir"] == answers[".ckpt"] == answers[".lava"]
    missing = run("predict", tmp_path / "model.nir", "good")
    assert missing.exit_code == 2 and "holds no tokenizer; name a .ckpt that does with --tokenizer" in missing.stderr
    own = run("predict", path, "good", *tokenizer)
    assert own.exit_code == 2 and "has its own; the option is for files without one" in own.stderr
    torch = run("evaluate", tmp_path / "model.lava", "--executor", "torch")
    assert torch.exit_code == 2 and "executor torch runs students of checkpoints" in torch.stderr


def test_summaries_are_short_and_layers_are_shown_on_request(distilled: neurotool.Model, tmp_path: Path) -> None:
    for command in (
        ("evaluate", distilled.path),
        ("validate", distilled.path, distilled.path, "--samples", "3"),
        ("export", distilled.path, "--target", "lava", "--samples", "4", "--force", "-o", tmp_path / "m.lava"),
    ):
        short, whole = run(*command), run(*command, "--layers")
        assert "encoder.*.key" in short.stdout and "encoder.0.key" not in short.stdout, command
        assert "encoder.0.key" in whole.stdout
    rows = run("energy", "report", distilled.path).stdout.split("Layers by kind")[1].split("│ total")[0]
    assert "encoder.*.key" in rows and "other nodes" in rows and rows.count("\n") < 20


def test_show(distilled: neurotool.Model, tmp_path: Path) -> None:
    about = json.loads(run("show", distilled.path, "--json").stdout)
    assert about["kind"] == "checkpoint" and about["student"] == "spikingbert" and about["layers"] == 1
    assert (about["time_steps"], about["schedule"], about["spikes"]) == (2, "phased", "ternary")
    assert about["labels"] == ["negative", "positive"] and about["metrics"] == distilled.record["metrics"]
    assert about["teacher_metrics"]["accuracy"] > 0.5 and "torch" in about["versions"]
    distilled.export(tmp_path / "model.nir")
    distilled.export(tmp_path / "model.lava", target="lava", samples=4)
    nir, bundle = (json.loads(run("show", tmp_path / f"model.{kind}", "--json").stdout) for kind in ("nir", "lava"))
    assert (nir["kind"], nir["numbers"], nir["neuron_layers"]) == ("NIR file", "real", 7)
    assert (bundle["kind"], bundle["numbers"], bundle["made_from"]) == ("bundle", "integers", "model.ckpt")
    for file in (distilled.path, tmp_path / "model.nir", tmp_path / "model.lava"):
        text = run("show", file).stdout
        assert len(text.splitlines()) <= 30 and "ternary" in text
    gone = run("show", tmp_path / "gone.ckpt")
    assert gone.exit_code == 2 and "no such file" in gone.stderr


def test_a_run_is_repeated_from_its_file(run_options: Callable[..., list[str]], tmp_path: Path) -> None:
    """With a layer that nothing teaches, its attention neither."""
    result = run("train", *run_options("--epochs", "1", "--layer-map", "0,-,2", "--seed", "7"))
    assert result.exit_code == 0, result.output
    written = tmp_path / "runs" / "model.ckpt" / "run.toml"
    options = read_config(written)
    assert (options["epochs"], options["seed"], options["layer_map"]) == (1.0, 7, [0, "-", 2])
    assert "force" not in options and options["v_threshold"] == "learned"
    first = (tmp_path / "model.ckpt").read_bytes()
    again = run("train", "--config", written, "-o", tmp_path / "again.ckpt", "--run-folder", tmp_path / "again")
    assert again.exit_code == 0, again.output
    assert neurotool.compare(tmp_path / "model.ckpt", tmp_path / "again.ckpt", samples=4).passed
    assert len(first) == pytest.approx((tmp_path / "again.ckpt").stat().st_size, abs=2000)
    assert read_config(tmp_path / "again" / "run.toml") | {"output": 0, "run_folder": 0} == options | {
        "output": 0,
        "run_folder": 0,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("layrs = 4", "layrs: training has no such option; did you mean layers?"),
        ("layers = 4.5", "layers is 4.5: it must be a whole number"),
        ("bf16 = 1", "bf16 is 1: it must be true or false"),
        ('epochs = "two"', "epochs is 'two': it must be a number"),
        ("layer-map = 3", "layer-map is 3: it must be a list"),
        ("layers = ", "cannot be read as TOML"),
        ('spikes = "analogue"', "'analogue' is not one of"),
    ],
)
def test_a_config_that_does_not_fit_is_one_line(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text(content, "utf-8")
    result = run("train", "--config", tmp_path / "run.toml")
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_the_command_line_wins(tmp_path: Path) -> None:
    write_config(tmp_path / "run.toml", {"layers": 3, "time_steps": 5, "layer_map": (0, None, 6), "bf16": True})
    context = train_command.make_context("train", ["--config", str(tmp_path / "run.toml"), "-T", "9"])
    assert context.params["layers"] == 3 and context.params["time_steps"] == 9 and context.params["bf16"] is True
    assert context.params["layer_map"] == (0, None, 6)


def test_options_of_command_line_config_and_python_are_the_same() -> None:
    """Names, defaults and the plan that follows."""
    options = {p.name: p for p in train_command.params if isinstance(p, click.Option)}
    of_the_command = {"config", "preset", "list_presets", "as_json"}
    assert set(options) - of_the_command == set(OPTIONS)
    assert DEFAULTS["teacher"] == DEMO_TEACHER
    params = train_command.make_context("train", []).params
    given = {name: value for name, value in params.items() if name not in of_the_command}
    assert plan_from(given) == plan_from({})
    with pytest.raises(ConfigError, match=r"layer: training has no such option; did you mean layers\?"):
        plan_from({"layer": 2})
