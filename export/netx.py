"""Layer graph -> the HDF5 network description that lava-dl's netx loads.

netx holds chains of Dense or Conv layers with Lava's LIF: hard reset, potentials that start at 0, one threshold and one
leak a layer. Graphs of one token become Dense layers, others Conv layers over tokens, for inputs of exactly
`graph.tokens` tokens. Input spikes must be 0 or 1.

Each layer answers one step later than in the graph (Dense and Conv hold back their sums), and until then only its bias
would act. `netx.hdf5.Network(net_config=path, reset_interval=…, reset_offset=1)` resets each layer when its first input
arrives, so that layer l sends in step t + l what the graph's sends in step t, until the interval is over.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from neurotool.errors import ExportError
from neurotool.export.fit_rules import listed
from neurotool.files import write_bytes
from neurotool.graph import Conv1d, CubaLIF, GradedNeuron, Graph, Input, Linear, Neuron, Node
from neurotool.graph.fixed_point import DECAY_BITS, STATE_BITS, leak_mantissa

SHIFT = 6
"""Lava's LIF shifts drive, bias and threshold by so many bits."""
THRESHOLD_LIMIT = 2**17
BIAS_LIMIT = 2**12
DRIVE_LIMIT = 2 ** (STATE_BITS - 1 - SHIFT)
"""Lava's current u wraps at 2^23."""


def write_netx(graph: Graph, path: Path, force: bool = False) -> Graph:
    """Returns the graph that the file holds: thresholds of leaky layers are rounded to what Lava can express.

    Raises ExportError, listing all that netx cannot hold, each with the first few nodes it is true of, or where `path`
    cannot be written.
    """
    if not graph.fixed_point:
        raise ExportError("the graph has real parameters, but netx loads integers: lower it to fixed point first")
    if reasons := not_held(graph):
        told = "; ".join(f"{reason}: {listed(names)}" for reason, names in reasons.items())
        raise ExportError(f"netx cannot hold {told}. Use --target lava for the whole graph")
    graph = rounded_thresholds(graph)
    memory = io.BytesIO()  # HDF5 itself crashes where the disk is full
    with h5py.File(memory, "w") as file:
        _write(graph, file.create_group("layer"))
    write_bytes(path, memory.getbuffer(), force)
    return graph


def rounded_thresholds(graph: Graph) -> Graph:
    """Lava fires above 2^6 vth, leaky layers of the graph at v_threshold: the nearest that is one above such a number.

    Without leak potentials are multiples of 2^6, and any threshold can be held exactly.
    """
    nodes = {
        name: replace(node, v_threshold=(vth(node) << SHIFT) + 1)
        if isinstance(node, Neuron) and np.any(np.asarray(node.leak) != 1)
        else node
        for name, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes)


def vth(node: Neuron) -> int:
    """Lava's threshold mantissa, for one threshold and one leak."""
    threshold = int(np.max(node.v_threshold))
    if np.all(np.asarray(node.leak) == 1):
        return -(-threshold >> SHIFT) - 1
    return max(0, round((threshold - 1) / 2**SHIFT))


def not_held(graph: Graph) -> dict[str, list[str]]:
    """What netx cannot hold, each with the names of all nodes that it is true of."""
    reasons: dict[str, list[str]] = {}
    if graph.schedule == "phased":
        reasons["windows of the phased schedule"] = graph.of_type(Neuron)
    for name, port in graph.feedback:
        reasons.setdefault("feedback", []).append(f"{name}.{port}")
    for name, node in graph.nodes.items():
        for reason in _reasons(graph, name, node):
            reasons.setdefault(reason, []).append(name)
    return reasons


def _reasons(graph: Graph, name: str, node: Node) -> Iterator[str]:
    sources = [graph.nodes[source] for source in graph.inputs[name]]
    if sum(name in inputs for inputs in graph.inputs.values()) > 1:
        yield "branches"
    match node:
        case Input():
            if not node.spiking:
                yield "inputs that are not spikes"
            if len(graph.of_type(Input)) > 1:
                yield "more than one input"
            if isinstance(node.width, tuple) and len(node.width) > 1:
                yield "activations of several axes"
        case CubaLIF():
            yield "CubaLIF nodes"
        case Linear() | Conv1d():
            if not isinstance(sources[0], (Input, Neuron)):
                yield "synapses that read something other than spikes"
            if not any(name in graph.inputs[reader] for reader in graph.of_type(Neuron)):
                yield "synapses without neurons behind them"
            if not node.weight.any():
                yield "weights that are all 0"
            exponents = graph.fixed_point[name].exponents
            if exponents is not None and exponents.any():
                yield "an exponent for each channel (export with --per-layer)"
            if graph.fixed_point[name].rescale[0] != (1, 0):
                yield "inputs that are rescaled"
            if isinstance(node, Conv1d) and node.before != node.after:
                yield "even kernels, whose padding is not the same on both sides"
            if node.bias is not None and np.abs(node.bias).max() >= BIAS_LIMIT:
                yield f"biases of {BIAS_LIMIT} units and more"
            if graph.fixed_point[name].bound >= DRIVE_LIMIT:
                yield f"sums that may reach {DRIVE_LIMIT} units"
        case Neuron():
            yield from _neuron_reasons(graph, name, node, sources[0])
        case _:
            yield f"{type(node).__name__} nodes"


def _neuron_reasons(graph: Graph, name: str, node: Neuron, source: Node) -> Iterator[str]:
    if not isinstance(source, (Linear, Conv1d)):
        yield "neurons without synapses before them"
    if node.reset == "soft":
        yield "soft reset"
    if isinstance(node, GradedNeuron):
        yield "graded messages"
    if node.spikes == "ternary":
        yield "ternary spikes"
    if np.any(node.v_init):
        yield "initial potentials other than 0"
    if np.ptp(node.v_threshold) or np.ptp(node.leak):
        yield "a threshold or leak for each neuron"
    if graph.fixed_point[name].rescale[0] != (2**SHIFT, 0):
        yield f"potentials that may leave the {STATE_BITS - SHIFT} bits that Lava has before its {SHIFT} of fraction"
    if vth(node) >= THRESHOLD_LIMIT:
        yield f"thresholds of {THRESHOLD_LIMIT} units and more"


def _write(graph: Graph, layers: h5py.Group) -> None:
    """Shapes in netx are (channels, height, width), tokens along the width."""
    dense = graph.tokens == 1 and not graph.of_type(Conv1d)

    def shape(width: int) -> tuple[int, ...]:
        return (width,) if dense else (width, 1, graph.tokens)

    written = 0
    for name, node in graph.nodes.items():
        match node:
            case Input():
                _put(
                    layers,
                    written,
                    "input",
                    shape=shape(math.prod(node.width) if isinstance(node.width, tuple) else node.width),
                )
            case Linear() | Conv1d():
                (reader,) = (reader for reader, inputs in graph.inputs.items() if name in inputs)
                weight = node.weight.astype(np.int32)
                kernel = weight if weight.ndim == 3 else weight[:, :, None]
                geometry = {} if dense else _convolution(kernel)
                bias = {} if node.bias is None else {"bias": node.bias}
                neurons = graph.nodes[reader]
                assert isinstance(neurons, Neuron)
                _put(
                    layers,
                    written,
                    "dense" if dense else "conv",
                    shape=shape(len(weight)),
                    weight=weight if dense else kernel[:, :, None, :],
                    **geometry,
                    **bias,
                    **{f"neuron/{key}": value for key, value in _lif(neurons).items()},
                )
            case _:
                continue
        written += 1


def _put(layers: h5py.Group, index: int, kind: str, **datasets: object) -> None:
    layer = layers.create_group(str(index))
    layer["type"] = np.array([kind], "S10")
    for key, value in datasets.items():
        layer[key] = value


def _convolution(kernel: np.ndarray) -> dict[str, object]:
    return {"stride": [1, 1], "padding": [0, kernel.shape[2] // 2], "dilation": [1, 1], "groups": 1}


def _lif(node: Neuron) -> dict[str, object]:
    """A current that does not outlast its step, and a potential with our leak."""
    return {
        "type": "CUBA",
        "iDecay": 2**DECAY_BITS,
        "vDecay": 2**DECAY_BITS - int(np.max(leak_mantissa(node))),
        "vThMant": vth(node),
        "refDelay": 1,
        "gradedSpike": False,
    }
