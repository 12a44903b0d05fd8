"""A moving average of a student's weights, which is measured and kept in place of the last ones."""

from typing import Any

from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neurotool.student import Student


def averaged(student: Student, decay: float) -> AveragedModel:
    """A copy of the student that takes an exponential moving average of its weights; the first steps count for less, so
    that a short run is not an average of its beginning. What norms have counted is averaged with them: the mean of a
    current is linear in the weights."""

    def update(averaged: Any, weights: Any, steps: Tensor | int) -> None:
        share = 1 - min(decay, (1 + int(steps)) / (10 + int(steps)))
        for average, weight in zip(averaged, weights, strict=True):  # some may be shared out, which no one call takes
            if average.is_floating_point():
                average.lerp_(weight, share)
            else:
                average.copy_(weight)

    return AveragedModel(student, multi_avg_fn=update, use_buffers=True).requires_grad_(False)


class Average(TrainerCallback):
    def __init__(self, average: AveragedModel, student: Student) -> None:
        self.average, self.student = average, student

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.average.update_parameters(self.student)
