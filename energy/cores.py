"""What the busiest core of a Loihi chip has to do per time step: totals do not predict run time, it does.

Run time law of Loihi 2 (arXiv 2601.10035, secondary): t_step >= max(DendOps t_d, SynOps t_s, SynMemReads t_m, link,
barrier) of the busiest core. The times are not public, so counts are shown and no seconds.
"""

import math
from dataclasses import dataclass

from neurotool.energy.counts import Counts
from neurotool.graph import Conv1d, Linear

# Dense 8-bit weights that fit the synapse memory of one core: an input axon with n weights takes, per chunk of 64,
# ceil64(8 n + 10) bits of 1 048 576 (Davies et al. 2018; derived).
WEIGHTS_PER_CORE = 116_508


@dataclass(frozen=True)
class CoreLoad:
    """One weight matrix spread over `cores` by its outputs; per core and step, tokens passing one after another.

    synaptic_operations: also the weights read; neuron_updates: outputs that are integrated.
    """

    name: str
    cores: int
    synaptic_operations: float
    neuron_updates: float


def core_loads(counts: Counts) -> list[CoreLoad]:
    """Of every weight matrix that reads spikes, in emission order."""
    steps = counts.activity.tokens * counts.activity.steps
    loads = []
    for node in counts.nodes:
        layer = counts.graph.nodes[node.name]
        if isinstance(layer, (Linear, Conv1d)) and node.spikes_in:
            cores = math.ceil(layer.weight.size / WEIGHTS_PER_CORE)
            outputs = math.ceil(len(layer.weight) / cores)
            loads.append(CoreLoad(node.name, cores, node.synaptic_operations / (steps * cores), outputs))
    return loads
