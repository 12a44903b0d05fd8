"""What training minimises: a student beside its teacher, and the terms of the loss."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from neurotool.student import SpikingBertForSequenceClassification, Student
from neurotool.student.encoder import Attention
from neurotool.student.student import classification_loss
from neurotool.train.averaging import averaged
from neurotool.train.compression import Compressor
from neurotool.train.losses import attention_loss, hidden_loss, prefix_loss, relation_loss, soft_label_loss
from neurotool.train.sparsity import EventTarget, RisingPenalty
from neurotool.train.teacher import TeacherOutput

LayerMap = tuple[int | None, ...]
"""Teacher hidden states (0 = embedding) for the student's embedding and each of its layers; None teaches nothing."""


@dataclass(frozen=True)
class LossWeights:
    """Weight of each term; a term with weight 0 is not computed.

    embedding, hidden: states behind the embedding and the layers; attention: pre-softmax scores; relations: of
    queries, keys and values; soft: the teacher's
    logits at `temperature`; prefix: the same of the answer after every token; hard: the true labels; rate: the mean
    spiking rate, a penalty on energy.
    """

    embedding: float = 1.0
    hidden: float = 1.0
    attention: float = 1.0
    relations: float = 0.0
    soft: float = 1.0
    prefix: float = 0.0
    hard: float = 0.5
    rate: float = 0.0
    temperature: float = 1.0

    @property
    def teacher_needed(self) -> bool:
        return bool(self.embedding or self.hidden or self.attention_needed or self.soft or self.prefix)

    @property
    def attention_needed(self) -> bool:
        return bool(self.attention or self.relations)

    @property
    def reach_every_parameter(self) -> bool:
        """Whether every trained parameter gets a gradient: the linear map of hidden states, and the head, need a term
        that reads them."""
        return bool(self.embedding and self.hidden and (self.soft or self.prefix or self.hard))


class Distiller(nn.Module):
    """A student and the learned maps from what its layers hand on to the teacher's hidden states: one linear map shared
    by all layers, or one MLP a layer where these hand on a stream of spikes (SpikeBERT)."""

    def __init__(
        self,
        student: Student,
        teacher_width: int,
        layer_map: LayerMap,
        weights: LossWeights,
        compressor: Compressor | None = None,
        events: EventTarget | None = None,
        ema: float | None = None,
        rising: RisingPenalty | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.averaged = None if ema is None else averaged(student, ema)
        self.compressor = compressor or Compressor(student)
        self.events = events
        self.rising = rising
        self.layer_map = layer_map
        self.weights = weights
        width = student.config.hidden_size
        self.fit: nn.Linear | nn.ModuleDict
        if student.hands_on_rates:
            self.fit = nn.Linear(width, teacher_width)
        else:
            mapped = (str(tap) for tap, layer in enumerate(layer_map) if layer is not None)
            self.fit = nn.ModuleDict({tap: _mlp(width, teacher_width) for tap in mapped})

    @property
    def taps(self) -> dict[int, int]:
        """The student's layers (0 = embedding) that a teacher's hidden state teaches, and which one."""
        weights = self.weights
        wanted = {tap: layer for tap, layer in enumerate(self.layer_map) if layer is not None}
        return {tap: layer for tap, layer in wanted.items() if (weights.hidden if tap else weights.embedding)}

    def asked(self, depth: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Hidden states and attention of a teacher of `depth` layers that the losses read. The attention is that of the
        layer the student's was copied from, which reads the same hidden state."""
        read = (min(layer + 1, depth) for layer in self.layer_map[:-1] if layer is not None)
        return tuple(self.taps.values()), tuple(read) if self.weights.attention_needed else ()

    @property
    def measured(self) -> Student:
        """The student that is evaluated and kept: with averaged weights where these are asked for."""
        if self.averaged is None:
            return self.student
        averaged = self.averaged.module
        assert isinstance(averaged, Student)
        return averaged

    def end_stage(self) -> None:
        """The student takes the average of its weights, and the next stage begins another. What becomes sparse does so
        in the first stage, and stays so."""
        if self.averaged is not None:
            self.student.load_state_dict(self.averaged.module.state_dict())
            self.averaged.n_averaged.zero_()
        self.compressor.first_stage = False
        for penalty in (self.events, self.rising):
            if penalty is not None:
                penalty.done = True

    @torch.no_grad()
    def start_fit(self, batch: dict[str, Tensor], hidden: Sequence[Tensor]) -> None:
        """Where widths agree, a rate's natural reading is v_threshold * rate - shift: the mean threshold, and the mean
        difference from the teacher's hidden states that it leaves. What is no rate is read as it is."""
        student, fit = self.student, self.fit
        if not isinstance(fit, nn.Linear) or fit.in_features != fit.out_features or None in self.layer_map:
            return
        training = student.training
        ours, tokens = student.eval()(**batch).hidden, batch["attention_mask"].bool()
        student.train(training)
        scale = torch.ones(())
        if isinstance(student, SpikingBertForSequenceClassification):
            layers = student.neuron_layers
            scale = torch.stack([layers[name].v_threshold for name in student.output_names]).mean()
        nn.init.eye_(fit.weight).mul_(scale)
        left = [(theirs - scale * x)[tokens].mean(0) for x, theirs in zip(ours, hidden, strict=True)]
        fit.bias.copy_(torch.stack(left).mean(0))

    def forward(self, batch: dict[str, Tensor], taught: TeacherOutput, labels: Tensor | None) -> dict[str, Tensor]:
        """The loss and its terms. taught.hidden: for every one of `taps`."""
        weights, mask = self.weights, batch["attention_mask"]
        output = self.student(**batch, output_attention=bool(taught.attention), output_messages=self.events is not None)
        terms: dict[str, Tensor] = {}
        for tap, hidden in zip(self.taps, taught.hidden, strict=True):
            name = "hidden" if tap else "embedding"
            loss = hidden_loss(self._fitted(tap, output.hidden[tap]), hidden, mask)
            terms[name] = terms[name] + loss if name in terms else loss
        pairs: list[tuple[Attention, Attention]] = []
        if taught.attention:
            ours = [read for read, layer in zip(output.attention, self.layer_map, strict=False) if layer is not None]
            pairs = list(zip(ours, taught.attention, strict=True))
        if pairs and weights.attention:
            terms["attention"] = torch.stack([attention_loss(s.scores, t.scores, mask) for s, t in pairs]).sum()
        if pairs and weights.relations:
            each = [relation_loss(x, y, mask) for s, t in pairs for x, y in zip(s, t, strict=True)]
            terms["relations"] = torch.stack(each).mean()
        if weights.soft:
            terms["soft"] = soft_label_loss(output.logits, taught.logits, weights.temperature)
        if weights.prefix:
            terms["prefix"] = prefix_loss(output.answers, taught.logits, mask, weights.temperature)
        if weights.hard and labels is not None:
            terms["hard"] = classification_loss(output.logits, labels)
        if weights.rate:
            terms["rate"] = torch.stack([r.abs().mean() for r in output.rates.values()]).mean()
        loss = torch.stack([getattr(weights, name) * term for name, term in terms.items()]).sum()
        shown = {name: term.detach() for name, term in terms.items()}
        if self.events is not None:
            penalty, densities = self.events(output.messages, output.rates, mask)
            loss = loss + penalty
            shown |= densities
        if self.rising is not None:
            loss = loss + self.rising(output.rates, mask)
        if output.rates:
            rates = [rate.detach() for rate in output.rates.values()]
            sent = torch.stack([rate.abs().sum(dtype=torch.float32) for rate in rates]).sum()
            shown["spiking_rate"] = sent / sum(rate.numel() for rate in rates)
        return {"loss": loss} | shown

    def _fitted(self, tap: int, x: Tensor) -> Tensor:
        fitted: Tensor = self.fit[str(tap)](x) if isinstance(self.fit, nn.ModuleDict) else self.fit(x)
        return fitted


def _mlp(width: int, teacher_width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, teacher_width), nn.GELU(), nn.Linear(teacher_width, teacher_width))
