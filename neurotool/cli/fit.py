"""Prints a fit report."""

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from neurotool.export.fit import FitReport, Total

_STYLES = {"pass": "green", "fail": "bold red", "host": "cyan", "not checked": "yellow"}


def show_fit(console: Console, report: "FitReport", layers: bool = True) -> None:
    """Rules, then use of each layer (where `layers`), then totals."""
    from neurotool.export.fit import CAVEAT, NOT_COUNTED

    chip = report.chip
    console.print(_rules(report))
    if layers:
        console.print(_layers(report))
    if report.in_time:
        console.print(f"{chip.name} ({chip.technology}): {_cores(report.copies)}, each weight once")
        console.print(
            "- tokens a second: neurotool energy latency MODEL --machine CHIP, which asks for the chip's times"
        )
    else:
        console.print(f"{chip.name} ({chip.technology}), {report.tokens} tokens")
        console.print(f"- a copy of each layer per token: {_cores(report.copies)}; {report.copies.why}")
        console.print(f"- tokens take turns in one copy: {_cores(report.turns)}; {report.turns.why}")
    if (core := report.busiest_core) is not None:
        console.print(
            f"- busiest core: {core.layer}, {core.resource} {core.used:,} of {core.limit:,} ({core.share:.0%}; "
            f"{core.source})"
        )
    console.print(f"Not counted: {'; '.join(NOT_COUNTED)}.")
    console.print(CAVEAT)
    unchecked = sum(finding.status == "not checked" for finding in report.findings)
    broken = (
        f"{len(report.broken)} of {len(report.findings)} rules are broken" if report.broken else "no rule is broken"
    )
    verdict = "FAIL" if report.broken else "PASS"
    console.print(f"{verdict}: {broken}, {unchecked} could not be checked", style=_STYLES[verdict.lower()])


def _rules(report: "FitReport") -> Table:
    table = Table(title=f"Design rules of {report.chip.name}", title_justify="left", box=box.SIMPLE, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in report.findings:
        status = Text(finding.status, _STYLES[finding.status])
        limit = f"; limit {finding.limit} ({finding.source})" if finding.limit else ""
        table.add_row(status, Text.assemble((finding.rule, "bold"), f": {finding.detail}{limit}"))
    return table


def _layers(report: "FitReport") -> Table:
    table = Table(
        title="Use of each layer" + ("" if report.in_time else ", for one token's copy"),
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 0, 0, 1),
    )
    table.add_column("layer", no_wrap=True)
    for column in ("neurons", "synapses", "kbit", "axons in", "out", "cores", "turns"):
        table.add_column(column, justify="right")
    for layer in report.layers:
        numbers = (
            layer.neurons,
            layer.synapses,
            round((layer.synapse_bits + layer.state_bits) / 1000),
            layer.input_axons,
            layer.output_axons,
            layer.cores,
        )
        in_turn = "-" if layer.cores_in_turn is None else str(layer.cores_in_turn)
        table.add_row(layer.name, *(str(number) for number in numbers), in_turn)
    return table


def _cores(total: "Total") -> str:
    return "not possible" if total.cores is None else f"{total.cores:,} cores, {total.chips:,} chip(s)"
