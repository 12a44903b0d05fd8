"""`neurotool predict`."""

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from neurotool.cli import json_option
from neurotool.errors import DataError
from neurotool.texts import check_text

if TYPE_CHECKING:
    from neurotool.tasks import Task


@click.command(
    epilog="""\b
Examples:
  neurotool predict model.ckpt "a moving film" "a waste of time"
  neurotool predict model.ckpt - < sentences.txt
  neurotool predict model.ckpt "$(printf 'first text\\tsecond text')"

- reads one text a line from standard input. A student of pairs reads two texts with a tab between.
"""
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("texts", nargs=-1, required=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Texts at once.")
@json_option
def predict(checkpoint: Path, texts: tuple[str, ...], batch_size: int, as_json: bool) -> None:
    """Classify or score texts."""
    from neurotool.evaluation import predict as run
    from neurotool.student.serialise import load_student
    from neurotool.texts import longest

    student, tokenizer, task, loaded = load_student(checkpoint)
    length = longest(loaded.training.get("plan", {}), student.config.max_position_embeddings)
    source = _lines() if texts == ("-",) else numbered(texts)
    empty = True
    while batch := list(islice(source, batch_size)):
        empty = False
        pairs = [split_columns(name, text, len(task.text_columns)) for name, text in batch]
        logits, cut = run(student, tokenizer, pairs, length)
        if cut:
            click.echo(f"{cut} of {len(pairs)} texts are longer than {length} tokens: cut", err=True)
        for (_, text), row in zip(batch, logits, strict=True):
            result = prediction(task, text, row)
            click.echo(json.dumps(result, ensure_ascii=False) if as_json else shown(result))
    if empty:
        raise DataError("standard input: no text in it; give one text a line")


def numbered(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The texts of a command line, each with what an error calls it."""
    return ((f"text {number}", check_text(text, f"text {number}")) for number, text in enumerate(texts, start=1))


def _lines() -> Iterator[tuple[str, str]]:
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        name = f"standard input, line {number}"
        try:
            text = raw.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 ({error.reason}); convert it first") from None
        if text.strip():
            yield name, text


def prediction(task: "Task", text: str | None, logits: np.ndarray) -> dict[str, Any]:
    """What the logits (labels,) of one text say: a score, or a label and the probabilities of all."""
    known = {} if text is None else {"text": text}
    if task.regression:
        return known | {"score": float(logits[0])}
    probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    label = task.label_names[int(logits.argmax())]
    return known | {
        "label": label,
        "probabilities": dict(zip(task.label_names, map(float, probabilities), strict=True)),
    }


def shown(result: dict[str, Any]) -> str:
    """A prediction on one line."""
    if "score" in result:
        return f"{result['score']:.3f}  {result['text']}"
    return f"{result['label']}  {max(result['probabilities'].values()):.3f}  {result['text']}"


def split_columns(name: str, text: str, columns: int) -> tuple[str, ...]:
    """One text, or the two of a pair with a tab between. Raises DataError, which begins with `name`."""
    parts = tuple(text.split("\t"))
    wanted = "pairs, two texts with a tab between" if columns == 2 else "single texts; write a space for a tab"
    if len(parts) != columns:
        raise DataError(f"{name}: {text[:40]!r} has {len(parts)} part(s) between tabs: this student reads {wanted}")
    if not all(part.strip() for part in parts):
        raise DataError(f"{name}: {text[:40]!r} has an empty text: nothing can be said about it, leave it out")
    return parts
