"""Spikes and currents over time in files: arrays (.npz, .npy), events (.csv), NIRData (.h5). A format is a reader, and
a writer where others read it."""

import csv
import math
import warnings
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

from neurotool.errors import DataError, ExportError, NeurotoolError, NeurotoolWarning, listing, one_line, shown
from neurotool.files import replacing
from neurotool.graph import MAX_TIME_STEPS

LARGEST = 2**33
"""Bytes of a recording when it is read, value by value: a small file may declare far more."""
ROUNDING = 1e-6
"""Of times, in steps: 3 * 1e-4 / 1e-4 is a little below 3."""


@dataclass(frozen=True)
class Gridded:
    """One value a step: (inputs, steps, …); time_step: its length, in the file's unit of time."""

    values: np.ndarray
    time_step: float


@dataclass(frozen=True)
class Events:
    """Of a layer: sample, neuron (counted from 0, row by row), value and time, each (events,). Several events of one
    neuron in one step add up.

    in_steps: times are numbers of steps, counted from 0; else they are in the network's unit of time.
    """

    sample: np.ndarray
    time: np.ndarray
    neuron: np.ndarray
    value: np.ndarray
    samples: int
    in_steps: bool

    def gridded(self, name: str, steps: int, neurons: int, time_step: float | None) -> np.ndarray:
        """(samples, steps, neurons). Raises DataError for an event outside of it, or if it is larger than LARGEST."""
        if 8 * self.samples * steps * neurons > LARGEST:
            raise DataError(
                f"{name}: {self.samples} samples of {steps} steps and {neurons} neurons are more than "
                f"{LARGEST // 10**9} GB: number them from 0 without gaps, or give fewer in a file"
            )
        step = self.time
        if not self.in_steps:
            if time_step is None:
                raise DataError(
                    f"{name} has times such as {self.time[0]:g}, and how long a time step is is not known: "
                    "give whole numbers of steps"
                )
            step = np.floor(self.time / time_step + ROUNDING)
        more = step.min(initial=0) >= 0 and step.max(initial=0) < MAX_TIME_STEPS
        for what, at, limit in (("time step", step, steps), ("neuron", self.neuron, neurons)):
            if len(outside := np.flatnonzero((at < 0) | (at >= limit))):
                raise DataError(
                    f"{name} has an event at {what} {at[outside[0]]:g}: the network's are 0 … {limit - 1}"
                    + (f" (--time-steps {int(at.max()) + 1} would take all)" if what == "time step" and more else "")
                )
        grid = np.zeros((self.samples, steps, neurons))
        np.add.at(grid, (self.sample, step.astype(int), self.neuron), self.value)
        return grid


FREE_BYTES, PACKING = 2**30, 100
"""A file may unpack to FREE_BYTES and PACKING times its own size: sparse spikes pack well, and a few MB to many GB."""

Recorded = np.ndarray | Gridded | Events
Content = dict[str, Recorded] | Recorded
"""By the name of a node, with what of it behind a dot ("lif.spikes") or without; or of one node that is not named."""


def read_recording(path: Path) -> Content:
    """What a file of spikes or currents holds. Raises DataError."""
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}; give a {_listed(READERS)}")
    if path.suffix not in READERS:
        raise DataError(f"{path}: inputs are read from {_listed(READERS)}, by the ending of the name")
    try:
        return READERS[path.suffix](path)
    except NeurotoolError:
        raise
    except Exception as error:  # of numpy, zipfile, csv, h5py and nir
        raise DataError(
            f"{path}: cannot be read as {path.suffix} ({one_line(error)}): give it the ending of what it is, or write "
            f"it again, by {_WRITTEN_BY[path.suffix]}"
        ) from error


_WRITTEN_BY = {
    ".npz": "np.savez(FILE, NAME=array)",
    ".npy": "np.save(FILE, array)",
    ".csv": "lines of text under time,neuron",
    ".h5": "nir.write_data",
    ".hdf5": "nir.write_data",
}


def is_recording(path: Path) -> bool:
    """Whether a file holds arrays, events or NIRData, and no network."""
    if path.suffix not in READERS or path.is_dir():
        return False
    if READERS[path.suffix] is not _read_nirdata or not path.is_file():
        return True
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "node" not in file
    except OSError:
        return True


def write_recording(
    path: Path, arrays: Mapping[str, np.ndarray], time_step: float | None = None, force: bool = False
) -> None:
    """By the ending of the name; arrays: "node.spikes" and the like. Raises ExportError.

    .npz keeps all; .npy the only one; .csv the spikes, as events; .h5, NIRData, all that has a value a step: spikes
    (inputs, steps, …) and values. time_step: that of the network, where it is known; else times are in steps.
    """
    if path.suffix not in WRITERS:
        raise ExportError(f"{path}: recordings are written as {_listed(WRITERS)}, by the ending of the name")
    with replacing(path, force) as temporary:
        WRITERS[path.suffix](temporary, arrays, time_step)


def check_writable(path: Path, named: str) -> None:
    """Raises ExportError for an ending that no recording has."""
    if path.suffix not in WRITERS:
        raise ExportError(f"{named} {path}: recordings are written as {_listed(WRITERS)}, by the ending of the name")


def _listed(suffixes: Mapping[str, Any]) -> str:
    *first, last = suffixes
    return f"{', '.join(first)} or {last}"


def _check_size(path: Path, unpacked: int) -> None:
    """Before anything is read. Raises DataError."""
    most = FREE_BYTES + PACKING * path.stat().st_size
    if unpacked > most:
        raise DataError(
            f"{path}: unpacks to {unpacked / 1e9:.3g} GB, and {most / 1e9:.3g} GB are the limit for a file of its "
            "size: give fewer inputs, whole numbers of 8 bits, or arrays that are not compressed (np.savez)"
        )


def _read_npz(path: Path) -> Content:
    """Arrays by name; or, where they are called time and neuron (and sample, value), events as in a .csv."""
    with ZipFile(path) as packed:
        _check_size(path, sum(array.file_size for array in packed.infolist()))
    with np.load(path, allow_pickle=False) as arrays:
        content = dict(arrays)
    return _events(path, content) if {"time", "neuron"} <= set(content) <= set(_COLUMNS) - {"node"} else content


def _events(path: Path, columns: Mapping[str, np.ndarray]) -> Events:
    shape = np.shape(columns["time"])
    given: dict[str, np.ndarray] = {"sample": np.zeros(shape), "value": np.ones(shape), **columns}
    for name, x in given.items():
        whole = name in ("sample", "neuron")
        if x.dtype.kind not in "fiub" or x.shape != shape or x.ndim != 1 or not np.isfinite(x).all():
            raise DataError(f"{path}: {name} has shape {x.shape} and type {x.dtype}: numbers {shape} are wanted")
        if whole and np.any((x < 0) | (np.mod(x, 1) != 0)):
            raise DataError(f"{path}: {name} has {x[(x < 0) | (np.mod(x, 1) != 0)][0]:g}: whole numbers are wanted")
    sample, time, neuron, value = (given[name] for name in ("sample", "time", "neuron", "value"))
    samples, in_steps = int(sample.max(initial=0)) + 1, bool(np.all(np.mod(time, 1) == 0))
    return Events(sample.astype(int), time.astype(float), neuron.astype(int), value.astype(float), samples, in_steps)


def _read_npy(path: Path) -> Content:
    return np.asarray(np.load(path, allow_pickle=False))


_COLUMNS = ("time", "neuron", "sample", "node", "value")
MOST_NUMBERED = 2**31
"""Samples, and neurons of a layer."""


def _read_csv(path: Path) -> Content:
    """Columns time and neuron; sample (else 0), node (else of one that is not named) and value (else 1)."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        columns = [name.strip() for name in rows.fieldnames or ()]
        rows.fieldnames = columns
        if len(set(columns)) < len(columns):
            raise DataError(f"{path}: a column occurs twice in {listing(columns)}; rename one")
        if missing := {"time", "neuron"} - set(columns):
            raise DataError(f"{path}: column {sorted(missing)[0]} is missing; there are {', '.join(columns) or 'none'}")
        if unknown := sorted(set(columns) - set(_COLUMNS)):
            raise DataError(f"{path}: column {unknown[0]} is not known: {', '.join(_COLUMNS)}")
        kept: dict[str, array[float]] = {}  # four numbers an event, in 32 bytes
        for row in rows:
            if None in row:
                raise DataError(f"{path}: line {rows.line_num}: more fields than the header's {len(columns)}")
            kept.setdefault((row.get("node") or "").strip(), array("d")).extend(_event(path, rows.line_num, row))
    columns_of = {node: np.frombuffer(events).reshape(-1, 4).T for node, events in kept.items()}
    samples = 1 + max((int(sample.max()) for sample, *_ in columns_of.values()), default=0)
    in_steps = all(np.array_equal(time, np.floor(time)) for _, time, *_ in columns_of.values())
    content: dict[str, Recorded] = {}
    for node, (sample, time, neuron, value) in columns_of.items():
        content[node] = Events(sample.astype(int), time, neuron.astype(int), value, samples, in_steps)
    if not kept:
        nothing = np.zeros(0, int)
        return Events(nothing, np.zeros(0), nothing, np.zeros(0), 1, True)
    return content[""] if set(content) == {""} else content


def _event(path: Path, line: int, row: Mapping[str, str | None]) -> tuple[float, ...]:
    defaults = {"sample": 0.0, "time": None, "neuron": None, "value": 1.0}
    found = []
    for name, default in defaults.items():
        try:
            value = float(row[name] or "") if name in row else default
        except ValueError:
            value = None
        if (
            value is None
            or not math.isfinite(value)
            or (name in ("sample", "neuron") and (value % 1 or not 0 <= value < MOST_NUMBERED))
        ):
            kind = "a number" if name in ("time", "value") else f"a whole number, from 0 to {MOST_NUMBERED - 1},"
            raise DataError(f"{path}: line {line}: {name} is {shown(row.get(name))}: {kind} is wanted")
        found.append(value)
    return tuple(found)


def _read_nirdata(path: Path) -> Content:
    import nir

    from neurotool.hdf5 import declared_bytes

    _check_size(path, declared_bytes(path))
    return _nodes(nir.read_data(str(path)), "")


def _nodes(data: Any, prefix: str) -> dict[str, Recorded]:
    content: dict[str, Recorded] = {}
    for name, node in data.nodes.items():
        if hasattr(node, "nodes"):
            content |= _nodes(node, f"{prefix}{name}.")
            continue
        for observable, recorded in node.observables.items():
            content[f"{prefix}{name}.{observable}"] = _observed(recorded)
    return content


def _observed(recorded: Any) -> Recorded:
    if hasattr(recorded, "data"):
        return Gridded(np.asarray(recorded.data), float(recorded.dt))
    sample, at = np.nonzero(recorded.idx >= 0)
    value = recorded.value[sample, at] if hasattr(recorded, "value") else np.ones(len(sample))
    return Events(sample, recorded.time[sample, at], recorded.idx[sample, at], value, len(recorded.idx), False)


READERS: dict[str, Callable[[Path], Content]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".csv": _read_csv,
    ".h5": _read_nirdata,
    ".hdf5": _read_nirdata,
}
"""By the ending of the name."""


def _write_npz(path: Path, arrays: Mapping[str, np.ndarray], time_step: float | None) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def _write_npy(path: Path, arrays: Mapping[str, np.ndarray], time_step: float | None) -> None:
    if len(arrays) != 1:
        raise ExportError(f"{path}: .npy holds one array, and there are {len(arrays)}: choose .npz")
    with path.open("wb") as file:
        np.save(file, next(iter(arrays.values())))


def _write_csv(path: Path, arrays: Mapping[str, np.ndarray], time_step: float | None) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("sample", "time", "node", "neuron", "value"))
        for name, spikes in arrays.items():
            node, _, kind = name.rpartition(".")
            if kind == "spikes":
                flat = spikes.reshape(*spikes.shape[:2], -1)
                rows.writerows((i, t, node, n, flat[i, t, n]) for i, t, n in np.argwhere(flat))


def _write_nirdata(path: Path, arrays: Mapping[str, np.ndarray], time_step: float | None) -> None:
    import nir

    nodes: dict[str, dict[str, Any]] = {}
    for name, x in arrays.items():
        node, _, kind = name.rpartition(".")
        if kind not in ("spikes", "values"):
            continue
        flat = x.reshape(*x.shape[:2], -1)
        binary = kind == "spikes" and np.all((flat == 0) | (flat == 1))
        nodes.setdefault(node, {})[kind] = nir.TimeGriddedData(flat.astype(bool if binary else float), time_step or 1.0)
    if not nodes:
        raise ExportError(f"{path}: NIRData holds what has a value a step, and nothing of that kind was recorded")
    nir.write_data(str(path), nir.NIRGraphData({name: nir.NIRNodeData(found) for name, found in nodes.items()}))


WRITERS: dict[str, Callable[[Path, Mapping[str, np.ndarray], float | None], None]] = {
    ".npz": _write_npz,
    ".npy": _write_npy,
    ".csv": _write_csv,
    ".h5": _write_nirdata,
    ".hdf5": _write_nirdata,
}
"""By the ending of the name."""


def on_grid(name: str, recorded: Recorded, steps: int, neurons: int, time_step: float | None) -> np.ndarray:
    """An array, with one value a step of events; NIRData of another time step is said (NeurotoolWarning).

    Raises DataError for what holds no real numbers.
    """
    if isinstance(recorded, Events):
        return recorded.gridded(name, steps, neurons, time_step)
    values = np.asarray(recorded.values if isinstance(recorded, Gridded) else recorded)
    if values.dtype.kind not in "fiub":
        raise DataError(f"{name} has type {values.dtype}: numbers are wanted")
    if not isinstance(recorded, Gridded):
        return values
    if time_step is not None and not math.isclose(recorded.time_step, time_step, rel_tol=ROUNDING):
        warnings.warn(
            f"{name} has a time step of {recorded.time_step:g}, the network one of {time_step:g}: it is taken step by "
            "step",
            NeurotoolWarning,
            stacklevel=2,
        )
    return values


def of_node(content: Mapping[str, Any], name: str) -> str | None:
    """The key under which something of a node is recorded; None where nothing is, or more than one."""
    keys = [key for key in content if key == name] or [key for key in content if key.rpartition(".")[0] == name]
    return keys[0] if len(keys) == 1 else None
