"""`neurotool validate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from neurotool import terminal
from neurotool.cli import json_option
from neurotool.cli.graphs import Conventions, is_nir, load_graph, nir_options
from neurotool.cli.reading import TextReader, bundle_reader, read_texts, student_reader
from neurotool.errors import ConfigError
from neurotool.lava_runtime.bundle import is_bundle, read_bundle
from neurotool.sentences import random_inputs

if TYPE_CHECKING:
    from neurotool.validate import Comparison, Inputs, Model


@click.command(
    epilog="""\b
Examples:
  neurotool validate model.ckpt model.nir
  neurotool validate model.ckpt model.nir --data test.tsv --samples 200 --json
  neurotool validate a.nir b.nir --tolerance 0.01

Exit code 0: the same within the tolerance; 1: not the same; 2: bad input. Both sides compute in double precision;
--float32 hands on single precision, sums still made in double. --as-used runs a
checkpoint as `neurotool evaluate` does: single precision throughout, where sums
in another order flip a few spikes, and these others.
"""
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="File or folder.  [default: the checkpoint's task]")
@click.option("--samples", type=click.IntRange(min=1), default=32, show_default=True, help="Sentences to run.")
@click.option(
    "--tolerance",
    type=float,
    help="Share of a layer's spikes; |Δ| of rates and logits.  [default: 0; .2 if one of the two is fixed-point]",
)
@click.option("--float32", is_flag=True, help="Single instead of double precision.")
@click.option("--as-used", is_flag=True, help="A checkpoint as torch runs it, in single precision.")
@nir_options
@json_option
@click.pass_context
def validate(
    context: click.Context,
    a: Path,
    b: Path,
    data: Path | None,
    samples: int,
    tolerance: float | None,
    float32: bool,
    as_used: bool,
    as_json: bool,
    **conventions: Any,
) -> None:
    """Compare two models spike by spike on real sentences."""
    from neurotool.validate import compare

    float32 |= as_used
    model_a, reader_a = _load(a, float32, as_used, Conventions(**conventions))  # type: ignore[typeddict-item]
    model_b, reader_b = _load(b, float32, as_used, Conventions(**conventions))  # type: ignore[typeddict-item]
    tokens = min(model_a.graph.tokens, model_b.graph.tokens)
    if conventions["standard_nodes"] and (reader_a or reader_b):
        raise ConfigError(
            "--standard-nodes: the standard nodes of a .nir file are pieces of a network that read values, not "
            "sentences, and cannot be run beside a checkpoint or bundle; leave it out, or give two .nir files"
        )
    if as_used and not (reader_a or reader_b):
        raise ConfigError("--as-used: neither file is a checkpoint; leave it out")
    inputs, source = _inputs(reader_a or reader_b, model_a, data, samples, tokens)
    console = Console(stderr=True)
    quiet = as_json or not console.is_terminal
    steps = track(inputs, "comparing", console=console, transient=True, disable=quiet)
    result = compare(model_a, model_b, steps, tolerance, rounding=1e-5 if float32 else 1e-9)
    if as_json:
        precision = "as used" if as_used else "float32" if float32 else "float64"
        click.echo(json.dumps({"a": str(a), "b": str(b), "source": source, "precision": precision} | result.to_dict()))
    else:
        _print(terminal.console(), result, a, b, source, model_a.graph.time_steps)
    context.exit(0 if result.passed else 1)


def _load(path: Path, float32: bool, as_used: bool, conventions: Conventions) -> "tuple[Model, TextReader | None]":
    """A checkpoint runs as the torch student, a bundle on the emulator, a .nir file in the interpreter."""
    import numpy as np

    from neurotool.validate import GraphModel

    if is_bundle(path):
        from neurotool.lava_runtime.model import EmulatedModel

        bundle = read_bundle(path)
        return EmulatedModel(bundle.graph), bundle_reader(bundle, path)
    if path.is_dir() or is_nir(path):
        return GraphModel(load_graph(path, conventions), np.float32 if float32 else np.float64), None
    import torch

    from neurotool.student.serialise import load_student
    from neurotool.student.tracing import StudentModel

    student = load_student(path)
    if conventions["time_steps"] is not None:
        student.model.config.time_steps = conventions["time_steps"]
    precision = torch.float32 if float32 else torch.float64
    return StudentModel(student.model, precision, as_used), student_reader(student)


def _inputs(
    reader: "TextReader | None", model: "Model", data: Path | None, samples: int, tokens: int
) -> "tuple[list[Inputs], str]":
    """The inputs and where they are from."""
    if reader is None:
        if data is not None:
            raise ConfigError(f"--data {data}: neither file is a checkpoint or a bundle, which hold a tokenizer")
        return random_inputs(model.graph, samples), "random inputs: neither file holds a tokenizer"
    texts = read_texts(reader, data, samples, tokens)
    return texts.inputs, texts.source


def _print(console: Console, result: "Comparison", a: Path, b: Path, source: str, time_steps: int) -> None:
    say = click.echo
    say(f"A {a}\nB {b}")
    if result.layers:
        _print_layers(console, result)
    if result.inputs:
        say(f"{result.inputs} inputs, T = {time_steps}; {source}")
    if result.max_logit_difference is not None:
        say(f"logits: max |Δ| {result.max_logit_difference:.2g}")
    if result.predictions_agreeing is not None:
        say(f"predictions: {result.predictions_agreeing} of {result.inputs} agree")
    if (first := result.first_difference) is not None:
        say(
            f"first difference: layer {first.layer}, input {first.input}, step {first.step}, token {first.token}, "
            f"neuron {first.neuron}: A sends {first.a}, B {first.b}"
        )
    for problem in result.problems:
        say(f"- {problem}")
    if result.quantised:
        within = f"the same within {result.tolerance} (mean |Δrate| of each layer, share of predictions)"
    else:
        exact = "exactly the same spikes" if result.layers else "the same logits, rounding aside"
        within = exact if result.tolerance == 0 else f"the same within {result.tolerance}"
    say(f"PASS: {within}" if result.passed else f"FAIL: not {within}")


def _print_layers(console: Console, result: "Comparison") -> None:
    table = Table(box=None, pad_edge=False)
    for column in ("neuron layer", "spikes A", "spikes B", "agree", "mean |Δrate|", "max"):
        table.add_column(column, justify="left" if column == "neuron layer" else "right", overflow="fold")
    for name, layer in result.layers.items():
        shown = "100 %" if not layer.differing else f"{min(99.99, 100 * layer.agreement):.2f} %"
        rates = f"{layer.mean_rate_difference:.2g}", f"{layer.max_rate_difference:.2g}"
        table.add_row(name, str(layer.spikes_a), str(layer.spikes_b), shown, *rates)
    console.print(table)
