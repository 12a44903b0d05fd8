"""A layer graph as one tool would export it: in its units and by its rules, so that what it reads is this network.

A tool's import knows tau and thresholds, and not always r: norse leaves it out, snnTorch takes r dt / tau for 1. Where
its rules leave a gain, the thresholds take it over. What is written is read back by the tool's rules (conventions.py)
and must be this network again.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import nir
import numpy as np

from neurotool.errors import ExportError
from neurotool.export.chains import as_chain, walked_in_order
from neurotool.export.conventions import TOOLS, Conventions, Rules
from neurotool.export.from_nir import from_nir
from neurotool.export.rewriting import with_one_threshold, with_silent_neurons
from neurotool.export.to_nir import TAU_WITHOUT_LEAK, expressible, to_nir
from neurotool.graph import CubaLIF, Graph, Input, Integrator, Linear, Neuron
from neurotool.graph.nodes import own_axes


@dataclass(frozen=True)
class Import:
    """What a tool's import makes of a file.

    unit_r: of an LIF it takes r for 1; else for tau / dt. leaks_always: IF is not what it says
    there, and has to be an LIF that hardly leaks. only_affine: a Linear would get random weights. one_threshold: a
    layer, and nothing else, must have one. reset: what it gives its neurons. rewritten: what is made of a network
    whose nodes it does not know, in order. depth_first: it runs nodes in that order, along the edges, and takes of
    those that come too late what they gave in the step before.
    """

    unit_r: bool = False
    leaks_always: bool = False
    only_affine: bool = False
    one_threshold: bool = False
    reset: str = "hard"
    rewritten: tuple[Callable[[Graph], Graph], ...] = (with_silent_neurons,)
    depth_first: bool = False


IMPORTS = {
    # snntorch/import_nir.py of 1.0.0: an IF becomes a Leaky of beta 0.9
    "snntorch": Import(leaks_always=True, one_threshold=True, rewritten=(with_silent_neurons, with_one_threshold)),
    # norse/torch/utils/import_nir.py of 1.1.0: r is not read, nor the weight of a Linear
    "norse": Import(unit_r=True, only_affine=True, depth_first=True),
}
"""Tools whose own import was tried, in tests/test_nir_interop.py."""


def for_tool(graph: Graph, tool: str) -> tuple[nir.NIRGraph, list[str]]:
    """The file for `tool`, and what it has to be told beside it, in words.

    Raises ExportError: a node that NIR has no word for, or that the tool's import cannot give back.
    """
    if tool not in IMPORTS:
        raise ExportError(f"--for {tool}: files are written for {', '.join(IMPORTS)}")
    if lost := [name for name in graph.nodes if name not in expressible(graph)]:
        raise ExportError(
            f"--for {tool}: NIR has no word for node {lost[0]} ({type(graph.nodes[lost[0]]).__name__}): write a part "
            "without it (--from-node, --to-node)"
        )
    rules, reads, readout = TOOLS[tool], IMPORTS[tool], graph.of_type(Integrator)
    for rewritten in reads.rewritten:
        graph = rewritten(graph)
    if reads.depth_first and not all(walked_in_order(to_nir(graph).edges, name) for name in graph.of_type(Input)):
        graph = as_chain(graph)
    shapes = graph.shapes()
    standard = to_nir(graph)
    nodes = dict(standard.nodes)
    for name, node in graph.nodes.items():
        if isinstance(node, Neuron):
            nodes[name] = _neuron(name, node, own_axes(shapes[name]), rules, reads)
        elif type(node) is Linear and node.bias is None and reads.only_affine:
            nodes[name] = nir.Affine(node.weight, np.zeros(len(node.weight), node.weight.dtype))
    # torch takes no dots in the names of modules.
    named = {name: name.replace(".", "_") for name in nodes}
    if len(set(named.values())) < len(named):
        raise ExportError(f"--for {tool}: names differ in '.' and '_' alone, and {tool} takes no dots")
    written = nir.NIRGraph(
        {named[name]: node for name, node in nodes.items()},
        [(named[a], named[b]) for a, b in standard.edges],
        metadata={"dt": rules.time_step, "time_steps": graph.time_steps, "tool": tool},
    )
    silent = [name for name in readout if isinstance(graph.nodes[name], CubaLIF)]
    return written, _told(graph, written, tool) + [
        f"{name} never fires: its potential is the readout" for name in silent
    ]


def _neuron(name: str, node: Neuron, shape: tuple[int, ...], rules: Rules, reads: Import) -> nir.NIRNode:
    dt = rules.time_step
    assert dt is not None  # of all tools with an import
    leak, threshold = _full(node.leak, shape), _full(node.v_threshold * node.firing_point, shape)
    v_reset, bias = _full(node.v_reset, shape), _full(node.bias, shape)
    if reads.one_threshold and (len(np.unique(threshold)) > 1 or np.any(bias) or np.any(v_reset)):
        raise ExportError(f"node {name}: the tool's import takes one threshold for a layer, no bias and no v_reset")
    if isinstance(node, CubaLIF) and np.any(bias):
        raise ExportError(f"node {name}: the tool's import gives its bias to the current, too; put it into the weights")
    plain = not np.any(bias) and not isinstance(node, CubaLIF)
    if np.all(leak == 1) and plain and not reads.leaks_always:
        return nir.IF(r=np.ones(shape) if rules.unit_charge else np.full(shape, 1 / dt), v_threshold=threshold,
                      v_reset=v_reset)  # fmt: skip
    lost = 1 - leak
    tau = np.divide(dt, lost, out=np.full(shape, dt * TAU_WITHOUT_LEAK), where=lost > 0)
    # Of r I, the membrane takes dt / tau in: r = tau / dt makes that I; with r = 1 the potential is dt / tau as large.
    unit_r = reads.unit_r and not isinstance(node, CubaLIF)
    gain, r = (dt / tau, np.ones(shape)) if unit_r else (np.ones(shape), tau / dt)
    if unit_r and np.any(lost == 0):
        raise ExportError(
            f"node {name}: it has neurons without leak beside others, or a bias: the tool has no such layer"
        )
    v_leak = np.divide(bias * gain, lost, out=np.zeros(shape), where=lost > 0)
    scaled = {"v_threshold": threshold * gain, "v_reset": v_reset * gain, "v_leak": v_leak}
    if not isinstance(node, CubaLIF):
        return nir.LIF(tau=tau, r=r, **scaled)
    lost = 1 - _full(node.current_leak, shape)
    tau_syn = np.divide(dt, lost, out=np.full(shape, dt * TAU_WITHOUT_LEAK), where=lost > 0)
    return nir.CubaLIF(tau_syn=tau_syn, tau_mem=tau, r=r, w_in=tau_syn / dt, **scaled)


def _full(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, np.float64), shape).copy()


def _told(graph: Graph, written: nir.NIRGraph, tool: str) -> list[str]:
    """Reads it back by the tool's rules; where that is another network in what the tool can be told, that is said."""
    reset = IMPORTS[tool].reset
    read = from_nir(written, Conventions(tool, reset=reset))  # type: ignore[arg-type]
    said = [f"dt is {TOOLS[tool].time_step:g}, T = {graph.time_steps}"]
    for name, node in graph.nodes.items():
        other = read.nodes.get(name.replace(".", "_"))
        if not isinstance(node, Neuron) or not isinstance(other, Neuron):
            continue
        for f in fields(node):
            own, theirs = getattr(node, f.name), getattr(other, f.name, 0.0)  # a current of one step is none
            if f.name in ("reset", "spikes"):
                if own != theirs:
                    said.append(f"{name} has {f.name} {own}; the import of {tool} makes that {theirs}")
            elif f.name == "v_init" or f.name == "v_min":
                if np.any(np.asarray(own if own is not None else 0) != np.asarray(theirs if theirs is not None else 0)):
                    said.append(f"{name} has {f.name} {own}")
            elif not np.allclose(own, theirs, rtol=1e-6, atol=1e-12):
                raise ExportError(f"node {name}: {tool} would read {f.name} {np.max(theirs):g}, not {np.max(own):g}")
    if TOOLS[tool].fires == ">":
        said.append("a neuron exactly at its threshold fires here, and not there")
    return said
