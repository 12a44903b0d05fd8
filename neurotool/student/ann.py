"""The rival without spikes: SpikingBERT's network in which every neuron hands its current on as it is. That is BERT's
encoder with the readout of the other students; distilled in the same way it shows what spikes cost in accuracy."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.graph import Graph, GraphBuilder
from neurotool.student.building import add_embeddings, finished
from neurotool.student.configuration import AnnConfig
from neurotool.student.emission import Emission
from neurotool.student.encoder import Attention, EncoderLayer
from neurotool.student.student import Student, StudentOutput


class AnnLayer(EncoderLayer):
    def forward(self, x: Tensor, mask: Tensor, with_attention: bool = False) -> tuple[Tensor, list[Attention]]:
        """mask: as EncoderLayer's. What the layer hands on, and on request what its attention reads."""
        read: list[Attention] = []
        return self.run(x, mask, lambda place, current: current, read if with_attention else None), read


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
        hidden, key_mask = [current], mask.bool()[:, None, None, :]
        run: Callable[..., Any] = self.fused or AnnLayer.__call__
        for layer in self.layers:
            x, of_layer = run(layer, hidden[-1], key_mask, read is not None)
            hidden.append(x)
            if read is not None:
                read += of_layer
        if output.rates is not None:
            output.hidden = tuple(hidden)
        return hidden[-1]

    @property
    def can_fuse(self) -> bool:
        return True

    def fuse(self) -> None:
        self.fused = torch.compile(AnnLayer.forward, dynamic=True)

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
