"""What the neuron layers of a network did on a set of inputs, in whole numbers: all that operation counts need."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from neurotool.errors import DataError


@dataclass
class LayerActivity:
    """Spikes (nonzero, whatever their sign) of one neuron layer, summed over steps, neurons and inputs.

    neurons: width of the layer. spikes: sent by tokens that are not padding; padding_spikes: by padding.
    spikes_times_tokens: sum over inputs of its spikes times its tokens, which attention products over this layer cost.
    by_position: spikes of the tokens at position 0, 1, …; from_end: of the last token of each input, the one before …;
    padding being on the right.
    per_neuron: spikes of each neuron, (neurons,); only where asked for, and not stored in checkpoints.
    active: the same sums of neurons that sent any spike, each counted once for each window: the T steps of a window in
      the phased schedule, the whole run in the concurrent one. None in records that do not say.
    """

    neurons: int
    spikes: int = 0
    spikes_times_tokens: int = 0
    padding_spikes: int = 0
    by_position: list[int] = field(default_factory=list)
    from_end: list[int] = field(default_factory=list)
    per_neuron: np.ndarray | None = field(default=None, compare=False)
    active: "LayerActivity | None" = None

    def add(self, per_token: np.ndarray, mask: np.ndarray, per_neuron: np.ndarray | None = None) -> None:
        """per_token: spikes of each token, whole numbers (inputs, tokens); mask: True for tokens, False for padding;
        what is active is added to `active` by itself."""
        real = np.where(mask, per_token, 0).astype(np.int64)
        per_input = real.sum(1)
        self.spikes += int(per_input.sum())
        self.spikes_times_tokens += int(per_input @ mask.sum(1))
        self.padding_spikes += int(per_token.sum()) - int(per_input.sum())
        _add_to(self.by_position, real.sum(0))
        at = np.maximum(mask.sum(1)[:, None] - 1 - np.arange(mask.shape[1]), 0)
        _add_to(self.from_end, np.bincount(at.ravel(), real.ravel(), mask.shape[1]).astype(np.int64))
        if per_neuron is not None:
            self.per_neuron = per_neuron if self.per_neuron is None else self.per_neuron + per_neuron


def _add_to(totals: list[int], more: np.ndarray) -> None:
    totals += [0] * (len(more) - len(totals))
    for i, spikes in enumerate(more.tolist()):
        totals[i] += spikes


@dataclass
class Activity:
    """Activity of a network on texts whose lengths `lengths` counts: tokens of an input -> number of such inputs.

    steps: time steps in which each neuron layer was updated, per input: T, times the sweeps where there is feedback.
    padding: tokens of padding that the batches held, left out of everything else.
    fed_back: per node that reads a later layer, the spikes it received (all but the last pass's).
    entered: per Input that spikes, its spikes.
    pooled: per pool of spikes, of how many inputs and windows each of its sums had any, in the pool's shape; only where
      it was measured, and not stored.
    """

    time_steps: int
    steps: int
    lengths: Counter[int] = field(default_factory=Counter)
    padding: int = 0
    layers: dict[str, LayerActivity] = field(default_factory=dict)
    fed_back: dict[str, LayerActivity] = field(default_factory=dict)
    entered: dict[str, LayerActivity] = field(default_factory=dict)
    pooled: dict[str, np.ndarray] = field(default_factory=dict, compare=False)

    @property
    def inputs(self) -> int:
        return sum(self.lengths.values())

    @property
    def tokens(self) -> int:
        return sum(length * count for length, count in self.lengths.items())

    @property
    def token_pairs(self) -> int:
        """Sum over inputs of tokens squared: attention works on pairs of tokens."""
        return sum(length**2 * count for length, count in self.lengths.items())

    def pairs_at(self, distance: int) -> int:
        """Sum over inputs of the pairs of tokens that lie `distance` apart: each weight of a convolution works on those
        at its own."""
        return sum(count * max(length - abs(distance), 0) for length, count in self.lengths.items())

    def tokens_at(self, position: int) -> int:
        """Number of inputs that have a token at `position`."""
        return sum(count for length, count in self.lengths.items() if length > position)

    def add_inputs(self, mask: np.ndarray) -> None:
        """mask: (inputs, tokens), True for tokens, False for padding."""
        self.lengths.update(mask.sum(1).tolist())
        self.padding += int(mask.size - mask.sum())

    def rate(self, name: str) -> float:
        """Spikes per neuron, token and time step of a layer."""
        layer = self.layers[name]
        return layer.spikes / (self.tokens * layer.neurons * self.steps)

    @property
    def mean_rate(self) -> float:
        """Spikes per neuron, token and time step over all layers; 0 for a network without neurons."""
        if not self.layers:
            return 0.0
        neurons = sum(layer.neurons for layer in self.layers.values())
        return sum(layer.spikes for layer in self.layers.values()) / (self.tokens * neurons * self.steps)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the derived figures are for readers and not read back."""
        layers = {name: _plain(layer) | {"rate": self.rate(name)} for name, layer in self.layers.items()}
        return {
            "time_steps": self.time_steps,
            "steps": self.steps,
            "lengths": {str(length): count for length, count in sorted(self.lengths.items())},
            "padding": self.padding,
            "layers": layers,
            "fed_back": {name: _plain(layer) for name, layer in self.fed_back.items()},
            "entered": {name: _plain(layer) for name, layer in self.entered.items()},
            "inputs": self.inputs,
            "tokens": self.tokens,
            "token_pairs": self.token_pairs,
            "mean_rate": self.mean_rate,
        }

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> "Activity":
        """Raises DataError for a record that lacks what `to_dict` writes, as those of older checkpoints do, holds what
        is no count, or contradicts itself."""
        try:
            made = cls(
                time_steps=record["time_steps"],
                steps=record["steps"],
                lengths=Counter({int(length): count for length, count in record["lengths"].items()}),
                padding=record["padding"],
                layers={name: _layer(layer) for name, layer in record["layers"].items()},
                fed_back={name: _layer(layer) for name, layer in record["fed_back"].items()},
                entered={name: _layer(layer) for name, layer in record.get("entered", {}).items()},
            )
            made.check()
            derived = made.to_dict()
            differing = [name for name in derived if _differ(derived[name], record.get(name, derived[name]))]
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as error:
            raise DataError(f"the record of the network's activity has no usable {error}") from error
        if differing:
            raise DataError(f"the record of the network's activity contradicts itself in {differing[0]}")
        return made

    def check(self) -> None:
        """Raises ValueError for counts that no network can have."""
        _counts("time_steps and steps", [self.time_steps, self.steps], 1)
        _counts("padding", [self.padding])
        _counts("lengths", [*self.lengths, *self.lengths.values()], 1)
        if self.steps % self.time_steps or not self.lengths:
            raise ValueError(
                f"lengths or steps: {self.steps} steps of {self.time_steps} time steps, {self.inputs} inputs"
            )
        for name, layer in (self.layers | self.fed_back).items():
            _counts(f"neurons of {name}", [layer.neurons], 1)
            positions = layer.by_position + layer.from_end
            _counts(f"spikes of {name}", [layer.spikes, layer.spikes_times_tokens, layer.padding_spikes, *positions])
            most = self.tokens * layer.neurons * self.steps
            shortest, longest = min(self.lengths), max(self.lengths)
            if layer.spikes > most or any(x and sum(x) != layer.spikes for x in (layer.by_position, layer.from_end)):
                raise ValueError(f"spikes of {name}: {layer.spikes} of at most {most}, and as many by position")
            if not layer.spikes * shortest <= layer.spikes_times_tokens <= layer.spikes * longest:
                raise ValueError(f"spikes_times_tokens of {name}: {layer.spikes_times_tokens}")
            # A spike p tokens behind the first and q before the last is one of a text of p + q + 1 tokens.
            told = layer.spikes + sum(i * n for x in (layer.by_position, layer.from_end) for i, n in enumerate(x))
            if layer.by_position and layer.from_end and layer.spikes_times_tokens != told:
                raise ValueError(f"spikes_times_tokens of {name}: {layer.spikes_times_tokens}, by position {told}")


def _counts(what: str, values: list[int], least: int = 0) -> None:
    for value in values:
        if type(value) is not int or not least <= value <= 2**62:
            raise ValueError(f"{what}: {value!r} is no whole number from {least} on")


def _differ(derived: Any, stored: Any) -> bool:
    """Names that a record lacks do not count: it may be older."""
    if isinstance(derived, dict) and isinstance(stored, dict):
        return any(_differ(value, stored.get(name, value)) for name, value in derived.items())
    return type(derived) is not type(stored) or derived != stored


_STORED = ("neurons", "spikes", "spikes_times_tokens", "padding_spikes", "by_position")


def _plain(layer: LayerActivity) -> dict[str, Any]:
    active = {} if layer.active is None else {"active": _plain(layer.active)}
    return {name: getattr(layer, name) for name in (*_STORED, "from_end")} | active


def _layer(record: dict[str, Any]) -> LayerActivity:
    """Records without `from_end` are of networks without convolutions, which alone need it."""
    active = _layer(record["active"]) if "active" in record else None
    stored = {name: record[name] for name in _STORED}
    return LayerActivity(**stored, from_end=record.get("from_end", []), active=active)
