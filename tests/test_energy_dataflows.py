"""Dataflows and rivals: every read, add and product one by one, in loops that compute what the network computes."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.costs import NumberFormat, load_cost_model, price, quantised
from neurotool.energy.counts import Counts, count, events_of_activity
from neurotool.energy.dataflow import BATCHED, DATAFLOWS, GRADED, LEMAIRE, OUTPUT_STATIONARY, SPIKE, Dataflow
from neurotool.energy.measure import measure
from neurotool.energy.operations import Operations
from neurotool.energy.priced import hybrid, priced
from neurotool.energy.report import build_report, rate_code_bits
from neurotool.errors import ConfigError, DataError
from neurotool.graph import (
    Add,
    CubaLIF,
    Embedding,
    Graph,
    GraphBuilder,
    Input,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Readout,
    Softmax,
)
from neurotool.graph.fixed_point import row_mantissas
from neurotool.graph.graded import graded
from neurotool.simulate import simulate

ARITHMETIC, MEMORY = load_cost_model("horowitz-45nm"), load_cost_model("horowitz-45nm-memory")
TEXTS = [{"input_ids": np.array([1, 5, 2, 7])}, {"input_ids": np.array([8, 3])}]


def attention_graph(schedule: Any = "phased", leak: float = 1.0, sweeps: int = 1, spikes: Any = "binary") -> Graph:
    """Spikes into a matrix, a product Q K^T with spiking K, and P V with spiking V; 4 neurons, 3 outputs."""
    rng = np.random.default_rng(2)
    build = GraphBuilder()
    x = build.add("word", Embedding(rng.normal(size=(9, 4))))
    if sweeps > 1:
        x = build.add("sum", Add(), x, build.add_feedback("back", Linear(np.eye(4) / 3), "last"))
    s = build.add("s", Neuron(0.4, leak=leak, spikes=spikes), x)
    wide = build.add("linear", Linear(rng.normal(size=(4, 4)), np.ones(4)), s)
    k = build.add("k", Neuron(0.6, spikes=spikes), wide)
    v = build.add("v", Neuron(0.5, spikes=spikes), wide)
    scores = build.add("scores", MatMul(2, transpose_b=True), x, k)
    context = build.add("context", MatMul(2), build.add("softmax", Softmax(), scores), v)
    last = build.add("last", Neuron(0.2, spikes=spikes), context)
    build.add("readout", Readout(np.ones((2, 4))), build.add("pool", MeanPool(), last))
    return build.build(time_steps=4, schedule=schedule, tokens=6, feedback_sweeps=sweeps)


def counted(graph: Graph, dataflow: Dataflow = LEMAIRE) -> Counts:
    return count(graph, *measure(graph, TEXTS), dataflow=dataflow)


def node(counts: Counts, name: str) -> Any:
    return next(n for n in counts.nodes if n.name == name)


class Machine:
    """A chip that adds up `weight` x messages as a dataflow says, and counts what it does."""

    def __init__(self, weight: np.ndarray, flow: Dataflow) -> None:
        self.weight, self.flow, self.did = weight, flow, Counter[str]()

    def run(self, train: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The sum of a window, (out,), for the spikes (steps, in) of one token."""
        sums = np.zeros(len(self.weight))
        counts = train.astype(int)
        if self.flow.order == "spike":
            messages = [(i, [s[i]]) for s in counts for i in np.flatnonzero(s)]
        else:
            messages = [(i, counts[:, i].tolist()) for i in np.flatnonzero(np.abs(counts).sum(0))]
        for i, spikes in messages:
            self.did["value_reads"] += 1
            for out in range(len(sums)):
                self.did["weight_reads"] += 1
                self.did["addresses"] += 1
                if not self.flow.registers:
                    self.did["state_reads"] += 1
                if self.flow.order == "graded":
                    sums[out] += sum(spikes) * self.weight[out, i]
                    self.did["payload_products"] += 1
                    self.did["accumulates"] += 1
                else:
                    for spike in filter(None, spikes):
                        sums[out] += self.weight[out, i] if spike > 0 else -self.weight[out, i]
                        self.did["accumulates"] += 1
                if not self.flow.registers:
                    self.did["state_writes"] += 1
        for out, value in enumerate(bias):
            sums[out] += value * len(train)
            self.did["adds"] += 1
            self.did["weight_reads"] += 1
            self.did["value_writes" if self.flow.registers else "state_writes"] += 1
        return sums


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
@pytest.mark.parametrize("flow", DATAFLOWS.values(), ids=DATAFLOWS)
def test_a_machine_that_adds_them_up(flow: Dataflow, spikes: str) -> None:
    graph = attention_graph(spikes=spikes)
    linear, machine = graph.nodes["linear"], Machine(np.zeros(0), flow)
    assert isinstance(linear, Linear) and linear.bias is not None
    machine = Machine(linear.weight, flow)
    active = 0
    for one in TEXTS:
        train = simulate(graph, **one).spikes["s"]
        for token in range(train.shape[1]):
            sums = machine.run(train[:, token], linear.bias)
            expected = linear.weight @ train[:, token].astype(int).sum(0) + linear.bias * 4
            assert sums == pytest.approx(expected)
            active += np.count_nonzero(np.abs(train[:, token]).sum(0))
    counts = counted(graph, flow)
    assert node(counts, "linear").spiking == Operations(**machine.did)
    assert counts.activity.layers["s"].active is not None and counts.activity.layers["s"].active.spikes == active
    assert 0 < active < counts.activity.layers["s"].spikes


@pytest.mark.parametrize("registers", [False, True])
def test_the_zero_skipping_network_multiplies_what_is_not_zero(registers: bool) -> None:
    """One product of each count that is not 0 and weight; the same sums."""
    graph = attention_graph()
    linear, did = graph.nodes["linear"], Counter[str]()
    assert isinstance(linear, Linear)
    for one in TEXTS:
        train = simulate(graph, **one).spikes["s"]
        for counts in train.astype(int).sum(0):
            sums = np.zeros(4)
            for i, value in enumerate(counts):
                did["value_reads"] += int(value != 0)
                for out in range(4 if value else 0):
                    sums[out] += value * linear.weight[out, i]
                    did.update(
                        ["macs", "weight_reads", "addresses"] + ["state_reads", "state_writes"] * (not registers)
                    )
            assert sums == pytest.approx(linear.weight @ counts)
            did.update({"adds": 4, "weight_reads": 4, ("value_writes" if registers else "state_writes"): 4})
    flow = OUTPUT_STATIONARY if registers else SPIKE
    both = counted(graph, flow)
    work = node(both, "linear").work["zero-skipping"]
    assert work.total == Operations(**did)
    assert work.driven.macs == work.total.macs < node(both, "linear").dense.macs
    assert node(both, "linear").density == work.total.macs / node(both, "linear").dense.macs
    assert node(both, "s").work["zero-skipping"].total == Operations()
    softmax = node(both, "softmax")
    assert softmax.work["zero-skipping"].total == softmax.dense == softmax.spiking


@pytest.mark.parametrize("flow", [SPIKE, OUTPUT_STATIONARY], ids=["spike", "output-stationary"])
def test_a_quantiser_does_what_a_graded_neuron_of_one_step_does(flow: Dataflow) -> None:
    """Each value once: read, multiplied, rounded and clipped; written where a neuron was active."""
    graph = attention_graph()
    both = counted(graph, flow)
    active = sum(int((np.abs(simulate(graph, **one).spikes["s"]).sum(0) > 0).sum()) for one in TEXTS)
    values = 4 * sum(len(one["input_ids"]) for one in TEXTS)
    work = node(both, "s").work["quantising"].total
    assert work == Operations(updates=values, multiplies=values, value_reads=values, value_writes=active)
    as_graded, same = node(counted(graded(graph), flow), "s"), node(both, "linear").work
    assert replace(as_graded.spiking, resets=0, state_reads=0, state_writes=0) == work
    assert same["quantising"] == same["zero-skipping"]


def test_few_bits_only_where_neurons_send_and_are_read() -> None:
    """3 of 8 bits at what neurons hand on; sums and softmax have 8, where the fair rival has 3 everywhere."""
    counts, alone, fair = counted(attention_graph()), quantised(MEMORY, 3, alone=True), quantised(MEMORY, 3)
    int8 = MEMORY.format("int8")

    def prices(name: str, numbers: NumberFormat) -> dict[str, float]:
        return MEMORY.prices(node(counts, name), numbers, "quantising")

    assert prices("linear", alone)["macs"] == prices("linear", fair)["macs"] < prices("linear", int8)["macs"]
    for name, kind, narrow in (
        ("linear", "value_reads", True), ("linear", "value_writes", False), ("s", "value_writes", True),
        ("s", "value_reads", False), ("softmax", "value_reads", False), ("softmax", "multiplies", False),
    ):  # fmt: skip
        assert prices(name, alone)[kind] == pytest.approx(prices(name, int8)[kind] * (3 / 8 if narrow else 1)), name
    assert prices("softmax", fair)["multiplies"] < prices("softmax", alone)["multiplies"]


def test_with_leak_every_spike_is_a_product() -> None:
    """Phased, leak 0.5: what is sent is leak^(T-t), which the receiver multiplies; leak 0 and 1 send 0 and 1."""
    for leak, flow, products in (
        (0.5, SPIKE, True), (0.5, BATCHED, True), (0.5, GRADED, False), (1.0, SPIKE, False), (0.0, SPIKE, False),
    ):  # fmt: skip
        graph = attention_graph(leak=leak)
        linear = node(counted(graph, flow), "linear")
        spikes = adds = multiplied = 0
        for one in TEXTS:
            train = simulate(graph, **one).spikes["s"].astype(int)
            for token in range(train.shape[1]):
                value = np.zeros(4)
                for t in range(4):
                    for i in np.flatnonzero(train[t, token]):
                        payload = 1.0 if leak == 1 else leak ** (3 - t)
                        spikes += 1
                        for out in range(4):
                            value[out] += payload * graph.nodes["linear"].weight[out, i]  # type: ignore[attr-defined]
                            multiplied += payload not in (0, 1) or (0 < leak < 1)
                            adds += 1
        assert linear.synaptic_operations == adds == 4 * spikes
        if flow is GRADED:
            assert linear.spiking.payload_products == linear.spiking.accumulates == linear.arrived.active_operations
            assert linear.payload_bits == 10
        else:
            assert linear.spiking.payload_products == (multiplied if products else 0)
        fp32 = ARITHMETIC.format("fp32")
        energy = price(ARITHMETIC, fp32, linear)
        assert energy.by_kind.get("payload_products", 0) == pytest.approx(3.7 * linear.spiking.payload_products)
    concurrent = node(counted(attention_graph("concurrent", leak=0.5)), "linear")
    assert concurrent.spiking.payload_products == 0 < concurrent.spiking.accumulates


def test_payloads_in_integers_take_a_smaller_multiplier() -> None:
    """T = 4: counts of 3 bits, of a 0.2 pJ multiplier for 8; ternary ones have 4."""
    for spikes, bits in (("binary", 3), ("ternary", 4)):
        linear = node(counted(attention_graph(spikes=spikes), GRADED), "linear")
        energy = price(ARITHMETIC, ARITHMETIC.format("int8"), linear)
        assert linear.payload_bits == bits
        assert energy.by_kind["payload_products"] == pytest.approx(linear.spiking.payload_products * 0.2 * bits / 8)


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
@pytest.mark.parametrize("flow", [SPIKE, BATCHED, GRADED, OUTPUT_STATIONARY], ids=lambda flow: flow.name)
def test_a_graded_message_is_a_product_in_every_dataflow(flow: Dataflow, spikes: Any) -> None:
    """A network of graded neurons does what its spiking twin does in the graded dataflow: one product a message."""
    graph = attention_graph(spikes=spikes)
    as_flow = replace(GRADED, registers=flow.registers)
    spiking, messages = counted(graph, as_flow), counted(graded(graph), flow)
    for name in ("linear", "scores", "context"):
        ours, theirs = node(messages, name), node(spiking, name)
        assert ours.spiking == theirs.spiking and ours.arrived.events == ours.arrived.active == theirs.arrived.active
        assert ours.spiking.payload_products == ours.spiking.accumulates == theirs.arrived.active_operations > 0
        assert ours.payload_bits == theirs.payload_bits == (4 if spikes == "ternary" else 3)
        assert ours.work["zero-skipping"] == theirs.work["zero-skipping"]
    once, steps = node(messages, "k").spiking, node(spiking, "k").spiking
    assert (once.updates, once.multiplies, once.compares) == (24, 24, 24 * (spikes == "ternary"))  # 6 tokens of width 4
    assert (steps.updates, steps.multiplies) == (4 * 24, 0)
    assert once.resets == once.value_writes == steps.value_writes
    assert rate_code_bits(messages) == rate_code_bits(spiking)
    assert messages.density == spiking.density


def test_a_message_of_one_level_is_a_spike_and_a_dead_zone_a_comparison() -> None:
    plain, wide = (counted(graded(one_step(), dead_zone)) for dead_zone in (0.5, 0.75))
    assert node(plain, "linear").spiking.payload_products == 0 < node(plain, "linear").spiking.accumulates
    assert node(plain, "k").spiking.multiplies == 0 and node(plain, "k").spiking.compares == 24
    assert node(wide, "k").spiking.compares == 48


def one_step() -> Graph:
    return replace(attention_graph(spikes="ternary"), time_steps=1)


@pytest.mark.parametrize("sweeps", [1, 3])
def test_reuse_reads_each_weight_once_a_text(sweeps: int) -> None:
    graph = attention_graph(sweeps=sweeps)
    both = counted(graph, replace(OUTPUT_STATIONARY, reuse=True))
    linear = node(both, "linear")
    assert linear.dense.weight_reads == 2 * (16 + 4) and linear.dense.addresses == 2 * 20
    assert linear.spiking.weight_reads == 2 * 20 * sweeps and linear.spiking.accumulates > 0
    without = node(counted(graph, OUTPUT_STATIONARY), "linear")
    assert without.dense.weight_reads == 6 * (16 + 4) and linear.dense.macs == without.dense.macs
    # Keys: 4 of 4 values and 2 of 4, once.
    assert node(both, "scores").dense.weight_reads == 6 * 4


def test_a_window_lies_in_a_register() -> None:
    """T = 4, 6 tokens of 4 neurons: potentials read in every step, once a window, or not at all; messages likewise."""
    graph = attention_graph()
    reads = {flow.name: node(counted(graph, flow), "k").spiking for flow in DATAFLOWS.values()}
    layer = counted(graph).activity.layers["k"]
    assert layer.active is not None and layer.active.spikes < layer.spikes
    assert {name: each.state_reads for name, each in reads.items()} == {
        "spike": 4 * 24, "batched": 24, "graded": 24, "output-stationary": 0,
    }  # fmt: skip
    assert reads["spike"].value_writes == layer.spikes == reads["batched"].resets
    assert {reads[name].value_writes for name in ("batched", "graded", "output-stationary")} == {layer.active.spikes}
    stepping = node(counted(attention_graph("concurrent"), OUTPUT_STATIONARY), "k").spiking
    assert stepping.state_reads == 4 * 24  # they live on from step to step


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_a_current_is_a_second_state(schedule: Any) -> None:
    """T = 4, 6 tokens of 4 neurons: two decays an update, and a current that lies where the potential lies."""
    build = GraphBuilder()
    build.add("k", CubaLIF(0.6, leak=0.5, current_leak=0.25), build.add("word", Embedding(np.ones((9, 4)))))
    graph = build.build(time_steps=4, schedule=schedule, tokens=6)
    updates, flows = 4 * 6 * 4, ("spike", "batched", "output-stationary")
    found = {name: node(counted(graph, DATAFLOWS[name]), "k") for name in flows}
    assert all(each.spiking.leaks == 2 * updates and each.spiking.adds == updates for each in found.values())
    lying = (updates, updates // 4, 0) if schedule == "phased" else (updates,) * 3
    assert tuple(each.spiking.state_reads for each in found.values()) == tuple(2 * each for each in lying)
    assert all(each.dense == Operations() for each in found.values())


def test_whose_memory_is_read() -> None:
    """Longest text 4 tokens, 2 heads. A spike of V meets probabilities (2, 4, 4), not V; one of K meets Q (4, 4)."""
    counts = counted(attention_graph())
    context, scores = node(counts, "context").sizes, node(counts, "scores").sizes
    assert (context.weights, context.operand, scores.weights, scores.operand) == (16, 32, 16, 16)
    linear = node(counts, "linear").sizes
    assert (linear.weights, linear.operand, linear.states, linear.all_states) == (16, 16, 4, 16)
    assert (context.states, node(counts, "last").sizes.states) == (16, 4)
    assert node(counted(attention_graph("concurrent")), "linear").sizes.states == 16
    big = replace(node(counts, "context"), sizes=replace(context, weights=2048, operand=2**18))
    fp32 = MEMORY.format("fp32")  # 8 KB: 10 pJ per 64 bit; 1 MB: 100
    assert [MEMORY.prices(big, fp32, n)["weight_reads"] for n in ("dense", "spiking", "zero-skipping")] == [5, 50, 50]
    # In integers an operand is an activation, of as many bits: 3 in the fair rival, where weights have 8.
    fewer = quantised(MEMORY, 3)
    assert MEMORY.prices(big, fewer, "dense")["weight_reads"] == pytest.approx(10 * 3 / 64)
    assert MEMORY.prices(node(counts, "linear"), fewer, "dense")["weight_reads"] == pytest.approx(10 * 8 / 64)


def test_potentials_have_a_range() -> None:
    """int8: 24 bits of one token, or 32 of the longest text."""
    int8 = MEMORY.format("int8")
    counts = counted(attention_graph())
    linear = replace(node(counts, "linear"), sizes=replace(node(counts, "linear").sizes, states=8192, all_states=32768))
    low, high = MEMORY.prices(linear, int8), MEMORY.prices(linear, int8, widest=True)
    assert MEMORY.memory is not None
    assert low["state_reads"] == round(MEMORY.memory.access(8192 * 3, 24), 9)
    assert high["state_reads"] == round(MEMORY.memory.access(32768 * 4, 32), 9)
    assert low["weight_reads"] == high["weight_reads"]


def sparse_graph() -> Graph:
    """Half of the weights zero, and two that 8 bits round to zero, behind an Input that spikes."""
    weight = np.array([[1.0, 0, 1e-5, 0], [0, 1, 0, 1], [1e-5, 0.5, 0, 0]])
    build = GraphBuilder()
    s = build.add("train", Input(4, spiking=True))
    build.add("last", Neuron(), build.add("linear", Linear(weight), s))
    return build.build(time_steps=3, schedule="phased", tokens=5)


def test_zero_weights_of_an_input_that_spikes() -> None:
    """Every spike and weight one by one, as stored and in 8 bits; the memory holds what is there."""
    graph, rng = sparse_graph(), np.random.default_rng(0)
    weight = graph.nodes["linear"].weight  # type: ignore[attr-defined]
    inputs = [{"values": {"train": rng.integers(-1, 2, size=(3, tokens, 4))}} for tokens in (5, 2)]
    activity, events = measure(graph, inputs)
    for int8 in (False, True):
        present = row_mantissas(weight)[0] != 0 if int8 else weight != 0
        spikes = active = 0
        for one in inputs:
            train = one["values"]["train"]
            for token in range(train.shape[1]):
                for i in range(4):
                    sent = int(np.abs(train[:, token, i]).sum())
                    for out in range(3):
                        spikes += sent * bool(present[out, i])
                        active += bool(sent) * bool(present[out, i])
        counts = count(graph, activity, events_of_activity(graph, activity, True), skip_zero=True)
        linear = node(counts.under(BATCHED, int8=int8), "linear")
        assert (linear.spiking.accumulates, linear.spiking.weight_reads) == (spikes, active)
        assert linear.dense.macs == 7 * np.count_nonzero(present) and linear.sizes.weights == np.count_nonzero(present)
        assert linear.work["zero-skipping"].total.macs == active
        assert np.count_nonzero(present) == (4 if int8 else 6)
    report = build_report("m", "", counts, [ARITHMETIC])
    macs = {pair.dense.numbers.name: pair.dense.counts.total("dense").macs for pair in report.comparisons}
    assert {macs.pop("fp32")} == {7 * 6} and set(macs.values()) == {7 * 4}
    assert events_of_activity(graph, activity) == events


def test_a_hybrid_takes_the_cheaper_of_two_modes_and_pays_for_the_border() -> None:
    for flow in (SPIKE, BATCHED):
        counts = counted(attention_graph(), flow)
        fp32 = MEMORY.format("fp32")
        spiking, dense = priced(counts, MEMORY, fp32), priced(counts, MEMORY, fp32, "dense mode")
        both = hybrid(spiking, dense)
        modes = dict(zip((n.name for n in counts.nodes), both.modes, strict=True))
        for i, each in enumerate(counts.nodes):
            border = 0.0
            if each.arrived.events and flow is SPIKE:  # counts: an add a spike, a write a neuron and token
                prices = dense.prices(i)
                border = each.spikes_in * prices["adds"] + 24 * prices["value_writes"]
            cheaper = dense.rows[i].total + border < spiking.rows[i].total and each.arrived.events > 0
            assert modes[each.name] == ("dense" if cheaper else "spiking")
            expected = dense.rows[i].total + border if cheaper else spiking.rows[i].total
            assert both.rows[i].total == pytest.approx(expected)
        assert both.total.total <= spiking.total.total
        assert both.at_widest.total.total >= both.total.total
    with pytest.raises(ConfigError, match="concurrent"):
        build_report("m", "", counted(attention_graph("concurrent")), [MEMORY], hybrid=True)


@pytest.mark.parametrize("flow", DATAFLOWS.values(), ids=DATAFLOWS)
def test_at_the_break_even_both_sides_need_the_same(flow: Dataflow) -> None:
    """Activity scaled by the break-even, on both sides where the rival skips zeros."""
    report = build_report("m", "", counted(attention_graph()), [MEMORY], chosen=[flow])
    kinds = set()
    for pair in report.comparisons:
        kinds.add(pair.kind)
        factor = pair.break_even / pair.spiking.counts.spikes_per_synapse
        if not np.isfinite(factor):
            continue
        ours, theirs = pair.spiking.total, pair.dense.total
        needed = [side.total_grains + (factor - 1) * side.driven for side in (ours, theirs)]
        assert factor > 0 and needed[0] == pytest.approx(needed[1])
        assert pair.wins == ((factor > 1) == pair.wins_below)
    assert kinds == {"twin", "fair rival", "zero-skipping", "quantising", "reuse"}
    assert all(
        pair.matched and pair.dense.counts.dataflow == pair.spiking.counts.dataflow for pair in report.comparisons
    )


def test_who_computes_the_same_function_comes_first() -> None:
    report = build_report("m", "", counted(attention_graph()), [ARITHMETIC, MEMORY])
    head = report.headline
    assert head is not None and head.kind == "zero-skipping" and head.matched
    assert head.spiking.numbers.name == "int8" and head.dataflow == OUTPUT_STATIONARY
    assert head.verdict().startswith("With memory, 45 nm, int8 against int3×8, output-stationary: the spiking network")


def test_old_records_know_the_spike_dataflow_alone() -> None:
    graph = attention_graph()
    activity, _ = measure(graph, TEXTS)
    record = activity.to_dict()
    for layer in record["layers"].values():
        del layer["active"]
    old = Activity.from_dict(record)
    counts = count(graph, old, events_of_activity(graph, old))
    report = build_report("m", "", counts, [ARITHMETIC, MEMORY])
    assert {pair.dataflow.name for pair in report.comparisons} == {"spike"} and "--data" in report.missing[0]
    assert {pair.kind for pair in report.comparisons} == {"twin", "fair rival", "reuse", "other"}
    for flow in (BATCHED, GRADED, OUTPUT_STATIONARY):
        with pytest.raises(DataError, match=f"{flow.name}.*--data"):
            build_report("m", "", counts, [MEMORY], chosen=[flow])


def test_a_concurrent_network_has_no_windows_to_send() -> None:
    counts = counted(attention_graph("concurrent"))
    report = build_report("m", "", counts, [MEMORY])
    assert {pair.dataflow.name for pair in report.comparisons} == {"spike", "output-stationary"}
    with pytest.raises(ConfigError, match="concurrent schedule"):
        build_report("m", "", counts, [MEMORY], chosen=[GRADED])


def test_what_has_no_price_is_not_free() -> None:
    """Loihi: norms and softmax have no price; a softmax alone has an energy of nothing known, not of 0."""
    from neurotool.energy.report import rows

    counts = counted(attention_graph())
    loihi = load_cost_model("loihi1-silicon")
    lines = {row.name: row.spiking for row in rows(priced(counts, loihi, loihi.default_format), None)}
    assert lines["1 × Softmax"] is None and lines["linear"] is not None and lines["linear"] > 0


def test_activity_keeps_what_was_active() -> None:
    # What a spike's text has in tokens is its positions from both ends, and itself: 9 + 17 + 15 = 41, 5 + 7 + 14 = 26.
    active = LayerActivity(4, 5, 26, 1, [1, 1, 3], [0, 1, 2, 1, 0, 0, 1])
    layer = LayerActivity(4, 9, 41, 2, [1, 2, 5, 0, 0, 1], [2, 3, 3, 0, 0, 0, 1], active=active)
    activity = Activity(2, 4, Counter({3: 2, 7: 1}), 5, {"a": layer}, entered={"in": layer})
    assert Activity.from_dict(activity.to_dict()) == activity
