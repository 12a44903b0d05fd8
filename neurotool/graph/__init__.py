"""The layer graph: nodes (nodes.py) and the graph that connects, checks and stores them (graph.py). No torch."""

from neurotool.graph.fixed_point import FixedPoint
from neurotool.graph.graph import FORMAT_VERSION, Graph, GraphBuilder, Schedule
from neurotool.graph.nodes import (
    NODE_TYPES,
    TOKENS,
    Add,
    Conv1d,
    Embedding,
    Gelu,
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

__all__ = [
    "FORMAT_VERSION",
    "NODE_TYPES",
    "TOKENS",
    "Add",
    "Conv1d",
    "Embedding",
    "FixedPoint",
    "Gelu",
    "Graph",
    "GraphBuilder",
    "Input",
    "LayerNorm",
    "Linear",
    "MatMul",
    "MeanPool",
    "Neuron",
    "Node",
    "Readout",
    "Scale",
    "Schedule",
    "Shape",
    "Softmax",
]
