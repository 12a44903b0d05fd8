"""Training step, inference and peak memory of the phased student against a transformers BERT of the same size.

    python benchmarks/step_time.py [--layers 4 --hidden-size 384 --batch-size 32 --tokens 64]

Same batch, length, threads, attention implementation (SDPA) and dropout; steps of the models alternate in one run, and
the medians' ratios are printed. Peak memory is what building and five steps add to the resident set of a process of its
own per model (Linux).
"""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import torch
from transformers import BertConfig, BertForSequenceClassification

from neurotool.student import (
    SpikeBertConfig,
    SpikeBertForSequenceClassification,
    SpikingBertConfig,
    SpikingBertForSequenceClassification,
    StreamingConfig,
    StreamingForSequenceClassification,
)
from neurotool.train.memory import keep_freed_memory

VARIANTS = {
    "bert": None,
    "phased T=4": {"time_steps": 4},
    "phased T=128": {"time_steps": 128},
    "phased T=4 learned thresholds": {"time_steps": 4, "learn_v_threshold": True, "v_threshold": 2.0},
    "phased T=4 ternary learned": {"time_steps": 4, "spikes": "ternary", "learn_v_threshold": True, "v_threshold": 2.0},
    "phased T=2 ternary learned": {"time_steps": 2, "spikes": "ternary", "learn_v_threshold": True, "v_threshold": 2.0},
    "concurrent T=4": {"time_steps": 4, "schedule": "concurrent"},
    "concurrent T=16": {"time_steps": 16, "schedule": "concurrent"},
    "spikebert T=4": {"time_steps": 4},
    "spikebert T=4 checkpointed": {"time_steps": 4},
    "streaming": {},
}
COMPILED = " compiled"


def build(name: str, shape: dict) -> torch.nn.Module:
    """name: of a variant; with " compiled" behind it, its layers run through torch.compile."""
    if name.endswith(COMPILED):
        model = build(name.removesuffix(COMPILED), shape)
        model.compile() if isinstance(model, BertForSequenceClassification) else model.fuse()
        return model
    torch.manual_seed(0)
    options = VARIANTS[name]
    if options is None:
        return BertForSequenceClassification(BertConfig(**shape, attn_implementation="sdpa"))
    if name == "streaming":
        return StreamingForSequenceClassification(StreamingConfig(**options | shape))
    if not name.startswith("spikebert"):
        return SpikingBertForSequenceClassification(SpikingBertConfig(**options | shape))
    student = SpikeBertForSequenceClassification(SpikeBertConfig(**shape, **options))
    if "checkpointed" in name:
        student.gradient_checkpointing_enable()
    return student


def training_step(model: torch.nn.Module, optimiser: torch.optim.Optimizer, batch: dict) -> None:
    model.train()
    model(**batch).loss.backward()
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def inference(model: torch.nn.Module, batch: dict) -> None:
    model.eval()
    options = {} if isinstance(model, BertForSequenceClassification) else {"output_rates": False}
    with torch.inference_mode():
        model(**batch, **options)


def seconds(function, *arguments) -> float:
    start = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - start


def make_batch(batch_size: int, tokens: int) -> dict:
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(1000, 30000, (batch_size, tokens), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[batch_size // 2 :, tokens * 3 // 4 :] = 0
    return {"input_ids": input_ids, "attention_mask": mask, "labels": input_ids[:, 0] % 2}


def peak_memory(name: str, shape: dict, batch: dict) -> float:
    """MiB that building the model and five training steps add to this process's peak resident set."""
    before = resident("VmRSS")
    model = build(name, shape)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(5):
        training_step(model, optimiser, batch)
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """MiB; not from getrusage, whose peak a child process inherits from its parent."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024


@click.command()
@click.option("--layers", default=4, show_default=True)
@click.option("--hidden-size", default=384, show_default=True)
@click.option("--heads", default=12, show_default=True)
@click.option("--batch-size", default=32, show_default=True)
@click.option("--tokens", default=64, show_default=True)
@click.option("--steps", default=15, show_default=True)
@click.option("--dropout", default=0.1, show_default=True)
@click.option("--return-freed-memory", is_flag=True, help="Leave malloc as it is.")
@click.option("--only", default="", help='Comma-separated rows, any as "NAME compiled", too.')
@click.option("--memory-of", default=None, hidden=True)
def main(
    layers: int,
    hidden_size: int,
    heads: int,
    batch_size: int,
    tokens: int,
    steps: int,
    dropout: float,
    return_freed_memory: bool,
    only: str,
    memory_of: str | None,
) -> None:
    if not return_freed_memory:
        keep_freed_memory()
    shape = {
        "num_hidden_layers": layers,
        "hidden_size": hidden_size,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden_size,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "num_labels": 2,
    }
    batch = make_batch(batch_size, tokens)
    if memory_of:
        click.echo(json.dumps(peak_memory(memory_of, shape, batch)))
        return
    chosen = ["bert", *(name for name in only.split(",") if name != "bert")] if only else list(VARIANTS)
    if unknown := [name for name in chosen if name.removesuffix(COMPILED) not in VARIANTS]:
        raise click.BadParameter(f"{unknown[0]}: not one of {', '.join(VARIANTS)}", param_hint="--only")
    models = {name: build(name, shape) for name in chosen}
    optimisers = {name: torch.optim.AdamW(model.parameters(), lr=1e-4) for name, model in models.items()}
    train: dict[str, list[float]] = {name: [] for name in models}
    infer: dict[str, list[float]] = {name: [] for name in models}
    for step in range(steps + 2):
        for name, model in models.items():
            t, i = seconds(training_step, model, optimisers[name], batch), seconds(inference, model, batch)
            if step >= 2:
                train[name].append(t)
                infer[name].append(i)
    arguments = [a for a in sys.argv[1:] if not a.startswith("--memory-of")]
    click.echo(f"torch {torch.__version__}, {torch.get_num_threads()} threads, batch {batch_size} x {tokens}, {shape}")
    click.echo(f"{'':32}{'train ms':>10}{'ratio':>8}{'infer ms':>10}{'ratio':>8}{'peak MiB':>10}{'ratio':>8}")
    reference = None
    for name in models:
        command = [sys.executable, __file__, *arguments, "--memory-of", name]
        memory = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        row = statistics.median(train[name]) * 1e3, statistics.median(infer[name]) * 1e3, memory
        reference = reference or row
        cells = "".join(f"{value:>10.1f}{value / base:>8.2f}" for value, base in zip(row, reference, strict=True))
        click.echo(f"{name:32}{cells}")


if __name__ == "__main__":
    main()
