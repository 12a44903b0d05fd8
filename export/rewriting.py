"""The same network in other nodes, where a tool's import has no word for one: layer graph -> layer graph.

Same spikes in every step: exactly, but for the rounding of what is multiplied out.
"""

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np

from neurotool.errors import ExportError
from neurotool.export.chains import as_chain, walked_in_order
from neurotool.export.to_nir import expressible, to_nir
from neurotool.export.tool_imports import IMPORTS
from neurotool.graph import Add, CubaLIF, Delay, Graph, GraphBuilder, Input, Integrator, Linear, Neuron, Node
from neurotool.graph.nodes import Reset, own_axes

NEVER = 2.0**60
"""A threshold that no potential reaches, and that single precision holds exactly."""


def rewritten(graph: Graph, tool: str) -> tuple[Graph, list[str]]:
    """With what the import of `tool` has in place of what it lacks; what that cannot say stays, and is refused later.
    The second: integrators that became neurons.

    Raises ExportError: see the parts.
    """
    reads = IMPORTS[tool]
    silent = [] if Integrator in reads.nodes else [name for name in graph.of_type(Integrator) if not _read(graph, name)]
    if silent:
        graph = with_silent_neurons(graph, reads.cuba_reset or reads.reset)
    if "v_threshold" in reads.uniform:
        graph = with_one_threshold(graph)
    past = graph.of_type(Add) and not graph.feedback and not graph.of_type(Delay)
    if past and len(graph.of_type(Input)) == 1 and (reads.chain or (reads.depth_first and not _walked_in_order(graph))):
        graph = as_chain(graph)
    if CubaLIF not in reads.nodes and Integrator in reads.nodes:
        graph = with_currents_apart(graph)
    return graph, silent


def _read(graph: Graph, name: str) -> bool:
    return any(name in sources for sources in graph.inputs.values())


def _walked_in_order(graph: Graph) -> bool:
    lost = set(graph.nodes) - expressible(graph)  # is refused for that
    return bool(lost) or all(walked_in_order(to_nir(graph).edges, name) for name in graph.of_type(Input))


def with_one_threshold(graph: Graph) -> Graph:
    """Every layer of neurons fires at 1: what drives a neuron is divided by its threshold, in the rows of the weights
    before it. Spikes that come without weights, of a residual, get a diagonal of their own.

    Layers that have one threshold already stay as they are. Raises ExportError: weights that other nodes read, too.
    """
    return _Rewritten(graph, _one_threshold).graph


def with_silent_neurons(graph: Graph, reset: Reset = "hard") -> Graph:
    """An integrator that nobody reads, the readout, is a neuron that never fires: its potential is the integrator's."""

    def silent(build: "_Rewritten", name: str, node: Node, sources: tuple[str, ...]) -> None:
        if isinstance(node, Integrator) and not _read(graph, name):
            if np.any(node.v_init):
                raise ExportError(f"node {name}: v_init is {np.max(np.abs(node.v_init)):g}: tools begin at 0")
            node = CubaLIF(NEVER, node.leak, reset, bias=node.bias, current_leak=node.current_leak)
        build.add(name, node, *sources)

    return _Rewritten(graph, silent).graph


def with_currents_apart(graph: Graph) -> Graph:
    """A CubaLIF is an integrator, its synaptic current, before a plain neuron.

    What it starts with and its bias stay those of the neuron.
    """

    def apart(build: "_Rewritten", name: str, node: Node, sources: tuple[str, ...]) -> None:
        if isinstance(node, CubaLIF):
            values = {f.name: getattr(node, f.name) for f in fields(Neuron)}
            sources = (build.add(build.free(f"{name}.current"), Integrator(node.current_leak), *sources),)
            node = Neuron(**values)
        build.add(name, node, *sources)

    return _Rewritten(graph, apart).graph


Rewrite = Callable[["_Rewritten", str, Node, tuple[str, ...]], None]
"""(the new graph so far, name, node, sources): adds the node, and what it needs before it, to the new graph."""


class _Rewritten(GraphBuilder):
    """`old`, node by node through `rewrite`. graph: what it gives."""

    def __init__(self, old: Graph, rewrite: Rewrite) -> None:
        super().__init__()
        self.old = old
        for name, node in old.nodes.items():
            rewrite(self, name, node, old.inputs[name])
        kept = (f.name for f in fields(old) if f.name not in ("nodes", "inputs", "feedback"))
        settings = {name: getattr(old, name) for name in kept}
        self.feedback = list(old.feedback)
        self.graph = self.build(**settings)

    def free(self, name: str) -> str:
        while name in self.old.nodes or name in self.nodes:
            name += "_"
        return name

    def scale(self, name: str, reader: str, factor: np.ndarray) -> str:
        """What `reader` reads of `name`, times a factor for each element: the node's name, or that of a new one."""
        node, alone = self.nodes.get(name), sum(name in sources for sources in self.old.inputs.values()) == 1
        if not alone and isinstance(node, Linear | Add):
            raise ExportError(f"node {reader}: its thresholds would go into {name}, which others read, too")
        match node:
            case Linear():
                rows = factor[:, None] * node.weight.astype(np.float64)
                bias = None if node.bias is None else factor * node.bias.astype(np.float64)
                self.nodes[name] = Linear(rows, bias)
            case Add():
                self.inputs[name] = tuple(self.scale(source, name, factor) for source in self.inputs[name])
                self._move_behind(name)
            case None:
                raise ExportError(f"node {reader}: its thresholds would go into {name}, which is fed back")
            case _:
                return self.add(self.free(f"{reader}.from.{name}"), Linear(np.diag(factor)), name)
        return name

    def _move_behind(self, name: str) -> None:
        """Its sources are new: a node comes after all it reads."""
        self.nodes[name] = self.nodes.pop(name)
        self.inputs[name] = self.inputs.pop(name)


def _one_threshold(build: _Rewritten, name: str, node: Node, sources: tuple[str, ...]) -> None:
    if isinstance(node, Neuron) and np.unique(node.v_threshold).size > 1:
        shape = own_axes(build.old.shapes()[name])
        if len(shape) != 1:
            raise ExportError(f"node {name}: it has a threshold for each of {shape} neurons, and is no vector")
        threshold = np.asarray(node.v_threshold, np.float64)
        sources = (build.scale(sources[0], name, 1 / threshold),)
        node = replace(
            node,
            v_threshold=1.0,
            bias=node.bias / threshold,
            v_reset=node.v_reset / threshold,
            v_min=None if node.v_min is None else node.v_min / threshold,
        )
    build.add(name, node, *sources)
