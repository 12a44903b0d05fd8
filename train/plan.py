"""What a training run is asked to do: data for the pipeline, and the part of the run that `--resume` compares."""

import json
import math
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neurotool.errors import ConfigError
from neurotool.files import replacing
from neurotool.train.teacher import DEMO_TEACHER
from neurotool.train.trainer import LayerMap, LossWeights, is_first_process

OPTIONS = {
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "learn_v_threshold": "v-threshold learned",
    "v_threshold_per_channel": "v-threshold learned-per-channel",
}
"""Options of the command line that are not named after their setting."""


@dataclass(frozen=True)
class StagePlan:
    """One distillation stage; it is skipped when it has no epochs. `weights` are the loss weights of the stage."""

    name: str
    epochs: float
    learning_rate: float
    batch_size: int
    weights: LossWeights

    def check(self) -> None:
        """Raises ConfigError for values nothing can be trained with."""
        _positive(f"epochs of stage {self.name}", self.epochs)
        _positive(f"learning rate of stage {self.name}", self.learning_rate)
        _require(f"batch size of stage {self.name}", self.batch_size, self.batch_size >= 1, "at least 1")
        weights = asdict(self.weights)
        _positive("temperature", weights.pop("temperature"))
        for name, weight in weights.items():
            _require(f"{name} weight of stage {self.name}", weight, 0 <= weight < math.inf, "at least 0")
        if not any(weight for name, weight in weights.items() if name != "rate"):
            remedy = "give one, or no --corpus" if self.name == "general" else "give one, or no epochs"
            raise ConfigError(f"stage {self.name} has no loss: all its weights are 0; {remedy}")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines the result of a run, and where it goes.

    data: a folder, or None for the named `task`. corpus: unlabelled text for the general stage. model_type:
    the kind of student; student: values of its configuration that differ from the teacher's shape. layer_map: teacher
    hidden states that teach the student's embedding and layers; None spreads them evenly. max_shift: see fit_spikes;
    None for students that do not start there.
    augment: variants of every text of the task, labelled by the teacher; the teacher is fine-tuned without them.
    start_from: a checkpoint whose student this one starts as, and by which it is taught if `start_teaches`.
    event_target: events per synapse (train/sparsity.py). prune: share of weights that become 0, of each matrix
    (prune_scope layer) or of all (global). weight_bits: of a weight, as export writes it.
    ema: decay of a moving average of the weights, which is what is measured and kept.
    compile: auto, on or off, see compilation.py. cache_teacher: see teacher_cache.py. batch sizes are global: the sum
    over processes, and over the `accumulate` parts that each process works off one after the other.
    settings: the options that made the plan, for run.toml (options.py).
    """

    output: Path
    teacher: str = DEMO_TEACHER
    task: str = "demo"
    data: Path | None = None
    metric: str | None = None
    corpus: str | None = None
    max_texts: int | None = None
    corpus_length: int = 64
    model_type: str = "spikingbert"
    student: dict[str, Any] = field(default_factory=dict)
    init: str = "teacher"
    layer_map: LayerMap | None = None
    max_shift: float | None = 0.5
    stages: tuple[StagePlan, ...] = ()
    teacher_epochs: float = 2.0
    teacher_learning_rate: float = 5e-5
    teacher_batch_size: int = 32
    max_length: int = 128
    augment: int = 0
    start_from: Path | None = None
    start_teaches: bool = False
    event_target: float | None = None
    prune: float | None = None
    prune_scope: str = "layer"
    weight_bits: int | None = None
    weight_decay: float = 0.01
    warmup: float = 0.1
    ema: float | None = None
    precision: str = "float32"
    compile: str = "auto"
    gradient_checkpointing: bool = False
    cache_teacher: bool = False
    accumulate: int = 1
    seed: int = 42
    run_folder: Path | None = None
    resume: bool = False
    force: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where TensorBoard logs go, and the state of the unfinished run."""
        return self.run_folder or self.output.parent / "runs" / self.output.name

    @property
    def state_folder(self) -> Path:
        """What `--resume` needs; removed when the run is finished."""
        return self.folder / "unfinished"

    def check(self) -> None:
        """Raises ConfigError for values that would fail only after some training."""
        if not self.stages:
            raise ConfigError("nothing to train: every stage has 0 epochs; give --epochs")
        for stage in self.stages:
            stage.check()
        _positive("teacher epochs", self.teacher_epochs)
        _positive("teacher learning rate", self.teacher_learning_rate)
        _require("max length", self.max_length, self.max_length >= 4, "at least 4")
        _require("corpus length", self.corpus_length, self.corpus_length >= 3, "at least 3")
        _require("--accumulate", self.accumulate, self.accumulate >= 1, "at least 1")
        _require("--augment", self.augment, self.augment >= 0, "at least 0")
        for name, share in {"--event-target": self.event_target, "--prune": self.prune}.items():
            _require(name, share, share is None or 0 < share < 1, "above 0 and below 1")
        _require("--weight-bits", self.weight_bits, self.weight_bits in (None, 1, 2, 4, 8), "8, 4, 2 or 1")
        _require("weight decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "at least 0")
        shares = {"warmup": self.warmup} | ({} if self.ema is None else {"--ema": self.ema})
        shares |= {} if self.max_shift is None else {"max shift": self.max_shift}
        shares |= {name: value for name, value in self.student.items() if name.endswith("dropout_prob")}
        for name, value in shares.items():
            _require(name, value, 0 <= value < 1, "at least 0 and below 1")
        _require("seed", self.seed, 0 <= self.seed < 2**32, "at least 0 and below 2^32")
        folder = self.output.parent
        if self.output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            kind = "its folder cannot be written to" if folder.is_dir() else "its folder does not exist"
            kind = "is a folder" if self.output.is_dir() else kind
            raise ConfigError(f"{self.output}: {kind}; give a file in an existing folder with -o")

    def to_dict(self) -> dict[str, Any]:
        """What determines the result, as JSON values."""
        values = asdict(self)
        for name in ("output", "run_folder", "resume", "force", "settings"):
            del values[name]
        return json.loads(json.dumps(values, default=str))


def check_run(plan: TrainingPlan) -> None:
    """Whether the run can start, or the run's folder holds the unfinished run to resume.

    Raises ConfigError when something would be lost (use --force) or the resumed run was started differently.
    """
    if not is_first_process():
        return
    record = plan.state_folder / "plan.json"
    if plan.resume:
        if not record.exists():
            raise ConfigError(f"nothing to resume in {plan.folder}: leave out --resume to start")
        _compare(plan, json.loads(record.read_text(encoding="utf-8")))
        return
    if not plan.force:
        if plan.output.exists():
            raise ConfigError(f"{plan.output} exists: --force replaces it, -o FILE writes another")
        if any(file.is_file() and file != record for file in plan.state_folder.rglob("*")):
            raise ConfigError(
                f"{plan.folder} holds an unfinished run: --resume goes on with it, --force starts over, --run-folder "
                "keeps both"
            )


def open_run(plan: TrainingPlan) -> None:
    """Make the folder of a new run. Raises ConfigError where that cannot be."""
    if plan.resume or not is_first_process():
        return
    try:
        close_run(plan)  # what is left of another run would mix with this one when it is resumed
        plan.state_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{plan.folder}: the run's folder cannot be made ({error.strerror}); give another with --run-folder"
        ) from error
    with replacing(plan.state_folder / "plan.json", force=True, error_type=ConfigError) as temporary:
        temporary.write_text(json.dumps(plan.to_dict(), indent=1), encoding="utf-8")


def close_run(plan: TrainingPlan) -> None:
    """Remove the state to resume from, the record first, so that half of it is never taken for a run."""
    (plan.state_folder / "plan.json").unlink(missing_ok=True)
    shutil.rmtree(plan.state_folder, ignore_errors=True)


def _positive(name: str, value: float) -> None:
    _require(name, value, 0 < value < math.inf, "a positive number")


def _require(name: str, value: Any, fits: bool, limit: str) -> None:
    if not fits:
        raise ConfigError(f"{name} is {value}: it must be {limit}")


def _compare(plan: TrainingPlan, before: dict[str, Any]) -> None:
    now = plan.to_dict()
    before, now = before | before.get("student", {}), now | now["student"]
    del before["student"], now["student"]
    for name in dict.fromkeys([*now, *before]):
        if now.get(name) != before.get(name):
            setting = OPTIONS.get(name, name)
            raise ConfigError(
                f"cannot resume {plan.folder}: {setting} was {before.get(name)!r} and is now {now.get(name)!r}; "
                "give the same options, or --force to start over"
            )
