"""A network of spikes as one of graded messages: the same function, T times fewer steps."""

from dataclasses import replace

from neurotool.errors import GraphError
from neurotool.graph.graph import Graph
from neurotool.graph.nodes import GradedNeuron, Input, Neuron, Node


def graded(graph: Graph, dead_zone: float = 0.0) -> Graph:
    """`graph` with every window of T steps in one: a neuron sends its count as a payload, none below `dead_zone`. With
    none, same rates and logits, to the last bit.

    Raises GraphError where a window has no closed form, or spikes enter step by step.
    """
    if graph.schedule != "phased":
        raise GraphError(f"schedule is {graph.schedule}: only a phased network has windows to send as one message")
    if graph.fixed_point:
        raise GraphError("the graph holds integers already: turn the network it was lowered from into graded messages")
    nodes: dict[str, Node] = {
        name: _node(name, node, graph.time_steps, dead_zone) for name, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes, time_steps=1)


def levels(graph: Graph) -> int | None:
    """T of a network whose every neuron sends graded messages of one T: the levels of a message, which takes one step.
    None of any other."""
    neurons = (node for node in graph.nodes.values() if isinstance(node, Neuron))
    of = {node.levels if isinstance(node, GradedNeuron) else None for node in neurons}
    return of.pop() if len(of) == 1 else None


def at_levels(graph: Graph, time_steps: int) -> Graph:
    """The same with another T. Raises GraphError for one below a dead zone."""
    nodes = {
        name: replace(node, levels=time_steps) if isinstance(node, GradedNeuron) else node
        for name, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes)


def _node(name: str, node: Node, time_steps: int, dead_zone: float) -> Node:
    if isinstance(node, Input) and node.spiking:
        raise GraphError(f"node {name} (Input): its spikes enter step by step; graded messages have one step")
    if not isinstance(node, Neuron) or isinstance(node, GradedNeuron):
        return node
    if not node.has_closed_form:
        what = node.more_than_plain or f"leak {node.leak}, {node.reset} reset, v_init {node.v_init}"
        raise GraphError(f"node {name} (Neuron): {what}: only IF neurons with soft reset have a count to send")
    return GradedNeuron(
        node.v_threshold,
        node.leak,
        node.reset,
        node.spikes,
        node.v_init,
        levels=time_steps,
        dead_zone=float(dead_zone),
    )
