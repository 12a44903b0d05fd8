"""The shape of what each node of a NIR graph gives: from the Inputs on, checked against weights and parameters."""

from collections.abc import Callable, Iterator
from typing import Any

import nir
import numpy as np

from neurotool.errors import GraphError
from neurotool.export.nir_structure import Structure

Shape = tuple[int, ...]
PER_ELEMENT = {
    nir.Scale: ("scale",),
    nir.Threshold: ("threshold",),
    nir.Delay: ("delay",),
    nir.I: ("r",),
    nir.IF: ("r", "v_threshold", "v_reset"),
    nir.LI: ("tau", "r", "v_leak"),
    nir.LIF: ("tau", "r", "v_leak", "v_threshold", "v_reset"),
    nir.CubaLI: ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
    nir.CubaLIF: ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset", "w_in"),
}
"""Parameters that have a value for each element of what a node gives, or one for all."""


def title(name: str, node: nir.NIRNode) -> str:
    return f"node {name} ({type(node).__name__})"


class Shapes:
    """of: for every node the shape of what it gives, for one input and one time step.

    Axes in front that no parameter knows of are those of a sample (batch, time) that the file was written from: a
    sentence in `odd` says so. repair: take shapes that are missing, or contradict what arrives without changing a
    number, from the weights and from what arrives.
    Raises GraphError for a shape that is missing or does not fit.
    """

    def __init__(self, structure: Structure, order: list[str], repair: bool) -> None:
        self.structure, self.repair, self.odd = structure, repair, list[str]()
        self.of: dict[str, Shape] = {}
        for name, node in structure.nodes.items():
            for parameter, value in vars(node).items():
                if isinstance(value, np.ndarray) and not value.size and parameter != "input_shape":
                    raise GraphError(
                        f"{title(name, node)} has a {parameter} of shape {value.shape}: it holds no number"
                    )
        for _ in range(2):  # what is fed back is known in the second round
            for name in order:
                self.of[name] = self._output(name, structure.nodes[name])
        if sample := self._sample_axes():
            first = next(name for name, node in structure.nodes.items() if isinstance(node, nir.Input))
            axes = "first axis is" if sample == 1 else f"first {sample} axes are"
            self.odd.append(
                f"Input {first} has shape {self.of[first]}: its {axes} taken as that of a sample (batch, time)"
            )
            self.of = {name: shape[sample:] for name, shape in self.of.items()}
        for name, node in structure.nodes.items():
            self._check(name, node)
        self._check_outputs()

    def reads(self, name: str) -> Shape:
        return self.of[self.structure.sources[name][0]]

    def _output(self, name: str, node: Any) -> Shape:
        if isinstance(node, nir.Input):
            return self._input(name, node)
        known = [self.of[source] for source in self.structure.sources[name] if source in self.of]
        if not known:
            return self._by_weights(name, node)
        if any(shape != known[0] for shape in known):
            raise GraphError(f"{title(name, node)} sums inputs of shapes {', '.join(map(str, known))}")
        return output_shape(name, node, known[0])

    def _input(self, name: str, node: Any) -> Shape:
        shape = node.input_type.get("input")
        if shape is not None and np.size(shape):
            sizes = np.ravel(shape)
            if np.any((sizes < 1) | (np.mod(sizes, 1) != 0)):
                raise GraphError(
                    f"{title(name, node)} has shape {tuple(sizes.tolist())}: whole numbers from 1 on are wanted"
                )
            return tuple(map(int, sizes))
        way_out = "--repair takes it from the first weights" if not self.repair else "and no weights tell it"
        if self.repair:
            for reader, sources in self.structure.sources.items():
                if name in sources and (found := _wanted(self.structure.nodes[reader])):
                    return found
        raise GraphError(f"{title(name, node)} has no shape: {way_out}")

    def _by_weights(self, name: str, node: Any) -> Shape:
        """Of a node that reads only what is not known yet, because it is fed back."""
        if isinstance(node, (nir.Affine, nir.Linear)):
            return tuple(node.weight.shape[:1])
        shapes = [np.shape(getattr(node, parameter)) for parameter in PER_ELEMENT.get(type(node), ())]
        if not shapes:
            raise GraphError(f"{title(name, node)}: its shape depends on feedback alone")
        return max(shapes, key=lambda shape: (np.prod(shape), len(shape)))

    def _sample_axes(self) -> int:
        """How many axes there are in front of what parameters know."""
        planes = (nir.Conv2d, nir.SumPool2d, nir.AvgPool2d)
        for name, node in self.structure.nodes.items():
            if isinstance(node, planes):  # it acts on three axes
                return len(self.of[name]) - 3
        return min(self._axes_in_front(), default=0)

    def _axes_in_front(self) -> Iterator[int]:
        for _, declared, shape in self._declared():
            if len(declared) < len(shape) and declared == shape[len(shape) - len(declared) :]:
                yield len(shape) - len(declared)
        for name, node in self.structure.nodes.items():
            shape = self.of[name]
            if isinstance(node, nir.Conv1d):
                yield len(shape) - 2
            else:
                for parameter in PER_ELEMENT.get(type(node), ()):
                    known = np.shape(getattr(node, parameter))
                    if known and known == shape[len(shape) - len(known) :]:
                        yield len(shape) - len(known)

    def _check(self, name: str, node: Any) -> None:
        for parameter in PER_ELEMENT.get(type(node), ()):
            value, shape = np.asarray(getattr(node, parameter)), self.of[name]
            if value.size == 1 or broadcasts(value.shape, shape) or _row_by_row(value.shape, shape):
                continue
            alike = bool(np.all(value == value.flat[0]))
            if not (alike and (self.repair or value.size == np.prod(shape))):
                hint = "; all its values are alike: --repair takes one for all" if alike else ""
                raise GraphError(
                    f"{title(name, node)} reads {shape}, but its {parameter} has shape {value.shape}{hint}"
                )
        declared = node.input_shape if isinstance(node, (nir.Conv1d, nir.Conv2d)) else None
        if declared is None or isinstance(node, nir.Conv1d):
            return
        given = self.reads(name)[1:]
        if np.size(declared) and tuple(np.broadcast_to(np.ravel(declared), len(given))) != given and not self.repair:
            raise GraphError(
                f"{title(name, node)} reads {given}, but its input_shape is {np.ravel(declared).tolist()}: --repair "
                "takes what it reads"
            )

    def _check_outputs(self) -> None:
        for name, declared, shape in self._declared():
            if declared[max(len(declared) - len(shape), 0) :] != shape:
                node = self.structure.ends[name]
                self.odd.append(f"{title(name, node)} is declared {declared}, but what arrives has shape {shape}")

    def _declared(self) -> Iterator[tuple[str, Shape, Shape]]:
        """Of Outputs and the Inputs of subgraphs: name, declared shape, and that of what arrives."""
        for name, node in self.structure.ends.items():
            said = node.output_type.get("output") if isinstance(node, nir.Output) else node.input_type.get("input")
            sources = self.structure.arriving(name)
            if said is not None and np.size(said) and sources:
                yield name, tuple(int(size) for size in np.ravel(said)), self.of[sources[0]]


def broadcasts(shape: Shape, to: Shape) -> bool:
    """Axis by axis, as (channels, 1, 1) to (channels, height, width)."""
    return len(shape) == len(to) and all(a in (1, b) for a, b in zip(shape, to, strict=True))


def _row_by_row(a: Shape, b: Shape) -> bool:
    """Whether two shapes have the same elements in the same order: but for axes of size 1, or where one is flat."""
    a, b = (tuple(size for size in shape if size != 1) for shape in (a, b))
    return a == b or (np.prod(a) == np.prod(b) and 1 in (len(a), len(b)))


def _wanted(node: Any) -> Shape:
    """What a node reads, as far as its parameters tell; () where they do not."""
    if isinstance(node, (nir.Affine, nir.Linear)):
        return tuple(node.weight.shape[1:])
    if isinstance(node, nir.Conv2d) and node.input_shape is not None and np.size(node.input_shape):
        sizes = (int(size) for size in np.broadcast_to(np.ravel(node.input_shape), 2))
        return node.weight.shape[1] * int(node.groups), *sizes
    shapes = [np.shape(getattr(node, parameter)) for parameter in PER_ELEMENT.get(type(node), ())]
    return max(shapes, key=lambda shape: (np.prod(shape), len(shape)), default=())


def output_shape(name: str, node: Any, given: Shape) -> Shape:
    """Of one node that reads `given`, which may begin with the axes of a sample. Raises GraphError."""
    return next((rule for kind, rule in _RULES.items() if isinstance(node, kind)), _same)(name, node, given)


def _same(name: str, node: Any, given: Shape) -> Shape:
    return given


def _linear(name: str, node: Any, given: Shape) -> Shape:
    if node.weight.ndim != 2:
        raise GraphError(f"{title(name, node)} has weight {node.weight.shape}: only (out, in) is supported")
    if given[-1:] != node.weight.shape[1:]:
        raise GraphError(f"{title(name, node)} has weight {node.weight.shape}, but reads {given}")
    return (*given[:-1], len(node.weight))


def _conv1d(name: str, node: Any, given: Shape) -> Shape:
    if node.weight.ndim != 3:
        raise GraphError(f"{title(name, node)} has weight {node.weight.shape}: only (out, in, kernel) is supported")
    if len(given) < 2 or given[-2] != node.weight.shape[1] * int(node.groups):
        raise GraphError(f"{title(name, node)} has weight {node.weight.shape} and input {given}")
    return (*given[:-2], len(node.weight), _places(name, node, as_plane(node), (1, given[-1]))[1])


def _conv2d(name: str, node: Any, given: Shape) -> Shape:
    if node.weight.ndim != 4:
        raise GraphError(f"{title(name, node)} has weight {node.weight.shape}: only (out, in, height, width) will do")
    if len(given) < 3 or given[-3] != node.weight.shape[1] * int(node.groups):
        raise GraphError(
            f"{title(name, node)} has weight {node.weight.shape} in {node.groups} groups, but reads {given}"
        )
    return (*given[:-3], len(node.weight), *_places(name, node, node, given[-2:]))


def _pool2d(name: str, node: Any, given: Shape) -> Shape:
    if len(given) < 3:
        raise GraphError(f"{title(name, node)} reads {given}: (channels, height, width) is wanted")
    return (*given[:-2], *_places(name, node, node, given[-2:]))


def _places(name: str, node: Any, plane: Any, area: Shape) -> Shape:
    """Of a kernel along height and width; plane: the node, or what it is in two dimensions."""
    for parameter, least in (("kernel_size", 1), ("stride", 1), ("dilation", 1), ("padding", 0), ("groups", 1)):
        value = getattr(plane, parameter, least)
        if isinstance(value, str):
            continue
        if np.size(value) > 2 or np.any((np.asarray(value) < least) | (np.mod(value, 1) != 0)):
            said = np.ravel(value).tolist()
            raise GraphError(f"{title(name, node)} has {parameter} {said}: whole numbers from {least} on are wanted")
    kernel = pair(plane.kernel_size) if hasattr(plane, "kernel_size") else plane.weight.shape[2:]
    dilation = pair(getattr(plane, "dilation", 1))
    places = [
        (size + sum(around) - d * (k - 1) - 1) // s + 1
        for size, around, d, k, s in zip(area, padding2d(plane), dilation, kernel, pair(plane.stride), strict=True)
    ]
    if min(places) < 1:
        raise GraphError(f"{title(name, node)} reads {area}, which is smaller than its kernel")
    return tuple(places)


def _flatten(name: str, node: Any, given: Shape) -> Shape:
    """Counted in the axes of the shape that it declares, which may have those of a sample or not."""
    declared = node.input_type.get("input")
    axes = len(given) if declared is None or not np.size(declared) else np.size(declared)
    first, last = (int(dim) if dim >= 0 else axes + int(dim) for dim in (node.start_dim, node.end_dim))
    more = len(given) - axes
    first, last = first + more, last + more
    if not 0 <= first <= last < len(given):
        raise GraphError(f"{title(name, node)} flattens axes {node.start_dim} to {node.end_dim} of {given}")
    return (*given[:first], int(np.prod(given[first : last + 1])), *given[last + 1 :])


_RULES: dict[Any, Callable[[str, Any, Shape], Shape]] = {
    (nir.Affine, nir.Linear): _linear,
    nir.Conv1d: _conv1d,
    nir.Conv2d: _conv2d,
    (nir.SumPool2d, nir.AvgPool2d): _pool2d,
    nir.Flatten: _flatten,
}


def pair(value: Any) -> tuple[int, int]:
    """Of one number for both sides of a plane, or two."""
    first, second = np.broadcast_to(np.ravel(value), 2)
    return int(first), int(second)


def padding2d(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """Zeros before and behind, of height and width; "same" as torch has it: the odd one comes behind."""
    if not isinstance(node.padding, str):
        around = [(size, size) for size in pair(node.padding)]
    else:
        spans = [d * (k - 1) for d, k in zip(pair(node.dilation), node.weight.shape[2:], strict=True)]
        around = [(span // 2, span - span // 2) if node.padding == "same" else (0, 0) for span in spans]
    return around[0], around[1]


def as_plane(node: nir.Conv1d) -> nir.Conv2d:
    """A Conv1d on (channels, length) as the Conv2d on (channels, 1, length) that does the same."""
    padding = node.padding if isinstance(node.padding, str) else (0, *np.ravel(node.padding))
    stride, dilation = ((1, *np.ravel(value)) for value in (node.stride, node.dilation))
    return nir.Conv2d(None, node.weight[:, :, None], stride, padding, dilation, node.groups, node.bias)
