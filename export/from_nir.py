"""Standard NIR nodes -> layer graph (concurrent schedule), for files that other tools wrote.

| NIR                 | layer graph                                                                                |
|---------------------|--------------------------------------------------------------------------------------------|
| Affine, Linear      | Linear                                                                                     |
| Conv1d              | Conv2d of height 1: what is (channels, length) there is (channels, 1, length)              |
| Conv2d, SumPool2d,  | the same                                                                                   |
| AvgPool2d, Flatten  |                                                                                            |
| Scale               | Scale                                                                                      |
| Threshold           | Neuron without memory                                                                      |
| IF, LIF             | Neuron                                                                                     |
| CubaLIF             | CubaLIF; a Neuron where the synaptic current lasts one step                                |
| I, LI, CubaLI       | Integrator, behind a Scale where it has a gain                                             |
| Delay               | Delay; and one behind each layer of a tool that sends its spikes late                      |
| several edges       | Add                                                                                        |
| NIRGraph            | its nodes, names prefixed                                                                  |

How states are stepped is a matter of conventions (conventions.py): nir_neurons.py. Cycles become feedback: what closes
one reads what its source gave in the step before.
"""

import warnings
from typing import Any

import nir
import numpy as np

from neurotool.errors import GraphError, NeurotoolWarning, shown
from neurotool.export.conventions import TOOLS, Conventions
from neurotool.export.nir_meaning import Meaning, meaning, tool_named
from neurotool.export.nir_neurons import STATES, Layers
from neurotool.export.nir_shapes import Shape, Shapes, as_plane, padding2d, pair, title
from neurotool.export.nir_structure import Structure
from neurotool.graph import (
    Add,
    AvgPool2d,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    GraphBuilder,
    Input,
    Linear,
    Node,
    Scale,
    SumPool2d,
)

_IMAGES = (nir.Conv1d, nir.Conv2d, nir.SumPool2d, nir.AvgPool2d, nir.Flatten)
SUPPORTED = (nir.Affine, nir.Linear, nir.Scale, *_IMAGES, *STATES)


def from_nir(content: nir.NIRGraph, conventions: Conventions, repair: bool = False) -> Graph:
    """Warns (NeurotoolWarning) where what is told and what the file says disagree, and where it leaves an order open.

    repair: see `nir_shapes.Shapes`.
    Raises GraphError: a node that is not supported or not exactly expressible, shapes that do not fit, or conventions
    that are missing.
    """
    tool = conventions.tool or tool_named(content.metadata)
    beside, from_start = (TOOLS[tool].input_beside, TOOLS[tool].bias_from_start) if tool else (False, True)
    structure = Structure(content, beside, from_start)
    for name, node in structure.nodes.items():
        if not isinstance(node, (nir.Input, *SUPPORTED)):
            known = ", ".join(kind.__name__ for kind in SUPPORTED)
            raise GraphError(f"{title(name, node)} is not supported: known are {known}, Input, Output")
    meant = meaning(conventions, content.metadata, structure.nodes)
    reader = _Reader(structure, meant, repair)
    for text in (*meant.warnings, *structure.odd, *reader.shapes.odd):
        warnings.warn(text, NeurotoolWarning, stacklevel=3)
    return reader.read()


class _Reader:
    def __init__(self, structure: Structure, meant: Meaning, repair: bool) -> None:
        self.structure, self.meant = structure, meant
        self.order, self.late = structure.order()
        self.shapes = Shapes(structure, self.order, repair)
        self.lines = any(isinstance(node, nir.Conv1d) for node in structure.nodes.values())
        """What has two axes is a plane of height 1."""
        self.layers = Layers(meant, self._folded)
        self.build = GraphBuilder()
        self.read_as: dict[str, str] = {}
        """What others read of a node in the same step, where that is not itself."""

    def read(self) -> Graph:
        for name in self.order:
            self._add(name, self.structure.nodes[name])
        outputs = {name: self._sum(name, sources) for name, sources in self.structure.outputs.items()}
        return self.build.build(
            time_steps=self.meant.time_steps,
            schedule="concurrent",
            outputs=outputs,
            metadata=self._metadata(),
        )

    def _metadata(self) -> dict[str, Any]:
        """What times mean, and the shapes of inputs that are planes of height 1 here."""
        step, shapes = self.meant.rules.time_step, self.shapes.of
        inputs = {
            name: list(shapes[name])
            for name, node in self.structure.nodes.items()
            if isinstance(node, nir.Input) and self._plane(shapes[name]) != shapes[name]
        }
        return ({} if step in (None, 1) else {"time_step": step}) | ({"input_shapes": inputs} if inputs else {})

    def _add(self, name: str, node: nir.NIRNode) -> None:
        if isinstance(node, nir.Input):
            told = node.metadata.get("spiking")
            if told not in (None, False, True):  # 0 and 1 among them
                raise GraphError(f"{title(name, node)} has metadata spiking {shown(told)}: it is true or false")
            self.build.add(name, Input(self._plane(self.shapes.of[name]), spiking=None if told is None else bool(told)))
            return
        sources = self.structure.sources[name]
        made = (
            self.layers.layer(name, node, self.shapes.of[name]) if isinstance(node, STATES) else self._node(name, node)
        )
        if made is None:  # a Flatten of what is flat
            self.read_as[name] = self._sum(name, sources)
            return
        if self.layers.gain is not None and isinstance(node, STATES):
            self._connect(gain := self.structure.free(f"{name}.gain"), self.layers.gain, name, sources)
            self.build.add(name, made, gain)
        else:
            self._connect(name, made, name, sources)
        if self.layers.sends_late(node):
            self.read_as[name] = self.build.add(self.structure.free(f"{name}.late"), Delay(1), name)

    def _connect(self, as_name: str, node: Node, name: str, sources: tuple[str, ...]) -> None:
        """Adds a node that reads the sum of `sources` as NIR's node `name` does."""
        late = [source for source in sources if (source, name) in self.late]
        if len(sources) == 1 and late:
            self.build.add_feedback(as_name, node, *late)
        else:
            self.build.add(as_name, node, self._sum(name, sources))

    def _sum(self, name: str, sources: tuple[str, ...]) -> str:
        """The node that gives the sum of what an edge from each source brings, in this step or from the one before;
        from there as it was made, where a tool sends it one step late."""
        late = [source for source in sources if (source, name) in self.late]
        terms = [self.read_as.get(source, source) for source in sources if source not in late]
        total = terms[0] if terms else ""
        for i, source in enumerate([*terms[1:], *late], start=1):
            joined = self.structure.free(f"{name}.sum{i}")
            if source in late and not total:
                total = self._only_late(name, late)
                break
            self.build.add(joined, Add(), total, source)
            self.build.feedback += [(joined, "b")] if source in late else []
            total = joined
        return total

    def _only_late(self, name: str, late: list[str]) -> str:
        """The sum of several that all come from the step before."""
        first, *others = late
        total = ""
        for i, source in enumerate(others, start=1):
            joined = self.structure.free(f"{name}.sum{i}")
            self.build.add(joined, Add(), total or first, source)
            self.build.feedback += [(joined, "b")] if total else [(joined, "a"), (joined, "b")]
            total = joined
        return total

    def _plane(self, shape: Shape) -> Shape:
        """A shape of the file as the graph has it."""
        return (shape[0], 1, shape[1]) if self.lines and len(shape) == 2 else shape

    def _folded(self, values: np.ndarray) -> np.ndarray:
        """Parameters in the shape of a node's output, as the graph has them."""
        return values.reshape(self._plane(values.shape))

    def _node(self, name: str, node: Any) -> Node | None:
        """None for a Flatten of what is flat."""
        match node:
            case nir.Affine():
                return Linear(node.weight, node.bias)
            case nir.Linear():
                return Linear(node.weight)
            case nir.Scale():
                return Scale(self.layers.values(name, node, "scale", self.shapes.of[name]))
            case nir.Flatten():
                return self._flatten(name, node)
            case nir.Conv1d():
                return _convolution(as_plane(node))
            case nir.Conv2d():
                return _convolution(node)
        kind = SumPool2d if isinstance(node, nir.SumPool2d) else AvgPool2d
        return kind(pair(node.kernel_size), pair(node.stride), pair(node.padding))

    def _flatten(self, name: str, node: Any) -> Node | None:
        given, gives = self.shapes.reads(name), self.shapes.of[name]
        fed_back = any(source == name for source, _ in self.late)
        if given == gives:
            return Scale(1.0) if fed_back else None
        if np.prod(gives[1:]) > 1:
            raise GraphError(f"{title(name, node)} makes {gives} of {given}: one axis is wanted")
        return Flatten(len(self._plane(given)))


def _convolution(node: nir.Conv2d) -> Conv2d:
    rows, columns = padding2d(node)
    padding: Any = "same" if isinstance(node.padding, str) and node.padding == "same" else (rows[0], columns[0])
    return Conv2d(node.weight, node.bias, pair(node.stride), padding, pair(node.dilation), int(node.groups))
