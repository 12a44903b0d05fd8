"""What a training run is asked to do: data for the pipeline, and the part of the run that `--resume` compares."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neurotool.errors import ConfigError
from neurotool.train.teacher import DEMO_TEACHER
from neurotool.train.trainer import LossWeights


@dataclass(frozen=True)
class StagePlan:
    """One distillation stage; it is skipped when it has no epochs. `weights` are the loss weights of the stage."""

    name: str
    epochs: float
    learning_rate: float
    batch_size: int
    weights: LossWeights


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines the result of a run, and where it goes.

    data: a folder, or None for the named `task`. corpus: unlabelled text for the general stage. student: values of
    SpikingBertConfig that differ from the teacher's shape. layer_map: teacher hidden states (0 = embedding) that teach
    the student's embedding and layers; None spreads them evenly. max_shift: see fit_spikes.
    batch sizes are global: the sum over processes.
    """

    output: Path
    teacher: str = DEMO_TEACHER
    task: str = "demo"
    data: Path | None = None
    metric: str | None = None
    corpus: str | None = None
    max_texts: int | None = None
    student: dict[str, Any] = field(default_factory=dict)
    init: str = "teacher"
    layer_map: tuple[int, ...] | None = None
    max_shift: float = 0.5
    stages: tuple[StagePlan, ...] = ()
    teacher_epochs: float = 2.0
    teacher_learning_rate: float = 5e-5
    teacher_batch_size: int = 32
    max_length: int = 128
    weight_decay: float = 0.01
    warmup: float = 0.1
    precision: str = "float32"
    seed: int = 42
    run_folder: Path | None = None
    resume: bool = False
    force: bool = False

    @property
    def folder(self) -> Path:
        """Where checkpoints to resume from and TensorBoard logs go."""
        return self.run_folder or Path("runs") / self.output.stem

    def to_dict(self) -> dict[str, Any]:
        """What determines the result, as JSON values."""
        values = asdict(self)
        for name in ("output", "run_folder", "resume", "force"):
            del values[name]
        return json.loads(json.dumps(values, default=str))


def open_run(plan: TrainingPlan) -> None:
    """Make the run's folder, or check that it holds the unfinished run to resume.

    Raises ConfigError when something would be lost (use --force) or the resumed run was started differently.
    """
    record = plan.folder / "plan.json"
    if plan.resume:
        if not record.exists():
            raise ConfigError(f"nothing to resume in {plan.folder}: leave out --resume to start")
        _compare(plan, json.loads(record.read_text(encoding="utf-8")))
        return
    if not plan.force:
        if plan.output.exists():
            raise ConfigError(f"{plan.output} exists: --force replaces it, -o FILE writes another")
        if record.exists():
            raise ConfigError(f"{plan.folder} holds an unfinished run: --resume goes on with it, --force starts over")
    plan.folder.mkdir(parents=True, exist_ok=True)
    temporary = record.with_suffix(".tmp")
    temporary.write_text(json.dumps(plan.to_dict(), indent=1), encoding="utf-8")
    temporary.replace(record)


def _compare(plan: TrainingPlan, before: dict[str, Any]) -> None:
    now = plan.to_dict()
    for name in now:
        if now[name] != before.get(name):
            raise ConfigError(
                f"cannot resume {plan.folder}: {name} was {before.get(name)!r} and is now {now[name]!r}; "
                "give the same options, or --force to start over"
            )
