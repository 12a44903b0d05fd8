"""Layers with a state of their own, networks without tokens, feedback of any kind: by hand, and on every executor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurotool.energy.counts import count
from neurotool.energy.measure import measure
from neurotool.errors import DataError, GraphError
from neurotool.executor import COUNTS
from neurotool.export.chip import load_chip
from neurotool.export.fit import fit_report
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.export.to_nir import to_nir
from neurotool.graph import (
    Add,
    Concat,
    CubaLIF,
    Delay,
    Embedding,
    FixedPoint,
    Graph,
    GraphBuilder,
    Input,
    Integrator,
    Linear,
    MeanPool,
    Neuron,
    Node,
    Readout,
    Scale,
)
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.bundle import Bundle, read_bundle, write_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.run import run_on_lava
from neurotool.simulate import Interpreter, simulate
from neurotool.validate import compare

lava_installed = pytest.mark.skipif(
    compatibility.installation_problem() is not None, reason=f"Lava: {compatibility.installation_problem()}"
)


def chain(*nodes: Node, shape: tuple[int, ...] = (1,), time_steps: int = 5, spiking: bool = False) -> Graph:
    """in -> 0 -> 1 -> …, without tokens."""
    build = GraphBuilder()
    x = build.add("in", Input(shape, spiking))
    for i, node in enumerate(nodes):
        x = build.add(str(i), node, x)
    return build.build(time_steps=time_steps, schedule="concurrent")


def analog(node: Node, *steps: float) -> list[float]:
    """What one element gives in each step."""
    values = {"in": np.array(steps)[:, None]}
    return [float(v[0]) for v in simulate(chain(node, time_steps=len(steps)), values=values).analog["0"]]


def test_an_integrator_by_hand() -> None:
    assert analog(Integrator(), 1, 2, 0, -4) == [1, 3, 3, -1]
    assert analog(Integrator(0.5), 8, 0, 0, 2) == [8, 4, 2, 3]
    assert analog(Integrator(0.5, bias=1.0, v_init=2.0), 0, 0, 8) == [2, 2, 10]
    # Current 8, 4, 2, 1; potential 8, 4 + 4, 4 + 2, 3 + 1.
    assert analog(Integrator(0.5, current_leak=0.5), 8, 0, 0, 0) == [8, 8, 6, 4]


def test_a_neuron_behind_a_current_by_hand() -> None:
    """Current 1, 1/2, 1/4, …; IF: u = 1 (fires, left 0), 1/2, 3/4, 7/8; the bias goes past the current."""
    run = simulate(chain(CubaLIF(current_leak=0.5)), values={"in": np.array([[1.0], [0], [0], [0], [0]])})
    assert run.spikes["0"].ravel().tolist() == [1, 0, 0, 0, 0]
    assert run.potentials["0"].tolist() == [0.5 + 0.25 + 0.125 + 0.0625]
    biased = simulate(chain(CubaLIF(2.0, bias=1.0, current_leak=0.5), time_steps=3), values={"in": np.zeros((3, 1))})
    assert biased.spikes["0"].ravel().tolist() == [0, 1, 0]


def test_without_a_current_it_is_a_plain_neuron() -> None:
    x = np.random.default_rng(0).normal(size=(40, 6))
    settings = {"v_threshold": 0.7, "leak": 0.8, "bias": 0.1}
    plain, cuba = (
        simulate(chain(kind(**settings), shape=(6,), time_steps=40), values={"in": x}) for kind in (Neuron, CubaLIF)
    )
    np.testing.assert_array_equal(plain.spikes["0"], cuba.spikes["0"])
    assert plain.spikes["0"].any()


def test_a_current_is_that_of_norse_and_snntorch() -> None:
    """snnTorch's Synaptic, and norse's lif_feed_forward_step with dt / tau_mem = 1/4 and dt / tau_syn = 1/2."""
    torch, snntorch = pytest.importorskip("torch"), pytest.importorskip("snntorch")
    pytest.importorskip("norse")
    from norse.torch.functional.lif import LIFFeedForwardState, LIFParameters, lif_feed_forward_step

    x = np.random.default_rng(1).integers(0, 5, (60, 4)) / 8.0
    theirs = snntorch.Synaptic(alpha=0.5, beta=0.75, threshold=1.0, reset_mechanism="zero", reset_delay=False)
    current, membrane = theirs.init_synaptic()
    spikes = []
    for step in torch.tensor(x):
        s, current, membrane = theirs(step, current, membrane)
        spikes.append(s.numpy())
    node = CubaLIF(1.0 + 2.0**-40, 0.75, "hard", current_leak=0.5)  # it fires above its threshold
    ours = simulate(chain(node, shape=(4,), time_steps=60), values={"in": x})
    np.testing.assert_array_equal(ours.spikes["0"], np.array(spikes))
    assert ours.spikes["0"].any()

    parameters = LIFParameters(tau_mem_inv=torch.tensor(250.0), tau_syn_inv=torch.tensor(500.0))
    zero = torch.zeros(4, dtype=torch.float64)
    state, spikes = LIFFeedForwardState(zero, zero), []
    for step in torch.tensor(4 * x):
        s, state = lif_feed_forward_step(step, state, parameters)
        spikes.append(s.numpy())
    node = CubaLIF(4.0 * (1 + 2.0**-40), 0.75, "hard", current_leak=0.5)
    ours = simulate(chain(node, shape=(4,), time_steps=60), values={"in": 4 * x})
    np.testing.assert_array_equal(ours.spikes["0"], np.array(spikes))
    assert ours.spikes["0"].any()


def test_a_delay_by_hand() -> None:
    assert analog(Delay(2), 1, 2, 3, 4) == [0, 0, 1, 2]
    assert analog(Delay(0), 1, 2, 3, 4) == [1, 2, 3, 4]
    each = simulate(
        chain(Delay(np.array([0, 2, 1])), shape=(3,), time_steps=3), values={"in": np.arange(9.0).reshape(3, 3)}
    )
    assert each.analog["0"].tolist() == [[0, 0, 0], [3, 0, 2], [6, 1, 5]]


def test_spikes_stay_spikes_behind_a_delay() -> None:
    """Of 3 spikes in 4 steps the last does not come out; each causes an accumulate for both outputs."""
    graph = chain(Delay(1), Linear(np.ones((2, 1))), Neuron(5.0), time_steps=4, spiking=True)
    run = simulate(graph, values={"in": np.array([[1.0], [1], [0], [1]])})
    assert (run.events["1", "x"].events, run.events["1", "x"].synaptic_operations) == (2, 4)
    counts = {node.name: node for node in count(graph, *measure(graph, [{"values": {"in": np.ones((4, 1))}}])).nodes}
    assert counts["1"].spiking.accumulates == 2 * 3


def test_what_a_layer_with_a_state_costs() -> None:
    """3 steps of 2 elements: 6 updates, two states and two leaks each."""
    graph = chain(Integrator(0.5, 0.5), shape=(2,), time_steps=3)
    (_, node) = count(graph, *measure(graph, [{"values": {"in": np.ones((3, 2))}}])).nodes
    spiking = node.spiking
    assert (spiking.updates, spiking.leaks, spiking.adds, spiking.state_reads, spiking.value_writes) == (
        6,
        12,
        6,
        12,
        6,
    )
    assert node.dense.updates == 0
    graph = chain(CubaLIF(leak=0.5, current_leak=0.5), shape=(2,), time_steps=3)
    (_, node) = count(graph, *measure(graph, [{"values": {"in": np.ones((3, 2))}}])).nodes
    assert (node.spiking.updates, node.spiking.leaks, node.spiking.state_reads) == (6, 12, 12)


def self_recurrent(shape: tuple[int, ...] = (1,), **settings: Any) -> Graph:
    """A neuron that reads its own spikes of the step before."""
    build = GraphBuilder()
    x = build.add("in", Input(shape))
    build.feedback.append(("sum", "b"))
    build.add("neuron", Neuron(**settings), build.add("sum", Add(), x, "neuron"))
    return build.build(time_steps=6, schedule="concurrent", outputs={"out": "neuron", "drive": "sum"})


def test_a_neuron_may_feed_itself() -> None:
    """One spike goes round for ever."""
    run = simulate(self_recurrent(), values={"in": np.array([[0], [1.0], [0], [0], [0], [0]])})
    assert run.spikes["neuron"].ravel().tolist() == [0, 1, 1, 1, 1, 1]
    assert run.analog["sum"].ravel().tolist() == [0, 1, 1, 1, 1, 1]  # a declared output, seen in every step


def scaled_back() -> Graph:
    """sum = in + sum of the step before / 2, through a Scale in the loop, whose weight two others read."""
    build = GraphBuilder()
    x = build.add("in", Input((2,)))
    back = build.add_feedback("back", Scale(0.5), "weight")
    total = build.add("sum", Add(), x, back)
    build.add("weight", Linear(np.eye(2)), total)
    build.add("a", Neuron(1.75), "weight")
    build.add("b", Integrator(0.5), "weight")
    return build.build(time_steps=3, schedule="concurrent")


def test_a_scale_may_stand_in_a_loop_and_a_weight_go_on_to_two_readers() -> None:
    """1, 1 + 1/2, 1 + 3/4; the integrator 1, 2, 2.75."""
    run = simulate(scaled_back(), values={"in": np.ones(2)})
    assert run.spikes["a"].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert run.analog["b"].tolist() == [[1, 1], [2, 2], [2.75, 2.75]]


IMAGE = (2, 3, 2)


def image_graph() -> Graph:
    """Everything that acts on any shape, with parameters for each channel and each element."""
    rng = np.random.default_rng(3)
    build = GraphBuilder()
    x = build.add("in", Input(IMAGE, spiking=True))
    s = build.add("cuba", CubaLIF(rng.uniform(0.5, 1, IMAGE), np.array([[[0.5]], [[0.75]]]), current_leak=0.5), x)
    x = build.add("delayed", Delay(rng.integers(0, 3, IMAGE)), s)
    x = build.add("linear", Linear(rng.normal(size=(2, 2))), x)
    x = build.add("scaled", Scale(np.array([[[0.5]], [[2.0]]])), x)
    build.feedback.append(("sum", "b"))
    last = build.add("last", Neuron(0.83, 0.9), build.add("sum", Add(), x, "last"))
    joined = build.add("joined", Concat(2, axis=-3), s, last)
    build.add("read", Integrator(0.75, bias=0.25), joined)
    return build.build(time_steps=8, schedule="concurrent")


BATCH = {"values": {"in": np.random.default_rng(4).integers(0, 2, (3, 8, *IMAGE))}}


def test_shapes_of_a_network_without_tokens() -> None:
    graph = image_graph()
    assert not graph.has_tokens
    assert graph.shapes()["joined"] == (4, 3, 2)
    run = simulate(graph, values={"in": BATCH["values"]["in"][0]})
    assert run.spikes["last"].shape == (8, 2, 3, 2)
    assert run.analog["read"].shape == (8, 4, 3, 2)
    assert all(run.spikes[name].any() for name in ("cuba", "last"))


def test_interpreter_emulator_and_lava_agree() -> None:
    graph = image_graph()
    emulated = Emulator(graph).run(**BATCH, record=True)
    for i, values in enumerate(BATCH["values"]["in"]):
        oracle = simulate(graph, values={"in": values})
        for name in ("cuba", "last"):
            np.testing.assert_array_equal(emulated.spikes[name][i], oracle.spikes[name])
        np.testing.assert_allclose(emulated.analog["read"][i], oracle.analog["read"], rtol=1e-12)
    fixed = lower(graph, emulated.largest)
    whole = Emulator(fixed).run(**BATCH, record=True)
    assert np.abs(whole.analog["read"] - emulated.analog["read"]).mean() < 0.5
    if problem := compatibility.installation_problem():
        pytest.skip(problem)
    for network, expected in ((graph, emulated), (fixed, whole)):
        lava = run_on_lava(network, **BATCH, record=tuple(network.nodes), timeout=120)
        for kind in ("spikes", "potentials", "analog", "messages"):
            assert getattr(lava, kind).keys() == getattr(expected, kind).keys()
            for name, array in getattr(expected, kind).items():
                np.testing.assert_allclose(getattr(lava, kind)[name], array, rtol=0, atol=1e-12, err_msg=name)
        for kind in COUNTS:
            assert getattr(expected, kind)
            for port, counts in getattr(expected, kind).items():
                np.testing.assert_array_equal(getattr(lava, kind)[port], counts)


def test_integers_of_an_integrator_and_a_current() -> None:
    """Units of the drive 1/64; leak 2048 of 4096 halves towards 0. By hand: i = 64 x, i/2 + 64 x, …"""
    graph = chain(Linear(np.array([[1.0]])), Integrator(0.5, 0.5), time_steps=4, spiking=True)
    fixed = lower(graph, {"in": 1.0, "0": 1.0, "1": 4.0})
    unit = fixed.fixed_point["1"].scale
    assert unit * 64 == fixed.fixed_point["0"].scale
    run = Emulator(fixed).run(values={"in": np.array([[[1], [0], [0], [0]]])}, record=True)
    assert run.analog["1"].ravel().tolist() == [1, 1, 0.75, 0.5]


@pytest.mark.parametrize(
    "node",
    [
        Integrator(),
        Integrator(0.5, bias=0.5),
        Integrator(0.5, 0.25, v_init=0.5),
        Integrator(np.array([0.5, 1.0, 0.0])),
        CubaLIF(0.7, 0.5, current_leak=np.array([0.5, 0.25, 0.0]), bias=0.25),
        Delay(3),
        Delay(np.array([1, 0, 2])),
    ],
)
def test_files(node: Node, tmp_path: Path) -> None:
    graph = chain(Linear(np.eye(3)), node, shape=(3,))
    write_nir(graph, tmp_path / "layer.nir")
    assert read_nir(tmp_path / "layer.nir") == graph
    write_bundle(tmp_path / "layer.lava", Bundle(graph))
    assert read_bundle(tmp_path / "layer.lava").graph == graph


def test_nir_nodes_say_the_same() -> None:
    """Euler steps of dt = 1, from the numbers alone."""
    lif = to_nir(chain(CubaLIF(2.0, 0.75, bias=0.5, current_leak=0.5))).nodes["0"]
    assert (lif.tau_syn.tolist(), lif.w_in.tolist(), lif.tau_mem.tolist(), lif.r.tolist()) == ([2], [2], [4], [4])
    assert (lif.v_leak.tolist(), lif.v_threshold.tolist()) == ([2.0], [2.0])
    li = to_nir(chain(Integrator(0.5, bias=0.25))).nodes["0"]
    assert (type(li).__name__, li.tau.tolist(), li.r.tolist(), li.v_leak.tolist()) == ("LI", [2], [2], [0.5])
    assert type(to_nir(chain(Integrator())).nodes["0"]).__name__ == "I"
    assert type(to_nir(chain(Integrator(0.5, 0.5))).nodes["0"]).__name__ == "CubaLI"
    assert to_nir(chain(Delay(2))).nodes["0"].delay.tolist() == [2]
    loop = to_nir(self_recurrent())
    assert ("neuron", "neuron") in loop.edges
    assert {"out", "drive"} <= set(loop.nodes)
    assert to_nir(image_graph()).nodes["in"].input_type["input"].tolist() == [2, 3, 2]


def test_they_are_placed_on_a_chip() -> None:
    graph = image_graph()
    fixed = lower(graph, Emulator(graph).run(**BATCH, observe=True).largest)
    report = fit_report(fixed, load_chip("loihi2"))
    layers = {layer.name: layer for layer in report.layers}
    assert {"cuba", "last", "read"} <= set(layers)
    assert any("read (Integrator)" in finding.detail for finding in fit_report(fixed, load_chip("loihi1")).broken)


def stock_chain(**changes: Any) -> Graph:
    """A spiking layer, a Linear and a CubaLIF that Lava's Dense and LIF stand in for."""
    rng, build = np.random.default_rng(5), GraphBuilder()
    build.add("in", Input((3,), spiking=True))
    build.add("first", Neuron(1, reset="hard"), "in")
    build.add("linear", Linear(rng.integers(-60, 127, (4, 3)).astype(np.int8)), "first")
    settings = {"v_threshold": 64 * 90 + 1, "reset": "hard", "leak": 0.75, "current_leak": 0.5} | changes
    build.add("cuba", CubaLIF(**settings), "linear")
    fixed = {"in": FixedPoint(1.0, 1), "first": FixedPoint(1.0, 1, ((1, 0),))}
    fixed["linear"] = FixedPoint(1.0, 3 * 127, ((1, 0),), np.zeros(4, np.int8))
    fixed["cuba"] = FixedPoint(1.0, 1, ((64, 0),))
    return build.build(time_steps=12, schedule="concurrent", fixed_point=fixed)


@lava_installed
def test_lavas_own_neuron_is_a_neuron_behind_a_current() -> None:
    graph = stock_chain()
    assert Network(graph, ("cuba",)).stock["cuba"].du == 4095 - 2048
    values = {"in": np.random.default_rng(6).integers(0, 2, (2, 12, 3))}
    emulated = Emulator(graph).run(values=values, record=True)
    lava = run_on_lava(graph, values=values, record=("cuba",), timeout=120)
    np.testing.assert_array_equal(lava.spikes["cuba"], emulated.spikes["cuba"])
    np.testing.assert_array_equal(lava.potentials["cuba"], emulated.potentials["cuba"])
    assert emulated.spikes["cuba"].any()


def test_decays_bound_what_lavas_neuron_holds() -> None:
    """However long the run: a drive of B reaches at most B / ((1 - current_leak)(1 - leak)), and without a leak more in
    every step."""
    many = replace(stock_chain(), time_steps=400)
    assert set(Network(many).stock) == {"cuba"}
    assert Network(replace(stock_chain(leak=1.0), time_steps=400)).stock == {}
    run = Emulator(many).run(values={"in": np.ones((1, 400, 3))}, record=True, observe=True)
    assert run.spikes["cuba"].any() and np.abs(run.potentials["cuba"]).max() <= 8 * 3 * 127 * 64


@pytest.mark.parametrize(
    "changes",
    [
        {"current_leak": 1.0},  # du would be -1
        {"v_threshold": 64 * 90},  # potentials between the multiples of 64 matter
        {"current_leak": np.array([0.5, 0.25, 0.5, 0.25])},
        {"reset": "soft"},
        {"bias": 3},
    ],
)
def test_others_are_our_own(changes: dict[str, Any]) -> None:
    assert Network(stock_chain(**changes)).stock == {}


def test_validate_compares_networks_without_tokens() -> None:
    graph = image_graph()
    inputs = [{"values": {"in": values}} for values in BATCH["values"]["in"]]
    same = compare(Interpreter(graph), Interpreter(graph), inputs)
    assert not same.problems and same.layers["last"].compared == 3 * 8 * 12
    other = replace(graph, nodes=graph.nodes | {"last": Neuron(0.73, 0.9)})
    assert compare(Interpreter(graph), Interpreter(other), inputs).problems


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: chain(Integrator(1.5)), r"node 0 \(Integrator\): leak is 1.5"),
        (lambda: chain(Integrator(np.ones(2))), r"port x has shape \(1\), but leak is \(2,\)"),
        (lambda: chain(CubaLIF(current_leak=-0.1)), r"current_leak is -0.1"),
        (lambda: chain(Delay(-1)), "steps is -1: it must be a whole number"),
        (lambda: chain(Delay(0.5)), "steps is 0.5: it must be a whole number"),
        (lambda: chain(Delay(np.array([1, 2]))), r"but steps is \(2,\)"),
        (lambda: replace(chain(Integrator()), schedule="phased"), "only the concurrent schedule steps it"),
        (lambda: chain(MeanPool()), r"node 0 \(MeanPool\): port x has shape \(1\), but needs \(tokens, any\)"),
        (lambda: chain(shape=()), r"width is \(\)"),
        (lambda: chain(shape=(2, 0)), r"width is \(2, 0\)"),
        (lambda: chain(Linear(np.ones((2, 3))), shape=(4, 2)), r"port x has shape \(4, 2\), but needs \(4, 3\)"),
        (lambda: chain(Readout(np.ones((2, 3))), shape=(4, 3)), r"node 0 \(Readout\): port x has shape \(4, 3\)"),
        (lambda: chain(Concat(1, axis=-2)), "needs one with axis -2"),
        (lambda: chain(Concat(1, axis=0)), "axis is 0"),
        (lambda: replace(chain(), outputs={"out": "ghost"}), "output out is given by 'ghost'"),
        (
            lambda: replace(
                chain(), nodes={"in": Input((1,)), "e": Embedding(np.ones((2, 2)))}, inputs={"in": (), "e": ()}
            ),
            r"node e \(Embedding\) has tokens, node in \(Input\) has none",
        ),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()


def test_a_shape_that_depends_on_itself_alone_is_refused() -> None:
    build = GraphBuilder()
    build.add("in", Input((1,)))
    build.add_feedback("a", Scale(1.0), "a")
    with pytest.raises(GraphError, match=r"node a \(Scale\): its shape depends on feedback alone"):
        build.build(time_steps=1, schedule="concurrent")


def test_values_of_another_shape_are_refused() -> None:
    graph = chain(Neuron(), shape=(2, 3))
    for values in (np.ones((3, 2)), np.ones((4, 2, 3)), np.ones(6)):
        with pytest.raises(DataError, match=r"values for Input in have shape .*\(2, 3\) or \(5, 2, 3\)"):
            simulate(graph, values={"in": values})
        with pytest.raises(DataError, match=r"\(batch, 2, 3\) or \(batch, 5, 2, 3\)"):
            Emulator(graph).run(values={"in": values[None]})
