"""Networks that other tools exported, read with --from TOOL, and networks written with --for TOOL, run there: are the
spikes the same? Two Markdown tables.

    python benchmarks/nir_tools.py build/nir-networks       # in an environment with the tools
    python benchmarks/nir_for.py build/nir-for
    python benchmarks/nir_opened.py build/nir-for           # in an environment with the tools
    python benchmarks/nir_table.py build/nir-networks build/nir-for [--write docs/nir.md]

--write puts each table between the two comments of that file that name it.
"""

import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np

from neurotool.errors import NeurotoolError, one_line
from neurotool.export.conventions import TOOLS
from neurotool.export.nir import read_nir
from neurotool.graph import Input
from neurotool.simulate import simulate

MARKS = "<!-- benchmarks/nir_table.py: {} -->", "<!-- end of benchmarks/nir_table.py: {} -->"


LAYERS = 2
"""Of neurons in the networks of nir_for.py, each of which a tool may send one step late."""


class Outcome(NamedTuple):
    """verdict: right, differs, fails there or refused; options: what had to be told beside the tool."""

    tool: str
    network: str
    options: str
    verdict: str
    detail: str


def outcome(path: Path) -> Outcome:
    """Of one FOLDER/TOOL-NETWORK.nir and its .npz."""
    tool, network = path.stem.split("-", 1)
    arrays = np.load(path.with_suffix(".npz"))
    x, y, told = arrays["x"], arrays["y"], json.loads(str(arrays["told"]))
    options = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in told.items())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = read_nir(path, tool=tool, time_steps=len(x), **told)
        (last,), (first,) = graph.outputs.values(), graph.of_type(Input)
        result = simulate(graph, values={first: x.reshape(len(x), *graph.nodes[first].shape())})
    except NeurotoolError as error:
        return Outcome(tool, network, options, "refused", str(error).removeprefix(f"{path}: "))
    analog = last in result.analog and not np.array_equal(y, np.rint(y))
    found = (result.analog if last in result.analog else result.spikes)[last].reshape(y.shape)
    # A tool adds up in single precision; its spikes are whole all the same.
    differing = int(np.count_nonzero(abs(found - y) > 1e-4 * abs(y).max() if analog else found != y))
    what = "analog outputs" if analog else f"outputs, {np.abs(y).sum():.0f} spikes"
    detail = f"{differing} of {y.size} outputs differ" if differing else f"{y.size} {what}"
    return Outcome(tool, network, options, "differs" if differing else "right", detail)


def outcome_there(path: Path) -> Outcome:
    """Of one FOLDER/TOOL-NETWORK.npz that was written for the tool, and what it sent."""
    tool, network = path.stem.split("-", 1)
    arrays = np.load(path)
    told = json.loads(str(arrays["told"]))
    options = ", ".join(f"{name} {value}" for name, value in told.items())
    sent, failed = path.with_suffix(".opened.npy"), path.with_suffix(".failed.txt")
    if "refused" in arrays:
        return Outcome(tool, network, options, "refused", str(arrays["refused"]).removeprefix(f"--for {tool}: "))
    if not sent.exists():
        why = failed.read_text("utf-8") if failed.exists() else "not run"
        return Outcome(tool, network, options, "fails there", one_line(why))
    y, found = arrays["y"], np.load(sent)
    analog = not np.array_equal(y, np.rint(y))
    if TOOLS[tool].sends_late:
        y, found = y[:, :-LAYERS], found[:, LAYERS:]
    differing = int(np.count_nonzero(abs(found - y) > 1e-4 * abs(y).max() if analog else found != y))
    what = "analog outputs" if analog else f"outputs, {np.abs(y).sum():.0f} spikes"
    detail = f"{differing} of {y.size} outputs differ" if differing else f"{y.size} {what}"
    return Outcome(tool, network, options, "differs" if differing else "right", detail)


def table(outcomes: list[Outcome], told: str) -> str:
    lines = [f"| tool | network | {told} | | |", "|---|---|---|---|---|"]
    for one in outcomes:
        options = f"`{one.options}`" if one.options else ""
        title = f"{one.tool} {TOOLS[one.tool].version}"
        lines.append(f"| {title} | {one.network} | {options} | {one.verdict} | {one.detail} |")
    return "\n".join(lines)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("opened", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--write", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(folder: Path, opened: Path, write: Path | None) -> None:
    read = [outcome(path) for path in sorted(folder.glob("*.nir"))]
    there = [outcome_there(path) for path in sorted(opened.glob("*.npz"))]
    for name, outcomes, told in (("read", read, "beside `--from`"), ("written", there, "set after the import")):
        text = table(outcomes, told)
        click.echo(text)
        for verdict in ("right", "differs", "fails there", "refused"):
            click.echo(f"{sum(one.verdict == verdict for one in outcomes)} {verdict}")
        if write:
            before, after = (re.escape(mark.format(name)) for mark in MARKS)
            pattern = re.compile(f"({before}\n).*({after})", re.DOTALL)
            write.write_text(
                pattern.sub(lambda m, text=text: f"{m[1]}{text}\n{m[2]}", write.read_text("utf-8")), "utf-8"
            )


if __name__ == "__main__":
    main()
