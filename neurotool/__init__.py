"""From a BERT teacher to a spiking student on neuromorphic hardware: distil, export, run, account for energy.

    import neurotool
    model = neurotool.open("model.ckpt")
    run = model.run(["a moving film"], executor="emulator")

What is listed in PUBLIC is imported when it is first used: torch is not loaded before it is needed. Type checkers read
__init__.pyi. docs/python.md.
"""

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("neurotool")

PUBLIC = {
    "EXECUTORS": "neurotool.api.executors:EXECUTORS",
    "Model": "neurotool.api.model:Model",
    "Run": "neurotool.executor:Run",
    "compare": "neurotool.api.comparing:compare",
    "distil": "neurotool.api.distilling:distil",
    "open": "neurotool.api.model:open_model",
}
"""Name -> module:attribute."""

__all__ = [*PUBLIC, "PUBLIC", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = PUBLIC[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
