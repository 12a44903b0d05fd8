"""Functions of one activation, token by token."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import erf

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    TOKENS,
    Context,
    Node,
    Shape,
    check_array,
    check_numbers,
    check_vector,
    expect_activation,
    expect_fitting,
    expect_shape,
    register,
    text,
)


@register
@dataclass(frozen=True, eq=False)
class Softmax(Node):
    """y_hij = exp(x_hij) / sum_k exp(x_hik), k over tokens that are not padding; y_hij = 0 where token j is."""

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (None, TOKENS, TOKENS), "it normalises attention matrices")
        return inputs[0]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        readable = np.where(context.real[..., None, None, :], x[0], -np.inf)
        e = np.exp(readable - readable.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)


@register
@dataclass(frozen=True, eq=False)
class LayerNorm(Node):
    """y_i = (x_i - mean(x_i)) / sqrt(var(x_i) + epsilon) * weight + bias; weight, bias (width,); biased variance."""

    weight: np.ndarray
    bias: np.ndarray
    epsilon: float = 1e-12

    def check(self) -> None:
        check_array(self, "weight", 1)
        check_array(self, "bias", 1)
        check_vector(self, "bias", self.weight.shape[0])
        check_numbers(self, "epsilon", "one number >= 0", lambda v: (v >= 0) & (np.ndim(v) == 0))

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (TOKENS, *self.weight.shape), f"weight is {self.weight.shape}")
        return inputs[0]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        centred = x[0] - x[0].mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + self.epsilon)
        return centred / deviation * self.weight + self.bias


@register
@dataclass(frozen=True, eq=False)
class Gelu(Node):
    """y = x (1 + erf(x / sqrt 2)) / 2, the exact form."""

    def shape(self, *inputs: Shape) -> Shape:
        expect_activation("x", inputs[0], "it acts on activations")
        return inputs[0]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return x[0] * (1 + erf(x[0] / math.sqrt(2))) / 2


@register
@dataclass(frozen=True, eq=False)
class Scale(Node):
    """y = factor x; factor is one number, or one per element of an activation: (width,) of a token, (channels, height,
    width) or, one a channel, (channels, 1, 1)."""

    factor: float | np.ndarray

    def check(self) -> None:
        check_numbers(self, "factor", "a finite number", np.isfinite)

    def shape(self, *inputs: Shape) -> Shape:
        if inputs[0].count(TOKENS) > 1 and np.ndim(self.factor):
            raise GraphError(f"port x has shape {text(inputs[0])}, but factor is {np.shape(self.factor)}")
        expect_fitting(self, ("factor",), inputs[0])
        return inputs[0]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return x[0] * self.factor
