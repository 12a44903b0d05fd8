"""One network on Lava, on the emulator and in torch: seconds for a sentence, and peak memory of Lava's processes.

    python benchmarks/lava_speed.py [MODEL.ckpt] [--tokens 32] [--batch-size 32]

Random tokens without padding; the student in fixed point on Lava and the emulator, in float32 in torch. Without a
checkpoint: an untrained student of 4 layers x 384, T = 4, phased, its weights drawn so wide that all its layers spike.
Torch and emulator take turns, medians of 9 runs of the batch. Lava runs one sentence, and its time holds the start of a
worker and of the processes; the emulator's is that of a batch, divided by the sentences. Memory is the sum over all
processes of the worker's session of the proportional set size (Linux), in which shared pages are counted once.
"""

import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import psutil
import torch

from neurotool.export.lower import lower
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.run import run_on_lava
from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification
from neurotool.student.serialise import load_student


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--tokens", default=32, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
def main(checkpoint: Path | None, tokens: int, batch_size: int) -> None:
    student = load_student(checkpoint).model if checkpoint else untrained()
    ids = np.random.default_rng(0).integers(0, student.config.vocab_size, (batch_size, tokens))
    graph = student.to_graph()
    graph = lower(graph, Emulator(graph).run(ids[:4], observe=True).largest)
    network, emulator = Network(graph), Emulator(graph)
    emulated = emulator.run(ids)
    seconds: dict[str, list[float]] = {"emulator": [], "torch": []}
    for _ in range(9):
        for name, function in (("emulator", lambda: emulator.run(ids)), ("torch", lambda: forward(student, ids))):
            start = time.perf_counter()
            function()
            seconds[name].append((time.perf_counter() - start) / batch_size)
    per_sentence = {name: statistics.median(times) for name, times in seconds.items()}
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
        "emulator_seconds_per_sentence": round(per_sentence["emulator"], 5),
        "torch_seconds_per_sentence": round(per_sentence["torch"], 5),
        "lava_to_emulator": round(lava / per_sentence["emulator"], 1),
        "emulator_to_torch": round(per_sentence["emulator"] / per_sentence["torch"], 2),
        "same_logits": bool(np.array_equal(result.logits, emulated.logits[:1])),
    }
    print(json.dumps(report, indent=1))


def untrained() -> SpikingBertForSequenceClassification:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"num_hidden_layers": 4, "hidden_size": 384, "intermediate_size": 1536}
    config = SpikingBertConfig(**shape, num_attention_heads=12, time_steps=4, initializer_range=0.1)
    return SpikingBertForSequenceClassification(config).eval()


@torch.inference_mode()
def forward(student: SpikingBertForSequenceClassification, ids: np.ndarray) -> None:
    student(torch.from_numpy(ids), output_rates=False)


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
