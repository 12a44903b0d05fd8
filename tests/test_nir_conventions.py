"""What a NIR file leaves open: told by a tool's name, pointed at by numbers, asked for at once, contradicted aloud."""

import importlib.util
import json
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.cli.main import cli
from neurotool.errors import ConfigError, GraphError
from neurotool.export.conventions import TOOLS, integrate
from neurotool.export.nir import read_nir, write_nir
from neurotool.graph import Graph, Input, Neuron
from neurotool.simulate import simulate


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.nir"


def lif(n: int = 2, tau: float = 5.0, r: float | None = None, **changes: float) -> nir.LIF:
    values = {"v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0} | changes
    return nir.LIF(
        tau=np.full(n, tau), r=np.full(n, tau if r is None else r), **{k: np.full(n, v) for k, v in values.items()}
    )


def charge(r: float = 1.0, n: int = 2, v_reset: float = 0.0) -> nir.IF:
    return nir.IF(r=np.full(n, r), v_threshold=np.ones(n), v_reset=np.full(n, v_reset))


def chain(*nodes: nir.NIRNode, width: int = 2, **metadata: Any) -> nir.NIRGraph:
    ends = {"in": nir.Input({"input": np.array([width])})}, {"out": nir.Output({"output": np.array([width])})}
    named = ends[0] | {f"n{i}": node for i, node in enumerate(nodes)} | ends[1]
    names = list(named)
    return nir.NIRGraph(named, list(pairwise(names)), metadata=metadata, type_check=False)


def quietly(path: Path, **told: Any) -> Graph:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return read_nir(path, **told)


def spikes(graph: Graph, currents: np.ndarray) -> np.ndarray:
    """Of the last layer, (T, width), for (T, width)."""
    return simulate(graph, values={graph.of_type(Input)[0]: currents}).spikes[graph.of_type(Neuron)[-1]]


# Every network that the tools installed here export: the same spikes as the tool sends.


def networks(tool: str) -> list[Any]:
    pytest.importorskip(tool)
    path = Path(__file__).parent.parent / "benchmarks" / "nir_tools.py"
    specification = importlib.util.spec_from_file_location("nir_tools", path)
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    found: list[Any] = module.networks(tool)
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tool", ["snntorch", "norse"])
def test_networks_by_other_tools_spike_as_there(tool: str, file: Path) -> None:
    compared = 0
    for name, exported, x, y, told in networks(tool):
        nir.write(file, exported, compression=None)
        try:
            graph = read_nir(file, tool=tool, time_steps=len(x), **told)
        except GraphError as error:
            assert "not supported" in str(error), name
            continue
        (first,), (last,) = graph.of_type(Input), graph.outputs.values()
        result = simulate(graph, values={first: x.reshape(len(x), *graph.nodes[first].shape())})
        if last in result.analog:
            np.testing.assert_allclose(result.analog[last], y, atol=1e-4 * abs(y).max(), err_msg=name)
        else:
            assert 0.005 < y.mean() < 0.9
            assert np.array_equal(result.spikes[last], y), name
        compared += 1
    assert compared >= {"snntorch": 15, "norse": 8}[tool]


# By hand


@pytest.mark.parametrize(
    ("how", "kept", "lost", "gain"),
    [
        ("euler", 0.75, 0.25, 0.5),
        ("euler-unit", 0.75, 0.25, 1.0),
        ("exponential", np.exp(-0.25), 1 - np.exp(-0.25), 2 * (1 - np.exp(-0.25))),
        ("exponential-unit", np.exp(-0.25), 1 - np.exp(-0.25), 1.0),
        ("exponential-late", np.exp(-0.25), 1 - np.exp(-0.25), np.exp(-0.25)),
    ],
)
def test_integration(how: Any, kept: float, lost: float, gain: float) -> None:
    """dt / tau = 1/4, r = 2."""
    assert np.allclose(integrate(how, np.array([0.25]), np.array([2.0])), [[kept], [lost], [gain]], rtol=1e-15)


def test_a_neuron_without_leak_has_infinite_numbers() -> None:
    assert [float(v[0]) for v in integrate("euler", np.zeros(1), np.array([np.inf]))] == [1, 0, 1]


def test_an_if_multiplies_by_r_and_dt(file: Path) -> None:
    """NIR's text: dv/dt = r I. r = 1 / dt adds the input as it is; norse and sinabs write r = 1 and mean that."""
    half = np.full((4, 2), 0.5)
    nir.write(file, chain(charge(1e4)))
    assert spikes(quietly(file, reset="hard", time_step=1e-4, time_steps=4, fires=">="), half)[:, 0].tolist() == [
        0,
        1,
        0,
        1,
    ]
    assert quietly(file, tool="spikingjelly", time_steps=4) == quietly(
        file, reset="hard", time_step=1e-4, time_steps=4, fires=">="
    )
    nir.write(file, chain(charge(1.0)))
    assert spikes(quietly(file, tool="sinabs", time_steps=4), half)[:, 0].tolist() == [0, 1, 0, 1]
    assert spikes(quietly(file, reset="hard", fires=">=", time_steps=4), half)[:, 0].tolist() == [0, 1, 0, 1]
    with pytest.warns(
        UserWarning, match=r"time step 0\.0001 means r dt = 1, but in node n0 the file has r = 1, as norse"
    ):
        graph = read_nir(file, reset="hard", time_step=1e-4, time_steps=4)
    assert not spikes(graph, half).any()


def test_v_leak_is_a_bias(file: Path) -> None:
    """v <- v + (v_leak - v + r I) / tau with tau 2, v_leak 3, no input: 1.5 (fires), then .5 soft 1.75 (fires)."""
    nir.write(file, chain(lif(tau=2.0, v_leak=3.0)))
    silence = np.zeros((4, 2))
    soft = quietly(file, reset="soft", time_step=1.0, time_steps=4)
    assert spikes(soft, silence)[:, 0].tolist() == [1, 1, 1, 1]
    nir.write(file, chain(lif(tau=2.0, v_leak=1.5)))  # .75 1.125>.125 .8125 1.15625
    soft = quietly(file, reset="soft", time_step=1.0, time_steps=4)
    assert spikes(soft, silence)[:, 0].tolist() == [0, 1, 0, 1]
    nir.write(file, chain(lif(tau=2.0, v_leak=1.5, v_reset=-1.0)))  # starts at -1: .25 .875 1.1875>-1 .25
    hard = quietly(file, reset="hard", time_step=1.0, time_steps=5)
    assert spikes(hard, np.zeros((5, 2)))[:, 0].tolist() == [0, 0, 1, 0, 0]


# Asked for, pointed at, contradicted

MISSING: dict[str, tuple[nir.NIRGraph, dict[str, Any], str]] = {
    "everything": (
        chain(lif(tau=5e-4, r=5.0)), {},
        r"does not say how long to run, how neurons reset, such as n0 \(LIF\) and dt: give .*"
        r"its numbers say r dt / tau = 1 at dt = 0\.0001: --from snntorch -T 100 \(or spikingjelly\)$",
    ),
    "all four": (
        chain(lif(tau=0.02, r=0.02 * np.exp(-0.05) / 1e-3)), {},
        r"dt and how a step is integrated: give -T STEPS, .* and --membrane RULE; .*rockpool",
    ),
    "but T": (chain(lif(tau=5e-4, r=5.0)), {"time_steps": 9}, r"--from snntorch \(or spikingjelly\)$"),
    "only T": (chain(lif()), {"reset": "soft", "time_step": 1.0}, r"long to run: give -T STEPS$"),
    "norse or SpikingJelly": (chain(lif(tau=0.02, r=1.0)), {}, r"r = 1: --from norse .* 100 \(or spikingjelly\)$"),
    "sinabs": (chain(lif(tau=9.0, r=1.0)), {}, r"numbers say r = 1: --from sinabs -T 100$"),
    "rockpool": (
        chain(lif(tau=0.02, r=0.02 * np.exp(-0.05) / 1e-3)), {"reset": "soft", "time_step": 1e-3, "time_steps": 9},
        r"does not say how a step is integrated: .*r dt / tau = exp\(-dt / tau\) at dt = 0\.001: --from rockpool$",
    ),
    "spyx": (chain(lif(tau=5.0, r=0.8)), {}, r"r = 1 - dt / tau at dt = 1: --from spyx -T 100$"),
    "IF of SpikingJelly": (chain(charge(1e4)), {}, r"numbers say r dt = 1 at dt = 0\.0001: --from spikingjelly"),
    "nobody's": (chain(lif(tau=5.0, r=0.7)), {}, r"; or its tool: --from TOOL -T 100$"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISSING)
def test_one_message_asks_for_all_that_is_open(kind: str, file: Path) -> None:
    graph, told, message = MISSING[kind]
    nir.write(file, graph)
    with pytest.raises(GraphError, match=message) as caught:
        read_nir(file, **told)
    said = str(caught.value).removeprefix(f"{file}: ")
    assert "\n" not in said and len(said) <= 300


def test_what_a_negative_gain_says_is_no_time_step(file: Path) -> None:
    """1 - dt / tau = -5 for tau = 5 would be a dt of 30, which no tool writes."""
    nir.write(file, chain(lif(tau=5.0, r=-5.0)))
    with pytest.raises(GraphError, match="its tool: --from TOOL"):
        read_nir(file)


CONTRADICTED: dict[str, tuple[nir.NIRGraph, dict[str, Any], str]] = {
    "another tool's numbers": (
        chain(lif(tau=0.02, r=1.0)), {"tool": "snntorch"},
        r"--from snntorch and the time step 0\.0001 mean r dt / tau = 1, but in node n0 the file has r = 1, as norse",
    ),
    "another time step": (
        chain(lif(tau=5e-3, r=5.0)), {"tool": "snntorch"},
        r"fit a time step of 0\.001 \(r dt / tau = 1\), and it is read with 0\.0001, as --from snntorch has it",
    ),
    "exponential": (
        chain(lif(tau=0.02, r=0.02 * np.exp(-0.05) / 1e-3)), {"tool": "nir", "time_step": 1e-3},
        r"exp\(-dt / tau\) at dt = 0\.001, as rockpool writes it",
    ),
    "metadata and option": (
        chain(lif(), dt=1.0), {"reset": "soft", "time_step": 0.5}, r"told time_step 0\.5, but the file's metadata say",
    ),
    "a tool in the metadata": (
        chain(lif(tau=9.0, r=1.0), exporter="sinabs 3.1.3"), {"tool": "norse"},
        r"told --from norse, but the file's metadata name sinabs",
    ),
    "norse's default": (chain(lif(tau=1e-5, r=1.0)), {"tool": "norse"}, r"the time step is 1e-06"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CONTRADICTED)
def test_contradictions_are_said(kind: str, file: Path) -> None:
    graph, told, message = CONTRADICTED[kind]
    nir.write(file, graph)
    with pytest.warns(UserWarning, match=message):
        read_nir(file, time_steps=5, **told)


def test_a_tool_that_the_metadata_name_is_used(file: Path) -> None:
    nir.write(file, chain(lif(tau=9.0, r=1.0), exporter="sinabs 3.1.3"))
    assert quietly(file, time_steps=5) == quietly(file, tool="sinabs", time_steps=5)


def test_single_options_win(file: Path) -> None:
    nir.write(file, chain(lif(tau=9.0, r=1.0)))
    graph = quietly(
        file, tool="sinabs", time_steps=5, reset="hard", spikes="binary", fires=">", membrane="euler", lowest=-1
    )
    neuron = graph.nodes["n0"]
    assert isinstance(neuron, Neuron)
    assert (neuron.reset, neuron.spikes, neuron.leak) == ("hard", "binary", 1 - 1 / 9)
    assert neuron.v_threshold == pytest.approx(9, rel=1e-9)
    assert neuron.v_threshold > 9  # ">": a little above
    assert neuron.v_min == -9


@pytest.mark.parametrize("wrong", [{"tool": "brian"}, {"spikes": "some"}, {"membrane": "rk4"}, {"lowest": 0.5}])
def test_values_that_are_not_known(wrong: dict[str, Any], file: Path) -> None:
    nir.write(file, chain(lif()))
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} is "):
        read_nir(file, **wrong)


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_says_what_it_was_compared_with(tool: str) -> None:
    rules = TOOLS[tool]
    assert rules.version[0].isdigit()
    assert rules.source
    assert rules.reset is not None
    assert (rules.time_step is None) == (tool == "nir")


def test_the_command_line(file: Path) -> None:
    nir.write(file, chain(lif(tau=0.02, r=1.0)))
    arguments = ["export", str(file), "-o", str(file.with_name("out.nir")), "--from", "snntorch", "-T", "5"]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0
    assert result.stderr.startswith(f"Warning: {file}: --from snntorch")
    assert json.loads(result.stdout)["time_steps"] == 5


# The structure


def test_a_duplicate_edge_is_refused(file: Path) -> None:
    graph = chain(nir.Linear(np.eye(2)), lif())
    graph.edges = [*graph.edges, ("n0", "n1")]
    nir.write(file, graph)
    with pytest.raises(GraphError, match=r"edge n0 -> n1 is there 2 times: tools take that as one edge or as a sum"):
        read_nir(file, tool="nir", time_step=1.0, time_steps=3)


def mutual(first: str, second: str) -> nir.NIRGraph:
    """Two populations that excite each other, both driven from outside."""
    nodes = {
        "in": nir.Input({"input": np.array([2])}),
        first: lif(),
        second: lif(),
        "out": nir.Output({"output": np.array([2])}),
        "forward": nir.Linear(np.eye(2)),
        "back": nir.Linear(np.eye(2)),
    }
    edges = [("in", first), ("in", second), (first, "forward"), ("forward", second), (second, "back"), ("back", first)]
    return nir.NIRGraph(nodes, [*edges, (second, "out")], type_check=False)


def test_an_order_that_the_file_leaves_open_is_said(file: Path) -> None:
    for names in (("a", "b"), ("b", "a")):
        nir.write(file, mutual(*names))
        with pytest.warns(UserWarning, match=r"is read one step late; the cycle through .* has more than one way in"):
            read_nir(file, reset="soft", time_step=1.0, time_steps=3)
    graph = mutual("a", "b")
    graph.edges.remove(("in", "b"))  # now b is behind a, and only the way back can be late
    nir.write(file, graph)
    assert quietly(file, reset="soft", time_step=1.0, time_steps=3).feedback == (("back", "x"),)


def test_an_output_on_a_layer_that_others_read_keeps_its_name(file: Path) -> None:
    graph = chain(lif(), nir.Linear(np.eye(2)), lif())
    graph.nodes["probe"] = nir.Output({"output": np.array([2])})
    graph.edges.append(("n0", "probe"))
    nir.write(file, graph)
    read = quietly(file, reset="soft", time_step=1.0, time_steps=3)
    assert read.outputs == {"out": "n2", "probe": "n0"}
    write_nir(read, file, force=True)
    written = nir.read(file)
    ends = {name for name, node in written.nodes.items() if isinstance(node, nir.Output)}
    assert ends == {"out", "probe"}
    assert {("n2", "out"), ("n0", "probe")} <= set(written.edges)
    assert quietly(file) == read
    assert quietly(file, standard_nodes=True) == read


def test_one_number_among_vectors_is_every_neurons(file: Path) -> None:
    """As files by older norse have it, which stock nir refuses."""
    nir.write(file, chain(lif(3), width=3))
    whole = quietly(file, reset="soft", time_step=1.0, time_steps=3)
    with h5py.File(file, "a") as content:
        for name in ("r", "v_leak"):
            value = content[f"node/nodes/n0/{name}"][0]
            del content[f"node/nodes/n0/{name}"]
            content[f"node/nodes/n0/{name}"] = value
    assert quietly(file, reset="soft", time_step=1.0, time_steps=3) == whole


@pytest.mark.parametrize(
    ("trace", "told"),
    [
        ("norse", {"tool": "norse"}),
        ("snntorch", {"tool": "snntorch"}),
        ("nengo", {"tool": "nengo"}),
        ("exact", {"tool": "nir", "membrane": "exponential"}),
        ("spinnaker2", {"tool": "nir"}),
        ("sinabs", {"tool": "sinabs", "membrane": "exponential-unit"}),
        ("rockpool", {"tool": "rockpool"}),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_nir_papers_neuron_spikes_as_recorded(trace: str, told: dict[str, Any], shared: Path) -> None:
    files = {"rockpool": "neuromorphs--paper--01_lif--lif_rockpool-d70a32.nir"}
    path = shared / "nir" / "files" / files.get(trace, "jeshraghian--tests--lif-ce5f8e.nir")
    if not path.exists():
        pytest.skip(f"no {path}")
    recorded = np.loadtxt(shared / "nir" / "traces" / f"lif_{trace}.csv", delimiter=",")
    graph = read_nir(path, time_step=1e-4, time_steps=len(recorded), **told)
    assert np.flatnonzero(spikes(graph, recorded[:, :1])).tolist() == np.flatnonzero(recorded[:, -1]).tolist()
    assert recorded[:, -1].sum() == 4
