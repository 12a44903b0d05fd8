"""A student that starts from another one: what it takes over, what it may change, and who teaches it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from transformers import AutoTokenizer, Trainer

from neurotool.checkpoint import read_checkpoint, write_checkpoint
from neurotool.errors import CheckpointError, ConfigError
from neurotool.student import SpikeBertConfig, SpikeBertForSequenceClassification
from neurotool.student.serialise import load_student
from neurotool.train.chains import StudentTeacher, check_start, check_tokens, inherited, start_from
from neurotool.train.pipeline import train
from neurotool.train.plan import TrainingPlan
from neurotool.train.starting import check_settings
from neurotool.train.teacher import load_teacher

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
    options += ["--max-length", 60]
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
    assert plan.max_length == 60
    assert make_plan("--start-from", str(first), "--max-length", "20").max_length == 20


def test_weights_and_thresholds_are_taken_over(first: Path) -> None:
    other = load_student(first)
    config = type(other.model.config)(**other.model.config.to_dict() | {"v_threshold_per_channel": True})
    student = type(other.model)(config).eval()
    start_from(other, student)
    assert student.layers[0].key_neurons.log_gain.shape == (32,)
    assert torch.equal(student(IDS, MASK).logits, other.model(IDS, MASK).logits)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spikes": "binary"}, "--spikes binary: .* has ternary, which stays; give --spikes ternary"),
        ({"hidden_size": 16}, "--hidden-size 16: the student of --start-from .* has 32"),
        ({"num_hidden_layers": 1}, "--layers 1: the student of --start-from .* has 2, which stays; give --layers 2"),
        ({"feedback": True}, "--feedback: the student of --start-from .* has none, which stays; leave it out"),
        ({"id2label": {0: "positive", 1: "negative"}}, "its labels are negative, positive, here positive, negative"),
    ],
)
def test_another_kind_of_student_is_refused(first: Path, make_plan: MakePlan, change: dict, message: str) -> None:
    other = load_student(first)
    config = type(other.model.config)(**other.model.config.to_dict() | change)
    with pytest.raises(ConfigError, match=message):
        check_start(make_plan("--start-from", str(first)), other, config)


@pytest.fixture
def selective(write_untrained: Callable[..., Path], tiny_teacher: Path, tmp_path: Path) -> Path:
    """An untrained SpikeBERT with a softmax."""
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "num_hidden_layers": 2}
    words = len(AutoTokenizer.from_pretrained(tiny_teacher))
    config = SpikeBertConfig(vocab_size=words, max_position_embeddings=24, attention_softmax=True, **sizes)
    return write_untrained(tmp_path / "selective.ckpt", SpikeBertForSequenceClassification(config).eval(), **sizes)


def test_the_form_of_the_attention_stays(selective: Path, make_plan: MakePlan) -> None:
    assert inherited(selective)["attention_softmax"] is True
    start = load_student(selective)
    assert start.model.layers[0].softmax
    summing = SpikeBertConfig(**start.model.config.to_dict() | {"attention_softmax": False})
    with pytest.raises(ConfigError, match=r"--attention-softmax False: the student of .* has True, which stays"):
        check_start(make_plan("--start-from", str(selective)), start, summing)


def test_the_kind_of_student_is_that_of_the_start(selective: Path, make_plan: MakePlan) -> None:
    plan = make_plan("--start-from", str(selective))
    check_settings(plan)
    assert plan.model_type == "spikebert" and plan.student["attention_softmax"] is True
    assert make_plan("--start-from", str(selective), "--student", "spikformer").model_type == "spikebert"
    with pytest.raises(ConfigError, match=r"--student ann: --start-from .* is a spikebert, which stays; leave it out"):
        make_plan("--start-from", str(selective), "--student", "ann")


def test_thresholds_of_channels_stay_of_channels(first: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(first)
    loaded = load_student(first)
    config = type(loaded.model.config)(**loaded.model.config.to_dict() | {"v_threshold_per_channel": True})
    student = type(loaded.model)(config)
    start_from(loaded, student)
    checkpoint.config["v_threshold_per_channel"] = True
    checkpoint.tensors.update({name: value.numpy() for name, value in student.state_dict().items()})
    path = tmp_path / "channels.ckpt"
    write_checkpoint(path, checkpoint)
    assert inherited(path)["v_threshold"] == "learned-per-channel"
    with pytest.raises(ConfigError, match=r"--v-threshold: .* one for each channel; give learned-per-channel"):
        check_start(make_plan("--start-from", str(path)), load_student(path), loaded.model.config)


def test_options_that_contradict_the_start(first: Path, make_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match="--init random: the first weights are those of --start-from"):
        make_plan("--start-from", str(first), "--init", "random")
    assert make_plan("--start-from", str(first), "--init", "auto").init == "auto"


def test_zeros_are_made_in_the_way_that_is_given(first: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    """In place of the start's way, which else goes on."""
    plan = make_plan("--start-from", str(first), "--weight-penalty", "0.6")
    assert (plan.prune, plan.weight_penalty) == (None, 0.6)
    checkpoint = read_checkpoint(first)
    checkpoint.training["plan"] |= {"prune": None, "prune_scope": "global", "weight_penalty": 0.6}
    write_checkpoint(tmp_path / "penalised.ckpt", checkpoint)
    start = ("--start-from", str(tmp_path / "penalised.ckpt"))
    plan = make_plan(*start)
    assert (plan.prune, plan.prune_scope, plan.weight_penalty) == (None, "layer", 0.6)
    assert "prune_scope" not in plan.settings, "the run's run.toml is refused"
    plan = make_plan(*start, "--prune", "0.5")
    assert (plan.prune, plan.weight_penalty) == (0.5, None)


def test_a_record_that_is_no_plan(first: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(first)
    checkpoint.training["plan"]["prune"] = "half"
    write_checkpoint(tmp_path / "odd.ckpt", checkpoint)
    with pytest.raises(CheckpointError, match=r"odd.ckpt: its training record is not valid: prune is 'half'"):
        make_plan("--start-from", str(tmp_path / "odd.ckpt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--layers", "1"), "--layers 1: the student of --start-from .* has 2, which stays; give --layers 2"),
        (("--compile", "on", "--leak", "0.5"), "--compile on, --leak 0.5"),
        (
            ("--teacher", "scratch"),
            "its vocabulary of 31 tokens .width 32. is not that of teacher scratch, .* which it",
        ),
    ],
    ids=str,
)
def test_what_cannot_start_is_refused_before_the_teacher_and_leaves_nothing(
    first: Path, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: tuple, message: str
) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("the teacher was fine-tuned first"))
    with pytest.raises(ConfigError, match=message) as caught:
        train(make_plan("--start-from", str(first), *options), QUIET)
    assert len(str(caught.value)) <= 300 + 2 * len(str(first))
    assert [path for path in tmp_path.rglob("*") if "empty" not in path.parts] == []


def test_another_number_of_positions_is_refused(first: Path, make_plan: MakePlan) -> None:
    start, plan = load_student(first), make_plan("--start-from", str(first))
    teacher = load_teacher(plan.teacher, start.task)
    check_tokens(plan, start, teacher)
    teacher.model.config.max_position_embeddings = 12
    with pytest.raises(ConfigError, match="reads up to 24 tokens, the teacher 12; give the teacher it had"):
        check_tokens(plan, start, teacher)


def test_a_student_teaches_what_it_computes(first: Path) -> None:
    teacher = StudentTeacher(load_student(first).model)
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
