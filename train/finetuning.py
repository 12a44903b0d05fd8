"""A teacher without a head for the task gets one: fine-tuned once, then taken from the cache."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.numpy import load_file, save
from torch import nn
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    TrainerControl,
    TrainingArguments,
)

from neurotool.errors import TeacherError, TrainingError, one_line
from neurotool.evaluation import batches
from neurotool.files import replacing
from neurotool.tasks import Task, TaskData, compute_metrics
from neurotool.train.distiller import LossWeights
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.progress import say
from neurotool.train.running import run_trainer, training_arguments
from neurotool.train.teacher import (
    LoadedTeacher,
    cache_folder,
    cache_key,
    load_teacher,
    one_at_a_time,
    store_teacher,
)
from neurotool.train.trainer import ReproducibleTrainer, is_first_process

WEIGHT_DECAY = 0.01
"""Not the student's, so that students of all kinds have the same teacher."""


class PreparedTeacher(NamedTuple):
    """metrics: on the validation data, where fine-tuning has just measured them."""

    model: BertForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    metrics: dict[str, float] | None = None


def prepare_teacher(
    plan: TrainingPlan,
    loaded: LoadedTeacher,
    data: TaskData,
    train_set: datasets.Dataset,
    validation: datasets.Dataset,
    console: Console,
) -> PreparedTeacher:
    """The teacher with a head for the task: as it is, from the cache, or fine-tuned now and cached."""
    if loaded.has_head:
        return PreparedTeacher(loaded.model, loaded.tokenizer)
    settings = {
        "epochs": plan.teacher_epochs,
        "learning_rate": plan.teacher_learning_rate,
        "batch_size": plan.teacher_batch_size,
        "max_length": plan.max_length,
        "weight_decay": WEIGHT_DECAY,
        "warmup": plan.warmup,
        "precision": plan.precision,
        "seed": plan.seed,
    }
    cached = cache_folder() / "teachers" / cache_key(plan.teacher, loaded.identity, data.hashes, settings)
    with one_at_a_time(cached, f"teacher {plan.teacher}", "fine-tuning it", console):
        if cached.is_dir():
            try:
                kept = load_teacher(str(cached), data.task)
            except TeacherError as error:
                say(console, f"warning: what is kept of it cannot be used and is made anew ({error})")
                if is_first_process():
                    shutil.rmtree(cached)
            else:
                say(console, f"teacher {plan.teacher}: fine-tuned before, taken from {cached}")
                return PreparedTeacher(kept.model, kept.tokenizer)
        return _fine_tune(plan, loaded, data, train_set, validation, cached, console)


def _fine_tune(
    plan: TrainingPlan,
    loaded: LoadedTeacher,
    data: TaskData,
    train_set: datasets.Dataset,
    validation: datasets.Dataset,
    cached: Path,
    console: Console,
) -> PreparedTeacher:
    model, tokenizer = loaded.model, loaded.tokenizer
    rate, size = plan.teacher_learning_rate, plan.teacher_batch_size
    stage = StagePlan("teacher", plan.teacher_epochs, rate, size, LossWeights())
    arguments = training_arguments(replace(plan, weight_decay=WEIGHT_DECAY), stage, data.task)
    trainer = TeacherTrainer(model, arguments, train_set, validation, tokenizer, data.task)
    run_trainer(trainer, plan, stage, console)
    model.eval()
    if is_first_process():
        try:
            store_teacher(model, tokenizer, cached)
        except (OSError, SafetensorError) as error:
            raise TeacherError(
                f"{cached}: the fine-tuned teacher cannot be kept there ({one_line(error)}); set NEUROTOOL_CACHE to a "
                "folder with room, then the same command with --resume goes on"
            ) from error
    trainer.accelerator.wait_for_everyone()
    return PreparedTeacher(model, tokenizer, trainer.best_metrics())


class FineTuning(nn.Module):
    """Hides the teacher's PreTrainedModel from the Trainer, which would save old checkpoints' LayerNorms under their
    legacy names (gamma, beta) and then not find them again when it resumes or loads the best epoch."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> Any:
        return self.model(**batch)


class TeacherTrainer(ReproducibleTrainer):
    """Fine-tunes a teacher, and measures it after each epoch as it will teach: in float32, by `evaluate_teacher`."""

    rate_option = "--teacher-learning-rate"

    def __init__(
        self,
        model: BertForSequenceClassification,
        arguments: TrainingArguments,
        train_set: datasets.Dataset,
        validation: datasets.Dataset,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
    ) -> None:
        super().__init__(
            FineTuning(model),
            arguments,
            data_collator=DataCollatorWithPadding(tokenizer),
            train_dataset=train_set,
            eval_dataset=validation,
        )
        self.teacher, self.tokenizer, self.task = model, tokenizer, task
        self.control: TrainerControl

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        measured = evaluate_teacher(self.teacher, self.eval_dataset, self.tokenizer, self.task)
        metrics = {f"eval_{name}": value for name, value in measured.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def best_metrics(self) -> dict[str, float]:
        """Of the epoch whose weights are kept."""
        names = {f"eval_{name}": name for name in self.task.metrics}
        best = [entry for entry in self.state.log_history if entry["step"] == self.state.best_global_step]
        return {names[name]: value for entry in best for name, value in entry.items() if name in names}


def learned_nothing(metrics: dict[str, float], dataset: datasets.Dataset, task: Task) -> bool:
    """Whether the main metric is no better than that of giving every text the most frequent class; a correlation, than
    two standard errors of 0."""
    labels = np.asarray(dataset["labels"])
    constant = np.zeros((len(labels), task.num_labels))
    if not task.regression:
        constant[:, np.bincount(labels).argmax()] = 1
    main = task.metrics[0]
    chance = 2 / np.sqrt(len(labels)) if task.regression else compute_metrics(task, constant, labels)[main]
    return bool(metrics[main] <= chance)


@torch.inference_mode()
def predict_logits(
    model: BertForSequenceClassification, dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase
) -> np.ndarray:
    """The teacher's logits (texts, labels) of a tokenised dataset."""
    model.eval()
    logits = np.zeros((len(dataset), model.config.num_labels), np.float32)
    for positions, batch in batches(dataset, tokenizer, 64, model.device):
        logits[positions] = model(**batch).logits.float().cpu().numpy()
    return logits


def evaluate_teacher(
    model: BertForSequenceClassification, dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, task: Task
) -> dict[str, float]:
    return compute_metrics(task, predict_logits(model, dataset, tokenizer), np.asarray(dataset["labels"]))


def label_variants(
    plan: TrainingPlan,
    model: BertForSequenceClassification,
    variants: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
) -> datasets.Dataset:
    """`variants` with the teacher's own class, or score, as labels; kept in the run's folder for --resume."""
    kept = plan.state_folder / "augmentation.safetensors"
    labels = _kept_labels(kept, len(variants)) if plan.resume else None
    if labels is None:
        logits = predict_logits(model, variants, tokenizer)
        labels = np.ascontiguousarray(logits[:, 0]) if task.regression else logits.argmax(-1)
        if is_first_process():
            with replacing(kept, force=True, error_type=TrainingError) as temporary:
                temporary.write_bytes(save({"labels": labels}))
    return variants.add_column("labels", labels)


def _kept_labels(path: Path, count: int) -> np.ndarray | None:
    """Labels that an earlier run made; None where they cannot be read, so that they are made again."""
    try:
        labels = load_file(path)["labels"]
    except (OSError, KeyError, SafetensorError):
        return None
    return labels if labels.shape == (count,) else None
