"""SpikeBERT's layers, fitted to what the teacher's say."""

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from neurotool.student import SpikeBertConfig, SpikeBertForSequenceClassification
from neurotool.student.spikebert import SpikeBertBlock
from neurotool.train.initialise import copy_teacher
from neurotool.train.least_squares import RIDGE, _LayerFit, fit_layers, least_squares, source_layers, texts_to_fit
from neurotool.train.starting import evenly

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
    concurrent, phased = SpikeBertConfig(time_steps=4), SpikeBertConfig(time_steps=4, schedule="phased", leak=1.0)
    assert texts_to_fit(concurrent, 128) == 128 and texts_to_fit(phased, 128) == 512
    assert texts_to_fit(phased, 16) == 1024
    assert texts_to_fit(SpikeBertConfig(time_steps=10_000), 512) == 16
    assert evenly(10, 4) == [0, 2, 5, 7] and evenly(8, 4) == [0, 2, 4, 6] and evenly(3, 4) == [0, 1, 2]


def test_the_scores_of_a_fitted_student_are_its_teachers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries and keys that each say as much, in units of their own, make other scores."""
    torch.manual_seed(0)
    teacher = BertForSequenceClassification(BertConfig(**SHAPE, num_hidden_layers=2, initializer_range=0.15)).eval()
    form: dict[str, Any] = {"schedule": "phased", "leak": 1.0, "spikes": "ternary", "attention_softmax": True}
    student = SpikeBertForSequenceClassification(SpikeBertConfig(**SHAPE, num_hidden_layers=2, time_steps=16, **form))
    copy_teacher(student, teacher, LAYERS)
    fit_layers(student, teacher, texts(256, 1), LAYERS)
    left = scores_apart(student, teacher)
    assert left < 0.55
    monkeypatch.setattr(_LayerFit, "_fit_scores", lambda fit, *of, part: fit._fit_projection(*of, fit.said[part]))
    fit_layers(student, teacher, texts(256, 1), LAYERS)
    assert scores_apart(student, teacher) > 1.5 * left


@torch.no_grad()
def scores_apart(student: SpikeBertForSequenceClassification, teacher: BertForSequenceClassification) -> float:
    """What the first layer's scores are off the teacher's, less each query's mean, in shares of their variance."""
    batch, layer, read = texts(64, 2), cast(SpikeBertBlock, student.layers[0]), list[Tensor]()
    with pytest.MonkeyPatch.context() as patch:
        attend = layer._attend
        patch.setattr(layer, "_attend", lambda q, k, *of: (read.extend((q, k)), attend(q, k, *of))[1])
        student(**batch)
    x = teacher(**batch, output_hidden_states=True).hidden_states[0]
    attention = teacher.bert.encoder.layer[0].attention.self
    query, key = (layer._split(matrix(x)) for matrix in (attention.query, attention.key))
    theirs, ours = query @ key.mT / query.shape[-1] ** 0.5, read[0] @ read[1].mT * layer.attention_scale
    mask = batch["attention_mask"].bool()
    real = (mask[:, None, None] & mask[:, None, :, None]).expand_as(theirs)
    weights = real / real.sum(-1, keepdim=True).clamp(min=1)
    ours, theirs = (scores - (scores * weights).sum(-1, keepdim=True) for scores in (ours, theirs))
    return float((ours - theirs)[real].square().mean() / theirs[real].square().mean())


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
