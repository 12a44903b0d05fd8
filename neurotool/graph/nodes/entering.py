"""Where values enter a graph."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    TOKENS,
    Context,
    Node,
    Shape,
    check_array,
    check_choice,
    check_whole,
    register,
)

Ids = Literal["input_ids", "token_type_ids", "position_ids"]


@register
@dataclass(frozen=True, eq=False)
class Input(Node):
    """y = the caller's values: a constant current (tokens, width), or one value per time step (T, tokens, width).

    width: of the activation of a token; or, for a network without tokens, a whole shape: (width,), (channels, height,
    width) or any other.
    spiking: the values are spikes, 0 and ±1, and synapses reading them count events; None where only what enters
    tells (neurotool/inputs.py), and until then they are currents. In the phased schedule the spikes of the T steps are
    handed on as their mean, like those of a neuron layer.
    """

    width: int | tuple[int, ...]
    spiking: bool | None = False
    ports: ClassVar[tuple[str, ...]] = ()

    @property
    def sends_spikes(self) -> bool:
        return bool(self.spiking)

    def check(self) -> None:
        if not isinstance(self.width, tuple):
            check_whole(self, "width", 1)
        elif not self.width or any(type(size) is not int or size < 1 for size in self.width):
            raise GraphError(f"width is {self.width!r}: a shape is made of whole numbers of at least 1")
        check_choice(self, "spiking", (False, True, None))

    def shape(self, *inputs: Shape) -> Shape:
        return self.width if isinstance(self.width, tuple) else (TOKENS, self.width)


@register
@dataclass(frozen=True, eq=False)
class Embedding(Node):
    """y_i = weight[ids_i]; weight (rows, width). `ids` names the integers: input_ids, token_type_ids (0 where the
    caller gives none), or position_ids, which are 0 … tokens - 1."""

    weight: np.ndarray
    ids: Ids = "input_ids"
    ports: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        check_array(self, "weight", 2)
        check_choice(self, "ids", get_args(Ids))

    def shape(self, *inputs: Shape) -> Shape:
        return TOKENS, self.weight.shape[1]

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return self.weight[context.ids[self.ids]]
