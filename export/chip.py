"""Chips as data: a file of sourced limits for each. Energy constants are not here, but in the energy room."""

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from neurotool.errors import ConfigError

CHIPS = ("loihi1", "loihi2")
REQUIRED = (
    "cores_per_chip",
    "neurons_per_core",
    "synapse_bits_per_core",
    "weights_per_chunk",
    "chunk_header_bits",
    "synapse_word_bits",
    "weight_bits",
    "state_bits_per_neuron",
    "message_bits",
    "programmable_neurons",
)
OPTIONAL = (
    "memory_bits_per_core",
    "input_axons_per_core",
    "output_axons_per_core",
    "sparse_index_bits",
    "weight_exponents",
    "exponents_per_layer",
    "threshold_bits",
    "bias_bits",
    "compartments_for_soft_reset",
    "convolutions_share_weights",
)
STATUSES = ("measured", "pre-silicon", "documented", "derived", "secondary")
_MAY_BE_ZERO = ("chunk_header_bits", "programmable_neurons", "convolutions_share_weights")
ABOVE_ZERO = tuple(name for name in REQUIRED + OPTIONAL if name not in _MAY_BE_ZERO)


@dataclass(frozen=True)
class Limit:
    """status: how the value is known, one of STATUSES; secondary: read in a review of the primary source."""

    value: int
    unit: str
    status: str
    source: str

    def __str__(self) -> str:
        return f"{self.value} {self.unit}"


@dataclass(frozen=True)
class Chip:
    """limits: by name, all of REQUIRED and any of OPTIONAL. A limit that is absent is not checked."""

    name: str
    technology: str
    limits: dict[str, Limit]

    def __getitem__(self, limit: str) -> int:
        return self.limits[limit].value

    def get(self, limit: str) -> int | None:
        return self.limits[limit].value if limit in self.limits else None


def load_chip(chip: str | Path) -> Chip:
    """One of CHIPS, or a file like export/chips/loihi1.json.

    Raises ConfigError: no such chip or file, a limit missing, unknown or not a sourced whole number.
    """
    try:
        shipped = files("neurotool.export").joinpath("chips", f"{chip}.json")
        text = (shipped if str(chip) in CHIPS else Path(chip)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        raise ConfigError(f"chip {chip}: {reason}; choose {', '.join(CHIPS)} or the name of a chip file") from None
    try:
        content = json.loads(text)
        limits = {name: Limit(**limit) for name, limit in content["limits"].items()}
        name, technology = content["name"], content["technology"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"chip file {chip}: not readable ({type(error).__name__}: {error}); it must look like loihi1.json"
        ) from None
    if missing := [key for key in REQUIRED if key not in limits]:
        raise ConfigError(f"chip file {chip}: limit {missing[0]} is missing; all of {', '.join(REQUIRED)} are needed")
    for key, limit in limits.items():
        if key not in REQUIRED + OPTIONAL:
            raise ConfigError(f"chip file {chip}: limit {key} is unknown; known are {', '.join(REQUIRED + OPTIONAL)}")
        if type(limit.value) is not int or limit.value < (key in ABOVE_ZERO):
            raise ConfigError(f"chip file {chip}: {key} is {limit.value!r}: it must be a whole number, mostly above 0")
        if limit.status not in STATUSES or not limit.source:
            raise ConfigError(
                f"chip file {chip}: {key} has status {limit.status!r} and source {limit.source!r}: give a source and "
                f"one of {', '.join(STATUSES)}"
            )
    return Chip(name, technology, limits)
