"""Networks without tokens whose answer is what an integrator holds in the last step, in place of a Readout's."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurotool.executor import Executor, Record, Run
from neurotool.graph import Graph, Integrator, Readout

LOGITS = "logits"
"""The output whose last value is the answer."""


def answer_of(graph: Graph) -> str | None:
    """The node that holds it; None where the network has none of that kind."""
    name = graph.outputs.get(LOGITS)
    if graph.has_tokens or graph.of_type(Readout) or name is None or not isinstance(graph.nodes[name], Integrator):
        return None
    return name


@dataclass
class Answering:
    """An executor of such a network, whose runs have logits."""

    executor: Executor
    answer: str

    @property
    def graph(self) -> Graph:
        return self.executor.graph

    def run(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        values: dict[str, np.ndarray] | None = None,
        record: Record = False,
        observe: bool = False,
    ) -> Run:
        """See `Executor.run`; observe: see the emulator."""
        record, options = record or observe, {"observe": True} if observe else {}
        kept: Record = record if record is True else {*(record or ()), self.answer}
        run = self.executor.run(input_ids, attention_mask, token_type_ids, values, kept, **options)
        run.logits = run.analog[self.answer][:, -1]
        return run.keep(record)

    def drive(self, layer: str, currents: np.ndarray) -> np.ndarray:
        return self.executor.drive(layer, currents)


def answering(executor: Executor) -> Executor:
    """The same, with logits where the network holds its answer so."""
    answer = answer_of(executor.graph)
    return executor if answer is None else Answering(executor, answer)
