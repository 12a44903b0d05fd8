"""The emulator of a graph with real parameters does what `neurotool.simulate` does, for whole batches."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import TOKENS, VOCABULARY, WIDTH, graphs, random_batch, random_input, shaped_graphs

from neurotool.executor import Run, SynapseEvents
from neurotool.graph import Graph, Input
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import simulate


def rows(graph: Graph, seed: int) -> list[dict[str, Any]]:
    """Keyword arguments of `simulate` for three inputs of different lengths, without padding."""
    rng = np.random.default_rng(seed)
    lengths = [int(n) for n in rng.integers(1, TOKENS + 1, 3)]
    if graph.of_type(Input):
        return [{"values": {"spikes_in": rng.integers(-1, 2, (graph.time_steps, n, WIDTH))}} for n in lengths]
    return [{"input_ids": rng.integers(0, VOCABULARY, n)} for n in lengths]


def padded(inputs: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """One batch; padding holds values that matter if anything reads them."""
    rng = np.random.default_rng(seed)
    lengths = [len(x["input_ids"]) if "input_ids" in x else x["values"]["spikes_in"].shape[1] for x in inputs]
    longest = max(lengths)
    mask = (np.arange(longest) < np.array(lengths)[:, None]).astype(int)
    if "input_ids" in inputs[0]:
        ids = rng.integers(0, VOCABULARY, (len(inputs), longest))
        for row, x in zip(ids, inputs, strict=True):
            row[: len(x["input_ids"])] = x["input_ids"]
        return {"input_ids": ids, "attention_mask": mask}
    steps = len(inputs[0]["values"]["spikes_in"])
    values = rng.integers(-1, 2, (len(inputs), steps, longest, WIDTH))
    for row, x, length in zip(values, inputs, lengths, strict=True):
        row[:, :length] = x["values"]["spikes_in"]
    return {"values": {"spikes_in": values}, "attention_mask": mask}


def executed(result: Run, i: int) -> dict[tuple[str, str], SynapseEvents]:
    """Events of the i-th input."""
    kinds = (result.events, result.synaptic_operations, result.active, result.active_operations)
    return {port: SynapseEvents(*(int(counts[port][i]) for counts in kinds)) for port in result.events}


@given(graphs(), st.integers(0, 2**32 - 1))
@settings(max_examples=150)
def test_batches_with_padding_equal_the_oracle_one_by_one(graph: Graph, seed: int) -> None:
    inputs = rows(graph, seed)
    result = Emulator(graph).run(**padded(inputs, seed + 1), record=True)
    for i, one in enumerate(inputs):
        oracle = simulate(graph, **one)
        np.testing.assert_allclose(result.logits[i], oracle.logits, rtol=1e-9, atol=1e-12)
        for name, spikes in oracle.spikes.items():
            tokens = spikes.shape[1]
            np.testing.assert_array_equal(result.spikes[name][i][:, :tokens], spikes, name)
            np.testing.assert_allclose(result.rates[name][i][:tokens], oracle.rates[name], rtol=1e-9, atol=1e-12)
            np.testing.assert_allclose(
                result.potentials[name][i][:tokens], oracle.potentials[name], rtol=1e-9, atol=1e-9
            )
        assert executed(result, i) == oracle.events


@given(graphs(), st.integers(0, 2**32 - 1))
def test_recording_changes_nothing(graph: Graph, seed: int) -> None:
    """Without recording, windows of IF neurons are computed in closed form."""
    batch = padded(rows(graph, seed), seed)
    recorded, observed = Emulator(graph).run(**batch, record=True), Emulator(graph).run(**batch, observe=True)
    np.testing.assert_allclose(recorded.logits, observed.logits, rtol=1e-9, atol=1e-12)
    for name, rates in observed.rates.items():
        np.testing.assert_allclose(recorded.rates[name], rates, rtol=1e-9, atol=1e-12)
    for port, events in observed.events.items():
        np.testing.assert_array_equal(recorded.events[port], events)
    assert set(observed.largest) == set(graph.nodes)
    for name, largest in observed.largest.items():
        np.testing.assert_allclose(recorded.largest[name], largest, rtol=1e-9, atol=1e-12)


@given(shaped_graphs(), st.integers(0, 2**32 - 10))
@settings(max_examples=150)
def test_networks_without_tokens_equal_the_oracle(graph: Graph, seed: int) -> None:
    result = Emulator(graph).run(**random_batch(graph, seed), record=True)
    for i in range(3):
        oracle = simulate(graph, **random_input(graph, seed + i))
        if oracle.logits is not None:
            np.testing.assert_allclose(result.logits[i], oracle.logits, rtol=1e-9, atol=1e-12)
        for kind in ("spikes", "potentials", "rates", "analog"):
            assert getattr(result, kind).keys() == getattr(oracle, kind).keys()
            for name, array in getattr(oracle, kind).items():
                np.testing.assert_allclose(getattr(result, kind)[name][i], array, rtol=1e-9, atol=1e-9, err_msg=name)
        assert executed(result, i) == oracle.events
