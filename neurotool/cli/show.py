"""`neurotool show`."""

import json
from pathlib import Path
from typing import Any

import click

from neurotool.cli.options import PATH, json_option, opening_options, time_steps_option, warnings_told


@click.command(
    epilog="""\b
Examples:
  neurotool show model.ckpt
  neurotool show model.lava --json
  neurotool show other.nir --reset soft --time-step 1 -T 100
"""
)
@click.argument("model", type=PATH)
@opening_options
@time_steps_option
@json_option
def show(model: Path, as_json: bool, **opening: Any) -> None:
    """Say what a model file is: student, layers, spikes, task, metrics, versions."""
    from neurotool.api.describing import describe

    with warnings_told(model):
        about = describe(model, **opening)
    if as_json:
        click.echo(json.dumps(about, ensure_ascii=False))
        return
    names = [name.replace("_", " ") for name in about]
    width = max(map(len, names))
    for name, value in zip(names, about.values(), strict=True):
        click.echo(f"{name:{width}}  {_text(value)}")


def _text(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef"):
        return value[:12]  # a hash: the whole is in --json
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
