"""A student that starts from another one, of more levels, longer weights or less sparsity, and may be taught by it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from neurotool.checkpoint import read_checkpoint
from neurotool.errors import ConfigError
from neurotool.student import STUDENTS, SpikingBertForSequenceClassification, Student
from neurotool.student.serialise import load_student
from neurotool.train.teacher import TeacherOutput

_SAME_NAME = (
    *("hidden_size", "intermediate_size", "time_steps", "schedule", "spikes", "leak", "reset", "v_init", "dead_zone"),
    *("pooling", "feedback", "kernel_sizes", "channels", "lookahead", "taps", "positions", "activation"),
    *("attention_v_threshold", "attention_scale", "attention_norm", "attention_softmax"),
)
_SETTINGS = {"layers": "num_hidden_layers", "heads": "num_attention_heads"} | {name: name for name in _SAME_NAME}
"""Options of the command, and the settings of the other student that are their defaults."""
_PLANNED = ("event_target", "prune", "prune_scope", "weight_bits", "integer_aware")
_FIXED = (
    *("model_type", "spikes", "schedule", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size"),
    *("taps", "attention_norm", "attention_softmax"),
)
"""What the next student has in common with the one it starts from."""


def inherited(path: Path) -> dict[str, Any]:
    """What options of `neurotool train --start-from path` are where they are not given."""
    checkpoint = read_checkpoint(path)
    config, plan = checkpoint.config, checkpoint.training.get("plan", {})
    kind = STUDENTS.get(config["model_type"])
    lacks = () if kind is None else kind.config_class.lacks
    options = {option: config[name] for option, name in _SETTINGS.items() if name in config and name not in lacks}
    learned = "learned-per-channel" if config.get("v_threshold_per_channel") else "learned"
    if "v_threshold" not in lacks:
        options["v_threshold"] = learned if config.get("learn_v_threshold") else config.get("v_threshold")
    return options | {name: plan.get(name) for name in _PLANNED}


@torch.no_grad()
def start_from(path: Path, student: Student, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give `student` the weights and thresholds of the one at `path`.

    Raises ConfigError where it is of another kind or shape, or reads other tokens or labels; CheckpointError.
    """
    other = load_student(path)
    for name in _FIXED:
        theirs, ours = (
            "ternary" if config.graded and name == "spikes" else getattr(config, name, 0)  # whose counts it sends
            for config in (other.model.config, student.config)
        )
        if theirs != ours:
            raise ConfigError(f"--start-from {path}: its {name} is {theirs}, here {ours}; they must be the same")
    if other.model.config.id2label != student.config.id2label:
        raise ConfigError(f"--start-from {path}: its labels are {_labels(other.model)}, here {_labels(student)}")
    if other.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise ConfigError(f"--start-from {path}: it reads other tokens than the teacher; give the teacher it had")
    student.finish()  # as the other one is
    state = other.model.state_dict()
    for name, value in student.state_dict().items():
        if name.endswith("log_gain"):
            if state[name].ndim > value.ndim:
                raise ConfigError(
                    f"--start-from {path}: it has a threshold for each channel; give --v-threshold learned-per-channel"
                )
            state[name] = state[name].expand(value.shape).clone()
    student.load_state_dict(state)


def _labels(student: Student) -> str:
    return ", ".join(student.config.id2label[i] for i in sorted(student.config.id2label))


class StudentTeacher(nn.Module):
    """A trained student in a Teacher's place: always in eval mode, without gradients. Its hidden states are what the
    readers of its rates mean by them, threshold times rate."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.model = load_student(path).model.requires_grad_(False)
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
