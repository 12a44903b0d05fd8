"""A student that starts from another one, of more levels, longer weights or less sparsity, and may be taught by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neurotool.checkpoint import read_checkpoint
from neurotool.errors import CheckpointError, ConfigError, shown
from neurotool.student import SpikingBertForSequenceClassification, Student
from neurotool.student.configuration import StudentConfig
from neurotool.student.serialise import LoadedStudent, kind_of
from neurotool.train.options import check_option
from neurotool.train.plan import TrainingPlan, as_typed
from neurotool.train.teacher import SCRATCH, LoadedTeacher, TeacherOutput

_SAME_NAME = (
    *("hidden_size", "intermediate_size", "time_steps", "schedule", "spikes", "leak", "reset", "v_init", "dead_zone"),
    *("pooling", "feedback", "kernel_sizes", "channels", "lookahead", "taps", "positions", "activation"),
    *("attention_v_threshold", "attention_scale", "attention_norm", "attention_softmax"),
)
_SETTINGS = {"layers": "num_hidden_layers", "heads": "num_attention_heads"} | {name: name for name in _SAME_NAME}
"""Options of the command, and the settings of the other student that are their defaults."""
_PLANNED = ("event_target", "prune", "prune_scope", "weight_penalty", "weight_bits", "integer_aware", "max_length")
_FIXED = (
    *("spikes", "schedule", "hidden_size", "num_hidden_layers", "intermediate_size", "feedback", "positions"),
    *("taps", "attention_norm", "attention_softmax", "kernel_sizes", "channels"),
)
"""What the next student has in common with the one it starts from."""


def inherited(path: Path) -> dict[str, Any]:
    """What options of `neurotool train --start-from path` are where they are not given. Raises CheckpointError."""
    checkpoint = read_checkpoint(path)
    kind = kind_of(path, checkpoint).config_class
    config, plan = checkpoint.config, checkpoint.training.get("plan", {})
    options = {option: config[name] for option, name in _SETTINGS.items() if name in config and name not in kind.lacks}
    learned = "learned-per-channel" if config.get("v_threshold_per_channel") else "learned"
    if "v_threshold" not in kind.lacks:
        options["v_threshold"] = learned if config.get("learn_v_threshold") else config.get("v_threshold")
    options |= {name: plan.get(name) for name in _PLANNED if name != "prune_scope" or plan.get("prune")}
    try:
        for name, value in options.items():
            check_option(name, value)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its training record is not valid: {error}") from error
    return options | {"student": kind.model_type, "init": "auto"}


def check_tokens(plan: TrainingPlan, start: LoadedStudent, teacher: LoadedTeacher) -> None:
    """Raises ConfigError where the student that `plan` starts from reads other tokens than the teacher, or not as
    many."""
    ours, theirs = start.model.config, teacher.model.config
    longest = (ours.max_position_embeddings, theirs.max_position_embeddings)
    if start.tokenizer.get_vocab() == teacher.tokenizer.get_vocab():
        if longest[0] != longest[1]:
            option, remedy = f"--teacher {plan.teacher}", "the teacher it had"
            if plan.teacher == SCRATCH:
                option, remedy = f"--max-length {longest[1]}", f"--max-length {longest[0]}"
            raise ConfigError(
                f"{option}: the student of --start-from {plan.start_from} reads up to {longest[0]} tokens, the teacher "
                f"{longest[1]}; give {remedy}"
            )
        return
    had = str(start.checkpoint.training.get("plan", {}).get("teacher", ""))
    remedy = f"give --teacher {shown(had, 60)}, which it had" if had not in ("", plan.teacher) else "give what it had"
    raise ConfigError(
        f"--start-from {plan.start_from}: its vocabulary of {ours.vocab_size} tokens (width {ours.hidden_size}) is not "
        f"that of teacher {plan.teacher}, {theirs.vocab_size} (width {theirs.hidden_size}); {remedy}"
    )


def check_start(plan: TrainingPlan, start: LoadedStudent, config: StudentConfig) -> None:
    """Raises ConfigError where a student of `config` cannot be the one that it starts from, or has other labels."""
    theirs, of = start.model.config, f"the student of --start-from {plan.start_from}"
    for name in _FIXED:
        there, here = (getattr(c, name, 0) for c in (theirs, config))
        if name == "spikes":
            there, here = ("ternary" if c.graded else c.spikes for c in (theirs, config))  # whose counts it sends
        if as_typed(name, there) != as_typed(name, here):
            remedy = f"give {as_typed(name, there)}" if there else "leave it out"
            raise ConfigError(f"{as_typed(name, here)}: {of} has {there or 'none'}, which stays; {remedy}")
    if theirs.v_threshold_per_channel and not config.v_threshold_per_channel:
        raise ConfigError(f"--v-threshold: {of} has one for each channel; give learned-per-channel, or leave it out")
    if theirs.id2label != config.id2label:
        raise ConfigError(f"--start-from {plan.start_from}: its labels are {_labels(theirs)}, here {_labels(config)}")


@torch.no_grad()
def start_from(start: LoadedStudent, student: Student) -> None:
    """Give `student` weights and thresholds of another one, which `check_start` found to fit."""
    student.finish()  # as the other one is
    state = start.model.state_dict()
    for name, value in student.state_dict().items():
        if name.endswith("log_gain"):
            state[name] = state[name].expand(value.shape)
    student.load_state_dict(state)


def _labels(config: StudentConfig) -> str:
    return ", ".join(config.id2label[i] for i in sorted(config.id2label))


class StudentTeacher(nn.Module):
    """A trained student in a Teacher's place: always in eval mode, without gradients. Its hidden states are what the
    readers of its rates mean by them, threshold times rate."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.model = student.requires_grad_(False)
        self.width, self.depth = self.model.config.hidden_size, self.model.config.num_hidden_layers

    def train(self, mode: bool = True) -> "StudentTeacher":
        return self

    @torch.no_grad()
    def forward(
        self, batch: dict[str, Tensor], hidden_layers: Sequence[int] = (), attention_layers: Sequence[int] = ()
    ) -> TeacherOutput:
        """As Teacher."""
        model = self.model
        output = model(**batch, output_attention=bool(attention_layers))
        scales: list[Any] = [1.0] * (self.depth + 1)
        if isinstance(model, SpikingBertForSequenceClassification):
            scales = [model.neuron_layers[name].v_threshold for name in model.output_names]
        hidden = tuple(scales[i] * output.hidden[i] for i in hidden_layers)
        return TeacherOutput(output.logits, hidden, tuple(output.attention[i - 1] for i in attention_layers))
