"""Writing files so that a name always holds a complete file: the old one or the new one."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from neurotool.errors import ExportError, NeurotoolError


def check_free(path: Path, force: bool = False, error_type: type[NeurotoolError] = ExportError) -> Path:
    """The file that `path` stands for (a symbolic link stays one). Called before the work whose result goes there, too.

    Raises `error_type`: `path` exists and `force` is not set, is a folder, or is in a folder that cannot be written to.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise error_type(f"{path}: is a folder; give the name of a file")
    if target.exists() and not force:
        raise error_type(f"{path}: exists; choose another name, or --force to replace it")
    check_folder(target, error_type)
    return target


def check_folder(path: Path, error_type: type[NeurotoolError] = ExportError) -> None:
    """Raises `error_type`: nothing can be written beside `path`."""
    if not os.access(path.parent, os.W_OK):
        reason = os.strerror(errno.EACCES if path.parent.is_dir() else errno.ENOENT)
        raise error_type(f"{path}: cannot be written: {reason} (folder {path.parent}); choose another name")


@contextmanager
def replacing(path: Path, force: bool = False, error_type: type[NeurotoolError] = ExportError) -> Iterator[Path]:
    """Gives a temporary name beside `path` to write to; it takes the place of `path` when the block ends well.

    The temporary name keeps the suffix, by which some writers choose a format.

    Raises `error_type`: `path` exists and `force` is not set, is a folder, or cannot be written. Nothing is left over.
    """
    target = check_free(path, force, error_type)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)  # h5py's own text is long
        raise error_type(f"{path}: cannot be written: {reason}; what was there is unchanged") from error
    finally:
        temporary.unlink(missing_ok=True)
