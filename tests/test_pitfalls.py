"""Mistakes that published code of this field makes silently. The others are held where the part lies:

- the teacher is in eval mode while it teaches, and the student in train mode in every epoch:
  test_teacher.py::test_in_training_it_stays_in_eval_mode
- an evaluation leaves the student in train mode: test_evaluation.py::test_the_mode_is_restored,
  test_students.py::test_evaluation_leaves_a_student_in_the_mode_it_was_in
- padding changes nothing: test_students.py, test_spikingbert.py::test_padding_changes_nothing
- the order of words is seen: test_students.py::test_the_order_of_words_matters,
  test_spikingbert.py::test_order_and_segments_matter
- a checkpoint that lacks a tensor, or has one too many, is refused: test_serialise.py::test_a_file_that_does_not_fit
- the best epoch is that of validation: test_train.py::test_the_best_epoch_is_chosen_on_validation
- labels of augmented texts are the teacher's: test_augmentation.py::test_labels_are_not_those_of_the_texts
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from transformers import Trainer

from neurotool.checkpoint import read_checkpoint
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.trainer import DistillationTrainer

QUIET = Console(quiet=True)


@pytest.mark.parametrize("kind", ["spikingbert", "spikebert", "spikformer"])
def test_blocks_have_gradients_after_an_evaluation(
    make_plan: Callable[..., TrainingPlan], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """An evaluation that leaves the network in eval mode has made them exactly 0 from the second epoch on."""
    largest: dict[int, dict[str, float]] = {0: {}, 1: {}}
    training_step = Trainer.training_step

    def spy(self: Trainer, *arguments: Any) -> Any:
        loss = training_step(self, *arguments)
        if isinstance(self, DistillationTrainer):
            epoch = largest[int(self.state.epoch or 0)]
            for name, weight in self.distiller.student.named_parameters():
                if weight.requires_grad:
                    assert weight.grad is not None, name
                    epoch[name] = max(epoch.get(name, 0.0), float(weight.grad.abs().max()))
        return loss

    monkeypatch.setattr(Trainer, "training_step", spy)
    train(make_plan("--student", kind, "--epochs", "2"), QUIET)
    assert largest[0].keys() == largest[1].keys()
    blocks = [name for name in largest[1] if "layer" in name and name.endswith("weight")]
    assert len(blocks) >= 2 * 6, "six weight matrices a layer"
    assert [name for name in blocks if not largest[1][name]] == []


def test_no_test_file_is_opened(
    make_plan: Callable[..., TrainingPlan], tiny_data: Callable[[str], Path], tmp_path: Path
) -> None:
    """One that cannot be read lies beside the others."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_data("classes"), folder)
    (folder / "test.tsv").write_bytes(b"\xff\x00 no table")
    opened: set[str] = set()
    listening = True

    def listen(event: str, arguments: tuple[Any, ...]) -> None:  # such a hook cannot be taken away again
        if listening and event == "open" and isinstance(arguments[0], str) and Path(arguments[0]).parent == folder:
            opened.add(Path(arguments[0]).name)

    sys.addaudithook(listen)
    result = train(make_plan("--data", str(folder), "--epochs", "2"), QUIET)
    listening = False
    assert opened == {"train.tsv", "validation.tsv"}
    assert read_checkpoint(result.output).training["data"]["hashes"].keys() == {"train", "validation"}
