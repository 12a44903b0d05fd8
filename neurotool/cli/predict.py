"""`neurotool predict`."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np

from neurotool.cli import json_option
from neurotool.errors import DataError


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

    student, tokenizer, task, _ = load_student(checkpoint)
    source = _lines() if texts == ("-",) else iter(texts)
    empty = True
    while batch := list(islice(source, batch_size)):
        empty = False
        pairs = [_split(text, len(task.text_columns)) for text in batch]
        _warn_of_long_texts(pairs, tokenizer, student.config.max_position_embeddings)
        logits = run(student, tokenizer, pairs)
        for text, row in zip(batch, logits, strict=True):
            if task.regression:
                result = {"text": text, "score": float(row[0])}
                line = f"{row[0]:.3f}"
            else:
                probabilities = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
                label = task.label_names[int(row.argmax())]
                named = dict(zip(task.label_names, map(float, probabilities), strict=True))
                result = {"text": text, "label": label, "probabilities": named}
                line = f"{label}  {probabilities.max():.3f}"
            click.echo(json.dumps(result, ensure_ascii=False) if as_json else f"{line}  {text}")
    if empty:
        raise DataError("standard input: no text in it; give one text a line")


def _warn_of_long_texts(texts: list[tuple[str, ...]], tokenizer: Any, length: int) -> None:
    columns = (list(column) for column in zip(*texts, strict=True))
    encodings = tokenizer(*columns, truncation=True, max_length=length).encodings
    if cut := sum(bool(encoding.overflowing) for encoding in encodings):
        click.echo(f"{cut} of {len(texts)} texts are longer than {length} tokens: cut", err=True)


def _lines() -> Iterator[str]:
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        try:
            text = raw.decode("utf-8").strip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"standard input, line {number}: not UTF-8 ({error.reason}); convert it first") from None
        if text.strip():
            yield text


def _split(text: str, columns: int) -> tuple[str, ...]:
    parts = tuple(text.split("\t"))
    wanted = "pairs, two texts with a tab between" if columns == 2 else "single texts; write a space for a tab"
    if len(parts) != columns:
        raise DataError(f"{text[:40]!r} has {len(parts)} part(s) between tabs: this student reads {wanted}")
    if not all(part.strip() for part in parts):
        raise DataError(f"{text[:40]!r} has an empty text: nothing can be said about it, leave it out")
    return parts
