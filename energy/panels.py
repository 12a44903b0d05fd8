"""The views of one account that a report's page switches between: arithmetic or memory, floats or integers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from neurotool.energy.comparison import FAIR, REUSE, TEACHER, TWIN, ZERO_SKIPPING, Comparison, percent
from neurotool.energy.dataflow import DATAFLOWS
from neurotool.energy.formats import digits, joule, layer_cells
from neurotool.energy.priced import Priced
from neurotool.energy.report import Report

# What a reader sees of the kinds of operations, and the colour class of each.
GROUPS = {
    "synaptic adds": ("accumulates",),
    "products": ("macs", "multiplies", "payload_products", "leaks"),
    "neuron updates": ("updates", "resets", "compares"),
    "other arithmetic": ("adds", "exponentials", "error_functions", "divisions", "roots"),
    "weights": ("weight_reads", "lookups"),
    "sums and potentials": ("state_reads", "state_writes"),
    "activations and messages": ("value_reads", "value_writes"),
    "addresses": ("addresses",),
}


@dataclass(frozen=True)
class Table:
    """Cells are text. folded: shown in a page only when opened; narrow, phone: the columns that a narrow terminal and a
    phone show;
    data: the same lines as numbers in base units, for JSON and CSV; kind: of styling in a page."""

    caption: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    folded: bool = False
    narrow: tuple[str, ...] = ()
    phone: tuple[str, ...] = ()
    data: Sequence[dict[str, Any]] = ()
    kind: str = ""


@dataclass(frozen=True)
class Part:
    """Of a stacked bar, or of its legend. colour: place in GROUPS; width: of the longest bar, in percent."""

    name: str
    colour: int
    width: float = 0.0
    value: str = ""


@dataclass(frozen=True)
class Bar:
    """label, value: in words; width: of the longest bar, in percent."""

    label: str
    value: str
    width: float
    good: bool | None = None
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Panel:
    """title: on the switch. verdicts: (sentence, whether it is good news). line: where 100 % of a rival is, in percent
    of the longest bar. shares: against each rival; made: what the energies are made of."""

    title: str
    chosen: bool
    verdicts: list[tuple[str, bool]]
    dataflow: str
    shares: list[Bar]
    line: float
    made: list[Bar]
    pairs: list[Table]
    layers: Table

    @property
    def legend(self) -> list[Part]:
        """The groups that occur."""
        there = {part.colour for bar in self.made for part in bar.parts}
        return [Part(name, colour) for colour, name in enumerate(GROUPS) if colour in there]


Group = list[Comparison]
"""Comparisons of one cost model and one number format."""


def groups(report: Report) -> list[Group]:
    found: dict[tuple[str, str], Group] = {}
    for pair in report.comparisons:
        found.setdefault((pair.spiking.model.name, pair.spiking.numbers.name), []).append(pair)
    return list(found.values())


def panels(report: Report) -> list[Panel]:
    """The one that decides first: it is what paper shows first."""
    head = report.headline
    made = [_panel(report, group, head in group) for group in groups(report)]
    return sorted(made, key=lambda panel: not panel.chosen)  # stable


def group_title(group: Group) -> str:
    return group[0].spiking.title


def _panel(report: Report, group: Group, chosen: bool) -> Panel:
    shown = leading(group)
    beside = [pair for pair in group if pair.matched and pair.dataflow.name == shown.dataflow.name]
    longest = max(1.05, *(pair.share for pair in beside))  # the break-even lies within, on paper too
    rivals = {pair.dense.label: pair for pair in beside if pair.kind not in (REUSE, TEACHER)}
    return Panel(
        title=group_title(group),
        chosen=chosen,
        verdicts=[(shown.border() if shown is report.headline else shown.verdict(), shown.wins)],
        dataflow=shown.dataflow.name if shown.spiking.model.memory else "",
        shares=[_share(pair, longest) for pair in beside],
        line=100 / longest,
        made=_made(shown.spiking, list(rivals.values())),
        pairs=pair_tables(group),
        layers=layer_table(shown.spiking, shown.dense),
    )


def leading(group: Group) -> Comparison:
    """The pair that a group is summed up by: the network of the same function, sums in registers on both sides."""

    def rank(pair: Comparison) -> tuple[bool, ...]:
        flow, kind = pair.dataflow, pair.kind
        return (
            pair.matched, kind == ZERO_SKIPPING, kind == FAIR, kind == TWIN, flow.registers, flow.order == "spike",
        )  # fmt: skip

    return max(group, key=rank)


def _share(pair: Comparison, longest: float) -> Bar:
    return Bar(pair.rival, percent(pair.share), 100 * pair.share / longest, pair.wins)


def _made(spiking: Priced, rivals: list[Comparison]) -> list[Bar]:
    who = "hybrid network" if spiking.modes else "this network"
    accounts = [(who, spiking), *((pair.rival, pair.dense) for pair in rivals)]
    longest = max(account.per_inference for _, account in accounts)
    return [_stack(label, account, longest) for label, account in accounts]


def _stack(label: str, account: Priced, longest: float) -> Bar:
    inputs, by_kind = account.counts.activity.inputs, account.total.by_kind
    parts = []
    for colour, (group, kinds) in enumerate(GROUPS.items()):
        energy = sum(by_kind.get(kind, 0.0) for kind in kinds) / inputs
        if energy:
            parts.append(Part(group, colour, 100 * energy / longest, joule(energy)))
    return Bar(label, joule(account.per_inference), 100 * account.per_inference / longest, None, tuple(parts))


def pair_tables(group: Group) -> list[Table]:
    """Shares and break-even points: a line a rival, a column a dataflow."""
    flows = [name for name in DATAFLOWS if any(pair.dataflow.name == name for pair in group)]
    lines: dict[str, dict[str, Comparison]] = {}
    for pair in group:
        lines.setdefault(pair.rival, {})[pair.dataflow.name] = pair
    title, now = group_title(group), group[0].spiking.counts.spikes_per_synapse
    memory = group[0].spiking.model.memory is not None
    said = "in percent of each rival's energy, both with the same dataflow"
    if memory:
        said += "; up to: potentials of all tokens, in the widest format"
    headings = ("rival", *(_heading(flow, memory) for flow in flows))
    shares = Table(f"{title}: {said}", headings, _cells(lines, flows, share_in_words), kind="pairs")
    if not group[0].spiking.counts.graph.is_spiking:
        return [shares]
    border = f"{title}: spikes per synapse at which both need the same; it sends {now:.3g}"
    return [shares, Table(border, headings, _cells(lines, flows, _border), kind="pairs")]


Cell = Callable[[Comparison], str]


def _heading(flow: str, memory: bool) -> str:
    return "spikes" if flow == "spike" and not memory else flow


def _cells(lines: dict[str, dict[str, Comparison]], flows: list[str], cell: Cell) -> list[tuple[str, ...]]:
    return [(rival, *(cell(pairs[flow]) if flow in pairs else "" for flow in flows)) for rival, pairs in lines.items()]


def share_in_words(pair: Comparison) -> str:
    """With the upper end where the size of the potentials makes a difference."""
    low, high = map(percent, sorted((pair.share, pair.widest_share)))
    return low if low == high else f"{low.removesuffix(' %')} to {high}"


def _border(pair: Comparison) -> str:
    if pair.break_even in (float("inf"), float("-inf")):
        return "wins" if pair.wins else "loses"
    return f"{'' if pair.wins_below else 'above '}{digits(pair.break_even)}"


def layer_table(account: Priced, rival: Priced | None, each: bool = True) -> Table:
    headings, cells = layer_cells(account, rival, each)
    narrow = ("layer", "mode", "MACs", "spikes/synapse", "SOPs", "ANN µJ", "SNN µJ", "SNN/ANN", "µJ")
    against = ""
    if rival is not None and account.counts.graph.is_spiking:
        network = {"dense": "the dense twin", "zero-skipping": "the zero-skipping network"}.get(rival.network, "")
        against = f"; ANN: {network}, {rival.numbers.name}"
    flow = f", {account.counts.dataflow.name}" if account.model.memory else ""
    what = "Layers" if each else "Layers by kind (--layers: each)"
    caption = f"{what}, per inference; energies: {account.title}{flow}{against}"
    phone = ("layer", "mode", "spikes/synapse", "ANN µJ", "SNN µJ", "SNN/ANN", "µJ")
    shown = [tuple(name for name in some if name in headings) for some in (narrow, phone)]
    return Table(caption, headings, cells, narrow=shown[0], phone=shown[1], kind="layers")
