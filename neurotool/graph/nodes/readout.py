"""What acts at the end, on averages over the run."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from neurotool.graph.nodes.node import TOKENS, Context, Node, Shape, check_choice, expect_shape, register
from neurotool.graph.nodes.synapses import Weighted

Pooling = Literal["mean", "first"]


@register
@dataclass(frozen=True, eq=False)
class MeanPool(Node):
    """mean: y = mean of x_i over tokens that are not padding; first: y = x_0, the [CLS] token's. y is (width,).

    Runs once, after the last time step, on the average over the steps of what it reads: the average spiking rate
    where that is a Neuron, weighted by leak^(T-t), else the plain mean.
    """

    pooling: Pooling = "mean"
    at_end: ClassVar[bool] = True

    def check(self) -> None:
        check_choice(self, "pooling", get_args(Pooling))

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (TOKENS, None), "it pools tokens")
        return inputs[0][1:]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        if self.pooling == "first":
            return x[0][..., 0, :]
        return (x[0] * context.real[..., None]).sum(-2) / context.real.sum(-1)[..., None]


@register
@dataclass(frozen=True, eq=False)
class Readout(Weighted):
    """logits = weight x + bias; weight (labels, width), bias (labels,) or none.

    Once per input, on what a MeanPool gives or, without tokens, on the average over the run of a layer (width,).
    """

    at_end: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], self.weight.shape[1:], f"weight is {self.weight.shape}")
        return self.weight.shape[:1]
