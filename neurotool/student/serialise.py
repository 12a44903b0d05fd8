"""Between a torch student with its tokenizer and the .ckpt format (neurotool/checkpoint.py)."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from neurotool.checkpoint import Checkpoint, read_checkpoint
from neurotool.errors import CheckpointError, DataError
from neurotool.student import STUDENTS, Student
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


def load_student(path: str | Path) -> LoadedStudent:
    """Read a .ckpt written by `to_checkpoint`; needs neither the teacher nor a network.

    Raises CheckpointError: an unreadable file (see read_checkpoint), another kind of student, or tensors that do not
    fit the configuration.
    """
    checkpoint = read_checkpoint(path)
    kind = checkpoint.config.get("model_type")
    if kind not in STUDENTS:
        raise CheckpointError(f"{path}: holds a {kind!r} student; this version knows {', '.join(STUDENTS)}")
    try:
        model = STUDENTS[kind](STUDENTS[kind].config_class(**checkpoint.config))
    except Exception as error:  # huggingface_hub has its own errors for a value of the wrong type
        raise CheckpointError(f"{path}: its configuration is not valid: {' '.join(str(error).split())}") from error
    _load_tensors(path, model, checkpoint)
    tokenizer = _load_tokenizer(path, checkpoint, model.config.vocab_size)
    return LoadedStudent(model.eval(), tokenizer, _task(path, checkpoint), checkpoint)


def _task(path: str | Path, checkpoint: Checkpoint) -> Task:
    try:
        return Task.from_dict(checkpoint.training["task"])
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its training record does not describe the task ({error!r})") from error


def _load_tensors(path: str | Path, model: Student, checkpoint: Checkpoint) -> None:
    state = model.state_dict()
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
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in checkpoint.tensors.items()})


def _load_tokenizer(path: str | Path, checkpoint: Checkpoint, vocabulary: int) -> PreTrainedTokenizerBase:
    try:
        tokenizer = tokenizer_from_files(checkpoint.tokenizer)
    except DataError as error:
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {error}") from error
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= vocabulary:
        raise CheckpointError(f"{path}: its tokenizer has a token {highest}, its embedding only {vocabulary} tokens")
    return tokenizer
