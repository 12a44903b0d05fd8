"""Sparse and short weights in training: which matrices, when masks and exponents change, and the plain student at the
end. The matrices are those between neuron layers; embeddings are looked up, and the readout is small."""

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neurotool.student import Student
from neurotool.student.spike_classifier import SpikeClassifier
from neurotool.train.pruning import Pruned, Shrunk, last_change, prune, sparsity
from neurotool.train.quantisation import Quantised

EVERY = 10
"""Steps between two choices of masks and exponents."""


class Compressor(TrainerCallback):
    """Makes the weights of a student sparse or short. Masks change until `last_change` of the first stage, which brings
    the share that was asked for however few steps there are; exponents change in all stages. Both depend on the step
    alone, so that a resumed run chooses the same.

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

    @property
    def makes_zeros(self) -> bool:
        return self.share is not None or self.penalty is not None

    def settled(self, step: int, steps: int) -> bool:
        """Whether masks and thresholds are those asked for after `step` of the stage's `steps`."""
        return not self.makes_zeros or not self.first_stage or step > last_change(steps)

    def choose(self, progress: float, held: bool = False) -> None:
        """Masks, unless they are held, and exponents for the weights as they are, `progress` being the share of the
        stage that is done."""
        originals = {name: layer.parametrizations.weight.original for name, layer in self.layers.items()}
        masks, shrunk, exponents = (self._steps(kind) for kind in (Pruned, Shrunk, Quantised))
        if self.share is not None and not held:
            prune(originals, masks, sparsity(progress, self.start, self.share), self.scope)
        if self.penalty is not None and not held:
            for step in shrunk.values():
                step.threshold.copy_(sparsity(progress, step.start, self.penalty) * step.root)
        for name, quantised in exponents.items():
            quantised.choose((masks | shrunk)[name](originals[name]) if masks or shrunk else originals[name])

    def _steps(self, kind: type[Any]) -> dict[str, Any]:
        steps = ((name, step) for name, layer in self.layers.items() for step in layer.parametrizations.weight)
        return {name: step for name, step in steps if isinstance(step, kind)}

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        step, last = state.global_step, last_change(state.max_steps)
        if self.layers and (step % EVERY == 0 or step == last):
            done = 1.0 if step == last else step / state.max_steps
            self.choose(done, held=step > last or not self.first_stage)

    def finish(self) -> float | None:
        """Leave plain weights with the values that the student was trained and measured with. Returns the share of
        zeros where these were asked for."""
        for layer in self.layers.values():
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        return self.zeros if self.makes_zeros else None


def compressible(student: Student | SpikeClassifier) -> Iterator[tuple[str, nn.Linear | nn.Conv1d]]:
    for name, module in student.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv1d)) and module is not student.classifier:
            yield name, module
