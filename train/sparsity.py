"""Messages as something training reaches on purpose: events per synapse, and the weight that steers them to a target.

A message is one neuron with a count other than 0 in its window. It costs its fan-out: the synaptic operations it
causes. Events per synapse are the operations of all messages over the multiply-accumulates of the dense twin.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import datasets
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from neurotool.evaluation import batches
from neurotool.graph import Conv1d, Graph, Linear, MatMul, Neuron, Readout
from neurotool.student import Student

GAIN = 0.05
"""Change of the logarithm of the penalty's weight a step, per relative distance of the density from its aim."""
DAMPING = 2.0
"""Of the same distance in the weight itself: what keeps the weight from overshooting while the student follows."""
START, LIMITS = 1.0, (-4.0, 8.0)
"""Of the logarithm of the weight."""
FASTER = 30.0
"""How much faster thresholds learn than weights do: they decide how many messages are sent. At the same rate a few
hundred steps move a threshold by a tenth."""


@dataclass(frozen=True)
class Sender:
    """A neuron layer. Each message reaches `fixed` targets, and `per_token` for each token of the text."""

    width: int
    fixed: int = 0
    per_token: int = 0


class Synapses:
    """Of a phased student without feedback, read from its layer graph: what messages cost, and what there is."""

    def __init__(self, graph: Graph) -> None:
        shapes = graph.shapes()
        neurons = (name for name, node in graph.nodes.items() if isinstance(node, Neuron))
        self.senders = {name: Sender(int(shapes[name][-1])) for name in neurons}
        self.per_text = self.per_token = self.per_pair = 0
        for name, node in graph.nodes.items():
            for source in graph.inputs[name]:
                sender = self.senders.get(source)
                if sender and isinstance(node, (Linear, Conv1d)):
                    self.senders[source] = replace(sender, fixed=sender.fixed + len(node.weight))
                elif sender and isinstance(node, MatMul):
                    self.senders[source] = replace(sender, per_token=sender.per_token + 1)
            if isinstance(node, MatMul):
                self.per_pair += int(shapes[graph.source(name, "b")][-1])
            elif isinstance(node, (Linear, Conv1d)):
                self.per_token += node.weight.size
            elif isinstance(node, Readout):
                self.per_text += node.weight.size

    def operations(self, messages: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Synaptic operations of the messages of each layer, (batch, tokens), on all texts together; padding costs
        nothing."""
        tokens, costs = mask.sum(1), []
        for name, sent in messages.items():
            sender = self.senders[name]
            costs.append((sent * mask).sum(1) * (sender.fixed + sender.per_token * tokens))
        return torch.stack(costs).sum()

    def total(self, tokens: Tensor) -> Tensor:
        """Multiply-accumulates of the dense twin for each text of so many tokens."""
        return self.per_text + self.per_token * tokens + self.per_pair * tokens**2


class Density:
    """Events per synapse of the batches given, and the share of neurons that send, for each kind of layer."""

    def __init__(self, synapses: Synapses) -> None:
        self.synapses = synapses
        self.operations = self.total = torch.zeros((), dtype=torch.float64)
        self.active: dict[str, Tensor] = {}
        self.neurons: dict[str, Tensor] = {}

    def add(self, rates: Mapping[str, Tensor], mask: Tensor) -> "Density":
        """rates: of every layer, or its counts, (batch, tokens, width)."""
        sent = {name: rate.detach().count_nonzero(-1) for name, rate in rates.items()}
        self.operations = self.operations + self.synapses.operations(sent, mask)
        self.total = self.total + self.synapses.total(mask.sum(1)).sum()
        for name, active in sent.items():
            kind, zero = name.split(".")[-1], mask.new_zeros(())
            self.active[kind] = self.active.get(kind, zero) + (active * mask).sum()
            self.neurons[kind] = self.neurons.get(kind, zero) + mask.sum() * self.synapses.senders[name].width
        return self

    @property
    def events_per_synapse(self) -> Tensor:
        return self.operations / self.total

    @property
    def shown(self) -> dict[str, Tensor]:
        shares = {f"active_{kind}": active / self.neurons[kind] for kind, active in self.active.items()}
        return {"events_per_synapse": self.events_per_synapse} | shares


@torch.inference_mode()
def measure_density(
    student: Student, synapses: Synapses, texts: datasets.Dataset, tokenizer: PreTrainedTokenizerBase
) -> dict[str, float]:
    """What `Density` shows of the student in use."""
    training, density = student.training, Density(synapses)
    student.eval()
    for _, batch in batches(texts, tokenizer, 64, student.device):
        output = student(**batch, output_rates=False, output_spike_counts=True)
        density.add(output.spike_counts, batch["attention_mask"])
    student.train(training)
    return {name: float(value) for name, value in density.shown.items()}


class EventTarget(nn.Module):
    """A penalty on the soft count of messages, whose weight is adapted until the exact count reaches `target`.

    The aim falls from the density at the start to `target` while `progress`, a share of the first stage, goes to 1/2;
    `done` after that stage. The buffers are state: they are saved, and a resumed run goes on with them.
    """

    log_weight: Tensor
    start: Tensor
    progress: Tensor

    def __init__(self, synapses: Synapses, target: float) -> None:
        super().__init__()
        self.synapses, self.target, self.done = synapses, target, False
        self.log_weight = nn.Buffer(torch.tensor(START))
        self.start = nn.Buffer(torch.zeros(()))
        self.progress = nn.Buffer(torch.zeros(()))

    @property
    def aim(self) -> Tensor:
        return self.start + (self.target - self.start) * (2 * self.progress).clamp(max=1)

    def forward(
        self, messages: Mapping[str, Tensor], rates: Mapping[str, Tensor], mask: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The penalty, and what to show. Adapts the weight."""
        soft = self.synapses.operations(messages, mask) / self.synapses.total(mask.sum(1)).sum()
        density = Density(self.synapses).add(rates, mask)
        return self._weight(density.events_per_synapse.float()) * soft, density.shown

    @torch.no_grad()
    def _weight(self, density: Tensor) -> Tensor:
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(density)
            density /= torch.distributed.get_world_size()
        self.start.copy_(torch.where(self.start == 0, density.clamp(min=self.target), self.start))
        off = ((density - self.aim) / self.aim).clamp(-1, 1)
        self.log_weight.add_(GAIN * off).clamp_(*LIMITS)
        return (self.log_weight + DAMPING * off).exp()


class RisingPenalty(nn.Module):
    """On the rates of the feed-forward part with --activation relu, after ProSparse (arXiv 2402.13516): its weight
    rises along half a wave of a sine over the first half of the first stage, so that the network can follow."""

    progress: Tensor

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight, self.done = weight, False
        self.progress = nn.Buffer(torch.zeros(()))

    def forward(self, rates: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """weight * mean rate over the neurons of real tokens."""
        wide = [rate for name, rate in rates.items() if name.endswith(".intermediate")]
        mean = torch.stack([(rate.abs().mean(-1) * mask).sum() / mask.sum() for rate in wide]).mean()
        return self.weight / 2 * (1 - torch.cos(torch.pi * (2 * self.progress).clamp(max=1))) * mean


@torch.no_grad()
def shift_relu(student: Student, levels: float) -> None:
    """ProSparse's last step, without training: neurons of the feed-forward part send their first spike so many levels
    later, and each further one as much. Its FATReLU leaves larger values alone, which a bias cannot."""
    for name, module in student.named_modules():
        if name.endswith(".intermediate") and isinstance(module, nn.Linear):
            neurons = student.neuron_layers[f"{name.replace('layers.', 'encoder.')}"]
            module.bias.sub_(levels / student.config.time_steps * neurons.v_threshold)


class Ramp(TrainerCallback):
    """Tells a penalty how far the first stage is; in later ones it stays as it was at the end of that."""

    def __init__(self, events: EventTarget | RisingPenalty) -> None:
        self.events = events

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.events.progress.fill_(max(float(self.events.done), state.global_step / state.max_steps))


def split_thresholds(optimizer: torch.optim.Optimizer, student: Student) -> None:
    """Give the thresholds of `student` a learning rate of their own, FASTER times as high, without weight decay."""
    gains = [layer.log_gain for layer in student.neuron_layers.values() if layer.log_gain.requires_grad]
    ids, first = {id(gain) for gain in gains}, optimizer.param_groups[0]
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in ids]
    rest = {name: value for name, value in first.items() if name != "params"}
    optimizer.add_param_group(rest | {"params": gains, "weight_decay": 0.0, "lr": FASTER * first["lr"]})
