"""An energy account of a spiking network: its counts, priced, beside dense rivals, with a verdict in plain words."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurotool.energy.costs import ARITHMETIC, MEMORY, CostModel, Energy, NumberFormat, price, quantised
from neurotool.energy.counts import Counts, NodeCount
from neurotool.errors import ConfigError
from neurotool.files import replacing
from neurotool.graph import Neuron
from neurotool.graph.names import by_kind


@dataclass(frozen=True)
class Priced:
    """A network under one cost model and number format; rows: energy of each node, over all inputs."""

    counts: Counts
    model: CostModel
    numbers: NumberFormat
    dense: bool
    rows: tuple[Energy, ...]

    @property
    def total(self) -> Energy:
        return sum(self.rows, Energy({}, 0.0))

    @property
    def per_inference(self) -> float:
        """pJ"""
        return self.total.total / self.counts.activity.inputs

    @property
    def title(self) -> str:
        return f"{self.model.title}, {self.numbers.name}"

    @property
    def known(self) -> bool:
        return self.model.known


def priced(counts: Counts, model: CostModel, numbers: NumberFormat, dense: bool = False) -> Priced:
    return Priced(counts, model, numbers, dense, tuple(price(model, numbers, node, dense) for node in counts.nodes))


TWIN, TEACHER, FAIR, OTHER = "twin", "teacher", "fair rival", "other"


@dataclass(frozen=True)
class Comparison:
    """The spiking network against one rival, per inference. rival: in words; kind: TWIN, TEACHER, FAIR or OTHER."""

    rival: str
    spiking: Priced
    dense: Priced
    kind: str = OTHER

    @property
    def share(self) -> float:
        """Energy of the spiking network in units of the rival's."""
        return self.spiking.per_inference / self.dense.per_inference

    @property
    def wins(self) -> bool:
        return self.share < 1

    @property
    def break_even(self) -> float:
        """Spikes per synapse at which both need the same; below 0 the spiking network loses even in silence."""
        counts, energy = self.spiking.counts, self.spiking.total
        if not energy.spike_driven:
            return math.inf if self.wins else -math.inf
        silent = (energy.total - energy.spike_driven) / counts.activity.inputs
        factor = (self.dense.per_inference - silent) * counts.activity.inputs / energy.spike_driven
        return factor * counts.spikes_per_synapse

    @property
    def break_even_rate(self) -> float:
        """The same as a rate, spikes per neuron and step."""
        return self.break_even / self.spiking.counts.activity.steps

    @property
    def title(self) -> str:
        ours, theirs = self.spiking, self.dense
        if ours.model != theirs.model:
            return f"{ours.title} against {theirs.title}"
        return ours.title if ours.numbers == theirs.numbers else f"{ours.title} against {theirs.numbers.name}"

    def verdict(self) -> str:
        """One sentence or two: who needs less, and where the border is."""
        percent = f"{100 * self.share:.3g} %" if self.share < 9.995 else f"{100 * self.share:.0f} %"
        title = self.title[0].upper() + self.title[1:]
        spiking = self.spiking.counts.graph.is_spiking
        who = "the spiking network" if spiking else "this dense network"
        how = f"{title}: {who} {'needs' if self.wins else 'LOSES: it needs'} {percent} of {self.rival}"
        if not spiking:
            return f"{how}."
        steps = self.spiking.counts.activity.steps
        if self.break_even <= 0:
            return f"{how}. It would lose without a single spike: what does not depend on spikes is already dearer."
        if math.isinf(self.break_even):
            return f"{how}."
        now = self.spiking.counts.spikes_per_synapse
        border = f"{self.break_even:.3g} spikes per synapse (rate {self.break_even_rate:.3g} over {steps} steps)"
        if self.break_even_rate >= 1:
            return f"{how}. It would lose only above {border}, more than neurons can send; it sends {now:.3g}."
        return f"{how}. It {'loses above' if self.wins else 'would win below'} {border}; it sends {now:.3g}."


def compare(rival: str, spiking: Priced, dense: Priced, kind: str = OTHER, force: bool = False) -> Comparison:
    """Raises ConfigError for two technologies in one ratio, unless forced, and for a network without a price."""
    for words, network in (("the spiking network", spiking), (rival, dense)):
        if not network.per_inference:
            raise ConfigError(
                f"{network.model.name} gives {words} no energy, so there is no ratio; choose a cost model with prices"
            )
    theirs, ours = dense.model.technology, spiking.model.technology
    nodes = sorted(spiking.model.nodes | dense.model.nodes)
    if theirs == ours and len(nodes) > 1 and not force:
        raise ConfigError(
            f"{spiking.model.name} has constants of {' and '.join(nodes)}: a ratio of the two compares factories, "
            "not networks; give constants of one technology, or --force"
        )
    if theirs != ours and not force:
        raise ConfigError(
            f"{spiking.model.name} is {ours} and {dense.model.name} is {theirs}: a ratio of the two compares "
            "factories, not networks; choose models of one technology, or --force"
        )
    return Comparison(rival, spiking, dense, kind)


def rate_code_bits(counts: Counts) -> int:
    """Bits of an activation that says as much as a neuron's spikes in a window: ceil(log2(T + 1)), Yan et al.
    (arXiv 2409.08290); a ternary neuron has 2 T + 1 counts."""
    neurons = [node for node in counts.graph.nodes.values() if isinstance(node, Neuron)]
    ternary = any(node.spikes == "ternary" for node in neurons)
    levels = (2 if ternary else 1) * counts.activity.time_steps + 1
    return math.ceil(math.log2(levels))


@dataclass(frozen=True)
class Published:
    """The formula of the literature, synaptic operations = T × rate × MACs per layer; energy 4.6 pJ × MACs of layers
    that read no spikes + 0.9 pJ × synaptic operations (SpikeBERT, arXiv 2308.15122, equations 16 to 19).

    Over all inputs; energy in pJ. account: the exact one at the same prices.
    """

    operations: float
    macs: int
    energy: float
    account: Priced


def published_formula(account: Priced) -> Published:
    counts = account.counts
    steps = counts.activity.steps
    spiking = [node for node in counts.nodes if node.spiking.accumulates]
    operations = sum(steps * (node.rate or 0) * node.synapses for node in spiking)
    macs = sum(node.synapses for node in counts.nodes if not node.spiking.accumulates)
    prices = account.model.prices(counts.nodes[0], account.numbers)
    return Published(operations, macs, prices["macs"] * macs + prices["accumulates"] * operations, account)


@dataclass(frozen=True)
class Report:
    """name: the model's file; measured: on what. metrics, teacher_metrics: accuracy and the like, where known.

    accounts: the spiking network under each cost model, in its first number format; comparisons: against rivals.
    """

    name: str
    measured: str
    counts: Counts
    accounts: tuple[Priced, ...]
    twins: tuple[Priced, ...]
    comparisons: tuple[Comparison, ...]
    published: Published | None
    metrics: dict[str, float] = field(default_factory=dict)
    teacher_metrics: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Every count and price."""
        from neurotool.energy.formats import to_json

        return to_json(self)

    def to_csv(self) -> str:
        """One line a node."""
        from neurotool.energy.formats import to_csv

        return to_csv(self)

    def to_latex(self) -> str:
        """A table for booktabs."""
        from neurotool.energy.formats import to_latex

        return to_latex(self)

    def to_html(self, path: Path | str | None = None) -> str:
        """One self-contained page, written to `path` where one is given. Raises ExportError."""
        from neurotool.energy.page import report_page, to_html

        page = to_html(report_page(self))
        if path is not None:
            with replacing(Path(path), force=True) as temporary:
                temporary.write_text(page, encoding="utf-8")
        return page

    @property
    def not_counted(self) -> list[str]:
        """What occurs in the network and is in no total."""
        said = [f"no rule for node {name}" for name in self.counts.uncounted]
        missing: dict[str, dict[str, None]] = {}
        for network in (*self.accounts, *self.twins):
            kinds = network.model.unpriced(self.counts.total(network.dense))
            missing.setdefault(network.model.name, {}).update(dict.fromkeys(kinds))
        return said + [
            f"{name} has no price for {', '.join(kinds).replace('_', ' ')}" for name, kinds in missing.items() if kinds
        ]


def build_report(
    name: str,
    measured: str,
    counts: Counts,
    models: list[CostModel],
    *,
    numbers: str | None = None,
    dense_model: CostModel | None = None,
    teacher: Counts | None = None,
    force: bool = False,
    **metrics: Any,
) -> Report:
    """Price `counts` under each model and set it beside its rivals.

    The rivals: the dense twin (equal size, same number format); the teacher, where known; and, in integers, the dense
    network whose activations have as many bits as the rate code needs. A network without spikes has only the teacher.
    Raises ConfigError for technologies that do not mix (unless forced).
    """
    accounts, twins, comparisons = [], [], []
    for model in models:
        account = priced(counts, model, model.format(numbers))
        accounts.append(account)
        against = dense_model or (model if model.known and not model.spiking_only else None)
        if against is None:
            continue
        dense_numbers = against.format(numbers if against == model else None)
        twin = priced(counts, against, dense_numbers, dense=True)
        twins.append(twin)
        if counts.graph.is_spiking:
            comparisons.append(compare("its dense twin of equal size", account, twin, TWIN, force))
        if teacher is not None:
            comparisons.append(
                compare("its teacher", account, priced(teacher, against, dense_numbers, dense=True), TEACHER, force)
            )
        if counts.graph.is_spiking and "int8" in against.formats and "int8" in model.formats:
            bits = rate_code_bits(counts)
            words = f"its dense twin with {bits}-bit activations (the fair rival)"
            rival = priced(counts, against, quantised(against, bits), dense=True)
            comparisons.append(compare(words, priced(counts, model, model.format("int8")), rival, FAIR, force))
    arithmetic = next((a for a in accounts if a.model.name == ARITHMETIC), None)
    published = published_formula(arithmetic) if arithmetic else None
    return Report(name, measured, counts, tuple(accounts), tuple(twins), tuple(comparisons), published, **metrics)


DEFAULT_MODELS = (ARITHMETIC, MEMORY)


@dataclass(frozen=True)
class Row:
    """Nodes that a reader sees as one line; counts per inference, energies in pJ per inference."""

    name: str
    nodes: tuple[NodeCount, ...]
    spiking: float | None
    dense: float | None
    inputs: int

    def per_inference(self, operation: str, dense: bool = False) -> float:
        return sum(getattr(node.dense if dense else node.spiking, operation) for node in self.nodes) / self.inputs

    @property
    def macs(self) -> float:
        return sum(node.synapses for node in self.nodes) / self.inputs

    @property
    def spikes_in(self) -> float:
        return sum(node.spikes_in for node in self.nodes) / self.inputs

    @property
    def rate(self) -> float | None:
        return self.nodes[0].rate if len(self.nodes) == 1 else None

    @property
    def spikes_per_synapse(self) -> float | None:
        return self.per_inference("accumulates") / self.macs if self.spikes_in and self.macs else None

    @property
    def ratio(self) -> float | None:
        return self.spiking / self.dense if self.spiking is not None and self.dense else None


def rows(report: Report, account: int = 0, each: bool = True) -> list[Row]:
    """Synapses one by one (unless `each`, by kind of layer), then other nodes by kind, under the `account`-th cost
    model."""
    inputs = report.counts.activity.inputs
    priced_by, twin = report.accounts[account], report.twins[account] if account < len(report.twins) else None
    groups: dict[str, list[int]] = {}
    for i, node in enumerate(report.counts.nodes):
        groups.setdefault(node.name if node.synapses else node.kind, []).append(i)
    made = []
    for name, members in groups.items():
        nodes = tuple(report.counts.nodes[i] for i in members)
        spiking = sum(priced_by.rows[i].total for i in members) / inputs if priced_by.known else None
        dense = None if twin is None else sum(twin.rows[i].total for i in members) / inputs
        title = name.removesuffix(".linear") if nodes[0].synapses else f"{len(nodes)} × {name}"
        made.append(Row(title, nodes, spiking, dense, inputs))
    made.sort(key=lambda row: not row.nodes[0].synapses)  # stable
    return made if each else _by_kind(made, inputs)


def _by_kind(made: list[Row], inputs: int) -> list[Row]:
    """Synapses of all encoder layers together, neurons, and all else."""
    groups: dict[str, list[Row]] = {}
    for row in made:
        groups.setdefault("other nodes", [])
        kind = next(iter(by_kind([row.name]))) if row.nodes[0].synapses else "other nodes"
        groups.setdefault(row.name if row.nodes[0].kind == "Neuron" else kind, []).append(row)
    groups["other nodes"] = groups.pop("other nodes")
    joined = []
    for name, members in groups.items():
        spiking, dense = ([getattr(row, of) for row in members] for of in ("spiking", "dense"))
        ours, theirs = (None if None in of or not of else sum(of) for of in (spiking, dense))
        joined.append(Row(name, tuple(node for row in members for node in row.nodes), ours, theirs, inputs))
    return [row for row in joined if row.nodes]
