"""Graded messages: one with a count in place of a window of spikes, everywhere the same numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_batch, random_input

from neurotool.api.model import open_model
from neurotool.errors import ConfigError, GraphError
from neurotool.executor import Run, Simulation
from neurotool.export.drawing import to_dot
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.export.placement import message_bits
from neurotool.graph import GradedNeuron, Graph, GraphBuilder, Input, Linear, MeanPool, Neuron, Readout
from neurotool.graph.graded import graded
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import Interpreter, simulate
from neurotool.validate import compare

IDS = np.array([[2, 7, 9, 4, 3, 0], [2, 8, 11, 3, 0, 0], [2, 5, 13, 21, 6, 3]])
MASK = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0], [1] * 6])
KINDS = [{"spikes": "binary", "v_init": 0.5}, {"spikes": "binary"}, {"spikes": "ternary"}]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=["binary", "binary floor", "ternary"])


def one_layer(node: Neuron, time_steps: int, width: int = 1) -> Graph:
    build = GraphBuilder()
    x = build.add("n", node, build.add("in", Input(width)))
    x = build.add("out", Linear(np.ones((2, width))), x)
    build.add("readout", Readout(np.eye(2)), build.add("pool", MeanPool(), x))
    return build.build(time_steps=time_steps, schedule="phased", tokens=4)


def run(graph: Graph, row: int) -> Simulation:
    return simulate(graph, IDS[row], MASK[row])


def largest(graph: Graph) -> dict[str, float]:
    return Emulator(graph).run(IDS, MASK, observe=True).largest


# --- the node --------------------------------------------------------------------------------------------------------


def test_hand_computed_counts() -> None:
    drive = np.array([-9.0, -1.0, -0.4, -0.125, -0.1, 0.0, 0.1, 0.125, 0.3, 0.6, 1.0, 9.0])
    signed = GradedNeuron(spikes="ternary", levels=4)
    assert signed.count(drive, 1).tolist() == [-4, -4, -2, 0, 0, 0, 0, 1, 1, 2, 4, 4]
    wide = GradedNeuron(spikes="ternary", levels=4, dead_zone=1.5)
    assert wide.count(drive, 1).tolist() == [-4, -4, -2, 0, 0, 0, 0, 0, 0, 2, 4, 4]
    rounding = GradedNeuron(v_init=0.5, levels=4)
    assert rounding.count(drive, 1).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4, 4]


def test_payloads_are_stated_and_checked() -> None:
    assert GradedNeuron(levels=1).payload_bits == 1 and GradedNeuron(levels=4).payload_bits == 3
    assert GradedNeuron(spikes="ternary", levels=4).payload_bits == 4
    assert GradedNeuron(spikes="ternary", levels=2**23 - 1).payload_bits == 24
    for bad, message in (
        (GradedNeuron(spikes="ternary", levels=2**23), "its messages need 25 bits of 24"),
        (GradedNeuron(levels=0), "levels is 0: it must be a whole number of at least 1"),
        (GradedNeuron(levels=2, dead_zone=3.0), r"dead_zone is 3.0: it must be in \[0, 2\]"),
        (GradedNeuron(levels=2, leak=0.5), "leak 0.5, soft reset, v_init 0.0: graded messages are counts of IF"),
        (GradedNeuron(levels=2, reset="hard"), "leak 1.0, hard reset"),
    ):
        with pytest.raises(GraphError, match=message):
            one_layer(bad, 1)


def test_a_window_is_one_step() -> None:
    with pytest.raises(GraphError, match="time_steps 4; a graded message needs a phased window of one step"):
        one_layer(GradedNeuron(levels=4), 4)


@given(
    kind=st.sampled_from(KINDS),
    time_steps=st.integers(1, 9),
    threshold=st.floats(0.1, 3),
    currents=st.lists(st.floats(-4, 4), min_size=1, max_size=5),
)
def test_a_count_is_that_of_the_spikes_of_a_window(
    kind: dict[str, Any], time_steps: int, threshold: float, currents: list[float]
) -> None:
    spiking = one_layer(Neuron(v_threshold=threshold, **kind), time_steps, len(currents))
    a = simulate(spiking, values={"in": np.array([currents])})
    b = simulate(graded(spiking), values={"in": np.array([currents])})
    assert np.array_equal(a.spikes["n"].sum(0), b.spikes["n"][0]) and len(b.spikes["n"]) == 1
    assert np.array_equal(a.rates["n"], b.rates["n"]) and np.array_equal(a.logits, b.logits)
    assert b.events["out", "x"].events == np.count_nonzero(b.spikes["n"])
    assert b.events["out", "x"].synaptic_operations == 2 * np.count_nonzero(b.spikes["n"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(graphs(), st.integers(0, 1000))
def test_random_networks_keep_their_rates(graph: Graph, seed: int) -> None:
    try:
        one_step = graded(graph)
    except GraphError:
        assume(False)
    inputs = random_input(graph, seed)
    if "values" in inputs:
        inputs = {"values": {"spikes_in": inputs["values"]["spikes_in"][0]}}  # a constant current
    a, b = simulate(graph, **inputs), simulate(one_step, **inputs)
    assert np.array_equal(a.logits, b.logits)
    assert all(np.array_equal(a.rates[name], b.rates[name]) for name in a.rates)
    batch = random_batch(graph, seed, inputs=1)
    if "values" in batch:
        batch["values"] = {"spikes_in": batch["values"]["spikes_in"][:, 0]}
    expected, found = (Emulator(network).run(**batch, observe=True) for network in (graph, one_step))
    assert all(np.array_equal(expected.rates[name], found.rates[name]) for name in expected.rates)


# --- a student -------------------------------------------------------------------------------------------------------


@every_kind
def test_the_same_logits_to_the_last_bit(make_student: Callable[..., Any], kind: dict[str, Any]) -> None:
    graph = make_student(time_steps=4, v_threshold=0.7, **kind).to_graph()
    one_step = graded(graph)
    assert one_step.time_steps == 1 and one_step.nodes["embedding"].levels == 4
    emulated = Emulator(one_step).run(IDS, MASK, observe=True)
    recorded = Emulator(one_step).run(IDS, MASK, record=True)
    for row in range(len(IDS)):
        a, b = run(graph, row), run(one_step, row)
        assert np.array_equal(a.logits, b.logits)
        for name, spikes in a.spikes.items():
            assert np.array_equal(spikes.sum(0, dtype=int), b.spikes[name][0]), name
            assert np.array_equal(recorded.spikes[name][row], b.spikes[name]), name
            assert np.array_equal(emulated.rates[name][row], b.rates[name]), name
        assert emulated.logits[row] == pytest.approx(b.logits, abs=1e-12)
        events = {port: (e.events, e.synaptic_operations) for port, e in b.events.items()}
        counted = {p: (int(e[row]), int(emulated.synaptic_operations[p][row])) for p, e in emulated.events.items()}
        assert counted == events
        assert sum(e.events for e in b.events.values()) < sum(e.events for e in a.events.values())


@every_kind
@pytest.mark.parametrize("time_steps", [2, 3, 4])
def test_the_same_integers(make_student: Callable[..., Any], kind: dict[str, Any], time_steps: int) -> None:
    graph = make_student(time_steps=time_steps, v_threshold=0.7, **kind).to_graph()
    seen = largest(graph)
    spiking, one_step = lower(graph, seen), lower(graded(graph), seen)
    assert spiking.fixed_point == one_step.fixed_point
    a = Emulator(spiking).run(IDS, MASK, record=True)
    b, stepped = (Emulator(one_step).run(IDS, MASK, record=record, observe=True) for record in (False, True))
    assert np.array_equal(a.logits, b.logits) and np.array_equal(a.logits, stepped.logits)
    for name, spikes in a.spikes.items():
        assert np.array_equal(spikes.sum(1, dtype=int), stepped.spikes[name][:, 0]), name
    assert_same_events(b, stepped)


def assert_same_events(a: Run, b: Run) -> None:
    assert a.events.keys() == b.events.keys()
    assert all(np.array_equal(a.events[port], b.events[port]) for port in a.events)


def test_a_dead_zone_in_integers() -> None:
    """Thresholds of 8 units, 4 levels: half a level is one unit, 1.5 levels are three."""
    build = GraphBuilder()
    x = build.add("n", GradedNeuron(1.0, spikes="ternary", levels=4, dead_zone=1.5), build.add("in", Input(5)))
    build.add("readout", Readout(np.eye(5)), build.add("pool", MeanPool(), x))
    graph = build.build(time_steps=1, schedule="phased", tokens=1)
    values = {"in": np.array([[[-0.5, -0.3, 0.25, 0.4, 1.5]]])}
    fixed = lower(graph, Emulator(graph).run(values=values, observe=True).largest)
    for network in (graph, fixed):
        for record in (False, True):
            result = Emulator(network).run(values=values, record=record, observe=True)
            assert (result.rates["n"] * 4).tolist() == [[[-2, 0, 0, 2, 4]]]


def test_nir_and_drawings_keep_levels_and_dead_zone(make_student: Callable[..., Any], tmp_path: Path) -> None:
    graph = graded(make_student(time_steps=4, spikes="ternary").to_graph())
    write_nir(graph, tmp_path / "graded.nir")
    assert read_nir(tmp_path / "graded.nir") == graph
    alone = one_layer(GradedNeuron(0.5, spikes="ternary", levels=3, dead_zone=0.75), 1)
    write_nir(alone, tmp_path / "one.nir")
    assert read_nir(tmp_path / "one.nir") == alone
    to_dot(alone, tmp_path / "one.dot")
    assert "graded -3 … 3, θ 0.5, dead zone 0.75" in (tmp_path / "one.dot").read_text(encoding="utf-8")


def test_messages_on_a_chip_have_the_bits_of_the_payload(make_student: Callable[..., Any]) -> None:
    graph = make_student(time_steps=4, spikes="ternary").to_graph()
    assert message_bits(lower(graded(graph), largest(graph)), "embedding") == 4


def test_what_has_no_count_is_refused(make_student: Callable[..., Any]) -> None:
    for values, message in (
        ({"schedule": "concurrent"}, "schedule is concurrent"),
        ({"leak": 0.9}, "node embedding .*: leak 0.9, soft reset, v_init 0.0: only IF"),
        ({"reset": "hard"}, "leak 1.0, hard reset"),
    ):
        with pytest.raises(GraphError, match=message):
            graded(make_student(**values).to_graph())


# --- trained so ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{}, {"dead_zone": 1.5}, {"activation": "relu"}, {"v_threshold_per_channel": True}])
def test_a_graded_student_is_its_graph(make_student: Callable[..., Any], values: dict[str, Any]) -> None:
    student = make_student(spikes="graded", time_steps=4, v_threshold=0.7, learn_v_threshold=True, **values).double()
    graph, ids, mask = student.to_graph(), torch.tensor(IDS), torch.tensor(MASK)
    assert graph.time_steps == 1 and graph.nodes["embedding"].dead_zone == values.get("dead_zone", 0.5)
    output = student(ids, mask)
    stepped = student.window_spikes(ids, mask)
    sent = student(ids, mask, output_spike_counts=True).spike_counts
    for row in range(len(IDS)):
        result = run(graph, row)
        assert result.logits == pytest.approx(output.logits[row].detach().numpy(), abs=1e-12)
        for name, counts in result.spikes.items():
            assert np.array_equal(counts[0], stepped[name][0, row].numpy()), name
            assert np.array_equal(counts[0] != 0, sent[name][row].detach().numpy() == 1), name
    least = min(np.abs(counts[counts != 0]).min() for counts in result.spikes.values())
    assert least == (2 if "dead_zone" in values else 1)  # nothing is sent below 1.5 levels
    wide = np.unique(result.spikes["encoder.0.intermediate"])
    assert wide.min() == 0 or "activation" not in values


def test_a_graded_student_is_the_ternary_one(make_student: Callable[..., Any]) -> None:
    ternary, one_step = (make_student(spikes=spikes, time_steps=4, v_threshold=0.7) for spikes in ("ternary", "graded"))
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    assert torch.equal(ternary(ids, mask).logits, one_step(ids, mask).logits)
    for a, b in zip(ternary.parameters(), one_step.parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_graded_students_cannot_be(make_student: Callable[..., Any]) -> None:
    for values, message in (
        ({"schedule": "concurrent"}, "schedule is concurrent: only phased windows"),
        ({"leak": 0.9}, "leak is 0.9, reset soft: graded messages need leak 1"),
        ({"dead_zone": 5.0}, "dead_zone is 5.0: nothing is sent below it; there are 4 levels"),
        ({"spikes": "ternary", "dead_zone": 1.0}, "dead_zone is 1.0, spikes ternary: only graded messages have one"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_student(**{"spikes": "graded", "time_steps": 4} | values)


# --- exported so -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["nir", "lava"])
def test_a_trained_student_is_exported_with_graded_messages(
    energy_checkpoint: Path, tmp_path: Path, target: str
) -> None:
    texts = ["a good film", "a very bad film"]
    model = open_model(energy_checkpoint)
    report = model.export(tmp_path / "graded", target, messages="graded", samples=4)
    plain = model.export(tmp_path / "plain", target, samples=4)
    assert (report["time_steps"], plain["time_steps"]) == (1, 4)
    written = [
        open_model(tmp_path / name, **({"tokenizer": energy_checkpoint} if target == "nir" else {}))
        for name in ("graded", "plain")
    ]
    graded_logits, plain_logits = (one.logits(texts) for one in written)
    assert np.array_equal(graded_logits, plain_logits) and np.ptp(plain_logits) > 0


@pytest.mark.parametrize("precision", ["float", "fixed"])
def test_spikes_are_held_against_messages_by_their_counts(make_student: Callable[..., Any], precision: str) -> None:
    graph = make_student(time_steps=4, v_threshold=0.7, spikes="ternary").to_graph()
    executors: list[Any] = [Interpreter(graph), Interpreter(graded(graph))]
    if precision == "fixed":
        executors = [Emulator(lower(network, largest(network))) for network in (graph, graded(graph))]
    inputs = [{"input_ids": ids, "attention_mask": mask} for ids, mask in zip(IDS, MASK, strict=True)]
    for a, b in (executors, executors[::-1]):
        result = compare(a, b, inputs)
        assert result.passed and result.counted, result.problems
        assert all(layer.spikes_a == layer.spikes_b > 0 for layer in result.layers.values())
    other = replace(graph, nodes=graph.nodes | {"embedding": replace(graph.nodes["embedding"], v_threshold=0.6)})
    assert not compare(Interpreter(other), Interpreter(graded(graph)), inputs).passed


def test_what_cannot_be_exported_so_is_refused(make_student: Callable[..., Any], tmp_path: Path) -> None:
    write_nir(make_student(schedule="concurrent").to_graph(), tmp_path / "model.nir")
    model = open_model(tmp_path / "model.nir")
    with pytest.raises(ConfigError, match=r"--messages graded: .*model.nir: schedule is concurrent"):
        model.export(tmp_path / "out.nir", messages="graded")
    with pytest.raises(ConfigError, match="messages 'dense': choose one of spikes, graded"):
        model.export(tmp_path / "out.nir", messages="dense")
    assert not (tmp_path / "out.nir").exists()
