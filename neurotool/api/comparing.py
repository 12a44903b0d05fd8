"""Two models side by side: is each spike the same? A model is compared as an executor runs it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from neurotool.api.executors import EXECUTORS, Precision
from neurotool.api.measuring import no_track
from neurotool.api.model import Model, open_model
from neurotool.api.reading import ModelInputs
from neurotool.errors import ConfigError
from neurotool.executor import Inputs
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


def compare(
    a: Side,
    b: Side,
    *,
    data: Path | str | None = None,
    samples: int = 32,
    tolerance: float | None = None,
    precision: Precision = "float64",
    track: Callable[[Iterable[Inputs], str], Iterable[Inputs]] = no_track,
) -> Compared:
    """What `neurotool validate` prints: run both on the same inputs and compare spikes, rates and logits.

    a, b: a file or an opened model, by its own executor, or a pair of it and another's name: ("model.ckpt", "lava").
    data: texts for both, by default `samples` of the validation data. tolerance: see `neurotool.validate.compare`.
    Raises ConfigError, and what opening a file raises.
    """
    (model_a, name_a), (model_b, name_b) = _side(a), _side(b)
    inputs = _inputs(model_a, model_b, None if data is None else Path(data), samples)
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


def _side(side: Side) -> tuple[Model, str]:
    model, name = side if isinstance(side, tuple) else (side, None)
    opened = model if isinstance(model, Model) else open_model(model)
    return opened, name or opened.default_executor


def _inputs(a: Model, b: Model, data: Path | None, samples: int) -> ModelInputs:
    """As the first reads them that reads texts, cut to what both take."""
    reading = a if a.reader is not None else b
    if reading.reader is None:
        if data is not None:
            raise ConfigError(f"--data {data}: neither file is a checkpoint or a bundle, which hold a tokenizer")
        return replace(a.samples(None, samples), source="random inputs: neither file holds a tokenizer")
    length = min(reading.reader.max_length, a.graph.tokens, b.graph.tokens)
    return replace(reading.reader, max_length=length).data(data, samples)
