"""Trains and evaluates the table of students x data sets in docs/results.md, one `neurotool train` a cell. A trained
cell leaves its checkpoint and its figures (JSON) and is not trained again; one that was stopped goes on. So the table
can be filled in several sittings.

    python benchmarks/table.py DATA FOLDER [--config FILE] [--jobs N] [--students A,B] [--data-sets A,B] [--write FILE]

DATA holds one folder a data set, each with train and validation files; FOLDER takes checkpoints, logs and the state of
unfinished runs. Ctrl-C stops it, and the same command goes on. The config (benchmarks/table.json) names students and
data sets with the options of `neurotool train` that belong to them, seeds where these are not 42 alone, and students
that are for some data sets only, with the first of their seeds. A cell that was trained with other options than the
config's is named and left out: delete its files to train it again. --write puts the table between its two markers in
FILE.

Cells train side by side, --jobs of them; those that need the same teacher wait for the first, which fine-tunes it. With
`"energy": false` in the config the shares of energy, which take longer than a small training, are left out.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product, zip_longest
from pathlib import Path
from threading import Event, Lock
from typing import Any

import click
from click.testing import CliRunner

from neurotool.checkpoint import read_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import NeurotoolError
from neurotool.files import replacing

BEGIN, END = "<!-- table.py: begin -->", "<!-- table.py: end -->"
ONE_AT_A_TIME = Lock()  # a report is taken by catching this process's standard output
HEADER = (
    "| data | metric | student | teacher | student's | kept | rate | of dense twin | of teacher | minutes | seeds |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|"
)


@dataclass(frozen=True)
class Cell:
    """One training run of the table."""

    student: str
    data: str
    seed: int
    options: str

    @property
    def name(self) -> str:
        return f"{self.data}-{self.student}-{self.seed}"

    def path(self, folder: Path, ending: str) -> Path:
        return folder / f"{self.name}{ending}"


def cells(config: dict[str, Any], students: list[str], data_sets: list[str]) -> list[Cell]:
    """By data set and seed, which have a teacher of their own."""
    seeds = config["seeds"]
    return [
        Cell(student, data, seed, f"{config['options']} {config['students'][student]} {config['data'][data]}".strip())
        for data in data_sets
        for seed, student in product(seeds.get(data, [42]), students)
        if student not in config["only"] or (data in config["only"][student] and seed == seeds.get(data, [42])[0])
    ]


def load_config(path: Path) -> dict[str, Any]:
    """`options`, `seeds`, `only` and `energy` may be missing. Raises ClickException for a file that is no config."""
    try:
        config = {"options": "", "seeds": {}, "only": {}, "energy": True} | json.loads(path.read_text(encoding="utf-8"))
        for options in (config["options"], *config["students"].values(), *config["data"].values()):
            shlex.split(options)
        cells(config, list(config["students"]), list(config["data"]))
        if unknown := set(config["only"]) - set(config["students"]):
            raise ValueError(f"{min(unknown)!r} is not one of its students")
        if unknown := {*config["seeds"]}.union(*config["only"].values()) - set(config["data"]):
            raise ValueError(f"{min(unknown)!r} is not one of its data sets")
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise click.ClickException(
            f"{path}: not a config ({error}); it needs students and data, each with names and options"
        ) from error
    return config


@dataclass(frozen=True)
class Result:
    """Figures of a cell. minutes: of the student's training alone. Shares: arithmetic energy (45 nm, fp32) of the
    student over that of the dense twin and of the teacher, where they are asked for. A student without spikes has
    neither a rate nor a twin. epochs: the metric after each epoch of the last stage."""

    metric: str
    teacher: float
    student: float
    rate: float | None
    of_twin: float | None
    of_teacher: float | None
    minutes: float
    epochs: tuple[float, ...] = ()


def train(cell: Cell, data: Path, folder: Path) -> None:
    """Train a cell, or go on with it. Raises NeurotoolError with the last line of its log."""
    output = cell.path(folder, ".ckpt")
    run_folder, log = folder / "runs" / cell.name, cell.path(folder, ".log")
    resume = ["--resume"] if (run_folder / "unfinished" / "plan.json").exists() else []
    where = ["--data", data / cell.data, "-o", output, "--run-folder", run_folder]
    command = [sys.executable, "-m", "neurotool", "train", *shlex.split(cell.options), "--seed", cell.seed, *where]
    with log.open("w", encoding="utf-8") as stream:
        done = subprocess.run([*map(str, command), *resume], stdout=stream, stderr=stream, check=False)
    if done.returncode:
        raise NeurotoolError(
            (log.read_text(encoding="utf-8").strip().splitlines() or ["no output"])[-1].removeprefix("Error: ")
        )


def measure(checkpoint: Path, energy: bool) -> Result:
    content = read_checkpoint(checkpoint)
    record, activity = content.training, content.activity
    metric = record["task"]["metrics"][0]
    shares = energy_shares(checkpoint) if energy else {}
    history = record["stages"][-1].get("history", [])
    return Result(
        metric,
        record["teacher"]["metrics"][metric],
        record["metrics"][metric],
        activity["mean_rate"] if activity["layers"] else None,
        shares.get("twin"),
        shares.get("teacher"),
        sum(stage.get("seconds", 0.0) for stage in record["stages"]) / 60,
        tuple(entry[f"eval_{metric}"] for entry in history if f"eval_{metric}" in entry),
    )


def energy_shares(checkpoint: Path) -> dict[str, float]:
    """In this process: a new one for each cell would spend its time on importing torch."""
    with ONE_AT_A_TIME:
        reported = CliRunner().invoke(cli, ["energy", "report", str(checkpoint), "--format", "json"])
    if reported.exit_code:
        raise NeurotoolError(f"{checkpoint}: {reported.stderr.strip()}")
    report = json.loads(reported.stdout)
    arithmetic = [c for c in report["comparisons"] if c["model"] == "arithmetic only, 45 nm, fp32"]
    return {comparison["kind"]: comparison["share"] for comparison in arithmetic}


def result(cell: Cell, data: Path, folder: Path, energy: bool = True) -> Result:
    """The cell's figures; it is trained where they are not there. Its options are noted before, its figures after.

    Raises NeurotoolError where training fails, and for a cell that was begun with other options.
    """
    record, checkpoint = cell.path(folder, ".json"), cell.path(folder, ".ckpt")
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    begun = "figures" in known or checkpoint.exists() or (folder / "runs" / cell.name / "unfinished").exists()
    if begun and known.get("options") != cell.options:
        again = f"delete {cell.path(folder, '.*')} and {folder / 'runs' / cell.name} to train it again"
        raise NeurotoolError(f"its options were {known.get('options')!r} and are now {cell.options!r}; {again}")
    if "figures" not in known:
        keep(record, {"options": cell.options})
        if not checkpoint.exists():
            train(cell, data, folder)
        known = {"options": cell.options, "figures": asdict(measure(checkpoint, energy))}
        keep(record, known)
    return Result(**known["figures"])


def in_turn(wanted: list[Cell]) -> list[Cell]:
    """One cell of each data set and seed after the other: those that run side by side then need different teachers, and
    wait for each other the least."""
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in wanted:
        groups.setdefault((cell.data, cell.seed), []).append(cell)
    rounds = zip_longest(*groups.values())
    return [cell for of_round in rounds for cell in of_round if cell is not None]


def keep(record: Path, content: dict[str, Any]) -> None:
    with replacing(record, force=True, error_type=NeurotoolError) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


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


def around_table(file: Path) -> tuple[str, str]:
    """What stands before and after the table in `file`. Raises ClickException where its markers are missing."""
    before, begin, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise click.ClickException(f"{file}: has no lines {BEGIN!r} and {END!r} to put the table between")
    return before, after


def write(text: str, file: Path) -> None:
    """Put the table between the markers of `file`."""
    before, after = around_table(file)
    with replacing(file, force=True, error_type=click.ClickException) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


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
@click.option("--students", help="Only these, comma-separated.")
@click.option("--data-sets", help="Only these, comma-separated.")
@click.option(
    "--write", "file", type=click.Path(exists=True, path_type=Path), help="Markdown file to put the table in."
)
def main(
    data: Path, folder: Path, config: Path, jobs: int, students: str | None, data_sets: str | None, file: Path | None
) -> None:
    settings = load_config(config)
    if file is not None:
        around_table(file)
    wanted = cells(
        settings,
        _names(settings["students"], students, "--students"),
        _names(settings["data"], data_sets, "--data-sets"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[Cell, Result] = {}
    failed: dict[Cell, NeurotoolError] = {}
    stopped = Event()

    def fill(cell: Cell) -> None:
        if not stopped.is_set():
            try:
                results[cell] = result(cell, data, folder, settings["energy"])
            except NeurotoolError as error:
                failed[cell] = error

    pool = ThreadPoolExecutor(jobs)
    try:
        list(pool.map(fill, in_turn(wanted)))
    except KeyboardInterrupt:  # the runs get Ctrl-C, too: each saves its state and ends
        stopped.set()
        pool.shutdown(cancel_futures=True)
        click.echo("stopped; the same command goes on", err=True)
        sys.exit(130)
    for cell in wanted:
        if cell in failed:
            click.echo(f"failed: {cell.name}: {failed[cell]}", err=True)
    text = table({cell: results[cell] for cell in wanted if cell in results})
    click.echo(text)
    if file is not None:
        write(text, file)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
