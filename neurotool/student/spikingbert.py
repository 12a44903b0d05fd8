"""SpikingBERT (Bal & Sengupta, AAAI 2024, arXiv 2308.10873): six neuron layers per encoder layer, Q real, K and V
spiking, trained at the equilibrium of its firing rates.

The network is written once, as the map from the spikes or rates of each layer to the current of the next; an emission
(emission.py) decides what a current becomes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.utils import ModelOutput

from neurotool.graph import Graph
from neurotool.student.configuration import SpikingBertConfig
from neurotool.student.emission import (
    Emission,
    Membranes,
    NeuronLayer,
    Recorded,
    SpikeCounts,
    SteadyState,
    Substituted,
    WindowRates,
    WindowSpikes,
)
from neurotool.student.equilibrium import implicit_gradient
from neurotool.student.to_graph import spikingbert_graph


@dataclass
class SpikingBertOutput(ModelOutput):
    """rates: ASR of every neuron layer by name, (batch, tokens, width). attention_scores: per encoder layer, before the
    softmax, (batch, heads, tokens, tokens); only on request. spike_counts: spikes that each neuron sent during the run,
    same shapes as the rates; with feedback also those that entered node "feedback"; only on request."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    rates: dict[str, Tensor] | None = None
    attention_scores: tuple[Tensor, ...] | None = None
    spike_counts: SpikeCounts | None = None


class SpikingBertLayer(nn.Module):
    """One encoder layer. s: what the previous neuron layer sent, (batch, tokens, hidden)."""

    def __init__(self, config: SpikingBertConfig, index: int) -> None:
        super().__init__()
        hidden, intermediate = config.hidden_size, config.intermediate_size
        self.num_heads = config.num_attention_heads
        self.attention_dropout = config.attention_probs_dropout_prob

        def neurons(name: str) -> NeuronLayer:
            return NeuronLayer(f"encoder.{index}.{name}", config.v_threshold, config.learn_v_threshold, config.dynamics)

        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.self_output = nn.Linear(hidden, hidden)
        self.self_output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.intermediate = nn.Linear(hidden, intermediate)
        self.output = nn.Linear(intermediate, hidden)
        self.output_norm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

        self.key_neurons = neurons("key")
        self.value_neurons = neurons("value")
        self.attention_neurons = neurons("attention")
        self.self_output_neurons = neurons("self_output")
        self.intermediate_neurons = neurons("intermediate")
        self.output_neurons = neurons("output")

    def forward(self, s: Tensor, mask: Tensor, emit: Emission, scores: list[Tensor] | None = None) -> Tensor:
        """mask: (batch, 1, 1, tokens), True where a token may be attended to. Appends to `scores` when given."""
        key = emit(self.key_neurons, self.key(s))
        value = emit(self.value_neurons, self.value(s))
        query, key, value = (self._split(x) for x in (self.query(s), key, value))
        if scores is not None:
            scores.append(query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5)
        context = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.attention_dropout if self.training else 0.0
        )
        attention = emit(self.attention_neurons, context.transpose(1, 2).reshape(s.shape))
        s = emit(self.self_output_neurons, self.self_output_norm(self.dropout(self.self_output(attention)) + s))
        wide = emit(self.intermediate_neurons, F.gelu(self.intermediate(s)))
        return emit(self.output_neurons, self.output_norm(self.dropout(self.output(wide)) + s))

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)


class SpikingBertForSequenceClassification(PreTrainedModel):
    """The student with a linear readout on token rates; a regression model when `num_labels` is 1."""

    config_class = SpikingBertConfig
    base_model_prefix = "spikingbert"
    _supports_sdpa = True
    config: SpikingBertConfig

    def __init__(self, config: SpikingBertConfig) -> None:
        config.check()
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.embedding_neurons = NeuronLayer("embedding", config.v_threshold, config.learn_v_threshold, config.dynamics)
        self.layers = nn.ModuleList(SpikingBertLayer(config, i) for i in range(config.num_hidden_layers))
        self.feedback = nn.Linear(config.hidden_size, config.hidden_size, bias=False) if config.feedback else None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.feedback_residuals: list[float] = []
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BertEmbeddings):
            module.position_ids.copy_(torch.arange(module.position_ids.shape[-1]))
            module.token_type_ids.zero_()
        elif isinstance(module, NeuronLayer):
            module.base.fill_(self.config.v_threshold)
            module.log_gain.zero_()
        elif module is self.feedback:
            module.weight.zero_()  # starts as the feed-forward student, whose equilibrium exists

    @property
    def neuron_layers(self) -> dict[str, NeuronLayer]:
        """Every neuron layer by name, in the order in which they emit."""
        return {m.name: m for m in self.modules() if isinstance(m, NeuronLayer)}

    @property
    def output_names(self) -> list[str]:
        """Names of the neuron layers between encoder layers: the embedding's and every encoder layer's output."""
        return ["embedding"] + [f"encoder.{i}.output" for i in range(len(self.layers))]

    @property
    def sweeps(self) -> int:
        """How often every neuron layer runs for T steps: more than once in a phased run with feedback."""
        return self.config.feedback_sweeps if self.feedback is not None and self.config.schedule == "phased" else 1

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_rates: bool = True,
        output_scores: bool = False,
        output_spike_counts: bool = False,
        time_steps: int | None = None,
        **_: Any,
    ) -> SpikingBertOutput:
        """Args: input_ids, attention_mask (1 = token), token_type_ids: (batch, tokens); labels: (batch,);
        time_steps overrides the configured T; output_rates=False frees each layer's rates as soon as they are read;
        output_spike_counts=True is for use without gradients."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        time_steps = self.config.time_steps if time_steps is None else time_steps
        current = self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)
        scores: list[Tensor] | None = [] if output_scores else None
        rates: dict[str, Tensor] | None = {} if output_rates else None
        counts: SpikeCounts | None = {} if output_spike_counts else None
        last = self._run(current, attention_mask, time_steps, rates, scores, counts)
        logits = self.readout(last, attention_mask)
        loss = None if labels is None else classification_loss(logits, labels)
        kept = None if scores is None else tuple(scores)
        return SpikingBertOutput(loss=loss, logits=logits, rates=rates, attention_scores=kept, spike_counts=counts)

    def readout(self, rate: Tensor, attention_mask: Tensor) -> Tensor:
        """Linear on the last layer's rate of [CLS], or on its mean over tokens. Returns (batch, labels)."""
        if self.config.pooling == "cls":
            return self.classifier(rate[:, 0])
        weights = attention_mask.to(rate.dtype).unsqueeze(-1)
        return self.classifier((rate * weights).sum(1) / weights.sum(1))

    def _run(
        self,
        current: Tensor,
        mask: Tensor,
        time_steps: int,
        rates: dict[str, Tensor] | None,
        scores: list[Tensor] | None,
        counts: SpikeCounts | None,
    ) -> Tensor:
        """The last layer's rate under the configured schedule, differentiable at the equilibrium. Fills `rates`,
        `scores` and `counts` when given."""
        sweep = self._sweep(current, mask)
        emission: Emission
        if self.config.schedule == "phased" and self.feedback is None:
            emission = WindowRates(time_steps, counts)
            state = None
        else:
            with torch.no_grad():
                simulated = self.simulate(current, mask, time_steps, counts)
            emission = Substituted(simulated)
            state = simulated[self.output_names[-1]] if self.feedback is not None else None
            if state is not None and torch.is_grad_enabled():
                rewind = _RandomState(current.device)
                state, self.feedback_residuals = implicit_gradient(lambda z: sweep(emission, z, None), state)
                rewind()  # the pass below must draw the same dropout masks
        return sweep(emission if rates is None else Recorded(emission, rates), state, scores)

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        """One pass through all neuron layers as a function of the emission and of what the last layer feeds back."""
        key_mask = mask.bool()[:, None, None, :]

        def sweep(emit: Emission, state: Tensor | None = None, scores: list[Tensor] | None = None) -> Tensor:
            fed_back = current if self.feedback is None or state is None else current + self.feedback(state)
            s = emit(self.embedding_neurons, fed_back)
            for layer in self.layers:
                s = layer(s, key_mask, emit, scores)
            return s

        return sweep

    def simulate(
        self, current: Tensor, mask: Tensor, time_steps: int, counts: SpikeCounts | None = None
    ) -> dict[str, Tensor]:
        """ASR of every neuron layer after running the schedule; fills `counts` when given. Dropout masks are shared
        over time steps and with the pass that follows: the random state is rewound before each."""
        sweep = self._sweep(current, mask)
        rewind = _RandomState(current.device) if self.training else None
        membranes = Membranes(counts)
        state, fed_back = None, torch.zeros_like(current)
        phased = self.config.schedule == "phased"
        for _ in range(self.sweeps if phased else time_steps):
            if counts:
                fed_back = counts[self.output_names[-1]]  # all that was sent before this pass
            windows = Recorded(WindowRates(time_steps, counts))
            state = sweep(windows if phased else membranes, state)
            if rewind:
                rewind()
        if counts is not None and self.feedback is not None:
            counts["feedback"] = fed_back
        return windows.rates if phased else membranes.rates

    def to_graph(self) -> Graph:
        """The student as a layer graph, which export, simulation and counting read. Raises GraphError."""
        return spikingbert_graph(self)

    def steady_state(self, current: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The rates every schedule should reach as T grows: each layer clamp(f(a)/v_threshold)."""
        sweep = self._sweep(current, mask)
        state = None
        if self.feedback is not None:
            from neurotool.student.equilibrium import anderson

            zero = torch.zeros_like(current)
            state, _ = anderson(lambda z: sweep(SteadyState(), z), zero)
        emission = Recorded(SteadyState())
        sweep(emission, state)
        return emission.rates

    @torch.no_grad()
    def window_spikes(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Any:
        """Phased schedule step by step: {layer: spikes (T, batch, tokens, width)} of the last sweep."""
        sweep = self._sweep(self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids), attention_mask)
        state = None
        for _ in range(self.sweeps):
            emission = WindowSpikes(self.config.time_steps)
            state = sweep(emission, state)
        return emission.spikes


class _RandomState:
    """Calling it rewinds the device's random numbers to where they were when it was made."""

    def __init__(self, device: torch.device) -> None:
        self._generator = (
            torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
        )
        self._state = self._generator.get_state()

    def __call__(self) -> None:
        self._generator.set_state(self._state)


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, or squared error where there is one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1).float(), labels.float())
    return F.cross_entropy(logits.float(), labels)
