"""One run of a Trainer: its settings, its progress and log, Ctrl-C, and the checkpoint it goes on from."""

import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from neurotool.errors import ConfigError, TrainingError, one_line
from neurotool.tasks import Task
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.progress import ShowProgress
from neurotool.train.trainer import StopOnInterrupt, is_first_process


def run_trainer(trainer: Trainer, plan: TrainingPlan, stage: StagePlan, console: Console) -> float:
    """Train with our progress display, TensorBoard log and Ctrl-C handling; returns seconds."""
    interrupt, progress = StopOnInterrupt(), ShowProgress(console, stage.name)
    callbacks: list[TrainerCallback] = [progress, interrupt]
    if is_first_process():
        callbacks.append(TensorBoardCallback(SummaryWriter(str(plan.folder / "tensorboard" / stage.name))))
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    last = last_checkpoint(plan.state_folder / stage.name) if plan.resume else None
    started = time.monotonic()
    try:
        with progress, interrupt:
            trainer.train(resume_from_checkpoint=last)
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{plan.state_folder}: the state of the run cannot be written ({one_line(error)}); free some room, then "
            "--resume goes on from the last checkpoint; or choose another --run-folder"
        ) from error
    if interrupt.interrupted:
        raise KeyboardInterrupt(
            f"stopped in stage {stage.name} at step {trainer.state.global_step}; the same command with --resume goes on"
        )
    return round(time.monotonic() - started, 1)


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint: a kill or a full disk leaves one without its state, which is written last."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for checkpoint in found:
        try:
            json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        return str(checkpoint)
    return None


def training_arguments(plan: TrainingPlan, stage: StagePlan, task: Task | None) -> TrainingArguments:
    """Trainer settings of a stage; without a task nothing is evaluated and the last state is kept."""
    processes = int(os.environ.get("WORLD_SIZE", 1))
    parts = processes * plan.accumulate
    if stage.batch_size % parts:
        by = f"{processes} processes" + (f" times --accumulate {plan.accumulate}" if plan.accumulate > 1 else "")
        raise ConfigError(f"batch size {stage.batch_size} is not divisible by {by}")
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
    arguments = TrainingArguments(
        str(plan.state_folder / stage.name),
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        per_device_train_batch_size=stage.batch_size // parts,
        gradient_accumulation_steps=plan.accumulate,
        per_device_eval_batch_size=64,
        weight_decay=plan.weight_decay,
        warmup_steps=plan.warmup,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=plan.precision == "bfloat16",
        use_cpu=use_cpu,
        dataloader_pin_memory=not use_cpu,
        ddp_backend="gloo" if use_cpu and processes > 1 else None,
        ddp_find_unused_parameters=not stage.weights.reach_every_parameter,
        seed=plan.seed,
        save_total_limit=2,
        logging_steps=20,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to=[],
        remove_unused_columns=False,
        label_names=["labels"],
        **chosen,
    )
    if torch.cuda.is_available():
        arguments._n_gpu = 1  # one process a GPU: without this the Trainer wraps the model in nn.DataParallel
    return arguments
