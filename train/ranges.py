"""The range of every number that a training run is asked for: checked before anything starts, and stated by --help."""

import math
from typing import NamedTuple

from neurotool.errors import ConfigError


class Range(NamedTuple):
    low: float
    high: float
    without_low: bool = False
    without_high: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        return not ((self.without_low and value == self.low) or (self.without_high and value == self.high))

    def __str__(self) -> str:
        low = f"above {_number(self.low)}" if self.without_low else _number(self.low)
        if self.without_low and self.without_high:
            return f"{low} and below {_number(self.high)}"
        return f"{low} to {'below ' if self.without_high else ''}{_number(self.high)}"


_COUNT = Range(1, 65536)
_WEIGHT = Range(0, 1e6)
_SHARE = Range(0, 1, without_high=True)
_POSITIVE = Range(1e-6, 1e6)
_RATE = Range(0, 10, without_low=True)

RANGES = {
    "num_hidden_layers": Range(1, 256),
    "hidden_size": Range(1, 16384),
    "intermediate_size": _COUNT,
    "num_attention_heads": Range(1, 1024),
    "time_steps": _COUNT,
    "leak": Range(0, 1, without_low=True),
    "v_threshold": _POSITIVE,
    "tau": Range(1, 1e6),
    "time_step": Range(1e-12, 1e12),
    "v_init": Range(-1e6, 1e6),
    "attention_v_threshold": _POSITIVE,
    "attention_scale": _POSITIVE,
    "kernel_sizes": Range(1, 1024),
    "channels": Range(1, 16384),
    "lookahead": Range(0, 1024),
    "taps": Range(0, 64),
    "hidden_dropout_prob": _SHARE,
    "attention_probs_dropout_prob": _SHARE,
    "max_shift": _SHARE,
    "max_texts": Range(1, 1e12),
    "corpus_length": Range(3, 16384),
    "max_length": Range(4, 16384),
    "augment": Range(0, 1000),
    "epochs": Range(0, 10000),
    "learning_rate": _RATE,
    "batch_size": _COUNT,
    "weight": _WEIGHT,
    "temperature": Range(0.01, 1000),
    "teacher_epochs": Range(0, 10000, without_low=True),
    "teacher_learning_rate": _RATE,
    "teacher_batch_size": _COUNT,
    "weight_decay": Range(0, 100),
    "warmup": _SHARE,
    "accumulate": _COUNT,
    "event_target": Range(0, 1, without_low=True, without_high=True),
    "prune": Range(0, 1, without_low=True, without_high=True),
    "weight_penalty": Range(0, 100, without_low=True),
    "relu_penalty": _WEIGHT,
    "relu_shift": Range(0, 65536),
    "dead_zone": Range(0, 65536),
    "ema": _SHARE,
    "layer_decay": Range(0, 1, without_low=True),
    "seed": Range(0, 2**32, without_high=True),
}
"""By the names of TrainingPlan, StagePlan and the student's configuration; weight: of every loss."""


def range_of(option: str) -> str:
    """The name in RANGES of what an option sets; "" where it is no number."""
    renamed = {"layers": "num_hidden_layers", "heads": "num_attention_heads", "dropout": "hidden_dropout_prob"}
    weights = option in ("inner_share", "rate_penalty") or option.endswith("_weight")
    name = "weight" if weights else renamed.get(option, option)
    name = name if name in RANGES else name.removeprefix("general_").removeprefix("inner_")
    return name if name in RANGES else ""


def check_range(name: str, value: object, option: str) -> None:
    """Raises ConfigError where the value of an option is outside of RANGES[name]."""
    if value not in RANGES[name]:
        raise ConfigError(f"--{option.replace('_', '-')} {value}: it must be {RANGES[name]}")


def _number(value: float) -> str:
    return f"2^{math.log2(value):.0f}" if value == 2**32 else f"{value:g}" if value >= 1e6 else f"{value:.6g}"
