"""What every node of a layer graph has: ports, checks, shape, what it computes, and the few facts that all ask for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

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
    """Spikes at all ports are spikes behind it, too: it computes their numbers from theirs."""

    @property
    def sends_spikes(self) -> bool:
        return False

    def check(self) -> None:
        """Raises GraphError for a parameter of the wrong type, shape or range."""

    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the output for the shapes at the ports. Raises GraphError, naming the port."""
        raise NotImplementedError

    def compute(self, context: Context, *x: np.ndarray) -> np.ndarray:
        """The output for what is at the ports, exactly as the equation says, with any leading batch axes.

        Of an Input and of nodes with a state executors know more: when what enters, and how often they step.
        """
        raise NotImplementedError

    def feedback_shape(self, port: str) -> Shape | None:
        """What `port` asks for before its source is known; None where nothing may be fed back into it."""
        return None

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            same_value(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


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


def check_array(node: Node, name: str, dimensions: int) -> None:
    value = getattr(node, name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise GraphError(f"{name} is {_kind(value)}: it must be a numpy array of real numbers")
    if value.ndim != dimensions or value.size == 0:
        raise GraphError(f"{name} has shape {value.shape}: it must have {dimensions} axes, none of size 0")
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
        check_array(node, name, 1)
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
