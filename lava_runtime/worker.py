"""`python -m neurotool.lava_runtime.worker FOLDER …`: runs the job in each folder on Lava; run.py starts it.

It needs numpy, scipy, safetensors and Lava, but neither torch nor transformers. Standard output counts the inputs that
are done; an error ends it and is left in the job's folder.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from neurotool.graph.nodes import sizes
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.job import ERROR, SECONDS, Job, read_job, result_file, write_results
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.program import Program

POLL = 0.05
"""Seconds between two looks at Lava's processes: an exception in one leaves the others waiting for ever."""
CHANNEL_SIZE = 2
"""Messages that a channel holds. Lava's own 64 fill memory: all processes step together."""
PARENT = os.getppid()
"""Whoever started the worker."""


def run(folder: Path) -> None:
    """Run the job to its end. Raises what Lava raises while it builds the network."""
    compatibility.prepare()
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    from neurotool.lava_runtime.processes import FIXED, FLOAT, model_of

    job = read_job(folder)
    network = Network(job.graph, job.record)
    processes, stock = build(network, job, folder)
    precision = FIXED if job.graph.fixed_point else FLOAT
    # Models are named, not searched for: Lava would run every file beside processes.py, once for each process.
    models = {process: model_of(process, precision) for process in processes}
    settings = Loihi2SimCfg(select_tag=precision, exception_proc_model_map=models)
    first, inputs = processes[0], len(job.inputs.real)
    done = threading.Event()
    watch = threading.Thread(target=_watch, args=(first, folder, done), daemon=True)
    watch.start()  # before any of Lava's processes
    first.create_runtime(run_cfg=settings, compile_config={"pypy_channel_size": CHANNEL_SIZE})
    delay, seconds = max(network.delays.values()), []
    for number in range(inputs):
        print(number, flush=True)
        for steps in pieces(network.time_line.steps, job.piece, delay if number == 0 else 0):
            start = time.perf_counter()
            try:
                first.run(condition=RunSteps(steps), run_cfg=settings)
            except RuntimeError:  # Lava has noticed by itself that a process failed
                _fail_with_process(first.runtime, folder)
                raise
            seconds.append(time.perf_counter() - start)
    (folder / SECONDS).write_text(json.dumps(seconds), encoding="utf-8")
    print(inputs, flush=True)
    done.set()
    watch.join()
    for number, layer in enumerate(stock, start=len(processes)):
        write_results(result_file(folder, number), layer.results(inputs))
    first.stop()


def pieces(steps: int, piece: int | None, delay: int) -> list[int]:
    """Numbers of steps that are run one after the other; the first waits for what comes `delay` steps late."""
    found = [min(piece or steps, steps - start) for start in range(0, steps, piece or steps)]
    return [found[0] + delay, *found[1:]]


def build(network: Network, job: Job, folder: Path) -> tuple[list[Any], list[Any]]:
    """Our processes and the stock ones, connected."""
    from neurotool.lava_runtime.processes import KINDS, StockLayer, back_ports, in_ports, out_ports

    stock_nodes = {node for name in network.stock for node in (name, network.graph.source(name, "x"))}
    parts = [part for part in network.parts if part.name not in stock_nodes]
    programs = [Program(network, part, job.inputs, job.record, job.overflow) for part in parts]
    processes = [KINDS[p.part.kind](p, result_file(folder, i)) for i, p in enumerate(programs)]
    steps, delays = network.time_line.steps, network.delays
    shapes = {name: sizes(shape, 1) for name, shape in network.graph.shapes().items()}
    total = len(job.inputs.real) * steps + max(delays.values())
    stock = {
        name: StockLayer(name, parameters, shapes[name], steps, delays[name], total, name in job.record)
        for name, parameters in network.stock.items()
    }
    sending = {
        name: getattr(process, port)
        for process, program in zip(processes, programs, strict=True)
        for port, name in out_ports(program).items()
    } | {name: layer.lif.s_out for name, layer in stock.items()}
    for process, program in zip(processes, programs, strict=True):
        for port, name in (in_ports(program) | back_ports(program)).items():
            connect(sending[name], getattr(process, port))
    for name, layer in stock.items():
        connect(sending[network.graph.source(network.graph.source(name, "x"), "x")], layer.dense.s_in)
    return processes, list(stock.values())


def connect(source: Any, target: Any) -> None:
    """Stock processes know no tokens: what is (1, width) for us is (width,) for them."""
    (source if source.shape == target.shape else source.reshape(target.shape)).connect(target)


def _watch(first: Any, folder: Path, done: threading.Event) -> None:
    """End this worker as soon as one of Lava's processes, or whoever started the worker, is gone; from before the first
    of them starts, as Lava waits for ever for one that ends while the network is built."""
    while not done.wait(POLL):
        with contextlib.suppress(ValueError, OSError):  # Lava is closing them: it has noticed
            _fail_with_process(first.runtime, folder)
            for process in _processes(first.runtime):
                if process.exitcode:
                    killed = "; perhaps memory ran out" if process.exitcode == -signal.SIGKILL else ""
                    reason = f"process {process.pid} ended with exit code {process.exitcode}{killed}"
                    _fail(folder, RuntimeError(reason), "")
        if os.getppid() != PARENT:
            shutil.rmtree(folder, ignore_errors=True)  # holds the weights, and nobody else is left to delete it
            with contextlib.suppress(OSError):  # not empty: other jobs
                folder.parent.rmdir()
            os.killpg(os.getpgrp(), signal.SIGTERM)


def _processes(runtime: Any) -> list[Any]:
    """Those that have been started: the manager of shared memory, then Lava's own."""
    infrastructure = getattr(runtime, "_messaging_infrastructure", None)
    if infrastructure is None:
        return []
    manager = getattr(infrastructure.smm, "_process", None)
    return [manager] * (manager is not None) + infrastructure.actors


def _fail_with_process(runtime: Any, folder: Path) -> None:
    """Report the exception of the first process that has one."""
    for process in _processes(runtime):
        if getattr(process, "exception", None) is not None:
            _fail(folder, *process.exception)


def _fail(folder: Path, error: BaseException, text: str) -> None:
    """Leave the error to whoever started the worker, and go at once: Lava's other processes wait for ever."""
    report = {"type": type(error).__name__, "message": str(error), "traceback": text}
    (folder / ERROR).write_text(json.dumps(report), encoding="utf-8")
    os._exit(1)


def main(folders: list[str]) -> None:
    for folder in map(Path, folders):
        try:
            run(folder)
        except Exception as error:
            _fail(folder, error, traceback.format_exc())


if __name__ == "__main__":
    main(sys.argv[1:])
