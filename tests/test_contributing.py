"""What docs/contributing.md says of students, chips and cost models, done with toy ones; nodes: test_nodes.py."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_fit import dense
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.checkpoint import write_checkpoint
from neurotool.energy.costs import load_cost_model, price
from neurotool.energy.counts import count
from neurotool.energy.measure import measure
from neurotool.export.chip import REQUIRED, load_chip
from neurotool.export.fit import fit_report
from neurotool.graph import Graph, GraphBuilder, Input, Linear, Neuron
from neurotool.lava_runtime.emulator import Emulator
from neurotool.sentences import random_inputs
from neurotool.simulate import Interpreter
from neurotool.student import STUDENTS, Student
from neurotool.student.building import add_embeddings, finished, neuron_node
from neurotool.student.configuration import StudentConfig
from neurotool.student.emission import NeuronLayer
from neurotool.student.serialise import load_student, to_checkpoint
from neurotool.student.tracing import TorchExecutor
from neurotool.student.unrolled import HandOn, UnrolledStudent, ignore
from neurotool.tasks import Task
from neurotool.validate import compare


class BagConfig(StudentConfig):
    model_type = "bag-of-words"
    schedules = ("concurrent",)

    schedule: str = "concurrent"


class BagForSequenceClassification(UnrolledStudent):
    """The embedding as spikes, and the readout."""

    config_class = BagConfig
    base_model_prefix = "bag"
    config: BagConfig

    def __init__(self, config: BagConfig) -> None:
        config.check()
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.embedding_neurons = NeuronLayer("embedding", config.v_threshold, False, config.dynamics)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def _sweep(self, current: Tensor, mask: Tensor) -> Callable[..., Tensor]:
        def sweep(emit: Any, state: Tensor | None = None, hand_on: HandOn = ignore) -> Tensor:
            s: Tensor = emit(self.embedding_neurons, current)
            hand_on(s)
            return s

        return sweep

    def to_graph(self) -> Graph:
        build = GraphBuilder()
        current = add_embeddings(build, self.embeddings)
        s = build.add("embedding", neuron_node(self.embedding_neurons), current)
        return finished(build, self.config, self.classifier, s)


def test_a_student(tiny_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STUDENTS, "bag-of-words", BagForSequenceClassification)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student: Student = BagForSequenceClassification(
            BagConfig(vocab_size=31, hidden_size=12, v_threshold=0.7)
        ).eval()
    graph = student.to_graph()
    for other in (Interpreter(graph), Emulator(graph)):
        result = compare(TorchExecutor(student), other, random_inputs(graph, 3))
        assert result.problems == [] and result.layers["embedding"].spikes_a > 0
    tokenizer, task = AutoTokenizer.from_pretrained(tiny_teacher), Task("t", ("sentence",), ("bad", "good"), ("f1",))
    write_checkpoint(tmp_path / "model.ckpt", to_checkpoint(student, tokenizer, task, {}, {}))
    loaded = load_student(tmp_path / "model.ckpt").model
    assert isinstance(loaded, BagForSequenceClassification) and loaded.to_graph() == graph


def test_a_chip(tmp_path: Path) -> None:
    """Ten neurons take three cores of four; what its file leaves out is not checked."""
    limits = dict.fromkeys(REQUIRED, 64) | {"synapse_bits_per_core": 10**6, "neurons_per_core": 4}
    entries = {
        name: {"value": value, "unit": "units", "status": "documented", "source": "its data sheet"}
        for name, value in limits.items()
    }
    (tmp_path / "toy.json").write_text(json.dumps({"name": "Toy", "technology": "1 nm", "limits": entries}))
    report = fit_report(dense(6, 10), load_chip(tmp_path / "toy.json"))
    assert [layer.cores for layer in report.layers] == [3]
    unchecked = {finding.rule for finding in report.findings if finding.status == "not checked"}
    assert {"fan-in fits the axons", "fan-out fits the axons"} <= unchecked


def test_a_cost_model(tmp_path: Path) -> None:
    """Three spikes into two neurons: six accumulates of 2.5 pJ."""
    constant = {"value": 2.5, "unit": "pJ", "node": "1 nm", "voltage": "1 V", "source": "a guess", "status": "derived"}
    bits = dict.fromkeys(("weight", "value", "state"), 8)
    model = {
        "format_version": 1, "name": "toy", "title": "a toy", "technology": "1 nm",
        "formats": {"int8": {"bits": bits, "constants": {"add": constant}}},
        "operations": {"accumulates": {"add": 1}}, "notes": {}, "out_of_scope": [], "leaves_out": ["all else"],
    }  # fmt: skip
    (tmp_path / "toy.json").write_text(json.dumps(model))
    prices = load_cost_model(str(tmp_path / "toy.json"))
    build = GraphBuilder()
    synapse = build.add("linear", Linear(np.ones((2, 3))), build.add("in", Input(3, spiking=True)))
    build.add("neurons", Neuron(), synapse)
    graph = build.build(time_steps=2, schedule="concurrent")
    spikes = np.array([[[1, 0, 1]], [[0, 1, 0]]])
    counts = {node.name: node for node in count(graph, *measure(graph, [{"values": {"in": spikes}}])).nodes}
    assert price(prices, prices.default_format, counts["linear"]).total == 6 * 2.5
