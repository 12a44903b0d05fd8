"""A student's way through a checkpoint: the same student comes back, and a file that does not fit is refused."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from neurotool.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from neurotool.errors import CheckpointError
from neurotool.student import SpikingBertForSequenceClassification
from neurotool.student.serialise import load_student, to_checkpoint
from neurotool.tasks import Task

TASK = Task("reviews", ("sentence1", "sentence2"), ("negative", "positive"), ("f1", "accuracy"))
Student = SpikingBertForSequenceClassification


@pytest.fixture
def student(make_student: Callable[..., Student]) -> Student:
    values = {"spikes": "ternary", "leak": 0.9, "v_init": -0.25, "feedback": True, "pooling": "cls"}
    student = make_student(vocab_size=31, learn_v_threshold=True, **values)
    with torch.no_grad():
        for i, neurons in enumerate(student.neuron_layers.values()):
            neurons.base.fill_(0.5 + i / 7)
            neurons.log_gain.fill_(0.1 * i)
    return student


@pytest.fixture
def checkpoint(student: Student, tiny_teacher: Path) -> Checkpoint:
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    return to_checkpoint(student, tokenizer, TASK, {"seed": 1}, {"mean_rate": 0.25})


@pytest.fixture
def file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "model.ckpt", checkpoint)
    return tmp_path / "model.ckpt"


def test_the_same_student_comes_back(student: Student, file: Path) -> None:
    loaded = load_student(file)
    assert loaded.task == TASK and not loaded.model.training
    assert loaded.checkpoint.training["seed"] == 1 and loaded.checkpoint.activity == {"mean_rate": 0.25}
    state = loaded.model.state_dict()
    assert state.keys() == student.state_dict().keys()
    for name, tensor in student.state_dict().items():
        assert torch.equal(state[name], tensor), name
    batch = loaded.tokenizer(["good w1", "poor"], ["w2 .", "bads"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(loaded.model(**batch).logits, student(**batch).logits)
    assert loaded.model.to_graph() == student.to_graph()


def test_the_tokenizer_comes_back(file: Path, tiny_teacher: Path) -> None:
    texts = (["Good W1 bads .", "x " * 40], ["fine", "w3"])
    options: dict[str, Any] = {"truncation": True, "max_length": 16, "padding": True}
    theirs = AutoTokenizer.from_pretrained(tiny_teacher)(*texts, **options)
    assert load_student(file).tokenizer(*texts, **options).data == theirs.data


def test_bfloat16_is_stored_as_float32(make_student: Callable[..., Student], tiny_teacher: Path) -> None:
    student = make_student().to(torch.bfloat16)
    stored = to_checkpoint(student, AutoTokenizer.from_pretrained(tiny_teacher), TASK, {}, {})
    assert {tensor.dtype for tensor in stored.tensors.values()} == {np.dtype("float32")}


def without(mapping: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


QUERY = "layers.1.query.weight"
DAMAGE: dict[str, tuple[Callable[[Checkpoint], dict[str, Any]], str]] = {
    "model type": (lambda c: {"config": c.config | {"model_type": "spikegpt"}}, "holds a 'spikegpt' student"),
    "missing tensor": (lambda c: {"tensors": without(c.tensors, QUERY)}, f"tensor {QUERY} is missing"),
    "misshaped tensor": (
        lambda c: {"tensors": c.tensors | {QUERY: c.tensors[QUERY][:, :5]}},
        rf"tensor {QUERY} has shape \(16, 5\), its configuration asks for \(16, 16\)",
    ),
    "unknown tensor": (lambda c: {"tensors": c.tensors | {"extra": np.ones(1)}}, "tensor extra belongs to no layer"),
    "configuration": (lambda c: {"config": c.config | {"time_steps": 0}}, "not valid: time_steps is 0"),
    "configuration type": (lambda c: {"config": c.config | {"hidden_size": "wide"}}, "its configuration is not valid"),
    "no task": (lambda c: {"training": {}}, "does not describe the task"),
    "half a task": (lambda c: {"training": {"task": {"name": "x"}}}, "does not describe the task"),
    "no tokenizer": (lambda c: {"tokenizer": {}}, "its tokenizer cannot be read"),
    "broken tokenizer": (
        lambda c: {"tokenizer": c.tokenizer | {"tokenizer.json": "{}"}},
        "its tokenizer cannot be read",
    ),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_file_that_does_not_fit(
    checkpoint: Checkpoint, tmp_path: Path, change: Callable[[Checkpoint], dict[str, Any]], message: str
) -> None:
    path = tmp_path / "model.ckpt"
    write_checkpoint(path, dataclasses.replace(checkpoint, **change(checkpoint)))
    read_checkpoint(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_student(path)
    assert str(caught.value).startswith(str(path))
