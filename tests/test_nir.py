"""NIR files: identical graphs back, stock `nir.read`, foreign files of standard nodes, and files that are not right."""

import dataclasses
import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_input

from neurotool.api.model import open_model
from neurotool.cli.main import cli
from neurotool.errors import ConfigError, ExportError, GraphError
from neurotool.export.conventions import Conventions
from neurotool.export.drawing import layout
from neurotool.export.from_nir import from_nir
from neurotool.export.nir import read_nir, write_nir
from neurotool.export.to_nir import expressible, to_nir
from neurotool.graph import (
    Add,
    Embedding,
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
from neurotool.inputs import fitted
from neurotool.simulate import simulate

FOREIGN: dict[str, Any] = {"reset": "soft", "time_step": 1.0, "time_steps": 6, "fires": ">="}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.nir"


# Round trip


@given(graphs())
@settings(max_examples=30)
def test_every_graph_comes_back_identical(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    path = tmp_path_factory.mktemp("nir") / "model.nir"
    write_nir(graph, path)
    nir.read(path)  # with its type check
    assert read_nir(path) == graph
    again = path.with_name("again.nir")
    write_nir(read_nir(path), again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int32, ">f4"])
def test_types_of_arrays_are_kept(dtype: Any, file: Path) -> None:
    """A fixed-point graph is the same graph with integers."""
    build = GraphBuilder()
    x = build.add("linear", Linear(np.array([[1, 2]], dtype), np.array([3], dtype)), build.add("in", Input(2)))
    build.add("neurons", Neuron(np.array([4], dtype), 1.0), build.add("again", Linear(np.ones((1, 1), dtype)), x))
    graph = build.build(time_steps=2, schedule="phased", metadata={"ü": [1, None, {"a": True}]})
    write_nir(graph, file)
    assert read_nir(file) == graph


def test_a_students_graph(make_student: Callable[..., Any], file: Path) -> None:
    graph = make_student(num_labels=3, feedback=True).to_graph()
    write_nir(graph, file)
    assert read_nir(file) == graph
    content = nir.read(file)
    standard = {name for name, node in content.nodes.items() if not isinstance(node, (nir.Input, nir.Output))}
    assert standard == {
        name for name, node in graph.nodes.items() if isinstance(node, (Linear, Neuron, Readout))
    }  # every synapse and neuron layer, under its own name
    key = content.nodes["encoder.0.key.linear"]
    assert np.array_equal(key.weight, graph.nodes["encoder.0.key.linear"].weight)  # type: ignore[attr-defined]
    edges = set(content.edges)
    # the cut at the attention, and the residual stream as a sum of edges into the LayerNorm
    assert {("encoder.0.query.linear", "encoder.0.scores.a"), ("encoder.0.key", "encoder.0.scores.b")} <= edges
    assert {("encoder.0.context", "encoder.0.attention"), ("encoder.1.output", "feedback")} <= edges
    residual = {source for source, target in edges if target == "encoder.0.self_output.norm.x"}
    assert residual == {"embedding", "encoder.0.self_output.linear"}
    assert content.nodes["encoder.0.context"].metadata == {"operation": "MatMul"}
    assert {key: content.metadata[key] for key in ("dt", "time_unit", "time_steps", "schedule", "fires")} == {
        "dt": 1.0, "time_unit": "time step", "time_steps": 4, "schedule": "phased", "fires": ">=",
    }  # fmt: skip


def test_parameters_of_neurons(file: Path) -> None:
    """LIF: v <- v + dt/tau (r I - v) with dt 1 is leak v + I for tau = r = 1 / (1 - leak)."""
    build = GraphBuilder()
    x = build.add("in", Input(2))
    build.add("lif", Neuron(np.array([2.0, 3.0]), 0.75, "hard"), x)
    build.add("if", Neuron(2.0), x)
    build.add("ternary", Neuron(2.0, 1.0, spikes="ternary", v_init=0.25), x)
    build.add("mixed", Neuron(1.0, np.array([1.0, 0.5])), x)
    write_nir(build.build(time_steps=1, schedule="concurrent"), file)
    nodes = nir.read(file).nodes
    assert (nodes["lif"].tau.tolist(), nodes["lif"].r.tolist()) == ([4, 4], [4, 4])
    assert (nodes["lif"].v_threshold.tolist(), nodes["lif"].metadata["reset"]) == ([2, 3], "hard")
    assert (nodes["if"].r.tolist(), nodes["if"].v_threshold.tolist()) == ([1, 1], [2, 2])
    assert nodes["ternary"].v_threshold.tolist() == [1, 1]  # fires at half of what it subtracts
    assert {key: nodes["ternary"].metadata[key] for key in ("spikes", "v_init")} == {
        "spikes": "ternary",
        "v_init": 0.25,
    }
    assert nodes["mixed"].tau.tolist() == [2.0**60, 2]


def test_sums_that_edges_cannot_express_stay_operations(file: Path) -> None:
    build = GraphBuilder()
    x = build.add("in", Input(2))
    twice = build.add("twice", Add(), x, x)
    build.add("linear", Linear(np.ones((2, 2))), twice)
    build.add("linear.output", Scale(2.0), build.add("last", Add(), "linear", x))  # a name that an end would take
    graph = build.build(time_steps=1, schedule="concurrent")
    write_nir(graph, file)
    assert read_nir(file) == graph
    assert expressible(graph) == {"in", "linear", "last", "linear.output"}
    content = nir.read(file)
    assert {("in", "twice.a"), ("in", "twice.b"), ("twice", "linear")} <= set(content.edges)


def test_a_cut_never_takes_the_name_of_a_node(file: Path) -> None:
    build = GraphBuilder()
    x = build.add("in", Input(2))
    norm = build.add("norm", LayerNorm(np.ones(2), np.zeros(2)), x)
    build.add("norm.x", Neuron(), norm)
    graph = build.build(time_steps=1, schedule="concurrent")
    write_nir(graph, file)
    assert read_nir(file) == graph
    assert isinstance(nir.read(file).nodes["norm.x_"], nir.Output)


@given(graphs(), st.integers(0, 99))
@settings(max_examples=30)
def test_standard_nodes_alone_mean_the_same(tmp_path_factory: pytest.TempPathFactory, graph: Graph, seed: int) -> None:
    """Each neuron layer of a file without neurotool's text, run by itself, spikes as in the graph."""
    path = tmp_path_factory.mktemp("nir") / "model.nir"
    write_nir(graph, path)
    read = read_nir(path, standard_nodes=True)
    assert read.time_steps == graph.time_steps
    rng = np.random.default_rng(seed)
    for name in graph.of_type(Neuron):
        current = rng.normal(size=(graph.time_steps, 1, 4))
        alone = [
            Graph({"in": Input(4), name: g.nodes[name]}, {"in": (), name: ("in",)}, g.time_steps, "concurrent")
            for g in (graph, read)
        ]
        a, b = (simulate(g, values={"in": current}).spikes[name] for g in alone)
        assert np.array_equal(a, b)


# Foreign files


def foreign(*nodes: nir.NIRNode, **metadata: Any) -> nir.NIRGraph:
    graph = nir.NIRGraph.from_list(*nodes, type_check=False)  # nir 1.0.8 forgets the groups of a Conv1d
    graph.metadata = metadata
    return graph


def spikes_of(graph: Graph, x: np.ndarray) -> np.ndarray:
    """Of the last layer, (steps, tokens, width), for x (tokens, width); without tokens as of one."""
    (name,) = graph.of_type(Input)
    x = x if graph.has_tokens else x[0]
    spikes = simulate(graph, values={name: x}).spikes[graph.of_type(Neuron)[-1]]
    return spikes if graph.has_tokens else spikes[:, None]


def leaky(**changes: Any) -> nir.LIF:
    """tau 2 and 4 at dt 1: keeps 1/2 and 3/4, and adds 1/2 and 1/4 of r I."""
    parameters: dict[str, Any] = {
        "tau": [2, 4],
        "r": [2, 2],
        "v_leak": [0, 0],
        "v_threshold": [1, 1],
        "v_reset": [0, 0],
    }
    return nir.LIF(**{key: np.array(value, float) for key, value in (parameters | changes).items()})


def test_a_lif_by_hand(file: Path) -> None:
    nir.write(file, foreign(nir.Affine(np.eye(2), np.array([0.0, 0.5])), leaky()))
    graph = read_nir(file, **FOREIGN)
    (neuron,) = (node for node in graph.nodes.values() if isinstance(node, Neuron))
    assert isinstance(neuron.leak, np.ndarray)
    assert neuron.leak.tolist() == [0.5, 0.75]
    assert isinstance(neuron.v_threshold, np.ndarray)
    assert neuron.v_threshold.tolist() == [1, 2]  # 1 / (r dt / tau)
    assert (neuron.reset, graph.schedule, graph.time_steps, graph.tokens) == ("soft", "concurrent", 6, 1)
    # Neuron 1: I = 0.75, v: .75, 1.125 -> .125, .8125, 1.156 -> ...; in thresholds of its own.
    assert spikes_of(graph, np.array([[0.75, 0.0]]))[:4, 0, 0].tolist() == [0, 1, 0, 1]
    # twice as fine a step: tau counts double in steps
    assert read_nir(file, **FOREIGN | {"time_step": 0.5}).nodes["lif"].leak.tolist() == [0.75, 0.875]  # type: ignore[attr-defined]


def test_conventions_in_metadata(file: Path) -> None:
    nir.write(file, foreign(nir.Linear(np.eye(2)), leaky(), reset="hard", dt=1.0, time_steps=6, fires=">="))
    assert read_nir(file) == read_nir(file, reset="hard", time_step=1.0, time_steps=6, fires=">=")
    with pytest.warns(UserWarning, match=r"told reset soft, but the file's metadata say hard"):
        assert read_nir(file, reset="soft").nodes["lif"].reset == "soft"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"fires": "≥"}, "fires is '≥': choose one of >, >="),
        ({"dt": -1.0}, "time_step is -1.0: it must be above 0"),
        ({"dt": float("nan")}, "time_step is nan"),
        ({"time_steps": 2.7}, "time_steps is 2.7: a whole number is wanted"),
        ({"reset": "Hard"}, "reset is 'Hard': choose one of soft, hard"),
    ],
)
def test_metadata_that_mean_nothing(metadata: dict[str, Any], message: str, file: Path) -> None:
    nir.write(file, foreign(nir.Linear(np.eye(2)), leaky(), **metadata))
    with pytest.raises(GraphError, match=rf"metadata cannot be used: {re.escape(message)}"):
        read_nir(file, **{key: value for key, value in FOREIGN.items() if key not in metadata})


def test_tools_are_named_as_words_and_alone(file: Path) -> None:
    for texts in ({"author": "Norseman"}, {"note": "norse, and compared with sinabs"}):
        nir.write(file, foreign(nir.Linear(np.eye(2)), leaky(), **texts))
        with pytest.raises(GraphError, match="does not say"):
            read_nir(file, time_steps=3)


def test_what_is_told_of_our_own_file_is_not_used_and_said(file: Path) -> None:
    nir.write(file, foreign(nir.Linear(np.eye(2)), leaky()))
    graph = read_nir(file, **FOREIGN)
    write_nir(graph, file, force=True)
    with pytest.warns(UserWarning, match=r"says itself what it means: --from, --reset are not used \(--standard-nodes"):
        assert read_nir(file, tool="norse", reset="hard") == graph
    assert open_model(file, time_steps=9).graph == dataclasses.replace(graph, time_steps=9)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (nir.SumPool2d(np.array([2, 2]), np.array([0, 2]), np.array([0, 0])), r"stride \[0, 2\]: whole numbers from 1"),
        (nir.AvgPool2d(np.array([2, 2]), np.array([1, 2, 3]), np.array([0, 0])), r"stride \[1, 2, 3\]: whole numbers"),
        (
            nir.Conv2d(None, np.ones((1, 2, 3, 3)), 1, -1, 1, 1, np.zeros(1)),
            r"padding \[-1, -1\]: whole numbers",
        ),
        (nir.Linear(np.zeros((0, 4))), r"has a weight of shape \(0, 4\): it holds no number"),
    ],
)
def test_sizes_that_mean_nothing(node: nir.NIRNode, message: str) -> None:
    nodes = {"in": nir.Input({"input": np.array([2, 4, 4])}), "odd": node}
    with pytest.raises(GraphError, match=message):
        from_nir(nir.NIRGraph(nodes, [("in", "odd")], type_check=False), Conventions(**FOREIGN))
    nodes["in"] = nir.Input({"input": np.array([2, -4, 4])})
    with pytest.raises(GraphError, match=r"whole numbers from 1 on|holds no number"):
        from_nir(nir.NIRGraph(nodes, [("in", "odd")], type_check=False), Conventions(**FOREIGN))


def test_a_threshold_is_exceeded_not_met_by_default(file: Path) -> None:
    nir.write(file, foreign(nir.Linear(np.eye(1)), nir.IF(r=np.ones(1), v_threshold=np.ones(1))))
    conventions = {key: value for key, value in FOREIGN.items() if key != "fires"}
    quarter = np.array([[0.25]])
    assert spikes_of(read_nir(file, **conventions), quarter).ravel().tolist() == [0, 0, 0, 0, 1, 0]
    assert spikes_of(read_nir(file, **FOREIGN), quarter).ravel().tolist() == [0, 0, 0, 1, 0, 0]


def test_rest_above_zero_with_hard_reset(file: Path) -> None:
    """v_leak = v_reset = 0.5, threshold 1.5: the same as 0 and 1, started at rest."""
    nir.write(file, foreign(nir.Linear(np.eye(2)), leaky(v_leak=[0.5] * 2, v_reset=[0.5] * 2, v_threshold=[1.5] * 2)))
    shifted = read_nir(file, **FOREIGN | {"reset": "hard"})
    nir.write(file, foreign(nir.Linear(np.eye(2)), leaky()))
    assert shifted == read_nir(file, **FOREIGN | {"reset": "hard"})


def conv(**changes: Any) -> nir.Conv1d:
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"stride": 1, "padding": "same", "dilation": 1, "groups": 1}
    options |= changes
    weight = rng.normal(size=(4, 2 // options["groups"], options.pop("kernel", 3)))
    return nir.Conv1d(input_shape=7, weight=weight, bias=rng.normal(size=4), **options)


CONVOLUTIONS: list[dict[str, Any]] = [
    {}, {"padding": 1}, {"stride": 2, "padding": 0}, {"dilation": 2, "padding": 3}, {"groups": 2}, {"kernel": 4},
    {"padding": "valid", "kernel": 2, "groups": 2},
]  # fmt: skip


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
def test_convolutions_are_those_of_torch(options: dict[str, Any], file: Path) -> None:
    """Conv1d -> Flatten -> Scale -> IF on (channels, tokens), against torch's Conv1d."""
    import torch

    node = conv(**options)
    padding = node.padding if isinstance(node.padding, str) else int(node.padding)
    module = torch.nn.Conv1d(2, 4, node.weight.shape[2], node.stride, padding, node.dilation, node.groups).double()
    module.weight.data, module.bias.data = torch.from_numpy(node.weight), torch.from_numpy(node.bias)  # type: ignore[union-attr]
    x = np.random.default_rng(1).normal(size=(2, 7))
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy().ravel()
    flatten = nir.Flatten({"input": np.array([4, len(expected) // 4])}, 0, 1)
    neurons = nir.IF(r=np.ones(expected.size), v_threshold=np.ones(expected.size))
    scale = nir.Scale(np.full(expected.size, 2.0))
    nir.write(file, foreign(nir.Input({"input": np.array([2, 7])}), node, flatten, scale, neurons))
    graph = read_nir(file, **FOREIGN | {"time_steps": 1})
    result = simulate(graph, values={"input": x[:, None]})
    potentials = result.potentials["if"] + result.spikes["if"][0]
    assert np.allclose(potentials, 2 * expected, atol=1e-12)
    write_nir(graph, file, force=True)  # nir's own check takes a kernel's width for its height
    assert read_nir(file) == graph
    again = simulate(read_nir(file, standard_nodes=True), values={"input": x[:, None]})
    assert np.array_equal(again.spikes["if"], result.spikes["if"])


@pytest.mark.parametrize("kernel", [2, 3, 4])
def test_lines_keep_their_axes(kernel: int, file: Path) -> None:
    """(channels, length), square: a threshold for each place, weights along the line, inputs as the file has them."""
    rng, places = np.random.default_rng(0), np.array([[0.5, 1.0, 2.0, 4.0]])
    weight, along = rng.normal(size=(4, 4, kernel)), np.repeat(rng.normal(size=(4, 1)), 4, axis=1)
    nodes = {
        "in": nir.Input({"input": np.array([4, 4])}),
        "conv": nir.Conv1d(4, weight, 1, "same", 1, 1, np.zeros(4)),
        "along": nir.Linear(along),
        "n": nir.IF(np.ones((1, 4)), places),
    }
    nir.write(file, nir.NIRGraph(nodes, [("in", "conv"), ("conv", "along"), ("along", "n")], type_check=False))
    graph = read_nir(file, **FOREIGN | {"time_steps": 1})
    x = rng.normal(size=(3, 1, 4, 4))
    padded = np.pad(x, ((0, 0), (0, 0), (0, 0), ((kernel - 1) // 2, kernel // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel, axis=-1)
    expected = np.einsum("oik,btilk->btol", weight, windows) @ along.T
    sent = [simulate(graph, values={"in": one}).spikes["n"] for one in fitted(graph, x)["values"]["in"]]
    assert np.array_equal(np.reshape(sent, expected.shape), expected >= places)
    write_nir(graph, file, force=True)
    assert read_nir(file) == graph


def test_parameters_in_another_order_are_refused(file: Path) -> None:
    """As many values as there are neurons, on other axes; where all are alike, nothing is changed."""
    source = nir.Input({"input": np.array([2, 3])})
    threshold = np.arange(1.0, 7.0).reshape(3, 2)
    nir.write(file, foreign(source, nir.IF(np.ones((3, 2)), threshold)))
    with pytest.raises(GraphError, match=r"node if \(IF\) reads \(2, 3\), but its v_threshold has shape \(3, 2\)"):
        read_nir(file, **FOREIGN)
    nir.write(file, foreign(source, nir.IF(np.ones((3, 2)), np.ones((3, 2)))))
    assert read_nir(file, **FOREIGN).nodes["if"].v_threshold == 1.0  # type: ignore[attr-defined]


def recurrent(*extra: tuple[str, str]) -> nir.NIRGraph:
    """in -> first -> back -> (+) first; first -> second."""
    ones = np.ones(2)
    nodes = {
        "in": nir.Input({"input": np.array([2])}),
        "first": nir.IF(ones, ones),
        "back": nir.Linear(-np.eye(2)),
        "forward": nir.Linear(np.eye(2)),
        "second": nir.IF(ones, ones),
        "out": nir.Output({"output": np.array([2])}),
    }
    edges = [("in", "first"), ("first", "back"), ("back", "first"), ("first", "forward"), ("forward", "second")]
    return nir.NIRGraph(nodes, [*edges, ("second", "out"), *extra])


def test_recurrence_is_delayed_by_one_step(file: Path) -> None:
    nir.write(file, recurrent())
    graph = read_nir(file, **FOREIGN)
    assert graph.feedback == (("back", "x"),)
    # I = 1, inhibited by its own last spike: fires every other step
    assert simulate(graph, values={"in": np.ones(2)}).spikes["second"][:, 0].tolist() == [1, 0, 1, 0, 1, 0]


def test_subgraphs_and_sums(file: Path) -> None:
    inner = recurrent()
    outer = nir.NIRGraph(
        {
            "a": nir.Input({"input": np.array([2])}), "b": nir.Linear(np.eye(2)), "rnn": inner,
            "z": nir.Output({"output": np.array([2])}),
        },
        [("a", "b"), ("a", "rnn"), ("b", "rnn"), ("rnn", "z"), ("b", "z")],
        type_check=False,
    )  # fmt: skip
    nir.write(file, outer)
    graph = read_nir(file, **FOREIGN)
    assert list(graph.inputs["rnn.first.sum2"]) == ["rnn.first.sum1", "rnn.back"]
    assert graph.inputs["z.sum1"] == ("rnn.second", "b")
    half = simulate(graph, values={"a": np.full(2, 0.5)})
    assert half.spikes["rnn.second"][:, 0].tolist() == [1, 0, 1, 0, 1, 0]


# Files and graphs that are not right


def broken(edit: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            edit(file)

    return apply


def _retype(file: h5py.File) -> None:
    del file["node/nodes/1/type"]
    file["node/nodes/1/type"] = "Wormhole"


def _unweight(file: h5py.File) -> None:
    del file["node/nodes/0/weight"]


def _edge(file: h5py.File) -> None:
    del file["node/edges"]
    file["node"].create_dataset("edges", data=[("input", "0"), ("0", "nowhere")])


def _nan(file: h5py.File) -> None:
    file["node/nodes/0/weight"][0, 0] = np.nan


def _nan_tau(file: h5py.File) -> None:
    file["node/nodes/1/tau"][0] = np.nan


def _no_graph(file: h5py.File) -> None:
    del file["node/nodes"]


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:2000]), r"truncated, damaged or not an HDF5 file"),
    "empty": (lambda p: p.write_bytes(b""), r"truncated, damaged or not an HDF5 file"),
    "text": (lambda p: p.write_text("hello"), r"truncated, damaged or not an HDF5 file"),
    "foreign HDF5": (
        lambda p: h5py.File(p, "w").close(),
        r"an HDF5 file, but not a NIR graph \(it has no group 'node'\)",
    ),
    "unknown type": (broken(_retype), r"node 1 has type 'Wormhole', which nir 1\.\d+\.\d+ does not know"),
    "missing weight": (broken(_unweight), r"node 0 \(Affine\) cannot be read: .*weight"),
    "edge to nowhere": (broken(_edge), r"edge 0 -> nowhere: there is no node nowhere"),
    "NaN weight": (broken(_nan), r"node 0 \(Linear\): weight has 1 of 4 values that are not finite"),
    "NaN tau": (broken(_nan_tau), r"node 1 \(LIF\) has a tau that is not finite"),
    "no graph": (broken(_no_graph), r"the file holds a 'NIRGraph' and not a whole NIRGraph"),
}


def numbered(*nodes: nir.NIRNode) -> nir.NIRGraph:
    names = ["input", *map(str, range(len(nodes))), "output"]
    first, last = nir.Input(nodes[0].input_type), nir.Output(nodes[-1].output_type)
    chain = dict(zip(names, [first, *nodes, last], strict=True))
    return nir.NIRGraph(chain, list(pairwise(names)), type_check=False)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_one_line_errors(kind: str, file: Path) -> None:
    nir.write(file, numbered(nir.Affine(np.eye(2), np.zeros(2)), leaky()))
    damage, message = DAMAGE[kind]
    damage(file)
    with pytest.raises(GraphError, match=message) as caught:
        read_nir(file, **FOREIGN)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def cuba(tau_syn: float) -> nir.CubaLIF:
    one = np.ones(2)
    return nir.CubaLIF(tau_syn=one * tau_syn, tau_mem=one * 2, r=one * 2, v_leak=one * 0, v_threshold=one)


UNSUPPORTED: dict[str, tuple[nir.NIRGraph, str]] = {
    "Delay": (numbered(nir.Delay(np.full(2, 0.5))), r"node 0 \(Delay\): delay 0\.5 is no whole number of time steps"),
    "synaptic current": (numbered(cuba(0.5)), r"node 0 \(CubaLIF\) has tau_syn 0\.5: it must not be below"),
    "tau below dt": (numbered(leaky(tau=[0.5, 4])), r"node 0 \(LIF\) has tau 0\.5: it must not be below the time st"),
    "r of 0": (numbered(leaky(r=[0, 1])), r"node 0 \(LIF\) multiplies its input by 0"),
    "threshold 0": (numbered(leaky(v_threshold=[0, 1])), r"node 0 \(LIF\): v_threshold is 0: it must be above 0"),
    "widths": (numbered(nir.Linear(np.ones((3, 2))), leaky()), r"node 1 \(LIF\) reads \(3,\), but its tau has shape"),
    "batched weight": (numbered(nir.Linear(np.ones((2, 3, 3)))), r"node 0 \(Linear\) has weight \(2, 3, 3\)"),
    "no input": (nir.NIRGraph({"a": leaky()}, [], type_check=False), r"has no Input node: nothing can enter"),
    "dangling": (
        nir.NIRGraph({"i": nir.Input({"input": np.array([2])}), "a": leaky()}, [], type_check=False),
        r"node a \(LIF\) has no input",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_cannot_be_expressed_exactly_is_an_error(kind: str, file: Path) -> None:
    graph, message = UNSUPPORTED[kind]
    nir.write(file, graph)
    with pytest.raises(GraphError, match=message):
        read_nir(file, **FOREIGN)


def test_a_current_of_one_step_is_expressible(file: Path) -> None:
    nir.write(file, numbered(cuba(1.0)))
    currents = read_nir(file, **FOREIGN).nodes["0"]
    nir.write(file, numbered(leaky(tau=[2, 2])))
    assert currents == read_nir(file, **FOREIGN).nodes["0"]


def test_missing_and_impossible_conventions(file: Path) -> None:
    nir.write(file, numbered(leaky()))
    for missing, message in (
        ("reset", "give --reset"),
        ("time_step", "give --time-step DT"),
        ("time_steps", "give -T STEPS"),
    ):
        with pytest.raises(GraphError, match=message):
            read_nir(file, **FOREIGN | {missing: None})
    for wrong in (
        {"time_steps": 0},
        {"time_step": 0.0},
        {"time_step": float("nan")},
        {"reset": "warm"},
        {"fires": "="},
    ):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is "):
            read_nir(file, **FOREIGN | wrong)
    with pytest.raises(GraphError, match=r"missing\.nir: no such file; give a \.nir file"):
        read_nir(file.with_name("missing.nir"))
    with pytest.raises(GraphError, match=r"is not a file; give a \.nir file"):
        read_nir(file.parent)


@pytest.fixture
def written(file: Path) -> tuple[Graph, Path]:
    build = GraphBuilder()
    x = build.add("word", Embedding(np.eye(3)))
    x = build.add("norm", LayerNorm(np.ones(3), np.zeros(3)), x)
    x = build.add("first", Neuron(0.5), x)
    x = build.add("linear", Linear(np.eye(3)), x)
    x = build.add("second", Neuron(np.array([0.5, 0.6, 0.7]), 0.5), x)
    build.add("readout", Readout(np.ones((2, 3))), build.add("pool", MeanPool(), x))
    graph = build.build(time_steps=3, schedule="phased", tokens=4)
    write_nir(graph, file)
    return graph, file


def test_metadata_stripped(written: tuple[Graph, Path]) -> None:
    graph, file = written
    content = nir.read(file)
    del content.metadata["neurotool"]
    nir.write(file, content)
    read = read_nir(file)  # dt, T and the reset are still there in plain words
    assert read.nodes["second"] == graph.nodes["second"]
    assert sorted(read.of_type(Input)) == ["norm", "pool"]  # where the cut operations were
    for node in content.nodes.values():
        node.metadata = {}
    content.metadata = {}
    nir.write(file, content)
    with pytest.raises(GraphError, match=r"does not say how long to run"):
        read_nir(file)
    with pytest.raises(GraphError, match=r"does not say how neurons reset, such as first \(IF\)"):
        read_nir(file, time_steps=3)
    assert read_nir(file, **FOREIGN).nodes["second"] == graph.nodes["second"]


def _metadata(change: Callable[[dict[str, Any]], Any]) -> Callable[[nir.NIRGraph], None]:
    def apply(content: nir.NIRGraph) -> None:
        text = json.loads(content.metadata["neurotool"])
        content.metadata["neurotool"] = json.dumps(change(text) or text)

    return apply


def _set(content: Any, **values: Any) -> None:
    for name, value in values.items():
        setattr(content, name, value)


TAMPERED: dict[str, tuple[Callable[[nir.NIRGraph], Any], str]] = {
    "threshold": (lambda c: c.nodes["first"].v_threshold.fill(2), r"v_threshold of node first \(IF\) was changed"),
    "tau": (lambda c: c.nodes["second"].tau.fill(2.5), r"tau of node second \(LIF\) was changed"),
    "edge": (lambda c: c.edges.remove(("first", "linear")), r"edge \('first', 'linear'\) was added or removed"),
    "node": (lambda c: c.nodes.update(more=leaky()), r"node more was added"),
    "kind": (lambda c: c.nodes.update(linear=nir.Affine(np.eye(3), np.ones(3))), r"node linear became a Affine"),
    "array gone": (lambda c: c.metadata["arrays"].pop("norm.weight"), r"array norm\.weight is neither in"),
    "text": (lambda c: c.metadata.update(neurotool="{"), r"metadata is damaged \(.*\); write it again, or read"),
    "version": (_metadata(lambda t: t.update(nir_format_version=2)), r"metadata version 2, but this neurotool reads v"),
    "graph version": (_metadata(lambda t: t["graph"].update(format_version=9)), r"graph format version 9"),
    "list": (_metadata(lambda t: {"nir_format_version": 1, "graph": []}), r"metadata is damaged"),
    "T = 0": (_metadata(lambda t: t["graph"].update(time_steps=0)), r"time_steps is 0"),
    "type": (_metadata(lambda t: t["graph"]["nodes"][1].update(type="Warp")), r"node norm has type 'Warp'"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TAMPERED)
def test_files_that_contradict_their_metadata(written: tuple[Graph, Path], kind: str) -> None:
    _, file = written
    content = nir.read(file)
    change, message = TAMPERED[kind]
    change(content)
    nir.write(file, content)
    with pytest.raises(GraphError, match=message) as caught:
        read_nir(file)
    assert "\n" not in str(caught.value)


def test_weights_changed_by_another_tool_are_used(written: tuple[Graph, Path]) -> None:
    """They are stored once, in the standard node: quantising them there is possible."""
    graph, file = written
    content = nir.read(file)
    content.nodes["linear"].weight = content.nodes["linear"].weight * 2
    nir.write(file, content)
    assert read_nir(file) == dataclasses.replace(graph, nodes=graph.nodes | {"linear": Linear(np.eye(3) * 2)})


def test_files_are_replaced_whole_or_not_at_all(written: tuple[Graph, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    graph, file = written
    before = file.read_bytes()
    with pytest.raises(ExportError, match=r"exists; choose another name, or --force"):
        write_nir(graph, file)
    with pytest.raises(ExportError, match=r"is a folder"):
        write_nir(graph, file.parent, force=True)
    with pytest.raises(ExportError, match=r"cannot be written: No such file or directory"):
        write_nir(graph, file.parent / "no" / "such.nir")

    def full(path: Path, *_: Any, **__: Any) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ExportError, match=r"cannot be written: No space left on device"):
            write_nir(graph, file, force=True)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    odd = dataclasses.replace(graph, nodes=graph.nodes | {".": Neuron()}, inputs=graph.inputs | {".": ("first",)})
    with pytest.raises(ExportError, match=r"cannot hold the graph"):
        write_nir(odd, file, force=True)
    with pytest.raises(ExportError, match=r"metadata would change in JSON"):
        write_nir(dataclasses.replace(graph, metadata={"a": (1, 2)}), file, force=True)
    assert file.read_bytes() == before


# The command and the drawings


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_command(written: tuple[Graph, Path]) -> None:
    graph, file = written
    assert run("export", file).exit_code == 2  # it would replace its input
    copy = file.with_name("copy.nir")
    report = json.loads(run("export", file, "-o", copy, "--json").stdout)
    assert copy.read_bytes() == file.read_bytes()
    assert {key: report[key] for key in ("output", "bytes", "nodes", "standard_nodes", "time_steps")} == {
        "output": str(copy), "bytes": copy.stat().st_size, "nodes": 7, "standard_nodes": 4, "time_steps": 3,
    }  # fmt: skip
    assert run("export", file, "--target", "dot", "--part", "norm").exit_code == 0
    text = file.with_suffix(".dot").read_text("utf-8")
    assert '"norm" [label="norm\\nLayerNorm 3"' in text
    assert '"word" -> "norm"' in text
    assert run("export", file, "--target", "svg").exit_code == 0
    svg = file.with_suffix(".svg")
    assert all(word in svg.read_text("utf-8") for word in (*graph.nodes, "Embedding 3 → 3", "LIF binary, soft"))
    first = svg.read_bytes()
    assert run("export", file, "--target", "svg", "--force").exit_code == 0
    assert svg.read_bytes() == first
    for arguments, message in (
        (("--target", "svg", "--part", "encoder", "--force"), "no node is called 'encoder'"),
        (("--part", "norm"), "only drawings have parts"),
    ):
        result = run("export", file, *arguments)
        assert (result.exit_code, message in result.stderr, result.stderr.count("\n")) == (2, True, 1)
    assert run("export", file.parent).exit_code == 2
    assert "is a folder" in run("export", file.parent).stderr
    assert "no such file" in run("export", file.with_name("gone.ckpt")).stderr


def test_drawings_of_everything(tmp_path: Path, make_student: Callable[..., Any]) -> None:
    graph = make_student(feedback=True).to_graph()
    from neurotool.export.drawing import draw, to_dot

    draw(graph, tmp_path / "all.svg")
    assert "fed back from encoder.1.output" in (tmp_path / "all.svg").read_text("utf-8")
    to_dot(graph, tmp_path / "all.dot")
    assert "constraint=false" in (tmp_path / "all.dot").read_text("utf-8")


def test_boxes_of_a_row_do_not_overlap() -> None:
    names = list("abcdefg")
    routes, place = layout(
        names, [("a", "b"), ("a", "c"), ("a", "d"), ("b", "e"), ("c", "e"), ("a", "e"), ("f", "g"), ("e", "g")]
    )
    rows: dict[float, list[float]] = {}
    for name in names:
        rows.setdefault(place[name][1], []).append(place[name][0])
    assert [len(row) for row in rows.values()] == [1, 3, 2, 1]  # f comes down to the row above g
    assert all(abs(a - b) > 2 for row in rows.values() for a in row for b in row if a != b)
    assert [len(route) for route in routes] == [2, 2, 2, 2, 2, 3, 2, 2]


def test_random_graphs_can_be_drawn() -> None:
    @given(graphs())
    @settings(max_examples=15)
    def check(graph: Graph) -> None:
        edges = [
            (s, n)
            for n, sources in graph.inputs.items()
            for s, p in zip(sources, graph.nodes[n].ports, strict=True)
            if (n, p) not in graph.feedback
        ]
        _, place = layout(list(graph.nodes), edges)
        assert all(place[a][1] < place[b][1] for a, b in edges)
        assert to_nir(graph).nodes
        assert random_input(graph, 0)

    check()
