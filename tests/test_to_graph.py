"""The layer graph of a torch student, simulated, gives the student's own spikes, rates and logits."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from neurotool.errors import GraphError
from neurotool.graph import Graph, Linear, MatMul, Neuron
from neurotool.simulate import Simulation, simulate_batch
from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification
from neurotool.student.emission import Membranes, WindowSpikes

# torch and numpy add in different orders, so a float64 current may differ in its last bit. That flips a spike only
# where a potential sits exactly on the firing point: thresholds and weights here are random reals, so that none does.
# With threshold 1 and v_init 0, tokens that all send one value make exact ties in the attention (softmax sums to 1).


def student(dtype: torch.dtype = torch.float64, **options: Any) -> SpikingBertForSequenceClassification:
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 12,
        "time_steps": 5,
        "v_threshold": 0.7,
        "learn_v_threshold": True,
        "feedback_sweeps": 3,
        "num_labels": 3,
    }
    model = SpikingBertForSequenceClassification(SpikingBertConfig(**shape | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.to(dtype).eval()


def sentences() -> dict[str, torch.Tensor]:
    """Three sentences of 6, 9 and 3 tokens, padded to 9."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.tensor([[1] * n + [0] * (9 - n) for n in (6, 9, 3)])
    ids = torch.randint(1, 50, (3, 9), generator=generator)
    return {
        "input_ids": ids * mask,
        "attention_mask": mask,
        "token_type_ids": torch.randint(0, 2, (3, 9), generator=generator) * mask,
    }


@torch.no_grad()
def torch_spikes(model: SpikingBertForSequenceClassification, batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Every spike of every neuron layer, (steps, batch, tokens, width), over all steps and sweeps."""
    config = model.config
    current = model.embeddings(input_ids=batch["input_ids"], token_type_ids=batch["token_type_ids"])
    sweep = model._sweep(current, batch["attention_mask"])
    spikes: dict[str, list[torch.Tensor]] = {name: [] for name in model.neuron_layers}
    state = None
    if config.schedule == "phased":
        for _ in range(config.feedback_sweeps if config.feedback else 1):
            windows = WindowSpikes(config.time_steps)
            state = sweep(windows, state, None)
            for name in spikes:
                spikes[name].extend(windows.spikes[name])
    else:
        membranes = Membranes()
        for _ in range(config.time_steps):
            state = sweep(membranes, state, None)
            for name in spikes:
                spikes[name].append(membranes.last_spikes[name])
    return {name: torch.stack(steps).numpy() for name, steps in spikes.items()}


def run(
    model: SpikingBertForSequenceClassification, dtype: type
) -> tuple[list[Simulation], dict[str, np.ndarray], Any]:
    batch = sentences()
    with torch.no_grad():
        output = model(**batch)
    results = simulate_batch(model.to_graph(), {name: tensor.numpy() for name, tensor in batch.items()}, dtype)
    return results, torch_spikes(model, batch), output


DYNAMICS = list(itertools.product(["phased", "concurrent"], ["binary", "ternary"], [1.0, 0.9], ["soft", "hard"]))


@pytest.mark.parametrize("feedback", [False, True])
@pytest.mark.parametrize(("schedule", "spikes", "leak", "reset"), DYNAMICS)
def test_identical_in_float64(schedule: str, spikes: str, leak: float, reset: str, feedback: bool) -> None:
    model = student(schedule=schedule, spikes=spikes, leak=leak, reset=reset, feedback=feedback)
    results, expected, output = run(model, np.float64)
    for i, result in enumerate(results):
        assert list(result.spikes) == list(expected)
        for name, trains in expected.items():
            assert np.array_equal(result.spikes[name], trains[:, i]), name
            # Padding included. Not a bit apart: both divide the same sum of spikes by the same weight.
            assert np.array_equal(result.rates[name], output.rates[name][i].numpy()), name
        assert result.logits == pytest.approx(output.logits[i].numpy(), abs=1e-12)
    density = np.mean([np.abs(trains).mean() for trains in expected.values()])
    assert 0.1 < density < 0.9  # the comparison is of something


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
def test_float32_in_the_phased_schedule(spikes: str) -> None:
    """Rounding differs by 1e-7, which may flip the odd spike of a large model; on this small one none."""
    results, expected, output = run(student(torch.float32, spikes=spikes), np.float32)
    mismatches = sum(int((r.spikes[n] != s[:, i]).sum()) for i, r in enumerate(results) for n, s in expected.items())
    assert mismatches == 0
    for i, result in enumerate(results):
        assert result.logits == pytest.approx(output.logits[i].numpy(), abs=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"v_init": 0.4375},
        {"pooling": "cls"},
        {"num_labels": 1},
        {"num_attention_heads": 4},
        {"v_threshold_per_channel": True},
        {"v_threshold_per_channel": True, "schedule": "concurrent"},
        {"activation": "relu", "spikes": "ternary"},
        {"activation": "relu", "schedule": "concurrent", "spikes": "ternary", "leak": 0.9},
    ],
)
def test_other_options(options: dict[str, Any]) -> None:
    results, expected, output = run(student(**options), np.float64)
    for i, result in enumerate(results):
        assert all(np.array_equal(result.spikes[name], trains[:, i]) for name, trains in expected.items())
        assert result.logits == pytest.approx(output.logits[i].numpy(), abs=1e-12)


def test_events_are_the_students_spikes() -> None:
    """Tokens that are not padding only: every spike to its reader, counted with plain loops over torch's spikes."""
    results, trains, _ = run(student(), np.float64)
    masks = sentences()["attention_mask"].numpy().astype(bool)
    for i, (result, real) in enumerate(zip(results, masks, strict=True)):
        sent = {name: int(np.abs(s[:, i][:, real]).sum()) for name, s in trains.items()}
        expected = {}
        for layer, source in (("encoder.0", "embedding"), ("encoder.1", "encoder.0.output")):
            tokens = int(real.sum())
            for reader in ("key", "value", "query"):
                expected[f"{layer}.{reader}.linear", "x"] = (sent[source], 16)
            expected[f"{layer}.scores", "b"] = (sent[f"{layer}.key"], tokens)
            expected[f"{layer}.context", "b"] = (sent[f"{layer}.value"], tokens)
            expected[f"{layer}.self_output.linear", "x"] = (sent[f"{layer}.attention"], 16)
            expected[f"{layer}.intermediate.linear", "x"] = (sent[f"{layer}.self_output"], 32)
            expected[f"{layer}.output.linear", "x"] = (sent[f"{layer}.intermediate"], 16)
        counted = {key: (c.events, c.synaptic_operations) for key, c in result.events.items()}
        assert counted == {key: (events, events * fan_out) for key, (events, fan_out) in expected.items()}
        assert sum(events for events, _ in counted.values()) > 0


def test_the_graph_says_what_the_student_is() -> None:
    model = student(torch.float32, schedule="concurrent", feedback=True, id2label={0: "no", 1: "maybe", 2: "yes"})
    graph = model.to_graph()
    assert (graph.time_steps, graph.schedule, graph.tokens, graph.labels) == (
        5,
        "concurrent",
        12,
        ("no", "maybe", "yes"),
    )
    assert graph.feedback == (("feedback", "x"),) and graph.source("feedback", "x") == "encoder.1.output"
    assert graph.of_type(Neuron) == list(model.neuron_layers)
    assert len(graph.of_type(MatMul)) == 4 and len(graph.of_type(Linear)) == 2 * 6 + 1
    for name, layer in model.neuron_layers.items():
        neuron = graph.nodes[name]
        assert isinstance(neuron, Neuron) and neuron.v_threshold == layer.v_threshold.item()
    description, arrays = graph.to_arrays()
    assert Graph.from_arrays(description, arrays) == graph


def test_weights_are_stored_once_and_copied() -> None:
    model = student(torch.float32)
    _, arrays = model.to_graph().to_arrays()
    stored = sum(array.size for array in arrays.values())
    gains = sum(layer.log_gain.numel() for layer in model.neuron_layers.values())  # thresholds are plain numbers
    assert stored == sum(parameter.numel() for parameter in model.parameters()) - gains
    before = arrays["readout.weight"].copy()
    with torch.no_grad():
        model.classifier.weight.add_(1)
    assert np.array_equal(arrays["readout.weight"], before)


def test_regression_has_no_labels_and_bfloat16_becomes_float32() -> None:
    graph = student(torch.bfloat16, num_labels=1).to_graph()
    assert graph.labels == ()
    assert {array.dtype for array in graph.to_arrays()[1].values()} == {np.dtype(np.float32)}


def test_non_finite_weights_are_refused() -> None:
    model = student()
    with torch.no_grad():
        model.layers[1].value.weight[0, 0] = float("nan")
    with pytest.raises(GraphError, match=r"node encoder.1.value.linear \(Linear\): weight has 1 of 256"):
        model.to_graph()
