"""The streaming student: torch, interpreter, emulator and NIR file are one network; token by token it is the batch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings

from neurotool.activity import Activity
from neurotool.energy.counts import count, events_of_activity
from neurotool.energy.measure import measure
from neurotool.errors import ConfigError, DataError
from neurotool.evaluation import _add
from neurotool.export.nir import read_nir, write_nir
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import Interpreter
from neurotool.streams import INPUT, Streamed, per_token
from neurotool.student import StreamingConfig, StreamingForSequenceClassification
from neurotool.student.dynamics import Decay
from neurotool.student.tracing import StreamExecutor
from neurotool.validate import compare

TINY: dict[str, Any] = {
    "vocab_size": 30,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 16,
    "initializer_range": 0.4,
}
KINDS: dict[str, dict[str, Any]] = {
    "hard": {},
    "soft, two steps a token": {"reset": "soft", "time_steps": 2},
    "late": {"lookahead": 2},
    "taps, two steps a token": {"taps": 2, "time_steps": 2},
}
IDS = torch.randint(1, 30, (3, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 7 + [0] * 2])
each_kind = pytest.mark.parametrize("kind", KINDS)


def make(kind: str = "hard", finished: bool = True, **values: Any) -> StreamingForSequenceClassification:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = StreamingForSequenceClassification(StreamingConfig(**TINY | KINDS[kind] | values))
        with torch.no_grad():
            for parameter in student.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            student.train()(IDS, MASK)  # statistics of the norms
    if finished:
        student.finish()
    return student.eval()


def texts(student: StreamingForSequenceClassification) -> list[dict[str, Any]]:
    rows = [
        {"input_ids": ids.numpy(), "token_type_ids": np.zeros(9, int), "attention_mask": mask.numpy()}
        for ids, mask in zip(IDS, MASK, strict=True)
    ]
    return student.entering(rows)


@each_kind
def test_torch_interpreter_emulator_and_nir_file_are_one_network(kind: str, tmp_path: Path) -> None:
    student = make(kind)
    graph = student.to_graph()
    write_nir(graph, tmp_path / "model.nir")
    assert read_nir(tmp_path / "model.nir") == graph
    torch_runs = StreamExecutor(student)
    ours = Streamed(graph, lambda _: torch_runs)
    for other in (Streamed(graph, Interpreter), Streamed(graph, Emulator)):
        result = compare(ours, other, texts(student), at_once=3)
        assert result.problems == []
        assert result.predictions_agreeing == result.inputs == 3
        assert list(result.layers) == list(student.neuron_layers)
        assert all(0 < layer.spikes_a < layer.compared for layer in result.layers.values())


@each_kind
def test_whole_texts_are_the_network_step_by_step(kind: str) -> None:
    """Logits, rates and counts of `forward`, which reads a batch with padding, against the executor's."""
    student = make(kind).double()
    with torch.inference_mode():
        output = student(IDS, MASK, output_spike_counts=True)
    graph = student.to_graph()
    executor = StreamExecutor(student)
    run = Streamed(graph, lambda _: executor).run(
        values={INPUT: np.stack([one["values"][INPUT] for one in texts(student)])},
        attention_mask=np.stack([one["attention_mask"] for one in texts(student)]),
        record=True,
    )
    np.testing.assert_allclose(run.logits, output.logits.numpy(), rtol=0, atol=1e-12)
    for name, spikes in run.spikes.items():
        assert spikes.sum() == output.spike_counts[name].sum() > 0, name


@each_kind
def test_token_by_token_is_the_whole_text(kind: str) -> None:
    student = make(kind).double()
    with torch.inference_mode():
        answers, state = [], None
        for token in IDS.T:
            logits, state = student.step(token, state)
            answers.append(logits)
        for _ in range(student.config.lookahead):
            logits, state = student.step_current(torch.zeros(3, 16, dtype=torch.float64), state)
            answers.append(logits)
        for n in (1, 4, 9):  # the answer to a prefix is that to a text that ends there
            whole = student(IDS[:, :n]).logits
            if not student.config.lookahead or n == 9:
                torch.testing.assert_close(answers[n - 1 + student.config.lookahead], whole, rtol=0, atol=1e-12)


@each_kind
def test_a_texts_answers_are_those_of_its_prefixes(kind: str) -> None:
    """With a lookahead an answer knows the tokens behind its own, where the text goes on."""
    student = make(kind).double()
    late = student.config.lookahead
    with torch.inference_mode():
        output = student(IDS, MASK)
        state, stepped = None, []
        for token in IDS.T:
            logits, state = student.step(token, state)
            stepped.append(logits)
    assert output.answers.shape == (3, 9, student.config.num_labels)
    assert torch.equal(output.hidden[0], output.rates["embedding"][:, late:])  # what a teacher's states are held to
    torch.testing.assert_close(output.answers[0, : 9 - late], torch.stack(stepped)[late:, 0], rtol=0, atol=1e-12)
    for row, length in enumerate(MASK.sum(1)):
        torch.testing.assert_close(output.answers[row, length - 1], output.logits[row], rtol=0, atol=0)


def test_a_narrower_student_has_the_main_directions_of_the_teachers_words() -> None:
    """Words that are alike to the teacher are alike to it; each channel differs by about a threshold between words."""
    student = make()
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        teacher = BertEmbeddings(BertConfig(**TINY | {"hidden_size": 32}))
        teacher.word_embeddings.weight.copy_(torch.randn(30, 12) @ torch.randn(12, 32))
        student.copy_embeddings(teacher)
        words, types = teacher.word_embeddings.weight, teacher.token_type_embeddings.weight[0]
        theirs = torch.corrcoef(teacher.LayerNorm(words + types)).flatten()
        ours = student.embed(torch.arange(30)[None])[0]
    assert torch.corrcoef(torch.stack([theirs, torch.corrcoef(ours).flatten()]))[0, 1] > 0.8
    torch.testing.assert_close(ours.std(0), torch.ones(16))
    torch.testing.assert_close(ours.mean(0), torch.zeros(16), rtol=0, atol=1e-5)


def test_norms_become_weights() -> None:
    student = make(finished=False)
    with torch.inference_mode():
        before = student(IDS, MASK, output_spike_counts=True)
        graph = student.to_graph()
        student.finish()
        after = student(IDS, MASK, output_spike_counts=True)
    assert not any(isinstance(module, torch.nn.BatchNorm1d) for module in student.modules())
    assert graph == student.to_graph()
    torch.testing.assert_close(before.logits, after.logits, rtol=1e-5, atol=1e-5)


def test_padding_changes_nothing_and_every_weight_learns() -> None:
    student = make(finished=False).train()
    torch.testing.assert_close(make()(IDS, MASK).logits[1:2], make()(IDS[1:2, :6]).logits)
    student(IDS, MASK, labels=torch.tensor([0, 1, 1])).loss.backward()
    silent = [name for name, p in student.named_parameters() if p.requires_grad and not p.grad.abs().sum() > 0]
    assert silent == []


@each_kind
def test_operations_are_those_of_tokens_side_by_side(kind: str) -> None:
    """What torch counts of whole texts, and the interpreter of every step."""
    student = make(kind)
    graph = per_token(student.to_graph())
    steps = student.config.time_steps
    activity = Activity(steps, steps)
    with torch.inference_mode():
        _add(activity, student(IDS, MASK, output_spike_counts=True), student.lasting(MASK), per_neuron=False)
    fast = count(graph, activity, events_of_activity(graph, activity))
    activity_of_steps, events = measure(student.to_graph(), texts(student))
    slow = count(graph, activity_of_steps, events)
    if student.config.taps:  # what the last tokens send reaches no tap before the end, and is counted as if it did
        assert slow.synaptic_operations < fast.synaptic_operations < 1.2 * slow.synaptic_operations
        assert fast.total().updates == slow.total().updates
    else:
        assert fast.total() == slow.total()
    assert fast.activity.tokens == MASK.sum() + 3 * student.config.lookahead


def test_a_mask_with_holes_and_a_text_too_long_are_refused() -> None:
    student = make()
    executor = Streamed(student.to_graph(), Interpreter)
    with pytest.raises(DataError, match="from the first step of a text"):
        executor.run(values={INPUT: np.zeros((1, 3, 16))}, attention_mask=np.array([[1, 0, 1]]))
    with pytest.raises(DataError, match="17 steps: the network runs for 1 … 16"):
        executor.run(values={INPUT: np.zeros((1, 17, 16))})
    for name in ("lookahead", "taps"):
        with pytest.raises(ConfigError, match=f"{name} is -1"):
            make(**{name: -1})


def test_taps_read_single_earlier_tokens() -> None:
    """With all other ways over time cut, the answer to a token is that of it and of the taps before it, by hand."""
    student = make(taps=2, num_hidden_layers=1).double()
    block = student.blocks[0]
    with torch.no_grad():
        for layer in student.modules():
            if isinstance(layer, Decay):
                layer.logit.fill_(-1e4)  # nothing is kept of a step
        output = student(IDS, MASK)
        ours = output.rates["encoder.0.mixing"][0]
        sent = output.rates["embedding"][0]
        maps = [block.mixing.maps[name] for name in ("linear", "tap1", "tap2")]
        by_hand = maps[0](sent) + sum(torch.cat([0 * sent[:n], sent[:-n]]) @ maps[n].weight.T for n in (1, 2))
    assert torch.equal(ours, (by_hand >= 1).double()) and 0 < ours.mean() < 1
