"""Sparse and short weights: what training uses is what export writes, bit for bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize
from transformers import TrainerControl, TrainerState

from neurotool.export.lower import lower
from neurotool.graph import Linear
from neurotool.graph.fixed_point import row_mantissas
from neurotool.train.compression import Compressor, compressible
from neurotool.train.pruning import END, Pruned, Shrunk, last_change, prune, sparsity
from neurotool.train.quantisation import Quantised

BITS = (8, 4, 2, 1)


def random_weight(seed: int, rows: int = 6, columns: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    scales = torch.rand(rows, 1, generator=generator) * 3 + 0.01
    return torch.randn(rows, columns, generator=generator) * scales


def bits_of(mantissa: np.ndarray) -> int:
    """Bits of a weight, sign included, without the zeros that all of its row end with; 1 for signs, among them 0."""
    lowest = np.bitwise_or.reduce(mantissa.astype(np.int64), axis=1)
    short = mantissa // np.maximum(lowest & -lowest, 1)[:, None]
    return 1 if np.abs(short).max() == 1 else int(np.abs(short).max()).bit_length() + 1


# --- quantisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "row", "expected"),
    [
        (4, [0.7, -0.35, 0.06, 0.0], [0.75, -0.375, 0.0, 0.0]),  # units of 1/8: at most 7
        (2, [0.9, -0.6, 0.1, 0.5], [0.5, -0.5, 0.0, 0.5]),  # one of -1, 0, 1 units of 1/2
        (1, [0.6, -0.4, 0.5, 0.0], [0.5, -0.5, 0.5, 0.0]),  # signs
    ],
)
def test_hand_computed_weights(bits: int, row: list[float], expected: list[float]) -> None:
    weight = torch.tensor([row])
    assert Quantised(weight, bits)(weight).tolist() == [expected]


@given(seed=st.integers(0, 1000), bits=st.sampled_from(BITS), scale=st.integers(-12, 12))
def test_trained_weights_are_the_integers_that_export_writes(seed: int, bits: int, scale: int) -> None:
    weight = random_weight(seed) * 2.0**scale
    weight[0, ::3] = 0.0
    quantised = Quantised(weight, bits)
    trained = quantised(weight)
    mantissa, lowest, exponents = row_mantissas(trained.numpy(), 8)
    written = mantissa.astype(np.float64) * 2.0 ** (lowest + exponents.astype(np.float64))[:, None]
    assert np.array_equal(written, trained.numpy())
    assert bits_of(mantissa) <= bits
    assert np.array_equal(mantissa == 0, trained.numpy() == 0)


@given(seed=st.integers(0, 1000), bits=st.sampled_from(BITS))
def test_no_other_exponent_has_a_smaller_error(seed: int, bits: int) -> None:
    weight = random_weight(seed)
    quantised = Quantised(weight, bits)
    error = (quantised(weight) - weight).square().sum(1)
    for factor in (0.5, 2.0):
        unit = quantised.unit * factor
        other = (quantised.mantissas(weight, unit) * unit - weight).square().sum(1)
        assert (error <= other * (1 + 1e-5)).all()


def test_gradients_pass_straight_through() -> None:
    weight = random_weight(1).requires_grad_()
    weights_of_loss = torch.randn(6, 40)
    (Quantised(weight.detach(), 2)(weight) * weights_of_loss).sum().backward()
    assert torch.equal(weight.grad, weights_of_loss)
    weight.grad = None
    pruned = Pruned(weight.detach())
    pruned.kept[:, ::2] = False
    (pruned(weight) * weights_of_loss).sum().backward()
    assert torch.equal(weight.grad, weights_of_loss)


def test_the_exact_value_is_used_also_where_a_sum_would_round() -> None:
    weight = torch.tensor([[1e-9, 1.0, -1.0]])
    assert Quantised(weight, 1)(weight).tolist() == [[0.5, 0.5, -0.5]]


# --- pruning ---------------------------------------------------------------------------------------------------------


def test_the_cubic_schedule() -> None:
    assert sparsity(0.0, 0.0, 0.8) == 0
    assert sparsity(END / 2, 0.0, 0.8) == pytest.approx(0.8 * 7 / 8)
    assert sparsity(END, 0.0, 0.8) == sparsity(1.0, 0.0, 0.8) == 0.8
    assert sparsity(0.0, 0.5, 0.5) == 0.5


def test_hand_computed_masks() -> None:
    weights = {"a": torch.tensor([[1.0, -2.0], [3.0, -4.0]]), "b": torch.tensor([[10.0, 10.0], [1.0, 10.0]])}
    masks = {name: Pruned(weight) for name, weight in weights.items()}
    prune(weights, masks, 0.5, "layer")
    assert masks["a"].kept.tolist() == [[False, False], [True, True]]
    # Magnitudes in root mean squares: a 2.74, b 8.68, so 0.365, 0.73, 1.1, 1.46 and 1.15, 1.15, 0.115, 1.15.
    prune(weights, masks, 3 / 8, "global")
    assert masks["a"].kept.tolist() == [[False, False], [True, True]]
    assert masks["b"].kept.tolist() == [[True, True], [False, True]]


def test_hand_computed_shrinking() -> None:
    weight = torch.tensor([[3.0, -1.0], [0.5, -4.0]], requires_grad=True)
    shrunk = Shrunk(weight)
    assert float(shrunk.root) == pytest.approx((26.25 / 4) ** 0.5)
    assert torch.equal(shrunk(weight), weight)
    shrunk.threshold.fill_(1.0)
    assert shrunk(weight).tolist() == [[2.0, 0.0], [0.0, -3.0]]
    shrunk(weight).sum().backward()
    assert weight.grad is not None and weight.grad.eq(1).all()  # also of those at 0


# --- in a student ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_compressed_student_exports_as_it_was_trained(make_student, scope: str, bits: int) -> None:
    student = make_student(spikes="ternary", time_steps=2)
    compressor = Compressor(student, 0.5, scope, bits)
    compressor.choose(1.0)
    assert compressor.zeros >= 0.5
    ids = torch.randint(1, 30, (3, 9))
    trained = student(ids).logits
    compressor.finish()
    assert not any(parametrize.is_parametrized(module) for module in student.modules())
    assert torch.equal(student(ids).logits, trained)
    graph = student.to_graph()
    fixed = lower(graph, dict.fromkeys(graph.nodes, 8.0))
    for name, node in graph.nodes.items():
        if isinstance(node, Linear):
            integers, form = fixed.nodes[name], fixed.fixed_point[name]
            assert isinstance(integers, Linear) and form.exponents is not None
            assert bits_of(integers.weight) <= bits
            written = integers.weight * 2.0 ** form.exponents.astype(np.float64)[:, None]
            unit = written[written != 0][0] / node.weight[written != 0][0]
            assert np.log2(unit) % 1 == 0 and np.array_equal(written, node.weight * unit)
            assert np.mean(integers.weight == 0) >= (0.5 if scope == "layer" else 0.0)


@pytest.mark.parametrize("bits", [None, 4])
def test_a_weight_penalty_takes_its_share_off_every_matrix(make_student, bits: int | None) -> None:
    student = make_student(spikes="ternary", time_steps=2)
    before = {name: layer.weight.detach().clone() for name, layer in compressible(student)}
    compressor = Compressor(student, bits=bits, penalty=0.6)
    compressor.choose(0.0)
    assert compressor.zeros < 0.2
    compressor.choose(1.0)
    assert 0.4 < compressor.zeros < 0.6  # of a normal distribution 0.45; 4 bits add some
    ids = torch.randint(1, 30, (3, 9))
    trained = student(ids).logits
    compressor.finish()
    assert torch.equal(student(ids).logits, trained)
    for name, layer in compressible(student):
        expected = before[name].sign() * (before[name].abs() - 0.6 * before[name].square().mean().sqrt()).clamp(min=0)
        if bits is None:
            assert torch.allclose(layer.weight, expected)
        assert not layer.weight[expected == 0].any()


def test_masks_change_in_the_first_stage_only_and_exponents_always(make_student) -> None:
    student = make_student()
    compressor = Compressor(student, 0.5, "layer", 4)
    assert compressor.zeros < 0.2 and not compressor.settled(60, 100)
    compressor.choose(1.0)
    layer = student.layers[0].query
    masks, units = (step for step in layer.parametrizations.weight)
    kept, unit = masks.kept.clone(), units.unit.clone()
    compressor.first_stage = False
    with torch.no_grad():
        layer.parametrizations.weight.original.copy_(random_weight(3, 16, 16) * 5)
    step_of(compressor, 0, 100)
    assert compressor.settled(0, 100)
    assert torch.equal(masks.kept, kept) and not torch.equal(units.unit, unit)


def step_of(compressor: Compressor, step: int, steps: int) -> None:
    compressor.on_step_begin(None, TrainerState(global_step=step, max_steps=steps), TrainerControl())


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 10, 16, 17, 20, 100])
@pytest.mark.parametrize("asked", [{"share": 0.5}, {"penalty": 0.6}])
def test_what_was_asked_for_is_reached_in_any_number_of_steps(make_student, asked: dict, steps: int) -> None:
    """And held from then on, although weights go on changing: an epoch that ends earlier is not settled."""
    student = make_student()
    compressor, expected = Compressor(student, **asked), Compressor(make_student(), **asked)
    expected.choose(1.0)
    layer = student.layers[0].query
    settled = None
    for step in range(steps):
        step_of(compressor, step, steps)
        zero = layer.weight == 0
        if compressor.settled(step + 1, steps):
            settled = zero if settled is None else settled
            assert torch.equal(zero, settled)
            assert compressor.zeros == pytest.approx(expected.zeros, abs=0.005)
            if "share" in asked:
                with torch.no_grad():  # where masks were chosen anew, others would go
                    layer.parametrizations.weight.original.copy_(random_weight(step, 16, 16))
    assert settled is not None and not compressor.settled(last_change(steps), steps)
    assert last_change(steps) >= END * steps or last_change(steps) == steps - 1


@pytest.mark.parametrize("penalty", [0.6, 1.0, 0.3])
def test_a_penalty_goes_on_where_the_start_has_it(make_student, penalty: float) -> None:
    """Of a start with zeros these stay, and the weights it has left are not shrunk once more."""
    student = make_student(hidden_size=64, intermediate_size=128)
    before = {name: layer.weight.detach().clone() for name, layer in compressible(student)}
    first = Compressor(student, penalty=0.6)
    first.choose(1.0)
    zeros = first.finish()
    assert zeros is not None and zeros > 0.4
    start = {name: layer.weight.detach().clone() for name, layer in compressible(student)}
    then = Compressor(student, penalty=penalty)
    then.choose(0.0)
    for name, layer in compressible(student):
        assert torch.allclose(layer.weight, start[name], atol=1e-6)
        assert torch.equal(layer.weight == 0, start[name] == 0)
        with torch.no_grad():  # a step of training of whatever sign does not make a 0 another number
            layer.parametrizations.weight.original.add_(1e-3 * torch.randn_like(layer.weight))
    assert then.zeros == pytest.approx(zeros, abs=0.01)
    then.choose(1.0)
    if penalty < 0.6:
        assert then.zeros > zeros - 0.03  # from where it is 0 a weight has to move to come back
        return
    at_once = [(w.abs() <= penalty * w.square().mean().sqrt()).float().mean() for w in before.values()]
    assert then.zeros == pytest.approx(float(torch.stack(at_once).mean()), abs=0.03)


def test_embeddings_and_readout_stay_as_they_are(make_student) -> None:
    student = make_student()
    names = [name for name, _ in compressible(student)]
    assert len(names) == 12 and "classifier" not in names
    before = student.classifier.weight.clone()
    Compressor(student, 0.9, "global", 1).choose(1.0)
    assert torch.equal(student.classifier.weight, before)
    assert isinstance(student.classifier, nn.Linear) and not parametrize.is_parametrized(student.classifier)
