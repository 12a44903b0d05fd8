"""Weights of few bits, quantised as they are trained: integers of `bits` bits times a power of two for each output
channel, which is what export writes (export/lower.py)."""

import torch
from torch import Tensor, nn

from neurotool.student.neurons import substitute

SPREAD = 8
"""Largest difference between the exponents of one matrix's output channels; export's."""
DEPTH = 4
"""How far below the first exponent that holds all of a row the one with the smallest error is looked for."""


class Quantised(nn.Module):
    """weight -> mantissa * 2^exponent, mantissas in -limit … limit; of 1 bit the sign. The gradient passes straight
    through. Zero stays zero.

    unit: 2^exponent of each row, as chosen by the last `choose`.
    """

    unit: Tensor

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.limit = max(2 ** (bits - 1) - 1, 1)
        self.unit = nn.Buffer(torch.ones(len(weight), *[1] * (weight.ndim - 1)))
        self.choose(weight)

    def mantissas(self, weight: Tensor, unit: Tensor) -> Tensor:
        if self.bits == 1:
            return weight.sign()
        return (weight / unit).round().clamp(-self.limit, self.limit)  # exact: unit is a power of two

    @torch.no_grad()
    def choose(self, weight: Tensor) -> None:
        """The exponent of each row with the smallest squared error; the largest of equally good ones."""
        rows = weight.detach().flatten(1)
        largest = rows.abs().amax(1, keepdim=True)
        largest = torch.maximum(largest, largest.max() * 2.0**-SPREAD).clamp(min=2.0**-100)
        first = (largest / self.limit).log2().ceil()
        units = [_power_of_two(first - k) for k in range(DEPTH + 1)]
        errors = torch.stack([(self.mantissas(rows, u) * u - rows).square().sum(1, keepdim=True) for u in units])
        chosen = first - errors.argmin(0)
        chosen = torch.maximum(chosen, chosen.max() - SPREAD)
        self.unit.copy_(_power_of_two(chosen).view_as(self.unit))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            quantised = self.mantissas(weight, self.unit) * self.unit
        return substitute(weight, quantised)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


def _power_of_two(exponent: Tensor) -> Tensor:
    """Exact on every device, which exp2 need not be."""
    return ((exponent.to(torch.int32) + 127) << 23).view(torch.float32)
