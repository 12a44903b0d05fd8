"""Configurations of the students: BERT's shape plus the dynamics of their neurons."""

from typing import Any, ClassVar, Literal, get_args

from transformers import BertConfig

from neurotool.errors import ConfigError
from neurotool.student.neurons import NeuronDynamics, Reset, Spikes

Schedule = Literal["phased", "concurrent"]
Pooling = Literal["mean", "cls"]
Positions = Literal["learned", "none"]
Activation = Literal["gelu", "relu"]
MOST_BLOCKS = 63
"""Of SpikeBERT, each of which adds two spikes to a stream of counts that training keeps in a signed byte each."""


class StudentConfig(BertConfig):
    """What all students have.

    time_steps: T, steps of a neuron layer's window (phased) or of the whole simulation (concurrent).
    schedule: phased (layers emit in turn, each in its own window, exact) or concurrent (all together, step by step).
    v_threshold: firing threshold all neuron layers start from; learn_v_threshold trains one gain per neuron layer, or
      one per neuron of a layer (v_threshold_per_channel).
    v_init: potential at the start of a window, in units of the threshold.
    spikes: binary, ternary, or graded: signed counts of up to `time_steps` levels, each one message of a window of one
      step; none below `dead_zone` levels.
    pooling: tokens the classifier reads: their mean, or the first ([CLS]).
    """

    model_type = "student"
    schedules: ClassVar[tuple[str, ...]] = get_args(Schedule)
    lacks: ClassVar[tuple[str, ...]] = ()
    """Settings of a BERT that mean nothing here."""

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
    v_threshold_per_channel: bool = False
    v_init: float | int = 0.0
    dead_zone: float | int = 0.5
    pooling: str = "mean"

    @property
    def dynamics(self) -> NeuronDynamics:
        spikes: Spikes = self.spikes  # type: ignore[assignment]
        reset: Reset = self.reset  # type: ignore[assignment]
        if self.graded:
            return NeuronDynamics("ternary", self.leak, reset, self.v_init, graded=True, dead_zone=self.dead_zone)
        return NeuronDynamics(spikes, self.leak, reset, self.v_init)

    @property
    def graded(self) -> bool:
        return self.spikes == "graded"

    def check(self) -> None:
        """Raises ConfigError for values no student can be built from."""
        one_of("schedule", self.schedule, self.schedules)
        if self.graded and self.schedule != "phased":
            raise ConfigError(f"schedule is {self.schedule}: only phased windows can be sent as graded messages")
        _ = self.dynamics
        at_least("time_steps", self.time_steps, 1)
        one_of("pooling", self.pooling, get_args(Pooling))
        positive("v_threshold", self.v_threshold)
        if not self.graded and self.dead_zone != 0.5:
            raise ConfigError(f"dead_zone is {self.dead_zone}, spikes {self.spikes}: only graded messages have one")
        if self.graded and self.dead_zone > self.time_steps:
            raise ConfigError(
                f"dead_zone is {self.dead_zone}: nothing is sent below it; there are {self.time_steps} levels"
            )
        if self.v_threshold_per_channel and not self.learn_v_threshold:
            raise ConfigError("v_threshold_per_channel is True: only learned thresholds differ between channels")
        self.check_layers()

    def own_thresholds(self, width: int) -> int | None:
        """How many thresholds a layer of `width` neurons has of its own; None: one for all."""
        return width if self.v_threshold_per_channel else None

    def check_layers(self) -> None:
        at_least("num_hidden_layers", self.num_hidden_layers, 1)
        at_least("num_attention_heads", self.num_attention_heads, 1)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                f"hidden_size {self.hidden_size} is not divisible by num_attention_heads {self.num_attention_heads}: "
                "change one of them"
            )


class SpikingBertConfig(StudentConfig):
    """SpikingBERT.

    feedback: adds W_fb * (last layer's rate) to the input current; phased runs `feedback_sweeps` sweeps of windows.
    activation: of the feed-forward part. With relu there is no function: its neurons send no negative spikes, which is
      a rectifier.
    """

    model_type = "spikingbert"

    activation: str = "gelu"
    feedback: bool = False
    feedback_sweeps: int = 4

    def check(self) -> None:
        super().check()
        at_least("feedback_sweeps", self.feedback_sweeps, 1)
        one_of("activation", self.activation, get_args(Activation))

    @property
    def wide_dynamics(self) -> NeuronDynamics:
        """Of the neurons in the middle of the feed-forward part."""
        return self.dynamics if self.activation == "gelu" else self.dynamics.rectified


class SpikeBertConfig(StudentConfig):
    """SpikeBERT, and Spikformer where it is trained without a teacher. Defaults are the paper's (arXiv 2308.15122); the
    phased schedule is not, in which every layer reads the rates of whole windows.

    attention_v_threshold: of the neurons that read the attention products, in place of v_threshold.
    attention_scale: factor of those products, which no softmax bounds; with one, of the scores that it reads.
    attention_norm: a LayerNorm of those products. Without it, as in the paper, they grow with the number of tokens, and
      the neurons of a long text, such as a pair of sentences, fire at every step whatever it says.
    attention_softmax: a softmax of the scores, at every time step those of that step's spikes. Sums weigh
      each token by its coincidences, however many the others are; this can select one of many.
    positions: learned positions added to the embedding; with none, as in the paper, the order of words is not seen.
    """

    model_type = "spikebert"

    schedule: str = "concurrent"
    leak: float | int = 0.9
    attention_v_threshold: float | int = 0.25
    attention_scale: float | int = 0.125
    attention_norm: bool = False
    attention_softmax: bool = False
    positions: str = "learned"

    def check(self) -> None:
        super().check()
        positive("attention_v_threshold", self.attention_v_threshold)
        positive("attention_scale", self.attention_scale)
        one_of("positions", self.positions, get_args(Positions))
        if self.attention_norm and self.attention_softmax:
            raise ConfigError(
                "attention_norm and attention_softmax: a softmax's means need no norm; choose one of them"
            )
        if self.num_hidden_layers > MOST_BLOCKS:
            raise ConfigError(f"num_hidden_layers is {self.num_hidden_layers}: it must be at most {MOST_BLOCKS}")


class TextCnnConfig(StudentConfig):
    """SNN-TextCNN. Defaults are those of the paper and its code (arXiv 2406.19230), but for initializer_range, which is
    the classifier's: it reads means over tokens, which lie close together.

    kernel_sizes: tokens that each convolution reads. channels: of each convolution.
    """

    model_type = "snn-textcnn"
    schedules: ClassVar[tuple[str, ...]] = ("concurrent",)
    lacks: ClassVar[tuple[str, ...]] = ("num_hidden_layers", "num_attention_heads", "intermediate_size")

    num_hidden_layers: int = 0
    schedule: str = "concurrent"
    time_steps: int = 50
    initializer_range: float = 0.1
    kernel_sizes: list[int] | tuple[int, ...] = (3, 4, 5)
    channels: int = 100

    def check_layers(self) -> None:
        if self.num_hidden_layers:
            raise ConfigError(f"num_hidden_layers is {self.num_hidden_layers}: a {self.model_type} student has none")
        at_least("channels", self.channels, 1)
        if not self.kernel_sizes or min(self.kernel_sizes) < 1 or len(set(self.kernel_sizes)) < len(self.kernel_sizes):
            given = ",".join(map(str, self.kernel_sizes))
            raise ConfigError(f"kernel_sizes are {given or 'missing'}: give different numbers of at least 1")


class StreamingConfig(StudentConfig):
    """The streaming student: tokens in time.

    time_steps: steps of a token. lookahead: tokens of silence behind a text, by which the answer comes later.
    taps: earlier tokens whose spikes the neurons with a memory read directly, each by weights of its own.
    training_norm: batch norms of the currents, which training folds into the weights when it is done.
    """

    model_type = "streaming"
    schedules: ClassVar[tuple[str, ...]] = ("concurrent",)
    lacks: ClassVar[tuple[str, ...]] = (
        *("num_attention_heads", "spikes", "leak", "v_threshold", "learn_v_threshold", "v_threshold_per_channel"),
        *("v_init", "dead_zone"),
    )

    schedule: str = "concurrent"
    time_steps: int = 1
    reset: str = "hard"
    lookahead: int = 0
    taps: int = 0
    training_norm: bool = True

    def check(self) -> None:
        super().check()
        if self.pooling != "mean":
            raise ConfigError(f"pooling is {self.pooling}: a {self.model_type} student answers from an integrator")
        for name in ("lookahead", "taps"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be at least 0 tokens")

    def check_layers(self) -> None:
        at_least("num_hidden_layers", self.num_hidden_layers, 1)


class AnnConfig(StudentConfig):
    """A dense network: one pass, no neurons."""

    model_type = "ann"
    lacks: ClassVar[tuple[str, ...]] = (
        "time_steps",
        "schedule",
        "spikes",
        "leak",
        "reset",
        "v_threshold",
        "learn_v_threshold",
        "v_threshold_per_channel",
        "v_init",
        "dead_zone",
    )

    time_steps: int = 1

    def check(self) -> None:
        super().check()
        if self.time_steps != 1:
            raise ConfigError(f"time_steps is {self.time_steps}: a dense network passes once, it must be 1")


def at_least(name: str, value: int, minimum: int) -> None:
    if value < minimum:
        raise ConfigError(f"{name} is {value}: it must be at least {minimum}")


def positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} is {value}: it must be a positive number")


def one_of(name: str, value: Any, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{name} is {value!r}: choose one of {', '.join(known)}")
