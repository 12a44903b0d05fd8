"""The Lava bundle `*.lava`: a folder with a layer graph and what is needed to run it on text. No pickles, no code.

graph.json            the layer graph (neurotool.graph), versioned
weights.safetensors   its arrays
tokenizer*.json       files of the tokenizer, where there is one
manifest.json         format version, precision, task, record of the quantisation, SHA-256 of the other files
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from neurotool import __version__
from neurotool.errors import BundleError, GraphError, one_line
from neurotool.files import check_folder
from neurotool.graph import Graph
from neurotool.texts import longest

FORMAT_VERSION = 1
MANIFEST, GRAPH, WEIGHTS = "manifest.json", "graph.json", "weights.safetensors"


@dataclass(frozen=True)
class Bundle:
    """graph: with real parameters, or a fixed-point one.

    tokenizer: files of a fast tokenizer by name, as text; {} where the network reads no text.
    task: fields of neurotool.tasks.Task; {} without a tokenizer.
    record: source, quantisation and calibration, anything JSON.
    """

    graph: Graph
    tokenizer: dict[str, str] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def precision(self) -> str:
        return "fixed" if self.graph.fixed_point else "float"

    @property
    def max_length(self) -> int:
        """Tokens to which texts are cut."""
        return longest(self.record.get("plan", {}), self.graph.tokens)


def is_bundle(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def check_free(path: Path, force: bool) -> None:
    """Raises BundleError: `path` exists and `force` is not set, is something else than a bundle, or cannot be made."""
    if path.exists() and not (force and is_bundle(path)):
        way_out = "choose another name" if force else "choose another name, or --force to replace it"
        raise BundleError(f"{path}: exists{' and is not a bundle' if force else ''}; {way_out}")
    check_folder(path, BundleError)


def write_bundle(path: str | Path, bundle: Bundle, force: bool = False) -> None:
    """The folder appears whole or not at all.

    Raises BundleError: `path` exists and `force` is not set, is something else than a bundle, or cannot be written.
    """
    path = Path(path)
    check_free(path, force)
    description, arrays = bundle.graph.to_arrays()
    # An array that several nodes share is stored for each: safetensors knows no aliases.
    files = {GRAPH: _json(description), WEIGHTS: save({k: np.ascontiguousarray(v) for k, v in arrays.items()})}
    files |= {name: text.encode() for name, text in bundle.tokenizer.items()}
    manifest = {
        "format_version": FORMAT_VERSION,
        "written_by": f"neurotool {__version__}",
        "precision": bundle.precision,
        "task": bundle.task,
        "record": bundle.record,
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    temporary, old = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("tmp", "old"))
    try:
        temporary.mkdir()
        for name, content in (files | {MANIFEST: _json(manifest)}).items():
            (temporary / name).write_bytes(content)
        if path.exists():
            os.replace(path, old)
        os.replace(temporary, path)
    except OSError as error:
        if old.exists():
            os.replace(old, path)
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        raise BundleError(f"{path}: cannot be written: {reason}; what was there is unchanged") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def read_bundle(path: str | Path) -> Bundle:
    """Raises BundleError: no bundle, another format version, a file that is missing or was altered, a damaged graph."""
    path = Path(path)
    if not is_bundle(path):
        what = f"is not a Lava bundle (it has no {MANIFEST})" if path.exists() else "no such folder"
        raise BundleError(f"{path}: {what}; write one with: neurotool export model.ckpt --target lava")
    try:
        manifest = json.loads((path / MANIFEST).read_bytes())
        if manifest.get("format_version") != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format version {manifest.get('format_version')!r}, but this neurotool reads version "
                f"{FORMAT_VERSION}; export the checkpoint again"
            )
        files = {name: _checked(path, name, digest) for name, digest in manifest["files"].items()}
        graph = Graph.from_arrays(json.loads(files.pop(GRAPH)), load(files.pop(WEIGHTS)))
        tokenizer = {name: content.decode() for name, content in files.items()}
        return Bundle(graph, tokenizer, manifest["task"], manifest["record"])
    except GraphError as error:
        raise BundleError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise BundleError(f"{path}: damaged ({type(error).__name__} {one_line(error)}); export it again") from error


def _checked(path: Path, name: str, digest: str) -> bytes:
    if Path(name).name != name or not (path / name).is_file():
        raise BundleError(f"{path}: {name} is missing; copy the whole folder again")
    content = (path / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise BundleError(f"{path}: {name} is not the file that was exported (its SHA-256 differs); export it again")
    return content


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()
