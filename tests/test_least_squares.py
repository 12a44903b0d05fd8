"""SpikeBERT's layers, fitted to what the teacher's say."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from neurotool.student import SpikeBertConfig, SpikeBertForSequenceClassification
from neurotool.train.initialise import copy_teacher
from neurotool.train.least_squares import RIDGE, fit_layers, least_squares, source_layers, texts_to_fit

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 16,
}
LAYERS = (0, 1, 2)


def test_a_line_by_hand() -> None:
    """y = 3 x + 1 at x = 0, 2, 4: a squared deviation of 8, to which the ridge adds its share."""
    x = torch.tensor([[0.0], [2.0], [4.0]])
    weight, bias = least_squares(x, 3 * x + 1)
    slope = 3 / (1 + RIDGE)
    assert weight.item() == pytest.approx(slope)
    assert bias.item() == pytest.approx(7 - 2 * slope)


def test_layers_that_are_fitted_to() -> None:
    assert source_layers((0, 2, 3, 4, 6), 6) == [0, 2, 3, 4]
    assert source_layers((0, None, 3, 4, 6), 6) == [0, 1, 3, 4]
    assert source_layers((0, 6, 6), 6) == [0, 5]


def test_how_many_texts_are_read() -> None:
    assert texts_to_fit(1, 128) == 1024 and texts_to_fit(4, 128) == 256 and texts_to_fit(10_000, 512) == 16


def texts(count: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(4, 60, (count, 12), generator=generator)
    lengths = torch.randint(6, 13, (count,), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(12) < lengths[:, None]).long()}


@pytest.mark.parametrize(
    "form",
    [
        {"time_steps": 3},
        {"time_steps": 2, "spikes": "ternary", "attention_softmax": True, "attention_v_threshold": 0.5},
        {"schedule": "phased", "leak": 1.0, "spikes": "ternary", "attention_softmax": True},
        {"schedule": "phased", "leak": 1.0, "v_init": 0.5, "attention_norm": True},
    ],
)
def test_a_fitted_student_says_more_of_what_its_teacher_says_than_a_copy(form: dict[str, Any]) -> None:
    """Of texts that it was not fitted on, by the best linear reading of what each layer hands on."""
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**SHAPE, num_hidden_layers=2, initializer_range=0.15)).eval()
    student = SpikeBertForSequenceClassification(SpikeBertConfig(**SHAPE, num_hidden_layers=2, **form)).train()
    copy_teacher(student, teacher, LAYERS)
    copied = unread(student, teacher)
    fit_layers(student, teacher, texts(256, 1), LAYERS)
    assert student.training
    fitted = unread(student, teacher)
    assert all(after < before for before, after in zip(copied, fitted, strict=True)), (copied, fitted)
    assert fitted[-1] < 0.8 * copied[-1]


def test_neurons_that_fire_whatever_the_text_says_leave_numbers() -> None:
    """Attention without a softmax or norm fires at every step: what reads it is then the same in all tokens."""
    torch.manual_seed(0)
    form: dict[str, Any] = {"schedule": "phased", "leak": 1.0, "v_init": 0.5, "attention_v_threshold": 1e-3}
    teacher = BertForSequenceClassification(BertConfig(**SHAPE, num_hidden_layers=2, initializer_range=0.15)).eval()
    student = SpikeBertForSequenceClassification(SpikeBertConfig(**SHAPE, num_hidden_layers=2, **form))
    copy_teacher(student, teacher, LAYERS)
    fit_layers(student, teacher, texts(32, 1), LAYERS)
    assert all(value.isfinite().all() for value in student.state_dict().values())


@torch.no_grad()
def unread(student: SpikeBertForSequenceClassification, teacher: BertForSequenceClassification) -> list[float]:
    """Of the embedding's and each layer's hidden state the share of the variance that is not told."""
    batch = texts(256, 2)
    real = batch["attention_mask"].bool()
    ours = student(**batch).hidden
    theirs = teacher(**batch, output_hidden_states=True).hidden_states
    left = []
    for x, y in zip(ours, (theirs[layer] for layer in LAYERS), strict=True):
        weight, bias = least_squares(x[real], y[real])
        left.append(float((x[real] @ weight.T + bias - y[real]).square().mean() / y[real].var(0).mean()))
    return left
