"""The main job: teacher, student, stages, checkpoint. Each step leaves its result in the run's folder, so that a run
that was stopped goes on where it was."""

import dataclasses
import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers
from accelerate import PartialState
from rich.console import Console
from transformers import PreTrainedTokenizerBase, set_seed

from neurotool.checkpoint import Checkpoint, write_checkpoint
from neurotool.errors import CheckpointError, TrainingError, one_line, shown
from neurotool.evaluation import Evaluation, evaluate
from neurotool.spike_data import load_spikes
from neurotool.student.serialise import load_student, to_checkpoint
from neurotool.student.spike_classifier import to_checkpoint as spikes_to_checkpoint
from neurotool.tasks import TASK_NAMES, Task, TaskData, load_data, load_task
from neurotool.train.chains import StudentTeacher, check_tokens
from neurotool.train.compilation import fuse_student
from neurotool.train.config import NAME, write_config
from neurotool.train.corpus import corpus_hash
from neurotool.train.distiller import Distiller
from neurotool.train.finetuning import evaluate_teacher, label_variants, learned_nothing, prepare_teacher
from neurotool.train.grid import to_grid
from neurotool.train.memory import keep_freed_memory
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.progress import say
from neurotool.train.reading import Texts, read_texts
from neurotool.train.record import describe_data, describe_run, describe_teacher
from neurotool.train.run_folder import check_run, close_run, held, open_run, state_stays
from neurotool.train.running import (
    finished_before,
    keep_stage,
    run_trainer,
    training_arguments,
    warn_of_bfloat16,
)
from neurotool.train.scratch import scratch_teacher
from neurotool.train.sharding import shard, whole
from neurotool.train.sparsity import measure_density, shift_relu
from neurotool.train.spikes import SpikeTraining, evaluate_spikes
from neurotool.train.starting import check_settings, choose_layer_map, configure_student, start_student
from neurotool.train.teacher import (
    SCRATCH,
    LoadedTeacher,
    Teacher,
    load_teacher,
    locate_teacher,
)
from neurotool.train.teacher_cache import keep_outputs
from neurotool.train.trainer import DistillationTrainer, is_first_process


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    output: Path
    teacher: dict[str, float]
    student: Evaluation
    seconds: float
    events_per_synapse: float | None = None
    """Where a target was asked for."""
    zero_weights: float | None = None
    """Share of the weights between neuron layers, where zeros were asked for."""


def train(plan: TrainingPlan, console: Console) -> TrainingResult:
    """Run `plan`; returns validation metrics of teacher and student. Under torchrun every process calls this.

    Raises NeurotoolError for bad input, TrainingError for a loss that is not finite, KeyboardInterrupt after Ctrl-C
    (with the state saved).
    """
    keep_freed_memory()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    console = console if is_first_process() else Console(quiet=True)
    plan.check()
    if plan.input == "tokens":
        check_settings(plan)
    with held(plan), _memory_errors(), ExitStack() as opened:
        check_run(plan)
        return (_train if plan.input == "tokens" else _train_on_spikes)(plan, console, opened)


@contextmanager
def _memory_errors() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"not enough memory ({shown(one_line(error), 100)}); give a smaller --batch-size, --max-length or student"
        ) from error


def _train(plan: TrainingPlan, console: Console, opened: ExitStack) -> TrainingResult:
    """opened: what holds from when the run is opened until its end."""
    started = time.monotonic()
    set_seed(plan.seed)
    data = read_data(plan, console)
    start = None if plan.start_from is None else load_student(plan.start_from)
    loaded = find_teacher(plan, data, console)
    if start is not None:
        check_tokens(plan, start, loaded)
    config = configure_student(plan, loaded.model.config, data.task, start)
    taught_layers = config.num_hidden_layers if plan.start_teaches else loaded.model.config.num_hidden_layers
    layer_map = choose_layer_map(plan, config.num_hidden_layers, taught_layers)
    device = training_arguments(plan, plan.stages[-1], data.task).device  # from here on processes know each other
    warn_of_bfloat16(plan, device, console)
    with PartialState().local_main_process_first():  # the others find in the cache what it tokenised
        texts = read_texts(plan, data, loaded.tokenizer, config.max_position_embeddings, console)
    identity = identify_run(plan, data, loaded, texts)
    open_run(plan, identity)
    opened.enter_context(state_stays(plan))
    if plan.settings and is_first_process():
        write_config(plan.folder / NAME, plan.settings)
    model, tokenizer, measured = prepare_teacher(plan, loaded, data, texts.train, texts.validation, console)
    model.to(device)
    teacher_metrics = measured or evaluate_teacher(model, texts.validation, tokenizer, data.task)
    say(console, f"teacher {plan.teacher}: validation {_line(teacher_metrics)}")
    warn_of_teacher(plan, loaded, teacher_metrics, texts, data.task, console)
    teacher: Teacher | StudentTeacher = Teacher(model)
    if start is not None and plan.start_teaches:
        teacher = StudentTeacher(start.model).to(device)
    distiller = start_student(plan, config, teacher, texts.train, tokenizer, layer_map, console, start)
    task_texts = texts.train
    if texts.variants is not None:
        labelled = label_variants(plan, model, texts.variants, tokenizer, data.task)
        same_type = labelled.cast_column("labels", texts.train.features["labels"])
        task_texts = datasets.concatenate_datasets([texts.train, same_type])
    of_stages = [(stage, texts.corpus if stage.name == "general" else task_texts) for stage in plan.stages]
    steps = sum(math.ceil(len(of_stage) / stage.batch_size) * stage.epochs for stage, of_stage in of_stages if of_stage)
    fuse_student(plan, distiller.student, int(steps), console)
    if plan.fsdp:
        shard(distiller, list(dict.fromkeys((distiller.student, distiller.measured))))
    stages: list[dict[str, Any]] = []
    for stage, of_stage in of_stages:
        if stage.epochs and of_stage is not None:
            stages.append(
                run_stage(plan, stage, distiller, teacher, tokenizer, of_stage, texts.validation, data.task, console)
            )
            distiller.end_stage()
    zeros = distiller.compressor.finish()
    student = whole(distiller.student).eval()
    student.finish()
    if plan.relu_shift:
        shift_relu(student, plan.relu_shift)
    if plan.integer_aware:
        to_grid(student)
    result = evaluate(student, texts.validation, tokenizer, data.task)
    events = distiller.events and measure_density(student, distiller.events.synapses, texts.validation, tokenizer)
    seconds = time.monotonic() - started
    if is_first_process():
        taught_by = describe_teacher(plan, loaded, model.config, texts, teacher_metrics)
        record = {
            "teacher": taught_by,
            "metrics": result.metrics,
            "data": describe_data(data, identity, texts, task_texts),
            "plan": plan.to_dict(),
            "layer_map": list(layer_map),
            "stages": stages,
        } | describe_run(plan, seconds)
        finish(plan, to_checkpoint(student, tokenizer, data.task, record, result.activity.to_dict()))
    density = events["events_per_synapse"] if events else None
    return TrainingResult(plan.output, teacher_metrics, result, seconds, density, zeros)


def read_data(plan: TrainingPlan, console: Console) -> TaskData:
    """Raises DataError, ConfigError: see load_data, load_task."""
    if plan.data:
        return load_data(plan.data, plan.metric, plan.text_columns, plan.label_column)
    if plan.task != "demo" and plan.task in TASK_NAMES:
        say(console, f"task {plan.task}: asking the Hugging Face hub")
    return load_task(plan.task)


def identify_run(plan: TrainingPlan, data: TaskData, loaded: LoadedTeacher, texts: Texts) -> dict[str, str]:
    """sha256 of all that a run reads, which --resume compares."""
    identity = data.hashes | {"teacher": loaded.identity}
    if texts.corpus is not None:
        identity["corpus"] = corpus_hash(str(plan.corpus))
    if plan.start_from is not None:
        identity["start"] = hashlib.sha256(plan.start_from.read_bytes()).hexdigest()
    return identity


def warn_of_teacher(
    plan: TrainingPlan, loaded: LoadedTeacher, metrics: dict[str, float], texts: Texts, task: Task, console: Console
) -> None:
    """Say where a teacher that the run asks has nothing to teach."""
    asked = plan.augment or any(stage.weights.teacher_needed for stage in plan.stages)
    if asked and learned_nothing(metrics, texts.validation, task):
        remedy = "choose another --teacher" if loaded.has_head else "try more --teacher-epochs or another --teacher"
        constant = "chance" if task.regression else "giving every text the most frequent class"
        say(console, f"warning: the teacher's {task.metrics[0]} is no better than that of {constant}; {remedy}")


def _train_on_spikes(plan: TrainingPlan, console: Console, opened: ExitStack) -> TrainingResult:
    """opened: as of `_train`."""
    started = time.monotonic()
    assert plan.data is not None
    data = load_spikes(plan.data, plan.student.get("time_steps"), plan.time_step)
    inputs, steps, channels = data.train.spikes.shape
    say(console, f"{inputs} recordings of {channels} channels, {steps} steps; {len(data.task.label_names)} classes")
    set_seed(plan.seed)
    trained = SpikeTraining(plan, data)
    device = training_arguments(plan, plan.stages[-1], data.task).device
    open_run(plan, data.hashes)
    opened.enter_context(state_stays(plan))
    if plan.settings and is_first_process():
        write_config(plan.folder / NAME, plan.settings)
    warn_of_bfloat16(plan, device, console)
    trained.to(device)
    stages = [trained.run_stage(plan, stage, data, console) for stage in plan.stages]
    zeros = trained.compressor.finish()
    result = evaluate_spikes(trained.student, data.validation, data.task)
    seconds = time.monotonic() - started
    if is_first_process():
        record = {
            "metrics": result.metrics,
            "data": {
                "name": data.task.name,
                "hashes": data.hashes,
                "train_size": inputs,
                "validation_size": len(data.validation.labels),
            },
            "plan": plan.to_dict(),
            "stages": stages,
        } | describe_run(plan, seconds)
        finish(plan, spikes_to_checkpoint(trained.student, data.task, record))
    return TrainingResult(plan.output, {}, result, seconds, zero_weights=zeros)


def finish(plan: TrainingPlan, checkpoint: Checkpoint) -> None:
    """The checkpoint is written, and the state of the run goes. Raises TrainingError where it cannot be."""
    try:
        write_checkpoint(plan.output, checkpoint, force=plan.force)
    except CheckpointError as error:
        raise TrainingError(
            f"{error}; the trained student is kept: the same command with --resume writes it there, with --resume "
            f"-o OTHER --run-folder {plan.folder} elsewhere"
        ) from error
    close_run(plan)


def find_teacher(plan: TrainingPlan, data: TaskData, console: Console) -> LoadedTeacher:
    """The plan's teacher, from a folder, the hub or nothing. Raises TeacherError: see load_teacher, scratch_teacher."""
    if plan.teacher == SCRATCH:
        made = scratch_teacher(plan, data)
        say(
            console,
            f"teacher scratch: not pretrained; its vocabulary of {len(made.tokenizer)} tokens and all it knows are "
            f"from these {len(data.train)} texts alone",
        )
        return made
    if not Path(locate_teacher(plan.teacher)).is_dir():
        say(console, f"teacher {plan.teacher}: no folder here, asking the Hugging Face hub")
    loaded = load_teacher(plan.teacher, data.task)
    for note in loaded.notes:
        say(console, f"teacher {plan.teacher}: {note}")
    return loaded


def run_stage(
    plan: TrainingPlan,
    stage: StagePlan,
    distiller: Distiller,
    teacher: Teacher | StudentTeacher,
    tokenizer: PreTrainedTokenizerBase,
    texts: datasets.Dataset,
    validation: datasets.Dataset,
    task: Task,
    console: Console,
) -> dict[str, Any]:
    """Train one stage, or load its result when an earlier run finished it. Returns its training record."""
    described = dataclasses.asdict(stage) | {"texts": len(texts)}
    if finished_before(plan, stage, distiller, console):
        return described
    distiller.weights = stage.weights
    measured = None if stage.name == "general" else task  # without labels there is nothing to measure
    arguments, kept = training_arguments(plan, stage, measured), None
    if plan.cache_teacher and measured and stage.weights.teacher_needed:
        asked = distiller.asked(teacher.depth)
        with PartialState().local_main_process_first():
            kept = keep_outputs(teacher, texts, tokenizer, *asked, plan.precision == "bfloat16", console)
    trainer = DistillationTrainer(
        distiller,
        teacher,
        arguments,
        texts,
        tokenizer,
        validation if measured else None,
        measured,
        kept,
        plan.layer_decay,
    )
    seconds = run_trainer(trainer, plan, stage, console)
    keep_stage(plan, stage, trainer)
    return described | {"steps": trainer.state.global_step, "seconds": seconds, "history": trainer.state.log_history}


def _line(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
