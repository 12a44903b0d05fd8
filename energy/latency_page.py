"""What `neurotool energy latency` shows: time, throughput, and energies beyond operations, on one machine."""

from dataclasses import dataclass
from typing import Any

from neurotool.energy.comparison import Comparison
from neurotool.energy.costs import CostModel
from neurotool.energy.formats import digits, duration, joule, percent
from neurotool.energy.latency import Arrangement, Beyond
from neurotool.energy.machine import Machine
from neurotool.energy.page import Page
from neurotool.energy.panels import Table
from neurotool.energy.priced import Priced
from neurotool.errors import ConfigError


def check_technology(machine: Machine, model: CostModel) -> None:
    """Raises ConfigError where the prices of `model` are of another technology."""
    if machine.technology != model.technology:
        raise ConfigError(
            f"machine {machine.name} is {machine.technology} and cost model {model.name} is {model.technology}: "
            f"energies of two technologies are not added; choose one of {', '.join(machine.cost_models)}"
        )


@dataclass(frozen=True)
class Line:
    """One arrangement; energies in pJ, times in ns, per inference. None: not known. energy: the sum of the parts before
    it that are known, where operations are; energy_delay: J s, by the latency of an input alone."""

    arrangement: str
    cores: int
    chips: int
    latency: float | None
    interval: float | None
    operations: float | None
    static: float | None
    transport: float | None
    tokens: float

    @property
    def energy(self) -> float | None:
        if self.operations is None:
            return None
        return self.operations + (self.static or 0.0) + (self.transport or 0.0)

    @property
    def energy_delay(self) -> float | None:
        if self.energy is None or self.latency is None:
            return None
        return self.energy * self.latency * 1e-21

    @property
    def data(self) -> dict[str, Any]:
        own = {**vars(self), "energy": self.energy, "energy_delay": self.energy_delay}
        units = {"latency": "ns", "interval": "ns", "energy_delay": "J_s"} | dict.fromkeys(
            ("operations", "static", "transport", "energy"), "pJ"
        )
        return {f"{name}_{units[name]}" if name in units else name: value for name, value in own.items()}


def lines(beyond: Beyond, account: Priced) -> list[Line]:
    activity = beyond.counts.activity
    return [
        Line(
            arrangement=each.title,
            cores=each.cores,
            chips=each.chips,
            latency=each.latency,
            interval=each.per_inference(beyond.batch) if beyond.batch > 1 else each.interval,
            operations=account.per_inference if account.known else None,
            static=beyond.static(each),
            transport=beyond.transport(each.chips),
            tokens=activity.tokens / activity.inputs,
        )
        for each in beyond.arrangements
    ]


def latency_page(name: str, measured: str, beyond: Beyond, account: Priced, pairs: list[Comparison]) -> Page:
    """account: the operations, at prices of the machine's technology; pairs: of the same, against rivals."""
    made = lines(beyond, account)
    tables = [_arrangements(beyond, made), _phases(beyond, beyond.arrangements[0])] if made else []
    tables += _off_chip(beyond, pairs)
    return Page(
        f"{name} on {beyond.machine.title}: time, and energy beyond operations",
        f"{measured}. Per inference, {beyond.counts.dataflow.name} dataflow"
        + (f", in batches of {beyond.batch}" if beyond.batch > 1 else "")
        + ". Times are lower bounds, energies of transport upper ones.",
        tables=[*tables, _constants(beyond.machine)],
        notes=[f"In no figure: {'; '.join(beyond.off)}."],
    )


def _arrangements(beyond: Beyond, made: list[Line]) -> Table:
    pipelined = f"in a batch of {beyond.batch}" if beyond.batch > 1 else "pipelined"
    headings = (
        "arrangement", "cores", "chips", "latency", pipelined, "throughput", "operations", "static", "transport",
        "energy", "per token", "energy x delay",
    )  # fmt: skip
    cells = [
        (
            line.arrangement,
            f"{line.cores:,}",
            f"{line.chips:,}",
            duration(line.latency),
            duration(line.interval),
            "" if not line.interval else f"{digits(1e9 / line.interval)} / s",
            *(_energy(part) for part in (line.operations, line.static, line.transport, line.energy)),
            "" if line.energy is None else joule(line.energy / line.tokens),
            "" if line.energy_delay is None else f"{line.energy_delay:.3g} J s",
        )
        for line in made
    ]
    caption = f"{beyond.machine.title}: one input alone, and every layer at work on another one"
    narrow = ("arrangement", "chips", "latency", pipelined, "static", "energy")
    return Table(caption, headings, cells, narrow=narrow, data=[line.data for line in made])


def _energy(value: float | None) -> str:
    return "" if value is None else joule(value)


def _phases(beyond: Beyond, arrangement: Arrangement) -> Table:
    """Of the busiest core of each window; where no times are known, the part with the most synaptic operations."""
    cores = {part.name: part.cores for part in beyond.parts}
    cells = []
    for i, phase in enumerate(beyond.phases):
        most = max(phase.loads, key=lambda name: phase.loads[name].synaptic_operation)
        part, binds = arrangement.binds[i] if arrangement.binds else (most, "")
        load = phase.loads[part]
        counted = (load.synaptic_operation, load.memory_read, load.neuron_update, load.message)
        cells.append((phase.name, part, str(cores[part]), *map(digits, counted), binds.replace("_", " ")))
    headings = (
        "window", "busiest core", "cores", "synaptic operations", "memory reads", "neuron updates", "messages", "binds",
    )  # fmt: skip
    caption = "Windows in turn, and what the busiest core does in each, one copy of the network"
    return Table(caption, headings, cells, narrow=("window", "busiest core", "synaptic operations", "binds"))


def _off_chip(beyond: Beyond, pairs: list[Comparison]) -> list[Table]:
    """Both sides of each pair with the weights that they have to read from outside."""
    cells = []
    for pair in pairs:
        ours = beyond.off_chip(pair.spiking.counts, pair.spiking.numbers)
        theirs = beyond.off_chip(pair.dense.counts, pair.dense.numbers, pair.dense.network)
        if ours is None or theirs is None:
            return []
        share = (pair.spiking.per_inference + ours) / (pair.dense.per_inference + theirs)
        cells.append((f"{pair.spiking.numbers.name}: {pair.rival}", pair.dataflow_in_words, joule(ours), joule(theirs),
                      percent(pair.share), percent(share)))  # fmt: skip
    headings = ("rival", "dataflow", "off chip, ours", "off chip, the rival's", "share before", "share with it")
    caption = f"Weights beyond {beyond.on_chip:,} bytes, read once in each run over a batch of {beyond.batch}"
    return [Table(caption, headings, cells, narrow=("rival", "share before", "share with it"))] if cells else []


def _constants(machine: Machine) -> Table:
    cells = [
        (name.replace("_", " "), f"{c.value:g} {c.unit}", f"{c.node}, {c.voltage}".rstrip(", "), c.source, c.status)
        for name, c in machine.constants.items()
    ]
    if machine.mesh is not None:
        mesh = machine.mesh
        shape = f"{mesh.columns} x {mesh.rows} tiles of {mesh.cores_per_tile}"
        cells.append(("mesh", shape, machine.technology, mesh.source, mesh.status))
    headings = ("constant", "value", "technology", "source", "status")
    return Table(f"Constants of {machine.title}", headings, cells, kind="text", folded=False)
