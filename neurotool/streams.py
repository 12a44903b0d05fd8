"""Networks that read tokens in time: their graphs have no token axis, and a run lasts as long as its text. What comes
in a step of a recording of spikes is such a token, too.

Of such a graph `time_steps` is the longest run, and its metadata say how many steps a token takes. Inputs come as
values (inputs, steps, width), padded at the end to one length, with an attention_mask (inputs, steps) that says where
each ends; the logits are the last values of its output LOGITS.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurotool.errors import DataError
from neurotool.executor import PER_NODE, Executor, Record, Run, joined
from neurotool.graph import Graph, Input

INPUT = "tokens"
"""Where a text enters; recordings of spikes say themselves where."""
LOGITS = "logits"
STEPS_PER_TOKEN = "steps_per_token"
DRIVEN_STEPS = 32
"""In which a layer is tried by itself."""


def steps_per_token(graph: Graph) -> int | None:
    """None for a graph that reads no tokens in time."""
    steps = graph.metadata.get(STEPS_PER_TOKEN)
    return None if graph.has_tokens or LOGITS not in graph.outputs or type(steps) is not int or steps < 1 else steps


def taken_in_time(graph: Graph) -> bool:
    """Whether the tokens of a graph come one after the other, be it as it runs or `per_token`."""
    return STEPS_PER_TOKEN in graph.metadata


def per_token(graph: Graph) -> Graph:
    """The same with its tokens side by side, each of `steps_per_token` steps: of all that operations are counted from,
    the tokens of a text are worth the same whether they come at once or one after the other."""
    steps = steps_per_token(graph)
    if steps is None:
        return graph
    nodes = dict(graph.nodes)
    for name in graph.of_type(Input):
        node = graph.nodes[name]
        assert isinstance(node, Input)
        (width,) = node.shape()
        nodes[name] = replace(node, width=int(width))
    return replace(graph, nodes=nodes, tokens=longest_text(graph), time_steps=steps)


def in_time(graph: Graph, make: Callable[[Graph], Executor]) -> Executor:
    """What `make` makes for the graph, or for a network that reads tokens in time, for every length of a text."""
    return make(graph) if steps_per_token(graph) is None else Streamed(graph, make)


def longest_text(graph: Graph) -> int:
    """Tokens that a graph reads at most, side by side or in time."""
    steps = steps_per_token(graph)
    return graph.tokens if steps is None else max(1, graph.time_steps // steps)


@dataclass
class Streamed:
    """An executor of a network that reads tokens in time, made anew for every length: each text runs until its end, and
    what it did is padded with zeros. make: an executor for a graph, whose time_steps are those of the run."""

    graph: Graph
    make: Callable[[Graph], Executor]

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
        observe: bool = False,
    ) -> Run:
        """See `Executor.run`; attention_mask: (inputs, steps), 1 until the text ends; observe: see the emulator."""
        arrays = {name: np.asarray(x) for name, x in (values or {}).items()}
        (entry,) = self.graph.of_type(Input)
        if entry not in arrays or arrays[entry].ndim != 3:
            raise DataError(f"values for Input {entry} are missing: give (inputs, steps, width)")
        count, longest = arrays[entry].shape[:2]
        if not 1 <= longest <= self.graph.time_steps:
            raise DataError(f"{entry} has {longest} steps: the network runs for 1 … {self.graph.time_steps}")
        mask = np.ones((count, longest), bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
        lengths = mask.sum(-1)
        until_the_end = np.arange(longest) < lengths[..., None] if mask.shape == (count, longest) else ~mask
        if not lengths.all() or not np.array_equal(mask, until_the_end):
            raise DataError(f"attention_mask must be {(count, longest)}, 1 from the first step of a text to its last")
        answer = self.graph.outputs[LOGITS]
        record = True if observe and not record else record
        kept: Record = record if record is True else {*(record or ()), answer}
        options = {"observe": True} if observe else {}
        order: list[np.ndarray] = []
        done: list[Run] = []
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            executor = self.make(replace(self.graph, time_steps=int(length)))
            some = {name: x[rows, :length] for name, x in arrays.items()}
            run = executor.run(values=some, record=kept, **options)
            run.logits = run.analog[answer][:, -1]
            order.append(rows)
            done.append(_padded(run.keep(record), longest))
        return _reordered(joined(done), np.argsort(np.concatenate(order)))

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        steps = min(self.graph.time_steps, DRIVEN_STEPS)
        return self.make(replace(self.graph, time_steps=steps)).drive(layer, currents)


def _padded(run: Run, steps: int) -> Run:
    """With zeros behind its last step."""
    for kind in ("spikes", "analog", "sent"):
        setattr(run, kind, {name: _until(x, steps) for name, x in getattr(run, kind).items()})
    return run


def _until(x: np.ndarray, steps: int) -> np.ndarray:
    return np.pad(x, [(0, 0), (0, steps - x.shape[1]), *[(0, 0)] * (x.ndim - 2)])


def _reordered(run: Run, rows: np.ndarray) -> Run:
    """Its inputs in another order."""
    for kind in ("events", "synaptic_operations", "active", "active_operations", "sent", *PER_NODE):
        setattr(run, kind, {name: x[rows] for name, x in getattr(run, kind).items()})
    assert run.logits is not None
    run.logits = run.logits[rows]
    return run
