"""`--student ann`, the rival without spikes: it is the teacher's encoder, learns like the other students, and what
needs spikes is refused. That it is the same network everywhere: tests/test_students.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from rich.console import Console
from transformers import BertConfig, BertForSequenceClassification

from neurotool.checkpoint import read_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import ConfigError
from neurotool.student import AnnConfig, AnnForSequenceClassification
from neurotool.train.initialise import copy_teacher
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.teacher import Teacher

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
SHAPE = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "initializer_range": 0.3,
}
BATCH = {
    "input_ids": torch.randint(1, 30, (2, 9), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.tensor([[1] * 9, [1] * 6 + [0] * 3]),
    "token_type_ids": torch.tensor([[0] * 4 + [1] * 5] * 2),
}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_copied_from_its_teacher_it_is_the_teachers_encoder() -> None:
    """Hidden states and attention scores of transformers' BERT, at every layer."""
    torch.manual_seed(0)
    bert = BertForSequenceClassification(BertConfig(**SHAPE))
    student = AnnForSequenceClassification(AnnConfig(**SHAPE)).eval()
    copy_teacher(student, bert, (0, 1, 2, 3))
    taught = Teacher(bert)(BATCH, (0, 1, 2, 3), (1, 2, 3))
    with torch.no_grad():
        output = student(**BATCH, output_attention=True)
    real = BATCH["attention_mask"].bool()
    for ours, theirs in zip(output.hidden, taught.hidden, strict=True):
        torch.testing.assert_close(ours[real], theirs[real])
    for ours, theirs in zip(output.attention, taught.attention, strict=True):
        torch.testing.assert_close(ours.scores[0], theirs.scores[0])
    assert output.rates == {} and student.neuron_layers == {}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classes", ()),
        ("pairs", ("--inner-epochs", "2", "--epochs", "20", "--pooling", "cls")),
        ("classes", ("--hidden-size", "16", "--heads", "2", "--epochs", "20", "--bf16", "--dropout", "0.1")),
    ],
    ids=str,
)
def test_it_learns(make_plan: MakePlan, kind: str, options: tuple[str, ...]) -> None:
    result = train(make_plan("--student", "ann", "--epochs", "6", *options, kind=kind), QUIET)
    assert result.student.metrics["accuracy"] >= 0.9
    record = read_checkpoint(result.output)
    assert record.activity["layers"] == {} and record.activity["tokens"] > 0
    history = record.training["stages"][-1]["history"]
    assert not any("rate" in name and name != "learning_rate" for entry in history for name in entry)


@pytest.mark.parametrize(
    ("option", "values"),
    {
        "--time-steps": ["4"],
        "--schedule": ["phased"],
        "--spikes": ["binary"],
        "--leak": ["1"],
        "--reset": ["soft"],
        "--v-threshold": ["learned"],
        "--v-init": ["0"],
        "--max-shift": ["0"],
        "--feedback": [],
        "--positions": ["learned"],
        "--gradient-checkpointing": [],
        "--rate-penalty": ["0.1"],
    }.items(),
)
def test_what_belongs_to_neurons_is_refused(make_plan: MakePlan, option: str, values: list[str]) -> None:
    plan = make_plan("--student", "ann", option, *values)
    with pytest.raises(ConfigError, match=f"^{option}( .*)?: student ann .*; leave it out$"):
        train(plan, QUIET)
    assert not plan.folder.exists(), "a refused run leaves nothing behind"


def test_from_training_to_the_report(make_plan: MakePlan, tmp_path: Path) -> None:
    """The other commands with a network that has no spikes: they show what there is, and no rates of nothing."""
    checkpoint = train(make_plan("--student", "ann", "--epochs", "4"), QUIET).output
    evaluated = run("evaluate", checkpoint)
    assert "accuracy" in evaluated.stdout and "rate" not in evaluated.stdout
    not_there = (
        ["evaluate", checkpoint, "-T", "2"],
        ["evaluate", checkpoint, "--convergence"],
        ["energy", "sweep", checkpoint],
        ["export", checkpoint, "-T", "3", "-o", tmp_path / "other.nir"],
        ["export", checkpoint, "--target", "netx", "-o", tmp_path / "other.net"],
    )
    for command in not_there:
        refused = run(*command)
        assert refused.exit_code == 2 and "no neurons" in refused.stderr and refused.stderr.count("\n") == 1, command

    nir, bundle = tmp_path / "model.nir", tmp_path / "model.lava"
    assert run("export", checkpoint, "--target", "nir", "-o", nir).exit_code == 0
    compared = run("validate", checkpoint, nir)
    assert compared.exit_code == 0 and "PASS: the same logits" in compared.stdout
    refused = run("export", checkpoint, "--target", "lava", "-o", bundle)
    assert refused.exit_code == 2 and "has no neurons" in refused.stderr and not bundle.exists()
    assert run("export", checkpoint, "--target", "lava", "--precision", "float", "-o", bundle).exit_code == 0
    emulated = json.loads(run("run", bundle, "good", "--json", "--backend", "emulator").stdout)
    predicted = json.loads(run("predict", checkpoint, "good", "--json").stdout)
    assert emulated["predictions"][0]["probabilities"] == pytest.approx(predicted["probabilities"], abs=1e-5)

    report = json.loads(run("energy", "report", checkpoint, "--format", "json").stdout)
    assert {comparison["kind"] for comparison in report["comparisons"]} == {"teacher"}
    text = run("energy", "report", checkpoint).stdout
    assert "A dense network without neurons" in text.replace("\n", " ")
    assert not any(word in text for word in ("spiking", "SNN", "SOPs", "break-even"))
