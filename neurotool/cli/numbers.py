"""Numbers that options of the commands take: one range for one thing, shown by --help wherever it is asked for."""

import math
from typing import Any

import click

from neurotool.graph import MAX_TIME_STEPS

SHOWN = 60
"""Characters of a wrong value that an error quotes."""


class Number(click.FloatRange):
    """A real number in a range: neither NaN nor infinity, which are in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


class TimeStepsList(click.ParamType):
    """Several T with commas between, as a tuple of different numbers in the order given."""

    name = "T,T,…"
    MOST = 1000

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, tuple):
            return value
        parts = value.split(",") if value else []
        if len(parts) > self.MOST:
            self.fail(f"{len(parts)} numbers: give at most {self.MOST}", param, ctx)
        steps = []
        for part in parts:
            if not (part.strip().isascii() and part.strip().isdigit()):
                self.fail(f"{value[:SHOWN]!r} is not a list of whole numbers such as 1,2,4,8", param, ctx)
            t = int(part[:20])
            if not 1 <= t <= MAX_TIME_STEPS:
                self.fail(f"{part[:SHOWN]}: every T must be at least 1 and at most {MAX_TIME_STEPS}", param, ctx)
            steps.append(t)
        return tuple(dict.fromkeys(steps))


TIME_STEPS = click.IntRange(1, MAX_TIME_STEPS)
TIME_STEPS_LIST = TimeStepsList()
SAMPLES = click.IntRange(1, 100_000_000)
BATCH_SIZE = click.IntRange(1, 65_536)
TIME_STEP = Number(0, 1e6, min_open=True)
"""dt of a .nir file, in the unit of its time constants."""
POTENTIAL = Number(-1e30, 1e30)
TOLERANCE = Number(0, 1, max_open=True)
SECONDS = Number(0, 1e7, min_open=True)
