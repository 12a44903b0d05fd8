"""`neurotool evaluate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from neurotool import terminal
from neurotool.cli import json_option
from neurotool.errors import ConfigError

if TYPE_CHECKING:
    from neurotool.convergence import Errors
    from neurotool.evaluation import Evaluation
    from neurotool.tasks import Task

CONVERGENCE_STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
_BAR = 25  # characters of a rate of 1: with the longest layer name the table fits into 80 columns


def _time_steps(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        steps = tuple(int(part) for part in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1,2,4,8") from None
    if any(t < 1 for t in steps):
        raise ConfigError(f"--time-steps {value}: every T must be at least 1")
    return steps


@click.command(
    epilog="""\b
Examples:
  neurotool evaluate model.ckpt --data DIR
  neurotool evaluate model.ckpt --data test.tsv --time-steps 1,2,4,8,16
  neurotool evaluate model.ckpt --convergence -o convergence.png
"""
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="File or folder.  [default: the task it was trained on]")
@click.option("--time-steps", "-T", callback=_time_steps, help="One or several T, e.g. 1,2,4,8.  [default: its own]")
@click.option("--convergence", is_flag=True, help="Mean |ASR - steady state| per layer against T, both schedules.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Plot of --convergence.  [default: convergence.png; none with --json]",
)
@click.option("--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Texts at once.")
@json_option
def evaluate(
    checkpoint: Path,
    data: Path | None,
    time_steps: tuple[int, ...],
    convergence: bool,
    output: Path | None,
    batch_size: int,
    as_json: bool,
) -> None:
    """Measure a student on labelled text."""
    import datasets

    from neurotool.evaluation import evaluate as run
    from neurotool.evaluation import validation_examples
    from neurotool.student.serialise import load_student
    from neurotool.student.student import check_time_steps
    from neurotool.tasks import tokenise
    from neurotool.texts import INPUTS, longest, pad

    if not convergence and output is not None:
        raise ConfigError(f"-o {output} is the plot of --convergence: add --convergence or leave out -o")
    if convergence and not as_json:
        output = output or Path("convergence.png")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"{output}: its folder does not exist; give a file in an existing folder with -o")
    datasets.disable_progress_bars()
    student, tokenizer, task, loaded = load_student(checkpoint)
    for t in time_steps:
        check_time_steps(student, t)
    if convergence:
        from neurotool.convergence import check_convergent, measure_convergence, plot_convergence

        check_convergent(student)
    console = terminal.console()
    examples = validation_examples(data, task, loaded.training)
    length = longest(loaded.training.get("plan", {}), student.config.max_position_embeddings)
    dataset, truncated = tokenise(examples, tokenizer, length)
    if truncated:
        click.echo(f"{truncated} of {len(dataset)} texts are longer than {length} tokens: cut", err=True)
    if convergence:
        sample = dataset.select(range(min(32, len(dataset))))
        batch = pad(tokenizer, {name: sample[name][:] for name in INPUTS})
        errors = measure_convergence(student, dict(batch), list(time_steps or CONVERGENCE_STEPS))
        if output is not None:
            plot_convergence(errors, output)
        if as_json:
            plot = None if output is None else str(output)
            click.echo(json.dumps({"mean_absolute_error": errors, "texts": len(sample), "plot": plot}))
        else:
            _print_convergence(console, errors)
            click.echo(f"on {len(sample)} texts; plot: {output}")
        return
    steps = time_steps or (student.config.time_steps,)
    results = {t: run(student, dataset, tokenizer, task, batch_size=batch_size, time_steps=t) for t in steps}
    if as_json:
        report = {str(t): r.metrics | {"activity": r.activity.to_dict()} for t, r in results.items()}
        click.echo(json.dumps({"checkpoint": str(checkpoint), "examples": len(dataset), "time_steps": report}))
        return
    _print_metrics(console, results, student.config.time_steps)
    shown = results[student.config.time_steps if student.config.time_steps in results else steps[-1]]
    if not task.regression:
        _print_classes(console, task, shown)
    if shown.activity.layers:
        _print_rates(console, shown)


def _print_metrics(console: Console, results: "dict[int, Evaluation]", trained: int) -> None:
    first = next(iter(results.values()))
    table = Table(title=f"{len(first.labels)} examples")
    spiking = bool(first.activity.layers)
    for column in ("T", *first.metrics, "mean spiking rate", "spikes per neuron") if spiking else first.metrics:
        table.add_column(column, justify="right")
    for t, result in results.items():
        rate = result.activity.mean_rate
        values = (f"{value:.4f}" for value in result.metrics.values())
        if not spiking:
            table.add_row(*values)
            continue
        table.add_row(f"{t}{' (trained)' if t == trained else ''}", *values, f"{rate:.3f}", f"{rate * t:.2f}")
    console.print(table)


def _print_classes(console: Console, task: "Task", result: "Evaluation") -> None:
    from sklearn.metrics import precision_recall_fscore_support

    predicted = result.logits.argmax(1)
    classes = np.arange(task.num_labels)
    scores: Any = precision_recall_fscore_support(result.labels, predicted, labels=classes, zero_division=0)
    steps = f", T = {result.activity.time_steps}" if result.activity.layers else ""
    table = Table(title=f"per class{steps}")
    for column in ("class", "precision", "recall", "f1", "examples"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, precision, recall, f1, support in zip(task.label_names, *scores, strict=True):
        table.add_row(name, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", str(support))
    console.print(table)


def _print_rates(console: Console, result: "Evaluation") -> None:
    table = Table(title=f"spiking rate per neuron layer, T = {result.activity.time_steps}")
    for column in ("neuron layer", "neurons", "mean rate", ""):
        table.add_column(column, justify="right" if column in ("neurons", "mean rate") else "left")
    for name, layer in result.activity.layers.items():
        rate = result.activity.rate(name)
        table.add_row(name, str(layer.neurons), f"{rate:.3f}", "#" * round(_BAR * rate))
    console.print(table)


def _print_convergence(console: Console, errors: "Errors") -> None:
    for schedule, by_steps in errors.items():
        table = Table(title=f"mean |ASR - steady state|, {schedule} schedule", box=None, pad_edge=False)
        table.add_column("neuron layer", no_wrap=True)
        for t in by_steps:
            table.add_column(f"T={t}", justify="right")
        for name in next(iter(by_steps.values())):
            table.add_row(name, *(f"{by_steps[t][name]:.4f}".lstrip("0") for t in by_steps))
        console.print(table)
