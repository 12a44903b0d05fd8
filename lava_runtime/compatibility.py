"""Lava on Python 3.11 and later. lava-nc 0.10.0 and lava-dl 0.6.0 are the last releases and declare Python 3.10.

Call `prepare()` before the first import of anything under `lava`, and only in a worker process: importing Lava sets
the multiprocessing start method of the whole interpreter to fork.
"""

import copy
import dataclasses
import importlib
import shlex
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

from neurotool.errors import ConfigError

LAVA_NC = "0.10.0"
LAVA_DL = "0.6.0"
NUMPY_LIMIT = (2, 4)
"""First numpy that Lava fails with: `np.reshape(newshape=…)` is gone, one-element arrays no longer become scalars."""


def installation_problem() -> str | None:
    """What keeps Lava from being imported here, in a few words; None when nothing is known to."""
    try:
        lava, numpy = version("lava-nc"), version("numpy")
    except PackageNotFoundError as error:
        return f"{error.name} is not installed"
    if lava != LAVA_NC:
        return f"lava-nc {lava} is installed, {LAVA_NC} is needed"
    major, minor = (int(part) for part in numpy.split(".")[:2])
    if (major, minor) >= NUMPY_LIMIT:
        return f"numpy {numpy} is installed, Lava needs numpy < {'.'.join(map(str, NUMPY_LIMIT))}"
    return None


def install_command() -> str:
    """The shell command that makes Lava usable in this interpreter.

    --no-deps because the declared pins (numpy < 2, torch < 2.4, …) are older than what it works with.
    """
    requirements = [f"lava-nc=={LAVA_NC}", f"lava-dl=={LAVA_DL}", f"numpy<{'.'.join(map(str, NUMPY_LIMIT))}"]
    options = ["--no-deps", "--ignore-requires-python"]
    return shlex.join([sys.executable, "-m", "pip", "install", *options, *requirements])


def prepare() -> None:
    """Make `import lava…` work in this interpreter. Calling it again does nothing.

    Raises:
        ConfigError: Lava is not installed, or a version does not fit.
    """
    problem = installation_problem()
    if problem:
        raise ConfigError(f"Lava cannot be used: {problem}. Run: {install_command()}")
    # slayer imports object_detection, which wants cv2, PIL and torchvision; nothing here needs it.
    object_detection = "lava.lib.dl.slayer.object_detection"
    sys.modules.setdefault(object_detection, ModuleType(object_detection))
    if sys.version_info >= (3, 11):
        _import_var_model()


def _import_var_model() -> None:
    """Import the one Lava module that Python 3.11 rejects: it has dataclass instances as field defaults."""
    original = dataclasses.dataclass
    dataclasses.dataclass = _tolerant_dataclass(original)
    try:
        importlib.import_module("lava.magma.compiler.var_model")
    finally:
        dataclasses.dataclass = original


def _tolerant_dataclass(dataclass: Any) -> Callable[..., Any]:
    """`dataclass` as it was before Python 3.11, except that each object gets its own copy of an unhashable default."""

    def tolerant(cls: type | None = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda decorated: tolerant(decorated, **options)
        for name in vars(cls).get("__annotations__", {}):
            default = vars(cls).get(name)
            if dataclasses.is_dataclass(default) and type(default).__hash__ is None:
                setattr(cls, name, dataclasses.field(default_factory=partial(copy.copy, default)))
        return dataclass(cls, **options)

    return tolerant
