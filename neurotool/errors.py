"""The errors a user can cause or meet. Each message names the thing, its value, the limit and the way out."""

from collections.abc import Iterable
from itertools import islice


class NeurotoolError(Exception):
    """Base of all expected errors; the command line prints it on one line and exits with `exit_code`."""

    exit_code = 2


class ConfigError(NeurotoolError):
    """An option or configuration value is outside its range, or two options contradict each other."""


class DataError(NeurotoolError):
    """A dataset or text file cannot be used: missing, empty, badly encoded, wrong columns or labels."""


class TeacherError(NeurotoolError):
    """The teacher cannot be loaded or does not fit the task."""


class CheckpointError(NeurotoolError):
    """A .ckpt file cannot be read or written, or its content is not consistent."""


class GraphError(NeurotoolError):
    """A layer graph is not consistent, or an operation it holds is not supported; names node and port."""


class ExportError(NeurotoolError):
    """A graph cannot be written in the chosen format or to the chosen place."""


class BundleError(NeurotoolError):
    """A Lava bundle cannot be read or written, or its content is not consistent."""


class OverflowingError(NeurotoolError):
    """A number of a fixed-point network leaves the bits that the hardware has for it."""

    exit_code = 1


class LavaError(NeurotoolError):
    """Lava cannot run here, failed inside a process, or took too long."""

    exit_code = 1


class TrainingError(NeurotoolError):
    """Training had to stop; the last good state is kept on disk."""

    exit_code = 1


class NeurotoolWarning(UserWarning):
    """Something the user should know before trusting a result; the command line prints it on one line."""


def one_line(error: BaseException) -> str:
    """The error's text on one line; its type where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def shown(value: object, limit: int = 60) -> str:
    """A value of the user's as part of a message: its repr, cut after `limit` characters."""
    if isinstance(value, dict):
        value = dict(islice(value.items(), limit))
    elif isinstance(value, str | bytes | list | tuple):
        value = value[: limit + 1]
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a whole number of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def listing(names: Iterable[str], most: int = 10) -> str:
    """The first names of a list, each cut, and how many there are."""
    names = list(names)
    first = ", ".join(name if len(name) <= 30 else f"{name[:29]}…" for name in names[:most])
    return first + (f", … ({len(names)} in all)" if len(names) > most else "")
