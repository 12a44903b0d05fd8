"""An energy account of a spiking network: its counts, priced, beside dense rivals, with a verdict in plain words."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neurotool.energy.comparison import FAIR, TWIN, ZERO_SKIPPING, Comparison, compare
from neurotool.energy.costs import ARITHMETIC, MEMORY, CostModel
from neurotool.energy.counts import Counts, NodeCount
from neurotool.energy.dataflow import OUTPUT_STATIONARY, Dataflow
from neurotool.energy.priced import Priced, priced
from neurotool.energy.rivals import ACTIVE, Sides, dataflows, pairs, rate_code_bits
from neurotool.errors import ConfigError
from neurotool.files import replacing
from neurotool.graph import Weighted
from neurotool.graph.names import by_kind

__all__ = [
    "DEFAULT_MODELS", "Comparison", "Priced", "Published", "Report", "Row", "build_report", "compare", "priced",
    "published_formula", "rate_code_bits", "rows",
]  # fmt: skip

DEFAULT_MODELS = (ARITHMETIC, MEMORY)


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

    @property
    def leaves_out(self) -> list[str]:
        """What occurs in this network and is not in the formula."""
        kinds, total = {node.kind for node in self.account.counts.nodes}, self.account.counts.total()
        known = {"LayerNorm": "norms", "Softmax": "softmax", "Gelu": "GELU", "Add": "sums of activations"}
        left = [words for kind, words in known.items() if kind in kinds]
        nodes = self.account.counts.graph.nodes.values()
        biases = any(node.bias is not None for node in nodes if isinstance(node, Weighted))
        return left + ["biases"] * biases + ["neuron updates"] * bool(total.updates)


def published_formula(account: Priced) -> Published:
    counts = account.counts
    steps = counts.activity.steps
    spiking = [node for node in counts.nodes if node.synaptic_operations]
    operations = sum(steps * (node.rate or 0) * node.synapses for node in spiking)
    macs = sum(node.synapses for node in counts.nodes if not node.synaptic_operations)
    prices = account.model.prices(counts.nodes[0], account.numbers)
    return Published(operations, macs, prices["macs"] * macs + prices["accumulates"] * operations, account)


@dataclass(frozen=True)
class Report:
    """name: the model's file; measured: on what. metrics, teacher_metrics: accuracy and the like, where known.

    accounts: the spiking network under each cost model, in its first number format and in the dataflow that tables of
    layers show, or in those that were chosen; twins: its dense twin likewise; comparisons: all pairs. missing: what the
    activity does not say.
    provenance: where all this comes from, in lines of name and value.
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
    provenance: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def all_accounts(self) -> tuple[Priced, ...]:
        """Every priced network of the report, once."""
        found = {account.label: account for account in (*self.accounts, *self.twins)}
        for comparison in self.comparisons:
            for account in (comparison.spiking, comparison.dense):
                if account.counts.graph is self.counts.graph:
                    found.setdefault(account.label, account)
        return tuple(found.values())

    @property
    def headline(self) -> Comparison | None:
        """The pair that decides: in integers against the network of the same function, with memory, sums in registers
        on both sides; the nearest to it that is there."""

        def rank(pair: Comparison) -> tuple[bool, ...]:
            flow = pair.dataflow
            return (
                pair.kind == ZERO_SKIPPING,
                pair.kind in (FAIR, TWIN),
                pair.spiking.numbers.integer,
                pair.spiking.model.memory is not None,
                flow.registers,
                flow.order == "spike",
            )

        matched = [pair for pair in self.comparisons if pair.matched]
        return max(matched, key=rank, default=None)

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
        """Operations that occur in the network and have no price, so that they are in no total."""
        missing: dict[str, dict[str, None]] = {}
        for network in (*self.accounts, *self.twins):
            missing.setdefault(network.model.name, {}).update(dict.fromkeys(network.total.unpriced))
        return [
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
    chosen: list[Dataflow] | None = None,
    hybrid: bool = False,
    **said: Any,
) -> Report:
    """Price `counts` under each model and set it beside its rivals (`neurotool.energy.rivals`).

    A network without spikes has only the teacher. chosen: dataflows, all by default. said: further fields of Report.
    Raises ConfigError for technologies that do not mix (unless forced), DataError for activity that says too little.
    """
    if hybrid and counts.graph.schedule != "phased":
        raise ConfigError(
            "--hybrid: the schedule is concurrent, and a dense unit reads the count of a window; only a phased network "
            "has one"
        )
    accounts: list[Priced] = []
    twins: list[Priced] = []
    comparisons: list[Comparison] = []
    for model in models:
        sides = Sides(counts, model, dense_model or model, teacher, hybrid, force)
        flows = dataflows(counts, model, chosen)
        plain = model.format(numbers)
        against = dense_model or (model if model.known and not model.spiking_only else None)
        for flow in chosen or [OUTPUT_STATIONARY if OUTPUT_STATIONARY in flows and model.memory else flows[0]]:
            accounts.append(sides.ours(flow, plain))
            if against is not None:
                theirs = against.format(numbers if against == model else None)
                twins.append(sides.priced(counts.under(flow), against, theirs, "dense"))
        comparisons += pairs(sides, numbers, chosen) if against is not None else []
    arithmetic = next((model for model in models if model.name == ARITHMETIC), None)
    published = published_formula(priced(counts, arithmetic, arithmetic.format(numbers))) if arithmetic else None
    missing = () if counts.knows_active else (ACTIVE,)
    return Report(
        name, measured, counts, tuple(accounts), tuple(twins), tuple(comparisons), published, missing=missing, **said
    )


@dataclass(frozen=True)
class Row:
    """Nodes that a reader sees as one line; counts per inference, energies in pJ per inference, None where nothing of
    it has a price. mode: of a hybrid's node."""

    name: str
    nodes: tuple[NodeCount, ...]
    spiking: float | None
    dense: float | None
    inputs: int
    mode: str = ""

    def per_inference(self, operation: str) -> float:
        return sum(getattr(node.spiking, operation) for node in self.nodes) / self.inputs

    @property
    def synaptic_operations(self) -> float:
        return sum(node.synaptic_operations for node in self.nodes) / self.inputs

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
    def density(self) -> float | None:
        return self.nodes[0].density if len(self.nodes) == 1 else None

    @property
    def spikes_per_synapse(self) -> float | None:
        return self.synaptic_operations / self.macs if self.spikes_in and self.macs else None

    @property
    def ratio(self) -> float | None:
        return self.spiking / self.dense if self.spiking is not None and self.dense else None


def rows(spiking: Priced, rival: Priced | None, each: bool = True) -> list[Row]:
    """Synapses one by one, then other nodes by kind; unless `each`, synapses by kind of layer, neurons, all else."""
    inputs = spiking.counts.activity.inputs
    groups: dict[str, list[int]] = {}
    for i, node in enumerate(spiking.counts.nodes):
        groups.setdefault(node.name if node.synapses else node.kind, []).append(i)
    if not each:
        return _rows_by_kind(spiking, rival, groups)
    made = []
    for name, members in groups.items():
        nodes = tuple(spiking.counts.nodes[i] for i in members)
        title = name.removesuffix(".linear") if nodes[0].synapses else f"{len(nodes)} × {name}"
        mode = spiking.modes[members[0]] if spiking.modes and nodes[0].spikes_in else ""
        made.append(Row(title, nodes, _sum(spiking, members), _sum(rival, members), inputs, mode))
    return sorted(made, key=lambda row: not row.nodes[0].synapses)  # stable


def _rows_by_kind(spiking: Priced, rival: Priced | None, groups: dict[str, list[int]]) -> list[Row]:
    nodes, other = spiking.counts.nodes, "other nodes"
    kinds: dict[str, list[int]] = {}
    for name, members in groups.items():
        synapse = name.removesuffix(".linear") if nodes[members[0]].synapses else ""
        kind = next(iter(by_kind([synapse]))) if synapse else "neurons" if nodes[members[0]].kind == "Neuron" else other
        kinds.setdefault(kind, []).extend(members)
    order = sorted(kinds, key=lambda kind: (kind == other, kind == "neurons"))  # stable
    return [
        Row(kind, tuple(nodes[i] for i in kinds[kind]), _sum(spiking, kinds[kind]), _sum(rival, kinds[kind]),
            spiking.counts.activity.inputs)
        for kind in order
    ]  # fmt: skip


def _sum(account: Priced | None, members: list[int]) -> float | None:
    """pJ per inference."""
    if account is None or not account.known or not any(account.rows[i].known for i in members):
        return None
    return sum(account.rows[i].total for i in members) / account.counts.activity.inputs


def total_row(spiking: Priced, rival: Priced | None) -> Row:
    everything = list(range(len(spiking.counts.nodes)))
    energies = _sum(spiking, everything), _sum(rival, everything)
    return Row("total", spiking.counts.nodes, *energies, spiking.counts.activity.inputs)
