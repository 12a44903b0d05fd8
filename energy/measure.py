"""What the interpreter saw: activity and events of a layer graph on some inputs. Slow, and independent of torch."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.counts import Events
from neurotool.graph import Graph, Input
from neurotool.simulate import SynapseEvents, simulate


def measure(graph: Graph, inputs: Iterable[dict[str, Any]]) -> tuple[Activity, Events]:
    """Run `graph` on each input (keyword arguments of `simulate`) and add up what it did."""
    activity = Activity(graph.time_steps, graph.time_steps * graph.feedback_sweeps)
    events: dict[tuple[str, str], SynapseEvents] = {}
    for one in inputs:
        run = simulate(graph, **one)
        tokens = next(iter(run.spikes.values())).shape[1] if run.spikes else _tokens(graph, one)
        given = one.get("attention_mask")
        mask = (np.ones(tokens) if given is None else np.asarray(given)).astype(bool)[None]
        activity.add_inputs(mask)
        for name, spikes in run.spikes.items():
            sent = np.abs(spikes.astype(np.int64)).sum(0)
            layer = activity.layers.setdefault(name, LayerActivity(sent.shape[-1]))
            layer.add(sent.sum(-1)[None], mask, sent[mask[0]].sum(0))
        for port, synapse in run.events.items():
            add_events(events, port, synapse)
    return activity, events


def add_events(events: dict[tuple[str, str], SynapseEvents], port: tuple[str, str], more: SynapseEvents) -> None:
    """Add what one input (or step) sent to a port, (node, port name)."""
    before = events.get(port, SynapseEvents(0, 0))
    events[port] = SynapseEvents(before.events + more.events, before.synaptic_operations + more.synaptic_operations)


def _tokens(graph: Graph, one: dict[str, Any]) -> int:
    """Tokens of an input of a graph without neurons."""
    if one.get("input_ids") is not None:
        return len(one["input_ids"])
    return int(np.shape(one["values"][graph.of_type(Input)[0]])[-2])
