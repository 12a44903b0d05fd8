"""The emulator against the torch student's forward pass, on the same inputs.

    OMP_NUM_THREADS=1 python benchmarks/emulator_speed.py [MODEL.ckpt] [--batch-size 32] [--tokens 32] [--runs 15]

Emulator (fixed point) and torch (float32) take turns in one process; processor time, so that other work on the machine
counts little; ratios of the medians and of the smallest. With a checkpoint: validation sentences of the demo, padded to
the longest of the batch, as `neurotool evaluate` pads them. Without: random tokens, no padding, and an untrained
student of 4 layers x 384, T = 4, phased, its weights drawn so wide that all its layers spike.
"""

import json
import statistics
import time
from pathlib import Path

import click
import numpy as np
import torch

from neurotool.export.lower import lower
from neurotool.lava_runtime.emulator import Emulator
from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification
from neurotool.student.serialise import load_student
from neurotool.tasks import load_task
from neurotool.texts import encode, pad


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option("--tokens", default=32, show_default=True, help="In each input, without a checkpoint.")
@click.option("--batch-size", default=32, show_default=True)
@click.option("--runs", default=15, show_default=True)
def main(checkpoint: Path | None, tokens: int, batch_size: int, runs: int) -> None:
    if checkpoint:
        loaded = load_student(checkpoint)
        student, texts = loaded.model, load_task("demo").validation["sentence1"][:batch_size]
        padded = pad(loaded.tokenizer, encode(loaded.tokenizer, [texts], 96).tokens, tensors="np")
        ids, mask = padded["input_ids"], padded["attention_mask"]
    else:
        student = untrained()
        ids = np.random.default_rng(0).integers(0, student.config.vocab_size, (batch_size, tokens))
        mask = np.ones_like(ids)
    graph = student.to_graph()
    emulator = Emulator(lower(graph, Emulator(graph).run(ids[:4], mask[:4], observe=True).largest))
    functions = {"emulator": lambda: emulator.run(ids, mask), "torch": lambda: forward(student, ids, mask)}
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for run in range(runs + 1):  # the first one is not counted
        for name, function in functions.items():
            start = time.process_time()
            function()
            if run:
                seconds[name].append(time.process_time() - start)
    report = {"texts": list(ids.shape), "real_tokens": round(float(mask.mean()), 3)}
    report |= {f"{name}_ms_per_text": round(statistics.median(s) / batch_size * 1e3, 2) for name, s in seconds.items()}
    for kind, of in (("medians", statistics.median), ("smallest", min)):
        report[f"ratio_of_{kind}"] = round(of(seconds["emulator"]) / of(seconds["torch"]), 2)
    print(json.dumps(report, indent=1))


def untrained() -> SpikingBertForSequenceClassification:
    torch.manual_seed(0)
    config = SpikingBertConfig(
        num_hidden_layers=4,
        hidden_size=384,
        intermediate_size=1536,
        num_attention_heads=12,
        time_steps=4,
        initializer_range=0.1,
    )
    return SpikingBertForSequenceClassification(config).eval()


@torch.inference_mode()
def forward(student: torch.nn.Module, ids: np.ndarray, mask: np.ndarray) -> None:
    student(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), output_rates=False)


if __name__ == "__main__":
    main()
