"""Accuracy of students in fixed point, on whole validation data: torch in float32 against the emulator in integers.

    python benchmarks/fixed_point.py DATA model.ckpt [model.ckpt …] [--time-steps 4,16] [--per-layer] [--shift-softmax]
                                     [--precise]

DATA: file or folder that all checkpoints are evaluated on. Calibrated on 32 texts, spread over them. --precise is how a
student trained with --integer-aware is exported anyway.
"""

from pathlib import Path

import click
import numpy as np
from rich.progress import track

from neurotool.api.lowering import RANGE_BATCHES, ranges
from neurotool.api.model import open_model
from neurotool.evaluation import evaluate
from neurotool.export.lower import lower
from neurotool.lava_runtime.emulator import Emulator
from neurotool.tasks import compute_metrics, load_examples, tokenise


def row(path: Path, data: Path, time_steps: int, per_layer: bool, shift_softmax: bool, precise: bool) -> str:
    model = open_model(path).at(time_steps)
    graph, reader, student = model.graph, model.reading(), model.student
    assert student is not None
    task = reader.task
    tokenised, _ = tokenise(load_examples(data, task), student.tokenizer, reader.max_length)
    exact = evaluate(student.model, tokenised, student.tokenizer, task, time_steps=time_steps)
    calibration = model.samples(data, 16 * RANGE_BATCHES)
    precise = precise or bool(reader.training.get("plan", {}).get("integer_aware"))
    emulator = Emulator(lower(graph, ranges(graph, calibration), per_layer, shift_softmax, precise))
    logits = np.zeros_like(exact.logits)
    lengths = [len(ids) for ids in tokenised["input_ids"]]
    order = np.argsort(lengths, kind="stable")
    for start in track(range(0, len(order), 32), f"{path.name} T={time_steps}", transient=True):
        rows = order[start : start + 32]
        part = tokenised.select(rows)
        names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in part.column_names]
        batch = student.tokenizer.pad({name: part[name][:] for name in names}, return_tensors="np")
        logits[rows] = emulator.run(**batch).logits
    metric = task.metrics[0]
    before, after = exact.metrics[metric], compute_metrics(task, logits, exact.labels)[metric]
    agree = "" if task.regression else f"{100 * np.mean(logits.argmax(1) == exact.logits.argmax(1)):.1f} %"
    return (
        f"| {path.stem} | {time_steps} | {len(logits)} | {metric} | {100 * before:.1f} | {100 * after:.1f} "
        f"| {100 * (after - before):+.1f} | {agree} |"
    )


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--time-steps", default="4,16", show_default=True)
@click.option("--per-layer", is_flag=True)
@click.option("--shift-softmax", is_flag=True)
@click.option("--precise", is_flag=True)
def main(data: Path, checkpoints: tuple[Path, ...], time_steps: str, **lowering: bool) -> None:
    click.echo("| student | T | inputs | metric | float32 | fixed point | change | predictions agreeing |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for path in checkpoints:
        for t in time_steps.split(","):
            click.echo(row(path, data, int(t), **lowering))


if __name__ == "__main__":
    main()
