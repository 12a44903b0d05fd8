"""Quantisation: laws of its numbers, each node against real arithmetic within a derived bound, proven ranges."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from random_graphs import TOKENS, VOCABULARY, WIDTH, graphs
from scipy.special import erf

from neurotool.errors import ExportError, OverflowingError
from neurotool.executor import Run
from neurotool.export.lower import SPREAD, lower
from neurotool.export.rounding import dyadic, mantissas
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
from neurotool.graph.fixed_point import (
    GELU_BITS,
    GELU_SCALE,
    LIMIT,
    NORM_BITS,
    PROBABILITY_BITS,
    RATE_BITS,
    rescaled,
    row_mantissas,
)
from neurotool.lava_runtime.emulator import Emulator

reals = st.floats(-1e4, 1e4).map(lambda v: v if abs(v) > 1e-6 else 0.0)


@given(arrays(np.float64, array_shapes(max_dims=2, max_side=6), elements=reals), st.sampled_from([8, 16]))
def test_mantissas_round_to_the_nearest_of_the_finest_units(x: np.ndarray, bits: int) -> None:
    mantissa, exponent = mantissas(x, bits)
    assert mantissa.dtype == (np.int8 if bits == 8 else np.int16)
    assert np.abs(mantissa.astype(int)).max() < 2 ** (bits - 1)
    assert (np.abs(mantissa * 2.0**exponent - x) <= 2.0**exponent / 2).all()
    if x.any():
        assert np.abs(mantissa.astype(int)).max() >= 2 ** (bits - 2) - 1  # half the unit would not do
    else:
        assert exponent == 0


@given(
    arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=reals),
    st.sampled_from([0, 1, 3, SPREAD]),
)
def test_rows_lose_no_more_than_by_rounding_to_units_that_hold_them(weight: np.ndarray, spread: int) -> None:
    mantissa, lowest, exponents = row_mantissas(weight, spread)
    assert mantissa.dtype == np.int8 and np.abs(mantissa.astype(int)).max() <= 127
    assert exponents.min() == 0 and exponents.max() <= spread
    found = mantissa * 2.0 ** (lowest + exponents.astype(float))[:, None]
    whole_layer, exponent = mantissas(weight, 8)
    # Clipping the largest weight of a row, or of the layer, is chosen where it is better, never where it is worse.
    assert ((found - weight) ** 2).sum() <= ((whole_layer * 2.0**exponent - weight) ** 2).sum() * (1 + 1e-12)
    assert (mantissa.astype(int) * np.sign(weight) >= 0).all()


def test_rows_by_hand() -> None:
    """127 and 1.27: the first row counts 1, the second 2^-6 (1.27 * 64 = 81.28); the unit of both is 2^-6."""
    mantissa, lowest, exponents = row_mantissas(np.array([[127.0, -1.0], [1.27, 0.5]]), SPREAD)
    assert mantissa.tolist() == [[127, -1], [81, 32]]
    assert (lowest, exponents.tolist()) == (-6, [6, 0])
    mantissa, lowest, exponents = row_mantissas(np.array([[127.0, -1.0], [1.27, 0.5]]), 0)
    assert (mantissa.tolist(), lowest, exponents.tolist()) == ([[127, -1], [1, 0]], 0, [0, 0])


@given(st.floats(2.0**-24, 2.0**30))
def test_dyadic_ratios_have_15_bits(ratio: float) -> None:
    multiplier, shift = dyadic(ratio)
    assert shift >= 0
    assert abs(Fraction(multiplier, 2**shift) - Fraction(ratio)) <= Fraction(ratio) / 2**15
    assert multiplier <= max(2**15, ratio + 1)


@given(st.integers(-24, 30))
def test_dyadic_powers_of_two_are_exact(exponent: int) -> None:
    multiplier, shift = dyadic(2.0**exponent)
    assert Fraction(multiplier, 2**shift) == Fraction(2) ** exponent


def test_dyadic_ratios_that_leave_nothing_are_zero() -> None:
    assert dyadic(2.0**-30) == (0, 0)
    assert not rescaled(np.array([LIMIT, -LIMIT]), *dyadic(2.0**-80)).any()


@given(st.integers(-LIMIT, LIMIT), st.integers(0, 2**15), st.integers(0, 39))
def test_rescaling_rounds_half_up(x: int, multiplier: int, shift: int) -> None:
    nearest = math.floor(Fraction(x * multiplier, 2**shift) + Fraction(1, 2)) if shift else x * multiplier
    assert int(rescaled(np.array([x], np.int64), multiplier, shift)[0]) == nearest == rescaled(x, multiplier, shift)


# One node of each type, against what real arithmetic makes of the same (quantised) input.


def lowered(build: GraphBuilder, inputs: dict[str, Any], schedule: str = "concurrent", **settings: Any) -> Graph:
    graph = build.build(schedule=schedule, **({"time_steps": 1, "tokens": 4} | settings))
    return lower(graph, Emulator(graph).run(**inputs, observe=True).largest)


def attention() -> GraphBuilder:
    build = GraphBuilder()
    x = build.add("x", Input(6))
    scores = build.add("scores", MatMul(2, transpose_b=True), x, x)
    build.add("y", MatMul(2), build.add("softmax", Softmax(), scores), x)
    return build


def after_input(node: Node, seed: int = 0, width: int = 6, size: float = 3.0) -> tuple[Graph, np.ndarray, np.ndarray]:
    """Input -> node: the fixed-point graph, the quantised input and the output, as real numbers."""
    build, values = GraphBuilder(), np.random.default_rng(seed).normal(size=(2, 4, width)) * size
    build.add("y", node, *[build.add("x", Input(width))] * len(node.ports))
    graph = lowered(build, {"values": {"x": values}})
    x, y = quantities(graph, Emulator(graph).run(values={"x": values}, record=True), "x", "y")
    assert np.abs(x - values).max() <= graph.fixed_point["x"].scale / 2
    return graph, x, y


def quantities(graph: Graph, result: Run, *names: str) -> list[np.ndarray]:
    return [result.messages[name] * graph.fixed_point[name].scale for name in names]


def weight_of(graph: Graph, name: str) -> np.ndarray:
    """The weight as the chip has it, in real numbers where the input counts 1."""
    node, fixed = graph.nodes[name], graph.fixed_point[name]
    source = graph.fixed_point[graph.source(name, "x")]
    exponents = np.asarray(fixed.exponents, float)
    unit = fixed.scale / 2.0 ** fixed.rescale[0][1] / source.scale
    weight: np.ndarray = node.weight  # type: ignore[attr-defined]
    return weight * (unit * 2.0**exponents).reshape(-1, *[1] * (weight.ndim - 1))


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.booleans())
def test_linear(seed: int, biased: bool) -> None:
    rng = np.random.default_rng(seed)
    exact = Linear(rng.normal(size=(5, 6)), rng.normal(size=5) if biased else None)
    graph, x, y = after_input(exact, seed)
    weight, fixed = weight_of(graph, "y"), graph.fixed_point["y"]
    # 24-bit inputs lose `shift` bits.
    row_errors = np.abs(weight - exact.weight).max(1)
    halves = 2.0 ** (np.ceil(np.log2(np.abs(exact.weight).max(1) / 127)) - 1)
    assert (row_errors <= halves * math.sqrt(6)).all()  # clipping is chosen where the row's squared error gets less
    lost_bits = np.abs(weight).sum(1) * graph.fixed_point["x"].scale * 2.0 ** fixed.rescale[0][1] / 2
    true = x @ exact.weight.T + (exact.bias if biased else 0)
    assert (np.abs(y - true) <= np.abs(x).sum(-1, keepdims=True) * row_errors + lost_bits + fixed.scale / 2).all()


@given(seeds, st.integers(1, 5))
def test_conv1d(seed: int, kernel: int) -> None:
    """With its quantised weight: a Conv1d is a Linear that reads its neighbours, 0 beyond the ends."""
    exact = Conv1d(np.random.default_rng(seed).normal(size=(5, 6, kernel)))
    graph, x, y = after_input(exact, seed)
    weight, fixed = weight_of(graph, "y"), graph.fixed_point["y"]
    padded = np.pad(x, ((0, 0), ((kernel - 1) // 2, kernel // 2), (0, 0)))
    true = sum(padded[:, k : k + 4] @ weight[:, :, k].T for k in range(kernel))
    lost_bits = np.abs(weight).sum((1, 2)) * graph.fixed_point["x"].scale * 2.0 ** fixed.rescale[0][1] / 2
    assert (np.abs(y - true) <= lost_bits + 1e-9).all()
    assert np.abs(weight - exact.weight).max() <= np.abs(exact.weight).max() / 127 * math.sqrt(6 * kernel)


def test_concat_brings_its_parts_to_one_unit() -> None:
    """8 is 64 units of 2^-3, 1 is 64 of 2^-6: the finer unit serves all."""
    build = GraphBuilder()
    spikes = build.add("spikes", Neuron(), build.add("x", Input(1)))
    coarse = build.add("coarse", Linear(np.array([[8.0]])), spikes)
    fine = build.add("fine", Linear(np.array([[1.0]])), spikes)
    build.add("joined", Concat(3), coarse, fine, coarse)
    largest = {"x": 1.0, "spikes": 1.0, "coarse": 8.0, "fine": 1.0, "joined": 8.0}
    graph = lower(build.build(time_steps=1, schedule="concurrent"), largest)
    fixed = graph.fixed_point
    assert fixed["coarse"].scale == 8 * fixed["fine"].scale == 8 * fixed["joined"].scale
    assert fixed["joined"].rescale == ((8, 0), (1, 0), (8, 0))
    assert fixed["joined"].bound == 8 * fixed["coarse"].bound
    run = Emulator(graph).run(values={"x": np.ones((1, 1, 1))}, record=True)
    assert (run.messages["joined"] * fixed["joined"].scale).tolist() == [[[8.0, 1.0, 8.0]]]


@given(seeds, st.sampled_from([1e-3, 1.0, 1e3]))
def test_layer_norm(seed: int, size: float) -> None:
    """The bound of `normalised`, times the weight; weight and bias are rounded to 2^-15 of the largest and a unit."""
    rng = np.random.default_rng(seed)
    exact = LayerNorm(rng.normal(size=6), rng.normal(size=6), 1e-12)
    graph, x, y = after_input(exact, seed, size=size)
    fixed = graph.fixed_point["y"]
    multiplier, shift = fixed.rescale[0]
    centred = x - x.mean(-1, keepdims=True)
    deviation = centred.std(-1, keepdims=True)
    n = centred / deviation
    root = deviation / graph.fixed_point["x"].scale * multiplier / 2**shift
    assert root.min() > 100  # fine units
    of_norm = (1 + 1.5 * np.abs(n)) / (root - 1.5) + 1.5 * 2.0**-NORM_BITS  # 1/2 more: the input is rounded, too
    of_weight = np.abs(n) * np.abs(exact.weight).max() * 2.0**-14
    bound = of_norm * np.abs(exact.weight) + of_weight + 2 * fixed.scale
    assert (np.abs(y - (n * exact.weight + exact.bias)) <= bound).all()


@given(seeds, st.sampled_from([0.1, 1.0, 100.0]))
def test_gelu(seed: int, size: float) -> None:
    """I-BERT's polynomial, plus half a unit of 2^-10 on the way in (slope below 1.13) and of the output."""
    _, x, y = after_input(Gelu(), seed, size=size)
    true = x * (1 + erf(x / math.sqrt(2))) / 2
    assert np.abs(y - true).max() <= 0.0186 + 1.13 * 2.0 ** -(GELU_BITS + 1) + GELU_SCALE


@given(seeds)
def test_scale(seed: int) -> None:
    factor = np.random.default_rng(seed).normal(size=6)
    graph, x, y = after_input(Scale(factor), seed)
    bound = np.abs(x) * np.abs(factor).max() * 2.0**-15 + graph.fixed_point["y"].scale
    assert (np.abs(y - x * factor) <= bound).all()
    _, x, y = after_input(Scale(-0.37), seed)
    np.testing.assert_allclose(y, -0.37 * x, rtol=1e-12)  # a matter of units
    _, x, y = after_input(Scale(0.0), seed)
    assert not y.any()


@given(seeds, st.floats(1e-3, 1e3))
def test_add_of_different_units(seed: int, factor: float) -> None:
    build, rng = GraphBuilder(), np.random.default_rng(seed)
    x = build.add("x", Input(6))
    build.add("y", Add(), x, build.add("scaled", Scale(factor), x))
    values = {"x": rng.normal(size=(2, 4, 6))}
    graph = lowered(build, {"values": values})
    a, b, y = quantities(graph, Emulator(graph).run(values=values, record=True), "x", "scaled", "y")
    assert (np.abs(y - (a + b)) <= (np.abs(a) + np.abs(b)) * 2.0**-15 + graph.fixed_point["y"].scale).all()


@given(seeds)
def test_attention(seed: int) -> None:
    """Products of the quantised operands, to the bits that were shifted away; softmax as its test bounds it."""
    values = {"x": np.random.default_rng(seed).normal(size=(2, 4, 6))}
    graph = lowered(attention(), {"values": values})
    x, s, p, y = quantities(graph, Emulator(graph).run(values=values, record=True), "x", "scores", "softmax", "y")
    heads = x.reshape(2, 4, 2, 3).swapaxes(1, 2)
    coarse = graph.fixed_point["x"].scale * 2.0 ** np.array(
        [[k for _, k in graph.fixed_point[n].rescale] for n in ("scores", "y")]
    )
    true = heads @ heads.swapaxes(-1, -2)
    assert (np.abs(s - true) <= coarse[0].max() / 2 * np.abs(heads).sum(-1)[:, :, None].max() + 1e-9).all()
    e = np.exp(s - s.max(-1, keepdims=True))
    true = e / e.sum(-1, keepdims=True)
    rounding = 2 * (2.0**-11 + np.abs(s).max() * 2.0**-15)
    assert (np.abs(p - true) <= true * (0.008 + np.expm1(rounding)) + 2.0**-PROBABILITY_BITS).all()
    true = (p @ heads).swapaxes(1, 2).reshape(2, 4, 6)
    shift_p, shift_x = (2.0**k - 1 for _, k in graph.fixed_point["y"].rescale)
    lost = 4 * (shift_p * 2.0**-PROBABILITY_BITS * np.abs(x).max() + shift_x * graph.fixed_point["x"].scale)
    assert (np.abs(y - true) <= lost + 1e-9).all()


@given(seeds)
def test_attention_in_powers_of_two(seed: int) -> None:
    """Scores reach the softmax in units of log 2, and the bound of what it weighs holds for row sums above 1."""
    values = {"x": np.random.default_rng(seed).normal(size=(2, 4, 6))}
    graph = attention().build(time_steps=1, schedule="concurrent", tokens=4)
    fixed = lower(graph, Emulator(graph).run(values=values, observe=True).largest, shift_softmax=True)
    result = Emulator(fixed).run(values=values, record=True)
    s, p = quantities(fixed, result, "scores", "softmax")
    e = np.exp(s - s.max(-1, keepdims=True))
    true = e / e.sum(-1, keepdims=True)
    assert (p <= true * 2**1.52 + 2.0**-PROBABILITY_BITS).all() and (p >= true / 2**1.52 - 2.0**-PROBABILITY_BITS).all()
    assert set(np.log2(p[p > 0]) % 1) == {0.0}
    assert np.abs(result.messages["y"]).max() <= fixed.fixed_point["y"].bound
    assert Graph.from_arrays(*fixed.to_arrays()) == fixed


@given(seeds)
def test_embedding_pooling_and_readout(seed: int) -> None:
    rng = np.random.default_rng(seed)
    build = GraphBuilder()
    table, weight, bias = rng.normal(size=(7, 6)), rng.normal(size=(3, 6)), rng.normal(size=3)
    pooled = build.add("pool", MeanPool(), build.add("word", Embedding(table)))
    build.add("readout", Readout(weight, bias), pooled)
    inputs = {"input_ids": rng.integers(0, 7, (3, 4)), "attention_mask": [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]}
    graph = lowered(build, inputs)
    result = Emulator(graph).run(**inputs, record=True)
    (words,) = quantities(graph, result, "word")
    assert np.abs(words - table[inputs["input_ids"]]).max() <= graph.fixed_point["word"].scale / 2
    mask = np.array(inputs["attention_mask"])[..., None]
    mean = (words * mask).sum(1) / mask.sum(1)
    quantised = weight_of(graph, "readout")
    fixed = graph.fixed_point["readout"]
    pool_units = 2.0 ** fixed.rescale[0][1] / 2 + 2.0**RATE_BITS / 2 + 1
    lost_bits = np.abs(quantised).sum(1) * graph.fixed_point["pool"].scale * pool_units
    assert (np.abs(result.logits - (mean @ quantised.T + bias)) <= lost_bits + fixed.scale).all()


@given(seeds, st.sampled_from(["binary", "ternary"]), st.floats(0.2, 3), st.integers(1, 16))
def test_neurons_count_as_real_ones_do_but_near_a_threshold(
    seed: int, spikes: Any, v_threshold: float, time_steps: int
) -> None:
    """An integer threshold is off by half a unit, as is the charge that potentials start from."""
    build, values = GraphBuilder(), {"x": np.random.default_rng(seed).normal(size=(2, 4, 6))}
    build.add("y", Neuron(v_threshold, spikes=spikes, v_init=0.25), build.add("x", Input(6)))
    graph = lowered(build, {"values": values}, "phased", time_steps=time_steps)
    node, fixed = graph.nodes["y"], graph.fixed_point["y"]
    assert isinstance(node, Neuron)
    stepped, closed = Emulator(graph).run(values=values, record=True), Emulator(graph).run(values=values, observe=True)
    np.testing.assert_array_equal(stepped.rates["y"], closed.rates["y"])
    np.testing.assert_array_equal(stepped.spikes["y"].sum(1), stepped.messages["y"])
    (x,) = quantities(graph, stepped, "x")
    charge = 0.25 + time_steps * x / v_threshold + (0.5 if spikes == "ternary" else 0)
    count = np.clip(np.floor(charge), 0 if spikes == "binary" else -time_steps, time_steps)
    assert np.abs(stepped.messages["y"] - count).max() <= 1
    shift = fixed.rescale[0][1]
    lost = time_steps * (shift > 0)  # half a unit in every step
    slack = (np.abs(charge) / 2 + 1 + lost) / float(node.v_threshold)
    clear = np.abs(charge - np.rint(charge)) > slack
    np.testing.assert_array_equal(stepped.messages["y"][clear], count[clear])


# Whole graphs.


def batch(graph: Graph, seed: int, rows: int = 3) -> dict[str, Any]:
    """Inputs of different lengths, padded."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, TOKENS + 1, rows)
    mask = (np.arange(TOKENS) < lengths[:, None]).astype(int)
    if graph.of_type(Input):
        values = rng.integers(-1, 2, (rows, graph.time_steps, TOKENS, WIDTH))
        return {"values": {"spikes_in": values}, "attention_mask": mask}
    return {"input_ids": rng.integers(0, VOCABULARY, (rows, TOKENS)), "attention_mask": mask}


def lowered_or_refused(graph: Graph, seed: int) -> Graph:
    try:
        return lower(graph, Emulator(graph).run(**batch(graph, seed), observe=True).largest)
    except ExportError as error:
        assert "node " in str(error)
        assume(False)
        raise


def test_what_reads_a_leaky_neuron_knows_the_leak_it_gets() -> None:
    """The weights of its six spikes sum to 1023 with this leak, to 1024 with the nearest one of 12 bits."""
    build = GraphBuilder()
    leaky = build.add("leaky", Neuron(leak=0.5340342634657594), build.add("x", Input(1)))
    build.add("doubled", Add(), leaky, leaky)
    graph = lower(build.build(time_steps=6, schedule="phased"), {"x": 9.0, "leaky": 1.0, "doubled": 2.0})
    run = Emulator(graph).run(values={"x": np.full((1, 1, 1), 9.0)}, record=True)
    assert run.messages["leaky"].item() == graph.fixed_point["leaky"].bound == 1024
    assert run.messages["doubled"].item() == graph.fixed_point["doubled"].bound == 2048


@given(graphs(), seeds, st.sampled_from(["wrap", "clip"]), st.sampled_from([1, 100, 10**5]))
@settings(max_examples=200)
def test_proven_bounds_hold_for_any_input(graph: Graph, seed: int, overflow: Any, size: int) -> None:
    """Also where a value before was wrapped or clipped, and far beyond what calibration saw."""
    fixed = lowered_or_refused(graph, seed)
    inputs = batch(graph, seed + 1)
    if "values" in inputs and not graph.nodes["spikes_in"].spiking:  # type: ignore[attr-defined]
        inputs["values"] = {"spikes_in": inputs["values"]["spikes_in"] * size}
    result = Emulator(fixed, overflow).run(**inputs, record=True)
    for name, message in result.messages.items():
        largest = np.abs(message.astype(np.int64)).max()
        assert largest <= min(fixed.fixed_point[name].bound, LIMIT + 1), name


@given(graphs(), seeds)
def test_fixed_point_does_not_depend_on_the_batch(graph: Graph, seed: int) -> None:
    fixed = lowered_or_refused(graph, seed)
    inputs = batch(graph, seed)
    try:
        together = Emulator(fixed).run(**inputs, record=True)
    except OverflowingError:
        assume(False)
    for i in range(3):
        one = {
            key: {k: v[i : i + 1] for k, v in value.items()} if key == "values" else value[i : i + 1]
            for key, value in inputs.items()
        }
        alone = Emulator(fixed).run(**one, record=True)
        np.testing.assert_array_equal(alone.logits[0], together.logits[i])
        for kind in ("spikes", "potentials", "messages", "events"):
            for name, value in getattr(alone, kind).items():
                np.testing.assert_array_equal(value[0], getattr(together, kind)[name][i])


def test_logits_come_closer_with_more_time_steps(make_student: Any) -> None:
    """A spike more or less is 1/T of a rate: what quantised weights change shrinks with it, down to their own error."""
    ids = np.random.default_rng(0).integers(1, 30, (16, 12))
    differences = []
    for time_steps in (2, 8, 32, 128):
        graph = make_student(seed=3, time_steps=time_steps).to_graph()
        float_run = Emulator(graph).run(ids, observe=True)
        fixed = Emulator(lower(graph, float_run.largest)).run(ids)
        differences.append(float(np.abs(fixed.logits - float_run.logits).mean()))
    assert differences[-1] < differences[0] / 3
    assert differences[-1] < 0.05


# What leaves its range, and what has no fixed-point form.


def overflowing() -> tuple[Graph, dict[str, Any]]:
    """2000 synapses of -1, calibrated on drives of 0.02; all spikes together are a drive of -2000 in each of 2 steps.

    Weights count 2^-6 and potentials 2^-12: 8192000 units after one step, half of them more after the other.
    """
    build = GraphBuilder()
    synapses = build.add("synapses", Linear(-np.ones((1, 2000))), build.add("x", Input(2000, spiking=True)))
    build.add("layer", Neuron(2.0, leak=0.5), synapses)
    graph = build.build(time_steps=2, schedule="concurrent")
    return lower(graph, {"x": 1.0, "synapses": 0.02, "layer": 0.0}), {"x": np.ones((1, 1, 2000))}


def test_inputs_out_of_range_are_an_error_that_names_node_value_and_limit() -> None:
    build = GraphBuilder()
    build.add("x", Input(1))
    fixed = lower(build.build(time_steps=1, schedule="concurrent"), {"x": 1.0})
    units = round(10000 / fixed.fixed_point["x"].scale)
    with pytest.raises(
        OverflowingError, match=rf"node x reaches {units}, but 24 bits hold at most {LIMIT}: .*--overflow"
    ):
        Emulator(fixed).run(values={"x": np.array([[[-10000.0]]])})
    clipped = Emulator(fixed, "clip").run(values={"x": np.array([[[-10000.0]]])}, record=True)
    assert clipped.messages["x"].item() == -LIMIT


def test_spikes_of_a_window_that_each_fit_are_checked_together() -> None:
    """Calibrated on an average of 1, given 3 and 15 in the two steps."""
    build = GraphBuilder()
    build.add("x", Input(1))
    fixed = lower(build.build(time_steps=2, schedule="phased"), {"x": 1.0})
    steps = np.array([3.0, 15.0]) / fixed.fixed_point["x"].scale / 2
    assert steps.max() < LIMIT < steps.sum()
    with pytest.raises(OverflowingError, match=rf"node x reaches {round(steps.sum())}, but"):
        Emulator(fixed).run(values={"x": np.array([[[[3.0]], [[15.0]]]])})


def test_potentials_out_of_range_are_an_error_that_names_the_layer() -> None:
    fixed, values = overflowing()
    with pytest.raises(
        OverflowingError, match=f"potential of layer reaches 12288000, but 24 bits hold at most {LIMIT}"
    ):
        Emulator(fixed).run(values=values)


def test_wrap_and_clip_do_what_they_say() -> None:
    """Wrapped, the potential is far above the threshold, 2 in units of 2^-12: it spikes and falls by that."""
    fixed, values = overflowing()
    clipped = Emulator(fixed, "clip").run(values=values, record=True)
    assert (clipped.potentials["layer"].item(), clipped.spikes["layer"].ravel().tolist()) == (-LIMIT, [0, 0])
    wrapped = Emulator(fixed, "wrap").run(values=values, record=True)
    assert wrapped.spikes["layer"].ravel().tolist() == [0, 1]
    assert wrapped.potentials["layer"].item() == 2**24 - 12288000 - 2 * 2**12


def refusal(*nodes: Node, width: int = 2, **settings: Any) -> str:
    build = GraphBuilder()
    x = build.add("x", Input(width, spiking=True))
    for i, node in enumerate(nodes):
        x = build.add(f"n{i}", node, x)
    graph = build.build(**({"time_steps": 4, "schedule": "concurrent"} | settings))
    largest = Emulator(graph).run(values={"x": np.ones((1, 1, width))}, observe=True).largest
    with pytest.raises(ExportError) as error:
        lower(graph, largest)
    return str(error.value)


def test_thresholds_below_the_units_of_the_drive_are_refused() -> None:
    message = refusal(Linear(np.ones((2, 2))), Neuron(1e-7))
    assert message.startswith("node n1 (Neuron): v_threshold 1e-07 is less than half a unit")


def test_biases_beyond_24_bits_are_refused() -> None:
    message = refusal(Linear(np.ones((2, 2)), np.array([0.0, 1e9])), Neuron())
    assert message.startswith("node n0 (Linear): bias reaches") and "24 bits hold" in message


def test_graded_feedback_is_refused() -> None:
    build = GraphBuilder()
    x = build.add("x", Input(2))
    back = build.add_feedback("back", Linear(np.ones((2, 2))), "sum")
    build.add("sum", Add(), x, back)
    graph = build.build(time_steps=2, schedule="concurrent")
    with pytest.raises(ExportError, match=r"node back \(Linear\): feedback from sum, which is not a neuron layer"):
        lower(graph, dict.fromkeys(graph.nodes, 1.0))


def test_units_far_from_all_others_are_refused() -> None:
    message = refusal(Linear(np.ones((2, 2))), Scale(1e-300), Neuron())
    assert message.startswith("node n1 (Scale): a unit of its output is 1.")


def test_a_graph_is_lowered_once() -> None:
    fixed, _ = overflowing()
    with pytest.raises(ExportError, match="fixed-point graph already"):
        lower(fixed, {})


@given(graphs(), seeds)
def test_fixed_point_graphs_are_stored_and_read_back(graph: Graph, seed: int) -> None:
    fixed = lowered_or_refused(graph, seed)
    assert Graph.from_arrays(*fixed.to_arrays()) == fixed
    assert replace(fixed, fixed_point={name: fixed.fixed_point[name] for name in reversed(fixed.nodes)}) == fixed
