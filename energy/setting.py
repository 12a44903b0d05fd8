"""Where a node stands when its operations are counted: in which network, with what arriving, how often it runs."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from neurotool.activity import Activity
from neurotool.energy.dataflow import LEMAIRE, Dataflow
from neurotool.graph import Shape
from neurotool.simulate import SynapseEvents

Network = Literal["spiking", "dense", "zero-skipping", "quantising", "dense mode"]
"""spiking: as it is. dense: its twin with graded activations, run once. zero-skipping: that twin with these very
activations, which multiplies only those that are not 0. quantising: the same, and what makes these activations of
whatever it is given is counted, too. dense mode: what a node of the spiking network does where it
reads counts and multiplies all of them."""


SKIPPING: tuple[Network, ...] = ("zero-skipping", "quantising")


@dataclass(frozen=True)
class Setting:
    """Where a node stands, in one of the networks.

    activity: of the inputs only the lengths are read here. at_ports: shape at each port; shape: of the output.
    runs: how often the node computes per input. steps: how often the neurons here or before it are updated per input.
    windows: windows of a neuron layer per input, in each of which it runs all its steps; 0 in the concurrent schedule.
    arriving: for each port that reads spikes what arrives over all inputs; none in the dense twin.
    payload: the ports whose messages carry a number: leak^(T-t), or a count.
    sent: spikes and windows with spikes of a Neuron.
    weights: that are there, of a node that has any; fewer than its size where zeros are left out.
    spikes: whether spikes alone arrive.
    leak: of the neurons that a MeanPool reads step by step, by which it weights their spikes.
    """

    activity: Activity
    at_ports: dict[str, Shape]
    shape: Shape
    network: Network = "dense"
    dataflow: Dataflow = LEMAIRE
    runs: int = 1
    steps: int = 0
    windows: int = 0
    arriving: dict[str, SynapseEvents] = field(default_factory=dict)
    payload: frozenset[str] = frozenset()
    sent: tuple[int, int] = (0, 0)
    weights: int = 0
    spikes: bool = False
    leak: float | np.ndarray = 1.0

    def size(self, shape: Shape) -> int:
        """Values of one run over all inputs: (tokens, width), (heads, tokens, tokens) or (width,)."""
        activity, fixed = self.activity, [size for size in shape if isinstance(size, int)]
        tokens = (activity.inputs, activity.tokens, activity.token_pairs)[len(shape) - len(fixed)]
        return math.prod(fixed) * tokens

    @property
    def elements(self) -> int:
        return self.size(self.shape)

    @property
    def registers(self) -> bool:
        """Whether sums stay in registers until they are whole."""
        spikes = self.network == "spiking" and bool(self.arriving)
        return self.dataflow.registers or (self.dataflow.free and not spikes)

    @property
    def driver(self) -> str:
        """The port that spikes; where both of a product do, the one that causes fewer accumulates."""
        return min(self.arriving, key=lambda port: self.arriving[port].synaptic_operations)
