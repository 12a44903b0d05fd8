"""What an executor of a layer graph saw: its activity and events on some inputs. The interpreter by default, which is
slow and independent of torch."""

from collections.abc import Iterable

import numpy as np

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.counts import Events
from neurotool.executor import Executor, Inputs, SynapseEvents, runs
from neurotool.graph import Context, Delay, Graph, Input, Neuron, SumPool2d
from neurotool.graph.nodes import own_axes
from neurotool.simulate import Interpreter
from neurotool.streams import in_time, steps_per_token


def measure(
    graph: Graph, inputs: Iterable[Inputs], executor: Executor | None = None, at_once: int = 1
) -> tuple[Activity, Events]:
    """Run `graph` on each input (keyword arguments of `simulate`), `at_once` together, and add up what it did.

    A text whose tokens come in time is counted as one whose tokens are side by side, `steps_per_token` steps each.
    """
    steps = steps_per_token(graph)
    activity = Activity(steps or graph.time_steps, (steps or graph.time_steps) * graph.feedback_sweeps)
    events: dict[tuple[str, str], SynapseEvents] = {}
    pools = bool(graph.of_type(SumPool2d))
    for one, run in runs(executor or in_time(graph, Interpreter), inputs, at_once):
        run_spikes = run.spikes if graph.has_tokens else {n: s.reshape(len(s), 1, -1) for n, s in run.spikes.items()}
        if steps is not None:
            run_spikes = {n: s.reshape(-1, steps, s.shape[-1]).swapaxes(0, 1) for n, s in run_spikes.items()}
        tokens = next(iter(run_spikes.values())).shape[1] if run.spikes else _tokens(graph, one)
        given = one.get("attention_mask")
        mask = (np.ones(tokens) if given is None else np.asarray(given)).astype(bool)[None]
        mask = mask if given is None or steps is None else mask[:, ::steps]
        activity.add_inputs(mask)
        sent = {name: _neuron(graph, name).events(spikes) for name, spikes in run_spikes.items()}
        known: dict[str, np.ndarray] = {}
        """Spikes of each element in each window, of what sends and hands on spikes."""
        for name, spikes in sent.items():
            known[name] = _windows(graph, spikes)
            _add(activity.layers, name, known[name], mask)
        for name in graph.of_type(Input):
            if graph.nodes[name].spiking:  # type: ignore[attr-defined]
                given, axes = np.asarray(one["values"][name]), len(graph.nodes[name].shape())
                lasts = graph.time_steps if steps is None else len(given)
                train = np.broadcast_to(given, (lasts, *given.shape[given.ndim - axes :]))
                train = train if graph.has_tokens else train.reshape(lasts, 1, -1)
                train = train if steps is None else train.reshape(-1, steps, train.shape[-1]).swapaxes(0, 1)
                sweeps = graph.feedback_sweeps if graph.schedule == "phased" else 1
                known[name] = _windows(graph, np.concatenate([train != 0] * sweeps))
                _add(activity.entered, name, known[name], mask)
        if pools:
            _add_pooled(activity.pooled, graph, known)
        for at, synapse in run.events.items():
            events[at] = events.get(at, SynapseEvents(0, 0)) + synapse
        for reader, port in graph.feedback:  # all but the last pass
            if (source := graph.source(reader, port)) in sent:
                spikes = sent[source]
                last = graph.time_steps if graph.schedule == "phased" else 1
                _add(activity.fed_back, reader, _windows(graph, spikes[: len(spikes) - last]), mask)
    return activity, events


def _neuron(graph: Graph, name: str) -> Neuron:
    node = graph.nodes[name]
    assert isinstance(node, Neuron)
    return node


def _windows(graph: Graph, spikes: np.ndarray) -> np.ndarray:
    """Spikes of each neuron in each window, (windows, tokens, width), from its steps; a concurrent run is one."""
    counts, window = spikes.astype(np.int64), graph.time_steps if graph.schedule == "phased" else len(spikes)
    return counts.reshape(-1, max(window, 1), *spikes.shape[1:]).sum(1)


def _add_pooled(pooled: dict[str, np.ndarray], graph: Graph, known: dict[str, np.ndarray]) -> None:
    """known: (windows, 1, width) of every layer and Input that spikes; what only later nodes give is left out."""
    shapes, context = graph.shapes(), Context(np.ones(1, bool))
    handed = {name: x.reshape(len(x), *own_axes(shapes[name])) for name, x in known.items()}
    for name, node in graph.nodes.items():
        sources = graph.inputs[name]
        if name in handed or not node.hands_on_spikes or any(source not in handed for source in sources):
            continue
        before = [handed[source] for source in sources]
        handed[name] = before[0] if isinstance(node, Delay) else node.sent(context, *before)
        if isinstance(node, SumPool2d):
            pooled[name] = pooled.get(name, 0) + np.count_nonzero(handed[name], axis=0)


def _add(layers: dict[str, LayerActivity], name: str, windows: np.ndarray, mask: np.ndarray) -> None:
    width = windows.shape[-1]
    layer = layers.setdefault(name, LayerActivity(width, active=LayerActivity(width)))
    assert layer.active is not None
    for sums, counted in ((layer, windows.sum(0)), (layer.active, (windows != 0).sum(0))):
        sums.add(counted.sum(-1)[None], mask, counted[mask[0]].sum(0))


def _tokens(graph: Graph, one: Inputs) -> int:
    """Tokens of an input of a graph without neurons."""
    if one.get("input_ids") is not None:
        return len(one["input_ids"])
    return int(np.shape(one["values"][graph.of_type(Input)[0]])[-2]) if graph.has_tokens else 1
