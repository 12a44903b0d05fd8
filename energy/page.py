"""Tables and pages: what the energy commands show, as CSV, JSON, LaTeX or one self-contained HTML file."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader

from neurotool.energy.comparison import FAIR, TEACHER, TWIN, ZERO_SKIPPING
from neurotool.energy.costs import Constant
from neurotool.energy.events import spiking_sources
from neurotool.energy.figures import Point, accuracy_energy, heat_map
from neurotool.energy.formats import digits, joule, latex_table, microjoule, nonzero, si
from neurotool.energy.latency import Load, parts_by_weights, phases
from neurotool.energy.panels import GROUPS, Panel, Table, groups, layer_table, leading, pair_tables, panels
from neurotool.energy.priced import Priced
from neurotool.energy.report import Report
from neurotool.graph import Add
from neurotool.streams import taken_in_time

BEYOND = "Time, static power, transport between cores and weights off the chip"


@dataclass(frozen=True)
class Page:
    """headline: the verdict, first of all. points: (sentence, whether it is good news for the spiking network);
    figures: (caption, SVG); panels: what a switch chooses from, on a page; provenance: lines of name and value."""

    title: str
    lead: str
    points: list[tuple[str, bool]] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    headline: tuple[str, bool] | None = None
    same_function: str = ""
    panels: list[Panel] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def groups(self) -> list[str]:
        """Of operations, in the order of their colours."""
        return list(GROUPS)


def to_html(page: Page) -> str:
    """One file: styles and figures within, no script, nothing fetched."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    environment.filters["whole"] = _whole
    environment.filters["breakable"] = lambda name: re.sub(r"([._/])(?=\w)", "\\1\u200b", name)
    return environment.get_template("page.html.j2").render(page=page)


def _whole(text: str) -> str:
    """With numbers that no line end parts from their unit."""
    return re.sub(r"(?<=\d) (?=%|[kMGT]\b|pJ|nJ|µJ|mJ)", "\u00a0", text) if text else text


def report_page(report: Report, figures: bool = True, each: bool = True) -> Page:
    """For a terminal, or with figures and panels for a browser; drawing takes a second or two. each: layers one by
    one, not by kind."""
    counts, activity = report.counts, report.counts.activity
    macs, head = si(counts.synapses / activity.inputs), report.headline
    if counts.graph.is_spiking:
        density = "" if counts.density is None else f", {100 * counts.density:.3g} % of MACs with an activation"
        lead = (
            f"{report.measured}. T = {counts.time_steps}, {counts.graph.schedule} schedule. Per inference "
            f"{si(counts.synaptic_operations / activity.inputs)} synaptic operations for {macs} MACs of the dense "
            f"twin: {counts.spikes_per_synapse:.3g} spikes per synapse{density}.{_metrics(report)}"
        )
    else:
        lead = f"{report.measured}. A dense network without neurons: {macs} MACs per inference.{_metrics(report)}"
    drawings = {
        "Accuracy against energy per inference; a rival whose accuracy was not measured is a line.": _accuracy,
        "Spikes per synapse over layers and tokens; bright is dear.": heat_map,
    }
    drawn = [(caption, draw(report)) for caption, draw in drawings.items() if figures]
    by_group = groups(report)
    points = [(pair.verdict(), pair.wins) for pair in map(leading, by_group) if pair is not head]
    first = [(head.headline() if figures else head.verdict(), head.wins)] if head else []
    twin = report.twins[0] if report.twins else None
    tables = [] if figures and by_group else [layer_table(report.accounts[0], twin, each)]
    if not figures:
        tables += [table for group in by_group for table in pair_tables(group)]
    return Page(
        title=f"Energy of {report.name}",
        lead=lead,
        points=points if figures else first + points,
        figures=[(caption, svg) for caption, svg in drawn if svg],
        tables=[*tables, *_alone(report), *_cores(report), *(_traces(report) if figures else []), _constants(report)],
        notes=notes(report),
        headline=first[0] if first else None,
        same_function=_same_function(report),
        panels=panels(report) if figures else [],
        provenance=report.provenance,
    )


def _same_function(report: Report) -> str:
    """What the zero-skipping rival is, and what is left between it and the spiking network."""
    counts = report.counts
    if not counts.graph.is_spiking:
        return ""
    if counts.graph.schedule != "phased":
        return (
            "The zero-skipping rival multiplies the activations that spiked at all: not the same function, as a "
            "concurrent network also computes with when spikes come."
        )
    skipping = sum(node.work["zero-skipping"].driven.macs for node in counts.nodes if "zero-skipping" in node.work)
    mean = f"{counts.synaptic_operations / skipping:.3g} adds" if skipping else "adds"
    return (
        "A phased student computes the same function as the zero-skipping network, to the last bit: what is left "
        f"between them is {mean} in place of one product of few bits and one add, and the neuron updates."
    )


def notes(report: Report) -> list[str]:
    """What else a reader must know: the formula of the literature, padding, what is not counted or left out."""
    activity = report.counts.activity
    lines = [f"Without batched, graded and output-stationary dataflow: {reason}." for reason in report.missing]
    lines += _of_a_token(report) if taken_in_time(report.counts.graph) else []
    if report.published is not None and report.counts.synaptic_operations:
        exact = report.counts.synaptic_operations
        distance = 100 * (report.published.operations / exact - 1)
        energy = 100 * (report.published.energy / report.published.account.total.total - 1)
        left = report.published.leaves_out
        also = f", which has {', '.join(left)} too" if left else ""
        lines.append(
            f"Published formula (rate × T × MACs): {si(report.published.operations / activity.inputs)} synaptic "
            f"operations, {distance:+.2g} % from the exact count; "
            f"{microjoule(report.published.energy / activity.inputs)} µJ, {energy:+.2g} % from the account of "
            f"{report.published.account.model.name}{also}."
        )
    padded = activity.tokens + activity.padding
    spikes = sum(layer.padding_spikes for layer in activity.layers.values())
    if activity.padding:
        share = 100 * activity.padding / padded
        lines.append(
            f"Padding is left out: {activity.padding:,} of {padded:,} tokens ({share:.2g} %)"
            + (f", with {si(spikes)} spikes." if activity.layers else ".")
        )
    lines += _conventions(report)
    missing = report.not_counted
    lines.append(f"Not counted: {'; '.join(missing) if missing else 'nothing that occurs in the network'}.")
    lines += model_notes(report)
    lines.append(f"{BEYOND} are in no figure here: `neurotool energy latency` has them, each by itself.")
    return lines


def _of_a_token(report: Report) -> list[str]:
    """On the average, of a network whose tokens come one after the other."""
    counts, tokens = report.counts, report.counts.activity.tokens
    of_a_text = tokens / counts.activity.inputs
    energies = [f"{a.title} {joule(a.per_inference / of_a_text)}" for a in report.accounts if a.known]
    return [
        f"A token, of {of_a_text:.3g} in a text: {si(counts.synaptic_operations / tokens)} synaptic operations"
        + "".join(f"; {energy}" for energy in energies)
        + "."
    ]


def _conventions(report: Report) -> list[str]:
    """How spikes are counted where there is more than one way to."""
    counts, said = report.counts, []
    both = [node.name for node in counts.nodes if node.kind == "MatMul" and node.elements and all(
        elements.spikes for elements in node.elements.values())]  # fmt: skip
    if both:
        said.append(
            f"Products of which both operands spike ({both[0]}{', …' if both[1:] else ''}) are counted per spike of "
            "the operand that causes fewer accumulates, not per coincidence of two spikes, of which there are fewer."
        )
    sources = spiking_sources(counts.graph)
    if any(isinstance(node, Add) and sources[name] for name, node in counts.graph.nodes.items()):
        said.append(
            "A residual stream of spikes is counted spike by spike, as each layer sent them: events of one neuron and "
            "step that a chip could merge into a graded one stay apart."
        )
    return said


def model_notes(report: Report) -> list[str]:
    """What the cost models leave out, and for how long a text their memories are sized."""
    held = "one input"
    if report.counts.graph.has_tokens:
        held = (
            f"the longest text, {max(report.counts.activity.lengths)} tokens; those of sums and potentials one token "
            "where the node works token by token, and all of them at the upper end of a range"
        )
    return [
        f"{a.model.name} leaves out: {'; '.join(a.model.leaves_out)}."
        + (f" Its memories of activations hold {held}." if a.model.memory else "")
        for a in {account.model.name: account for account in report.accounts}.values()
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
    """The student and its rivals under the leading pair of each group in integers, else of the first."""
    metric = next(iter(report.metrics), None)
    head = report.headline
    if metric is None or head is None:
        return ""
    value = report.metrics[metric]
    steps = f"T = {report.counts.time_steps}"
    curves = {"spiking student": [Point(head.spiking.per_inference, value, steps)]}
    lines: dict[str, float] = {}
    beside = [pair for pair in report.comparisons if pair.spiking.label == head.spiking.label and pair.matched]
    for pair in beside:
        if pair.kind == ZERO_SKIPPING and report.counts.graph.schedule == "phased":
            curves["zero-skipping, the same function"] = [Point(pair.dense.per_inference, value, "")]
        elif pair.kind == TEACHER and metric in report.teacher_metrics:
            curves["teacher"] = [Point(pair.dense.per_inference, report.teacher_metrics[metric], "")]
        elif pair.kind in (FAIR, TWIN):
            lines["fair rival" if pair.kind == FAIR else "dense twin"] = pair.dense.per_inference
    return accuracy_energy(curves, metric, head.spiking.title, lines)


def _alone(report: Report) -> list[Table]:
    """Energies of models that have no rival."""
    models = {pair.spiking.model.name for pair in report.comparisons}
    cells = [
        (a.title, joule(a.per_inference) if a.known else "not published")
        for a in report.accounts
        if a.model.name not in models
    ]
    return [Table("Energy per inference, without a rival", ("cost model", "energy"), cells)] if cells else []


def _cores(report: Report) -> list[Table]:
    """Where the prices are those of a chip, what its busiest core has to do."""
    if not any(account.model.spiking_only for account in report.accounts):
        return []
    counts = report.counts
    steps = counts.activity.tokens * counts.activity.steps / counts.activity.inputs
    parts = {part.name: part for part in parts_by_weights(counts.graph)}
    loads: dict[str, Load] = {}
    for phase in phases(counts, list(parts.values())):
        for name, load in phase.loads.items():
            loads[name] = loads.get(name, Load()) + load.times(1 / steps)
    if not loads:
        return []
    busiest = max(loads, key=lambda name: loads[name].synaptic_operation)
    cells = [
        (
            name + (" (busiest)" if name == busiest else ""),
            str(parts[name].cores),
            digits(load.synaptic_operation),
            digits(load.neuron_update),
        )
        for name, load in loads.items()
    ]
    total = sum(parts[name].cores for name in loads)
    caption = f"Cores of 8-bit weights ({total} in all) and their load per core and time step, one token a step"
    return [Table(caption, ("synapses", "cores", "synaptic operations", "neuron updates"), cells)]


def _traces(report: Report) -> list[Table]:
    """Every energy of every node as count × price, of each panel's own pair."""
    shown = {a.label: a for pair in map(leading, groups(report)) for a in (pair.spiking, pair.dense)}
    return [_trace(account) for account in (shown or {a.label: a for a in report.accounts}).values()]


def _trace(account: Priced) -> Table:
    made = []
    inputs = account.counts.activity.inputs
    for i, (node, energy) in enumerate(zip(account.counts.nodes, account.rows, strict=True)):
        prices = account.prices(i)
        for kind, count in nonzero(account.operations(i)).items():
            price = f"{prices[kind]:.4g}" if kind in prices else ""
            known = energy.by_kind.get(kind, 0.0) / inputs if kind in prices else None
            made.append((node.name, kind, f"{count:,}", price, microjoule(known)))
    caption = f"How the energy is made: {account.label}; counts over all {inputs} inputs"
    return Table(caption, ("node", "operation", "count", "pJ each", "µJ per inference"), made, folded=True)


def _constants(report: Report) -> Table:
    made: dict[tuple[str, ...], None] = {}
    for account in report.all_accounts:
        for row in _constants_of(account):
            made[row] = None
    headings = ("model", "constant", "value", "technology", "source", "status")
    return Table("Constants and their sources", headings, list(made), folded=True, kind="text")


def _constant_row(model: str, name: str, c: Constant) -> tuple[str, ...]:
    return model, name, f"{c.value:g} {c.unit}", f"{c.node}, {c.voltage}", c.source, c.status


def _constants_of(account: Priced) -> Sequence[tuple[str, ...]]:
    model = account.model
    rows = [_constant_row(model.name, name, constant) for name, constant in model.constants()]
    if account.numbers.name not in model.formats:  # made for a rival
        name = account.numbers.name
        rows += [_constant_row(model.name, f"{name} {part}", c) for part, c in account.numbers.constants.items()]
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
