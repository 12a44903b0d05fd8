"""`neurotool export`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich import box
from rich.table import Table

from neurotool import files
from neurotool.cli import json_option
from neurotool.cli.graphs import Conventions, load_graph, nir_options
from neurotool.errors import ConfigError
from neurotool.terminal import console

if TYPE_CHECKING:
    from neurotool.cli.lowering import Quantisation
    from neurotool.export.fit import FitReport
    from neurotool.graph import Graph
    from neurotool.lava_runtime.bundle import Bundle

LOWERED = ("lava", "netx")
"""Targets of integers: weights are quantised and calibrated."""


@click.command(
    epilog="""\b
Examples:
  neurotool export model.ckpt -o model.nir
  neurotool export model.ckpt --target lava -o model.lava
  neurotool export model.ckpt --target lava --chip loihi2
  neurotool export model.ckpt --target svg --part encoder.0 -o layer.svg
  neurotool export other.nir --reset soft --time-step 1 -T 100 -o our.nir
"""
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Choice(["nir", *LOWERED, "dot", "svg"]),
    default="nir",
    show_default=True,
    help="NIR, a Lava bundle, HDF5 for lava-dl's netx, or a drawing.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File or bundle.  [default: MODEL with the target's ending]"
)
@click.option("--part", default="", help="Draw only the nodes of this name, e.g. encoder.0 (dot, svg).")
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
    "--data", type=click.Path(path_type=Path), help="Text to calibrate on (lava, netx).  [default: the validation data]"
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=128, show_default=True, help="Texts to calibrate on (lava, netx)."
)
@click.option("--chip", help="Report how the network fits a chip: loihi1, loihi2 or a file of limits (lava, netx).")
@click.option("--strict", is_flag=True, help="Exit with 1 when a rule of the chip is broken.")
@click.option("--force", is_flag=True, help="Replace the output.")
@nir_options
@json_option
@click.pass_context
def export(
    context: click.Context,
    model: Path,
    target: str,
    output: Path | None,
    part: str,
    precision: str,
    per_layer: bool,
    softmax: str,
    data: Path | None,
    samples: int,
    chip: str | None,
    strict: bool,
    force: bool,
    as_json: bool,
    **conventions: object,
) -> None:
    """Write a model as NIR or as a Lava bundle, or draw its layer graph."""
    if part and target not in ("dot", "svg"):
        raise ConfigError(f"--part {part}: only drawings have parts; use --target dot or svg")
    integers = data is not None or per_layer or softmax != "polynomial"
    if target not in LOWERED and (integers or chip or precision != "fixed"):
        options = "--data, --per-layer, --softmax, --precision and --chip"
        raise ConfigError(f"{options} are for --target lava or netx, not {target}: leave them out")
    if (target == "netx" or chip) and precision != "fixed":
        raise ConfigError(f"--precision {precision}: netx and chips hold integers; use --precision fixed")
    if target == "netx" and softmax != "polynomial":
        raise ConfigError(f"--softmax {softmax}: netx holds no softmax; leave it out")
    if integers and precision != "fixed":
        raise ConfigError(
            f"--precision {precision}: --data, --per-layer and --softmax are about integers; leave them out"
        )
    if strict and not chip:
        raise ConfigError("--strict: names the rules of a chip; give it with --chip")
    start = time.perf_counter()
    path = output or model.with_suffix(f".{'hdf5' if target == 'netx' else target}")
    known = Conventions(**conventions)  # type: ignore[typeddict-item]
    fit = None
    if target in LOWERED:
        from neurotool.cli.lowering import Quantisation

        how = Quantisation(precision == "fixed", per_layer, softmax == "shift", data, samples, target == "netx")
        report, fit = _lowered(model, path, known, target, how, chip, force, as_json)
    else:
        report = _file(load_graph(model, known), path, target, part, force)
    report = {"output": str(path), "target": target} | report | {"seconds": round(time.perf_counter() - start, 2)}
    if as_json:
        click.echo(json.dumps(report))
        context.exit(int(strict and not report["fit"]["fits"]))
    click.echo(
        f"wrote {path}: {_size(report['bytes'])} for {_size(report['weight_bytes'])} of weights, "
        f"{report['nodes']} nodes, {report['seconds']:.1f} s with loading libraries"
    )
    if "standard_nodes" in report:
        click.echo(f"{report['standard_nodes']} of them are NIR nodes or sums, the others are in the metadata")
    if fit is not None:
        from neurotool.cli.fit import show_fit

        show_fit(console(), fit)
        context.exit(int(strict and bool(fit.broken)))


def _file(graph: "Graph", path: Path, target: str, part: str, force: bool) -> dict[str, Any]:
    if target == "nir":
        from neurotool.export.nir import write_nir
        from neurotool.export.to_nir import expressible

        write_nir(graph, path, force=force)
        return _described(graph, path.stat().st_size) | {"standard_nodes": len(expressible(graph))}
    from neurotool.export.drawing import draw, to_dot

    (to_dot if target == "dot" else draw)(graph, path, part, force)
    return _described(graph, path.stat().st_size)


def _lowered(
    model: Path,
    path: Path,
    conventions: Conventions,
    target: str,
    how: "Quantisation",
    chip: str | None,
    force: bool,
    as_json: bool,
) -> "tuple[dict[str, Any], FitReport | None]":
    from neurotool.cli.lowering import make_bundle
    from neurotool.export.chip import load_chip
    from neurotool.export.fit import fit_report
    from neurotool.lava_runtime.bundle import check_free, write_bundle

    limits = load_chip(chip) if chip else None
    (check_free if target == "lava" else files.check_free)(path, force)  # before the work
    bundle = make_bundle(model, conventions, how)
    if target == "lava":
        write_bundle(path, bundle, force)
        size = sum(file.stat().st_size for file in path.iterdir())
    else:
        from neurotool.export.netx import write_netx

        write_netx(bundle.graph, path, force)
        size = path.stat().st_size
    if how.fixed and not as_json:
        _show(bundle)
    fit = fit_report(bundle.graph, limits, bundle.max_length) if limits else None
    report = _described(bundle.graph, size) | {"precision": bundle.precision} | bundle.record
    return report | ({"fit": fit.to_dict()} if fit else {}), fit


def _described(graph: "Graph", size: int) -> dict[str, Any]:
    return {
        "bytes": size,
        "weight_bytes": sum(array.nbytes for array in graph.to_arrays()[1].values()),
        "nodes": len(graph.nodes),
        "time_steps": graph.time_steps,
        "schedule": graph.schedule,
    }


def _show(bundle: "Bundle") -> None:
    """What quantisation did."""
    if "quantisation" not in bundle.record:
        return
    quantisation, calibration = bundle.record["quantisation"], bundle.record["calibration"]
    table = Table(
        title=f"int8 weights, one exponent for each {quantisation['exponent_per']}",
        title_justify="left",
        box=box.SIMPLE,
    )
    for column in ("layer", "weights' error", "mean |rate|", "|Δrate|"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for row in quantisation["layers"]:
        if row["layer"].endswith((".norm", ".word", ".token_type", ".position")):
            continue  # 16 bits: they are in the JSON
        weight = f"{100 * row['weight_error']:.2f} %" if "weight_error" in row else ""
        rates = [f"{row[key]:.4f}" if key in row else "" for key in ("rate", "rate_error")]
        table.add_row(row["layer"], weight, *rates)
    console().print(table)
    click.echo(f"calibrated on {calibration['inputs']} inputs: {calibration['source']}")
    for name, before in calibration.get("before", {}).items():
        click.echo(f"{name}: {before:.4f} with real numbers, {calibration['after'][name]:.4f} in fixed point")


def _size(count: int) -> str:
    exponent = int(np.log10(max(count, 1)) // 3)
    return f"{count / 1000**exponent:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[exponent]}"
