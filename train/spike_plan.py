"""What the options of `neurotool train --input spikes` mean: a plan without a teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from neurotool.errors import ConfigError
from neurotool.train.distiller import LossWeights
from neurotool.train.options import check_values
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.ranges import check_range

STUDENT = "streaming"
LEARNED, NONE, PER_CHANNEL = "learned", "none", "learned-per-channel"
TAU = 10.0
"""Time steps that learned time constants start from."""
DEFAULTS: dict[str, Any] = {
    "layers": 1,
    "hidden_size": 128,
    "reset": "hard",
    "v_threshold": LEARNED,
    "tau_syn": LEARNED,
    "tau_mem": LEARNED,
    "epochs": 20.0,
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
}
OPTIONS = frozenset(DEFAULTS) | {
    *("output", "data", "student", "input", "time_steps", "time_step", "batch_size", "accumulate", "rate_penalty"),
    *("prune", "prune_scope", "weight_bits", "warmup", "bf16", "seed", "run_folder", "resume", "force", "metric"),
}


def spike_plan(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> TrainingPlan:
    """given: options; defaults: of the options that say nothing where they are as they always are.

    Raises ConfigError for an option that means nothing for spikes, and for a value outside of its range.
    """
    there = {name: value for name, value in given.items() if value is not None and value is not False}
    for name, value in there.items():
        if name not in OPTIONS and value != defaults.get(name):
            shown = "" if value is True else f" {value}"
            raise ConfigError(f"--{name.replace('_', '-')}{shown}: a student that reads spikes has no such setting")
    if (kind := there.get("student", defaults["student"])) != STUDENT:
        raise ConfigError(f"--input spikes: student {kind} reads text; give --student {STUDENT}")
    if "data" not in there:
        raise ConfigError("--input spikes: no --data; give a folder of recordings, train/CLASS.npz and so on")
    options: dict[str, Any] = {name: defaults.get(name) for name in OPTIONS} | DEFAULTS | there
    check_values(options)
    if options["metric"] not in (None, "accuracy"):
        raise ConfigError(f"--metric {options['metric']}: classes of recordings are measured by accuracy; leave it out")
    weights = LossWeights(0.0, 0.0, 0.0, soft=0.0, hard=1.0, rate=options["rate_penalty"])
    stage = StagePlan("prediction", options["epochs"], options["learning_rate"], options["batch_size"], weights)
    return TrainingPlan(
        output=options["output"],
        teacher="",
        task=Path(options["data"]).name,
        data=options["data"],
        model_type=STUDENT,
        input="spikes",
        time_step=options["time_step"],
        student=_student(options),
        stages=(stage,) if stage.epochs else (),
        **{name: options[name] for name in ("prune", "weight_bits", "weight_decay", "warmup", "accumulate", "seed")},
        run_folder=options["run_folder"],
        prune_scope=options["prune_scope"] or "layer",
        precision="bfloat16" if options["bf16"] else "float32",
        resume=bool(options["resume"]),
        force=bool(options["force"]),
        settings={name: value for name, value in options.items() if value is not None},
    )


def _student(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the student's configuration what is given."""
    threshold = options["v_threshold"]
    student = {
        "hidden_size": options["hidden_size"],
        "num_hidden_layers": options["layers"],
        "time_steps": options["time_steps"],
        "reset": options["reset"],
        "learn_v_threshold": isinstance(threshold, str),
        "v_threshold": 1.0 if isinstance(threshold, str) else threshold,
        "per_channel": threshold == PER_CHANNEL,
    }
    for name in ("tau_syn", "tau_mem"):
        student |= _tau(name, options[name])
    return {name: value for name, value in student.items() if value is not None or name == "tau_syn"}


def _tau(name: str, value: Any) -> dict[str, Any]:
    if value == LEARNED:
        return {name: TAU, f"learn_{name}": True}
    if value == NONE and name == "tau_syn":
        return {name: None, f"learn_{name}": False}
    words = "a number of steps, learned" + (" or none" if name == "tau_syn" else "")
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"--{name.replace('_', '-')} {value}: it is neither {words}") from None
    check_range("tau", number, name)
    return {name: number, f"learn_{name}": False}
