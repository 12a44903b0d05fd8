"""SpikingBERT (Bal & Sengupta, AAAI 2024, arXiv 2308.10873): six neuron layers per encoder layer, Q real, K and V
spiking, trained at the equilibrium of its firing rates."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.graph import Add, Graph, GraphBuilder
from neurotool.student.building import add_embeddings, finished, linear_node, neuron_node
from neurotool.student.configuration import SpikingBertConfig
from neurotool.student.emission import (
    Emission,
    Membranes,
    NeuronLayer,
    Recorded,
    SoftMessages,
    SpikeCounts,
    SteadyState,
    Substituted,
    WindowRates,
    WindowSpikes,
)
from neurotool.student.encoder import PLACES, Attention, EncoderLayer
from neurotool.student.equilibrium import implicit_gradient
from neurotool.student.student import Student, StudentOutput


class SpikingBertLayer(EncoderLayer):
    """One encoder layer with neurons at all its PLACES."""

    def __init__(self, config: SpikingBertConfig, index: int) -> None:
        super().__init__(config)
        self.time_steps = config.time_steps
        for place in PLACES:
            width, dynamics = config.hidden_size, config.dynamics
            if place == "intermediate":
                width, dynamics = config.intermediate_size, config.wide_dynamics
            name, own = f"encoder.{index}.{place}", config.own_thresholds(width)
            neurons = NeuronLayer(name, config.v_threshold, config.learn_v_threshold, dynamics, own)
            self.add_module(f"{place}_neurons", neurons)

    def forward(
        self, s: Tensor, mask: Tensor, emit: Emission, with_attention: bool = False
    ) -> tuple[Tensor, list[Attention]]:
        """As EncoderLayer, on what the previous neuron layer sent. On request also what the attention reads."""
        read: list[Attention] | None = [] if with_attention else None
        return self.run(s, mask, lambda place, current: emit(self.neurons(place), current), read), read or []

    def neurons(self, place: str) -> NeuronLayer:
        neurons: NeuronLayer = getattr(self, f"{place}_neurons")
        return neurons

    def windows(
        self, s: Tensor, mask: Tensor, with_attention: bool, with_messages: bool = False
    ) -> tuple[dict[str, Tensor], list[Attention], dict[str, Tensor]]:
        """The rates of the windows at all PLACES, and on request what the attention reads and how many neurons send:
        what `fuse` compiles. It reads no name of a layer, so that one compiled piece serves them all."""
        sent: dict[str, Tensor] = {}
        read: list[Attention] = []
        messages: dict[str, Tensor] = {}

        def send(place: str, current: Tensor) -> Tensor:
            if with_messages:
                messages[place] = self.neurons(place).messages(current, self.time_steps)
            sent[place] = self.neurons(place).rate(current, self.time_steps)
            return sent[place]

        self.run(s, mask, send, read if with_attention else None)
        return sent, read, messages


class SpikingBertForSequenceClassification(Student):
    """The readout reads rates of the last layer."""

    config_class = SpikingBertConfig
    base_model_prefix = "spikingbert"
    _supports_sdpa = True
    config: SpikingBertConfig

    def __init__(self, config: SpikingBertConfig) -> None:
        config.check()
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        channels = config.own_thresholds(config.hidden_size)
        self.embedding_neurons = NeuronLayer(
            "embedding", config.v_threshold, config.learn_v_threshold, config.dynamics, channels
        )
        self.layers = nn.ModuleList(SpikingBertLayer(config, i) for i in range(config.num_hidden_layers))
        self.feedback = nn.Linear(config.hidden_size, config.hidden_size, bias=False) if config.feedback else None
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.feedback_residuals: list[float] = []
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.feedback:
            module.weight.zero_()  # starts as the feed-forward student, whose equilibrium exists

    @property
    def output_names(self) -> list[str]:
        """Names of the neuron layers between encoder layers: the embedding's and every encoder layer's output."""
        return ["embedding"] + [f"encoder.{i}.output" for i in range(len(self.layers))]

    @property
    def sweeps(self) -> int:
        """More than one in a phased run with feedback."""
        return self.config.feedback_sweeps if self.feedback is not None and self.config.schedule == "phased" else 1

    @property
    def readout_leak(self) -> float:
        return self.config.leak

    def _run(
        self, current: Tensor, mask: Tensor, time_steps: int, output: StudentOutput, read: list[Attention] | None
    ) -> Tensor:
        """Differentiable at the equilibrium."""
        if self.fused is not None and output.spike_counts is None and time_steps == self.config.time_steps:
            return self._run_fused(current, mask, output, read)
        rates, counts = output.rates, output.spike_counts
        sweep = self._sweep(current, mask)
        emission: Emission
        if self.config.schedule == "phased" and self.feedback is None:
            emission = WindowRates(time_steps, counts)
            state = None
        else:
            with torch.no_grad():
                output.active_counts = {} if counts is not None and self.sweeps > 1 else None
                simulated = self.simulate(current, mask, time_steps, counts, output.active_counts)
            emission = Substituted(simulated)
            state = simulated[self.output_names[-1]] if self.feedback is not None else None
            if state is not None and torch.is_grad_enabled():
                rewind = _RandomState(current.device)
                state, self.feedback_residuals = implicit_gradient(lambda z: sweep(emission, z, None), state)
                rewind()  # the pass below must draw the same dropout masks
        if output.messages is not None:
            emission = SoftMessages(emission, time_steps, output.messages)
        last: Tensor = sweep(emission if rates is None else Recorded(emission, rates), state, read)
        if rates is not None:
            output.hidden = tuple(rates[name] for name in self.output_names)
        return last

    @property
    def can_fuse(self) -> bool:
        return self.config.schedule == "phased" and self.feedback is None and self.config.dynamics.has_closed_form

    def fuse(self) -> None:
        self.fused = torch.compile(SpikingBertLayer.windows, dynamic=True)

    def _run_fused(self, current: Tensor, mask: Tensor, output: StudentOutput, read: list[Attention] | None) -> Tensor:
        """The phased schedule, every encoder layer by the compiled `windows`."""
        assert self.fused is not None
        key_mask = mask.bool()[:, None, None, :]
        s = self.embedding_neurons.rate(current, self.config.time_steps)
        rates, with_messages = {"embedding": s}, output.messages is not None
        if output.messages is not None:
            output.messages["embedding"] = self.embedding_neurons.messages(current, self.config.time_steps)
        for index, layer in enumerate(self.layers):
            sent, of_layer, messages = self.fused(layer, s, key_mask, read is not None, with_messages)
            s = sent["output"]
            if output.rates is not None:
                rates |= {f"encoder.{index}.{place}": sent[place] for place in PLACES}
            if read is not None:
                read += of_layer
            if output.messages is not None:
                output.messages |= {f"encoder.{index}.{place}": messages[place] for place in PLACES}
        if output.rates is not None:
            output.rates |= rates
            output.hidden = tuple(rates[name] for name in self.output_names)
        return s

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        """One pass through all neuron layers as a function of the emission and of what the last layer feeds back."""
        key_mask = mask.bool()[:, None, None, :]

        def sweep(emit: Emission, state: Tensor | None = None, read: list[Attention] | None = None) -> Tensor:
            fed_back = current if self.feedback is None or state is None else current + self.feedback(state)
            s = emit(self.embedding_neurons, fed_back)
            for layer in self.layers:
                s, of_layer = layer(s, key_mask, emit, read is not None)
                if read is not None:
                    read += of_layer
            return s

        return sweep

    def simulate(
        self,
        current: Tensor,
        mask: Tensor,
        time_steps: int,
        counts: SpikeCounts | None = None,
        active: SpikeCounts | None = None,
    ) -> dict[str, Tensor]:
        """ASR of every neuron layer after running the schedule; fills `counts`, and `active` of windows, when given.
        Dropout masks are shared over time steps and with the pass that follows: the random state is rewound before
        each."""
        sweep = self._sweep(current, mask)
        rewind = _RandomState(current.device) if self.training else None
        membranes = Membranes(counts)
        state, last = None, self.output_names[-1]
        fed_back = active_before = torch.zeros_like(current)
        phased = self.config.schedule == "phased"
        for _ in range(self.sweeps if phased else time_steps):
            if counts:
                fed_back = counts[last]  # all that was sent before this pass
            if active:
                active_before = active[last]
            windows = Recorded(WindowRates(time_steps, counts, active))
            state = sweep(windows if phased else membranes, state)
            if rewind:
                rewind()
        if counts is not None and self.feedback is not None:
            counts["feedback"] = fed_back
            if active is not None:
                active["feedback"] = active_before
        return windows.rates if phased else membranes.rates

    def to_graph(self) -> Graph:
        build = GraphBuilder()
        current = add_embeddings(build, self.embeddings)
        if self.feedback is not None:
            fed_back = build.add_feedback("feedback", linear_node(self.feedback), self.output_names[-1])
            current = build.add("feedback.add", Add(), current, fed_back)
        s = build.add("embedding", neuron_node(self.embedding_neurons), current)
        for i, layer in enumerate(self.layers):
            s = cast(EncoderLayer, layer).add_to(build, f"encoder.{i}", s)
        return finished(build, self.config, self.classifier, s, self.sweeps)

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
