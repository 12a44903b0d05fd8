"""Reading an HDF5 file that somebody else made: only what lies in the file itself, and no more than it can hold.

HDF5 lets a file name other files (external and virtual data, links), name itself in circles, and declare arrays that it
does not hold. None of that is needed for a network or a recording, and all of it is refused before anything is read.
"""

from pathlib import Path
from typing import Any

import h5py

from neurotool.errors import GraphError

DEEPEST = 32
"""Groups within groups."""
MOST_OBJECTS = 1_000_000
MOST_BYTES = 2**40
FREE_BYTES, PACKING = 64 * 2**20, 100
"""A file may declare FREE_BYTES and PACKING times its own size: compression makes far less of trained weights."""


def read_tree(path: Path, group: str) -> dict[str, Any]:
    """The datasets of `group` and the groups in it, by name; text as str.

    Raises GraphError for what is refused; h5py raises OSError, RuntimeError and others for a damaged file.
    """
    with h5py.File(path, "r") as file:
        if not isinstance(file.get(group, getlink=True), h5py.HardLink) or not isinstance(file[group], h5py.Group):
            raise GraphError(f"{path}: an HDF5 file, but not a NIR graph (it has no group {group!r})")
        reader = _Reader(path, FREE_BYTES + PACKING * path.stat().st_size)
        reader.check(file[group], group, 0)
        return reader.read(file[group])


def declared_bytes(path: Path) -> int:
    """What all that lies in a file has, which another library is to read. Raises GraphError and others as above."""
    reader = _Reader(path, MOST_BYTES)
    with h5py.File(path, "r") as file:
        reader.check(file["/"], "", 0)
    return reader.declared


class _Reader:
    def __init__(self, path: Path, most: int) -> None:
        self.path, self.most, self.declared, self.seen = path, most, 0, set[Any]()

    def check(self, group: h5py.Group, name: str, depth: int) -> None:
        """Everything below `group`, before any of it is read."""
        self._once(group, name)
        if depth > DEEPEST:
            self._refuse(name, f"lies {depth} groups deep: the limit is {DEEPEST}")
        for key in group:
            at = f"{name}/{key}"
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                target = getattr(link, "filename", "") or getattr(link, "path", "")
                self._refuse(at, f"is a link to {target!r}: write the file again without links")
            item = group[key]
            if isinstance(item, h5py.Group):
                self.check(item, at, depth + 1)
            elif isinstance(item, h5py.Dataset):
                self._check_dataset(item, at)
            else:
                self._refuse(at, "is neither a group nor a dataset")

    def _check_dataset(self, data: h5py.Dataset, name: str) -> None:
        self._once(data, name)
        if data.external or data.is_virtual:
            self._refuse(name, "lies in another file: write it again in one piece")
        if data.dtype.kind not in "biufS" and h5py.check_string_dtype(data.dtype) is None:
            self._refuse(name, f"has type {data.dtype}: numbers and text are read")
        if data.shape is None:
            self._refuse(name, "is empty")
        size = int(data.dtype.itemsize) * _product(data.shape)
        stored = data.id.get_storage_size()
        if data.chunks is not None and size:
            chunks = _product(-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True))
            size = max(size, int(data.dtype.itemsize) * _product(data.chunks) * chunks)
            if chunks > self.most or data.id.get_num_chunks() < chunks:
                stored = 0
        if size and (not stored or (data.chunks is None and stored < size)):
            self._refuse(name, f"declares {_bytes(size)}, which the file does not hold; copy it again")
        self.declared += size
        if self.declared > self.most:
            self._refuse(
                name, f"brings what the file declares to {_bytes(self.declared)}: {_bytes(self.most)} is the limit"
            )

    def _once(self, item: Any, name: str) -> None:
        """A group or array under two names: every reading of a circle begins it again."""
        info = h5py.h5o.get_info(item.id)
        if (info.fileno, info.addr) in self.seen:
            self._refuse(name, "is the same object as another name: write it again without links")
        self.seen.add((info.fileno, info.addr))
        if len(self.seen) > MOST_OBJECTS:
            self._refuse(name, f"is one of more than {MOST_OBJECTS} objects")

    def _refuse(self, name: str, why: str) -> None:
        raise GraphError(f"{self.path}: {name[:100]} {why}")

    def read(self, group: h5py.Group) -> dict[str, Any]:
        return {
            str(key): self.read(item) if isinstance(item, h5py.Group) else _value(item[()])
            for key, item in group.items()
        }


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf8")
    return value


def _product(sizes: Any) -> int:
    total = 1
    for size in sizes:
        total *= int(size)
    return total


def _bytes(count: int) -> str:
    exponent = min((len(str(count)) - 1) // 3, 4)
    return f"{count // 1000**exponent} {('B', 'kB', 'MB', 'GB', 'TB')[exponent]}"
