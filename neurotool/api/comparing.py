"""Two models side by side: is each spike the same? A model is compared as an executor runs it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from neurotool.api.executors import EXECUTORS, Precision
from neurotool.api.measuring import no_track
from neurotool.api.model import NOTHING, Model, is_nir, open_model
from neurotool.api.reading import ModelInputs
from neurotool.errors import ConfigError
from neurotool.executor import Inputs
from neurotool.graph import Input
from neurotool.inputs import Given
from neurotool.recorded import compare_recorded
from neurotool.recordings import read_recording
from neurotool.streams import longest_text
from neurotool.validate import Comparison
from neurotool.validate import compare as compare_runs

Side = Model | Path | str | tuple[Model | Path | str, str | None]
"""A model or its file, by its own executor, or with the name of another."""


@dataclass(frozen=True)
class Compared:
    """result: layer by layer; source: of the inputs, in words; executors: that ran A and B."""

    result: Comparison
    source: str
    executors: tuple[str, str]

    @property
    def passed(self) -> bool:
        """Whether the two agree within the tolerance."""
        return self.result.passed


def said_of_each(files: Sequence[Path], foreign: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each file what is said of foreign ones: it is for the .nir files, or for all where there is none."""
    there = [is_nir(path) and not path.is_dir() for path in files]
    return [foreign if is_there or not any(there) else {} for is_there in there]


def compare(
    a: Side,
    b: Side,
    *,
    data: Path | str | None = None,
    samples: int = 32,
    given: Given = NOTHING,
    tolerance: float | None = None,
    precision: Precision = "float64",
    track: Callable[[Iterable[Inputs], str], Iterable[Inputs]] = no_track,
) -> Compared:
    """What `neurotool validate` prints: run both on the same inputs and compare spikes, rates and logits.

    a, b: a file or an opened model, by its own executor, or a pair of it and another's name: ("model.ckpt", "lava").
    data: texts for both, by default `samples` of the validation data. given: what networks that read no text are run
    on. tolerance: see `neurotool.validate.compare`.
    Raises ConfigError, and what opening a file raises.
    """
    (model_a, name_a), (model_b, name_b) = _side(a), _side(b)
    model_a, model_b, inputs = _ready(model_a, model_b, None if data is None else Path(data), samples, given)
    executor_a, executor_b = (
        model.executor(name, precision=precision) for model, name in ((model_a, name_a), (model_b, name_b))
    )
    together = any(EXECUTORS[name].at_once is None for name in (name_a, name_b))
    result = compare_runs(
        executor_a,
        executor_b,
        track(inputs.inputs, "comparing"),
        tolerance,
        rounding=1e-9 if precision == "float64" else 1e-5,
        at_once=len(inputs.inputs) if together else 1,
    )
    return Compared(result, inputs.source, (name_a, name_b))


def compare_with_recorded(
    a: Side,
    recording: Path | str,
    *,
    given: Given = NOTHING,
    tolerance: float | None = None,
    precision: Precision = "float64",
) -> Compared:
    """A model on `given` inputs against what another tool, or a chip, recorded there: see `compare_recorded`.

    Raises ConfigError without inputs, DataError for recordings that do not fit.
    """
    if not given.files:
        raise ConfigError(f"{recording}: holds spikes, but not what the network was given: name it with --input")
    model, name = _side(a)
    told, inputs = model.ready(given=given)
    executor = told.executor(name, precision=precision)
    recorded = read_recording(Path(recording))
    result = compare_recorded(executor, inputs.inputs, recorded, tolerance)
    return Compared(result, inputs.source, (name, "recorded"))


def _side(side: Side) -> tuple[Model, str]:
    model, name = side if isinstance(side, tuple) else (side, None)
    opened = model if isinstance(model, Model) else open_model(model)
    return opened, name or opened.default_executor


def _ready(a: Model, b: Model, data: Path | None, samples: int, given: Given) -> tuple[Model, Model, ModelInputs]:
    """Inputs as the first reads them that reads texts, cut to what both take; and the two told what they are."""
    reading = a if a.reader is not None else b
    if reading.reader is None or given.files:
        if data is not None:
            raise ConfigError(f"--data {data}: neither file is a checkpoint or a bundle, which hold a tokenizer")
        told, inputs = a.ready(None, samples, given)
        values = {name: np.stack([one["values"][name] for one in inputs.inputs]) for name in b.graph.of_type(Input)
                  if name in a.graph.nodes}  # fmt: skip
        return told, b.told(values, given.kind) if len(values) == len(b.graph.of_type(Input)) else b, inputs
    length = min(reading.reader.max_length, longest_text(a.graph), longest_text(b.graph))
    return a, b, replace(reading.reader, max_length=length).data(data, samples)
