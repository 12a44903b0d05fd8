"""A report as JSON, CSV or LaTeX, and numbers for readers. Counts are whole numbers over all inputs; energies picojoule
over all inputs, or per inference where they say so."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from neurotool.energy.comparison import Comparison
from neurotool.energy.comparison import percent as percent
from neurotool.energy.costs import GRAIN
from neurotool.energy.counts import NodeCount
from neurotool.energy.operations import OPERATIONS, Operations
from neurotool.energy.priced import Priced
from neurotool.energy.report import Published, Report, Row, rows, total_row


def si(value: float | None) -> str:
    """Three digits and a prefix: 3.76 M."""
    if value is None:
        return ""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g}"


def digits(value: float | None) -> str:
    """Three digits, thousands apart, and no exponent for large numbers."""
    return "" if value is None else f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"


def microjoule(value: float | None) -> str:
    """From pJ; of what has no price, None, nothing is known."""
    return "not priced" if value is None else digits(value / 1e6)


def joule(value: float | None) -> str:
    """From pJ, with its unit: mJ where it is mJ."""
    if value is None:
        return "not priced"
    for power, unit in ((9, "mJ"), (6, "µJ"), (3, "nJ")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{digits(value / 10**power)}\u00a0{unit}"
    return f"{digits(value)}\u00a0pJ"


def duration(value: float | None) -> str:
    """From ns, with its unit."""
    if value is None:
        return "not known"
    for power, unit in ((9, "s"), (6, "ms"), (3, "µs")):
        if value >= 0.9995 * 10**power:
            return f"{digits(value / 10**power)}\u00a0{unit}"
    return f"{digits(value)}\u00a0ns"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("MACs", lambda row: si(row.macs or None)),
    ("spikes in", lambda row: si(row.spikes_in or None)),
    ("rate", lambda row: digits(row.rate)),
    ("spikes/synapse", lambda row: digits(row.spikes_per_synapse)),
    ("density", lambda row: digits(row.density)),
    ("SOPs", lambda row: si(row.synaptic_operations or None)),
    ("updates", lambda row: si(row.per_inference("updates") or None)),
    ("other", lambda row: si(row.per_inference("arithmetic") or None)),
    ("ANN µJ", lambda row: microjoule(row.dense)),
    ("SNN µJ", lambda row: microjoule(row.spiking)),
    ("SNN/ANN", lambda row: digits(row.ratio)),
)
"""Heading and cell of a table of rows. density: share of activations that are not 0. other: arithmetic that is neither
synaptic nor a neuron update."""


def columns(account: Priced, rival: Priced | None) -> tuple[tuple[str, Callable[[Row], str]], ...]:
    """Of a table of rows: all COLUMNS, or those that a network without spikes has; the modes of a hybrid."""
    if not account.counts.graph.is_spiking:
        return tuple(("µJ" if heading == "SNN µJ" else heading, cell) for heading, cell in COLUMNS if heading in _DENSE)
    shown = tuple(column for column in COLUMNS if rival is not None or column[0] not in ("ANN µJ", "SNN/ANN"))
    return (("mode", lambda row: row.mode), *shown) if account.modes else shown


_DENSE = ("MACs", "SNN µJ")


def layer_cells(
    account: Priced, rival: Priced | None, each: bool = True
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Headings and rows of the table of layers, the total last."""
    shown = columns(account, rival)
    lines = [*rows(account, rival, each), total_row(account, rival)]
    return ("layer", *(heading for heading, _ in shown)), [
        (row.name, *(cell(row) for _, cell in shown)) for row in lines
    ]


def to_json(report: Report) -> str:
    return json.dumps(as_dict(report), indent=1, ensure_ascii=False)


def as_dict(report: Report) -> dict[str, Any]:
    counts, activity = report.counts, report.counts.activity
    return {
        "name": report.name,
        "measured": report.measured,
        "provenance": report.provenance,
        "verdict": None if report.headline is None else report.headline.verdict(),
        "time_steps": counts.time_steps,
        "schedule": counts.graph.schedule,
        "inputs": activity.inputs,
        "tokens": activity.tokens,
        "padding_left_out": {
            "tokens": activity.padding,
            "spikes": sum(layer.padding_spikes for layer in activity.layers.values()),
        },
        "metrics": report.metrics,
        "teacher_metrics": report.teacher_metrics,
        "macs": counts.synapses,
        "synaptic_operations": counts.synaptic_operations,
        "spikes_per_synapse": counts.spikes_per_synapse,
        "density": counts.density,
        "nodes": [_node(report, i, node) for i, node in enumerate(counts.nodes)],
        "accounts": [_account(account) for account in report.all_accounts],
        "comparisons": [comparison_dict(comparison) for comparison in report.comparisons],
        "published_formula": None if report.published is None else _published(report.published),
        "not_counted": report.not_counted,
    }


def _node(report: Report, i: int, node: NodeCount) -> dict[str, Any]:
    return {
        "name": node.name,
        "kind": node.kind,
        "macs": node.synapses,
        "rate": node.rate,
        "spikes_per_synapse": node.spikes_per_synapse,
        "density": node.density,
        "synaptic_operations": node.synaptic_operations,
        "elements": {port: asdict(elements) for port, elements in node.elements.items()},
        **{network: nonzero(work.total) for network, work in node.work.items() if network != "dense mode"},
        "picojoule": {
            account.label: account.rows[i].total if account.known and account.rows[i].known else None
            for account in report.all_accounts
        },
    }


def exact_picojoule(account: Priced) -> str:
    """All digits of an account's energy over all inputs."""
    return f"{Decimal(account.total.total_grains) / GRAIN:f}"


def nonzero(operations: Operations) -> dict[str, int]:
    return {name: count for name, count in asdict(operations).items() if count}


def _account(account: Priced) -> dict[str, Any]:
    """schedule: of a hybrid, the mode of each node that reads spikes."""
    nodes = account.counts.nodes
    schedule = {node.name: mode for node, mode in zip(nodes, account.modes, strict=False) if node.arrived.events}
    return {
        "label": account.label,
        "model": account.model.name,
        "numbers": account.numbers.name,
        "network": "hybrid" if account.modes else "dense twin" if account.network == "dense" else account.network,
        "dataflow": asdict(account.counts.dataflow),
        "picojoule_per_inference": account.per_inference if account.known else None,
        "picojoule": exact_picojoule(account) if account.known else None,
        "picojoule_by_operation": account.total.by_kind,
        "operations": nonzero(sum((account.operations(i) for i in range(len(nodes))), Operations())),
        "constants": {name: asdict(constant) for name, constant in account.numbers.constants.items()},
        "bits": account.numbers.bits,
        "leaves_out": account.model.leaves_out,
        **({"schedule": schedule} if account.modes else {}),
    }


def _published(published: Published) -> dict[str, Any]:
    return {name: getattr(published, name) for name in ("operations", "macs", "energy")}


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    return {
        "rival": comparison.rival,
        "kind": comparison.kind,
        "model": comparison.title,
        "dataflow": comparison.dataflow_in_words,
        "matched": comparison.matched,
        "spiking": comparison.spiking.label,
        "dense": comparison.rival_label,
        "spiking_picojoule": comparison.spiking.per_inference,
        "rival_picojoule": comparison.dense.per_inference,
        "share": comparison.share,
        "share_at_widest_potentials": comparison.widest_share,
        "break_even_spikes_per_synapse": _finite(comparison.break_even),
        "break_even_rate": _finite(comparison.break_even_rate),
        "wins_below_break_even": comparison.wins_below,
        "verdict": comparison.verdict(),
    }


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def to_csv(report: Report) -> str:
    """One line a node: exact counts over all inputs, and pJ over all inputs under every account."""
    accounts = report.all_accounts
    energies = [f"pJ {account.label}" for account in accounts]
    header = ["node", "kind", "macs", "zero", "binary", "ternary", "graded", "rate", "spikes_per_synapse", "density"]
    header += ["synaptic_operations", *(f"{twin}_{name}" for twin in ("spiking", "dense") for name in OPERATIONS)]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*header, *energies])
    for i, node in enumerate(report.counts.nodes):
        elements = [sum(getattr(e, c) for e in node.elements.values()) for c in ("zero", "binary", "ternary", "graded")]
        operations = [getattr(twin, name) for twin in (node.spiking, node.dense) for name in OPERATIONS]
        prices = [account.rows[i].total if account.known and account.rows[i].known else "" for account in accounts]
        known = (node.rate, node.spikes_per_synapse, node.density, node.synaptic_operations)
        writer.writerow([node.name, node.kind, node.synapses, *elements, *known, *operations, *prices])
    return stream.getvalue()


def to_latex(report: Report) -> str:
    """The first account's rows, per inference."""
    headings, cells = layer_cells(report.accounts[0], report.twins[0] if report.twins else None)
    above = [f"neurotool energy report {report.name}: {report.measured}; {report.accounts[0].title}"]
    return latex_table(headings, cells, above + [comparison.verdict() for comparison in report.comparisons])


def latex_table(headings: tuple[str, ...], cells: Sequence[tuple[str, ...]], comments: list[str]) -> str:
    """For \\usepackage{booktabs}."""
    lines = [f"% {comment}" for comment in comments]
    lines += [r"\begin{tabular}{l" + "r" * (len(headings) - 1) + "}", r"\toprule", _tex_line(headings), r"\midrule"]
    lines += [_tex_line(row) for row in cells]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex_line(cells: tuple[str, ...]) -> str:
    return " & ".join(_tex(cell) for cell in cells) + r" \\"


def _tex(text: str) -> str:
    for plain, escaped in (("_", r"\_"), ("µ", r"$\mu$"), ("×", r"$\times$"), ("%", r"\%")):
        text = text.replace(plain, escaped)
    return text
