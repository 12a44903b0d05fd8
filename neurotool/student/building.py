"""What the students' layer graphs have in common: weights as nodes, the embedding, pooling and readout.

Neuron nodes bear the names of the student's neuron layers; what makes a layer's current is named after it:
encoder.0.key.linear -> encoder.0.key. Graphs hold copies of the weights: float64 stays, all else is stored as float32.
"""

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.graph import Add, Embedding, Graph, GraphBuilder, LayerNorm, Linear, MeanPool, Neuron, Readout
from neurotool.graph.graded import graded
from neurotool.student.configuration import StudentConfig
from neurotool.student.emission import NeuronLayer


def add_embeddings(build: GraphBuilder, embeddings: BertEmbeddings, positions: bool = True) -> str:
    word = build.add("embedding.word", Embedding(array(embeddings.word_embeddings.weight), "input_ids"))
    types = Embedding(array(embeddings.token_type_embeddings.weight), "token_type_ids")
    token_type = build.add("embedding.token_type", types)
    summed = build.add("embedding.word_and_type", Add(), word, token_type)
    if positions:
        table = Embedding(array(embeddings.position_embeddings.weight), "position_ids")
        summed = build.add("embedding.add", Add(), summed, build.add("embedding.position", table))
    return build.add("embedding.norm", norm_node(embeddings.LayerNorm), summed)


def finished(build: GraphBuilder, config: StudentConfig, classifier: nn.Linear, last: str, sweeps: int = 1) -> Graph:
    """The graph, with pooling and readout of what node `last` gives. Raises GraphError where weights are not finite."""
    pooled = build.add("pool", MeanPool("first" if config.pooling == "cls" else "mean"), last)
    build.add("readout", Readout(array(classifier.weight), array(classifier.bias)), pooled)
    graph = build.build(
        time_steps=config.time_steps,
        schedule=config.schedule,
        tokens=config.max_position_embeddings,
        feedback_sweeps=sweeps,
        labels=tuple(config.id2label[i] for i in range(config.num_labels)) if config.num_labels > 1 else (),
        metadata={"model_type": config.model_type},
    )
    return graded(graph, config.dead_zone) if config.graded else graph


def array(tensor: Tensor) -> np.ndarray:
    """A copy: training on must not change the graph."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy().copy()


def linear_node(module: nn.Linear) -> Linear:
    return Linear(array(module.weight), None if module.bias is None else array(module.bias))


def norm_node(module: nn.LayerNorm) -> LayerNorm:
    return LayerNorm(array(module.weight), array(module.bias), float(module.eps))


def neuron_node(layer: NeuronLayer) -> Neuron:
    dynamics = layer.dynamics
    return Neuron(
        v_threshold=array(layer.v_threshold) if layer.log_gain.ndim else float(layer.v_threshold.detach()),
        leak=float(dynamics.leak),
        reset=dynamics.reset,
        spikes=dynamics.spikes,
        v_init=float(dynamics.v_init),
    )
