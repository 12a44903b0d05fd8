"""`neurotool train`, `evaluate` and `predict` as a user runs them, on one tiny student of each kind."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from neurotool.api.measuring import Source, measure
from neurotool.api.model import open_model
from neurotool.checkpoint import read_checkpoint, write_checkpoint
from neurotool.cli.evaluate import print_rates
from neurotool.cli.main import COMMANDS, cli
from neurotool.cli.train import TASKS, train
from neurotool.evaluation import Activity, Evaluation, LayerActivity
from neurotool.student.serialise import load_student
from neurotool.tasks import TASK_NAMES
from neurotool.train.options import plan_from
from neurotool.train.recipes import PRESETS
from neurotool.train.starting import check_settings

RunOptions = Callable[..., list[str]]
TinyData = Callable[[str], Path]


def run(*arguments: str | Path, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=input)


def refusal(result: Result) -> str:
    assert result.exit_code == 2 and result.stdout == "", result.output
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture(scope="module")
def trained(
    tiny_teacher: Path, tiny_data: TinyData, teacher_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The checkpoint of a student trained on a kind of data."""
    folder = tmp_path_factory.mktemp("students")

    def make(kind: str) -> Path:
        path = folder / f"{kind}.ckpt"
        if not path.exists():
            os.environ["NEUROTOOL_CACHE"] = str(teacher_cache)
            options: list[str | Path] = [
                "--teacher",
                tiny_teacher,
                "--data",
                tiny_data(kind),
                "-o",
                path,
                "--layers",
                "2",
            ]
            options += ["--run-folder", folder / "runs", "--epochs", "8", "--batch-size", "16", "--time-steps", "8"]
            options += ["--learning-rate", "3e-3", "--teacher-epochs", "12", "--teacher-learning-rate", "3e-3"]
            result = run("train", *options)
            os.environ.pop("NEUROTOOL_CACHE")
            assert result.exit_code == 0, result.output
        return path

    return make


# --- train -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_an_example_and_every_option_a_meaning(name: str) -> None:
    text = run(name, "--help").output
    assert f"neurotool {name}" in text.split("Example")[1]
    assert max(map(len, text.splitlines())) <= 80
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help and not option.help.startswith("["), option.name


def test_train_help_lists_the_tasks() -> None:
    assert tuple(TASKS.split(", ")) == TASK_NAMES
    assert f"One of {TASKS}." in " ".join(run("train", "--help").output.split())


def test_train_prints_its_result(run_options: RunOptions, tmp_path: Path) -> None:
    result = run("train", *run_options("--time-steps", "3"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("teacher  accuracy ") and lines[0].endswith("on 40 held-out examples")
    assert "of the teacher's)" in lines[1] and lines[2].endswith("at T = 3")
    assert lines[3].startswith(f"wrote {tmp_path / 'model.ckpt'} after")
    assert "prediction: epoch 3, validation accuracy" in result.stderr and "spiking rate" in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        "--spikes graded -T 4",
        "--spikes graded -T 3 --dead-zone 1",
        "--spikes ternary -T 2 --v-threshold learned-per-channel",
        "--schedule concurrent -T 3",
        "--student spikebert -T 2",
        "--student spikebert --attention-softmax --spikes ternary -T 2",
        "--student spikebert --schedule phased --attention-softmax --spikes ternary -T 2 --init fitted",
        "--student spikebert --schedule phased --spikes graded -T 4 --event-target 0.3",
        "--student streaming",
        "--student ann",
    ],
)
def test_what_was_trained_is_used_like_any_other(options: str, run_options: RunOptions, tmp_path: Path) -> None:
    """By every command that reads a checkpoint, and it starts the next one."""
    model, kind = tmp_path / "model.ckpt", options.split()
    result = run("train", *run_options("--epochs", "1", "--json", *kind))
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["student"]
    (evaluated,) = json.loads(run("evaluate", model, "--json").stdout)["time_steps"].values()
    assert {name: evaluated[name] for name in scores} == pytest.approx(scores)
    texts = ["w1 good w2", "bad w3"]
    probabilities = []
    for executor in ("torch", "interpreter"):
        lines = run("predict", model, *texts, "--json", "--executor", executor).stdout.splitlines()
        probabilities.append(np.array([list(json.loads(line)["probabilities"].values()) for line in lines]))
    assert np.allclose(*probabilities, atol=1e-4) and np.ptp(probabilities[0]) > 0
    exported = tmp_path / "model.nir"
    for command in (["show"], ["energy", "report"], ["export", "--target", "nir", "-o", exported]):
        done = run(*command, model)
        assert done.exit_code == 0, done.output
    held = run("validate", model, exported)
    assert held.exit_code == 0, held.output
    kept = options.replace("--init fitted", "").split()  # the first weights are now those of the checkpoint
    again = run("train", *run_options("--epochs", "1", "--start-from", model, *kept, output="again.ckpt"))
    assert again.exit_code == 0, again.output


def test_levels_of_a_graded_student_are_its_time_steps(run_options: RunOptions, tmp_path: Path) -> None:
    assert run("train", *run_options("--epochs", "1", "--spikes", "graded", "-T", "4")).exit_code == 0
    at = json.loads(run("evaluate", tmp_path / "model.ckpt", "--json", "-T", "1,4,16").stdout)["time_steps"]
    sent = {t: result["activity"]["mean_rate"] for t, result in at.items()}
    assert sent["1"] < sent["4"] < sent["16"]  # finer levels: fewer counts of 0
    assert run("export", tmp_path / "model.ckpt", "--target", "nir", "-o", tmp_path / "model.nir").exit_code == 0
    for command in (
        ["show", tmp_path / "model.nir", "--json"],
        ["energy", "report", tmp_path / "model.ckpt", "--format", "json"],
    ):
        assert json.loads(run(*command).stdout)["time_steps"] == 4
    text = "w1 good w2"
    for steps in ("2", "4"):
        two = [
            run("predict", tmp_path / "model.ckpt", text, "-T", steps, "--executor", executor).stdout
            for executor in ("torch", "interpreter")
        ]
        assert two[0] == two[1] != ""


def test_a_target_that_was_not_reached_is_said(run_options: RunOptions) -> None:
    options = ["train", *run_options("--epochs", "1", "--event-target", "0.05")]
    result = run(*options)
    assert result.exit_code == 0, result.output
    density, *_, remedy = next(line for line in result.stdout.splitlines() if "events per synapse" in line).split()
    assert 0.0515 < float(density) < 1 and remedy == "--start-from"
    told = json.loads(run(*options, "--force", "--json").stdout)
    assert told["events_per_synapse"] == pytest.approx(float(density), abs=5e-4)


def test_the_share_of_zeros_is_said_and_is_that_asked_for(run_options: RunOptions) -> None:
    """Also in a run of 7 steps, in which the masks' regular choices all lie in its beginning."""
    options = ["train", *run_options("--epochs", "1", "--prune", "0.5")]
    result = run(*options)
    assert result.exit_code == 0, result.output
    assert "         50.0% of the weights between neuron layers are 0\n" in result.stdout
    assert json.loads(run(*options, "--force", "--json").stdout)["zero_weights"] == 0.5


def test_train_json(run_options: RunOptions, tmp_path: Path) -> None:
    result = run("train", "--json", *run_options("--epochs", "1"))
    report = json.loads(result.stdout)
    assert report.keys() == {
        *("output", "teacher", "student", "mean_spiking_rate", "events_per_synapse", "zero_weights", "seconds")
    }
    assert report["events_per_synapse"] is None and report["zero_weights"] is None  # without a target
    assert report["output"] == str(tmp_path / "model.ckpt") and 0 < report["mean_spiking_rate"] < 1


def test_options_that_are_no_numbers(run_options: RunOptions) -> None:
    for option, value, message in (
        ("--v-threshold", "high", "'high' is neither a number nor 'learned'"),
        ("--layer-map", "0;1", "'0;1' is not a list of whole numbers"),
        ("--spikes", "analogue", "'analogue' is not one of"),
    ):
        result = run("train", *run_options(option, value))
        assert result.exit_code == 2 and message in result.stderr


def test_bad_data(run_options: RunOptions, tmp_path: Path) -> None:
    assert "no such folder" in refusal(run("train", *run_options("--data", str(tmp_path / "none"))))
    (tmp_path / "train.tsv").write_text("sentence\tlabel\nw1\t1\nw2\t1\n")
    (tmp_path / "validation.tsv").write_text("sentence\tlabel\nw1\t1\n")
    assert "every label is '1'" in refusal(run("train", *run_options("--data", str(tmp_path))))
    assert "unknown task 'sst3'" in refusal(
        run("train", "-o", tmp_path / "x.ckpt", "--task", "sst3", "--run-folder", tmp_path)
    )


def test_a_loss_that_is_nan_is_exit_code_1(run_options: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from neurotool.train import distiller

    monkeypatch.setattr(distiller, "hidden_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    result = run("train", *run_options())
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1].startswith("Error: loss is nan at step 1: training stopped")


# --- evaluate --------------------------------------------------------------------------------------------------------


def test_evaluate_on_its_own_data(trained: Callable[[str], Path]) -> None:
    result = run("evaluate", trained("classes"), "--layers")
    assert result.exit_code == 0, result.output
    for shown in ("40 examples", "8 (trained)", "per class, T = 8", "negative", "positive", "encoder.1.output"):
        assert shown in result.stdout


def test_evaluate_at_several_time_steps(trained: Callable[[str], Path], tiny_data: TinyData) -> None:
    file = tiny_data("classes") / "train.tsv"
    result = run("evaluate", trained("classes"), "--data", file, "-T", "1,8,64", "--json", "--batch-size", "7")
    report = json.loads(result.stdout)
    assert report["examples"] == 100 and list(report["time_steps"]) == ["1", "8", "64"]
    for steps, measured in report["time_steps"].items():
        assert {"accuracy", "f1", "activity"} == measured.keys()
        activity = measured["activity"]
        assert activity["time_steps"] == int(steps) and activity["inputs"] == 100 and 0 < activity["mean_rate"] < 1
        assert len(activity["layers"]) == 13
    assert report["time_steps"]["8"]["accuracy"] > 0.8


def test_the_energy_of_a_trained_student_needs_nothing_else(trained: Callable[[str], Path]) -> None:
    """What training stored gives the counts and the teacher."""
    path = trained("classes")
    report = json.loads(run("energy", "report", path, "--json", "--strict").stdout)
    again = json.loads(run("energy", "sweep", path, "-T", "8", "--json").stdout)["rows"][0]
    assert report["inputs"] == 40 and report["time_steps"] == 8 and report["synaptic_operations"] > 0
    assert any(comparison["rival"] == "its teacher" for comparison in report["comparisons"])
    assert float(again["accuracy"]) == pytest.approx(report["metrics"]["accuracy"], abs=1e-4)
    assert float(again["spikes/synapse"]) == pytest.approx(report["spikes_per_synapse"], rel=0.01)


def test_evaluate_scores(trained: Callable[[str], Path]) -> None:
    result = run("evaluate", trained("scores"))
    assert result.exit_code == 0 and "pearson" in result.stdout and "per class" not in result.stdout


def test_evaluate_per_class_numbers(trained: Callable[[str], Path], tmp_path: Path) -> None:
    """Four texts the student is sure of; one is given the wrong label."""
    file = tmp_path / "test.csv"
    file.write_text(
        "sentence,label\nw1 good w2 fine,positive\ngood fine,positive\nbad poor w3,negative\nbad bad,positive\n"
    )
    report = json.loads(run("evaluate", trained("classes"), "--data", file, "--json").stdout)
    assert report["time_steps"]["8"]["accuracy"] == 0.75 and report["time_steps"]["8"]["f1"] == pytest.approx(0.8)
    shown = run("evaluate", trained("classes"), "--data", file).stdout
    (negative,) = (line.split() for line in shown.splitlines() if " negative " in line)
    assert [cell for cell in negative if cell[0].isdigit()] == ["0.500", "1.000", "0.667", "1"]


def test_rates_are_shown_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    layers = {"encoder.11.intermediate": LayerActivity(3072, 4 * 3072), "embedding": LayerActivity(770, 4 * 308)}
    activity, nothing = Activity(4, 4, Counter({1: 1}), layers=layers), np.zeros(0)
    print_rates(Console(width=80), Evaluation({}, nothing, nothing, activity), 4, True)
    shown = {line.split()[0]: line.count("#") for line in capsys.readouterr().out.splitlines() if "#" in line}
    assert shown == {"encoder.11.intermediate": 25, "embedding": 10}


def test_convergence(trained: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Phased errors fall like 1/T; concurrent ones stay above them."""
    monkeypatch.chdir(tmp_path)
    plot = tmp_path / "errors.png"
    steps = "2,8,32,128"
    result = run("evaluate", trained("classes"), "--convergence", "-T", steps, "-o", plot, "--json")
    assert result.exit_code == 0, result.output
    assert plot.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [plot]
    report = json.loads(result.stdout)
    phased, concurrent = (report["mean_absolute_error"][name] for name in ("phased", "concurrent"))
    assert list(phased) == steps.split(",") and report["plot"] == str(plot)
    for layer in ("embedding", "encoder.0.key", "encoder.1.output"):
        errors = [phased[t][layer] for t in phased]
        for coarse, fine in pairwise(errors):
            assert 2 < coarse / fine < 8, f"{layer}: {errors}"
    assert concurrent["128"]["encoder.1.output"] > 4 * phased["128"]["encoder.1.output"]
    unasked = run("evaluate", trained("classes"), "--convergence", "-T", "2", "--json")
    assert json.loads(unasked.stdout)["plot"] is None and not Path("convergence.png").exists()
    table = run("evaluate", trained("classes"), "--convergence", "-T", steps, "-o", plot, "--force").stdout
    assert "phased schedule" in table and "concurrent schedule" in table and "T=128" in table


def test_evaluate_refuses(trained: Callable[[str], Path], tmp_path: Path, tiny_data: TinyData) -> None:
    student = trained("classes")
    assert "no such file; give a .ckpt file" in refusal(run("evaluate", tmp_path / "none.ckpt"))
    assert "every T must be at least 1" in refusal(run("evaluate", student, "-T", "4,0"))
    assert run("evaluate", student, "-T", "4;8").exit_code == 2
    assert "no text column" in refusal(run("evaluate", trained("pairs"), "--data", tiny_data("classes")))
    assert "label '0.125'" in refusal(run("evaluate", student, "--data", tiny_data("scores"))).replace("0.375", "0.125")
    assert "unknown plot type" in refusal(run("evaluate", student, "--convergence", "-o", tmp_path / "plot.txt"))


def test_evaluate_when_the_training_data_is_gone(run_options: RunOptions, tiny_data: TinyData, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_data("classes"), tmp_path / "data"))
    assert run("train", *run_options("--data", str(data), "--epochs", "1")).exit_code == 0
    (data / "train.tsv").unlink()
    assert run("evaluate", tmp_path / "model.ckpt", "--json").exit_code == 0  # only validation is needed
    shutil.rmtree(data)
    message = refusal(run("evaluate", tmp_path / "model.ckpt"))
    assert f"was trained on {data}, which is not here: give other data with --data" in message


def test_evaluate_where_the_path_holds_other_texts(
    trained: Callable[[str], Path], tiny_data: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path, seen from another folder."""
    known = read_checkpoint(trained("classes"))
    training = known.training | {"plan": known.training["plan"] | {"data": "data"}}
    write_checkpoint(tmp_path / "moved.ckpt", replace(known, training=training))
    shutil.copytree(tiny_data("classes"), tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    own = run("evaluate", "moved.ckpt", "--json")
    assert own.exit_code == 0, own.output
    text = (tmp_path / "data/validation.tsv").read_text()
    (tmp_path / "data/validation.tsv").write_text(text + "w1 good\tpositive\n")
    for command in (("evaluate",), ("energy", "report", "--samples", "5"), ("evaluate", "--convergence", "--json")):
        message = refusal(run(*command, "moved.ckpt"))
        assert "data: not the texts that the student was validated on" in message and "--data" in message
    assert run("evaluate", "moved.ckpt", "--data", "data", "--json").exit_code == 0


def test_the_teacher_stands_beside_the_student_on_its_own_texts_alone(
    trained: Callable[[str], Path], tiny_data: TinyData, tmp_path: Path
) -> None:
    """As many other texts are not the same texts."""
    shutil.copytree(tiny_data("classes"), tmp_path / "data")
    lines = (tmp_path / "data/validation.tsv").read_text().splitlines()
    (tmp_path / "other.tsv").write_text("\n".join([lines[0], "good w9 w9\tpositive", *lines[2:]]) + "\n")
    metrics = {}
    for name, data in (("same", tmp_path / "data"), ("other", tmp_path / "other.tsv")):
        metrics[name] = measure(open_model(trained("classes")), Source(str(data))).teacher_metrics
    assert metrics["same"] == load_student(trained("classes")).checkpoint.training["teacher"]["metrics"]
    assert metrics["other"] == {}


def test_predict_cuts_where_evaluate_does(trained: Callable[[str], Path], tmp_path: Path) -> None:
    """What decides stands before the sixth token, the opposite behind it."""
    known = read_checkpoint(trained("classes"))
    training = known.training | {"plan": known.training["plan"] | {"max_length": 6}}
    write_checkpoint(tmp_path / "short.ckpt", replace(known, training=training))
    words = {"positive": "good fine w1 good", "negative": "bad poor w2 bad"}
    rows = [(f"{words[a]} {words[b]} {words[b]}", a) for a in words for b in words if a != b]
    (tmp_path / "long.tsv").write_text("text\tlabel\n" + "".join("\t".join(row) + "\n" for row in rows))
    evaluated = json.loads(run("evaluate", tmp_path / "short.ckpt", "--data", tmp_path / "long.tsv", "--json").stdout)
    assert [steps["accuracy"] for steps in evaluated["time_steps"].values()] == [1.0]
    result = run("predict", tmp_path / "short.ckpt", *(text for text, _ in rows), "--json")
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == [label for _, label in rows]
    assert result.stderr == "2 of 2 texts are longer than 6 tokens: cut\n"
    alone = [json.loads(run("predict", tmp_path / "short.ckpt", text, "--json").stdout) for text, _ in rows]
    assert [one["label"] for one in alone] == [label for _, label in rows]


def test_classes_that_look_like_markup(trained: Callable[[str], Path], tmp_path: Path) -> None:
    known = read_checkpoint(trained("classes"))
    names = ["[/red]", ":smile:"]
    training = known.training | {"task": known.training["task"] | {"label_names": names}}
    path = tmp_path / "m[/b].ckpt"
    path.parent.mkdir()
    write_checkpoint(path, replace(known, labels=names, training=training))
    (tmp_path / "v.tsv").write_text("text\tlabel\ngood fine\t:smile:\nbad w1\t[/red]\n")
    result = run("evaluate", path, "--data", tmp_path / "v.tsv")
    assert result.exit_code == 0 and all(f"\n {name} " in result.stdout for name in names), result.output
    assert run("energy", "report", path).exit_code == 0


# --- predict ---------------------------------------------------------------------------------------------------------


def test_predict_texts(trained: Callable[[str], Path]) -> None:
    result = run("predict", trained("classes"), "good fine w3", "w1 bad poor")
    assert result.exit_code == 0, result.output
    assert [line.split("  ")[::2] for line in result.stdout.splitlines()] == [
        ["positive", "good fine w3"],
        ["negative", "w1 bad poor"],
    ]


def test_predict_standard_input_as_json(trained: Callable[[str], Path]) -> None:
    lines = "\ufeffgood é\r\n\nbad\npoor\n"  # as of a file that Notepad saved
    result = run("predict", trained("classes"), "-", "--json", "--batch-size", "2", input=lines)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["text"] for answer in answers] == ["good é", "bad", "poor"]
    for answer in answers:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_predictions_do_not_depend_on_the_batch(trained: Callable[[str], Path]) -> None:
    texts = ["good", "bad w1 w2 w3 w4 w5", "fine w9 w9 poor", "w3"]
    together, alone = (
        run("predict", trained("classes"), *texts, "--json", "--batch-size", n).stdout for n in ("4", "1")
    )
    for a, b in zip(together.splitlines(), alone.splitlines(), strict=True):
        assert json.loads(a)["probabilities"] == pytest.approx(json.loads(b)["probabilities"], rel=1e-4)


def test_predict_pairs_and_scores(trained: Callable[[str], Path]) -> None:
    result = run("predict", trained("pairs"), "-", "--json", input="w1 w2\tgood fine\nw4\tbad poor w2\n")
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["positive", "negative"]
    assert "has 1 part(s) between tabs: this student reads pairs" in refusal(run("predict", trained("pairs"), "no tab"))
    assert "has an empty text" in refusal(run("predict", trained("pairs"), "first\t "))
    low, high = (
        float(line.split()[0]) for line in run("predict", trained("scores"), "bad bad", "good fine").stdout.splitlines()
    )
    assert low < high


def test_predict_refuses(trained: Callable[[str], Path], tmp_path: Path) -> None:
    student = trained("classes")
    result = run("predict", student, "-", input=b"good\n\xff\xfe\n")
    assert result.exit_code == 2 and "standard input, line 2: not UTF-8" in result.stderr
    assert "no text in it" in refusal(run("predict", student, "-", input="\n\n"))
    assert "line 1: has a carriage return in it" in refusal(run("predict", student, "-", input=b"good\rbad\r"))
    assert "text 2: '' has an empty text" in refusal(run("predict", student, "good", ""))
    assert "has 2 part(s) between tabs: this student reads single" in refusal(run("predict", student, "good\tpositive"))
    (tmp_path / "old.ckpt").write_bytes(b"\x80\x04pickle")
    assert "a Python pickle, which is never loaded" in refusal(run("predict", tmp_path / "old.ckpt", "x"))


def test_a_long_text_is_cut_and_counted(trained: Callable[[str], Path]) -> None:
    result = run("predict", trained("classes"), "good " * 40, "bad")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) == 2
    assert result.stderr == "1 of 2 texts are longer than 24 tokens: cut\n"


# --- presets ---------------------------------------------------------------------------------------------------------


def plan_of(*options: str) -> Any:
    chosen = train.make_context("train", list(options)).params
    return plan_from({name: value for name, value in chosen.items() if name not in ("as_json", "config")})


def test_a_preset_is_its_options() -> None:
    fast = ("--spikes", "ternary", "--epochs", "1", "--learning-rate", "4e-4")
    assert plan_of("--preset", "fast") == plan_of(*fast)
    best = ("--spikes", "ternary", "--epochs", "10", "--batch-size", "64", "--learning-rate", "4e-4")
    assert plan_of("--preset", "best") == plan_of(*best)
    assert plan_of("--epochs", "1", "-T", "2", "--preset", "best") == plan_of(*best, "--epochs", "1", "-T", "2")


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_trained_and_is_listed(name: str) -> None:
    plan = plan_of("--preset", name, "--corpus", "texts.txt")
    plan.check()
    check_settings(plan)
    listed = run("train", "--list-presets")
    assert listed.exit_code == 0 and f"\n{name}: " in f"\n{listed.stdout}" and PRESETS[name].reached in listed.stdout
    command = listed.stdout.split(f"{name}: ")[1].splitlines()[1].split()
    assert plan_of(*command, "--corpus", "texts.txt") == plan


def test_a_preset_of_trained_students_needs_one_and_is_named_in_refusals(
    run_options: RunOptions, trained: Callable[[str], Path]
) -> None:
    assert "--preset sparse: goes on with a trained student; give it with --start-from" in refusal(
        run("train", *run_options("--preset", "sparse"))
    )
    start = ("--start-from", str(trained("classes")))
    options = run_options(*start, "--preset", "best")
    assert "--spikes ternary: the student of" in (said := refusal(run("train", *options)))
    assert said.endswith("which stays; give --spikes binary (--preset best set it)\n")
    assert "(--preset" not in refusal(run("train", *options, "--spikes", "graded"))


def test_an_unknown_preset_is_refused() -> None:
    assert "'fastest' is not one of 'fast', 'best'" in refusal(run("train", "--preset", "fastest"))
