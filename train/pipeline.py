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
from transformers import BertConfig, PreTrainedTokenizerBase, set_seed

from neurotool.checkpoint import Checkpoint, write_checkpoint
from neurotool.errors import CheckpointError, ConfigError, TrainingError, one_line, shown
from neurotool.evaluation import Evaluation, evaluate
from neurotool.spike_data import load_spikes
from neurotool.student import STUDENTS, SpikeBertConfig, SpikingBertForSequenceClassification, Student
from neurotool.student.configuration import StudentConfig
from neurotool.student.serialise import to_checkpoint
from neurotool.student.spike_classifier import to_checkpoint as spikes_to_checkpoint
from neurotool.tasks import TASK_NAMES, Task, TaskData, load_data, load_task
from neurotool.texts import INPUTS, pad
from neurotool.train.chains import StudentTeacher, start_from
from neurotool.train.compilation import fuse_student
from neurotool.train.compression import Compressor
from neurotool.train.config import NAME, write_config
from neurotool.train.corpus import corpus_hash
from neurotool.train.distiller import Distiller, LayerMap
from neurotool.train.finetuning import evaluate_teacher, label_variants, learned_nothing, prepare_teacher
from neurotool.train.grid import check_grid, to_grid
from neurotool.train.initialise import check_same_shape, copy_teacher, fit_spikes, project_embeddings
from neurotool.train.memory import keep_freed_memory
from neurotool.train.plan import OPTIONS, StagePlan, TrainingPlan
from neurotool.train.progress import say
from neurotool.train.reading import Texts, read_texts
from neurotool.train.record import describe_data, describe_run, describe_teacher
from neurotool.train.run_folder import check_run, close_run, held, open_run, state_stays
from neurotool.train.running import finished_before, keep_stage, run_trainer, training_arguments
from neurotool.train.scratch import scratch_teacher
from neurotool.train.sharding import shard, whole
from neurotool.train.sparsity import EventTarget, RisingPenalty, Synapses, measure_density, shift_relu
from neurotool.train.spikes import SpikeTraining, evaluate_spikes
from neurotool.train.teacher import (
    SCRATCH,
    LoadedTeacher,
    Teacher,
    head_options,
    load_teacher,
    locate_teacher,
)
from neurotool.train.teacher_cache import keep_outputs
from neurotool.train.trainer import DistillationTrainer, is_first_process

_EMBEDDED = {"vocab_size", "max_position_embeddings", "type_vocab_size", "pad_token_id"}


@dataclasses.dataclass(frozen=True)
class TrainingResult:
    output: Path
    teacher: dict[str, float]
    student: Evaluation
    seconds: float
    events_per_synapse: float | None = None
    """Where a target was asked for."""


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
    loaded = find_teacher(plan, data, console)
    config = configure_student(plan, loaded.model.config, data.task)
    taught_layers = config.num_hidden_layers if plan.start_teaches else loaded.model.config.num_hidden_layers
    layer_map = choose_layer_map(plan, config.num_hidden_layers, taught_layers)
    device = training_arguments(plan, plan.stages[-1], data.task).device  # from here on processes know each other
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
    if plan.start_from is not None and plan.start_teaches:
        teacher = StudentTeacher(plan.start_from).to(device)
    distiller = start_student(plan, config, teacher, texts.train, tokenizer, layer_map)
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
    distiller.compressor.finish()
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
    return TrainingResult(plan.output, teacher_metrics, result, seconds, density)


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
    open_run(plan, data.hashes)
    opened.enter_context(state_stays(plan))
    if plan.settings and is_first_process():
        write_config(plan.folder / NAME, plan.settings)
    set_seed(plan.seed)
    trained = SpikeTraining(plan, data)
    trained.to(training_arguments(plan, plan.stages[-1], data.task).device)
    stages = [trained.run_stage(plan, stage, data, console) for stage in plan.stages]
    trained.compressor.finish()
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
    return TrainingResult(plan.output, {}, result, seconds)


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


def choose_layer_map(plan: TrainingPlan, layers: int, teacher_layers: int) -> LayerMap:
    """Evenly spread by default; SpikeBERT's first quarter of layers, too weak to follow, is then left alone.

    Raises ConfigError for a map that does not fit.
    """
    if plan.layer_map is None:
        spread = [round(i * teacher_layers / max(layers, 1)) for i in range(layers + 1)]
        free = layers // 4 if plan.model_type == SpikeBertConfig.model_type else 0
        return tuple(None if 1 <= i <= free else layer for i, layer in enumerate(spread))
    if len(plan.layer_map) != layers + 1 or not all(i is None or 0 <= i <= teacher_layers for i in plan.layer_map):
        given = ",".join("-" if i is None else str(i) for i in plan.layer_map)
        raise ConfigError(
            f"--layer-map {given}: give {layers + 1} numbers (embedding and {layers} layers) between 0 and "
            f"{teacher_layers}, the teacher's layers"
        )
    return plan.layer_map


def check_settings(plan: TrainingPlan) -> None:
    """Raises ConfigError for a setting that the kind of student does not have."""
    config = STUDENTS[plan.model_type].config_class
    for name, value in plan.student.items():
        if not hasattr(config, name) or name in config.lacks:
            option = f"--{OPTIONS.get(name, name.replace('_', '-'))}"
            if value is not True:
                option += f" {','.join(map(str, value)) if isinstance(value, tuple) else value}"
            raise ConfigError(f"{option}: student {plan.model_type} has no such setting; leave it out")


def configure_student(plan: TrainingPlan, teacher: BertConfig, task: Task) -> StudentConfig:
    """The teacher's shape and the plan's values. Raises ConfigError when no student can be built from them."""
    shape = {name: getattr(teacher, name) for name in Student.shares}
    kind = STUDENTS[plan.model_type]
    config: StudentConfig = kind.config_class(**shape | head_options(task) | plan.student)
    config.check()
    if plan.gradient_checkpointing and not kind.supports_gradient_checkpointing:
        raise ConfigError(
            f"--gradient-checkpointing: student {plan.model_type} is not trained through time; leave it out"
        )
    penalties = {"--rate-penalty": any(s.weights.rate for s in plan.stages), "--event-target": plan.event_target}
    for option, given in penalties.items():
        if given and "time_steps" in kind.config_class.lacks:
            raise ConfigError(f"{option}: student {plan.model_type} sends no spikes; leave it out")
    if plan.event_target is not None and (config.schedule != "phased" or getattr(config, "feedback", False)):
        what = "feedback" if config.schedule == "phased" else f"schedule {config.schedule}"
        raise ConfigError(f"--event-target: with {what} there are no single windows to count; use --rate-penalty")
    for option, given in {"--relu-penalty": plan.relu_penalty, "--relu-shift": plan.relu_shift}.items():
        if given is not None and getattr(config, "activation", "gelu") != "relu":
            raise ConfigError(f"{option}: is for the neurons of --activation relu; give that, or leave it out")
    if plan.integer_aware:
        check_grid(config)
    if plan.max_shift is not None and not issubclass(kind, SpikingBertForSequenceClassification):
        raise ConfigError(f"--max-shift: student {plan.model_type} does not start from fitted spikes; leave it out")
    attention = any(stage.weights.attention_needed for stage in plan.stages)
    if attention and not kind.supports_attention_loss:
        raise ConfigError(
            f"--attention-weight, --relation-weight: student {plan.model_type} hands on no attention to compare; give 0"
        )
    if any(stage.weights.prefix for stage in plan.stages) and not kind.answers_every_token:
        raise ConfigError(f"--prefix-weight: student {plan.model_type} answers once a text; leave it out")
    if not config.num_hidden_layers and any(stage.weights.hidden for stage in plan.stages):
        raise ConfigError(f"--hidden-weight: student {plan.model_type} has only its embedding to compare; give 0")
    if plan.init == "teacher":
        check_same_shape(kind, config, teacher)
    heads, theirs = config.num_attention_heads, teacher.num_attention_heads
    if heads != theirs and attention:
        raise ConfigError(
            f"num_attention_heads is {heads}, the teacher's is {theirs}: their attention scores cannot be compared; "
            "use --attention-weight 0 and no --relation-weight, or the teacher's number"
        )
    return config


def start_student(
    plan: TrainingPlan,
    config: StudentConfig,
    teacher: Teacher | StudentTeacher,
    train_set: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    layer_map: LayerMap,
) -> Distiller:
    """A student started from another one, from the teacher or at random; thresholds of the latter two are fitted on 64
    training texts."""
    set_seed(plan.seed)  # the same student whether the teacher was fine-tuned just now or taken from the cache
    student = STUDENTS[plan.model_type](config)
    if plan.gradient_checkpointing:
        student.gradient_checkpointing_enable()
    if plan.start_from is not None:
        start_from(plan.start_from, student, tokenizer)
    elif isinstance(teacher, Teacher):
        theirs = teacher.model.config
        differs = {name for name in student.shares if getattr(config, name) != getattr(theirs, name)}
        if plan.init == "teacher" or (plan.init == "auto" and not differs):
            copy_teacher(student, teacher.model, layer_map)
        elif plan.init == "auto" and config.hidden_size < theirs.hidden_size and not differs & _EMBEDDED:
            project_embeddings(student, teacher.model)
    sample = train_set.select(range(min(64, len(train_set))))
    device = teacher.model.device
    batch = dict(pad(tokenizer, {name: sample[name][:] for name in INPUTS}).to(device))
    student.to(device)
    fitted = isinstance(student, SpikingBertForSequenceClassification) and plan.start_from is None
    if fitted and plan.max_shift is not None:
        fit_spikes(student, batch, plan.max_shift)
    compressor = Compressor(student, plan.prune, plan.prune_scope, plan.weight_bits, plan.weight_penalty)
    events = None if plan.event_target is None else EventTarget(Synapses(student.to_graph()), plan.event_target)
    rising = None if plan.relu_penalty is None else RisingPenalty(plan.relu_penalty)
    distiller = Distiller(
        student, teacher.width, layer_map, plan.stages[-1].weights, compressor, events, plan.ema, rising
    )
    distiller.to(device)
    distiller.start_fit(batch, teacher(batch, [layer for layer in layer_map if layer is not None]).hidden)
    return distiller


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
