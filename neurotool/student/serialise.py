"""Between a torch student with its tokenizer and the .ckpt format (neurotool/checkpoint.py)."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import BertConfig, PreTrainedTokenizerBase

from neurotool.checkpoint import Checkpoint, read_checkpoint
from neurotool.errors import CheckpointError, DataError, one_line, shown
from neurotool.header import CONFIG, check_student, try_tokenizer
from neurotool.student import STUDENTS, Student
from neurotool.student.spike_classifier import reads_spikes
from neurotool.tasks import Task
from neurotool.texts import tokenizer_files, tokenizer_from_files


class LoadedStudent(NamedTuple):
    model: Student
    tokenizer: PreTrainedTokenizerBase
    task: Task
    checkpoint: Checkpoint


def to_checkpoint(
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    training: dict[str, Any],
    activity: dict[str, Any],
) -> Checkpoint:
    """Everything needed to use `student` elsewhere. Weights are stored in float32."""
    return Checkpoint(
        tensors={name: tensor.detach().float().cpu().numpy() for name, tensor in student.state_dict().items()},
        config=student.config.to_dict() | {"model_type": student.config.model_type},
        tokenizer=tokenizer_files(tokenizer),
        labels=list(task.label_names),
        training=training | {"task": asdict(task)},
        activity=activity,
    )


def load_student(path: str | Path, checkpoint: Checkpoint | None = None) -> LoadedStudent:
    """Read a .ckpt written by `to_checkpoint`, or take what was read of it; needs neither the teacher nor a network.

    Raises CheckpointError: an unreadable file (see read_checkpoint), another kind of student, a header that describes
    none or contradicts itself, or tensors that do not fit the configuration.
    """
    checkpoint = checkpoint or read_checkpoint(path)
    model = _build(path, kind_of(path, checkpoint), checkpoint)
    try:
        tokenizer = tokenizer_from_files(checkpoint.tokenizer)
    except DataError as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {error}") from error
    try:
        try_tokenizer(tokenizer, model.config.vocab_size, model.config.type_vocab_size)
    except ValueError as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be used: {error}") from error
    return LoadedStudent(model.eval(), tokenizer, _task(path, checkpoint), checkpoint)


def kind_of(path: str | Path, checkpoint: Checkpoint) -> type[Student]:
    """The student that a header describes. Raises CheckpointError where it describes none that reads text."""
    kind = checkpoint.config.get("model_type")
    if reads_spikes(checkpoint):
        raise CheckpointError(
            f"{path}: holds a student that reads spikes, not text; give one that was trained on texts"
        )
    if kind not in STUDENTS:
        raise CheckpointError(f"{path}: holds a {shown(kind)} student; this version knows {', '.join(STUDENTS)}")
    try:
        check_student(checkpoint)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return STUDENTS[kind]


def _task(path: str | Path, checkpoint: Checkpoint) -> Task:
    try:
        return Task.from_dict(checkpoint.training["task"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its training record does not describe the task ({error!r})") from error


def _build(path: str | Path, kind: type[Student], checkpoint: Checkpoint) -> Student:
    """The student, with its tensors; built without memory first: its configuration may ask for more than there is."""
    known = {f.name for f in fields(kind.config_class)} - {f.name for f in fields(BertConfig)} | CONFIG.keys()
    try:
        config = kind.config_class(**{name: value for name, value in checkpoint.config.items() if name in known})
        with torch.device("meta"):
            state = kind(config).state_dict()
    except Exception as error:  # huggingface_hub has its own errors for a value of the wrong type
        raise CheckpointError(f"{path}: its configuration is not valid: {one_line(error)}") from error
    for name, expected in state.items():
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"{path}: tensor {name} is missing; the file does not hold a whole student")
        if tensor.shape != tuple(expected.shape):
            raise CheckpointError(
                f"{path}: tensor {name} has shape {tensor.shape}, its configuration asks for {tuple(expected.shape)}"
            )
    if unknown := sorted(checkpoint.tensors.keys() - state.keys()):
        raise CheckpointError(f"{path}: tensor {unknown[0]} belongs to no layer of the student")
    model = kind(config)
    _check_activity(path, model, checkpoint.activity)
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in checkpoint.tensors.items()})
    return model


def _check_activity(path: str | Path, model: Student, activity: dict[str, Any]) -> None:
    layers, known = activity.get("layers"), list(model.neuron_layers)
    if "lengths" in activity and isinstance(layers, dict) and list(layers) != known:
        raise CheckpointError(f"{path}: its record of the activity is of other neuron layers than the student's")
