"""`neurotool export`."""

import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from neurotool.api.exporting import MESSAGES, TARGETS
from neurotool.cli.numbers import SAMPLES
from neurotool.cli.options import (
    PATH,
    check_not_read,
    input_options,
    json_option,
    layers_option,
    open_file,
    opening_options,
    time_steps_option,
)
from neurotool.cli.printing import one_by_one, table
from neurotool.errors import ConfigError, listing
from neurotool.export.tool_imports import IMPORTS
from neurotool.graph.names import by_kind
from neurotool.terminal import console

if TYPE_CHECKING:
    from neurotool.inputs import Given


@click.command(
    epilog="""\b
Examples:
  neurotool export model.ckpt -o model.nir
  neurotool export model.ckpt --target lava -o model.lava
  neurotool export model.ckpt --target lava --chip loihi2
  neurotool export model.ckpt --target lava --messages graded
  neurotool export model.nir --with-inputs 8 --input spikes.npz -o checked.nir
  neurotool export model.ckpt --target svg --part encoder.0 -o layer.svg
  neurotool export model.ckpt --from-node pool --to-node readout -o part.nir
  neurotool export other.nir --from norse -T 100 --for snntorch -o ours.nir
  neurotool export other.nir --reset soft --time-step 1 -T 100 -o our.nir
"""
)
@click.argument("model", type=PATH)
@click.option(
    "--target",
    type=click.Choice(TARGETS),
    default="nir",
    show_default=True,
    help="NIR, a Lava bundle, HDF5 for lava-dl's netx, or a drawing.",
)
@click.option("-o", "--output", type=PATH, help="File or bundle.  [default: MODEL with the target's ending]")
@click.option("--part", default="", help="Draw only the nodes of this name, e.g. encoder.0 (dot, svg).")
@click.option(
    "--for", "for_tool", metavar=f"[{'|'.join(IMPORTS)}]", help="As the import of this tool reads .nir files."
)
@click.option(
    "--with-inputs",
    type=SAMPLES,
    metavar="N",
    help="Also N inputs and what every layer sends on them, as NIRData beside it (nir, lava).",
)
@click.option("--from-node", help="Write a part of the network alone: from this node or group on …")
@click.option("--to-node", help="… to this one, in the order of emission.")
@click.option(
    "--precision",
    type=click.Choice(["fixed", "float"]),
    default="fixed",
    show_default=True,
    help="Of a Lava bundle: integers as on the chip, or real numbers for debugging.",
)
@click.option("--per-layer", is_flag=True, help="One weight exponent a layer, not one an output channel (lava, netx).")
@click.option(
    "--softmax",
    type=click.Choice(["polynomial", "shift"]),
    default="polynomial",
    show_default=True,
    help="Integer exponentials after I-BERT, or powers of two, whose products are shifts (lava).",
)
@click.option(
    "--precise",
    is_flag=True,
    help="Softmax, norm and GELU to the last bits of a message; always for students trained --integer-aware (lava).",
)
@click.option(
    "--messages",
    type=click.Choice(MESSAGES),
    default="spikes",
    show_default=True,
    help="graded: one message with a count for a window of T steps; same logits, T times fewer steps.",
)
@click.option(
    "--data", type=PATH, help="Text to calibrate on (lava, netx), and of --with-inputs.  [default: the validation data]"
)
@click.option("--samples", type=SAMPLES, default=128, show_default=True, help="Texts to calibrate on (lava, netx).")
@click.option("--chip", help="Report how the network fits a chip: loihi1, loihi2 or a file of limits (lava, netx).")
@click.option("--strict", is_flag=True, help="Exit with 1 when a rule of the chip is broken.")
@click.option("--force", is_flag=True, help="Replace the output.")
@input_options
@layers_option
@opening_options
@time_steps_option
@json_option
@click.pass_context
def export(
    context: click.Context,
    model: Path,
    target: str,
    output: Path | None,
    data: Path | None,
    chip: str | None,
    strict: bool,
    layers: bool,
    as_json: bool,
    part: str,
    messages: str,
    for_tool: str | None,
    with_inputs: int | None,
    from_node: str | None,
    to_node: str | None,
    precision: str,
    per_layer: bool,
    softmax: str,
    precise: bool,
    samples: int,
    force: bool,
    given: "Given",
    **opening: Any,
) -> None:
    """Write a model as NIR or as a Lava bundle, or draw its layer graph."""
    from neurotool.api.exporting import check_options

    if strict and not chip:
        raise ConfigError("--strict: names the rules of a chip; give it with --chip")
    start = time.perf_counter()
    options: dict[str, Any] = {
        "calibration": data,
        "precision": precision,
        "per_layer": per_layer,
        "softmax": softmax,
        "precise": precise,
        "chip": chip,
        "part": part,
        "with_inputs": with_inputs,
    }
    check_options(target, **options | {"calibration": data or given.source or None})
    options |= {"messages": messages, "given": given, "for_tool": for_tool}
    if output is not None:
        check_not_read(output)
    opened = open_file(model, given=given, **opening)
    if from_node or to_node:
        names = list(opened.graph.nodes)
        opened = opened.part(from_node or names[0], to_node or names[-1])
    report = opened.export(output, target, samples=samples, force=force, **options)
    fit = report.pop("fit", None)
    report |= {"fit": fit.to_dict()} if fit and as_json else {}
    report |= {"seconds": round(time.perf_counter() - start, 2)}
    if as_json:
        click.echo(json.dumps(report))
    else:
        if "quantisation" in report and precision == "fixed":
            _print_quantisation(report, layers)
        _print(report)
        if fit is not None:
            from neurotool.cli.fit import show_fit

            show_fit(console(), fit, layers)
    context.exit(int(strict and fit is not None and bool(fit.broken)))


def _print(report: dict[str, Any]) -> None:
    click.echo(
        f"wrote {report['output']}: {_size(report['bytes'])} for {_size(report['weight_bytes'])} of weights, "
        f"{report['nodes']} nodes, {report['seconds']:.1f} s with loading libraries"
    )
    for told in _alike(report.get("told", ())):
        click.echo(f"- beside the file: {told}")
    if "standard_nodes" in report:
        standard, nodes = report["standard_nodes"], report["nodes"]
        said = "all of them are" if standard == nodes else f"{standard} of them {'is' if standard == 1 else 'are'}"
        beside = "" if standard == nodes else f", {nodes - standard} {'is' if nodes - standard == 1 else 'are'} not"
        click.echo(f"{said} NIR nodes or sums{beside}; its metadata hold the whole network")
        for what in report["beyond_nir"]:
            click.echo(f"- NIR alone does not carry: {what}")
    if vectors := report.get("vectors"):
        entering, sent = vectors["files"]
        click.echo(
            f"{vectors['inputs']} inputs ({vectors['source']}) in {entering}; what {vectors['layers']} neuron "
            f"layers send on them, {vectors['spikes']} spikes, in {sent}"
        )


def _alike(told: Iterable[str]) -> Iterator[str]:
    """What is said of several layers in one line."""
    layers: dict[str, list[str]] = {}
    for line in told:
        name, has, what = line.partition(" has ")
        layers.setdefault(has + what, []).append(name) if has else layers.setdefault(line, [])
    for what, names in layers.items():
        yield listing(names) + what


def _print_quantisation(report: dict[str, Any], each: bool) -> None:
    """What quantisation did, by kind of layer or, `each`, to every one."""
    quantisation, calibration = report["quantisation"], report["calibration"]
    # 16 bits: they are in the JSON.
    seen = {
        row["layer"]: row
        for row in quantisation["layers"]
        if not row["layer"].endswith((".norm", ".word", ".token_type", ".position"))
    }
    rows = []
    for kind, names in (one_by_one(seen) if each else _kinds(seen)).items():
        keys = ("weight_bits", "weight_error", "rate", "rate_error")
        found = {key: [seen[n][key] for n in names if key in seen[n]] for key in keys}
        bits = str(max(found["weight_bits"], default=""))
        weight = f"{100 * np.mean(found['weight_error']):.2f} %" if found["weight_error"] else ""
        rates = (f"{np.mean(found[k]):.4f}" if found[k] else "" for k in ("rate", "rate_error"))
        rows.append((kind, bits, weight, *rates))
    title = f"integers, one exponent for each {quantisation['exponent_per']}{'' if each else ' (--layers: each layer)'}"
    console().print(table(title, ("layer", "bits", "weights' error", "mean |rate|", "|Δrate|"), rows))
    for row in quantisation["layers"]:
        if "differing_spikes" in row:
            click.echo(f"{row['layer']}: {row['differing_spikes']:,} spikes differ, of {row['spikes']:,} sent")
    click.echo(f"calibrated on {calibration['inputs']} inputs: {calibration['source']}")
    for name, before in calibration.get("before", {}).items():
        click.echo(f"{name}: {before:.4f} with real numbers, {calibration['after'][name]:.4f} in fixed point")


def _kinds(layers: Any) -> dict[str, list[str]]:
    """A neuron layer with the Linear before it, in all encoder layers."""
    groups: dict[str, list[str]] = {}
    for kind, names in by_kind(layers).items():
        groups.setdefault(kind.removesuffix(".linear").removesuffix(".kernel"), []).extend(names)
    return groups


def _size(count: int) -> str:
    exponent = int(np.log10(max(count, 1)) // 3)
    return f"{count / 1000**exponent:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[exponent]}"
