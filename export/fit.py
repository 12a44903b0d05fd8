"""The fit report: design rules and utilisation of a fixed-point graph on a Loihi-class chip.

Nothing here was run on silicon.
"""

from dataclasses import asdict, dataclass
from typing import Any

from neurotool.errors import ConfigError, ExportError
from neurotool.export.chip import Chip
from neurotool.export.fit_rules import RULES, Design, Finding, listed
from neurotool.export.placement import Placed, place, populations
from neurotool.graph import Graph

CAVEAT = (
    "Physical fit is not verified on silicon: numbers follow from published limits and the placement described here."
)
NOT_COUNTED = (
    "what the cores of a layer exchange for the sums of a LayerNorm or softmax",
    "axon delays, routing tables and congestion",
    "neuron program memory",
    "smaller layers sharing a core",
)


@dataclass(frozen=True)
class LayerUse:
    """One population: sums over all its cores, for one token's copy. cores_in_turn: None where tokens cannot.
    sparse: some of its weights are lists with indices, in which zeros take no memory."""

    name: str
    nodes: tuple[str, ...]
    neurons: int
    synapses: int
    synapse_bits: int
    state_bits: int
    input_axons: int
    output_axons: int
    cores: int
    cores_in_turn: int | None
    sparse: bool = False


@dataclass(frozen=True)
class Total:
    """cores and chips, chips as a number of whole ones; None where the arrangement does not fit the chip's neurons."""

    cores: int | None
    chips: int | None
    why: str


@dataclass(frozen=True)
class BusiestCore:
    """The core of one token's copy that comes closest to a limit, or exceeds it most."""

    layer: str
    resource: str
    used: int
    limit: int
    share: float
    source: str


@dataclass(frozen=True)
class FitReport:
    """tokens: the number that layers are copied for, or that take turns. in_time: there is one copy, and tokens come
    one after the other."""

    chip: Chip
    tokens: int
    findings: tuple[Finding, ...]
    layers: tuple[LayerUse, ...]
    copies: Total
    turns: Total
    busiest_core: BusiestCore | None
    in_time: bool = False

    @property
    def broken(self) -> tuple[Finding, ...]:
        """`--strict` fails when there are any."""
        return tuple(finding for finding in self.findings if finding.status == "fail")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {
            "fits": not self.broken,
            "limit_statuses": {name: limit.status for name, limit in self.chip.limits.items()},
            "not_counted": list(NOT_COUNTED),
            "caveat": CAVEAT,
        }


def fit_report(graph: Graph, chip: Chip, tokens: int | None = None) -> FitReport:
    """tokens: of an input; the most the graph takes where None.

    Raises ExportError for a graph that is not in fixed point, ConfigError for tokens that the graph does not take.
    """
    if not graph.fixed_point:
        raise ExportError("the graph has real parameters, but chips hold integers: lower it to fixed point first")
    tokens = graph.tokens if tokens is None else tokens
    if not 1 <= tokens <= graph.tokens:
        raise ConfigError(f"tokens is {tokens}: the graph takes 1 to {graph.tokens}")
    parts = populations(graph, chip, tokens)
    placed = place(parts, chip)
    per_neuron = chip["state_bits_per_neuron"]
    overfull = [
        f"{part.name} {part.state_bits(tokens)}"
        for part in parts
        if part.state_bits(tokens) > per_neuron * part.compartments
    ]
    in_turn = {} if overfull else place(parts, chip, tokens)
    copies = sum(layer.cores for layer in placed.values()) * tokens
    why_not = f"state of {tokens} tokens in a neuron, limit {per_neuron} bits: {listed(overfull)}"
    return FitReport(
        chip,
        tokens,
        tuple(rule(Design(graph, chip, placed)) for rule in RULES),
        tuple(_layer_use(layer, in_turn.get(name), chip) for name, layer in placed.items()),
        _total(copies, chip, "every token has its own neurons and its own copy of the synapses"),
        _total(sum(layer.cores for layer in in_turn.values()), chip, "one copy; tokens take turns, in as many passes")
        if in_turn
        else Total(None, None, why_not),
        _busiest(placed, chip),
        not graph.has_tokens,
    )


def _layer_use(layer: Placed, in_turn: Placed | None, chip: Chip) -> LayerUse:
    part, cores = layer.population, layer.cores
    last = part.elements - (cores - 1) * layer.elements
    connections = part.connections
    return LayerUse(
        part.name,
        part.nodes,
        part.elements * part.compartments,
        sum(c.axons(part.elements) * min(part.elements, c.reach) for c in connections),
        sum(c.all_bits(layer.elements, part.elements, chip) for c in connections),
        part.elements * part.state_bits(),
        (cores - 1) * part.axons(layer.elements) + part.axons(last),
        layer.used["output_axons_per_core"] // layer.elements * part.elements,
        cores,
        in_turn.cores if in_turn else None,
        any(c.is_sparse(layer.elements, chip) for c in connections),
    )


def _total(cores: int, chip: Chip, why: str) -> Total:
    return Total(cores, -(-cores // chip["cores_per_chip"]), why)


def _busiest(placed: dict[str, Placed], chip: Chip) -> BusiestCore | None:
    shares = [
        BusiestCore(name, limit, used, chip[limit], used / chip[limit], chip.limits[limit].source)
        for name, layer in placed.items()
        for limit, used in layer.used.items()
        if limit in chip.limits
    ]
    return max(shares, key=lambda core: core.share, default=None)
