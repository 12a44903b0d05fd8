"""Networks written by neurotool for the import of each tool (export --for TOOL), with the spikes that they send here.

    python benchmarks/nir_for.py build/nir-for

Writes for every network FOLDER/TOOL-NETWORK.nir, and .npz with `x` (inputs, T, *shape), what goes in, `y` (inputs, T,
*shape), what its last layer sends here, and `told`, JSON: what the tool's user has to set after the import. Where the
tool's import cannot express it, the .npz holds `refused`, why. benchmarks/nir_opened.py runs the files in the tools.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from neurotool.errors import ExportError
from neurotool.export.conventions import TOOLS
from neurotool.export.nir import write_for
from neurotool.export.tool_imports import IMPORTS
from neurotool.graph import (
    Add,
    AvgPool2d,
    Conv2d,
    CubaLIF,
    Flatten,
    Graph,
    GraphBuilder,
    Input,
    Integrator,
    Linear,
    Neuron,
    Node,
    SumPool2d,
)
from neurotool.simulate import simulate

STEPS, INPUTS = 40, 2
KINDS = ("if", "lif", "cuba", "convolution", "recurrent", "li")
SET: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "snntorch": [
        ("lif", {"reset": "soft-late"}),
        ("lif", {"reset": "soft-once"}),
        ("lif", {"reset": "none"}),
        ("cuba", {"reset": "hard-late"}),
        ("cuba", {"reset": "soft-late"}),
    ],
    "norse": [("cuba", {"reset": "soft"})],
    "sinabs": [
        ("if", {"spikes": "binary"}),
        ("lif", {"spikes": "binary", "reset": "hard"}),
        ("if", {"lowest": None}),
        ("lif", {"lowest": -0.5}),
    ],
    "spikingjelly": [("if", {"reset": "soft"}), ("lif", {"reset": "soft"}), ("cuba", {"reset": "soft"})],
    "rockpool": [("cuba", {"spikes": "binary"})],
}
"""Of neurons as the import does not make them, but can be set to."""


class Networks:
    """Of one tool; neurons as its import makes them but for what `told` says."""

    def __init__(self, tool: str) -> None:
        self.reads, self.late, self.rng = IMPORTS[tool], TOOLS[tool].sends_late, np.random.default_rng(0)

    def neurons(self, cuba: bool, leaks: bool, n: int, told: dict[str, Any], shape: tuple[int, ...] = ()) -> Neuron:
        reads, shape = self.reads, shape or (n,)
        same, per_layer = reads.uniform, np.full(shape, 1.0)
        threshold = 1.3 if "v_threshold" in same else self.rng.uniform(0.9, 1.6, shape)
        leak: Any = 1.0
        if leaks:
            leak = 0.8 if "tau" in same else self.rng.uniform(0.6, 0.95, shape)
        reset = told.get("reset", (reads.cuba_reset if cuba else None) or reads.reset)
        floor = reads.floor if not leaks and reads.floor is not None else None
        lowest = told["lowest"] if "lowest" in told else None if floor is None else floor * threshold * per_layer
        options = {"reset": reset, "spikes": told.get("spikes", reads.spikes), "v_min": lowest}
        if not cuba:
            return Neuron(threshold, leak, **options)
        return CubaLIF(
            threshold, leak, **options, current_leak=0.6 if "tau" in same else self.rng.uniform(0.3, 0.8, shape)
        )

    def linear(self, inputs: int, outputs: int, size: float, bias: bool = False) -> Linear:
        weight = self.rng.normal(0.1 * size, size, (outputs, inputs)).astype("f")
        return Linear(weight, self.rng.normal(0, 0.1, outputs).astype("f") if bias else None)

    def network(self, kind: str, told: dict[str, Any]) -> Graph:
        build, cuba = GraphBuilder(), kind == "cuba" or (self.reads.only_cuba and kind == "recurrent")
        leaks = kind != "if"
        if kind == "convolution":
            pool: Node = AvgPool2d() if AvgPool2d in self.reads.nodes else SumPool2d()
            weight = self.rng.normal(0.1, 0.4, (4, 2, 3, 3)).astype("f")
            x = build.add("c.0", Conv2d(weight, padding=(1, 1)), build.add("x", Input((2, 8, 8))))
            x = build.add("n.0", self.neurons(cuba, False, 0, told, (4, 8, 8)), x)
            x = build.add("flat", Flatten(), build.add("pool", pool, x))
            x = build.add("l.1", self.linear(64, 5, 0.3 if isinstance(pool, AvgPool2d) else 0.1, bias=True), x)
        else:
            x = build.add("l.0", self.linear(6, 9, 0.8), build.add("x", Input((6,))))
            if kind == "recurrent":
                x = build.add("sum", Add(), x, "back")
                build.feedback.append(("sum", "b"))
            x = build.add("n.0", self.neurons(cuba, leaks, 9, told), x)
            if kind == "recurrent":
                build.add("back", self.linear(9, 9, 0.4, bias=True), "n.0")
            x = build.add("l.1", self.linear(9, 5, 0.8, bias=not self.late), x)
        last: Node = Integrator(self.rng.uniform(0.5, 0.9, 5)) if kind == "li" else self.neurons(cuba, leaks, 5, told)
        build.add("n.1", last, x)
        return build.build(time_steps=STEPS, schedule="concurrent", outputs={"out": "n.1"})


def named(kind: str, told: dict[str, Any]) -> str:
    """After what is set, whose values are in the table beside it."""
    return "-".join([kind, *("lowest" if key == "lowest" else str(value) for key, value in told.items())])


def write(folder: Path, tool: str, kind: str, told: dict[str, Any]) -> None:
    graph = Networks(tool).network(kind, told)
    shape = graph.nodes["x"].shape()
    x = np.random.default_rng(1).integers(0, 2, (INPUTS, STEPS, *shape)).astype(np.float32)
    path = folder / f"{tool}-{named(kind, told)}"
    arrays: dict[str, Any] = {"x": x, "told": json.dumps(told)}
    try:
        write_for(graph, path.with_suffix(".nir"), tool, force=True)
        runs = [simulate(graph, values={"x": one}) for one in x]
        arrays["y"] = np.stack([(run.analog if kind == "li" else run.spikes)["n.1"] for run in runs])
    except ExportError as error:
        arrays["refused"] = str(error)
    np.savez_compressed(path.with_suffix(".npz"), **arrays)
    print(f"{path.name}: {arrays.get('refused', '')}", f"mean {arrays['y'].mean():.3f}" if "y" in arrays else "")


def main(folder: Path, tools: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for tool in tools:
        readouts = Integrator in IMPORTS[tool].nodes  # elsewhere a neuron that never fires stands for one
        for kind, told in [*((kind, {}) for kind in KINDS if kind != "li" or readouts), *SET.get(tool, [])]:
            write(folder, tool, kind, told)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] or list(IMPORTS))
