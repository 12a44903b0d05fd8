"""Windows of neurons as comparisons of the sums that drive them with whole numbers, found once for a graph.

What lies between a product, or a LayerNorm's division, and the count of a window takes one whole number to one whole
number and keeps their order: bias, exponents, shifts, the count itself. So a count is how many of a few limits that
number has reached: one comparison for each in place of a dozen passes in integers. A GELU falls first and then rises;
a level that it falls below on the left has a second limit there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from neurotool.graph import Gelu, GradedNeuron, Graph, LayerNorm, Neuron, Synapse
from neurotool.graph.fixed_point import LIMIT
from neurotool.graph.nodes import TOKENS
from neurotool.lava_runtime import nonlinear
from neurotool.lava_runtime.integer import IntegerArithmetic

MOST_LEVELS = 16
"""Beyond so many comparisons the closed form is as fast."""
Counts = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Decision:
    """head: the node whose `IntegerArithmetic.unfinished` is compared; between: a GELU in between, or none.

    count = base + number of `rising` limits that are reached + number of `falling` ones that are not; each (width,).
    """

    head: str
    between: tuple[str, ...]
    base: int
    rising: np.ndarray
    falling: np.ndarray

    def counts(self, x: np.ndarray) -> np.ndarray:
        """int8, of what the head gives unfinished, (…, tokens, width)."""
        counts, reached = np.full(x.shape, self.base, np.int8), np.empty(x.shape, bool)
        for compare, limits in ((np.greater_equal, self.rising), (np.less, self.falling)):
            for limit in limits:
                compare(x, limit.astype(x.dtype, copy=False), out=reached)
                counts += reached.view(np.int8)
        return counts


def decisions(integers: IntegerArithmetic) -> dict[str, Decision]:
    """Of the neuron layers that allow it, by name: those of a phased network of tokens whose potentials cannot leave
    their range, behind a product or a LayerNorm that nothing else reads."""
    graph = integers.graph
    if graph.schedule != "phased" or not graph.has_tokens:
        return {}
    found = {name: _decision(integers, name) for name in graph.of_type(Neuron)}
    return {name: decision for name, decision in found.items() if decision is not None}


def _decision(integers: IntegerArithmetic, name: str) -> Decision | None:
    graph, node = integers.graph, integers.neuron(name)
    most = node.counts_to(graph.time_steps)
    head, between = graph.source(name, "x"), tuple[str, ...]()
    if type(graph.nodes[head]) is Gelu and not integers.fixed(head).fraction:
        head, between = graph.source(head, "x"), (head,)
    chain = (head, *between)
    if not _alone(graph, name, chain) or isinstance(node, GradedNeuron):
        return None
    if most * (2 if node.signed else 1) > MOST_LEVELS or any(integers.fixed(one).bound > LIMIT for one in chain):
        return None
    farthest = integers.largest_unfinished(head)
    bound = np.array([[-1], [1]]) * integers.fixed(chain[-1]).bound  # against the threshold of each neuron
    if farthest is None or not integers.has_closed_form(name, integers.at_port(name, 0, bound)):
        return None

    def driven(x: np.ndarray) -> np.ndarray:
        return integers.at_port(chain[1] if between else name, 0, integers.finished(head, x))

    def counted(x: np.ndarray) -> np.ndarray:
        x = driven(x)
        return integers.closed_form(name, integers.at_port(name, 0, nonlinear.gelu(x)) if between else x)

    width = int(graph.shapes()[head][-1])
    lowest = -np.broadcast_to(farthest, (width,))
    turn = _first(lambda x: driven(x) >= nonlinear.GELU_TURNS, lowest, 1 - lowest) if between else lowest
    levels = np.arange(-most + 1 if node.signed else 1, most + 1)[:, None]
    shape = len(levels), width
    rising = _first(lambda x: counted(x) >= levels, np.broadcast_to(turn, shape), np.broadcast_to(1 - lowest, shape))
    falling = _first(lambda x: counted(x) < levels, np.broadcast_to(lowest, shape), np.broadcast_to(turn, shape))
    always = (rising == falling).all(1)
    return Decision(
        head,
        between,
        int(levels[0, 0]) - 1 + int(always.sum()),
        rising[~always & (rising <= -lowest).any(1)].astype(np.float64),
        falling[~always & (falling > lowest).any(1)].astype(np.float64),
    )


def _alone(graph: Graph, name: str, chain: tuple[str, ...]) -> bool:
    """Whether the chain and the neurons are alike at all tokens and nothing else reads the chain."""
    readers = [reader for one in chain for reader, sources in graph.inputs.items() for s in sources if s == one]
    fed_back = any(reader in (*chain, name) for reader, _ in graph.feedback)
    head, shape = graph.nodes[chain[0]], graph.shapes()[chain[0]]
    return (
        isinstance(head, (Synapse, LayerNorm))
        and not head.at_end
        and not fed_back
        and readers == [*chain[1:], name]
        and len(shape) == 2
        and shape[0] == TOKENS
    )


def _first(holds: Counts, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The smallest whole number from low to high - 1 for which it holds, high where for none: it has to hold for all
    that follow."""
    while (low < high).any():
        middle = (low + high) >> 1
        reached = holds(np.minimum(middle, high - 1)) | (low >= high)
        low, high = np.where(reached, low, middle + 1), np.where(reached, middle, high)
    return high
