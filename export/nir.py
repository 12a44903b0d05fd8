"""Reading and writing .nir files (HDF5, https://neuroir.org). docs/nir.md says what they hold."""

import io
import warnings
from pathlib import Path
from typing import Any

import nir
import numpy as np

from neurotool.errors import ExportError, GraphError, NeurotoolWarning, one_line, shown
from neurotool.export.conventions import Conventions, Fires, Integration
from neurotool.export.for_tool import for_tool
from neurotool.export.from_nir import from_nir
from neurotool.export.to_nir import METADATA_KEY, NIR_FORMAT_VERSION, held_array, to_nir
from neurotool.files import check_free, check_name, write_bytes
from neurotool.graph import Graph
from neurotool.graph.nodes import Reset, Spikes
from neurotool.hdf5 import read_tree
from neurotool.schema import strict_json

# What h5py and nir raise for files that are not what they should be.
_DAMAGE = (OSError, KeyError, ValueError, TypeError, AttributeError, AssertionError, IndexError, RuntimeError)

_NEURONS = (nir.IF, nir.LIF, nir.CubaLIF, nir.LI, nir.CubaLI)


def write_nir(graph: Graph, path: str | Path, *, force: bool = False) -> None:
    """`read_nir` gives the identical graph back; stock `nir.read` opens the file with its type check.

    Raises ExportError: the file exists (and not `force`) or cannot be written; the old one is then unchanged.
    """
    path = Path(path)
    check_free(path, force)
    _write(path, to_nir(graph), force)


def write_for(graph: Graph, path: str | Path, tool: str, *, force: bool = False) -> list[str]:
    """For the import of another tool, in its units and by its rules; returns what it has to be told beside the file.

    Raises ExportError: see `for_tool`, and as `write_nir`.
    """
    path = Path(path)
    check_free(path, force)
    content, told = for_tool(graph, tool)
    _write(path, content, force)
    return told


def _write(path: Path, content: nir.NIRGraph, force: bool) -> None:
    memory = io.BytesIO()  # HDF5 itself crashes where the disk is full
    try:
        nir.write(memory, content, compression=None)  # trained weights hardly compress
    except ValueError as error:  # HDF5 refuses a name, such as "."
        raise ExportError(f"{path}: cannot hold the graph: {one_line(error)}") from error
    write_bytes(path, memory.getbuffer(), force)


def read_nir(
    path: str | Path,
    *,
    tool: str | None = None,
    reset: Reset | None = None,
    time_step: float | None = None,
    time_steps: int | None = None,
    fires: Fires | None = None,
    spikes: Spikes | None = None,
    membrane: Integration | None = None,
    lowest: float | None = None,
    repair: bool = False,
    standard_nodes: bool = False,
) -> Graph:
    """The graph of a .nir file, ours or a foreign one of standard nodes (from_nir.py: which, and what they mean).

    tool: a name of `conventions.TOOLS`, whose rules say all that NIR leaves open but time_steps (T). Before them, and
    before what the standard nodes' metadata say, go reset, time_step (in the unit of the file's time constants), fires
    (">" or ">="; ">" is NIR's text), spikes (in a step), membrane (how a step is integrated) and lowest (the least
    potential, in the file's unit). A file by neurotool says it all and does not use them.
    Warns (NeurotoolWarning) where what is told and what the file's numbers or metadata say disagree.
    repair: take shapes that are missing, or contradict what arrives without changing a number, from the weights and
    from what arrives. standard_nodes: pass over neurotool's metadata and read the standard nodes as if another tool had
    written them.
    Raises GraphError: not a NIR file, truncated, a node that is not supported, or conventions that are missing;
    ConfigError for a convention out of its range.
    """
    conventions = Conventions(tool, reset, time_step, time_steps, fires, spikes, membrane, lowest)
    conventions.check()
    content = _open(Path(path))
    try:
        if METADATA_KEY in content.metadata and not standard_nodes:
            _say_unused(conventions, repair)
            return _from_metadata(content)
        return from_nir(content, conventions, repair)
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise GraphError(f"{path}: cannot be read as a network ({type(error).__name__} {one_line(error)})") from error


def _open(path: Path) -> nir.NIRGraph:
    """Node by node, so that an error can name the node; nir.read only says that an assertion failed."""
    check_name(path, GraphError)
    if not path.is_file():
        raise GraphError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; give a .nir file")
    try:
        content = read_tree(path, "node")
    except _DAMAGE as error:
        raise GraphError(f"{path}: truncated, damaged or not an HDF5 file ({one_line(error)})") from error
    try:
        return _graph(content, "")
    except GraphError as error:
        raise GraphError(f"{path}: {error}") from error
    except _DAMAGE as error:
        raise GraphError(f"{path}: damaged ({one_line(error)})") from error


def _graph(content: dict[str, Any], prefix: str) -> nir.NIRGraph:
    if content.get("type") == "NIRGraph" and "edges" not in content:
        raise GraphError(f"{prefix or 'the graph'} has no edges: nothing says what is connected to what")
    if content.get("type") != "NIRGraph" or not isinstance(content.get("nodes"), dict):
        raise GraphError(f"{prefix or 'the file'} holds a {content.get('type')!r} and not a whole NIRGraph")
    nodes = {name: _node(node, prefix + name) for name, node in content["nodes"].items()}
    edges = [tuple(str(end, "utf-8") for end in edge) for edge in content["edges"]]
    return nir.NIRGraph(nodes, edges, metadata=content.get("metadata", {}), type_check=False)


def _node(content: Any, name: str) -> nir.NIRNode:
    kind = content.get("type") if isinstance(content, dict) else None
    if kind == "NIRGraph":
        return _graph(content, f"{name}.")
    if kind is None:
        raise GraphError(f"node {name} has no type: it is no node, or the end of a name with a /, which HDF5 splits")
    try:
        known = nir.ir.str2NIRNode(kind)
    except AssertionError:
        raise GraphError(f"node {name} has type {kind!r}, which nir {nir.version} does not know") from None
    if known in _NEURONS:  # one number stands for every neuron's
        arrays = {key: value for key, value in content.items() if isinstance(value, np.ndarray | np.generic)}
        shape = max(
            (np.shape(value) for value in arrays.values()), key=lambda size: (np.prod(size), len(size)), default=()
        )
        content |= {key: np.broadcast_to(value, shape) for key, value in arrays.items() if np.size(value) == 1}
    if known in (nir.Conv1d, nir.Conv2d):  # older files leave out what may be told by what arrives
        content = {"input_shape": None} | content
    try:
        return known.from_dict(content)
    except _DAMAGE as error:
        raise GraphError(f"node {name} ({kind}) cannot be read: {one_line(error)}") from error


def _say_unused(conventions: Conventions, repair: bool) -> None:
    told = vars(conventions) | {"repair": repair or None}
    named = {"tool": "--from", "time_step": "--time-step"}
    unused = [
        named.get(name, f"--{name}") for name, value in told.items() if value is not None and name != "time_steps"
    ]
    if unused:
        warnings.warn(
            f"neurotool wrote the file, and it says itself what it means: {', '.join(unused)} "
            f"{'is' if len(unused) == 1 else 'are'} not used (--standard-nodes reads it as another tool's file)",
            NeurotoolWarning,
            stacklevel=3,
        )


def _from_metadata(content: nir.NIRGraph) -> Graph:
    try:
        text = strict_json(content.metadata[METADATA_KEY])
        version = text.get("nir_format_version")
    except (ValueError, TypeError, AttributeError) as error:
        raise GraphError(f"neurotool's metadata is damaged ({one_line(error)}); {_WAY_OUT}") from error
    if version != NIR_FORMAT_VERSION:
        raise GraphError(f"metadata version {shown(version)}, but this neurotool reads version {NIR_FORMAT_VERSION}")
    arrays = dict(content.metadata.get("arrays", {}))
    for key in _arrays_named(text.get("graph")) - set(arrays):
        held = held_array(content.nodes, key)
        if held is None:
            raise GraphError(f"array {key} is neither in neurotool's metadata nor in a standard node; {_WAY_OUT}")
        arrays[key] = held
    graph = Graph.from_arrays(text.get("graph"), arrays)
    if difference := _difference(to_nir(graph), content):
        raise GraphError(f"{difference} after neurotool wrote the file; {_WAY_OUT}")
    return graph


_WAY_OUT = "write it again, or read the standard nodes alone (--standard-nodes)"


def _arrays_named(description: Any) -> set[str]:
    try:
        values = [value for node in description["nodes"] for value in node["parameters"].values()]
        return {value["array"] for value in values if isinstance(value, dict)}
    except (TypeError, KeyError, AttributeError) as error:
        raise GraphError(f"neurotool's metadata is damaged ({one_line(error)}); {_WAY_OUT}") from error


def _difference(ours: nir.NIRGraph, found: nir.NIRGraph) -> str:
    """What another tool changed in the standard nodes, which the metadata would contradict; empty if nothing."""
    for name in sorted(set(ours.nodes) ^ set(found.nodes)):
        return f"node {name} was {'removed' if name in ours.nodes else 'added'}"
    if set(ours.edges) != set(found.edges):
        return f"edge {sorted(set(ours.edges) ^ set(found.edges))[0]} was added or removed"
    for name, node in ours.nodes.items():
        other = found.nodes[name]
        if type(node) is not type(other):
            return f"node {name} became a {type(other).__name__}"
        for key, value in vars(node).items():
            if key != "metadata" and not _same(value, getattr(other, key)):
                return f"{key} of node {name} ({type(node).__name__}) was changed"
    return ""


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(b[key] is None or np.array_equal(a[key], b[key]) for key in a)  # None: types that a file leaves out
    return a is b or np.array_equal(a, b)
