"""Hypothesis strategy for small layer graphs that use every primitive."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from neurotool.graph import (
    Add,
    AvgPool2d,
    Concat,
    Conv1d,
    Conv2d,
    CubaLIF,
    Delay,
    Embedding,
    Flatten,
    Gelu,
    Graph,
    GraphBuilder,
    Input,
    Integrator,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Readout,
    Scale,
    Softmax,
    SumPool2d,
)
from neurotool.graph.nodes import sizes

VOCABULARY, TOKENS, WIDTH = 7, 5, 4

# Factors that have a fixed-point form: 0, or not much below the others.
factors = st.floats(-2, 2).map(lambda factor: round(factor, 3))


@st.composite
def neurons(draw: Any, width: int = WIDTH) -> Neuron:
    spikes = draw(st.sampled_from(["binary", "ternary"]))
    # No round thresholds: a softmax over equal values sums to 1, or a bit less, and would sit exactly on them.
    per_neuron = st.lists(st.sampled_from([0.31, 0.73, 1.07, 2.51]), min_size=width, max_size=width).map(np.array)
    return Neuron(
        v_threshold=draw(st.floats(0.1, 3).map(lambda v: v * 1.0123) | per_neuron),
        leak=draw(st.just(1.0) | st.floats(0, 1) | per_neuron.map(lambda v: v / 2.51)),
        reset=draw(st.sampled_from(["soft", "hard"])),
        spikes=spikes,
        v_init=draw(st.sampled_from([0.0, 0.25, 0.4375] if spikes == "binary" else [-0.25, 0.0, 0.4375])),
    )


@st.composite
def graphs(draw: Any) -> Graph:
    """Blocks of random kind between an Embedding (or a spiking Input) and a Readout, sometimes with feedback."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))

    def array(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(dtype)

    def bias(width: int) -> np.ndarray | None:
        return array(width) if draw(st.booleans()) else None

    build = GraphBuilder()
    if draw(st.booleans()):
        x = build.add("spikes_in", Input(WIDTH, spiking=draw(st.booleans())))
    else:
        word = build.add("word", Embedding(array(VOCABULARY, WIDTH)))
        position = build.add("position", Embedding(array(TOKENS, WIDTH), "position_ids"))
        x = build.add("embedded", Add(), word, position)
    feedback = draw(st.booleans())
    if feedback:
        fed_back = build.add_feedback("fed_back", Linear(array(WIDTH, WIDTH), bias(WIDTH)), "last")
        x = build.add("with_feedback", Add(), x, fed_back)
    for i in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from(["linear", "conv", "attention", "norm", "scale", "residual", "concat"]))
        name = f"{i}.{kind}"
        if kind == "linear":
            x = build.add(f"{name}.gelu", Gelu(), build.add(name, Linear(array(WIDTH, WIDTH), bias(WIDTH)), x))
        elif kind == "conv":
            x = build.add(name, Conv1d(array(WIDTH, WIDTH, draw(st.integers(1, 6))), bias(WIDTH)), x)
        elif kind == "attention":
            query = build.add(f"{name}.query", Linear(array(WIDTH, WIDTH)), x)
            key = build.add(f"{name}.key", draw(neurons()), x)
            scores = build.add(f"{name}.scores", MatMul(2, transpose_b=True), query, key)
            if draw(st.booleans()):
                scores = build.add(f"{name}.softmax", Softmax(), build.add(f"{name}.scale", Scale(0.5), scores))
            x = build.add(f"{name}.context", MatMul(2), scores, key)
        elif kind == "norm":
            x = build.add(name, LayerNorm(array(WIDTH), array(WIDTH), 1e-5), x)
        elif kind == "scale":
            x = build.add(name, Scale(draw(factors) if draw(st.booleans()) else array(WIDTH)), x)
        elif kind == "concat":
            parts = [x, build.add(f"{name}.neurons", draw(neurons()), x), x][: draw(st.integers(1, 3))]
            joined = build.add(f"{name}.joined", Concat(len(parts)), *parts)
            x = build.add(name, Linear(array(WIDTH, WIDTH * len(parts))), joined)
        else:
            x = build.add(name, Add(), x, build.add(f"{name}.neurons", draw(neurons()), x))
    last = build.add("last", draw(neurons()), x)
    pooled = build.add("pool", MeanPool(draw(st.sampled_from(["mean", "first"]))), last)
    build.add("readout", Readout(array(3, WIDTH), bias(3)), pooled)
    return build.build(
        time_steps=draw(st.integers(1, 6)),
        schedule=draw(st.sampled_from(["phased", "concurrent"])),
        tokens=TOKENS,
        feedback_sweeps=draw(st.integers(1, 3)) if feedback else 1,
        labels=draw(st.sampled_from([(), ("negative", "neutral", "positive")])),
        metadata=draw(
            st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.floats(0, 1), max_size=2)
        ),
    )


SHAPES = ((3,), (2, 3), (2, 4, 3))


@st.composite
def shaped_graphs(draw: Any) -> Graph:
    """Networks without tokens: layers with any state, feedback of any kind, outputs by name, sometimes a Readout."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = draw(st.sampled_from(SHAPES))

    def leak() -> Any:
        one = st.sampled_from([0.0, 0.31, 0.75, 1.0])
        each = st.just(None).map(lambda _: rng.uniform(0, 1, (shape[0], *[1] * (len(shape) - 1))))
        return draw(one | each)

    def spiking() -> Neuron:
        kind = draw(st.sampled_from([Neuron, CubaLIF]))
        settings = {"v_threshold": draw(st.sampled_from([0.31, 0.73, 1.07])), "leak": leak()}
        settings |= {"reset": draw(st.sampled_from(["soft", "hard"]))}
        settings |= {"spikes": draw(st.sampled_from(["binary", "ternary"]))}
        return kind(**settings | ({"current_leak": leak()} if kind is CubaLIF else {}))

    build = GraphBuilder()
    x = build.add("spikes_in", Input(shape, spiking=draw(st.booleans())))
    for i in range(draw(st.integers(1, 4))):
        kinds = ["linear", "neurons", "recurrent", "scaled back", "delay", "integrator", "joined"]
        kind = draw(st.sampled_from(kinds + ["conv", "pool", "flatten"] * (len(shape) == 3)))
        name = f"{i}.{kind}"
        if kind == "linear":
            x = build.add(name, Linear(rng.normal(size=(shape[-1], shape[-1]))), x)
        elif kind == "neurons":
            x = build.add(name, spiking(), x)
        elif kind in ("recurrent", "scaled back"):
            back, source = f"{name}.sum", f"{name}.neurons"
            if kind == "scaled back":
                source = build.add_feedback(f"{name}.back", Scale(draw(factors)), source)
            else:
                build.feedback.append((back, "b"))
            x = build.add(f"{name}.neurons", spiking(), build.add(back, Add(), x, source))
        elif kind == "conv":
            groups = draw(st.sampled_from([1, shape[0]]))
            weight = rng.normal(size=(shape[0], shape[0] // groups, draw(st.integers(1, 3)), draw(st.integers(1, 3))))
            bias = rng.normal(size=shape[0]) if draw(st.booleans()) else None
            padding = draw(st.sampled_from(["same", (1, 1), (2, 1)]))
            node = Conv2d(weight, bias, padding=padding, groups=groups)
            x, shape = build.add(name, node, x), node.shape(shape)
        elif kind == "pool":
            kernel = draw(st.sampled_from([(2, 2), (1, 3), (2, 1)]))
            pool = draw(st.sampled_from([SumPool2d, AvgPool2d]))(
                kernel, draw(st.sampled_from([(1, 1), (2, 1)])), (1, 1)
            )
            x, shape = build.add(name, pool, x), pool.shape(shape)
        elif kind == "flatten":
            x, shape = build.add(name, Flatten(), x), (int(np.prod(shape)),)
        elif kind == "delay":
            x = build.add(name, Delay(draw(st.integers(0, 3)) if draw(st.booleans()) else rng.integers(0, 4, shape)), x)
        elif kind == "integrator":
            x = build.add(name, Integrator(leak(), leak(), draw(st.sampled_from([0.0, 0.25]))), x)
        else:
            joined = build.add(f"{name}.joined", Concat(2, axis=-len(shape)), x, x)
            half = Linear(rng.normal(size=(shape[-1], 2 * shape[-1])))
            x = build.add(name, half, joined) if len(shape) == 1 else joined
            shape = (shape[0] * (1 + (len(shape) > 1)), *shape[1:])
    last = build.add("last", spiking(), x)
    if len(shape) == 1 and draw(st.booleans()):
        build.add("readout", Readout(rng.normal(size=(3, shape[0]))), last)
    return build.build(
        time_steps=draw(st.integers(1, 6)),
        schedule="concurrent",
        outputs={"out": last, "sum": x} if draw(st.booleans()) else {},
    )


def random_input(graph: Graph, seed: int, tokens: int = TOKENS) -> dict[str, Any]:
    """Keyword arguments for `simulate`, padding left to the caller."""
    rng = np.random.default_rng(seed)
    if graph.of_type(Input):
        shape = sizes(graph.nodes["spikes_in"].shape(), tokens)
        return {"values": {"spikes_in": rng.integers(-1, 2, size=(graph.time_steps, *shape))}}
    return {"input_ids": rng.integers(0, VOCABULARY, size=tokens)}


def random_batch(graph: Graph, seed: int, inputs: int = 3, tokens: int = TOKENS) -> dict[str, Any]:
    """Keyword arguments for `Emulator.run` and `run_on_lava`; the last two tokens of the second input are padding."""
    one = [random_input(graph, seed + i, tokens) for i in range(inputs)]
    mask = np.ones((inputs, tokens), int)
    mask[1:2, -2:] = 0
    batch: dict[str, Any] = {"attention_mask": mask} if graph.has_tokens else {}
    if "values" in one[0]:
        return batch | {"values": {"spikes_in": np.stack([x["values"]["spikes_in"] for x in one])}}
    return batch | {"input_ids": np.stack([x["input_ids"] for x in one])}
