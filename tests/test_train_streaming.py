"""`neurotool train --student streaming`: it learns, with and without a teacher, and what it lacks is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from neurotool.api.describing import MEANINGLESS, SETTINGS
from neurotool.cli.main import cli
from neurotool.cli.train import train
from neurotool.errors import ConfigError
from neurotool.student import STUDENTS
from neurotool.student.serialise import load_student
from neurotool.train.options import plan_from
from neurotool.train.pipeline import train as run
from neurotool.train.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture
def streaming_plan(run_options: Callable[..., list[str]]) -> MakePlan:
    def make(*further: str, **changes: Any) -> TrainingPlan:
        small = ["--student", "streaming", "--layers", "1", "--time-steps", "1", "--epochs", "12"]
        options = train.make_context("train", [*run_options(**changes), *small, *further]).params
        del options["as_json"], options["config"]
        return plan_from(options)

    return make


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classes", ()),
        ("classes", ("--hidden-size", "20", "--reset", "soft", "--steps-per-token", "2", "--bf16")),
        ("classes", ("--hidden-weight", "1", "--embedding-weight", "1", "--lookahead", "2", "--dropout", "0.1")),
        ("classes", ("--taps", "2", "--dropout", "0.1")),
        ("classes", ("--prefix-weight", "1", "--soft-weight", "0", "--hard-weight", "0", "--ema", "0.9")),
        ("pairs", ()),
        ("scores", ()),
    ],
    ids=str,
)
def test_a_streaming_student_learns(streaming_plan: MakePlan, kind: str, options: tuple[str, ...]) -> None:
    result = run(streaming_plan(*options, kind=kind), Console(quiet=True))
    assert next(iter(result.student.metrics.values())) >= 0.7
    model = load_student(result.output).model
    assert not model.config.training_norm
    nodes = {type(node).__name__ for node in model.to_graph().nodes.values()}
    assert nodes - {"Delay"} == {"Input", "Neuron", "Linear", "CubaLIF", "Add", "Integrator"}
    assert ("Delay" in nodes) == ("--taps" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--heads", "2"), "--heads 2: student streaming has no such setting; leave it out"),
        (("--spikes", "ternary"), "--spikes ternary: student streaming has no such setting"),
        (("--v-threshold", "2"), "--v-threshold 2.0: student streaming has no such setting"),
        (("--pooling", "cls"), "--pooling cls: a streaming student answers from an integrator"),
        (("--schedule", "phased"), "--schedule 'phased': choose one of concurrent"),
        (("--lookahead", "-1"), "--lookahead -1: it must be 0 to 1024"),
        (("--taps", "65"), "--taps 65: it must be 0 to 64"),
        (("--event-target", "0.2"), "--event-target: with schedule concurrent there are no single windows"),
        (("--attention-weight", "1"), "--attention-weight, --relation-weight: student streaming hands on no"),
    ],
)
def test_what_a_streaming_student_lacks(streaming_plan: MakePlan, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(streaming_plan(*options), Console(quiet=True))


def test_the_others_have_no_lookahead(make_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match="--prefix-weight: student spikingbert answers once a text; leave it out"):
        run(make_plan("--prefix-weight", "1"), Console(quiet=True))
    with pytest.raises(ConfigError, match="--lookahead 2: student spikingbert has no such setting; leave it out"):
        run(make_plan("--lookahead", "2"), Console(quiet=True))


def test_it_starts_as_the_one_it_starts_from(streaming_plan: MakePlan, tmp_path: Path) -> None:
    """Without learning it is the same network, of the same shape; another shape is refused."""
    first = run(streaming_plan("--hidden-size", "20", "--taps", "1", "--lookahead", "1"), Console(quiet=True))
    options = ("--start-from", str(first.output), "--epochs", "1", "--dropout", "0.2")
    files = {"-o": tmp_path / "second.ckpt", "--run-folder": tmp_path / "second"}
    more = (*options, *(str(part) for option in files.items() for part in option))
    second = run(streaming_plan(*more, "--learning-rate", "1e-12"), Console(quiet=True))
    ours, theirs = (load_student(result.output).model for result in (second, first))
    assert (ours.config.hidden_size, ours.config.taps, ours.config.lookahead) == (20, 1, 1)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-5, atol=1e-6)
    assert second.student.metrics == first.student.metrics
    with pytest.raises(ConfigError, match=r"--taps 2: the student of --start-from .* has 1, which stays"):
        run(streaming_plan(*more, "--taps", "2", "--force"), Console(quiet=True))


def test_what_a_student_lacks_is_not_shown() -> None:
    lacking = {kind: set(student.config_class.lacks) & set(SETTINGS.values()) for kind, student in STUDENTS.items()}
    named = {kind: {SETTINGS[name] for name in MEANINGLESS.get(kind, ())} for kind in STUDENTS}
    assert named == lacking


def test_a_trained_student_is_asked_everything(streaming_plan: MakePlan, tmp_path: Path) -> None:
    """evaluate, predict, stream, export, validate and energy, each on the command line."""
    plan = streaming_plan("--lookahead", "1", "--epochs", "2")
    run(plan, Console(quiet=True))
    model, data, text = str(plan.output), str(plan.data), "good fine bad"

    def told(*command: str, input: str | None = None, code: int = 0) -> str:
        result = CliRunner().invoke(cli, list(command), input=input)
        assert result.exit_code == code, result.output
        return result.output

    metrics = [
        json.loads(told("evaluate", model, "--data", data, "--samples", "6", "--executor", executor, "--json"))
        for executor in ("torch", "interpreter", "emulator")
    ]
    first, *others = [m["time_steps"]["1"] for m in metrics]
    assert all(m["accuracy"] == first["accuracy"] for m in others)
    sent = [
        {n: (x["spikes"], x["active"]["spikes"]) for n, x in m["activity"]["layers"].items()} for m in (first, *others)
    ]
    assert sent[0] == sent[1] == sent[2] and sent[0]["embedding"][0] > 0
    (whole,) = [json.loads(told("predict", model, text, "--json"))]
    streamed = told("predict", model, "--stream", "--json", input=f"{text}\nbad")
    lines = [json.loads(line) for line in streamed.splitlines()]
    assert [line["word"] for line in lines] == ["good", "fine", "bad", "", "bad", ""]
    assert lines[3]["probabilities"] == pytest.approx(whole["probabilities"], abs=1e-6)
    nir_file = str(tmp_path / "model.nir")
    told("export", model, "--target", "nir", "-o", nir_file)
    told("validate", model, nir_file, "--data", data, "--samples", "4")
    told("validate", model, model, "--executor", "torch,emulator", "--data", data, "--samples", "4")
    told("export", model, "--target", "lava", "-o", str(tmp_path / "model.lava"), "--samples", "8")
    assert "steps per token" in told("show", nir_file)
    shown = json.loads(told("show", model, "--json"))
    assert shown["lookahead"] == 1 and not {"heads", "spikes", "leak"} & shown.keys()
    stored, anew = (
        json.loads(told("energy", "report", model, "--format", "json", *more)) for more in ((), ("--data", data))
    )
    assert stored["comparisons"] == anew["comparisons"]
    assert "trained for 1 step(s) a token" in told("evaluate", model, "-T", "2", code=2)
    refused = told("predict", nir_file, "--tokenizer", model, "--stream", code=2)
    assert "--stream is for a .ckpt of --student streaming" in refused
