"""The SpikingBERT student: its schedules, its gradient at the equilibrium, and an independent layer in numpy."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import Tensor, nn
from torch.nn import functional as F

from neurotool.errors import ConfigError
from neurotool.student import SpikingBertForSequenceClassification, spikingbert
from neurotool.student.emission import NeuronLayer, Substituted, WindowSpikes

Student = SpikingBertForSequenceClassification
MakeStudent = Callable[..., Student]

IDS = torch.tensor([[2, 7, 11, 5, 3, 0], [2, 9, 4, 28, 6, 3], [2, 13, 3, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 1, 0, 0, 0]])
LABELS = torch.tensor([0, 1, 1])
DYNAMICS: dict[str, dict[str, Any]] = {
    "binary": {},
    "ternary": {"spikes": "ternary"},
    "v_init": {"v_init": 0.5},
    "LIF": {"leak": 0.9},
    "ternary LIF": {"spikes": "ternary", "leak": 0.75},
    "hard": {"reset": "hard"},
    "threshold": {"v_threshold": 0.7},
}
every_dynamics = pytest.mark.parametrize("values", DYNAMICS.values(), ids=DYNAMICS.keys())
LAYER_NAMES = ["key", "value", "attention", "self_output", "intermediate", "output"]


def gradients(student: Student) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}


def trained_gradients(student: Student, time_steps: int | None = None) -> dict[str, Tensor]:
    """Gradients of the cross-entropy, in the student's precision (its own loss is float32)."""
    student.zero_grad()
    F.cross_entropy(student(IDS, MASK, time_steps=time_steps).logits, LABELS).backward()
    return gradients(student)


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


# --- what a neuron layer returns -------------------------------------------------------------------------------------


@every_dynamics
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("time_steps", [1, 5, 49])
def test_rates_are_the_counts_of_the_windows(
    make_student: MakeStudent, values: dict[str, Any], dtype: torch.dtype, time_steps: int
) -> None:
    student = make_student(time_steps=time_steps, **values).to(dtype)
    spikes = student.window_spikes(IDS, MASK)
    trained = student(IDS, MASK).rates
    with torch.no_grad():
        rates = student(IDS, MASK).rates
    assert list(rates) == list(spikes) == list(student.neuron_layers)
    levels = torch.tensor([-1, 0, 1] if student.config.spikes == "ternary" else [0, 1])
    weights = [student.config.leak ** (time_steps - t) for t in range(1, time_steps + 1)]
    for name, rate in rates.items():
        assert spikes[name].shape == (time_steps, *rate.shape)
        assert torch.isin(spikes[name].long(), levels).all() and torch.equal(spikes[name], spikes[name].round())
        assert torch.equal(trained[name], rate), f"{name}: training sees other rates than inference"
        if student.config.leak == 1:
            assert torch.equal(rate, spikes[name].sum(0) / time_steps)
        else:
            mean = sum(w * s for w, s in zip(weights, spikes[name], strict=True)) / sum(weights)
            assert torch.allclose(rate, mean, rtol=1e-5, atol=1e-6)
    assert 0.05 < torch.cat([r.abs().flatten() for r in rates.values()]).mean() < 0.95  # the test tests something


def test_the_two_ends_of_the_window(make_student: MakeStudent) -> None:
    """One long window is the steady state, within one spike a layer; T = 1 is one step, with spikes as rates."""
    student = make_student(num_hidden_layers=1).double()
    current = student.embeddings(IDS)
    with torch.no_grad():
        steady = student.steady_state(current, MASK)
        for time_steps in (10, 100, 1000):
            rates = student(IDS, MASK, time_steps=time_steps).rates
            assert (rates["embedding"] - steady["embedding"]).abs().max() <= 1 / time_steps
        assert all((rates[name] - steady[name]).abs().max() < 0.02 for name in rates)
        one = student(IDS, MASK, time_steps=1).rates
    assert all(torch.isin(rate, torch.tensor([0.0, 1.0]).double()).all() for rate in one.values())


@every_dynamics
def test_one_step_is_the_same_in_both_schedules(make_student: MakeStudent, values: dict[str, Any]) -> None:
    phased = make_student(time_steps=1, **values)
    concurrent = make_student(time_steps=1, schedule="concurrent", **values)
    with torch.no_grad():
        a, b = phased(IDS, MASK), concurrent(IDS, MASK)
    assert_same(a.rates, b.rates)
    assert torch.equal(a.logits, b.logits)


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_keys_and_values_are_spikes_and_queries_are_real(
    make_student: MakeStudent, monkeypatch: pytest.MonkeyPatch, schedule: str
) -> None:
    student = make_student(schedule=schedule, time_steps=4)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    attend = F.scaled_dot_product_attention

    def spy(query: Tensor, key: Tensor, value: Tensor, **rest: Any) -> Tensor:
        seen.append((query, key, value))
        return attend(query, key, value, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    with torch.no_grad():
        student.simulate(student.embeddings(IDS), MASK, 4)
    assert len(seen) == 2 * (1 if schedule == "phased" else 4)
    scale = 4 if schedule == "phased" else 1  # phased: the count of a window of 4, concurrent: this step's spikes
    for query, key, value in seen:
        assert set((key * scale).unique().tolist()) <= set(range(scale + 1))
        assert set((value * scale).unique().tolist()) <= set(range(scale + 1))
        assert ((query * scale) % 1 != 0).float().mean() > 0.99


# --- the batch -------------------------------------------------------------------------------------------------------
# At threshold 1, where all tokens' values spike alike, the attention current lies on a firing point but for the
# rounding of the softmax (its weights sum to 1 +- 1 ulp), which may differ with padding. 0.7 has no such ties.


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_padding_changes_nothing(make_student: MakeStudent, schedule: str, pooling: str) -> None:
    student = make_student(schedule=schedule, pooling=pooling, time_steps=5, v_threshold=0.7)
    with torch.no_grad():
        short = student(IDS, MASK)
        for filler in (0, 17):
            ids = torch.cat([IDS, torch.full((3, 5), filler)], 1).masked_fill(F.pad(MASK, (0, 5)) == 0, filler)
            long = student(ids, F.pad(MASK, (0, 5)))
            assert torch.allclose(long.logits, short.logits, atol=1e-6)
            for name, rate in short.rates.items():
                assert torch.allclose(long.rates[name][:, :6][MASK.bool()], rate[MASK.bool()], atol=1e-6), name


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_a_text_does_not_see_its_batch(make_student: MakeStudent, schedule: str) -> None:
    student = make_student(schedule=schedule, time_steps=5, v_threshold=0.7)
    with torch.no_grad():
        together = student(IDS, MASK).logits
        alone = torch.cat([student(i[None], m[None]).logits for i, m in zip(IDS, MASK, strict=True)])
        swapped = student(IDS.flip(0), MASK.flip(0)).logits.flip(0)
    assert torch.allclose(together, alone, atol=1e-6) and torch.allclose(together, swapped, atol=1e-6)


def test_order_and_segments_matter(make_student: MakeStudent) -> None:
    student = make_student()
    ids = torch.tensor([[2, 7, 11, 3]])
    with torch.no_grad():
        logits = student(ids).logits
        assert not torch.allclose(student(torch.tensor([[2, 11, 7, 3]])).logits, logits, atol=1e-3)
        second = torch.tensor([[0, 0, 1, 1]])
        assert not torch.allclose(student(ids, token_type_ids=second).logits, logits, atol=1e-3)
        assert torch.equal(student(ids, torch.ones_like(ids), torch.zeros_like(ids)).logits, logits)


def test_pooling(make_student: MakeStudent) -> None:
    mean, cls = make_student(), make_student(pooling="cls")
    with torch.no_grad():
        output = mean(IDS, MASK)
        last = output.rates["encoder.1.output"]
        by_hand = torch.stack([r[:n].mean(0) for r, n in zip(last, (5, 6, 3), strict=True)])
        assert torch.allclose(output.logits, mean.classifier(by_hand), atol=1e-6)
        output = cls(IDS, MASK)
        assert torch.equal(output.logits, cls.classifier(output.rates["encoder.1.output"][:, 0]))


def test_losses(make_student: MakeStudent) -> None:
    student = make_student()
    output = student(IDS, MASK, labels=LABELS)
    picked = output.logits.log_softmax(-1)[torch.arange(3), LABELS]
    assert output.loss.item() == pytest.approx(-picked.mean().item())
    regression = make_student(num_labels=1)
    scores = torch.tensor([0.5, -1.0, 2.0])
    output = regression(IDS, MASK, labels=scores)
    assert output.loss.item() == pytest.approx(((output.logits[:, 0] - scores) ** 2).mean().item())


def test_what_attention_reads_on_request(make_student: MakeStudent) -> None:
    student = make_student()
    assert student(IDS, MASK).attention is None
    output = student(IDS, MASK, output_attention=True)
    assert [read.scores.shape for read in output.attention] == [(3, 2, 6, 6)] * 2
    layer: Any = student.layers[0]
    rates = output.rates
    query = layer.query(rates["embedding"]).view(3, 6, 2, 8)
    key = rates["encoder.0.key"].view(3, 6, 2, 8)
    by_hand = torch.einsum("bqhd,bkhd->bhqk", query, key) / 8**0.5
    assert torch.allclose(output.attention[0].scores, by_hand, atol=1e-5)


# --- the paper's schedule, written a second time ---------------------------------------------------------------------


class PaperNeurons:
    """u <- gamma*u + I;  s = 1 if u >= V_th else 0;  u <- u - V_th*s, with the matching ASR."""

    def __init__(self, v_threshold: float, gamma: float) -> None:
        self.v_threshold, self.gamma = v_threshold, gamma
        self.u: Any = 0.0
        self.spikes: list[np.ndarray] = []

    def __call__(self, current: np.ndarray) -> np.ndarray:
        self.u = self.gamma * self.u + current
        s = (self.u >= self.v_threshold).astype(float)
        self.u = self.u - self.v_threshold * s
        self.spikes.append(s)
        return s

    @property
    def rate(self) -> np.ndarray:
        weights = np.array([self.gamma ** (len(self.spikes) - t) for t in range(1, len(self.spikes) + 1)])
        return np.einsum("t,t...->...", weights, np.stack(self.spikes)) / weights.sum()


def numpy_concurrent(student: Student, mask: np.ndarray, embedded: np.ndarray, time_steps: int) -> dict[str, Any]:
    """One encoder layer, one input at a time, from the list of the paper's six neuron layers."""
    weights = {name: p.detach().numpy() for name, p in student.layers[0].named_parameters()}
    config = student.config
    width = config.hidden_size // config.num_attention_heads

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        variance = ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1, keepdims=True)
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(variance + config.layer_norm_eps)
        return normal * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    neurons = {name: PaperNeurons(config.v_threshold, config.leak) for name in ["embedding", *LAYER_NAMES]}
    for _ in range(time_steps):
        s_in = neurons["embedding"](embedded)
        key, value = neurons["key"](linear("key", s_in)), neurons["value"](linear("value", s_in))
        query = linear("query", s_in)
        context = np.zeros_like(query)
        for head in range(config.num_attention_heads):
            part = slice(head * width, (head + 1) * width)
            scores = query[:, part] @ key[:, part].T / np.sqrt(width) + np.where(mask, 0.0, -np.inf)
            weight = np.exp(scores - scores.max(-1, keepdims=True))
            context[:, part] = weight / weight.sum(-1, keepdims=True) @ value[:, part]
        attention = neurons["attention"](context)
        middle = neurons["self_output"](norm("self_output_norm", linear("self_output", attention) + s_in))
        wide = linear("intermediate", middle)
        wide = neurons["intermediate"](wide * (1 + erf(wide / np.sqrt(2))) / 2)
        neurons["output"](norm("output_norm", linear("output", wide) + middle))
    return {name: layer.rate for name, layer in neurons.items()}


@pytest.mark.parametrize("values", [{"v_threshold": 0.7}, {"v_threshold": 0.97, "leak": 0.9}], ids=str)
@pytest.mark.parametrize("time_steps", [1, 2, 16])
def test_the_concurrent_schedule_is_the_papers(
    make_student: MakeStudent, values: dict[str, Any], time_steps: int
) -> None:
    student = make_student(3, num_hidden_layers=1, schedule="concurrent", **values).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.layers.parameters():
            if parameter.ndim == 1:  # biases and the norms' scales start at 0 and 1
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        current = student.embeddings(IDS)
        rates = student.simulate(current, MASK, time_steps)
    for i in range(len(IDS)):
        reference = numpy_concurrent(student, MASK[i].numpy() == 1, current[i].numpy(), time_steps)
        np.testing.assert_allclose(rates["embedding"][i].numpy(), reference.pop("embedding"), rtol=0, atol=1e-12)
        for name, rate in reference.items():
            np.testing.assert_allclose(rates[f"encoder.0.{name}"][i].numpy(), rate, rtol=0, atol=1e-12, err_msg=name)
    assert 0.05 < rates["encoder.0.output"].mean() < 0.95


# --- dropout ---------------------------------------------------------------------------------------------------------


def dropout_masks(student: Student) -> dict[str, list[Tensor]]:
    """Feeds ones to every dropout of the encoder and records what comes out, pass after pass."""
    masks: dict[str, list[Tensor]] = {}
    for name, module in student.layers.named_modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]),))
            module.register_forward_hook(
                lambda _, __, output, name=name: masks.setdefault(name, []).append(output.detach().clone())
            )
    return masks


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@pytest.mark.parametrize("feedback", [False, True])
def test_all_passes_of_a_training_step_share_their_dropout(
    make_student: MakeStudent, schedule: str, feedback: bool
) -> None:
    student = make_student(
        schedule=schedule,
        feedback=feedback,
        hidden_dropout_prob=0.5,
        attention_probs_dropout_prob=0.5,
        time_steps=3,
        feedback_sweeps=3,
    ).train()
    masks = dropout_masks(student)
    passes = (0 if schedule == "phased" and not feedback else 3) + (1 if feedback else 0) + 1
    drawn = []
    for _ in range(2):
        student(IDS, MASK)
        for name, recorded in masks.items():
            assert len(recorded) == 2 * passes
            for place in (recorded[::2], recorded[1::2]):  # after the self-output and after the output
                assert set(place[0].unique().tolist()) == {0.0, 2.0}
                assert all(torch.equal(mask, place[0]) for mask in place), name
                drawn.append(place[0])
        masks.clear()
    assert len(drawn) == 8 and not any(torch.equal(a, b) for a, b in combinations(drawn, 2))  # all others are new


def test_attention_dropout_is_shared_over_time_too(make_student: MakeStudent, monkeypatch: pytest.MonkeyPatch) -> None:
    student = make_student(
        schedule="concurrent", num_hidden_layers=1, attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0
    ).train()
    contexts: list[Tensor] = []
    layer = student.layers[0]

    class Constant:
        """Every neuron layer says the same in every step, so only dropout could change the context."""

        rates: ClassVar[dict[str, Tensor]] = {}

        def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
            if neurons is layer.attention_neurons:
                contexts.append(current.detach())
            return torch.ones_like(current)

    monkeypatch.setattr(spikingbert, "Membranes", lambda counts: Constant())
    student.simulate(student.embeddings(IDS), MASK, 3)
    assert len(contexts) == 3 and torch.equal(contexts[0], contexts[1]) and torch.equal(contexts[1], contexts[2])
    assert contexts[0].std() > 0.1  # without dropout the average of ones is 1


def test_no_dropout_in_eval_mode(make_student: MakeStudent) -> None:
    student = make_student(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5, schedule="concurrent")
    before = torch.get_rng_state()
    assert torch.equal(student(IDS, MASK).logits, student(IDS, MASK).logits)
    assert torch.equal(torch.get_rng_state(), before)


# --- the gradient at the equilibrium ---------------------------------------------------------------------------------


class Anchored:
    """Each neuron's rate plus what its drive, where not clamped, has moved since the first pass: a smooth function of
    the weights, with the student's rates as values. (The clamp itself has kinks where binary rates lie, at 0 and 1.)
    """

    def __init__(self, rates: dict[str, Tensor]) -> None:
        self.rates = rates
        self.drives: dict[str, Tensor] = {}

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        drive = neurons.drive(current)
        first = self.drives.setdefault(neurons.name, drive)
        inside = (first >= neurons.dynamics.low) & (first <= 1)
        return self.rates[neurons.name] + inside * (drive - first)


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@every_dynamics
def test_the_gradient_is_the_steady_state_networks_at_the_simulated_rates(
    make_student: MakeStudent, schedule: str, values: dict[str, Any]
) -> None:
    """Against finite differences of a network that is no simulation."""
    student = make_student(schedule=schedule, time_steps=5, learn_v_threshold=True, **values).double()
    with torch.no_grad():
        network = Anchored(student(IDS, MASK).rates)

    def loss() -> float:
        with torch.no_grad():
            rate = student._sweep(student.embeddings(IDS), MASK)(network)
            return F.cross_entropy(student.readout(rate, MASK), LABELS).item()

    analytic = trained_gradients(student)
    generator = torch.Generator().manual_seed(0)
    assert loss() == pytest.approx(F.cross_entropy(student(IDS, MASK).logits, LABELS).item(), abs=1e-12)
    for name, parameter in student.named_parameters():
        if name not in analytic:
            assert name.startswith("embeddings") and not parameter.requires_grad
            continue
        if name.endswith("log_gain") and schedule == "phased" and student.config.dynamics.has_closed_form:
            continue  # estimated from the rate: tests/test_neurons.py
        direction = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        step = 1e-6 / direction.norm()
        values_of_loss = []
        for sign in (1, -2):
            with torch.no_grad():
                parameter += sign * step * direction
            values_of_loss.append(loss())
        with torch.no_grad():
            parameter += step * direction
        numeric = (values_of_loss[0] - values_of_loss[1]) / (2 * step.item())
        assert (analytic[name] * direction).sum().item() == pytest.approx(numeric, rel=1e-4, abs=1e-6), name
    assert all(analytic[f"layers.{i}.{n}.weight"].abs().max() > 0 for i in (0, 1) for n in ("query", "key", "output"))


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_time_enters_the_gradient_through_the_rates_only(make_student: MakeStudent, schedule: str) -> None:
    student = make_student(schedule=schedule).double()
    found = {}
    for time_steps in (5, 200):
        found[time_steps] = trained_gradients(student, time_steps)
        assert all(g.isfinite().all() for g in found[time_steps].values())
        with torch.no_grad():
            rates = student(IDS, MASK, time_steps=time_steps).rates
        student.zero_grad()
        rate = student._sweep(student.embeddings(IDS), MASK)(Substituted(rates))
        F.cross_entropy(student.readout(rate, MASK), LABELS).backward()
        assert_same(found[time_steps], gradients(student))
    assert any(not torch.equal(g, found[200][name]) for name, g in found[5].items())


# --- configuration, thresholds, files, feedback ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"time_steps": 0}, "time_steps is 0"),
        ({"feedback_sweeps": -1}, "feedback_sweeps is -1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"schedule": "parallel"}, "schedule is 'parallel'"),
        ({"pooling": "max"}, "pooling is 'max'"),
        ({"spikes": "loud"}, "spikes is 'loud'"),
        ({"reset": "medium"}, "reset is 'medium'"),
        ({"leak": 1.5}, "leak is 1.5"),
        ({"v_init": 0.3}, "v_init is 0.3"),
        ({"v_threshold": 0.0}, "v_threshold is 0.0"),
        ({"v_threshold": float("inf")}, "v_threshold is inf"),
        ({"v_threshold": float("nan")}, "v_threshold is nan"),
        ({"num_attention_heads": 3}, "hidden_size 16 is not divisible by num_attention_heads 3"),
    ],
)
def test_impossible_configurations_are_refused(make_student: MakeStudent, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_student(**values)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_names_of_the_neuron_layers(make_student: MakeStudent) -> None:
    student = make_student()
    names = ["embedding"] + [f"encoder.{i}.{name}" for i in (0, 1) for name in LAYER_NAMES]
    assert list(student.neuron_layers) == names == list(student(IDS, MASK).rates)
    assert student.output_names == ["embedding", "encoder.0.output", "encoder.1.output"]


@pytest.mark.parametrize("learned", [False, True])
def test_thresholds_are_learned_on_request(make_student: MakeStudent, learned: bool) -> None:
    student = make_student(learn_v_threshold=learned, v_threshold=0.5)
    found = trained_gradients(student)
    gains = [name for name, _ in student.named_parameters() if name.endswith("log_gain")]
    assert len(gains) == 13 and all((name in found) == learned for name in gains)
    if learned:
        assert sum(found[name].abs() > 0 for name in gains) > 6
        before = student(IDS, MASK).logits
        torch.optim.SGD(student.parameters(), lr=0.1).step()
        assert all(layer.v_threshold > 0 for layer in student.neuron_layers.values())
        assert not torch.equal(student(IDS, MASK).logits, before)
    else:
        assert all(layer.v_threshold == 0.5 for layer in student.neuron_layers.values())


@pytest.mark.parametrize(
    "values", [{}, {"feedback": True, "spikes": "ternary", "schedule": "concurrent", "v_threshold": 0.75, "leak": 0.9}]
)
def test_a_saved_student_comes_back_bit_for_bit(
    make_student: MakeStudent, values: dict[str, Any], tmp_path: Path
) -> None:
    student = make_student(learn_v_threshold=True, num_labels=3, pooling="cls", time_steps=7, **values)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    student.save_pretrained(tmp_path)
    loaded = Student.from_pretrained(tmp_path).eval()
    a, b = student.config.to_dict(), loaded.config.to_dict()
    assert {k: v for k, v in a.items() if k in ("time_steps", "pooling", *values)} == {
        k: b[k] for k in ("time_steps", "pooling", *values)
    }
    assert_same(dict(student.state_dict()), dict(loaded.state_dict()))
    with torch.no_grad():
        assert torch.equal(student(IDS, MASK).logits, loaded(IDS, MASK).logits)


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_feedback_starts_as_the_feed_forward_student(
    make_student: MakeStudent, schedule: str, dtype: torch.dtype
) -> None:
    plain = make_student(schedule=schedule, time_steps=5).to(dtype)
    feedback = make_student(9, schedule=schedule, time_steps=5, feedback=True, feedback_sweeps=3).to(dtype)
    assert feedback.feedback is not None and not feedback.feedback.weight.any()
    missing, unexpected = feedback.load_state_dict(plain.state_dict(), strict=False)
    assert missing == ["feedback.weight"] and not unexpected
    a, b = plain(IDS, MASK, labels=LABELS), feedback(IDS, MASK, labels=LABELS)
    assert_same(a.rates, b.rates)
    a.loss.backward()
    b.loss.backward()
    found = gradients(feedback)
    assert found.pop("feedback.weight").any()  # zero, but it can leave zero
    for name, gradient in gradients(plain).items():
        assert torch.allclose(gradient, found[name], rtol=1e-5, atol=1e-7), name


def test_windows_of_a_feedback_student_are_those_of_its_last_sweep(make_student: MakeStudent) -> None:
    student = make_student(feedback=True, feedback_sweeps=3, time_steps=5)
    assert student.feedback is not None
    with torch.no_grad():
        student.feedback.weight.normal_(std=0.3)
        rates = student(IDS, MASK).rates
    spikes = student.window_spikes(IDS, MASK)
    for name, rate in rates.items():
        assert torch.equal(spikes[name].mean(0), rate), name


def test_spikes_are_kept_under_the_names_of_their_layers(make_student: MakeStudent) -> None:
    emission = WindowSpikes(3)
    layer = next(iter(make_student().neuron_layers.values()))
    emission(layer, torch.rand(2, 5))
    assert {name: s.shape for name, s in emission.spikes.items()} == {"embedding": (3, 2, 5)}
