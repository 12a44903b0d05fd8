"""A torch student as a `neurotool.validate.Model`: every spike of one input, stepped through its schedule."""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from neurotool.student.emission import Membranes, Recorded, WindowSpikes
from neurotool.student.spikingbert import SpikingBertForSequenceClassification
from neurotool.validate import Inputs, Run


class StudentModel:
    """dtype: of all arithmetic. Weights and thresholds stay the values they have in the student."""

    @torch.no_grad()
    def __init__(self, student: SpikingBertForSequenceClassification, dtype: torch.dtype = torch.float64) -> None:
        self.graph = student.to_graph()
        self.student = copy.deepcopy(student).eval()
        for layer in self.student.neuron_layers.values():
            # exp(log_gain) is a little different in another precision: keep the product.
            layer.base.copy_(layer.v_threshold)
            layer.log_gain.zero_()
        self.student.to(dtype)
        self.dtype = dtype

    @torch.inference_mode()
    def run(self, inputs: Inputs) -> Run:
        student = self.student
        batch = {name: torch.as_tensor(np.asarray(value))[None] for name, value in inputs.items()}
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        current = student.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
        steps, rates = self._phased(current, mask) if self._is_phased else self._concurrent(current, mask)
        logits = student.readout(rates[student.output_names[-1]], mask)
        return Run(
            spikes={name: _array(torch.cat([step[name] for step in steps]))[:, 0].astype(np.int8) for name in rates},
            rates={name: _array(rate)[0] for name, rate in rates.items()},
            logits=_array(logits)[0],
        )

    @torch.inference_mode()
    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        neurons, current = self.student.neuron_layers[layer], torch.as_tensor(currents, dtype=self.dtype)
        if self._is_phased:
            window = WindowSpikes(self.student.config.time_steps)
            window(neurons, current)
            return _array(window.spikes[layer]).astype(np.int8)
        membranes = Membranes()
        steps = [membranes(neurons, current) for _ in range(self.student.config.time_steps)]
        return _array(torch.stack(steps)).astype(np.int8)

    @property
    def _is_phased(self) -> bool:
        return self.student.config.schedule == "phased"

    def _phased(self, current: Tensor, mask: Tensor) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Spikes (T, 1, tokens, width) of each sweep, and the rates of the last."""
        sweep, state, steps = self.student._sweep(current, mask), None, []
        for _ in range(self.graph.feedback_sweeps):
            windows = WindowSpikes(self.student.config.time_steps)
            recorded = Recorded(windows)
            state = sweep(recorded, state, None)
            steps.append(windows.spikes)
        return steps, recorded.rates

    def _concurrent(self, current: Tensor, mask: Tensor) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        sweep, membranes, state, steps = self.student._sweep(current, mask), Membranes(), None, []
        for _ in range(self.student.config.time_steps):
            state = sweep(membranes, state, None)
            steps.append({name: spikes[None] for name, spikes in membranes.last_spikes.items()})
        return steps, membranes.rates


def _array(tensor: Any) -> np.ndarray:
    return tensor.cpu().numpy()
