"""Small networks of the streaming kind: tokens in time, standard nodes alone. Currents enter, one vector a step."""

import numpy as np

from neurotool.graph import Add, CubaLIF, Graph, GraphBuilder, Input, Integrator, Linear, Neuron
from neurotool.graph.nodes import Reset

INPUT, READOUT = "tokens", "readout"


def streaming_graph(
    width: int = 12,
    blocks: int = 2,
    wide: int = 20,
    labels: int = 3,
    steps: int = 24,
    seed: int = 0,
    reset: Reset = "hard",
    each: bool = True,
    weighted: bool = False,
) -> Graph:
    """Currents -> Linear -> LIF, then blocks of Linear -> CubaLIF (the memory over tokens) -> Linear -> LIF (wide) ->
    Linear, which with the block's input spikes (a residual, an edge of its own) drives an LIF; Linear -> LI.

    each: thresholds and decays of every neuron; else one for a layer. weighted: the residual has weights, and the
    others a bias.
    """
    rng, build = np.random.default_rng(seed), GraphBuilder()

    def linear(name: str, inputs: int, outputs: int, source: str, size: float = 1.0) -> str:
        weight = rng.normal(0.35 / np.sqrt(inputs), size * 1.6 / np.sqrt(inputs), (outputs, inputs)).astype(np.float32)
        bias = rng.normal(0.0, 0.1, outputs).astype(np.float32) if weighted else None
        return build.add(name, Linear(weight, bias), source)

    def parameter(low: float, high: float, n: int) -> float | np.ndarray:
        return rng.uniform(low, high, n) if each else float(rng.uniform(low, high))

    def lif(n: int) -> Neuron:
        return Neuron(parameter(0.7, 1.3, n), parameter(0.4, 0.9, n), reset)

    x = linear("embedded.linear", width, width, build.add(INPUT, Input((width,))))
    x = build.add("embedded", lif(width), x)
    for i in range(blocks):
        name, before = f"encoder.{i}", x
        x = linear(f"{name}.mix.linear", width, width, x)
        leak, current_leak = parameter(0.3, 0.8, width), parameter(0.6, 0.97, width)
        x = build.add(f"{name}.mix", CubaLIF(parameter(1.0, 2.0, width), leak, reset, current_leak=current_leak), x)
        x = build.add(f"{name}.wide", lif(wide), linear(f"{name}.wide.linear", width, wide, x, 2.0))
        x = linear(f"{name}.output.linear", wide, width, x)
        before = linear(f"{name}.output.residual", width, width, before, 0.5) if weighted else before
        x = build.add(f"{name}.output", lif(width), build.add(f"{name}.residual", Add(), x, before))
    x = build.add(READOUT, Integrator(parameter(0.8, 0.99, labels)), linear("readout.linear", width, labels, x))
    return build.build(time_steps=steps, schedule="concurrent", outputs={"logits": READOUT})


def token_currents(graph: Graph, count: int = 1, seed: int = 1) -> dict[str, np.ndarray]:
    """Embeddings of random tokens, a token a step: (count, T, width), in single precision as tables are stored."""
    (width,) = graph.nodes[INPUT].shape()
    table = np.random.default_rng(seed).normal(0.2, 1.2, (50, int(width))).astype(np.float32)
    ids = np.random.default_rng(seed + 1).integers(0, 50, (count, graph.time_steps))
    return {INPUT: table[ids]}
