"""A student that starts from another one: what it takes over, what it may change, and who teaches it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer

from neurotool.checkpoint import read_checkpoint, write_checkpoint
from neurotool.errors import ConfigError
from neurotool.student import SpikeBertConfig, SpikeBertForSequenceClassification
from neurotool.student.serialise import load_student
from neurotool.train.chains import StudentTeacher, inherited, start_from
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
IDS = torch.tensor([[2, 7, 9, 4, 3], [2, 8, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def first(tiny_teacher: Path, tiny_data, teacher_cache: Path, tmp_path_factory) -> Path:
    """A ternary student, T = 4, half of whose weights are 0."""
    from neurotool.cli.train import train as command
    from neurotool.train.options import plan_from

    folder = tmp_path_factory.mktemp("chain")
    options = ["--teacher", tiny_teacher, "--data", tiny_data("classes"), "-o", folder / "first.ckpt", "--layers", 2]
    options += ["--epochs", 4, "--batch-size", 16, "--learning-rate", 3e-3, "--teacher-epochs", 12]
    options += ["--teacher-learning-rate", 3e-3, "--spikes", "ternary", "--pooling", "cls", "--prune", 0.5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEUROTOOL_CACHE", str(teacher_cache))
        values = command.make_context("train", list(map(str, options))).params
        del values["as_json"], values["config"]
        train(plan_from(values), QUIET)
    return folder / "first.ckpt"


def test_options_are_those_of_the_other_student(first: Path, make_plan: MakePlan) -> None:
    assert inherited(first)["prune"] == 0.5 and inherited(first)["layers"] == 2
    plan = make_plan("--start-from", str(first), "--weight-bits", "4", "--time-steps", "2", "--v-init", "0")
    assert plan.student["spikes"] == "ternary" and plan.student["pooling"] == "cls"
    assert plan.student["time_steps"] == 2 and plan.student["v_init"] == 0
    assert plan.student["learn_v_threshold"] and "v_threshold_per_channel" not in plan.student
    assert (plan.prune, plan.prune_scope, plan.weight_bits) == (0.5, "layer", 4)


def test_weights_and_thresholds_are_taken_over(first: Path) -> None:
    other = load_student(first)
    config = type(other.model.config)(**other.model.config.to_dict() | {"v_threshold_per_channel": True})
    student = type(other.model)(config).eval()
    start_from(first, student, other.tokenizer)
    assert student.layers[0].key_neurons.log_gain.shape == (32,)
    assert torch.equal(student(IDS, MASK).logits, other.model(IDS, MASK).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spikes": "binary"}, "its spikes is ternary, here binary"),
        ({"hidden_size": 16}, "its hidden_size is 32, here 16"),
        ({"num_hidden_layers": 1}, "its num_hidden_layers is 2, here 1"),
        ({"id2label": {0: "positive", 1: "negative"}}, "its labels are negative, positive, here positive, negative"),
    ],
)
def test_another_kind_of_student_is_refused(first: Path, change: dict, message: str) -> None:
    other = load_student(first)
    student = type(other.model)(type(other.model.config)(**other.model.config.to_dict() | change))
    with pytest.raises(ConfigError, match=message):
        start_from(first, student, other.tokenizer)


def test_the_form_of_the_attention_stays(
    write_untrained: Callable[..., Path], tiny_teacher: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 1}
    config = SpikeBertConfig(vocab_size=len(tokenizer), max_position_embeddings=24, attention_softmax=True, **sizes)
    student = SpikeBertForSequenceClassification(config)
    path = write_untrained(tmp_path / "selective.ckpt", student.eval(), **sizes)
    assert inherited(path)["attention_softmax"] is True
    assert load_student(path).model.layers[0].softmax
    summing = SpikeBertForSequenceClassification(
        SpikeBertConfig(**load_student(path).model.config.to_dict() | {"attention_softmax": False})
    )
    with pytest.raises(ConfigError, match="its attention_softmax is True, here False"):
        start_from(path, summing, tokenizer)


def test_thresholds_of_channels_stay_of_channels(first: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(first)
    loaded = load_student(first)
    config = type(loaded.model.config)(**loaded.model.config.to_dict() | {"v_threshold_per_channel": True})
    student = type(loaded.model)(config)
    start_from(first, student, loaded.tokenizer)
    checkpoint.config["v_threshold_per_channel"] = True
    checkpoint.tensors.update({name: value.numpy() for name, value in student.state_dict().items()})
    write_checkpoint(tmp_path / "channels.ckpt", checkpoint)
    assert inherited(tmp_path / "channels.ckpt")["v_threshold"] == "learned-per-channel"
    with pytest.raises(ConfigError, match="give --v-threshold learned-per-channel"):
        start_from(tmp_path / "channels.ckpt", loaded.model, loaded.tokenizer)


def test_a_student_teaches_what_it_computes(first: Path) -> None:
    teacher = StudentTeacher(first)
    teacher.train()
    batch = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": torch.zeros_like(IDS)}
    taught = teacher(batch, (0, 2), (1, 2))
    output = load_student(first).model(**batch, output_attention=True)
    assert torch.equal(taught.logits, output.logits) and not taught.logits.requires_grad
    layers = load_student(first).model.neuron_layers
    for name, hidden in zip(("embedding", "encoder.1.output"), taught.hidden, strict=True):
        assert torch.equal(hidden, layers[name].v_threshold * output.rates[name])
    for ours, theirs in zip(output.attention, taught.attention, strict=True):
        assert torch.equal(ours.scores, theirs.scores)


def test_a_chain_keeps_its_zeros_and_shortens_its_weights(first: Path, make_plan: MakePlan) -> None:
    result = train(make_plan("--start-from", str(first), "--start-teaches", "--weight-bits", "4"), QUIET)
    before, after = (load_student(path).model for path in (first, result.output))
    for name, weight in after.named_parameters():
        if name.endswith("weight") and ".layers." in f".{name}" and "norm" not in name:
            zero = before.get_parameter(name) == 0
            assert zero.float().mean() >= 0.5 and (weight == 0).float().mean() >= 0.5
    assert result.student.metrics["accuracy"] >= 0.75


def test_who_teaches_must_be_named(make_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match="--start-teaches: there is no --start-from"):
        make_plan("--start-teaches")
