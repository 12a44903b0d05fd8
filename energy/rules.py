"""What each kind of node costs: one small function per node type, for every network in which it may stand.

Everything is a whole number. A function gets the node and a `Setting` and returns the work of all inputs together. The
first sentence of its docstring is the rule, as the audit prints it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from neurotool.energy.multiplying import conv1d, conv2d, linear, matmul, plane, readout, sums
from neurotool.energy.operations import Operations, Work
from neurotool.energy.setting import Network, Setting
from neurotool.graph import (
    Add,
    AvgPool2d,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Embedding,
    Flatten,
    Gelu,
    GradedNeuron,
    Input,
    Integrator,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    NodeTable,
    Readout,
    Scale,
    Softmax,
    SumPool2d,
)
from neurotool.graph.fixed_point import RATE_BITS

__all__ = ["RULES", "Network", "Rule", "Setting", "payload_bits", "rule_in_words"]


def _pool(node: SumPool2d, setting: Setting) -> Work:
    """The adds of each window, the padding left out, and of a mean a product; of spikes that neurons read, an add for
    each window that a spike is in, as a synapse of weight 1, of a mean 1 / size; of spikes that synapses read, wiring.
    """
    if setting.network == "spiking" and setting.spikes:
        return _pool_of_spikes(setting) if setting.arriving else Work()
    read = setting.activity.inputs * int(setting.at_ports["x"][0]) * node.windows.pairs(plane(setting))
    products = setting.elements if isinstance(node, AvgPool2d) else 0
    adds = max(read - setting.elements, 0)
    each = Operations(adds=adds, multiplies=products, value_reads=read, value_writes=setting.elements)
    return Work(each.times(setting.runs))


def _pool_of_spikes(setting: Setting) -> Work:
    flow, arrived = setting.dataflow, setting.arriving["x"]
    spikes, active = arrived.synaptic_operations, arrived.active_operations
    messages = spikes if flow.order == "spike" else active
    driven = Operations(
        adds=active if flow.order == "graded" else spikes,
        addresses=messages,
        value_reads=arrived.events if flow.order == "spike" else arrived.active,
    )
    written = setting.elements * setting.runs if setting.registers else 0
    return Work(Operations(value_writes=written), driven + sums(setting, messages))


def _neuron(node: Neuron, setting: Setting) -> Work:
    """T updates of each neuron, a comparison more where ternary, a product where leaky, a reset a spike; dense: none.

    A bias of its own is an add more, and a floor under the potential a comparison.
    Where leak is 0 no potential is kept. Where the spikes of a window go together, its potential is read and written
    once; in registers it is not, as a window starts afresh. In the concurrent schedule potentials live on.
    """
    if setting.network == "quantising":
        return _quantiser(setting)
    if setting.network != "spiking":
        return Work()
    spikes, active = setting.sent
    updates = setting.steps * setting.elements
    kept = _kept(setting, node.leak)
    always = Operations(
        updates=updates,
        adds=_share(updates, np.not_equal(node.bias, 0)),
        compares=updates * ((node.spikes == "ternary") + (node.v_min is not None)),  # a second threshold, the floor
        leaks=_share(updates, _between(node.leak)),
        value_reads=setting.elements * setting.runs,
        state_reads=kept,
        state_writes=kept,
    )
    return Work(always, Operations(resets=spikes, value_writes=active if _together(setting) else spikes))


def _quantiser(setting: Setting) -> Work:
    """What makes an activation of few bits: as much as a graded neuron of one step. A product with 1 / scale, a
    rounding add and a comparison with the largest level; it is read, and written where it is not 0."""
    n = setting.elements * setting.runs
    return Work(Operations(updates=n, multiplies=n, value_reads=n), Operations(value_writes=setting.sent[1]))


def _together(setting: Setting) -> bool:
    """Whether the spikes of a window go together."""
    return setting.windows > 0 and setting.dataflow.order != "spike"


def _kept(setting: Setting, leak: float | np.ndarray) -> int:
    """How often a potential or current is read, and written, that keeps a share `leak` of itself from step to step."""
    kept = _share(setting.steps * setting.elements, np.not_equal(leak, 0))
    if not _together(setting):
        return kept
    return 0 if setting.dataflow.registers else kept // setting.steps * setting.windows


def _graded_neuron(node: GradedNeuron, setting: Setting) -> Work:
    """As a neuron of one step, and a product, which turns its drive into levels; a comparison more for a dead zone."""
    work = _neuron(node, setting)
    if setting.network != "spiking":
        return work
    n = work.always.updates
    return replace(work, always=work.always + Operations(multiplies=n * (node.levels > 1), compares=n * node.silences))


def _between(leak: float | np.ndarray) -> np.ndarray:
    """Where leak multiplies: neither 1, which keeps everything, nor 0, which keeps nothing."""
    return np.greater(leak, 0) & np.less(leak, 1)


def payload_bits(node: Node) -> int:
    """Of a message of a phased window that says more than that it is there, with its sign: of leak^(T-t), or of a count
    above 1. 0 for any other."""
    if isinstance(node, GradedNeuron) and node.levels > 1:
        return node.payload_bits
    return RATE_BITS if isinstance(node, Neuron) and bool(np.any(_between(node.leak))) else 0


def _share(of_layer: int, holds: np.ndarray) -> int:
    """What the neurons for which it holds do of what the whole layer does; one answer for all, or one a neuron."""
    return of_layer // holds.size * int(np.count_nonzero(holds))


def _cuba_lif(node: CubaLIF, setting: Setting) -> Work:
    """A neuron's work, and in every step a current: an add, a product where it leaks, and a state as its potential."""
    counted = _neuron(node, setting)
    if setting.network != "spiking":
        return counted
    updates, kept = counted.always.updates, _kept(setting, node.current_leak)
    current = Operations(
        adds=_share(updates, np.not_equal(node.current_leak, 0)),
        leaks=_share(updates, _between(node.current_leak)),
        state_reads=kept,
        state_writes=kept,
    )
    return replace(counted, always=counted.always + current)


def _integrator(node: Integrator, setting: Setting) -> Work:
    """In every step an update, a state and a value that it hands on, a second state for a current; dense: none."""
    if setting.network != "spiking":
        return Work()
    updates = setting.steps * setting.elements
    current = _share(updates, np.not_equal(node.current_leak, 0))
    kept = _kept(setting, node.leak) + _kept(setting, node.current_leak)
    return Work(
        Operations(
            updates=updates,
            adds=current + _share(updates, np.not_equal(node.bias, 0)),
            leaks=_share(updates, _between(node.leak)) + _share(updates, _between(node.current_leak)),
            value_reads=updates,
            value_writes=updates,
            state_reads=kept,
            state_writes=kept,
        )
    )


def _delay(node: Delay, setting: Setting) -> Work:
    """A value written and one read in every step; dense: none, as it has no time."""
    moved = setting.elements * setting.runs if setting.network == "spiking" else 0
    return Work(Operations(value_reads=moved, value_writes=moved))


def _elementwise(setting: Setting, **per_element: int) -> Operations:
    n = setting.elements
    reads = n * len(setting.at_ports)
    each = Operations(value_reads=reads, value_writes=n, **{name: k * n for name, k in per_element.items()})
    return each.times(setting.runs)


def _softmax(node: Softmax, setting: Setting) -> Work:
    """Per row a maximum, differences, exponentials, a sum, one division and products, in every run."""
    n, rows = setting.elements, int(setting.shape[0]) * setting.activity.tokens
    extra = Operations(compares=n - rows, adds=n - rows, divisions=rows).times(setting.runs)
    return Work(_elementwise(setting, adds=1, exponentials=1, multiplies=1) + extra)


def _layer_norm(node: LayerNorm, setting: Setting) -> Work:
    """Per token of width d 2d adds, 2d MACs, d + 2 products, a root and a division, in every run.

    Mean (d - 1 adds, a product), differences, sum of squares (d MACs, a product), epsilon, root, division, d products,
    and d MACs with weight and bias.
    """
    tokens, n = setting.activity.tokens, setting.elements
    extra = Operations(multiplies=2 * tokens, roots=tokens, divisions=tokens, weight_reads=2 * n).times(setting.runs)
    return Work(_elementwise(setting, adds=2, macs=2, multiplies=1) + extra)


def _gelu(node: Gelu, setting: Setting) -> Work:
    """Per element an error function, three products and an add, in every run."""
    return Work(_elementwise(setting, error_functions=1, multiplies=3, adds=1))


def _add(node: Add, setting: Setting) -> Work:
    """One add an element; spikes beside a graded value, as on a residual path, are added to it as they arrive."""
    if setting.network != "spiking" or not setting.arriving:
        return Work(_elementwise(setting, adds=1))
    flow, arrived, graded = setting.dataflow, setting.arriving.values(), setting.elements * setting.runs
    messages = sum(each.events if flow.order == "spike" else each.active for each in arrived)
    adds = messages if flow.order == "graded" else sum(each.events for each in arrived)
    driven = Operations(adds=adds, value_reads=messages) + sums(setting, messages)
    return Work(Operations(value_reads=graded, value_writes=graded), driven)


def _wiring(node: Concat | Flatten, setting: Setting) -> Work:
    """Wiring: who reads it reads its sources."""
    return Work()


def _scale(node: Scale, setting: Setting) -> Work:
    """One product an element, in every run."""
    return Work(_elementwise(setting, multiplies=1))


def _mean_pool(node: MeanPool, setting: Setting) -> Work:
    """Sums over the steps of the last pass, then over the tokens.

    A sum of leaky spikes is r <- leak r + s, a product a step; where leak is 0 the last step is all that counts.
    """
    size = setting.size(setting.at_ports["x"])
    pooled = (size if node.pooling == "mean" else setting.elements) * max(setting.steps - 1, 0)
    summed = _share(pooled, np.not_equal(setting.leak, 0))
    over_steps = Operations(adds=summed, value_reads=summed, multiplies=_share(pooled, _between(setting.leak)))
    if node.pooling == "first":
        return Work(over_steps)
    over_tokens = Operations(adds=size - setting.elements, multiplies=setting.elements)
    return Work(over_steps + over_tokens + Operations(value_reads=size, value_writes=setting.elements))


def _embedding(node: Embedding, setting: Setting) -> Work:
    """One look-up a value, once."""
    return Work(Operations(lookups=setting.elements, value_writes=setting.elements))


def _input(node: Input, setting: Setting) -> Work:
    """Nothing: values come from outside."""
    return Work()


Rule = Callable[[Any, Setting], Work]
RULES: NodeTable[Rule] = NodeTable(
    "rule for its operations",
    {
        Input: _input,
        Embedding: _embedding,
        Linear: linear,
        Conv1d: conv1d,
        Conv2d: conv2d,
        SumPool2d: _pool,
        AvgPool2d: _pool,
        Flatten: _wiring,
        Neuron: _neuron,
        CubaLIF: _cuba_lif,
        Integrator: _integrator,
        Delay: _delay,
        GradedNeuron: _graded_neuron,
        MatMul: matmul,
        Softmax: _softmax,
        LayerNorm: _layer_norm,
        Gelu: _gelu,
        Add: _add,
        Concat: _wiring,
        Scale: _scale,
        MeanPool: _mean_pool,
        Readout: readout,
    },
)


def rule_in_words(name: str, node: Node) -> str:
    """The first sentence of the rule's docstring."""
    return " ".join((RULES.of(name, node).__doc__ or "").split("\n\n")[0].split())
