"""Spikes of one input as a raster plot: a row of panels, one for each layer, over common time."""

from pathlib import Path

import numpy as np

from neurotool.errors import ConfigError
from neurotool.files import check_free, replacing
from neurotool.graph import Graph
from neurotool.lava_runtime.network import Network

FORMATS = (".png", ".svg", ".pdf")
COLOURS = np.array([[255, 255, 255], [31, 119, 180], [214, 39, 40]])
"""RGB of no spike, a spike and, last, a spike of -1."""
LEGEND = (
    "blue: spike, red: spike of -1, paler where fewer of the neurons spike that share a pixel; "
    "tokens from the top, ticks between them"
)
DPI = 150


def check_raster(path: Path, force: bool = False) -> None:
    """Raises ConfigError or ExportError where draw_spikes could not write."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"--raster {path}: the name says no known format; end it in {', '.join(FORMATS)}")
    check_free(path, force)


def draw_spikes(path: Path, graph: Graph, spikes: dict[str, np.ndarray], force: bool = False) -> None:
    """spikes: (steps, tokens, width) of each layer. Neurons are ordered by token, tokens from the top.

    Raises ExportError.
    """
    from matplotlib.figure import Figure

    time_line = Network(graph).time_line
    height = max(0.8, 6 / len(spikes))  # inches
    figure = Figure(figsize=(9, 1 + height * len(spikes)), layout="constrained")
    figure.suptitle(LEGEND, fontsize=7)
    panels = np.ravel(figure.subplots(len(spikes), 1, sharex=True, squeeze=False))
    for panel, (name, layer) in zip(panels, spikes.items(), strict=True):
        neurons, width = layer[0].size, layer.shape[2]
        for sweep, first in enumerate(range(0, len(layer), time_line.window)):
            steps = layer[first : first + time_line.window]
            left = sweep * time_line.sweep_steps + time_line.acts[name] - 0.5
            extent = (left, left + len(steps), neurons, 0)
            panel.imshow(_pixels(steps, int(height * DPI)), extent=extent, aspect="auto", interpolation="nearest")
        panel.set_yticks(np.arange(0, neurons + 1, width), labels=[])
        panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    shown = [bounds for panel in panels for image in panel.images for bounds in image.get_extent()[:2]]
    panels[-1].set_xlim(min(shown), max(shown))
    panels[-1].xaxis.get_major_locator().set_params(integer=True)
    panels[-1].set_xlabel("time step")
    with replacing(path, force) as temporary:
        figure.savefig(temporary, dpi=DPI)


def _pixels(spikes: np.ndarray, rows: int) -> np.ndarray:
    """(steps, tokens, width) -> (at most `rows`, steps, 3), 0 to 1: neurons that share a row mix their colours."""
    colours = COLOURS[spikes.reshape(len(spikes), -1).T] / 255
    edges = np.linspace(0, len(colours), min(rows, len(colours)) + 1).astype(int)
    return np.add.reduceat(colours, edges[:-1]) / np.diff(edges)[:, None, None]
