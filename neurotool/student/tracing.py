"""A torch student as an executor: every spike of every input, stepped through its schedule."""

import contextlib
import copy
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from neurotool.errors import DataError
from neurotool.executor import Record, Run, joined, sent_in_passes, unstacked
from neurotool.graph import Delay, Neuron
from neurotool.streams import DRIVEN_STEPS, INPUT
from neurotool.student.dynamics import Decay
from neurotool.student.emission import Membranes, NeuronLayer, Recorded, WindowSpikes
from neurotool.student.neurons import RunningRate
from neurotool.student.streaming import READOUT, StreamingForSequenceClassification
from neurotool.student.student import Student


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


class TorchExecutor:
    """dtype: torch.float64, or torch.float32 as `simulate` means it: every operation in float64, its result rounded to
    float32. as_used: float32 as torch computes it, with fused attention, when the student is evaluated; needs no dtype.
    time_steps: another T. Weights and thresholds stay the values they have in the student.
    """

    @torch.no_grad()
    def __init__(
        self,
        student: Student,
        dtype: torch.dtype = torch.float64,
        as_used: bool = False,
        time_steps: int | None = None,
    ) -> None:
        self.rounding = RoundedToFloat32 if dtype == torch.float32 and not as_used else contextlib.nullcontext
        self.student = copy.deepcopy(student).eval()
        self.student.config.time_steps = time_steps or student.config.time_steps
        self.graph = self.student.to_graph()
        for layer in self.student.neuron_layers.values():
            # exp(log_gain) is a little different in another precision: keep the product.
            layer.base = layer.v_threshold.clone()
            layer.log_gain.zero_()
        self.dtype = torch.float32 if as_used else torch.float64
        self.student.to(self.dtype)

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
    ) -> Run:
        """Input after input, so that a batch decides no rounding: see `Executor.run`."""
        if input_ids is None:
            raise DataError("input_ids are missing: the student reads tokens")
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        rows = unstacked(batch)
        with self.rounding(), torch.inference_mode():
            run = joined([self._run(**one) for one in rows])
        real = np.ones(np.shape(input_ids), bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
        return run.count_events(self.graph, batch, real).keep(record)

    def _run(self, input_ids: np.ndarray, **others: np.ndarray) -> Run:
        student = self.student
        batch = {name: torch.as_tensor(array)[None] for name, array in {"input_ids": input_ids, **others}.items()}
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        current = student.embeddings(input_ids=batch["input_ids"], token_type_ids=batch.get("token_type_ids"))
        traced = self._phased(current, mask) if self._is_phased else self._concurrent(current, mask)
        spikes = {
            name: self._record(name, torch.cat([step[name] for step in traced.steps])).swapaxes(0, 1)
            for name in traced.rates
        }
        passes = self.graph.feedback_sweeps if self._is_phased else self.graph.time_steps
        return Run(
            logits=_array(student.readout(traced.last, mask)),
            rates={name: _array(rate) for name, rate in traced.rates.items()},
            spikes=spikes,
            potentials={name: _array(u) for name, u in traced.potentials.items()},
            sent={name: sent_in_passes(self._neuron(name).events(x), passes) for name, x in spikes.items()},
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
        return _array(spikes).astype(self._neuron(layer).spike_type)

    def _neuron(self, layer: str) -> Neuron:
        node = self.graph.nodes[layer]
        assert isinstance(node, Neuron)
        return node

    @property
    def _is_phased(self) -> bool:
        return self.student.config.schedule == "phased"

    def _phased(self, current: Tensor, mask: Tensor) -> "_Trace":
        sweep, steps = self.student._sweep(current, mask), []
        state: Any = None
        for _ in range(self.graph.feedback_sweeps):
            windows = _Windows(self.student.config.time_steps)
            recorded = Recorded(windows)
            state = sweep(recorded, state)
            steps.append(windows.spikes)
        return _Trace(steps, recorded.rates, windows.potentials, state)

    def _concurrent(self, current: Tensor, mask: Tensor) -> "_Trace":
        sweep, membranes, state, steps = self.student._sweep(current, mask), Membranes(), None, []
        average = RunningRate(self.student.readout_leak)
        for _ in range(self.student.config.time_steps):
            state = sweep(membranes, state)
            average.add(state)
            steps.append({name: spikes[None] for name, spikes in membranes.last_spikes.items()})
        return _Trace(steps, membranes.rates, membranes.potentials, average.value)


class StreamExecutor:
    """The same of a student that reads tokens in time: currents in, step by step, for as many steps as there are."""

    @torch.no_grad()
    def __init__(
        self,
        student: StreamingForSequenceClassification,
        dtype: torch.dtype = torch.float64,
        as_used: bool = False,
    ) -> None:
        self.rounding = RoundedToFloat32 if dtype == torch.float32 and not as_used else contextlib.nullcontext
        self.dtype = torch.float32 if as_used else torch.float64
        self.student = copy.deepcopy(student).eval()
        self.student.finish()
        self.student.config.time_steps = 1
        self.graph = self.student.to_graph()
        for decay in self.student.modules():
            if isinstance(decay, Decay):  # a sigmoid is a little different in another precision: keep what it gives
                kept, decay.logit = decay().detach(), None
                decay.kept = kept.to(self.dtype)
        self.student.to(self.dtype)

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
    ) -> Run:
        """Input after input, so that a batch decides no rounding: see `Executor.run`."""
        if not values or INPUT not in values:
            raise DataError(f"values for Input {INPUT} are missing: the student reads currents")
        with self.rounding(), torch.inference_mode():
            run = joined([self._run(torch.as_tensor(np.asarray(x)).to(self.dtype)) for x in values[INPUT]])
        return run.count_events(self.graph, {"values": values}, np.ones((len(values[INPUT]), 1), bool)).keep(record)

    def _run(self, currents: Tensor) -> Run:
        sent: dict[str, list[Tensor]] = {}
        state, answers = None, []
        for current in currents:
            logits, state = self.student.step_current(
                current[None], state, lambda n, s: sent.setdefault(n, []).append(s)
            )
            answers.append(logits)
        assert state is not None
        spikes = {name: _array(torch.stack(steps, 1)).astype(np.int8) for name, steps in sent.items()}
        return Run(
            rates={name: self._rate(name, x) for name, x in spikes.items()},
            spikes=spikes,
            potentials={name: _array(state.neurons[name].u) for name in spikes},
            sent={name: sent_in_passes(x, len(currents), has_tokens=False) for name, x in spikes.items()},
            analog={READOUT: _array(torch.stack(answers, 1))} | self._delayed(spikes),
        )

    def _delayed(self, spikes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What taps read, (1, steps, width)."""
        found = {}
        for name in self.graph.of_type(Delay):
            sent = spikes[self.graph.source(name, "x")]
            late = int(cast(Delay, self.graph.nodes[name]).steps)
            found[name] = np.pad(sent, ((0, 0), (late, 0), (0, 0)))[:, : sent.shape[1]]
        return found

    def _rate(self, name: str, spikes: np.ndarray) -> np.ndarray:
        node = self.graph.nodes[name]
        assert isinstance(node, Neuron)
        weights = node.emission_weights(spikes.shape[1])
        return (spikes * weights).sum(1)

    @torch.inference_mode()
    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        x = torch.as_tensor(np.asarray(currents)).to(self.dtype)
        with self.rounding():
            spikes, _ = self.student.neuron_layers[layer](x[:, None].expand(-1, DRIVEN_STEPS, -1))
        return _array(spikes).astype(np.int8).swapaxes(0, 1)


class _Windows(WindowSpikes):
    """Keeps what each window leaves in its neurons, too."""

    def __init__(self, time_steps: int) -> None:
        super().__init__(time_steps)
        self.potentials: dict[str, Tensor] = {}

    def __call__(self, neurons: NeuronLayer, current: Tensor) -> Tensor:
        rate = super().__call__(neurons, current)
        potential = neurons.dynamics.potential(neurons.drive(current), self.spikes[neurons.name], self.time_steps)
        self.potentials[neurons.name] = potential
        return rate


class _Trace(NamedTuple):
    """steps: spikes (T, 1, tokens, width) of each sweep, or each step with T = 1; the last rates and potentials; last:
    what the readout pools."""

    steps: list[dict[str, Tensor]]
    rates: dict[str, Tensor]
    potentials: dict[str, Tensor]
    last: Tensor


def _array(tensor: Any) -> np.ndarray:
    return tensor.cpu().numpy()
