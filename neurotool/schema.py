"""What JSON from a file may hold, said as data: types, ranges, names. Checked before anything is built from it.

A check is a function (value, where) that raises ValueError, naming the place, the value and what it must be.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

from neurotool.errors import shown

Check = Callable[[Any, str], None]


def strict_json(text: str | bytes, finite: bool = True) -> Any:
    """What a JSON text says. Raises ValueError for what two readers may take differently, or no writer can write again:
    a name given twice, half of a surrogate pair, nesting without end; with `finite` also NaN and Infinity."""
    try:
        value = json.loads(text, object_pairs_hook=_named_once, parse_float=_finite if finite else float)
        json.dumps(value, ensure_ascii=False, allow_nan=not finite).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{shown(twice)} is given twice")
    return made


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is too large a number")
    return value


def _refuse(value: Any, where: str, wanted: str) -> None:
    raise ValueError(f"{where} is {shown(value)}: it must be {wanted}")


def whole(low: int = 0, high: int = 2**53) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) is not int or not low <= value <= high:
            _refuse(value, where, f"a whole number from {low} to {high}")

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    def check(value: Any, where: str) -> None:
        if type(value) not in (int, float) or not low <= value <= high or not abs(value) <= 1e300:
            _refuse(value, where, f"a number from {low:g} to {high:g}")

    return check


def boolean(value: Any, where: str) -> None:
    if type(value) is not bool:
        _refuse(value, where, "true or false")


def text(longest: int = 10_000) -> Check:
    """Of printable length, without the NUL that no path and no terminal takes."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or len(value) > longest or "\0" in value:
            _refuse(value, where, f"a text of up to {longest} characters, none of them NUL")

    return check


def one_of(*known: Any) -> Check:
    def check(value: Any, where: str) -> None:
        if not any(type(value) is type(k) and value == k for k in known):
            _refuse(value, where, f"one of {', '.join(map(str, known))}")

    return check


def optional(check: Check) -> Check:
    """Or null."""
    return lambda value, where: None if value is None else check(value, where)


def listing(check: Check, least: int = 0, most: int = 2**53, unique: bool = False) -> Check:
    def check_all(value: Any, where: str) -> None:
        if not isinstance(value, list) or not least <= len(value) <= most:
            _refuse(value, where, f"a list of {least} to {most} entries" if most < 2**53 else "a list")
        for i, entry in enumerate(value):
            check(entry, f"{where}[{i}]")
        if unique and len(set(value)) < len(value):
            _refuse(value, where, "without an entry twice")

    return check_all


def mapping(check: Check, name: Check | None = None) -> Check:
    """Any names, values of one kind."""
    name = name or text(1000)

    def check_all(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, "a JSON object")
        for key, entry in value.items():
            name(key, f"a name in {where}")
            check(entry, f"{where}.{key}"[:200])

    return check_all


def record(needed: Mapping[str, Check], others: Mapping[str, Check] | None = None, closed: bool = False) -> Check:
    """needed: checks of the names that must be there; others: of those that may. closed: no name beside these."""
    known = {**needed, **(others or {})}

    def check_all(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            _refuse(value, where, "a JSON object")
        for name in needed:
            if name not in value:
                raise ValueError(f"{where or 'it'} lacks {name}")
        for name, entry in value.items():
            if name in known:
                known[name](entry, f"{where}.{name}" if where else name)
            elif closed:
                raise ValueError(f"{where} has {shown(name)}, which is not known")

    return check_all


def names(known: Collection[str]) -> Check:
    """A dict key or entry among `known`."""
    return one_of(*known)
