"""`neurotool predict`."""

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click

from neurotool.cli.numbers import BATCH_SIZE
from neurotool.cli.options import PATH, executor_option, json_option, open_file, opening_options, time_steps_option
from neurotool.cli.stream import said, words
from neurotool.errors import ConfigError, DataError


@click.command(
    epilog="""\b
Examples:
  neurotool predict model.ckpt "a moving film" "a waste of time"
  neurotool predict model.ckpt - < sentences.txt
  neurotool predict model.ckpt --stream    # answers as you write
  neurotool predict model.lava "a moving film"
  neurotool predict model.nir "a moving film" --tokenizer model.ckpt
  neurotool predict model.ckpt "$(printf 'first text\\tsecond text')"

- reads one text a line from standard input. A student of pairs reads two texts with a tab between.
--stream reads words from standard input as they come, and prints the answer after each; a line is a text.
"""
)
@click.argument("model", type=PATH)
@click.argument("texts", nargs=-1)
@click.option("--stream", is_flag=True, help="Answer after every word of standard input.")
@click.option("--batch-size", type=BATCH_SIZE, default=32, show_default=True, help="Texts at once.")
@executor_option("torch; interpreter for a .nir, emulator for a bundle")
@opening_options
@time_steps_option
@json_option
def predict(
    model: Path,
    texts: tuple[str, ...],
    stream: bool,
    batch_size: int,
    executor: str | None,
    as_json: bool,
    **opening: Any,
) -> None:
    """Classify or score texts."""
    if stream == bool(texts):
        raise ConfigError("--stream: texts come from standard input; leave out the others" if stream else _NO_TEXT)
    opened = open_file(model, **opening)
    if stream:
        from neurotool.api.streaming import answers

        for one in answers(opened, words(), executor):
            click.echo(json.dumps(one, ensure_ascii=False) if as_json else _streamed(one))
        return
    reader = opened.reading()
    source = _lines() if texts == ("-",) else ((f"text {i}", text) for i, text in enumerate(texts, start=1))
    empty = True
    while batch := list(islice(source, batch_size)):
        empty = False
        names, given = zip(*batch, strict=True)
        if cut := reader.given(given, names).cut:
            click.echo(f"{cut} of {len(given)} texts are longer than {reader.max_length} tokens: cut", err=True)
        for result in opened.predict(given, executor):
            click.echo(json.dumps(result, ensure_ascii=False) if as_json else shown(result))
    if empty:
        raise DataError("standard input: no text in it; give one text a line")


_NO_TEXT = "no text: give texts, - for lines of standard input, or --stream"


def _streamed(one: dict[str, Any]) -> str:
    """An answer so far on one line."""
    return f"{said(one)}  {one['word'] or '(end)'}"


def _lines() -> Iterator[tuple[str, str]]:
    """As tables are read: without a byte order mark, and not with carriage returns for line ends."""
    for number, raw in enumerate(sys.stdin.buffer, start=1):
        name = f"standard input, line {number}"
        raw = raw.rstrip(b"\r\n")
        if b"\r" in raw:
            raise DataError(f"{name}: has a carriage return in it; end lines with line feeds")
        try:
            text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 ({error.reason}); convert it first") from None
        if text.strip():
            yield name, text


def shown(result: dict[str, Any]) -> str:
    """A prediction on one line: of a text, or of the input of that number."""
    of = result.get("text", f"input {result.get('input')}")
    if "score" in result:
        return f"{result['score']:.3f}  {of}"
    return f"{result['label']}  {max(result['probabilities'].values()):.3f}  {of}"
