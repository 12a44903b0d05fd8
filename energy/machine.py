"""Machines: what an account of operations leaves out. How long the steps of a chip take, what waiting, moving and
memory off the chip cost; from data files in which every number has its source (energy/machines/*.json)."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neurotool.energy.costs import Constant
from neurotool.errors import ConfigError

FORMAT_VERSION = 1
FOLDER = Path(__file__).parent / "machines"

TIMES = ("synaptic_operation", "neuron_update", "memory_read", "message", "barrier")
UNITS = dict.fromkeys(TIMES, "ns") | {
    "hop_east_west": "pJ", "hop_north_south": "pJ", "static_power": "mW", "off_chip_read": "pJ",
}  # fmt: skip
"""Constant -> unit. synaptic_operation, neuron_update, memory_read, message: time of one of them on a core; barrier:
the least time of a step; static_power: of a chip; off_chip_read: energy of reading 64 bits."""
OFF_CHIP_BITS = 64


@dataclass(frozen=True)
class Mesh:
    """Tiles of one chip, several chips standing side by side."""

    columns: int
    rows: int
    cores_per_tile: int
    source: str
    status: str

    @property
    def cores(self) -> int:
        return self.columns * self.rows * self.cores_per_tile

    def mean_hops(self, chips: int) -> tuple[float, float]:
        """(east-west, north-south) between two tiles drawn at random: (n^2 - 1) / 3 n for n tiles in a row. A placement
        that keeps neighbours together needs less."""
        columns = self.columns * chips
        return (columns**2 - 1) / (3 * columns), (self.rows**2 - 1) / (3 * self.rows)


@dataclass(frozen=True)
class Machine:
    """cost_models: those whose prices its energies may be added to. chip: on which a network is placed, as
    `neurotool export --chip` knows it; empty for a technology without cores of its own."""

    name: str
    title: str
    technology: str
    cost_models: tuple[str, ...]
    constants: Mapping[str, Constant]
    leaves_out: tuple[str, ...]
    chip: str = ""
    mesh: Mesh | None = None

    def value(self, name: str) -> float | None:
        return self.constants[name].value if name in self.constants else None

    @property
    def has_times(self) -> bool:
        return any(name in self.constants for name in TIMES)

    def giving(self, constants: Iterable[str]) -> "Machine":
        """With constants of the user's, NAME=VALUE in the units of UNITS. Raises ConfigError."""
        given = {}
        for text in constants:
            name, _, value = text.partition("=")
            if name not in UNITS:
                raise ConfigError(f"--constant {text}: {name!r} is not known; choose from {', '.join(UNITS)}")
            given[name] = Constant(_number(text, value, UNITS[name]), UNITS[name], self.technology, "", "you", "given")
        return replace(self, constants={**self.constants, **given})


def _number(text: str, value: str, unit: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(f"--constant {text}: {value!r} must be a number of {unit}, 0 or more")
    return number


def machines() -> list[str]:
    """Names of those that come with neurotool."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_machine(name: str) -> Machine:
    """By name, or a user's file by path (ending in .json). Raises ConfigError, naming file and entry."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        raise ConfigError(f"machine {name!r} is not known: choose one of {', '.join(machines())}, or give a .json file")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a machine: {error}") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(f"{path}: machine format version {version!r}; this neurotool reads version {FORMAT_VERSION}")
    try:
        machine = _machine(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: the machine's entry {error} is missing or wrong; see energy/machines/*.json"
        ) from error
    for key, constant in machine.constants.items():
        if UNITS.get(key) != constant.unit or not 0 <= constant.value < math.inf:
            known = ", ".join(f"{n} ({unit})" for n, unit in UNITS.items())
            raise ConfigError(f"{path}: constant {key} is {constant.value:g} {constant.unit}: known are {known}")
    return machine


def _machine(data: dict[str, Any]) -> Machine:
    fields = ("value", "unit", "node", "voltage", "source", "status")
    constants = {}
    for name, entry in data["constants"].items():
        value, *words = (entry[key] for key in fields)
        constants[name] = Constant(float(value), *map(str, words))
    return Machine(
        name=data["name"],
        title=data["title"],
        technology=data["technology"],
        cost_models=tuple(data["cost_models"]),
        constants=constants,
        leaves_out=tuple(data["leaves_out"]),
        chip=data.get("chip", ""),
        mesh=Mesh(**data["mesh"]) if "mesh" in data else None,
    )
