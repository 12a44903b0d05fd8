"""`neurotool evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console

from neurotool import terminal
from neurotool.cli.numbers import BATCH_SIZE, SAMPLES, TIME_STEPS_LIST
from neurotool.cli.options import (
    PATH,
    check_result,
    executor_option,
    json_option,
    layers_option,
    open_file,
    opening_options,
)
from neurotool.cli.printing import one_by_one, shown_progress, table
from neurotool.errors import ConfigError
from neurotool.graph.names import by_kind

if TYPE_CHECKING:
    from neurotool.convergence import Errors
    from neurotool.evaluation import Evaluation
    from neurotool.tasks import Task

_BAR = 25  # characters of a rate of 1: with the longest layer name the table fits into 80 columns


@click.command(
    epilog="""\b
Examples:
  neurotool evaluate model.ckpt --data DIR
  neurotool evaluate model.ckpt --data test.tsv --time-steps 1,2,4,8,16
  neurotool evaluate model.lava --data test.tsv --samples 200
  neurotool evaluate model.ckpt --convergence -o convergence.png
"""
)
@click.argument("model", type=PATH)
@click.option("--data", type=PATH, help="File or folder.  [default: the task it was trained on]")
@click.option("--samples", type=SAMPLES, help="Use so many texts.  [default: all]")
@click.option("--time-steps", "-T", type=TIME_STEPS_LIST, help="One or several, 1 to a million.  [default: its own]")
@click.option("--convergence", is_flag=True, help="Mean |ASR - steady state| per layer against T, both schedules.")
@click.option("-o", "--output", type=PATH, help="Plot of --convergence.  [default: convergence.png; none with --json]")
@click.option("--batch-size", type=BATCH_SIZE, default=64, show_default=True, help="Texts at once (torch).")
@click.option("--force", is_flag=True, help="Replace the plot.")
@layers_option
@executor_option("torch; interpreter for a .nir, emulator for a bundle")
@opening_options
@json_option
def evaluate(
    model: Path,
    data: Path | None,
    samples: int | None,
    time_steps: tuple[int, ...] | None,
    convergence: bool,
    output: Path | None,
    batch_size: int,
    force: bool,
    layers: bool,
    executor: str | None,
    as_json: bool,
    **opening: Any,
) -> None:
    """Measure a student on labelled text."""
    if not convergence and output is not None:
        raise ConfigError(f"-o {output} is the plot of --convergence: add --convergence or leave out -o")
    if convergence and not as_json:
        output = output or Path("convergence.png")
    if output is not None:
        check_result(output, force)
    opened = open_file(model, **opening)
    models = {t: opened.at(t) for t in time_steps or (opened.time_steps,)}
    if convergence:
        from neurotool.api.measuring import converge

        errors, texts = converge(opened, data, time_steps or (), output, force)
        if as_json:
            plot = None if output is None else str(output)
            click.echo(json.dumps({"mean_absolute_error": errors, "texts": texts, "plot": plot}))
        else:
            _print_convergence(terminal.console(), errors)
            click.echo(f"on {texts} texts; plot: {output}")
        return
    options: dict[str, Any] = {"samples": samples, "batch_size": batch_size, "track": shown_progress(as_json)}
    results: dict[int, Evaluation] = {}
    for t, at in models.items():
        say = (lambda _: None) if results else (lambda line: click.echo(line, err=True))
        results[t] = at.evaluate(data, executor, say=say, **options)
    first = next(iter(results.values()))
    if as_json:
        report = {str(t): r.metrics | {"activity": r.activity.to_dict()} for t, r in results.items()}
        click.echo(json.dumps({"checkpoint": str(model), "examples": len(first.labels), "time_steps": report}))
        return
    console, trained = terminal.console(), opened.time_steps
    _print_metrics(console, results, trained)
    steps = trained if trained in results else list(results)[-1]
    shown = results[steps]
    task = opened.reading().task
    if not task.regression:
        _print_classes(console, task, shown, steps)
    if shown.activity.layers:
        print_rates(console, shown, steps, layers)


def _print_metrics(console: Console, results: "dict[int, Evaluation]", trained: int) -> None:
    first = next(iter(results.values()))
    spiking = bool(first.activity.layers)
    rows = []
    for t, result in results.items():
        rate, metrics = result.activity.mean_rate, [f"{value:.4f}" for value in result.metrics.values()]
        steps = f"{t}{' (trained)' if t == trained else ''}"
        per_window = f"{rate * result.activity.time_steps:.2f}"
        rows.append([steps, *metrics, f"{rate:.3f}", per_window] if spiking else metrics)
    headings = ["T", *first.metrics, "mean spiking rate", "spikes per neuron"] if spiking else list(first.metrics)
    console.print(table(f"{len(first.labels)} example{'s'[: len(first.labels) != 1]}", headings, rows))


def _print_classes(console: Console, task: "Task", result: "Evaluation", time_steps: int) -> None:
    from sklearn.metrics import precision_recall_fscore_support

    predicted, classes = result.logits.argmax(1), np.arange(task.num_labels)
    scores: Any = precision_recall_fscore_support(result.labels, predicted, labels=classes, zero_division=0)
    steps = f", T = {time_steps}" if result.activity.layers else ""
    rows = [
        (name, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", str(support))
        for name, precision, recall, f1, support in zip(task.label_names, *scores, strict=True)
    ]
    console.print(table(f"per class{steps}", ("class", "precision", "recall", "f1", "examples"), rows))


def print_rates(console: Console, result: "Evaluation", time_steps: int, layers: bool) -> None:
    """Spiking rates, by kind of layer or, `layers`, of each."""
    activity = result.activity
    groups = one_by_one(activity.layers) if layers else by_kind(activity.layers)
    rows = []
    for kind, names in groups.items():
        rates = [activity.rate(name) for name in names]
        neurons = sum(activity.layers[name].neurons for name in names)
        rows.append((kind, str(neurons), f"{np.mean(rates):.3f}", f"{'#' * round(_BAR * np.mean(rates)):{_BAR}}"))
    title = f"spiking rate of neuron layers{'' if layers else ' by kind (--layers: each)'}, T = {time_steps}"
    console.print(table(title, ("neuron layer", "neurons", "mean rate", ""), rows))


def _print_convergence(console: Console, errors: "Errors") -> None:
    for schedule, by_steps in errors.items():
        headings = ("neuron layer", *(f"T={t}" for t in by_steps))
        rows = [
            (name, *(f"{by_steps[t][name]:.4f}".lstrip("0") for t in by_steps))
            for name in next(iter(by_steps.values()))
        ]
        console.print(table(f"mean |ASR - steady state|, {schedule} schedule", headings, rows))
