"""The layer graph: the one description of a trained student that export, simulation, counting and validation read."""

import json
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from neurotool.errors import GraphError
from neurotool.graph.fixed_point import FixedPoint
from neurotool.graph.nodes import (
    NODE_TYPES,
    TOKENS,
    Embedding,
    GradedNeuron,
    Input,
    Node,
    Readout,
    Shape,
    Stateful,
    same_value,
)

FORMAT_VERSION = 1
MAX_TIME_STEPS = 1_000_000
MAX_TOKENS = 1_000_000
MAX_SWEEPS = 10_000
Schedule = Literal["phased", "concurrent"]


@dataclass(frozen=True)
class Graph:
    """Nodes by name in emission order: a node comes after all it reads, but for declared feedback.

    inputs: for every node, the names of the nodes its ports read, in the order of `Node.ports`.
    time_steps: T, the steps of a neuron layer's window (phased) or of the whole run (concurrent).
    schedule:
      phased: neuron layers emit in turn, each in its own window of T steps under the constant current that the nodes
        before it make of the rates count / T handed on; with leak, ASR = sum leak^(T-t) s[t] / sum leak^(T-t).
        Windows start from v_init. With feedback the whole sequence of windows runs `feedback_sweeps` times.
      concurrent: in each of T steps every node runs once, in order, on the spikes of the same step; potentials persist.
    feedback: (node, port) pairs that read what their source gave in the step before (concurrent) or the sweep before
      (phased), at first 0.
    tokens: the most tokens an input may have. The tokens of an input that are padding are computed like others, but no
      other token reads them: Softmax, MatMul, Conv1d and MeanPool leave them out.
    labels: class names; empty for regression or where unknown.
    outputs: for every declared output, by its name, the node that gives it: what others are to see of the network, be
      it read inside or not.
    metadata: anything JSON, for instance the model type.
    fixed_point: for a graph in integers the FixedPoint of every node; else empty.

    Constructing a graph checks it. Raises GraphError, naming node and port.
    """

    nodes: dict[str, Node]
    inputs: dict[str, tuple[str, ...]]
    time_steps: int
    schedule: Schedule
    tokens: int = 1
    feedback: tuple[tuple[str, str], ...] = ()
    feedback_sweeps: int = 1
    labels: tuple[str, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    fixed_point: dict[str, FixedPoint] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and all(
            list(a.items()) == list(b.items()) if f.name in ("nodes", "inputs") else a == b
            for f in fields(self)
            for a, b in [(getattr(self, f.name), getattr(other, f.name))]
        )

    @cached_property
    def has_tokens(self) -> bool:
        """Whether activations are (tokens, width); else they have a shape of their own, and no token axis."""
        return not any(isinstance(node, Input) and isinstance(node.width, tuple) for node in self.nodes.values())

    @property
    def spiking(self) -> set[str]:
        """Nodes that send spikes or hand on spikes alone."""
        found = {name for name, node in self.nodes.items() if node.sends_spikes or node.hands_on_spikes}
        while graded := {
            name for name in found if not self.nodes[name].sends_spikes and not found.issuperset(self.inputs[name])
        }:
            found -= graded
        return found

    @property
    def analog(self) -> list[str]:
        """Nodes whose real numbers are to be seen, in every step (phased: sweep): that nobody reads, that are declared
        outputs, or that keep a state. Neurons and the Readout are left out: spikes and logits are given in any case."""
        shown = set(self.nodes).difference(*self.inputs.values()).union(self.outputs.values())
        graded = ((n, node) for n, node in self.nodes.items() if not node.sends_spikes)
        return [
            name
            for name, node in graded
            if not isinstance(node, (Input, Readout)) and (isinstance(node, Stateful) or name in shown)
        ]

    def source(self, node: str, port: str) -> str:
        """Name of the node that `port` of `node` reads."""
        return self.inputs[node][self.nodes[node].ports.index(port)]

    def of_type(self, kind: type[Node]) -> list[str]:
        """Names of the nodes of one type, in emission order."""
        return [name for name, node in self.nodes.items() if isinstance(node, kind)]

    @property
    def is_spiking(self) -> bool:
        """Whether anything in it sends spikes: a neuron, or an input that holds spikes."""
        return any(node.sends_spikes for node in self.nodes.values())

    def check(self) -> None:
        self._check_settings()
        for name, node in self.nodes.items():
            try:
                node.check()
            except GraphError as error:
                raise GraphError(f"{self._title(name)}: {error}") from None
        self._check_edges()
        self.shapes()
        self._check_ends()
        self._check_fixed_point()

    def shapes(self) -> dict[str, Shape]:
        """Output shape of every node, without batch; nodes.TOKENS stands for the number of tokens."""
        shapes: dict[str, Shape] = {}
        while missing := [name for name in self.nodes if name not in shapes]:
            for name in missing:
                node, known = self.nodes[name], [shapes[source] for source in self.inputs[name] if source in shapes]
                if len(known) == len(node.ports):
                    shapes[name] = self._shape(name, *known)
                elif known and node.one_shape:  # what a feedback port reads is only known later
                    shapes[name] = known[0]
            if missing == [name for name in self.nodes if name not in shapes]:
                alone = ((name, self.nodes[name].shape_alone(self.has_tokens)) for name in missing)
                found = next(((name, shape) for name, shape in alone if shape), None)
                if found is None:
                    raise GraphError(f"{self._title(missing[0])}: its shape depends on feedback alone")
                shapes[found[0]] = found[1]
        for name, _ in self.feedback:
            shapes[name] = self._shape(name, *(shapes[source] for source in self.inputs[name]))
        return {name: shapes[name] for name in self.nodes}

    def _shape(self, name: str, *at_ports: Shape) -> Shape:
        try:
            return self.nodes[name].shape(*at_ports)
        except GraphError as error:
            fed_back = any((name, port) in self.feedback for port in self.nodes[name].ports)
            raise GraphError(f"{self._title(name)}: {'feedback ' if fed_back else ''}{error}") from None

    def _title(self, name: str) -> str:
        return f"node {name} ({type(self.nodes[name]).__name__})"

    def _check_settings(self) -> None:
        limits = {"time_steps": MAX_TIME_STEPS, "tokens": MAX_TOKENS, "feedback_sweeps": MAX_SWEEPS}
        for setting, limit in limits.items():
            value = getattr(self, setting)
            if type(value) is not int or value < 1:
                raise GraphError(f"{setting} is {value!r}: it must be a whole number of at least 1")
            if value > limit:
                raise GraphError(f"{setting} is {value}: it must be at most {limit}")
        if self.feedback_sweeps > 1 and not self.feedback:
            raise GraphError(f"feedback_sweeps is {self.feedback_sweeps}: without feedback it must be 1")
        if self.schedule not in get_args(Schedule):
            raise GraphError(f"schedule is {self.schedule!r}: choose one of {', '.join(get_args(Schedule))}")
        for name in self.of_type(GradedNeuron):
            if (self.schedule, self.time_steps) != ("phased", 1):
                how = f"schedule {self.schedule}, time_steps {self.time_steps}"
                raise GraphError(f"{self._title(name)}: {how}; a graded message needs a phased window of one step")
        for name, node in self.nodes.items():
            if type(node) not in NODE_TYPES.values():
                raise GraphError(f"node {name} is a {type(node).__name__}: known types are {', '.join(NODE_TYPES)}")
            if not isinstance(name, str) or not name or "/" in name:
                raise GraphError(f"node name {name!r} must be text without '/', which separates names in files")
        if not all(isinstance(label, str) for label in self.labels):
            raise GraphError(f"labels are {self.labels!r}: they must be text")
        if not isinstance(self.metadata, dict):
            raise GraphError(f"metadata is a {type(self.metadata).__name__}: it must be a dict")
        try:
            json.dumps(self.metadata, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise GraphError(f"metadata is not JSON: {error}") from None

    def _check_edges(self) -> None:
        if surplus := set(self.inputs) - set(self.nodes):
            raise GraphError(f"inputs are given for {sorted(surplus)[0]}, but there is no such node")
        position = {name: i for i, name in enumerate(self.nodes)}
        declared = set(self.feedback)
        for name, node in self.nodes.items():
            sources = self.inputs.get(name, ())
            if len(sources) != len(node.ports):
                open_ports = ", ".join(node.ports[len(sources) :]) or "none"
                raise GraphError(
                    f"{self._title(name)} has {len(sources)} inputs for {len(node.ports)} ports; open: {open_ports}"
                )
            for port, source in zip(node.ports, sources, strict=True):
                at = f"{self._title(name)}: port {port} reads {source!r}"
                if source not in position:
                    raise GraphError(f"{at}, but there is no such node")
                backward = position[source] >= position[name]
                if backward and (name, port) not in declared:
                    what = "a cycle" if self._reaches(name, source) else "out of emission order"
                    raise GraphError(f"{at}, which comes later: {what}; declare it as feedback or reorder the nodes")
                if not backward and (name, port) in declared:
                    raise GraphError(f"{at}, which comes before it: it cannot be feedback")
                declared.discard((name, port))
                if node.at_end and backward:
                    raise GraphError(f"{at} as feedback, but it acts once, at the end")
                if self.nodes[source].at_end and not node.at_end:
                    raise GraphError(f"{at}, which acts at the end: only a Readout reads what a MeanPool gives")
        if declared:
            name, port = sorted(declared)[0]
            raise GraphError(f"feedback names port {port} of node {name!r}, but there is no such port")

    def _reaches(self, start: str, end: str) -> bool:
        """Whether `end` depends on `start`, feedback left out."""
        seen, todo = set(), [end]
        while todo:
            name = todo.pop()
            if name == start:
                return True
            if name not in seen and name in self.nodes:
                seen.add(name)
                ports = zip(self.nodes[name].ports, self.inputs.get(name, ()), strict=False)
                todo.extend(source for port, source in ports if (name, port) not in self.feedback)
        return False

    def _check_ends(self) -> None:
        if not self.of_type(Input) and not self.of_type(Embedding):
            raise GraphError("the graph has no Input and no Embedding: nothing can enter it")
        for name, node in self.nodes.items():
            if isinstance(node, Embedding) and node.ids == "position_ids" and len(node.weight) < self.tokens:
                raise GraphError(f"{self._title(name)} has {len(node.weight)} positions for up to {self.tokens} tokens")
            if isinstance(node, Stateful) and not node.in_windows and self.schedule == "phased":
                raise GraphError(f"{self._title(name)} has no window of its own: only the concurrent schedule steps it")
        entering = {
            name: TOKENS in self.nodes[name].shape() for name in (*self.of_type(Input), *self.of_type(Embedding))
        }
        if len(set(entering.values())) > 1:
            some, other = (next(n for n, has in entering.items() if has is wanted) for wanted in (True, False))
            raise GraphError(f"{self._title(some)} has tokens, {self._title(other)} has none: all must, or none")
        if surplus := next((item for item in self.outputs.items() if item[1] not in self.nodes), None):
            raise GraphError(f"output {surplus[0]} is given by {surplus[1]!r}, but there is no such node")
        readouts = self.of_type(Readout)
        if len(readouts) > 1:
            raise GraphError(f"nodes {' and '.join(readouts)} are both a Readout: a graph has at most one")
        outputs = self.shapes()[readouts[0]][0] if readouts else 0
        if self.labels and len(self.labels) != outputs:
            raise GraphError(f"{len(self.labels)} labels for {outputs} outputs of the Readout")

    def _check_fixed_point(self) -> None:
        if not self.fixed_point:
            return
        if difference := set(self.nodes) ^ set(self.fixed_point):
            raise GraphError(f"node {sorted(difference)[0]}: every node of a fixed-point graph needs its FixedPoint")
        for name, node in self.nodes.items():
            for f in fields(node):
                value = getattr(node, f.name)
                if isinstance(value, np.ndarray) and not f.name.endswith("leak") and value.dtype.kind != "i":
                    raise GraphError(
                        f"{self._title(name)}: {f.name} is {value.dtype}, but the graph is one of integers"
                    )
            if len(self.fixed_point[name].rescale) != len(node.ports):
                raise GraphError(f"{self._title(name)}: {len(node.ports)} ports need as many factors in rescale")

    def to_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """A description that json can store, and the arrays it names. `from_arrays` gives the same graph back."""
        arrays: dict[str, np.ndarray] = {}
        nodes = []
        for name, node in self.nodes.items():
            parameters = {
                f.name: value
                for f in fields(node)
                if not (same_value(value := getattr(node, f.name), f.default) and f.name in node.later)
            }
            for key, value in parameters.items():
                if isinstance(value, np.ndarray):
                    arrays[f"{name}.{key}"] = value
                    parameters[key] = {"array": f"{name}.{key}"}
                elif isinstance(value, tuple):
                    parameters[key] = list(value)
            node_type = type(node).__name__
            nodes.append({"name": name, "type": node_type, "inputs": list(self.inputs[name]), "parameters": parameters})
        for name, fixed in self.fixed_point.items():
            entry = {key: value for key, value in vars(fixed).items() if key != "exponents"}
            for later in ("fraction", "clips"):  # as files were before there were any
                if not entry[later]:
                    del entry[later]
            entry["rescale"] = [list(factor) for factor in fixed.rescale]
            if fixed.exponents is not None:
                arrays[f"{name}.exponents"] = fixed.exponents
            next(node for node in nodes if node["name"] == name)["fixed_point"] = entry
        settings = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("nodes", "inputs", "fixed_point")
        }
        settings |= {"feedback": [list(edge) for edge in self.feedback], "labels": list(self.labels)}
        if not self.outputs:  # as files were before there were any
            del settings["outputs"]
        return {"format_version": FORMAT_VERSION, "nodes": nodes, **settings}, arrays

    @classmethod
    def from_arrays(cls, description: dict[str, Any], arrays: dict[str, np.ndarray]) -> "Graph":
        """Raises GraphError: another format version, an unknown node type, missing or surplus entries or arrays, or a
        graph that is not consistent."""
        version = description.get("format_version") if isinstance(description, dict) else None
        if version != FORMAT_VERSION:
            raise GraphError(f"graph format version {version!r}, but this neurotool reads version {FORMAT_VERSION}")
        settings = {f.name for f in fields(cls)} - {"inputs", "fixed_point"} | {"format_version"}
        description = {"outputs": {}} | description
        if difference := settings ^ set(description):
            raise GraphError(f"the graph's description and version {version} differ in {sorted(difference)[0]!r}")
        builder, unused, fixed_point = GraphBuilder(), dict(arrays), {}
        try:
            for entry in description["nodes"]:
                builder.add(entry["name"], _node(entry, unused), *entry["inputs"])
                if "fixed_point" in entry:
                    fixed_point[entry["name"]] = _fixed_point(entry, unused)
            if unused:
                raise GraphError(f"array {sorted(unused)[0]} belongs to no node ({len(unused)} such arrays)")
            builder.feedback = [(node, port) for node, port in description["feedback"]]
            given = {name: description[name] for name in settings - {"format_version", "nodes", "feedback"}}
            return builder.build(**given | {"labels": tuple(description["labels"]), "fixed_point": fixed_point})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise GraphError(f"the graph's description is damaged: {type(error).__name__} {error}") from error


class GraphBuilder:
    """Collects nodes in emission order; `add` returns the name, for use as a source."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.inputs: dict[str, tuple[str, ...]] = {}
        self.feedback: list[tuple[str, str]] = []

    def add(self, name: str, node: Node, *sources: str) -> str:
        """Raises GraphError for a name that is taken."""
        if name in self.nodes:
            raise GraphError(
                f"node {name} ({type(node).__name__}): the name is taken by a {type(self.nodes[name]).__name__}"
            )
        self.nodes[name], self.inputs[name] = node, sources
        return name

    def add_feedback(self, name: str, node: Node, source: str) -> str:
        """A node whose one port reads what `source`, a later node, gave one step (or sweep) before."""
        self.feedback.append((name, node.ports[0]))
        return self.add(name, node, source)

    def build(self, **settings: Any) -> Graph:
        """settings: the fields of Graph from `time_steps` on. Raises GraphError."""
        return Graph(self.nodes, self.inputs, feedback=tuple(self.feedback), **settings)


def _fixed_point(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> FixedPoint:
    """Takes the exponents, if there are any, out of `arrays`."""
    stored = dict(entry["fixed_point"])
    rescale = tuple((int(multiplier), int(shift)) for multiplier, shift in stored.pop("rescale"))
    return FixedPoint(**stored, rescale=rescale, exponents=arrays.pop(f"{entry['name']}.exponents", None))


def _node(entry: dict[str, Any], arrays: dict[str, np.ndarray]) -> Node:
    """Takes the arrays it uses out of `arrays`."""
    kind = NODE_TYPES.get(entry["type"])
    if kind is None:
        raise GraphError(f"node {entry['name']} has type {entry['type']!r}: known types are {', '.join(NODE_TYPES)}")
    parameters = {f.name: f.default for f in fields(kind) if f.name in kind.later} | dict(entry["parameters"])
    if difference := {f.name for f in fields(kind)} ^ set(parameters):
        raise GraphError(
            f"node {entry['name']} ({entry['type']}): parameter {sorted(difference)[0]} is missing or unknown"
        )
    for key, value in parameters.items():
        if isinstance(value, dict):
            if value.get("array") not in arrays:
                raise GraphError(
                    f"node {entry['name']} ({entry['type']}): array {value.get('array')!r} of {key} is missing"
                )
            parameters[key] = arrays.pop(value["array"])
        elif isinstance(value, list):
            parameters[key] = tuple(value)
    return kind(**parameters)
