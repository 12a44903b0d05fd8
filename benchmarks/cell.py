"""A cell of table.py: one `neurotool train` and its figures, in a process that fills many of them one after the other,
since importing torch and starting a GPU takes as long as a small training."""

import gc
import json
import math
import os
import re
import shlex
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from click.testing import CliRunner

from neurotool.activity import Activity
from neurotool.checkpoint import Checkpoint, read_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import NeurotoolError
from neurotool.files import replacing

NAMED = re.compile(r"\{([^{}]+)\}")
"""Another student, in a student's options."""


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

    @property
    def starts_from(self) -> "Cell | None":
        """The cell whose checkpoint its options name; only its files are known."""
        named = NAMED.search(self.options)
        return None if named is None else Cell(named[1], self.data, self.seed, "")

    def command(self, folder: Path) -> list[str]:
        """Options of `neurotool train`."""
        start = self.starts_from
        options = (
            self.options if start is None else NAMED.sub(shlex.quote(str(start.path(folder, ".ckpt"))), self.options)
        )
        return [*shlex.split(options), "--seed", str(self.seed)]

    def path(self, folder: Path, ending: str) -> Path:
        return folder / f"{self.name}{ending}"


@dataclass(frozen=True)
class Result:
    """Figures of a cell. minutes: of the student's training alone. Shares: arithmetic energy (45 nm, fp32) of the
    student over that of the dense twin and of the teacher, where they are asked for. A student without spikes has
    neither a rate nor a twin. epochs: the metric after each epoch of the last stage. kept: student over teacher.
    spikes_per_synapse, events_per_synapse: see per_synapse."""

    metric: str
    teacher: float
    student: float
    rate: float | None
    of_twin: float | None
    of_teacher: float | None
    minutes: float
    epochs: tuple[float, ...] = ()
    kept: float | None = None
    spikes_per_synapse: float | None = None
    events_per_synapse: float | None = None


stopped = False
"""Whether this process was told to end."""


def start(deadline: float) -> None:
    """Of a process that fills cells: Ctrl-C, and time.time() reaching `deadline`, stop the training it is in, which
    saves its state. Before and after a training they only leave a note."""

    def note(signum: int, frame: Any) -> None:
        global stopped
        stopped = True

    signal.signal(signal.SIGINT, note)
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    if deadline < math.inf:
        signal.setitimer(signal.ITIMER_REAL, max(deadline - time.time(), 1e-3))


def train(cell: Cell, data: Path, folder: Path) -> None:
    """Train a cell in this process, or go on with it. Raises NeurotoolError with the last line of its log, and
    KeyboardInterrupt."""
    run_folder, log = folder / "runs" / cell.name, cell.path(folder, ".log")
    where = {"--data": data / cell.data, "-o": cell.path(folder, ".ckpt"), "--run-folder": run_folder}
    options = [*cell.command(folder), *(str(part) for option in where.items() for part in option)]
    resume = ["--resume"] if (run_folder / "unfinished" / "plan.json").exists() else []
    with log.open("w", encoding="utf-8") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = 130 if stopped else cli(["train", *options, *resume], "neurotool", standalone_mode=False)
    except click.ClickException as error:
        code = error.exit_code
        error.show()
    except (click.Abort, KeyboardInterrupt):
        code = 130
    finally:
        signal.signal(signal.SIGINT, handler)
        sys.stdout.flush()
        forget()
    if code == 130:
        raise KeyboardInterrupt
    if code:
        last = (log.read_text(encoding="utf-8").strip().splitlines() or ["no output"])[-1]
        raise NeurotoolError(last.removeprefix("Error: "))


def forget() -> None:
    """What the last training left in memory, and what was compiled for it."""
    import torch

    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def measure(checkpoint: Path, energy: bool) -> Result:
    content = read_checkpoint(checkpoint)
    record, activity = content.training, content.activity
    metric = record["task"]["metrics"][0]
    teacher, student = record["teacher"]["metrics"][metric], record["metrics"][metric]
    shares = energy_shares(checkpoint) if energy else {}
    spikes, events = per_synapse(checkpoint, content)
    history = record["stages"][-1].get("history", [])
    return Result(
        metric,
        teacher,
        student,
        activity["mean_rate"] if activity["layers"] else None,
        shares.get("twin"),
        shares.get("teacher"),
        sum(stage.get("seconds", 0.0) for stage in record["stages"]) / 60,
        tuple(entry[f"eval_{metric}"] for entry in history if f"eval_{metric}" in entry),
        student / teacher if teacher > 0 else None,
        spikes,
        events,
    )


def per_synapse(path: Path, checkpoint: Checkpoint) -> tuple[float | None, float | None]:
    """Operations that the spikes of a phased student cause, and those of its active neurons, each over the
    multiply-accumulates of its dense twin. None where the record of its activity does not say."""
    from neurotool.student.serialise import load_student
    from neurotool.train.sparsity import Synapses

    config, activity = checkpoint.config, Activity.from_dict(checkpoint.activity)
    if not activity.layers or config.get("schedule") != "phased" or config.get("feedback"):
        return None, None
    synapses = Synapses(load_student(path).model.to_graph())
    total = synapses.per_text * activity.inputs + synapses.per_token * activity.tokens
    total += synapses.per_pair * activity.token_pairs

    def share(layers: dict[str, Any]) -> float | None:
        if None in layers.values():
            return None
        senders = ((synapses.senders[name], layer) for name, layer in layers.items())
        return sum(s.fixed * layer.spikes + s.per_token * layer.spikes_times_tokens for s, layer in senders) / total

    active = {name: getattr(layer, "active", None) for name, layer in activity.layers.items()}
    return share(activity.layers), share(active)


def energy_shares(checkpoint: Path) -> dict[str, float]:
    reported = CliRunner().invoke(cli, ["energy", "report", str(checkpoint), "--format", "json"])
    if reported.exit_code:
        raise NeurotoolError(f"{checkpoint}: {reported.stderr.strip()}")
    report = json.loads(reported.stdout)
    arithmetic = [c for c in report["comparisons"] if c["model"] == "arithmetic only, 45 nm, fp32"]
    return {comparison["kind"]: comparison["share"] for comparison in arithmetic}


def result(cell: Cell, data: Path, folder: Path, energy: bool = True) -> Result:
    """The cell's figures; it is trained where they are not there. Its options are noted before, its figures after.

    Raises NeurotoolError where training fails, and for a cell that was begun with other options; KeyboardInterrupt.
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
        keep(record, known | described(read_checkpoint(checkpoint)))
    return Result(**known["figures"])


def described(content: Checkpoint) -> dict[str, Any]:
    """All that an account of operations and energy needs of a checkpoint, and how training went. zeros: share of a
    matrix that is 0."""
    matrices = {name: tensor for name, tensor in content.tensors.items() if tensor.ndim > 1}
    zeros = {name: float(np.mean(tensor == 0)) for name, tensor in matrices.items() if not np.all(tensor)}
    history = [entry for entry in content.training["stages"][-1].get("history", []) if "eval_loss" not in entry]
    validated = [entry for entry in history if any(key.startswith("eval_") for key in entry)]
    return {"config": content.config, "activity": content.activity, "zeros": zeros, "history": validated}


def keep(record: Path, content: dict[str, Any]) -> None:
    with replacing(record, force=True, error_type=NeurotoolError) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
