"""A network under one cost model, number format and dataflow: what each of its nodes needs."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from neurotool.energy.costs import CostModel, Energy, NumberFormat, price, price_operations
from neurotool.energy.counts import Counts, NodeCount
from neurotool.energy.operations import Operations, Work
from neurotool.energy.rules import Network

Mode = Literal["spiking", "dense"]


@dataclass(frozen=True)
class Priced:
    """rows: energy of each node, over all inputs. widest: potentials of all tokens of the longest text, in the widest
    format, and not of one token where the node works token by token.

    modes, conversions: of a hybrid, per node; conversions are what its dense nodes need to know the counts.
    """

    counts: Counts
    model: CostModel
    numbers: NumberFormat
    network: Network
    rows: tuple[Energy, ...]
    widest: bool = False
    modes: tuple[Mode, ...] = ()
    conversions: tuple[Operations, ...] = ()
    dense: "Priced | None" = None

    @cached_property
    def total(self) -> Energy:
        return sum(self.rows, Energy({}, 0))

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

    @property
    def label(self) -> str:
        """What tells it from other accounts of a report."""
        side = "hybrid" if self.modes else self.network
        flow = self.counts.dataflow
        how = flow.name + " reuse" * flow.reuse + " free" * flow.free
        return f"{self.model.name} {self.numbers.name} {side} {how}"

    @cached_property
    def at_widest(self) -> "Priced":
        if self.dense is not None:
            return hybrid(self.spiking_side.at_widest, self.dense.at_widest)
        return priced(self.counts, self.model, self.numbers, self.network, widest=True)

    @property
    def spiking_side(self) -> "Priced":
        """Of a hybrid, the network with every node spiking."""
        return priced(self.counts, self.model, self.numbers, widest=self.widest)

    def prices(self, i: int) -> dict[str, float]:
        """pJ of each kind of operation at the i-th node."""
        node = self.counts.nodes[i]
        if self.modes and self.modes[i] == "dense" and self.dense is not None:
            return self.dense.prices(i)
        return self.model.prices(node, self.numbers, self.network, self.widest)

    def operations(self, i: int) -> Operations:
        """Those of the i-th node, conversions left out."""
        if self.modes and self.modes[i] == "dense" and self.dense is not None:
            return self.dense.operations(i)
        return self.counts.nodes[i].work[self.network].total


def priced(
    counts: Counts, model: CostModel, numbers: NumberFormat, network: Network = "spiking", widest: bool = False
) -> Priced:
    rows = tuple(price(model, numbers, node, network, widest) for node in counts.nodes)
    return Priced(counts, model, numbers, network, rows, widest)


def hybrid(spiking: Priced, dense: Priced) -> Priced:
    """Each node that multiplies in the cheaper of two modes: spiking, or a dense unit that reads the count of a window,
    which in the phased schedule is the same function (NEBULA, Singh et al., ISCA 2020; Dampfhoffer et al. 2023).

    Where spikes come one by one, a dense node counts those that arrive: an add each, and a write of each count.
    """
    rows, conversions = [], []
    modes: list[Mode] = []
    for i, (node, spikes, counted) in enumerate(zip(spiking.counts.nodes, spiking.rows, dense.rows, strict=True)):
        converting = _conversion(spiking, node)
        extra = price_operations(spiking.model, Work(converting), dense.prices(i))
        cheaper = node.arrived.events > 0 and (counted + extra).total_grains < spikes.total_grains
        rows.append(counted + extra if cheaper else spikes)
        modes.append("dense" if cheaper else "spiking")
        conversions.append(converting if cheaper else Operations())
    return replace(spiking, rows=tuple(rows), modes=tuple(modes), conversions=tuple(conversions), dense=dense)


def _conversion(spiking: Priced, node: NodeCount) -> Operations:
    if spiking.counts.dataflow.order != "spike":
        return Operations()  # a message is the count already
    counts = sum(elements.zero + elements.spikes for elements in node.elements.values())
    return Operations(adds=node.spikes_in, value_writes=counts // max(spiking.counts.activity.time_steps, 1))
