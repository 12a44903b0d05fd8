"""A SpikeBERT student that starts close to its teacher: layer after layer, every matrix becomes the one that says best,
by least squares, what the teacher's matrix says of the same tokens, given the spikes that reach it.

A copied matrix would read here what it was not trained on, counts of spikes in place of hidden states, and what it says
would pass a norm and neurons of a few levels. So the stream is fitted, too: each half of a layer adds the spikes that
bring it closest to the teacher's hidden state behind that half, every channel in its own standard deviations.
"""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertForSequenceClassification
from transformers.models.bert.modeling_bert import BertLayer

from neurotool.student.configuration import SpikeBertConfig
from neurotool.student.emission import NeuronLayer
from neurotool.student.spikebert import SpikeBertBlock, SpikeBertForSequenceClassification
from neurotool.student.surrogate import unrolled_spikes
from neurotool.train.distiller import LayerMap

AT_ONCE = 2**16
"""Tokens, padding included, that the fit reads at most; each counts once a time step where steps follow each other."""
TEXTS, ROWS = 16, 2**12
"""Texts that a layer, and tokens that a regression reads at once."""
RIDGE = 1e-2
"""Of the mean variance of what a matrix reads, added to each variance."""
GAINS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.5, 2.0)
"""Currents that one standard deviation may become; drives where the threshold is 1."""


@torch.no_grad()
def fit_layers(
    student: SpikeBertForSequenceClassification,
    teacher: BertForSequenceClassification,
    batch: dict[str, Tensor],
    layer_map: LayerMap,
) -> None:
    """Fit `student` to `teacher` on the texts of `batch`. Student layer i is fitted to the teacher layer that
    `source_layers` names, its output to hidden state layer_map[i + 1]."""
    training = student.training
    student.eval()
    mask = batch["attention_mask"]
    hidden = _hidden_states(teacher, batch)
    send = _Sending(student.config)
    current = student.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
    current = _fit_embedding(student, current, mask, send)
    stream = send(student.embedding_neurons, current.repeat(send.parts, 1, 1))
    blocks = teacher.bert.encoder.layer
    for index, (layer, source) in enumerate(zip(student.layers, source_layers(layer_map, len(blocks)), strict=True)):
        behind = layer_map[index + 1]
        said = _said(blocks[source], hidden[source], mask)
        said["output"] = hidden[source + 1 if behind is None else behind][mask.bool()]
        stream = _LayerFit(cast(SpikeBertBlock, layer), said, mask, send).run(stream)
    student.train(training)


def _hidden_states(teacher: BertForSequenceClassification, batch: dict[str, Tensor]) -> list[Tensor]:
    texts = zip(*(values.split(TEXTS) for values in batch.values()), strict=True)
    each = [teacher(**dict(zip(batch, some, strict=True)), output_hidden_states=True).hidden_states for some in texts]
    return [torch.cat(states) for states in zip(*each, strict=True)]


def texts_to_fit(config: SpikeBertConfig, longest: int) -> int:
    """How many texts of at most `longest` tokens the fit reads."""
    return max(16, min(1024, AT_ONCE // (_Sending(config).parts * longest)))


def source_layers(layer_map: LayerMap, depth: int) -> list[int]:
    """For each student layer the first teacher layer after the hidden state that teaches what it reads: the one that
    was trained on that (better than the last before the next hidden state: docs/results.md)."""
    layers = len(layer_map) - 1
    first = (i * depth // layers if mapped is None else mapped for i, mapped in enumerate(layer_map[:-1]))
    return [min(layer, depth - 1) for layer in first]


def _said(block: BertLayer, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What the parts of a BERT layer say of hidden states x (batch, tokens, hidden), by the student's names; without
    the padding, (all tokens, width)."""
    attention = block.attention.self
    said = {name: getattr(attention, name)(x) for name in ("query", "key", "value")}
    query, key, value = (y.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2) for y in said.values())
    read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None].bool())
    between = block.attention.output(read.transpose(1, 2).flatten(2), x)
    real = mask.bool()
    told = {name: y[real] for name, y in (said | {"self_output": between}).items()}
    return told | {"intermediate": block.intermediate.dense(told["self_output"])}


def _fit_embedding(
    student: SpikeBertForSequenceClassification, current: Tensor, mask: Tensor, send: "_Sending"
) -> Tensor:
    """Every channel of the embedding gets the mean and the deviation that its neurons tell apart best; returns what it
    then gives them."""
    norm, real = student.embeddings.LayerNorm, mask.bool()
    mean, deviation = _moments(current[real])
    wanted = (current[real] - mean) / deviation
    gain, offset = send.choose(student.embedding_neurons, wanted, wanted)
    norm.weight.mul_(gain / deviation)
    norm.bias.sub_(mean).mul_(gain / deviation).add_(offset)
    return (current - mean) * (gain / deviation) + offset


class _LayerFit:
    def __init__(self, layer: SpikeBertBlock, said: dict[str, Tensor], mask: Tensor, send: "_Sending") -> None:
        self.layer, self.said, self.mask, self.send = layer, said, mask, send

    def run(self, stream: Tensor) -> Tensor:
        """stream: (parts * batch, tokens, hidden); returns that behind the layer."""
        self.stream = stream
        self.layer._run(stream, self.mask.repeat(self.send.parts, 1), self._fit)
        return self.stream

    def _fit(self, part: str, x: Tensor) -> Tensor:
        linear, norm, neurons = self.layer._of(part)
        varied = bool((self._of_tokens(self._mean(x)).std(0) > 1e-6).any())  # else it tells nothing: what is stays
        if linear is not None and norm is not None and varied:
            if part in ("self_output", "output"):
                self._fit_addition(linear, norm, neurons, x, self.said[part])
            elif part in ("query", "key") and self.layer.softmax and neurons.dynamics.low < 0:
                self._fit_scores(linear, norm, neurons, x, part=part)
            else:
                self._fit_projection(linear, norm, neurons, x, self.said[part])

        def send(some: Tensor) -> Tensor:
            current = some if linear is None else linear(some)
            return self.send(neurons, (current if norm is None else norm(current)).flatten(0, 1)).unflatten(
                0, (self.send.parts, -1)
            )

        spikes = self._by_texts(send, x).flatten(0, 1)
        if part in ("self_output", "output"):
            self.stream = self.stream + spikes
        return spikes

    def _fit_projection(
        self, linear: nn.Linear, norm: nn.LayerNorm, neurons: NeuronLayer, x: Tensor, said: Tensor
    ) -> None:
        """Rates that tell most of what is said, in any unit: which one, the matrices that read them are fitted to."""
        mean, deviation = _moments(said)
        wanted = (said - mean) / deviation
        normed = self._regress(linear, norm, x, wanted)
        gain, offset = self.send.choose(neurons, normed, wanted)
        norm.weight.fill_(gain)
        norm.bias.fill_(offset)

    def _fit_scores(self, linear: nn.Linear, norm: nn.LayerNorm, neurons: NeuronLayer, x: Tensor, part: str) -> None:
        """Rates whose products are the teacher's scores, which a softmax reads: query and key share the unit of every
        channel. The mean key adds the same to all scores of a query, and is left out."""
        (_, of_query), (key_mean, of_key) = (_moments(self.said[name]) for name in ("query", "key"))
        head = len(of_query) // self.layer.num_heads
        unit = (of_query * of_key / (self.layer.attention_scale * head**0.5)).sqrt()
        said = self.said[part]
        wanted = said * (unit / of_query) if part == "query" else (said - key_mean) * (unit / of_key)
        self._fit_closest(linear, norm, neurons, x, wanted)

    def _fit_addition(
        self, linear: nn.Linear, norm: nn.LayerNorm, neurons: NeuronLayer, x: Tensor, said: Tensor
    ) -> None:
        """Rates that bring the stream closest to what is said, which count as they are."""
        mean, deviation = _moments(said)
        wanted = (said - mean) / deviation - self._of_tokens(self._mean(self.stream))
        middle = (neurons.dynamics.low + 1) / 2  # a stream of binary spikes grows, and the next layer's biases know it
        self._fit_closest(linear, norm, neurons, x, wanted - wanted.mean(0) + middle)

    def _fit_closest(
        self, linear: nn.Linear, norm: nn.LayerNorm, neurons: NeuronLayer, x: Tensor, wanted: Tensor
    ) -> None:
        """Rates that come closest to `wanted` (tokens, out)."""
        middle = wanted.mean(0)
        normed = self._regress(linear, norm, x, wanted)
        spread = normed.square().mean(0).clamp(min=1e-6)  # the mean was taken off; 0 where x is the same in all tokens
        slope = (normed * (wanted - middle)).mean(0) / spread
        few = _some(normed) * slope
        gain = min(GAINS, key=lambda gain: _apart(self.send.rates(neurons, few * gain + middle), _some(wanted)))
        norm.weight.copy_(slope * gain)
        norm.bias.copy_(middle)

    def _regress(self, linear: nn.Linear, norm: nn.LayerNorm, x: Tensor, wanted: Tensor) -> Tensor:
        """Makes `linear` say `wanted` (tokens, out); returns what the norm makes of that, with the mean in its bias."""
        weight, bias = least_squares(self._of_tokens(self._mean(x)), wanted)
        linear.weight.copy_(weight)
        linear.bias.copy_(bias - wanted.mean(0))

        def say(some: Tensor) -> Tensor:
            return F.layer_norm(linear(some), norm.normalized_shape, eps=norm.eps).mean(0, keepdim=True)

        return self._of_tokens(self._by_texts(say, x)[0])

    def _by_texts(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Of x (T * batch, tokens, width) some texts after the other, (T, some, tokens, width)."""
        return torch.cat([function(some) for some in x.unflatten(0, (self.send.parts, -1)).split(TEXTS, dim=1)], dim=1)

    def _mean(self, x: Tensor) -> Tensor:
        return x.unflatten(0, (self.send.parts, -1)).mean(0)

    def _of_tokens(self, x: Tensor) -> Tensor:
        return x[self.mask.bool()]


class _Sending:
    """What neurons send: the spikes of all time steps, one after the other in the batch, or rates of windows."""

    def __init__(self, config: SpikeBertConfig) -> None:
        self.time_steps, self.windows = config.time_steps, config.schedule == "phased"
        self.parts = 1 if self.windows else config.time_steps

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        """current, and what is returned: (parts * batch, …)"""
        if self.windows:
            return neurons.rate(current, self.time_steps)
        return unrolled_spikes(neurons.drive(current).unflatten(0, (self.parts, -1)), neurons.dynamics).flatten(0, 1)

    def rates(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        """Of a constant current (tokens, width)."""
        return self(neurons, current.repeat(self.parts, 1)).unflatten(0, (self.parts, -1)).mean(0)

    def choose(self, neurons: NeuronLayer, x: Tensor, wanted: Tensor) -> tuple[float, float]:
        """(gain, offset) such that the rates of gain * x + offset tell most of what is wanted, both (tokens, width)."""
        offsets = (0.0,) if neurons.dynamics.low < 0 else (0.0, 0.25, 0.5, 0.75, 1.0)
        x, wanted = _some(x), _some(wanted)
        tried = [(gain, offset) for gain in GAINS for offset in offsets]
        return max(tried, key=lambda pair: _alike(self.rates(neurons, pair[0] * x + pair[1]), wanted))


def _some(x: Tensor) -> Tensor:
    """About 1,024 of many tokens."""
    return x[:: max(1, len(x) // 1024)]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of (tokens, width)."""
    return x.mean(0), x.std(0).clamp(min=1e-6)


def _alike(x: Tensor, y: Tensor) -> float:
    """The correlation over tokens and channels."""
    return float(F.cosine_similarity((x - x.mean(0)).flatten(), y.flatten(), dim=0))


def _apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).square().mean())


def least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """weight (out, in), bias (out,) of the linear map from x (samples, in) to y (samples, out), with a ridge."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    gram = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    across = x.new_zeros(x.shape[1], y.shape[1], dtype=torch.float64)
    for some, wanted in zip(x.split(ROWS), y.split(ROWS), strict=True):
        centred = (some - x_mean).double()
        gram += centred.T @ centred
        across += centred.T @ (wanted - y_mean).double()
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + 1e-9)
    weight = torch.linalg.solve(gram, across).T.to(y.dtype)
    return weight, y_mean - weight @ x_mean
