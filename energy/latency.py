"""How long an inference takes on a chip, and the energy of what no operation pays for: waiting, moving, memory off the
chip. Each is a bound of its own and is never added to prices of another technology.

A step of a chip takes as long as its busiest core needs (the run time law of Loihi 2, arXiv 2601.10035, secondary;
totals do not predict it, arXiv 2511.21549):

    t_step >= max(neuron updates t_u, synaptic operations t_s, memory reads t_m, messages t_l, barrier)

Added up over the steps of a window, the maximum of the sums is a lower bound too, whatever the spikes of single steps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from neurotool.energy.costs import NumberFormat
from neurotool.energy.counts import Counts, NodeCount
from neurotool.energy.events import spiking_sources
from neurotool.energy.machine import OFF_CHIP_BITS, Machine
from neurotool.energy.rules import Network
from neurotool.graph import Graph, Synapse, Weighted
from neurotool.graph.nodes import own_axes
from neurotool.streams import taken_in_time

# Dense 8-bit weights that fit the synapse memory of one core: an input axon with n weights takes, per chunk of 64,
# ceil64(8 n + 10) bits of 1 048 576 (Davies et al. 2018; derived).
WEIGHTS_PER_CORE = 116_508


@dataclass(frozen=True)
class Part:
    """Nodes that share neurons on a chip: `elements` of one token, split evenly over `cores`."""

    name: str
    nodes: tuple[str, ...]
    elements: int
    cores: int

    @property
    def busiest(self) -> float:
        """Share of the work that is done on the core with the most elements."""
        return math.ceil(self.elements / self.cores) / self.elements


def parts_by_weights(graph: Graph) -> list[Part]:
    """Where a graph has not been placed: cores by weights alone, neurons beside the matrix that drives them."""
    shapes, parts = graph.shapes(), []
    neurons = [name for name, node in graph.nodes.items() if node.sends_spikes and graph.inputs[name]]
    for name, node in graph.nodes.items():
        if isinstance(node, Synapse) and not node.at_end:
            size = node.weight.size if isinstance(node, Weighted) else 0
            driven = [neuron for neuron in neurons if _drives(graph, name, neuron)]
            width = math.prod(own_axes(shapes[name]))
            parts.append(Part(name, (name, *driven), width, max(1, math.ceil(size / WEIGHTS_PER_CORE))))
    return parts


def _drives(graph: Graph, synapse: str, neuron: str) -> bool:
    """Whether the neuron's input comes from this synapse through nodes that multiply nothing."""
    source = graph.inputs[neuron][0]
    while not (isinstance(node := graph.nodes[source], Synapse) or node.sends_spikes) and graph.inputs[source]:
        source = graph.inputs[source][0]
    return source == synapse


@dataclass(frozen=True)
class Load:
    """What the busiest core of a part does for one inference."""

    synaptic_operation: float = 0.0
    neuron_update: float = 0.0
    memory_read: float = 0.0
    message: float = 0.0

    def __add__(self, other: "Load") -> "Load":
        return Load(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def times(self, factor: float) -> "Load":
        return Load(*(value * factor for value in vars(self).values()))

    def time(self, machine: Machine) -> tuple[float, str]:
        """(ns, which of them binds); 0 where the machine has no such times."""
        known = {name: n * t for name, n in vars(self).items() if (t := machine.value(name)) is not None}
        name = max(known, key=lambda name: known[name], default="")
        return known.get(name, 0.0), name


@dataclass(frozen=True)
class Phase:
    """The windows of one layer over all sweeps, or all steps of a concurrent run. steps: of one token and inference;
    loads: by part."""

    name: str
    steps: int
    loads: Mapping[str, Load]


def phases(counts: Counts, parts: Sequence[Part]) -> list[Phase]:
    """In which a network works one after the other: each layer's window, in which it sends and its readers add up.

    A node that reads several layers is counted in the window of the last of them.
    """
    graph, steps = counts.graph, counts.activity.steps
    sources = spiking_sources(graph)
    place = {name: part for part in parts for name in part.nodes}
    order = list(graph.nodes)
    loads: dict[str, dict[str, Load]] = {}
    for node in counts.nodes:
        senders = {layer for source in graph.inputs[node.name] for layer, _ in sources[source]}
        window = node.name if sources[node.name] == ((node.name, 0),) else max(senders, key=order.index, default="")
        if not window or node.name not in place:
            continue
        part = place[node.name]
        there = loads.setdefault(window if graph.schedule == "phased" else "all layers", {})
        load = _load(node, counts.activity.inputs).times(part.busiest)
        there[part.name] = there.get(part.name, Load()) + load
    found = [name for name in [*order, "all layers"] if name in loads]
    return [Phase(name, steps, loads[name]) for name in found]


def _load(node: NodeCount, inputs: int) -> Load:
    done = node.spiking
    if done.updates:
        return Load(neuron_update=done.updates / inputs, message=done.value_writes / inputs)
    driven = node.work["spiking"].driven
    return Load(synaptic_operation=driven.accumulates / inputs, memory_read=driven.weight_reads / inputs)


@dataclass(frozen=True)
class Arrangement:
    """How tokens share a chip: where there is one copy of every part, they take turns.

    latency: ns from an input to its answer, alone on the chip. interval: ns between answers when every layer works on
    another input. None where the machine has no times. chips: whole ones.
    """

    title: str
    cores: int
    chips: int
    latency: float | None
    interval: float | None
    binds: tuple[tuple[str, str], ...]

    def per_inference(self, batch: int) -> float | None:
        """ns of the chip for each of `batch` inputs, one after the other, every layer at work."""
        if self.latency is None or self.interval is None:
            return None
        return (self.latency + (batch - 1) * self.interval) / batch


SWITCHES = ("latency", "static", "transport", "off-chip")


@dataclass(frozen=True)
class Beyond:
    """What is beyond operations, per inference. without: SWITCHES that are off. on_chip: bytes for weights, where the
    machine is a technology and no chip."""

    counts: Counts
    parts: tuple[Part, ...]
    machine: Machine
    numbers: NumberFormat
    batch: int = 1
    without: frozenset[str] = frozenset()
    on_chip: int | None = None

    @cached_property
    def phases(self) -> list[Phase]:
        return phases(self.counts, self.parts)

    @cached_property
    def arrangements(self) -> list[Arrangement]:
        if not self.parts or self.machine.mesh is None:
            return []
        activity = self.counts.activity
        one = self._arrangement("one copy", 1, activity.tokens / activity.inputs)
        if taken_in_time(self.counts.graph):
            return [one]
        return [one, self._arrangement("copy per token", max(activity.lengths), 1.0)]

    def _arrangement(self, title: str, copies: int, turns: float) -> Arrangement:
        """turns: tokens, on the average, that pass through one copy."""
        machine, activity, mesh = self.machine, self.counts.activity, self.machine.mesh
        assert mesh is not None
        cores = copies * sum(part.cores for part in self.parts)
        chips = math.ceil(cores / mesh.cores)
        if "latency" in self.without or not machine.has_times:
            return Arrangement(title, cores, chips, None, None, ())
        share = turns * activity.inputs / activity.tokens
        barrier = machine.value("barrier") or 0.0
        windows, binds = [], []
        for phase in self.phases:
            part = max(phase.loads, key=lambda name: phase.loads[name].time(machine)[0])
            busy, what = phase.loads[part].times(share).time(machine)
            steps = phase.steps * turns * barrier
            windows.append(max(busy, steps))
            binds.append((part, "barrier") if steps > busy else (part, what))
        own: dict[str, Load] = {}
        for phase in self.phases:
            for name, load in phase.loads.items():
                own[name] = own.get(name, Load()) + load.times(share)
        interval = max(
            [load.time(machine)[0] for load in own.values()] + [phase.steps * turns * barrier for phase in self.phases]
        )
        latency = sum(windows)
        if self.counts.graph.schedule != "phased":
            interval = latency
        return Arrangement(title, cores, chips, latency, interval, tuple(binds))

    @property
    def messages(self) -> float:
        """Of neurons, each to every core that reads it, per inference."""
        place = {name: part for part in self.parts for name in part.nodes}
        together = self.counts.dataflow.order != "spike"
        arriving = [
            (place[name].cores, each.active if together else each.events)
            for (name, _), each in self.counts.events.items()
            if name in place
        ]
        return sum(cores * messages for cores, messages in arriving) / self.counts.activity.inputs

    def transport(self, chips: int) -> float | None:
        """pJ, by the mean distance of two tiles: more than a placement needs that keeps neighbours together."""
        east, north = (self.machine.value(name) for name in ("hop_east_west", "hop_north_south"))
        if "transport" in self.without or self.machine.mesh is None or east is None or north is None:
            return None
        columns, rows = self.machine.mesh.mean_hops(chips)
        return self.messages * (columns * east + rows * north)

    def static(self, arrangement: Arrangement) -> float | None:
        """pJ: power of the chips times the time that they work on an inference."""
        power, time = self.machine.value("static_power"), arrangement.per_inference(self.batch)
        if "static" in self.without or power is None or time is None:
            return None
        return power * arrangement.chips * time  # mW ns = pJ

    def off_chip(self, counts: Counts, numbers: NumberFormat, network: Network = "spiking") -> float | None:
        """pJ of reading the weights that do not fit, of a network: each once in each run over the texts of a batch, the
        least that any order of work needs."""
        price = self.machine.value("off_chip_read")
        if "off-chip" in self.without or self.on_chip is None or price is None:
            return None
        matrices = [node for node in counts.nodes if node.elements and node.kind != "MatMul"]
        bits = sum(node.sizes.weights for node in matrices) * numbers.bits["weight"]
        runs = 1
        if network == "spiking":
            activity = counts.activity
            runs = activity.steps // activity.time_steps if counts.graph.schedule == "phased" else activity.steps
        return max(bits - 8 * self.on_chip, 0) / OFF_CHIP_BITS * price * runs / self.batch

    @property
    def off(self) -> list[str]:
        """What is in no figure, and why."""
        machine, said = self.machine, [f"{name} (switched off)" for name in SWITCHES if name in self.without]
        needs = {
            "latency": (machine.has_times, "no times are published for it: give them with --constant"),
            "static": ("static_power" in machine.constants, "no static power is known: --constant static_power=mW"),
            "transport": ("hop_east_west" in machine.constants, "no energy of a hop is known"),
            "off-chip": (self.on_chip is not None, "all weights are taken to fit: --on-chip says how many do"),
        }
        if not machine.chip:
            needs["latency"] = needs["static"] = needs["transport"] = (False, "it is no chip with cores")
        elif "off_chip_read" not in machine.constants:
            needs["off-chip"] = (False, "weights that do not fit take more chips")
        said += [f"{name} ({why})" for name, (known, why) in needs.items() if not known and name not in self.without]
        kinds = {node.kind for node in self.counts.nodes}
        if "Embedding" in kinds and not machine.chip:
            said.append("tables of embeddings, of which a text reads few rows")
        acting = [kind for kind in ("LayerNorm", "Softmax", "Gelu") if kind in kinds]
        if acting and machine.chip:
            said.append(
                f"the time of {', '.join(acting)} between windows, and the transport of values that are no spikes"
            )
        return [*said, *machine.leaves_out]
