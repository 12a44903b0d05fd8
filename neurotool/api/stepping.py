"""A network that takes its tokens in time, run token by token on the emulator or on Lava: what it answers after each,
what it sent, and how long it took."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from neurotool.api.model import Model
from neurotool.api.reading import TextReader
from neurotool.api.streaming import special_tokens
from neurotool.errors import ConfigError
from neurotool.executor import Run
from neurotool.streams import INPUT, LOGITS, steps_per_token

EXECUTORS = ("emulator", "lava")
SILENCE = ""
"""What is called a token of a text that is over, in which the network is still at work."""


@dataclass(frozen=True)
class Token:
    """seconds: that its steps took. spikes: that all layers sent. events: spikes that arrived at synapses, at each that
    reads them; operations: accumulations that these caused. ends: whether it is the last of a text."""

    token: str
    answer: dict[str, Any]
    seconds: float
    spikes: int
    events: int
    operations: int
    ends: bool


def tokens_in_time(
    model: Model,
    words: Iterable[str],
    executor: str = "emulator",
    overflow: Any = "error",
    timeout: float | None = None,
) -> Iterator[Token]:
    """words: as `neurotool.api.streaming.answers` takes them. The emulator answers after each token as it comes; Lava
    begins when a text is whole, and waits after each token, so that its time is seen.

    Raises ConfigError for a network that does not take its tokens in time, or an executor that cannot wait.
    """
    steps = steps_per_token(model.graph)
    if steps is None:
        raise ConfigError(f"{model.path}: reads whole texts; --stream is for networks that take their tokens in time")
    if executor not in EXECUTORS:
        raise ConfigError(f"--executor {executor}: tokens are run one by one on {' or '.join(EXECUTORS)}")
    reader = model.reading()
    if not isinstance(reader, TextReader):
        raise ConfigError(f"{model.path}: reads spikes; --stream is for words: give recordings with --input")
    if len(reader.task.text_columns) != 1:
        raise ConfigError(f"{model.path}: reads pairs of texts; words of one text can be streamed")
    for text in _texts(reader, words, steps):
        if executor == "emulator":
            yield from _emulated(model, text, steps, overflow)
        else:
            yield from _on_lava(model, list(text), steps, overflow, timeout)


Entering = tuple[str, np.ndarray, bool]
"""A token, its currents (width,), and whether it is the last."""


def _texts(reader: TextReader, words: Iterable[str], steps: int) -> Iterator[Iterator[Entering]]:
    """Each text as the tokens that enter, while its words arrive. A text has to be taken before the next."""
    arriving = iter(words)
    for word in arriving:
        if word.strip():
            yield _text(reader, word, arriving, steps)


def _text(reader: TextReader, word: str, arriving: Iterator[str], steps: int) -> Iterator[Entering]:
    before, behind = special_tokens(reader.tokenizer)
    yield from _entering(reader, before, steps)
    while True:
        yield from _entering(reader, reader.tokenizer(word, add_special_tokens=False)["input_ids"], steps)
        if word.endswith("\n") or (word := next(arriving, "")) == "":
            break
    yield from _entering(reader, behind, steps, ends=True)


def _entering(reader: TextReader, ids: list[int], steps: int, ends: bool = False) -> Iterator[Entering]:
    """ends: with the tokens of silence in which the answer to the last of them comes."""
    assert reader.entering is not None
    one = {
        "input_ids": np.array(ids),
        "token_type_ids": np.zeros(len(ids), int),
        "attention_mask": np.ones(len(ids), int),
    }
    currents = reader.entering([one])[0]["values"][INPUT][::steps] if ids else np.zeros((0, 0))
    names = [*reader.tokenizer.convert_ids_to_tokens(ids), *[SILENCE] * (len(currents) - len(ids))]
    count = len(names) if ends else len(ids)
    for i, (name, current) in enumerate(zip(names[:count], currents, strict=False)):
        yield name, current, ends and i == count - 1


def _emulated(model: Model, text: Iterable[Entering], steps: int, overflow: Any) -> Iterator[Token]:
    from neurotool.lava_runtime.emulator import EmulatedStream

    stream = EmulatedStream(model.graph, overflow)
    for name, current, ends in text:
        start = time.perf_counter()
        run = stream.send({INPUT: current}, steps)
        yield _token(model, name, run, time.perf_counter() - start, ends)


def _on_lava(model: Model, text: list[Entering], steps: int, overflow: Any, timeout: float | None) -> Iterator[Token]:
    from neurotool.lava_runtime.run import stream_on_lava

    values = {INPUT: np.repeat([current for _, current, _ in text], steps, 0)}
    graph = replace(model.graph, time_steps=len(text) * steps)
    for (name, _, ends), (run, seconds) in zip(
        text, stream_on_lava(graph, values, steps, overflow, timeout), strict=True
    ):
        yield _token(model, name, run, seconds, ends)


def _token(model: Model, name: str, run: Run, seconds: float, ends: bool) -> Token:
    logits = run.analog[model.graph.outputs[LOGITS]][0, -1]
    spikes, events, operations = (
        int(sum(np.abs(x.astype(np.int64)).sum() for x in found.values()))
        for found in (run.spikes, run.events, run.synaptic_operations)
    )
    return Token(name, model.reading().prediction(None, logits), seconds, spikes, events, operations, ends)
