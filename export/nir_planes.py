"""Convolutions and pooling of a NIR file, written out as the Linear that does the same to flat vectors."""

from typing import Any

import numpy as np

from neurotool.errors import GraphError
from neurotool.export.nir_shapes import Shape, padding2d, pair, reach, title
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


def unrolled2d(name: str, node: Any, given: Shape, gives: Shape) -> Linear:
    """Of a Conv2d; given, gives: (channels, height, width)."""
    return _planes(name, node, ungrouped(node), node.bias, pair(node.dilation), padding2d(node), given, gives)


def pooled2d(name: str, node: Any, mean: bool, given: Shape, gives: Shape) -> Linear:
    """Of a SumPool2d, or with `mean` an AvgPool2d, whose padding counts as zeros."""
    kernel = pair(node.kernel_size)
    share = 1 / (kernel[0] * kernel[1]) if mean else 1.0
    weight = np.zeros((given[0], given[0], *kernel), np.float32)
    weight[np.arange(given[0]), np.arange(given[0])] = share
    around = [(size, size) for size in pair(node.padding)]
    return _planes(name, node, weight, None, (1, 1), (around[0], around[1]), given, gives)


def _planes(
    name: str, node: Any, weight: np.ndarray, bias: Any, dilation: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]], given: Shape, gives: Shape,
) -> Linear:  # fmt: skip
    _check(name, node, given, gives)
    dense = np.zeros((*gives, *given), weight.dtype)
    stride = pair(node.stride)
    for k in np.ndindex(*weight.shape[2:]):
        to, source = [], []
        for axis in (0, 1):
            at = np.arange(gives[axis + 1])
            read = at * stride[axis] + k[axis] * dilation[axis] - padding[axis][0]
            inside = (read >= 0) & (read < given[axis + 1])
            to.append(at[inside])
            source.append(read[inside])
        rows, columns = to[0][:, None], to[1]
        dense[:, rows, columns, :, source[0][:, None], source[1]] = weight[(..., *k)]
    return _flat(dense, gives, bias)


def _check(name: str, node: Any, given: Shape, gives: Shape) -> None:
    out, width = int(np.prod(gives)), int(np.prod(given))
    if out * width > _LARGEST:
        raise GraphError(
            f"{title(name, node)} as a Linear has {out} x {width} weights: the limit is {_LARGEST}; only networks of "
            "(channels, tokens) nodes keep a convolution as it is"
        )


def _flat(dense: np.ndarray, gives: Shape, bias: Any) -> Linear:
    out = int(np.prod(gives))
    return Linear(dense.reshape(out, -1), None if bias is None else np.repeat(np.asarray(bias), out // gives[0]))
