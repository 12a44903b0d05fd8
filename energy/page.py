"""Tables and pages: what the energy commands show, as CSV, JSON, LaTeX or one self-contained HTML file."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from neurotool.energy.cores import core_loads
from neurotool.energy.costs import CostModel
from neurotool.energy.figures import Point, accuracy_energy, energy_bars, heat_map
from neurotool.energy.formats import columns, digits, latex_table, microjoule, nonzero, percent, si, total_row
from neurotool.energy.report import TEACHER, Priced, Report, rows


@dataclass(frozen=True)
class Table:
    """Cells are text. folded: shown in a page only when opened; narrow: the columns that a narrow terminal shows;
    data: the same lines as numbers in base units, for JSON and CSV."""

    caption: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: bool = False
    narrow: tuple[str, ...] = ()
    data: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True)
class Page:
    """points: (sentence, whether it is good news for the spiking network); figures: (caption, SVG)."""

    title: str
    lead: str
    points: list[tuple[str, bool]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def to_html(page: Page) -> str:
    """One file: styles and figures within, no script, nothing fetched."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("page.html.j2").render(page=page)


def report_page(report: Report, figures: bool = True, each: bool = True) -> Page:
    """figures: drawing takes a second or two. each: layers one by one, not by kind."""
    counts, activity = report.counts, report.counts.activity
    macs = si(counts.synapses / activity.inputs)
    if counts.graph.is_spiking:
        lead = (
            f"{report.measured}. T = {activity.time_steps}, {counts.graph.schedule} schedule. Per inference "
            f"{si(counts.total().accumulates / activity.inputs)} synaptic operations for {macs} MACs of the dense "
            f"twin: {counts.spikes_per_synapse:.3g} spikes per synapse.{_metrics(report)}"
        )
    else:
        lead = f"{report.measured}. A dense network without neurons: {macs} MACs per inference.{_metrics(report)}"
    drawings = {
        "Energy of every synapse and kind of node, per inference.": energy_bars,
        "Accuracy against energy per inference.": _accuracy,
        "Spikes per synapse over layers and tokens; bright is dear.": heat_map,
    }
    drawn = [(caption, draw(report)) for caption, draw in drawings.items() if figures]
    return Page(
        title=f"Energy of {report.name}",
        lead=lead,
        points=[(comparison.verdict(), comparison.wins) for comparison in report.comparisons],
        figures=[(caption, svg) for caption, svg in drawn if svg],
        tables=[_layers(report, each), _rivals(report), *_cores(report), *_traces(report), _constants(report)],
        notes=notes(report),
    )


def notes(report: Report) -> list[str]:
    """What else a reader must know: the formula of the literature, padding, what is not counted or left out."""
    activity = report.counts.activity
    lines = []
    if report.published is not None and report.counts.total().accumulates:
        exact = report.counts.total().accumulates
        distance = 100 * (report.published.operations / exact - 1)
        energy = 100 * (report.published.energy / report.published.account.total.total - 1)
        lines.append(
            f"Published formula (rate × T × MACs): {si(report.published.operations / activity.inputs)} synaptic "
            f"operations, {distance:+.2g} % from the exact count; "
            f"{microjoule(report.published.energy / activity.inputs)} µJ, {energy:+.2g} % from the account of "
            f"{report.published.account.model.name}, which has norms, softmax, GELU, biases and neuron updates too."
        )
    padded = activity.tokens + activity.padding
    spikes = sum(layer.padding_spikes for layer in activity.layers.values())
    if activity.padding:
        share = 100 * activity.padding / padded
        lines.append(
            f"Padding is left out: {activity.padding} of {padded} tokens ({share:.2g} %)"
            + (f", with {si(spikes)} spikes." if activity.layers else ".")
        )
    missing = report.not_counted
    lines.append(f"Not counted: {'; '.join(missing) if missing else 'nothing that occurs in the network'}.")
    lines += model_notes(report)
    return lines


def model_notes(report: Report) -> list[str]:
    """What the cost models leave out, and for how long a text their memories are sized."""
    longest = max(report.counts.activity.lengths)
    return [
        f"{a.model.name} leaves out: {'; '.join(a.model.leaves_out)}."
        + (
            f" Its memories of activations and potentials hold the longest text, {longest} tokens."
            if a.model.memory
            else ""
        )
        for a in report.accounts
    ]


def _metrics(report: Report) -> str:
    """The student's metrics and its teacher's, where known."""
    known = [
        f"{name} {value:.4f}"
        + (f" (teacher {report.teacher_metrics[name]:.4f})" if name in report.teacher_metrics else "")
        for name, value in report.metrics.items()
    ]
    return f" {', '.join(known).capitalize()}." if known else ""


def _accuracy(report: Report) -> str:
    metric = next(iter(report.metrics), None)
    if metric is None or not report.accounts[0].known:
        return ""
    account = report.accounts[0]
    steps = f"T = {report.counts.activity.time_steps}"
    curves = {"spiking student": [Point(account.per_inference, report.metrics[metric], steps)]}
    for comparison in report.comparisons:
        if comparison.kind == TEACHER and comparison.spiking is account and metric in report.teacher_metrics:
            curves["teacher"] = [Point(comparison.dense.per_inference, report.teacher_metrics[metric], "dense")]
    return accuracy_energy(curves, metric, account.title)


def _layers(report: Report, each: bool = True) -> Table:
    shown = [*rows(report, each=each), total_row(report)]
    cells = [(row.name, *(cell(row) for _, cell in columns(report))) for row in shown]
    what = "Layers" if each else "Layers by kind (--layers: each)"
    caption = f"{what}, per inference; energies: {report.accounts[0].title}"
    narrow = ("layer", "MACs", "spikes/synapse", "SOPs", "ANN µJ", "SNN µJ", "SNN/ANN", "µJ")
    headings = ("layer", *(heading for heading, _ in columns(report)))
    return Table(caption, headings, cells, narrow=tuple(heading for heading in narrow if heading in headings))


def _rivals(report: Report) -> Table:
    """Energies and break-even points; where there is no rival, the spiking network alone."""
    spiking = report.counts.graph.is_spiking
    border = ("break-even spikes/synapse", "rate") if spiking else ()
    headings = ("cost model", "spiking µJ" if spiking else "µJ", "rival", "rival µJ", "share", *border)
    cells = [
        (
            comparison.title,
            microjoule(comparison.spiking.per_inference),
            comparison.rival,
            microjoule(comparison.dense.per_inference),
            percent(comparison.share),
            digits(comparison.break_even),
            digits(comparison.break_even_rate),
        )
        for comparison in report.comparisons
    ]
    alone = [a for a in report.accounts if all(c.spiking.model != a.model for c in report.comparisons)]
    cells += [
        (a.title, microjoule(a.per_inference) if a.known else "not published", "none", "", "", "", "") for a in alone
    ]
    lines = [line[: len(headings)] for line in cells]
    narrow = ("cost model", "rival", "share")
    return Table("Energy per inference against the rivals", headings, lines, narrow=narrow)


def _cores(report: Report) -> list[Table]:
    """Where the prices are those of a chip, what its busiest core has to do."""
    loads = core_loads(report.counts)
    if not loads or not any(account.model.spiking_only for account in report.accounts):
        return []
    busiest = max(loads, key=lambda load: load.synaptic_operations)
    cells = [
        (
            load.name + (" (busiest)" if load is busiest else ""),
            str(load.cores),
            digits(load.synaptic_operations),
            digits(load.neuron_updates),
        )
        for load in loads
    ]
    total = sum(load.cores for load in loads)
    caption = f"Cores of 8-bit weights ({total} in all) and their load per core and time step, one token a step"
    return [Table(caption, ("weights", "cores", "synaptic operations", "neuron updates"), cells)]


def _traces(report: Report) -> list[Table]:
    """Every energy of every node as count × price, spiking and dense."""
    return [_trace(account) for account in (*report.accounts, *report.twins)]


def _trace(account: Priced) -> Table:
    made = []
    inputs = account.counts.activity.inputs
    for node, energy in zip(account.counts.nodes, account.rows, strict=True):
        prices = account.model.prices(node, account.numbers)
        operations = nonzero(node.dense if account.dense else node.spiking)
        for kind, count in operations.items():
            price = f"{prices[kind]:.4g}" if kind in prices else ""
            made.append((node.name, kind, f"{count:,}", price, microjoule(energy.by_kind.get(kind, 0.0) / inputs)))
    who = "dense twin" if account.dense else "spiking network"
    caption = f"How the energy is made: {who}, {account.title}; counts over all {inputs} inputs"
    return Table(caption, ("node", "operation", "count", "pJ each", "µJ per inference"), made, folded=True)


def _constants(report: Report) -> Table:
    made: dict[tuple[str, ...], None] = {}
    for account in (*report.accounts, *report.twins):
        for row in _constants_of(account.model):
            made[row] = None
    headings = ("model", "constant", "value", "technology", "source", "status")
    return Table("Constants and their sources", headings, list(made), folded=True)


def _constants_of(model: CostModel) -> Sequence[tuple[str, ...]]:
    rows = [
        (model.name, name, f"{c.value:g} {c.unit}", f"{c.node}, {c.voltage}", c.source, c.status)
        for name, c in model.constants()
    ]
    made_of = {
        kind: " + ".join(f"{n:g} {name}" for name, n in parts.items()) for kind, parts in model.operations.items()
    }
    rows += [(model.name, kind, parts, "", model.notes.get(kind, ""), "") for kind, parts in made_of.items()]
    if "memory" in model.notes:
        rows.append((model.name, "memory", "", "", model.notes["memory"], "derived"))
    return rows


def page_text(page: Page, kind: str) -> str:
    """A page of one table as csv, json, latex or html."""
    if kind == "html":
        return to_html(page)
    table = page.tables[0]
    if kind == "latex":
        return latex_table(table.headings, table.rows, [page.title, page.lead, *(text for text, _ in page.points)])
    if kind == "json":
        said = {
            "title": page.title,
            "lead": page.lead,
            "rows": table.data,
            "verdicts": [text for text, _ in page.points],
        }
        return json.dumps(said | {"notes": page.notes}, indent=1, ensure_ascii=False)
    stream = io.StringIO()
    writer = csv.DictWriter(stream, table.data[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.data)
    return stream.getvalue()
