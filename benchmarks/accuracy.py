"""Trains and evaluates the students of docs/results.md, one `neurotool train` a row; a row whose checkpoint exists is
only read, so that the table can be continued after a stop.

    python benchmarks/accuracy.py DATA FOLDER [--only NAME,NAME]

DATA holds one folder a data set (sst2, mr, mrpc, sts), each with train and validation files. Prints a Markdown table:
validation metric of teacher and student, share kept, mean spiking rate, the same checkpoint at other T, training time.
"""

import json
import subprocess
import sys
from pathlib import Path

import click

from neurotool.checkpoint import read_checkpoint

COMMON = "--bf16 --seed 42"
CORPUS = "--corpus demo --max-texts 6000 --corpus-length 40 --general-epochs 1"
ROWS = {
    "sst2": "--data sst2 --spikes ternary -T 4 --epochs 4",
    "mr": "--data mr --spikes ternary -T 4 --epochs 4",
    "mrpc": "--data mrpc --spikes ternary -T 4 --epochs 3 --teacher-epochs 3",
    "sts": "--data sts --spikes ternary -T 4 --epochs 1 --teacher-epochs 1",
    "sst2 corpus": f"--data sst2 --spikes ternary -T 4 --epochs 4 {CORPUS}",
    "mr corpus": f"--data mr --spikes ternary -T 4 --epochs 4 {CORPUS}",
    "sst2 no attention loss": "--data sst2 --spikes ternary -T 4 --epochs 4 --attention-weight 0",
    "sst2 bge": "--data sst2 --teacher bge --teacher-learning-rate 3e-5 --spikes ternary -T 4 --epochs 4",
} | {
    f"sst2 {spikes} T={t}": f"--data sst2 --spikes {spikes} -T {t} --epochs 1"
    for t in (1, 2, 4, 8, 16)
    for spikes in ("ternary", "binary")
}
ROWS |= {
    f"sst2 penalty {weight}": f"--data sst2 --spikes ternary -T 2 --epochs 3 --rate-penalty {weight}"
    for weight in (2, 8, 30, 100)
}


def train(name: str, data: Path, folder: Path, bge: str | None) -> Path:
    output = folder / f"{name.replace(' ', '-')}.ckpt"
    if output.exists():
        return output
    words = ROWS[name].split()
    words[words.index("--data") + 1] = str(data / words[words.index("--data") + 1])
    if "bge" in words:
        if bge is None:
            raise click.UsageError("the row 'sst2 bge' needs --bge FOLDER, bge-small-en-v1.5 as safetensors")
        words[words.index("bge")] = bge
    run_folder = folder / "runs" / output.stem
    resume = ["--resume"] if (run_folder / "unfinished" / "plan.json").exists() else []
    command = [sys.executable, "-m", "neurotool", "train", *words, *COMMON.split(), *resume]
    log = folder / f"{output.stem}.log"
    with log.open("a") as stream:
        subprocess.run(
            [*command, "-o", str(output), "--run-folder", str(run_folder)], stdout=stream, stderr=stream, check=True
        )
    return output


def row(name: str, checkpoint: Path, data: Path) -> str:
    read = read_checkpoint(checkpoint)
    record, metric = read.training, read.training["task"]["metrics"][0]
    teacher, student = record["teacher"]["metrics"][metric], record["metrics"][metric]
    source = data / record["data"]["name"]
    command = [sys.executable, "-m", "neurotool", "evaluate", str(checkpoint), "--data", str(source), "--json"]
    others = json.loads(subprocess.run([*command, "-T", "1,2,4,8,16"], capture_output=True, check=True).stdout)
    by_steps = " / ".join(f"{100 * values[metric]:.1f}" for values in others["time_steps"].values())
    cells = (
        name,
        metric,
        f"{100 * teacher:.1f}",
        f"{100 * student:.1f}",
        f"{100 * student / teacher:.1f} %",
        f"{read.activity['mean_rate']:.3f}",
        by_steps,
        f"{record['seconds'] / 60:.0f} min",
    )
    return f"| {' | '.join(cells)} |"


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--only", default=",".join(ROWS), help="Rows to train, comma-separated.")
@click.option("--bge", help="Folder of bge-small-en-v1.5.")
def main(data: Path, folder: Path, only: str, bge: str | None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    click.echo("| run | metric | teacher | student | kept | mean rate | at T = 1 / 2 / 4 / 8 / 16 | training |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name in only.split(","):
        click.echo(row(name, train(name, data, folder, bge), data))


if __name__ == "__main__":
    main()
