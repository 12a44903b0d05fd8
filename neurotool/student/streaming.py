"""A student that reads one token after another: its weights are stored once, its state is of fixed size.

Tokens enter in time, k steps each, as the currents that the host looks up for them. What remembers earlier tokens are
the synaptic currents of CubaLIF neurons, which fade at a rate learned for each channel, and the integrators of the
readout, whose potentials answer after every token; taps, if asked for, read single earlier tokens as well. Nothing but
Linear, LIF, CubaLIF, LI and, for taps, Delay: networks of which NIR has a node for each part, and which chips run as
they are.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.executor import Inputs
from neurotool.graph import Add, Delay, Graph, GraphBuilder, Input
from neurotool.streams import INPUT, LOGITS, STEPS_PER_TOKEN
from neurotool.student.building import array, linear_node
from neurotool.student.configuration import StreamingConfig
from neurotool.student.dynamics import CubaLIFLayer, LIReadout, NeuronState
from neurotool.student.encoder import Attention
from neurotool.student.student import Student, StudentOutput
from neurotool.texts import INPUTS

READOUT = "readout"
RESIDUAL = 0.5
"""Of a block's input in its output's currents at first, a spike's on its own channel."""
TAU_READOUT = 32.0
"""Steps that the readout remembers at first. It adds up that many: until training is done, its weights are divided by
half of them, so that a step of the optimiser changes an answer as little as it changes other currents."""
TAU_MEM = 1.5
"""Steps that potentials last at first: what is to last longer is left to synaptic currents."""


def ignore(name: str, spikes: Tensor) -> None:
    """Nobody asks what is sent."""


class StreamState(NamedTuple):
    """What is kept between tokens: of each neuron layer, the potentials of the readout (batch, labels), and what each
    block read in the steps that its taps reach, (batch, steps, width), the latest last."""

    neurons: dict[str, NeuronState]
    readout: Tensor
    taps: dict[str, Tensor]


class Driven(nn.Module):
    """Neurons under a sum of linear maps of spikes. norm: a batch norm of that sum over real tokens, until `fold`."""

    def __init__(self, name: str, widths: dict[str, int], neurons: CubaLIFLayer, norm: bool) -> None:
        """widths: of what each linear map reads, by its name."""
        super().__init__()
        self.name, self.neurons = name, neurons
        biases = [True] + [False] * (len(widths) - 1)
        self.maps = nn.ModuleDict(
            {kind: nn.Linear(w, neurons.width, b) for (kind, w), b in zip(widths.items(), biases, strict=True)}
        )
        self.norm = nn.BatchNorm1d(neurons.width) if norm else None

    def current(self, *spikes: Tensor, real: Tensor | None = None) -> Tensor:
        """(…, width) of spikes (…, in); real: (…), True for what the norm learns from."""
        currents = [linear(s) for linear, s in zip(self.maps.values(), spikes, strict=True)]
        current = torch.stack(currents).sum(0) if len(currents) > 1 else currents[0]
        if self.norm is None:
            return current
        if real is None:
            return self.norm(current.flatten(0, -2)).view_as(current)
        normed = current.new_zeros(current.shape)
        normed[real] = self.norm(current[real]).to(current.dtype)
        return normed

    @torch.no_grad()
    def fold(self) -> None:
        """The norm, which from now on is what it was in evaluation, becomes part of the weights."""
        if self.norm is None:
            return
        norm = self.norm
        assert norm.running_var is not None and norm.running_mean is not None
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        linears = [cast(nn.Linear, linear) for linear in self.maps.values()]
        for linear in linears:
            linear.weight.mul_(scale[:, None])
        linears[0].bias.sub_(norm.running_mean).mul_(scale).add_(norm.bias)
        self.norm = None

    def add_to(self, build: GraphBuilder, *sources: str) -> str:
        """The node of the neurons, behind those of the maps and of their sum."""
        current = ""
        for n, ((kind, linear), source) in enumerate(zip(self.maps.items(), sources, strict=True)):
            node = build.add(f"{self.name}.{kind}", linear_node(cast(nn.Linear, linear)), source)
            current = build.add(f"{self.name}.sum{n if n > 1 else ''}", Add(), current, node) if n else node
        return build.add(self.name, self.neurons.node(), current)


def _later(spikes: Tensor, steps: int) -> Tensor:
    """(batch, steps, width), as it is so many steps later, what was not yet there being silent."""
    return nn.functional.pad(spikes, (0, 0, steps, 0))[:, : spikes.shape[1]]


class TextDropout(nn.Dropout):
    """Takes away the same channels in all steps of a text (batch, steps, width): what changed from step to step,
    neurons with a memory would average (Gal and Ghahramani, arXiv 1512.05287)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * super().forward(x.new_ones(len(x), 1, x.shape[-1])) if self.training and self.p else x


class StreamingBlock(nn.Module):
    """Neurons with a memory over tokens, a wide layer, and neurons that read it and, as a residual, what the block
    reads."""

    def __init__(self, config: StreamingConfig, name: str) -> None:
        super().__init__()
        width, wide, norm = config.hidden_size, config.intermediate_size, config.training_norm

        def neurons(size: int, synapse: bool) -> CubaLIFLayer:
            reset = config.dynamics.reset
            return CubaLIFLayer(size, reset=reset, synapse=synapse, learn_threshold=False, tau_mem=TAU_MEM)

        self.reach = [config.time_steps * (tap + 1) for tap in range(config.taps)]
        read = {"linear": width} | {f"tap{tap + 1}": width for tap in range(config.taps)}
        self.mixing = Driven(f"{name}.mixing", read, neurons(width, True), norm)
        self.intermediate = Driven(f"{name}.intermediate", {"linear": width}, neurons(wide, False), norm)
        self.output = Driven(f"{name}.output", {"linear": wide, "residual": width}, neurons(width, False), norm)


class StreamingForSequenceClassification(Student):
    """`step` is the network token by token; `forward` is the same for whole texts, with a gradient through time.

    Hands on its spikes: of the embedding's neurons and of each block's. A text's answer is the readout's potential
    after its last token and `lookahead` tokens of silence, and what belongs to a token is handed on that much later.
    """

    config_class = StreamingConfig
    base_model_prefix = "streaming"
    config: StreamingConfig
    supports_attention_loss = False
    answers_every_token = True
    hands_on_rates = False
    shares = ("vocab_size", "type_vocab_size")
    layers: tuple[nn.Module, ...] = ()

    def __init__(self, config: StreamingConfig) -> None:
        config.check()
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.embedding_neurons = CubaLIFLayer(
            config.hidden_size, reset=config.dynamics.reset, synapse=False, learn_threshold=False, tau_mem=TAU_MEM
        )
        self.blocks = nn.ModuleList(StreamingBlock(config, f"encoder.{i}") for i in range(config.num_hidden_layers))
        self.dropout = TextDropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.integrator = LIReadout(config.num_labels, tau=TAU_READOUT)
        self.post_init()
        self._place_embeddings()
        self.embeddings.position_embeddings.weight.requires_grad_(False)

    @property
    def neuron_layers(self) -> dict[str, Any]:
        driven = {layer.name: layer.neurons for layer in self.modules() if isinstance(layer, Driven)}
        return {"embedding": self.embedding_neurons} | driven

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Currents of about a threshold, whatever they gather over time; a residual that hands on what it reads."""
        super()._init_weights(module)
        if isinstance(module, Driven):
            kept = module.neurons.synapse
            if module.norm is not None and kept is not None:
                module.norm.weight.copy_((1 - kept().square()).sqrt())
            if "residual" in module.maps:
                cast(nn.Linear, module.maps["residual"]).weight.fill_diagonal_(RESIDUAL)

    @torch.no_grad()
    def _place_embeddings(self) -> None:
        """No positions: the order of the tokens is that of time. Channels that differ by a threshold between words."""
        table = self.embeddings
        table.position_embeddings.weight.zero_()
        words = table.LayerNorm(table.word_embeddings.weight + table.token_type_embeddings.weight[0])
        deviation = words.std(0).clamp(min=1e-6)
        table.LayerNorm.weight.div_(deviation)
        table.LayerNorm.bias.sub_(words.mean(0)).div_(deviation)

    @torch.no_grad()
    def copy_embeddings(self, embeddings: BertEmbeddings) -> None:
        """Of another width: the directions in which the normed embeddings of words differ most."""
        own = self.embeddings
        if embeddings.word_embeddings.embedding_dim == own.word_embeddings.embedding_dim:
            super().copy_embeddings(embeddings)
        else:
            words = embeddings.LayerNorm(embeddings.word_embeddings.weight + embeddings.token_type_embeddings.weight[0])
            words = words - words.mean(0)
            directions = torch.linalg.eigh(words.T @ words)[1][:, -own.word_embeddings.embedding_dim :]
            own.word_embeddings.weight.copy_(words @ directions)
            own.token_type_embeddings.weight.copy_(embeddings.token_type_embeddings.weight @ directions)
        self._place_embeddings()

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Currents (…, tokens, width) of token ids (…, tokens): on the host, a row of a table for each token."""
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        return self.embeddings(input_ids=input_ids, token_type_ids=types, position_ids=torch.zeros_like(input_ids))

    def lasting(self, attention_mask: Tensor) -> Tensor:
        """With the tokens of silence behind each text, (batch, tokens + lookahead)."""
        first = attention_mask.new_ones(len(attention_mask), self.config.lookahead)
        return torch.cat([first, attention_mask], 1)

    def _run(
        self, current: Tensor, mask: Tensor, time_steps: int, output: StudentOutput, read: list[Attention] | None
    ) -> Tensor:
        steps, late = self.config.time_steps, self.config.lookahead
        silent = nn.functional.pad(current * mask[..., None].to(current.dtype), (0, 0, 0, late))
        real = self.lasting(mask).bool().repeat_interleave(steps, 1)
        hidden: list[Tensor] = []

        def noted(name: str, spikes: Tensor) -> Tensor:
            per_token = spikes.unflatten(1, (-1, steps))
            if output.rates is not None:
                output.rates[name] = per_token.mean(2)
            if output.spike_counts is not None:
                output.spike_counts[name] = (per_token * real[..., None].unflatten(1, (-1, steps))).sum(2)
            return spikes

        def fire(layer: Driven, *spikes: Tensor) -> Tensor:
            return noted(layer.name, layer.neurons(layer.current(*map(self.dropout, spikes), real=real))[0])

        def hand_on(spikes: Tensor) -> Tensor:
            if output.rates is not None:
                hidden.append(spikes.unflatten(1, (-1, steps)).mean(2)[:, late:])
            return spikes

        x = self.dropout(silent).repeat_interleave(steps, 1)
        s = hand_on(noted("embedding", self.embedding_neurons(x)[0]))
        for module in self.blocks:
            block = cast(StreamingBlock, module)
            mixed = fire(block.mixing, s, *(_later(s, steps) for steps in block.reach))
            s = hand_on(fire(block.output, fire(block.intermediate, mixed), s))
        if output.rates is not None:
            output.hidden = tuple(hidden)
        potentials: Tensor = self.integrator(self.classifier(self.dropout(s)) * self._readout_gain)[0]
        output.answers = potentials[:, (late + 1) * steps - 1 :: steps]
        return potentials

    @property
    def _readout_gain(self) -> float:
        return 2 / TAU_READOUT if self.config.training_norm else 1.0

    def readout(self, last: Tensor, attention_mask: Tensor) -> Tensor:
        """The potentials (batch, steps, labels) after the last step of each text: (batch, labels)."""
        ends = self.lasting(attention_mask).sum(1) * self.config.time_steps - 1
        return last[torch.arange(len(last), device=last.device), ends]

    def step(
        self, token: Tensor, state: StreamState | None = None, token_type: Tensor | None = None
    ) -> tuple[Tensor, StreamState]:
        """The next token (batch,) of each text, all k steps of it: the logits (batch, labels) after it, and the state
        that the token after it continues from; state: None before the first token."""
        types = None if token_type is None else token_type[:, None]
        return self.step_current(self.embed(token[:, None], types)[:, 0], state)

    def step_current(
        self, current: Tensor, state: StreamState | None = None, sent: Callable[[str, Tensor], object] = ignore
    ) -> tuple[Tensor, StreamState]:
        """`step` of the currents (batch, width) of a token; zeros are a token of silence. sent: is called with what
        each neuron layer sends in each step, (batch, width)."""
        neurons, taps = ({}, {}) if state is None else (dict(state.neurons), dict(state.taps))
        readout = None if state is None else state.readout

        def fire(name: str, layer: CubaLIFLayer, current: Tensor) -> Tensor:
            spikes, neurons[name] = layer.step(current, neurons.get(name))
            sent(name, spikes)
            return spikes

        for _ in range(self.config.time_steps):
            s = fire("embedding", self.embedding_neurons, current)
            for module in self.blocks:
                block = cast(StreamingBlock, module)
                before = [s]
                if block.reach:
                    rest = s.new_zeros(len(s), block.reach[-1], s.shape[-1])
                    kept = taps.get(block.mixing.name, rest)
                    before += [kept[:, -steps] for steps in block.reach]
                    taps[block.mixing.name] = torch.cat([kept[:, 1:], s[:, None]], 1)
                mixed = fire(block.mixing.name, block.mixing.neurons, block.mixing.current(*before))
                wide = fire(block.intermediate.name, block.intermediate.neurons, block.intermediate.current(mixed))
                s = fire(block.output.name, block.output.neurons, block.output.current(wide, s))
            logits, readout = self.integrator.step(self.classifier(s) * self._readout_gain, readout)
        assert readout is not None
        return logits, StreamState(neurons, readout, taps)

    @torch.no_grad()
    def finish(self) -> None:
        self.classifier.weight.mul_(self._readout_gain)
        self.classifier.bias.mul_(self._readout_gain)
        for layer in self.modules():
            if isinstance(layer, Driven):
                layer.fold()
        self.config.training_norm = False

    @torch.no_grad()
    def entering(self, inputs: list[Inputs]) -> list[Inputs]:
        """Texts as an executor of the graph takes them (neurotool/streams.py), from their token ids: (tokens,) each."""
        steps, entered = self.config.time_steps, []
        for one in inputs:
            ids, types, mask = (torch.as_tensor(one[name])[None] for name in INPUTS)
            current = nn.functional.pad(self.embed(ids, types) * mask[..., None], (0, 0, 0, self.config.lookahead))
            values, real = (np.repeat(array(x)[0], steps, 0) for x in (current, self.lasting(mask)))
            entered.append({"values": {INPUT: values}, "attention_mask": real.astype(np.int64)})
        return entered

    def to_graph(self) -> Graph:
        if self.config.training_norm:
            finished = copy.deepcopy(self)
            finished.finish()
            return finished.to_graph()
        build = GraphBuilder()
        s = build.add(INPUT, Input((self.config.hidden_size,)))
        s = build.add("embedding", self.embedding_neurons.node(), s)
        for module in self.blocks:
            block = cast(StreamingBlock, module)
            delays = (build.add(f"{block.mixing.name}.delay{n}", Delay(n), s) for n in block.reach)
            wide = block.intermediate.add_to(build, block.mixing.add_to(build, s, *delays))
            s = block.output.add_to(build, wide, s)
        answer = build.add(f"{READOUT}.linear", linear_node(self.classifier), s)
        answer = build.add(READOUT, self.integrator.node(), answer)
        config = self.config
        return build.build(
            time_steps=(config.max_position_embeddings + config.lookahead) * config.time_steps,
            schedule="concurrent",
            outputs={LOGITS: answer},
            metadata={"model_type": config.model_type, STEPS_PER_TOKEN: config.time_steps},
        )
