"""Pages that set several reports side by side: students and dense networks, or one student at several T."""

from collections.abc import Callable
from typing import Any

from neurotool.energy.comparison import FAIR, TEACHER, TWIN, ZERO_SKIPPING, Comparison, compare
from neurotool.energy.dense import dense_counts
from neurotool.energy.figures import Point, accuracy_energy
from neurotool.energy.formats import digits, percent, si
from neurotool.energy.page import Page, Table, model_notes, notes
from neurotool.energy.priced import Priced, priced
from neurotool.energy.report import Report
from neurotool.errors import ConfigError
from neurotool.graph import Graph


def compare_page(reports: list[Report], against: dict[str, Graph]) -> Page:
    """Dense networks are counted on texts as long as the first student's, in the number format of its reports."""
    first = reports[0]
    metric = _metric(reports)
    counts = {name: dense_counts(graph, first.counts.activity) for name, graph in against.items()}
    models = [(a.counts.dataflow, a.model, a.numbers) for a in first.accounts if a.known and not a.model.spiking_only]
    if against and not models:
        raise ConfigError(f"{first.accounts[0].model.name} prices no dense network: give another --cost-model as well")
    rivals = {
        name: [priced(count.under(flow), model, numbers, "dense") for flow, model, numbers in models]
        for name, count in counts.items()
    }
    counted = ("spikes/synapse", "MACs", "SOPs", "µJ")
    headings = ("network", "cost model", "dataflow", *metric, "T", *counted, TWIN_SHARE, FAIR_SHARE, ZERO_SHARE)
    lines = [_student_line(report, i, metric) for report in reports for i in range(len(report.accounts))]
    lines += [_dense_line(name, account, metric) for name, accounts in rivals.items() for account in accounts]
    verdicts = [c for report in reports for c in _against(report, rivals, len(reports) > 1)]
    said = notes(first)
    if any(report.counts.activity.lengths != first.counts.activity.lengths for report in reports):
        said = [f"The students were measured on different texts; dense networks on those of {first.name}.", *said]
    figure = accuracy_energy({r.name: _points([r], metric) for r in reports}, "".join(metric), first.accounts[0].title)
    return Page(
        "Students and dense networks",
        f"Per inference. {'; '.join(f'{report.name}: {report.measured}' for report in reports)}.",
        [(c.verdict(), c.wins) for c in verdicts],
        [("Accuracy against energy per inference.", figure)] if figure else [],
        [_table("Side by side", lines, headings, ("network", "cost model", *metric, "µJ", TWIN_SHARE))],
        said,
    )


def sweep_page(reports: list[Report]) -> Page:
    """One student at several T, one line a T and cost model."""
    first = reports[0]
    metric = _metric(reports)
    counted = ("rate", "spikes/synapse", "SOPs", "µJ")
    shares = (TWIN_SHARE, TEACHER_SHARE, FAIR_SHARE, ZERO_SHARE)
    headings = ("cost model", "dataflow", "T", *metric, *counted, *shares)
    lines = [_student_line(report, i, metric) for i in range(len(first.accounts)) for report in reports]
    figure = accuracy_energy({first.name: _points(reports, metric)}, "".join(metric), first.accounts[0].title)
    return Page(
        f"Energy of {first.name} at several T",
        f"Per inference, on {first.measured}.",
        [],
        [("Accuracy against energy per inference, one point a T.", figure)] if figure else [],
        [
            _table(
                "Accuracy and energy",
                lines,
                headings,
                ("cost model", "T", *metric, "spikes/synapse", TWIN_SHARE, FAIR_SHARE),
            )
        ],
        model_notes(first),
    )


def _metric(reports: list[Report]) -> tuple[str, ...]:
    """The name of the first metric that is known, as a heading; () where none is."""
    return next(((name,) for report in reports for name in report.metrics), ())


TWIN_SHARE, TEACHER_SHARE = "of its twin", "of its teacher"
FAIR_SHARE, ZERO_SHARE = "int8: of the fair rival", "int8: of zero-skipping"
_TEXTS: dict[str, Callable[[Any], str]] = {
    "rate": digits,
    "spikes/synapse": digits,
    "MACs": si,
    "SOPs": si,
    "µJ": digits,
    TWIN_SHARE: percent,
    TEACHER_SHARE: percent,
    FAIR_SHARE: percent,
    ZERO_SHARE: percent,
}
"""Column -> how a reader sees its numbers; others as they are."""


def _table(caption: str, lines: list[dict[str, Any]], headings: tuple[str, ...], narrow: tuple[str, ...]) -> Table:
    rows = [tuple("" if line[h] is None else _TEXTS.get(h, _plain)(line[h]) for h in headings) for line in lines]
    return Table(caption, headings, rows, narrow=narrow, data=lines)


def _plain(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _student_line(report: Report, i: int, metric: tuple[str, ...]) -> dict[str, Any]:
    """Of a student under its i-th cost model, per inference; shares as fractions."""
    counts, account = report.counts, report.accounts[i]
    inputs, spiking = counts.activity.inputs, counts.graph.is_spiking
    return {
        "network": report.name,
        "cost model": account.model.name,
        "dataflow": account.counts.dataflow.name,
        **{name: report.metrics.get(name) for name in metric},
        "T": counts.time_steps if spiking else None,
        "rate": counts.activity.mean_rate if spiking else None,
        "spikes/synapse": counts.spikes_per_synapse if spiking else None,
        "MACs": counts.synapses / inputs,
        "SOPs": counts.synaptic_operations / inputs if spiking else None,
        "µJ": account.per_inference / 1e6 if account.known else None,
        TWIN_SHARE: _share(report, account, TWIN),
        TEACHER_SHARE: _share(report, account, TEACHER),
        FAIR_SHARE: _share(report, account, FAIR),
        ZERO_SHARE: _share(report, account, ZERO_SKIPPING),
    }


def _dense_line(name: str, account: Priced, metric: tuple[str, ...]) -> dict[str, Any]:
    counts = account.counts
    return dict.fromkeys(
        ("network", "cost model", "dataflow", *metric, "T", "rate", "spikes/synapse", "MACs", "SOPs", "µJ", TWIN_SHARE,
         TEACHER_SHARE, FAIR_SHARE, ZERO_SHARE)
    ) | {
        "network": name,
        "cost model": account.model.name,
        "dataflow": account.counts.dataflow.name,
        "MACs": counts.synapses / counts.activity.inputs,
        "µJ": account.per_inference / 1e6,
    }  # fmt: skip


def _against(report: Report, rivals: dict[str, list[Priced]], named: bool) -> list[Comparison]:
    own = {(account.model.name, account.counts.dataflow): account for account in report.accounts}
    whose = f" (as {report.name})" if named else ""
    return [
        compare(f"{name}'s energy{whose}", own[rival.model.name, rival.counts.dataflow], rival)
        for name, accounts in rivals.items()
        for rival in accounts
    ]


def _share(report: Report, account: Priced, kind: str) -> float | None:
    """Of the energy of the rival of this kind under this cost model, in the same dataflow; of the zero-skipping one and
    the fair rival in integers, of others in the numbers of the account."""
    flow, model = account.counts.dataflow, account.model
    found = [c for c in report.comparisons if (c.kind, c.spiking.model, c.dataflow) == (kind, model, flow)]
    if kind in (TWIN, TEACHER):
        found = [c for c in found if c.spiking.numbers == account.numbers]
    return found[-1].share if found else None


def _points(reports: list[Report], metric: tuple[str, ...]) -> list[Point]:
    return [
        Point(report.accounts[0].per_inference, report.metrics[name], f"T = {report.counts.time_steps}")
        for report in reports
        for name in metric
        if name in report.metrics and report.accounts[0].known
    ]
