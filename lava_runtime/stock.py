"""Lava's own fixed-point Dense and LIF processes: what they compute, and which of our layers they can stand in for.

Checked against lava-nc 0.10.0 (tests/test_stock.py). They know one token, no bias and only hard reset; LIF has a
synaptic current, so it stands in for CubaLIF, too.
"""

from dataclasses import dataclass, field

import numpy as np

from neurotool.graph import TOKENS, CubaLIF, Graph, Linear, Neuron
from neurotool.graph.fixed_point import DECAY_BITS, LIMIT, decay_mantissa, leak_mantissa

ALIGN = 6
"""Inputs and thresholds are shifted to the left by so many bits, to the units of u and v."""
WRAP = 2**23
DU_WITHOUT_MEMORY = 4095
"""The decay with which u is the input of the step alone; the chip adds 1 to it."""
VTH_LIMIT = 2**17


def dense_weights(weights: np.ndarray, weight_bits: int = 8) -> np.ndarray:
    """What Dense makes of whole-number weights: one sign, 0 … 255; both signs, even numbers of -256 … 254.

    With fewer than 8 bits the lowest bits are cut off.
    """
    sign = -1 if weights.max() <= 0 and weights.min() < 0 else 1
    mixed = weights.min() < 0 < weights.max()
    cut = 8 - weight_bits + mixed
    clipped = np.clip(sign * weights.astype(np.int64), -256 if mixed else 0, 255)
    return sign * (clipped >> cut << cut)


@dataclass
class DenseLif:
    """A Dense that feeds a LIF layer, stepped. Dense hands on in each step what arrived in the step before.

    weights: (out, in). Others as in Lava: dv, du: decays of 12 bits; bias_mant * 2^bias_exp; threshold vth * 2^6.
    """

    weights: np.ndarray
    weight_exp: int = 0
    weight_bits: int = 8
    du: int = 0
    dv: int = 0
    bias_mant: int = 0
    bias_exp: int = 0
    vth: int = 10
    u: np.ndarray = field(init=False)
    v: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.u, self.v, self.buffer = (np.zeros(len(self.weights), np.int64) for _ in range(3))

    def step(self, s_in: np.ndarray) -> np.ndarray:
        """Spikes (out,) for spikes (in,), which count one step later."""
        a = self.buffer
        self.buffer = shifted(dense_weights(self.weights, self.weight_bits) @ (s_in != 0), self.weight_exp)
        u = decayed(self.u, self.du + 1) + (a << ALIGN)
        self.u = np.where(u > WRAP, u - 2 * WRAP, np.where(u <= -WRAP, u + 2 * WRAP, u))
        bias = shifted(np.array(self.bias_mant), self.bias_exp)
        self.v = np.clip(decayed(self.v, self.dv) + self.u + bias, -WRAP + 1, WRAP - 1)
        spikes = self.v > self.vth << ALIGN
        self.v[spikes] = 0
        return spikes


def decayed(x: np.ndarray, decay: int) -> np.ndarray:
    """Towards 0."""
    return np.sign(x) * (np.abs(x) * (2**DECAY_BITS - decay) >> DECAY_BITS)


def shifted(x: np.ndarray, exponent: int) -> np.ndarray:
    return x << exponent if exponent >= 0 else x >> -exponent


@dataclass(frozen=True)
class StockParameters:
    """Arguments of a Dense and the LIF that it feeds, in place of a Linear and a neuron layer."""

    weights: np.ndarray
    weight_exp: int
    dv: int
    vth: int
    du: int = DU_WITHOUT_MEMORY


def stock_parameters(graph: Graph, neuron: str) -> StockParameters | None:
    """For a neuron layer and the Linear before it: Dense and LIF that do exactly the same, or None.

    Lava's LIF has no soft reset, no v_init and no window, and clips where we raise; its Dense has no bias and one
    exponent, and reads any spike as 1.
    """
    node, linear = graph.nodes[neuron], graph.source(neuron, "x")
    synapse = graph.nodes[linear]
    assert isinstance(node, Neuron)
    if (
        not graph.fixed_point
        or graph.schedule != "concurrent"
        or _more_tokens(graph, neuron)
        or not isinstance(synapse, Linear)
    ):
        return None
    fixed, source = graph.fixed_point[linear], graph.nodes[graph.source(linear, "x")]
    exponents = np.unique(0 if fixed.exponents is None else fixed.exponents)
    leak, threshold = np.unique(leak_mantissa(node)), np.unique(node.v_threshold)
    current = np.unique(decay_mantissa(node.current_leak)) if isinstance(node, CubaLIF) else np.zeros(1, np.int64)
    alone = sum(linear in sources for sources in graph.inputs.values()) == 1
    binary = getattr(source, "spikes", None) == "binary"
    if not (alone and binary and synapse.bias is None and node.spikes == "binary" and node.reset == "hard"):
        return None
    if np.any(node.v_init) or node.more_than_plain or len(exponents) > 1:
        return None
    if max(map(len, (leak, threshold, current))) > 1:
        return None
    # Inputs are whole multiples of 2^6, and so are potentials without leak: v >= threshold is v > the multiple below.
    vth, rest = divmod(int(threshold[0]) - 1, 2**ALIGN)
    exact = graph.fixed_point[neuron].rescale == ((2**ALIGN, 0),) and fixed.rescale == ((1, 0),)
    most = _gain(int(leak[0]), graph.time_steps) * _gain(int(current[0]), graph.time_steps) * fixed.bound
    in_range = most * 2**ALIGN <= LIMIT and vth < VTH_LIMIT
    decays = leak[0] != 2**DECAY_BITS or 0 < current[0] < 2**DECAY_BITS
    if not exact or not in_range or leak[0] == 0 or current[0] == 2**DECAY_BITS or (rest and decays):
        return None
    weights = 2 * synapse.weight.astype(np.int32)  # Dense makes weights of both signs even
    du = DU_WITHOUT_MEMORY - int(current[0])
    return StockParameters(weights, int(exponents[0]) - 1, 2**DECAY_BITS - int(leak[0]), vth, du)


def _gain(mantissa: int, time_steps: int) -> float:
    """What a constant drive becomes at most in a state that keeps mantissa / 2^12 of itself a step."""
    lost = 2**DECAY_BITS - mantissa
    return min(time_steps, 2**DECAY_BITS / lost) if lost else time_steps


def _more_tokens(graph: Graph, neuron: str) -> bool:
    """Whether there is more than one vector for the layer: tokens, or axes."""
    shape = graph.shapes()[neuron]
    return graph.tokens != 1 if TOKENS in shape else len(shape) > 1
