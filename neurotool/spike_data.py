"""Labelled spike recordings in folders.

    DATA/train/CLASS.npz            all recordings of a class, or
    DATA/train/CLASS/NAME.npz …     one or more in each file,
    DATA/validation/…               the same (or dev, valid)

A recording is what `neurotool run --input` reads, too (neurotool/recordings.py): an array (inputs, steps, channels), or
(steps, channels) of a single one, or events. Shorter ones end in silence.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from neurotool.errors import DataError, listing, shown
from neurotool.recordings import READERS, ROUNDING, Events, Gridded, read_recording
from neurotool.tasks import VALIDATION_STEMS, Task
from neurotool.texts import as_utf8

COLUMN = "spikes"
"""What the text columns of a task are called that reads none."""
MOST_STEPS = 100_000
"""Of recordings that say no T: more is most likely a wrong unit of time."""


@dataclass(frozen=True)
class Recordings:
    """spikes: int8 (inputs, steps, channels), 0 and 1, or -1; labels: class ids (inputs,)."""

    spikes: np.ndarray
    labels: np.ndarray

    @property
    def sha256(self) -> str:
        """Of the content, whatever files it was read from."""
        digest = hashlib.sha256(str(self.spikes.shape).encode())
        for array in (np.packbits(self.spikes != 0), np.packbits(self.spikes < 0), self.labels.astype("<i8")):
            digest.update(array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class SpikeData:
    """time_step: length of a step in the recordings' unit of time; None where they count steps."""

    task: Task
    train: Recordings
    validation: Recordings
    time_step: float | None

    @property
    def hashes(self) -> dict[str, str]:
        return {"train": self.train.sha256, "validation": self.validation.sha256}


def load_spikes(
    folder: Path, time_steps: int | None = None, time_step: float | None = None, metric: str | None = None
) -> SpikeData:
    """time_steps: T, by default the steps of the longest recording; time_step: of recordings that hold times.

    Raises DataError, which names the file, for anything that is not as above.
    """
    if metric not in (None, "accuracy"):
        raise DataError(f"--metric {metric}: classes of spike recordings are measured by accuracy; leave it out")
    files = _files(_split(folder, ("train",)))
    held_out = _files(_split(folder, VALIDATION_STEMS))
    names = sorted(files, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    if len(names) < 2:
        raise DataError(f"{folder}: only class {shown(names[0])} has recordings; training needs at least two classes")
    task = Task(as_utf8(folder.resolve().name), (COLUMN,), tuple(names), ("accuracy",))
    read = [_Read(path, label, time_step) for label, path in _listed(files, task, folder)]
    steps = time_steps or max(one.steps for one in read)
    if steps > MOST_STEPS and time_steps is None:
        raise DataError(f"{folder}: the longest recording has {steps} steps; give a longer --time-step, or T with -T")
    channels = max(one.channels for one in read)
    train = _joined(read, steps, channels)
    validation = _labelled(held_out, task, folder, steps, channels, time_step)
    return SpikeData(task, train, validation, time_step or next((one.time_step for one in read if one.time_step), None))


def load_recordings(path: Path, task: Task, steps: int, channels: int, time_step: float | None) -> Recordings:
    """Labelled recordings for a network of so many steps and channels: of the validation part of a folder, or of a
    folder of classes itself. Raises DataError."""
    if not path.is_dir():
        raise DataError(f"{path}: {'is a file' if path.exists() else 'no such folder'}; give a folder with validation/")
    parts = [path / stem for stem in VALIDATION_STEMS if (path / stem).is_dir()]
    return _labelled(_files(parts[0] if parts else path), task, path, steps, channels, time_step)


def _labelled(
    files: dict[str, list[Path]], task: Task, folder: Path, steps: int, channels: int, time_step: float | None
) -> Recordings:
    return _joined([_Read(path, label, time_step) for label, path in _listed(files, task, folder)], steps, channels)


def _split(folder: Path, stems: tuple[str, ...]) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: {'is a file' if folder.exists() else 'no such folder'}; give one with train/")
    for stem in stems:
        if (folder / stem).is_dir():
            return folder / stem
    raise DataError(
        f"{folder}: has no folder {stems[0]}; spike recordings are {stems[0]}/CLASS.npz or {stems[0]}/CLASS/NAME.npz"
    )


def _files(folder: Path) -> dict[str, list[Path]]:
    """The recordings of each class."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        inside = sorted(p for p in path.iterdir() if not p.name.startswith(".")) if path.is_dir() else [path]
        for file in inside:
            if file.suffix not in READERS or file.is_dir():
                raise DataError(
                    f"{file}: is no recording ({', '.join(READERS)}); classes are CLASS.npz or CLASS/NAME.npz"
                )
        found.setdefault(as_utf8(path.name if path.is_dir() else path.stem), []).extend(inside)
    if not any(found.values()):
        raise DataError(f"{folder}: holds no recordings; classes are CLASS.npz or CLASS/NAME.npz")
    if empty := [name for name, files in found.items() if not files]:
        raise DataError(f"{folder / empty[0]}: holds no recordings; leave the class out")
    return found


def _listed(files: dict[str, list[Path]], task: Task, folder: Path) -> Iterator[tuple[int, Path]]:
    for name, paths in files.items():
        if name not in task.label_names:
            raise DataError(
                f"{paths[0]}: class {shown(name)} is none of those that were trained: {listing(task.label_names)}"
            )
        yield from ((task.label_names.index(name), path) for path in paths)


class _Read:
    """One file: `steps` and `channels` that it needs."""

    def __init__(self, path: Path, label: int, time_step: float | None) -> None:
        self.path, self.label, self.unit = path, label, time_step
        content = read_recording(path)
        if isinstance(content, dict):
            if len(content) != 1:
                raise DataError(f"{path}: holds {listing(content) or 'nothing'}: one array, or events, are wanted")
            content = next(iter(content.values()))
        self.time_step = content.time_step if isinstance(content, Gridded) else None
        self.recorded: np.ndarray | Events = content.values if isinstance(content, Gridded) else content
        if isinstance(self.recorded, Events):
            events = self.recorded
            if not events.in_steps and time_step is None and events.time.size:
                raise DataError(f"{path}: has times such as {events.time[0]:g}: give the length of a step, --time-step")
            self.recorded = events = replace(events, in_steps=time_step is None)
            last = np.floor(events.time.max(initial=0) / (time_step or 1) + ROUNDING)
            self.steps, self.channels = int(last) + 1, int(events.neuron.max(initial=0)) + 1
            return
        if self.recorded.ndim == 2:
            self.recorded = self.recorded[None]
        if self.recorded.ndim != 3 or not self.recorded.size or self.recorded.dtype.kind not in "fiub":
            raise DataError(
                f"{path}: has shape {self.recorded.shape} and type {self.recorded.dtype}: numbers (inputs, steps, "
                "channels) are wanted, or (steps, channels)"
            )
        _, self.steps, self.channels = self.recorded.shape

    def spikes(self, steps: int, channels: int) -> np.ndarray:
        """(inputs, steps, channels)"""
        if isinstance(self.recorded, Events):
            x = self.recorded.gridded(str(self.path), steps, channels, self.unit)
        else:
            x = self.recorded
            if x.shape[2] != channels:
                raise DataError(f"{self.path}: has {x.shape[2]} channels, others have {channels}")
            if x.shape[1] > steps:
                raise DataError(f"{self.path}: has {x.shape[1]} steps, T is {steps}: give a larger -T, or cut it")
            x = np.pad(x, ((0, 0), (0, steps - x.shape[1]), (0, 0)))
        if len(odd := x[~np.isin(x, (-1, 0, 1))]):
            remedy = "; give a shorter --time-step" if isinstance(self.recorded, Events) else ""
            raise DataError(f"{self.path}: has the value {odd[0]:g} in a step: spikes are 0 and 1 (or -1){remedy}")
        return x.astype(np.int8)


def _joined(read: list[_Read], steps: int, channels: int) -> Recordings:
    parts = [(one.spikes(steps, channels), one.label) for one in read]
    spikes = np.concatenate([x for x, _ in parts])
    return Recordings(spikes, np.concatenate([np.full(len(x), label, np.int64) for x, label in parts]))
