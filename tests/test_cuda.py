"""What must hold on a GPU as on the CPU. benchmarks/gpu.sh runs these; elsewhere they are skipped where torch finds no
GPU. With NEUROTOOL_TEST_DEVICE=cpu they compare the CPU with itself, which tries the tests and no more."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch.nn import functional as F
from transformers import Trainer

from neurotool.checkpoint import read_checkpoint
from neurotool.evaluation import evaluate
from neurotool.student import STUDENTS, Student
from neurotool.student.serialise import load_student
from neurotool.tasks import load_data, tokenise
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan

pytestmark = pytest.mark.cuda

MakePlan = Callable[..., TrainingPlan]
Record = Callable[[str, Any], None]
QUIET = Console(quiet=True)
TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,
}
# Thresholds that no sum meets exactly: on a tie the last digit decides, and that is another on each device.
KINDS: dict[str, dict[str, Any]] = {
    "phased": {"v_init": 0.5, "v_threshold": 0.9},
    "ternary": {"spikes": "ternary", "learn_v_threshold": True, "v_threshold": 1.5},
    "concurrent": {"schedule": "concurrent", "leak": 0.9},
    "feedback": {"feedback": True, "v_threshold": 0.9, "v_init": 0.25},
    "spikebert": {"model_type": "spikebert"},
    "spikebert softmax": {"model_type": "spikebert", "attention_softmax": True, "attention_v_threshold": 0.47},
    "spikebert phased": {
        "model_type": "spikebert",
        "schedule": "phased",
        "leak": 1.0,
        "spikes": "ternary",
        "attention_softmax": True,
        "attention_v_threshold": 0.47,
    },
    "snn-textcnn": {"model_type": "snn-textcnn", "time_steps": 6},
}


@pytest.fixture(scope="module")
def device() -> torch.device:
    kind = os.environ.get("NEUROTOOL_TEST_DEVICE", "cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch finds no GPU here")
    return torch.device(kind)


def make(kind: str, dtype: torch.dtype = torch.float64, **values: Any) -> Student:
    options = TINY | {"num_hidden_layers": 3} | KINDS[kind] | values
    network = STUDENTS[options.pop("model_type", "spikingbert")]
    options = {name: value for name, value in options.items() if name not in network.config_class.lacks}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        student = network(network.config_class(**options))
        feedback = getattr(student, "feedback", None)
        if feedback is not None:
            torch.nn.init.normal_(feedback.weight, std=0.02)
    return student.to(dtype).eval()


def make_batch(device: torch.device, seed: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.ones(16, 24, dtype=torch.long)
    mask[::2, 15:] = 0
    ids = torch.randint(1, 300, mask.shape, generator=generator)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def rates_of(student: Student, device: torch.device) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        output = student.to(device)(**make_batch(device))
    return {name: rate.cpu() for name, rate in output.rates.items()} | {"logits": output.logits.cpu()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_spikes_are_those_of_the_cpu(kind: str, device: torch.device, record_property: Record) -> None:
    """In float64 all of them. In float32 rounding moves some, and one that moves in an early layer moves others: how
    many is reported."""
    ours, theirs = (rates_of(make(kind), where) for where in (device, torch.device("cpu")))
    assert ours.keys() == theirs.keys() and len(ours) > 1
    logits, reference = ours.pop("logits"), theirs.pop("logits")
    assert torch.allclose(logits, reference, rtol=1e-9, atol=1e-9)
    for name, rate in ours.items():
        assert (rate != 0).any(), name
        # The ASR of a leaky neuron is a weighted mean, whose sum is rounded.
        assert torch.equal(rate, theirs[name]) or torch.allclose(rate, theirs[name], rtol=0, atol=1e-12), name
    ours, theirs = (rates_of(make(kind, torch.float32), where) for where in (device, torch.device("cpu")))
    different = sum(int((rate - theirs[name]).abs().gt(1e-5).sum()) for name, rate in ours.items() if name != "logits")
    record_property("float32_rates_that_differ", f"{different} of {sum(rate.numel() for rate in ours.values())}")


@pytest.mark.parametrize("kind", ["phased", "ternary", "feedback", "spikebert"])
def test_the_gradients_are_those_of_the_cpu(kind: str, device: torch.device) -> None:
    """With feedback it is the implicit gradient, found by the solver."""
    found = []
    for where in (device, torch.device("cpu")):
        student = make(kind).to(where)
        labels = torch.arange(16, device=where) % 2
        F.cross_entropy(student(**make_batch(where)).logits, labels).backward()
        found.append({name: p.grad.cpu() for name, p in student.named_parameters() if p.grad is not None})
    ours, theirs = found
    assert ours.keys() == theirs.keys() and any(gradient.any() for gradient in ours.values())
    for name, gradient in ours.items():
        scale = float(theirs[name].abs().max())
        # Anderson's steps depend on rounding; its tolerance is 1e-4.
        assert (gradient - theirs[name]).abs().max() <= (1e-3 if kind == "feedback" else 1e-9) * max(scale, 1e-6), name


@pytest.mark.parametrize("values", [{"schedule": "concurrent"}, {"feedback": True}])
def test_all_passes_share_their_dropout(values: dict[str, Any], device: torch.device) -> None:
    """The random numbers of the device are rewound."""
    student = make("phased", torch.float32, **values, hidden_dropout_prob=0.5, num_hidden_layers=1).to(device).train()
    masks = []
    for module in student.layers.modules():
        if isinstance(module, torch.nn.Dropout):
            module.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]),))
            module.register_forward_hook(lambda _, __, output: masks.append(output.detach().clone()))
    student(**make_batch(device))
    assert len(masks) > 4 and masks[0].unique().tolist() == [0.0, 2.0]
    for place in (masks[::2], masks[1::2]):
        assert all(torch.equal(mask, place[0]) for mask in place)


def test_bfloat16_autocast(device: torch.device) -> None:
    """Rates are still multiples of 1/T, and gradients are finite."""
    student = make("ternary", torch.float32).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        output = student(**make_batch(device), labels=torch.arange(16, device=device) % 2)
    counts = torch.cat([rate.float().flatten() for rate in output.rates.values()]) * student.config.time_steps
    assert torch.equal(counts, counts.round()) and counts.unique().numel() > 4
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


def test_compiled_layers_send_the_same_spikes(device: torch.device, record_property: Record) -> None:
    """All in float64; reported in float32."""
    for dtype in (torch.float64, torch.float32):
        student = make("ternary", dtype)
        eager = rates_of(student, device)
        student.fuse()
        compiled = rates_of(student, device)
        different = sum(int((eager[name] != compiled[name]).sum()) for name in eager if name != "logits")
        record_property(f"different_in_{str(dtype).removeprefix('torch.')}", different)
        if dtype == torch.float64:
            assert different == 0
    assert different < 1e-3 * sum(rate.numel() for rate in eager.values())


@pytest.mark.parametrize("precision", [(), ("--bf16",)], ids=["float32", "bfloat16"])
def test_a_student_trained_on_the_gpu_is_used_on_the_cpu(
    make_plan: MakePlan, tiny_data: Callable[[str], Path], device: torch.device, precision: tuple[str, ...]
) -> None:
    result = train(make_plan("--epochs", "8", "-T", "8", *precision), QUIET)
    student, tokenizer, task, _ = load_student(result.output)
    assert student.device.type == "cpu"
    validation, _ = tokenise(load_data(tiny_data("classes")).validation, tokenizer, 24)
    again = evaluate(student, validation, tokenizer, task)
    assert again.metrics["accuracy"] == pytest.approx(result.student.metrics["accuracy"], abs=0.05)
    assert again.metrics["accuracy"] >= 0.75


def test_a_run_that_was_stopped_goes_on(
    make_plan: MakePlan, device: torch.device, monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    options = ("--dropout", "0.2", "--epochs", "2")
    whole = train(make_plan(*options, output="whole.ckpt"), QUIET)
    training_step = Trainer.training_step

    def hit(self: Trainer, *arguments: Any) -> Any:
        if Path(self.args.output_dir).name == "prediction" and self.state.global_step == 9:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", hit)
        with pytest.raises(KeyboardInterrupt):
            train(make_plan(*options), QUIET)
    resumed = train(make_plan(*options, "--resume"), QUIET)
    ours, theirs = (read_checkpoint(result.output).tensors for result in (resumed, whole))
    largest = max(float(abs(ours[name] - theirs[name]).max()) for name in theirs)
    record_property("largest_difference_of_weights", largest)
    assert largest < 1e-2  # sums over a GPU's threads have no fixed order
