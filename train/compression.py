"""Sparse and short weights in training: which matrices, when masks and exponents change, and the plain student at the
end. The matrices are those between neuron layers; embeddings are looked up, and the readout is small."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neurotool.student import Student
from neurotool.student.spike_classifier import SpikeClassifier
from neurotool.train.pruning import END, Pruned, Shrunk, prune, sparsity
from neurotool.train.quantisation import Quantised

EVERY = 10
"""Steps between two choices of masks and exponents."""


class Compressor(TrainerCallback):
    """Makes the weights of a student sparse or short. Masks change until `pruning.END` of the first stage, exponents in
    all stages; both depend on the step alone, so that a resumed run chooses the same.

    share: of the weights that become 0, in each matrix (scope layer) or over all of them (global). bits: of a weight.
    penalty: what is taken off every weight's size in the end, in root mean squares of its matrix at the start.
    """

    def __init__(
        self,
        student: Student | SpikeClassifier,
        share: float | None = None,
        scope: str = "layer",
        bits: int | None = None,
        penalty: float | None = None,
    ) -> None:
        self.share, self.scope, self.penalty = share, scope, penalty
        asked = any(value is not None for value in (share, bits, penalty))
        self.layers: dict[str, Any] = dict(compressible(student)) if asked else {}
        self.first_stage = True
        self.start = self.zeros
        for layer in self.layers.values():
            if share is not None:
                parametrize.register_parametrization(layer, "weight", Pruned(layer.weight))
            if penalty is not None:
                parametrize.register_parametrization(layer, "weight", Shrunk(layer.weight))
            if bits is not None:
                parametrize.register_parametrization(layer, "weight", Quantised(layer.weight, bits))

    @property
    def zeros(self) -> float:
        """Share of the weights that are 0."""
        weights = [layer.weight for layer in self.layers.values()]
        return 1 - sum(int(w.count_nonzero()) for w in weights) / max(sum(w.numel() for w in weights), 1)

    def settled(self, progress: float) -> bool:
        """Whether masks and thresholds are those asked for."""
        return (self.share is None and self.penalty is None) or not self.first_stage or progress >= END

    def choose(self, progress: float) -> None:
        """Masks and exponents for the weights as they are, `progress` being the share of the stage that is done."""
        originals = {name: layer.parametrizations.weight.original for name, layer in self.layers.items()}
        masks, shrunk, exponents = (self._steps(kind) for kind in (Pruned, Shrunk, Quantised))
        if self.share is not None and self.first_stage:
            prune(originals, masks, sparsity(progress, self.start, self.share), self.scope)
        if self.penalty is not None and self.first_stage:
            for step in shrunk.values():
                step.threshold.copy_(sparsity(progress, 0.0, self.penalty) * step.root)
        for name, quantised in exponents.items():
            quantised.choose((masks | shrunk)[name](originals[name]) if masks or shrunk else originals[name])

    def _steps(self, kind: type[Any]) -> dict[str, Any]:
        steps = ((name, step) for name, layer in self.layers.items() for step in layer.parametrizations.weight)
        return {name: step for name, step in steps if isinstance(step, kind)}

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.layers and state.global_step % EVERY == 0:
            self.choose(state.global_step / state.max_steps)

    def finish(self) -> None:
        """Leave plain weights with the values that the student was trained and measured with."""
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def compressible(student: Student | SpikeClassifier) -> Iterator[tuple[str, nn.Linear | nn.Conv1d]]:
    for name, module in student.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)) and module is not student.classifier:
            yield name, module
