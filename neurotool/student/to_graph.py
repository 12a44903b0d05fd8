"""The layer graphs of the students, built explicitly.

Neuron nodes bear the names of the student's neuron layers; what makes a layer's current is named after it:
encoder.0.key.linear -> encoder.0.key.
"""

from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor, nn

from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    Gelu,
    Graph,
    GraphBuilder,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Readout,
    Scale,
    Softmax,
)
from neurotool.student.emission import NeuronLayer

if TYPE_CHECKING:
    from transformers.models.bert.modeling_bert import BertEmbeddings

    from neurotool.student.ann import AnnForSequenceClassification
    from neurotool.student.encoder import EncoderLayer
    from neurotool.student.spikebert import SpikeBertBlock, SpikeBertForSequenceClassification
    from neurotool.student.spikingbert import SpikingBertForSequenceClassification
    from neurotool.student.student import Student
    from neurotool.student.textcnn import TextCnnForSequenceClassification


def spikingbert_graph(student: "SpikingBertForSequenceClassification") -> Graph:
    """The student as it runs in evaluation, with copies of its weights (float64 stays, all else is stored as float32).

    Raises GraphError where weights are not finite.
    """
    config, build = student.config, GraphBuilder()
    current = _embeddings(build, student.embeddings)
    if student.feedback is not None:
        fed_back = build.add_feedback("feedback", _linear(student.feedback), student.output_names[-1])
        current = build.add("feedback.add", Add(), current, fed_back)
    s = build.add("embedding", _neurons(student.embedding_neurons), current)
    for i, layer in enumerate(student.layers):
        s = _encoder_layer(build, f"encoder.{i}", cast("EncoderLayer", layer), s)
    return _finish(build, student, s, config.feedback_sweeps if config.feedback and config.schedule == "phased" else 1)


def spikebert_graph(student: "SpikeBertForSequenceClassification") -> Graph:
    """As `spikingbert_graph`."""
    build = GraphBuilder()
    current = _embeddings(build, student.embeddings, positions=student.config.positions != "none")
    x = build.add("embedding", _neurons(student.embedding_neurons), current)
    for i, block in enumerate(student.layers):
        x = _spiking_block(build, f"encoder.{i}", cast("SpikeBertBlock", block), x)
    return _finish(build, student, build.add("norm", _norm(student.norm), x))


def ann_graph(student: "AnnForSequenceClassification") -> Graph:
    """As `spikingbert_graph`, without neurons."""
    build = GraphBuilder()
    x = _embeddings(build, student.embeddings)
    for i, layer in enumerate(student.layers):
        x = _encoder_layer(build, f"encoder.{i}", cast("EncoderLayer", layer), x)
    return _finish(build, student, x)


def textcnn_graph(student: "TextCnnForSequenceClassification") -> Graph:
    """As `spikingbert_graph`."""
    build = GraphBuilder()
    current = _embeddings(build, student.embeddings, positions=False)
    s = build.add("embedding", _neurons(student.embedding_neurons), current)
    features = []
    for module, layer in zip(student.convolutions, student.convolution_neurons, strict=True):
        convolution, neurons = cast(nn.Conv1d, module), cast(NeuronLayer, layer)
        bias = None if convolution.bias is None else _array(convolution.bias)
        current = build.add(f"{neurons.name}.kernel", Conv1d(_array(convolution.weight), bias), s)
        features.append(build.add(neurons.name, _neurons(neurons), current))
    return _finish(build, student, build.add("features", Concat(len(features)), *features))


def _finish(build: GraphBuilder, student: "Student", last: str, feedback_sweeps: int = 1) -> Graph:
    """Pooling and readout of what node `last` gives."""
    config = student.config
    pooled = build.add("pool", MeanPool("first" if config.pooling == "cls" else "mean"), last)
    build.add("readout", Readout(_array(student.classifier.weight), _array(student.classifier.bias)), pooled)
    return build.build(
        time_steps=config.time_steps,
        schedule=config.schedule,
        tokens=config.max_position_embeddings,
        feedback_sweeps=feedback_sweeps,
        labels=tuple(config.id2label[i] for i in range(config.num_labels)) if config.num_labels > 1 else (),
        metadata={"model_type": config.model_type},
    )


def _embeddings(build: GraphBuilder, embeddings: "BertEmbeddings", positions: bool = True) -> str:
    word = build.add("embedding.word", Embedding(_array(embeddings.word_embeddings.weight), "input_ids"))
    types = Embedding(_array(embeddings.token_type_embeddings.weight), "token_type_ids")
    token_type = build.add("embedding.token_type", types)
    summed = build.add("embedding.word_and_type", Add(), word, token_type)
    if positions:
        table = Embedding(_array(embeddings.position_embeddings.weight), "position_ids")
        summed = build.add("embedding.add", Add(), summed, build.add("embedding.position", table))
    return build.add("embedding.norm", _norm(embeddings.LayerNorm), summed)


def _encoder_layer(build: GraphBuilder, name: str, layer: "EncoderLayer", s: str) -> str:
    def linear(part: str, source: str) -> str:
        return build.add(f"{name}.{part}.linear", _linear(getattr(layer, part)), source)

    def neurons(part: str, source: str) -> str:
        layer_of_neurons = getattr(layer, f"{part}_neurons", None)  # a dense network has none
        return source if layer_of_neurons is None else build.add(f"{name}.{part}", _neurons(layer_of_neurons), source)

    def residual_norm(part: str, source: str, residual: str) -> str:
        added = build.add(f"{name}.{part}.add", Add(), linear(part, source), residual)
        return build.add(f"{name}.{part}.norm", _norm(getattr(layer, f"{part}_norm")), added)

    heads = layer.num_heads
    key = neurons("key", linear("key", s))
    scores = build.add(f"{name}.scores", MatMul(heads, transpose_b=True), linear("query", s), key)
    scaled = build.add(f"{name}.scores.scale", Scale((layer.query.out_features // heads) ** -0.5), scores)
    probabilities = build.add(f"{name}.softmax", Softmax(), scaled)
    value = neurons("value", linear("value", s))
    context = build.add(f"{name}.context", MatMul(heads), probabilities, value)
    attention = neurons("attention", context)
    s = neurons("self_output", residual_norm("self_output", attention, s))
    wide = linear("intermediate", s)
    wide = neurons("intermediate", build.add(f"{name}.intermediate.gelu", Gelu(), wide) if layer.gelu else wide)
    return neurons("output", residual_norm("output", wide, s))


def _spiking_block(build: GraphBuilder, name: str, block: "SpikeBertBlock", x: str) -> str:
    def spikes(part: str, source: str) -> str:
        current = build.add(f"{name}.{part}.linear", _linear(getattr(block, part)), source)
        normed = build.add(f"{name}.{part}.norm", _norm(getattr(block, f"{part}_norm")), current)
        return build.add(f"{name}.{part}", _neurons(getattr(block, f"{part}_neurons")), normed)

    query, key, value = (spikes(part, x) for part in ("query", "key", "value"))
    scores = build.add(f"{name}.scores", MatMul(block.num_heads, transpose_b=True), query, key)
    context = build.add(f"{name}.context", MatMul(block.num_heads), scores, value)
    scaled = build.add(f"{name}.context.scale", Scale(float(block.attention_scale)), context)
    attention = build.add(f"{name}.attention", _neurons(block.attention_neurons), scaled)
    x = build.add(f"{name}.self_output.add", Add(), x, spikes("self_output", attention))
    return build.add(f"{name}.output.add", Add(), x, spikes("output", spikes("intermediate", x)))


def _array(tensor: Tensor) -> np.ndarray:
    """A copy: training on must not change the graph."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).numpy().copy()


def _linear(module: nn.Linear) -> Linear:
    return Linear(_array(module.weight), None if module.bias is None else _array(module.bias))


def _norm(module: nn.LayerNorm) -> LayerNorm:
    return LayerNorm(_array(module.weight), _array(module.bias), float(module.eps))


def _neurons(layer: NeuronLayer) -> Neuron:
    dynamics = layer.dynamics
    return Neuron(
        v_threshold=_array(layer.v_threshold) if layer.log_gain.ndim else float(layer.v_threshold.detach()),
        leak=float(dynamics.leak),
        reset=dynamics.reset,
        spikes=dynamics.spikes,
        v_init=float(dynamics.v_init),
    )
