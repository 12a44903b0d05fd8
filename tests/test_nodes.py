"""Every room has an entry for every type of node; a type from elsewhere (toy_node.py) goes all the way."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_node import Clipped

from neurotool.energy.counts import count
from neurotool.energy.measure import measure
from neurotool.energy.rules import RULES
from neurotool.errors import GraphError
from neurotool.export.chip import load_chip
from neurotool.export.drawing import DRAWINGS, to_dot
from neurotool.export.fit import fit_report
from neurotool.export.lower import LOWERINGS, lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.export.placement import PLACES
from neurotool.export.to_nir import NIR_FORMS, to_nir
from neurotool.graph import NODE_TYPES, Graph, GraphBuilder, Input, Linear, MeanPool, Neuron, Node, NodeTable, Readout
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.bundle import Bundle, read_bundle, write_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.integer import INTEGER_FORMS
from neurotool.lava_runtime.network import PART_KINDS, Network
from neurotool.lava_runtime.run import run_on_lava
from neurotool.simulate import simulate

TABLES: tuple[NodeTable[Any], ...] = (INTEGER_FORMS, PART_KINDS, LOWERINGS, PLACES, NIR_FORMS, DRAWINGS, RULES)
SPIKES = np.array([[[1, 0], [1, 1]], [[1, 1], [1, 0]], [[0, 1], [1, 1]], [[1, 1], [1, 1]]])
"""(T, tokens, width)"""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.what)
def test_a_table_has_an_entry_for_every_type(table: NodeTable[Any]) -> None:
    assert table.missing() == []


@dataclass(frozen=True, eq=False)
class Unknown(Node):
    """y = x, and no table knows it."""

    def shape(self, *inputs: Any) -> Any:
        return inputs[0]

    def compute(self, context: Any, *x: np.ndarray) -> np.ndarray:
        return x[0]


def chain(node: Node, schedule: Any = "phased") -> Graph:
    build = GraphBuilder()
    x = build.add("linear", Linear(np.array([[0.5, 0.25], [-0.5, 0.75], [1.0, 1.0]])), build.add("in", Input(2, True)))
    s = build.add("neurons", Neuron(0.53), build.add("toy", node, x))
    build.add("readout", Readout(np.array([[1.0, -1.0, 0.5]])), build.add("pool", MeanPool(), s))
    return build.build(time_steps=4, schedule=schedule, tokens=2)


def test_what_a_table_lacks_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"node toy is a Unknown: known types are .*Input"):
        chain(Unknown())
    monkeypatch.setitem(NODE_TYPES, "Unknown", Unknown)
    graph = chain(Unknown())
    assert simulate(graph, values={"in": SPIKES}).logits is not None  # its meaning needs no table
    for table in TABLES:
        assert table.missing() == ["Unknown"]
        with pytest.raises(GraphError, match=rf"node toy \(Unknown\) has no {table.what}"):
            table.of("toy", graph.nodes["toy"])
    for use, what in (
        (lambda: lower(graph, dict.fromkeys(graph.nodes, 1.0)), LOWERINGS.what),
        (lambda: to_nir(graph), NIR_FORMS.what),
        (lambda: to_dot(graph, tmp_path / "graph.dot"), NIR_FORMS.what),
        (lambda: Network(graph).parts, PART_KINDS.what),
        (lambda: count(graph, *measure(graph, [{"values": {"in": SPIKES}}])), RULES.what),
    ):
        with pytest.raises(GraphError, match=what):
            use()


def test_a_toy_computes_what_it_says() -> None:
    """Over 4 steps token 0 sends (3, 3), token 1 (4, 3): linear gives (.5625, .1875, 1.5) and (.6875, .0625, 1.75)."""
    run = simulate(chain(Clipped(0.6)), values={"in": SPIKES})
    drive = np.minimum([[0.5625, 0.1875, 1.5], [0.6875, 0.0625, 1.75]], 0.6) / 0.53
    np.testing.assert_array_equal(run.rates["neurons"] * 4, np.clip(np.floor(drive * 4), 0, 4))
    with pytest.raises(GraphError, match=r"node toy \(Clipped\): ceiling is 0"):
        chain(Clipped(0))


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_a_toy_is_the_same_everywhere(schedule: str, tmp_path: Path) -> None:
    graph, batch = chain(Clipped(0.6), schedule), {"values": {"in": SPIKES[None]}}
    oracle, emulated = simulate(graph, values={"in": SPIKES}), Emulator(graph).run(**batch, record=True)
    np.testing.assert_array_equal(emulated.spikes["neurons"][0], oracle.spikes["neurons"])
    np.testing.assert_allclose(emulated.logits[0], oracle.logits, rtol=1e-12)
    fixed = lower(graph, emulated.largest)
    whole = Emulator(fixed).run(**batch, record=True)
    np.testing.assert_array_equal(whole.spikes["neurons"], emulated.spikes["neurons"])
    ceiling = fixed.nodes["toy"].ceiling  # type: ignore[attr-defined]
    assert whole.messages["toy"].max() == ceiling == round(0.6 / fixed.fixed_point["toy"].scale)
    write_nir(graph, tmp_path / "toy.nir")
    assert read_nir(tmp_path / "toy.nir") == graph
    write_bundle(tmp_path / "toy.lava", Bundle(fixed))
    assert read_bundle(tmp_path / "toy.lava").graph == fixed
    if problem := compatibility.installation_problem():
        pytest.skip(problem)
    for network, expected in ((graph, emulated), (fixed, whole)):
        lava = run_on_lava(network, **batch, record=tuple(network.nodes), timeout=120)
        np.testing.assert_array_equal(lava.spikes["neurons"], expected.spikes["neurons"])
        np.testing.assert_allclose(lava.messages["toy"], expected.messages["toy"], rtol=0, atol=1e-12)


def test_a_toy_is_counted_placed_and_drawn(tmp_path: Path) -> None:
    graph = chain(Clipped(0.6))
    counts = {node.name: node for node in count(graph, *measure(graph, [{"values": {"in": SPIKES}}])).nodes}
    assert (counts["toy"].spiking.compares, counts["toy"].spiking.value_reads) == (2 * 6, 6)
    fixed = lower(graph, dict.fromkeys(graph.nodes, 2.0))
    report = fit_report(fixed, load_chip("loihi1"))
    assert [layer.nodes for layer in report.layers] == [("linear", "toy", "neurons")]
    assert any("toy (Clipped)" in finding.detail for finding in report.broken)
    to_dot(graph, tmp_path / "graph.dot")
    assert "0 … 0.6" in (tmp_path / "graph.dot").read_text("utf-8")
