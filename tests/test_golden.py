"""What small students of every kind did when this was written: files, spikes, counts and logits, kept in golden.json.

Whatever is rebuilt, these stay. `python tests/test_golden.py` writes the file anew, after a change that means to differ
from it. Weights come from a formula, not from a random generator, whose numbers may change with its version. Whole
numbers are compared exactly, real ones to 1e-9: sums in another order may change their last bits.
"""

import dataclasses
import hashlib
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from neurotool.energy.counts import count
from neurotool.energy.measure import measure
from neurotool.export.chip import load_chip
from neurotool.export.drawing import to_dot
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.export.placement import place, populations
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Graph,
    GraphBuilder,
    Input,
    LayerNorm,
    Linear,
    MeanPool,
    Neuron,
    Readout,
    Scale,
)
from neurotool.lava_runtime.bundle import Bundle, write_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.network import Network
from neurotool.simulate import simulate
from neurotool.student import STUDENTS

GOLDEN = Path(__file__).parent / "golden.json"
TINY: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "v_threshold": 0.7,
}
STUDENT_CASES: dict[str, dict[str, Any]] = {
    "spikingbert phased binary": {"model_type": "spikingbert", "v_init": 0.25},
    "spikingbert phased ternary": {"model_type": "spikingbert", "spikes": "ternary", "time_steps": 3},
    "spikingbert phased leaky": {"model_type": "spikingbert", "leak": 0.9},
    "spikingbert concurrent binary": {"model_type": "spikingbert", "schedule": "concurrent"},
    "spikingbert concurrent ternary, leaky": {
        "model_type": "spikingbert", "schedule": "concurrent", "spikes": "ternary", "leak": 0.8, "reset": "hard",
    },
    "spikingbert phased feedback": {"model_type": "spikingbert", "feedback": True, "feedback_sweeps": 3},
    "spikingbert concurrent feedback": {"model_type": "spikingbert", "feedback": True, "schedule": "concurrent"},
    "spikebert": {"model_type": "spikebert", "v_threshold": 1.0},
    "spikformer ternary, no positions": {
        "model_type": "spikebert", "v_threshold": 1.0, "spikes": "ternary", "positions": "none",
    },
    "snn-textcnn": {"model_type": "snn-textcnn", "channels": 5, "time_steps": 6},
    "snn-textcnn ternary, one width": {
        "model_type": "snn-textcnn", "spikes": "ternary", "kernel_sizes": [2], "channels": 5, "time_steps": 6,
    },
    "ann": {"model_type": "ann"},
}  # fmt: skip
GRAPH_CASES = ("chain phased", "chain concurrent")
TEXTS = (9, 6, 1)
"""Tokens of the inputs, padded to the longest."""


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Between -1 and 1 in steps of 2^-15, from a hash of name and place."""
    size = math.prod(shape)
    digests = hashlib.sha256(name.encode()).digest() * 2
    blocks = [hashlib.sha256(digests + i.to_bytes(4, "big")).digest() for i in range(-(-size // 16))]
    return (np.frombuffer(b"".join(blocks), "<i2")[:size].astype(np.float32) / 2**15).reshape(shape)


def student_graph(case: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph, and the student's tensors."""
    options = TINY | STUDENT_CASES[case]
    network = STUDENTS[options.pop("model_type")]
    student = network(network.config_class(**{k: v for k, v in options.items() if k not in network.config_class.lacks}))
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if parameter.ndim == 0:
                continue  # gains of thresholds
            size = 0.2 if parameter.ndim == 1 else 0.7
            centre = 1.0 if parameter.ndim == 1 and name.lower().endswith("norm.weight") else 0.0
            parameter.copy_(torch.from_numpy(centre + size * numbers(name, tuple(parameter.shape))))
    return student.eval().to_graph(), {name: tensor.numpy() for name, tensor in student.state_dict().items()}


def chain_graph(schedule: Any) -> Graph:
    """What students have no use for: an Input, thresholds and factors for each neuron, feedback into a convolution."""
    build = GraphBuilder()
    x = build.add("in", Input(4, spiking=True))
    fed_back = build.add_feedback("back", Conv1d(numbers("back", (4, 6, 2))), "last")
    x = build.add("with_feedback", Add(), x, fed_back)
    s = build.add("first", Neuron(0.37, 0.75, "hard", "ternary"), x)
    x = build.add("conv", Conv1d(numbers("conv", (5, 4, 3)), numbers("conv.bias", (5,))), s)
    s2 = build.add("second", Neuron(0.3 + abs(numbers("v", (5,)).astype(np.float64)), 1.0, "soft", "binary"), x)
    x = build.add("linear", Linear(numbers("linear", (6, 9))), build.add("joined", Concat(2), s, s2))
    x = build.add("norm", LayerNorm(1 + numbers("n", (6,)) / 4, numbers("b", (6,)), 1e-5), x)
    x = build.add("scaled", Scale(1.5 + numbers("s", (6,))), x)
    last = build.add("last", Neuron(0.93, leak=0.5 + abs(numbers("leak", (6,)).astype(np.float64)) / 2), x)
    build.add("readout", Readout(numbers("r", (3, 6)), numbers("rb", (3,))), build.add("pool", MeanPool(), last))
    sweeps = 2 if schedule == "phased" else 1
    return build.build(time_steps=5, schedule=schedule, tokens=9, feedback_sweeps=sweeps)


def inputs_of(graph: Graph) -> list[dict[str, Any]]:
    """Padding holds values that matter if anything reads them."""
    longest = max(TEXTS)
    inputs = []
    for i, tokens in enumerate(TEXTS):
        one: dict[str, Any] = {"attention_mask": np.arange(longest) < tokens}
        if graph.of_type(Input):
            values = numbers(f"input {i}", (graph.time_steps, longest, 4))
            one["values"] = {"in": np.rint(values * 1.4)}
        else:
            one["input_ids"] = np.floor((numbers(f"ids {i}", (longest,)) + 1) * 15).astype(np.int64)
            one["token_type_ids"] = (np.arange(longest) >= tokens // 2).astype(np.int64)
        inputs.append(one)
    return inputs


def batched(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    batch = {name: np.stack([one[name] for one in inputs]) for name in inputs[0] if name != "values"}
    return batch | {"values": {n: np.stack([x["values"][n] for x in inputs]) for n in inputs[0].get("values", {})}}


def digest(content: Any) -> str:
    """Of arrays by type, shape and content, of all else by its JSON; in order."""
    total = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, np.ndarray):
            total.update(f"{value.dtype.str}{value.shape}".encode() + np.ascontiguousarray(value).tobytes())
        elif isinstance(value, dict):
            for key, inner in value.items():
                total.update(str(key).encode())
                add(inner)
        elif isinstance(value, (list, tuple)):
            total.update(str(len(value)).encode())
            for inner in value:
                add(inner)
        else:
            total.update(json.dumps(value).encode())

    add(content)
    return total.hexdigest()[:16]


def nir_content(graph: Graph, folder: Path) -> dict[str, Any]:
    """All that the file holds but for the version that wrote it."""
    write_nir(graph, folder / "model.nir", force=True)
    content: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name != "version":
            value = item[()]
            if name.endswith("metadata/neurotool"):
                content[name] = {k: v for k, v in json.loads(value).items() if k != "written_by"}
            else:
                content[name] = value if isinstance(value, np.ndarray) and value.dtype.kind != "O" else str(value)

    with h5py.File(folder / "model.nir") as file:
        file.visititems(keep)
    assert read_nir(folder / "model.nir") == graph
    return dict(sorted(content.items()))


def bundle_content(graph: Graph, folder: Path) -> str:
    write_bundle(folder / "model.lava", Bundle(graph), force=True)
    manifest = json.loads((folder / "model.lava" / "manifest.json").read_text("utf-8"))
    return digest([manifest["precision"], sorted(manifest["files"].items())])


def spread(graph: Graph) -> dict[str, Any]:
    """How Lava's processes divide the graph, and when each node acts."""
    network = Network(graph)
    line = network.time_line
    times = [line.sweeps, line.sweep_steps, line.window, line.acts, sorted(line.passing)]
    parts = [(p.kind, p.nodes, p.reads + p.reads_back, p.sends, bool(p.reads_back)) for p in network.parts]
    return {"parts": parts, "times": times}


def placed(graph: Graph) -> dict[str, Any]:
    found = {}
    for name in ("loihi1", "loihi2"):
        chip = load_chip(name)
        layers = place(populations(graph, chip, 7), chip)
        found[name] = {layer: _compared(where) for layer, where in layers.items()}
    return found


def _compared(item: Any) -> Any:
    """What makes two placements equal."""
    if dataclasses.is_dataclass(item):
        return [_compared(getattr(item, field.name)) for field in dataclasses.fields(item) if field.compare]
    return [_compared(inner) for inner in item] if isinstance(item, (list, tuple)) else item


def golden(case: str, folder: Path) -> dict[str, Any]:
    """All that is kept of one case. logits: of the interpreter, and of the fixed-point network."""
    if case in STUDENT_CASES:
        graph, tensors = student_graph(case)
    else:
        graph, tensors = chain_graph(case.split()[1]), {}
    inputs = inputs_of(graph)
    runs = [simulate(graph, **one) for one in inputs]
    emulated = Emulator(graph).run(**batched(inputs), record=True)
    for i, run in enumerate(runs):
        for name, spikes in run.spikes.items():
            np.testing.assert_array_equal(emulated.spikes[name][i], spikes)
        np.testing.assert_allclose(emulated.logits[i], run.logits, rtol=1e-9, atol=1e-12)
    # Powers of two: the last bit of what was seen must not matter.
    largest = {name: 2.0 ** math.ceil(math.log2(value or 1)) for name, value in emulated.largest.items()}
    fixed = lower(graph, largest)
    whole = Emulator(fixed, "clip").run(**batched(inputs), record=True)
    activity, events = measure(graph, inputs)
    counts = count(graph, activity, events)
    to_dot(graph, folder / "graph.dot", force=True)

    def totals(network: Any) -> dict[str, int]:
        return {name: value for name, value in dataclasses.asdict(counts.total(network)).items() if value}

    return {
        "tensors": digest(tensors),
        "graph": digest(list(graph.to_arrays())),
        "nir": digest(nir_content(graph, folder)),
        "bundle": bundle_content(graph, folder),
        "fixed bundle": bundle_content(fixed, folder),
        "spikes": digest([run.spikes for run in runs]),
        "spikes per layer": {name: sum(int(abs(run.spikes[name]).sum()) for run in runs) for name in runs[0].spikes},
        "events": digest([[name, port, e.events, e.synaptic_operations] for (name, port), e in events.items()]),
        "dense": totals("dense"),
        "spiking": totals("spiking"),
        "logits": [run.logits.tolist() for run in runs],
        "fixed messages": digest({name: x.astype(np.int64) for name, x in whole.messages.items()}),
        "fixed spikes": digest(whole.spikes),
        "fixed potentials": digest({name: x.astype(np.int64) for name, x in whole.potentials.items()}),
        "fixed events": digest([sorted((str(k), v.tolist()) for k, v in whole.synaptic_operations.items())]),
        "fixed logits": whole.logits.tolist(),
        "processes": digest([spread(graph), spread(fixed)]),
        "placement": digest(placed(fixed)),
        "drawing": digest((folder / "graph.dot").read_text("utf-8")),
    }


@pytest.mark.parametrize("case", [*STUDENT_CASES, *GRAPH_CASES])
def test_it_is_what_it_was(case: str, tmp_path: Path) -> None:
    expected = json.loads(GOLDEN.read_text("utf-8"))[case]
    found = golden(case, tmp_path)
    np.testing.assert_allclose(found.pop("logits"), expected.pop("logits"), rtol=1e-9, atol=1e-12)
    assert found == expected


def test_neurons_of_the_cases_spike_and_are_silent() -> None:
    """Else the cases would say little."""
    for case, expected in json.loads(GOLDEN.read_text("utf-8")).items():
        spikes = expected["spikes per layer"]
        assert case == "ann" or (all(spikes.values()) and len(set(spikes.values())) > 1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        kept = {case: golden(case, Path(folder)) for case in [*STUDENT_CASES, *GRAPH_CASES]}
    lines = [
        ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in found.items())
        for found in kept.values()
    ]
    cases = ",\n".join(f"{json.dumps(case)}: {{\n{inner}\n}}" for case, inner in zip(kept, lines, strict=True))
    GOLDEN.write_text(f"{{\n{cases}\n}}\n", encoding="utf-8")
