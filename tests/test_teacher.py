"""The teacher: what can teach, always frozen and in eval mode, and its cache."""

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from rich.console import Console
from transformers import AutoConfig, BertForSequenceClassification

from neurotool.errors import TeacherError
from neurotool.tasks import Task
from neurotool.train import finetuning
from neurotool.train.finetuning import learned_nothing
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.teacher import Teacher, cache_key, load_teacher, store_teacher
from neurotool.train.trainer import DistillationTrainer

TASK = Task("reviews", ("sentence",), ("negative", "positive"), ("accuracy",))
SCORES = Task("scores", ("sentence",), (), ("pearson",))
MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
BATCH = {"input_ids": torch.tensor([[2, 5, 9, 11, 12, 3], [2, 7, 14, 3, 0, 0]]), "attention_mask": MASK}


@pytest.fixture
def copy(tiny_teacher: Path, tmp_path: Path) -> Path:
    """A copy of the tiny teacher that a test may spoil."""
    return Path(shutil.copytree(tiny_teacher, tmp_path / "copy"))


@pytest.fixture
def headed(copy: Path) -> Path:
    """A teacher with a head of two labels."""
    model, tokenizer, has_head = load_teacher(str(copy), TASK)
    assert not has_head
    folder = copy.with_name("headed")
    store_teacher(model, tokenizer, folder)
    return folder


def refusal(folder: Path | str, task: Task = TASK) -> str:
    with pytest.raises(TeacherError) as caught:
        load_teacher(str(folder), task)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def change_config(folder: Path, **values: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


# --- it teaches in eval mode -----------------------------------------------------------------------------------------


def test_it_never_trains(tiny_teacher: Path) -> None:
    model = load_teacher(str(tiny_teacher), TASK).model
    assert model.config.hidden_dropout_prob == 0.1
    teacher = Teacher(model.train())
    for module in (teacher, torch.nn.ModuleList([teacher])):
        module.train()
        assert not any(part.training for part in model.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    first, second = (teacher(BATCH, (0, 2), (1, 2)) for _ in range(2))
    assert torch.equal(first.logits, second.logits) and not first.logits.requires_grad
    for a, b in zip(first.hidden + first.attention[0], second.hidden + second.attention[0], strict=True):
        assert torch.equal(a, b)


def test_scores_are_those_before_the_softmax(tiny_teacher: Path) -> None:
    teacher = Teacher(load_teacher(str(tiny_teacher), TASK).model)
    eager = BertForSequenceClassification.from_pretrained(tiny_teacher, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = eager(**BATCH, output_attentions=True, output_hidden_states=True)
    taught = teacher(BATCH, (0, 1, 2), (1, 2))
    for ours, theirs in zip(taught.hidden, wanted.hidden_states, strict=True):
        torch.testing.assert_close(ours[MASK.bool()], theirs[MASK.bool()])
    for read, attention in zip(taught.attention, wanted.attentions, strict=True):
        assert read.scores.shape == (2, 2, 6, 6)
        ours = read.scores.masked_fill(MASK[:, None, None] == 0, -math.inf).softmax(-1)
        torch.testing.assert_close(ours, attention)
    part = teacher(BATCH, (), (2,))
    assert part.hidden == () and torch.equal(part.attention[0].scores, taught.attention[1].scores)
    assert not teacher._projections, "projections of a batch are kept after it"


def test_in_training_it_stays_in_eval_mode(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the evaluations of two stages; and the student, whose dropout must act, is in train mode."""
    seen = []
    compute_loss = DistillationTrainer.compute_loss

    def spy(self: DistillationTrainer, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        seen.append(any(part.training for part in self.teacher.model.modules()))
        assert model.training and all(part.training for part in self.distiller.student.modules())
        hooks = self.teacher.model.bert.encoder.layer[0].attention.self.query._forward_hooks
        assert len(hooks) == 1, "every stage adds its own hooks"
        return compute_loss(self, model, inputs, *arguments, **options)

    monkeypatch.setattr(DistillationTrainer, "compute_loss", spy)
    train(make_plan("--epochs", "2", "--inner-epochs", "2", "--dropout", "0.1"), QUIET)
    assert len(seen) == 4 * 7 and not any(seen)  # 100 texts in batches of 16: the last, partial one is used


# --- what can teach --------------------------------------------------------------------------------------------------


def test_a_head_is_used_as_it_is(headed: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuning, "run_trainer", lambda *_: pytest.fail("fine-tuned though it has a head"))
    assert load_teacher(str(headed), TASK).has_head
    assert train(make_plan("--teacher", str(headed), "--epochs", "1"), QUIET).output.exists()


def test_a_fine_tuned_teacher_is_cached(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    options = ("--teacher-epochs", "1", "--epochs", "1")
    first = train(make_plan(*options), QUIET)
    assert [folder.name[:5] for folder in (tmp_path / "cache" / "teachers").iterdir()] == ["tiny-"]
    other = make_plan("--teacher-epochs", "2", "--epochs", "1", output="other.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "run_trainer", lambda *_: pytest.fail("fine-tuned again"))
        second = train(make_plan(*options, output="second.ckpt"), QUIET)
        train(make_plan(*options, "--weight-decay", "0.3", output="third.ckpt"), QUIET)
        with pytest.raises(pytest.fail.Exception):
            train(other, QUIET)
    assert second.teacher == first.teacher
    assert (second.student.logits == first.student.logits).all(), "the student depends on whether the cache was filled"


def test_what_counts_as_having_learned_nothing() -> None:
    """Labels 1, 1, 0: always 1 is right twice in three. A correlation of 0.2 on 100 scores is two standard errors."""
    classes = datasets.Dataset.from_dict({"labels": [1, 1, 0]})
    assert learned_nothing({"accuracy": 2 / 3}, classes, TASK)
    assert not learned_nothing({"accuracy": 0.67}, classes, TASK)
    scores = datasets.Dataset.from_dict({"labels": [i / 100 for i in range(100)]})
    assert all(learned_nothing({"pearson": r}, scores, SCORES) for r in (-0.5, 0.0, 0.19))
    assert not learned_nothing({"pearson": 0.21}, scores, SCORES)


def test_a_teacher_that_learned_nothing_is_named(make_plan: MakePlan) -> None:
    said = io.StringIO()
    plan = make_plan("--teacher-learning-rate", "1e-9", "--teacher-epochs", "1", "--epochs", "1")
    train(plan, Console(file=said, width=80))
    assert (
        "warning: the teacher's accuracy is no better than that of giving every text the most frequent"
        in said.getvalue()
    )
    assert "--max-length 128: the teacher has 24 positions" in said.getvalue()
    assert "\nprediction: " in said.getvalue() and " steps\n" in said.getvalue()

    said = io.StringIO()
    untaught = ("--student", "spikformer", "--teacher-learning-rate", "1e-9", "--teacher-epochs", "1", "--epochs", "1")
    train(make_plan(*untaught, output="untaught.ckpt"), Console(file=said, width=80))
    assert "validation accuracy" in said.getvalue() and "warning" not in said.getvalue()


def test_the_cache_key_depends_on_weights_data_and_settings(copy: Path) -> None:
    key = cache_key(str(copy), {"train": "a"}, {"seed": 1})
    assert key == cache_key(str(copy), {"train": "a"}, {"seed": 1})
    assert len({key, cache_key(str(copy), {"train": "b"}, {"seed": 1}), cache_key(str(copy), {"train": "a"}, {})}) == 3
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert cache_key(str(copy), {"train": "a"}, {"seed": 1}) != key


def test_not_a_bert(copy: Path) -> None:
    change_config(copy, model_type="distilbert", architectures=["DistilBertModel"])
    assert "is a 'distilbert' model: only BERT architectures" in refusal(copy)


def test_only_pickled_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "it needs weights as .safetensors" in refusal(copy)


def test_damaged_weights(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    assert "cannot be loaded" in refusal(copy)


def test_no_tokenizer(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    assert "has no tokenizer: put its tokenizer.json" in refusal(copy)


def test_a_tokenizer_with_more_words_than_the_embedding(copy: Path) -> None:
    tokenizer = load_teacher(str(copy), TASK).tokenizer
    tokenizer.add_tokens(["new"])
    tokenizer.save_pretrained(copy)
    assert "its tokenizer has 32 tokens, its embedding only 31" in refusal(copy)


def test_missing_folder() -> None:
    assert "give a local folder, or go online for a Hugging Face id" in refusal("/nowhere/teacher")
    assert "give a local folder, or go online" in refusal("nobody/no-such-teacher")


def test_another_number_of_labels(headed: Path) -> None:
    three = Task("three", ("sentence",), ("a", "b", "c"), ("accuracy",))
    assert "has a head for 2 labels, task three has 3" in refusal(headed, three)
    assert "has a head for 2 labels, task scores has 1" in refusal(headed, SCORES)


def test_labels_in_another_order(headed: Path) -> None:
    assert AutoConfig.from_pretrained(headed).id2label == {0: "negative", 1: "positive"}
    change_config(headed, id2label={"0": "POSITIVE", "1": "NEGATIVE"}, label2id={"POSITIVE": 0, "NEGATIVE": 1})
    assert "in the order positive, negative, the data in the order negative, positive" in refusal(headed)
    change_config(headed, id2label={"0": "LABEL_0", "1": "LABEL_1"}, label2id={"LABEL_0": 0, "LABEL_1": 1})
    assert load_teacher(str(headed), TASK).has_head


def test_a_failed_store_leaves_nothing(headed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer, _ = load_teacher(str(headed), TASK)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(OSError):
        store_teacher(model, tokenizer, tmp_path / "cache" / "x")
    assert list((tmp_path / "cache").iterdir()) == []
