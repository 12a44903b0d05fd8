"""`neurotool energy report|compare|sweep`."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import rich.table
from rich.console import Console

from neurotool import terminal
from neurotool.cli.graphs import Conventions, is_nir, nir_options
from neurotool.cli.measured import Measured, Source, measure_file, measure_student, refuse_tokenizer
from neurotool.errors import ConfigError, ExportError, NeurotoolError

if TYPE_CHECKING:
    from neurotool.energy.costs import CostModel
    from neurotool.energy.dataflow import Dataflow
    from neurotool.energy.page import Page, Table
    from neurotool.energy.report import Report

Command = TypeVar("Command", bound=Callable[..., Any])
WIDE = 132  # columns that every table needs
FORMATS = {".json": "json", ".csv": "csv", ".html": "html", ".tex": "latex"}


class NotCountedError(NeurotoolError):
    """--strict, and something in the network is in no total."""

    exit_code = 1


@click.group(epilog="Example: neurotool energy report model.ckpt")
def energy() -> None:
    """Count operations and energy, beside dense networks."""


def _dataflow_option(command: Command) -> Command:
    flows = "spike, batched, graded or output-stationary; commas between.  [default: all that differ]"
    return click.option("--dataflow", help=flows)(command)


def _pricing_options(command: Command) -> Command:
    models = "Name or .json file, repeatable.  [default: horowitz-45nm and horowitz-45nm-memory]"
    data = "Table, folder or one text to measure on.  [default: what the checkpoint stores]"
    numbers, formats = click.Choice(["fp32", "fp16", "int8"]), click.Choice(["table", *FORMATS.values()])
    tokenizer = "A .ckpt whose tokenizer reads --data for a .nir."
    by_ending = "[default: by the ending of -o, else table]"
    options = (
        click.option("--cost-model", "cost_models", multiple=True, help=models),
        click.option("--numbers", type=numbers, help="Number format.  [default: the cost model's first]"),
        click.option("--data", help=data),
        click.option("--samples", type=click.IntRange(min=1), help="Use so many texts.  [default: all; 8 for a .nir]"),
        click.option("--tokenizer", type=click.Path(path_type=Path), help=tokenizer),
        click.option("--skip-zero-weights", "skip_zero", is_flag=True, help="Weights that are zero cost nothing."),
        click.option("--format", "output_format", type=formats, help=by_ending),
        click.option("--json", "as_json", is_flag=True, help="Short for --format json."),
        click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write.  [default: the terminal]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


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
@click.argument("model", type=click.Path(path_type=Path))
@_pricing_options
@click.option("--dense-cost-model", help="Price the dense rivals by another model.")
@click.option("--force", is_flag=True, help="Put two technologies into one ratio all the same.")
@_dataflow_option
@click.option("--hybrid", is_flag=True, help="Each synapse in the cheaper of spiking and dense mode.")
@click.option("--strict", is_flag=True, help="Fail (exit code 1) where something is not counted.")
@nir_options
def report(
    model: Path,
    cost_models: tuple[str, ...],
    numbers: str | None,
    data: str | None,
    samples: int | None,
    tokenizer: Path | None,
    skip_zero: bool,
    output_format: str | None,
    as_json: bool,
    output: Path | None,
    dense_cost_model: str | None,
    force: bool,
    dataflow: str | None,
    hybrid: bool,
    strict: bool,
    **conventions: Any,
) -> None:
    """Operations and energy of a model, layer by layer."""
    chosen = _format(output_format, as_json, output)
    from neurotool.energy.costs import load_cost_model

    flows = _dataflows(dataflow)
    models, dense = _models(cost_models), load_cost_model(dense_cost_model) if dense_cost_model else None
    source = Source(data, samples, tokenizer, skip_zero)
    measured = measure_file(model, Conventions(**conventions), source)  # type: ignore[typeddict-item]
    made = _report(measured, models, numbers, dense, force, source, chosen=flows, hybrid=hybrid)
    from neurotool.energy.formats import to_csv, to_json, to_latex
    from neurotool.energy.page import report_page

    writers = {"json": to_json, "csv": to_csv, "latex": to_latex}
    if chosen in writers:
        _write(writers[chosen](made), output, model, chosen)
    else:
        _show(report_page(made, figures=chosen == "html"), chosen, output, model)
    if strict and made.not_counted:
        raise NotCountedError(f"{model}: --strict, and not counted: {'; '.join(made.not_counted)}")


@energy.command(
    epilog="""\b
Examples:
  neurotool energy audit model.ckpt -o account.csv
  neurotool energy audit model.ckpt --dataflow output-stationary -o a.csv
"""
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--cost-model", "cost_models", multiple=True, help="As for `energy report`.")
@click.option("--numbers", type=click.Choice(["fp32", "fp16", "int8"]), help="As for `energy report`.")
@click.option("--data", help="As for `energy report`.")
@click.option("--samples", type=click.IntRange(min=1), help="As for `energy report`.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="As for `energy report`.")
@click.option("--skip-zero-weights", "skip_zero", is_flag=True, help="As for `energy report`.")
@_dataflow_option
@click.option("--hybrid", is_flag=True, help="As for `energy report`.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="CSV to write.  [default: the terminal]")
@nir_options
def audit(
    model: Path,
    cost_models: tuple[str, ...],
    numbers: str | None,
    data: str | None,
    samples: int | None,
    tokenizer: Path | None,
    skip_zero: bool,
    dataflow: str | None,
    hybrid: bool,
    output: Path | None,
    **conventions: Any,
) -> None:
    """Every count x price of a report, line by line, as CSV."""
    _format("csv", False, output)
    from neurotool.energy.audit import audit_csv

    flows, models, source = _dataflows(dataflow), _models(cost_models), Source(data, samples, tokenizer, skip_zero)
    measured = measure_file(model, Conventions(**conventions), source)  # type: ignore[typeddict-item]
    _write(audit_csv(_report(measured, models, numbers, chosen=flows, hybrid=hybrid)), output, model, "csv")


@energy.command(
    epilog="""\b
Examples:
  neurotool energy compare a.ckpt b.ckpt
  neurotool energy compare model.ckpt --against bert-base,distilbert
  neurotool energy compare model.ckpt --against config.json -o compare.html
"""
)
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--against",
    default="",
    help="Dense networks: bert-base, tinybert-4, distilbert, or config.json files; commas between.",
)
@_pricing_options
def compare(
    models: tuple[Path, ...],
    against: str,
    cost_models: tuple[str, ...],
    numbers: str | None,
    data: str | None,
    samples: int | None,
    tokenizer: Path | None,
    skip_zero: bool,
    output_format: str | None,
    as_json: bool,
    output: Path | None,
) -> None:
    """Students and dense networks side by side."""
    chosen = _format(output_format, as_json, output)
    from neurotool.energy.dense import dense_graph, named_config
    from neurotool.energy.tables import compare_page

    priced_by = _models(cost_models)
    dense = {name: dense_graph(named_config(name)) for name in filter(None, against.split(","))}
    source = Source(data, samples, tokenizer, skip_zero)
    conventions = Conventions(reset=None, time_step=None, time_steps=None, fires=None, standard_nodes=False)
    measured = [measure_file(path, conventions, source) for path in models]
    _check_names(models)
    reports = [_report(m, priced_by, numbers) for m in measured]
    _show(compare_page(reports, dense), chosen, output, Path("compare"))


@energy.command(
    epilog="""\b
Examples:
  neurotool energy sweep model.ckpt
  neurotool energy sweep model.ckpt -T 1,2,4,8,16 --data test.tsv -o s.html
"""
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--time-steps", "-T", default="1,2,4,8,16", show_default=True, help="Every T to run.")
@_pricing_options
@click.option("--plot", type=click.Path(path_type=Path), help="Accuracy against energy as .svg.")
def sweep(
    model: Path,
    time_steps: str,
    cost_models: tuple[str, ...],
    numbers: str | None,
    data: str | None,
    samples: int | None,
    tokenizer: Path | None,
    skip_zero: bool,
    output_format: str | None,
    as_json: bool,
    output: Path | None,
    plot: Path | None,
) -> None:
    """Accuracy against energy for several T."""
    chosen = _format(output_format, as_json, output)
    steps = _steps(time_steps)
    if model.is_dir() or is_nir(model):
        raise ConfigError(f"{model}: a sweep runs a checkpoint at other T; give a .ckpt")
    if plot is not None and plot.suffix != ".svg":
        raise ConfigError(f"--plot {plot}: plots are written as .svg")
    from neurotool.energy.tables import sweep_page
    from neurotool.student.serialise import load_student

    priced_by, student = _models(cost_models), load_student(model)
    source = Source(data, samples, tokenizer, skip_zero)
    refuse_tokenizer(model, source)
    reports = [_report(measure_student(model, student, source, t), priced_by, numbers) for t in steps]
    page = sweep_page(reports)
    _show(page, chosen, output, model)
    if plot is not None:
        if not page.figures:
            raise ConfigError(f"--plot {plot}: {reports[0].measured} has no accuracy to draw; give a table with --data")
        from neurotool.energy.figures import standalone

        _write(standalone(page.figures[0][1]), plot, model, "svg")


def _models(names: tuple[str, ...]) -> "list[CostModel]":
    from neurotool.energy.costs import load_cost_model
    from neurotool.energy.report import DEFAULT_MODELS

    models = [load_cost_model(name) for name in names or DEFAULT_MODELS]
    if len({model.name for model in models}) < len(models):
        raise ConfigError(f"--cost-model {' '.join(names)}: a model is named twice; name each once")
    return models


def _report(
    measured: Measured,
    models: "list[CostModel]",
    numbers: str | None,
    dense_model: "CostModel | None" = None,
    force: bool = False,
    source: Source | None = None,
    **how: Any,
) -> "Report":
    from neurotool.energy.provenance import provenance
    from neurotool.energy.report import build_report

    if source is not None:
        how["provenance"] = provenance(measured.path, source.file, measured.counts, measured.training)
    return build_report(
        str(measured.path),
        measured.measured,
        measured.counts,
        models,
        numbers=numbers,
        dense_model=dense_model,
        teacher=measured.teacher,
        force=force,
        metrics=measured.metrics,
        teacher_metrics=measured.teacher_metrics,
        **how,
    )


def _dataflows(names: str | None) -> "list[Dataflow] | None":
    from neurotool.energy.dataflow import named_dataflows

    return None if names is None else named_dataflows(names)


def _format(output_format: str | None, as_json: bool, output: Path | None) -> str:
    if as_json and output_format not in (None, "json"):
        raise ConfigError(f"--json and --format {output_format} contradict each other: leave one out")
    if output is not None and not output.parent.is_dir():
        raise ConfigError(f"{output}: its folder does not exist; give a file in an existing folder with -o")
    return output_format or ("json" if as_json else FORMATS.get(output.suffix, "table") if output else "table")


def _steps(text: str) -> list[int]:
    try:
        steps = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"--time-steps {text}: give whole numbers such as 1,2,4,8") from None
    if steps[0] < 1:
        raise ConfigError(f"--time-steps {text}: every T must be at least 1")
    return steps


def _check_names(models: tuple[Path, ...]) -> None:
    if len(set(models)) < len(models):
        raise ConfigError(f"{' '.join(map(str, models))}: a model is named twice; name each once")


def _write(text: str, output: Path | None, model: Path, kind: str) -> None:
    """To a file, or to the terminal; a page has a file's name in any case."""
    from neurotool.files import replacing

    if output is None and kind == "html":
        output = model.with_suffix(".html")
    if output is None:
        click.echo(text.rstrip("\n"))
        return
    with replacing(output, force=True, error_type=ExportError) as temporary:
        temporary.write_text(text, encoding="utf-8")
    click.echo(f"wrote {output}", err=kind != "html")


def _show(page: "Page", chosen: str, output: Path | None, model: Path) -> None:
    from neurotool.energy.page import page_text

    if chosen != "table":
        _write(page_text(page, chosen), output, model, chosen)
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
        _write(console.file.getvalue(), output, model, chosen)


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
