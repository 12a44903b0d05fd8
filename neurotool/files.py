"""Writing files, for all commands: never over what is not a regular file, never over anything without being told to.

A name always holds a complete file, the old one or the new one, whenever the process is killed.
"""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from neurotool.errors import ExportError, NeurotoolError


def check_free(
    path: Path,
    force: bool = False,
    error_type: type[NeurotoolError] = ExportError,
    read: Iterable[Path] = (),
) -> Path:
    """The file that `path` stands for (a symbolic link stays one). Called before the work whose result goes there, too.

    read: what the command reads, which its result never replaces.
    Raises `error_type`: `path` exists and `force` is not set, is no regular file (a folder, a device, a pipe), is one
    of `read`, or is in a folder that cannot be written to.
    """
    check_name(path, error_type)
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise error_type(f"{path}: is a folder; give the name of a file")
    if target.exists() and not target.is_file():
        raise error_type(f"{path}: is a device, a pipe or a socket, which nothing replaces; give the name of a file")
    for source in read:
        if target.exists() and os.path.exists(source) and target.samefile(source):
            raise error_type(f"{path}: is what the command reads; give another name for the result")
    if target.exists() and not force:
        raise error_type(f"{path}: exists; choose another name, or --force to replace it")
    check_folder(target, error_type)
    return target


def check_name(path: Path, error_type: type[NeurotoolError] = ExportError) -> None:
    """Raises `error_type` for a name that no file can have."""
    try:
        os.lstat(path)
    except ValueError as error:
        raise error_type(f"{str(path)[:80]!r}: no file has such a name ({error})") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise error_type(f"{str(path)[:80]}…: the name has {len(str(path))} characters, too many") from None


def check_folder(path: Path, error_type: type[NeurotoolError] = ExportError) -> None:
    """Raises `error_type`: nothing can be written beside `path`."""
    if not os.access(path.parent, os.W_OK):
        reason = os.strerror(errno.EACCES if path.parent.is_dir() else errno.ENOENT)
        raise error_type(f"{path}: cannot be written: {reason} (folder {path.parent}); choose another name")


@contextmanager
def replacing(path: Path, force: bool = False, error_type: type[NeurotoolError] = ExportError) -> Iterator[Path]:
    """Gives a new empty file beside `path` to write to; it takes the place of `path` when the block ends well.

    Its name keeps the suffix, by which some writers choose a format, and its mode is that of the file it replaces.

    Raises `error_type`: what `check_free` refuses, also where it appeared meanwhile, or `path` cannot be written.
    Nothing is left over.
    """
    target = check_free(path, force, error_type)
    temporary = target.with_name(f".neurotool-{secrets.token_hex(6)}.tmp{target.suffix}")
    made = False
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        made = True
        yield temporary
        sync(temporary)
        if target.exists() and force:
            os.chmod(temporary, target.stat().st_mode & 0o777)
        _move(temporary, target, force)
    except FileExistsError:
        raise error_type(f"{path}: appeared meanwhile; choose another name, or --force to replace it") from None
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise error_type(f"{path}: cannot be written: {reason}; what was there is unchanged") from error
    finally:
        if made:
            temporary.unlink(missing_ok=True)


def write_bytes(
    path: Path, content: bytes | memoryview, force: bool = False, error_type: type[NeurotoolError] = ExportError
) -> None:
    """`path` holds `content`. Raises as `replacing`."""
    with replacing(path, force, error_type) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Its content is on the disk, not only in memory."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _move(temporary: Path, target: Path, force: bool) -> None:
    """Raises FileExistsError for a target that appeared since it was found free, which a rename would replace."""
    if force:
        os.replace(temporary, target)
        return
    with contextlib.suppress(PermissionError, NotImplementedError):
        try:
            os.link(temporary, target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOSYS, errno.EXDEV, errno.EMLINK):
                raise
    if target.exists():  # a file system without hard links
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.replace(temporary, target)
