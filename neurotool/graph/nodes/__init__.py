"""The primitives of a layer graph: one frozen dataclass each, its equation in the docstring and computed beside it.

Shapes are per input, without a batch axis. `tokens` is the number of tokens of the input at hand; activations are
(tokens, width), attention matrices (heads, tokens, tokens). Parameters are shared by all tokens.
"""

from neurotool.graph.nodes.entering import Embedding, Ids, Input
from neurotool.graph.nodes.functions import Gelu, LayerNorm, Scale, Softmax
from neurotool.graph.nodes.joining import Add, Concat
from neurotool.graph.nodes.neurons import GradedNeuron, Membrane, Neuron, Reset, Spikes
from neurotool.graph.nodes.node import NODE_TYPES, TOKENS, Context, Node, Shape, register, same_value, sizes
from neurotool.graph.nodes.readout import MeanPool, Pooling, Readout
from neurotool.graph.nodes.synapses import Conv1d, Linear, MatMul, Synapse, Weighted, largest

__all__ = [
    "NODE_TYPES",
    "TOKENS",
    "Add",
    "Concat",
    "Context",
    "Conv1d",
    "Embedding",
    "Gelu",
    "GradedNeuron",
    "Ids",
    "Input",
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
    "Synapse",
    "Weighted",
    "largest",
    "register",
    "same_value",
    "sizes",
]
