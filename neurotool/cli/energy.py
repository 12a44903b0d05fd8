"""`neurotool energy report|audit|compare|sweep|latency`."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import rich.table
from rich.console import Console

from neurotool import terminal
from neurotool.cli.numbers import SAMPLES, TIME_STEPS_LIST
from neurotool.cli.options import (
    PATH,
    check_result,
    executor_option,
    input_options,
    layers_option,
    open_file,
    opening_options,
    time_steps_option,
    tokenizer_option,
    with_options,
)
from neurotool.cli.printing import shown_progress
from neurotool.errors import ConfigError, NeurotoolError
from neurotool.files import write_bytes

if TYPE_CHECKING:
    from neurotool.api.model import Model
    from neurotool.energy.costs import CostModel
    from neurotool.energy.dataflow import Dataflow
    from neurotool.energy.page import Page, Table
    from neurotool.energy.report import Report

Command = TypeVar("Command", bound=Callable[..., Any])
WIDE = 132  # columns that every table needs
FORMATS = {".json": "json", ".csv": "csv", ".html": "html", ".tex": "latex"}
NUMBERS = click.Choice(["fp32", "fp16", "int8"])
PRICING = (
    "cost_models", "numbers", "data", "samples", "skip_zero", "executor", "given", "output_format", "as_json", "output",
    "dataflow", "hybrid", "force",
)  # fmt: skip


class NotCountedError(NeurotoolError):
    """--strict, and something in the network is in no total."""

    exit_code = 1


@click.group(epilog="Example: neurotool energy report model.ckpt")
def energy() -> None:
    """Count operations and energy, beside dense networks."""


def _dataflow_options(command: Command) -> Command:
    flows = "spike, batched, graded or output-stationary; commas between.  [default: all that differ]"
    options = (
        click.option("--dataflow", help=flows),
        click.option("--hybrid", is_flag=True, help="Each synapse in the cheaper of spiking and dense mode."),
    )
    return with_options(command, options)


def _pricing_options(command: Command) -> Command:
    models = "Name or .json file, repeatable.  [default: horowitz-45nm and horowitz-45nm-memory]"
    data = "Table, folder or one text to measure on.  [default: what the checkpoint stores]"
    formats = click.Choice(["table", *FORMATS.values()])
    by_ending = "[default: by the ending of -o, else table]"
    options = (
        click.option("--cost-model", "cost_models", multiple=True, help=models),
        click.option("--numbers", type=NUMBERS, help="Number format.  [default: the cost model's first]"),
        click.option("--data", help=data),
        click.option("--samples", type=SAMPLES, help="Use so many texts.  [default: all; 8 for a .nir]"),
        executor_option("torch; interpreter for a .nir, emulator for a bundle"),
        click.option("--skip-zero-weights", "skip_zero", is_flag=True, help="Weights that are zero cost nothing."),
        click.option("--format", "output_format", type=formats, help=by_ending),
        click.option("--json", "as_json", is_flag=True, help="Short for --format json."),
        click.option("-o", "--output", type=PATH, help="File to write.  [default: the terminal]"),
        click.option("--force", is_flag=True, help="Replace the output."),
    )
    return with_options(input_options(command), options)


class _Pricing:
    """What all three commands are told: what to measure, how to price it, where the answer goes."""

    def __init__(self, options: dict[str, Any], *read: Path) -> None:
        """read: the models, which the answer does not replace; a page has the name of the first."""
        from neurotool.api.measuring import Source

        pricing = {name: options.pop(name, None) for name in PRICING}
        self.opening = options
        self.force = bool(pricing["force"])
        read = (*read, *(Path(name) for name in (pricing["data"], options.get("tokenizer")) if name is not None))
        asked = pricing["output_format"], pricing["as_json"], pricing["output"]
        self.chosen, self.output = _destination(*asked, self.force, read)
        self.models, self.numbers = _models(pricing["cost_models"]), pricing["numbers"]
        self.source = Source(pricing["data"], pricing["samples"], pricing["skip_zero"], given=pricing["given"])
        self.source.file  # noqa: B018  a wrong name is told before anything is loaded
        self.flows, self.hybrid = _dataflows(pricing["dataflow"]), bool(pricing["hybrid"])
        self.executor: str | None = pricing["executor"]

    def open(self, path: Path) -> "Model":
        return open_file(path, given=self.source.given, **self.opening)

    def report(
        self, model: "Model", dense: "CostModel | None" = None, force: bool = False, said: bool = False, **source: Any
    ) -> "Report":
        """said: with where it comes from."""
        from dataclasses import replace

        from neurotool.api.measuring import measure, report_of
        from neurotool.energy.provenance import provenance

        measured = measure(model, replace(self.source, **source), self.executor, shown_progress())
        how: dict[str, Any] = {"chosen": self.flows, "hybrid": self.hybrid}
        if said:
            how["provenance"] = provenance(model.path, self.source.file, measured.counts, measured.training)
        return report_of(measured, self.models, self.numbers, dense, force, **how)


@energy.command(
    epilog="""\b
Examples:
  neurotool energy report model.ckpt
  neurotool energy report model.ckpt -o report.html
  neurotool energy report model.ckpt --data test.tsv --format csv -o e.csv
  neurotool energy report model.ckpt --cost-model loihi1-silicon
  neurotool energy report model.nir --tokenizer model.ckpt --data "a film"
"""
)
@click.argument("model", type=PATH)
@_pricing_options
@click.option("--dense-cost-model", help="Price the dense rivals by another model.")
@click.option("--across-technologies", is_flag=True, help="Put two technologies into one ratio all the same.")
@_dataflow_options
@click.option("--strict", is_flag=True, help="Fail (exit code 1) where something is not counted.")
@layers_option
@opening_options
@time_steps_option
def report(
    model: Path,
    dense_cost_model: str | None,
    across_technologies: bool,
    strict: bool,
    layers: bool,
    **options: Any,
) -> None:
    """Operations and energy of a model, layer by layer."""
    from neurotool.energy.costs import load_cost_model
    from neurotool.energy.formats import to_csv, to_json, to_latex
    from neurotool.energy.page import report_page

    pricing = _Pricing(options, model)
    dense = load_cost_model(dense_cost_model) if dense_cost_model else None
    made = pricing.report(pricing.open(model), dense, across_technologies, said=True)
    chosen, writers = pricing.chosen, {"json": to_json, "csv": to_csv, "latex": to_latex}
    if chosen in writers:
        _write(writers[chosen](made), pricing.output, pricing.force)
    else:
        page = report_page(made, figures=chosen == "html", each=layers or chosen == "html")
        _show(page, chosen, pricing.output, pricing.force)
    if strict and made.not_counted:
        raise NotCountedError(f"{model}: --strict, and not counted: {'; '.join(made.not_counted)}")


@energy.command(
    epilog="""\b
Examples:
  neurotool energy audit model.ckpt -o account.csv
  neurotool energy audit model.ckpt --dataflow output-stationary -o a.csv
"""
)
@click.argument("model", type=PATH)
@click.option("--cost-model", "cost_models", multiple=True, help="As for `energy report`.")
@click.option("--numbers", type=NUMBERS, help="As for `energy report`.")
@click.option("--data", help="As for `energy report`.")
@click.option("--samples", type=SAMPLES, help="As for `energy report`.")
@click.option("--skip-zero-weights", "skip_zero", is_flag=True, help="As for `energy report`.")
@executor_option("as for `energy report`")
@_dataflow_options
@input_options
@click.option("-o", "--output", type=PATH, help="CSV to write.  [default: the terminal]")
@click.option("--force", is_flag=True, help="Replace the output.")
@opening_options
@time_steps_option
def audit(model: Path, **options: Any) -> None:
    """Every count x price of a report, line by line, as CSV."""
    from neurotool.energy.audit import audit_csv

    pricing = _Pricing(options | {"output_format": "csv"}, model)
    _write(audit_csv(pricing.report(pricing.open(model))), pricing.output, pricing.force)


@energy.command(
    epilog="""\b
Examples:
  neurotool energy compare a.ckpt b.ckpt
  neurotool energy compare model.ckpt --against bert-base,distilbert
  neurotool energy compare model.ckpt --against config.json -o compare.html
"""
)
@click.argument("models", nargs=-1, required=True, type=PATH)
@click.option(
    "--against",
    default="",
    help="Dense networks: bert-base, tinybert-4, distilbert, or config.json files; commas between.",
)
@_pricing_options
@_dataflow_options
@tokenizer_option
def compare(models: tuple[Path, ...], against: str, **options: Any) -> None:
    """Students and dense networks side by side."""
    from neurotool.energy.dense import dense_graph, named_config
    from neurotool.energy.tables import compare_page

    pricing = _Pricing(options, Path("compare"), *models)
    dense = {name: dense_graph(named_config(name)) for name in filter(None, against.split(","))}
    if len(set(models)) < len(models):
        raise ConfigError(f"{' '.join(map(str, models))}: a model is named twice; name each once")
    reports = [pricing.report(pricing.open(path)) for path in models]
    _show(compare_page(reports, dense), pricing.chosen, pricing.output, pricing.force)


@energy.command(
    epilog="""\b
Examples:
  neurotool energy sweep model.ckpt
  neurotool energy sweep model.ckpt -T 1,2,4,8,16 --data test.tsv -o s.html
"""
)
@click.argument("model", type=PATH)
@click.option(
    "--time-steps",
    "-T",
    type=TIME_STEPS_LIST,
    default="1,2,4,8,16",
    show_default=True,
    help="Every T to run, 1 to a million.",
)
@_pricing_options
@_dataflow_options
@tokenizer_option
@click.option("--plot", type=PATH, help="Accuracy against energy as .svg.")
def sweep(model: Path, time_steps: tuple[int, ...], plot: Path | None, **options: Any) -> None:
    """Accuracy against energy for several T."""
    from neurotool.energy.tables import sweep_page

    if plot is not None and plot.suffix != ".svg":
        raise ConfigError(f"--plot {plot}: plots are written as .svg")
    pricing = _Pricing(options, model)
    if plot is not None:
        check_result(plot, pricing.force)
    opened = pricing.open(model)
    reports = [pricing.report(opened.at(t), afresh=True) for t in sorted(time_steps)]
    page = sweep_page(reports)
    _show(page, pricing.chosen, pricing.output, pricing.force)
    if plot is not None:
        if not page.figures:
            raise ConfigError(f"--plot {plot}: {reports[0].measured} has no accuracy to draw; give a table with --data")
        from neurotool.energy.figures import standalone

        _write(standalone(page.figures[0][1]), plot, pricing.force)


@energy.command(
    epilog="""\b
Examples:
  neurotool energy latency model.ckpt --machine loihi1
  neurotool energy latency model.ckpt --batch 32 --without static
  neurotool energy latency model.ckpt --machine loihi2 \\
      --constant synaptic_operation=0.5 --constant neuron_update=2
  neurotool energy latency model.ckpt --machine 45nm --on-chip 1024
"""
)
@click.argument("model", type=PATH)
@click.option("--machine", default="loihi1", show_default=True, help="loihi1, loihi2, 45nm or a .json file.")
@click.option("--constant", "constants", multiple=True, help="NAME=VALUE in ns, pJ or mW (docs/energy.md).")
@click.option("--cost-model", help="Prices of its operations.  [default: the machine's first]")
@click.option("--dataflow", help="As for `energy report`, one.  [default: spike; output-stationary for 45nm]")
@click.option("--batch", type=SAMPLES, default=1, show_default=True, help="Inputs, one after the other.")
@click.option(
    "--without",
    multiple=True,
    type=click.Choice(["latency", "static", "transport", "off-chip"]),
    help="Leave it out, repeatable.",
)
@click.option("--on-chip", type=click.IntRange(min=0), help="KB of weights that fit, of a machine that is no chip.")
@click.option("--data", help="As for `energy report`.")
@click.option("--samples", type=SAMPLES, help="As for `energy report`.")
@click.option("--skip-zero-weights", "skip_zero", is_flag=True, help="As for `energy report`.")
@executor_option("as for `energy report`")
@input_options
@click.option("--format", "output_format", type=click.Choice(["table", "json", "html"]), help="As for `energy report`.")
@click.option("--json", "as_json", is_flag=True, help="Short for --format json.")
@click.option("-o", "--output", type=PATH, help="As for `energy report`.")
@click.option("--force", is_flag=True, help="Replace the output.")
@opening_options
@time_steps_option
def latency(
    model: Path,
    machine: str,
    constants: tuple[str, ...],
    cost_model: str | None,
    dataflow: str | None,
    batch: int,
    without: tuple[str, ...],
    on_chip: int | None,
    **options: Any,
) -> None:
    """Time on a chip, and energy beyond operations."""
    import json

    from neurotool.api.timing import timed
    from neurotool.energy.latency_page import as_dict, latency_page
    from neurotool.energy.machine import load_machine

    computer = load_machine(machine).giving(constants)
    prices = {"cost_models": (cost_model or computer.cost_models[0],), "dataflow": dataflow}
    pricing = _Pricing(options | prices, model, *([Path(machine)] if machine.endswith(".json") else []))
    if pricing.flows is not None and len(pricing.flows) > 1:
        raise ConfigError(f"--dataflow {dataflow}: time is that of one dataflow; name one")
    if pricing.chosen in ("csv", "latex"):
        raise ConfigError(f"-o {pricing.output}: time is written as .json, .html or a table in text")
    opened = pricing.open(model)
    made = timed(opened, pricing.report(opened), computer, batch, frozenset(without), on_chip, pricing.source.given)
    if pricing.chosen == "json":
        _write(json.dumps(as_dict(made), indent=1, ensure_ascii=False), pricing.output, pricing.force)
    else:
        _show(latency_page(made), pricing.chosen, pricing.output, pricing.force)


def _models(names: tuple[str, ...]) -> "list[CostModel]":
    from neurotool.energy.costs import load_cost_model
    from neurotool.energy.report import DEFAULT_MODELS

    models = [load_cost_model(name) for name in names or DEFAULT_MODELS]
    if len({model.name for model in models}) < len(models):
        raise ConfigError(f"--cost-model {' '.join(names)}: a model is named twice; name each once")
    return models


def _dataflows(names: str | None) -> "list[Dataflow] | None":
    from neurotool.energy.dataflow import named_dataflows

    return None if names is None else named_dataflows(names)


def _destination(
    output_format: str | None, as_json: bool | None, output: Path | None, force: bool, read: tuple[Path, ...]
) -> tuple[str, Path | None]:
    """The format and the file, if any, whose name is checked before the work. read: what the command reads."""
    if as_json and output_format not in (None, "json"):
        raise ConfigError(f"--json and --format {output_format} contradict each other: leave one out")
    chosen = output_format or ("json" if as_json else FORMATS.get(output.suffix, "table") if output else "table")
    if output is None and chosen == "html":  # a page has a file's name in any case
        output = read[0].with_suffix(".html")
    if output is not None:
        check_result(output, force)
    return chosen, output


def _write(text: str, output: Path | None, force: bool) -> None:
    """To a file, or to the terminal."""
    if output is None:
        click.echo(text.rstrip("\n"))
        return
    write_bytes(output, text.encode(errors="replace"), force)
    click.echo(f"wrote {output}", err=output.suffix != ".html")


def _show(page: "Page", chosen: str, output: Path | None, force: bool) -> None:
    from neurotool.energy.page import page_text

    if chosen != "table":
        _write(page_text(page, chosen), output, force)
        return
    # A table needs its width where no terminal limits it.
    wide = output or not sys.stdout.isatty()
    console = terminal.console(file=io.StringIO(), width=WIDE) if wide else terminal.console()
    console.print(page.title, style="bold", highlight=False)
    console.print(page.lead, highlight=False, markup=False)
    for table in page.tables:
        if not table.folded:
            _print_table(console, table)
    for line in (*(text for text, _ in page.points), *page.notes):
        console.print(f"- {line}", highlight=False, markup=False)
    if isinstance(console.file, io.StringIO):
        _write(console.file.getvalue(), output, force)


def _print_table(console: Console, table: "Table") -> None:
    shown = rich.table.Table(title=table.caption, title_justify="left")
    columns = list(range(len(table.headings)))
    if table.narrow and console.width < WIDE:
        shown.box = None
        columns = [i for i in columns if table.headings[i] in table.narrow]
    for i in columns:
        heading, text = table.headings[i], table.headings[i] in ("network", "cost model", "rival")
        heading = heading.replace("/synapse", "/\nsynapse")  # where a narrow terminal may break it
        shown.add_column(heading, justify="left" if text or not i else "right", overflow="fold", no_wrap=not i)
    for row in table.rows:
        shown.add_row(*(row[i] for i in columns), style="bold" if row[0] == "total" else None)
    console.print(shown)
