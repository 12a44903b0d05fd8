"""Nodes that multiply what they read, by weights or by one another. Spikes at their ports are events."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    TOKENS,
    Context,
    Node,
    Shape,
    check_array,
    check_choice,
    check_vector,
    check_whole,
    expect_shape,
    register,
    text,
)


class Synapse(Node):
    """Linear, but for a bias, in what each port reads: the sum of what it makes of each step's spikes is what it makes
    of the sum."""

    def sums(self, context: Context, *x: np.ndarray) -> np.ndarray:
        """Products, added up, without bias; of the type of x, in which whole numbers stay exact within its mantissa."""
        raise NotImplementedError

    def largest_sum(self, *x: np.ndarray) -> int:
        """What no |partial sum| of `sums` exceeds, for whole numbers."""
        raise NotImplementedError

    def reach(self, context: Context, at_port: tuple[int, ...] = ()) -> np.ndarray | int:
        """Accumulations that one spike at a port causes, padding left out; broadcasts with (…, tokens, width), or with
        `at_port`, the size of what is there.

        Every weight counts, zero or not.
        """
        raise NotImplementedError

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return self.sums(context, *x)


@dataclass(frozen=True, eq=False)
class Weighted(Synapse):
    """A weight (out, in, …) and a bias (out,), or none."""

    weight: np.ndarray
    bias: np.ndarray | None = None
    axes: ClassVar[int] = 2
    """Of the weight."""

    def check(self) -> None:
        check_array(self, "weight", self.axes)
        check_vector(self, "bias", self.weight.shape[0])

    @property
    def in_width(self) -> int:
        return self.weight.shape[1]

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (TOKENS, self.in_width), f"weight is {self.weight.shape}")
        return TOKENS, self.weight.shape[0]

    def per_output(self, values: np.ndarray) -> np.ndarray:
        """One number for each row of the weight, as they stand beside an output."""
        return values

    def shape_alone(self, has_tokens: bool) -> Shape | None:
        return (TOKENS, len(self.weight)) if has_tokens else (len(self.weight),)

    def sums(self, context: Context, *x: np.ndarray) -> np.ndarray:
        rows = x[0].reshape(-1, x[0].shape[-1])  # one product: numpy makes one of each matrix in a stack
        y = rows @ self.weight.T.astype(rows.dtype, copy=False)
        return y.reshape(*x[0].shape[:-1], len(self.weight))

    def largest_sum(self, *x: np.ndarray) -> int:
        return self.weight[0].size * largest(self.weight) * largest(x[0])

    def reach(self, context: Context, at_port: tuple[int, ...] = ()) -> np.ndarray | int:
        return len(self.weight)

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        sums = self.sums(context, *x)
        return sums if self.bias is None or not self.bias.any() else sums + self.per_output(self.bias)


@register
@dataclass(frozen=True, eq=False)
class Linear(Weighted):
    """y_i = weight x_i + bias; weight (out, in), bias (out,) or none. It acts on the last axis, alike along others."""

    def shape(self, *inputs: Shape) -> Shape:
        if TOKENS in inputs[0]:
            return super().shape(*inputs)
        before = inputs[0][:-1]
        expect_shape("x", inputs[0], (*before, self.in_width), f"weight is {self.weight.shape}")
        return (*before, self.weight.shape[0])


@register
@dataclass(frozen=True, eq=False)
class Conv1d(Weighted):
    """y_i = sum_k weight[:, :, k] x_(i + k - before) + bias over tokens; weight (out, in, kernel).

    before = (kernel - 1) // 2: an even kernel reads one token more after its own than before it. Tokens outside the
    input and padding tokens read as 0, so there are as many tokens out as in.
    """

    axes: ClassVar[int] = 3

    @property
    def before(self) -> int:
        """Tokens before its own that an output reads."""
        return (self.weight.shape[2] - 1) // 2

    @property
    def after(self) -> int:
        """Tokens after its own that an output reads."""
        return self.weight.shape[2] // 2

    def sums(self, context: Context, *x: np.ndarray) -> np.ndarray:
        weight = self.weight.astype(x[0].dtype, copy=False)
        padded = _padded(x[0] * context.real[..., None], self.before, self.after)
        windows = [padded[..., k : k + context.tokens, :] for k in range(weight.shape[2])]
        return np.concatenate(windows, -1) @ np.concatenate(np.moveaxis(weight, 2, 0), 1).T

    def reach(self, context: Context, at_port: tuple[int, ...] = ()) -> np.ndarray | int:
        """Token j is read by the outputs j - after … j + before."""
        reading = _padded(context.real[..., None].astype(np.int64), self.after, self.before)
        windows = [reading[..., k : k + context.tokens, :] for k in range(self.weight.shape[2])]
        return len(self.weight) * np.sum(windows, axis=0)


@register
@dataclass(frozen=True, eq=False)
class MatMul(Synapse):
    """y_h = a_h b_h, or a_h b_h^T with transpose_b, for every head h.

    An operand (tokens, width) is split into heads: (heads, tokens, width / heads). The result of a_h b_h^T is
    (heads, tokens, tokens) and read as it is; that of a (heads, tokens, tokens) with b (tokens, width) is merged
    back to (tokens, width). Where the sum runs over tokens, padding tokens count as 0.
    """

    heads: int = 1
    transpose_b: bool = False
    ports: ClassVar[tuple[str, ...]] = ("a", "b")

    def check(self) -> None:
        check_whole(self, "heads", 1)
        check_choice(self, "transpose_b", (False, True))

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        expect_shape("b", b, (TOKENS, None), "it is split into heads")
        width = b[1]
        if not isinstance(width, int) or width % self.heads:
            raise GraphError(f"port b has width {width}, which {self.heads} heads do not divide")
        if self.transpose_b:
            expect_shape("a", a, b, f"port b has shape {text(b)}")
            return self.heads, TOKENS, TOKENS
        expect_shape("a", a, (self.heads, TOKENS, TOKENS), "without transpose_b it is an attention matrix")
        return b

    def sums(self, context: Context, *x: np.ndarray) -> np.ndarray:
        a, b = x[0], _split(x[1], self.heads)
        if self.transpose_b:
            return _split(a, self.heads) @ b.swapaxes(-1, -2)
        context_of_heads = ((a * context.real[..., None, None, :]) @ b).swapaxes(-2, -3)
        return context_of_heads.reshape(*context_of_heads.shape[:-2], -1)

    def largest_sum(self, *x: np.ndarray) -> int:
        a, b = x
        terms = b.shape[-1] // self.heads if self.transpose_b else b.shape[-2]
        return terms * largest(a) * largest(b)

    def reach(self, context: Context, at_port: tuple[int, ...] = ()) -> np.ndarray | int:
        """Key j is added to the scores of all queries i, value j to the context of all queries i."""
        return context.real.sum(-1)[..., None, None]


def largest(x: np.ndarray) -> int:
    """Largest |value| of whole numbers."""
    return int(max(x.max(), -x.min())) if x.size else 0


def _padded(x: np.ndarray, before: int, after: int) -> np.ndarray:
    """With zeros for tokens around those of (…, tokens, width)."""
    return np.pad(x, [(0, 0)] * (x.ndim - 2) + [(before, after), (0, 0)])


def _split(x: np.ndarray, heads: int) -> np.ndarray:
    """(…, tokens, width) -> (…, heads, tokens, width / heads)."""
    return x.reshape(*x.shape[:-1], heads, -1).swapaxes(-2, -3)
