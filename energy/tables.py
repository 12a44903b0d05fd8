"""Pages that set several reports side by side: students and dense networks, or one student at several T."""

from neurotool.energy.dense import dense_counts
from neurotool.energy.figures import Point, accuracy_energy
from neurotool.energy.formats import digits, microjoule, percent, si
from neurotool.energy.page import Page, Table, notes
from neurotool.energy.report import FAIR, TEACHER, TWIN, Comparison, Priced, Report, compare, priced
from neurotool.graph import Graph


def compare_page(reports: list[Report], against: dict[str, Graph]) -> Page:
    """Dense networks are counted on texts as long as the first student's, in the number format of its reports."""
    first = reports[0]
    metric = _metric(reports)
    counts = {name: dense_counts(graph, first.counts.activity) for name, graph in against.items()}
    models = [(a.model, a.numbers) for a in first.accounts if not a.model.spiking_only]
    rivals = {name: [priced(count, *model, dense=True) for model in models] for name, count in counts.items()}
    headings = ("network", "cost model", *metric, "T", "spikes/synapse", "MACs", "SOPs", "µJ", "of its twin")
    lines = [line for report in reports for line in _student_rows(report, metric)]
    lines += [_dense_row(name, account, len(metric)) for name, accounts in rivals.items() for account in accounts]
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
        [Table("Side by side", headings, lines)],
        said,
    )


def sweep_page(reports: list[Report]) -> Page:
    """One student at several T, one line a T and cost model."""
    first = reports[0]
    metric = _metric(reports)
    counted = ("rate", "spikes/synapse", "SOPs", "µJ")
    headings = ("cost model", "T", *metric, *counted, "of its twin", "of its teacher", "int8: of the fair rival")
    lines = []
    for i, account in enumerate(first.accounts):
        for report in reports:
            counts = report.counts
            cells = [account.model.name, str(counts.activity.time_steps), *_values(report, metric)]
            cells += [digits(counts.activity.mean_rate), digits(counts.spikes_per_synapse)]
            cells += [si(counts.total().accumulates / counts.activity.inputs)]
            cells += [microjoule(report.accounts[i].per_inference)]
            cells += [_share(report, account, kind) for kind in (TWIN, TEACHER, FAIR)]
            lines.append(tuple(cells))
    figure = accuracy_energy({first.name: _points(reports, metric)}, "".join(metric), first.accounts[0].title)
    return Page(
        f"Energy of {first.name} at several T",
        f"Per inference, on {first.measured}.",
        [],
        [("Accuracy against energy per inference, one point a T.", figure)] if figure else [],
        [Table("Accuracy and energy", headings, lines)],
        [f"{account.model.name} leaves out: {'; '.join(account.model.leaves_out)}." for account in first.accounts],
    )


def _metric(reports: list[Report]) -> tuple[str, ...]:
    """The name of the first metric that is known, as a heading; () where none is."""
    return next(((name,) for report in reports for name in report.metrics), ())


def _values(report: Report, metric: tuple[str, ...]) -> list[str]:
    return [f"{report.metrics[name]:.4f}" if name in report.metrics else "" for name in metric]


def _student_rows(report: Report, metric: tuple[str, ...]) -> list[tuple[str, ...]]:
    counts, inputs = report.counts, report.counts.activity.inputs
    shared = (
        *_values(report, metric),
        str(counts.activity.time_steps),
        digits(counts.spikes_per_synapse),
        si(counts.synapses / inputs),
        si(counts.total().accumulates / inputs),
    )
    return [
        (report.name, a.model.name, *shared, microjoule(a.per_inference), _share(report, a, TWIN))
        for a in report.accounts
    ]


def _dense_row(name: str, account: Priced, metrics: int) -> tuple[str, ...]:
    macs = si(account.counts.synapses / account.counts.activity.inputs)
    return (name, account.model.name, *[""] * metrics, "", "", macs, "", microjoule(account.per_inference), "")


def _against(report: Report, rivals: dict[str, list[Priced]], named: bool) -> list[Comparison]:
    own = {account.model.name: account for account in report.accounts}
    return [
        compare(f"{name}'s energy{f' (as {report.name})' if named else ''}", own[rival.model.name], rival)
        for name, accounts in rivals.items()
        for rival in accounts
    ]


def _share(report: Report, account: Priced, kind: str) -> str:
    """Of the rival of this kind under this cost model."""
    found = [c for c in report.comparisons if c.kind == kind and c.spiking.model == account.model]
    return percent(found[0].share) if found else ""


def _points(reports: list[Report], metric: tuple[str, ...]) -> list[Point]:
    return [
        Point(report.accounts[0].per_inference, report.metrics[name], f"T = {report.counts.activity.time_steps}")
        for report in reports
        for name in metric
        if name in report.metrics
    ]
