"""`neurotool run --stream`, and words that arrive."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from neurotool.errors import DataError

if TYPE_CHECKING:
    from neurotool.api.model import Model
    from neurotool.api.stepping import Token


def stream(
    model: "Model", texts: tuple[str, ...], executor: str, as_json: bool, overflow: Any, timeout: float | None
) -> None:
    """A line for each token, as it is done."""
    from neurotool.api.stepping import tokens_in_time

    arriving = (word for text in texts for word in _of_text(text)) if texts else words()
    done: list[Token] = []
    for token in tokens_in_time(model, arriving, executor, overflow, timeout):
        done.append(token)
        click.echo(json.dumps(vars(token), ensure_ascii=False) if as_json else _line(token))
    if not done:
        raise DataError("no text: give texts, or words on standard input")
    if not as_json:
        click.echo(_mean(done, executor))


def words() -> Iterator[str]:
    """Words of standard input as soon as they are there, each with the space behind it; a line ends in "\\n"."""
    word = b""
    while byte := sys.stdin.buffer.read(1):
        word += byte
        if byte.isspace():
            yield _decoded(word)
            word = b""
    if word:
        yield _decoded(word)


def _of_text(text: str) -> list[str]:
    return [*(f"{word} " for word in text.split()[:-1]), *(f"{word}\n" for word in text.split()[-1:])]


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"standard input: not UTF-8 ({error.reason}); convert it first") from None


def said(answer: dict[str, Any]) -> str:
    """An answer so far, in short."""
    if "score" in answer:
        return f"{answer['score']:.3f}"
    return f"{answer['label']}  {max(answer['probabilities'].values()):.3f}"


def _line(token: "Token") -> str:
    name = token.token or "(silence)"
    counted = f"{token.spikes:>6} spikes {token.events:>6} events {1000 * token.seconds:>8.2f} ms"
    return f"{said(token.answer):<18} {counted}  {name}" + ("\n" if token.ends else "")


def _mean(done: "list[Token]", executor: str) -> str:
    count = len(done)
    seconds, events, operations = (
        sum(getattr(token, of) for token in done) / count for of in ("seconds", "events", "operations")
    )
    return (
        f"{count} tokens on {executor}: {1000 * seconds:.2f} ms, {events:.0f} events and {operations:.0f} synaptic "
        "operations a token, on the average"
    )
