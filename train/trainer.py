"""transformers' Trainer, told how to distil: what a batch's loss is, how a student is evaluated, when to stop."""

import math
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from neurotool.errors import TrainingError
from neurotool.evaluation import evaluate
from neurotool.student import SpikingBertForSequenceClassification
from neurotool.student.spikingbert import classification_loss
from neurotool.tasks import Task
from neurotool.train.losses import attention_loss, hidden_loss, soft_label_loss
from neurotool.train.teacher import Teacher, TeacherOutput


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; a term with weight 0 is not computed.

    hidden: embedding and hidden states; attention: pre-softmax scores; soft: the teacher's logits at `temperature`;
    hard: the true labels; rate: the mean spiking rate, a penalty on energy.
    """

    hidden: float = 1.0
    attention: float = 1.0
    soft: float = 1.0
    hard: float = 0.5
    rate: float = 0.0
    temperature: float = 1.0


class Distiller(nn.Module):
    """A student and the one linear map from its rates to the teacher's hidden states, shared by all taps."""

    def __init__(self, student: SpikingBertForSequenceClassification, teacher_width: int, weights: LossWeights) -> None:
        super().__init__()
        self.student = student
        self.fit = nn.Linear(student.config.hidden_size, teacher_width)
        self.weights = weights
        self._start_fit_at_thresholds()

    @torch.no_grad()
    def _start_fit_at_thresholds(self) -> None:
        """Where widths agree, a rate's natural reading is v_threshold * rate."""
        if self.fit.in_features == self.fit.out_features:
            layers = self.student.neuron_layers
            scale = sum(float(layers[n].v_threshold) for n in self.student.output_names) / len(
                self.student.output_names
            )
            nn.init.eye_(self.fit.weight).mul_(scale)
            nn.init.zeros_(self.fit.bias)

    def forward(self, batch: dict[str, Tensor], taught: TeacherOutput, labels: Tensor | None) -> dict[str, Tensor]:
        """The loss and its terms."""
        weights, mask = self.weights, batch["attention_mask"]
        output = self.student(**batch, output_scores=bool(taught.scores))
        terms: dict[str, Tensor] = {}
        if weights.hidden:
            rates = [output.rates[name] for name in self.student.output_names]
            pairs = zip(rates, taught.hidden, strict=True)
            terms["hidden"] = torch.stack([hidden_loss(self.fit(r), h, mask) for r, h in pairs]).sum()
        if weights.attention:
            pairs = zip(output.attention_scores, taught.scores, strict=True)
            terms["attention"] = torch.stack([attention_loss(s, t, mask) for s, t in pairs]).sum()
        if weights.soft:
            terms["soft"] = soft_label_loss(output.logits, taught.logits, weights.temperature)
        if weights.hard and labels is not None:
            terms["hard"] = classification_loss(output.logits, labels)
        if weights.rate:
            terms["rate"] = torch.stack([r.abs().mean() for r in output.rates.values()]).mean()
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        rate = torch.stack([r.detach().abs().mean() for r in output.rates.values()]).mean()
        return {"loss": loss, "spiking_rate": rate} | {name: term.detach() for name, term in terms.items()}


class DistillationTrainer(Trainer):
    """Trains a Distiller; `task` and validation data are absent in general distillation."""

    def __init__(
        self,
        distiller: Distiller,
        teacher: Teacher,
        layer_map: Sequence[int],
        arguments: TrainingArguments,
        train_dataset: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        validation: datasets.Dataset | None = None,
        task: Task | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        super().__init__(
            distiller,
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=train_dataset,
            eval_dataset=validation,
            processing_class=tokenizer,
            callbacks=list(callbacks),
        )
        self.teacher = teacher.to(arguments.device)
        self.layer_map = layer_map
        self.task = task
        self.model_accepts_loss_kwargs = False
        self._terms: dict[str, Tensor] = {}

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        labels = inputs.pop("labels", None)
        weights = self.distiller.weights
        hidden_layers = self.layer_map if weights.hidden else ()
        score_layers = self.layer_map[1:] if weights.attention else ()
        with self.autocast():
            taught = self.teacher(inputs, hidden_layers, score_layers)
        self._terms = model(inputs, taught, labels)
        loss = self._terms["loss"]
        if not torch.isfinite(loss):
            raise TrainingError(
                f"loss is {loss.item()} at step {self.state.global_step + 1}: training stopped, the last checkpoint in "
                f"{self.args.output_dir} is good; resume with a smaller --learning-rate"
            )
        return loss

    def autocast(self) -> Any:
        return self.accelerator.autocast()

    @property
    def distiller(self) -> Distiller:
        return self.accelerator.unwrap_model(self.model)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:  # type: ignore[override]
        """Validation metrics of the student, and its mean spiking rate."""
        if self.task is None or self.eval_dataset is None:
            return {}
        with self.autocast():
            result = evaluate(self.distiller.student, self.eval_dataset, self.processing_class, self.task)
        metrics = {f"eval_{k}": v for k, v in result.metrics.items()}
        metrics["eval_spiking_rate"] = result.activity.mean_rate
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= {name: float(term) for name, term in self._terms.items() if name != "loss"}
        super().log(logs, *args, **kwargs)


class StopOnInterrupt(TrainerCallback):
    """Ctrl-C finishes the step, saves a checkpoint to resume from, and stops; a second one ends at once."""

    def __init__(self) -> None:
        self.interrupted = False
        self._previous: Any = None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        def handle(signum: int, frame: Any) -> None:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        self._previous = signal.signal(signal.SIGINT, handle)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        if self.interrupted:
            control.should_save = True
            control.should_training_stop = True
        return control

    def on_train_end(self, *_: Any, **__: Any) -> None:
        signal.signal(signal.SIGINT, self._previous or signal.default_int_handler)


def steps_per_epoch(examples: int, batch_size: int, processes: int) -> int:
    return math.ceil(examples / (batch_size * processes))
