"""From any model file to operation counts, for the energy commands: whose activity, measured on what."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from neurotool.cli.graphs import Conventions, is_nir, load_graph, refuse_conventions
from neurotool.errors import ConfigError, DataError
from neurotool.graph import Graph
from neurotool.lava_runtime.bundle import is_bundle, read_bundle
from neurotool.texts import check_text

if TYPE_CHECKING:
    from neurotool.energy.counts import Counts
    from neurotool.student.serialise import LoadedStudent

NIR_SAMPLES = 8
BUNDLE_SAMPLES = 64


@dataclass(frozen=True)
class Measured:
    """measured: on what, in words. metrics: of the network on that; teacher: its counts on the same texts;
    training: the record of a checkpoint."""

    path: Path
    counts: "Counts"
    measured: str
    metrics: dict[str, float] = field(default_factory=dict)
    teacher: "Counts | None" = None
    teacher_metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """data: a table or folder of labelled texts, or one text itself; None for the activity in the checkpoint."""

    data: str | None = None
    samples: int | None = None
    tokenizer: Path | None = None
    skip_zero: bool = False

    @property
    def file(self) -> Path | None:
        """`data` where it names a file or folder. Raises DataError for a name of nothing."""
        from neurotool.tables import SUFFIXES

        if self.data is None:
            return None
        if not self.data.strip():
            raise DataError(f"--data {self.data!r}: the text is empty; give a table, a folder or a text")
        path = Path(self.data)
        if not path.exists() and (path.suffix in SUFFIXES or ("/" in self.data and " " not in self.data)):
            raise DataError(
                f"{self.data}: no such file or folder; give a table, a folder with a validation file or a text"
            )
        return path if path.exists() else None


def measure_file(path: Path, conventions: Conventions, source: Source) -> Measured:
    """Counts of a .ckpt (by the torch student), a Lava bundle (by the emulator) or a .nir file (by the interpreter)."""
    source.file  # noqa: B018  a wrong name is told before anything is loaded
    if is_bundle(path):
        refuse_tokenizer(path, source)
        return _emulated(path, source)
    if path.is_dir() or is_nir(path):
        return _interpreted(path, load_graph(path, conventions), source)
    refuse_conventions(path, conventions)
    refuse_tokenizer(path, source)
    from neurotool.student.serialise import load_student

    student = load_student(path)
    if source.data is None and source.samples is None and conventions["time_steps"] is None:
        return _stored(path, student, source)
    return measure_student(path, student, source, conventions["time_steps"])


def refuse_tokenizer(path: Path, source: Source) -> None:
    if source.tokenizer is not None:
        raise ConfigError(f"--tokenizer {source.tokenizer}: {path} has its own; the option is for a .nir file")


def _stored(path: Path, student: "LoadedStudent", source: Source) -> Measured:
    """From the activity that training measured on its validation data."""
    from neurotool.activity import Activity
    from neurotool.energy.counts import count, events_of_activity

    training = student.checkpoint.training
    try:
        activity = Activity.from_dict(student.checkpoint.activity)
    except DataError as error:
        raise DataError(
            f"{path}: written by an older neurotool, without the counts this needs; measure them with --data DIR"
        ) from error
    graph = student.model.to_graph()
    counts = count(graph, activity, events_of_activity(graph, activity, source.skip_zero), source.skip_zero)
    measured = f"{activity.inputs} validation texts of {student.task.name}, as stored in the checkpoint"
    return _with_teacher(Measured(path, counts, measured, training.get("metrics", {})), student, True)


def measure_student(path: Path, student: "LoadedStudent", source: Source, time_steps: int | None = None) -> Measured:
    """Run the torch student on labelled examples (its validation data by default) or on one text, at another T where
    given."""
    import datasets

    from neurotool.energy.counts import count, events_of_activity
    from neurotool.evaluation import evaluate, is_validation_data, measure, validation_examples
    from neurotool.student.student import check_time_steps
    from neurotool.tasks import tokenise
    from neurotool.texts import longest

    datasets.disable_progress_bars()
    model, tokenizer, task, checkpoint = student
    check_time_steps(model, time_steps)
    length = longest(checkpoint.training.get("plan", {}), model.config.max_position_embeddings)
    options: dict[str, Any] = {"time_steps": time_steps, "per_neuron": source.skip_zero}
    metrics: dict[str, float] = {}
    same = False
    if source.data is not None and source.file is None:
        texts = _pair(source.data, task.text_columns)
        one = datasets.Dataset.from_dict(dict(zip(("sentence1", "sentence2"), texts, strict=False)) | {"label": [0]})
        dataset, _ = tokenise(one, tokenizer, length)
        with _busy("measuring"):
            _, activity = measure(model, dataset, tokenizer, **options)
        measured = f"the text {source.data!r}"
    else:
        examples = validation_examples(source.file, task, checkpoint.training)
        examples = examples.select(range(min(source.samples or len(examples), len(examples))))
        same = is_validation_data(examples, checkpoint.training)
        dataset, cut = tokenise(examples, tokenizer, length)
        with _busy(f"measuring on {len(dataset)} texts"):
            result = evaluate(model, dataset, tokenizer, task, **options)
        activity, metrics = result.activity, result.metrics
        where = source.data or f"the validation data of {task.name}"
        measured = f"{len(dataset)} texts of {where}" + (f", {cut} cut to {length} tokens" if cut else "")
    graph = replace(model.to_graph(), time_steps=activity.time_steps)
    counts = count(graph, activity, events_of_activity(graph, activity, source.skip_zero), source.skip_zero)
    return _with_teacher(Measured(path, counts, measured, metrics), student, same)


def _with_teacher(measured: Measured, student: "LoadedStudent", same: bool) -> Measured:
    """same: the texts are the validation data, for which alone the teacher's metrics in the training record hold."""
    from neurotool.energy.dense import dense_counts, dense_graph, teacher_config

    training = student.checkpoint.training
    measured = replace(measured, training=training)
    config = teacher_config(student.checkpoint.config, training)
    if config is None:
        return measured
    graph = dense_graph(config, student.task.num_labels)
    metrics = training["teacher"].get("metrics", {}) if same else {}
    return replace(measured, teacher=dense_counts(graph, measured.counts.activity), teacher_metrics=metrics)


def _interpreted(path: Path, graph: Graph, source: Source) -> Measured:
    """A graph without a tokenizer of its own runs on random inputs, or with a checkpoint's tokenizer on texts."""
    from neurotool.energy.counts import count, events_of_activity
    from neurotool.energy.measure import measure
    from neurotool.sentences import random_inputs, tokenised

    samples = source.samples or NIR_SAMPLES
    if source.data is None:
        inputs, measured = (
            random_inputs(graph, samples),
            f"{samples} random inputs: give --data and --tokenizer for texts",
        )
    elif source.tokenizer is None:
        raise ConfigError(f"--data {source.data}: {path} holds no tokenizer; name a .ckpt that does with --tokenizer")
    else:
        from neurotool.student.serialise import load_student
        from neurotool.tasks import load_examples

        student = load_student(source.tokenizer)
        columns = student.task.text_columns
        if source.file is None:
            texts = [tuple(column[0] for column in _pair(source.data, columns))]
        else:
            examples = load_examples(source.file, student.task)
            chosen = examples.select(range(min(samples, len(examples))))
            names = [name for name in ("sentence1", "sentence2") if name in chosen.column_names]
            texts = list(zip(*(chosen[name][:] for name in names), strict=True))
        inputs, _ = tokenised(student.tokenizer, texts, graph.tokens)
        measured = f"{len(texts)} texts of {source.data}"
    steps = track(inputs, "interpreting", console=Console(stderr=True), transient=True)
    activity, events = measure(graph, steps)
    if source.skip_zero:
        events = events_of_activity(graph, activity, skip_zero=True)
    return Measured(path, count(graph, activity, events, source.skip_zero), f"{measured}, by the interpreter")


def _emulated(path: Path, source: Source) -> Measured:
    """A Lava bundle reads texts by itself; they are its validation data by default."""
    from neurotool.cli.reading import bundle_reader, read_texts
    from neurotool.energy.counts import count, events_of_activity
    from neurotool.energy.measure import measure
    from neurotool.lava_runtime.model import EmulatedModel
    from neurotool.sentences import random_inputs, tokenised

    bundle, samples = read_bundle(path), source.samples or BUNDLE_SAMPLES
    reader = bundle_reader(bundle, path)
    if reader is None:
        inputs, measured = random_inputs(bundle.graph, samples), f"{samples} random inputs: the bundle reads no text"
    elif source.data is not None and source.file is None:
        pair = tuple(column[0] for column in _pair(source.data, reader.task.text_columns))
        inputs, measured = tokenised(reader.tokenizer, [pair], bundle.max_length)[0], f"the text {source.data!r}"
    else:
        texts = read_texts(reader, source.file, samples, bundle.max_length)
        inputs, measured = texts.inputs, f"{len(texts.inputs)} texts: {texts.source}"
    steps = track(inputs, "emulating", console=Console(stderr=True), transient=True)
    activity, events = measure(bundle.graph, steps, EmulatedModel(bundle.graph).execute)
    if source.skip_zero:
        events = events_of_activity(bundle.graph, activity, skip_zero=True)
    return Measured(path, count(bundle.graph, activity, events, source.skip_zero), f"{measured}, by the emulator")


def _pair(text: str, columns: tuple[str, ...]) -> list[list[str]]:
    """One column a text; the two of a pair are separated by a tab."""
    check_text(text, "--data")
    texts = text.split("\t")
    if len(texts) != len(columns):
        raise DataError(
            f"--data {text!r}: the task wants {' and '.join(columns)}, separated by a tab, and {len(texts)} came"
        )
    return [[part] for part in texts]


@contextmanager
def _busy(what: str) -> Iterator[None]:
    with Console(stderr=True).status(what):
        yield
