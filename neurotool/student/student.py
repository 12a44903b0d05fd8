"""What training, evaluation, export and validation ask of every student."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.utils import ModelOutput

from neurotool.errors import ConfigError
from neurotool.graph import Graph
from neurotool.student.configuration import StudentConfig
from neurotool.student.emission import NeuronLayer, SpikeCounts
from neurotool.student.encoder import Attention


@dataclass
class StudentOutput(ModelOutput):
    """rates: ASR of every neuron layer by name, (batch, tokens, width). hidden: what the embedding and each layer hand
    on, averaged over the time steps, same shapes. attention: queries, keys and values of each layer, as its
    attention reads them; only on request. spike_counts: spikes that each neuron sent during the run, same shapes as the
    rates; with feedback also those that entered node "feedback"; only on request. active_counts: the windows in which
    each neuron sent any spike; only where a run has several, else they are those with a spike count. messages: how many
    neurons of a layer send anything, differentiable, (batch, tokens); only on request, and of the phased schedule.
    answers: logits after each token, (batch, tokens, labels), of a student that has them."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    rates: dict[str, Tensor] | None = None
    hidden: tuple[Tensor, ...] | None = None
    attention: tuple[Attention, ...] | None = None
    spike_counts: SpikeCounts | None = None
    active_counts: SpikeCounts | None = None
    messages: dict[str, Tensor] | None = None
    answers: Tensor | None = None


class Student(PreTrainedModel):
    """A spiking language model with a linear readout of token averages; a regression model when `num_labels` is 1.

    A network is written once, in `_sweep`, as the map from the spikes or rates of each neuron layer to the current of
    the next; an emission (emission.py) decides what a current becomes. `_run` chooses the emission.
    """

    config: StudentConfig
    embeddings: BertEmbeddings
    classifier: nn.Linear
    supports_attention_loss = True
    """Whether it has attention of the teacher's kind, with a softmax."""
    answers_every_token = False
    hands_on_rates = True
    """Whether what its layers hand on is read by a linear map as hidden states are; else spikes, or sums of them."""
    shares: tuple[str, ...] = (
        *("vocab_size", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings"),
        *("type_vocab_size", "layer_norm_eps", "pad_token_id"),
    )
    """Settings in which it must be like a teacher whose weights it is to start from."""
    fused: Callable[..., Any] | None = None
    """One layer, compiled by `fuse`; None runs it as it is."""

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, BertEmbeddings):
            module.position_ids.copy_(torch.arange(module.position_ids.shape[-1]))
            module.token_type_ids.zero_()
        elif isinstance(module, NeuronLayer):
            module.base.fill_(module.v_threshold_at_start)
            module.log_gain.zero_()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.word_embeddings

    @torch.no_grad()
    def copy_embeddings(self, embeddings: BertEmbeddings) -> None:
        self.embeddings.load_state_dict(embeddings.state_dict())

    @property
    def neuron_layers(self) -> dict[str, NeuronLayer]:
        """Every neuron layer by name, in the order in which they emit."""
        return {m.name: m for m in self.modules() if isinstance(m, NeuronLayer)}

    @property
    def sweeps(self) -> int:
        """How often every neuron layer runs for T steps."""
        return 1

    @property
    def readout_leak(self) -> float:
        """The readout averages what the sweeps of a concurrent run return, weighted by readout_leak^(T-t)."""
        return 1.0

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_rates: bool = True,
        output_attention: bool = False,
        output_spike_counts: bool = False,
        output_messages: bool = False,
        time_steps: int | None = None,
        **_: Any,
    ) -> StudentOutput:
        """Args: input_ids, attention_mask (1 = token), token_type_ids: (batch, tokens); labels: (batch,);
        time_steps overrides the configured T; output_rates=False frees each layer's rates as soon as they are read;
        output_spike_counts=True is for use without gradients."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        time_steps = self.config.time_steps if time_steps is None else time_steps
        current = self.embed(input_ids, token_type_ids)
        output = StudentOutput(
            rates={} if output_rates else None,
            spike_counts={} if output_spike_counts else None,
            messages={} if output_messages else None,
        )
        read: list[Attention] | None = [] if output_attention and self.supports_attention_loss else None
        last = self._run(current, attention_mask, time_steps, output, read)
        output.logits = self.readout(last, attention_mask)
        output.loss = None if labels is None else classification_loss(output.logits, labels)
        output.attention = None if read is None else tuple(read)
        return output

    def embed(self, input_ids: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """What enters the network, (batch, tokens, width)."""
        return self.embeddings(input_ids=input_ids, token_type_ids=token_type_ids)

    def lasting(self, attention_mask: Tensor) -> Tensor:
        """The mask of what its output counts, where a text takes longer than its tokens."""
        return attention_mask

    def readout(self, last: Tensor, attention_mask: Tensor) -> Tensor:
        """Linear on what the last layer hands on of [CLS], or on its mean over tokens. Returns (batch, labels)."""
        if self.config.pooling == "cls":
            return self.classifier(last[:, 0])
        weights = attention_mask.to(last.dtype).unsqueeze(-1)
        return self.classifier((last * weights).sum(1) / weights.sum(1))

    def _run(
        self, current: Tensor, mask: Tensor, time_steps: int, output: StudentOutput, read: list[Attention] | None
    ) -> Tensor:
        """What the readout pools, differentiable, under the configured schedule. Fills `rates`, `hidden` (where there
        are rates) and `spike_counts` of `output`, and `read`, where given."""
        raise NotImplementedError

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        """One pass through all neuron layers: (emission, state) -> what the readout pools; state is what the last pass
        returned, for students with feedback."""
        raise NotImplementedError

    def finish(self) -> None:
        """Training is done: what only it needs becomes part of the weights."""

    @property
    def can_fuse(self) -> bool:
        """Whether `fuse` knows how to compile the layers of this student."""
        return False

    def fuse(self) -> None:
        """From now on run the layers through torch.compile, which does in one pass over memory what lies between two
        matrix products. Where spikes are counted, or T is not the configured one, they still run as they are."""
        raise NotImplementedError

    def to_graph(self) -> Graph:
        """The student as a layer graph, which export, simulation and counting read. Raises GraphError."""
        raise NotImplementedError


def check_time_steps(student: Student, time_steps: int | None) -> None:
    """Raises ConfigError where a T is asked for that a student without neurons does not have."""
    if time_steps is not None and not student.neuron_layers:
        raise ConfigError(
            f"--time-steps {time_steps}: student {student.config.model_type} has no neurons, so there is no T to choose"
        )


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, or squared error where there is one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1).float(), labels.float())
    return F.cross_entropy(logits.float(), labels)
