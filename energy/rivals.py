"""The pairs of a report: the spiking network against each rival, both sides with the same dataflow in one row.

1. The dense multiplier array: the twin of equal size, or in integers the *fair rival*, whose activations have as many
   bits as say what a neuron's spikes say in a window (Yan et al., arXiv 2409.08290).
2. The zero-skipping network with these very activations and bits. A phased student computes the same function. Its
   quantisers, which make activations of few bits, are free, as elsewhere, or counted as a neuron that does the same.
3. The dense array with each weight read once a text, and the spiking network with the same reuse.
4. The teacher, and networks that are named.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from neurotool.energy.comparison import (
    FAIR,
    OTHER,
    QUANTISING,
    REUSE,
    TEACHER,
    TWIN,
    ZERO_SKIPPING,
    Comparison,
    compare,
)
from neurotool.energy.costs import CostModel, NumberFormat, quantised
from neurotool.energy.counts import Counts, count_bits, rate_bits
from neurotool.energy.dataflow import BATCHED, DATAFLOWS, GRADED, OUTPUT_STATIONARY, SPIKE, Dataflow
from neurotool.energy.priced import Priced, hybrid, priced
from neurotool.energy.rules import Network
from neurotool.errors import ConfigError, DataError
from neurotool.graph import Neuron

ACTIVE = "the record of activity does not say how many neurons were active in a window: measure it with --data"


def rate_code_bits(counts: Counts) -> int:
    """Bits of an activation that says as much as a neuron's spikes in a window, whatever its layer."""
    neurons = [node for node in counts.graph.nodes.values() if isinstance(node, Neuron)]
    time_steps = counts.activity.time_steps
    return max((rate_bits(node, time_steps) for node in neurons), default=count_bits(time_steps, ternary=False))


def dataflows(counts: Counts, model: CostModel, chosen: list[Dataflow] | None) -> list[Dataflow]:
    """Those that make a difference in this model and can be counted, or those that were chosen.

    Raises DataError or ConfigError where what was chosen cannot be counted.
    """
    if not counts.graph.is_spiking:
        return [OUTPUT_STATIONARY]
    if chosen is not None:
        for flow in chosen:
            _check(counts, flow)
        return chosen
    if model.spiking_only:
        return [counts.dataflow]
    wanted = DATAFLOWS.values() if model.memory else (SPIKE, GRADED)
    return [flow for flow in wanted if _reason_against(counts, flow) is None]


def _check(counts: Counts, flow: Dataflow) -> None:
    if reason := _reason_against(counts, flow):
        error = DataError if reason == ACTIVE else ConfigError
        raise error(f"--dataflow {flow.name}: {reason}")


def _reason_against(counts: Counts, flow: Dataflow) -> str | None:
    phased = counts.graph.schedule == "phased"
    if not phased and flow in (BATCHED, GRADED):
        return "the concurrent schedule sends every step by itself; choose spike or output-stationary"
    return ACTIVE if phased and flow != SPIKE and not counts.knows_active else None


@dataclass(frozen=True)
class Sides:
    """How both sides are priced. dense: cost model of the rivals. mixing: of technologies is forced. made: so far."""

    counts: Counts
    model: CostModel
    dense: CostModel
    teacher: Counts | None = None
    hybrid: bool = False
    mixing: bool = False
    made: dict[tuple[Any, ...], Priced] = field(default_factory=dict, compare=False, repr=False)

    def priced(self, counts: Counts, model: CostModel, numbers: NumberFormat, network: Network = "spiking") -> Priced:
        """Each once: a network meets several rivals."""
        key = (id(counts), model.name, numbers.name, network)
        if key not in self.made:
            self.made[key] = priced(counts, model, numbers, network)
        return self.made[key]

    def ours(self, flow: Dataflow, numbers: NumberFormat) -> Priced:
        """The spiking network, or the hybrid, whose dense units multiply counts, as the fair rival does."""
        counts = self.counts.under(flow, int8=numbers.integer)
        account = self.priced(counts, self.model, numbers)
        if not self.hybrid:
            return account
        fewer = quantised(self.model, rate_code_bits(counts)) if numbers.integer else numbers
        return hybrid(account, self.priced(counts, self.model, fewer, "dense mode"))

    def pair(
        self,
        words: str,
        kind: str,
        flow: Dataflow,
        numbers: NumberFormat,
        theirs: NumberFormat,
        network: Network = "dense",
        rival: Counts | None = None,
    ) -> Comparison:
        counts = (rival or self.counts).under(flow, int8=theirs.integer)
        ours = self.ours(flow, numbers)
        return compare(words, ours, self.priced(counts, self.dense, theirs, network), kind, self.mixing)


def pairs(sides: Sides, numbers: str | None, chosen: list[Dataflow] | None) -> Iterator[Comparison]:
    """All pairs under one cost model, the plain number format before the integers."""
    counts, model, dense = sides.counts, sides.model, sides.dense
    plain, theirs = model.format(numbers), dense.format(numbers if dense == model else None)
    flows = dataflows(counts, model, chosen)
    for flow in flows:
        if counts.graph.is_spiking:
            yield sides.pair("its dense twin of equal size", TWIN, flow, plain, theirs)
            if counts.knows_active and not theirs.integer:
                yield sides.pair(_SKIPPING, ZERO_SKIPPING, flow, plain, theirs, "zero-skipping")
        yield from _reusing(sides, flow, plain, theirs)
        if sides.teacher is not None:
            yield sides.pair("its teacher", TEACHER, flow, plain, theirs, rival=sides.teacher)
    if not counts.graph.is_spiking or "int8" not in dense.formats or "int8" not in model.formats:
        return
    bits = rate_code_bits(counts)
    integers, fewer = model.format("int8"), quantised(dense, bits)
    fair = f"its dense twin with {bits}-bit activations (the fair rival)"
    for flow in flows:
        yield sides.pair(fair, FAIR, flow, integers, fewer)
        if counts.knows_active:
            words = f"{_SKIPPING} of {bits} bits"
            yield sides.pair(words, ZERO_SKIPPING, flow, integers, fewer, "zero-skipping")
            if counts.graph.schedule == "phased":
                words = "the same, quantisers counted and other values of 8 bits"
                yield sides.pair(words, QUANTISING, flow, integers, quantised(dense, bits, alone=True), "quantising")
        yield from _reusing(sides, flow, integers, fewer)
        if sides.teacher is not None and plain.name != "int8":
            yield sides.pair("its teacher in int8", TEACHER, flow, integers, dense.format("int8"), rival=sides.teacher)
    if model.memory and chosen is None:  # as the literature has it: our sums in memory, the rival's in registers
        for flow in flows:
            if not flow.registers and flow != GRADED:
                free = replace(flow, free=True)
                yield sides.pair("its dense twin, whose sums are free", OTHER, free, plain, theirs)
                yield sides.pair("its fair rival, whose sums are free", OTHER, free, integers, fewer)


_SKIPPING = "the zero-skipping network with its very activations"


def _reusing(sides: Sides, flow: Dataflow, ours: NumberFormat, theirs: NumberFormat) -> Iterator[Comparison]:
    if sides.model.memory and sides.counts.graph.is_spiking:
        again = replace(flow, reuse=True)
        yield sides.pair("its dense twin, each weight read once a text", REUSE, again, ours, theirs)
