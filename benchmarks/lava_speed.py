"""One network on Lava and on the emulator: seconds for a sentence, and peak memory of Lava's processes.

    python benchmarks/lava_speed.py [MODEL.lava] [--tokens 32] [--batch-size 32]

Random tokens without padding. Without a bundle: an untrained student of 4 layers x 384, T = 4, phased, in fixed point;
its weights are drawn wide enough that all its layers spike. Lava runs one sentence, and its time holds the start of a
worker and of the processes; the emulator's is that of a batch, divided by the sentences. Memory is the sum over all
processes of the worker's session of the proportional set size (Linux), in which shared pages are counted once.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil

from neurotool.graph import Embedding, Graph
from neurotool.lava_runtime.bundle import read_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.run import run_on_lava


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), required=False)
@click.option("--tokens", default=32, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
def main(bundle: Path | None, tokens: int, batch_size: int) -> None:
    graph = read_bundle(bundle).graph if bundle else untrained(tokens)
    network = Network(graph)
    rows = next(len(n.weight) for n in graph.nodes.values() if isinstance(n, Embedding) and n.ids == "input_ids")
    ids = np.random.default_rng(0).integers(0, rows, (batch_size, tokens))
    emulator = Emulator(graph)
    emulated = emulator.run(ids[:1])
    start = time.perf_counter()
    emulator.run(ids)
    per_sentence = (time.perf_counter() - start) / batch_size
    start = time.perf_counter()
    result = run_on_lava(graph, ids[:1])
    lava = time.perf_counter() - start
    memory = PeakMemory()
    run_on_lava(graph, ids[:1])  # once more: looking at memory takes time
    report = {
        "processes": len(network.parts),
        "steps": network.time_line.steps,
        "lava_seconds": round(lava, 2),
        "lava_peak_gb": round(memory.stop() / 1e9, 2),
        "emulator_seconds_per_sentence": round(per_sentence, 5),
        "ratio": round(lava / per_sentence, 1),
        "same_logits": bool(np.array_equal(result.logits, emulated.logits)),
    }
    print(json.dumps(report, indent=1))


def untrained(tokens: int) -> Graph:
    import torch

    from neurotool.export.lower import lower
    from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification

    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_hidden_layers": 4, "hidden_size": 384, "intermediate_size": 1536}
    config = SpikingBertConfig(**shape, num_attention_heads=12, time_steps=4, initializer_range=0.1)
    graph = SpikingBertForSequenceClassification(config).eval().to_graph()
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (4, tokens))
    return lower(graph, Emulator(graph).run(ids, observe=True).largest)


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
