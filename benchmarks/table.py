"""Trains and evaluates the table of students x data sets in docs/results.md, one `neurotool train` a cell. A trained
cell leaves its checkpoint and its figures, shape and activity (JSON) and is not trained again; one that was stopped
goes on. So the table can be filled in several sittings.

    python benchmarks/table.py DATA FOLDER [--config FILE] [--jobs N] [--minutes M] [--students A,B] [--data-sets A,B]
                                [--seeds A,B] [--write FILE] [--latex FILE]

DATA holds one folder a data set, each with train and validation files; FOLDER takes checkpoints, logs and the state of
unfinished runs. Ctrl-C or a kill stops it, --minutes too, and the same command goes on. The config
(benchmarks/table.json) names students and data sets with the options of `neurotool train` that belong to them, seeds
where these are not 42 alone, and students that are for some data sets only, with the first of their seeds. A cell that
was trained with other options than the config's is named and left out: delete its files to train it again. --write puts
the table between its two markers in FILE, which bear the config's name where it is not benchmarks/table.json.

A student's options may name another student in braces, `--start-from {ternary}`: the checkpoint of that one, of the
same data set and seed, for which it waits. Name it after the other in the config.

Cells train side by side, --jobs of them; those that need the same teacher wait for the first, which fine-tunes it. With
`"energy": false` in the config the shares of energy, which take longer than a small training, are left out. Cells begin
row by row; with `"seed_by_seed": true`, all rows of the first seed come before the next.
"""

import json
import math
import os
import shlex
import signal
import statistics
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import product, zip_longest
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import click
from cell import NAMED, Cell, Result, result, start

from neurotool.errors import NeurotoolError
from neurotool.files import replacing

HEADER = (
    "| data | metric | student | teacher | student's | kept | rate | of dense twin | of teacher | minutes | seeds |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


def cells(config: dict[str, Any], students: list[str], data_sets: list[str]) -> list[Cell]:
    """By data set and seed, which have a teacher of their own."""
    seeds = config["seeds"]
    return [
        Cell(student, data, seed, f"{config['options']} {config['students'][student]} {config['data'][data]}".strip())
        for data in data_sets
        for seed, student in product(seeds.get(data, [42]), students)
        if student not in config["only"] or (data in config["only"][student] and seed == seeds.get(data, [42])[0])
    ]


_DEFAULTS: dict[str, Any] = {"options": "", "seeds": {}, "only": {}, "energy": True, "seed_by_seed": False}


def load_config(path: Path) -> dict[str, Any]:
    """What has a default may be missing. Raises ClickException for a file that is no config."""
    try:
        config = _DEFAULTS | json.loads(path.read_text(encoding="utf-8"))
        for options in (config["options"], *config["students"].values(), *config["data"].values()):
            shlex.split(options)
        cells(config, list(config["students"]), list(config["data"]))
        if unknown := set(config["only"]) - set(config["students"]):
            raise ValueError(f"{min(unknown)!r} is not one of its students")
        for number, (name, options) in enumerate(config["students"].items()):
            if unknown := set(NAMED.findall(options)) - set(list(config["students"])[:number]):
                raise ValueError(f"{name!r} starts from {min(unknown)!r}, which is no student before it")
        if unknown := {*config["seeds"]}.union(*config["only"].values()) - set(config["data"]):
            raise ValueError(f"{min(unknown)!r} is not one of its data sets")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise click.ClickException(
            f"{path}: not a config ({error}); it needs students and data, each with names and options"
        ) from error
    return config


def in_turn(wanted: list[Cell], seed_by_seed: bool = False) -> list[Cell]:
    """One cell of each data set and seed after the other: those that run side by side then need different teachers, and
    wait for each other the least. seed_by_seed: first so for all cells of the first seed."""
    if seed_by_seed:
        seeds = dict.fromkeys(cell.seed for cell in wanted)
        return [cell for seed in seeds for cell in in_turn([cell for cell in wanted if cell.seed == seed])]
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in wanted:
        groups.setdefault((cell.data, cell.seed), []).append(cell)
    rounds = zip_longest(*groups.values())
    return [cell for of_round in rounds for cell in of_round if cell is not None]


def stop(*_: object) -> None:
    """What a kill does: the processes get the Ctrl-C that a terminal would have given them."""
    for process in active_children():
        if process.pid is not None:
            os.kill(process.pid, signal.SIGINT)
    raise KeyboardInterrupt


def fill(
    wanted: list[Cell], jobs: int, data: Path, folder: Path, energy: bool, seconds: float, seed_by_seed: bool = False
) -> dict[Cell, Result | Exception]:
    """What became of each cell, `jobs` of them side by side; Ctrl-C, and the end of the time, leave some out."""
    deadline = time.time() + seconds

    def process() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, get_context("spawn"), start, (deadline,))

    waiting, found = in_turn(wanted, seed_by_seed), dict[Cell, Result | Exception]()
    idle = [process() for _ in range(min(jobs, len(wanted)))]
    running: dict[Future[Result], tuple[Cell, ProcessPoolExecutor]] = {}
    while running or waiting:
        unfinished = {cell.name for cell in waiting} | {cell.name for cell, _ in running.values()}
        ready = [c for c in waiting if c.starts_from is None or c.starts_from.name not in unfinished]
        for cell in ready[: len(idle)]:
            waiting.remove(cell)
            filler = idle.pop()
            running[filler.submit(result, cell, data, folder, energy)] = (cell, filler)
        try:
            finished = wait(running, return_when=FIRST_COMPLETED).done
        except KeyboardInterrupt:  # the processes get Ctrl-C, too: each saves its state and ends
            waiting, finished = [], set()
        for future in finished:
            cell, filler = running.pop(future)
            try:
                found[cell] = future.result()
            except KeyboardInterrupt:
                waiting = []
            except BrokenProcessPool:
                found[cell] = NeurotoolError(f"its process was killed; {cell.path(folder, '.log')} ends before that")
                filler = process()
            except Exception as error:  # the other cells still count
                found[cell] = error
            idle.append(filler)
    for filler in idle:
        filler.shutdown()
    return found


def row(data: str, student: str, results: list[Result]) -> str:
    """Means over the seeds, and the metric's standard deviation where there are several."""

    def mean(name: str) -> float | None:
        values = [getattr(result, name) for result in results if getattr(result, name) is not None]
        return statistics.fmean(values) if values else None

    def percent(value: float | None, unit: str = "", places: int = 1) -> str:
        return "" if value is None else f"{100 * value:.{places}f}{unit}"

    scores = [100 * result.student for result in results]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    teacher, rate, minutes = mean("teacher"), mean("rate"), mean("minutes")
    assert teacher is not None and minutes is not None
    kept = f"{statistics.fmean(scores) / teacher:.1f} %" if teacher > 0 else ""
    cells = [data, results[0].metric, student, percent(teacher), f"{statistics.fmean(scores):.1f}{spread}", kept]
    cells += ["" if rate is None else f"{rate:.3f}", percent(mean("of_twin"), " %")]
    cells += [percent(mean("of_teacher"), " %"), f"{minutes:.1f}", str(len(results))]
    return f"| {' | '.join(cells)} |"


def table(results: dict[Cell, Result]) -> str:
    """A row for each student on each data set of which at least one cell is there."""
    rows: dict[tuple[str, str], list[Result]] = {}
    for cell, found in results.items():
        rows.setdefault((cell.data, cell.student), []).append(found)
    return "\n".join([HEADER, *(row(data, student, of_seeds) for (data, student), of_seeds in rows.items())])


def latex(text: str) -> str:
    """The Markdown table as a tabular, for booktabs."""
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())

    def line(cells: list[str]) -> str:
        escaped = (cell.replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$") for cell in cells)
        return " & ".join(escaped) + r" \\"

    body = [line(header), r"\midrule", *map(line, rows)]
    return "\n".join(
        [r"\begin{tabular}{lll" + "r" * (len(header) - 3) + "}", r"\toprule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def around_table(file: Path, script: str = "table.py") -> tuple[str, str]:
    """What stands in `file` before and after the table of a script, markers included. Raises ClickException where they
    are missing."""
    begin, end = (f"<!-- {script}: {at} -->" for at in ("begin", "end"))
    before, found, rest = file.read_text(encoding="utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise click.ClickException(f"{file}: has no lines {begin!r} and {end!r} to put the table between")
    return before + begin, end + after


def write(text: str, file: Path, script: str = "table.py") -> None:
    """Put the table between its markers in `file`."""
    before, after = around_table(file, script)
    with replacing(file, force=True, error_type=click.ClickException) as temporary:
        temporary.write_text(f"{before}\n{text}\n{after}", encoding="utf-8")


def _names(known: dict[str, Any], chosen: str | None, option: str) -> list[str]:
    names = list(known) if chosen is None else chosen.split(",")
    if unknown := [name for name in names if name not in known]:
        raise click.BadParameter(f"{unknown[0]!r} is not in the config: {', '.join(known)}", param_hint=option)
    return names


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--config",
    type=click.Path(exists=True, path_type=Path),
    default=Path(__file__).with_name("table.json"),
    help="JSON.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default=True, help="Cells at a time."
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Stop then, as Ctrl-C does.")
@click.option("--options", default="", help="Further options of `neurotool train`, for all cells.")
@click.option("--students", help="Only these, comma-separated.")
@click.option("--data-sets", help="Only these, comma-separated.")
@click.option("--seeds", help="Only these, comma-separated.")
@click.option(
    "--write", "file", type=click.Path(exists=True, path_type=Path), help="Markdown file to put the table in."
)
@click.option("--latex", "tex", type=click.Path(path_type=Path), help="File to write the table to as LaTeX.")
def main(
    data: Path,
    folder: Path,
    config: Path,
    jobs: int,
    minutes: float | None,
    options: str,
    students: str | None,
    data_sets: str | None,
    seeds: str | None,
    file: Path | None,
    tex: Path | None,
) -> None:
    settings = load_config(config)
    settings["options"] = f"{settings['options']} {options}".strip()
    marks = "table.py" if config.name == "table.json" else config.name
    if file is not None:
        around_table(file, marks)
    wanted = cells(
        settings,
        _names(settings["students"], students, "--students"),
        _names(settings["data"], data_sets, "--data-sets"),
    )
    known = {str(cell.seed): cell.seed for cell in wanted}
    chosen = [known[name] for name in _names(known, seeds, "--seeds")]
    wanted = [cell for cell in wanted if cell.seed in chosen]
    folder.mkdir(parents=True, exist_ok=True)
    seconds = math.inf if minutes is None else 60 * minutes
    found = fill(wanted, jobs, data, folder, settings["energy"], seconds, settings["seed_by_seed"])
    results = {cell: found[cell] for cell in wanted if isinstance(found.get(cell), Result)}
    for cell in wanted:
        if isinstance(found.get(cell), Exception):
            click.echo(f"failed: {cell.name}: {found[cell]}", err=True)
    text = table(results)
    click.echo(text)
    if found.keys() != set(wanted):
        click.echo("stopped; the same command goes on", err=True)
        sys.exit(130)
    if file is not None:
        write(text, file, marks)
    if tex is not None:
        with replacing(tex, force=True, error_type=click.ClickException) as temporary:
            temporary.write_text(latex(text) + "\n", encoding="utf-8")
    sys.exit(0 if len(results) == len(wanted) else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    main()
