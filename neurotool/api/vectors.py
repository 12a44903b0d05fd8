"""Test vectors: inputs of a network and what every layer sends on them, in files that travel with it.

NIRData (https://neuroir.org), a value a step: whoever runs the network elsewhere, in a tool or on a chip, can check it
without neurotool.
"""

from pathlib import Path
from typing import Any

import numpy as np

from neurotool.api.model import Model
from neurotool.api.reading import ModelInputs
from neurotool.errors import ConfigError
from neurotool.executor import Run
from neurotool.files import check_free
from neurotool.graph import Graph, Input, Neuron
from neurotool.inputs import time_step
from neurotool.recordings import write_recording


def vector_files(network: Path) -> tuple[Path, Path]:
    """Beside the file or bundle of a network: what enters it, and what it sends."""
    return network.with_suffix(".inputs.h5"), network.with_suffix(".expected.h5")


def check_vectors(model: Model, network: Path, force: bool) -> None:
    """Raises ConfigError for a network that has no test vectors, ExportError where they cannot be written."""
    if model.graph.has_tokens:
        raise ConfigError(
            f"--with-inputs: {model.path}: its layers have an axis of tokens, which NIRData lacks; record a run with "
            "neurotool run -o out.npz"
        )
    for path in vector_files(network):
        check_free(path, force)


def write_vectors(written: Model, inputs: ModelInputs, force: bool = False) -> dict[str, Any]:
    """written: the network as it is in the file that they go with. Returns what was written.

    Inputs last as long as the network runs, with silence behind a text that is over; spikes of all neuron layers and
    values of integrators and outputs are of all these steps, so that nobody has to know where a text ends.
    """
    graph, files = written.graph, vector_files(written.path)
    values = {
        name: np.stack([_lasting(graph, name, one["values"][source]) for one in inputs.inputs])
        for name, source in zip(graph.of_type(Input), inputs.inputs[0]["values"], strict=True)
    }
    executor = written.executor("emulator" if graph.fixed_point else "interpreter")
    run = executor.run(values=values, record=(*graph.of_type(Neuron), *graph.analog))
    step = time_step(graph)
    write_recording(files[0], {f"{name}.{_kind(x)}": x for name, x in values.items()}, step, force)
    write_recording(files[1], _sent(run), step, force)
    return {
        "files": list(map(str, files)),
        "inputs": len(inputs.inputs),
        "source": inputs.source,
        "layers": len(run.spikes),
        "spikes": int(sum(np.abs(spikes.astype(np.int64)).sum() for spikes in run.spikes.values())),
    }


def _lasting(graph: Graph, name: str, values: np.ndarray) -> np.ndarray:
    """(T, …): constant values in every step, and silence in those behind the last that is given."""
    shape = graph.nodes[name].shape()
    if values.ndim == len(shape):
        return np.broadcast_to(values, (graph.time_steps, *values.shape))
    return np.pad(values, [(0, graph.time_steps - len(values)), *[(0, 0)] * len(shape)])


def _kind(values: np.ndarray) -> str:
    return "spikes" if np.all((values == 0) | (values == 1)) else "values"


def _sent(run: Run) -> dict[str, np.ndarray]:
    spikes = {f"{name}.spikes": x for name, x in run.spikes.items()}
    return spikes | {f"{name}.values": x for name, x in run.analog.items()}
