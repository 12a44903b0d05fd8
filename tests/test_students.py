"""What holds for every kind of student: torch, interpreter, emulator, Lava, NIR and checkpoint are the same network,
padding changes nothing, the order of words matters, every weight learns."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.activity import Activity
from neurotool.convergence import check_convergent
from neurotool.energy.counts import count, events_of_activity
from neurotool.energy.measure import measure
from neurotool.errors import ConfigError
from neurotool.evaluation import _add
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.entering import entering
from neurotool.lava_runtime.job import Job
from neurotool.lava_runtime.run import run_jobs
from neurotool.sentences import random_inputs
from neurotool.simulate import Interpreter
from neurotool.student import STUDENTS, Student, TextCnnConfig, TextCnnForSequenceClassification, unrolled
from neurotool.student.tracing import TorchExecutor
from neurotool.validate import compare

TINY: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "initializer_range": 0.4,
}
KINDS: dict[str, dict[str, Any]] = {
    "spikingbert": {"model_type": "spikingbert", "v_init": 0.25},
    "spikebert": {"model_type": "spikebert"},
    "spikebert ternary, no positions": {"model_type": "spikebert", "spikes": "ternary", "positions": "none"},
    "spikebert normed attention": {"model_type": "spikebert", "attention_norm": True, "attention_v_threshold": 1.0},
    "spikebert softmax": {"model_type": "spikebert", "attention_softmax": True, "attention_v_threshold": 0.47},
    "spikebert ternary softmax": {
        "model_type": "spikebert",
        "spikes": "ternary",
        "attention_softmax": True,
        "attention_v_threshold": 0.47,
    },
    "spikebert phased": {"model_type": "spikebert", "schedule": "phased", "leak": 1.0, "v_init": 0.25},
    "spikebert phased, leaky ternary softmax": {
        "model_type": "spikebert",
        "schedule": "phased",
        "spikes": "ternary",
        "attention_softmax": True,
        "attention_v_threshold": 0.47,
    },
    "spikebert hard reset": {"model_type": "spikebert", "reset": "hard", "learn_v_threshold": True},
    "ann": {"model_type": "ann"},
    "snn-textcnn": {"model_type": "snn-textcnn", "channels": 5},
    "snn-textcnn ternary, leaky, one width": {
        "model_type": "snn-textcnn",
        "spikes": "ternary",
        "leak": 0.9,
        "kernel_sizes": [2],
        "learn_v_threshold": True,
    },
}
IDS = torch.randint(1, 30, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 7 + [0] * 2])


def make(kind: str, seed: int = 0, **values: Any) -> Student:
    options = TINY | KINDS[kind] | values
    network = STUDENTS[options.pop("model_type")]
    options = {name: value for name, value in options.items() if name not in network.config_class.lacks}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        student = network(network.config_class(**options))
        with torch.no_grad():
            for parameter in student.parameters():  # biases and norms too: no ties at the thresholds
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    return student.eval()


each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_student_interpreter_emulator_and_nir_file_agree(kind: str, tmp_path: Path) -> None:
    student = make(kind)
    graph = student.to_graph()
    inputs = random_inputs(graph, 6)
    write_nir(graph, tmp_path / "model.nir")
    assert read_nir(tmp_path / "model.nir") == graph
    wrapped = TorchExecutor(student)
    for other in (Interpreter(graph), Emulator(graph)):
        result = compare(wrapped, other, inputs, rounding=1e-9)
        assert result.problems == []
        assert result.predictions_agreeing == result.inputs == 6
        assert list(result.layers) == list(student.neuron_layers)
        assert result.max_logit_difference < 1e-9
        if kind != "ann":
            assert any(0 < layer.spikes_a < layer.compared for layer in result.layers.values())


@each_kind
def test_the_fast_path_is_the_student_step_by_step(kind: str) -> None:
    """Logits and rates of `forward`, spike for spike, against one sentence at a time through the schedule."""
    student = make(kind).double()
    with torch.inference_mode():
        output = student(IDS, MASK, output_spike_counts=True)
    batch = TorchExecutor(student).run(IDS.numpy(), MASK.numpy(), record=True)
    for i in range(len(IDS)):
        run = batch.one(i)
        np.testing.assert_allclose(run.logits, output.logits[i].numpy(), rtol=0, atol=1e-12)
        for name, rate in output.rates.items():
            np.testing.assert_array_equal(run.rates[name], rate[i].numpy(), err_msg=name)
            np.testing.assert_array_equal(abs(run.spikes[name]).sum(0), output.spike_counts[name][i].numpy())


@each_kind
def test_one_layer_is_the_same_on_lava(kind: str) -> None:
    if problem := compatibility.installation_problem():
        pytest.skip(problem)
    jobs, expected = [], []
    for seed in range(2):
        graph = make(kind, seed, num_hidden_layers=1, time_steps=1 if kind == "ann" else 3).to_graph()
        batch = {"input_ids": IDS[:2].numpy(), "attention_mask": MASK[:2].numpy()}
        fixed = lower(graph, Emulator(graph).run(**batch, observe=True).largest)
        for network in (graph, fixed):
            inputs = entering(network, batch["input_ids"], batch["attention_mask"], None, {})
            jobs.append(Job(network, inputs, tuple(network.nodes), "error"))
            expected.append(Emulator(network).run(**batch, record=True))
            assert kind == "ann" or sum(int(abs(s).sum()) for s in expected[-1].spikes.values()) > 0
    for job, lava, emulated in zip(jobs, run_jobs(jobs, 120), expected, strict=True):
        tolerance = 0 if job.graph.fixed_point else 1e-9
        np.testing.assert_allclose(lava.logits, emulated.logits, rtol=0, atol=tolerance)
        for name, spikes in lava.spikes.items():
            np.testing.assert_array_equal(spikes, emulated.spikes[name], err_msg=name)
        for name, u in lava.potentials.items():
            np.testing.assert_allclose(u, emulated.potentials[name], rtol=0, atol=tolerance, err_msg=name)


@each_kind
def test_three_counts_agree(kind: str) -> None:
    student = make(kind).double()
    activity = Activity(student.config.time_steps, student.config.time_steps * student.sweeps)
    with torch.inference_mode():
        output = student(IDS, MASK, output_rates=False, output_spike_counts=True)
    _add(activity, output, MASK, per_neuron=True)
    graph = student.to_graph()
    inputs = [{"input_ids": i, "attention_mask": m} for i, m in zip(IDS.numpy(), MASK.numpy(), strict=True)]
    seen, events = measure(graph, inputs)
    assert measure(graph, inputs, Emulator(graph)) == (seen, events)
    assert events_of_activity(graph, activity) == events
    assert count(graph, activity, events_of_activity(graph, activity)).nodes == count(graph, seen, events).nodes


@each_kind
def test_padding_changes_nothing(kind: str) -> None:
    student = make(kind).double()
    with torch.inference_mode():
        short = student(IDS[1:2, :6], MASK[1:2, :6])
        long = student(IDS[1:2], MASK[1:2])
        other = student(torch.where(MASK[1:2] == 1, IDS[1:2], 7), MASK[1:2])
    assert torch.allclose(short.logits, long.logits, atol=1e-12)
    assert torch.allclose(other.logits, long.logits, atol=1e-12)
    for name, rate in short.rates.items():
        assert torch.equal(rate, long.rates[name][:, :6]), name


@each_kind
def test_the_order_of_words_matters(kind: str) -> None:
    """But not where there are no positions, as in the paper of SpikeBERT."""
    student = make(kind).double()
    with torch.inference_mode():
        forwards, backwards = (student(ids, torch.ones_like(ids)).logits for ids in (IDS, IDS.flip(1)))
    blind = getattr(student.config, "positions", "learned") == "none"
    assert torch.allclose(forwards, backwards, atol=1e-9) == blind


@each_kind
def test_every_weight_learns(kind: str) -> None:
    student = make(kind).train()
    output = student(IDS, MASK, labels=torch.tensor([0, 1, 1]))
    output.loss.backward()
    still = [n for n, p in student.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert still == []


@each_kind
def test_evaluation_leaves_a_student_in_the_mode_it_was_in(kind: str) -> None:
    student = make(kind).train()
    TorchExecutor(student).run(IDS[:1].numpy())
    assert student.training


@pytest.mark.parametrize("kind", ["spikebert", "snn-textcnn"])
def test_a_batch_worked_off_in_parts_is_the_same_batch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, gradients = [], []
    for at_once in (unrolled.AT_ONCE, 1):  # all texts, one text at a time
        monkeypatch.setattr(unrolled, "AT_ONCE", at_once)
        student = make(kind, time_steps=6).double().train()
        output = student(IDS, MASK, labels=torch.tensor([0, 1, 1]), output_spike_counts=True)
        (output.loss + sum(x.mean() for x in (*output.hidden, *output.rates.values()))).backward()
        gradients.append([p.grad for p in student.parameters() if p.requires_grad])
        outputs.append([output.logits, *output.hidden, *output.rates.values(), *output.spike_counts.values()])
        with torch.inference_mode():
            assert torch.allclose(student.eval()(IDS, MASK).logits, output.logits, atol=1e-12)
    for a, b in (*zip(*outputs, strict=True), *zip(*gradients, strict=True)):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_checkpointed_blocks_give_the_same_gradients() -> None:
    gradients = []
    for checkpointed in (False, True):
        student = make("spikebert").train()
        if checkpointed:
            student.gradient_checkpointing_enable()
        student(IDS, MASK, labels=torch.tensor([0, 1, 1])).loss.backward()
        gradients.append([p.grad for p in student.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "both"}, "schedule is 'both': choose one of phased, concurrent"),
        ({"spikes": "graded"}, "schedule is concurrent: only phased windows can be sent as graded messages"),
        ({"attention_v_threshold": 0}, "attention_v_threshold is 0: it must be a positive number"),
        (
            {"attention_norm": True, "attention_softmax": True},
            "attention_norm and attention_softmax: .*; choose one of them",
        ),
        ({"positions": "sine"}, "positions is 'sine': choose one of learned, none"),
        ({"leak": 1.5}, "leak is 1.5: it must be in"),
    ],
)
def test_what_no_spikebert_can_be_built_from(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("spikebert", **values)


def test_schedules_are_not_compared_where_a_student_runs_in_one() -> None:
    with pytest.raises(ConfigError, match="spikebert is trained through time: there is no steady state"):
        check_convergent(make("spikebert"))
    with pytest.raises(ConfigError, match="spikebert: only students spikingbert run in both schedules"):
        check_convergent(make("spikebert", schedule="phased", leak=1.0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedule": "phased"}, "schedule is 'phased': choose one of concurrent"),
        ({"kernel_sizes": [3, 0]}, "kernel_sizes are 3,0: give different numbers of at least 1"),
        ({"kernel_sizes": [3, 4, 3]}, "kernel_sizes are 3,4,3"),
        ({"kernel_sizes": []}, "kernel_sizes are missing"),
        ({"channels": 0}, "channels is 0: it must be at least 1"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2: a snn-textcnn student has none"),
    ],
)
def test_what_no_textcnn_can_be_built_from(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextCnnForSequenceClassification(TextCnnConfig(**values))


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
def test_the_embedding_of_a_textcnn_uses_the_rates_there_are(spikes: str) -> None:
    """Whatever the scale of a teacher's LayerNorm: 3 deviations are half the rates, or those of one sign."""
    torch.manual_seed(1)
    student = make("snn-textcnn", spikes=spikes, v_threshold=2.0, hidden_size=64).double()
    teacher = BertEmbeddings(student.config).double()
    torch.nn.init.normal_(teacher.LayerNorm.weight, 0.3, 0.1)
    torch.nn.init.normal_(teacher.LayerNorm.bias, 0.2, 0.1)
    student.copy_embeddings(teacher)
    with torch.inference_mode():
        rates = student.embeddings(torch.arange(1, 30)[:, None].expand(-1, 2)) / 2.0
        other = student.embeddings(torch.arange(1, 30)[:, None].flip(1))
    binary = spikes == "binary"
    assert torch.equal(rates[:, 0] * 2, other[:, 0]) and torch.equal(rates[:, 0], rates[:, 1])  # no positions
    assert rates.mean() == pytest.approx(0.5 if binary else 0.0, abs=0.02)
    assert rates.std() == pytest.approx(1 / 6 if binary else 1 / 3, rel=0.05)


def test_a_textcnn_by_hand() -> None:
    """One neuron for an embedding of rate 1/2 or 1, kernels of 1 and 2 tokens, 4 steps; the third token is padding."""
    options = {"hidden_size": 1, "channels": 1, "kernel_sizes": [1, 2], "time_steps": 4}
    student = make("snn-textcnn", **options).double()
    one, two = student.convolutions
    with torch.no_grad():
        student.embeddings.LayerNorm.weight.zero_()
        student.embeddings.LayerNorm.bias.fill_(0.5)
        for tensor, value in ((one.weight, 0.5), (one.bias, 0.25), (two.weight, 0.25), (two.bias, 0.0)):
            tensor.fill_(value)
        student.classifier.weight.copy_(torch.eye(2))
        student.classifier.bias.zero_()
        output = student(IDS[:1, :3], torch.tensor([[1, 1, 0]]), output_spike_counts=True)
    # Spikes 0 1 0 1. Kernel 1: currents .25 .75 .25 .75, potentials .25 1 .25 1. Kernel 2: 0 .5 0 .5 for the first
    # token, which reads the second, too: 0 .5 .5 1; 0 .25 0 .25 for the second, whose neighbour is padding.
    assert output.spike_counts["embedding"][0, :2].tolist() == [[2], [2]]
    assert output.spike_counts["convolution.1"][0, :2].tolist() == [[2], [2]]
    assert output.spike_counts["convolution.2"][0, :2].tolist() == [[1], [0]]
    assert output.logits.tolist() == [[2 / 4, (1 / 4 + 0) / 2]]


@pytest.mark.parametrize("softmax", [False, True])
def test_a_graded_spikebert_is_the_ternary_one_and_its_graph(softmax: bool) -> None:
    ternary, graded = (
        make("spikebert phased", spikes=spikes, v_init=0.0, attention_softmax=softmax, attention_v_threshold=0.47)
        for spikes in ("ternary", "graded")
    )
    output = graded(IDS, MASK, output_spike_counts=True)
    assert torch.equal(ternary(IDS, MASK).logits, output.logits)
    graph = graded.to_graph()
    result = compare(TorchExecutor(graded), Interpreter(graph), random_inputs(graph, 6), rounding=1e-9)
    assert graph.time_steps == 1 and result.problems == [] and result.max_logit_difference < 1e-9
    assert all(0 < sent.mean() < 1 for sent in output.spike_counts.values())


@pytest.mark.parametrize("attention", ["sum", "norm", "softmax"])
def test_only_sums_of_attention_grow_with_the_text(attention: str) -> None:
    """Every token twice, without positions: the sums over tokens double, and nothing else changes."""
    form = {"attention_norm": attention == "norm", "attention_softmax": attention == "softmax"}
    student = make("spikebert", positions="none", max_position_embeddings=18, attention_v_threshold=0.97, **form)
    student = student.double()
    for module in student.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 0.0
    with torch.no_grad():
        once, twice = student(IDS[:1]).rates, student(IDS[:1].repeat(1, 2)).rates
    grows = twice["encoder.0.attention"][:, :9].mean() - once["encoder.0.attention"].mean()
    if attention != "sum":
        for name, rate in once.items():
            torch.testing.assert_close(twice[name][:, :9], rate, msg=name)
    else:
        assert grows > 0.05


def test_a_softmax_reads_the_token_with_the_most_coincidences() -> None:
    """Where scores are scaled up: two keys and a third, which is padding, share 1, 2 and 3 spikes with the first query;
    the second query has no spikes, and reads the mean."""
    block = make("spikebert softmax", attention_scale=50.0).layers[0]
    query = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]])[None, None]
    key = torch.tensor([[0.0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])[None, None]
    value = torch.eye(3)[None, None]
    read = block._attend(query, key, value, torch.tensor([[1, 1, 0]]))[0, 0]
    torch.testing.assert_close(read[:2], torch.tensor([[0.0, 1, 0], [0.5, 0.5, 0]]))
