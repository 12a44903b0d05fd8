"""Do two models send the same spikes? Layer by layer, on the same inputs, and neuron by neuron at its threshold."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from itertools import tee
from typing import Any

import numpy as np

from neurotool.at_threshold import try_neurons
from neurotool.errors import ConfigError
from neurotool.executor import Executor, Inputs, Run, Simulation, runs
from neurotool.graph import Embedding, Graph, Input, Neuron, Readout
from neurotool.graph.graded import levels


@dataclass(frozen=True)
class Difference:
    """Where two models part; a and b: the spikes sent there. Counted from 0."""

    layer: str
    input: int
    step: int
    token: int
    neuron: int
    a: int
    b: int


@dataclass
class LayerComparison:
    """spikes_a, spikes_b: |spikes| of tokens that are not padding; compared: neurons x tokens x steps x inputs; rates:
    neurons x tokens x inputs; late: steps that B was moved by, which sends that much later."""

    spikes_a: int = 0
    spikes_b: int = 0
    compared: int = 0
    differing: int = 0
    rates: int = 0
    sum_of_rate_differences: float = 0.0
    max_rate_difference: float = 0.0
    first_difference: Difference | None = None
    late: int = 0

    @property
    def agreement(self) -> float:
        return 1 - self.differing / self.compared if self.compared else 1.0

    @property
    def mean_rate_difference(self) -> float:
        return self.sum_of_rate_differences / self.rates if self.rates else 0.0


@dataclass
class OutputComparison:
    """What a node of `Graph.analog` gave in both: real numbers, every one of every step. largest: |value|."""

    values: int = 0
    sum_of_differences: float = 0.0
    sum_of_values: float = 0.0
    max_difference: float = 0.0
    largest: float = 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        difference, size = np.abs(a - b), np.maximum(np.abs(a), np.abs(b))
        self.values += difference.size
        self.sum_of_differences += float(difference.sum())
        self.sum_of_values += float(size.sum())
        self.max_difference = float(np.maximum(self.max_difference, difference.max()))  # keeps what is no number
        self.largest = float(np.maximum(self.largest, size.max()))

    @property
    def relative_difference(self) -> float:
        """Mean |difference| as a share of the mean |value|."""
        return self.sum_of_differences / self.sum_of_values if self.sum_of_differences else 0.0


@dataclass
class Comparison:
    """problems: why the models differ, one line each; empty where they agree within the tolerance.

    decided: whether anything was compared that could have differed: without it there is a problem, and no verdict.
    quantised: one of the two, and only one, is a fixed-point network. counted: one sends spikes and the other their
    counts in each window, which are what is compared.
    """

    tolerance: float
    quantised: bool = False
    counted: bool = False
    inputs: int = 0
    layers: dict[str, LayerComparison] = field(default_factory=dict)
    outputs: dict[str, OutputComparison] = field(default_factory=dict)
    decided: bool = True
    first_difference: Difference | None = None
    max_logit_difference: float | None = None
    predictions_agreeing: int | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        layers = {
            name: asdict(layer) | {"agreement": layer.agreement, "mean_rate_difference": layer.mean_rate_difference}
            for name, layer in self.layers.items()
        }
        return asdict(self) | {"layers": layers, "passed": self.passed}

    @property
    def silent(self) -> list[str]:
        """Neuron layers that sent nothing in either: what drives them was not compared."""
        return [name for name, layer in self.layers.items() if not layer.spikes_a + layer.spikes_b]


QUANTISED_TOLERANCE = 0.2


class CountedWindows:
    """An executor whose windows are counted: each neuron sends the sum of its spikes of T steps in one. So it is held
    against one of graded messages."""

    def __init__(self, spiking: Executor) -> None:
        self.spiking, self.time_steps = spiking, spiking.graph.time_steps
        self.graph = replace(spiking.graph, time_steps=1)

    def run(self, *inputs: Any, **named: Any) -> Run:
        run = self.spiking.run(*inputs, **named)
        run.spikes = {name: self._counted(x.swapaxes(0, 1)).swapaxes(0, 1) for name, x in run.spikes.items()}
        return run

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        return self._counted(self.spiking.drive(layer, currents))

    def _counted(self, spikes: np.ndarray) -> np.ndarray:
        return spikes.reshape(-1, self.time_steps, *spikes.shape[1:]).sum(1, dtype=np.int32)


def _alike(a: Executor, b: Executor) -> tuple[Executor, Executor]:
    """Both in messages, where one sends spikes and the other the counts of as many steps."""
    for_a, for_b = levels(a.graph), levels(b.graph)
    if for_a is None and for_b == a.graph.time_steps and a.graph.schedule == "phased":
        return CountedWindows(a), b
    if for_b is None and for_a == b.graph.time_steps and b.graph.schedule == "phased":
        return a, CountedWindows(b)
    return a, b


def compare(
    a: Executor,
    b: Executor,
    inputs: Iterable[Inputs],
    tolerance: float | None = None,
    rounding: float = 1e-9,
    at_once: int = 1,
) -> Comparison:
    """Run both on every input. Padding should be among the inputs, else a wrong mask goes unseen.

    tolerance: the largest share of a layer's spikes that may differ, and the largest |difference| of a rate or logit;
    0 asks for the same spikes everywhere, and for neurons that do the same at their threshold. Where just one of the
    two is a fixed-point network single spikes need not agree: then it is the largest mean |difference| of a layer's
    rates, and the largest share of predictions that may differ. Default: 0, or QUANTISED_TOLERANCE.
    rounding: what rates and logits may differ by in any case, relative to the larger of 1 and the logits.
    at_once: inputs of one length that run together.
    Spikes are held against graded messages by their counts in each window.
    Networks that have nothing to compare are not run: one problem says so.
    Raises ConfigError (tolerance), DataError (inputs that do not fit).
    """
    quantised = bool(a.graph.fixed_point) != bool(b.graph.fixed_point)
    if tolerance is None:
        tolerance = QUANTISED_TOLERANCE if quantised else 0.0
    if not 0 <= tolerance < 1:
        raise ConfigError(f"tolerance is {tolerance}: it must be in [0, 1)")
    given = (a, b)
    a, b = _alike(*given)
    result = Comparison(tolerance, quantised, counted=(a, b) != given)
    if different := _different_networks(a.graph, b.graph):
        result.problems.append(different)
        return result
    result.problems += _structure(a.graph, b.graph)
    result.layers = {name: LayerComparison() for name in _common_layers(a.graph, b.graph)}
    result.outputs = {name: OutputComparison() for name in _common_outputs(a.graph, b.graph)}
    scale = 1.0
    inputs_a, inputs_b = tee(inputs)
    for (one, run_a), (_, run_b) in zip(runs(a, inputs_a, at_once), runs(b, inputs_b, at_once), strict=True):
        mask = one.get("attention_mask") if a.graph.has_tokens else None
        for name, layer in result.layers.items():
            _compare_layer(layer, name, result.inputs, run_a, run_b, mask, a.graph.has_tokens)
        for name, output in result.outputs.items():
            if name in run_a.analog and name in run_b.analog:
                output.add(*(_of_tokens(run.analog[name], mask) for run in (run_a, run_b)))
        scale = max(scale, _compare_logits(result, run_a.logits, run_b.logits))
        result.inputs += 1
    if not result.inputs:
        raise ConfigError("no inputs to compare on: give at least one")
    if nothing := nothing_compared(result):
        result.decided = False
        result.problems.append(f"{nothing}: no verdict")
    result.first_difference = first_difference(result, a.graph)
    result.problems += _far_apart(result) if quantised else beyond(result, rounding, scale)
    if tolerance == 0 and not quantised:
        result.problems += [problem for name in result.layers if (problem := try_neurons(a, b, name))]
    return result


def _common_layers(a: Graph, b: Graph) -> list[str]:
    """Neuron layers of the same name and shape."""
    shapes_a, shapes_b, layers_b = a.shapes(), b.shapes(), b.of_type(Neuron)
    return [name for name in a.of_type(Neuron) if name in layers_b and shapes_a[name] == shapes_b[name]]


def _common_outputs(a: Graph, b: Graph) -> list[str]:
    """Outputs of the same name and shape."""
    shapes_a, shapes_b = a.shapes(), b.shapes()
    return [name for name in a.analog if name in b.analog and shapes_a[name] == shapes_b[name]]


def nothing_compared(result: Comparison) -> str:
    """Why two networks that agree have not been shown to be alike; empty where they have."""
    if result.layers:
        return "nothing fired" if len(result.silent) == len(result.layers) else ""
    given = any(output.values for output in result.outputs.values()) or result.max_logit_difference is not None
    return "" if given else "neither network has neurons or outputs"


def _of_tokens(x: np.ndarray, mask: Any) -> np.ndarray:
    """The values (steps, [heads,] tokens, …) of tokens that are not padding; (steps, width) has no tokens."""
    if mask is None or x.ndim < 3:
        return x
    real = np.asarray(mask).astype(bool)
    return x[:, real] if x.ndim == 3 else x[:, :, real][..., real]


def _different_networks(a: Graph, b: Graph) -> str:
    """One sentence where a comparison layer by layer would say nothing; else empty."""
    layers_a, layers_b = len(a.of_type(Neuron)), len(b.of_type(Neuron))
    if (layers_a or layers_b) and not _common_layers(a, b):
        return (
            f"different networks: none of A's {layers_a} neuron layers has the name and shape of one of B's {layers_b}"
        )
    reads_a, reads_b = _reads(a), _reads(b)
    if reads_a != reads_b:
        return f"different networks: A reads {reads_a}, B reads {reads_b}"
    return ""


def _reads(graph: Graph) -> str:
    values = [f"values of {name} ({node.width})" for name, node in graph.nodes.items() if isinstance(node, Input)]
    tokens = ["tokens"] if graph.of_type(Embedding) else []
    return _listing(sorted(tokens + values))


def _listing(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", … ({len(names)} in all)" if len(names) > 3 else "")


def _structure(a: Graph, b: Graph) -> list[str]:
    """Differences that need no run."""
    problems = [
        f"{name} is {getattr(a, name)} in A, {getattr(b, name)} in B"
        for name in ("time_steps", "schedule", "feedback_sweeps", "labels")
        if getattr(a, name) != getattr(b, name)
    ]
    outputs_a, outputs_b = _outputs(a), _outputs(b)
    if outputs_a != outputs_b:
        problems.append(f"the readout has {outputs_a} outputs in A, {outputs_b} in B")
    layers_a, layers_b = a.of_type(Neuron), b.of_type(Neuron)
    shapes_a, shapes_b, common = a.shapes(), b.shapes(), _common_layers(a, b)
    problems += _outputs_apart(a, b)
    apart = {
        "only in A": [name for name in layers_a if name not in layers_b],
        "only in B": [name for name in layers_b if name not in layers_a],
        "of another shape": [
            f"{name} ({_shape(shapes_a[name])} in A, {_shape(shapes_b[name])} in B)"
            for name in layers_a
            if name in layers_b and name not in common
        ],
    }
    problems += [f"neuron layers {how}: {_listing(names)}" for how, names in apart.items() if names]
    if sorted(layers_a) == sorted(layers_b) and layers_a != layers_b:
        first = next(i for i, (x, y) in enumerate(zip(layers_a, layers_b, strict=True)) if x != y)
        problems.append(f"neuron layers emit in another order: {layers_a[first]} in A where {layers_b[first]} is in B")
    return problems


def _outputs_apart(a: Graph, b: Graph) -> list[str]:
    common = _common_outputs(a, b)
    apart = {
        "only in A": [name for name in a.analog if name not in b.analog],
        "only in B": [name for name in b.analog if name not in a.analog],
        "of another shape": [name for name in a.analog if name in b.analog and name not in common],
    }
    return [f"outputs {how}: {_listing(names)}" for how, names in apart.items() if names]


def _shape(shape: tuple[object, ...]) -> str:
    return " x ".join(map(str, shape))


def _outputs(graph: Graph) -> int:
    return sum(len(node.weight) for node in graph.nodes.values() if isinstance(node, Readout))


def _compare_layer(
    layer: LayerComparison, name: str, i: int, run_a: Simulation, run_b: Simulation, mask: Any, tokens_axis: bool
) -> None:
    a, b = run_a.spikes[name], run_b.spikes[name]
    rates = run_a.rates[name], run_b.rates[name]
    if not tokens_axis:
        a, b = (spikes.reshape(len(spikes), 1, -1) for spikes in (a, b))
        rates = rates[0].reshape(1, -1), rates[1].reshape(1, -1)
    steps, tokens = min(len(a), len(b)), a.shape[1]
    real = np.ones(tokens, bool) if mask is None else np.asarray(mask).astype(bool)
    a, b = a[:steps, real], b[:steps, real]
    places = np.argwhere(a != b)
    layer.spikes_a += int(np.abs(a).sum())
    layer.spikes_b += int(np.abs(b).sum())
    layer.compared += a.size
    layer.differing += len(places)
    if len(places) and layer.first_difference is None:
        step, token, neuron = (int(k) for k in places[0])
        values = int(a[step, token, neuron]), int(b[step, token, neuron])
        layer.first_difference = Difference(name, i, step, int(np.flatnonzero(real)[token]), neuron, *values)
    difference = np.abs(rates[0][real] - rates[1][real])
    layer.rates += difference.size
    layer.sum_of_rate_differences += float(difference.sum())
    layer.max_rate_difference = max(layer.max_rate_difference, float(difference.max()))


def _compare_logits(result: Comparison, a: np.ndarray | None, b: np.ndarray | None) -> float:
    """Returns the largest |logit|. Readouts of different size are a matter of _structure."""
    if a is None or b is None or a.shape != b.shape:
        return 0.0
    result.max_logit_difference = float(np.maximum(result.max_logit_difference or 0.0, np.abs(a - b).max()))
    if len(a) > 1:
        result.predictions_agreeing = (result.predictions_agreeing or 0) + int(a.argmax() == b.argmax())
    return float(np.abs(a).max())


def first_difference(result: Comparison, graph: Graph) -> Difference | None:
    """The earliest: in the phased schedule the first layer's, in the concurrent one the first step's."""
    found = [layer.first_difference for layer in result.layers.values() if layer.first_difference]
    if graph.schedule == "concurrent":
        found.sort(key=lambda difference: difference.step)  # stable: then in order of emission
    return found[0] if found else None


def beyond(result: Comparison, rounding: float, scale: float, floor: float = 1.0) -> list[str]:
    """Problems. rounding: relative to the largest value of an output, at least `floor`, and to `scale` for logits."""
    problems = []
    for name, layer in result.layers.items():
        if layer.differing > result.tolerance * layer.compared:
            problems.append(f"{name}: {layer.differing} of {layer.compared} spikes differ")
        elif layer.max_rate_difference > result.tolerance + rounding:
            problems.append(f"{name}: rates differ by up to {layer.max_rate_difference:.3g}")
    for name, output in result.outputs.items():
        if not output.values:
            problems.append(f"{name}: the output could not be compared")
        elif not output.max_difference <= result.tolerance + rounding * max(floor, output.largest):
            problems.append(f"{name}: outputs differ by up to {output.max_difference:.3g}")
    if not (result.max_logit_difference or 0.0) <= result.tolerance + rounding * scale:
        problems.append(f"logits differ by up to {result.max_logit_difference:.3g}")
    return problems


def _far_apart(result: Comparison) -> list[str]:
    """For a fixed-point network and one with real parameters."""
    problems = [
        f"{name}: rates differ by {layer.mean_rate_difference:.3g} on average"
        for name, layer in result.layers.items()
        if layer.mean_rate_difference > result.tolerance
    ]
    problems += [
        f"{name}: outputs differ by {output.relative_difference:.3g} of their mean size"
        for name, output in result.outputs.items()
        if not output.values or not output.relative_difference <= result.tolerance
    ]
    if result.predictions_agreeing is not None:
        differing = result.inputs - result.predictions_agreeing
        if differing > result.tolerance * result.inputs:
            problems.append(f"{differing} of {result.inputs} predictions differ")
    return problems
