"""Parameters that integers hold exactly, so that the network which export writes is the one that was trained.

What is left between the two are softmax, norm and GELU, which export then computes to the last bits of a message
(lava_runtime/precise.py): a student on this grid sends nearly the same spikes in both (docs/fixed_point.md).
"""

import torch
from torch import Tensor, nn

from neurotool.errors import ConfigError
from neurotool.graph.fixed_point import row_mantissas
from neurotool.student import SpikingBertForSequenceClassification, Student
from neurotool.student.configuration import StudentConfig

PARAMETER_BITS = 16
"""Of embeddings and LayerNorm's weight; export's."""
NORM_BITS = 16
"""Fraction of a LayerNorm's bias, in units of its largest weight, up to a power of two; export's is no shorter."""
THRESHOLD_BITS = 12
"""Significant bits of a threshold: units of a potential are finer where thresholds are of the size of their drives."""


def check_grid(config: StudentConfig) -> None:
    """Raises ConfigError for a student whose neurons the integers can only approximate."""
    if config.model_type != "spikingbert" or config.schedule != "phased" or not config.dynamics.has_closed_form:
        raise ConfigError(
            "--integer-aware: needs student spikingbert, schedule phased, leak 1 and soft reset, whose windows "
            "integers compute exactly; leave it out"
        )


@torch.no_grad()
def to_grid(student: Student) -> None:
    """Round all parameters but for the matrices between neuron layers, which training has in integers already
    (quantisation.py), and the readout, which no spike depends on."""
    assert isinstance(student, SpikingBertForSequenceClassification)
    for name, module in student.named_modules():
        if isinstance(module, nn.Embedding):
            module.weight.copy_(_rounded(module.weight, _unit(module.weight)))
        elif isinstance(module, nn.LayerNorm):
            unit = _unit(module.weight)
            module.weight.copy_(_rounded(module.weight, unit))
            module.bias.copy_(_rounded(module.bias, unit * 2.0 ** (PARAMETER_BITS - 1 - NORM_BITS)))
        elif isinstance(module, nn.Linear) and name != "classifier" and module.bias is not None:
            _, lowest, _ = row_mantissas(module.weight.cpu().double().numpy())
            module.bias.copy_(_rounded(module.bias, 2.0**lowest / student.config.time_steps))
    for layer in student.neuron_layers.values():
        threshold = layer.v_threshold.double()
        units = 2.0 ** (threshold.log2().floor() + 1 - THRESHOLD_BITS)
        rounded = (threshold / units).round() * units
        if layer.log_gain.ndim:
            layer.log_gain.copy_((rounded / layer.base.double()).log())
        else:
            layer.base.copy_(rounded)
            layer.log_gain.zero_()


def _unit(weight: Tensor) -> float:
    """The power of two in which the largest weight has PARAMETER_BITS bits."""
    largest = weight.abs().max().double() / (2 ** (PARAMETER_BITS - 1) - 1)
    return 2.0 ** float(largest.log2().ceil()) if largest > 0 else 1.0


def _rounded(x: Tensor, unit: float) -> Tensor:
    return (x.double() / unit).round() * unit
