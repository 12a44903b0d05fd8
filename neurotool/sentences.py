"""Inputs on which two models are compared: sentences, padded to one length, or random values for other networks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from neurotool.errors import DataError
from neurotool.graph import Embedding, Graph, Input
from neurotool.graph.nodes import own_axes
from neurotool.texts import INPUTS, encode, pad

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SENTENCES = (
    "A quiet film that says more in its silences than most do in two hours.",
    "I wanted to like it.",
    "The plot makes no sense, the jokes fall flat and the ending was visible from the first minute.",
    "Wonderful!",
    "Neither the director nor the cast seems to know whether this is a comedy or a tragedy, and nobody cares.",
    "It is not without its charms, though they are few and far between.",
    "Two friends drive across the country; what they find is funny, sad and entirely believable.",
    "Never again.",
)


def tokenised(
    tokenizer: "PreTrainedTokenizerBase", texts: list[tuple[str, ...]], tokens: int
) -> tuple[list[dict[str, np.ndarray]], int]:
    """Texts (or pairs) as arguments of `simulate`, all of one length, so that padding is part of the comparison.

    tokens: the most that the model takes. Returns the inputs and how many texts were cut.
    """
    encoded = encode(tokenizer, list(zip(*texts, strict=True)), tokens)
    length = min(tokens, max(map(len, encoded.tokens["input_ids"])) + 1)
    padded = pad(tokenizer, encoded.tokens, length, tensors="np")
    return [{name: padded[name][i] for name in INPUTS} for i in range(len(texts))], sum(encoded.cut)


def random_inputs(graph: Graph, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random tokens, or spike trains for Input nodes, the last tokens of every other input being padding.

    Raises DataError where the graph asks for both.
    """
    rng = np.random.default_rng(seed)
    tokens = min(graph.tokens, 16)
    tables = {node.ids: len(node.weight) for node in graph.nodes.values() if isinstance(node, Embedding)}
    widths = {name: own_axes(node.shape()) for name, node in graph.nodes.items() if isinstance(node, Input)}
    if tables and widths:
        raise DataError(f"the graph has Embedding nodes and Input {next(iter(widths))}: no inputs are known for both")
    made = []
    for i in range(count):
        mask = np.ones(tokens, int)
        mask[tokens - (i % 2) * (tokens // 3) :] = 0
        one: dict[str, Any] = {"attention_mask": mask} if graph.has_tokens else {}
        if widths:
            shape = (graph.time_steps, tokens) if graph.has_tokens else (graph.time_steps,)
            one["values"] = {name: rng.integers(0, 2, (*shape, *width)) for name, width in widths.items()}
        else:
            one["input_ids"] = rng.integers(0, tables.get("input_ids", 1), tokens)
        made.append(one)
    return made
