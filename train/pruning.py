"""Weights that are pruned, or shrunk, as they are trained: the smallest are 0 in the forward pass and still get
gradients."""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn

from neurotool.student.neurons import substitute

END = 0.6
"""Share of the stage after which the mask is held."""


class Pruned(nn.Module):
    """weight -> weight where `kept`, else 0. The gradient passes straight through, so that a weight can come back as
    long as the mask changes."""

    kept: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.kept = nn.Buffer(weight != 0)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            pruned = weight * self.kept
        return substitute(weight, pruned)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


class Shrunk(nn.Module):
    """weight -> sign(weight) (|weight| - threshold)_+: what a soft threshold leaves of it, so that small weights are 0.
    The gradient passes straight through, as in the sparse spiking networks of Chen et al. (arXiv 2105.04916) and Cai et
    al. (arXiv 2508.21566): a weight at 0 still moves, and can come back.

    A weight that has zeros at the start is taken for one that was shrunk before: it is given back what a threshold that
    makes so many of a normal distribution 0 took off it. So the first value is that of the start, its zeros come back
    only by moving that far, and the penalty goes on from where it was in place of being taken off once more.

    start: that threshold in root mean squares, 0 without zeros. root: the square root of the mean square of the weight
    at the start, before it was shrunk.
    """

    threshold: Tensor
    root: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        zeros = min(1 - int(weight.count_nonzero()) / weight.numel(), 1 - 1e-6)
        normal, self.start = NormalDist(), NormalDist().inv_cdf((1 + zeros) / 2)
        left = (1 + self.start**2) * (1 - zeros) - 2 * self.start * normal.pdf(self.start)  # of a mean square of 1
        self.root = nn.Buffer(weight.detach().square().mean().div(left).sqrt())
        self.threshold = nn.Buffer(self.start * self.root)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            shrunk = weight.sign() * (weight.abs() - self.threshold).clamp(min=0)
        return substitute(weight, shrunk)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight + weight.sign() * self.threshold


def last_change(steps: int) -> int:
    """The step of a stage, counted from 0, before which masks and thresholds change for the last time: the first one
    with END of the stage behind it, or the last one."""
    return min(math.ceil(END * steps), steps - 1)


def sparsity(progress: float, start: float, target: float) -> float:
    """Cubic schedule: fast at first, while much can go, slow at the end (Zhu and Gupta 2017, arXiv 1710.01878)."""
    done = min(progress / END, 1.0)
    return target + (start - target) * (1 - done) ** 3


@torch.no_grad()
def prune(weights: Mapping[str, Tensor], masks: Mapping[str, Pruned], share: float, scope: str) -> None:
    """Keep all but `share` of the weights with the smallest magnitude, of each matrix, or of all together (scope
    global), where magnitudes count in root mean squares of their matrix: scales of matrices are arbitrary, since
    thresholds and norms undo them."""
    magnitudes = {name: weight.detach().abs() for name, weight in weights.items()}
    if scope == "global":
        magnitudes = {name: m / m.square().mean().sqrt().clamp(min=1e-30) for name, m in magnitudes.items()}
        bounds: Sequence[Tensor] = [_bound(torch.cat([m.flatten() for m in magnitudes.values()]), share)]
        bounds = [*bounds] * len(magnitudes)
    else:
        bounds = [_bound(m.flatten(), share) for m in magnitudes.values()]
    for (name, magnitude), bound in zip(magnitudes.items(), bounds, strict=True):
        masks[name].kept.copy_(magnitude > bound)


def _bound(magnitudes: Tensor, share: float) -> Tensor:
    """The largest magnitude that goes."""
    goes = round(share * magnitudes.numel())
    return magnitudes.kthvalue(goes).values if goes else magnitudes.new_tensor(-1.0)
