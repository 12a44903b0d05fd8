"""The list of executors. Each takes a model's graph (torch: its student), the same inputs, and gives a `Run`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from neurotool.errors import ConfigError
from neurotool.executor import Executor
from neurotool.graph import Graph
from neurotool.graph.graded import levels
from neurotool.streams import in_time

if TYPE_CHECKING:
    from neurotool.lava_runtime.membranes import Overflow
    from neurotool.student import Student

Precision = Literal["float64", "float32", "as used"]


@dataclass(frozen=True)
class Settings:
    """precision: torch and the interpreter compute in double precision; in float32 every operation is rounded once, and
    "as used" is torch's own single precision. overflow: what becomes of numbers beyond 24 bits in fixed point. timeout:
    seconds after which Lava is stopped; progress: called with the number of inputs that Lava has done."""

    precision: Precision = "float64"
    overflow: "Overflow" = "error"
    timeout: float | None = None
    progress: Callable[[int], None] | None = None


@dataclass(frozen=True)
class Device:
    """make: (graph, student or None, settings) -> executor. reads: what it runs, in words. settings: those it heeds.

    at_once: how many inputs it is best given together; None for all there are.
    """

    make: Callable[[Graph, "Student | None", Settings], Executor]
    title: str
    settings: tuple[str, ...] = ()
    at_once: int | None = 1


def _torch(graph: Graph, student: "Student | None", settings: Settings) -> Executor:
    if student is None:
        raise ConfigError("executor torch runs students of checkpoints: choose interpreter, emulator or lava")
    import torch

    from neurotool.student.streaming import StreamingForSequenceClassification
    from neurotool.student.tracing import StreamExecutor, TorchExecutor

    precision = torch.float64 if settings.precision == "float64" else torch.float32
    if isinstance(student, StreamingForSequenceClassification):
        return StreamExecutor(student, precision, settings.precision == "as used")
    return TorchExecutor(student, precision, settings.precision == "as used", levels(graph) or graph.time_steps)


def _interpreter(graph: Graph, student: "Student | None", settings: Settings) -> Executor:
    if graph.fixed_point:
        raise ConfigError(
            "executor interpreter computes with real numbers, and the graph holds integers: emulator or lava"
        )
    from neurotool.simulate import Interpreter

    return Interpreter(graph, np.float64 if settings.precision == "float64" else np.float32)


def _emulator(graph: Graph, student: "Student | None", settings: Settings) -> Executor:
    from neurotool.lava_runtime.emulator import Emulator

    return Emulator(graph, settings.overflow)


def _lava(graph: Graph, student: "Student | None", settings: Settings) -> Executor:
    from neurotool.lava_runtime.run import LavaExecutor

    options = {"overflow": settings.overflow, "timeout": settings.timeout, "progress": settings.progress}
    return LavaExecutor(graph, **options)


EXECUTORS: dict[str, Device] = {
    "torch": Device(_torch, "the student in PyTorch", ("precision",)),
    "interpreter": Device(_interpreter, "the layer graph step by step: slow, and the reference", ("precision",)),
    "emulator": Device(_emulator, "what the Lava processes compute, in numpy", ("overflow",)),
    "lava": Device(_lava, "Lava processes on the CPU", ("overflow", "timeout", "progress"), None),
}
"""By the name that `--executor` takes."""


def check_executor(name: str) -> None:
    """Raises ConfigError for a name that is not in the list."""
    if name not in EXECUTORS:
        raise ConfigError(f"executor {name!r}: there are {', '.join(EXECUTORS)}")


def make_executor(name: str, graph: Graph, student: "Student | None", settings: Settings) -> Executor:
    """One of EXECUTORS. Raises ConfigError for one that cannot run the network, and a setting that would do nothing."""
    check_executor(name)
    if settings.timeout is not None and "timeout" not in EXECUTORS[name].settings:
        raise ConfigError(f"--timeout {settings.timeout:g}: only Lava is stopped after a time; leave it out")
    if settings.overflow != "error" and not graph.fixed_point:
        raise ConfigError(
            f"--overflow {settings.overflow}: the network is not in fixed point, nothing overflows; leave it out"
        )
    make = EXECUTORS[name].make
    if name == "torch":  # which runs for any number of steps
        only = make(graph, student, settings)
        return in_time(graph, lambda _: only)
    return in_time(graph, lambda of_length: make(of_length, student, settings))
