"""--compile: when layers are compiled, and that compiled ones send the same spikes and learn the same."""

import functools
import os
import shutil
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from neurotool.errors import ConfigError
from neurotool.student import STUDENTS, SpikingBertForSequenceClassification, Student
from neurotool.train.compilation import PAYS_FROM, check_compilation, fuse_student
from neurotool.train.plan import TrainingPlan

MakeStudent = Callable[..., SpikingBertForSequenceClassification]
MakePlan = Callable[..., TrainingPlan]
IDS = torch.randint(1, 30, (3, 6), generator=torch.Generator().manual_seed(1))
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0]])
TERNARY: dict[str, Any] = {"spikes": "ternary", "learn_v_threshold": True, "v_threshold": 1.5}
KINDS: dict[str, dict[str, Any]] = {
    "binary": {"v_init": 0.5},
    "ternary": TERNARY,
    "per channel, T = 6": TERNARY | {"v_threshold_per_channel": True, "time_steps": 6},
}
COMPILER = shutil.which(os.environ.get("CXX", "g++"))


@pytest.fixture
def without_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are traced forward and backward, and run as they were traced."""
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def outcome(student: SpikingBertForSequenceClassification, **options: Any) -> dict[str, Tensor]:
    """Everything the losses read, and the gradients of one that reads it all."""
    student.zero_grad()
    output = student.train()(IDS, MASK, output_attention=True, **options)
    messages = output.messages or {}
    loss = output.logits.square().sum() + sum(x.square().sum() for read in output.attention for x in read)
    loss = loss + sum(rate.square().sum() for rate in output.rates.values()) + sum(m.sum() for m in messages.values())
    loss.backward()
    found = {f"rate {name}": rate.detach() for name, rate in output.rates.items()}
    found |= {f"messages {name}": sent.detach() for name, sent in messages.items()}
    found |= {f"hidden {i}": hidden.detach() for i, hidden in enumerate(output.hidden)}
    found |= {f"gradient {name}": p.grad for name, p in student.named_parameters() if p.grad is not None}
    return found | {"logits": output.logits.detach()}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys() and len(ours) > 30
    for name, value in ours.items():
        if name.startswith(("rate", "hidden")):
            assert torch.equal(value, theirs[name]), name
        else:
            torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-9, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_traced_layers_are_the_same(kind: str, make_student: MakeStudent, without_compiler: None) -> None:
    student = make_student(**KINDS[kind]).double()
    eager = outcome(student, output_messages=True)
    student.fuse()
    assert_same(outcome(student, output_messages=True), eager)


OTHERS: dict[str, dict[str, Any]] = {
    "ann": {"model_type": "ann"},
    "spikebert": {"model_type": "spikebert", "v_threshold": 0.9},
    "spikebert ternary, normed": {
        "model_type": "spikebert",
        "spikes": "ternary",
        "learn_v_threshold": True,
        "attention_norm": True,
    },
    "spikebert softmax": {"model_type": "spikebert", "attention_softmax": True},
}


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Student:
    """A student of OTHERS, in float64."""
    values = dict(OTHERS[request.param])
    kind = STUDENTS[values.pop("model_type")]
    torch.manual_seed(4)
    shape = {"vocab_size": 30, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return kind(kind.config_class(**shape, **values, num_hidden_layers=3, num_labels=2)).double()


def all_of(student: Student) -> dict[str, Tensor]:
    """Rates and gradients of a loss that reads all that the losses read."""
    student.zero_grad()
    output = student.train()(IDS, MASK, output_attention=True)
    read = [x for attention in output.attention or () for x in attention]
    sum(x.square().sum() for x in (output.logits, *output.hidden, *output.rates.values(), *read)).backward()
    found = {f"rate {name}": rate.detach() for name, rate in output.rates.items()}
    found |= {f"gradient {name}": p.grad for name, p in student.named_parameters() if p.grad is not None}
    return found | {"logits": output.logits.detach()}


@pytest.mark.parametrize("other", OTHERS, indirect=True)
def test_traced_layers_of_other_students_are_the_same(other: Student, without_compiler: None) -> None:
    eager = all_of(other)
    other.fuse()
    assert_same(all_of(other), eager)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("other", OTHERS, indirect=True)
def test_compiled_layers_of_other_students_are_the_same(other: Student) -> None:
    torch.compiler.reset()
    eager = all_of(other)
    other.fuse()
    assert_same(all_of(other), eager)


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
@pytest.mark.parametrize("kind", KINDS)
def test_compiled_layers_are_the_same(kind: str, make_student: MakeStudent) -> None:
    torch.compiler.reset()
    student = make_student(**KINDS[kind]).double()
    eager = outcome(student)
    student.fuse()
    assert_same(outcome(student), eager)
    with torch.autocast("cpu", torch.bfloat16):
        counts = student.float()(IDS, MASK).rates["encoder.0.output"].float() * student.config.time_steps
    assert (counts - counts.round()).abs().max() < 1e-5 and counts.unique().numel() > 3


def test_layers_run_as_they_are_where_spikes_are_counted(make_student: MakeStudent) -> None:
    student = make_student()

    def refuse(*_: Any) -> None:
        raise AssertionError("compiled")

    student.fused = refuse
    assert student(IDS, MASK, output_spike_counts=True).spike_counts
    assert student(IDS, MASK, time_steps=2).logits.isfinite().all()
    with pytest.raises(AssertionError, match="compiled"):
        student(IDS, MASK)


# --- what --compile asks for -----------------------------------------------------------------------------------------


def fused(plan: TrainingPlan, student: SpikingBertForSequenceClassification, steps: int) -> tuple[bool, str]:
    said = StringIO()
    fuse_student(plan, student, steps, Console(file=said))
    return student.fused is not None, said.getvalue()


@pytest.mark.parametrize(
    ("choice", "steps", "processor", "compiled"),
    [
        ("auto", PAYS_FROM - 1, "AVX512", False),
        ("auto", PAYS_FROM, "AVX512", True),
        ("auto", PAYS_FROM, "AVX2", False),
        ("on", 1, "AVX2", True),
        ("off", 10 * PAYS_FROM, "AVX512", False),
    ],
)
def test_when_layers_are_compiled(
    make_plan: MakePlan,
    make_student: MakeStudent,
    without_compiler: None,
    monkeypatch: pytest.MonkeyPatch,
    choice: str,
    steps: int,
    processor: str,
    compiled: bool,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    student = make_student(seed=2, dropout=0.1, hidden_dropout_prob=0.1)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    assert fused(make_plan("--compile", choice), student, steps)[0] == compiled
    assert not student.training and all(p.grad is None for p in student.parameters())
    assert torch.equal(state, torch.get_rng_state()), "the trial step draws from the run's random numbers"
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_students_that_cannot_be_compiled(make_plan: MakePlan, make_student: MakeStudent) -> None:
    concurrent = make_student(schedule="concurrent")
    assert fused(make_plan("--compile", "auto"), concurrent, PAYS_FROM) == (False, "")
    for options, message in (
        (("--schedule", "concurrent"), "--compile on, --schedule concurrent: only phased windows can be compiled"),
        (("--feedback",), "--compile on, --feedback: a spikingbert student's layers cannot"),
        (("--leak", "0.5"), "--compile on, --leak 0.5, --reset soft: only windows of leak 1 and soft reset can"),
        (
            ("--student", "spikebert", "--schedule", "phased"),
            "--compile on, --schedule phased: a spikebert student's layers are compiled in the concurrent one only",
        ),
        (("--student", "snn-textcnn"), "--compile on: a snn-textcnn student's layers cannot be compiled; leave it out"),
    ):
        plan = make_plan(*options, "--compile", "on")
        layers = {"num_hidden_layers": 0} if plan.model_type == "snn-textcnn" else {}
        with pytest.raises(ConfigError, match=message):
            check_compilation(plan, STUDENTS[plan.model_type].config_class(**plan.student | layers))


def test_without_a_compiler_layers_run_as_they_are(
    make_plan: MakePlan, make_student: MakeStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        def run(*_: Any) -> None:
            raise RuntimeError("no\ncompiler")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    student = make_student()
    compiled, said = fused(make_plan("--compile", "auto"), student, PAYS_FROM)
    assert not compiled and "torch cannot compile here, so the layers run as they are: no compiler" in said
    assert student(IDS, MASK).logits.isfinite().all()
    with pytest.raises(ConfigError, match=r"--compile on: torch cannot compile here \(no compiler\); use --compile"):
        fused(make_plan("--compile", "on"), student, 1)
