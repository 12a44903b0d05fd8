"""`neurotool train --student streaming`: it learns, with and without a teacher, and what it lacks is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from neurotool.cli.train import train
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
    assert {type(node).__name__ for node in model.to_graph().nodes.values()} == {
        *("Input", "Neuron", "Linear", "CubaLIF", "Add", "Integrator")
    }
