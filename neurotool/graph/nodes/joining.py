"""Several activations become one; spikes stay spikes."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    Context,
    Node,
    Shape,
    check_whole,
    expect_activation,
    expect_shape,
    own_axes,
    register,
    text,
)


@register
@dataclass(frozen=True, eq=False)
class Add(Node):
    """y = a + b, of one shape."""

    ports: ClassVar[tuple[str, ...]] = ("a", "b")
    hands_on_spikes: ClassVar[bool] = True
    one_shape: ClassVar[bool] = True

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        expect_shape("b", b, a, f"port a has shape {text(a)}")
        return a

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return x[0] + x[1]


@register
@dataclass(frozen=True, eq=False)
class Concat(Node):
    """y_i = [x0_i; x1_i; …], one after the other: wiring, which computes nothing.

    axis: counted from the last, -1; the channels of (channels, height, width) are -3.
    """

    parts: int = 2
    axis: int = -1
    hands_on_spikes: ClassVar[bool] = True
    later: ClassVar[tuple[str, ...]] = ("axis",)

    def check(self) -> None:
        check_whole(self, "parts", 1)
        if type(self.axis) is not int or self.axis >= 0:
            raise GraphError(f"axis is {self.axis!r}: it is counted from the last one, -1, -2, …")

    @property
    def ports(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"x{i}" for i in range(self.parts))

    def shape(self, *inputs: Shape) -> Shape:
        first = inputs[0]
        if len(own_axes(first)) < -self.axis:
            raise GraphError(
                f"port x0 has shape {text(first)}, but needs one with axis {self.axis}: it joins along that"
            )
        at = len(first) + self.axis
        wanted = (*first[:at], None, *first[at + 1 :])
        for port, shape in zip(self.ports, inputs, strict=True):
            expect_activation(port, shape, "it joins activations")
            expect_shape(port, shape, wanted, "it joins activations")
        return (*first[:at], sum(int(shape[at]) for shape in inputs), *first[at + 1 :])

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return np.concatenate(x, self.axis)
