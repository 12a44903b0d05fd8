"""Cost models: what an operation costs, from data files in which every number has its source (energy/models/*.json)."""

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from neurotool.energy.counts import NodeCount
from neurotool.energy.operations import OPERATIONS, Operations, Work
from neurotool.energy.setting import SKIPPING, Network
from neurotool.errors import ConfigError

FORMAT_VERSION = 1
FOLDER = Path(__file__).parent / "models"
ARITHMETIC, MEMORY = "horowitz-45nm", "horowitz-45nm-memory"

ACCESSES = ("weight_reads", "lookups", "value_reads", "value_writes", "state_reads", "state_writes", "addresses")
"""Operations on memories, which a cost model with memory prices by the size of the memory."""
GRAIN = 10**9
"""Energies are whole numbers of 1e-9 pJ, and prices are rounded to it: sums are exact in any order."""


@dataclass(frozen=True)
class Constant:
    """value in `unit`, at technology `node` and `voltage`; status: published, derived, regression, …"""

    value: float
    unit: str
    node: str
    voltage: str
    source: str
    status: str


@dataclass(frozen=True)
class NumberFormat:
    """bits: of a weight, a value (activation, message) and a state (potential, sum), and of the widest state that may
    be needed, where that is another; of an activation, what neurons send, where other values have more. Formats whose
    names begin with int hold integers: their multiplier shrinks with the bits of its operands."""

    name: str
    bits: dict[str, int]
    constants: dict[str, Constant]

    @property
    def integer(self) -> bool:
        return self.name.startswith("int")

    @property
    def narrow(self) -> float:
        """Bits of an activation in units of those of other values."""
        return self.bits.get("activation", self.bits["value"]) / self.bits["value"]

    @property
    def widest_state(self) -> int:
        return self.bits.get("widest_state", self.bits["state"])


@dataclass(frozen=True)
class Memory:
    """sram: (bytes, energy of one read of `read_bits`), by size; address_add: energy of computing one address."""

    read_bits: int
    sram: tuple[tuple[int, Constant], ...]
    address_add: Constant

    def access(self, size: float, bits: int) -> float:
        """pJ of reading or writing `bits` in `size` bytes: linear between the sizes known, constant beyond."""
        energy = np.interp(size, [known for known, _ in self.sram], [constant.value for _, constant in self.sram])
        return float(energy) * bits / self.read_bits


@dataclass(frozen=True)
class CostModel:
    """operations: kind -> {constant: how many of it}. out_of_scope: kinds that the model leaves out on purpose.

    spiking_only: prices of a neuromorphic chip, on which no dense network runs.
    """

    name: str
    title: str
    technology: str
    formats: dict[str, NumberFormat]
    operations: dict[str, dict[str, float]]
    notes: dict[str, str]
    out_of_scope: tuple[str, ...]
    leaves_out: tuple[str, ...]
    memory: Memory | None = None
    spiking_only: bool = False

    @property
    def known(self) -> bool:
        """Whether anything has a price: where nothing has, there is no energy, not an energy of 0."""
        return bool(self.operations) or self.memory is not None

    def constants(self) -> list[tuple[str, Constant]]:
        """All of them, by name."""
        named = [(f"{n.name} {name}", c) for n in self.formats.values() for name, c in n.constants.items()]
        if self.memory is not None:
            read = f"{self.memory.read_bits}-bit read of SRAM"
            named += [(f"{read}, {size / 1024:g} KB", constant) for size, constant in self.memory.sram]
            named.append(("address", self.memory.address_add))
        return named

    @property
    def nodes(self) -> set[str]:
        """Technology nodes of the constants."""
        return {constant.node for _, constant in self.constants()}

    @cached_property
    def default_format(self) -> NumberFormat:
        return next(iter(self.formats.values()))

    def format(self, name: str | None) -> NumberFormat:
        """Raises ConfigError for a format the model does not know."""
        if name is None:
            return self.default_format
        if name not in self.formats:
            raise ConfigError(
                f"cost model {self.name} has no number format {name!r}: it knows {', '.join(self.formats)}"
            )
        return self.formats[name]

    def prices(
        self, node: NodeCount, numbers: NumberFormat, network: Network = "spiking", widest: bool = False
    ) -> dict[str, float]:
        """pJ of each kind of operation at this node of a network; kinds without a price are missing.

        widest: potentials of all tokens of the longest text, in the widest format.
        """
        prices = {
            kind: sum(numbers.constants[constant].value * times for constant, times in parts.items())
            for kind, parts in self.operations.items()
        }
        if node.arrived.events and "macs" in prices and numbers.narrow != 1:  # its multiplier alone shrinks
            multiply = numbers.constants["multiply"].value * self.operations["macs"].get("multiply", 0)
            prices["macs"] -= multiply * (1 - numbers.narrow)
        if "payload_products" in prices and numbers.integer:
            prices["payload_products"] *= node.payload_bits / numbers.bits["value"]
        if self.memory is not None:
            prices |= _accesses(self.memory, node, numbers, network, widest)
        return {kind: round(price, 9) for kind, price in prices.items()}

    def unpriced(self, operations: Operations) -> list[str]:
        """Kinds that occur, have no price, and are not out of the model's scope."""
        priced = {*self.operations, *self.out_of_scope, *(ACCESSES if self.memory else ())}
        return [kind for kind in OPERATIONS if getattr(operations, kind) and kind not in priced]


def _accesses(
    memory: Memory, node: NodeCount, numbers: NumberFormat, network: Network, widest: bool
) -> dict[str, float]:
    sizes, bits = node.sizes, numbers.bits
    met = sizes.operand if network == "spiking" or network in SKIPPING else sizes.weights
    # The operand of a product of activations is one of them.
    weight = memory.access(met * (b := bits["value" if node.kind == "MatMul" else "weight"]) / 8, b)
    value = memory.access(sizes.values * bits["value"] / 8, bits["value"])
    state_bits = numbers.widest_state if widest else bits["state"]
    state = memory.access((sizes.all_states if widest else sizes.states) * state_bits / 8, state_bits)
    return {
        "weight_reads": weight,
        "lookups": weight,
        "value_reads": value * (numbers.narrow if node.arrived.events else 1),
        "value_writes": value * (numbers.narrow if node.spiking.updates else 1),
        "state_reads": state,
        "state_writes": state,
        "addresses": memory.address_add.value,
    }


@dataclass(frozen=True)
class Energy:
    """Over all inputs, in whole grains (1e-9 pJ). grains: by kind of operation. driven: what is in proportion to the
    activity. unpriced: kinds that occur and have no price."""

    grains: dict[str, int]
    driven: int
    unpriced: tuple[str, ...] = ()

    @property
    def by_kind(self) -> dict[str, float]:
        """pJ"""
        return {kind: n / GRAIN for kind, n in self.grains.items()}

    @property
    def total_grains(self) -> int:
        return sum(self.grains.values())

    @property
    def total(self) -> float:
        """pJ"""
        return self.total_grains / GRAIN

    @property
    def known(self) -> bool:
        """Whether any of what occurs has a price, or nothing occurs."""
        return bool(self.grains) or not self.unpriced

    def __add__(self, other: "Energy") -> "Energy":
        kinds = {*self.grains, *other.grains}
        merged = {k: self.grains.get(k, 0) + other.grains.get(k, 0) for k in OPERATIONS if k in kinds}
        return Energy(merged, self.driven + other.driven, tuple(dict.fromkeys((*self.unpriced, *other.unpriced))))


def price(
    model: CostModel, numbers: NumberFormat, node: NodeCount, network: Network = "spiking", widest: bool = False
) -> Energy:
    """Energy of one node in a network."""
    return price_operations(model, node.work[network], model.prices(node, numbers, network, widest))


def price_operations(model: CostModel, work: Work, prices: dict[str, float]) -> Energy:
    def grains(operations: Operations) -> dict[str, int]:
        there = {kind: n for kind in OPERATIONS if (n := getattr(operations, kind)) and kind in prices}
        return {kind: n * round(prices[kind] * GRAIN) for kind, n in there.items()}

    return Energy(grains(work.total), sum(grains(work.driven).values()), tuple(model.unpriced(work.total)))


def quantised(model: CostModel, bits: int, alone: bool = False) -> NumberFormat:
    """Activations of `bits` bits times 8-bit weights, for the fair rival of a T-step rate code.

    The multiplier shrinks with the product of its operands' bits (derived); the accumulator stays. alone: other values,
    what norms and softmax read and write and what matrices hand on, keep 8 bits.
    """
    int8 = model.format("int8")
    if alone:
        return NumberFormat(f"int{bits}×8, values int8", int8.bits | {"activation": bits}, int8.constants)
    multiply = int8.constants["multiply"]
    scaled = Constant(
        multiply.value * bits / 8, multiply.unit, multiply.node, multiply.voltage, multiply.source, "derived"
    )
    return NumberFormat(f"int{bits}×8", int8.bits | {"value": bits}, int8.constants | {"multiply": scaled})


def cost_models() -> list[str]:
    """Names of the models that come with neurotool."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load_cost_model(name: str) -> CostModel:
    """A model by name, or a user's file by path (ending in .json). Raises ConfigError, naming file and entry."""
    path = Path(name) if name.endswith(".json") else FOLDER / f"{name}.json"
    if not path.is_file():
        known = ", ".join(cost_models())
        raise ConfigError(f"cost model {name!r} is not known: choose one of {known}, or give a .json file")
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a cost model: {error}") from error
    version = data.get("format_version") if isinstance(data, dict) else None
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: cost model format version {version!r}; this neurotool reads version {FORMAT_VERSION}"
        )
    try:
        model = _model(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{path}: the cost model's entry {error} is missing or wrong; see energy/models/*.json"
        ) from error
    if path.parent != FOLDER and model.name in cost_models():
        raise ConfigError(f"{path}: the name {model.name!r} is that of a model of neurotool's; give yours another name")
    _check(path, model)
    return model


def _model(data: dict[str, Any]) -> CostModel:
    memory = None
    if "memory" in data:
        given = data["memory"]
        sram = tuple((int(entry["bytes"]), _constant(entry)) for entry in given["sram"])
        memory = Memory(int(given["read_bits"]), sram, _constant(given["address_add"]))
    formats = {
        name: NumberFormat(name, dict(entry["bits"]), {k: _constant(c) for k, c in entry["constants"].items()})
        for name, entry in data["formats"].items()
    }
    return CostModel(
        name=data["name"],
        title=data["title"],
        technology=data["technology"],
        formats=formats,
        operations={kind: {name: float(n) for name, n in parts.items()} for kind, parts in data["operations"].items()},
        notes=dict(data["notes"]),
        out_of_scope=tuple(data["out_of_scope"]),
        leaves_out=tuple(data["leaves_out"]),
        memory=memory,
        spiking_only=data.get("spiking_only", False),
    )


def _constant(entry: dict[str, Any]) -> Constant:
    return Constant(
        float(entry["value"]), *(str(entry[name]) for name in ("unit", "node", "voltage", "source", "status"))
    )


def _check(path: Path, model: CostModel) -> None:
    for kind in (*model.operations, *model.out_of_scope):
        if kind not in OPERATIONS:
            raise ConfigError(f"{path}: {kind!r} is no kind of operation: they are {', '.join(OPERATIONS)}")
    if not model.formats:
        raise ConfigError(f"{path}: the cost model has no number format; give at least one under 'formats'")
    for name, constant in model.constants():
        if constant.unit != "pJ" or not 0 <= constant.value < math.inf:
            raise ConfigError(f"{path}: constant {name} is {constant.value} {constant.unit}: give pJ, 0 or more")
    for numbers in model.formats.values():
        for part in ("weight", "value", "state", *(("widest_state",) if "widest_state" in numbers.bits else ())):
            if type(bits := numbers.bits.get(part)) is not int or bits < 1:
                raise ConfigError(
                    f"{path}: bits of a {part} in {numbers.name} are {bits!r}: give a whole number from 1"
                )
        for kind, parts in model.operations.items():
            if missing := sorted(set(parts) - set(numbers.constants)):
                raise ConfigError(
                    f"{path}: {kind} is made of {missing[0]!r}, which format {numbers.name} does not have"
                )
            total = sum(numbers.constants[name].value * times for name, times in parts.items())
            if not 0 <= total < math.inf:
                raise ConfigError(f"{path}: {kind} cost {total:g} pJ each in {numbers.name}: prices are 0 or more")
    if model.memory is not None:
        sizes = [size for size, _ in model.memory.sram]
        if model.memory.read_bits < 1 or not sizes or sizes != sorted(set(sizes)):
            raise ConfigError(
                f"{path}: memory reads {model.memory.read_bits} bits of {sizes} bytes: give 1 bit or more, rising sizes"
            )
