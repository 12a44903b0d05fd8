"""Arrays as inputs of a network: read from files and fitted to what its graph takes. A format is a reader."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from neurotool.errors import DataError, one_line
from neurotool.executor import Inputs
from neurotool.files import replacing
from neurotool.graph import Embedding, Graph, Input

TOKEN_NAMES = ("input_ids", "attention_mask", "token_type_ids")


def read_arrays(path: Path) -> dict[str, np.ndarray] | np.ndarray:
    """What a file of inputs holds: arrays by name (.npz), or one array (.npy). Raises DataError."""
    if not path.is_file():
        raise DataError(
            f"{path}: {'is not a file' if path.exists() else 'no such file'}; give a {' or '.join(READERS)}"
        )
    if path.suffix not in READERS:
        raise DataError(f"{path}: inputs are read from {' and '.join(READERS)}, by the ending of the name")
    try:
        return READERS[path.suffix](path)
    except (OSError, ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix}: {one_line(error)}") from error


def _npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def _npy(path: Path) -> np.ndarray:
    return np.asarray(np.load(path, allow_pickle=False))


READERS: dict[str, Callable[[Path], Any]] = {".npz": _npz, ".npy": _npy}
"""By the ending of the name."""


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], force: bool = False) -> None:
    """As .npz. Raises ExportError."""
    with replacing(path, force) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def fitted(graph: Graph, given: Mapping[str, Any] | np.ndarray) -> Inputs:
    """A batch as executors take it, from arrays by name, or the one array of a graph with one Input.

    input_ids, attention_mask, token_type_ids: (inputs, tokens) integers. Of every Input node (inputs, tokens, width),
    or (inputs, T, tokens, width) for a value a step; a graph of one token takes them without the axis of tokens, too.
    Raises DataError, which names the array, its shape and the one that is wanted.
    """
    wanted = graph.of_type(Input)
    if not isinstance(given, Mapping):
        if len(wanted) != 1:
            raise DataError(
                f"one array is given, and the network reads {_names(graph)}: give arrays by name, in a .npz"
            )
        given = {wanted[0]: given}
    if unknown := sorted(set(given) - set(wanted) - set(TOKEN_NAMES)):
        raise DataError(f"{unknown[0]}: the network has no such input; it reads {_names(graph)}")
    if missing := [name for name in wanted if name not in given]:
        raise DataError(f"{missing[0]} is missing, wanted is {_wanted(graph, missing[0])}; given: {', '.join(given)}")
    batch: Inputs = {name: _tokens(name, np.asarray(given[name])) for name in TOKEN_NAMES if name in given}
    if graph.of_type(Embedding) and "input_ids" not in batch:
        raise DataError(f"input_ids are missing, wanted is (inputs, tokens) of integers; given: {', '.join(given)}")
    if wanted:
        batch["values"] = {name: _values(graph, name, np.asarray(given[name])) for name in wanted}
    counts = {name: len(array) for name, array in (batch | batch.get("values", {})).items() if name != "values"}
    if len(set(counts.values())) > 1 or not all(counts.values()):
        found = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise DataError(f"number of inputs: {found}; they must be the same, and at least 1")
    return batch


def _names(graph: Graph) -> str:
    tokens = ["input_ids"] if graph.of_type(Embedding) else []
    return ", ".join(tokens + graph.of_type(Input))


def _wanted(graph: Graph, name: str) -> str:
    """The shapes that an Input takes, in words."""
    node = graph.nodes[name]
    assert isinstance(node, Input)
    tokens = "" if graph.tokens == 1 else f"tokens <= {graph.tokens}, "
    return f"(inputs, {tokens}{node.width}), or (inputs, T = {graph.time_steps}, {tokens}{node.width}) step by step"


def _values(graph: Graph, name: str, x: np.ndarray) -> np.ndarray:
    node, steps = graph.nodes[name], graph.time_steps
    assert isinstance(node, Input)
    if x.dtype.kind not in "fiub":
        raise DataError(f"{name} has type {x.dtype}: numbers are wanted")
    given = x.shape
    if graph.tokens == 1 and x.ndim == 2:
        x = x[:, None]
    elif graph.tokens == 1 and x.ndim == 3 and (x.shape[1] != 1 or steps == 1):
        x = x[:, :, None]
    fits = x.ndim in (3, 4) and x.shape[-1] == node.width and 1 <= x.shape[-2] <= graph.tokens
    if not fits or (x.ndim == 4 and x.shape[1] != steps):
        raise DataError(f"{name} has shape {given}, wanted is {_wanted(graph, name)}")
    if not np.isfinite(x).all():
        raise DataError(f"{name} has values that are not finite")
    return x.astype(np.float64) if x.dtype.kind in "b" else x


def _tokens(name: str, x: np.ndarray) -> np.ndarray:
    if x.ndim != 2 or x.dtype.kind not in "iub":
        raise DataError(f"{name} has shape {x.shape} and type {x.dtype}, wanted is (inputs, tokens) of integers")
    return x
