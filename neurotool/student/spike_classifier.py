"""A network that reads spikes and answers from an integrator: Linear and CubaLIF (or LIF) layers, then Linear and LI.

Every node of it is one of NIR's and runs on chips as it is. A recording is (steps, channels), one step a time step; the
answer is the readout's potential, which can be read after any step and is read after the last.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast

import torch
from torch import Tensor, nn

from neurotool.checkpoint import Checkpoint
from neurotool.errors import CheckpointError, one_line
from neurotool.graph import Graph, GraphBuilder, Input
from neurotool.header import check_spike_classifier
from neurotool.streams import LOGITS, STEPS_PER_TOKEN
from neurotool.student.building import linear_node
from neurotool.student.dynamics import CubaLIFLayer, LIReadout, decayed
from neurotool.student.neurons import Reset
from neurotool.tasks import Task

INPUT, READOUT = "spikes", "readout"


@dataclass(frozen=True)
class SpikeClassifierConfig:
    """channels: of the recordings; time_steps: T, of a recording. tau_syn, tau_mem: time constants in steps of synaptic
    currents and of potentials, which stay as they are or, with learn_…, are where learning starts; tau_syn None: LIF
    neurons, which have no current. per_channel: what is learned is learned for every neuron, else once a layer, as
    Lava's LIF has it. time_step: length of a step in the recordings' unit of time, None where they count steps.
    """

    model_type: ClassVar[str] = "streaming"
    input: ClassVar[str] = "spikes"

    channels: int
    time_steps: int
    num_labels: int
    hidden_size: int = 128
    num_hidden_layers: int = 1
    tau_syn: float | None = 10.0
    learn_tau_syn: bool = True
    tau_mem: float = 10.0
    learn_tau_mem: bool = True
    v_threshold: float = 1.0
    learn_v_threshold: bool = True
    per_channel: bool = False
    reset: Reset = "hard"
    time_step: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"model_type": self.model_type, "input": self.input} | asdict(self)


class SpikeOutput(NamedTuple):
    """logits: (batch, labels); spikes: of each neuron layer, (batch, steps, width)."""

    logits: Tensor
    spikes: dict[str, Tensor]


class SpikingLayer(nn.Module):
    def __init__(self, name: str, width: int, config: SpikeClassifierConfig) -> None:
        super().__init__()
        self.name = name
        self.linear = nn.Linear(width, config.hidden_size, bias=False)
        self.neurons = CubaLIFLayer(
            config.hidden_size,
            reset=config.reset,
            synapse=config.tau_syn is not None,
            per_channel=config.per_channel,
            learn_tau_syn=config.learn_tau_syn,
            learn_tau_mem=config.learn_tau_mem,
            learn_threshold=config.learn_v_threshold,
            tau_syn=config.tau_syn or 1.0,
            tau_mem=config.tau_mem,
            v_threshold=config.v_threshold,
        )

    def potentials(self, spikes: Tensor) -> Tensor:
        """What the potentials would be if the neurons did not fire."""
        drive = self.linear(spikes) / self.neurons.v_threshold
        drive = drive if self.neurons.synapse is None else decayed(drive, self.neurons.synapse())
        return decayed(drive, self.neurons.membrane())


class SpikeClassifier(nn.Module):
    def __init__(self, config: SpikeClassifierConfig) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels] + [config.hidden_size] * (config.num_hidden_layers - 1)
        self.layers = nn.ModuleList(SpikingLayer(f"encoder.{i}", width, config) for i, width in enumerate(widths))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.integrator = LIReadout(config.num_labels, tau=20.0)

    @property
    def spiking_layers(self) -> list[SpikingLayer]:
        return [cast(SpikingLayer, layer) for layer in self.layers]

    def forward(self, spikes: Tensor) -> SpikeOutput:
        """spikes: (batch, steps, channels)."""
        sent: dict[str, Tensor] = {}
        for layer in self.spiking_layers:
            spikes, _ = layer.neurons(layer.linear(spikes))
            sent[layer.name] = spikes
        return SpikeOutput(self.integrator(self.classifier(spikes))[0][:, -1], sent)

    @torch.no_grad()
    def fit(self, spikes: Tensor) -> None:
        """Scale the weights of each layer so that its potentials on these recordings deviate by a threshold, did they
        not fire: else neurons are silent, or fire in every step, and learn nothing (as Mishkin and Matas 2016 do for
        activations, arXiv 1511.06422)."""
        for layer in self.spiking_layers:
            layer.linear.weight.div_(layer.potentials(spikes).std().clamp(min=1e-6))
            spikes, _ = layer.neurons(layer.linear(spikes))
        potentials = self.integrator(self.classifier(spikes))[0][:, -1]
        self.classifier.weight.div_(potentials.std().clamp(min=1e-6))

    def to_graph(self) -> Graph:
        """Raises GraphError where weights are not finite."""
        build = GraphBuilder()
        s = build.add(INPUT, Input((self.config.channels,), spiking=True))
        for layer in self.spiking_layers:
            current = build.add(f"{layer.name}.linear", linear_node(layer.linear), s)
            s = build.add(layer.name, layer.neurons.node(), current)
        answer = build.add(f"{READOUT}.linear", linear_node(self.classifier), s)
        answer = build.add(READOUT, self.integrator.node(), answer)
        step = {} if self.config.time_step is None else {"time_step": self.config.time_step}
        return build.build(
            time_steps=self.config.time_steps,
            schedule="concurrent",
            outputs={LOGITS: answer},
            metadata={"model_type": self.config.model_type, STEPS_PER_TOKEN: 1, **step},
        )


def to_checkpoint(student: SpikeClassifier, task: Task, training: dict[str, Any]) -> Checkpoint:
    return Checkpoint(
        tensors={name: tensor.detach().float().cpu().numpy() for name, tensor in student.state_dict().items()},
        config=student.config.to_dict(),
        tokenizer={},
        labels=list(task.label_names),
        training=training | {"task": asdict(task)},
    )


def reads_spikes(checkpoint: Checkpoint) -> bool:
    return checkpoint.config.get("input") == SpikeClassifierConfig.input


def load_spike_classifier(path: str | Path, checkpoint: Checkpoint) -> SpikeClassifier:
    """The student of a checkpoint that reads spikes. Raises CheckpointError for a header that describes none or
    contradicts itself, and for tensors that are not its own."""
    try:
        check_spike_classifier(checkpoint)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    known = {field.name for field in fields(SpikeClassifierConfig)}
    config = SpikeClassifierConfig(**{name: x for name, x in checkpoint.config.items() if name in known})
    try:
        with torch.device("meta"):
            wanted = {name: tuple(tensor.shape) for name, tensor in SpikeClassifier(config).state_dict().items()}
    except Exception as error:
        raise CheckpointError(f"{path}: its configuration is not valid: {one_line(error)}") from error
    held = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    for name in sorted(wanted.keys() | held.keys()):
        if wanted.get(name) != held.get(name):
            raise CheckpointError(
                f"{path}: tensor {name} has shape {held.get(name)}, its configuration asks for {wanted.get(name)}"
            )
    student = SpikeClassifier(config)
    student.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in checkpoint.tensors.items()})
    return student.eval()
