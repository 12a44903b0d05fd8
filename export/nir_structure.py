"""What is connected to what in a NIR graph: subgraphs opened, pass-through nodes left out, cycles broken."""

from collections.abc import Iterable

import nir

from neurotool.errors import GraphError

_STATELESS = (nir.Affine, nir.Linear, nir.Scale, nir.Conv1d, nir.Conv2d, nir.SumPool2d, nir.AvgPool2d, nir.Flatten)
Edge = tuple[str, str]


class Structure:
    """nodes: the computing nodes and the Inputs, by name. sources: for each, the nodes whose sum it reads.
    outputs: for each Output of the graph, the nodes whose sum it is. input_beside, bias_from_start: see
    conventions.Rules. odd: sentences on what is left open or contradicts itself, but changes no number.

    Raises GraphError: no Input, edges to nowhere, nodes without a source.
    """

    def __init__(self, content: nir.NIRGraph, input_beside: bool = False, bias_from_start: bool = True) -> None:
        self.odd: list[str] = []
        self._input_beside, self._bias_from_start = input_beside, bias_from_start
        self.nodes: dict[str, nir.NIRNode] = {}
        self._all: dict[str, nir.NIRNode] = {}
        self._into: dict[str, list[str]] = {}
        self._open(content, "")
        if not any(isinstance(node, nir.Input) for node in content.nodes.values()):
            raise GraphError("the NIR graph has no Input node: nothing can enter it")
        for name, node in self._all.items():
            inner = isinstance(node, nir.Input) and self._into[name]
            if not isinstance(node, nir.Output) and not inner:
                self.nodes[name] = node
        self.sources = {name: self._terms(name) for name in self.nodes}
        self.outputs = {
            name: self._terms(name)
            for name, node in content.nodes.items()
            if isinstance(node, nir.Output) and name in self._all
        }
        for name, sources in (self.sources | self.outputs).items():
            if not sources and not isinstance(self._all[name], nir.Input):
                raise GraphError(
                    f"node {name} ({type(self._all[name]).__name__}) has no input: nothing is connected to it"
                )

    @property
    def ends(self) -> dict[str, nir.NIRNode]:
        """Outputs, and the Inputs of subgraphs: they compute nothing."""
        return {name: node for name, node in self._all.items() if name not in self.nodes}

    def arriving(self, name: str) -> tuple[str, ...]:
        """The nodes whose sum arrives at one of `ends`."""
        return self._terms(name)

    def free(self, name: str) -> str:
        while name in self._all:
            name += "_"
        return name

    def _open(self, content: nir.NIRGraph, prefix: str) -> None:
        for name, node in content.nodes.items():
            if isinstance(node, nir.NIRGraph):
                self._open(node, f"{prefix}{name}.")
            elif prefix + name in self._all:
                raise GraphError(f"node {prefix + name} ({type(node).__name__}): a subgraph has a node of that name")
            else:
                self._all[prefix + name] = node
                self._into.setdefault(prefix + name, [])
        if len(set(content.edges)) < len(content.edges):
            twice = next(edge for edge in content.edges if content.edges.count(edge) > 1)
            raise GraphError(
                f"edge {prefix}{twice[0]} -> {prefix}{twice[1]} is there {content.edges.count(twice)} times: tools "
                "take that as one edge or as a sum; leave one, or put the factor into a weight"
            )
        for edge in self._as_computed(content, prefix):
            for end in edge:
                if end not in content.nodes:
                    raise GraphError(f"edge {edge[0]} -> {edge[1]}: there is no node {prefix}{end}")
            starts = self._ends(content, edge[0], nir.Output, prefix)
            for end in self._ends(content, edge[1], nir.Input, prefix):
                self._into[end] += starts

    def _as_computed(self, content: nir.NIRGraph, prefix: str) -> list[Edge]:
        """The edges; `input_beside`, of input -> weights <-> neurons -> output the first leads to the neurons."""
        edges = list(content.edges)
        kinds = {name: type(node) for name, node in content.nodes.items()}
        for start, weights in content.edges if self._input_beside and len(edges) == 4 else ():
            neurons = [end for source, end in edges if source == weights]
            if kinds.get(start) is nir.Input and len(neurons) == 1 and (neurons[0], weights) in edges:
                edges[edges.index((start, weights))] = (start, neurons[0])
                self.odd.append(
                    f"{prefix}{start} -> {prefix}{weights} is read as {prefix}{start} -> {prefix}{neurons[0]}, as the "
                    "tool computes its recurrent layers"
                )
        return edges

    def _ends(self, content: nir.NIRGraph, name: str, side: type[nir.NIRNode], prefix: str) -> list[str]:
        """The node itself; for a subgraph its Outputs or Inputs, of which it must have one."""
        node = content.nodes[name]
        if not isinstance(node, nir.NIRGraph):
            return [prefix + name]
        ends = [inner for inner, inner_node in node.nodes.items() if isinstance(inner_node, side)]
        if len(ends) != 1:
            raise GraphError(f"node {prefix}{name} (NIRGraph) has {len(ends)} {side.__name__} nodes: it must have one")
        return self._ends(node, ends[0], side, f"{prefix}{name}.")

    def _terms(self, name: str, seen: frozenset[str] = frozenset()) -> tuple[str, ...]:
        terms: list[str] = []
        for source in self._into[name]:
            if source in self.nodes:
                terms.append(source)
            elif source in seen:
                raise GraphError(
                    f"node {source} ({type(self._all[source]).__name__}) is on a cycle without any operation"
                )
            else:
                terms += self._terms(source, seen | {source})
        return tuple(terms)

    def order(self) -> tuple[list[str], set[Edge]]:
        """Names so that each comes after its sources, and the edges (source, node) that are read one step late."""
        back_edges = set(self._back_edges())
        self.odd += [
            f"{source} -> {target} is read one step late; the cycle through {source} and {target} has more than one "
            "way in, and another tool may read another of its edges late: a Delay on one of them says which"
            for source, target in sorted(back_edges)
            if self._reached_without(target, source)
        ]
        late = self._late(back_edges) if self._bias_from_start else back_edges
        waiting = {
            name: {source for source in sources if (source, name) not in late} for name, sources in self.sources.items()
        }
        order: list[str] = []
        while waiting:
            ready = [name for name, sources in waiting.items() if sources.isdisjoint(waiting)]
            if not ready:
                raise GraphError(f"cannot order the cycle through {', '.join(sorted(waiting)[:4])}")
            order += ready
            waiting = {name: sources for name, sources in waiting.items() if name not in ready}
        return order, late

    def _back_edges(self) -> Iterable[Edge]:
        """Edges that close a cycle, seen from the Inputs (depth first)."""
        targets = self._targets()
        done: set[str] = set()
        for start in [name for name, node in self.nodes.items() if isinstance(node, nir.Input)]:
            path, todo = [start], [iter(targets[start])]
            while todo:
                name = next(todo[-1], None)
                if name is None:
                    todo.pop()
                    done.add(path.pop())
                elif name in path:
                    yield path[-1], name
                elif name not in done:
                    path.append(name)
                    todo.append(iter(targets[name]))
        if unreached := sorted(set(self.nodes) - done):
            raise GraphError(
                f"node {unreached[0]} ({type(self.nodes[unreached[0]]).__name__}) is not reached by any Input"
            )

    def _reached_without(self, avoided: str, end: str) -> bool:
        """Whether a path from an Input comes to `end` past `avoided`."""
        targets = self._targets()
        todo = [name for name, node in self.nodes.items() if isinstance(node, nir.Input)]
        seen = {avoided}
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += targets[name]
        return end in seen and end != avoided

    def _late(self, back_edges: set[Edge]) -> set[Edge]:
        """The edges that close cycles; where they come from nodes without a state that go nowhere else, those into
        these: tools' recurrent weights read what a layer sent in the step before, and add their bias in the first."""
        targets, back, todo = self._targets(), set(back_edges), list(back_edges)
        late: set[Edge] = set()
        while todo:
            source, target = todo.pop()
            only_back = all((source, other) in back for other in targets[source])
            if isinstance(self.nodes[source], _STATELESS) and len(self.sources[source]) == 1 and only_back:
                before = (self.sources[source][0], source)
                todo += [] if before in back else [before]
                back.add(before)
            else:
                late.add((source, target))
        return late

    def _targets(self) -> dict[str, list[str]]:
        targets: dict[str, list[str]] = {name: [] for name in self.nodes}
        for name, sources in self.sources.items():
            for source in sources:
                targets[source].append(name)
        return targets
