"""A part of a layer graph as a graph of its own."""

from dataclasses import replace

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.graph import Graph
from neurotool.graph.names import in_group
from neurotool.graph.nodes import TOKENS, Input, Neuron, Node, Readout, own_axes


def part(graph: Graph, first: str, last: str) -> Graph:
    """The nodes from `first` to `last` in emission order; either may name a group ("encoder.0": all in it).

    What they read from outside becomes an Input of the same name and width, which holds spikes where what it replaces
    sent them: (T, tokens, width) spikes then give what the whole network gives. A neuron layer with leak hands on a
    weighted average in the phased schedule: its Input takes the rates (tokens, width).
    Raises GraphError: no such node, nothing between the two, or a cut where something else than (tokens, width) passes
    or through feedback.
    """
    names = list(graph.nodes)
    start, end = names.index(_members(graph, first)[0]), names.index(_members(graph, last)[-1])
    inside = names[start : end + 1]
    if not inside:
        raise GraphError(f"part {first} to {last}: {last} comes first; name them in the order of emission")
    nodes: dict[str, Node] = {}
    inputs: dict[str, tuple[str, ...]] = {}
    shapes = graph.shapes()
    for name in inside:
        for port, source in zip(graph.nodes[name].ports, graph.inputs[name], strict=True):
            if source in inside or source in nodes:
                continue
            if (name, port) in graph.feedback:
                raise GraphError(f"part {first} to {last}: node {name} is fed back from {source}, outside of it")
            own = own_axes(shapes[source])
            if TOKENS in shapes[source][1:] or graph.nodes[source].at_end:
                raise GraphError(
                    f"part {first} to {last}: {name} reads {source}, which is no (tokens, width): cut elsewhere"
                )
            width = own[0] if graph.has_tokens else own
            nodes[source], inputs[source] = Input(width, spiking=_spikes(graph, source)), ()
    nodes |= {name: graph.nodes[name] for name in inside}
    inputs |= {name: graph.inputs[name] for name in inside}
    feedback = tuple((name, port) for name, port in graph.feedback if name in inside)
    fixed = {name: graph.fixed_point[name] for name in nodes if name in graph.fixed_point}
    fixed = {name: f if name in inside else replace(f, rescale=()) for name, f in fixed.items()}
    return replace(
        graph,
        nodes=nodes,
        inputs=inputs,
        feedback=feedback,
        outputs={output: node for output, node in graph.outputs.items() if node in inside},
        feedback_sweeps=graph.feedback_sweeps if feedback else 1,
        labels=graph.labels if any(isinstance(node, Readout) for node in nodes.values()) else (),
        fixed_point=fixed,
    )


def _members(graph: Graph, group: str) -> list[str]:
    found = in_group(graph.nodes, group)
    if not found:
        raise GraphError(f"part {group}: there is no such node; some are {', '.join(list(graph.nodes)[:5])}, …")
    return found


def _spikes(graph: Graph, source: str) -> bool:
    """Whether what a node hands on is made of spikes that count alike."""
    node = graph.nodes[source]
    if isinstance(node, Neuron):
        return graph.schedule == "concurrent" or bool(np.all(np.asarray(node.leak) == 1))
    return node.sends_spikes
