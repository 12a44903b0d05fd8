"""One node's operations, in every network in which it may stand, and what arrived there."""

from dataclasses import dataclass

from neurotool.energy.operations import Operations, Work
from neurotool.energy.rules import Network
from neurotool.simulate import SynapseEvents


@dataclass(frozen=True)
class Elements:
    """Values that arrived at a port over the run, by class: no spike, spike of a binary layer, of a ternary layer, or
    graded. Each source counts by itself where several layers spike into one port."""

    zero: int = 0
    binary: int = 0
    ternary: int = 0
    graded: int = 0

    @property
    def spikes(self) -> int:
        return self.binary + self.ternary

    @property
    def rate(self) -> float | None:
        """Spikes per element and step; None where nothing spikes."""
        slots = self.zero + self.spikes
        return self.spikes / slots if slots else None


@dataclass(frozen=True)
class Sizes:
    """Memories behind a node, in values, for the longest input.

    weights: what the dense twin multiplies by: a weight matrix, or the second operand of a product of activations,
    which stands in for one. operand: what a spike meets: the same matrix, but of a product of activations the operand
    that does not spike. values: activations. states: potentials or sums that are alive at a time: of one token where
    the node works token by token. all_states: of all tokens.
    """

    weights: int
    operand: int
    values: int
    states: int
    all_states: int


@dataclass(frozen=True)
class NodeCount:
    """One node over all inputs. elements: at each port of a node that multiplies. arrived: at the port that drives it.

    payload_bits: of a message that arrives here; 0 where spikes say nothing but that they are there.
    """

    name: str
    kind: str
    work: dict[Network, Work]
    elements: dict[str, Elements]
    sizes: Sizes
    arrived: SynapseEvents
    payload_bits: int = 0

    @property
    def spiking(self) -> Operations:
        return self.work["spiking"].total

    @property
    def dense(self) -> Operations:
        return self.work["dense"].total

    @property
    def synapses(self) -> int:
        """Multiply-accumulates of the dense twin's weights and products; those of norms are no synapses."""
        return self.dense.macs if self.elements else 0

    @property
    def synaptic_operations(self) -> int:
        """Spikes times fan-out, whatever the dataflow makes of them."""
        return self.arrived.synaptic_operations

    @property
    def spikes_per_synapse(self) -> float | None:
        """Synaptic operations per MAC of the dense twin; None where nothing spikes."""
        return self.synaptic_operations / self.synapses if self.synapses and self.synaptic_operations else None

    @property
    def density(self) -> float | None:
        """Share of the dense twin's MACs whose activation is not 0; None where nothing spikes."""
        skipping = self.work.get("zero-skipping")
        return skipping.driven.macs / self.synapses if skipping and self.synapses and skipping.driven.macs else None

    @property
    def spikes_in(self) -> int:
        return sum(elements.spikes for elements in self.elements.values())

    @property
    def rate(self) -> float | None:
        """Spikes per element and step at the ports that spike."""
        slots = sum(e.zero + e.spikes for e in self.elements.values())
        return self.spikes_in / slots if slots else None
