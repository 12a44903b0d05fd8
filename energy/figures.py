"""Figures of a report, drawn by matplotlib and returned as SVG text to put into a page."""

import io
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from neurotool.energy.formats import digits
from neurotool.energy.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Point(NamedTuple):
    """energy: pJ per inference; metric: accuracy or the like; label: shown beside it."""

    energy: float
    metric: float
    label: str


def heat_map(report: Report) -> str:
    """Spikes per synapse and inference of every neuron layer at every token position: what each of the layer's
    outgoing synapses carries for a token there."""
    activity = report.counts.activity
    if not activity.layers:
        return ""
    longest = max(activity.lengths)
    table = [
        [
            layer.by_position[i] / (activity.tokens_at(i) * layer.neurons) if i < len(layer.by_position) else 0.0
            for i in range(longest)
        ]
        for layer in activity.layers.values()
    ]
    figure = _figure(8, 1.2 + 0.22 * len(table))
    panel = figure.subplots()
    image = panel.imshow(table, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest")
    panel.set_yticks(range(len(table)), list(activity.layers))
    panel.set(xlabel="token position", title="spikes per synapse and inference")
    figure.colorbar(image)
    return _svg(figure)


def accuracy_energy(
    curves: dict[str, list[Point]], metric: str, title: str, lines: Mapping[str, float] = MappingProxyType({})
) -> str:
    """Metric against energy: one line a network over its time steps, a marker where there is one point; lines: energies
    of networks whose metric is not known."""
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = _figure(5.4, 3.8)  # a phone shows it whole, with text that can be read
    panel = figure.subplots()
    for i, (name, points) in enumerate(curves.items()):
        marker, size = "os^Dv"[i % 5], 8 - 2 * (i % 3)  # points that lie on one another are all seen
        at = [p.energy / 1e6 for p in points], [p.metric for p in points]
        panel.plot(*at, marker=marker, markersize=size, label=name, zorder=3 + i)
        for point in points:
            panel.annotate(
                point.label, (point.energy / 1e6, point.metric), textcoords="offset points", xytext=(5, 5), fontsize=8
            )
    for style, (name, energy) in zip(("--", ":", "-."), lines.items(), strict=False):
        panel.axvline(energy / 1e6, linestyle=style, color="#808890", label=name)
    panel.set(xscale="log", xlabel="µJ per inference", ylabel=metric, title=title[0].upper() + title[1:])
    panel.margins(0.12)
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda energy, _: digits(energy)))
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.grid(alpha=0.3, which="both")
    panel.legend(fontsize="small", framealpha=0)
    return _svg(figure)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: "Figure") -> str:
    """Without the XML header, and the same for the same figure; text stays text, and black is the colour of the page's
    text, in light and dark."""
    import matplotlib

    stream = io.StringIO()
    settings: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "neurotool", "font.family": "sans-serif"}
    with matplotlib.rc_context(settings):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("#000000", "currentColor")


def standalone(svg: str) -> str:
    """A figure's SVG text as a file of its own."""
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg}\n'
