"""How a model reads text, or spikes: its tokenizer and task, where its validation data are, how long texts may be."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from neurotool.errors import ConfigError, DataError
from neurotool.executor import Inputs, stacked
from neurotool.graph import Graph, Input
from neurotool.inputs import time_step
from neurotool.sentences import SENTENCES, tokenised
from neurotool.streams import LOGITS, steps_per_token
from neurotool.texts import PAIR, check_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neurotool.tasks import Task

Text = str | tuple[str, ...]
"""A text, or the two of a pair; as one text a pair has a tab between."""


@dataclass(frozen=True)
class TextReader:
    """training: the record of the training, which names the validation data; max_length: tokens texts are cut to;
    entering: what makes of token ids what the network reads, where that is something else."""

    tokenizer: "PreTrainedTokenizerBase"
    task: "Task"
    training: dict[str, Any]
    max_length: int
    entering: Callable[[list[Inputs]], list[Inputs]] | None = None

    def columns(self, texts: Sequence[Text], names: Sequence[str] | None = None) -> list[tuple[str, ...]]:
        """Each text as the task has it: one, or two. names: what an error calls them. Raises DataError."""
        called = names or [f"text {number}" for number in range(1, len(texts) + 1)]
        return [self._columns(name, text) for name, text in zip(called, texts, strict=True)]

    def _columns(self, name: str, text: Text) -> tuple[str, ...]:
        parts = tuple(text.split("\t")) if isinstance(text, str) else tuple(text)
        shown, count = repr("\t".join(parts)[:40]), len(self.task.text_columns)
        wanted = "pairs, two texts with a tab between" if count == 2 else "single texts; write a space for a tab"
        if len(parts) != count:
            raise DataError(f"{name}: {shown} has {len(parts)} part(s) between tabs: this student reads {wanted}")
        if not all(part.strip() for part in parts):
            raise DataError(f"{name}: {shown} has an empty text: nothing can be said about it, leave it out")
        return tuple(check_text(part, name) for part in parts)

    def given(self, texts: Sequence[Text], names: Sequence[str] | None = None) -> "ModelInputs":
        """These texts. Raises DataError: see `columns`."""
        return self._inputs(self.columns(texts, names), None, "given texts")

    def data(self, data: Path | None, samples: int | None, labelled: bool = False) -> "ModelInputs":
        """Up to `samples` labelled texts of `data`, else of the validation data, else, unless `labelled`, built-in
        sentences.

        Raises DataError for `data` that cannot be read.
        """
        from neurotool.evaluation import is_validation_data, validation_examples

        task = self.task
        try:
            examples = validation_examples(data, task, self.training)
        except DataError as error:
            if labelled or data is not None:
                raise
            pair = range(len(task.text_columns))
            texts = [tuple(SENTENCES[(i + k) % len(SENTENCES)] for k in pair) for i in range(len(SENTENCES))]
            return self._inputs(texts[:samples], None, f"built-in sentences ({error})")
        chosen = examples.select(spread(len(examples), samples))
        columns = [chosen[name][:] for name in PAIR if name in examples.column_names]
        source = str(data) if data else f"validation data of {task.name}"
        inputs = self._inputs(list(zip(*columns, strict=True)), np.asarray(chosen["label"]), source)
        return replace(inputs, validation=is_validation_data(chosen, self.training))

    def prediction(self, text: Text | None, logits: np.ndarray) -> dict[str, Any]:
        """What the logits (labels,) of one text say: a score, or a label and the probabilities of all."""
        return predicted(self.task, text, logits)

    def _inputs(self, texts: list[tuple[str, ...]], labels: np.ndarray | None, source: str) -> "ModelInputs":
        inputs, cut = tokenised(self.tokenizer, texts, self.max_length)
        if self.entering is not None:
            inputs = self.entering(inputs)
        return ModelInputs(inputs, labels, f"{source}, {cut} cut to {self.max_length} tokens" if cut else source, cut)


@dataclass(frozen=True)
class SpikeReader:
    """How a network reads labelled spike recordings (neurotool/spike_data.py). training: as a TextReader's; shape: of
    its one Input, steps and channels; time_step: see spike_data.load_recordings."""

    task: "Task"
    training: dict[str, Any]
    node: str
    shape: tuple[int, int]
    time_step: float | None
    tokenizer: Any = None
    max_length: int = 1

    @classmethod
    def of(cls, graph: Graph, task: "Task", training: dict[str, Any]) -> "SpikeReader":
        """Raises DataError for a network that does not answer the task from one stream of spikes."""
        entries, shapes = graph.of_type(Input), graph.shapes()
        answer = shapes.get(graph.outputs.get(LOGITS, ""), ())
        if steps_per_token(graph) != 1 or len(entries) != 1 or len(shapes[entries[0]]) != 1:
            raise DataError(
                f"the network reads no spikes for task {task.name}: one Input (channels,) and output {LOGITS}"
            )
        if answer != (len(task.label_names),):
            raise DataError(f"task {task.name} has {len(task.label_names)} classes, the network answers with {answer}")
        (channels,) = shapes[entries[0]]
        return cls(task, training, entries[0], (graph.time_steps, int(channels)), time_step(graph))

    def columns(self, texts: Sequence[Text], names: Sequence[str] | None = None) -> NoReturn:
        raise ConfigError("the network reads spikes, not text: give recordings with --input, or a folder with --data")

    def given(self, texts: Sequence[Text], names: Sequence[str] | None = None) -> NoReturn:
        self.columns(texts, names)

    def data(self, data: Path | None, samples: int | None, labelled: bool = False) -> "ModelInputs":
        """Up to `samples` labelled recordings of `data`, else of the validation data, spread over its classes. Raises
        DataError where they cannot be found, or, of the validation data, are others than then."""
        from neurotool.spike_data import load_recordings

        plan, told = self.training.get("plan", {}), self.training.get("data", {}).get("hashes", {}).get("validation")
        folder = data or (Path(plan["data"]) if plan.get("data") else None)
        if folder is None or (data is None and not folder.exists()):
            where = "not known" if folder is None else f"{folder}, which is not here"
            raise DataError(f"the recordings it was validated on are {where}: give --data FOLDER or --input FILE")
        found = load_recordings(folder, self.task, *self.shape, self.time_step)
        same = told is not None and found.sha256 == told
        if data is None and told is not None and not same:
            raise DataError(f"{folder}: not the recordings that it was validated on: say with --data what to use")
        chosen = spread(len(found.labels), samples)
        inputs: list[Inputs] = [{"values": {self.node: found.spikes[i].astype(float)}} for i in chosen]
        source = str(data) if data else f"validation data of {self.task.name}"
        return ModelInputs(inputs, found.labels[chosen], source, validation=same and len(chosen) == len(found.labels))

    def prediction(self, text: Text | None, logits: np.ndarray) -> dict[str, Any]:
        """What the logits (labels,) of one recording say."""
        return predicted(self.task, text, logits)


Reader = TextReader | SpikeReader


def spread(there: int, wanted: int | None) -> np.ndarray:
    """Places of so many examples, all for None, spread over those that are there: files are often sorted by class."""
    return np.unique(np.linspace(0, there - 1, min(wanted or there, there)).astype(int))


def predicted(task: "Task", text: Text | None, logits: np.ndarray) -> dict[str, Any]:
    """What the logits (labels,) of one input say: a score, or a label and the probabilities of all."""
    known = {} if text is None else {"text": text if isinstance(text, str) else "\t".join(text)}
    if not np.isfinite(logits).all():
        raise DataError(f"the network's answer to {str(text)[:40]!r} is no number: its weights are too large")
    if task.regression:
        return known | {"score": float(logits[0])}
    exponentials = np.exp(logits - logits.max())
    named = zip(task.label_names, map(float, exponentials / exponentials.sum()), strict=True)
    return known | {"label": task.label_names[int(logits.argmax())], "probabilities": dict(named)}


@dataclass(frozen=True)
class ModelInputs:
    """inputs: arguments of `simulate`, all of one length; labels: (inputs,), None where they are not known; source: in
    words; cut: how many are longer than the model reads; validation: they are all that the training validated on."""

    inputs: list[Inputs]
    labels: np.ndarray | None
    source: str
    cut: int = 0
    validation: bool = False

    def first(self, count: int) -> "ModelInputs":
        """The same with so many of them at most."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, inputs=self.inputs[:count], labels=labels)

    def batches(self, size: int = 16) -> list[Inputs]:
        """The same, stacked."""
        return [stacked(self.inputs[start : start + size]) for start in range(0, len(self.inputs), size)]
