"""Answers of a streaming student as the words of a text arrive."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from neurotool.api.model import Model
from neurotool.api.reading import TextReader
from neurotool.errors import ConfigError, DataError

if TYPE_CHECKING:
    from neurotool.student.streaming import StreamingForSequenceClassification, StreamState


def answers(model: Model, words: Iterable[str], executor: str | None = None) -> Iterator[dict[str, Any]]:
    """After each word what the student says of the text so far: `Model.predict`'s, with the "word"; and once more, with
    an empty one, when the text ends, which is the answer to the whole text.

    words: each may end in spaces; one that ends in a line feed is the last of a text. Of a text nothing is kept but the
    state of the network, so it may be of any length.
    Raises ConfigError for a model that is no streaming student, DataError for a tokenizer that puts
    nothing around a text.
    """
    from neurotool.student.streaming import StreamingForSequenceClassification

    student = None if model.student is None else model.student.model
    if not isinstance(student, StreamingForSequenceClassification):
        raise ConfigError(f"{model.path}: reads whole texts; --stream is for a .ckpt of --student streaming")
    if executor not in (None, "torch"):
        raise ConfigError(f"--executor {executor}: words are streamed through the student in PyTorch; leave it out")
    if len(model.reading().task.text_columns) != 1:
        raise ConfigError(f"{model.path}: reads pairs of texts; words of one text can be streamed")
    text = _Text(model, student)
    for word in words:
        if word.strip():
            yield text.read(word.strip())
        if word.endswith("\n") and text.begun:
            yield text.end()
    if text.begun:
        yield text.end()


class _Text:
    """One text, and the next after `end`."""

    def __init__(self, model: Model, student: "StreamingForSequenceClassification") -> None:
        reader = model.reading()
        assert isinstance(reader, TextReader)
        self.reader, self.student, self.tokenizer = reader, student, reader.tokenizer
        self.before, self.behind = special_tokens(self.tokenizer)
        self.state: StreamState | None = None

    @property
    def begun(self) -> bool:
        return self.state is not None

    def read(self, word: str) -> dict[str, Any]:
        """The answer after a word, which is split into tokens by itself."""
        tokens = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return self._answer(word, tokens if self.begun else [*self.before, *tokens])

    def end(self) -> dict[str, Any]:
        answer = self._answer("", self.behind, self.student.config.lookahead)
        self.state = None
        return answer

    def _answer(self, word: str, tokens: list[int], silence: int = 0) -> dict[str, Any]:
        import torch

        with torch.inference_mode():
            for token in tokens:
                logits, self.state = self.student.step(torch.tensor([token]), self.state)
            for _ in range(silence):
                logits, self.state = self.student.step_current(
                    torch.zeros(1, self.student.config.hidden_size), self.state
                )
        return {"word": word} | self.reader.prediction(None, logits[0].numpy())


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Special tokens before and behind a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
    if not bare or not starts:
        raise DataError("the tokenizer puts no special tokens around a text: it cannot be streamed")
    return whole[: starts[0]], whole[starts[0] + len(bare) :]
