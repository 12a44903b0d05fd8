"""The main job: teacher, student, stages, checkpoint. Each step leaves its result in the run's folder, so that a run
that was stopped goes on where it was."""

import dataclasses
import os
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import transformers
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import (
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import get_last_checkpoint

from neurotool.checkpoint import write_checkpoint
from neurotool.errors import ConfigError
from neurotool.evaluation import Evaluation, batches, evaluate
from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification
from neurotool.student.serialise import to_checkpoint
from neurotool.tasks import Task, TaskData, compute_metrics, load_data, load_task, tokenise
from neurotool.train.corpus import load_corpus
from neurotool.train.initialise import copy_teacher, fit_spikes
from neurotool.train.plan import StagePlan, TrainingPlan, open_run
from neurotool.train.progress import ShowProgress
from neurotool.train.teacher import Teacher, cache_folder, cache_key, load_teacher, store_teacher
from neurotool.train.trainer import DistillationTrainer, Distiller, StopOnInterrupt

_SHAPE = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    output: Path
    teacher: dict[str, float]
    student: Evaluation
    seconds: float


def train(plan: TrainingPlan, console: Console) -> TrainingResult:
    """Run `plan`; returns validation metrics of teacher and student. Under torchrun every process calls this.

    Raises NeurotoolError for bad input, TrainingError for a loss that is not finite, KeyboardInterrupt after Ctrl-C
    (with the state saved).
    """
    started = time.monotonic()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    open_run(plan)
    set_seed(plan.seed)
    data = load_data(plan.data, plan.metric) if plan.data else load_task(plan.task)
    teacher, tokenizer = prepare_teacher(plan, data, console)
    train_set, validation = tokenise_splits(data, tokenizer, plan.max_length, console)
    teacher_metrics = evaluate_teacher(teacher, validation, tokenizer, data.task)
    console.print(f"teacher {plan.teacher}: validation {_line(teacher_metrics)}")
    layer_map = choose_layer_map(plan, teacher.config.num_hidden_layers)
    distiller = start_student(plan, teacher, train_set, tokenizer, layer_map)
    record: list[dict[str, Any]] = []
    for stage in plan.stages:
        if not stage.epochs or (stage.name == "general" and plan.corpus is None):
            continue
        texts = train_set
        if stage.name == "general":
            texts = load_corpus(str(plan.corpus), tokenizer, plan.max_length, plan.max_texts)
        record.append(
            run_stage(plan, stage, distiller, teacher, layer_map, tokenizer, texts, validation, data, console)
        )
    student = distiller.student.eval()
    result = evaluate(student, validation, tokenizer, data.task)
    seconds = time.monotonic() - started
    if _is_first_process():
        training = {
            "teacher": {"name": plan.teacher, "layers": teacher.config.num_hidden_layers, "metrics": teacher_metrics},
            "metrics": result.metrics,
            "data": {"name": data.task.name, "hashes": data.hashes, "validation_size": len(validation)},
            "plan": plan.to_dict(),
            "layer_map": list(layer_map),
            "stages": record,
            "seed": plan.seed,
            "seconds": round(seconds, 1),
            "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "versions": {name: version(name) for name in ("neurotool", "torch", "transformers", "numpy")},
        }
        checkpoint = to_checkpoint(student, tokenizer, data.task, training, result.activity.to_dict())
        write_checkpoint(plan.output, checkpoint)
        _discard_run(plan.folder)
    return TrainingResult(plan.output, teacher_metrics, result, seconds)


def prepare_teacher(
    plan: TrainingPlan, data: TaskData, console: Console
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerBase]:
    """The teacher with a head for the task: as it is, from the cache, or fine-tuned now and cached."""
    model, tokenizer, has_head = load_teacher(plan.teacher, data.task)
    if has_head:
        return model, tokenizer
    settings = {
        "epochs": plan.teacher_epochs,
        "learning_rate": plan.teacher_learning_rate,
        "batch_size": plan.teacher_batch_size,
        "max_length": plan.max_length,
        "precision": plan.precision,
        "seed": plan.seed,
    }
    cached = cache_folder() / "teachers" / cache_key(plan.teacher, data.hashes, settings)
    if cached.is_dir():
        console.print(f"teacher {plan.teacher}: fine-tuned before, taken from {cached}")
        return load_teacher(str(cached), data.task)[:2]
    train_set, validation = tokenise_splits(data, tokenizer, plan.max_length, Console(quiet=True))
    stage = StagePlan("teacher", plan.teacher_epochs, plan.teacher_learning_rate, plan.teacher_batch_size, None)
    arguments = training_arguments(plan, stage, data.task)
    trainer = Trainer(
        FineTuning(model),
        arguments,
        data_collator=DataCollatorWithPadding(tokenizer),
        train_dataset=train_set,
        eval_dataset=validation,
        compute_metrics=lambda p: compute_metrics(data.task, np.asarray(p.predictions), np.asarray(p.label_ids)),
    )
    run_trainer(trainer, plan, stage, console)
    model.cpu().eval()
    if _is_first_process():
        store_teacher(model, tokenizer, cached)
    trainer.accelerator.wait_for_everyone()
    return model, tokenizer


class FineTuning(nn.Module):
    """Hides the teacher's PreTrainedModel from the Trainer, which would save old checkpoints' LayerNorms under their
    legacy names (gamma, beta) and then not find them again when it resumes or loads the best epoch."""

    def __init__(self, model: BertForSequenceClassification) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> Any:
        return self.model(**batch)


def tokenise_splits(
    data: TaskData, tokenizer: PreTrainedTokenizerBase, max_length: int, console: Console
) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Tokenised train and validation; says how many texts were truncated."""
    splits = []
    for name, split in (("train", data.train), ("validation", data.validation)):
        tokens, truncated = tokenise(split, tokenizer, max_length)
        splits.append(tokens)
        if truncated:
            console.print(f"{name}: {truncated} of {len(tokens)} texts are longer than {max_length} tokens: cut")
    return splits[0], splits[1]


@torch.inference_mode()
def evaluate_teacher(
    model: BertForSequenceClassification, dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, task: Task
) -> dict[str, float]:
    model.eval()
    logits = np.zeros((len(dataset), task.num_labels), np.float32)
    for positions, batch in batches(dataset, tokenizer, 64, model.device):
        logits[positions] = model(**batch).logits.float().cpu().numpy()
    return compute_metrics(task, logits, np.asarray(dataset["labels"]))


def choose_layer_map(plan: TrainingPlan, teacher_layers: int) -> tuple[int, ...]:
    """The teacher's hidden state for the student's embedding and each layer; evenly spread by default."""
    layers = plan.student.get("num_hidden_layers", 4)
    if plan.layer_map is None:
        return tuple(round(i * teacher_layers / layers) for i in range(layers + 1))
    if len(plan.layer_map) != layers + 1 or not all(0 <= i <= teacher_layers for i in plan.layer_map):
        raise ConfigError(
            f"--layer-map {','.join(map(str, plan.layer_map))}: give {layers + 1} numbers (embedding and {layers} "
            f"layers) between 0 and {teacher_layers}, the teacher's layers"
        )
    return plan.layer_map


def start_student(
    plan: TrainingPlan,
    teacher: BertForSequenceClassification,
    train_set: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    layer_map: tuple[int, ...],
) -> Distiller:
    """A student of the planned shape, started from the teacher or at random, thresholds fitted on 64 training texts."""
    shape = {name: getattr(teacher.config, name) for name in _SHAPE}
    labels = {"num_labels": teacher.config.num_labels, "id2label": teacher.config.id2label}
    config = SpikingBertConfig(**shape | labels | {"problem_type": teacher.config.problem_type} | plan.student)
    student = SpikingBertForSequenceClassification(config)
    same_shape = all(getattr(config, name) == shape[name] for name in _SHAPE)
    if plan.init == "teacher" or (plan.init == "auto" and same_shape):
        copy_teacher(student, teacher, layer_map)
    sample = train_set.select(range(min(64, len(train_set))))
    columns = ("input_ids", "attention_mask", "token_type_ids")
    batch = tokenizer.pad({c: sample[c][:] for c in columns}, return_tensors="pt")
    fit_spikes(student, batch, plan.max_shift)
    return Distiller(student, teacher.config.hidden_size, plan.stages[-1].weights)


def run_stage(
    plan: TrainingPlan,
    stage: StagePlan,
    distiller: Distiller,
    teacher: BertForSequenceClassification,
    layer_map: tuple[int, ...],
    tokenizer: PreTrainedTokenizerBase,
    texts: datasets.Dataset,
    validation: datasets.Dataset,
    data: TaskData,
    console: Console,
) -> dict[str, Any]:
    """Train one stage, or load its result when an earlier run finished it. Returns its training record."""
    finished = plan.folder / f"{stage.name}.safetensors"
    described = dataclasses.asdict(stage) | {"texts": len(texts)}
    if plan.resume and finished.exists():
        distiller.load_state_dict(load_file(finished))
        console.print(f"{stage.name}: finished before, loaded")
        return described
    distiller.weights = stage.weights
    task = None if stage.name == "general" else data.task
    trainer = DistillationTrainer(
        distiller,
        Teacher(teacher),
        layer_map,
        training_arguments(plan, stage, task),
        texts,
        tokenizer,
        validation if task else None,
        task,
    )
    seconds = run_trainer(trainer, plan, stage, console)
    distiller.to("cpu")
    if _is_first_process():
        temporary = finished.with_suffix(".tmp")
        save_file(distiller.state_dict(), temporary)
        temporary.replace(finished)
        shutil.rmtree(plan.folder / stage.name, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return described | {"steps": trainer.state.global_step, "seconds": seconds, "history": trainer.state.log_history}


def run_trainer(trainer: Trainer, plan: TrainingPlan, stage: StagePlan, console: Console) -> float:
    """Train with our progress display, TensorBoard log and Ctrl-C handling; returns seconds."""
    interrupt = StopOnInterrupt()
    callbacks: list[TrainerCallback] = [ShowProgress(console, stage.name), interrupt]
    if _is_first_process():
        callbacks.append(TensorBoardCallback(SummaryWriter(str(plan.folder / "tensorboard" / stage.name))))
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    folder = plan.folder / stage.name
    last = get_last_checkpoint(str(folder)) if plan.resume and folder.is_dir() else None
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=last)
    if interrupt.interrupted:
        raise KeyboardInterrupt(
            f"stopped in stage {stage.name} at step {trainer.state.global_step}; the same command with --resume goes on"
        )
    return round(time.monotonic() - started, 1)


def training_arguments(plan: TrainingPlan, stage: StagePlan, task: Task | None) -> TrainingArguments:
    """Trainer settings of a stage; without a task nothing is evaluated and the last state is kept."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    if stage.batch_size % processes:
        raise ConfigError(f"batch size {stage.batch_size} is not divisible by {processes} processes")
    chosen: dict[str, Any] = {"save_strategy": "steps", "save_steps": 500}
    if task is not None:
        chosen = {
            "save_strategy": "epoch",
            "eval_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": f"eval_{task.metrics[0]}",
            "greater_is_better": True,
        }
    use_cpu = not torch.cuda.is_available()
    return TrainingArguments(
        str(plan.folder / stage.name),
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        per_device_train_batch_size=stage.batch_size // processes,
        per_device_eval_batch_size=64,
        weight_decay=plan.weight_decay,
        warmup_steps=plan.warmup,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=plan.precision == "bfloat16",
        use_cpu=use_cpu,
        dataloader_pin_memory=not use_cpu,
        ddp_backend="gloo" if use_cpu and processes > 1 else None,
        ddp_find_unused_parameters=True,
        seed=plan.seed,
        train_sampling_strategy="group_by_length",
        save_total_limit=2,
        logging_steps=20,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        **chosen,
    )


def _discard_run(folder: Path) -> None:
    """A finished run keeps its TensorBoard logs only."""
    for entry in folder.iterdir():
        if entry.name != "tensorboard":
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _is_first_process() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
