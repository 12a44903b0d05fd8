"""A network with residual paths as a chain of layers, for tools that can run only one.

Neurons that repeat the spikes of an earlier layer, one step's worth in the same step, join every layer that the path
leads past; what reads the path then reads them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from neurotool.errors import ExportError
from neurotool.graph import Add, CubaLIF, Graph, GraphBuilder, Input, Integrator, Linear, Neuron, Node
from neurotool.graph.nodes import own_axes

RELAY = {"v_threshold": 0.5, "leak": 0.0, "current_leak": 0.0, "bias": 0.0}
"""A neuron without memory that sends what it gets."""
Blocks = dict[str, np.ndarray]
"""Weights (out, in) by the layer whose spikes they read."""


def walked_in_order(edges: list[tuple[str, str]], start: str) -> bool:
    """Whether a walk along the edges, into the depth first, meets every node after all it reads: the order in which
    nirtorch.load runs them."""
    after: dict[str, list[str]] = {}
    for source, end in edges:
        after.setdefault(source, []).append(end)
    met, todo = dict[str, None](), [start]
    while todo:
        name = todo.pop()
        if name not in met:
            met[name] = None
            todo += reversed(after.get(name, []))
    place = {name: i for i, name in enumerate(met)}
    return all(place.get(source, -1) < place[end] for source, end in edges if end in place)


def as_chain(graph: Graph) -> Graph:
    """Of layers of neurons, and integrators behind them, that sums of Linears drive. A layer's own neurons come first,
    in their order and under its name. Raises ExportError for what cannot be written so."""
    layers = [name for name, node in graph.nodes.items() if isinstance(node, Neuron | Integrator)]
    if len(inputs := graph.of_type(Input)) != 1 or graph.feedback or graph.has_tokens:
        raise ExportError("a chain has one Input, no feedback and no tokens: this network has no such form")
    shapes = {name: own_axes(shape) for name, shape in graph.shapes().items()}
    drives = {name: _drive(graph, graph.source(name, "x"), shapes) for name in layers}
    build, before, carried = GraphBuilder(), inputs[0], [inputs[0]]
    build.add(before, graph.nodes[before])
    for i, name in enumerate(layers):
        weights, bias = drives[name]
        later = {source for reader in layers[i + 1 :] for source in drives[reader][0]} - {name}
        passing = [source for source in carried if source in later]
        if lost := [source for source in weights if source not in carried]:
            raise ExportError(f"node {name} reads {lost[0]}, which no chain brings to it")
        if passing and (inputs[0] in passing or not isinstance(graph.nodes[name], Neuron)):
            raise ExportError(f"{passing[0]} is read past {name}: only spikes can be passed on, and by neurons alone")
        width = {source: shapes[source][0] for source in (*carried, name)}
        rows = [[weights.get(source, np.zeros((width[name], width[source]))) for source in carried]]
        rows += [[np.eye(width[s]) if s == to else np.zeros((width[to], width[s])) for s in carried] for to in passing]
        relays = sum(width[source] for source in passing)
        whole = None if bias is None else np.concatenate([bias, np.zeros(relays)])
        build.add(linear := _free(graph, f"{name}.weights"), Linear(np.block(rows), whole), before)
        before = build.add(name, _with_relays(name, graph.nodes[name], width[name], relays), linear)
        carried = [name, *passing]
    outputs = {output: node for output, node in graph.outputs.items() if node in build.nodes}
    settings = {"time_steps": graph.time_steps, "schedule": graph.schedule, "metadata": graph.metadata}
    return build.build(**settings, outputs=outputs)


def _free(graph: Graph, name: str) -> str:
    while name in graph.nodes:
        name += "_"
    return name


def _drive(graph: Graph, source: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Blocks, np.ndarray | None]:
    """What a layer reads: weights of layers' spikes, and a bias."""
    match node := graph.nodes[source]:
        case Linear():
            if isinstance(graph.nodes[before := graph.inputs[source][0]], Neuron | Input):
                return {before: node.weight.astype(np.float64)}, node.bias
        case Add():
            blocks: Blocks = {}
            biases = []
            for term in graph.inputs[source]:
                weights, bias = _drive(graph, term, shapes)
                blocks = blocks | {name: blocks.get(name, 0) + weight for name, weight in weights.items()}
                biases += [] if bias is None else [bias]
            return blocks, np.sum(biases, 0) if biases else None
        case Neuron() | Input() if len(shapes[source]) == 1:
            return {source: np.eye(shapes[source][0])}, None
    raise ExportError(f"node {source} ({type(node).__name__}): a chain is made of Linears and layers of neurons alone")


def _with_relays(name: str, node: Node, width: int, relays: int) -> Node:
    if not relays:
        return node
    assert isinstance(node, Neuron)
    if node.spikes != "binary" or node.v_min is not None:
        raise ExportError(f"node {name}: {node.spikes} spikes or a v_min: other neurons cannot join its layer")
    values: dict[str, Any] = RELAY | {"v_reset": 0.0, "v_init": 0.0}
    kept = values if isinstance(node, CubaLIF) else {key: x for key, x in values.items() if key != "current_leak"}
    joined = {
        key: np.concatenate([np.broadcast_to(np.asarray(getattr(node, key), np.float64), width), np.full(relays, x)])
        for key, x in kept.items()
    }
    return replace(node, **joined)
