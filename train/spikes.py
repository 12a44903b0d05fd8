"""Training on labelled spike recordings, through time and without a teacher."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import datasets
import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import TrainerControl, TrainingArguments

from neurotool.activity import Activity, LayerActivity
from neurotool.evaluation import Evaluation
from neurotool.spike_data import Recordings, SpikeData
from neurotool.student.spike_classifier import SpikeClassifier, SpikeClassifierConfig, SpikeOutput
from neurotool.student.student import classification_loss
from neurotool.tasks import Task, compute_metrics
from neurotool.train.compression import Compressor
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.running import finished_before, keep_stage, run_trainer, training_arguments
from neurotool.train.trainer import CHOOSES, UNSETTLED, ReproducibleTrainer

FITTED_ON = 64
"""Recordings that the first scale of the weights is taken from."""
AT_ONCE = 64


class SpikeTraining(nn.Module):
    """A student, and its loss: cross-entropy, and the mean spiking rate times its weight."""

    def __init__(self, plan: TrainingPlan, data: SpikeData) -> None:
        super().__init__()
        _, steps, channels = data.train.spikes.shape
        shape = {"time_steps": steps, "channels": channels, "num_labels": len(data.task.label_names)}
        self.student = SpikeClassifier(SpikeClassifierConfig(**plan.student | shape, time_step=data.time_step))
        spread = np.linspace(0, len(data.train.labels) - 1, min(FITTED_ON, len(data.train.labels))).astype(int)
        self.student.fit(torch.from_numpy(data.train.spikes[spread]).float())
        self.compressor = Compressor(self.student, plan.prune, plan.prune_scope, plan.weight_bits)
        self.weights = plan.stages[-1].weights

    def forward(self, spikes: Tensor, labels: Tensor) -> dict[str, Tensor]:
        output: SpikeOutput = self.student(spikes)
        rate = torch.stack([s.mean() for s in output.spikes.values()]).mean()
        hard = classification_loss(output.logits, labels)
        loss = self.weights.hard * hard + self.weights.rate * rate
        return {"loss": loss, "hard": hard.detach(), "spiking_rate": rate.detach()}

    def run_stage(self, plan: TrainingPlan, stage: StagePlan, data: SpikeData, console: Console) -> dict[str, Any]:
        """Train, or load what an earlier run trained. Returns its training record."""
        described = dataclasses.asdict(stage) | {"recordings": len(data.train.labels)}
        if finished_before(plan, stage, self, console):
            return described
        trainer = SpikeTrainer(self, training_arguments(plan, stage, data.task), data)
        seconds = run_trainer(trainer, plan, stage, console)
        keep_stage(plan, stage, trainer)
        history = trainer.state.log_history
        return described | {"steps": trainer.state.global_step, "seconds": seconds, "history": history}


class SpikeTrainer(ReproducibleTrainer):
    def __init__(self, trained: SpikeTraining, arguments: TrainingArguments, data: SpikeData) -> None:
        self.data, self.trained = data, trained
        self.control: TrainerControl
        super().__init__(
            trained,
            arguments,
            data_collator=self._batch,
            train_dataset=range(len(data.train.labels)),
            eval_dataset=range(len(data.validation.labels)),
            callbacks=[trained.compressor],
        )
        self.args.metric_for_best_model = CHOOSES
        self._terms: dict[str, Tensor] = {}

    def _batch(self, rows: list[int]) -> dict[str, Tensor]:
        train = self.data.train
        return {"spikes": torch.from_numpy(train.spikes[rows]).float(), "labels": torch.from_numpy(train.labels[rows])}

    def _get_train_sampler(self, train_dataset: datasets.Dataset | None = None) -> Sampler[int]:
        return _Shuffled(len(self.data.train.labels), self)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        self._terms = model(**inputs)
        return self._terms["loss"]

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        result = evaluate_spikes(self.trained.student, self.data.validation, self.data.task)
        metrics = {f"eval_{name}": value for name, value in result.metrics.items()}
        metrics["eval_spiking_rate"] = result.activity.mean_rate
        self.log(metrics)
        settled = self.trained.compressor.settled(self.state.global_step, self.state.max_steps)
        metrics[CHOOSES] = metrics[f"eval_{self.data.task.metrics[0]}"] - (0 if settled else UNSETTLED)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs:
            logs |= {name: float(term) for name, term in self._terms.items() if name != "loss"}
        super().log(logs, *args, **kwargs)


class _Shuffled(Sampler[int]):
    """All recordings once, in an order that depends on seed and epoch alone, so that a resumed run sees the same."""

    def __init__(self, count: int, trainer: ReproducibleTrainer) -> None:
        self.count, self.trainer = count, trainer

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        epoch = int(self.trainer.state.epoch or 0)
        generator = torch.Generator().manual_seed(self.trainer.args.seed + epoch)
        return iter(torch.randperm(self.count, generator=generator).tolist())


@torch.inference_mode()
def evaluate_spikes(student: SpikeClassifier, recordings: Recordings, task: Task) -> Evaluation:
    """Metrics, and the spikes of each layer. Puts the student back into the mode it was in."""
    training, device = student.training, student.classifier.weight.device
    student.eval()
    steps = student.config.time_steps
    activity = Activity(steps, steps)
    logits: list[np.ndarray] = []
    for start in range(0, len(recordings.labels), AT_ONCE):
        spikes = torch.from_numpy(recordings.spikes[start : start + AT_ONCE]).float().to(device)
        output: SpikeOutput = student(spikes)
        logits.append(output.logits.float().cpu().numpy())
        real = np.ones((len(spikes), 1), bool)
        activity.add_inputs(real)
        for name, sent in output.spikes.items():
            layer = activity.layers.setdefault(name, LayerActivity(sent.shape[-1]))
            layer.add(sent.sum((1, 2), dtype=torch.float64)[:, None].cpu().numpy(), real)
    student.train(training)
    answers = np.concatenate(logits)
    return Evaluation(compute_metrics(task, answers, recordings.labels), answers, recordings.labels, activity)
