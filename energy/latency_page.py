"""What `neurotool energy latency` shows: time, throughput, and energies beyond operations, on one machine."""

from dataclasses import asdict, dataclass
from typing import Any

from neurotool.energy.comparison import Comparison
from neurotool.energy.costs import CostModel
from neurotool.energy.formats import digits, duration, joule, percent
from neurotool.energy.latency import Arrangement, Beyond
from neurotool.energy.machine import Machine
from neurotool.energy.page import Page
from neurotool.energy.panels import Table
from neurotool.energy.report import Report
from neurotool.errors import ConfigError
from neurotool.streams import taken_in_time


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


@dataclass(frozen=True)
class Timed:
    """report: of one cost model of the machine's technology, whose first account has the operations."""

    report: Report
    beyond: Beyond

    @property
    def lines(self) -> list[Line]:
        beyond, account, activity = self.beyond, self.report.accounts[0], self.beyond.counts.activity
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

    @property
    def pairs(self) -> list[Comparison]:
        """In the dataflow that decides."""
        head = self.report.headline
        return [p for p in self.report.comparisons if p.matched and head is not None and p.dataflow == head.dataflow]


def latency_page(timed: Timed) -> Page:
    report, beyond = timed.report, timed.beyond
    made = timed.lines
    tables = [_arrangements(beyond, made), _windows(beyond, beyond.arrangements[0])] if made else []
    return Page(
        f"{report.name} on {beyond.machine.title}: time, and energy beyond operations",
        f"{report.measured}. Per inference, {beyond.counts.dataflow.name} dataflow"
        + (f", in batches of {beyond.batch}" if beyond.batch > 1 else "")
        + ". Times are what the busiest core needs at least, by the machine's constants; transport is counted at most.",
        tables=[*tables, *_off_chip(timed), _constants(beyond.machine)],
        notes=[*_fitting(beyond.machine), f"In no figure: {'; '.join(beyond.off)}."],
    )


def _fitting(machine: Machine) -> list[str]:
    if not machine.chip:
        return []
    return [
        f"Whether the network runs on {machine.title} at all is another question: `neurotool export --target lava "
        f"--chip {machine.chip}` names each limit."
    ]


def as_dict(timed: Timed) -> dict[str, Any]:
    beyond, off_chip = timed.beyond, _off_chip_pairs(timed)
    cores = {part.name: part.cores for part in beyond.parts}
    return {
        "name": timed.report.name,
        "measured": timed.report.measured,
        "machine": beyond.machine.name,
        "cost_model": timed.report.accounts[0].model.name,
        "dataflow": beyond.counts.dataflow.name,
        "batch": beyond.batch,
        "lengths": {str(length): count for length, count in sorted(beyond.counts.activity.lengths.items())},
        "arrangements": [line.data for line in timed.lines],
        "windows": [
            {"name": phase.name, "steps": phase.steps}
            | {"loads": {name: {"cores": cores[name]} | vars(load) for name, load in phase.loads.items()}}
            for phase in beyond.phases
        ],
        "off_chip": [
            {"rival": pair.rival, "numbers": pair.spiking.numbers.name, "dataflow": pair.dataflow_in_words,
             "spiking_pJ": ours, "rival_pJ": theirs, "share": pair.share, "share_with_it": share}
            for pair, ours, theirs, share in off_chip
        ],
        "constants": {name: asdict(constant) for name, constant in beyond.machine.constants.items()},
        "in_no_figure": beyond.off,
    }  # fmt: skip


def _arrangements(beyond: Beyond, made: list[Line]) -> Table:
    together = f"batch of {beyond.batch}"
    in_time = taken_in_time(beyond.counts.graph)
    headings = (
        "arrangement", "cores", "chips", "latency", together if beyond.batch > 1 else "pipelined",
        "tokens/s" if in_time else "inputs/s",
        "operations", "static", "transport", "energy", "/token", "EDP, J s",
    )  # fmt: skip
    cells = [
        (
            line.arrangement,
            f"{line.cores:,}",
            f"{line.chips:,}",
            duration(line.latency),
            duration(line.interval),
            "" if not line.interval else digits((line.tokens if in_time else 1) * 1e9 / line.interval),
            *(_energy(part) for part in (line.operations, line.static, line.transport, line.energy)),
            "" if line.energy is None else joule(line.energy / line.tokens),
            "" if line.energy_delay is None else f"{line.energy_delay:.3g}",
        )
        for line in made
    ]
    whose = f"of a {together}" if beyond.batch > 1 else "of an input alone"
    caption = f"{beyond.machine.title}: an input alone, and every layer at work on another one; energies {whose}"
    narrow = ("arrangement", "chips", "latency", headings[4], "static", "energy")
    return Table(caption, headings, cells, narrow=narrow, data=[line.data for line in made])


def _energy(value: float | None) -> str:
    return "" if value is None else joule(value)


BINDS = {"synaptic_operation": "synapses", "neuron_update": "updates", "memory_read": "reads", "message": "messages"}


def _windows(beyond: Beyond, arrangement: Arrangement) -> Table:
    """Of the busiest core of each window; where no times are known, the part with the most synaptic operations."""
    cores = {part.name: part.cores for part in beyond.parts}
    cells = []
    for i, phase in enumerate(beyond.phases):
        most = max(phase.loads, key=lambda name: phase.loads[name].synaptic_operation)
        part, binds = arrangement.binds[i] if arrangement.binds else (most, "")
        load = phase.loads[part]
        counted = (load.synaptic_operation, load.memory_read, load.neuron_update, load.message)
        cells.append((phase.name, part, str(cores[part]), *map(digits, counted), BINDS.get(binds, binds)))
    headings = ("window", "busiest core", "cores", "synapses", "reads", "updates", "messages", "binds")
    caption = "Windows in turn, and what the busiest core does in each, for one copy of the network"
    return Table(caption, headings, cells, narrow=("window", "busiest core", "synapses", "binds"))


def _off_chip_pairs(timed: Timed) -> list[tuple[Comparison, float, float, float]]:
    """(pair, ours, the rival's, share with both added): weights that both have to read from outside."""
    found = []
    for pair in timed.pairs:
        ours = timed.beyond.off_chip(pair.spiking.counts, pair.spiking.numbers)
        theirs = timed.beyond.off_chip(pair.dense.counts, pair.dense.numbers, pair.dense.network)
        if ours is not None and theirs is not None:
            share = (pair.spiking.per_inference + ours) / (pair.dense.per_inference + theirs)
            found.append((pair, ours, theirs, share))
    return found


def _off_chip(timed: Timed) -> list[Table]:
    cells = [
        (f"{pair.spiking.numbers.name}: {pair.rival}", joule(pair.spiking.per_inference), joule(ours), joule(theirs),
         percent(pair.share), percent(share))
        for pair, ours, theirs, share in _off_chip_pairs(timed)
    ]  # fmt: skip
    headings = ("rival", "operations", "off chip", "the rival's", "share", "with it")
    batch = f" over a batch of {timed.beyond.batch}" if timed.beyond.batch > 1 else ""
    caption = f"Weights beyond {timed.beyond.on_chip:,} bytes, read once in each run{batch}" if cells else ""
    return [Table(caption, headings, cells, narrow=("rival", "share", "with it"))] if cells else []


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
    return Table(f"Constants of {machine.title}", headings, cells, folded=True, kind="text")
