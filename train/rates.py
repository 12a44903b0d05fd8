"""Which learning rate and weight decay every parameter has."""

import re
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from torch import nn

from neurotool.student import Student

_PART = re.compile(r"student\.(?:(?P<embedding>embedding)|(?:layers|blocks)\.(?P<layer>\d+)\.)")


def parameter_groups(
    distiller: nn.Module, student: Student, decayed: Collection[str], rate: float, weight_decay: float, decay: float
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: `rate` times decay^d, d being 0 for the head and what else is above the
    layers, 1 for the last layer, and one more for each below it, the embedding being the lowest (BEiT,
    arXiv 2106.08254). The head's come first.

    distiller: holds the student as `student`. decayed: names of parameters with weight decay.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    layers = student.config.num_hidden_layers
    for name, parameter in distiller.named_parameters():
        if parameter.requires_grad:
            groups[_depth(name, layers) if decay != 1 else 0, name not in decayed].append(parameter)
    return [
        {"params": groups[depth, plain], "lr": rate * decay**depth, "weight_decay": 0.0 if plain else weight_decay}
        for depth, plain in sorted(groups)
    ]


def _depth(name: str, layers: int) -> int:
    part = _PART.match(name)
    if part is None:
        return 0
    return layers + 1 if part["embedding"] else layers - int(part["layer"])
