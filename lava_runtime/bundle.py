"""The Lava bundle `*.lava`: a folder with a layer graph and what is needed to run it on text. No pickles, no code.

graph.json            the layer graph (neurotool.graph), versioned
weights.safetensors   its arrays
tokenizer*.json       files of the tokenizer, where there is one
manifest.json         format version, precision, task, record of the quantisation, SHA-256 of the other files
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from neurotool import __version__
from neurotool.errors import BundleError, GraphError, one_line, shown
from neurotool.files import check_folder, check_name, sync
from neurotool.graph import Graph
from neurotool.header import TOKENIZER_FILES, check_manifest, check_network
from neurotool.schema import strict_json
from neurotool.texts import longest

FORMAT_VERSION = 1
MANIFEST, GRAPH, WEIGHTS = "manifest.json", "graph.json", "weights.safetensors"
NAMES = (GRAPH, WEIGHTS, *TOKENIZER_FILES)
"""The files that a bundle may list."""
NEW = ".new"
"""Ends the name of a file whose bundle is being replaced."""


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
    """Raises BundleError: `path` exists and `force` is not set, is something else than a bundle, holds files that are
    not the bundle's, or cannot be made."""
    check_name(path, BundleError)
    if not os.path.lexists(path):
        check_folder(path, BundleError)
    elif not (force and is_bundle(path)):
        way_out = "choose another name" if force else "choose another name, or --force to replace it"
        raise BundleError(f"{path}: exists{' and is not a bundle' if force else ''}; {way_out}")
    elif not _listed(path):
        raise BundleError(f"{path}: its {MANIFEST} is not that of a bundle; choose another name, or remove it yourself")
    elif foreign := sorted(file.name for file in path.iterdir() if not _is_ours(file)):
        raise BundleError(
            f"{path}: holds {foreign[0]}, which is not the bundle's ({len(foreign)} such files): move it away, or "
            "choose another name"
        )


def write_bundle(path: str | Path, bundle: Bundle, force: bool = False) -> None:
    """Killed at any moment, `path` is the old bundle or the new one.

    Raises BundleError: see `check_free`; or `path` cannot be written, and what was there is unchanged.
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
    try:
        (_replace if path.exists() else _create)(path, files, _json(manifest))
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else one_line(error)
        raise BundleError(f"{path}: cannot be written: {reason}; what was there is unchanged") from error


def _create(path: Path, files: dict[str, bytes], manifest: bytes) -> None:
    temporary = path.with_name(f".neurotool-{secrets.token_hex(6)}.tmp")
    try:
        temporary.mkdir()
        for name, content in (files | {MANIFEST: manifest}).items():
            _write(temporary / name, content)
        os.rename(temporary, path)  # never over a folder that appeared meanwhile and is not empty
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(path: Path, files: dict[str, bytes], manifest: bytes) -> None:
    """The manifest decides which bundle it is, and changes in one step. Until then the new files wait beside the old
    ones as NAME.new, where a reader of the new manifest finds them, too."""
    _settle(path)
    waiting = [path / (name + NEW) for name in (*files, MANIFEST)]
    try:
        for file, content in zip(waiting, (*files.values(), manifest), strict=True):
            _write(file, content)
        os.replace(waiting[-1], path / MANIFEST)
    except OSError:
        for file in waiting:
            file.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # it is the new bundle already; the next replacement tidies up
        _settle(path)


def _settle(path: Path) -> None:
    """Give the new files of the bundle in `path` their own names, and remove those of ours that are not listed."""
    listed = _listed(path)
    for name in NAMES:
        new = path / (name + NEW)
        if new.is_file() and _sha256(new.read_bytes()) == listed.get(name):
            os.replace(new, path / name)
        new.unlink(missing_ok=True)
        if name not in listed:
            (path / name).unlink(missing_ok=True)
    (path / (MANIFEST + NEW)).unlink(missing_ok=True)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    sync(path)


def _listed(path: Path) -> dict[str, str]:
    """Hash by name of the files that the manifest in `path` lists; {} where it is not that of a bundle."""
    try:
        manifest = strict_json((path / MANIFEST).read_bytes())
        files = manifest["files"]
        return dict(files) if {GRAPH, WEIGHTS} <= set(files) <= set(NAMES) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _is_ours(file: Path) -> bool:
    return file.name.removesuffix(NEW) in (*NAMES, MANIFEST) and file.is_file()


def read_bundle(path: str | Path) -> Bundle:
    """Only files that the manifest lists are read, and only with the content that it says.

    Raises BundleError: no bundle, another format version, a file that is missing or was altered, a manifest or graph
    that is damaged or contradicts itself.
    """
    path = Path(path)
    check_name(path, BundleError)
    if not is_bundle(path):
        what = f"is not a Lava bundle (it has no {MANIFEST})" if path.exists() else "no such folder"
        raise BundleError(f"{path}: {what}; write one with: neurotool export model.ckpt --target lava")
    try:
        manifest = strict_json((path / MANIFEST).read_bytes())
        version = manifest.get("format_version") if isinstance(manifest, dict) else FORMAT_VERSION
        if version != FORMAT_VERSION:
            raise BundleError(
                f"{path}: bundle format version {shown(version)}, but this neurotool reads version {FORMAT_VERSION}; "
                "export the checkpoint again"
            )
        check_manifest(manifest, NAMES)
        files = {name: _checked(path, name, digest) for name, digest in manifest["files"].items()}
        graph = Graph.from_arrays(strict_json(files.pop(GRAPH)), load(files.pop(WEIGHTS)))
        tokenizer = {name: content.decode() for name, content in files.items()}
        bundle = Bundle(graph, tokenizer, manifest["task"], manifest["record"])
        if bundle.precision != manifest["precision"]:
            raise ValueError(f"precision is {manifest['precision']!r}, but the graph is one of {bundle.precision}")
        check_network(graph, bundle.task, tokenizer)
        return bundle
    except GraphError as error:
        raise BundleError(f"{path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        raise BundleError(f"{path}: damaged ({one_line(error)}); export it again") from error


def _checked(path: Path, name: str, digest: str) -> bytes:
    """The content of a listed file, which after an interrupted replacement may still be called NAME.new."""
    found = [file for file in (path / name, path / (name + NEW)) if file.is_file()]
    for file in found:
        content = file.read_bytes()
        if _sha256(content) == digest:
            return content
    if not found:
        raise BundleError(f"{path}: {name} is missing; copy the whole folder again")
    raise BundleError(f"{path}: {name} is not the file that was exported (its SHA-256 differs); export it again")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode()
