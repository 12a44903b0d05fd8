"""Reading of every NIR node, against the equations of its text, written here once more."""

import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest

from neurotool.errors import DataError, GraphError, NeurotoolWarning
from neurotool.export.nir import read_nir, write_nir
from neurotool.graph import CubaLIF, Delay, Graph, Input, Neuron
from neurotool.inputs import fitted
from neurotool.simulate import Simulation, simulate

STEPS, DT = 30, 0.5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "net.nir"


def chain(*nodes: nir.NIRNode, shape: tuple[int, ...], out: tuple[int, ...]) -> nir.NIRGraph:
    named = {"in": nir.Input(np.array(shape))} | {f"n{i}": node for i, node in enumerate(nodes)}
    named["out"] = nir.Output(np.array(out))
    names = list(named)
    return nir.NIRGraph(named, list(pairwise(names)), type_check=False)


def read(file: Path, graph: nir.NIRGraph, **told: Any) -> Graph:
    nir.write(file, graph)
    return read_nir(file, **{"tool": "nir", "time_step": DT, "time_steps": STEPS} | told)


def run(graph: Graph, x: np.ndarray) -> Simulation:
    return simulate(graph, values={graph.of_type(Input)[0]: x})


def inputs(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).normal(0.4, 1, (STEPS, *shape))


def full(*values: float) -> np.ndarray:
    return np.array(values)


def euler(node: Any, x: np.ndarray) -> Iterator[np.ndarray]:
    """What a node gives in each step: NIR's equations, a step of DT by forward Euler; hard reset, firing above."""
    v, i = np.zeros(x.shape[1:]), np.zeros(x.shape[1:])
    for current in x:
        if hasattr(node, "tau_syn"):
            i = i + DT / node.tau_syn * (node.w_in * current - i)
            current = i
        if isinstance(node, (nir.I, nir.IF)):
            v = v + DT * node.r * current
        else:
            tau = getattr(node, "tau", getattr(node, "tau_mem", None))
            v = v + DT / tau * (node.v_leak - v + node.r * current)
        if not hasattr(node, "v_threshold"):
            yield v
            continue
        s = v > node.v_threshold
        v = np.where(s, node.v_reset, v)
        yield s


LEAKS = {"v_leak": full(0.2, -0.1, 0.0)}
FIRES = {"v_threshold": full(0.5, 0.8, 1.1), "v_reset": full(0.1, -0.2, 0.0)}
CUBA = {"tau_syn": full(0.9, 2.0, 4.0), "tau_mem": full(1.5, 3.0, 0.5), "r": full(2.0, 1.0, 3.0)}
NODES = [
    nir.IF(r=full(1.0, 2.0, 0.5), **FIRES),
    nir.LIF(tau=full(1.0, 2.0, 4.0), r=full(2.0, 1.0, 3.0), **LEAKS, **FIRES),
    nir.CubaLIF(**CUBA, w_in=full(1.0, 2.0, 3.0), **LEAKS, **FIRES),
    nir.I(r=full(1.0, -2.0, 0.5)),
    nir.LI(tau=full(1.0, 2.0, 4.0), r=full(2.0, -1.0, 3.0), **LEAKS),
    nir.CubaLI(**CUBA, w_in=full(1.0, 2.0, -3.0), **LEAKS),
]


NEGATIVE = nir.LIF(tau=full(1.0, 2.0, 4.0), r=full(-2.0, 1.0, -3.0), **LEAKS, **FIRES)


@pytest.mark.parametrize("node", [*NODES, NEGATIVE], ids=lambda node: type(node).__name__)
def test_states_are_stepped_by_their_equations(file: Path, node: Any) -> None:
    x = inputs(3)
    graph = read(file, chain(node, shape=(3,), out=(3,)))
    result, expected = run(graph, x), np.array(list(euler(node, x)))
    name = graph.outputs["out"]
    if expected.dtype == bool:
        assert 5 < expected.sum() < expected.size and np.array_equal(result.spikes[name], expected)
    else:
        np.testing.assert_allclose(result.analog[name], expected, rtol=1e-12)
    assert graph.metadata["time_step"] == DT


@pytest.mark.parametrize("node", NODES, ids=lambda node: type(node).__name__)
def test_our_file_of_it_is_the_same_network(file: Path, node: Any) -> None:
    graph = read(file, chain(node, shape=(3,), out=(3,)))
    write_nir(graph, file, force=True)
    assert read_nir(file) == graph


def test_a_synaptic_current_of_one_step_is_none(file: Path) -> None:
    node = nir.CubaLIF(full(DT), full(2.0), full(1.0), full(0.0), full(1.0), full(0.0), w_in=full(1.0))
    graph = read(file, chain(node, shape=(1,), out=(1,)))
    assert type(graph.nodes["n0"]) is Neuron
    slower = nir.CubaLIF(full(3.0), full(2.0), full(1.0), full(0.0), full(1.0), full(0.0), w_in=full(1.0))
    assert isinstance(read(file, chain(slower, shape=(1,), out=(1,))).nodes["n0"], CubaLIF)


def test_delays_are_whole_numbers_of_steps(file: Path) -> None:
    x = inputs(2)
    graph = read(file, chain(nir.Delay(full(1.0, 0.0)), shape=(2,), out=(2,)))
    y = run(graph, x).analog["n0"]
    assert np.array_equal(y[2:, 0], x[:-2, 0]) and not y[:2, 0].any() and np.array_equal(y[:, 1], x[:, 1])
    with pytest.raises(GraphError, match=r"node n0 \(Delay\): delay 0\.7 is no whole number of time steps of 0\.5"):
        read(file, chain(nir.Delay(full(1.0, 0.7)), shape=(2,), out=(2,)))
    with pytest.raises(GraphError, match=r"node n0 \(Delay\): delay -1 is no whole number of time steps"):
        read(file, chain(nir.Delay(full(1.0, -1.0)), shape=(2,), out=(2,)))
    with pytest.raises(GraphError, match=r"delays of up to 2e\+12 steps of 2 values: the limit is 134217728 values"):
        read(file, chain(nir.Delay(full(1.0, 1e12)), shape=(2,), out=(2,)))


def test_a_threshold_has_no_memory(file: Path) -> None:
    x = inputs(2)
    x[0] = [0.3, 0.6]
    threshold = full(0.3, 0.6)
    at = run(read(file, chain(nir.Threshold(threshold), shape=(2,), out=(2,)), fires=">="), x).spikes["n0"]
    assert np.array_equal(at, x >= threshold) and at[0].all()
    above = run(read(file, chain(nir.Threshold(threshold), shape=(2,), out=(2,))), x).spikes["n0"]
    assert np.array_equal(above, x > threshold) and not above[0].any()


def test_a_linear_acts_on_the_last_axis(file: Path) -> None:
    weight = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 2.0], [4.0, 0.0, 0.0]])
    neurons = nir.IF(r=np.ones((2, 3)), v_threshold=np.full((2, 3), 8.0), v_reset=np.zeros((2, 3)))
    graph = read(file, chain(nir.Linear(weight), neurons, shape=(2, 3), out=(2, 3)), time_step=1.0)
    x = np.zeros((STEPS, 2, 3))
    x[:, 0, 0] = 1  # row 0 gets 4 in its last neuron: it fires above 8, in every third step
    spikes = run(graph, x).spikes["n1"]
    assert spikes[:, 0, 2].sum() == STEPS // 3 and spikes.sum() == STEPS // 3


def lif(n: int) -> nir.LIF:
    return nir.LIF(np.full(n, 2.0), np.full(n, 4.0), np.zeros(n), np.full(n, 0.7), np.zeros(n))


def recurrent(node: nir.NIRNode | None, n: int = 3) -> nir.NIRGraph:
    """in -> lif -> out, and lif -> node -> lif, or lif -> lif."""
    nodes = {"in": nir.Input(np.array([n])), "lif": lif(n), "out": nir.Output(np.array([n]))}
    edges = [("in", "lif"), ("lif", "out")]
    if node is None:
        return nir.NIRGraph(nodes, [*edges, ("lif", "lif")], type_check=False)
    return nir.NIRGraph(nodes | {"back": node}, [*edges, ("lif", "back"), ("back", "lif")], type_check=False)


WEIGHT = np.array([[0.0, 1.0, -1.0], [0.5, 0.0, 0.0], [-2.0, 0.0, 1.0]])


@pytest.mark.parametrize(
    ("node", "fed_back"),
    [
        (None, lambda s: s),
        (nir.Scale(full(-0.5, 1.0, 2.0)), lambda s: s * full(-0.5, 1.0, 2.0)),
        (nir.Linear(WEIGHT), lambda s: WEIGHT @ s),
        (nir.Affine(WEIGHT, full(0.1, 0.2, 0.3)), lambda s: WEIGHT @ s + full(0.1, 0.2, 0.3)),
    ],
    ids=["itself", "Scale", "Linear", "Affine"],
)
def test_what_is_fed_back_was_sent_one_step_before(file: Path, node: Any, fed_back: Any) -> None:
    """A bias on the way back is there from the first step on."""
    x, s, v = inputs(3), np.zeros(3), np.zeros(3)
    expected = []
    for current in x:
        v = v + DT / 2 * (4 * (current + fed_back(s)) - v)
        s = (v > 0.7).astype(float)
        v = np.where(s, 0, v)
        expected.append(s)
    result = run(read(file, recurrent(node)), x)
    assert np.array_equal(result.spikes["lif"], expected) and 5 < np.sum(expected) < STEPS * 3


def test_a_weight_may_go_on_to_two_readers(file: Path) -> None:
    nodes = {
        "in": nir.Input(np.array([3])),
        "w": nir.Linear(WEIGHT),
        "lif": lif(3),
        "other": lif(3),
        "out": nir.Output(np.array([3])),
        "out2": nir.Output(np.array([3])),
    }
    edges = [("in", "w"), ("lif", "w"), ("w", "lif"), ("w", "other"), ("lif", "out"), ("other", "out2")]
    graph = read(file, nir.NIRGraph(nodes, edges, type_check=False))
    x, s, v = inputs(3), np.zeros(3), np.zeros(3)
    expected = []
    for current in x:
        v = v + DT / 2 * (4 * (WEIGHT @ (current + s)) - v)
        s = (v > 0.7).astype(float)
        v = np.where(s, 0, v)
        expected.append(s)
    result = run(graph, x)
    assert np.array_equal(result.spikes["lif"], expected) and np.array_equal(result.spikes["other"], expected)


def test_axes_of_a_sample_are_no_axes_of_the_network(file: Path) -> None:
    """As rockpool exports with the sample (batch, time, width) it was called with."""
    graph = chain(nir.Linear(WEIGHT), lif(3), shape=(1, 60, 3), out=(1, 60, 3))
    with pytest.warns(
        NeurotoolWarning, match=r"Input in has shape \(1, 60, 3\): its first 2 axes are taken as that of"
    ):
        found = read(file, graph)
    assert found == read(file, chain(nir.Linear(WEIGHT), lif(3), shape=(3,), out=(3,)))


def test_layers_of_spyx_send_one_step_late(file: Path) -> None:
    x = inputs(3)
    late = read(
        file, chain(nir.IF(np.ones(3), np.ones(3), np.zeros(3)), shape=(3,), out=(3,)), tool="spyx", time_step=1
    )
    assert isinstance(late.nodes[late.outputs["out"]], Delay)
    result = run(late, x)
    assert np.array_equal(result.analog[late.outputs["out"]][1:], result.spikes["n0"][:-1])


def graph_of(edges: list[tuple[str, str]], **nodes: nir.NIRNode) -> nir.NIRGraph:
    ends = {"in": nir.Input(np.array([3])), "lif": lif(3), "out": nir.Output(np.array([3]))}
    return nir.NIRGraph(ends | nodes, edges, type_check=False)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (chain(nir.Linear(WEIGHT), shape=(2,), out=(3,)), r"n0 \(Linear\) has weight \(3, 3\), but reads \(2,\)"),
        (
            chain(nir.Linear(WEIGHT), lif(4), shape=(3,), out=(4,)),
            r"n1 \(LIF\) reads \(3,\), but its tau has shape \(4,\); all its values are alike: --repair takes one",
        ),
        (graph_of([("in", "lif"), ("lif", "gone")]), "edge lif -> gone: there is no node gone"),
        (
            graph_of([("in", "lif"), ("lif", "out")], w=nir.Linear(WEIGHT)),
            r"node w \(Linear\) has no input: nothing is connected to it",
        ),
    ],
)
def test_files_that_do_not_fit_together(file: Path, graph: nir.NIRGraph, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        read(file, graph)


def test_repair_takes_shapes_that_are_missing(file: Path) -> None:
    whole = read(file, chain(nir.Linear(WEIGHT), lif(3), shape=(3,), out=(3,)))
    graph = chain(nir.Linear(WEIGHT), lif(4), shape=(), out=())
    nir.write(file, graph)
    told = {"tool": "nir", "time_step": DT, "time_steps": STEPS}
    with pytest.raises(GraphError, match=r"node in \(Input\) has no shape: --repair takes it from the first weights"):
        read_nir(file, **told)  # type: ignore[arg-type]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert read_nir(file, repair=True, **told) == whole  # type: ignore[arg-type]


PLANES: list[dict[str, Any]] = [
    {}, {"stride": (2, 1)}, {"padding": (0, 2)}, {"dilation": (1, 2)}, {"groups": 2}, {"padding": "same"},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", PLANES, ids=str)
def test_planes_are_those_of_torch(file: Path, options: dict[str, Any]) -> None:
    """Conv2d, pooling, Flatten, Affine and an integrator, with a batch axis in front as tools export it."""
    import torch

    rng = np.random.default_rng(0)
    how: dict[str, Any] = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1} | options
    module = torch.nn.Conv2d(2, 4, (3, 2), **how).double()
    assert module.bias is not None
    weight, bias = module.weight.detach().numpy(), module.bias.detach().numpy()
    node = nir.Conv2d((6, 7), weight, how["stride"], how["padding"], how["dilation"], how["groups"], bias)
    x = torch.from_numpy(rng.normal(size=(STEPS, 2, 6, 7)))
    with torch.no_grad():
        planes = module(x)
        pooled = torch.nn.functional.avg_pool2d(planes, (2, 2), 1, (1, 0))
        summed = 6 * torch.nn.functional.avg_pool2d(pooled, (2, 3), (2, 1))
        expected = summed.flatten(1).numpy()
    matrix = rng.normal(size=(3, expected.shape[1]))
    two = np.array([2, 2])
    nodes = (
        node,
        nir.AvgPool2d(two, np.array([1, 1]), np.array([1, 0])),
        nir.SumPool2d(np.array([2, 3]), np.array([2, 1]), np.zeros(2, int)),
        nir.Flatten({"input": np.array([1, *summed.shape[1:]])}, 1, -1),
        nir.Linear(matrix),
        nir.I(np.ones(3)),
    )
    graph = read(file, chain(*nodes, shape=(1, 2, 6, 7), out=(1, 3)), time_step=1.0)
    result = run(graph, x.numpy())
    np.testing.assert_allclose(result.analog["n5"], np.cumsum(expected @ matrix.T, 0), rtol=1e-6, atol=1e-6)
    batch = fitted(graph, x.numpy().reshape(1, STEPS, -1))  # axes may be flattened
    assert batch["values"]["in"].shape == (1, STEPS, 2, 6, 7)
    with pytest.raises(DataError, match="wanted is"):
        fitted(graph, np.moveaxis(x.numpy(), 1, 3)[None])


@pytest.mark.filterwarnings("ignore")
def test_public_files(shared: Path) -> None:
    """Those that say what they are can be read and run; the others are refused for what they lack."""
    refused = {
        "Jegp--norse_demo--scnn_model-5444ad": "has no edges: nothing says what is connected to what",
        "neuromorphs--paper--03_rnn--Braille_snntorch-3049cf": "truncated, damaged or not an HDF5 file",
        "neuromorphs--paper--03_rnn--braille-a7c67c": "edge fc1 -> lif1: there is no node lif1",
        "neuromorphs--tests--feedback_graph-677500": "is not reached by any Input",
    }
    files = sorted((shared / "nir" / "files").glob("*.nir"))
    assert len(files) == 20
    for path in files:
        tools = {"cnn": "sinabs", "exported": "sinabs", "norse": "norse"}
        tool = next((tool for part, tool in tools.items() if part in path.stem), "snntorch")
        if message := refused.get(path.stem):
            with pytest.raises(GraphError, match=message):
                read_nir(path, tool=tool, time_steps=2, repair=True)
            continue
        graph = read_nir(path, tool=tool, time_steps=2, repair=True)
        values = {name: np.ones(graph.nodes[name].shape()) for name in graph.of_type(Input)}
        assert simulate(graph, values=values).spikes
