"""Several activations become one; spikes stay spikes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import TOKENS, Context, Node, Shape, check_whole, expect_shape, register, text


@register
@dataclass(frozen=True, eq=False)
class Add(Node):
    """y = a + b, of one shape."""

    ports: ClassVar[tuple[str, ...]] = ("a", "b")
    hands_on_spikes: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if TOKENS not in a:
            raise GraphError(f"port a has shape {text(a)}: only a Readout reads what a MeanPool gives")
        expect_shape("b", b, a, f"port a has shape {text(a)}")
        return a

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return x[0] + x[1]


@register
@dataclass(frozen=True, eq=False)
class Concat(Node):
    """y_i = [x0_i; x1_i; …], one after the other: wiring, which computes nothing."""

    parts: int = 2
    hands_on_spikes: ClassVar[bool] = True

    def check(self) -> None:
        check_whole(self, "parts", 1)

    @property
    def ports(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"x{i}" for i in range(self.parts))

    def shape(self, *inputs: Shape) -> Shape:
        for port, shape in zip(self.ports, inputs, strict=True):
            expect_shape(port, shape, (TOKENS, None), "it joins activations")
        return TOKENS, sum(int(width) for _, width in inputs)

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return np.concatenate(x, -1)
