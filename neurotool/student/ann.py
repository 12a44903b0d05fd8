"""The rival without spikes: SpikingBERT's network in which every neuron hands its current on as it is. That is BERT's
encoder with the readout of the other students; distilled in the same way it shows what spikes cost in accuracy."""

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.graph import Graph, GraphBuilder
from neurotool.student.building import add_embeddings, finished
from neurotool.student.configuration import AnnConfig
from neurotool.student.emission import Emission
from neurotool.student.encoder import Attention, EncoderLayer
from neurotool.student.student import Student, StudentOutput


class AnnLayer(EncoderLayer):
    def forward(self, x: Tensor, mask: Tensor, read: list[Attention] | None = None) -> Tensor:
        return self.run(x, mask, lambda place, current: current, read)


class AnnForSequenceClassification(Student):
    """Has no neuron layers, so no rates and no spikes to count."""

    config_class = AnnConfig
    base_model_prefix = "ann"
    _supports_sdpa = True
    config: AnnConfig

    def __init__(self, config: AnnConfig) -> None:
        config.check()
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.layers = nn.ModuleList(AnnLayer(config) for _ in range(config.num_hidden_layers))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _run(
        self, current: Tensor, mask: Tensor, time_steps: int, output: StudentOutput, read: list[Attention] | None
    ) -> Tensor:
        hidden = [current]
        for layer in self.layers:
            hidden.append(layer(hidden[-1], mask.bool()[:, None, None, :], read))
        if output.rates is not None:
            output.hidden = tuple(hidden)
        return hidden[-1]

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        def sweep(emit: Emission, state: Tensor | None = None) -> Tensor:
            return self._run(current, mask, 1, StudentOutput(), None)

        return sweep

    def to_graph(self) -> Graph:
        build = GraphBuilder()
        x = add_embeddings(build, self.embeddings)
        for i, layer in enumerate(self.layers):
            x = cast(EncoderLayer, layer).add_to(build, f"encoder.{i}", x)
        return finished(build, self.config, self.classifier, x)
