"""The whole account line by line: every count times its price, the rule that made it and the source of the price."""

import csv
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from neurotool.energy.costs import ACCESSES, CostModel, NumberFormat
from neurotool.energy.formats import nonzero
from neurotool.energy.operations import Operations
from neurotool.energy.priced import Priced
from neurotool.energy.report import Report
from neurotool.energy.rules import rule_in_words
from neurotool.energy.setting import SKIPPING

COLUMNS = (
    "account", "cost_model", "numbers", "side", "dataflow", "node", "kind", "mode", "rule", "operation", "count",
    "pJ_each", "pJ", "source",
)  # fmt: skip


def audit_csv(report: Report) -> str:
    """One line an operation, node and account, over all inputs. The pJ of an account's lines add up, as decimals, to
    `picojoule` of the same account in the JSON report; an operation without a price has neither."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, account, side in _accounts(report):
        writer.writerows(_lines(name, account, side))
    return stream.getvalue()


def _accounts(report: Report) -> Iterator[tuple[str, Priced, str]]:
    """Each once, with its name and whose it is."""
    own = {account.label: account for account in report.all_accounts}
    for account in own.values():
        side = "hybrid" if account.modes else account.network
        twin = not account.modes and account.network in ("dense", *SKIPPING)
        yield account.label, account, f"{side} twin" if twin else side
    for pair in report.comparisons:
        if pair.dense.counts.graph is not report.counts.graph:
            yield pair.rival_label, pair.dense, pair.rival


def _lines(name: str, account: Priced, side: str) -> Iterator[dict[str, Any]]:
    counts, flow = account.counts, account.counts.dataflow
    about = {
        "account": name,
        "cost_model": account.model.name,
        "numbers": account.numbers.name,
        "side": side,
        "dataflow": flow.name + (", each weight read once a text" if flow.reuse else ""),
    }
    for i, node in enumerate(counts.nodes):
        mode = account.modes[i] if account.modes else ""
        rule = rule_in_words(node.name, counts.graph.nodes[node.name])
        numbers = account.dense.numbers if mode == "dense" and account.dense is not None else account.numbers
        said = about | {"node": node.name, "kind": node.kind, "mode": mode}
        yield from _priced(said | {"rule": rule}, account.operations(i), account.prices(i), account.model, numbers)
        if mode == "dense":
            border = {"rule": "counting spikes for a dense unit"}
            yield from _priced(said | border, account.conversions[i], account.prices(i), account.model, numbers)


def _priced(
    said: dict[str, Any], operations: Operations, prices: dict[str, float], model: CostModel, numbers: NumberFormat
) -> Iterator[dict[str, Any]]:
    for kind, count in nonzero(operations).items():
        why = "left out of this model" if kind in model.out_of_scope else "not priced"
        line = said | {"operation": kind, "count": count, "pJ_each": "", "pJ": "", "source": why}
        if kind in prices:
            each = Decimal(repr(round(prices[kind], 9)))
            line |= {"pJ_each": f"{each:f}", "pJ": f"{each * count:f}", "source": _source(kind, model, numbers)}
        yield line


def _source(kind: str, model: CostModel, numbers: NumberFormat) -> str:
    if model.memory is not None and kind in ACCESSES:
        constants = [model.memory.address_add] if kind == "addresses" else [each for _, each in model.memory.sram]
        return "; ".join(dict.fromkeys(constant.source for constant in constants))
    parts = model.operations[kind]
    made = " + ".join(f"{n:g} {name}" for name, n in parts.items())
    sources = "; ".join(dict.fromkeys(numbers.constants[name].source for name in parts))
    note = f" ({model.notes[kind]})" if kind in model.notes else ""
    return f"{made}{note}: {sources}"
