"""What each kind of node costs: one small function per node type, for the spiking network and for its dense twin.

Everything is a whole number. A function gets the node and a `Setting` and returns operations of all inputs together.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurotool.activity import Activity
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    Gelu,
    GradedNeuron,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    Readout,
    Scale,
    Shape,
    Softmax,
)


@dataclass(frozen=True)
class Operations:
    """Counts of arithmetic and of memory accesses.

    accumulates: synaptic operations, a spike adding one weight (or, in attention, one graded value) to one target.
    updates: neuron updates, one per neuron and step: integrate and compare. resets: one per spike. leaks: one
    multiplication per update of a leaky neuron.
    lookups: values read from embedding tables. roots: square roots. addresses: address computations.
    Reads and writes are of one value each: weights; values (activations, spike events); states (potentials).
    """

    macs: int = 0
    accumulates: int = 0
    adds: int = 0
    multiplies: int = 0
    compares: int = 0
    exponentials: int = 0
    error_functions: int = 0
    divisions: int = 0
    roots: int = 0
    updates: int = 0
    leaks: int = 0
    resets: int = 0
    lookups: int = 0
    weight_reads: int = 0
    value_reads: int = 0
    value_writes: int = 0
    state_reads: int = 0
    state_writes: int = 0
    addresses: int = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(**{name: getattr(self, name) + getattr(other, name) for name in OPERATIONS})

    def times(self, factor: int) -> "Operations":
        return Operations(**{name: getattr(self, name) * factor for name in OPERATIONS})

    @property
    def arithmetic(self) -> int:
        """Operations that are neither synaptic, nor neuron updates, nor memory accesses."""
        return sum(getattr(self, name) for name in _OTHER_ARITHMETIC)


OPERATIONS = tuple(f.name for f in dataclasses.fields(Operations))
_OTHER_ARITHMETIC = (
    "macs", "adds", "multiplies", "compares", "exponentials", "error_functions", "divisions", "roots",
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Where a node stands, in the spiking network or in its dense twin.

    activity: of the inputs only the lengths are read here. at_ports: shape at each port; shape: of the output.
    runs: how often the node computes per input. steps: how often the neurons here or before it are updated per input.
    events, accumulates: for each port that reads spikes, how many arrive over all inputs and the synaptic operations
    they cause; none in the dense twin. sent: spikes that a Neuron sends. skip_zero: zero weights cost nothing.
    """

    activity: Activity
    at_ports: dict[str, Shape]
    shape: Shape
    runs: int = 1
    steps: int = 0
    events: dict[str, int] = field(default_factory=dict)
    accumulates: dict[str, int] = field(default_factory=dict)
    sent: int = 0
    skip_zero: bool = False

    def size(self, shape: Shape) -> int:
        """Values of one run over all inputs: (tokens, width), (heads, tokens, tokens) or (width,)."""
        activity, fixed = self.activity, [size for size in shape if isinstance(size, int)]
        tokens = (activity.inputs, activity.tokens, activity.token_pairs)[len(shape) - len(fixed)]
        return math.prod(fixed) * tokens

    @property
    def elements(self) -> int:
        return self.size(self.shape)


def _multiplying(setting: Setting, macs: int, biases: int = 0) -> Operations:
    """A weight matrix or a product of activations; macs and biases: of one dense run.

    A port that spikes replaces the multiply-accumulates by one accumulate per event and target; where both ports of a
    product spike, the one that causes fewer drives it.
    Memory after Lemaire et al. 2022: dense, every input once, a weight and an address per MAC, every output once;
    spiking, every event once, and per accumulate a weight, an address, and a potential read and written.
    """
    runs = setting.runs
    graded = sum(setting.size(shape) for port, shape in setting.at_ports.items() if port not in setting.events)
    always = Operations(adds=biases, weight_reads=biases, value_reads=graded)
    if not setting.events:
        dense = Operations(macs=macs, weight_reads=macs, addresses=macs, value_writes=setting.elements)
        return (always + dense).times(runs)
    count = min(setting.accumulates.values())
    return always.times(runs) + Operations(
        accumulates=count,
        weight_reads=count,
        addresses=count,
        value_reads=sum(setting.events.values()),
        state_reads=count,
        state_writes=count + biases * runs,
    )


def _linear(node: Linear, setting: Setting) -> Operations:
    tokens = setting.activity.tokens
    weights = int(np.count_nonzero(node.weight)) if setting.skip_zero else node.weight.size
    return _multiplying(setting, tokens * weights, 0 if node.bias is None else tokens * len(node.bias))


def _conv1d(node: Conv1d, setting: Setting) -> Operations:
    """What lies beyond the ends of a text costs nothing."""
    out, width, _ = node.weight.shape
    pairs = sum(setting.activity.pairs_at(distance) for distance in range(-node.before, node.after + 1))
    return _multiplying(setting, pairs * out * width, 0 if node.bias is None else setting.activity.tokens * out)


def _matmul(node: MatMul, setting: Setting) -> Operations:
    """Pairs of tokens times the width, whatever the number of heads."""
    _, width = setting.at_ports["b"]
    assert isinstance(width, int)
    return _multiplying(setting, setting.activity.token_pairs * width)


def _readout(node: Readout, setting: Setting) -> Operations:
    inputs = setting.activity.inputs
    return _multiplying(setting, inputs * node.weight.size, 0 if node.bias is None else inputs * len(node.bias))


def _neuron(node: Neuron, setting: Setting) -> Operations:
    """Nothing in the dense twin, where the value goes on as it is."""
    if not setting.steps:
        return Operations()
    updates = setting.steps * setting.elements
    return Operations(
        updates=updates,
        compares=updates if node.spikes == "ternary" else 0,  # the second threshold
        leaks=0 if np.all(np.asarray(node.leak) == 1) else updates,
        resets=setting.sent,
        value_reads=setting.elements * setting.runs,
        value_writes=setting.sent,
        state_reads=updates,
        state_writes=updates,
    )


def _elementwise(setting: Setting, **per_element: int) -> Operations:
    n = setting.elements
    reads = n * len(setting.at_ports)
    each = Operations(value_reads=reads, value_writes=n, **{name: k * n for name, k in per_element.items()})
    return each.times(setting.runs)


def _softmax(node: Softmax, setting: Setting) -> Operations:
    """Per row: maximum, differences, exponentials, sum, one division, products."""
    n, rows = setting.elements, int(setting.shape[0]) * setting.activity.tokens
    extra = Operations(compares=n - rows, adds=n - rows, divisions=rows).times(setting.runs)
    return _elementwise(setting, adds=1, exponentials=1, multiplies=1) + extra


def _layer_norm(node: LayerNorm, setting: Setting) -> Operations:
    """Per token of width d: mean (d - 1 adds, a product), differences, sum of squares (d MACs, a product), epsilon,
    root, division, d products, and d MACs with weight and bias."""
    tokens, n = setting.activity.tokens, setting.elements
    extra = Operations(multiplies=2 * tokens, roots=tokens, divisions=tokens, weight_reads=2 * n).times(setting.runs)
    return _elementwise(setting, adds=2, macs=2, multiplies=1) + extra


def _gelu(node: Gelu, setting: Setting) -> Operations:
    return _elementwise(setting, error_functions=1, multiplies=3, adds=1)


def _add(node: Add, setting: Setting) -> Operations:
    """Spikes that arrive beside a graded value, as on a residual path, are added to it one by one."""
    if not setting.events:
        return _elementwise(setting, adds=1)
    spikes, graded = sum(setting.events.values()), setting.elements * setting.runs
    each = Operations(adds=1, value_reads=1, state_reads=1, state_writes=1).times(spikes)
    return each + Operations(value_reads=graded, value_writes=graded)


def _concat(node: Concat, setting: Setting) -> Operations:
    """Wiring: who reads it reads its sources."""
    return Operations()


def _scale(node: Scale, setting: Setting) -> Operations:
    return _elementwise(setting, multiplies=1)


def _mean_pool(node: MeanPool, setting: Setting) -> Operations:
    """Sums over the steps, then over the tokens."""
    size = setting.size(setting.at_ports["x"])
    pooled = size if node.pooling == "mean" else setting.elements
    over_steps = Operations(adds=pooled, value_reads=pooled).times(max(setting.steps - 1, 0))
    if node.pooling == "first":
        return over_steps
    over_tokens = Operations(adds=size - setting.elements, multiplies=setting.elements)
    return over_steps + over_tokens + Operations(value_reads=size, value_writes=setting.elements)


def _embedding(node: Embedding, setting: Setting) -> Operations:
    return Operations(lookups=setting.elements, value_writes=setting.elements)


def _input(node: Input, setting: Setting) -> Operations:
    return Operations()


Rule = Callable[[Any, Setting], Operations]
RULES: dict[type[Node], Rule] = {
    Input: _input,
    Embedding: _embedding,
    Linear: _linear,
    Conv1d: _conv1d,
    Neuron: _neuron,
    GradedNeuron: _neuron,
    MatMul: _matmul,
    Softmax: _softmax,
    LayerNorm: _layer_norm,
    Gelu: _gelu,
    Add: _add,
    Concat: _concat,
    Scale: _scale,
    MeanPool: _mean_pool,
    Readout: _readout,
}
