"""SpikeBERT (Lv et al., arXiv 2308.15122): spiking self-attention without softmax, a residual stream of spike counts,
leaky neurons; trained by backpropagation through time. Trained without a teacher it is the Spikformer of that paper.

Unlike the authors' code it leaves padding out and sees positions (`positions` none does not); on request it normalises
what its attention sums up, which without a softmax grows with the number of tokens, or takes a softmax of the scores.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.graph import Add, Graph, GraphBuilder, MatMul, Scale, Softmax
from neurotool.student.building import add_embeddings, finished, linear_node, neuron_node, norm_node
from neurotool.student.configuration import SpikeBertConfig
from neurotool.student.emission import Emission, NeuronLayer, Recorded, SoftMessages, Unrolled, WindowRates
from neurotool.student.encoder import Attention
from neurotool.student.neurons import NeuronDynamics, average_spiking_rate
from neurotool.student.student import StudentOutput
from neurotool.student.surrogate import spike_linear, unrolled_spikes
from neurotool.student.unrolled import HandOn, UnrolledStudent, ignore


class SpikeBertBlock(GradientCheckpointingLayer):
    """Self-attention and MLP, each adding its spikes to the stream x, (batch, tokens, hidden), of whole numbers."""

    def __init__(self, config: SpikeBertConfig, index: int) -> None:
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.num_heads, self.attention_scale = config.num_attention_heads, config.attention_scale
        self.softmax = config.attention_softmax

        def neurons(name: str, v_threshold: float = config.v_threshold, width: int = hidden) -> NeuronLayer:
            learned, channels = config.learn_v_threshold, config.own_thresholds(width)
            return NeuronLayer(f"encoder.{index}.{name}", v_threshold, learned, config.dynamics, channels)

        def norm(width: int) -> nn.LayerNorm:
            return nn.LayerNorm(width, eps=config.layer_norm_eps)

        self.query, self.query_norm, self.query_neurons = nn.Linear(hidden, hidden), norm(hidden), neurons("query")
        self.key, self.key_norm, self.key_neurons = nn.Linear(hidden, hidden), norm(hidden), neurons("key")
        self.value, self.value_norm, self.value_neurons = nn.Linear(hidden, hidden), norm(hidden), neurons("value")
        self.attention_norm = norm(hidden) if config.attention_norm else None
        self.attention_neurons = neurons("attention", config.attention_v_threshold)
        self.self_output, self.self_output_norm = nn.Linear(hidden, hidden), norm(hidden)
        self.self_output_neurons = neurons("self_output")
        self.intermediate, self.intermediate_norm = nn.Linear(hidden, intermediate), norm(intermediate)
        self.intermediate_neurons = neurons("intermediate", width=intermediate)
        self.output, self.output_norm = nn.Linear(intermediate, hidden), norm(hidden)
        self.output_neurons = neurons("output")

    def forward(self, x: Tensor, mask: Tensor, emit: Emission) -> Tensor:
        """mask: (batch, tokens), 1 = token."""

        def spikes(part: str, x: Tensor) -> Tensor:
            linear, norm, neurons = self._of(part)
            if linear is None or norm is None:  # the attention's, of which the norm is an option
                assert linear is None
                return emit(neurons, x if norm is None else norm(x))
            if isinstance(emit, Unrolled):
                return emit.normed(neurons, norm, spike_linear(x, linear))
            return emit(neurons, norm(linear(x)))

        return self._run(x, mask, spikes)

    def unrolled(self, x: Tensor, mask: Tensor, time_steps: int, with_rates: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The same on all time steps, and on request the rates of its parts: what `fuse` compiles. It reads no name of
        a layer, so that one compiled piece serves them all."""
        rates: dict[str, Tensor] = {}

        def spikes(part: str, x: Tensor) -> Tensor:
            linear, norm, neurons = self._of(part)
            current = x if linear is None else linear(x)
            drive = neurons.drive(current if norm is None else norm(current)).unflatten(0, (time_steps, -1))
            sent = unrolled_spikes(drive, neurons.dynamics)
            if with_rates:
                rates[part] = average_spiking_rate(iter(sent), neurons.dynamics.leak)
            return sent.flatten(0, 1)

        return self._run(x, mask, spikes), rates

    def _run(self, x: Tensor, mask: Tensor, spikes: Callable[[str, Tensor], Tensor]) -> Tensor:
        query, key, value = (self._split(spikes(part, x)) for part in ("query", "key", "value"))
        context = self._attend(query, key, value, mask).transpose(1, 2).reshape(x.shape)
        attention = spikes("attention", context)
        x = x + spikes("self_output", attention)
        return x + spikes("output", spikes("intermediate", x))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """What each query reads, all (batch, heads, tokens, head width): sums, or means with weights from a softmax."""
        scores = query @ key.transpose(-1, -2)
        if not self.softmax:
            return scores * mask[:, None, None].to(scores.dtype) @ value * self.attention_scale
        scores = (scores * self.attention_scale).masked_fill(mask[:, None, None] == 0, -torch.inf)
        return torch.softmax(scores, -1).to(value.dtype) @ value

    def _of(self, part: str) -> tuple[nn.Linear | None, nn.LayerNorm | None, NeuronLayer]:
        """What makes the spikes of a part."""
        return getattr(self, part, None), getattr(self, f"{part}_norm"), getattr(self, f"{part}_neurons")

    def add_to(self, build: GraphBuilder, name: str, x: str) -> str:
        """The block as nodes that read node `x`; returns the last."""

        def spikes(part: str, source: str) -> str:
            current = build.add(f"{name}.{part}.linear", linear_node(getattr(self, part)), source)
            normed = build.add(f"{name}.{part}.norm", norm_node(getattr(self, f"{part}_norm")), current)
            return build.add(f"{name}.{part}", neuron_node(getattr(self, f"{part}_neurons")), normed)

        query, key, value = (spikes(part, x) for part in ("query", "key", "value"))
        scores = build.add(f"{name}.scores", MatMul(self.num_heads, transpose_b=True), query, key)
        if self.softmax:
            scaled = build.add(f"{name}.scores.scale", Scale(float(self.attention_scale)), scores)
            probabilities = build.add(f"{name}.softmax", Softmax(), scaled)
            read = build.add(f"{name}.context", MatMul(self.num_heads), probabilities, value)
        else:
            context = build.add(f"{name}.context", MatMul(self.num_heads), scores, value)
            read = build.add(f"{name}.context.scale", Scale(float(self.attention_scale)), context)
        if self.attention_norm is not None:
            read = build.add(f"{name}.context.norm", norm_node(self.attention_norm), read)
        attention = build.add(f"{name}.attention", neuron_node(self.attention_neurons), read)
        x = build.add(f"{name}.self_output.add", Add(), x, spikes("self_output", attention))
        return build.add(f"{name}.output.add", Add(), x, spikes("output", spikes("intermediate", x)))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class SpikeBertForSequenceClassification(UnrolledStudent):
    """The readout reads LayerNorm(stream), averaged over tokens and in the concurrent schedule over time steps.

    There the embedding's neurons are Heavisides at every step, that is neurons without memory; their threshold is 1,
    and the LayerNorm of the embedding, whose bias starts at 1, decides where that lies. In the phased schedule they are
    like all others, the stream is one of rates, and training takes the gradient of the steady state.
    """

    config_class = SpikeBertConfig
    base_model_prefix = "spikebert"
    supports_gradient_checkpointing = True
    config: SpikeBertConfig

    def __init__(self, config: SpikeBertConfig) -> None:
        config.check()
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.phased = config.schedule == "phased"
        memoryless = NeuronDynamics(config.dynamics.spikes, leak=0)
        self.embedding_neurons = NeuronLayer("embedding", 1.0, False, config.dynamics if self.phased else memoryless)
        self.layers = nn.ModuleList(SpikeBertBlock(config, i) for i in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()
        self._place_embeddings()
        if config.positions == "none":
            self.embeddings.position_embeddings.weight.requires_grad_(False)

    @torch.no_grad()
    def _place_embeddings(self) -> None:
        if self.config.spikes == "binary":  # the mean lies where a step begins to fire, in windows at half the rate
            self.embeddings.LayerNorm.bias.add_(0.5 if self.phased else 1.0)
        if self.config.positions == "none":
            self.embeddings.position_embeddings.weight.zero_()

    def _run(
        self, current: Tensor, mask: Tensor, time_steps: int, output: StudentOutput, read: list[Attention] | None
    ) -> Tensor:
        if not self.phased:
            return super()._run(current, mask, time_steps, output, read)
        hidden: list[Tensor] = []
        emission: Emission = WindowRates(time_steps, output.spike_counts)
        if output.messages is not None:
            emission = SoftMessages(emission, time_steps, output.messages)
        if output.rates is not None:
            emission = Recorded(emission, output.rates)
        last: Tensor = self._sweep(current, mask)(emission, None, ignore if output.rates is None else hidden.append)
        output.hidden = tuple(hidden)
        return last

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        def sweep(emit: Emission, state: Tensor | None = None, hand_on: HandOn = ignore) -> Tensor:
            x = emit(self.embedding_neurons, current)
            hand_on(x)
            for index, layer in enumerate(self.layers):
                x = layer(x, mask, emit) if self.fused is None else self._fused(self.fused, index, x, mask, emit)
                hand_on(x)
            normed: Tensor = self.norm(x)
            return normed

        return sweep

    @property
    def can_fuse(self) -> bool:
        return not self.phased

    def fuse(self) -> None:
        self.fused = torch.compile(SpikeBertBlock.unrolled)  # dynamic=True fails on numbers in the backward pass

    def _fused(self, run: Callable[..., Any], index: int, x: Tensor, mask: Tensor, emit: Emission) -> Tensor:
        block = cast(SpikeBertBlock, self.layers[index])
        if not isinstance(emit, Unrolled) or emit.counts is not None or emit.time_steps != self.config.time_steps:
            return cast(Tensor, block(x, mask, emit))
        x, rates = run(block, x, mask, emit.time_steps, emit.rates is not None)
        if emit.rates is not None:
            emit.rates |= {f"encoder.{index}.{part}": rate for part, rate in rates.items()}
        return x

    def to_graph(self) -> Graph:
        build = GraphBuilder()
        current = add_embeddings(build, self.embeddings, positions=self.config.positions != "none")
        x = build.add("embedding", neuron_node(self.embedding_neurons), current)
        for i, block in enumerate(self.layers):
            x = cast(SpikeBertBlock, block).add_to(build, f"encoder.{i}", x)
        return finished(build, self.config, self.classifier, build.add("norm", norm_node(self.norm), x))
