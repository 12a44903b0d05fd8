"""The spiking network against one rival: who needs less, and at which activity both would need the same."""

import math
from dataclasses import dataclass

from neurotool.energy.dataflow import Dataflow
from neurotool.energy.priced import Priced
from neurotool.errors import ConfigError

TWIN, FAIR, ZERO_SKIPPING, QUANTISING, REUSE, TEACHER, OTHER = (
    "twin", "fair rival", "zero-skipping", "quantising", "reuse", "teacher", "other",
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """Per inference. rival: in words; kind: one of those above."""

    rival: str
    spiking: Priced
    dense: Priced
    kind: str = OTHER

    @property
    def share(self) -> float:
        """Energy of the spiking network in units of the rival's."""
        return self.spiking.per_inference / self.dense.per_inference

    @property
    def widest_share(self) -> float:
        """The same with potentials of all tokens in the widest format, on both sides."""
        if not self.spiking.model.memory:
            return self.share
        return self.spiking.at_widest.per_inference / self.dense.at_widest.per_inference

    @property
    def wins(self) -> bool:
        return self.share < 1

    @property
    def dataflow(self) -> Dataflow:
        return self.spiking.counts.dataflow

    @property
    def rival_label(self) -> str:
        """What tells the rival's account from others: of another network, with its name."""
        own = self.dense.counts.graph is self.spiking.counts.graph
        return self.dense.label if own else f"{self.rival}: {self.dense.label}"

    @property
    def matched(self) -> bool:
        """Whether both sides keep their sums in the same place. (A dense network has no spikes to send one by one.)"""
        return not self.dataflow.free

    @property
    def dataflow_in_words(self) -> str:
        name = self.dataflow.name + (", each weight read once a text" if self.dataflow.reuse else "")
        return name if self.matched else f"{name}, the rival's sums free"

    def _border(self) -> tuple[float, float]:
        """(gap, slope) in grains over all inputs: with f times the activity we win where slope f < gap."""
        ours, theirs = self.spiking.total, self.dense.total
        inputs = self.spiking.counts.activity.inputs / self.dense.counts.activity.inputs
        silent = (ours.total_grains - ours.driven, (theirs.total_grains - theirs.driven) * inputs)
        return silent[1] - silent[0], ours.driven - theirs.driven * inputs

    @property
    def break_even(self) -> float:
        """Spikes per synapse at which both need the same, active neurons in proportion to spikes, and the zero-skipping
        rival's activity with ours. inf where the spiking network wins and -inf where it loses at any activity."""
        gap, slope = self._border()
        if not slope or (slope > 0) != (gap > 0):  # one side is ahead in silence, and falls back never
            return math.copysign(math.inf, gap if gap else -slope) if gap or slope else math.inf
        return gap / slope * self.spiking.counts.spikes_per_synapse

    @property
    def wins_below(self) -> bool:
        """Whether fewer spikes are what makes the spiking network win, and not more."""
        return self._border()[1] > 0

    @property
    def break_even_rate(self) -> float:
        """The same as a rate, spikes per neuron and step."""
        return self.break_even / self.spiking.counts.activity.steps

    @property
    def title(self) -> str:
        ours, theirs = self.spiking, self.dense
        if ours.model != theirs.model:
            return f"{ours.title} against {theirs.title}"
        numbers = "" if ours.numbers == theirs.numbers else f" against {theirs.numbers.name}"
        flow = f", {self.dataflow_in_words}" if ours.model.memory or self.dataflow.order == "graded" else ""
        return f"{ours.title}{numbers}{flow}"

    def verdict(self) -> str:
        """One sentence or two: who needs less, and where the border is."""
        title = self.title[0].upper() + self.title[1:]
        spiking = self.spiking.counts.graph.is_spiking
        who = "the spiking network" if spiking else "this dense network"
        who = "the hybrid network" if self.spiking.modes else who
        how = f"{title}: {who} {'needs' if self.wins else 'LOSES: it needs'} {percent(self.share)} of {self.rival}"
        return f"{how}. {self.border()}".rstrip() if spiking else f"{how}."

    def headline(self) -> str:
        """The verdict and the matched pair in one sentence."""
        ours = self.spiking
        who = "this hybrid network" if ours.modes else "this network"
        flow = f", {self.dataflow_in_words} on both sides," if ours.model.memory else ""
        how = f"{ours.model.title.split(',')[0]} and in {ours.numbers.name}{flow}"
        verdict = "It wins" if self.wins else "It loses"
        return f"{verdict}: {how} {who} needs {percent(self.share)} of the energy of {self.rival}."

    def border(self) -> str:
        """Where the break-even is, in words; empty where activity decides nothing."""
        slope = self._border()[1]
        if math.isinf(self.break_even):
            if self.break_even > 0:
                return "It would win at any activity." if slope else ""
            return "It would lose without a single spike: what does not depend on spikes is already dearer."
        steps, now = self.spiking.counts.activity.steps, self.spiking.counts.spikes_per_synapse
        where = f"{self.break_even:.3g} spikes per synapse (rate {self.break_even_rate:.3g} over {steps} steps)"
        if not self.wins_below:
            return f"It {'loses below' if self.wins else 'would win above'} {where}; it sends {now:.3g}."
        if self.break_even_rate >= 1:
            return f"It would lose only above {where}, more than neurons can send; it sends {now:.3g}."
        return f"It {'loses above' if self.wins else 'would win below'} {where}; it sends {now:.3g}."


def percent(share: float) -> str:
    """Three digits, one more next to 100 %, which decides who wins, and no exponent."""
    if 0.995 <= share < 1.005 and share != 1:
        return f"{100 * share:.4g} %" if f"{100 * share:.4g}" != "100" else f"{100 * share:.6g} %"
    return f"{100 * share:.3g} %" if share < 9.995 else f"{100 * share:,.0f} %"


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
            "not networks; give constants of one technology, or --across-technologies"
        )
    if theirs != ours and not force:
        raise ConfigError(
            f"{spiking.model.name} is {ours} and {dense.model.name} is {theirs}: a ratio of the two compares "
            "factories, not networks; choose models of one technology, or --across-technologies"
        )
    return Comparison(rival, spiking, dense, kind)
