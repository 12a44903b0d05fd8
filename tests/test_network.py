"""Cutting a graph into processes, their time line, and what they do, stepped here without Lava."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_batch, shaped_graphs

from neurotool.errors import ExportError, OverflowingError
from neurotool.executor import Run
from neurotool.export.lower import lower
from neurotool.graph import Add, FixedPoint, Graph, GraphBuilder, Input, LayerNorm, Linear, MeanPool, Neuron, Readout
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.entering import entering
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.program import Program


def stepped(graph: Graph, batch: dict[str, Any], overflow: Any = "error") -> Run:
    """What the programs of all parts record, run in the order in which Lava's channels make them wait."""
    network = Network(graph)
    inputs = entering(graph, batch.get("input_ids"), batch.get("attention_mask"), None, batch.get("values", {}))
    programs = [Program(network, part, inputs, tuple(graph.nodes), overflow) for part in network.parts]
    for _ in range(len(inputs.real) * network.time_line.steps):
        _step(programs)
    assert all(program.finished for program in programs)
    together = Run()
    for program in programs:
        for kind in ("messages", "spikes", "potentials", "analog"):
            for name in getattr(program.results[0], kind):
                getattr(together, kind)[name] = np.stack([getattr(one, kind)[name] for one in program.results])
        if program.results[0].logits is not None:
            together.logits = np.stack([one.logits for one in program.results if one.logits is not None])
    return together


def _step(programs: list[Program]) -> None:
    sent: dict[str, np.ndarray] = {}

    def send(program: Program) -> None:
        messages = program.act()
        sent.update({name: messages.get(name, program.silence(name)) for name in program.part.sends})

    def receive(program: Program) -> None:
        for name in program.part.reads:
            program.receive(name, sent[name])

    for program in programs:
        program.begin_step()
    waiting = list(programs)
    while waiting:
        ready = [program for program in waiting if set(program.part.reads) <= set(sent)]
        assert ready, "parts wait for each other"
        for program in ready:
            receive(program)
            send(program)
        waiting = [program for program in waiting if program not in ready]
    for program in programs:
        for name in program.part.reads_back:
            program.receive(name, sent[name])
        program.end_step()


def assert_equal(a: Run, b: Run, tolerance: float) -> None:
    assert (a.logits is None) == (b.logits is None)
    if a.logits is not None and b.logits is not None:
        np.testing.assert_allclose(a.logits, b.logits, rtol=0, atol=tolerance)
    for kind in ("spikes", "potentials", "messages", "analog"):
        assert sorted(getattr(a, kind)) == sorted(getattr(b, kind))
        for name, array in getattr(a, kind).items():
            np.testing.assert_allclose(array, getattr(b, kind)[name], rtol=0, atol=tolerance, err_msg=f"{kind} {name}")


@settings(max_examples=100)
@given(graphs() | shaped_graphs(), st.integers(0, 1000))
def test_programs_give_what_the_emulator_gives_in_floats(graph: Graph, seed: int) -> None:
    batch = random_batch(graph, seed)
    assert_equal(stepped(graph, batch), Emulator(graph).run(**batch, record=True), tolerance=1e-9)


@settings(max_examples=100)
@given(graphs() | shaped_graphs(), st.integers(0, 1000), st.sampled_from(["wrap", "clip"]))
def test_programs_give_exactly_what_the_emulator_gives_in_integers(graph: Graph, seed: int, overflow: Any) -> None:
    batch = random_batch(graph, seed)
    try:
        graph = lower(graph, Emulator(graph).run(**batch, record=True).largest)
    except ExportError:
        assume(False)
    assert_equal(stepped(graph, batch, overflow), Emulator(graph, overflow).run(**batch, record=True), tolerance=0)


@pytest.fixture(scope="module")
def student_graph(make_student: Any) -> Graph:
    graph: Graph = make_student(num_hidden_layers=4, time_steps=4, schedule="phased").to_graph()
    return graph


def test_a_student_of_4_layers_has_13_processes_a_layer(student_graph: Graph) -> None:
    parts = Network(student_graph).parts
    assert len(parts) == 4 + 4 * 13 < 60
    kinds = Counter(part.kind for part in parts)
    assert kinds == {"source": 1, "readout": 1, "synapse": 16, "neurons": 25, "attention": 4, "operation": 9}
    by_name = {part.name: part for part in parts}
    assert by_name["encoder.0.value.linear"].nodes == tuple(
        f"encoder.0.{part}.linear" for part in ("key", "query", "value")
    )
    assert by_name["encoder.0.intermediate"].nodes == ("encoder.0.intermediate.gelu", "encoder.0.intermediate")
    assert by_name["encoder.3.context"].reads == tuple(f"encoder.3.{x}" for x in ("query.linear", "key", "value"))
    assert sorted(name for part in parts for name in part.nodes) == sorted(student_graph.nodes)


def test_windows_of_a_student(student_graph: Graph) -> None:
    time_line = Network(student_graph).time_line
    starts = [time_line.acts[name] for name in student_graph.of_type(Neuron)]
    assert starts == list(range(0, 25 * 4, 4))
    assert time_line.steps == 100
    assert time_line.acts["encoder.0.softmax"] == 8  # after the key's window, which is the second
    assert time_line.acts["encoder.0.self_output.norm"] == 16
    assert {"encoder.0.scores", "encoder.0.context", "encoder.0.output.linear"} <= time_line.passing
    assert "encoder.0.softmax" not in time_line.passing


def small(*, rescale: tuple[int, int] = (1, 0), schedule: Any = "phased") -> Graph:
    """Spikes in, a Linear with bias, one neuron with threshold 10, read out; integers by hand."""
    build = GraphBuilder()
    x = build.add("x", Input(2, spiking=True))
    y = build.add("y", Linear(np.array([[3, -2]], np.int8), np.array([1], np.int32)), x)
    n = build.add("n", Neuron(v_threshold=10), y)
    pooled = build.add("pool", MeanPool(), n)
    build.add("readout", Readout(np.array([[1]], np.int8)), pooled)
    rescales = {"x": (), "y": (rescale,), "n": ((1, 0),), "pool": ((1, 0),), "readout": ((1, 0),)}
    exponents = {"y": np.zeros(1, np.int8), "readout": np.zeros(1, np.int8)}
    fixed = {name: FixedPoint(1.0, 2**12, scale, exponents.get(name)) for name, scale in rescales.items()}
    return build.build(time_steps=3, schedule=schedule, fixed_point=fixed)


SPIKES = np.array([[[1, 0]], [[1, 1]], [[1, 0]]])
"""(T, tokens, width): sums 3, 1, 3."""


def test_a_synapse_passes_on_each_step_and_its_bias_once() -> None:
    graph = small()
    network = Network(graph)
    inputs = entering(graph, None, None, None, {"x": SPIKES[None]})
    synapse = Program(network, network.parts[1], inputs)
    sent = []
    for step in range(network.time_line.steps):
        synapse.begin_step()
        if step < 3:
            synapse.receive("x", SPIKES[step])
        sent.append(int(synapse.act().get("y", np.zeros((1, 1)))[0, 0]))
    assert sent == [3 + 1, 1, 3, 0, 0, 0]
    # Drive 8 in each of three steps, threshold 10: potentials 8, 16 - 10, 14 - 10.
    result = stepped(graph, {"values": {"x": SPIKES[None]}})
    assert result.spikes["n"][0, :, 0, 0].tolist() == [0, 1, 1]
    assert result.potentials["n"].item() == 4


def test_a_shift_waits_for_the_complete_sum() -> None:
    """Halved, half up, 3 spikes are 2 and 1 is 1; halved step by step they would be 3 and 1."""
    graph = small(rescale=(1, 1))
    assert "y" not in Network(graph).time_line.passing
    result = stepped(graph, {"values": {"x": SPIKES[None]}})
    assert result.messages["y"].item() == 3 * 2 - 2 * 1 + 1


def test_overflow_has_the_emulators_text() -> None:
    graph = small()
    wide = {name: FixedPoint(f.scale, 2**40, f.rescale, f.exponents) for name, f in graph.fixed_point.items()}
    wide["y"] = FixedPoint(1.0, 2**40, ((1, 0),), np.array([23], np.int8))
    graph = Graph(graph.nodes, graph.inputs, 3, "phased", fixed_point=wide)
    with pytest.raises(OverflowingError) as expected:
        Emulator(graph).run(values={"x": SPIKES[None]})
    with pytest.raises(OverflowingError) as error:
        stepped(graph, {"values": {"x": SPIKES[None]}})
    assert str(error.value) == str(expected.value)
    assert str(error.value).startswith(f"node y reaches {7 * 2**23 + 1}, but 24 bits hold")


def test_what_comes_after_the_last_window_gets_its_step() -> None:
    build = GraphBuilder()
    n = build.add("n", Neuron(0.5), build.add("x", Input(2, spiking=True)))
    norm = build.add("norm", LayerNorm(np.array([1.0, 2.0]), np.zeros(2), 1e-5), build.add("twice", Add(), n, n))
    build.add("readout", Readout(np.array([[1.0, -1.0]])), build.add("pool", MeanPool(), norm))
    graph = build.build(time_steps=3, schedule="phased")
    time_line = Network(graph).time_line
    assert (time_line.acts["n"], time_line.acts["norm"], time_line.steps) == (3, 6, 9)
    batch = {"values": {"x": SPIKES[None]}}
    assert_equal(stepped(graph, batch), Emulator(graph).run(**batch, record=True), tolerance=1e-12)
