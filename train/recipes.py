"""What `neurotool train --student KIND` means where an option is not given, and named sets of options."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """model_type: the network. options: defaults of the command's options, where they differ from SpikingBERT's; None
    where there is nothing to set."""

    model_type: str
    title: str
    options: dict[str, Any] = field(default_factory=dict)


BASE: dict[str, Any] = {
    "init": "auto",
    "layers": 4,
    "time_steps": 4,
    "schedule": "phased",
    "spikes": "binary",
    "leak": 1.0,
    "reset": "soft",
    "v_threshold": "learned",
    "max_shift": 0.5,
    "epochs": 2.0,
    "learning_rate": 2e-4,
    "general_learning_rate": 3e-4,
    "embedding_weight": 1.0,
    "hidden_weight": 1.0,
    "attention_weight": 0.01,
    "soft_weight": 1.0,
    "prefix_weight": 0.0,
    "hard_weight": 0.5,
    "general_soft_weight": 1.0,
    "inner_share": 1.0,
    "weight_decay": 0.01,
}
"""SpikingBERT's, distilled."""

_NEURONS = ("time_steps", "schedule", "spikes", "leak", "reset", "v_threshold", "max_shift")
_UNROLLED = {
    "schedule": "concurrent",
    "max_shift": None,
    "attention_weight": 0.0,
    "learning_rate": 5e-4,
    "weight_decay": 5e-3,
    "epochs": 5.0,
}
_UNTAUGHT = {
    "init": "random",
    "embedding_weight": 0.0,
    "hidden_weight": 0.0,
    "soft_weight": 0.0,
    "general_soft_weight": 0.0,
    "hard_weight": 1.0,
}

SELECTIVE = {"attention_scale": 0.5, "attention_v_threshold": 0.5}
"""Of SpikeBERT's attention with a softmax, which reads counts of coincidences; its neurons read means of spikes."""
SELECTIVE_WINDOWS = {"attention_scale": 1.0, "attention_v_threshold": 0.93}
"""The same in the phased schedule, where it reads products of rates, which are smaller. Where all tokens agree a mean
of rates is a whole number of spikes, which a threshold of 1 would meet exactly; rounding would then decide when in the
window a neuron sends."""

RECIPES = {
    "spikingbert": Recipe("spikingbert", "SpikingBERT, trained at the equilibrium of its rates"),
    # Weights and rates: arXiv 2308.15122, section 4; `inner_share` makes .1 of the two feature weights in stage 2.
    "spikebert": Recipe(
        "spikebert",
        "SpikeBERT, trained through time",
        _UNROLLED
        | {"leak": 0.9, "v_threshold": 1.0, "inner_share": 0.1, "hard_weight": 0.1, "general_soft_weight": 0.0}
        | {"general_learning_rate": 5e-4},
    ),
    "spikformer": Recipe(
        "spikebert", "SpikeBERT's network without a teacher", _UNROLLED | _UNTAUGHT | {"leak": 0.9, "v_threshold": 1.0}
    ),
    "streaming": Recipe(
        "streaming",
        "one token after another, weights stored once: standard neurons only",
        _UNROLLED
        | dict.fromkeys(_NEURONS)
        | {"schedule": "concurrent", "time_steps": 1, "reset": "hard", "embedding_weight": 0.0, "hidden_weight": 0.0}
        | {"general_soft_weight": 0.0, "prefix_weight": 1.0, "learning_rate": 1e-3},
    ),
    "ann": Recipe("ann", "the same network without spikes", dict.fromkeys(_NEURONS)),
    # T, threshold and leak: arXiv 2406.19230 and its code.
    "snn-textcnn": Recipe(
        "snn-textcnn",
        "convolutions over tokens without a teacher",
        _UNROLLED
        | _UNTAUGHT
        | {"init": "auto", "layers": None, "time_steps": 50, "v_threshold": 1.0, "learning_rate": 1e-3},
    ),
}


@dataclass(frozen=True)
class Preset:
    """options: of the command, by name. reached: what it reached here, docs/results.md saying how it was measured.
    continues: whether it is for a student that was trained before."""

    title: str
    options: dict[str, Any]
    reached: str
    continues: bool = False


PRESETS = {
    "fast": Preset(
        "the demo: minutes on two cores",
        {"spikes": "ternary", "time_steps": 4, "layers": 4, "epochs": 1.0, "learning_rate": 4e-4},
        "the demo's sentences 81.2 of 84.7 on one thread, 80.0 of 85.1 on two (accuracy, one seed)",
    ),
    "best": Preset(
        "the highest accuracy so far",
        {
            "spikes": "ternary",
            "time_steps": 4,
            "layers": 4,
            "epochs": 10.0,
            "batch_size": 64,
            "learning_rate": 4e-4,
        },
        "SST-2 87.8 of 88.0, MRPC 74.2 of 79.0 (accuracy, one seed); with 5 epochs SST-2 86.4 of 87.4, MR 83.4 of 83.6 "
        "(three seeds)",
    ),
    "sparse": Preset(
        "a third of best's messages; give --start-from a student of its kind",
        {
            "time_steps": 4,
            "v_threshold": "learned-per-channel",
            "event_target": 0.2,
            "epochs": 5.0,
            "batch_size": 64,
            "learning_rate": 4e-4,
            "max_length": 96,
        },
        "so started SST-2 85.2 of 87.4, MR 82.5 of 83.6 at 0.19 events per synapse (accuracy, means of three seeds)",
        continues=True,
    ),
    "best-spikebert": Preset(
        "SpikeBERT in rates of windows, its layers fitted to the teacher's: also for pairs of sentences",
        {
            "student": "spikebert",
            "schedule": "phased",
            "spikes": "ternary",
            "time_steps": 4,
            "layers": 4,
            "attention_softmax": True,
            "init": "fitted",
            "epochs": 3.0,
            "learning_rate": 2e-4,
            "max_length": 96,
        },
        "SICK 80.6 of 82.6, SST-2 83.9 of 88.0 (accuracy, one seed)",
    ),
    # arXiv 2308.10873: binary IF with one threshold, all layers at once, stages with separate weights.
    "paper-spikingbert": Preset(
        "SpikingBERT as published; give --corpus for its first stage, and a 12-layer --teacher",
        {
            "schedule": "concurrent",
            "spikes": "binary",
            "time_steps": 125,
            "v_threshold": 1.0,
            "v_init": 0.0,
            "layers": 4,
            "pooling": "cls",
            "general_epochs": 3.0,
            "general_learning_rate": 5e-5,
            "general_soft_weight": 0.0,
            "inner_epochs": 10.0,
            "inner_share": 0.0,
            "attention_weight": 1.0,
            "hard_weight": 0.0,
            "epochs": 4.0,
            "learning_rate": 5e-5,
        },
        "not trained here; published: SST-2 88.2 of 93.3",
    ),
    # arXiv 2308.15122, section 4.
    "paper-spikebert": Preset(
        "SpikeBERT as published, with masked padding; give --corpus for its first stage, and a 12-layer --teacher",
        {"student": "spikebert", "layers": 12, "positions": "none", "augment": 20, "epochs": 30.0, "max_length": 256},
        "not trained here; published: SST-2 85.4 of 92.3, MR 80.7 of 87.6",
    ),
}


_FINE_TUNING = {"teacher_epochs": 2.0, "teacher_learning_rate": 5e-5}
_FROM_SCRATCH = {"teacher_epochs": 5.0, "teacher_learning_rate": 5e-4}


def teacher_default(teacher: str, option: str) -> float:
    return (_FROM_SCRATCH if teacher == "scratch" else _FINE_TUNING)[option]


def default(kind: str, option: str) -> Any:
    return RECIPES[kind].options.get(option, BASE[option])


def defaults_text(option: str) -> str:
    """For the help text: SpikingBERT's value, and those of the kinds that differ."""
    others = {kind: recipe.options[option] for kind, recipe in RECIPES.items() if option in recipe.options}
    return "; ".join([_text(BASE[option]), *(f"{kind} {_text(value)}" for kind, value in others.items())])


def _text(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
