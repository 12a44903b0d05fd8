"""One run of a Trainer: its settings, its progress and log, Ctrl-C, and the checkpoint it goes on from."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback
from transformers.trainer_pt_utils import safe_globals

from neurotool.errors import ConfigError, NeurotoolError, TrainingError, one_line, shown
from neurotool.files import replacing
from neurotool.tasks import Task
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.progress import ShowProgress, say
from neurotool.train.run_folder import check_state
from neurotool.train.trainer import StopOnInterrupt, is_first_process

PATIENCE = 24 * 3600
"""Seconds that processes wait for the first one, which tokenises a corpus."""


def run_trainer(trainer: Trainer, plan: TrainingPlan, stage: StagePlan, console: Console) -> float:
    """Train with our progress display, TensorBoard log and Ctrl-C handling; returns seconds."""
    interrupt, progress = StopOnInterrupt(), ShowProgress(console, stage.name)
    callbacks: list[TrainerCallback] = [progress, interrupt, _FolderStays(plan)]
    if is_first_process():
        callbacks.append(TensorBoardCallback(SummaryWriter(str(plan.folder / "tensorboard" / stage.name))))
    trainer.remove_callback(PrinterCallback)
    for callback in callbacks:
        trainer.add_callback(callback)
    last = last_checkpoint(plan.state_folder / stage.name, trainer, console) if plan.resume else None
    started = time.monotonic()
    try:
        with progress, interrupt, _quiet_writer():
            trainer.train(resume_from_checkpoint=last)
    except NeurotoolError:
        raise
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"{plan.state_folder}: the state of the run cannot be written ({one_line(error)}); free some room, then "
            "--resume goes on from the last checkpoint; or choose another --run-folder"
        ) from error
    except Exception as error:
        if last is None or trainer.state.global_step > _step(Path(last)):
            raise
        raise TrainingError(
            f"{last}: training cannot go on from it ({one_line(error)}); remove that folder, then --resume "
            "goes on from an older one"
        ) from error
    if interrupt.interrupted:
        raise KeyboardInterrupt(
            f"stopped in stage {stage.name} at step {trainer.state.global_step}; the same command with --resume goes on"
        )
    best = trainer.state.best_model_checkpoint
    kept = best is not None and (Path(best) / "model.safetensors").exists()
    # The first process writes it; others may look before it is there.
    if trainer.args.load_best_model_at_end and trainer.is_world_process_zero() and not kept:
        raise TrainingError(
            f"{plan.state_folder}: the state of the best epoch is gone from it; train again with --force"
        )
    return round(time.monotonic() - started, 1)


def finished_before(plan: TrainingPlan, stage: StagePlan, trained: nn.Module, console: Console) -> bool:
    """Whether an earlier run finished the stage; its result is then loaded. Raises TrainingError."""
    finished = _finished(plan, stage)
    if not plan.resume or not finished.exists():
        return False
    try:
        trained.load_state_dict(load_file(finished))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise TrainingError(
            f"{finished}: cannot be read ({one_line(error)}); remove it, then --resume trains the stage anew"
        ) from error
    say(console, f"{stage.name}: finished before, loaded")
    return True


def keep_stage(plan: TrainingPlan, stage: StagePlan, trainer: Trainer) -> None:
    """The result of a stage takes the place of the states to resume it from. Raises TrainingError."""
    state = trainer.accelerator.unwrap_model(trainer.model).state_dict()  # by all: one that is shared out is gathered
    if is_first_process():
        try:
            with replacing(_finished(plan, stage), force=True, error_type=TrainingError) as temporary:
                temporary.write_bytes(save(state))
        except TrainingError as error:
            raise TrainingError(f"{error}; free some room, then the same command with --resume goes on") from error
        shutil.rmtree(plan.state_folder / stage.name, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()


def _finished(plan: TrainingPlan, stage: StagePlan) -> Path:
    return plan.state_folder / f"{stage.name}.safetensors"


class _FolderStays(TrainerCallback):
    """Stops as soon as the run's folder is gone: the best epoch's state, which the student is made of, is gone too."""

    def __init__(self, plan: TrainingPlan) -> None:
        self.plan = plan

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        check_state(self.plan)


@contextmanager
def _quiet_writer() -> Iterator[None]:
    """TensorBoard writes in a thread of its own, which would print a traceback where its file cannot be written."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if not isinstance(arguments.exc_value, OSError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def last_checkpoint(folder: Path, trainer: Trainer | None = None, console: Console | None = None) -> str | None:
    """The newest checkpoint that can be gone on from: a kill, a full disk or a power cut leaves one that is incomplete
    or damaged. Those passed over are told on the console.

    trainer: whose weights a checkpoint must hold.
    """
    found = sorted(folder.glob("checkpoint-*"), key=_step, reverse=True)
    for checkpoint in found:
        try:
            _check_checkpoint(checkpoint, trainer)
        except Exception as error:  # of half a dozen libraries
            if console is not None:
                say(console, f"warning: {checkpoint} is damaged and passed over ({shown(one_line(error), 120)})")
            continue
        return str(checkpoint)
    return None


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.split("-")[1]
    return int(number) if number.isdecimal() else -1


def _check_checkpoint(checkpoint: Path, trainer: Trainer | None) -> None:
    """Raises whatever reading it raises, and ValueError for what is not of `trainer`."""
    text = (checkpoint / "trainer_state.json").read_text(encoding="utf-8")
    if trainer is None:
        json.loads(text)
        return
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    if state.global_step != _step(checkpoint) or not isinstance(state.epoch, int | float):
        raise ValueError("trainer_state.json is of another step")
    wanted = {name: list(tensor.shape) for name, tensor in trainer.model.state_dict().items()}
    best = state.best_model_checkpoint
    for folder in {checkpoint, Path(best) if best else checkpoint}:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            held = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  not a dict
        if held != wanted:
            raise ValueError(f"{folder.name}/model.safetensors holds other tensors than this student's")
    for name, keys in {"optimizer.pt": {"state", "param_groups"}, "scheduler.pt": {"last_epoch"}}.items():
        read = torch.load(checkpoint / name, map_location="cpu", weights_only=True)
        if not isinstance(read, dict) or not keys <= read.keys():
            raise ValueError(f"{name} holds something else")
    for file in checkpoint.glob("rng_state*.pth"):
        with safe_globals():
            torch.load(file, map_location="cpu", weights_only=True)


def warn_of_bfloat16(plan: TrainingPlan, device: torch.device, console: Console) -> None:
    """Say where bfloat16 has no instructions and is emulated, product by product."""
    if plan.precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        say(console, "warning: this processor has no bfloat16 and is many times slower with it; leave out --bf16")


def training_arguments(plan: TrainingPlan, stage: StagePlan, task: Task | None) -> TrainingArguments:
    """Trainer settings of a stage; without a task nothing is evaluated and the last state is kept."""
    processes = plan.processes
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
        ddp_timeout=PATIENCE,
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
