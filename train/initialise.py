"""A student that starts as its teacher: layers copied, thresholds fitted to the teacher's activations, and the scale of
the spikes folded into the weights that read them."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.errors import ConfigError
from neurotool.student import SpikingBertForSequenceClassification, Student
from neurotool.student.emission import NeuronLayer
from neurotool.student.encoder import EncoderLayer
from neurotool.student.neurons import average_spiking_rate
from neurotool.student.spikingbert import SpikingBertLayer
from neurotool.train.distiller import LayerMap
from neurotool.train.least_squares import source_layers
from neurotool.train.plan import as_typed


@torch.no_grad()
def copy_teacher(student: Student, teacher: BertForSequenceClassification, layer_map: LayerMap) -> None:
    """Embeddings, and for each student layer the teacher's of `source_layers`. Its norms too, where the student has
    them in the same places.

    Raises ConfigError when the shapes differ.
    """
    check_same_shape(type(student), student.config, teacher.config)
    student.copy_embeddings(teacher.bert.embeddings)
    if not student.layers:
        return
    blocks = teacher.bert.encoder.layer
    for layer, source in zip(student.layers, source_layers(layer_map, len(blocks)), strict=True):
        block = blocks[source]
        copies = [
            (layer.query, block.attention.self.query),
            (layer.key, block.attention.self.key),
            (layer.value, block.attention.self.value),
            (layer.self_output, block.attention.output.dense),
            (layer.intermediate, block.intermediate.dense),
            (layer.output, block.output.dense),
        ]
        if isinstance(layer, EncoderLayer):
            copies += [
                (layer.self_output_norm, block.attention.output.LayerNorm),
                (layer.output_norm, block.output.LayerNorm),
            ]
        for copy, original in copies:
            copy.load_state_dict(original.state_dict())


@torch.no_grad()
def project_embeddings(student: Student, teacher: BertForSequenceClassification) -> None:
    """Where the student is narrower: the teacher's embedding along the principal components of its words."""
    theirs = teacher.bert.embeddings
    words = theirs.word_embeddings.weight.float()
    centred = words - words.mean(0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    basis = vectors[:, -student.config.hidden_size :].flip(1)
    ours = BertEmbeddings(student.config).to(words.device)
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        getattr(ours, name).weight.copy_(getattr(theirs, name).weight.float() @ basis)
    student.copy_embeddings(ours)


_COPIED = ("hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")


def check_same_shape(kind: type[Student], student: BertConfig, teacher: BertConfig) -> None:
    """Raises ConfigError where the student's layers cannot hold the teacher's."""
    for name in (name for name in _COPIED if name in kind.shares):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ConfigError(f"{as_typed(name, ours)}: the teacher's is {theirs}; use --init random, or its shape")


@torch.no_grad()
def fit_spikes(student: SpikingBertForSequenceClassification, batch: dict[str, Tensor], max_shift: float) -> None:
    """One pass through the student in which every neuron layer, in the order of emission, gets a threshold and a shift
    with which its T-step rates carry its input best, folded into the neighbouring weights. In the concurrent schedule
    the input is the mean over T of the currents that the layers before it cause step by step.

    x ~ v_threshold * rate - shift, so readers take W <- v_threshold * W and b <- b - shift * W 1. A shift moves the
    symmetric outputs of LayerNorm, K and V into the range of binary rates; after LayerNorm's own mean removal, inside
    the softmax, and through the attention average it costs nothing. `max_shift` bounds it as a share of v_threshold.

    With a fixed v_threshold only the scale is folded.
    """
    training = student.training
    student.eval()
    mask = batch["attention_mask"]
    fit = _Fit(student, mask.bool(), max_shift)
    current = student.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
    student._sweep(current.repeat(fit.steps, 1, 1), mask.repeat(fit.steps, 1))(fit, None, None)
    student.train(training)


class _Fit:
    """The emission of `fit_spikes`. In the concurrent schedule the steps lie one after the other in the batch: without
    feedback a layer's currents of all steps are known before it fires."""

    def __init__(self, student: SpikingBertForSequenceClassification, mask: Tensor, max_shift: float) -> None:
        self.student, self.mask, self.max_shift = student, mask, max_shift
        self.learned = student.config.learn_v_threshold
        self.steps = student.config.time_steps if student.config.schedule == "concurrent" else 1
        self.residual_scale = 1.0
        self.value_scale, self.value_shift = 1.0, 0.0
        self.places: dict[str, Callable[[NeuronLayer, Tensor], Tensor]] = {"embedding": self._embedding}
        for index, layer in enumerate(_encoder_layers(student)):
            for kind in ("key", "value", "attention", "self_output", "intermediate", "output"):
                self.places[f"encoder.{index}.{kind}"] = _bind(getattr(self, f"_{kind}"), index, layer)

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        return self.places[neurons.name](neurons, current)

    def _choose(self, neurons: NeuronLayer, x: Tensor, shiftable: bool) -> tuple[float, float]:
        """(v_threshold, shift) with the smallest squared error over real tokens."""
        if not self.learned:
            return float(neurons.base), 0.0
        sample = x.unflatten(0, (self.steps, -1))[:, self.mask].flatten(1)[:, : 400_000 // self.steps].float()
        dynamics, target = neurons.dynamics, sample.mean(0)
        reach = float(sample.abs().quantile(0.999))
        width = reach * (2.0 if shiftable and dynamics.low == 0 and self.max_shift > 0 else 1.0)
        shifts = [0.0] if dynamics.low < 0 or not shiftable else [self.max_shift * k / 5 for k in range(6)]
        best = (float("inf"), 1.0, 0.0)
        for k in range(4, 25):
            threshold = max(width * k / 24, 1e-3)
            for share in shifts:
                shift = threshold * share
                sent = self._send(neurons, (sample + shift) / threshold)
                rate = average_spiking_rate(iter(sent), dynamics.leak)
                error = float((rate * threshold - shift - target).square().mean())
                best = min(best, (error, threshold, shift))
        return best[1], best[2]

    def _emit(self, neurons: NeuronLayer, current: Tensor, threshold: float) -> Tensor:
        if self.learned:
            neurons.base.fill_(threshold)
        return self._send(neurons, neurons.drive(current).unflatten(0, (self.steps, -1))).flatten(0, 1)

    def _send(self, neurons: NeuronLayer, drive: Tensor) -> Tensor:
        """The spikes of each step of `drive` (steps, ...), in the phased schedule the rate of its window (1, ...)."""
        if self.student.config.schedule == "phased":
            return neurons.dynamics.rate(drive, self.student.config.time_steps)
        u, sent = torch.full_like(drive[0], neurons.dynamics.v_init), []
        for step in drive:
            u, spikes = neurons.dynamics.step(u, step)
            sent.append(spikes)
        return torch.stack(sent)

    def _embedding(self, neurons: NeuronLayer, x: Tensor) -> Tensor:
        threshold, shift = self._choose(neurons, x, True)
        self.student.embeddings.LayerNorm.bias.add_(shift)
        self._enter_layer(0, threshold, shift)
        return self._emit(neurons, x + shift, threshold)

    def _enter_layer(self, index: int, threshold: float, shift: float) -> None:
        self.residual_scale = threshold
        if index == len(self.student.layers):
            _fold(self.student.classifier, threshold, shift)
            return
        layer = _encoder_layers(self.student)[index]
        for reader in (layer.query, layer.key, layer.value):
            _fold(reader, threshold, shift)

    def _key(self, index: int, layer: SpikingBertLayer, neurons: NeuronLayer, x: Tensor) -> Tensor:
        threshold, shift = self._choose(neurons, x, True)
        layer.key.bias.add_(shift)
        layer.query.weight.mul_(threshold)
        layer.query.bias.mul_(threshold)
        return self._emit(neurons, x + shift, threshold)

    def _value(self, index: int, layer: SpikingBertLayer, neurons: NeuronLayer, x: Tensor) -> Tensor:
        self.value_scale, self.value_shift = self._choose(neurons, x, True)
        layer.value.bias.add_(self.value_shift)
        return self._emit(neurons, x + self.value_shift, self.value_scale)

    def _attention(self, index: int, layer: SpikingBertLayer, neurons: NeuronLayer, x: Tensor) -> Tensor:
        """x averages value spikes: its shift is theirs, only the threshold is free."""
        real = x * self.value_scale
        threshold, _ = self._choose(neurons, real, False)
        if not self.learned:
            threshold *= self.value_scale
        _fold(layer.self_output, threshold, self.value_shift)
        _divide(layer.self_output, self.residual_scale)
        return self._emit(neurons, x, threshold / self.value_scale)

    def _self_output(self, index: int, layer: SpikingBertLayer, neurons: NeuronLayer, x: Tensor) -> Tensor:
        threshold, shift = self._choose(neurons, x, True)
        layer.self_output_norm.bias.add_(shift)
        _fold(layer.intermediate, threshold, shift)
        self.residual_scale = threshold
        return self._emit(neurons, x + shift, threshold)

    def _intermediate(self, index: int, layer: SpikingBertLayer, neurons: NeuronLayer, x: Tensor) -> Tensor:
        threshold, _ = self._choose(neurons, x if layer.gelu else x.clamp(min=0), False)
        _fold(layer.output, threshold, 0.0)
        _divide(layer.output, self.residual_scale)
        return self._emit(neurons, x, threshold)

    def _output(self, index: int, layer: SpikingBertLayer, neurons: NeuronLayer, x: Tensor) -> Tensor:
        threshold, shift = self._choose(neurons, x, True)
        layer.output_norm.bias.add_(shift)
        self._enter_layer(index + 1, threshold, shift)
        return self._emit(neurons, x + shift, threshold)


def _encoder_layers(student: SpikingBertForSequenceClassification) -> list[SpikingBertLayer]:
    return [cast(SpikingBertLayer, layer) for layer in student.layers]


def _bind(
    method: Callable[..., Tensor], index: int, layer: SpikingBertLayer
) -> Callable[[NeuronLayer, Tensor], Tensor]:
    return lambda neurons, x: method(index, layer, neurons, x)


def _fold(reader: nn.Linear, scale: float, shift: float) -> None:
    """W x + b with x = scale * rate - shift, rewritten for the rate."""
    reader.bias.sub_(shift * reader.weight.sum(1))
    reader.weight.mul_(scale)


def _divide(reader: nn.Linear, scale: float) -> None:
    """Bring a reader's output to the scale of the rates it is added to; the LayerNorm that follows undoes it."""
    reader.weight.div_(scale)
    reader.bias.div_(scale)
