"""Recordings as inputs of a network: fitted to what its graph takes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from neurotool.errors import ConfigError, DataError
from neurotool.executor import Inputs
from neurotool.graph import TOKENS, Embedding, Graph, Input
from neurotool.graph.nodes import sizes
from neurotool.recordings import Content, Events, Gridded, of_node, on_grid, read_recording

TOKEN_NAMES = ("input_ids", "attention_mask", "token_type_ids")
InputKind = Literal["spikes", "currents"]
LARGEST = 1e30
"""Sums of larger values leave float32."""


@dataclass(frozen=True)
class Given:
    """What a network without text is run on.

    files: FILE, or NAME=FILE for one Input of several. kind: what the values are; None: spikes where all are 0 or 1.
    random: random spikes, where there are no files.
    """

    files: tuple[str, ...] = ()
    kind: InputKind | None = None
    random: bool = False

    def read(self) -> Content:
        """What the files hold, together. Raises DataError."""
        named = [_named(file) for file in self.files]
        if len(named) == 1 and not named[0][0]:
            return read_recording(named[0][1])
        content: dict[str, Any] = {}
        for name, path in named:
            found = read_recording(path)
            if not name and not isinstance(found, dict):
                raise DataError(f"{path}: of several files each says which Input it is for: NAME={path}")
            if name and isinstance(found, dict) and len(found) != 1:
                raise DataError(f"{name}={path}: the file holds {', '.join(found)}: leave out NAME=, or give one array")
            parts = {name: next(iter(found.values()))} if name and isinstance(found, dict) else found
            content |= parts if isinstance(parts, dict) else {name: parts}
        return content

    @property
    def source(self) -> str:
        return ", ".join(self.files)


def steps_said(content: Content, graph: Graph | None = None) -> int | None:
    """T of arrays (inputs, T, …), None where nothing says it: events, and (inputs, …) of what is constant. The latter
    are told apart by the shapes of a graph's Inputs; without it the second axis is taken for T."""
    named = content if isinstance(content, dict) else dict.fromkeys(graph.of_type(Input) if graph else "x", content)
    for name in named if graph is None else graph.of_type(Input):
        key = name if graph is None else of_node(named, name)
        found = named[key] if key else None
        x = found.values if isinstance(found, Gridded) else found
        if x is None or isinstance(x, Events) or x.ndim < 3:
            continue
        if graph is None or x.shape[1:] != _shape(graph, name):
            return int(x.shape[1])
    return None


def _named(file: str) -> tuple[str, Path]:
    """("", FILE) or (NAME, FILE)."""
    name, equals, path = file.partition("=")
    return (name, Path(path)) if equals and not Path(file).exists() else ("", Path(file))


def fitted(graph: Graph, given: Mapping[str, Any] | Any) -> Inputs:
    """A batch as executors take it, from recordings by name, or the one of a graph with one Input.

    input_ids, attention_mask, token_type_ids: (inputs, tokens) integers. Of every Input node (inputs, …), constant, or
    (inputs, T, …) for a value a step, for its shape (…): (tokens, width), or any without tokens; (width,) will do for
    one token; the axes of a shape may be flattened. Raises DataError, which names the array, its shape and the one
    that is wanted.
    """
    wanted = graph.of_type(Input)
    if not isinstance(given, Mapping):
        if len(wanted) != 1:
            raise DataError(
                f"one array is given, and the network reads {_names(graph)}: give arrays by name, in a .npz or as "
                "NAME=FILE"
            )
        given = {wanted[0]: given}
    keys = {name: of_node(given, name) for name in wanted}
    if unknown := sorted(set(given) - set(keys.values()) - set(TOKEN_NAMES)):
        raise DataError(f"{unknown[0]}: the network has no such input; it reads {_names(graph)}")
    if missing := [name for name in wanted if keys[name] is None]:
        raise DataError(f"{missing[0]} is missing, wanted is {_wanted(graph, missing[0])}; given: {', '.join(given)}")
    batch: Inputs = {name: _tokens(name, np.asarray(given[name])) for name in TOKEN_NAMES if name in given}
    if graph.of_type(Embedding) and "input_ids" not in batch:
        raise DataError(f"input_ids are missing, wanted is (inputs, tokens) of integers; given: {', '.join(given)}")
    if wanted:
        batch["values"] = {name: _values(graph, name, given[keys[name] or name]) for name in wanted}
    counts = {name: len(array) for name, array in (batch | batch.get("values", {})).items() if name != "values"}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise DataError(f"number of inputs: {found}; they must be the same, and at least 1")
    return batch


def with_kinds(graph: Graph, values: Mapping[str, np.ndarray], kind: InputKind | None) -> Graph:
    """The graph with every Input said to hold spikes or currents: as `kind` says, else as the file does, else spikes
    where all values are 0 or 1."""
    if kind not in (None, *get_args(InputKind)):
        raise ConfigError(f"input kind {kind!r}: choose one of {', '.join(get_args(InputKind))}")
    nodes = dict(graph.nodes)
    for name in graph.of_type(Input):
        node = graph.nodes[name]
        assert isinstance(node, Input)
        if kind is None and node.spiking is not None:
            continue
        x = np.asarray(values[name])
        spikes = kind == "spikes" if kind else bool(np.all((x == 0) | (x == 1)))
        if kind == "spikes" and not np.all(np.isin(x, (-1, 0, 1))):
            raise DataError(f"{name} has values such as {x[~np.isin(x, (-1, 0, 1))][0]:g}: spikes are 0 and 1 (or -1)")
        nodes[name] = replace(node, spiking=spikes)
    return replace(graph, nodes=nodes)


def time_step(graph: Graph) -> float | None:
    """Of the network, in the unit of time of the file it was read from; None where times are in steps."""
    step = graph.metadata.get("time_step")
    return None if step is None else float(step)


def _names(graph: Graph) -> str:
    tokens = ["input_ids"] if graph.of_type(Embedding) else []
    return ", ".join(tokens + graph.of_type(Input))


def _shape(graph: Graph, name: str) -> tuple[Any, ...]:
    """Of an Input, TOKENS among it where there are several; of a file of another tool, as it has it."""
    shape, told = graph.nodes[name].shape(), graph.metadata.get("input_shapes")
    of_file = told.get(name) if isinstance(told, dict) else None
    if isinstance(of_file, list) and list(filter((1).__ne__, of_file)) == list(filter((1).__ne__, shape)):
        return tuple(of_file)
    return shape if graph.tokens > 1 else tuple(size for size in shape if size != TOKENS)


def _wanted(graph: Graph, name: str) -> str:
    """The shapes that an Input takes, in words."""
    shape = ", ".join(f"tokens <= {graph.tokens}" if size == TOKENS else str(size) for size in _shape(graph, name))
    return f"(inputs, {shape}), or (inputs, T = {graph.time_steps}, {shape}) step by step"


def _other_time(found: tuple[int, ...], shape: tuple[Any, ...], size: int) -> str:
    """What to do about arrays that fit but for their number of steps."""
    if len(found) < 3 or found[2:] not in (shape, (size,)):
        return ""
    return f": it has {found[1]} steps, and T is another; with T = {found[1]} (-T {found[1]}), or without -T, it fits"


def _values(graph: Graph, name: str, given: Any) -> np.ndarray:
    steps, shape = graph.time_steps, _shape(graph, name)
    size = int(np.prod([axis for axis in shape if axis != TOKENS]))
    x = on_grid(name, given, steps, size, time_step(graph))
    whole, found = sizes(graph.nodes[name].shape(), 1), x.shape
    for before in ((), (steps,)):
        known = [(*before, *one) for one in (shape, (size,), whole)]
        if TOKENS not in shape and x.ndim > 0 and found[1:] in known:
            x = x.reshape(len(x), *before, *whole)
            break
        fits = x.ndim == 1 + len(before) + len(shape) and found[-1] == shape[-1] and found[1:-2] == before
        if TOKENS in shape and fits and 1 <= found[-2] <= graph.tokens:
            break
    else:
        raise DataError(f"{name} has shape {found}, wanted is {_wanted(graph, name)}{_other_time(found, shape, size)}")
    x = x.astype(np.float64) if x.dtype.kind == "b" or x.dtype == np.float16 else x
    if not (np.isfinite(x) & (np.abs(x) <= LARGEST)).all():
        raise DataError(f"{name} has values that are not finite, or beyond {LARGEST:g}")
    return x


def _tokens(name: str, x: np.ndarray) -> np.ndarray:
    if x.ndim != 2 or x.dtype.kind not in "iub":
        raise DataError(f"{name} has shape {x.shape} and type {x.dtype}, wanted is (inputs, tokens) of integers")
    return x
