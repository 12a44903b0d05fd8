"""Running a torch student over a dataset: its metrics, and the activity of every neuron layer."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neurotool.activity import Activity, LayerActivity
from neurotool.errors import DataError, NeurotoolWarning
from neurotool.student import Student
from neurotool.student.student import StudentOutput
from neurotool.tasks import Task, compute_metrics, content_hash, load_examples, load_task
from neurotool.texts import INPUTS, encode, pad


@dataclass(frozen=True)
class Evaluation:
    """logits: (inputs, labels); labels: (inputs,)."""

    metrics: dict[str, float]
    logits: np.ndarray
    labels: np.ndarray
    activity: Activity


def batches(
    dataset: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int, device: torch.device
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """(positions, batch) with inputs of similar length together, padded to the longest of the batch."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
    order = sorted(range(len(dataset)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        examples = dataset.select(positions)
        batch = pad(tokenizer, {name: examples[name][:] for name in INPUTS})
        yield positions, {name: tensor.to(device) for name, tensor in batch.items()}


def validation_examples(data: Path | None, task: Task, training: dict[str, Any]) -> datasets.Dataset:
    """Labelled examples from `data`, else those that the training record of a checkpoint was validated on.

    Raises DataError where they cannot be found, or are not those; warns where the record does not say which they are.
    """
    plan = training.get("plan", {})
    if data is not None:
        return load_examples(data, task, named=bool(plan.get("text_columns")))
    if plan.get("data"):
        folder = Path(plan["data"])
        if not folder.exists():
            raise DataError(f"the student was trained on {folder}, which is not here: give other data with --data")
        examples = load_examples(folder, task, named=True)
    else:
        examples = load_task(plan.get("task", task.name)).validation
    name, known = plan.get("data") or task.name, validation_hash(training)
    if known is None:
        warnings.warn(
            f"{name}: the model has no hash of the texts that it was validated on: whether it is these is not known",
            NeurotoolWarning,
            stacklevel=2,
        )
    elif not is_validation_data(examples, training):
        raise DataError(
            f"{name}: not the texts that the student was validated on (sha256 {content_hash(examples)[:8]} now, "
            f"{known[:8]} then): say with --data what to use"
        )
    return examples


def validation_hash(training: dict[str, Any]) -> str | None:
    """What a training record says of its validation data; None in records of old versions."""
    hashes = training.get("data", {}).get("hashes", {})
    return hashes.get("validation")


def is_validation_data(examples: datasets.Dataset, training: dict[str, Any]) -> bool:
    """Whether these are all the texts and labels that the metrics of a training record were measured on."""
    return content_hash(examples) == validation_hash(training)


@torch.inference_mode()
def evaluate(
    student: Student,
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    batch_size: int = 64,
    time_steps: int | None = None,
    per_neuron: bool = False,
) -> Evaluation:
    """Metrics and activity of `student` on a tokenised dataset. Puts the student back into the mode it was in."""
    logits, activity = measure(
        student, dataset, tokenizer, batch_size=batch_size, time_steps=time_steps, per_neuron=per_neuron
    )
    labels = np.asarray(dataset["labels"])
    return Evaluation(compute_metrics(task, logits, labels), logits, labels, activity)


@torch.inference_mode()
def measure(
    student: Student,
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 64,
    time_steps: int | None = None,
    per_neuron: bool = False,
) -> tuple[np.ndarray, Activity]:
    """Logits (inputs, labels) and activity on a tokenised dataset, which needs no labels.

    per_neuron: count the spikes of each neuron too.
    """
    training = student.training
    student.eval()
    time_steps = student.config.time_steps if time_steps is None else time_steps
    steps = 1 if student.config.graded else time_steps  # a message carries all levels
    activity = Activity(steps, steps * student.sweeps)
    logits = np.zeros((len(dataset), student.config.num_labels), np.float32)
    for positions, batch in batches(dataset, tokenizer, batch_size, student.device):
        output = student(**batch, time_steps=time_steps, output_rates=False, output_spike_counts=True)
        logits[positions] = output.logits.float().cpu().numpy()
        if not np.isfinite(logits[positions]).all():
            raise DataError("the answers to some texts are no numbers: the weights are too large")
        _add(activity, output, student.lasting(batch["attention_mask"]), per_neuron)
    student.train(training)
    return logits, activity


def _add(activity: Activity, output: StudentOutput, attention_mask: Tensor, per_neuron: bool) -> None:
    mask = attention_mask.bool()
    real = mask.cpu().numpy()
    activity.add_inputs(real)
    assert output.spike_counts is not None
    for name, count in output.spike_counts.items():
        layers = activity.fed_back if name == "feedback" else activity.layers
        layer = layers.setdefault(name, LayerActivity(count.shape[-1], active=LayerActivity(count.shape[-1])))
        # float32 adds whole numbers exactly up to 2^24: every width times T that fits a chip, but make sure.
        exact = torch.float32 if count.shape[-1] * activity.steps < 2**24 else torch.float64
        active = (output.active_counts or {}).get(name)
        sent = torch.count_nonzero(count, -1) if active is None else active.sum(-1, dtype=exact)
        per_token = count.sum(-1, dtype=exact).cpu().numpy()
        each, windows = None, None
        if per_neuron:
            each = count[mask].sum(0, dtype=torch.float64).long().cpu().numpy()
            sending = (count != 0 if active is None else active)[mask]
            windows = sending.sum(0, dtype=torch.float64).long().cpu().numpy()
        layer.add(per_token, real, each)
        assert layer.active is not None
        layer.active.add(sent.cpu().numpy(), real, windows)


@torch.inference_mode()
def predict(
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[tuple[str, ...]],
    max_length: int,
    time_steps: int | None = None,
) -> tuple[np.ndarray, int]:
    """Logits (texts, labels), and how many texts were cut to `max_length` tokens (see texts.longest).

    texts: tuples of one text, or two for a pair task. time_steps: another T than the student's own.
    """
    student.eval()
    encoded = encode(tokenizer, list(zip(*texts, strict=True)), max_length)
    batch = pad(tokenizer, encoded.tokens).to(student.device)
    return student(**batch, time_steps=time_steps, output_rates=False).logits.float().cpu().numpy(), sum(encoded.cut)
