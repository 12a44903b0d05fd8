"""The one-file checkpoint `*.ckpt`: a safetensors file whose header describes the student. Never a pickle."""

import json
import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from neurotool.errors import CheckpointError, one_line, shown
from neurotool.files import check_name, write_bytes
from neurotool.schema import strict_json

FORMAT_VERSION = 1
_DTYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)) | {
    "float16",
    "float32",
    "float64",
    "bool",
}
_FOREIGN = {
    b"PK": "a PyTorch pickle or another zip archive, which is never loaded",
    b"\x80": "a Python pickle, which is never loaded",
    b"\x89HDF": "an HDF5 file, perhaps NIR (`neurotool export` and `validate` read that)",
    b"\x89PNG": "a PNG picture",
}
_HEADER_TYPES = {"config": dict, "tokenizer": dict, "labels": list, "training": dict, "activity": dict, "tensors": dict}


@dataclass(frozen=True)
class Checkpoint:
    """A trained student with everything needed to use it on a machine without teacher and network.

    tensors: parameters by name, float or integer arrays of any shape.
    config: student configuration, with "model_type".
    tokenizer: the files of a fast tokenizer by name, "tokenizer.json" and "tokenizer_config.json", as text.
    labels: class names in the order of their ids; [] for regression.
    training: the training record: teacher, data hashes, seed, versions, stages, metrics.
    activity: measured activity per neuron layer on the validation split.
    """

    tensors: dict[str, np.ndarray]
    config: dict[str, Any]
    tokenizer: dict[str, Any]
    labels: list[str] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    activity: dict[str, Any] = field(default_factory=dict)


def write_checkpoint(path: str | Path, checkpoint: Checkpoint, force: bool = True) -> None:
    """Write `checkpoint` to `path` so that the name always holds a complete file, the old one or the new one.

    Raises:
        CheckpointError: a tensor is not finite or not a number, the header is not JSON, or the file cannot be written
            (the old file is then untouched and nothing is left beside it).
    """
    path = Path(path)
    tensors = {name: np.asarray(tensor, order="C") for name, tensor in checkpoint.tensors.items()}
    for name, tensor in tensors.items():
        _check_values(path, name, tensor)
    header = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    header |= {"format_version": FORMAT_VERSION, "tensors": {name: _layout(tensor) for name, tensor in tensors.items()}}
    try:
        text = json.dumps(_storable(header), ensure_ascii=False, allow_nan=False).encode(errors="replace").decode()
        content = save(tensors, {"neurotool": text})
    except (TypeError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be stored: {one_line(error)}") from error
    write_bytes(path, content, force=force, error_type=CheckpointError)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read the checkpoint at `path` and check that it is complete.

    Raises:
        CheckpointError: missing, a folder, a pickle, truncated, not a neurotool checkpoint, of another format version,
            a tensor that is missing, surplus, of another shape or type than the header says, or not finite.
    """
    path = Path(path)
    check_name(path, CheckpointError)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; give a .ckpt file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = _read_header(path, file.metadata() or {})
            _check_names(path, set(header["tensors"]), set(file.keys()))
            tensors = {name: _read_tensor(path, file, name) for name in header["tensors"]}
    except (SafetensorError, OSError, UnicodeError) as error:
        raise CheckpointError(f"{path}: {_what_it_is(path, error)}") from error
    for name, tensor in tensors.items():
        if _layout(tensor) != header["tensors"][name]:
            raise CheckpointError(
                f"{path}: tensor {name} is {_layout(tensor)}, but the header says {str(header['tensors'][name])[:80]}; "
                "the file was altered"
            )
        _check_values(path, name, tensor)
    described = {item.name: header[item.name] for item in fields(Checkpoint) if item.name != "tensors"}
    return Checkpoint(tensors=tensors, **described)


def _read_header(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    if "neurotool" not in metadata:
        raise CheckpointError(
            f"{path}: a safetensors file, but not a neurotool checkpoint (its header lacks 'neurotool')"
        )
    try:
        header = strict_json(metadata["neurotool"], finite=False)
    except ValueError as error:
        raise CheckpointError(f"{path}: the checkpoint header is not valid JSON ({one_line(error)})") from error
    version = header.get("format_version") if isinstance(header, dict) else None
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format version {shown(version)}, but this neurotool reads version {FORMAT_VERSION}; "
            "use the neurotool that wrote it, or train again"
        )
    for key, kind in _HEADER_TYPES.items():
        if not isinstance(header.get(key), kind):
            raise CheckpointError(f"{path}: the checkpoint header has no {kind.__name__} {key!r}; the file was altered")
    if not isinstance(header["config"].get("model_type"), str):
        raise CheckpointError(f"{path}: the config in the checkpoint header has no model_type; the file was altered")
    return header


def _read_tensor(path: Path, file: Any, name: str) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (TypeError, AttributeError, ValueError) as error:  # bfloat16 and the like, or more than 64 axes
        raise CheckpointError(
            f"{path}: tensor {name} has a type that numpy lacks ({one_line(error)}); a checkpoint holds float32"
        ) from error


def _check_names(path: Path, promised: set[str], stored: set[str]) -> None:
    if missing := sorted(promised - stored):
        raise CheckpointError(f"{path}: tensor {missing[0]} is missing ({len(missing)} of {len(promised)} in all)")
    if surplus := sorted(stored - promised):
        raise CheckpointError(f"{path}: tensor {surplus[0]} is not in the header ({len(surplus)} such tensors)")


def _check_values(path: Path, name: str, tensor: np.ndarray) -> None:
    if tensor.dtype.name not in _DTYPES:
        raise CheckpointError(f"{path}: tensor {name} has type {tensor.dtype}; a checkpoint holds floats and integers")
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        count = int(np.count_nonzero(~np.isfinite(tensor)))
        raise CheckpointError(f"{path}: tensor {name} has {count} of {tensor.size} values that are not finite")


def _layout(tensor: np.ndarray) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": tensor.dtype.name}


def _what_it_is(path: Path, error: Exception) -> str:
    """Say what a file that safetensors cannot open is, judging by its first bytes."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError:
        return f"cannot be read ({one_line(error)})"
    # The length of the header in eight bytes, then the header, a JSON object; safetensors takes up to 100 MB of it.
    if start[8:] == b"{" and int.from_bytes(start[:8], "little") <= 100_000_000:
        return f"truncated or damaged ({one_line(error)}); copy it again or train again"
    if not start:
        return "an empty file; copy it again or train again"
    for magic, kind in _FOREIGN.items():
        if start.startswith(magic):
            return f"{kind}; a checkpoint is a safetensors file written by `neurotool train`"
    return "not a neurotool checkpoint; that is a safetensors file written by `neurotool train`"


def _storable(value: Any) -> Any:
    """Plain JSON: neither a numpy scalar nor a figure that is no number must cost a trained model."""
    if isinstance(value, dict):
        return {name: _storable(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_storable(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise TypeError(f"{type(value).__name__} {value!r} is not JSON")
    return value
