"""Distillation losses (SpikingBERT, after TinyBERT). Each is a mean within every text over its real tokens, then a mean
over texts, so that neither padding nor the split of a batch over processes changes it."""

import torch
from torch import Tensor


def hidden_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE of hidden states. student, teacher: (batch, tokens, width); mask: (batch, tokens), 1 = token."""
    per_token = (student.float() - teacher.float()).square().mean(-1)
    return _mean_per_text(per_token * mask, mask.sum(1))


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """MSE of pre-softmax attention scores over pairs of real tokens; both (batch, heads, tokens, tokens).

    Scores count up to a constant per query: the softmax does not see it, and the shift of a student's keys
    (initialise.py) changes it.
    """
    pairs = mask[:, :, None] * mask[:, None, :]
    difference = (student.float() - teacher.float()) * pairs[:, None]
    constant = difference.sum(-1, keepdim=True) / mask.sum(1)[:, None, None, None]
    squared = (difference - constant).square().mean(1)
    return _mean_per_text((squared * pairs).sum(-1), mask.sum(1).square())


def relation_loss(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """How alike the tokens of a text are to each other, in their queries, keys or values (MiniLMv2, arXiv 2012.15828,
    equation 5): the Kullback-Leibler divergence of the student's relations from the teacher's, over tokens and heads.
    Both (batch, heads, tokens, head width), of any width.

    Unlike there, vectors count up to a constant and a factor a head: the shift and the threshold of a student's
    neurons, which are folded into the weights around them (initialise.py).
    """
    theirs, ours = _relations(teacher, mask), _relations(student, mask)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean(1)
    return _mean_per_text(divergence * mask, mask.sum(1))


def _relations(x: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the softmax over real tokens of scaled products, (batch, heads, tokens, tokens)."""
    real = mask[:, None, :, None]
    x = x.float() * real
    tokens = mask.sum(1)[:, None, None, None]
    x = (x - x.sum(2, keepdim=True) / tokens) * real
    x = x * (x.square().sum((2, 3), keepdim=True) / (tokens * x.shape[-1]) + 1e-12).rsqrt()
    products = x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5
    return products.masked_fill(mask[:, None, None] == 0, torch.finfo(products.dtype).min).log_softmax(-1)


def _mean_per_text(values: Tensor, counts: Tensor) -> Tensor:
    return (values.sum(-1) / counts).mean()


def soft_label_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Cross-entropy against the teacher's softened distribution, or MSE of scores where there is one output."""
    return _soft_labels(student, teacher, temperature).mean()


def prefix_loss(answers: Tensor, teacher: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
    """`soft_label_loss` of the answer after every token, answers: (batch, tokens, labels), against the teacher's to the
    whole text (batch, labels); each counts as much as the share of the text that it has read."""
    each = _soft_labels(answers, teacher[:, None].expand_as(answers), temperature)
    read = mask.cumsum(1) * mask
    return _mean_per_text(each * read, read.sum(1))


def _soft_labels(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Of each answer: (…,) of logits (…, labels)."""
    if student.shape[-1] == 1:
        return (student.float() - teacher.float()).square().squeeze(-1)
    target = torch.softmax(teacher.float() / temperature, -1)
    return -(target * torch.log_softmax(student.float() / temperature, -1)).sum(-1) * temperature**2
