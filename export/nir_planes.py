"""A Conv1d of a NIR file, written out as the Linear that does the same to flat vectors."""

from typing import Any

import numpy as np

from neurotool.errors import GraphError
from neurotool.export.nir_shapes import Shape, reach, title
from neurotool.graph import Linear

_LARGEST = 2**27  # weights: 0.5 GB in float32


def ungrouped(node: Any) -> np.ndarray:
    """The weight (out, in, …) of a convolution, with zeros between groups."""
    out, per_group, *kernel = node.weight.shape
    weight = np.zeros((out, per_group * int(node.groups), *kernel), node.weight.dtype)
    for i, rows in enumerate(np.split(np.arange(out), int(node.groups))):
        weight[rows, i * per_group : (i + 1) * per_group] = node.weight[rows]
    return weight


def unrolled1d(name: str, node: Any, given: Shape, gives: Shape) -> Linear:
    """Of a Conv1d; given, gives: (channels, tokens)."""
    weight = ungrouped(node)
    _check(name, node, given, gives)
    dense = np.zeros((*gives, *given), weight.dtype)
    for o, start in enumerate(reach(node, given[1])):
        for k in range(weight.shape[2]):
            i = start + k * int(np.ravel(node.dilation)[0])
            if 0 <= i < given[1]:
                dense[:, o, :, i] = weight[:, :, k]
    return _flat(dense, gives, node.bias)


def _check(name: str, node: Any, given: Shape, gives: Shape) -> None:
    out, width = int(np.prod(gives)), int(np.prod(given))
    if out * width > _LARGEST:
        raise GraphError(
            f"{title(name, node)} as a Linear has {out} x {width} weights: the limit is {_LARGEST}; only networks of "
            "(channels, tokens) nodes keep a Conv1d as it is"
        )


def _flat(dense: np.ndarray, gives: Shape, bias: Any) -> Linear:
    out = int(np.prod(gives))
    return Linear(dense.reshape(out, -1), None if bias is None else np.repeat(np.asarray(bias), out // gives[0]))
