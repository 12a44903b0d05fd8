"""A report as JSON, CSV or LaTeX. Counts are whole numbers over all inputs; energies picojoule or µJ per inference."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from neurotool.energy.counts import NodeCount
from neurotool.energy.operations import OPERATIONS, Operations
from neurotool.energy.report import Comparison, Priced, Published, Report, Row, rows


def si(value: float | None) -> str:
    """Three digits and a prefix: 3.76 M."""
    if value is None:
        return ""
    for power, prefix in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g}"


def digits(value: float | None) -> str:
    """Three digits, and no exponent for large numbers."""
    return "" if value is None else f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def microjoule(value: float | None) -> str:
    """From pJ."""
    return "" if value is None else digits(value / 1e6)


def percent(share: float) -> str:
    return f"{digits(100 * share)} %"


COLUMNS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("MACs", lambda row: si(row.macs or None)),
    ("spikes in", lambda row: si(row.spikes_in or None)),
    ("rate", lambda row: digits(row.rate)),
    ("spikes/synapse", lambda row: digits(row.spikes_per_synapse)),
    ("SOPs", lambda row: si(row.per_inference("accumulates") or None)),
    ("updates", lambda row: si(row.per_inference("updates") or None)),
    ("other", lambda row: si(row.per_inference("arithmetic") or None)),
    ("ANN µJ", lambda row: microjoule(row.dense)),
    ("SNN µJ", lambda row: microjoule(row.spiking)),
    ("SNN/ANN", lambda row: digits(row.ratio)),
)
"""Heading and cell of a table of rows. other: arithmetic that is neither synaptic nor a neuron update."""


def columns(report: Report) -> tuple[tuple[str, Callable[[Row], str]], ...]:
    """Of its table of rows: all COLUMNS, or those that a network without spikes has."""
    if report.counts.graph.is_spiking:
        return COLUMNS
    return tuple(("µJ" if heading == "SNN µJ" else heading, cell) for heading, cell in COLUMNS if heading in _DENSE)


_DENSE = ("MACs", "SNN µJ")


def total_row(report: Report, account: int = 0) -> Row:
    inputs = report.counts.activity.inputs
    dense = report.twins[account].per_inference if account < len(report.twins) else None
    spiking = report.accounts[account].per_inference if report.accounts[account].known else None
    return Row("total", report.counts.nodes, spiking, dense, inputs)


def to_json(report: Report) -> str:
    return json.dumps(as_dict(report), indent=1, ensure_ascii=False)


def as_dict(report: Report) -> dict[str, Any]:
    counts, activity = report.counts, report.counts.activity
    return {
        "name": report.name,
        "measured": report.measured,
        "time_steps": activity.time_steps,
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
        "synaptic_operations": counts.total().accumulates,
        "spikes_per_synapse": counts.spikes_per_synapse,
        "nodes": [_node(report, i, node) for i, node in enumerate(counts.nodes)],
        "accounts": [_account(account) for account in (*report.accounts, *report.twins)],
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
        "elements": {port: asdict(elements) for port, elements in node.elements.items()},
        "spiking": nonzero(node.spiking),
        "dense": nonzero(node.dense),
        "picojoule": {
            f"{account.model.name} {account.numbers.name} {'dense' if account.dense else 'spiking'}": account.rows[
                i
            ].total
            for account in (*report.accounts, *report.twins)
        },
    }


def nonzero(operations: Operations) -> dict[str, int]:
    return {name: count for name, count in asdict(operations).items() if count}


def _account(account: Priced) -> dict[str, Any]:
    return {
        "model": account.model.name,
        "numbers": account.numbers.name,
        "network": "dense twin" if account.dense else "spiking",
        "picojoule_per_inference": account.per_inference if account.known else None,
        "picojoule_by_operation": account.total.by_kind,
        "constants": {name: asdict(constant) for name, constant in account.numbers.constants.items()},
        "leaves_out": account.model.leaves_out,
    }


def _published(published: Published) -> dict[str, Any]:
    return {name: getattr(published, name) for name in ("operations", "macs", "energy")}


def comparison_dict(comparison: Comparison) -> dict[str, Any]:
    return {
        "rival": comparison.rival,
        "kind": comparison.kind,
        "model": comparison.title,
        "spiking_picojoule": comparison.spiking.per_inference,
        "rival_picojoule": comparison.dense.per_inference,
        "share": comparison.share,
        "break_even_spikes_per_synapse": _finite(comparison.break_even),
        "break_even_rate": _finite(comparison.break_even_rate),
        "verdict": comparison.verdict(),
    }


def _finite(value: float) -> float | None:
    """JSON knows no infinity."""
    return value if math.isfinite(value) else None


def to_csv(report: Report) -> str:
    """One line a node: exact counts over all inputs, and pJ over all inputs under every account."""
    accounts = (*report.accounts, *report.twins)
    energies = [f"pJ {a.model.name} {a.numbers.name} {'dense' if a.dense else 'spiking'}" for a in accounts]
    header = ["node", "kind", "macs", "zero", "binary", "ternary", "graded", "rate", "spikes_per_synapse"]
    header += [f"{twin}_{name}" for twin in ("spiking", "dense") for name in OPERATIONS]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*header, *energies])
    for i, node in enumerate(report.counts.nodes):
        elements = [sum(getattr(e, c) for e in node.elements.values()) for c in ("zero", "binary", "ternary", "graded")]
        operations = [getattr(twin, name) for twin in (node.spiking, node.dense) for name in OPERATIONS]
        prices = [account.rows[i].total for account in accounts]
        writer.writerow(
            [node.name, node.kind, node.synapses, *elements, node.rate, node.spikes_per_synapse, *operations, *prices]
        )
    return stream.getvalue()


def to_latex(report: Report) -> str:
    """The first account's rows, per inference."""
    headings = ("layer", *(heading for heading, _ in columns(report)))
    cells = [(row.name, *(cell(row) for _, cell in columns(report))) for row in [*rows(report), total_row(report)]]
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
