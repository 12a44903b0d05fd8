"""`neurotool export`."""

import json
import time
from pathlib import Path

import click
import numpy as np

from neurotool.cli import json_option
from neurotool.cli.graphs import Conventions, load_graph, nir_options
from neurotool.errors import ConfigError


@click.command(
    epilog="""\b
Examples:
  neurotool export model.ckpt -o model.nir
  neurotool export model.ckpt --target svg --part encoder.0 -o layer.svg
  neurotool export other.nir --reset soft --time-step 1 -T 100 -o our.nir
"""
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--target",
    type=click.Choice(["nir", "dot", "svg"]),
    default="nir",
    show_default=True,
    help="NIR, or a drawing.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="File.  [default: MODEL with the target's ending]"
)
@click.option("--part", default="", help="Draw only the nodes of this name, e.g. encoder.0 (dot, svg).")
@click.option("--force", is_flag=True, help="Replace the output.")
@nir_options
@json_option
def export(
    model: Path, target: str, output: Path | None, part: str, force: bool, as_json: bool, **conventions: object
) -> None:
    """Write a model as NIR, or draw its layer graph."""
    if part and target == "nir":
        raise ConfigError(f"--part {part}: only drawings have parts; use --target dot or svg")
    start = time.perf_counter()
    graph = load_graph(model, Conventions(**conventions))  # type: ignore[typeddict-item]
    path = output or model.with_suffix(f".{target}")
    if target == "nir":
        from neurotool.export.nir import write_nir

        write_nir(graph, path, force=force)
    else:
        from neurotool.export.drawing import draw, to_dot

        (to_dot if target == "dot" else draw)(graph, path, part, force)
    seconds = time.perf_counter() - start
    size = path.stat().st_size
    weights = sum(array.nbytes for array in graph.to_arrays()[1].values())
    report = {
        "output": str(path),
        "target": target,
        "bytes": size,
        "weight_bytes": weights,
        "nodes": len(graph.nodes),
        "time_steps": graph.time_steps,
        "schedule": graph.schedule,
        "seconds": round(seconds, 2),
    }
    if target == "nir":
        from neurotool.export.to_nir import expressible

        report["standard_nodes"] = len(expressible(graph))
    if as_json:
        click.echo(json.dumps(report))
        return
    click.echo(
        f"wrote {path}: {_size(size)} for {_size(weights)} of weights, {len(graph.nodes)} nodes, {seconds:.1f} s "
        "with loading libraries"
    )
    if target == "nir":
        click.echo(f"{report['standard_nodes']} of them are NIR nodes or sums, the others are in the metadata")


def _size(count: int) -> str:
    exponent = int(np.log10(max(count, 1)) // 3)
    return f"{count / 1000**exponent:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[exponent]}"
