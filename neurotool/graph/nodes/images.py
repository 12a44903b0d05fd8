"""What acts on (channels, height, width): convolution, pooling, and the way back to a vector."""

import math
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import ClassVar, Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided
from scipy import sparse

from neurotool.errors import GraphError
from neurotool.graph.nodes.node import (
    Context,
    Node,
    Shape,
    check_whole,
    expect_shape,
    own_axes,
    register,
    text,
)
from neurotool.graph.nodes.synapses import Weighted

Pair = tuple[int, int]
"""Along height and width."""
_MACS_PER_ACCUMULATION, _MACS_TO_BEGIN = 7, 2**19
"""MACs of a product with all windows in the time of one accumulation event by event, and of setting out with these."""


@dataclass(frozen=True)
class Windows:
    """Places of a kernel on a plane (height, width). before, after: zeros around it."""

    kernel: Pair
    stride: Pair
    before: Pair = (0, 0)
    after: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def places(self, plane: Pair) -> Pair:
        """How many along height and width. Raises GraphError where the kernel does not fit."""
        spans = [d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True)]
        padded = [size + b + a for size, b, a in zip(plane, self.before, self.after, strict=True)]
        if any(span > size for span, size in zip(spans, padded, strict=True)):
            raise GraphError(f"its kernel spans {text(tuple(spans))}, but height and width are {text(tuple(padded))}")
        height, width = ((size - span) // s + 1 for size, span, s in zip(padded, spans, self.stride, strict=True))
        return height, width

    def of(self, x: np.ndarray) -> np.ndarray:
        """(…, height, width) -> (…, places along height, along width, kernel height, kernel width)."""
        plane = x.shape[-2:]
        shape = (*x.shape[:-2], *self.places(plane), *self.kernel)
        if any(self.before) or any(self.after):
            around = [size + b + a for size, b, a in zip(plane, self.before, self.after, strict=True)]
            inside = tuple(slice(b, b + size) for size, b in zip(plane, self.before, strict=True))
            padded = np.zeros((*x.shape[:-2], *around), x.dtype)
            padded[..., inside[0], inside[1]] = x
            x = padded
        by_stride, by_dilation = (
            [n * m for n, m in zip(x.strides[-2:], step, strict=True)] for step in (self.stride, self.dilation)
        )
        return as_strided(x, shape, (*x.strides[:-2], *by_stride, *by_dilation), writeable=False)

    def reach(self, plane: Pair) -> np.ndarray:
        """Windows that each element of a plane is in, (height, width); padding is in none of them."""
        along = (_along(*axis) for axis in self._axes(plane))
        rows, columns = (np.bincount(read[read >= 0], minlength=size) for read, size in zip(along, plane, strict=True))
        return rows[:, None] * columns

    def pairs(self, plane: Pair) -> int:
        """Elements of all windows together, the padding left out."""
        return int(self.reach(plane).sum())

    @property
    def most(self) -> int:
        """No element is in more windows."""
        along = [-(-k // s) if d == 1 else k for k, s, d in zip(self.kernel, self.stride, self.dilation, strict=True)]
        return along[0] * along[1]

    def inside(self, plane: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Row, and column, that each place of each kernel weight reads, (kernel, places); -1 in the padding."""
        rows, columns = (_along(*axis) for axis in self._axes(plane))
        return rows, columns

    def _axes(self, plane: Pair) -> list[tuple[int, int, int, int, int, int]]:
        parts = (plane, self.places(plane), self.kernel, self.stride, self.before, self.dilation)
        return [tuple(part[i] for part in parts) for i in (0, 1)]  # type: ignore[misc]


@lru_cache(maxsize=256)
def _along(size: int, places: int, kernel: int, stride: int, before: int, dilation: int) -> np.ndarray:
    """Of one axis, see Windows.inside."""
    read = np.arange(places) * stride - before + dilation * np.arange(kernel)[:, None]
    return np.where((read >= 0) & (read < size), read, -1)


@register
@dataclass(frozen=True, eq=False)
class Conv2d(Weighted):
    """y_oij = sum_ckl weight[o, c, k, l] x[c, stride i + dilation k - padding, …] + bias_o, as in torch.

    weight (out, in / groups, kernel height, kernel width); an output channel reads the channels of its group.
    padding: zeros on both sides of height and width; or "same", with stride 1: as many places as elements, and one zero
    more at the end where they cannot be even.
    """

    stride: Pair = (1, 1)
    padding: Pair | Literal["same"] = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    axes: ClassVar[int] = 4

    def check(self) -> None:
        super().check()
        _check_pair(self, "stride", 1)
        _check_pair(self, "dilation", 1)
        check_whole(self, "groups", 1)
        if self.weight.shape[0] % self.groups:
            raise GraphError(f"groups is {self.groups}: it must divide the {self.weight.shape[0]} output channels")
        if not isinstance(self.padding, str):
            _check_pair(self, "padding", 0)
        elif self.padding != "same" or self.stride != (1, 1):
            how = f"padding is {self.padding!r}, stride {self.stride}"
            raise GraphError(f'{how}: it must be a pair, or "same" at stride 1')

    @property
    def in_width(self) -> int:
        return self.weight.shape[1] * self.groups

    @property
    def ungrouped(self) -> np.ndarray:
        """The weight (out, in, …) of one group that does the same."""
        if self.groups == 1:
            return self.weight
        out, inside = (size // self.groups for size in (len(self.weight), self.in_width))
        weight = np.zeros((len(self.weight), self.in_width, *self.weight.shape[2:]), self.weight.dtype)
        for group in range(self.groups):
            of_group = slice(group * out, (group + 1) * out)
            weight[of_group, group * inside : (group + 1) * inside] = self.weight[of_group]
        return weight

    @property
    def windows(self) -> Windows:
        height, width = self.weight.shape[2:]
        before, after = self.padding, self.padding
        if isinstance(self.padding, str):
            around = [d * (k - 1) for k, d in zip((height, width), self.dilation, strict=True)]
            before, after = (around[0] // 2, around[1] // 2), (-(-around[0] // 2), -(-around[1] // 2))
        return Windows((height, width), self.stride, before, after, self.dilation)  # type: ignore[arg-type]

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (self.in_width, None, None), f"groups {self.groups}, weight {self.weight.shape}")
        _, height, width = own_axes(inputs[0])
        return (len(self.weight), *self.windows.places((height, width)))

    def shape_alone(self, has_tokens: bool) -> Shape | None:
        return None

    def per_output(self, values: np.ndarray) -> np.ndarray:
        return values.reshape(-1, 1, 1)

    def sums(self, context: Context, *x: np.ndarray) -> np.ndarray:
        """Window by window, or event by event where that is less work: the same sums in another order."""
        *_, channels, height, width = x[0].shape
        events, images = np.count_nonzero(x[0].reshape(-1) != 0), x[0].size // (channels * height * width)
        accumulations = events * self.windows.most * (len(self.weight) // self.groups)
        macs = images * math.prod(self.windows.places((height, width))) * self.weight.size
        few = accumulations * _MACS_PER_ACCUMULATION + _MACS_TO_BEGIN < macs
        return self._by_events(x[0]) if few else self._by_windows(x[0])

    def reach(self, context: Context, at_port: tuple[int, ...] = ()) -> np.ndarray | int:
        height, width = at_port[-2:]
        return len(self.weight) // self.groups * self.windows.reach((height, width))

    def _by_windows(self, x: np.ndarray) -> np.ndarray:
        lead = x.shape[:-3]
        places = self.windows.of(x)
        rows, columns = places.shape[-4:-2]
        # (…, channels, rows, columns, k, l) -> (…, groups, channels of one and k, l, places)
        by_weight = np.moveaxis(places, (-2, -1), (-4, -3)).reshape(*lead, self.groups, -1, rows * columns)
        return (self._matrix(x.dtype) @ by_weight).reshape(*lead, -1, rows, columns)

    def _by_events(self, x: np.ndarray) -> np.ndarray:
        """The windows as a sparse matrix, of which an event is in a few; in the order of the events."""
        lead, (channels, height, width) = x.shape[:-3], x.shape[-3:]
        images, plane = x.size // (channels * height * width), (height, width)
        rows, columns = self.windows.places(plane)
        inside, kernel = self.weight.shape[1], self.weight.shape[2] * self.weight.shape[3]
        (event,) = np.nonzero(x.reshape(-1) != 0)
        values = x.reshape(-1)[event]
        index = np.int32 if max(x.size, images * (rows * columns + 1)) < 2**31 else np.int64
        channel, element = np.divmod(event.astype(index), height * width)
        image, channel = np.divmod(channel, channels)
        where, weights = _windows_of(self.windows, plane)
        out, places = [], rows * columns + 1  # one more for windows that an event is not in
        for group, matrix in enumerate(self._matrix(x.dtype)):
            mine = slice(None) if self.groups == 1 else channel // inside == group
            place = where[element[mine]] + image[mine, None] * places
            weight = weights[element[mine]] + (channel[mine, None] - group * inside) * kernel
            numbers = np.repeat(values[mine], where.shape[1]), (place.reshape(-1), weight.reshape(-1))
            read = sparse.coo_array(numbers, (images * places, inside * kernel))
            out.append(read @ np.ascontiguousarray(matrix.T))
        y = np.concatenate(out, 1).reshape(images, places, -1)[:, :-1].swapaxes(1, 2)
        return np.ascontiguousarray(y).reshape(*lead, len(self.weight), rows, columns)

    def _matrix(self, dtype: np.dtype) -> np.ndarray:
        """(groups, out of one, in of one and kernel)"""
        matrix = self.weight.reshape(self.groups, len(self.weight) // self.groups, -1)
        return matrix.astype(dtype, copy=False)


@lru_cache(maxsize=64)
def _windows_of(windows: Windows, plane: Pair) -> tuple[np.ndarray, np.ndarray]:
    """For each element of a plane the windows that it is in, and which weight of the kernel reads it there, (elements,
    most windows of one); where it is in fewer, the number of windows and weight 0."""
    rows, columns = windows.inside(plane)
    down, (width, across) = rows.shape[1], columns.shape
    k, i, m, j = np.nonzero((rows >= 0)[:, :, None, None] & (columns >= 0))
    element, place, weight = rows[k, i] * plane[1] + columns[m, j], i * across + j, k * width + m
    order = np.argsort(element, kind="stable")
    counts = np.bincount(element, minlength=plane[0] * plane[1])
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    places, weights = np.full((2, len(counts), counts.max()), [[[down * across]], [[0]]], np.int32)
    places[element[order], rank], weights[element[order], rank] = place[order], weight[order]
    return places, weights


@register
@dataclass(frozen=True, eq=False)
class SumPool2d(Node):
    """y_cij = sum of x_c over the window at stride i - padding, stride j - padding. Spikes stay spikes."""

    kernel: Pair = (2, 2)
    stride: Pair = (2, 2)
    padding: Pair = (0, 0)
    hands_on_spikes: ClassVar[bool] = True

    def check(self) -> None:
        _check_pair(self, "kernel", 1)
        _check_pair(self, "stride", 1)
        _check_pair(self, "padding", 0)

    @property
    def windows(self) -> Windows:
        return Windows(self.kernel, self.stride, self.padding, self.padding)

    @property
    def size(self) -> int:
        """Elements of a window."""
        return self.kernel[0] * self.kernel[1]

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (None, None, None), "it pools height and width")
        channels, height, width = own_axes(inputs[0])
        return (channels, *self.windows.places((height, width)))

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        windows = self.windows.of(x[0])
        return reduce(np.add, (windows[..., i, j] for i, j in np.ndindex(self.kernel)))


@register
@dataclass(frozen=True, eq=False)
class AvgPool2d(SumPool2d):
    """y_cij = mean of x_c over the window, zeros of the padding included, as torch's and NIR's. A spike stays a spike,
    which counts 1 / (kernel height x width)."""

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return self.sent(context, *x) / self.size

    def sent(self, context: Context, *sent: np.ndarray) -> np.ndarray:
        return super().compute(context, *sent)


@register
@dataclass(frozen=True, eq=False)
class Flatten(Node):
    """(…) -> (width,), the last axis fastest; axes: how many of them become one."""

    axes: int = 3
    hands_on_spikes: ClassVar[bool] = True

    def check(self) -> None:
        check_whole(self, "axes", 1)

    def shape(self, *inputs: Shape) -> Shape:
        expect_shape("x", inputs[0], (None,) * self.axes, f"it makes one of {self.axes} axes")
        return (int(np.prod(own_axes(inputs[0]))),)

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        return x[0].reshape(*x[0].shape[: -self.axes], -1)


def _check_pair(node: Node, name: str, minimum: int) -> None:
    value = getattr(node, name)
    if not isinstance(value, tuple) or len(value) != 2 or any(type(v) is not int or v < minimum for v in value):
        raise GraphError(f"{name} is {value!r}: it must be two whole numbers of at least {minimum}")
