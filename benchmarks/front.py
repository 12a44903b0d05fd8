"""The honest front of docs/results.md: what sparse students keep of their teacher, and what they need beside every
matched rival, from what benchmarks/table.py left of the students of benchmarks/front.json. No checkpoint is needed:
each cell's JSON holds the shape of the student and what was active in it.

    python benchmarks/front.py FOLDER [--graded] [--write docs/results.md] [--plot docs/front.svg]

Rows are means over the seeds that are there. --graded adds to each the row of the same student whose windows are sent
as one message each, with a count as payload. Weights that are 0 are not skipped here; `neurotool energy report
--skip-zero-weights` needs the checkpoint.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import click
from table import write

from neurotool.activity import Activity
from neurotool.energy.comparison import FAIR, QUANTISING, TWIN, ZERO_SKIPPING
from neurotool.energy.costs import ARITHMETIC, MEMORY, load_cost_model
from neurotool.energy.counts import Counts, count, events_of_activity
from neurotool.energy.report import build_report
from neurotool.errors import NeurotoolError
from neurotool.files import replacing
from neurotool.graph import Graph
from neurotool.graph.graded import graded
from neurotool.student import STUDENTS, Student
from neurotool.train.compression import compressible

RIVALS = {
    "arithmetic fp32: dense": (ARITHMETIC, "fp32", "spike", TWIN, False),
    "int8: fair": (ARITHMETIC, "int8", "spike", FAIR, False),
    "int8: skipping": (ARITHMETIC, "int8", "spike", ZERO_SKIPPING, False),
    "batched: fair": (MEMORY, "int8", "batched", FAIR, False),
    "batched: skipping": (MEMORY, "int8", "batched", ZERO_SKIPPING, False),
    "output-stationary: fair": (MEMORY, "int8", "output-stationary", FAIR, False),
    "output-stationary: skipping": (MEMORY, "int8", "output-stationary", ZERO_SKIPPING, False),
    "output-stationary: skipping, its quantisers counted": (MEMORY, "int8", "output-stationary", QUANTISING, False),
    "hybrid: fair": (MEMORY, "int8", "output-stationary", FAIR, True),
    "hybrid: skipping": (MEMORY, "int8", "output-stationary", ZERO_SKIPPING, True),
}
"""Column -> cost model, number format, dataflow of both sides, rival, and whether layers may be dense."""
HEADER = ("data", "student", "teacher", "student's", "kept", "zero weights", "spikes", "events", *RIVALS, "seeds")


def student_of(record: Mapping[str, Any]) -> Student:
    """Of its shape: a cell's JSON holds no weights."""
    kind = STUDENTS[record["config"]["model_type"]]
    return kind(kind.config_class(**record["config"]))


def counts_of(record: Mapping[str, Any], messages: bool) -> Counts:
    """Of a cell's JSON; messages: of the same student with graded messages."""
    graph = student_of(record).to_graph()
    activity = Activity.from_dict(record["activity"])
    if messages:
        graph, activity = as_messages(graph, activity)
    return count(graph, activity, events_of_activity(graph, activity))


def as_messages(graph: Graph, activity: Activity) -> tuple[Graph, Activity]:
    """A neuron sends one message for all spikes of a window."""
    layers = {}
    for name, layer in activity.layers.items():
        assert layer.active is not None
        layers[name] = replace(layer.active, active=layer.active)
    return graded(graph), replace(
        activity, time_steps=1, steps=activity.steps // activity.time_steps, layers=layers, fed_back={}
    )


def shares(counts: Counts) -> dict[str, float]:
    """Energy in units of each rival's, by column."""
    models = [load_cost_model(ARITHMETIC), load_cost_model(MEMORY)]
    found = {}
    for hybrid in (False, True):
        for pair in build_report("", "", counts, models, hybrid=hybrid).comparisons:
            ours = pair.spiking
            if pair.matched and not pair.dataflow.reuse:
                key = (ours.model.name, ours.numbers.name, pair.dataflow.name, pair.kind, hybrid)
                found |= {column: pair.share for column, rival in RIVALS.items() if rival == key}
    return found


def zero_weights(record: Mapping[str, Any]) -> float:
    """Share of the weights between neuron layers that are 0."""
    sizes = {name: layer.weight.numel() for name, layer in compressible(student_of(record))}
    zeros: dict[str, float] = record["zeros"]
    return sum(zeros.get(f"{name}.weight", 0.0) * size for name, size in sizes.items()) / sum(sizes.values())


def figures(record: Mapping[str, Any], messages: bool = False) -> dict[str, float]:
    """Numbers of one seed by column."""
    measured, counts = record["figures"], counts_of(record, messages)
    return {
        "teacher": measured["teacher"],
        "student's": measured["student"],
        "kept": measured["kept"],
        "zeros": zero_weights(record),
        "spikes": counts.spikes_per_synapse,
        "events": measured["events_per_synapse"],
        **shares(counts),
    }


def read(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """(data, student) -> finished cells by seed, in the order of front.json. ClickException where there is none."""
    cells: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(record, dict) and {"figures", "activity", "config"} <= record.keys():
            data, rest = path.stem.split("-", 1)
            student, seed = rest.rsplit("-", 1)
            cells.setdefault((data, student), {})[int(seed)] = record
    if not cells:
        raise click.ClickException(f"{folder}: holds no finished cell of benchmarks/table.py")
    config = json.loads(Path(__file__).with_name("front.json").read_text(encoding="utf-8"))
    data_sets, students = ([*config[kind]] for kind in ("data", "students"))
    known = [(data, student) for data in data_sets for student in students if (data, student) in cells]
    others = sorted(cells.keys() - set(known))
    return {key: [cells[key][seed] for seed in sorted(cells[key])] for key in [*known, *others]}


def line(data: str, student: str, seeds: list[dict[str, float]]) -> str:
    mean = {name: statistics.fmean(seed[name] for seed in seeds) for name in seeds[0]}
    accuracies = [100 * seed["student's"] for seed in seeds]
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(seeds) > 1 else ""
    cells = [data, student, f"{100 * mean['teacher']:.1f}", f"{statistics.fmean(accuracies):.1f}{spread}"]
    cells += [f"{100 * mean['kept']:.1f} %", f"{100 * mean['zeros']:.0f} %"]
    cells += [f"{mean['spikes']:.3f}", f"{mean['events']:.3f}"]
    cells += [f"{100 * mean[column]:.1f} %" for column in RIVALS]
    return f"| {' | '.join([*cells, str(len(seeds))])} |"


def plot(found: Mapping[tuple[str, str], list[dict[str, float]]], file: Path) -> None:
    """Share of the metric that is kept against events per synapse: a point for each student, the mean of its seeds,
    which are dots. Named are those that no other beats in both."""
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    panel = figure.subplots()
    of_data = zip(cycle("os^Dv"), cycle(("right", "left")), dict.fromkeys(data for data, _ in found), strict=False)
    for marker, side, data in of_data:  # the cycles never end
        seeds = {
            name: [(s["events"], 100 * s["kept"]) for s in each] for (of, name), each in found.items() if of == data
        }
        means = {name: tuple(map(statistics.fmean, zip(*each, strict=True))) for name, each in seeds.items()}
        drawn = panel.plot(*zip(*means.values(), strict=True), marker, alpha=0.7, label=data)
        several = [point for each in seeds.values() if len(each) > 1 for point in each]
        if several:
            panel.plot(*zip(*several, strict=True), ".", color=drawn[0].get_color(), alpha=0.5)
        for name, (events, kept) in means.items():
            if not any(e <= events and k >= kept and (e, k) != (events, kept) for e, k in means.values()):
                away = (-6 if side == "right" else 6, -3)
                panel.annotate(name, (events, kept), away, textcoords="offset points", ha=side, fontsize="x-small")
    panel.set(xlabel="events per synapse", ylabel="% of the teacher's metric")
    panel.set_xlim(0)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small")
    with (
        replacing(file, force=True, error_type=click.ClickException) as temporary,
        matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "neurotool"}),
    ):
        figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--graded", "messages", is_flag=True, help="Rows of the same students with graded messages, too.")
@click.option("--write", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Markdown file.")
@click.option("--plot", "svg", type=click.Path(dir_okay=False, path_type=Path), help="SVG file.")
def main(folder: Path, messages: bool, file: Path | None, svg: Path | None) -> None:
    cells = read(folder)
    lines = [f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    found = {}
    for (data, student), records in cells.items():
        try:
            found[data, student] = [figures(record) for record in records]
            lines.append(line(data, student, found[data, student]))
            if messages:
                lines.append(line(data, f"{student} graded", [figures(record, messages=True) for record in records]))
        except NeurotoolError as error:
            raise click.ClickException(f"{data}-{student}: {error}") from error
    click.echo("\n".join(lines))
    if file is not None:
        write("\n".join(lines), file, "front.py")
    if svg is not None:
        plot(found, svg)


if __name__ == "__main__":
    main()
