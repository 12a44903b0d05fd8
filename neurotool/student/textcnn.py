"""SNN-TextCNN (Lv et al., ICLR 2023, arXiv 2406.19230): word embeddings as spikes, convolutions of several widths over
tokens, integrate-and-fire neurons, a linear readout of their mean over tokens and time steps.

Where it differs from the paper's: the embedding's neurons turn a constant current into spikes, in place of random ones
of the same rate; the current is the embedding after a LayerNorm; convolutions read zeros beyond the ends of a text, in
place of staying within a fixed length; the readout reads the mean of the spikes, in place of neurons that read the mean
over tokens and neurons for the classes; trained directly, in place of converted from a network of ReLUs and fine-tuned.
"""

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.graph import Concat, Conv1d, Graph, GraphBuilder
from neurotool.student.building import add_embeddings, array, finished, neuron_node
from neurotool.student.configuration import TextCnnConfig
from neurotool.student.emission import Emission, NeuronLayer
from neurotool.student.unrolled import HandOn, UnrolledStudent, ignore

REACH = 3.0
"""Standard deviations of an embedding that rates can say, to either side of its mean; the paper's."""


class TextCnnForSequenceClassification(UnrolledStudent):
    """Hands on its embedding alone: convolutions have no counterpart in a teacher. It has no positions: convolutions
    see the order of words."""

    config_class = TextCnnConfig
    base_model_prefix = "textcnn"
    config: TextCnnConfig
    layers: tuple[nn.Module, ...] = ()

    def __init__(self, config: TextCnnConfig) -> None:
        config.check()
        super().__init__(config)

        def neurons(name: str, width: int) -> NeuronLayer:
            own = config.own_thresholds(width)
            return NeuronLayer(name, config.v_threshold, config.learn_v_threshold, config.dynamics, own)

        self.embeddings = BertEmbeddings(config)
        self.embedding_neurons = neurons("embedding", config.hidden_size)
        width, channels, kernels = config.hidden_size, config.channels, config.kernel_sizes
        self.convolutions = nn.ModuleList(nn.Conv1d(width, channels, kernel) for kernel in kernels)
        self.convolution_neurons = nn.ModuleList(neurons(f"convolution.{kernel}", channels) for kernel in kernels)
        self.classifier = nn.Linear(channels * len(kernels), config.num_labels)
        self.post_init()
        self._place_embeddings()
        self.embeddings.position_embeddings.weight.requires_grad_(False)

    @property
    def spread(self) -> float:
        """Standard deviation of the embedding's rates."""
        return 1 / (2 * REACH) if self.config.spikes == "binary" else 1 / REACH

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Kernels that leave out the rate which all neurons have in common, and give currents that deviate by about a
        threshold: with smaller ones the means over tokens are too alike to learn from."""
        super()._init_weights(module)
        if isinstance(module, nn.Conv1d):
            module.weight.normal_(std=self.config.v_threshold / (self.spread * math.sqrt(module.weight[0].numel())))
            module.weight.sub_(module.weight.mean((1, 2), keepdim=True))

    @torch.no_grad()
    def _place_embeddings(self) -> None:
        """What lies within REACH deviations of the mean becomes a rate between 0 and 1, for ternary spikes -1 and 1."""
        norm, v_threshold = self.embeddings.LayerNorm, self.config.v_threshold
        deviation = (norm.weight.square().mean() + norm.bias.var(unbiased=False)).sqrt()
        scale = v_threshold * self.spread / deviation
        norm.weight.mul_(scale)
        norm.bias.sub_(norm.bias.mean()).mul_(scale).add_(v_threshold / 2 if self.config.spikes == "binary" else 0.0)
        self.embeddings.position_embeddings.weight.zero_()

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        kernels, tokens = self.config.kernel_sizes, current.shape[1]
        readable = mask.unsqueeze(-1).to(current.dtype)
        before, after = (max(kernels) - 1) // 2, max(kernels) // 2

        def sweep(emit: Emission, state: Tensor | None = None, hand_on: HandOn = ignore) -> Tensor:
            s = emit(self.embedding_neurons, current)
            hand_on(s)
            s = F.pad((s * readable).transpose(1, 2), (before, after))
            features = []
            for kernel, convolution, neurons in zip(kernels, self.convolutions, self.convolution_neurons, strict=True):
                start = before - (kernel - 1) // 2
                x = convolution(s[..., start : start + tokens + kernel - 1])
                features.append(emit(cast(NeuronLayer, neurons), x.transpose(1, 2)))
            return torch.cat(features, -1)

        return sweep

    def to_graph(self) -> Graph:
        build = GraphBuilder()
        current = add_embeddings(build, self.embeddings, positions=False)
        s = build.add("embedding", neuron_node(self.embedding_neurons), current)
        features = []
        for module, layer in zip(self.convolutions, self.convolution_neurons, strict=True):
            convolution, neurons = cast(nn.Conv1d, module), cast(NeuronLayer, layer)
            bias = None if convolution.bias is None else array(convolution.bias)
            current = build.add(f"{neurons.name}.kernel", Conv1d(array(convolution.weight), bias), s)
            features.append(build.add(neurons.name, neuron_node(neurons), current))
        last = build.add("features", Concat(len(features)), *features)
        return finished(build, self.config, self.classifier, last)
