"""--cache-teacher: the same outputs, asked for once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from rich.console import Console

from neurotool.checkpoint import read_checkpoint
from neurotool.errors import TeacherError
from neurotool.evaluation import batches
from neurotool.tasks import load_data, tokenise
from neurotool.train import teacher_cache
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.teacher import LoadedTeacher, Teacher, load_teacher
from neurotool.train.teacher_cache import KeptOutputs, keep_outputs

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)


@pytest.fixture
def loaded(tiny_teacher: Path, tiny_data: Callable[[str], Path]) -> LoadedTeacher:
    torch.manual_seed(3)
    return load_teacher(str(tiny_teacher), load_data(tiny_data("pairs")).task)


@pytest.fixture
def texts(loaded: LoadedTeacher, tiny_data: Callable[[str], Path]) -> datasets.Dataset:
    return tokenise(load_data(tiny_data("pairs")).train, loaded.tokenizer, 24)[0]


@pytest.fixture
def keep(
    loaded: LoadedTeacher, texts: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., KeptOutputs]:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path))

    def make(hidden: tuple[int, ...] = (0, 2), attention: tuple[int, ...] = (1, 2), **values: Any) -> KeptOutputs:
        asked = {"teacher": Teacher(loaded.model), "texts": texts, "bfloat16": False} | values
        return keep_outputs(
            asked["teacher"], asked["texts"], loaded.tokenizer, hidden, attention, asked["bfloat16"], QUIET
        )

    return make


@pytest.mark.parametrize("bfloat16", [False, True])
def test_what_is_kept_is_what_the_teacher_says(
    loaded: LoadedTeacher, texts: datasets.Dataset, keep: Callable[..., KeptOutputs], bfloat16: bool
) -> None:
    """Up to the order of sums, which padding changes, and to the digits that are kept."""
    kept, teacher = keep(bfloat16=bfloat16), Teacher(loaded.model)
    assert len(texts) == 100
    near = {"rtol": 0.05, "atol": 0.05} if bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
    for positions, batch in batches(texts.select(range(99, -1, -1)), loaded.tokenizer, 7, torch.device("cpu")):
        mask = batch["attention_mask"]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            wanted = teacher(batch, (0, 2), (1, 2))
        ours = kept.batch([99 - position for position in positions], 2, mask)
        torch.testing.assert_close(ours.logits, wanted.logits.float(), **near)
        for a, b in zip(ours.hidden, wanted.hidden, strict=True):
            torch.testing.assert_close(a.float(), b.float() * mask[..., None], **near)
        for read, theirs in zip(ours.attention, wanted.attention, strict=True):
            for a, b in zip(read, theirs, strict=True):
                torch.testing.assert_close(a.float(), b.float() * mask[:, None, :, None], **near)


def test_the_file_is_of_these_weights_texts_and_layers(
    loaded: LoadedTeacher, texts: datasets.Dataset, keep: Callable[..., KeptOutputs], tmp_path: Path
) -> None:
    def files() -> int:
        return len(list((tmp_path / "outputs").iterdir()))

    keep()
    keep()
    assert files() == 1
    keep((0,), ())
    keep(texts=texts.select(range(50)))
    keep(bfloat16=True)
    assert files() == 4
    with torch.no_grad():
        loaded.model.classifier.bias.add_(1.0)
    keep()
    assert files() == 5


def test_without_room_nothing_is_written(
    keep: Callable[..., KeptOutputs], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(TeacherError, match=r"--cache-teacher: the outputs take .* GB, .*outputs has 0.0; set"):
        keep()
    assert not list((tmp_path / "outputs").iterdir())


def test_training_asks_once_and_learns_the_same(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The teacher is asked in batches of 64, once. Where batches of other sizes round otherwise, single spikes flip,
    and with them answers to texts near the border; the mean loss of all steps hardly changes."""
    options = ("--relation-weight", "1", "--epochs", "2")
    without = train(make_plan(*options, output="without.ckpt"), QUIET)
    batches_asked = 0
    forward = Teacher.forward

    def count(self: Teacher, *arguments: Any) -> Any:
        nonlocal batches_asked
        batches_asked += 1
        return forward(self, *arguments)

    monkeypatch.setattr(Teacher, "forward", count)
    first = train(make_plan(*options, "--cache-teacher", output="first.ckpt"), QUIET)
    assert batches_asked == 1 + 1 + 2  # where the student starts, a text for the sizes, and 100 texts in batches of 64
    second = train(make_plan(*options, "--cache-teacher", output="second.ckpt"), QUIET)
    assert batches_asked == 4 + 1 + 1
    results = (without, first, second)
    losses = [read_checkpoint(result.output).training["stages"][-1]["history"][-1]["train_loss"] for result in results]
    assert losses[1] == losses[2] == pytest.approx(losses[0], rel=0.02)
    metrics = [result.student.metrics["accuracy"] for result in results]
    assert metrics[1] == metrics[2] == pytest.approx(metrics[0], abs=0.1)
    assert min(metrics) >= 0.75
