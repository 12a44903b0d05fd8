"""Configuration of the SpikingBERT student."""

from typing import Any, Literal, get_args

from transformers import BertConfig

from neurotool.errors import ConfigError
from neurotool.student.neurons import NeuronDynamics, Reset, Spikes

Schedule = Literal["phased", "concurrent"]
Pooling = Literal["mean", "cls"]


class SpikingBertConfig(BertConfig):
    """BERT's shape plus the dynamics of its neurons.

    time_steps: T, steps of a neuron layer's window (phased) or of the whole simulation (concurrent).
    schedule: phased (layers emit in turn, each in its own window, exact) or concurrent (the paper's).
    v_threshold: firing threshold all neuron layers start from; learn_v_threshold trains one gain per neuron layer.
    v_init: potential at the start of a window, in units of the threshold.
    feedback: adds W_fb * (last layer's rate) to the input current; phased runs `feedback_sweeps` sweeps of windows.
    pooling: token rates the classifier reads: their mean, or the first ([CLS]) as in the paper.
    """

    model_type = "spikingbert"

    num_hidden_layers: int = 4
    hidden_dropout_prob: float | int = 0.0
    attention_probs_dropout_prob: float | int = 0.0
    time_steps: int = 4
    schedule: str = "phased"
    spikes: str = "binary"
    leak: float | int = 1.0
    reset: str = "soft"
    v_threshold: float | int = 1.0
    learn_v_threshold: bool = False
    v_init: float | int = 0.0
    feedback: bool = False
    feedback_sweeps: int = 4
    pooling: str = "mean"

    @property
    def dynamics(self) -> NeuronDynamics:
        spikes: Spikes = self.spikes  # type: ignore[assignment]
        reset: Reset = self.reset  # type: ignore[assignment]
        return NeuronDynamics(spikes, self.leak, reset, self.v_init)

    def check(self) -> None:
        """Raises ConfigError for values no student can be built from."""
        _ = self.dynamics
        _at_least("time_steps", self.time_steps, 1)
        _at_least("feedback_sweeps", self.feedback_sweeps, 1)
        _at_least("num_hidden_layers", self.num_hidden_layers, 1)
        _at_least("num_attention_heads", self.num_attention_heads, 1)
        _one_of("schedule", self.schedule, get_args(Schedule))
        _one_of("pooling", self.pooling, get_args(Pooling))
        if not 0 < self.v_threshold < float("inf"):
            raise ConfigError(f"v_threshold is {self.v_threshold}: it must be a positive number")
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}: "
                "change one of them"
            )


def _at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ConfigError(f"{name} is {value}: it must be at least {minimum}")


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(known)}")
