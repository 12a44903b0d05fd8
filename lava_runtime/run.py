"""Running a layer graph on Lava, in a worker process."""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from neurotool.errors import LavaError, OverflowingError
from neurotool.executor import Record, Run
from neurotool.graph import Graph, Neuron
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator, arithmetic
from neurotool.lava_runtime.entering import entering
from neurotool.lava_runtime.job import ERROR, SECONDS, Job, foreign_modules, read_results, write_job
from neurotool.lava_runtime.membranes import Overflow
from neurotool.lava_runtime.session import run_in_own_session


def run_on_lava(
    graph: Graph,
    input_ids: Any = None,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    values: dict[str, np.ndarray] | None = None,
    record: tuple[str, ...] = (),
    overflow: Overflow = "error",
    timeout: float | None = None,
    progress: Callable[[int], None] | None = None,
    python: str = sys.executable,
) -> Run:
    """Run a batch on Lava, one input after another, and leave no process behind.

    record: nodes whose messages, spikes and potentials are kept. timeout: seconds, none by default. progress: called
    with the number of inputs that are done. python: interpreter of the worker; it needs numpy, scipy, safetensors and
    Lava. Other arguments and the result are those of `Executor.run`.
    Raises DataError for inputs the graph cannot take, LavaError with the traceback of the process that failed, or
    OverflowingError.
    """
    inputs = entering(graph, input_ids, attention_mask, token_type_ids, values or {})
    return run_jobs([Job(graph, inputs, record, overflow)], timeout, progress, python)[0]


class LavaExecutor:
    """Lava as an executor; see run_on_lava."""

    def __init__(self, graph: Graph, **options: Any) -> None:
        self.graph, self.options = graph, options

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
    ) -> Run:
        """See `Executor.run`."""
        names = tuple(self.graph.nodes) if record is True else tuple(record or ())
        batch = (input_ids, attention_mask, token_type_ids, values)
        return run_on_lava(self.graph, *batch, names, **self.options)

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        """Lava's neurons are the emulator's (arithmetic.py)."""
        return Emulator(self.graph).drive(layer, currents)


def run_jobs(
    jobs: Sequence[Job],
    timeout: float | None = None,
    progress: Callable[[int], None] | None = None,
    python: str = sys.executable,
) -> list[Run]:
    """Run several networks, one after another in one worker, which saves its start. See run_on_lava."""
    return [
        run.count_events(job.graph, {"values": job.inputs.values}, job.inputs.real)
        for job, (run, _) in zip(jobs, _ran(jobs, timeout, progress, python), strict=True)
    ]


def stream_on_lava(
    graph: Graph,
    values: dict[str, np.ndarray],
    steps: int,
    overflow: Overflow = "error",
    timeout: float | None = None,
) -> list[tuple[Run, float]]:
    """One input that comes piece by piece, `steps` steps each: what each piece did, with its events, and the seconds
    that Lava took for it once its processes ran. values: of each Input (pieces * steps, …).

    Raises as run_on_lava.
    """
    inputs = entering(graph, None, None, None, {name: x[None] for name, x in values.items()})
    job = Job(graph, inputs, (*graph.of_type(Neuron), *graph.analog), overflow, steps)
    ((run, seconds),) = _ran([job], timeout)
    return list(zip(run.pieces(graph, {"values": inputs.values}, inputs.real, steps), seconds, strict=True))


def _ran(
    jobs: Sequence[Job],
    timeout: float | None = None,
    progress: Callable[[int], None] | None = None,
    python: str = sys.executable,
) -> list[tuple[Run, list[float]]]:
    """What each did, events not counted, and how long each piece took, in seconds."""
    if python == sys.executable and (problem := compatibility.installation_problem()):
        way_out = f"use the emulator (neurotool run … --executor emulator), or run: {compatibility.install_command()}"
        raise LavaError(f"Lava cannot be used: {problem}; {way_out}")
    with tempfile.TemporaryDirectory(prefix="neurotool-lava-") as root:
        folders = [Path(root, str(i)) for i in range(len(jobs))]
        for folder, job in zip(folders, jobs, strict=True):
            folder.mkdir()
            write_job(folder, job)
        command = [python, "-m", "neurotool.lava_runtime.worker", *map(str, folders)]
        # Dozens of processes: a thread each. A folder of its own: python -m imports from the current one first.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        if foreign := {str(folder) for job in jobs for folder in foreign_modules(job.graph).values()}:
            environment["PYTHONPATH"] = os.pathsep.join(
                [*sorted(foreign), *filter(None, [os.environ.get("PYTHONPATH")])]
            )
        exit_code, output = run_in_own_session(command, timeout, progress, cwd=root, env=environment)
        for folder in folders:
            if (folder / ERROR).exists():
                raise _error(json.loads((folder / ERROR).read_text(encoding="utf-8")))
        if exit_code is None:
            raise LavaError(f"Lava has not finished within {timeout:g} s: allow more time or run fewer inputs")
        if exit_code != 0:
            last = (output.strip().splitlines() or ["no output"])[-1]
            raise LavaError(f"the Lava worker ended with exit code {exit_code}: {last}")
        return [
            (_with_rates(read_results(folder), job.graph), json.loads((folder / SECONDS).read_text(encoding="utf-8")))
            for folder, job in zip(folders, jobs, strict=True)
        ]


def _with_rates(run: Run, graph: Graph) -> Run:
    run.rates = {name: _rates(graph, name, spikes) for name, spikes in run.spikes.items()}
    return run


def _rates(graph: Graph, name: str, spikes: np.ndarray) -> np.ndarray:
    """Of the last sweep, (inputs, tokens, width), as the emulator adds them up."""
    numbers, steps = arithmetic(graph), spikes[:, -graph.time_steps :].swapaxes(0, 1)
    weights = numbers.emission_weights(name)
    if graph.schedule == "phased":
        return numbers.real(
            name, sum(s * weight for s, weight in zip(steps.astype(numbers.dtype), weights, strict=True))
        )
    unit = numbers.rate_unit(name)
    return sum(s * (weight * unit) for s, weight in zip(steps, weights, strict=True))


def _error(report: dict[str, str]) -> LavaError | OverflowingError:
    """What the worker left; the traceback of the process that failed is its cause."""
    if report["type"] == OverflowingError.__name__:
        error: LavaError | OverflowingError = OverflowingError(report["message"])
    else:
        error = LavaError(f"Lava failed: {report['type']}: {report['message']}; neurotool --debug … shows where")
    error.__cause__ = RuntimeError(report["traceback"])
    return error
