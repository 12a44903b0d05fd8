"""What every node of a layer graph has: ports, checks, shape, what it computes, and the few facts that all ask for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from neurotool.errors import GraphError

TOKENS = "tokens"
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Context:
    """The inputs at hand, for what depends on more than the numbers at the ports.

    real: (…, tokens), False for padding. ids: (…, tokens) integers that Embedding nodes look up, by their name.
    """

    real: np.ndarray
    ids: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return int(self.real.shape[-1])


@dataclass(frozen=True, eq=False)
class Node:
    """Nodes are equal when type and all parameters are, arrays in shape, type and values."""

    ports: ClassVar[tuple[str, ...]] = ("x",)
    at_end: ClassVar[bool] = False
    """Acts once, after the last step, on the average over the run of what it reads."""
    later: ClassVar[tuple[str, ...]] = ()
    """Parameters that came after format version 1: files leave them out where they are at their default."""
    hands_on_spikes: ClassVar[bool] = False
    """Spikes at all ports are spikes behind it, too: `sent` computes their numbers from theirs."""
    one_shape: ClassVar[bool] = False
    """All ports and the output have the same shape: one tells the others."""

    @property
    def sends_spikes(self) -> bool:
        return False

    def check(self) -> None:
        """Raises GraphError for a parameter of the wrong type, shape or range."""

    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the output for the shapes at the ports. Raises GraphError, naming the port."""
        raise NotImplementedError

    def shape_alone(self, has_tokens: bool) -> Shape | None:
        """Of the output, where what it reads depends on it; None where that says nothing."""
        return None

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        """The output for what is at the ports, exactly as the equation says, with any leading batch axes.

        Of an Input and of a `Stateful` node executors know more: when what enters, and how often they step.
        """
        raise NotImplementedError

    def sent(self, context: Context, *sent: np.ndarray) -> np.ndarray:
        """Of a node that hands on spikes: their number behind each element, from those at the ports."""
        return self.compute(context, *sent)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            same_value(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


class State(Protocol):
    """What a layer with a memory keeps from step to step. `u`: its potentials, or what else it is read by."""

    u: np.ndarray

    def step(self, drive: np.ndarray) -> np.ndarray:
        """What it gives for one step of `Stateful.drive`."""


class Stateful(Node):
    """Keeps a state from step to step; executors step it, in every step of the concurrent schedule."""

    in_windows: ClassVar[bool] = False
    """Whether the phased schedule has a window of steps for it, too."""

    def drive(self, x: np.ndarray) -> np.ndarray:
        """x in the units of the state."""
        return x

    def at_rest(self, shape: tuple[int, ...], dtype: Any = np.float64, window: bool = False) -> State:
        """Before the first step, of a layer of `shape`, which may begin with batch axes."""
        raise NotImplementedError


NODE_TYPES: dict[str, type[Node]] = {}
"""Types that graphs may hold, by the name that files give them."""

Kind = TypeVar("Kind", bound=type[Node])


def register(kind: Kind) -> Kind:
    """Decorator: graphs may hold nodes of this type, and files of graphs name it."""
    NODE_TYPES[kind.__name__] = kind
    return kind


def sizes(shape: Shape, tokens: int) -> tuple[int, ...]:
    """A shape for so many tokens."""
    return tuple(size if isinstance(size, int) else tokens for size in shape)


def is_size_of(given: tuple[int, ...], shape: Shape) -> bool:
    """Whether an array of that size has this shape, whose axes in words may have any size."""
    return len(given) == len(shape) and all(isinstance(b, str) or a == b for a, b in zip(given, shape, strict=True))


def own_axes(shape: Shape) -> tuple[int, ...]:
    """Those of one token, or all where there are no tokens."""
    return tuple(size for size in shape if isinstance(size, int))


def same_value(a: Any, b: Any) -> bool:
    """Equality of parameters: arrays by type, shape and content, others by type and value."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def text(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def expect_shape(port: str, shape: Shape, wanted: tuple[int | str | None, ...], why: str) -> None:
    fits = len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
    # A free axis has a fixed size: only TOKENS stands for the number of tokens.
    if not fits or any(w is None and s == TOKENS for s, w in zip(shape, wanted, strict=True)):
        raise GraphError(f"port {port} has shape {text(shape)}, but needs {text(wanted)}: {why}")


def expect_activation(port: str, shape: Shape, why: str) -> None:
    """(tokens, width), or sizes alone, such as (channels, height, width)."""
    if not shape or TOKENS in shape:
        expect_shape(port, shape, (TOKENS, None), why)


def expect_fitting(node: Node, names: tuple[str, ...], shape: Shape) -> None:
    """Parameters that are one number, or one for each element of an activation; or one for each channel of (channels,
    height, width), as (channels, 1, 1)."""
    own = own_axes(shape)
    for name in names:
        size = np.shape(getattr(node, name))
        if size not in ((), own) and (len(own) < 2 or size != (own[0], *[1] * (len(own) - 1))):
            raise GraphError(f"port x has shape {text(shape)}, but {name} is {size}: one per neuron, or one")


def check_array(node: Node, name: str, dimensions: int | None) -> None:
    value = getattr(node, name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise GraphError(f"{name} is {_kind(value)}: it must be a numpy array of real numbers")
    if (value.ndim != dimensions if dimensions else not value.ndim) or value.size == 0:
        many = dimensions or "one or more"
        raise GraphError(f"{name} has shape {value.shape}: it must have {many} axes, none of size 0")
    if not np.isfinite(value).all():
        raise GraphError(
            f"{name} has {np.count_nonzero(~np.isfinite(value))} of {value.size} values that are not finite"
        )


def check_vector(node: Node, name: str, size: int) -> None:
    """None, or an array of the given size."""
    if getattr(node, name) is None:
        return
    check_array(node, name, 1)
    if getattr(node, name).shape != (size,):
        raise GraphError(f"{name} has shape {getattr(node, name).shape}, but weight makes it ({size},)")


def check_numbers(node: Node, name: str, limit: str, holds: Any) -> None:
    value = getattr(node, name)
    if isinstance(value, np.ndarray):
        check_array(node, name, None)
    elif type(value) not in (int, float) or not math.isfinite(value):
        raise GraphError(f"{name} is {value!r}: it must be a finite number or an array of them")
    if not np.all(holds(value)):
        worst = next(v for v in np.ravel(value) if not np.all(holds(v)))
        raise GraphError(f"{name} is {worst}: it must be {limit}")


def check_choice(node: Node, name: str, known: tuple[Any, ...]) -> None:
    value = getattr(node, name)
    if not any(type(value) is type(k) and value == k for k in known):
        raise GraphError(f"{name} is {value!r}: choose one of {', '.join(map(str, known))}")


def check_whole(node: Node, name: str, minimum: int) -> None:
    value = getattr(node, name)
    if type(value) is not int or value < minimum:
        raise GraphError(f"{name} is {value!r}: it must be a whole number of at least {minimum}")


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
