"""`neurotool validate`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from neurotool.cli.numbers import SAMPLES, TOLERANCE
from neurotool.cli.options import (
    EXECUTORS,
    PATH,
    input_options,
    json_option,
    layers_option,
    open_file,
    opening_options,
    time_steps_option,
)
from neurotool.cli.printing import one_by_one, shown_progress, table
from neurotool.errors import ConfigError
from neurotool.graph.names import by_kind
from neurotool.recordings import is_recording
from neurotool.terminal import console

if TYPE_CHECKING:
    from neurotool.api.model import Model
    from neurotool.inputs import Given
    from neurotool.validate import Comparison


def _executors(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str | None, str | None]:
    names = (value or "").split(",")
    for name in filter(None, names):
        if name not in EXECUTORS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(EXECUTORS)}")
    if len(names) > 2:
        raise click.BadParameter(f"{value!r} names more than two: give that of A and that of B")
    return names[0] or None, names[-1] or None


@click.command(
    epilog="""\b
Examples:
  neurotool validate model.ckpt model.nir
  neurotool validate model.ckpt model.nir --data test.tsv --samples 200 --json
  neurotool validate model.lava model.lava --executor emulator,lava
  neurotool validate a.nir b.nir --random --tolerance 0.01
  neurotool validate other.nir recorded.h5 --from norse --input spikes.npz

Exit code 0: the same within the tolerance; 1: not the same; 2: bad input. Both sides compute in double precision;
--float32 hands on single precision, sums still made in double. --as-used runs a
checkpoint as `neurotool evaluate` does: single precision throughout, where sums
in another order flip a few spikes, and these others.
"""
)
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@click.option("--data", type=PATH, help="File or folder.  [default: the checkpoint's task]")
@click.option("--samples", type=SAMPLES, default=32, show_default=True, help="Sentences to run.")
@click.option(
    "--tolerance",
    type=TOLERANCE,
    help="Share of a layer's spikes; |Δ| of rates and logits.  [default: 0; .2 if one of the two is fixed-point]",
)
@click.option(
    "--executor",
    "executors",
    callback=_executors,
    help=f"What runs A and B: one of {', '.join(EXECUTORS)}, or two with a comma.  "
    "[default: torch for a .ckpt, interpreter for a .nir, emulator for a bundle]",
)
@click.option("--float32", is_flag=True, help="Single instead of double precision.")
@click.option("--as-used", is_flag=True, help="A checkpoint as torch runs it, in single precision.")
@input_options
@layers_option
@opening_options
@time_steps_option
@json_option
@click.pass_context
def validate(
    context: click.Context,
    a: Path,
    b: Path,
    data: Path | None,
    samples: int,
    tolerance: float | None,
    executors: tuple[str | None, str | None],
    float32: bool,
    as_used: bool,
    layers: bool,
    as_json: bool,
    tokenizer: Path | None,
    given: "Given",
    **opening: Any,
) -> None:
    """Compare two models spike by spike on real sentences."""
    from neurotool.api.comparing import compare, compare_with_recorded

    precision: Any = "as used" if as_used else "float32" if float32 else "float64"
    steps, how = opening.pop("time_steps"), {"given": given, "tolerance": tolerance, "precision": precision}
    if is_recording(a):
        raise ConfigError(f"{a}: holds spikes, and comes second: the model that is to send them first")
    if is_recording(b):
        model = open_file(a, time_steps=steps, given=given, tokenizer=tokenizer, **opening)
        compared = compare_with_recorded((model, executors[0]), b, **how)
    else:
        models = _open((a, b), steps, given, opening | {"tokenizer": tokenizer}, as_used)
        sides = zip(models, executors, strict=True)
        compared = compare(*sides, data=data, samples=samples, track=shown_progress(as_json), **how)
        model = models[0]
    result, on = compared.result, compared.executors
    if as_json:
        about = {"a": str(a), "b": str(b), "executors": on, "source": compared.source, "precision": precision}
        click.echo(json.dumps(about | result.to_dict()))
    else:
        click.echo(f"A {a} on {on[0]}\nB {b} {'on ' if on[1] in EXECUTORS else ''}{on[1]}")
        if result.layers:
            _print_layers(console(), result, layers)
        _print(result, compared.source, model.time_steps)
    context.exit(0 if result.passed else 1)


def _open(
    files: tuple[Path, Path], steps: int | None, given: "Given", foreign: dict[str, Any], as_used: bool
) -> "list[Model]":
    from neurotool.api.comparing import said_of_each

    said = zip(files, said_of_each(files, foreign), strict=True)
    models = [open_file(path, time_steps=steps, given=given, **options) for path, options in said]
    reading = [model for model in models if model.kind != "NIR file"]
    if foreign["standard_nodes"] and reading:
        raise ConfigError(
            "--standard-nodes: the standard nodes of a .nir file are pieces of a network that read values, not "
            "sentences, and cannot be run beside a checkpoint or bundle; leave it out, or give two .nir files"
        )
    if as_used and not reading:
        raise ConfigError("--as-used: neither file is a checkpoint; leave it out")
    return models


def _print(result: "Comparison", source: str, time_steps: int) -> None:
    say = click.echo
    if result.inputs:
        say(f"{result.inputs} inputs, T = {time_steps}; {source}")
    for name, output in result.outputs.items():
        if output.values:
            say(f"output {name}: max |Δ| {output.max_difference:.2g} of {output.largest:.2g}")
    if result.max_logit_difference is not None:
        say(f"logits: max |Δ| {result.max_logit_difference:.2g}")
    if result.predictions_agreeing is not None:
        say(f"predictions: {result.predictions_agreeing} of {result.inputs} agree")
    if (first := result.first_difference) is not None:
        say(
            f"first difference: layer {first.layer}, input {first.input}, step {first.step}, token {first.token}, "
            f"neuron {first.neuron}: A sends {first.a}, B {first.b}"
        )
    for name, layer in result.layers.items():
        if layer.late:
            say(f"{name}: B is {layer.late} {'step' if layer.late == 1 else 'steps'} late, and compared so")
    for problem in result.problems:
        say(f"- {problem}")
    if result.quantised:
        within = f"the same within {result.tolerance} (mean |Δrate| of each layer, share of predictions)"
    else:
        spikes = "counts of spikes in each window" if result.counted else "spikes"
        exact = f"exactly the same {spikes}" if result.layers else "the same logits or outputs, rounding aside"
        within = exact if result.tolerance == 0 else f"the same within {result.tolerance}"
    if result.decided and result.silent:
        say(f"silent in both, so that what drives them was not compared: {', '.join(result.silent)}")
    if not result.decided:
        say("NO VERDICT: nothing was compared that could have differed; give other inputs")
        return
    say(f"PASS: {within}" if result.passed else f"FAIL: not {within}")


def _print_layers(console: Console, result: "Comparison", each: bool) -> None:
    """By kind of layer or, `each`, one by one."""
    rows = []
    for kind, names in (one_by_one(result.layers) if each else by_kind(result.layers)).items():
        layers = [result.layers[name] for name in names]
        differing, compared = (sum(getattr(layer, of) for layer in layers) for of in ("differing", "compared"))
        agree = "100 %" if not differing else f"{min(99.99, 100 * (1 - differing / compared)):.2f} %"
        mean = sum(layer.sum_of_rate_differences for layer in layers) / max(sum(layer.rates for layer in layers), 1)
        largest = max(layer.max_rate_difference for layer in layers)
        spikes = (str(sum(getattr(layer, of) for layer in layers)) for of in ("spikes_a", "spikes_b"))
        rows.append((kind, *spikes, agree, f"{mean:.2g}", f"{largest:.2g}"))
    title = "" if each or len(rows) == len(result.layers) else "by kind of layer (--layers: each)"
    headings = ("neuron layer", "spikes A", "spikes B", "agree", "mean |Δrate|", "max")
    console.print(table(title, headings, rows))
