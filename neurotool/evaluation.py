"""Running a torch student over a dataset: its metrics, and the activity of every neuron layer."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from neurotool.errors import DataError
from neurotool.student import SpikingBertForSequenceClassification
from neurotool.tasks import Task, compute_metrics, load_examples, load_task


@dataclass
class LayerActivity:
    """spikes: |spike| summed over tokens, neurons and inputs; rate: mean |ASR| per neuron; neurons: width."""

    neurons: int
    spikes: float = 0.0
    rate: float = 0.0


@dataclass
class Activity:
    """What the neuron layers did on `inputs` texts with `tokens` tokens in all (padding left out) at T `time_steps`.

    token_pairs: sum over inputs of tokens squared (attention works on pairs of tokens).
    """

    time_steps: int
    inputs: int = 0
    tokens: int = 0
    token_pairs: int = 0
    layers: dict[str, LayerActivity] = field(default_factory=dict)

    def add(self, rates: dict[str, Tensor], attention_mask: Tensor) -> None:
        lengths = attention_mask.sum(1)
        self.inputs += len(lengths)
        self.tokens += int(lengths.sum())
        self.token_pairs += int((lengths * lengths).sum())
        for name, rate in rates.items():
            layer = self.layers.setdefault(name, LayerActivity(rate.shape[-1]))
            layer.spikes += float(rate.double().abs().sum(-1)[attention_mask.bool()].sum()) * self.time_steps
            layer.rate = layer.spikes / (self.tokens * layer.neurons * self.time_steps)

    @property
    def mean_rate(self) -> float:
        """Mean |ASR| over all neurons of all layers."""
        neurons = sum(layer.neurons for layer in self.layers.values())
        return sum(layer.rate * layer.neurons for layer in self.layers.values()) / neurons

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean_rate": self.mean_rate}


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
    columns = [c for c in ("input_ids", "attention_mask", "token_type_ids") if c in dataset.column_names]
    lengths = [len(ids) for ids in dataset["input_ids"]]
    order = sorted(range(len(dataset)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        examples = dataset.select(positions)
        batch = tokenizer.pad({c: examples[c][:] for c in columns}, return_tensors="pt")
        yield positions, {name: tensor.to(device) for name, tensor in batch.items()}


def validation_examples(data: Path | None, task: Task, training: dict[str, Any]) -> datasets.Dataset:
    """Labelled examples from `data`, else those that the training record of a checkpoint was validated on.

    Raises DataError where they cannot be found.
    """
    if data is not None:
        return load_examples(data, task)
    plan = training.get("plan", {})
    if plan.get("data"):
        folder = Path(plan["data"])
        if not folder.exists():
            raise DataError(f"the student was trained on {folder}, which is not here: give other data with --data")
        return load_examples(folder, task)
    return load_task(plan.get("task", task.name)).validation


@torch.inference_mode()
def evaluate(
    student: SpikingBertForSequenceClassification,
    dataset: datasets.Dataset,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    *,
    batch_size: int = 64,
    time_steps: int | None = None,
) -> Evaluation:
    """Metrics and activity of `student` on a tokenised dataset. Puts the student back into the mode it was in."""
    training = student.training
    student.eval()
    activity = Activity(student.config.time_steps if time_steps is None else time_steps)
    logits = np.zeros((len(dataset), student.config.num_labels), np.float32)
    for positions, batch in batches(dataset, tokenizer, batch_size, student.device):
        output = student(**batch, time_steps=time_steps)
        logits[positions] = output.logits.float().cpu().numpy()
        activity.add(output.rates, batch["attention_mask"])
    student.train(training)
    labels = np.asarray(dataset["labels"])
    return Evaluation(compute_metrics(task, logits, labels), logits, labels, activity)


@torch.inference_mode()
def predict(
    student: SpikingBertForSequenceClassification, tokenizer: PreTrainedTokenizerBase, texts: list[tuple[str, ...]]
) -> np.ndarray:
    """Logits (texts, labels). texts: tuples of one text, or two for a pair task; too long ones are truncated."""
    student.eval()
    columns = [list(column) for column in zip(*texts, strict=True)]
    length = student.config.max_position_embeddings
    batch = tokenizer(
        *columns,
        truncation=True,
        max_length=length,
        padding=True,
        return_tensors="pt",
        return_token_type_ids=True,
        return_attention_mask=True,
    )
    return student(**batch.to(student.device), output_rates=False).logits.float().cpu().numpy()
