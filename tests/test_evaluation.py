"""Evaluation: activity by hand, and results that do not depend on how the data were batched."""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from neurotool.activity import LayerActivity
from neurotool.errors import DataError, NeurotoolWarning
from neurotool.evaluation import batches, evaluate, predict, validation_examples
from neurotool.student import SpikingBertForSequenceClassification
from neurotool.tasks import Task, content_hash, tokenise

Student = SpikingBertForSequenceClassification
MakeStudent = Callable[..., Student]

TASK = Task("films", ("sentence1",), ("bad", "good"), ("accuracy", "f1"))
TEXTS = ["a fine film", "dull", "the best actor at all and no plot", "a film with the best plot", "no", "all dull"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in TEXTS for word in text.split()})]
LABELS = [1, 0, 1, 1, 0, 0]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


@pytest.fixture(scope="module")
def dataset(tokenizer: PreTrainedTokenizerFast) -> datasets.Dataset:
    texts = datasets.Dataset.from_dict({"sentence1": TEXTS, "label": LABELS})
    return tokenise(texts, tokenizer, 16)[0]


def test_texts_whose_identity_no_record_tells(tmp_path: Path) -> None:
    """Checkpoints of old versions have no hash: that it could not be compared is said."""
    (tmp_path / "validation.tsv").write_text("sentence1\tlabel\na fine film\tgood\ndull\tbad\n")
    plan = {"plan": {"data": str(tmp_path)}}
    with pytest.warns(NeurotoolWarning, match="has no hash of the texts that it was validated on: whether it is these"):
        examples = validation_examples(None, TASK, plan)
    hashes = {"data": {"hashes": {"validation": content_hash(examples)}}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert validation_examples(None, TASK, plan | hashes)[:] == examples[:]
        assert validation_examples(tmp_path / "validation.tsv", TASK, plan)[:] == examples[:]
    with pytest.raises(DataError, match="not the texts that the student was validated on"):
        validation_examples(None, TASK, plan | {"data": {"hashes": {"validation": "0" * 64}}})


def test_batches_hold_every_text_once(tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset) -> None:
    seen: list[int] = []
    for positions, batch in batches(dataset, tokenizer, 4, torch.device("cpu")):
        lengths = [len(dataset[i]["input_ids"]) for i in positions]
        assert batch["attention_mask"].sum(1).tolist() == lengths and batch["input_ids"].shape[1] == max(lengths)
        for i, ids, length in zip(positions, batch["input_ids"], lengths, strict=True):
            assert ids[:length].tolist() == dataset[i]["input_ids"]
        assert set(batch) <= {"input_ids", "attention_mask", "token_type_ids"}
        seen += positions
    assert sorted(seen) == list(range(6)) and seen != sorted(seen)


def unpadded(layer: LayerActivity) -> LayerActivity:
    assert layer.active is not None and 0 < layer.active.spikes <= layer.spikes
    active = dataclasses.replace(layer.active, padding_spikes=0)
    return dataclasses.replace(layer, padding_spikes=0, active=active)


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_results_do_not_depend_on_the_batch_size(
    make_student: MakeStudent, tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset, schedule: str
) -> None:
    student = make_student(schedule=schedule, time_steps=5, v_threshold=0.7)
    all_at_once, one_by_one, pairs = (evaluate(student, dataset, tokenizer, TASK, batch_size=n) for n in (64, 1, 2))
    lengths = [len(text.split()) + 2 for text in TEXTS]
    for result in (all_at_once, one_by_one, pairs):
        np.testing.assert_allclose(result.logits, all_at_once.logits, atol=1e-5)
        assert result.metrics == all_at_once.metrics
        assert result.labels.tolist() == LABELS
        assert (result.activity.inputs, result.activity.tokens) == (6, sum(lengths))
        assert result.activity.token_pairs == sum(n * n for n in lengths)
        for name, layer in result.activity.layers.items():
            assert unpadded(layer) == unpadded(all_at_once.activity.layers[name])
    assert one_by_one.activity.padding == 0 < all_at_once.activity.padding
    assert all_at_once.logits.dtype == np.float32 and all_at_once.logits.shape == (6, 2)
    accuracy = (all_at_once.logits.argmax(1) == LABELS).mean()
    assert all_at_once.metrics["accuracy"] == pytest.approx(accuracy)


def test_activity_counts_the_spikes_of_the_windows(
    make_student: MakeStudent, tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset
) -> None:
    for spikes in ("binary", "ternary"):
        student = make_student(time_steps=5, spikes=spikes)
        activity = evaluate(student, dataset, tokenizer, TASK, batch_size=1).activity
        counted = dict.fromkeys(student.neuron_layers, 0)
        for row in dataset:
            ids = torch.tensor([row["input_ids"]])
            for name, s in student.window_spikes(ids, torch.ones_like(ids)).items():
                counted[name] += int(s.abs().sum())
        assert {name: layer.spikes for name, layer in activity.layers.items()} == counted
        assert 0 < activity.mean_rate < 1


def test_time_steps_can_be_overridden(
    make_student: MakeStudent, tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset
) -> None:
    five, nine = make_student(time_steps=5), make_student(time_steps=9)
    overridden = evaluate(five, dataset, tokenizer, TASK, time_steps=9)
    configured = evaluate(nine, dataset, tokenizer, TASK)
    assert overridden.activity.time_steps == configured.activity.time_steps == 9
    assert overridden.activity == configured.activity
    np.testing.assert_array_equal(overridden.logits, configured.logits)
    assert five.config.time_steps == 5


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_restored(
    make_student: MakeStudent, tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset, training: bool
) -> None:
    student = make_student(hidden_dropout_prob=0.5).train(training)
    first = evaluate(student, dataset, tokenizer, TASK).logits
    assert all(module.training == training for module in student.modules())
    np.testing.assert_array_equal(first, evaluate(student, dataset, tokenizer, TASK).logits)  # no dropout
    assert all(parameter.grad is None for parameter in student.parameters())


def test_regression(make_student: MakeStudent, tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset) -> None:
    task = Task("scores", ("sentence1",), (), ("pearson", "spearman"))
    scores = [0.5, 1.5, 2.0, 4.0, 3.0, 0.0]
    scored = dataset.remove_columns("labels").add_column("labels", scores)
    result = evaluate(make_student(num_labels=1), scored, tokenizer, task)
    assert result.logits.shape == (6, 1) and result.labels.tolist() == scores
    assert result.metrics["pearson"] == pytest.approx(np.corrcoef(result.logits[:, 0], scores)[0, 1])


def test_prediction(make_student: MakeStudent, tokenizer: PreTrainedTokenizerFast, dataset: datasets.Dataset) -> None:
    student = make_student(v_threshold=0.7)
    logits, _ = predict(student, tokenizer, [(text,) for text in TEXTS], 16)
    np.testing.assert_allclose(logits, evaluate(student, dataset, tokenizer, TASK).logits, atol=1e-5)
    pairs, _ = predict(student, tokenizer, [("a fine film", "no plot"), ("dull", "the best")], 16)
    assert pairs.shape == (2, 2)
    assert not np.allclose(
        pairs, predict(student, tokenizer, [("no plot", "a fine film"), ("the best", "dull")], 16)[0]
    )
    long, cut = predict(student, tokenizer, [("film " * 200,), ("film",)], 16)
    assert cut == 1
    np.testing.assert_array_equal(long, predict(student, tokenizer, [("film " * 14,), ("film",)], 16)[0])
