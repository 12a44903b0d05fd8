"""The precise integer forms against real numbers, and what they are for: a student whose parameters lie on the grid of
the integers sends the same spikes in both."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.special import erf

from neurotool.api.comparing import compare
from neurotool.api.model import open_model
from neurotool.errors import ConfigError
from neurotool.export.lower import lower
from neurotool.graph import Graph, Linear, Neuron
from neurotool.graph.fixed_point import FINE_BITS, LIMIT
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.precise import gelu, normalised, softmax
from neurotool.train.compression import Compressor
from neurotool.train.grid import to_grid
from neurotool.train.pipeline import train

QUIET = Console(quiet=True)
seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.sampled_from([1, 2, 40, 512, 8192]), st.sampled_from([0.1, 1.0, 5.0, 30.0]))
def test_softmax(seed: int, columns: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.rint(rng.normal(size=(3, columns)) * size * 2**FINE_BITS).astype(np.int64)
    readable = rng.random((3, columns)) < 0.7
    readable[:, 0] = True
    scores = np.where(readable, x * 2.0**-FINE_BITS, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    found = softmax(x, readable, 20)
    assert np.abs(found * 2.0**-20 - e / e.sum(-1, keepdims=True)).max() <= 2.0**-20
    assert not found[~readable].any()


def test_gelu() -> None:
    x = np.concatenate([np.arange(-8 << FINE_BITS, 8 << FINE_BITS, 7), [LIMIT, -LIMIT, 40 << FINE_BITS]])
    real = x * 2.0**-FINE_BITS
    assert np.abs(gelu(x, 20) * 2.0**-20 - real * (1 + erf(real / math.sqrt(2))) / 2).max() <= 2.0**-20
    assert gelu(np.array([0]), 20).tolist() == [0]


@given(
    seeds,
    st.sampled_from([2, 3, 16, 384, 3072]),
    st.sampled_from([1, 4, 1000, 2**16, LIMIT]),
    st.sampled_from([0, 1, 10**6, 2**60]),
)
def test_normalisation(seed: int, width: int, span: int, epsilon: int) -> None:
    x = np.random.default_rng(seed).integers(-span, span + 1, (3, width))
    deviation = np.sqrt(x.var(-1, keepdims=True) + epsilon)
    true = np.divide(x - x.mean(-1, keepdims=True), deviation, out=np.zeros(x.shape), where=deviation > 0)
    bound = np.abs(true) * 2.0 ** (-20 if width <= 1024 else -17) + 2.0**-18
    assert (np.abs(normalised(x, epsilon, 18) * 2.0**-18 - true) <= bound).all()


@pytest.mark.parametrize("value", [0, 1, LIMIT, -LIMIT])
def test_constant_rows_normalise_to_zero(value: int) -> None:
    assert not normalised(np.full((2, 384), value), 0, 20).any()


# --- in a student ----------------------------------------------------------------------------------------------------


def differing(a: Graph, b: Graph, ids: np.ndarray) -> float:
    """Share of single spikes, steps and all."""
    one, other = (Emulator(graph).run(ids, record=True) for graph in (a, b))
    pairs = [(one.spikes[name], other.spikes[name]) for name in one.spikes]
    return sum(int((x != y).sum()) for x, y in pairs) / sum(x.size for x, _ in pairs)


def on_grid(student) -> None:  # type: ignore[no-untyped-def]
    compressor = Compressor(student, bits=8)
    compressor.choose(1.0)
    compressor.finish()
    to_grid(student)


@pytest.mark.parametrize(
    ("spikes", "time_steps", "per_channel"), [("ternary", 4, False), ("binary", 8, True), ("ternary", 3, True)]
)
def test_a_student_on_the_grid_sends_the_same_spikes_in_integers(
    make_student, spikes: str, time_steps: int, per_channel: bool
) -> None:
    settings = {"learn_v_threshold": per_channel, "v_threshold_per_channel": per_channel}
    student = make_student(spikes=spikes, time_steps=time_steps, **settings)
    ids = np.random.default_rng(0).integers(1, 30, (16, 12))
    exact = student.to_graph()
    largest = Emulator(exact).run(ids, observe=True).largest
    before = differing(exact, lower(exact, largest), ids)
    on_grid(student)
    graph = student.to_graph()
    fixed = lower(graph, largest, precise=True)
    after = differing(graph, fixed, ids)
    # Rates in thirds make units that are no powers of two, which thresholds are rounded to once more.
    assert before > 0.02 and after < (0.005 if time_steps & (time_steps - 1) == 0 else 0.05)
    # Nothing is rounded any more but what is computed.
    for name, node in graph.nodes.items():
        form, whole = fixed.fixed_point[name], fixed.nodes[name]
        if isinstance(node, Linear):
            assert node.bias is not None and np.allclose(node.bias / form.scale % 1, 0)
            assert np.array_equal(np.sign(node.weight), np.sign(whole.weight))  # type: ignore[attr-defined]
        if isinstance(node, Neuron):
            multiplier, shift = form.rescale[0]
            unit = fixed.fixed_point[fixed.source(name, "x")].scale * 2.0**shift / multiplier
            assert np.allclose(np.asarray(node.v_threshold) / unit, whole.v_threshold, rtol=1e-6)  # type: ignore[attr-defined]
    assert Graph.from_arrays(*fixed.to_arrays()) == fixed


def test_the_grid_is_its_own_grid(make_student) -> None:
    student = make_student(spikes="ternary")
    on_grid(student)
    kept = {name: value.clone() for name, value in student.state_dict().items()}
    on_grid(student)
    for name, value in student.state_dict().items():
        assert torch.allclose(value, kept[name], rtol=1e-6, atol=0), name


def test_cutting_off_drives_changes_no_spike(make_student) -> None:
    """Beyond the threshold a window sends no more: messages that are cut off there give the same counts."""
    student = make_student(spikes="ternary", initializer_range=3.0)
    on_grid(student)
    graph, ids = student.to_graph(), np.random.default_rng(1).integers(1, 30, (8, 12))
    fixed = lower(graph, Emulator(graph).run(ids, observe=True).largest, precise=True)
    assert sum(form.clips for form in fixed.fixed_point.values()) > len(fixed.of_type(Neuron))
    run = Emulator(fixed).run(ids, record=True)
    ends = [name for name, form in fixed.fixed_point.items() if form.clips and name in run.messages]
    cut = sum(int((np.abs(run.messages[name]) == LIMIT).sum()) for name in ends)
    assert cut > 0 and differing(graph, fixed, ids) < 0.01


@pytest.mark.slow
def test_trained_with_it_validate_reports_the_same_spikes(make_plan, tmp_path: Path) -> None:
    plan = make_plan("--integer-aware", output="aware.ckpt")
    assert plan.weight_bits == 8
    train(plan, QUIET)
    model = open_model(tmp_path / "aware.ckpt")
    model.export(tmp_path / "aware.lava", "lava", samples=8)
    bundle = open_model(tmp_path / "aware.lava")
    assert any(form.fraction for form in bundle.graph.fixed_point.values())
    compared = compare((model, None), (bundle, None), samples=16).result
    assert compared.passed and compared.quantised
    layers = compared.layers.values()
    assert sum(layer.differing for layer in layers) < 0.05 * sum(layer.compared for layer in layers)
    assert compared.predictions_agreeing == compared.inputs


def test_neurons_that_integers_only_approximate_are_refused(make_plan) -> None:
    for option in (["--leak", "0.9"], ["--schedule", "concurrent"], ["--reset", "hard"]):
        with pytest.raises(ConfigError, match="--integer-aware: needs"):
            train(make_plan("--integer-aware", *option, output="no.ckpt"), QUIET)
