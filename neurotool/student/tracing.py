"""A torch student as a `neurotool.validate.Model`: every spike of one input, stepped through its schedule."""

import contextlib
import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from neurotool.graph import Neuron
from neurotool.student.emission import Membranes, Recorded, WindowSpikes
from neurotool.student.neurons import RunningRate
from neurotool.student.student import Student
from neurotool.validate import Inputs, Run


class RoundedToFloat32(TorchFunctionMode):
    """float64 operations whose results are rounded to float32: for + - * / that is float32 arithmetic, for sums it is
    what does not depend on their order. Attention, fused in the student, is rounded after each of its parts."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            with self:
                return _attention(*args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float64:
            rounded = result.float()
            if not torch.equal(rounded.double(), result):
                result.copy_(rounded)  # in place, for operations that are
        return result


def _attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor, dropout_p: float) -> Tensor:
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return scores.masked_fill(~attn_mask, -torch.inf).softmax(-1) @ value


class StudentModel:
    """dtype: torch.float64, or torch.float32 as `simulate` means it: every operation in float64, its result rounded to
    float32. as_used: float32 as torch computes it, with fused attention, when the student is evaluated; needs no dtype.
    Weights and thresholds stay the values they have in the student.
    """

    @torch.no_grad()
    def __init__(
        self,
        student: Student,
        dtype: torch.dtype = torch.float64,
        as_used: bool = False,
    ) -> None:
        self.rounding = RoundedToFloat32 if dtype == torch.float32 and not as_used else contextlib.nullcontext
        self.graph = student.to_graph()
        self.student = copy.deepcopy(student).eval()
        for layer in self.student.neuron_layers.values():
            # exp(log_gain) is a little different in another precision: keep the product.
            layer.base = layer.v_threshold.clone()
            layer.log_gain.zero_()
        self.dtype = torch.float32 if as_used else torch.float64
        self.student.to(self.dtype)

    @torch.inference_mode()
    def run(self, inputs: Inputs) -> Run:
        with self.rounding():
            return self._run(inputs)

    def _run(self, inputs: Inputs) -> Run:
        student = self.student
        batch = {name: torch.as_tensor(np.asarray(value))[None] for name, value in inputs.items()}
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        current = student.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
        steps, rates, last = self._phased(current, mask) if self._is_phased else self._concurrent(current, mask)
        logits = student.readout(last, mask)
        return Run(
            spikes={name: self._record(name, torch.cat([step[name] for step in steps])[:, 0]) for name in rates},
            rates={name: _array(rate)[0] for name, rate in rates.items()},
            logits=_array(logits)[0],
        )

    @torch.inference_mode()
    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        with self.rounding():
            return self._drive(layer, torch.as_tensor(currents, dtype=self.dtype))

    def _drive(self, layer: str, current: Tensor) -> np.ndarray:
        neurons = self.student.neuron_layers[layer]
        if self._is_phased:
            window = WindowSpikes(self.student.config.time_steps)
            window(neurons, current)
            return self._record(layer, window.spikes[layer])
        membranes = Membranes()
        steps = [membranes(neurons, current) for _ in range(self.student.config.time_steps)]
        return self._record(layer, torch.stack(steps))

    def _record(self, layer: str, spikes: Tensor) -> np.ndarray:
        node = self.graph.nodes[layer]
        assert isinstance(node, Neuron)
        return _array(spikes).astype(node.spike_type)

    @property
    def _is_phased(self) -> bool:
        return self.student.config.schedule == "phased"

    def _phased(self, current: Tensor, mask: Tensor) -> "_Trace":
        sweep, steps = self.student._sweep(current, mask), []
        state: Any = None
        for _ in range(self.graph.feedback_sweeps):
            windows = WindowSpikes(self.student.config.time_steps)
            recorded = Recorded(windows)
            state = sweep(recorded, state)
            steps.append(windows.spikes)
        return steps, recorded.rates, state

    def _concurrent(self, current: Tensor, mask: Tensor) -> "_Trace":
        sweep, membranes, state, steps = self.student._sweep(current, mask), Membranes(), None, []
        average = RunningRate(self.student.readout_leak)
        for _ in range(self.student.config.time_steps):
            state = sweep(membranes, state)
            average.add(state)
            steps.append({name: spikes[None] for name, spikes in membranes.last_spikes.items()})
        return steps, membranes.rates, average.value


_Trace = tuple[list[dict[str, Tensor]], dict[str, Tensor], Tensor]
"""Spikes (T, 1, tokens, width) of each sweep, or each step with T = 1; the last rates; what the readout pools."""


def _array(tensor: Any) -> np.ndarray:
    return tensor.cpu().numpy()
