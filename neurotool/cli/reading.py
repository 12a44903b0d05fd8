"""How a model file reads text: its tokenizer and task, and where its validation data are."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from neurotool.errors import BundleError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from neurotool.lava_runtime.bundle import Bundle
    from neurotool.student.serialise import LoadedStudent
    from neurotool.tasks import Task


class TextReader(NamedTuple):
    """plan: of the training, which names the validation data and the length texts were cut to. hashes: of the data."""

    tokenizer: "PreTrainedTokenizerBase"
    task: "Task"
    plan: dict[str, Any]
    hashes: dict[str, str]


class TextInputs(NamedTuple):
    """inputs: arguments of `simulate`, all of one length; labels: (inputs,), None for built-in sentences."""

    inputs: list[dict[str, Any]]
    labels: np.ndarray | None
    source: str

    def batches(self, size: int = 16) -> list[dict[str, Any]]:
        """The same, stacked."""
        parts = [self.inputs[start : start + size] for start in range(0, len(self.inputs), size)]
        return [{name: _stacked([one[name] for one in part]) for name in part[0]} for part in parts]


def _stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):  # the values of Input nodes
        return {name: np.stack([one[name] for one in values]) for name in values[0]}
    return np.stack(values)


def student_reader(student: "LoadedStudent") -> TextReader:
    training = student.checkpoint.training
    hashes = training.get("data", {}).get("hashes", {})
    return TextReader(student.tokenizer, student.task, training.get("plan", {}), hashes)


def bundle_reader(bundle: "Bundle", path: Path) -> TextReader | None:
    """None where the bundle's network reads no text. Raises BundleError for a damaged tokenizer or task."""
    if not bundle.tokenizer:
        return None
    from neurotool.tasks import Task
    from neurotool.texts import tokenizer_from_files

    try:
        tokenizer = tokenizer_from_files(bundle.tokenizer)
    except DataError as error:
        raise BundleError(f"{path}: its tokenizer cannot be read: {error}; export it again") from error
    try:
        task = Task.from_dict(bundle.task)
        hashes = bundle.record.get("data", {}).get("hashes", {})
        return TextReader(tokenizer, task, bundle.record.get("plan", {}), hashes)
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path}: its manifest describes no task ({type(error).__name__} {error}); export it again"
        ) from error


def read_texts(reader: TextReader, data: Path | None, samples: int, tokens: int) -> TextInputs:
    """Up to `samples` texts of `data`, else of the validation data, else built-in sentences.

    tokens: the most that the network takes. Raises DataError for `data` that cannot be read.
    """
    from neurotool.evaluation import validation_examples
    from neurotool.sentences import SENTENCES, tokenised
    from neurotool.texts import PAIR, longest

    task, labels = reader.task, None
    try:
        examples = validation_examples(data, task, {"plan": reader.plan, "data": {"hashes": reader.hashes}})
        columns = [name for name in PAIR if name in examples.column_names]
        chosen = examples.select(range(min(samples, len(examples))))
        texts = list(zip(*(chosen[name] for name in columns), strict=True))
        labels = np.asarray(chosen["label"])
        source = str(data) if data else f"validation data of {task.name}"
    except DataError as error:
        if data is not None:
            raise
        pair = range(len(task.text_columns))
        texts = [tuple(SENTENCES[(i + k) % len(SENTENCES)] for k in pair) for i in range(len(SENTENCES))][:samples]
        source = f"built-in sentences ({error})"
    tokens = longest(reader.plan, tokens)
    inputs, cut = tokenised(reader.tokenizer, texts, tokens)
    return TextInputs(inputs, labels, f"{source}, {cut} cut to {tokens} tokens" if cut else source)
