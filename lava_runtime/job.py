"""The folder through which a run on Lava and its worker talk: a job goes in, results or an error come out.

job.json, job.safetensors   graph, inputs and what to record
results-*.npz               what one process recorded
seconds.json                how long each piece took that was run by itself
error.json                  type, text and traceback of what went wrong
"""

import importlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from neurotool.executor import Run
from neurotool.graph import Graph
from neurotool.lava_runtime.entering import Entering
from neurotool.lava_runtime.membranes import Overflow

DESCRIPTION, ARRAYS, ERROR, SECONDS = "job.json", "job.safetensors", "error.json", "seconds.json"
RECORDED = ("messages", "spikes", "potentials", "analog", "sent")


@dataclass(frozen=True)
class Job:
    """record: nodes whose messages, spikes and potentials are kept. piece: steps that Lava runs by themselves, and
    waits; None for an input."""

    graph: Graph
    inputs: Entering
    record: tuple[str, ...] = ()
    overflow: Overflow = "error"
    piece: int | None = None


def write_job(folder: Path, job: Job) -> None:
    """Into an existing folder."""
    description, weights = job.graph.to_arrays()
    groups = {"graph": weights, "ids": job.inputs.ids, "values": job.inputs.values}
    arrays = {f"{group}/{name}": array for group, named in groups.items() for name, array in named.items()}
    arrays["real/"] = job.inputs.real
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    settings: dict[str, Any] = {"graph": description, "record": list(job.record), "overflow": job.overflow}
    settings["piece"] = job.piece
    settings["modules"] = sorted(foreign_modules(job.graph))
    (folder / DESCRIPTION).write_text(json.dumps(settings), encoding="utf-8")


def foreign_modules(graph: Graph) -> dict[str, Path]:
    """Modules that define types of nodes which are not ours, and the folder that each is imported from."""
    names = {type(node).__module__ for node in graph.nodes.values()}
    foreign = {name: sys.modules[name].__file__ for name in names if name.split(".")[0] != "neurotool"}
    return {name: Path(file).resolve().parents[name.count(".")] for name, file in foreign.items() if file}


def read_job(folder: Path) -> Job:
    """What write_job wrote."""
    settings = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    for module in settings["modules"]:
        importlib.import_module(module)
    groups: dict[str, dict[str, np.ndarray]] = {"graph": {}, "ids": {}, "values": {}, "real": {}}
    for key, array in load_file(folder / ARRAYS).items():
        group, name = key.split("/")
        groups[group][name] = array
    graph = Graph.from_arrays(settings["graph"], groups["graph"])
    inputs = Entering(groups["ids"], groups["values"], groups["real"][""])
    return Job(graph, inputs, tuple(settings["record"]), settings["overflow"], settings["piece"])


def result_file(folder: Path, process: int) -> Path:
    return folder / f"results-{process}.npz"


def write_results(path: Path, results: list[Run]) -> None:
    """One Run for each input -> one file for the batch. Nothing is written where nothing was recorded."""
    arrays = {
        f"{kind}/{name}": np.stack([getattr(result, kind)[name] for result in results])
        for kind in RECORDED
        for name in getattr(results[0], kind)
    }
    if results[0].logits is not None:
        arrays["logits/"] = np.stack([result.logits for result in results if result.logits is not None])
    if arrays:
        np.savez(path, **arrays)  # type: ignore[arg-type]


def read_results(folder: Path) -> Run:
    """What all processes recorded."""
    result = Run()
    for path in folder.glob("results-*.npz"):
        with np.load(path, allow_pickle=False) as arrays:
            for key, array in arrays.items():
                kind, name = key.split("/")
                if kind == "logits":
                    result.logits = array
                else:
                    getattr(result, kind)[name] = array
    return result
