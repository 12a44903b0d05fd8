"""What goes into a run on the emulator or on Lava, checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from neurotool.errors import DataError
from neurotool.graph import Context, Embedding, Graph, Input
from neurotool.graph.nodes import is_size_of, text


@dataclass(frozen=True)
class Entering:
    """Checked inputs of a batch. ids: what Embedding nodes look up; values: of each Input; real: no padding."""

    ids: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    real: np.ndarray

    def rows(self, rows: Any) -> "Entering":
        """Some inputs, or one of them without a batch axis."""
        ids, values = ({name: x[rows] for name, x in arrays.items()} for arrays in (self.ids, self.values))
        return Entering(ids, values, self.real[rows])

    def cut(self, tokens: int) -> "Entering":
        """The first tokens of each input."""
        ids = {name: x[:, :tokens] for name, x in self.ids.items()}
        return Entering(ids, {name: x[..., :tokens, :] for name, x in self.values.items()}, self.real[:, :tokens])

    def context(self, times: int = 1) -> Context:
        """Of the inputs; times: so many batches of them, one behind another."""
        if times == 1:
            return Context(self.real, self.ids)
        rows = np.tile(np.arange(len(self.real)), times)
        return Context(self.real[rows], {name: ids[rows] for name, ids in self.ids.items()})


def entering(
    graph: Graph, input_ids: Any, attention_mask: Any, token_type_ids: Any, values: dict[str, Any]
) -> Entering:
    """Raises DataError."""
    embeddings = [node for node in graph.nodes.values() if isinstance(node, Embedding)]
    if embeddings and input_ids is None:
        raise DataError("input_ids are missing: the graph has Embedding nodes")
    if missing := [name for name in graph.of_type(Input) if name not in values]:
        raise DataError(f"values for Input {missing[0]} are missing")
    arrays = {name: np.asarray(values[name]) for name in graph.of_type(Input)}
    shapes = {name: graph.nodes[name].shape() for name in arrays}
    for name, array in arrays.items():
        wanted = [("batch", *steps, *shapes[name]) for steps in ((), (graph.time_steps,))]
        if (
            not any(is_size_of(array.shape, shape) for shape in wanted)
            or not array.size
            or not np.isfinite(array).all()
        ):
            raise DataError(
                f"values for Input {name} have shape {array.shape}: they must be finite numbers, "
                f"{' or '.join(map(text, wanted))}"
            )
    sizes_given = ((len(x), x.shape[-2] if graph.has_tokens else 1) for x in arrays.values())
    shape = np.shape(input_ids) if embeddings else next(sizes_given)
    if len(shape) != 2 or not 1 <= shape[1] <= graph.tokens:
        raise DataError(f"inputs have shape {shape}: give (batch, tokens) with at most {graph.tokens} tokens")
    ids = {
        "input_ids": np.asarray(input_ids),
        "token_type_ids": np.zeros(shape, np.int64) if token_type_ids is None else np.asarray(token_type_ids),
        "position_ids": np.broadcast_to(np.arange(shape[1]), shape),
    }
    for node in embeddings:
        array, rows = ids[node.ids], len(node.weight)
        if array.shape != shape or array.min() < 0 or array.max() >= rows:
            raise DataError(f"{node.ids} {array.shape}, {array.min()} … {array.max()}: {rows} rows, {shape}")
    for name, array in arrays.items():
        given = len(array), array.shape[-2] if graph.has_tokens else 1
        if given != tuple(shape):
            raise DataError(f"values for Input {name} are of (batch, tokens) {given}, but others of {tuple(shape)}")
    real = np.ones(shape, bool) if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if real.shape != shape or not real.any(1).all():
        raise DataError(f"attention_mask {real.shape} must be {shape}, with a token in every row")
    return Entering({node.ids: ids[node.ids] for node in embeddings}, arrays, real)
