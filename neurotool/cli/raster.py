"""Spikes of one input as a raster plot: a row of panels, one for each layer, over common time."""

from pathlib import Path

import numpy as np

from neurotool.files import replacing
from neurotool.graph import Graph
from neurotool.lava_runtime.network import Network

COLOURS = {1: "tab:blue", -1: "tab:red"}
PANEL_HEIGHT = 0.8
"""Inches."""


def draw_spikes(path: Path, graph: Graph, spikes: dict[str, np.ndarray], force: bool = False) -> None:
    """spikes: (steps, tokens, width) of each layer. Neurons are ordered by token, tokens from the top.

    Raises ExportError.
    """
    from matplotlib.figure import Figure

    time_line = Network(graph).time_line
    figure = Figure(figsize=(9, 1 + PANEL_HEIGHT * len(spikes)), layout="constrained")
    panels = np.ravel(figure.subplots(len(spikes), 1, sharex=True, squeeze=False))
    for panel, (name, layer) in zip(panels, spikes.items(), strict=True):
        sweeps, steps = np.divmod(np.arange(len(layer)), time_line.window)
        times = sweeps * time_line.sweep_steps + time_line.acts[name] + steps
        for sign, colour in COLOURS.items():
            step, token, neuron = np.nonzero(layer == sign)
            panel.plot(times[step], token * layer.shape[2] + neuron, ",", color=colour, rasterized=True)
        panel.set_ylim(layer[0].size, -1)
        panel.set_yticks([])
        panel.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=7)
    panels[-1].set_xlim(-0.5, time_line.steps - 0.5)
    panels[-1].set_xlabel("time step")
    with replacing(path, force) as temporary:
        figure.savefig(temporary, dpi=150)
