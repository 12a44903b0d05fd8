"""The oracle against numbers worked out by hand and against brute-force loops."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_graphs import TOKENS, VOCABULARY, graphs, random_input

from neurotool.errors import DataError
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
    Readout,
    Scale,
    Softmax,
)
from neurotool.simulate import SynapseEvents, simulate, simulate_batch

SCHEDULES = ("phased", "concurrent")


def one_layer(neuron: Neuron, time_steps: int, schedule: str, weight: float = 1.0) -> Graph:
    build = GraphBuilder()
    build.add("in", Input(1))
    build.add("linear", Linear(np.array([[weight]])), "in")
    build.add("neurons", neuron, "linear")
    return build.build(time_steps=time_steps, schedule=schedule)


def spikes_of(graph: Graph, current: float) -> list[int]:
    return simulate(graph, values={"in": np.array([[current]])}).spikes["neurons"].ravel().tolist()


# A constant current: both schedules step the first layer alike. Potentials worked out by hand, exact in binary.
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("neuron", "current", "spikes", "potential", "rate"),
    [
        # u: .375 .75 1.125>.125 .5 .875
        (Neuron(), 0.375, [0, 0, 1, 0, 0], 0.875, 0.2),
        # exactly at the threshold counts: .5 1>0 .5 1>0
        (Neuron(), 0.5, [0, 1, 0, 1], 0.0, 0.5),
        # in units of the threshold: 0.75 / 2 = .375
        (Neuron(v_threshold=2.0), 0.75, [0, 0, 1, 0, 0], 0.875, 0.2),
        # starting at .5: .875 1.25>.25 .625 1>0 .375
        (Neuron(v_init=0.5), 0.375, [0, 1, 0, 1, 0], 0.375, 0.4),
        # at most one spike a step, so the potential piles up: 1.5>.5 2>1 2.5>1.5
        (Neuron(), 1.5, [1, 1, 1], 1.5, 1.0),
        (Neuron(), -0.5, [0, 0, 0], -1.5, 0.0),
        # hard reset: .75 1.5>0 .75 1.5>0, where soft reset gives 0 1 1 1
        (Neuron(reset="hard"), 0.75, [0, 1, 0, 1], 0.0, 0.5),
        (Neuron(), 0.75, [0, 1, 1, 1], 0.0, 0.75),
        # leak 1/2: .75 1.125>.125 .8125 1.15625>.15625; ASR (.25 + 1) / (.125 + .25 + .5 + 1)
        (Neuron(leak=0.5), 0.75, [0, 1, 0, 1], 0.15625, 1.25 / 1.875),
        # leak 1/2, hard: .75 1.125>0 .75 1.125>0 .75; ASR (.5 + .125) / 1.9375
        (Neuron(leak=0.5, reset="hard"), 0.75, [0, 1, 0, 1, 0], 0.75, 0.625 / 1.9375),
        # a memoryless threshold; its ASR is the last step
        (Neuron(leak=0.0), 0.75, [0, 0], 0.75, 0.0),
        (Neuron(leak=0.0), 1.25, [1, 1], 0.25, 1.0),
        # ternary: -.375 -.75>.25 -.125 -.5 -.875>.125 (-.5 itself does not fire)
        (Neuron(spikes="ternary"), -0.375, [0, -1, 0, 0, -1], 0.125, -0.4),
        # +.5 does: .5>-.5 0 .5>-.5
        (Neuron(spikes="ternary"), 0.5, [1, 0, 1], -0.5, 2 / 3),
        (Neuron(spikes="ternary", v_init=0.25), 0.25, [1, 0, 0, 0], 0.25, 0.25),
        # ternary hard: -.375 -.75>0 -.375 -.75>0
        (Neuron(spikes="ternary", reset="hard"), -0.375, [0, -1, 0, -1], 0.0, -0.5),
        # ternary, leak 1/2: .375 .5625>-.4375 .15625 .453125 .6015625>-.3984375
        (
            Neuron(spikes="ternary", leak=0.5),
            0.375,
            [0, 1, 0, 0, 1],
            -0.3984375,
            (0.125 + 1) / 1.9375,
        ),
    ],
)
def test_dynamics_by_hand(
    schedule: str, neuron: Neuron, current: float, spikes: list[int], potential: float, rate: float
) -> None:
    result = simulate(one_layer(neuron, len(spikes), schedule), values={"in": np.array([[current]])})
    assert result.spikes["neurons"].dtype == np.int8
    assert result.spikes["neurons"].shape == (len(spikes), 1, 1)
    assert result.spikes["neurons"].ravel().tolist() == spikes
    assert result.potentials["neurons"].item() == potential
    assert result.rates["neurons"].item() == rate
    assert result.events == {}  # an Input that does not spike is a current
    assert result.logits is None


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_per_neuron_threshold_and_leak(schedule: str) -> None:
    neuron = Neuron(v_threshold=np.array([1.0, 2.0, 0.5]), leak=np.array([1.0, 0.5, 0.5]))
    graph = Graph({"in": Input(3), "neurons": neuron}, {"in": (), "neurons": ("in",)}, time_steps=4, schedule=schedule)
    result = simulate(graph, values={"in": np.array([[0.5, 1.5, 0.25]])})
    # drive .5, .75, .5: second as leak=0.5 above; third .5 .75 .875 .9375
    assert result.spikes["neurons"][:, 0].T.tolist() == [[0, 1, 0, 1], [0, 1, 0, 1], [0, 0, 0, 0]]
    assert result.potentials["neurons"].tolist() == [[0.0, 0.15625, 0.9375]]
    assert result.rates["neurons"].tolist() == [[0.5, 1.25 / 1.875, 0.0]]


def chain(schedule: str, time_steps: int = 4) -> Graph:
    build = GraphBuilder()
    build.add("in", Input(1))
    build.add("first", Neuron(), "in")
    build.add("linear", Linear(np.array([[0.5], [1.5]]), np.array([0.25, -0.5])), "first")
    build.add("second", Neuron(), "linear")
    build.add("pool", MeanPool(), "second")
    build.add("readout", Readout(np.array([[2.0, 4.0]]), np.array([1.0])), "pool")
    return build.build(time_steps=time_steps, schedule=schedule)


def test_phased_hands_on_rates_and_concurrent_spikes() -> None:
    # First layer at .5: 0 1 0 1. Phased: rate .5, currents .5 and .25 -> 0 1 0 1 and 0 0 0 1.
    phased = simulate(chain("phased"), values={"in": np.array([[0.5]])})
    assert phased.spikes["first"].ravel().tolist() == [0, 1, 0, 1]
    assert phased.spikes["second"][:, 0].T.tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    assert phased.logits is not None and phased.logits.tolist() == [2 * 0.5 + 4 * 0.25 + 1]
    # Concurrent, currents .25 .75 .25 .75: .25 1>0 .25 1>0; and -.5 1 -.5 1: -.5 .5 0 1>0.
    concurrent = simulate(chain("concurrent"), values={"in": np.array([[0.5]])})
    assert concurrent.spikes["second"][:, 0].T.tolist() == [[0, 1, 0, 1], [0, 0, 0, 1]]
    # One step fewer parts them: concurrent .25 .75 .25 -> 0 1 0; phased rate 1/3, current .41667 -> 0 0 1.
    three = [simulate(chain(s, 3), values={"in": np.array([[0.5]])}).spikes["second"][:, 0, 0] for s in SCHEDULES]
    assert [spikes.tolist() for spikes in three] == [[0, 0, 1], [0, 1, 0]]
    assert concurrent.events == {("linear", "x"): SynapseEvents(2, 4, 2, 4)}
    assert phased.events == {("linear", "x"): SynapseEvents(2, 4, 1, 2)}  # both spikes in one window


@given(
    st.floats(-2, 2, width=32),
    st.integers(1, 40),
    st.sampled_from([("binary", 0.0), ("binary", 0.4375), ("ternary", 0.0), ("ternary", -0.25)]),
)
def test_count_of_a_window_has_the_closed_form(current: float, time_steps: int, kind: tuple[Any, float]) -> None:
    spikes, v_init = kind
    total = sum(spikes_of(one_layer(Neuron(spikes=spikes, v_init=v_init), time_steps, "phased"), current))
    half, low = (0.5, -time_steps) if spikes == "ternary" else (0.0, 0)
    # width=32 and T <= 40: T * current is exact in float64
    assert total == min(max(math.floor(v_init + half + time_steps * current), low), time_steps)


def test_feedback_is_one_step_late_or_one_sweep() -> None:
    build = GraphBuilder()
    build.add("in", Input(1))
    build.add_feedback("back", Linear(np.array([[1.0]])), "neurons")
    build.add("sum", Add(), "in", "back")
    build.add("neurons", Neuron(), "sum")
    values = {"in": np.array([[0.5]])}
    # Currents .5 .5 1.5 1.5: .5 1>0 1.5>.5 2>1. The last spike is not delivered.
    concurrent = simulate(build.build(time_steps=4, schedule="concurrent"), values=values)
    assert concurrent.spikes["neurons"].ravel().tolist() == [0, 1, 1, 1]
    assert concurrent.potentials["neurons"].item() == 1.0
    assert concurrent.events == {("back", "x"): SynapseEvents(2, 2, 2, 2)}
    # Sweeps: current .5 -> 0 1 0 1; then .5 + .5; then .5 + 1.
    phased = simulate(build.build(time_steps=4, schedule="phased", feedback_sweeps=3), values=values)
    assert phased.spikes["neurons"].ravel().tolist() == [0, 1, 0, 1] + [1, 1, 1, 1] * 2
    assert phased.rates["neurons"].item() == 1.0
    assert phased.events == {("back", "x"): SynapseEvents(6, 6, 2, 2)}


def test_attention_by_hand() -> None:
    build = GraphBuilder()
    build.add("q", Input(2))
    build.add("k", Input(2, spiking=True))
    build.add("v", Input(2, spiking=True))
    build.add("scores", MatMul(2, transpose_b=True), "q", "k")
    build.add("scale", Scale(2.0), "scores")
    build.add("softmax", Softmax(), "scale")
    build.add("context", MatMul(2), "softmax", "v")
    build.add("neurons", Neuron(), "context")
    build.add("pool", MeanPool(), "neurons")
    build.add("readout", Readout(np.eye(2)), "pool")
    graph = build.build(time_steps=1, schedule="concurrent", tokens=3)
    log3 = math.log(3) / 2  # after the scale, weights 3 : 1
    values = {
        "q": np.array([[log3, 5], [0, 0], [9, 9]]),
        "k": np.array([[0, 0], [1, 0], [1, 1]]),
        "v": np.array([[1, 1], [0, 1], [1, 1]]),
    }
    result = simulate(graph, values=values, attention_mask=[1, 1, 0])
    # Head 0: token 0 attends 1/4 to token 0, whose v is 1; token 1 attends 1/2. Head 1: keys equal, values 1.
    assert result.potentials["neurons"][:2] == pytest.approx(np.array([[0.25, 0.0], [0.5, 0.0]]))
    assert result.events == {("scores", "b"): SynapseEvents(1, 2, 1, 2), ("context", "b"): SynapseEvents(3, 6, 3, 6)}
    assert result.logits is not None and result.logits.tolist() == [0.0, 1.0]


def test_conv_norm_and_gelu_by_hand() -> None:
    def run(node: Any, x: list[list[float]], mask: list[int]) -> np.ndarray:
        nodes = {"in": Input(len(x[0])), "node": node, "neurons": Neuron()}
        inputs = {"in": (), "node": ("in",), "neurons": ("node",)}
        graph = Graph(nodes, inputs, time_steps=1, schedule="phased", tokens=9)
        return simulate(graph, values={"in": np.array(x)}, attention_mask=mask).potentials["neurons"]

    # Token i sees weight 1 on i - 1, 2 on i, 4 on i + 1 (cross-correlation, as torch); token 3 is padding.
    kernel = Conv1d(np.array([[[1.0, 2.0, 4.0]]]) / 64, np.array([0.5]))
    assert run(kernel, [[1.0], [2.0], [3.0], [9.0]], [1, 1, 1, 0])[:3].ravel().tolist() == [
        0.5 + (2 + 8) / 64,
        0.5 + (1 + 4 + 12) / 64,
        0.5 + (2 + 6) / 64,
    ]
    # An even kernel reads one token more after its own: weight 1 on i - 1, 2 on i, 4 on i + 1, 8 on i + 2.
    even = Conv1d(np.array([[[1.0, 2.0, 4.0, 8.0]]]) / 64)
    assert run(even, [[1.0], [2.0], [3.0], [9.0]], [1, 1, 1, 0])[:3].ravel().tolist() == [
        (2 + 8 + 24) / 64,
        (1 + 4 + 12) / 64,
        (2 + 6) / 64,
    ]
    norm = LayerNorm(np.array([0.5, 0.25]), np.array([0.125, 0.0]), 0.0)
    assert run(norm, [[3.0, 1.0]], [1]).tolist() == [[0.625, -0.25]]
    assert run(LayerNorm(np.ones(2), np.zeros(2), 3.0), [[1.0, -1.0]], [1]).tolist() == [[0.5, -0.5]]
    # gelu(1) = Phi(1), the normal distribution function
    assert run(Gelu(), [[1.0, -1.0]], [1])[0] == pytest.approx([0.8413447460685429, -0.15865525393145707])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_pool_and_labels_read_the_first_token_or_the_mean(schedule: str) -> None:
    build = GraphBuilder()
    build.add("in", Input(1))
    build.add("neurons", Neuron(), "in")
    build.add("norm", Scale(3.0), "neurons")
    build.add("pool", MeanPool("first"), "norm")
    build.add("readout", Readout(np.array([[2.0]])), "pool")
    graph = build.build(time_steps=4, schedule=schedule, tokens=3)
    values = {"in": np.array([[0.75], [0.25], [0.9]])}
    first = simulate(graph, values=values, attention_mask=[1, 1, 0])
    assert first.logits is not None and first.logits.tolist() == [2 * 3 * 0.75]
    mean = simulate(
        dataclasses.replace(graph, nodes=graph.nodes | {"pool": MeanPool()}), values=values, attention_mask=[1, 1, 0]
    )
    assert mean.logits is not None and mean.logits.tolist() == [2 * 3 * 0.5]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_spikes_added_in_a_residual_stream_are_separate_events(schedule: str) -> None:
    build = GraphBuilder()
    build.add("in", Input(1))
    build.add("first", Neuron(), "in")
    build.add("second", Neuron(v_threshold=0.5, v_init=0.5), "first")
    build.add("stream", Add(), "first", "second")
    build.add("linear", Linear(np.ones((3, 1))), "stream")
    build.add("with_current", Add(), "stream", "in")
    build.add("not_spikes", Linear(np.ones((3, 1))), "with_current")
    result = simulate(build.build(time_steps=4, schedule=schedule), values={"in": np.array([[0.5]])})
    # first 0 1 0 1; second at drive 1 every step (phased), or 0 2 0 2: .5 2.5>1.5 1.5>.5 2.5>1.5 (concurrent)
    second = {"phased": [1, 1, 1, 1], "concurrent": [0, 1, 1, 1]}[schedule]
    assert result.spikes["second"].ravel().tolist() == second
    spikes = 2 + sum(second)
    active = 2 if schedule == "phased" else spikes  # two layers, one window each
    assert result.events == {("linear", "x"): SynapseEvents(spikes, 3 * spikes, active, 3 * active)}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_spiking_input(schedule: str) -> None:
    build = GraphBuilder()
    build.add("in", Input(2, spiking=True))
    build.add("linear", Linear(np.array([[0.25, 0.5]] * 3)), "in")
    build.add("neurons", Neuron(), "linear")
    graph = build.build(time_steps=4, schedule=schedule)
    train = np.array([[[1, 0]], [[0, 0]], [[1, -1]], [[1, 1]]])
    result = simulate(graph, values={"in": train})
    phased = schedule == "phased"
    assert result.events == {("linear", "x"): SynapseEvents(5, 15, 2 if phased else 5, 6 if phased else 15)}
    constant = simulate(graph, values={"in": np.array([[0, 1]])})
    assert constant.events == {("linear", "x"): SynapseEvents(4, 12, 1 if phased else 4, 3 if phased else 12)}
    # concurrent .25 .25 0 .75; phased .1875 a step, from the means .75 and 0
    assert result.potentials["neurons"][0, 0] == 0.75


@given(graphs(), st.integers(0, 2**32 - 1), st.integers(1, TOKENS))
def test_events_against_loops(graph: Graph, seed: int, length: int) -> None:
    """Every synapse, every spike one by one. Padding neither sends nor receives."""
    arguments = random_input(graph, seed)
    result = simulate(graph, attention_mask=np.arange(TOKENS) < length, **arguments)

    def deliveries(name: str, late: bool) -> list[tuple[str, int, int, int]]:
        """(sender, step, token, element) of every spike that reading node `name` delivers, or none."""
        node = graph.nodes[name]
        if isinstance(node, Neuron):
            trains = result.spikes[name]
            delay = 1 if graph.schedule == "concurrent" else graph.time_steps
            trains = trains[: len(trains) - delay] if late else trains
            return [(name, *map(int, at)) for at in np.argwhere(trains)]
        if isinstance(node, Input) and node.spiking:
            sweeps = graph.feedback_sweeps if graph.schedule == "phased" else 1
            trains = np.concatenate([arguments["values"][name]] * sweeps)
            return [(name, *map(int, at)) for at in np.argwhere(trains)]
        if isinstance(node, (Add, Concat)) and all(is_spiking(source) for source in graph.inputs[name]):
            # Who stands at two ports is read twice, and sends a graded message to each.
            return [
                (f"{name}.{port}/{sender}", *at)
                for port, source in zip(node.ports, graph.inputs[name], strict=True)
                for sender, *at in deliveries(source, late)
            ]
        return []

    def is_spiking(name: str) -> bool:
        node = graph.nodes[name]
        if isinstance(node, (Add, Concat)):
            return all(is_spiking(source) for source in graph.inputs[name])
        return isinstance(node, Neuron) or (isinstance(node, Input) and node.spiking)

    expected = {}
    for name, node in graph.nodes.items():
        for port, source in zip(node.ports, graph.inputs[name], strict=True):
            late = (name, port) in graph.feedback
            if not isinstance(node, (Linear, Conv1d, MatMul)) or not is_spiking(source):
                continue
            events = operations = 0
            window = graph.time_steps if graph.schedule == "phased" else 1
            seen, active, active_operations = set(), 0, 0
            for sender, step, token, element in deliveries(source, late):
                if token >= length:
                    continue
                first = (sender, step // window, token, element) not in seen
                seen.add((sender, step // window, token, element))
                events, active, before = events + 1, active + first, operations
                for other in range(length):
                    if isinstance(node, MatMul):
                        operations += 1
                    elif isinstance(node, Conv1d):
                        kernel = node.weight.shape[2]  # output `other` reads from (kernel - 1) // 2 tokens before on
                        operations += len(node.weight) * (0 <= token - other + (kernel - 1) // 2 < kernel)
                    else:
                        operations += len(node.weight) * (other == token)
                active_operations += (operations - before) * first
            expected[name, port] = SynapseEvents(events, operations, active, active_operations)
    # A feedback port has read nothing yet where there was one pass only.
    missing = set(expected) - set(result.events)
    assert all(expected[key] == SynapseEvents(0, 0) and key in graph.feedback for key in missing)
    assert {key: count for key, count in expected.items() if key not in missing} == result.events


@given(graphs(), st.integers(0, 2**32 - 1), st.integers(1, TOKENS - 1))
def test_padding_changes_nothing(graph: Graph, seed: int, length: int) -> None:
    """A padded input gives the spikes, events and logits of the bare one.

    Sums over more (zero) terms may round differently, which can flip a spike that sits exactly on its threshold;
    integer weights and inputs would make such ties common, the random ones here do not.
    """
    arguments = random_input(graph, seed)
    bare = {
        name: {"spikes_in": value["spikes_in"][:, :length]} if name == "values" else value[:length]
        for name, value in arguments.items()
    }
    padded = simulate(graph, attention_mask=np.arange(TOKENS) < length, **arguments)
    short = simulate(graph, **bare)
    for name, spikes in short.spikes.items():
        assert np.array_equal(padded.spikes[name][:, :length], spikes)
    assert padded.events == short.events
    assert padded.logits == pytest.approx(short.logits, abs=1e-9)


def test_several_sentences_and_float32() -> None:
    build = GraphBuilder()
    build.add("word", Embedding(np.array([[0.25, 0.5], [0.75, 1.0], [0.0, 0.125]])))
    build.add("type", Embedding(np.array([[0.0, 0.0], [0.25, 0.25]]), "token_type_ids"))
    build.add("sum", Add(), "word", "type")
    build.add("neurons", Neuron(), "sum")
    build.add("pool", MeanPool(), "neurons")
    build.add("readout", Readout(np.eye(2)), "pool")
    graph = build.build(time_steps=4, schedule="phased", tokens=3)
    batch = {
        "input_ids": [[0, 1, 2], [1, 0, 0]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "token_type_ids": [[0, 0, 1], [0, 1, 1]],
    }
    both = simulate_batch(graph, batch, np.float32)
    # Sentence 0: currents (.25, .5) (.75, 1) (.25, .375), floor(4 I): 1 2, 3 4, 1 1. Sentence 1: token 1 alone.
    assert both[0].spikes["neurons"].sum(0).tolist() == [[1, 2], [3, 4], [1, 1]]
    assert both[0].logits is not None and both[0].logits.dtype == np.float32
    assert both[0].logits == pytest.approx([1.25 / 3, 1.75 / 3])
    assert both[1].logits is not None and both[1].logits.tolist() == [0.75, 1.0]
    assert both[1].potentials["neurons"].dtype == np.float32
    one = simulate(graph, [1])
    assert one.logits is not None and one.logits.tolist() == [0.75, 1.0]  # types default to 0


@given(graphs(), st.integers(0, 2**32 - 1))
def test_arithmetic_stays_in_the_asked_type(graph: Graph, seed: int) -> None:
    result = simulate(graph, dtype=np.float32, **random_input(graph, seed))
    arrays = [result.logits, *result.potentials.values(), *result.rates.values()]
    assert {array.dtype for array in arrays if array is not None} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "input_ids are missing"),
        ({"input_ids": []}, "input_ids .*shape"),
        ({"input_ids": np.zeros(0, int)}, "number of tokens: input_ids 0"),
        ({"input_ids": [0] * (TOKENS + 1)}, r"input_ids 6, .*must agree and lie in 1 … 5"),
        ({"input_ids": [[0, 1]]}, r"input_ids has shape \(1, 2\)"),
        ({"input_ids": [0.5]}, "type float64"),
        ({"input_ids": [0, VOCABULARY]}, r"input_ids has values in 0 … 7: the embedding has 7 rows"),
        ({"input_ids": [-1]}, "input_ids has values in -1"),
        ({"input_ids": [0, 1], "attention_mask": [1]}, "attention_mask 1"),
        ({"input_ids": [0, 1], "attention_mask": [0, 0]}, "attention_mask has no token"),
        ({"input_ids": [0, 1], "token_type_ids": [0]}, "token_type_ids 1"),
    ],
)
def test_inputs_that_do_not_fit(arguments: dict[str, Any], message: str) -> None:
    build = GraphBuilder()
    build.add("word", Embedding(np.ones((VOCABULARY, 2))))
    build.add("neurons", Neuron(), "word")
    with pytest.raises(DataError, match=message):
        simulate(build.build(time_steps=1, schedule="phased", tokens=TOKENS), **arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (None, "values for Input in are missing"),
        ({"in": np.ones(1)}, r"shape \(1,\)"),
        ({"in": np.ones((1, 2))}, r"shape \(1, 2\): .*\(tokens, 1\) or \(4, tokens, 1\)"),
        ({"in": np.ones((3, 1, 1))}, r"shape \(3, 1, 1\)"),
        ({"in": np.array([[np.nan]])}, "must be finite"),
        ({"in": np.ones((2, 1))}, "number of tokens: in 2"),
    ],
)
def test_values_that_do_not_fit(values: dict[str, np.ndarray] | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        simulate(one_layer(Neuron(), 4, "phased"), values=values)
