"""The primitives of a layer graph: one frozen dataclass each, its equation in the docstring.

Shapes are per input, without a batch axis. `tokens` is the number of tokens of the input at hand; activations are
(tokens, width), attention matrices (heads, tokens, tokens). Parameters are shared by all tokens.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from neurotool.errors import GraphError

TOKENS = "tokens"
Shape = tuple[int | str, ...]
Ids = Literal["input_ids", "token_type_ids", "position_ids"]
Spikes = Literal["binary", "ternary", "several"]
Reset = Literal["soft", "hard", "none", "soft-late", "hard-late", "soft-once"]
Pooling = Literal["mean", "first"]


@dataclass(frozen=True, eq=False)
class Node:
    """Nodes are equal when type and all parameters are, arrays in shape, type and values."""

    ports: ClassVar[tuple[str, ...]] = ("x",)

    def check(self) -> None:
        """Raises GraphError for a parameter of the wrong type, shape or range."""

    def shape(self, *inputs: Shape) -> Shape:
        """Shape of the output for the shapes at the ports. Raises GraphError, naming the port."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and all(
            same_value(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)
        )


@dataclass(frozen=True, eq=False)
class Input(Node):
    """y = the caller's values: a constant current (tokens, width), or one value per time step (T, tokens, width).

    spiking: the values are spikes, 0 and ±1, and synapses reading them count events. In the phased schedule the spikes
    of the T steps are handed on as their mean, like those of a neuron layer.
    """

    width: int
    spiking: bool = False
    ports: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        _whole(self, "width", 1)
        _choice(self, "spiking", (False, True))

    def shape(self, *inputs: Shape) -> Shape:
        return TOKENS, self.width


@dataclass(frozen=True, eq=False)
class Embedding(Node):
    """y_i = weight[ids_i]; weight (rows, width). `ids` names the integers: input_ids, token_type_ids (0 where the
    caller gives none), or position_ids, which are 0 … tokens - 1."""

    weight: np.ndarray
    ids: Ids = "input_ids"
    ports: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        _array(self, "weight", 2)
        _choice(self, "ids", get_args(Ids))

    def shape(self, *inputs: Shape) -> Shape:
        return TOKENS, self.weight.shape[1]


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """y_i = weight x_i + bias; weight (out, in), bias (out,) or none."""

    weight: np.ndarray
    bias: np.ndarray | None = None

    def check(self) -> None:
        _array(self, "weight", 2)
        _vector(self, "bias", self.weight.shape[0])

    @property
    def in_width(self) -> int:
        return self.weight.shape[1]

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (TOKENS, self.in_width), f"weight is {self.weight.shape}")
        return TOKENS, self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class Conv1d(Node):
    """y_i = sum_k weight[:, :, k] x_(i + k - before) + bias over tokens; weight (out, in, kernel).

    before = (kernel - 1) // 2: an even kernel reads one token more after its own than before it. Tokens outside the
    input and padding tokens read as 0, so there are as many tokens out as in.
    """

    weight: np.ndarray
    bias: np.ndarray | None = None

    def check(self) -> None:
        _array(self, "weight", 3)
        _vector(self, "bias", self.weight.shape[0])

    @property
    def in_width(self) -> int:
        return self.weight.shape[1]

    @property
    def before(self) -> int:
        """Tokens before its own that an output reads."""
        return (self.weight.shape[2] - 1) // 2

    @property
    def after(self) -> int:
        """Tokens after its own that an output reads."""
        return self.weight.shape[2] // 2

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (TOKENS, self.in_width), f"weight is {self.weight.shape}")
        return TOKENS, self.weight.shape[0]


@dataclass(frozen=True, eq=False)
class Neuron(Node):
    """Integrate-and-fire, IF where leak is 1, else LIF: u <- leak u + (x + bias) / v_threshold; s = fire(u); reset.

    binary:  fire(u) = 1 if u >= 1
    ternary: fire(u) = 1 if u >= 1/2, -1 if u < -1/2
    several: fire(u) = floor(u) if u >= 1: as many spikes in one step as there are thresholds in u
    soft reset: u <- u - s; hard reset: u <- v_reset / v_threshold where it fired; none: u stays.

    Three more, as other tools have them. soft-late: u <- leak u + (x + bias) / v_threshold - s, with the s of the step
    before, which so escapes the leak. hard-late: u is 0 in the step after a spike. soft-once: as soft, but a neuron
    that its reset left at its threshold or above fires next at twice the threshold.

    The potential u is in units of the threshold, starts at v_init and never falls below v_min / v_threshold. Each is
    one number, or one per neuron (width,): v_threshold, leak, bias, v_reset, v_min, v_init. Leak 0 is a memoryless
    threshold. In a phased window of an IF layer with soft reset the charge after t steps is the product
    t * x / v_threshold and not a running sum, so that the count is clip(floor(v_init + T x / v_threshold), 0, T), for
    ternary spikes clip(floor(… + 1/2), -T, T).
    """

    v_threshold: float | np.ndarray = 1.0
    leak: float | np.ndarray = 1.0
    reset: Reset = "soft"
    spikes: Spikes = "binary"
    v_init: float | np.ndarray = 0.0
    bias: float | np.ndarray = 0.0
    v_reset: float | np.ndarray = 0.0
    v_min: float | np.ndarray | None = None

    def check(self) -> None:
        _numbers(self, "v_threshold", "above 0", lambda v: v > 0)
        _numbers(self, "leak", "in [0, 1]", lambda v: (v >= 0) & (v <= 1))
        _choice(self, "reset", get_args(Reset))
        _choice(self, "spikes", get_args(Spikes))
        for name in ("v_init", "bias", "v_reset"):
            _numbers(self, name, "a finite number", np.isfinite)
        if self.v_min is not None:
            _numbers(self, "v_min", "0 or below", lambda v: v <= 0)
        if np.any(self.v_reset) and self.reset != "hard":
            raise GraphError(f"v_reset is {np.max(np.abs(self.v_reset))}: with {self.reset} reset it must be 0")
        if self.spikes != "binary" and self.reset not in ("soft", "hard", "none"):
            raise GraphError(f"reset is {self.reset}: that is for binary spikes, and these are {self.spikes}")

    @property
    def firing_point(self) -> float:
        """The potential at and above which a positive spike is sent."""
        return 0.5 if self.spikes == "ternary" else 1.0

    @property
    def more_than_plain(self) -> str:
        """What it has, in words, that has no form in fixed point, in Lava's stock layers or closed; empty for none."""
        if self.reset not in ("soft", "hard"):
            return f"reset {self.reset}"
        if self.spikes == "several":
            return "several spikes in a step"
        given = {"a bias": np.any(self.bias), "a v_reset": np.any(self.v_reset), "a v_min": self.v_min is not None}
        return next((what for what, has in given.items() if has), "")

    @property
    def has_closed_form(self) -> bool:
        lowest = 0.0 if self.spikes == "binary" else -self.firing_point
        starts_inside = np.all((np.asarray(self.v_init) >= lowest) & (np.asarray(self.v_init) < self.firing_point))
        if_soft = bool(np.all(np.asarray(self.leak) == 1)) and self.reset == "soft"
        return if_soft and bool(starts_inside) and not self.more_than_plain

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (TOKENS, None), "neurons belong to tokens")
        for name in ("v_threshold", "leak", "v_init", "bias", "v_reset", "v_min"):
            size = np.shape(getattr(self, name))
            if size not in ((), inputs[0][1:]):
                raise GraphError(f"port x has shape {_text(inputs[0])}, but {name} is {size}: one per neuron, or one")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class MatMul(Node):
    """y_h = a_h b_h, or a_h b_h^T with transpose_b, for every head h.

    An operand (tokens, width) is split into heads: (heads, tokens, width / heads). The result of a_h b_h^T is
    (heads, tokens, tokens) and read as it is; that of a (heads, tokens, tokens) with b (tokens, width) is merged
    back to (tokens, width). Where the sum runs over tokens, padding tokens count as 0.
    """

    heads: int = 1
    transpose_b: bool = False
    ports: ClassVar[tuple[str, ...]] = ("a", "b")

    def check(self) -> None:
        _whole(self, "heads", 1)
        _choice(self, "transpose_b", (False, True))

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        _expect("b", b, (TOKENS, None), "it is split into heads")
        width = b[1]
        if not isinstance(width, int) or width % self.heads:
            raise GraphError(f"port b has width {width}, which {self.heads} heads do not divide")
        if self.transpose_b:
            _expect("a", a, b, f"port b has shape {_text(b)}")
            return self.heads, TOKENS, TOKENS
        _expect("a", a, (self.heads, TOKENS, TOKENS), "without transpose_b it is an attention matrix")
        return b


@dataclass(frozen=True, eq=False)
class Softmax(Node):
    """y_hij = exp(x_hij) / sum_k exp(x_hik), k over tokens that are not padding; y_hij = 0 where token j is."""

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (None, TOKENS, TOKENS), "it normalises attention matrices")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class LayerNorm(Node):
    """y_i = (x_i - mean(x_i)) / sqrt(var(x_i) + epsilon) * weight + bias; weight, bias (width,); biased variance."""

    weight: np.ndarray
    bias: np.ndarray
    epsilon: float = 1e-12

    def check(self) -> None:
        _array(self, "weight", 1)
        _array(self, "bias", 1)
        _vector(self, "bias", self.weight.shape[0])
        _numbers(self, "epsilon", "one number >= 0", lambda v: (v >= 0) & (np.ndim(v) == 0))

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (TOKENS, *self.weight.shape), f"weight is {self.weight.shape}")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Gelu(Node):
    """y = x (1 + erf(x / sqrt 2)) / 2, the exact form."""

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (TOKENS, None), "it acts on activations")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class Add(Node):
    """y = a + b, of one shape."""

    ports: ClassVar[tuple[str, ...]] = ("a", "b")

    def shape(self, *inputs: Shape) -> Shape:
        a, b = inputs
        if TOKENS not in a:
            raise GraphError(f"port a has shape {_text(a)}: only a Readout reads what a MeanPool gives")
        _expect("b", b, a, f"port a has shape {_text(a)}")
        return a


@dataclass(frozen=True, eq=False)
class Concat(Node):
    """y_i = [x0_i; x1_i; …], one after the other: wiring, which computes nothing. Spikes stay spikes."""

    parts: int = 2

    def check(self) -> None:
        _whole(self, "parts", 1)

    @property
    def ports(self) -> tuple[str, ...]:  # type: ignore[override]
        return tuple(f"x{i}" for i in range(self.parts))

    def shape(self, *inputs: Shape) -> Shape:
        for port, shape in zip(self.ports, inputs, strict=True):
            _expect(port, shape, (TOKENS, None), "it joins activations")
        return TOKENS, sum(int(width) for _, width in inputs)


@dataclass(frozen=True, eq=False)
class Scale(Node):
    """y = factor x; factor is one number, or one per element of the last axis (width,)."""

    factor: float | np.ndarray

    def check(self) -> None:
        _numbers(self, "factor", "a finite number", np.isfinite)

    def shape(self, *inputs: Shape) -> Shape:
        if TOKENS not in inputs[0]:
            raise GraphError(f"port x has shape {_text(inputs[0])}: only a Readout reads what a MeanPool gives")
        if np.shape(self.factor) not in ((), inputs[0][-1:]):
            raise GraphError(f"port x has shape {_text(inputs[0])}, but factor is {np.shape(self.factor)}")
        return inputs[0]


@dataclass(frozen=True, eq=False)
class MeanPool(Node):
    """mean: y = mean of x_i over tokens that are not padding; first: y = x_0, the [CLS] token's. y is (width,).

    Runs once, after the last time step, on the average over the steps of what it reads: the average spiking rate
    where that is a Neuron, weighted by leak^(T-t), else the plain mean.
    """

    pooling: Pooling = "mean"

    def check(self) -> None:
        _choice(self, "pooling", get_args(Pooling))

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], (TOKENS, None), "it pools tokens")
        return inputs[0][1:]


@dataclass(frozen=True, eq=False)
class Readout(Node):
    """logits = weight x + bias; weight (labels, width), bias (labels,) or none. Reads a MeanPool, once per input."""

    weight: np.ndarray
    bias: np.ndarray | None = None

    def check(self) -> None:
        _array(self, "weight", 2)
        _vector(self, "bias", self.weight.shape[0])

    def shape(self, *inputs: Shape) -> Shape:
        _expect("x", inputs[0], self.weight.shape[1:], f"weight is {self.weight.shape}")
        return self.weight.shape[:1]


NODE_TYPES: dict[str, type[Node]] = {
    kind.__name__: kind
    for kind in (
        Input, Embedding, Linear, Conv1d, Neuron, MatMul, Softmax, LayerNorm, Gelu, Add, Concat, Scale, MeanPool,
        Readout,
    )
}  # fmt: skip


def same_value(a: Any, b: Any) -> bool:
    """Equality of parameters: arrays by type, shape and content, others by type and value."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _text(shape: tuple[Any, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


def _expect(port: str, shape: Shape, wanted: tuple[int | str | None, ...], why: str) -> None:
    fits = len(shape) == len(wanted) and all(w is None or s == w for s, w in zip(shape, wanted, strict=True))
    # A free axis has a fixed size: only TOKENS stands for the number of tokens.
    if not fits or any(w is None and s == TOKENS for s, w in zip(shape, wanted, strict=True)):
        raise GraphError(f"port {port} has shape {_text(shape)}, but needs {_text(wanted)}: {why}")


def _array(node: Node, name: str, dimensions: int) -> None:
    value = getattr(node, name)
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise GraphError(f"{name} is {_kind(value)}: it must be a numpy array of real numbers")
    if value.ndim != dimensions or value.size == 0:
        raise GraphError(f"{name} has shape {value.shape}: it must have {dimensions} axes, none of size 0")
    if not np.isfinite(value).all():
        raise GraphError(
            f"{name} has {np.count_nonzero(~np.isfinite(value))} of {value.size} values that are not finite"
        )


def _vector(node: Node, name: str, size: int) -> None:
    """None, or an array of the given size."""
    if getattr(node, name) is None:
        return
    _array(node, name, 1)
    if getattr(node, name).shape != (size,):
        raise GraphError(f"{name} has shape {getattr(node, name).shape}, but weight makes it ({size},)")


def _numbers(node: Node, name: str, limit: str, holds: Any) -> None:
    value = getattr(node, name)
    if isinstance(value, np.ndarray):
        _array(node, name, 1)
    elif type(value) not in (int, float) or not math.isfinite(value):
        raise GraphError(f"{name} is {value!r}: it must be a finite number or an array of them")
    if not np.all(holds(value)):
        worst = next(v for v in np.ravel(value) if not np.all(holds(v)))
        raise GraphError(f"{name} is {worst}: it must be {limit}")


def _choice(node: Node, name: str, known: tuple[Any, ...]) -> None:
    value = getattr(node, name)
    if not any(type(value) is type(k) and value == k for k in known):
        raise GraphError(f"{name} is {value!r}: choose one of {', '.join(map(str, known))}")


def _whole(node: Node, name: str, minimum: int) -> None:
    value = getattr(node, name)
    if type(value) is not int or value < minimum:
        raise GraphError(f"{name} is {value!r}: it must be a whole number of at least {minimum}")


def _kind(value: Any) -> str:
    return f"an array of {value.dtype}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
