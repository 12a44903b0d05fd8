"""The primitives of a layer graph: one frozen dataclass each, its equation in the docstring and computed beside it.

Shapes are per input, without a batch axis. `tokens` is the number of tokens of the input at hand; activations are
(tokens, width), attention matrices (heads, tokens, tokens). Parameters are shared by all tokens. A network without
tokens has no such axis: its activations are (width,), (channels, height, width) or of any other shape.
"""

from neurotool.graph.nodes.currents import CubaLIF, Delay, Integrator
from neurotool.graph.nodes.entering import Embedding, Ids, Input
from neurotool.graph.nodes.functions import Gelu, LayerNorm, Scale, Softmax
from neurotool.graph.nodes.images import AvgPool2d, Conv2d, Flatten, SumPool2d
from neurotool.graph.nodes.joining import Add, Concat
from neurotool.graph.nodes.neurons import GradedNeuron, Membrane, Neuron, Reset, Spikes
from neurotool.graph.nodes.node import (
    NODE_TYPES,
    TOKENS,
    Context,
    Node,
    Shape,
    State,
    Stateful,
    is_size_of,
    own_axes,
    register,
    same_value,
    sizes,
    text,
)
from neurotool.graph.nodes.readout import MeanPool, Pooling, Readout
from neurotool.graph.nodes.synapses import Conv1d, Linear, MatMul, Synapse, Weighted, largest

__all__ = [
    "NODE_TYPES",
    "TOKENS",
    "Add",
    "AvgPool2d",
    "Concat",
    "Context",
    "Conv1d",
    "Conv2d",
    "CubaLIF",
    "Delay",
    "Embedding",
    "Flatten",
    "Gelu",
    "GradedNeuron",
    "Ids",
    "Input",
    "Integrator",
    "LayerNorm",
    "Linear",
    "MatMul",
    "MeanPool",
    "Membrane",
    "Neuron",
    "Node",
    "Pooling",
    "Readout",
    "Reset",
    "Scale",
    "Shape",
    "Softmax",
    "Spikes",
    "State",
    "Stateful",
    "SumPool2d",
    "Synapse",
    "Weighted",
    "is_size_of",
    "largest",
    "own_axes",
    "register",
    "same_value",
    "sizes",
    "text",
]
