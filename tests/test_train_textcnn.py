"""`neurotool train --student snn-textcnn`: it learns, with and without a teacher, and what it lacks is refused."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from neurotool.checkpoint import read_checkpoint
from neurotool.cli.train import train
from neurotool.errors import ConfigError
from neurotool.student.serialise import load_student
from neurotool.train.options import plan_from
from neurotool.train.pipeline import train as run
from neurotool.train.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]


@pytest.fixture
def textcnn_plan(run_options: Callable[..., list[str]]) -> MakePlan:
    """As `make_plan`, of an SNN-TextCNN."""

    def make(*further: str, **changes: Any) -> TrainingPlan:
        given = run_options(**changes)
        layers = given.index("--layers")
        small = ["--student", "snn-textcnn", "--time-steps", "8", "--channels", "6", "--epochs", "30"]
        options = train.make_context("train", [*given[:layers], *given[layers + 2 :], *small, *further]).params
        del options["as_json"], options["config"]
        return plan_from(options)

    return make


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classes", ()),
        ("classes", ("--kernel-sizes", "2", "--leak", "0.9", "--spikes", "ternary", "--v-threshold", "learned")),
        ("classes", ("--hidden-size", "20", "--reset", "hard", "--bf16")),
        ("classes", ("--soft-weight", "1", "--hard-weight", "0", "--embedding-weight", "1")),
        ("scores", ("--dropout", "0.1")),
    ],
    ids=str,
)
def test_a_textcnn_learns(textcnn_plan: MakePlan, kind: str, options: tuple[str, ...]) -> None:
    result = run(textcnn_plan(*options, kind=kind), Console(quiet=True))
    assert next(iter(result.student.metrics.values())) >= 0.75
    loaded = load_student(result.output)
    assert loaded.checkpoint.training["layer_map"] == [0]
    assert loaded.model.to_graph().metadata == {"model_type": "snn-textcnn"}


def test_defaults(textcnn_plan: MakePlan) -> None:
    """Nothing but the labels teaches; T, leak and threshold are the paper's."""
    plan = textcnn_plan("--kernel-sizes", "1,4")
    weights = plan.stages[-1].weights
    taught = (weights.embedding, weights.hidden, weights.attention, weights.soft)
    assert taught == (0, 0, 0, 0) and weights.hard == 1
    assert plan.student["kernel_sizes"] == (1, 4) and "num_hidden_layers" not in plan.student
    assert (plan.student["leak"], plan.student["v_threshold"]) == (1, 1)
    assert plan_from({"student": "snn-textcnn"}).student["time_steps"] == 50


def test_the_embedding_is_the_teachers_where_widths_agree(textcnn_plan: MakePlan) -> None:
    tables = [
        read_checkpoint(run(textcnn_plan(*options, "--epochs", "1", output=f"{i}.ckpt"), Console(quiet=True)).output)
        for i, options in enumerate([(), ("--init", "random")])
    ]
    same = [t.tensors["embeddings.word_embeddings.weight"] for t in tables]
    assert abs(same[0].std() - 0.15) < 0.02 and abs(same[1].std() - 0.1) < 0.02  # of the tiny teacher; its own


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "2"), "--layers 2: student snn-textcnn has no such setting; leave it out"),
        (("--heads", "2"), "--heads 2: student snn-textcnn has no such setting"),
        (("--intermediate-size", "64"), "--intermediate-size 64: student snn-textcnn has no such setting"),
        (("--positions", "none"), "--positions none: student snn-textcnn has no such setting"),
        (
            ("--attention-weight", "1"),
            "--attention-weight, --relation-weight: student snn-textcnn hands on no attention to",
        ),
        (("--hidden-weight", "1"), "--hidden-weight: student snn-textcnn has only its embedding to compare; give 0"),
        (("--layer-map", "0,1"), "--layer-map 0,1: give 1 numbers"),
        (("--schedule", "phased"), "--schedule 'phased': choose one of concurrent"),
        (("--channels", "0"), "--channels 0: it must be 1 to 16384"),
        (("--kernel-sizes", "3,3"), "--kernel-sizes 3,3: give different numbers of at least 1"),
    ],
)
def test_what_a_textcnn_lacks(textcnn_plan: MakePlan, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(textcnn_plan(*options), Console(quiet=True))


def test_what_the_others_lack(make_plan: MakePlan) -> None:
    for options in (("--kernel-sizes", "3"), ("--channels", "3", "--student", "spikformer")):
        with pytest.raises(ConfigError, match=f"{options[0]} .*: student spik.* has no such setting; leave it out"):
            run(make_plan(*options), Console(quiet=True))
