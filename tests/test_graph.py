"""The layer graph: what it refuses, and that it survives being stored."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from random_graphs import graphs

from neurotool.errors import GraphError, NeurotoolError
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    Gelu,
    Graph,
    GraphBuilder,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    Readout,
    Scale,
    Softmax,
)

ONES = np.ones((3, 2))


def tiny(**settings: Any) -> Graph:
    """Input of width 2 -> Linear to 3 -> Neuron -> mean -> Readout of 1."""
    return builder().build(**{"time_steps": 2, "schedule": "phased", "tokens": 4} | settings)


def builder(linear: Node | None = None, neuron: Node | None = None) -> GraphBuilder:
    build = GraphBuilder()
    build.add("in", Input(2))
    build.add("linear", linear or Linear(ONES, np.zeros(3)), "in")
    build.add("neurons", neuron or Neuron(), "linear")
    build.add("pool", MeanPool(), "neurons")
    build.add("readout", Readout(np.ones((1, 3))), "pool")
    return build


def after(node: Node, *sources: str) -> Callable[[], Graph]:
    """A graph that has `node` beside the tiny one's."""

    def make() -> Graph:
        build = builder()
        build.add("scores", MatMul(1, transpose_b=True), "linear", "neurons")
        build.add("extra", node, *sources)
        return build.build(time_steps=1, schedule="phased")

    return make


def changed(**fields: Any) -> Callable[[], Graph]:
    def make() -> Graph:
        return dataclasses.replace(tiny(), **fields)

    return make


def with_parts(linear: Node | None = None, neuron: Node | None = None) -> Callable[[], Graph]:
    return lambda: builder(linear, neuron).build(time_steps=1, schedule="phased")


def duplicate() -> Graph:
    build = builder()
    build.add("linear", Gelu(), "in")
    return build.build(time_steps=1, schedule="phased")


def no_source() -> Graph:
    return Graph({}, {}, time_steps=1, schedule="phased")


def two_readouts() -> Graph:
    build = builder()
    build.add("again", Readout(np.ones((1, 3))), "pool")
    return build.build(time_steps=1, schedule="phased")


def few_positions() -> Graph:
    build = GraphBuilder()
    build.add("position", Embedding(ONES, "position_ids"))
    return build.build(time_steps=1, schedule="phased", tokens=8)


def loop(declare: bool, through: Node | None = None, source: str = "late") -> Callable[[], Graph]:
    """in -> sum -> late -> back -> sum, where `back` comes first."""

    def make() -> Graph:
        build = GraphBuilder()
        build.add("in", Input(3))
        back = through or Linear(np.ones((3, 3)))
        (build.add_feedback if declare else build.add)("back", back, source)
        build.add("sum", Add(), "in", "back")
        build.add("late", Neuron(), "sum")
        return build.build(time_steps=1, schedule="concurrent")

    return make


def out_of_order() -> Graph:
    graph = tiny()
    return dataclasses.replace(graph, nodes={n: graph.nodes[n] for n in ("in", "neurons", "linear", "pool", "readout")})


NAN = np.array([[1.0, np.nan], [1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (changed(time_steps=0), "time_steps is 0"),
        (changed(time_steps=True), "time_steps is True"),
        (changed(tokens=0), "tokens is 0"),
        (changed(feedback_sweeps=0), "feedback_sweeps is 0"),
        (changed(feedback_sweeps=2), "feedback_sweeps is 2: without feedback it must be 1"),
        (changed(schedule="async"), "schedule is 'async'"),
        (changed(metadata={"x": {1, 2}}), "metadata is not JSON"),
        (changed(metadata={"x": float("nan")}), "metadata is not JSON"),
        (changed(labels=("a", "b")), "2 labels for 1 outputs"),
        (changed(nodes={"in": "no node"}), "node in is a str"),
        (changed(nodes={"a/b": Input(2)}), "node name 'a/b'"),
        (changed(feedback=(("linear", "y"),)), "feedback names port y of node 'linear'"),
        (changed(feedback=(("linear", "x"),)), r"node linear .*port x reads 'in', which comes before it"),
        (changed(inputs=tiny().inputs | {"ghost": ()}), "inputs are given for ghost"),
        (changed(inputs=tiny().inputs | {"linear": ()}), r"node linear \(Linear\) has 0 inputs for 1 ports; open: x"),
        (changed(inputs=tiny().inputs | {"linear": ("in", "in")}), "node linear .*2 inputs for 1 ports; open: none"),
        (changed(inputs=tiny().inputs | {"linear": ("ghost",)}), "node linear .*port x reads 'ghost', but there is no"),
        (out_of_order, "node neurons .*port x reads 'linear', which comes later: out of emission order"),
        (loop(declare=False), r"node back \(Linear\): port x reads 'late', which comes later: a cycle"),
        (
            loop(declare=True, through=Linear(np.ones((3, 2)))),
            r"node back \(Linear\): feedback port x .*needs \(tokens, 2",
        ),
        (duplicate, r"node linear \(Gelu\): the name is taken by a Linear"),
        (no_source, "no Input and no Embedding"),
        (two_readouts, "nodes readout and again are both a Readout"),
        (few_positions, r"node position \(Embedding\) has 3 positions for up to 8 tokens"),
        (with_parts(Linear(NAN)), r"node linear \(Linear\): weight has 1 of 6 values that are not finite"),
        (with_parts(Linear(ONES[0])), "node linear .*weight has shape .*2 axes"),
        (with_parts(Linear(ONES[:0])), "node linear .*none of size 0"),
        (with_parts(Linear([[1.0, 1.0]])), "node linear .*weight is a list"),  # type: ignore[arg-type]
        (with_parts(Linear(ONES + 1j)), "node linear .*weight is an array of complex128"),
        (with_parts(Linear(ONES, np.zeros(2))), r"node linear .*bias has shape \(2,\)"),
        (with_parts(Linear(np.ones((3, 5)))), r"node linear .*port x has shape \(tokens, 2\), but needs \(tokens, 5\)"),
        (with_parts(Conv1d(np.ones((3, 5, 1)))), r"node linear \(Conv1d\): port x has shape \(tokens, 2\)"),
        (after(Concat(0)), "parts is 0: it must be a whole number of at least 1"),
        (after(Concat(2), "linear", "scores"), r"node extra \(Concat\): port x1 has shape \(1, tokens, tokens\)"),
        (after(Concat(2), "linear"), r"node extra \(Concat\) has 1 inputs for 2 ports; open: x1"),
        (
            with_parts(neuron=Neuron(v_threshold=0.0)),
            r"node neurons \(Neuron\): v_threshold is 0.0: it must be above 0",
        ),
        (with_parts(neuron=Neuron(v_threshold=float("inf"))), "v_threshold is inf"),
        (with_parts(neuron=Neuron(v_threshold=np.array([1.0, -2.0, 1.0]))), "v_threshold is -2.0"),
        (
            with_parts(neuron=Neuron(v_threshold=np.ones(2))),
            r"port x has shape \(tokens, 3\), but v_threshold is \(2,\)",
        ),
        (with_parts(neuron=Neuron(leak=1.5)), "leak is 1.5"),
        (with_parts(neuron=Neuron(leak=np.ones(4))), r"leak is \(4,\)"),
        (with_parts(neuron=Neuron(reset="late")), "reset is 'late'"),  # type: ignore[arg-type]
        (with_parts(neuron=Neuron(v_reset=0.5)), "v_reset is 0.5: with soft reset it must be 0"),
        (with_parts(neuron=Neuron(v_min=0.5)), "v_min is 0.5: it must be 0 or below"),
        (with_parts(neuron=Neuron(bias=np.zeros(2))), r"bias is \(2,\): one per neuron, or one"),
        (with_parts(neuron=Neuron(spikes="ternary", reset="soft-late")), "reset is soft-late: that is for binary"),
        (with_parts(neuron=Neuron(spikes="graded")), "spikes is 'graded'"),  # type: ignore[arg-type]
        (with_parts(neuron=Neuron(v_init=float("inf"))), "v_init is inf: it must be a finite number"),
        (after(MatMul(2, True), "neurons", "neurons"), "port b has width 3, which 2 heads do not divide"),
        (after(MatMul(0), "scores", "neurons"), "heads is 0"),
        (after(MatMul(1, 1), "scores", "neurons"), "transpose_b is 1"),  # type: ignore[arg-type]
        (after(MatMul(1), "neurons", "neurons"), r"node extra \(MatMul\): port a has shape \(tokens, 3\)"),
        (after(MatMul(1, True), "in", "neurons"), r"port a has shape \(tokens, 2\), but needs \(tokens, 3\)"),
        (after(MatMul(1), "scores", "scores"), r"port b has shape \(1, tokens, tokens\)"),
        (after(Softmax(), "neurons"), r"node extra \(Softmax\): port x has shape \(tokens, 3\)"),
        (after(Gelu(), "scores"), r"node extra \(Gelu\): port x"),
        (after(Neuron(), "scores"), r"node extra \(Neuron\): port x"),
        (after(LayerNorm(np.ones(2), np.ones(2)), "neurons"), r"node extra \(LayerNorm\): port x"),
        (after(LayerNorm(np.ones(3), np.ones(2)), "neurons"), "bias has shape"),
        (after(LayerNorm(np.ones(3), np.ones(3), -1.0), "neurons"), "epsilon is -1.0"),
        (after(Add(), "in", "neurons"), r"node extra \(Add\): port b has shape \(tokens, 3\), but needs \(tokens, 2\)"),
        (after(Add(), "pool", "pool"), "only a Readout reads"),
        (after(Scale(1.0), "pool"), "only a Readout reads"),
        (after(Scale(np.ones(2)), "neurons"), r"factor is \(2,\)"),
        (after(Scale(float("nan")), "neurons"), "factor is nan"),
        (after(MeanPool("max"), "neurons"), "pooling is 'max'"),  # type: ignore[arg-type]
        (after(MeanPool(), "scores"), r"node extra \(MeanPool\): port x"),
        (after(Readout(np.ones((2, 3))), "neurons"), r"node extra \(Readout\): port x"),
        (after(Embedding(ONES, "ids")), "ids is 'ids'"),  # type: ignore[arg-type]
        (after(Input(0)), "width is 0"),
        (after(Input(2, spiking=1)), "spiking is 1"),  # type: ignore[arg-type]
    ],
)
def test_refused(make: Callable[[], Graph], message: str) -> None:
    with pytest.raises(GraphError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, NeurotoolError)


def test_shapes_and_lookups() -> None:
    graph = after(Softmax(), "scores")()
    assert graph.shapes() == {
        "in": ("tokens", 2),
        "linear": ("tokens", 3),
        "neurons": ("tokens", 3),
        "pool": (3,),
        "readout": (1,),
        "scores": (1, "tokens", "tokens"),
        "extra": (1, "tokens", "tokens"),
    }
    assert graph.source("scores", "b") == "neurons"
    assert graph.of_type(MatMul) == ["scores"]


def test_declared_feedback_is_no_cycle() -> None:
    assert loop(declare=True)().feedback == (("back", "x"),)
    assert loop(declare=True, source="sum")().source("back", "x") == "sum"


@given(graphs())
def test_stored_and_read_back_is_the_same_graph(graph: Graph) -> None:
    description, arrays = graph.to_arrays()
    copies = {name: array.copy() for name, array in arrays.items()}
    again = Graph.from_arrays(json.loads(json.dumps(description, allow_nan=False)), copies)
    assert again == graph
    assert again.to_arrays()[0] == description
    assert again.shapes() == graph.shapes()


@pytest.mark.parametrize(
    "other",
    [
        changed(time_steps=3),
        changed(schedule="concurrent"),
        changed(tokens=5),
        changed(labels=("one",)),
        changed(metadata={"a": 1}),
        with_parts(Linear(ONES)),
        with_parts(Linear(ONES.astype(np.float32), np.zeros(3))),
        with_parts(Linear(ONES * 1.0000001, np.zeros(3))),
        with_parts(neuron=Neuron(reset="hard")),
        with_parts(neuron=Neuron(v_threshold=np.ones(3))),
        with_parts(neuron=Gelu()),
    ],
)
def test_graphs_that_differ_are_not_equal(other: Callable[[], Graph]) -> None:
    settings = {"time_steps": 2, "schedule": "phased", "tokens": 4}
    graph = other()
    if graph.time_steps == 1:  # made by with_parts
        graph = dataclasses.replace(graph, **settings)
    assert graph != tiny()
    assert tiny() == tiny()


def test_order_of_nodes_is_part_of_equality() -> None:
    def two(first: str, second: str) -> Graph:
        return Graph({first: Input(1), second: Input(1)}, {first: (), second: ()}, time_steps=1, schedule="phased")

    assert two("a", "b") != two("b", "a")


def damage(change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any]) -> Graph:
    description, arrays = tiny().to_arrays()
    description = json.loads(json.dumps(description))
    change(description, arrays)
    return Graph.from_arrays(description, arrays)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d, a: d.update(format_version=2), "graph format version 2, but this neurotool reads version 1"),
        (lambda d, a: d.clear(), "graph format version None"),
        (lambda d, a: d.pop("schedule"), "differ in 'schedule'"),
        (lambda d, a: d.update(extra=1), "differ in 'extra'"),
        (lambda d, a: d["nodes"][0].update(type="Lif"), "node in has type 'Lif': known types are .*Input"),
        (lambda d, a: d["nodes"][0]["parameters"].pop("width"), "parameter width is missing or unknown"),
        (lambda d, a: d["nodes"][0]["parameters"].update(depth=1), "parameter depth is missing or unknown"),
        (lambda d, a: d["nodes"].append(d["nodes"][0]), "the name is taken by a Input"),
        (lambda d, a: d["nodes"][0].pop("name"), "description is damaged: KeyError"),
        (lambda d, a: d.update(nodes=None), "description is damaged: TypeError"),
        (lambda d, a: d.update(labels=3), "description is damaged: TypeError"),
        (lambda d, a: d["nodes"][1].update(parameters=[1]), "description is damaged"),
        (lambda d, a: a.pop("linear.weight"), "array 'linear.weight' of weight is missing"),
        (lambda d, a: a.update(more=np.ones(1)), "array more belongs to no node"),
        (lambda d, a: a.update({"linear.weight": np.ones((3, 7))}), "node linear .*port x"),
        (lambda d, a: d["nodes"][1]["parameters"].update(bias="abc") or a.pop("linear.bias"), "bias is a str"),
        (lambda d, a: d["nodes"][1].update(inputs=[["in"]]), "description is damaged: TypeError"),
        (lambda d, a: d.update(feedback=["linear"]), "description is damaged: ValueError"),
        (lambda d, a: d["nodes"][2]["parameters"].update(v_threshold="abc"), "v_threshold is 'abc'"),
        (lambda d, a: d.update(time_steps=0), "time_steps is 0"),
        (lambda d, a: d.update(time_steps="4"), "time_steps is '4'"),
        (lambda d, a: d.update(schedule=["phased"]), "schedule is"),
        (lambda d, a: d.update(labels=[["a"]]), "labels are .*must be text"),
    ],
)
def test_damaged_descriptions(change: Callable[[dict[str, Any], dict[str, np.ndarray]], Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        damage(change)


def test_needs_no_torch() -> None:
    code = (
        "import sys, neurotool.graph, neurotool.simulate; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
