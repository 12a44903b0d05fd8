"""A drawing of a layer graph, or of a part of it: Graphviz text, or SVG/PNG in a layered layout of our own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from neurotool.errors import GraphError
from neurotool.export.to_nir import expressible
from neurotool.files import replacing
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
    GradedNeuron,
    Graph,
    Input,
    Integrator,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    NodeTable,
    Readout,
    Scale,
    Softmax,
    SumPool2d,
    Weighted,
)

_INK = "#495057"
_ROW, _COLUMN, _BOX = 0.72, 2.1, (1.9, 0.5)  # inches


def part_of(graph: Graph, part: str) -> list[str]:
    """Names of the nodes that belong to `part` (the name itself, or names that begin with it and a dot); "" is all.

    Raises GraphError where there is none.
    """
    names = [name for name in graph.nodes if not part or name == part or name.startswith(f"{part}.")]
    if not names:
        raise GraphError(f"no node is called {part!r} or {part}.…; nodes are {', '.join(list(graph.nodes)[:5])}, …")
    return names


def edges_of(graph: Graph, names: list[str]) -> list[tuple[str, str, bool]]:
    """(source, node, feedback) of all ports of `names`; sources outside of them are drawn as stubs."""
    return [
        (source, name, (name, port) in graph.feedback)
        for name in names
        for port, source in zip(graph.nodes[name].ports, graph.inputs[name], strict=True)
    ]


def label(name: str, node: Node, part: str = "") -> str:
    """Two lines: the name within the part, and the operation with its sizes."""
    what = DRAWINGS.of(name, node).text(node)
    return f"{name.removeprefix(part).lstrip('.') or name}\n{what}"


def _kind(node: Node) -> str:
    return type(node).__name__


def _sizes(width: int | tuple[int, ...]) -> str:
    return str(width) if isinstance(width, int) else " x ".join(map(str, width))


def _weighted(node: Weighted) -> str:
    kernel = f", kernel {_sizes(node.weight.shape[2:])}" if node.weight.ndim > 2 else ""
    return f"{_kind(node)} {node.in_width} → {node.weight.shape[0]}{kernel}"


def _pool(node: SumPool2d) -> str:
    return f"{_kind(node)} {_sizes(node.kernel)}"


def _neuron(node: Neuron) -> str:
    kind = "IF" if np.all(np.asarray(node.leak) == 1) else "LIF"
    threshold = "per neuron" if isinstance(node.v_threshold, np.ndarray) else f"{node.v_threshold:.3g}"
    return f"{kind} {node.spikes}, {node.reset}, θ {threshold}"


def _integrator(node: Integrator) -> str:
    leaky = "I" if np.all(np.asarray(node.leak) == 1) else "LI"
    return f"Cuba{leaky}" if np.any(node.current_leak) else leaky


def _graded(node: GradedNeuron) -> str:
    threshold = "per neuron" if isinstance(node.v_threshold, np.ndarray) else f"{node.v_threshold:.3g}"
    dead_zone = f", dead zone {node.dead_zone:g}" if node.dead_zone else ""
    return f"graded {-node.levels if node.signed else 0} … {node.levels}, θ {threshold}{dead_zone}"


@dataclass(frozen=True)
class Drawing:
    """text: the operation with its sizes, of a node."""

    text: Callable[[Any], str] = _kind
    colour: str = "#e9ecef"


SYNAPSES = Drawing(_weighted, "#a5d8ff")
DRAWINGS: NodeTable[Drawing] = NodeTable(
    "drawing",
    {
        Input: Drawing(lambda node: f"Input {_sizes(node.width)}"),
        Embedding: Drawing(lambda node: f"Embedding {node.weight.shape[0]} → {node.weight.shape[1]}"),
        Linear: SYNAPSES,
        Conv1d: SYNAPSES,
        Conv2d: SYNAPSES,
        SumPool2d: Drawing(_pool),
        AvgPool2d: Drawing(_pool),
        Flatten: Drawing(),
        Neuron: Drawing(_neuron, "#ffd8a8"),
        CubaLIF: Drawing(lambda node: f"Cuba{_neuron(node)}", "#ffd8a8"),
        Integrator: Drawing(_integrator, "#ffec99"),
        Delay: Drawing(lambda node: "Delay" if isinstance(node.steps, np.ndarray) else f"Delay {node.steps}"),
        GradedNeuron: Drawing(_graded, "#ffd8a8"),
        MatMul: Drawing(lambda node: f"{'a bᵀ' if node.transpose_b else 'a b'}, {node.heads} heads", "#d0bfff"),
        Softmax: Drawing(),
        LayerNorm: Drawing(lambda node: f"LayerNorm {len(node.weight)}"),
        Gelu: Drawing(),
        Add: Drawing(),
        Concat: Drawing(),
        Scale: Drawing(lambda node: "Scale" if isinstance(node.factor, np.ndarray) else f"× {node.factor:.3g}"),
        MeanPool: Drawing(lambda node: f"MeanPool, {node.pooling}"),
        Readout: SYNAPSES,
    },
)


def to_dot(graph: Graph, path: Path, part: str = "", force: bool = False) -> None:
    """Graphviz text; nodes that NIR has no word for are dashed. Raises GraphError, ExportError."""
    names = part_of(graph, part)
    standard = expressible(graph)
    lines = ["digraph {", '  node [shape=box, style="filled,rounded", fontname="sans-serif", fontsize=10]']
    for name in names:
        style = "filled,rounded" if name in standard else "filled,rounded,dashed"
        text, colour = label(name, graph.nodes[name], part), DRAWINGS.of(name, graph.nodes[name]).colour
        lines.append(f'  {_quoted(name)} [label={_quoted(text)}, fillcolor="{colour}", style="{style}"]')
    edges = edges_of(graph, names)
    for source in dict.fromkeys(source for source, _, _ in edges if source not in names):
        lines.append(f'  {_quoted(source)} [shape=plaintext, style=""]')
    for source, name, feedback in edges:
        lines.append(f"  {_quoted(source)} -> {_quoted(name)}{' [style=dashed, constraint=false]' if feedback else ''}")
    with replacing(path, force) as temporary:
        temporary.write_text("\n".join([*lines, "}", ""]), encoding="utf-8")


def draw(graph: Graph, path: Path, part: str = "", force: bool = False, file_format: str = "svg") -> None:
    """Boxes in rows, inputs at the top. Solid frames: NIR has a word for it; dashed: kept in the metadata.

    file_format: svg, or another that matplotlib writes. Raises GraphError, ExportError.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = part_of(graph, part)
    edges = edges_of(graph, names)
    outside = list(dict.fromkeys(source for source, _, back in edges if source not in names and not back))
    routes, place = layout([*outside, *names], [(source, name) for source, name, back in edges if not back])
    xs, ys = zip(*place.values(), strict=True)
    left, right, top, bottom = min(xs) - 1.15, max(xs) + 1.15, min(ys) - 0.6, max(ys) + 0.4
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "neurotool", "font.family": "sans-serif"}):
        figure = pyplot.figure(figsize=(right - left, bottom - top))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(left, right), ylim=(bottom, top))
        axes.axis("off")
        for route in routes:
            _arrow(axes, [place[point] for point in route])
        for source, name, back in edges:
            if back:
                _feedback(axes, place[name], source)
        for name in outside:
            axes.text(*place[name], name, ha="center", va="center", fontsize=7.5, style="italic", color=_INK)
        standard = expressible(graph)
        for name in names:
            node = graph.nodes[name]
            _box(axes, place[name], DRAWINGS.of(name, node).colour, label(name, node, part), name in standard)
        with replacing(path, force) as temporary:
            extra: dict[str, Any] = {"metadata": {"Date": None}} if file_format == "svg" else {"dpi": 150}
            figure.savefig(temporary, format=file_format, **extra)
        pyplot.close(figure)


def _box(axes: Any, place: tuple[float, float], colour: str, text: str, standard: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    (x, y), (width, height) = place, (_BOX[0] - 0.12, _BOX[1] - 0.12)
    frame: dict[str, Any] = {"linestyle": "-" if standard else (0, (3, 2)), "linewidth": 0.9, "edgecolor": _INK}
    corner = (x - width / 2, y - height / 2)
    axes.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0.06", fc=colour, zorder=3, **frame))
    name, what = text.split("\n")
    axes.text(x, y - 0.09, name, ha="center", va="center", fontsize=7.5, weight="bold", zorder=4)
    axes.text(x, y + 0.11, what, ha="center", va="center", fontsize=7, zorder=4)


def layout(names: list[str], edges: list[tuple[str, str]]) -> tuple[list[list[str]], dict[str, tuple[float, float]]]:
    """Positions (x right, y down, inches) by name, and for each edge the points it runs through.

    Layered drawing (Sugiyama 1981): a node's row is its longest path from an input; an edge over several rows gets a
    point in each; rows are ordered and shifted by the mean position of their neighbours.
    """
    rank: dict[str, int] = {}
    for name in names:  # emission order
        rank[name] = 1 + max((rank[source] for source, target in edges if target == name), default=-1)
    for name in reversed(names):  # inputs come down to where they are first used
        below = [rank[target] for source, target in edges if source == name]
        if below and not any(target == name for _, target in edges):
            rank[name] = min(below) - 1
    points, routes = dict(rank), []
    for i, (source, target) in enumerate(edges):
        bends = {f"{i}/{row}": row for row in range(rank[source] + 1, rank[target])}
        points |= bends
        routes.append([source, *bends, target])
    neighbours: dict[str, list[str]] = {point: [] for point in points}
    for route in routes:
        for a, b in pairwise(route):
            neighbours[a].append(b)
            neighbours[b].append(a)
    rows = [[point for point in points if points[point] == row] for row in range(max(points.values()) + 1)]
    return routes, {point: (x, points[point] * _ROW) for point, x in _columns(rows, points, neighbours).items()}


def _columns(rows: list[list[str]], rank: dict[str, int], neighbours: dict[str, list[str]]) -> dict[str, float]:
    x = {point: (i - (len(row) - 1) / 2) * _COLUMN for row in rows for i, point in enumerate(row)}

    def mean(point: str, side: Callable[[int, int], bool]) -> float:
        near = [x[other] for other in neighbours[point] if side(rank[other], rank[point])]
        return sum(near) / len(near) if near else x[point]

    for sweep in range(24):
        down = sweep % 2 == 0
        for row in rows if down else reversed(rows):
            wanted = {p: mean(p, (lambda a, b: a < b) if down else (lambda a, b: a > b)) for p in row}
            row.sort(key=lambda p: wanted[p])
            _spread(row, wanted, x)
    return x


def _spread(row: list[str], wanted: dict[str, float], x: dict[str, float]) -> None:
    """As near to the wanted places as the widths of boxes and bends allow, the row's mean kept."""
    left: list[float] = []
    for i, point in enumerate(row):
        gap = 0.0 if i == 0 else _gap(row[i - 1], point)
        left.append(wanted[point] if i == 0 else max(wanted[point], left[-1] + gap))
    shift = sum(wanted[p] - place for p, place in zip(row, left, strict=True)) / len(row)
    for point, place in zip(row, left, strict=True):
        x[point] = place + shift


def _gap(a: str, b: str) -> float:
    return _COLUMN if "/" not in a + b else _COLUMN * 0.57 if ("/" in a) != ("/" in b) else 0.3


def _arrow(axes: Any, points: list[tuple[float, float]]) -> None:
    """A smooth line from box to box through its bends."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    half = _BOX[1] / 2
    line = [(points[0][0], points[0][1] + half)]
    for x, y in points[1:-1]:
        line += [(x, y - half), (x, y + half)]
    line.append((points[-1][0], points[-1][1] - half - 0.03))
    vertices, codes = [line[0]], [Curve.MOVETO]
    for (x0, y0), (x1, y1) in pairwise(line):
        vertices += [(x0, (y0 + y1) / 2), (x1, (y0 + y1) / 2), (x1, y1)]
        codes += [Curve.CURVE4] * 3
    arrow = FancyArrowPatch(path=Curve(vertices, codes), arrowstyle="-|>", mutation_scale=7, lw=0.9, color=_INK)
    axes.add_patch(arrow)


def _feedback(axes: Any, place: tuple[float, float], source: str) -> None:
    x, y = place
    axes.annotate(
        f"fed back from {source}", (x, y - _BOX[1] / 2), (x, y - _BOX[1] / 2 - 0.25), fontsize=6.5, ha="center",
        color=_INK, arrowprops={"arrowstyle": "-|>", "linestyle": "--", "color": _INK},
    )  # fmt: skip


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
