"""One network on Lava: seconds for a sentence with the start and without, and peak memory of Lava's processes.

    python benchmarks/lava_speed.py [MODEL.ckpt] [--tokens 32] [--batch-size 5] [--messages spikes|graded]

Random tokens without padding; the student in fixed point. Without a checkpoint: the untrained student of
emulator_speed.py. Lava runs one sentence, then a batch of them in one set of processes; what a further one takes
is the difference, divided. The clock counts what else the machine does, processor time does not. Memory is the sum over
all processes of the worker's session of the proportional set size (Linux), in which shared pages are counted once.
"""

import json
import resource
import threading
import time
from pathlib import Path

import click
import numpy as np
import psutil
from emulator_speed import untrained

from neurotool.export.lower import lower
from neurotool.graph import Graph
from neurotool.graph.graded import graded
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.run import run_on_lava
from neurotool.student.serialise import load_student


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--tokens", default=32, show_default=True)
@click.option("--batch-size", default=5, show_default=True)
@click.option("--messages", type=click.Choice(["spikes", "graded"]), default="spikes", show_default=True)
def main(checkpoint: Path | None, tokens: int, batch_size: int, messages: str) -> None:
    student = load_student(checkpoint).model if checkpoint else untrained()
    ids = np.random.default_rng(0).integers(0, student.config.vocab_size, (batch_size, tokens))
    graph = student.to_graph()
    largest = Emulator(graph).run(ids[:4], observe=True).largest
    graph = lower(graded(graph) if messages == "graded" else graph, largest)
    one, several = seconds(graph, ids[:1]), seconds(graph, ids)
    further = (several - one) / (batch_size - 1)
    memory = PeakMemory()
    result = run_on_lava(graph, ids[:1])  # once more: looking at memory takes time
    network = Network(graph)
    report = {
        "processes": len(network.parts),
        "steps": network.time_line.steps,
        **{
            name: dict(zip(("clock", "processor"), times.round(2).tolist(), strict=True))
            for name, times in (("seconds_of_one", one), ("seconds_of_a_further_one", further))
        },
        "peak_gb": round(memory.stop() / 1e9, 2),
        "same_logits": bool(np.array_equal(result.logits, Emulator(graph).run(ids[:1]).logits)),
    }
    print(json.dumps(report, indent=1))


def seconds(graph: Graph, ids: np.ndarray) -> np.ndarray:
    """By the clock, and of processors by all of Lava's processes."""

    def now() -> np.ndarray:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return np.array([time.perf_counter(), used.ru_utime + used.ru_stime])

    start = now()
    run_on_lava(graph, ids)
    return now() - start


class PeakMemory:
    """Bytes of all descendants of this process, looked at all the time from a thread."""

    def __init__(self) -> None:
        self.peak, self.running = 0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def stop(self) -> int:
        self.running = False
        self.thread.join()
        return self.peak

    def _watch(self) -> None:
        while self.running:
            total = 0
            for process in psutil.Process().children(recursive=True):
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)
            time.sleep(0.2)


if __name__ == "__main__":
    main()
