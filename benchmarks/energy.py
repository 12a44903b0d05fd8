"""Reproduces the energy tables of docs/results.md from trained students.

    python benchmarks/energy.py NAME=CHECKPOINT=DATA … [-T 4,16] [--dataflow spike,batched,output-stationary] [--timing]

DATA is the folder (or table) of labelled texts, empty for what the checkpoint was trained on. Prints Markdown: each
student at every T and in every dataflow: accuracy, spikes per synapse, its energy as a share of the equal-size dense
network and of its teacher, and in integers of the fair rival and of the zero-skipping network; arithmetic only and with
memory. --timing adds what counting costs: CPU
seconds of an evaluation with counts of the first student, over those without; alternating, medians of three runs.
"""

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import datasets
import torch

from neurotool.energy.costs import ARITHMETIC, MEMORY
from neurotool.energy.formats import digits, percent
from neurotool.evaluation import batches, evaluate, validation_examples
from neurotool.student.serialise import load_student
from neurotool.tasks import METRICS, tokenise

SHARES = ("of its twin", "of its teacher", "int8: of the fair rival", "int8: of zero-skipping")


def sweep(checkpoint: str, data: str, steps: str, dataflow: str, model: str) -> list[dict[str, Any]]:
    """Rows of the command; arithmetic does not depend on the dataflow."""
    command = [sys.executable, "-m", "neurotool", "energy", "sweep", checkpoint, "-T", steps, "--json"]
    command += ["--cost-model", model, "--dataflow", dataflow]
    printed = subprocess.run([*command, *(["--data", data] if data else [])], capture_output=True, check=True).stdout
    rows: list[dict[str, Any]] = json.loads(printed)["rows"]
    return rows


def timing(checkpoint: str, data: str, repeats: int = 3) -> tuple[float, float]:
    """CPU seconds of an evaluation with counts, and how many times those without."""
    datasets.disable_progress_bars()
    student, tokenizer, task, loaded = load_student(checkpoint)
    examples = validation_examples(Path(data) if data else None, task, loaded.training)
    dataset, _ = tokenise(examples, tokenizer, student.config.max_position_embeddings)

    @torch.inference_mode()
    def plain() -> None:
        for _, batch in batches(dataset, tokenizer, 64, student.device):
            student(**batch, output_rates=False)

    seconds: dict[str, list[float]] = {"plain": [], "counted": []}
    for _ in range(repeats):
        for name, run in (("plain", plain), ("counted", lambda: evaluate(student, dataset, tokenizer, task))):
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    plain_seconds, counted = (statistics.median(seconds[name]) for name in ("plain", "counted"))
    return counted, counted / plain_seconds


@click.command()
@click.argument("students", nargs=-1, required=True)
@click.option("--time-steps", "-T", default="4,16", show_default=True)
@click.option("--dataflow", default="spike,batched,output-stationary", show_default=True)
@click.option("--timing", "timed", is_flag=True, help="Measure what counting costs.")
def main(students: tuple[str, ...], time_steps: str, dataflow: str, timed: bool) -> None:
    named = [[*student.split("="), ""][:3] for student in students]
    headings = ("student", "T", "metric", "spikes/synapse", "cost model", "dataflow", "µJ", *SHARES)
    click.echo(f"| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for name, checkpoint, data in named:
        rows = sweep(checkpoint, data, time_steps, "spike", ARITHMETIC)
        for row in rows + sweep(checkpoint, data, time_steps, dataflow, MEMORY):
            metric = next((key for key in row if key in METRICS), "")
            cells = (
                name,
                str(row["T"]),
                f"{row[metric]:.4f} {metric}" if metric else "",
                digits(row["spikes/synapse"]),
                row["cost model"],
                row["dataflow"],
                digits(row["µJ"]),
                *("" if row[share] is None else percent(row[share]) for share in SHARES),
            )
            click.echo(f"| {' | '.join(cells)} |")
    if timed:
        seconds, ratio = timing(named[0][1], named[0][2])
        click.echo(f"\ncounting: {seconds:.1f} CPU seconds, {ratio:.2f} times an evaluation without counts")


if __name__ == "__main__":
    main()
