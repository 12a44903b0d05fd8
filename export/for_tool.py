"""A layer graph as one tool would export it: in its units and by its rules, so that what it reads is this network.

A tool's import knows tau and thresholds, and not always r: norse leaves it out, snnTorch takes r dt / tau for 1. Where
its rules leave a gain, the thresholds take it over. What is written is read back by the import's rules and must be this
network again.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import nir
import numpy as np

from neurotool.errors import ExportError, GraphError, NeurotoolWarning
from neurotool.export.conventions import TOOLS, Conventions, Integration, integrate
from neurotool.export.from_nir import from_nir
from neurotool.export.rewriting import rewritten
from neurotool.export.to_nir import TAU_WITHOUT_LEAK, expressible, to_nir
from neurotool.export.tool_imports import IMPORTS, WITHOUT_IMPORT, per_step, unit
from neurotool.graph import Add, CubaLIF, Flatten, Graph, Input, Integrator, Linear, Neuron, SumPool2d
from neurotool.graph.nodes import own_axes

_KEEPS_NOTHING = 2.0**60
"""dt / tau of a state that decays exponentially to 0 in one step."""
_NO_GAIN = 2 / TAU_WITHOUT_LEAK


def for_tool(graph: Graph, tool: str) -> tuple[nir.NIRGraph, list[str]]:
    """The file for `tool`, and what it has to be told beside it, in words.

    Raises ExportError: a node that NIR has no word for, or that the tool's import cannot give back.
    """
    if tool not in IMPORTS:
        why = WITHOUT_IMPORT.get(tool, "is not known")
        raise ExportError(f"--for {tool}: it {why}; files are written for {', '.join(IMPORTS)}")
    prepared, silent = rewritten(graph, tool)
    written, said = _Writer(prepared, tool).written()
    return written, said + [f"{name} never fires: its potential is the value of the integrator" for name in silent]


def as_written(graph: Graph, tool: str) -> Graph:
    """What the file for `tool` computes there, once it is told what `for_tool` says, by the names in the file; its
    metadata have the tool's time_step."""
    prepared, _ = rewritten(graph, tool)
    chain = IMPORTS[tool].chain
    named = {
        name: "input" if chain and isinstance(node, Input) else _name(name) for name, node in prepared.nodes.items()
    }
    return replace(
        prepared,
        nodes={named[name]: node for name, node in prepared.nodes.items()},
        inputs={named[name]: tuple(map(named.__getitem__, sources)) for name, sources in prepared.inputs.items()},
        feedback=tuple((named[name], port) for name, port in prepared.feedback),
        outputs={output: named[name] for output, name in prepared.outputs.items()},
        metadata={"time_step": TOOLS[tool].time_step},
    )


def _name(name: str) -> str:
    """torch takes no dots in the names of modules, and generates code from names."""
    return re.sub(r"\W", "_", name)


class _Writer:
    def __init__(self, graph: Graph, tool: str) -> None:
        self.graph, self.tool, self.reads = graph, tool, IMPORTS[tool]
        dt = TOOLS[tool].time_step
        assert dt is not None  # of all tools with an import
        self.dt, rules = dt, TOOLS[tool]
        self.rules = rules if self.reads.membrane is None else replace(rules, membrane=self.reads.membrane)
        self.shapes, self.said = graph.shapes(), [f"dt is {dt:g}, T = {graph.time_steps}"]

    def written(self) -> tuple[nir.NIRGraph, list[str]]:
        self._check()
        standard = to_nir(self.graph)
        ends = [sum(isinstance(node, kind) for node in standard.nodes.values()) for kind in (nir.Input, nir.Output)]
        if ends != [1, 1]:
            raise ExportError(
                f"--for {self.tool}: its import takes one Input and one Output, and here are {ends[0]} and {ends[1]}: "
                "write a part (--from-node, --to-node)"
            )
        nodes = {name: self._node(name, node) for name, node in standard.nodes.items()}
        named = self._names(nodes)
        written = nir.NIRGraph(
            {named[name]: node for name, node in nodes.items()},
            [(named[a], named[b]) for a, b in standard.edges],
            metadata={"dt": self.dt, "time_steps": self.graph.time_steps, "tool": self.tool},
        )
        self._compare(written, named)
        if self.rules.fires == ">":
            self.said.append("a neuron exactly at its threshold fires here, and not there")
        if self.rules.sends_late:
            self.said.append("each layer sends its spikes one step late there")
        return written, self.said

    def _refuse(self, name: str, why: str) -> ExportError:
        return ExportError(f"--for {self.tool}: node {name}: {why}")

    def _check(self) -> None:
        graph, reads = self.graph, self.reads
        if graph.schedule != "concurrent":
            raise ExportError(
                f"--for {self.tool}: the network runs in the {graph.schedule} schedule, window by window, and tools "
                "step by step: leave out --for, and the file says so beside its standard nodes"
            )
        if lost := [name for name in graph.nodes if name not in expressible(graph)]:
            raise ExportError(
                f"--for {self.tool}: NIR has no word for node {lost[0]} ({type(graph.nodes[lost[0]]).__name__}): write "
                "a part without it (--from-node, --to-node)"
            )
        for name, node in graph.nodes.items():
            if type(node) not in reads.nodes:
                raise self._refuse(name, f"its import has no {type(node).__name__} (known: {self._known()})")
            if isinstance(node, SumPool2d) and any(node.padding) and not reads.padding:
                raise self._refuse(name, f"its import leaves out the padding {node.padding} of a pool")
        if graph.feedback and not reads.recurrent:
            raise self._refuse(min(graph.feedback)[0], "it is fed back, and its import runs no recurrence")
        for name, _ in graph.feedback:
            if getattr(graph.nodes[name], "bias", None) is not None and not self.rules.bias_from_start:
                raise self._refuse(name, "it is fed back, and its import leaves its bias out of the first step")
        behind = False
        for name, node in graph.nodes.items():
            behind = behind or isinstance(node, Neuron)
            biased = isinstance(node, Linear) and node.bias is not None and np.any(node.bias)
            if behind and biased and self.rules.sends_late:
                raise self._refuse(name, "a bias behind neurons, which send one step late there, and it would not")
        if reads.chain and any(isinstance(node, Add) for node in graph.nodes.values()):
            raise ExportError(f"--for {self.tool}: its import takes layers in one line, and here are sums (Add)")

    def _known(self) -> str:
        return ", ".join(kind.__name__ for kind in self.reads.nodes)

    def _node(self, name: str, standard: nir.NIRNode) -> nir.NIRNode:
        """The tool's form of a standard node."""
        node = self.graph.nodes.get(name)
        if isinstance(node, Neuron):
            return self._neuron(name, node)
        if isinstance(node, Integrator):
            return self._integrator(name, node)
        if isinstance(node, Flatten):  # counted from behind, as batches come in front
            return nir.Flatten(standard.input_type, start_dim=-node.axes, end_dim=-1)
        if isinstance(standard, nir.Linear) and self.reads.only_affine:
            weight = standard.weight
            return nir.Affine(weight, np.zeros(len(weight), weight.dtype))
        return standard

    def _neuron(self, name: str, node: Neuron) -> nir.NIRNode:
        shape, reads, dt = own_axes(self.shapes[name]), self.reads, self.dt
        leak, threshold = _full(node.leak, shape), _full(node.v_threshold * node.firing_point, shape)
        v_reset, bias = _full(node.v_reset, shape), _full(node.bias, shape)
        self._check_neuron(name, node)
        cuba = isinstance(node, CubaLIF)
        if reads.only_cuba and not cuba:
            raise self._refuse(name, "its import reads no LIF and no IF, only CubaLIF")
        if np.all(leak == 1) and not np.any(bias) and not cuba and not reads.only_lif:
            r = np.ones(shape) if self.rules.unit_charge else np.full(shape, 1 / dt)
            return self._uniform(name, nir.IF(r=r, v_threshold=threshold, v_reset=v_reset))
        tau = self._tau(leak, self.rules.membrane)
        r = reads.r(tau, dt)
        _, _, gain = integrate(self.rules.membrane, dt / tau, r)
        if cuba and reads.r is unit:  # the current's r is read
            r, gain = per_step(tau, dt), np.ones(shape)
        elif np.any(gain < _NO_GAIN):
            raise self._refuse(name, "it has neurons without leak beside others, or a bias: the tool has no such layer")
        lost = 1 - leak
        v_leak = np.divide(bias * gain, lost, out=np.zeros(shape), where=lost > 0)
        scaled = {"v_threshold": threshold * gain, "v_reset": v_reset * gain, "v_leak": v_leak}
        if not isinstance(node, CubaLIF):
            if reads.keeps and np.any(leak == 0):
                raise self._refuse(name, "its leak is 0, and its import takes only LIF that keep something")
            return self._uniform(name, nir.LIF(tau=tau, r=r, **scaled))
        tau_syn = self._tau(_full(node.current_leak, shape), self.rules.synapse)
        w_in = reads.w_in(tau_syn, dt)
        _, _, more = integrate(self.rules.synapse, dt / tau_syn, w_in)
        if np.any(more < _NO_GAIN):
            raise self._refuse(name, "it has neurons without a synaptic current: the tool has no such layer")
        scaled = {key: value * more for key, value in scaled.items()}
        return self._uniform(name, nir.CubaLIF(tau_syn=tau_syn, tau_mem=tau, r=r, w_in=w_in, **scaled))

    def _check_neuron(self, name: str, node: Neuron) -> None:
        """Raises ExportError for what the tool's neurons cannot be; says what they have to be given."""
        reads, cuba = self.reads, isinstance(node, CubaLIF)
        if np.any(node.bias) and (cuba or not reads.bias):
            raise self._refuse(name, "its import takes no bias of neurons: put it into the weights before them")
        if np.any(node.v_reset) and not reads.v_reset:
            raise self._refuse(name, f"its import takes no v_reset, and here it is {np.max(np.abs(node.v_reset)):g}")
        if np.any(node.v_reset) and not np.all(np.asarray(node.leak) == 1):
            raise self._refuse(name, "its import takes a v_reset of leaky neurons for their rest")
        default = (reads.cuba_reset if cuba else None) or reads.reset
        others = {**({} if reads.cuba_reset and cuba else reads.resets), **(reads.cuba_resets if cuba else {})}
        self._given(name, "reset", node.reset, default, others)
        self._given(name, "spikes", node.spikes, reads.spikes, reads.all_spikes)
        start: Any = np.zeros(1)
        if self.rules.start == "leak" and np.any(node.bias):
            with np.errstate(divide="ignore", invalid="ignore"):
                start = np.asarray(node.bias) / (1 - np.asarray(node.leak)) / node.v_threshold
        if not np.allclose(node.v_init, start, rtol=1e-6):
            own, theirs = np.max(node.v_init), np.max(start)
            raise self._refuse(name, f"its potentials start at {own:g} thresholds (v_init), the tool's at {theirs:g}")
        leaks = cuba or np.any(np.asarray(node.leak) != 1) or reads.only_lif
        floor = None if reads.floor is None or leaks else np.asarray(reads.floor * node.v_threshold)
        neither = floor is None and node.v_min is None
        same = neither or (floor is not None and node.v_min is not None and np.array_equal(floor, node.v_min))
        if not same and not reads.floors:
            raise self._refuse(name, "its potentials have a lower limit (v_min), and the tool's have none")
        if not same:
            limit = "None" if node.v_min is None else f"{np.min(node.v_min):g}"
            theirs = "None" if floor is None else f"{np.min(floor):g}"
            self.said.append(f"{name} has v_min {limit}; the import makes that {theirs}: set {reads.floors} = {limit}")

    def _given(self, name: str, what: str, own: str, default: str, others: Mapping[str, str]) -> None:
        if own == default:
            return
        if own not in others:
            can = " or ".join([default, *others])
            raise self._refuse(name, f"{what} is {own}, and the tool's import makes {can}")
        self.said.append(f"{name} has {what} {own}; the import of {self.tool} makes that {default}: set {others[own]}")

    def _integrator(self, name: str, node: Integrator) -> nir.NIRNode:
        """An LI whose input has no gain."""
        shape = own_axes(self.shapes[name])
        leak = _full(node.leak, shape)
        if np.any(leak == 1) or np.any(node.current_leak) or np.any(node.bias) or np.any(node.v_init):
            raise self._refuse(name, "its import takes an LI that leaks, without current, bias or v_init")
        tau = self._tau(leak, self.rules.integrator)
        return nir.LI(tau=tau, r=np.ones(shape), v_leak=np.zeros(shape))

    def _tau(self, leak: np.ndarray, how: Integration) -> np.ndarray:
        """The time constant of a state that keeps `leak` of itself in a step."""
        with np.errstate(divide="ignore"):
            share = 1 - leak if how.startswith("euler") else -np.log(leak)
        share = np.minimum(share, _KEEPS_NOTHING)
        return np.divide(self.dt, share, out=np.full(leak.shape, self.dt * TAU_WITHOUT_LEAK), where=share > 0)

    def _uniform(self, name: str, node: Any) -> nir.NIRNode:
        for parameter in self.reads.uniform:
            values = getattr(node, parameter, np.zeros(1))
            if not np.allclose(values, values.flat[0], rtol=1e-12, atol=0):
                raise self._refuse(name, f"its import takes one {parameter} for a layer, and here they differ")
            if hasattr(node, parameter):
                setattr(node, parameter, np.full_like(values, values.flat[0]))
        return node

    def _names(self, nodes: Mapping[str, nir.NIRNode]) -> dict[str, str]:
        named = {name: _name(name) for name in nodes}
        if self.reads.chain:
            named |= {name: "input" for name, node in nodes.items() if isinstance(node, nir.Input)}
            named |= {name: "output" for name, node in nodes.items() if isinstance(node, nir.Output)}
        if len(set(named.values())) < len(named):
            raise ExportError(
                f"--for {self.tool}: names differ only in characters that are no letters, digits or _, and {self.tool} "
                "takes no others: rename one"
            )
        return named

    def _compare(self, written: nir.NIRGraph, named: Mapping[str, str]) -> None:
        """Reads it back by the import's rules: what can be told beside the file apart, it must be this network."""
        told = Conventions(self.tool, membrane=self.reads.membrane)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NeurotoolWarning)  # on r, which an import may want to be another
                read = from_nir(written, told)
        except GraphError as error:
            raise ExportError(f"--for {self.tool}: {error}") from error
        aside = ("reset", "spikes", "v_init", "v_min")
        for name, node in self.graph.nodes.items():
            other = read.nodes.get(named.get(name, name))
            if not isinstance(node, Neuron | Integrator) or type(other) is not type(node):
                continue
            for f in fields(node):
                own, theirs = getattr(node, f.name), getattr(other, f.name)
                if f.name not in aside and not np.allclose(own, theirs, rtol=1e-6, atol=1e-9):
                    raise self._refuse(name, f"{self.tool} would read {f.name} {np.max(theirs):g}, not {np.max(own):g}")


def _full(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float64), shape).copy()
