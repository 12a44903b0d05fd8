"""benchmarks/front.py: figures of cells without their checkpoints, against the report of the checkpoint."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.api.model import open_model
from neurotool.checkpoint import read_checkpoint
from neurotool.energy.dataflow import OUTPUT_STATIONARY
from neurotool.energy.measure import measure
from neurotool.graph import Linear
from neurotool.graph.graded import graded


@pytest.fixture(scope="module")
def front(repository: Path) -> ModuleType:
    sys.path.insert(0, str(repository / "benchmarks"))
    specification = importlib.util.spec_from_file_location("front", repository / "benchmarks" / "front.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def record(energy_checkpoint: Path) -> dict[str, Any]:
    content = read_checkpoint(energy_checkpoint)
    figures = {"teacher": 0.9, "student": 0.8, "kept": 8 / 9, "events_per_synapse": 0.25}
    zeros = {"embeddings.word_embeddings.weight": 0.5, "layers.0.query.weight": 0.25}
    return {"figures": figures, "config": content.config, "activity": content.activity, "zeros": zeros}


def test_shares_are_those_of_the_report(front: ModuleType, record: dict[str, Any], energy_checkpoint: Path) -> None:
    found = front.figures(record)
    report = open_model(energy_checkpoint).energy()
    pairs = {
        (pair.spiking.model.name, pair.spiking.numbers.name, pair.kind): pair.share
        for pair in report.comparisons
        if pair.dataflow == OUTPUT_STATIONARY
    }
    assert found["output-stationary: fair"] == pairs["horowitz-45nm-memory", "int8", "fair rival"]
    assert found["output-stationary: skipping"] == pairs["horowitz-45nm-memory", "int8", "zero-skipping"]
    assert found["spikes"] == report.counts.spikes_per_synapse
    assert set(front.RIVALS) <= found.keys()
    synapses = {name: node.weight.size for name, node in report.counts.graph.nodes.items() if isinstance(node, Linear)}
    assert found["zeros"] == pytest.approx(synapses["encoder.0.query.linear"] / 4 / sum(synapses.values()))


def test_graded_counts_are_those_of_the_graded_network(
    front: ModuleType, record: dict[str, Any], energy_checkpoint: Path
) -> None:
    model = open_model(energy_checkpoint)
    graph = graded(model.graph)
    inputs = [{"input_ids": np.array([2, 7, 9, 4, 3])}, {"input_ids": np.array([2, 8, 3])}]
    spiking, _ = measure(model.graph, inputs)
    messages, events = measure(graph, inputs)
    made, activity = front.as_messages(model.graph, spiking)
    assert made == graph and activity == messages
    assert front.events_of_activity(graph, activity) == events
    with_messages = front.figures(record, messages=True)
    assert with_messages["spikes"] < front.figures(record)["spikes"]


def test_rows_are_means_of_seeds_in_the_order_of_the_config(
    front: ModuleType, record: dict[str, Any], tmp_path: Path
) -> None:
    for name, student in (("mr-event-0.2-1", 0.7), ("sst2-event-0.2-42", 0.8), ("sst2-event-0.2-1", 0.6)):
        record["figures"]["student"] = student
        (tmp_path / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "sst2-bits-4-42.json").write_text('{"options": "not trained yet"}', encoding="utf-8")
    page, svg = tmp_path / "page.md", tmp_path / "front.svg"
    page.write_text("before\n<!-- front.py: begin -->\nold\n<!-- front.py: end -->\nafter\n", encoding="utf-8")
    result = CliRunner().invoke(front.main, [str(tmp_path), "--graded", "--write", str(page), "--plot", str(svg)])
    assert result.exit_code == 0, result.output
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["sst2", "event-0.2"], ["sst2", "event-0.2 graded"], ["mr", "event-0.2"], ["mr", "event-0.2 graded"],
    ]  # fmt: skip
    assert rows[0][2:4] == ["90.0", "70.0 ± 14.1"] and rows[0][-1] == "2" and rows[2][3] == "70.0"
    spiking = CliRunner().invoke(front.main, [str(tmp_path)]).stdout.splitlines()[2:]
    assert spiking == result.stdout.splitlines()[2::2]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- front.py: begin -->\n| data |") and "old" not in text and "after" in text
    assert "events per synapse" in svg.read_text(encoding="utf-8")


def test_an_empty_folder_is_one_line(front: ModuleType, tmp_path: Path) -> None:
    result = CliRunner().invoke(front.main, [str(tmp_path)])
    assert result.exit_code == 1 and "holds no finished cell" in result.output
