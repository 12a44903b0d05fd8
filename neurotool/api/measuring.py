"""What a model did on texts or inputs, by any executor: its metrics, its activity and its operation counts."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from neurotool.api.executors import EXECUTORS, check_executor
from neurotool.api.model import NOTHING, Model
from neurotool.api.reading import ModelInputs, spread
from neurotool.errors import ConfigError, DataError
from neurotool.executor import Executor, Inputs, Run
from neurotool.inputs import Given
from neurotool.streams import per_token
from neurotool.texts import INPUTS, PAIR, pad

if TYPE_CHECKING:
    from neurotool.convergence import Errors
    from neurotool.energy.counts import Counts
    from neurotool.energy.report import Report
    from neurotool.evaluation import Evaluation

CONVERGENCE_STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
DEFAULT_SAMPLES = {"NIR file": 8, "bundle": 64}
Track = Callable[[Iterable[Inputs], str], Iterable[Inputs]]
"""Shows how far a loop over inputs is, which it calls so."""


def no_track(inputs: Iterable[Inputs], what: str) -> Iterable[Inputs]:
    return inputs


@dataclass(frozen=True)
class Measured:
    """measured: on what, in words. metrics: of the network on that; teacher: its counts on the same texts; training:
    the record of a checkpoint."""

    name: str
    counts: "Counts"
    measured: str
    metrics: dict[str, float] = field(default_factory=dict)
    teacher: "Counts | None" = None
    teacher_metrics: dict[str, float] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """data: a table or folder of labelled texts, or one text itself; None for the activity in the checkpoint.

    skip_zero: weights that are zero cost nothing. afresh: measured anew even where the checkpoint stores the activity.
    given: what a network that reads no text is run on.
    """

    data: str | None = None
    samples: int | None = None
    skip_zero: bool = False
    afresh: bool = False
    given: Given = NOTHING

    @property
    def file(self) -> Path | None:
        """`data` where it names a file or folder. Raises DataError for a name of nothing."""
        from neurotool.tables import SUFFIXES

        if self.data is None:
            return None
        if not self.data.strip():
            raise DataError(f"--data {self.data!r}: the text is empty; give a table, a folder or a text")
        path = Path(self.data)
        exists = os.path.exists(path)  # a text may be longer than any name
        if not exists and (path.suffix in SUFFIXES or ("/" in self.data and " " not in self.data)):
            raise DataError(
                f"{self.data}: no such file or folder; give a table, a folder with a validation file or a text"
            )
        return path if exists else None


def energy(
    model: Model,
    data: Path | str | None = None,
    *,
    executor: str | None = None,
    samples: int | None = None,
    skip_zero: bool = False,
    given: Given = NOTHING,
    cost_models: Iterable[str] = (),
    numbers: str | None = None,
    dense_cost_model: str | None = None,
    force: bool = False,
    dataflows: str | None = None,
    hybrid: bool = False,
) -> "Report":
    """Operations and energy of `model`, beside its dense rivals.

    data: a table or folder of texts, or one text; by default the activity that a checkpoint stores. executor: what runs
    it, by default the model's own. given: what a network that reads no text is run on. The others are those of
    `neurotool energy report`.
    """
    from neurotool.energy.costs import load_cost_model
    from neurotool.energy.dataflow import named_dataflows
    from neurotool.energy.report import DEFAULT_MODELS

    source = Source(None if data is None else str(data), samples, skip_zero, given=given)
    models = [load_cost_model(name) for name in cost_models or DEFAULT_MODELS]
    dense = load_cost_model(dense_cost_model) if dense_cost_model else None
    how = {"chosen": None if dataflows is None else named_dataflows(dataflows), "hybrid": hybrid}
    return report_of(measure(model, source, executor), models, numbers, dense, force, **how)


def report_of(
    measured: Measured,
    models: list[Any],
    numbers: str | None = None,
    dense: Any = None,
    force: bool = False,
    **how: Any,
) -> "Report":
    """Prices what was measured: see `build_report`, which says what `how` may be."""
    from neurotool.energy.report import build_report

    return build_report(
        measured.name,
        measured.measured,
        measured.counts,
        models,
        numbers=numbers,
        dense_model=dense,
        teacher=measured.teacher,
        force=force,
        metrics=measured.metrics,
        teacher_metrics=measured.teacher_metrics,
        **how,
    )


def measure(model: Model, source: Source, executor: str | None = None, track: Track = no_track) -> Measured:
    """Counts of what an executor did. A checkpoint's own are those of the torch student: what training stored, or,
    where `source` or a T asks for it, measured anew."""
    file = source.file
    executor = executor or model.default_executor
    check_executor(executor)
    if executor != "torch" or model.student is None or source.given.files:
        return _executed(model, source, file, executor, track)
    trained = model.student.model.config.time_steps == model.time_steps
    if source.data is None and source.samples is None and trained and not source.afresh:
        return _stored(model, source)
    return _by_student(model, source, file)


def _stored(model: Model, source: Source) -> Measured:
    """From the activity that training measured on its validation data."""
    from neurotool.activity import Activity
    from neurotool.energy.counts import count, events_of_activity

    assert model.student is not None
    try:
        activity = Activity.from_dict(model.student.checkpoint.activity)
    except DataError as error:
        raise DataError(
            f"{model.path}: written by an older neurotool, without the counts this needs; measure them with --data DIR"
        ) from error
    graph = per_token(model.graph)
    counts = count(graph, activity, events_of_activity(graph, activity, source.skip_zero), source.skip_zero)
    measured = f"{activity.inputs} validation texts of {model.student.task.name}, as stored in the checkpoint"
    return _with_teacher(Measured(str(model.path), counts, measured, model.record.get("metrics", {})), model, True)


def _by_student(model: Model, source: Source, file: Path | None) -> Measured:
    """Run the torch student on labelled examples (its validation data by default) or on one text."""
    import datasets

    from neurotool.energy.counts import count, events_of_activity
    from neurotool.evaluation import evaluate as evaluate_student
    from neurotool.evaluation import measure as measure_student
    from neurotool.tasks import tokenise

    datasets.disable_progress_bars()
    assert model.student is not None
    student, tokenizer, task, _ = model.student
    reader = model.reading()
    options: dict[str, Any] = {"time_steps": model.time_steps, "per_neuron": source.skip_zero}
    metrics: dict[str, float] = {}
    same = False
    if source.data is not None and file is None:
        (texts,) = reader.columns([source.data], ["--data"])
        one = datasets.Dataset.from_dict(
            {name: [text] for name, text in zip(PAIR, texts, strict=False)} | {"label": [0]}
        )
        _, activity = measure_student(student, tokenise(one, tokenizer, reader.max_length)[0], tokenizer, **options)
        measured = f"the text {source.data!r}"
    else:
        said: list[str] = []
        dataset, same = _tokenised(model, file, source.samples, said.append)
        result = evaluate_student(student, dataset, tokenizer, task, **options)
        activity, metrics = result.activity, result.metrics
        where = source.data or f"the validation data of {task.name}"
        measured = ", ".join([f"{len(dataset)} texts of {where}", *said])
    graph = per_token(model.graph)
    counts = count(graph, activity, events_of_activity(graph, activity, source.skip_zero), source.skip_zero)
    return _with_teacher(Measured(str(model.path), counts, measured, metrics), model, same)


def _executed(model: Model, source: Source, file: Path | None, executor: str, track: Track) -> Measured:
    """Run the layer graph on an executor."""
    from neurotool.energy.counts import count, events_of_activity

    samples = source.samples or DEFAULT_SAMPLES.get(model.kind, 64)
    if source.data is not None and file is None:
        inputs, measured = model.reading().given([source.data], ["--data"]), f"the text {source.data!r}"
    else:
        model, inputs = model.ready(file, samples, source.given)
        measured = f"{len(inputs.inputs)} inputs: {inputs.source}"
    seen = _Kept(model.executor(executor))
    activity, events = _add_up(model, seen, inputs, executor, track)
    graph = per_token(model.graph)
    if source.skip_zero:
        events = events_of_activity(graph, activity, skip_zero=True)
    counts = count(graph, activity, events, source.skip_zero)
    done = Measured(str(model.path), counts, f"{measured}, by executor {executor}", _metrics(model, seen, inputs))
    return _with_teacher(done, model, inputs.validation) if model.student is not None else done


def evaluate(
    model: Model,
    data: Path | None = None,
    executor: str | None = None,
    *,
    samples: int | None = None,
    batch_size: int = 64,
    track: Track = no_track,
    say: Callable[[str], object] = lambda line: None,
) -> "Evaluation":
    """Metrics, logits and activity on labelled texts: the validation data by default, all of them unless `samples`.

    batch_size: texts that torch runs together. say: is told how many texts had to be cut.
    Raises DataError where the data cannot be found, ConfigError for a model that reads or predicts nothing.
    """
    from neurotool.evaluation import Evaluation
    from neurotool.evaluation import evaluate as evaluate_student
    from neurotool.tasks import compute_metrics

    reader, executor = model.reading(), executor or model.default_executor
    check_executor(executor)
    if executor == "torch" and model.student is not None:
        tokens, _ = _tokenised(model, data, samples, say)
        student, tokenizer, task, _ = model.student
        steps = model.time_steps
        return evaluate_student(student, tokens, tokenizer, task, batch_size=batch_size, time_steps=steps)
    inputs = reader.data(data, samples, labelled=True)
    _say_cut(say, inputs.cut, len(inputs.inputs), reader.max_length)
    seen = _Kept(model.executor(executor))
    activity, _ = _add_up(model, seen, inputs, executor, track)
    logits, labels = seen.logits, inputs.labels
    if logits is None or labels is None:
        raise ConfigError(f"{model.path}: the network has no readout and predicts nothing")
    return Evaluation(compute_metrics(reader.task, logits, labels), logits, labels, activity)


def converge(
    model: Model, data: Path | None, time_steps: tuple[int, ...], plot: Path | None, force: bool = False
) -> "tuple[Errors, int]":
    """Mean |ASR - steady state| of every neuron layer on up to 32 texts, for each T, and their number; drawn to `plot`.

    Raises ConfigError for a model that is no student, or not one that is made to reach a steady state.
    """
    from neurotool.convergence import check_convergent, measure_convergence, plot_convergence

    if model.student is None:
        raise ConfigError(f"{model.path}: --convergence compares a student with its own steady state: give a .ckpt")
    student, tokenizer, _, _ = model.student
    check_convergent(student)
    sample, _ = _tokenised(model, data, 32, lambda line: None)
    batch = pad(tokenizer, {name: sample[name][:] for name in INPUTS})
    errors = measure_convergence(student, dict(batch), list(time_steps or CONVERGENCE_STEPS))
    if plot is not None:
        plot_convergence(errors, plot, force)
    return errors, len(sample)


def _tokenised(model: Model, data: Path | None, samples: int | None, say: Callable[[str], object]) -> tuple[Any, bool]:
    """Labelled texts for the torch student, the validation data by default; and whether they are all of these."""
    import datasets

    from neurotool.evaluation import is_validation_data, validation_examples
    from neurotool.tasks import tokenise

    datasets.disable_progress_bars()
    reader = model.reading()
    examples = validation_examples(data, reader.task, reader.training)
    examples = examples.select(spread(len(examples), samples))
    tokens, cut = tokenise(examples, reader.tokenizer, reader.max_length)
    _say_cut(say, cut, len(tokens), reader.max_length)
    return tokens, is_validation_data(examples, reader.training)


def _say_cut(say: Callable[[str], object], cut: int, texts: int, length: int) -> None:
    if cut:
        say(f"{cut} of {texts} texts are longer than {length} tokens: cut")


class _Kept:
    """An executor whose logits are kept."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.graph, self.drive = executor, executor.graph, executor.drive
        self.seen: list[np.ndarray] = []

    def run(self, **batch: Any) -> Run:
        run = self.executor.run(**batch)
        self.seen += [] if run.logits is None else [run.logits]
        return run

    @property
    def logits(self) -> np.ndarray | None:
        """(inputs, labels) of all that ran; None without a Readout."""
        return np.concatenate(self.seen) if self.seen else None


def _add_up(model: Model, executor: Any, inputs: ModelInputs, name: str, track: Track) -> Any:
    from neurotool.energy.measure import measure as add_up

    at_once = EXECUTORS[name].at_once or len(inputs.inputs)
    return add_up(model.graph, track(inputs.inputs, f"on {name}"), executor, at_once)


def _metrics(model: Model, seen: _Kept, inputs: ModelInputs) -> dict[str, float]:
    if model.task is None or inputs.labels is None or seen.logits is None:
        return {}
    from neurotool.tasks import compute_metrics

    return compute_metrics(model.task, seen.logits, inputs.labels)


def _with_teacher(measured: Measured, model: Model, same: bool) -> Measured:
    """same: the texts are the validation data, for which alone the teacher's metrics in the training record hold."""
    from neurotool.energy.dense import dense_counts, dense_graph, teacher_config

    assert model.student is not None
    training = model.record
    measured = replace(measured, training=training)
    config = teacher_config(model.student.checkpoint.config, training)
    if config is None:
        return measured
    graph = dense_graph(config, model.student.task.num_labels)
    metrics = training["teacher"].get("metrics", {}) if same else {}
    return replace(measured, teacher=dense_counts(graph, measured.counts.activity), teacher_metrics=metrics)
