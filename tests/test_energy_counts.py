"""Operation counts: hand-made sums, brute force, and independent counts that must agree as whole numbers."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_input

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.counts import Counts, Elements, count, events_of_activity
from neurotool.energy.measure import measure
from neurotool.energy.operations import OPERATIONS, Operations
from neurotool.errors import DataError
from neurotool.evaluation import _add
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    Graph,
    GraphBuilder,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Readout,
    Softmax,
)
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import SynapseEvents, simulate
from neurotool.student import SpikingBertForSequenceClassification

MakeStudent = Callable[..., SpikingBertForSequenceClassification]


def lengths_only(*lengths: int, time_steps: int = 1) -> Activity:
    return Activity(time_steps, time_steps, Counter(lengths))


def small_graph(time_steps: int = 3, schedule: Any = "phased") -> Graph:
    """Two embeddings wide, a neuron layer, and every kind of synapse after it."""
    rng = np.random.default_rng(0)
    build = GraphBuilder()
    x = build.add("word", Embedding(rng.normal(size=(9, 4))))
    s = build.add("spikes", Neuron(0.5), x)
    t = build.add("ternary", Neuron(0.7, spikes="ternary", leak=0.9), build.add("linear", Linear(np.ones((4, 4))), s))
    scores = build.add("scores", MatMul(2, transpose_b=True), x, t)
    mixed = build.add("context", MatMul(2), build.add("softmax", Softmax(), scores), t)
    last = build.add("last", Neuron(), build.add("conv", Conv1d(rng.normal(size=(4, 4, 3)), np.ones(4)), mixed))
    pooled = build.add("pool", MeanPool(), last)
    build.add("readout", Readout(np.ones((2, 4)), np.ones(2)), pooled)
    return build.build(time_steps=time_steps, schedule=schedule, tokens=6)


def node(counts: Counts, name: str) -> Any:
    return next(n for n in counts.nodes if n.name == name)


def test_lengths_by_hand() -> None:
    activity = lengths_only(3, 1, 3)
    assert (activity.inputs, activity.tokens, activity.token_pairs) == (3, 7, 19)
    assert [activity.pairs_at(distance) for distance in (-2, -1, 0, 1, 2, 3)] == [2, 4, 7, 4, 2, 0]
    assert [activity.tokens_at(i) for i in range(4)] == [3, 2, 2, 0]


def test_layer_activity_by_hand() -> None:
    """Two inputs of 3 and 1 tokens: 2, 0 and 5 spikes; 4 and, on padding, 7 and 1."""
    layer = LayerActivity(8)
    mask = np.array([[True, True, True], [True, False, False]])
    layer.add(np.array([[2.0, 0, 5], [4, 7, 1]], np.float32), mask)
    assert layer == LayerActivity(8, 11, 7 * 3 + 4 * 1, 8, [6, 0, 5], [9, 0, 2])
    layer.add(np.array([[1, 1, 1, 1]]), np.ones((1, 4), bool))
    assert layer == LayerActivity(8, 15, 25 + 16, 8, [7, 1, 6, 1], [10, 1, 3, 1])


def test_the_record_of_activity_is_read_back() -> None:
    activity = Activity(2, 4, Counter({3: 2, 7: 1}), 5, {"a": LayerActivity(4, 9, 40, 2, [1, 2, 6], [0, 1, 8])})
    activity.fed_back["feedback"] = LayerActivity(4, 1, 3, 0, [1])
    assert Activity.from_dict(activity.to_dict()) == activity
    assert activity.rate("a") == activity.mean_rate == 9 / (13 * 4 * 4)
    wrong = activity.to_dict()
    wrong["layers"]["a"]["spikes_times_tokens"] = 39  # 9 spikes, 14 tokens before them and 17 behind make 40
    with pytest.raises(DataError, match="spikes_times_tokens of a: 39, by position 40"):
        Activity.from_dict(wrong)
    old = activity.to_dict()
    del old["layers"]["a"]["from_end"]
    assert Activity.from_dict(old).layers["a"] == LayerActivity(4, 9, 40, 2, [1, 2, 6])
    with pytest.raises(DataError, match="lengths"):
        Activity.from_dict({"time_steps": 4, "steps": 4, "layers": {}})


def test_dense_operations_by_hand() -> None:
    """One input of 3 tokens, width 4, 2 heads, kernel 3."""
    activity = lengths_only(3)
    activity.layers = {name: LayerActivity(4) for name in ("spikes", "ternary", "last")}
    counts = count(small_graph(), activity, {})
    macs = {n.name: n.dense.macs for n in counts.nodes if n.dense.macs}
    assert macs == {"linear": 48, "scores": 36, "context": 36, "conv": 16 * 7, "readout": 8}
    assert counts.synapses == 48 + 36 + 36 + 112 + 8
    assert node(counts, "conv").dense.adds == 12 and node(counts, "readout").dense.adds == 2
    softmax = node(counts, "softmax").dense  # 6 rows of 3
    assert softmax == Operations(
        compares=12, adds=18 + 12, exponentials=18, multiplies=18, divisions=6, value_reads=18, value_writes=18
    )
    assert node(counts, "pool").dense == Operations(adds=8, multiplies=4, value_reads=12, value_writes=4)
    assert node(counts, "word").dense == Operations(lookups=12, value_writes=12)
    assert node(counts, "spikes").dense == Operations()


def test_layer_norm_by_hand() -> None:
    """2 tokens of width 3: per token 2 + 3 + 1 adds, 3 + 3 MACs, 2 + 3 products, a root and a division."""
    build = GraphBuilder()
    x = build.add("x", Input(3))
    build.add("norm", LayerNorm(np.ones(3), np.ones(3)), x)
    counts = count(build.build(time_steps=5, schedule="phased", tokens=2), lengths_only(2, time_steps=5), {})
    expected = Operations(
        adds=12, macs=12, multiplies=10, roots=2, divisions=2, weight_reads=12, value_reads=6, value_writes=6
    )
    assert node(counts, "norm").dense == node(counts, "norm").spiking == expected
    assert counts.synapses == 0


@pytest.mark.parametrize(("schedule", "runs"), [("phased", 1), ("concurrent", 3)])
def test_the_schedule_decides_how_often_a_node_runs(schedule: str, runs: int) -> None:
    """Softmax and bias once per inference or in every step; the embedding is constant; neurons step T times anyway."""
    graph = small_graph(3, schedule)
    activity, events = measure(graph, [{"input_ids": np.array([1, 5, 2])}])
    counts = count(graph, activity, events)
    assert node(counts, "softmax").spiking.exponentials == 18 * runs
    assert node(counts, "conv").spiking.macs == 112 * runs and node(counts, "conv").spiking.adds == 12 * runs
    assert node(counts, "word").spiking.lookups == 12
    updates = {n.name: n.spiking.updates for n in counts.nodes if n.kind == "Neuron"}
    assert updates == {"spikes": 36, "ternary": 36, "last": 36}
    ternary = node(counts, "ternary").spiking
    assert (ternary.compares, ternary.leaks, ternary.resets) == (36, 36, activity.layers["ternary"].spikes)
    assert ternary.resets > 0
    assert node(counts, "spikes").spiking.compares == node(counts, "spikes").spiking.leaks == 0


def test_brute_force() -> None:
    """Every accumulate, one by one, from the spike trains; padding costs nothing."""
    graph = small_graph(4, "concurrent")
    mask = np.array([1, 1, 1, 0])
    one = {"input_ids": np.array([1, 5, 2, 1]), "attention_mask": mask}
    spikes = simulate(graph, **one).spikes
    linear = scores = 0
    for s, t in zip(spikes["spikes"], spikes["ternary"], strict=True):
        for token in np.flatnonzero(mask):
            for neuron in range(4):
                linear += sum(1 for _ in range(4) if s[token, neuron])
                scores += sum(1 for query in range(4) if mask[query] and t[token, neuron])
    counts = count(graph, *measure(graph, [one]))
    assert linear > 0 and scores > 0
    assert node(counts, "linear").spiking.accumulates == linear
    assert node(counts, "scores").spiking.accumulates == node(counts, "context").spiking.accumulates == scores
    elements = node(counts, "linear").elements["x"]
    assert elements == Elements(zero=4 * 3 * 4 - linear // 4, binary=linear // 4)
    assert node(counts, "scores").elements["b"].ternary == scores // 3
    assert node(counts, "scores").elements["a"] == Elements(graded=12 * 4)
    assert node(counts, "linear").spikes_per_synapse == linear / 48
    assert counts.activity.padding == 1 and counts.activity.layers["ternary"].padding_spikes > 0


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5, 8])
def test_convolutions_by_brute_force(kernel: int) -> None:
    """Every MAC and accumulate, one by one, of texts shorter and longer than the kernel; padding costs nothing."""
    build = GraphBuilder()
    s = build.add("s", Neuron(0.4), build.add("word", Embedding(np.random.default_rng(0).normal(size=(9, 3)))))
    build.add("last", Neuron(), build.add("conv", Conv1d(np.ones((2, 3, kernel)), np.ones(2)), s))
    graph = build.build(time_steps=3, schedule="concurrent", tokens=7)
    inputs = [
        {"input_ids": np.array([1, 4, 2, 6, 3, 5, 7]), "attention_mask": np.arange(7) < length} for length in (6, 1, 3)
    ]
    macs = accumulates = 0
    for one in inputs:
        length, spikes = one["attention_mask"].sum(), simulate(graph, **one).spikes["s"]
        for out in range(length):
            for k in range(kernel):
                token = out + k - (kernel - 1) // 2
                if 0 <= token < length:
                    macs += 2 * 3
                    accumulates += 2 * int(spikes[:, token].sum())
    activity, events = measure(graph, inputs)
    assert events_of_activity(graph, activity) == events and accumulates > 0
    conv = node(count(graph, activity, events), "conv")
    assert conv.spiking.accumulates == accumulates
    assert conv.dense.macs == macs == conv.synapses
    assert conv.dense.adds == 2 * 10 and conv.spiking.adds == 3 * conv.dense.adds
    if kernel == 4:  # tokens within reach: 3, 4, 4, 4, 3, 2 of the first text, 1 of the second, 3, 3, 2 of the third
        assert macs == 2 * 3 * (20 + 1 + 8)
    activity.layers["s"].from_end = []
    with pytest.raises(DataError, match="does not say which tokens"):
        events_of_activity(graph, activity)


def test_joined_spikes_are_counted_where_they_came_from() -> None:
    """2 neurons of one layer and 3 of another into 5 columns, whose zeros can be left out."""
    build = GraphBuilder()
    word = build.add("word", Embedding(np.random.default_rng(1).normal(size=(9, 5))))
    a = build.add("a", Neuron(0.5), build.add("a.linear", Linear(np.eye(5)[:2]), word))
    b = build.add("b", Neuron(0.3, spikes="ternary"), build.add("b.linear", Linear(np.eye(5)[2:]), word))
    weight = np.array([[1.0, 0, 1, 0, 0], [1, 0, 0, 0, 1]])
    build.add("last", Neuron(), build.add("linear", Linear(weight), build.add("joined", Concat(), a, b)))
    graph = build.build(time_steps=4, schedule="concurrent", tokens=6)
    activity, events = measure(graph, [{"input_ids": np.array([1, 5, 2])}, {"input_ids": np.array([8])}])
    of_a, of_b = activity.layers["a"].per_neuron, activity.layers["b"].per_neuron
    spikes = int(of_a.sum() + of_b.sum())
    assert 0 < of_a.sum() < spikes and events["linear", "x"] == SynapseEvents(spikes, 2 * spikes, spikes, 2 * spikes)
    assert events_of_activity(graph, activity) == events
    linear = node(count(graph, activity, events), "linear")
    assert linear.elements["x"] == Elements(zero=4 * 4 * 5 - spikes, ternary=spikes)
    assert node(count(graph, activity, events), "joined").spiking == Operations()
    skipped = events_of_activity(graph, activity, skip_zero=True)["linear", "x"]
    kept = int(2 * of_a[0] + of_b[0] + of_b[2])
    assert skipped == SynapseEvents(spikes, kept, spikes, kept)


def test_spikes_on_a_residual_path_are_added_one_by_one() -> None:
    """3 tokens of 4 neurons send 17 spikes in 4 steps, beside 3 x 4 graded values; the dense twin adds 12 once."""
    build = GraphBuilder()
    s = build.add("s", Neuron(), build.add("current", Input(4)))
    added = build.add("add", Add(), build.add("weights", Linear(np.ones((4, 4))), s), s)
    build.add("last", Neuron(), added)
    graph = build.build(time_steps=4, schedule="phased", tokens=3)
    activity = Activity(4, 4, Counter([3]), layers={"s": LayerActivity(4, 17, 51), "last": LayerActivity(4)})
    counted = node(count(graph, activity, events_of_activity(graph, activity)), "add")
    assert counted.spiking == Operations(
        adds=17, value_reads=17 + 12, value_writes=12, state_reads=17, state_writes=17
    )  # fmt: skip
    assert counted.dense == Operations(adds=12, value_reads=24, value_writes=12)
    assert counted.synapses == 0


def test_zero_weights_can_be_skipped() -> None:
    graph = small_graph(4)
    weight = np.array([[1.0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]])
    graph = Graph(graph.nodes | {"linear": Linear(weight)}, graph.inputs, 4, "phased", tokens=6)
    activity, _ = measure(graph, [{"input_ids": np.array([1, 5, 2])}, {"input_ids": np.array([8])}])
    each = activity.layers["spikes"].per_neuron
    counts = count(graph, activity, events_of_activity_of(graph, activity, skip_zero=True), skip_zero=True)
    linear = node(counts, "linear")
    assert linear.spiking.accumulates == each[0] + 4 * each[3] and each[1] + each[2] > 0
    assert linear.dense.macs == 4 * 5
    activity.layers["spikes"].per_neuron = None
    with pytest.raises(DataError, match="--data"):
        events_of_activity_of(graph, activity, skip_zero=True)


def events_of_activity_of(graph: Graph, activity: Activity, skip_zero: bool = False) -> Any:
    """Without the convolution, whose events need the tokens."""
    kept = {name: n for name, n in graph.nodes.items() if name not in ("conv", "last", "pool", "readout")}
    return events_of_activity(
        Graph(kept, {n: graph.inputs[n] for n in kept}, 4, "phased", tokens=6), activity, skip_zero
    )


@settings(max_examples=60)
@given(graph=graphs(), seed=st.integers(0, 99), padding=st.integers(0, 3))
def test_two_counts_agree_on_any_graph(graph: Graph, seed: int, padding: int) -> None:
    """Events summed from the spike trains, those that the interpreter counted at each synapse, and the emulator's."""
    mask = np.array([1] * (5 - padding) + [0] * padding)
    inputs = [random_input(graph, seed + i) | {"attention_mask": mask} for i in range(2)]
    activity, events = measure(graph, inputs)
    assert measure(graph, inputs, Emulator(graph)) == (activity, events)
    counts = count(graph, activity, events)
    assert all(getattr(n.spiking, name) >= 0 for n in counts.nodes for name in OPERATIONS)
    assert counts.total("dense").accumulates == 0
    for n in counts.nodes:
        for elements in n.elements.values():
            assert min(elements.zero, elements.binary, elements.ternary, elements.graded) >= 0
    if graph.of_type(Input) or graph.feedback:
        return
    assert events_of_activity(graph, activity) == events


VARIANTS: list[dict[str, Any]] = [
    {},
    {"spikes": "ternary", "v_init": -0.25, "time_steps": 5},
    {"leak": 0.9},
    {"spikes": "ternary", "leak": 0.8, "reset": "hard"},
    {"feedback": True, "feedback_sweeps": 3},
]


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_student_interpreter_and_emulator_count_the_same(
    make_student: MakeStudent, schedule: str, variant: dict[str, Any]
) -> None:
    """The fast path's counts, node by node and operation by operation, in float64 on padded sentences."""
    student = make_student(schedule=schedule, **{"time_steps": 4, "v_threshold": 0.7} | variant).double()
    if student.feedback is not None:
        torch.nn.init.normal_(student.feedback.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(0, 30, (3, 7), generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3, [1] * 6 + [0]])
    activity = Activity(student.config.time_steps, student.config.time_steps * student.sweeps)
    with torch.inference_mode():
        output = student(ids, mask, output_rates=False, output_spike_counts=True)
    assert output.spike_counts is not None
    _add(activity, output, mask, per_neuron=True)
    graph = student.to_graph()
    rows = zip(ids.numpy(), mask.numpy(), strict=True)
    inputs = [{"input_ids": i, "attention_mask": m} for i, m in rows]
    seen, events = measure(graph, inputs)
    executed = measure(graph, inputs, Emulator(graph))
    assert executed == (seen, events)
    fast = count(graph, activity, events_of_activity(graph, activity))
    slow = count(graph, seen, events)
    assert fast.nodes == slow.nodes
    assert fast.total().accumulates > 0
    assert activity.layers == seen.layers and activity.lengths == seen.lengths and activity.padding == seen.padding
    for name, layer in activity.layers.items():
        assert (layer.per_neuron == seen.layers[name].per_neuron).all()
    skipping = count(graph, activity, events_of_activity(graph, activity, skip_zero=True), skip_zero=True)
    assert skipping.nodes == fast.nodes  # no weight is zero


def test_batches_and_order_do_not_matter(make_student: MakeStudent) -> None:
    """One batch with padding, single texts, and another order give the same integers."""
    student = make_student(time_steps=5, v_threshold=0.7, spikes="ternary").double()
    ids = torch.randint(0, 30, (4, 6), generator=torch.Generator().manual_seed(2))
    lengths = [6, 2, 4, 6]
    mask = torch.tensor([[1] * n + [0] * (6 - n) for n in lengths])

    def counted(batches: list[tuple[torch.Tensor, torch.Tensor]]) -> Counts:
        activity = Activity(5, 5)
        for batch_ids, batch_mask in batches:
            with torch.inference_mode():
                output = student(batch_ids, batch_mask, output_rates=False, output_spike_counts=True)
            _add(activity, output, batch_mask, per_neuron=False)
        graph = student.to_graph()
        return count(graph, activity, events_of_activity(graph, activity))

    whole = counted([(ids, mask)])
    single = counted([(ids[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(lengths)])
    other = counted([(ids[[3, 1, 0, 2]], mask[[3, 1, 0, 2]])])
    assert whole.nodes == single.nodes == other.nodes
    assert (whole.activity.padding, single.activity.padding) == (6, 0)


def pooled_graph(leak: Any, schedule: Any, pooling: Any = "mean") -> Graph:
    build = GraphBuilder()
    word = build.add("word", Embedding(np.random.default_rng(3).normal(size=(9, 2))))
    last = build.add("last", Neuron(0.5, leak=leak), word)
    build.add("readout", Readout(np.ones((2, 2))), build.add("pool", MeanPool(pooling), last))
    return build.build(time_steps=4, schedule=schedule, tokens=6)


@pytest.mark.parametrize("pooling", ["mean", "first"])
@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@pytest.mark.parametrize("leak", [1.0, 0.5, 0.0, np.array([0.5, 1.0]), np.array([0.0, 0.25])])
def test_a_leaky_readout_multiplies(leak: Any, schedule: str, pooling: str) -> None:
    """Every add and product of r <- leak r + s, one by one: a product by 1 or 0 and a sum from nothing are none."""
    graph, adds, products = pooled_graph(leak, schedule, pooling), 0, 0
    activity, events = measure(graph, [{"input_ids": np.array([1, 5, 2])}])
    for _token in range(3 if pooling == "mean" else 1):
        for each in np.broadcast_to(leak, 2).tolist():
            for step in range(4):
                if schedule == "concurrent":
                    products += step > 0 and 0 < each < 1
                    adds += step > 0 and each > 0
                else:  # what is sent is weighted already
                    adds += step > 0
    adds += 2 * 2 if pooling == "mean" else 0
    counted = node(count(graph, activity, events), "pool").spiking
    assert (counted.adds, counted.multiplies) == (adds, products + (2 if pooling == "mean" else 0))


@pytest.mark.parametrize("leak", [1.0, 0.5, 0.0, np.array([0.0, 0.25])])
def test_a_neuron_without_memory_keeps_nothing(leak: Any) -> None:
    graph, kept, products = pooled_graph(leak, "concurrent"), 0, 0
    for _token in range(3):
        for each in np.broadcast_to(leak, 2).tolist():
            for _step in range(4):
                kept += each > 0
                products += 0 < each < 1
    counted = node(count(graph, *measure(graph, [{"input_ids": np.array([1, 5, 2])}])), "last").spiking
    assert (counted.state_reads, counted.state_writes, counted.leaks, counted.updates) == (kept, kept, products, 24)


@pytest.mark.parametrize(("sweeps", "schedule"), [(1, "phased"), (3, "phased"), (3, "concurrent")])
def test_a_readout_sums_the_last_sweep_alone(sweeps: int, schedule: Any) -> None:
    """T - 1 sums of 3 tokens x 4 values whatever the sweeps, and 2 x 4 over the tokens; and none where what it reads
    is graded, of which there is one value a sweep."""
    for graded in (False, True):
        build = GraphBuilder()
        word = build.add("word", Embedding(np.random.default_rng(3).normal(size=(9, 4))))
        back = build.add_feedback("back", Linear(np.eye(4)), "last")
        last = build.add("last", Neuron(0.5), build.add("sum", Add(), word, back))
        read = build.add("norm", LayerNorm(np.ones(4), np.ones(4)), last) if graded else last
        build.add("readout", Readout(np.ones((2, 4))), build.add("pool", MeanPool(), read))
        graph = build.build(time_steps=5, schedule=schedule, tokens=6, feedback_sweeps=sweeps)
        counted = node(count(graph, *measure(graph, [{"input_ids": np.array([1, 5, 2])}])), "pool").spiking
        steps = 1 if graded and schedule == "phased" else 5
        assert counted.adds == (steps - 1) * 12 + 8


@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_dense_accesses_of_a_convolution(kernel: int) -> None:
    """Lemaire et al. 2022, equations 3, 6.1 and 11: an input and a weight a MAC, one write an output; an address for
    every input, output and place of the kernel."""
    build = GraphBuilder()
    build.add("conv", Conv1d(np.ones((2, 3, kernel)), np.ones(2)), build.add("x", Input(3)))
    counts = count(build.build(time_steps=1, schedule="phased", tokens=6), lengths_only(6, 2), {})
    inputs = weights = writes = addresses = 0
    for length in (6, 2):
        for out in range(length):
            for _channel in range(2):
                writes += 1
                weights += 1  # the bias
                for k in range(kernel):
                    if 0 <= out + k - (kernel - 1) // 2 < length:
                        inputs += 3
                        weights += 3
        addresses += length * 3 + length * 2 + 2 * kernel
    dense = node(counts, "conv").dense
    assert (dense.value_reads, dense.weight_reads, dense.value_writes, dense.addresses) == (
        inputs, weights, writes, addresses)  # fmt: skip
