"""From a plan to the student that training starts with: what it may be, its shape, its first weights."""

import re
from collections.abc import Sequence

import datasets
from rich.console import Console
from torch import Tensor
from transformers import BertConfig, PreTrainedTokenizerBase, set_seed

from neurotool.errors import ConfigError
from neurotool.student import (
    STUDENTS,
    SpikeBertConfig,
    SpikeBertForSequenceClassification,
    SpikingBertForSequenceClassification,
    Student,
)
from neurotool.student.configuration import StudentConfig
from neurotool.student.serialise import LoadedStudent
from neurotool.tasks import Task
from neurotool.texts import INPUTS, pad
from neurotool.train.chains import StudentTeacher, check_start, start_from
from neurotool.train.compilation import check_compilation
from neurotool.train.compression import Compressor
from neurotool.train.distiller import Distiller, LayerMap
from neurotool.train.grid import check_grid
from neurotool.train.initialise import check_same_shape, copy_teacher, fit_spikes, project_embeddings
from neurotool.train.least_squares import fit_layers, texts_to_fit
from neurotool.train.plan import TrainingPlan, as_typed, option_of
from neurotool.train.progress import say
from neurotool.train.sparsity import EventTarget, RisingPenalty, Synapses
from neurotool.train.teacher import Teacher, head_options

_EMBEDDED = {"vocab_size", "max_position_embeddings", "type_vocab_size", "pad_token_id"}


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
            raise ConfigError(f"{as_typed(name, value)}: student {plan.model_type} has no such setting; leave it out")
    if plan.student.get("spikes") == "graded" and "phased" not in config.schedules:
        raise ConfigError(
            f"--spikes graded: needs phased windows and leak 1, which student {plan.model_type} has not; give "
            "--student spikingbert, or other spikes"
        )
    if plan.student.get("spikes") == "graded" and plan.student.get("schedule", config.schedule) != "phased":
        raise ConfigError("--spikes graded: a message is a window's count; give --schedule phased, or other spikes")


def configure_student(
    plan: TrainingPlan, teacher: BertConfig, task: Task, start: LoadedStudent | None = None
) -> StudentConfig:
    """The teacher's shape and the plan's values. Raises ConfigError when no student can be built from them, or none
    that could start as `start`."""
    shape = {name: getattr(teacher, name) for name in Student.shares}
    kind = STUDENTS[plan.model_type]
    config: StudentConfig = kind.config_class(**shape | head_options(task) | plan.student)
    if start is not None:
        check_start(plan, start, config)
    try:
        config.check()
    except ConfigError as error:
        raise ConfigError(_by_options(str(error))) from error
    check_compilation(plan, config)
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
    if plan.init == "fitted" and kind is not SpikeBertForSequenceClassification:
        raise ConfigError(f"--init fitted: student {plan.model_type} is not fitted layer by layer; give teacher")
    if plan.init in ("teacher", "fitted"):
        check_same_shape(kind, config, teacher)
    heads, theirs = config.num_attention_heads, teacher.num_attention_heads
    if heads != theirs and attention:
        raise ConfigError(
            f"--heads {heads}: the teacher has {theirs}, so their attention scores cannot be compared; use "
            "--attention-weight 0 and no --relation-weight, or the teacher's number"
        )
    return config


def _by_options(message: str) -> str:
    """What a configuration says of its settings, said of the options that set them: layers is 0 -> --layers 0."""
    named = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda found: f"--{option_of(found[0])}", message)
    return re.sub(r"^(?:--)?([a-z-]+) (?:is|are) (?=[^ ]*[:,])", r"--\1 ", named)


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of `count` texts, from all of a file that may be sorted."""
    taken = min(count, most)
    return [i * count // taken for i in range(taken)]


def start_student(
    plan: TrainingPlan,
    config: StudentConfig,
    teacher: Teacher | StudentTeacher,
    train_set: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    layer_map: LayerMap,
    console: Console,
    start: LoadedStudent | None = None,
) -> Distiller:
    """A student started from another one, `start`, from the teacher or at random; thresholds of the latter two are
    fitted on 64 training texts."""
    set_seed(plan.seed)  # the same student whether the teacher was fine-tuned just now or taken from the cache
    student = STUDENTS[plan.model_type](config)
    if plan.gradient_checkpointing:
        student.gradient_checkpointing_enable()
    if start is not None:
        start_from(start, student)
    elif isinstance(teacher, Teacher):
        theirs = teacher.model.config
        differs = {name for name in student.shares if getattr(config, name) != getattr(theirs, name)}
        if plan.init in ("teacher", "fitted") or (plan.init == "auto" and not differs):
            copy_teacher(student, teacher.model, layer_map)
        elif plan.init == "auto" and config.hidden_size < theirs.hidden_size and not differs & _EMBEDDED:
            project_embeddings(student, teacher.model)
    device = teacher.model.device

    def batch_of(texts: Sequence[int]) -> dict[str, Tensor]:
        sample = train_set.select(texts)
        return dict(pad(tokenizer, {name: sample[name][:] for name in INPUTS}).to(device))

    student.to(device)
    if plan.init == "fitted" and isinstance(student, SpikeBertForSequenceClassification):
        assert isinstance(teacher, Teacher)
        longest = max(map(len, train_set["input_ids"]))
        texts = evenly(len(train_set), texts_to_fit(student.config, longest))
        say(console, f"fitting the student's layers to what the teacher's say of {len(texts)} texts")
        fit_layers(student, teacher.model, batch_of(texts), layer_map)
    batch = batch_of(range(min(64, len(train_set))))
    fitted = isinstance(student, SpikingBertForSequenceClassification) and start is None
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
