"""Windows that the emulator decides by comparing sums are those it steps through, spike for spike."""

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_batch

from neurotool.executor import COUNTS
from neurotool.export.lower import lower
from neurotool.graph import Context, Embedding, Gelu, Graph, GraphBuilder, LayerNorm, Linear, MeanPool, Neuron, Readout
from neurotool.lava_runtime import emulator, nonlinear
from neurotool.lava_runtime.decisions import decisions
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.integer import IntegerArithmetic


def lowered(graph: Graph, batch: dict[str, Any], **options: Any) -> Graph:
    return lower(graph, Emulator(graph).run(**batch, observe=True).largest, **options)


def same_decided_and_stepped(graph: Graph, batch: dict[str, Any]) -> None:
    with patch.object(emulator, "TOKENS_AT_ONCE", 1):  # input by input: only several parts are worth deciding
        decided = Emulator(graph).run(**batch)
    stepped = Emulator(graph).run(**batch, record=True)
    np.testing.assert_array_equal(decided.logits, stepped.logits)
    for kind in COUNTS:
        for port, counts in getattr(stepped, kind).items():
            np.testing.assert_array_equal(getattr(decided, kind)[port], counts, str(port))


@given(graphs(), st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=60)
def test_random_graphs(graph: Graph, seed: int, precise: bool) -> None:
    batch = random_batch(graph, seed)
    same_decided_and_stepped(lowered(graph, batch, precise=precise), batch)


def network(spikes: Any, v_threshold: Any, time_steps: int) -> Graph:
    """A norm with weights of both signs, a Linear, and a GELU, each before neurons."""
    rng = np.random.default_rng(3)
    net = GraphBuilder()
    x = net.add("embed", Embedding(rng.normal(size=(50, 8))))
    x = net.add("norm", LayerNorm(rng.normal(size=8), rng.normal(size=8)), x)
    x = net.add("a", Neuron(v_threshold, spikes=spikes), x)
    x = net.add("up", Linear(rng.normal(size=(8, 8)), rng.normal(size=8)), x)
    x = net.add("gelu", Gelu(), x)
    x = net.add("b", Neuron(v_threshold, spikes=spikes), x)
    x = net.add("down", Linear(rng.normal(size=(8, 8)), rng.normal(size=8)), x)
    x = net.add("c", Neuron(v_threshold, spikes=spikes), x)
    x = net.add("pool", MeanPool(), x)
    net.add("readout", Readout(rng.normal(size=(2, 8)), np.zeros(2)), x)
    return net.build(tokens=6, time_steps=time_steps, schedule="phased")


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
@pytest.mark.parametrize("v_threshold", [0.1, 0.7, np.linspace(0.05, 2, 8)], ids=["low", "one", "each"])
@pytest.mark.parametrize("time_steps", [1, 4])
def test_every_number_that_sums_can_be(spikes: str, v_threshold: Any, time_steps: int) -> None:
    rng = np.random.default_rng(0)
    batch = {"input_ids": rng.integers(0, 50, (9, 6)), "attention_mask": np.arange(6) < rng.integers(1, 7, (9, 1))}
    graph = lowered(network(spikes, v_threshold, time_steps), batch)
    integers = IntegerArithmetic(graph)
    found = decisions(integers)
    assert {name: (d.head, d.between) for name, d in found.items()} == {
        "a": ("norm", ()),
        "b": ("up", ("gelu",)),
        "c": ("down", ()),
    }
    for name, decision in found.items():
        farthest = int(np.max(integers.largest_unfinished(decision.head)))
        x = np.linspace(-farthest, farthest, 20001).round().astype(np.int64)[:, None].repeat(8, 1)
        x = np.clip(x, -np.abs(integers.largest_unfinished(decision.head)), integers.largest_unfinished(decision.head))
        y = integers.checked(decision.head, integers.finished(decision.head, x))
        for between in decision.between:
            y = integers.evaluate(between, (y,), Context(np.ones(1, bool)))
        expected = integers.closed_form(name, integers.at_port(name, 0, y))
        np.testing.assert_array_equal(decision.counts(x.astype(np.float32)), expected, name)
    same_decided_and_stepped(graph, batch)


@pytest.mark.parametrize("v_threshold", [0.7, np.linspace(0.05, 2, 8)], ids=["one", "each"])
def test_drives_that_are_cut_off_at_the_threshold_of_each_neuron(v_threshold: Any) -> None:
    batch = {"input_ids": np.random.default_rng(0).integers(0, 50, (9, 6))}
    graph = lowered(network("ternary", v_threshold, 4), batch, precise=True)
    assert any(form.clips for name, form in graph.fixed_point.items() if isinstance(graph.nodes[name], Neuron))
    assert decisions(IntegerArithmetic(graph))
    same_decided_and_stepped(graph, batch)


def test_what_is_looked_at_is_stepped() -> None:
    batch = {"input_ids": np.random.default_rng(1).integers(0, 50, (4, 6))}
    device = Emulator(lowered(network("binary", 0.7, 4), batch))
    assert set(device._decisions(False, observe=False)) == {"a", "b", "c"}
    assert set(device._decisions(("gelu",), observe=False)) == {"a", "c"}
    assert not device._decisions(True, observe=False)
    assert not device._decisions(False, observe=True)


def test_the_gelu_turns_once() -> None:
    x = np.arange(-40000, 40000)
    steps = np.diff(nonlinear.gelu(x))
    assert (steps[x[1:] <= nonlinear.GELU_TURNS] <= 0).all()
    assert (steps[x[:-1] >= nonlinear.GELU_TURNS] >= 0).all()


@given(graphs(), st.integers(0, 2**32 - 1))
def test_padding_that_nobody_looks_at_is_not_run(graph: Graph, seed: int) -> None:
    batch = random_batch(graph, seed)
    real = next(iter(batch["values"].values())) if "values" in batch else batch["input_ids"]
    tokens = real.shape[-2] if "values" in batch else real.shape[1]
    lengths = np.random.default_rng(seed).integers(1, tokens + 1, (len(real), 1))
    batch["attention_mask"] = (np.arange(tokens) < lengths).astype(int)
    cut, whole = Emulator(graph).run(**batch), Emulator(graph).run(**batch, observe=True)
    np.testing.assert_allclose(cut.logits, whole.logits, rtol=1e-9, atol=1e-12)
    for kind in COUNTS:
        for port, counts in getattr(whole, kind).items():
            np.testing.assert_array_equal(getattr(cut, kind)[port], counts, str(port))
