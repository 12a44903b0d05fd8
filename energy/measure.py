"""What an executor of a layer graph saw: its activity and events on some inputs. The interpreter by default, which is
slow and independent of torch."""

from collections.abc import Iterable

import numpy as np

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.counts import Events
from neurotool.executor import Executor, Inputs, SynapseEvents, runs
from neurotool.graph import Graph, Input
from neurotool.simulate import Interpreter


def measure(
    graph: Graph, inputs: Iterable[Inputs], executor: Executor | None = None, at_once: int = 1
) -> tuple[Activity, Events]:
    """Run `graph` on each input (keyword arguments of `simulate`), `at_once` together, and add up what it did."""
    activity = Activity(graph.time_steps, graph.time_steps * graph.feedback_sweeps)
    events: dict[tuple[str, str], SynapseEvents] = {}
    for one, run in runs(executor or Interpreter(graph), inputs, at_once):
        tokens = next(iter(run.spikes.values())).shape[1] if run.spikes else _tokens(graph, one)
        given = one.get("attention_mask")
        mask = (np.ones(tokens) if given is None else np.asarray(given)).astype(bool)[None]
        activity.add_inputs(mask)
        for name, spikes in run.spikes.items():
            sent = np.abs(spikes.astype(np.int64)).sum(0)
            layer = activity.layers.setdefault(name, LayerActivity(sent.shape[-1]))
            layer.add(sent.sum(-1)[None], mask, sent[mask[0]].sum(0))
        for port, synapse in run.events.items():
            before = events.get(port, SynapseEvents(0, 0))
            operations = before.synaptic_operations + synapse.synaptic_operations
            events[port] = SynapseEvents(before.events + synapse.events, operations)
    return activity, events


def _tokens(graph: Graph, one: Inputs) -> int:
    """Tokens of an input of a graph without neurons."""
    if one.get("input_ids") is not None:
        return len(one["input_ids"])
    return int(np.shape(one["values"][graph.of_type(Input)[0]])[-2])
