"""What a training run is asked to do: data for the pipeline."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from neurotool.errors import ConfigError
from neurotool.examples import LABEL
from neurotool.texts import as_utf8
from neurotool.train.distiller import LayerMap, LossWeights
from neurotool.train.teacher import DEMO_TEACHER

OPTIONS = {
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "learn_v_threshold": "v-threshold learned",
    "v_threshold_per_channel": "v-threshold learned-per-channel",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "dropout",
}
"""Options of the command line that are not named after their setting."""


def option_of(setting: str) -> str:
    return OPTIONS.get(setting, setting.replace("_", "-"))


def as_typed(setting: str, value: Any) -> str:
    """The option that sets it, and its value: --layers 4."""
    option = f"--{option_of(setting)}"
    if value is True:
        return option
    return f"{option} {','.join(map(str, value)) if isinstance(value, tuple | list) else value}"


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
        weights = asdict(self.weights)
        if not any(weight for name, weight in weights.items() if name not in ("rate", "temperature")):
            remedy = "give one, or no --corpus" if self.name == "general" else "give one, or no epochs"
            raise ConfigError(f"stage {self.name} has no loss: all its weights are 0; {remedy}")


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that determines the result of a run, and where it goes.

    data: a folder, or None for the named `task`; text_columns and label_column: as in tasks.load_data.
    corpus: unlabelled text for the general stage. model_type: the kind of student; student: values of its
    configuration that differ from the teacher's shape. layer_map: teacher hidden states that teach the student's
    embedding and layers; None spreads them evenly. max_shift: see fit_spikes; None for students that do not start
    there.
    augment: variants of every text of the task, labelled by the teacher; the teacher is fine-tuned without them.
    start_from: a checkpoint whose student this one starts as, and by which it is taught if `start_teaches`.
    event_target: events per synapse (train/sparsity.py). prune: share of weights that become 0, of each matrix
    (prune_scope layer) or of all (global). weight_penalty: what is taken off the size of every weight (pruning.py).
    weight_bits: of a weight, as export writes it. relu_penalty: weight of the feed-forward part's rates with activation
    relu; relu_shift: levels by which its neurons send later in the end (sparsity.py).
    integer_aware: all other parameters, too, are numbers that export's integers hold (grid.py); weights have 8 bits
    where nothing else is said.
    ema: decay of a moving average of the weights, which is what is measured and kept.
    compile: auto, on or off, see compilation.py. cache_teacher: see teacher_cache.py. batch sizes are global: the sum
    over processes, and over the `accumulate` parts that each process works off one after the other.
    fsdp: processes share out parameters and optimiser (sharding.py). layer_decay: of learning rates (rates.py).
    input: tokens, or spikes: recordings (neurotool/spike_data.py), which have no teacher, and whose times are in steps
    of `time_step`; `student` then holds values of a SpikeClassifierConfig.
    settings: the options that made the plan, for run.toml (options.py).
    """

    output: Path
    teacher: str = DEMO_TEACHER
    task: str = "demo"
    data: Path | None = None
    metric: str | None = None
    text_columns: tuple[str, ...] | None = None
    label_column: str = LABEL
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
    weight_penalty: float | None = None
    weight_bits: int | None = None
    relu_penalty: float | None = None
    relu_shift: float | None = None
    integer_aware: bool = False
    weight_decay: float = 0.01
    warmup: float = 0.1
    ema: float | None = None
    precision: str = "float32"
    compile: str = "auto"
    input: str = "tokens"
    time_step: float | None = None
    gradient_checkpointing: bool = False
    cache_teacher: bool = False
    accumulate: int = 1
    fsdp: bool = False
    layer_decay: float | None = None
    seed: int = 42
    run_folder: Path | None = None
    resume: bool = False
    force: bool = False
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def processes(self) -> int:
        """Of torchrun; 1 without it."""
        return int(os.environ.get("WORLD_SIZE", 1))

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
        if self.fsdp:
            self._check_fsdp()
        folder = self.output.parent
        if self.output.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            kind = "its folder cannot be written to" if folder.is_dir() else "its folder does not exist"
            kind = "is a folder" if self.output.is_dir() else kind
            raise ConfigError(f"{self.output}: {kind}; give a file in an existing folder with -o")
        if self.output.exists():
            self._check_output()

    def _check_fsdp(self) -> None:
        if self.processes == 1:
            raise ConfigError(
                "--fsdp: one process has none to share with; start several with torchrun, or leave it out"
            )
        without = {
            "--prune": self.prune,
            "--weight-penalty": self.weight_penalty,
            "--weight-bits or --integer-aware": self.weight_bits,  # reads whole matrices, as the two above do
            "--event-target": self.event_target,
            "--relu-penalty": self.relu_penalty,
            "--feedback": self.student.get("feedback"),  # passes are as many as a process's own texts need
            "--compile on": self.compile == "on",  # compiled layers read their weights where they were
            "--student streaming": self.model_type == "streaming",  # batch norms, which are each process's own
        }
        if refused := [option for option, given in without.items() if given not in (None, False)]:
            raise ConfigError(f"--fsdp: does not go with {refused[0]}; leave out one of them")

    def _check_output(self) -> None:
        """--force replaces files, and none that the run reads."""
        if not self.output.is_file():
            raise ConfigError(f"{self.output}: is no regular file; give another name with -o")
        places = [Path(place) for place in (self.data, self.corpus, self.teacher, self.start_from) if place is not None]
        for place in places:
            for file in place.iterdir() if place.is_dir() else (place,):
                if file.exists() and file.samefile(self.output):
                    raise ConfigError(f"{self.output}: is what the run reads; give another name with -o")

    def to_dict(self) -> dict[str, Any]:
        """What determines the result, as JSON values; what a path has that is not UTF-8 is replaced."""
        values = asdict(self)
        for name in ("output", "run_folder", "resume", "force", "settings", "fsdp"):
            del values[name]
        return json.loads(as_utf8(json.dumps(values, default=str, ensure_ascii=False)))
