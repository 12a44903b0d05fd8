"""Distillation losses: hand-computed numbers, and what they must not depend on."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from neurotool.train.losses import attention_loss, hidden_loss, prefix_loss, relation_loss, soft_label_loss


def test_hidden_loss_by_hand() -> None:
    """Text 1: (1 + 9)/2 and (0 + 4)/2 over its two tokens; text 2: (16 + 0)/2 over its one token."""
    student = torch.tensor([[[1.0, 3.0], [0.0, 2.0]], [[4.0, 0.0], [99.0, 99.0]]])
    mask = torch.tensor([[1, 1], [1, 0]])
    assert hidden_loss(student, torch.zeros(2, 2, 2), mask).item() == ((5 + 2) / 2 + 8) / 2


def test_attention_loss_by_hand() -> None:
    """One head, two real keys. Rows (0, 4) and (3, 1) differ from their means 2 and 2 by 2 and 1."""
    student = torch.tensor([[[[0.0, 4.0, 50.0], [3.0, 1.0, -7.0], [8.0, 8.0, 8.0]]]])
    mask = torch.tensor([[1, 1, 0]])
    assert attention_loss(student, torch.zeros(1, 1, 3, 3), mask).item() == (4 + 4 + 1 + 1) / 4
    two_heads = torch.cat([student, torch.zeros_like(student)], 1)
    assert attention_loss(two_heads, torch.zeros(1, 2, 3, 3), mask).item() == 2.5 / 2


def test_a_constant_per_query_is_no_attention_loss() -> None:
    scores = torch.randn(2, 2, 5, 5, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    shifted = scores + torch.randn(2, 2, 5, 1, dtype=torch.float64)
    assert attention_loss(shifted, scores, mask).item() == pytest.approx(0, abs=1e-12)
    key_mask = mask[:, None, None].bool()
    attention = (s.masked_fill(~key_mask, -math.inf).softmax(-1) for s in (shifted, scores))
    torch.testing.assert_close(*attention)


def test_relation_loss_by_hand() -> None:
    """One head of width 1, two real tokens at x and -x (already centred): scaled to 1 and -1, a token's relations are
    e and 1/e over their sum. A constant vector has none: 1/2 each."""
    teacher = torch.tensor([[[[3.0], [-3.0], [50.0]]]])
    mask = torch.tensor([[1, 1, 0]])
    share = math.e / (math.e + 1 / math.e)
    wanted = share * math.log(2 * share) + (1 - share) * math.log(2 * (1 - share))
    assert relation_loss(torch.ones(1, 1, 3, 1), teacher, mask).item() == pytest.approx(wanted, rel=1e-6)
    assert relation_loss(teacher, teacher, mask).item() == 0


def test_shift_factor_and_width_are_no_relations() -> None:
    x = torch.randn(2, 3, 5, 4)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    same = relation_loss(0.3 * x - 2 * torch.randn(2, 3, 1, 4), x, mask)
    assert same.item() == pytest.approx(0, abs=1e-6)
    assert relation_loss(torch.randn(2, 3, 5, 4), x, mask).item() > 0.1
    assert relation_loss(torch.randn(2, 3, 5, 7), x, mask).isfinite()


def test_soft_labels_by_hand() -> None:
    """Teacher (ln 3, 0) says 3/4 and 1/4; student (0, 0) says 1/2: the cross-entropy is ln 2."""
    student, teacher = torch.zeros(1, 2), torch.tensor([[math.log(3), 0.0]])
    assert soft_label_loss(student, teacher).item() == pytest.approx(math.log(2))
    student = torch.tensor([[math.log(2), 0.0]])
    assert soft_label_loss(student, teacher).item() == pytest.approx(0.75 * math.log(3 / 2) + 0.25 * math.log(3))
    # at temperature 2 the logits are halved and the loss is multiplied by 4
    odds = math.sqrt(3)
    wanted = -4 * (odds / (1 + odds) * math.log(math.sqrt(2)) - math.log(1 + math.sqrt(2)))
    assert soft_label_loss(student, teacher, 2.0).item() == pytest.approx(wanted)


def test_soft_labels_are_smallest_at_the_teacher() -> None:
    teacher = torch.randn(4, 3)
    student = teacher.clone().requires_grad_()
    soft_label_loss(student, teacher, 3.0).backward()
    assert student.grad is not None and student.grad.abs().max() < 1e-6


def test_regression_compares_scores() -> None:
    assert soft_label_loss(torch.tensor([[1.0], [4.0]]), torch.tensor([[0.0], [2.0]]), 5.0).item() == 2.5


def test_prefix_loss_by_hand() -> None:
    """Text 1 has read 1/3 and 2/3 of the weight, text 2 has one token: errors 1 and 4, and 9; scores, and two classes
    whose logits are sure of the first and of neither."""
    scores, mask = torch.tensor([[[1.0], [2.0]], [[3.0], [99.0]]]), torch.tensor([[1, 1], [1, 0]])
    assert prefix_loss(scores, torch.zeros(2, 1), mask).item() == pytest.approx(((1 + 2 * 4) / 3 + 9) / 2)
    sure, unsure = [100.0, 0.0], [0.0, 0.0]
    answers, teacher = torch.tensor([[unsure, sure], [unsure, unsure]]), torch.tensor([sure, unsure])
    loss = prefix_loss(answers, teacher, mask).item()
    assert loss == pytest.approx((math.log(2) / 3 + 0 * 2 / 3 + math.log(2)) / 2)


def test_the_last_prefix_is_the_whole_text() -> None:
    answers, teacher = torch.randn(3, 1, 4), torch.randn(3, 4)
    loss = prefix_loss(answers, teacher, torch.ones(3, 1, dtype=torch.long), 2.0)
    torch.testing.assert_close(loss, soft_label_loss(answers[:, 0], teacher, 2.0))
    assert soft_label_loss(answers[:, 0], teacher).item() == pytest.approx(
        F.cross_entropy(answers[:, 0], teacher.softmax(-1)).item()
    )


def cases(texts: int, tokens: int) -> dict[str, tuple[Any, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(texts + 7 * tokens)
    hidden = torch.randn(2, texts, tokens, 6, generator=generator, dtype=torch.float64)
    scores = torch.randn(2, texts, 3, tokens, tokens, generator=generator, dtype=torch.float64)
    keys = torch.randn(2, texts, 3, tokens, 4, generator=generator, dtype=torch.float64)
    return {
        "hidden": (hidden_loss, *hidden),
        "attention": (attention_loss, *scores),
        "relations": (relation_loss, *keys),
    }


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(1, 4), st.integers(1, 5))
def test_losses_depend_neither_on_padding_nor_on_the_split(lengths: list[int], padding: int, cut: int) -> None:
    tokens, cut = max(lengths), min(cut, len(lengths) - 1)
    mask = (torch.arange(tokens) < torch.tensor(lengths)[:, None]).long()
    for name, (loss, student, teacher) in cases(len(lengths), tokens).items():
        whole = loss(student, teacher, mask)
        pads = (0, padding if name == "attention" else 0, 0, padding)
        padded = (F.pad(x, pads, value=9.0 + i) for i, x in enumerate((student, teacher)))
        torch.testing.assert_close(loss(*padded, F.pad(mask, (0, padding))), whole)
        parts = [
            loss(student[part], teacher[part], mask[part]) * len(mask[part]) for part in (slice(cut), slice(cut, None))
        ]
        torch.testing.assert_close(sum(parts) / len(lengths), whole)
