"""A student that starts as its teacher: the folding is exact algebra, and the fitted rates are close at large T."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from neurotool.errors import ConfigError
from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification
from neurotool.student.emission import NeuronLayer, Recorded
from neurotool.train.initialise import copy_teacher, fit_spikes, project_embeddings
from neurotool.train.plan import as_typed
from neurotool.train.teacher import Teacher, TeacherOutput

SHAPE = SpikingBertForSequenceClassification.shares
IDS = torch.randint(5, 31, (8, 12), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(12) < torch.tensor([12, 12, 11, 9, 7, 5, 4, 3])[:, None]).long()
BATCH = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": (torch.arange(12) > 5).long().expand(8, 12)}

VARIANTS: dict[str, dict[str, Any]] = {
    "binary": {"learn_v_threshold": True, "v_init": 0.5},
    "ternary": {"learn_v_threshold": True, "spikes": "ternary"},
    "fixed threshold": {"v_threshold": 0.7, "spikes": "ternary"},
    "fixed threshold, binary": {"v_threshold": 1.5},
    "concurrent": {"learn_v_threshold": True, "v_init": 0.5, "schedule": "concurrent"},
    "concurrent LIF": {"learn_v_threshold": True, "spikes": "ternary", "leak": 0.9, "schedule": "concurrent"},
    "LIF": {"learn_v_threshold": True, "spikes": "ternary", "leak": 0.9},
}
every_variant = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())


@pytest.fixture(scope="module")
def teacher(tiny_teacher: Path) -> BertForSequenceClassification:
    model: BertForSequenceClassification = BertForSequenceClassification.from_pretrained(tiny_teacher)
    with (
        torch.no_grad(),
        torch.random.fork_rng(),
    ):  # a fresh BERT has biases 0 and LayerNorms 1: give them something to do
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


MakeStudent = Callable[..., SpikingBertForSequenceClassification]


@pytest.fixture
def start(teacher: BertForSequenceClassification) -> MakeStudent:
    def make(layer_map: tuple[int, ...] = (0, 1, 2), **values: Any) -> SpikingBertForSequenceClassification:
        shape = {name: getattr(teacher.config, name) for name in SHAPE}
        config = SpikingBertConfig(**shape, num_labels=3, num_hidden_layers=len(layer_map) - 1, **values)
        student = SpikingBertForSequenceClassification(config)
        copy_teacher(student, teacher, layer_map)
        return student

    return make


def taught(teacher: BertForSequenceClassification) -> TeacherOutput:
    return Teacher(teacher)(BATCH, (0, 1, 2), (1, 2))


def pooled(hidden: Tensor) -> Tensor:
    weights = MASK.unsqueeze(-1)
    return (hidden * weights).sum(1) / weights.sum(1)


def centred(scores: Tensor) -> Tensor:
    """Without what the softmax over real keys does not see: a constant per query. Zero at padding."""
    keys = MASK[:, None, None, :]
    return (scores - (scores * keys).sum(-1, keepdim=True) / keys.sum(-1, keepdim=True)) * keys * MASK[:, None, :, None]


class Unquantised:
    """Neurons that pass on their drive: what is left is the algebra of scales and shifts."""

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        return neurons.drive(current)


def layer_shifts(student: SpikingBertForSequenceClassification, teacher: BertForSequenceClassification) -> list[Tensor]:
    """The shift of the embedding and of each layer's output."""
    blocks = teacher.bert.encoder.layer
    pairs = [(student.embeddings.LayerNorm, teacher.bert.embeddings.LayerNorm)]
    pairs += [(layer.output_norm, block.output.LayerNorm) for layer, block in zip(student.layers, blocks, strict=True)]
    return [ours.bias - theirs.bias for ours, theirs in pairs]


@every_variant
@torch.no_grad()
def test_the_folding_is_exact(
    start: MakeStudent, teacher: BertForSequenceClassification, values: dict[str, Any]
) -> None:
    """With neurons that neither round nor clamp, scales and shifts cancel: the student computes its teacher."""
    student = start(time_steps=8, **values).eval()
    student.classifier.bias.normal_()
    wanted = taught(teacher)
    logits = student.classifier(pooled(wanted.hidden[-1]))
    fit_spikes(student, BATCH, max_shift=0.5)
    thresholds = [float(neurons.v_threshold) for neurons in student.neuron_layers.values()]
    if student.config.learn_v_threshold:
        assert len(set(thresholds)) > 5
    else:
        assert thresholds == pytest.approx([student.config.v_threshold] * len(thresholds))
    emission, read = Recorded(Unquantised()), []
    student._sweep(student.embeddings(IDS, BATCH["token_type_ids"]), MASK)(emission, None, read)
    rates = [emission.rates[name] for name in student.output_names]
    shifts = layer_shifts(student, teacher)
    assert any(bool(shift.abs().max() > 0.01) for shift in shifts) == (values.get("v_init") == 0.5)
    for rate, shift, name, hidden in zip(rates, shifts, student.output_names, wanted.hidden, strict=True):
        real = student.neuron_layers[name].v_threshold * rate - shift
        torch.testing.assert_close(real * MASK[..., None], hidden * MASK[..., None], atol=1e-4, rtol=1e-4)
    for ours, theirs in zip(read, wanted.attention, strict=True):
        torch.testing.assert_close(centred(ours.scores), centred(theirs.scores), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(student.readout(rates[-1], MASK), logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "limit"), [(VARIANTS["binary"], 0.2), (VARIANTS["ternary"], 0.02)], ids=["binary", "ternary"]
)
@torch.no_grad()
def test_rates_reproduce_the_teacher(
    start: MakeStudent, teacher: BertForSequenceClassification, values: dict[str, Any], limit: float
) -> None:
    """At T = 256 what is left is clipping, and for binary spikes the negative tail of GELU."""
    wanted = taught(teacher)
    student = start(time_steps=256, **values).eval()
    fit_spikes(student, BATCH, max_shift=0.5)
    output = student(**BATCH, output_attention=True)
    errors = {}
    for name, shift, hidden in zip(student.output_names, layer_shifts(student, teacher), wanted.hidden, strict=True):
        real = student.neuron_layers[name].v_threshold * output.rates[name] - shift
        errors[name] = relative(real[MASK.bool()], hidden[MASK.bool()])
    for i, (ours, theirs) in enumerate(zip(output.attention, wanted.attention, strict=True)):
        errors[f"scores {i}"] = relative(centred(ours.scores), centred(theirs.scores))
    assert max(errors.values()) < limit, errors


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).square().mean() / theirs.square().mean())


@pytest.mark.parametrize("values", [VARIANTS["binary"], VARIANTS["ternary"]], ids=["binary", "ternary"])
@torch.no_grad()
def test_a_concurrent_student_is_fitted_to_its_own_schedule(
    start: MakeStudent, teacher: BertForSequenceClassification, values: dict[str, Any]
) -> None:
    """Its rates follow the teacher's hidden states more closely than with the thresholds of a phased student."""
    wanted = taught(teacher).hidden[1:]
    likeness = {}
    for schedule in ("phased", "concurrent"):
        student = start(time_steps=8, **values, schedule=schedule).eval()
        fit_spikes(student, BATCH, max_shift=0.5)
        student.config.schedule = "concurrent"
        rates = student(**BATCH).rates
        pairs = [
            (rates[name][MASK.bool()], h[MASK.bool()]) for name, h in zip(student.output_names[1:], wanted, strict=True)
        ]
        both = [torch.stack([(x - x.mean(0)).flatten() for x in pair]) for pair in pairs]
        likeness[schedule] = sum(float(torch.corrcoef(x)[0, 1]) for x in both)
    assert likeness["concurrent"] > likeness["phased"], likeness


@torch.no_grad()
def test_more_time_steps_come_closer(start: MakeStudent, teacher: BertForSequenceClassification) -> None:
    wanted = taught(teacher).hidden[-1]
    errors = []
    for time_steps in (2, 8, 64):
        student = start(time_steps=time_steps, **VARIANTS["ternary"]).eval()
        fit_spikes(student, BATCH, max_shift=0.5)
        rate = student(**BATCH).rates["encoder.1.output"]
        real = student.neuron_layers["encoder.1.output"].v_threshold * rate
        errors.append(relative(real[MASK.bool()], wanted[MASK.bool()]))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_layers_are_copied_by_the_map(start: MakeStudent, teacher: BertForSequenceClassification) -> None:
    """A student's layer takes the teacher's layer that reads the same hidden state."""
    for layer_map, source in (((0, 2), 0), ((1, 2), 1)):
        layer, block = start(layer_map=layer_map).layers[0], teacher.bert.encoder.layer[source]
        assert torch.equal(layer.query.weight, block.attention.self.query.weight)
        assert torch.equal(layer.output_norm.bias, block.output.LayerNorm.bias)
    student = start(layer_map=(0, 2))
    assert torch.equal(
        student.embeddings.position_embeddings.weight, teacher.bert.embeddings.position_embeddings.weight
    )


def test_the_fit_sees_no_dropout_and_no_padding(start: MakeStudent) -> None:
    """Dropout would fit the thresholds to noise; padding is not what the student will read."""
    states = []
    padded = {name: torch.nn.functional.pad(tensor, (0, 4)) for name, tensor in BATCH.items()}
    padded["input_ids"][:, 12:] = 7
    for dropout, batch in ((0.0, BATCH), (0.5, BATCH), (0.0, padded)):
        torch.manual_seed(0)
        student = start(**VARIANTS["binary"], hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)
        assert student.training
        fit_spikes(student, batch, max_shift=0.5)
        assert student.training
        states.append(student.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=0, atol=0)
        torch.testing.assert_close(states[2][name], tensor, rtol=1e-5, atol=1e-5)


def test_no_shift_when_none_is_allowed(start: MakeStudent, teacher: BertForSequenceClassification) -> None:
    student = start(**VARIANTS["binary"])
    fit_spikes(student, BATCH, max_shift=0.0)
    assert all(bool((shift == 0).all()) for shift in layer_shifts(student, teacher))


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_size", 64), ("intermediate_size", 32), ("num_attention_heads", 4), ("vocab_size", 50)],
)
def test_another_shape(teacher: BertForSequenceClassification, name: str, value: int) -> None:
    shape = {name: getattr(teacher.config, name) for name in SHAPE} | {name: value}
    student = SpikingBertForSequenceClassification(SpikingBertConfig(**shape, num_hidden_layers=2))
    message = f"{as_typed(name, value)}: the teacher's is {getattr(teacher.config, name)}; use --init random"
    with pytest.raises(ConfigError, match=message):
        copy_teacher(student, teacher, (0, 1, 2))


def test_a_narrower_student_starts_from_the_words_of_its_teacher(teacher: BertForSequenceClassification) -> None:
    """Principal components: no other map of that width keeps more of the words' differences."""
    shape = {name: getattr(teacher.config, name) for name in SHAPE} | {"hidden_size": 8, "num_attention_heads": 2}
    student = SpikingBertForSequenceClassification(SpikingBertConfig(**shape, num_hidden_layers=1))
    project_embeddings(student, teacher)
    theirs = teacher.bert.embeddings.word_embeddings.weight.detach()
    ours = student.embeddings.word_embeddings.weight.detach()
    spectrum = torch.linalg.svdvals(theirs - theirs.mean(0))
    assert torch.allclose(torch.linalg.svdvals(ours - ours.mean(0)), spectrum[:8], rtol=1e-3)
    positions = student.embeddings.position_embeddings.weight.detach()
    original = teacher.bert.embeddings.position_embeddings.weight.detach()
    assert (positions.norm(dim=1) <= original.norm(dim=1) + 1e-5).all() and positions.std() > 0
