"""Fixed points and the gradients through them, against closed forms, unrolling and finite differences."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from neurotool.student import SpikingBertForSequenceClassification, spikingbert
from neurotool.student.emission import Recorded, SteadyState
from neurotool.student.equilibrium import anderson, implicit_gradient

Student = SpikingBertForSequenceClassification
MakeStudent = Callable[..., Student]

IDS = torch.tensor([[2, 7, 11, 5, 3, 0], [2, 9, 4, 28, 6, 3], [2, 13, 3, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 1, 0, 0, 0]])
LABELS = torch.tensor([0, 1, 1])


def contraction(seed: int, batch: int, width: int, norm: float, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """(matrices of the given spectral norm and rank, constants) of z <- A z + b."""
    generator = torch.Generator().manual_seed(seed)
    rank = rank or width
    left = torch.randn(batch, width, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(batch, rank, width, generator=generator, dtype=torch.float64)
    a = left @ right
    a = norm * a / torch.linalg.matrix_norm(a, 2)[:, None, None]
    return a, torch.randn(batch, width, generator=generator, dtype=torch.float64)


def affine(a: Tensor, b: Tensor, z: Tensor) -> Tensor:
    return (a @ z[..., None]).squeeze(-1) + b


# --- the solver ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_anderson_solves_a_linear_contraction(seed: int) -> None:
    a, b = contraction(seed, 3, 12, 0.9)
    z, residuals = anderson(partial(affine, a, b), torch.zeros_like(b), tolerance=1e-10, max_iterations=200)
    exact = torch.linalg.solve(torch.eye(12, dtype=torch.float64) - a, b)
    assert torch.allclose(z, exact, atol=1e-8)
    assert residuals[-1] <= 1e-10 < residuals[-2]
    assert all(later < 0.5 * earlier for earlier, later in zip(residuals, residuals[20:], strict=False))


def test_anderson_is_faster_than_iterating() -> None:
    a, b = contraction(0, 3, 12, 0.98)
    a = (a + a.mT) / 2  # symmetric: plain iteration gains 2 % a step
    a = 0.98 * a / torch.linalg.matrix_norm(a, 2)[:, None, None]
    f = partial(affine, a, b)
    _, residuals = anderson(f, torch.zeros_like(b), tolerance=1e-6, max_iterations=300)
    z, plain = torch.zeros_like(b), 0
    while (f(z) - z).norm() > 1e-6 * f(z).norm():
        z, plain = f(z), plain + 1
    assert residuals[-1] <= 1e-6 and len(residuals) < plain / 2


def test_anderson_solves_a_nonlinear_equation() -> None:
    """z = cos(z) in every element: the Dottie number. Shapes beyond (batch, width) are kept."""
    start = torch.linspace(-1, 3, 24, dtype=torch.float64).view(2, 3, 4)
    z, residuals = anderson(torch.cos, start, tolerance=1e-12)
    assert z.shape == (2, 3, 4)
    assert torch.allclose(z, torch.full_like(z, 0.7390851332151607), atol=1e-10)
    assert residuals[-1] < 1e-12 and residuals[0] > 0.1


def test_a_fixed_point_is_recognised_at_once() -> None:
    a, b = contraction(1, 2, 5, 0.5)
    exact = torch.linalg.solve(torch.eye(5, dtype=torch.float64) - a, b)
    z, residuals = anderson(partial(affine, a, b), exact)
    assert len(residuals) == 1 and torch.allclose(z, exact)
    zero = torch.zeros(2, 5)
    assert torch.equal(anderson(lambda z: z / 2, zero)[0], zero)


@pytest.mark.parametrize("rank", [1, 2, 8])
@pytest.mark.parametrize("width", [1, 2, 8, 40])
def test_float32_with_few_directions(width: int, rank: int) -> None:
    """Fewer independent directions than the history is long, and batch elements that converge at different speeds."""
    for seed in range(10):
        a, b = (x.float() for x in contraction(seed, 4, width, 1.0, min(rank, width)))
        a = a * torch.tensor([0.0, 0.1, 0.5, 0.95])[:, None, None]
        z, residuals = anderson(partial(affine, a, b), b, tolerance=1e-5)
        assert residuals[-1] <= 1e-5
        exact = torch.linalg.solve(torch.eye(width) - a, b)
        assert torch.allclose(z, exact, rtol=1e-2, atol=1e-3 * float(exact.abs().max()))


def test_the_cap_warns_and_returns_the_best_point(caplog: pytest.LogCaptureFixture) -> None:
    a, b = contraction(0, 3, 12, 0.99)
    with caplog.at_level(logging.WARNING):
        _, residuals = anderson(partial(affine, a, b), torch.zeros_like(b), tolerance=1e-12, max_iterations=4)
    assert len(residuals) == 4
    (record,) = caplog.records
    message = record.getMessage()
    assert "4 iterations" in message and f"{min(residuals):.1e}" in message and "\n" not in message
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        z, residuals = anderson(lambda z: 3 * z + 1, torch.ones(1, 2), tolerance=0.0, max_iterations=3)
    assert z.isfinite().all() and len(residuals) == 3 and len(caplog.records) == 1


# --- the gradient ----------------------------------------------------------------------------------------------------


def test_the_implicit_gradient_of_an_affine_map_by_hand() -> None:
    """z = a z + b: dz/db = 1 / (1 - a) and dz/da = b / (1 - a)^2."""
    a = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[0.8]], dtype=torch.float64, requires_grad=True)
    z, residuals = implicit_gradient(lambda z: a * z + b, torch.tensor([[2.0]], dtype=torch.float64), tolerance=1e-12)
    assert z.item() == pytest.approx(2.0) and residuals == []
    z.sum().backward()
    assert b.grad is not None and b.grad.item() == pytest.approx(2.5)
    assert a.grad is not None and a.grad.item() == pytest.approx(5.0)
    assert residuals[-1] <= 1e-12


def test_the_implicit_gradient_equals_unrolling_and_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = 0.2 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    bias = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    readout = torch.randn(4, 6, generator=generator, dtype=torch.float64)

    def f(parameters: tuple[Tensor, Tensor], z: Tensor) -> Tensor:
        return torch.tanh(z @ parameters[0] + parameters[1])

    def fixed_point(parameters: tuple[Tensor, Tensor]) -> Tensor:
        z = torch.zeros(4, 6, dtype=torch.float64)
        for _ in range(500):
            z = f(parameters, z)
        return z

    def leaves() -> tuple[Tensor, Tensor]:
        return weight.clone().requires_grad_(), bias.clone().requires_grad_()

    implicit, unrolled = leaves(), leaves()
    with torch.no_grad():
        start = fixed_point(implicit)
    z, _ = implicit_gradient(partial(f, implicit), start, tolerance=1e-13)
    (z * readout).sum().backward()
    (fixed_point(unrolled) * readout).sum().backward()
    for i in (0, 1):
        a, b = implicit[i].grad, unrolled[i].grad
        assert a is not None and b is not None and torch.allclose(a, b, rtol=1e-10, atol=1e-12)
        direction = torch.randn(a.shape, generator=generator, dtype=torch.float64)

        def moved(step: float, i: int = i, direction: Tensor = direction) -> float:
            values = [weight, bias]
            values[i] = values[i] + step * direction
            return float((fixed_point((values[0], values[1])) * readout).sum())

        numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6
        assert (a * direction).sum().item() == pytest.approx(numeric, rel=1e-6)


def test_constants_have_no_gradient() -> None:
    with torch.no_grad():
        z, residuals = implicit_gradient(torch.cos, torch.full((1, 1), 0.739))
    assert not z.requires_grad and residuals == []


def steady_rates(student: Student, iterations: int = 500) -> dict[str, Tensor]:
    """Rates at the equilibrium of the clamped network, by plain iteration through whatever graph is being recorded."""
    current = student.embeddings(IDS)
    sweep = student._sweep(current, MASK)
    state = torch.zeros_like(current)
    for _ in range(iterations):
        state = sweep(SteadyState(), state)
    rates = Recorded(SteadyState())
    sweep(rates, state)
    return rates.rates


def loss_at(student: Student, rates: dict[str, Tensor]) -> Tensor:
    """Reads every neuron layer, so that the gradient arrives both through the state and beside it."""
    logits = student.readout(rates[student.output_names[-1]], MASK)
    taps = sum(rate[MASK.bool()].square().mean() for rate in rates.values())
    return F.cross_entropy(logits, LABELS) + taps


@pytest.mark.parametrize("spikes", ["binary", "ternary"])
@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_a_feedback_students_gradient(
    make_student: MakeStudent, monkeypatch: pytest.MonkeyPatch, spikes: str, schedule: str
) -> None:
    """With every rate at its steady state: implicit = unrolled = finite differences."""
    student = make_student(4, feedback=True, spikes=spikes, schedule=schedule, learn_v_threshold=True).double()
    generator = torch.Generator().manual_seed(1)
    assert student.feedback is not None
    with torch.no_grad():
        student.feedback.weight.copy_(0.02 * torch.randn(16, 16, generator=generator))
        rates = steady_rates(student)
        again = student._sweep(student.embeddings(IDS), MASK)(SteadyState(), rates["encoder.1.output"])
    assert torch.allclose(again, rates["encoder.1.output"], atol=1e-13)  # it is a fixed point
    monkeypatch.setattr(student, "simulate", lambda *_: rates)
    monkeypatch.setattr(spikingbert, "implicit_gradient", partial(implicit_gradient, tolerance=1e-12))

    output = student(IDS, MASK)
    assert all(torch.equal(output.rates[name], rate) for name, rate in rates.items())
    loss_at(student, output.rates).backward()
    implicit = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    assert student.feedback_residuals[-1] <= 1e-12 and len(student.feedback_residuals) > 2  # J is not 0
    student.zero_grad()
    loss_at(student, steady_rates(student, 60)).backward()
    for name, parameter in student.named_parameters():
        if name not in implicit:
            assert parameter.grad is None
            continue
        assert parameter.grad is not None
        assert torch.allclose(implicit[name], parameter.grad, rtol=1e-8, atol=1e-10), name

    for name in ("feedback.weight", "layers.0.query.weight", "layers.1.output.weight", "embeddings.LayerNorm.weight"):
        parameter = student.get_parameter(name)
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        losses = []
        with torch.no_grad():
            for step in (1e-7, -2e-7, 1e-7):
                parameter += step * direction
                losses.append(loss_at(student, steady_rates(student, 60)).item())
        numeric = (losses[0] - losses[1]) / 2e-7
        assert (implicit[name] * direction).sum().item() == pytest.approx(numeric, rel=1e-4, abs=1e-6), name


def test_feedback_beside_the_state_is_not_enough(make_student: MakeStudent) -> None:
    """The solve matters: without it (one backward pass, state held constant) the gradient is another one."""
    student = make_student(4, feedback=True, schedule="concurrent").double()
    assert student.feedback is not None
    with torch.no_grad():
        student.feedback.weight.copy_(0.3 * torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))

    def gradient(output: dict[str, Tensor]) -> Tensor:
        student.zero_grad()
        loss_at(student, output).backward()
        found = student.layers[0].value.weight.grad
        assert found is not None
        return found.clone()

    solved = gradient(student(IDS, MASK).rates)
    with torch.no_grad():
        rates = student(IDS, MASK).rates
    recorded = Recorded(spikingbert.Substituted(rates))
    student._sweep(student.embeddings(IDS), MASK)(recorded, rates["encoder.1.output"])
    held = gradient(recorded.rates)
    assert (solved - held).norm() > 0.01 * held.norm()


@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "phased"},
        {"schedule": "phased", "leak": 0.9},
        {"schedule": "concurrent"},
        {"schedule": "concurrent", "feedback": True},
        {"schedule": "phased", "feedback": True},
    ],
    ids=str,
)
def test_memory_does_not_depend_on_time(make_student: MakeStudent, values: dict[str, Any]) -> None:
    student = make_student(learn_v_threshold=True, **values)

    def saved(time_steps: int) -> tuple[int, int]:
        """(number, bytes) of the tensors kept for the backward pass."""
        sizes: list[int] = []

        def pack(x: Tensor) -> Tensor:
            sizes.append(x.numel() * x.element_size())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            output = student(IDS, MASK, labels=LABELS, time_steps=time_steps)
        output.loss.backward()
        return len(sizes), sum(sizes)

    assert saved(4) == saved(64)
    assert saved(4)[1] > 0
