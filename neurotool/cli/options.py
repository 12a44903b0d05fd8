"""Options that several commands share."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click

from neurotool.api.executors import EXECUTORS

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
layers_option = click.option("--layers", is_flag=True, help="All layers one by one, not by kind.")
PATH = click.Path(path_type=Path)


def executor_option(default: str, *names: str) -> Callable[[Command], Command]:
    """--executor; default: in words."""
    choice = click.Choice(list(EXECUTORS))
    return click.option(
        *(names or ("--executor",)), "executor", type=choice, help=f"What runs it.  [default: {default}]"
    )


def opening_options(command: Command) -> Command:
    """Adds what `open_model` takes beside the file: a tokenizer, and what a .nir file of another tool leaves open."""
    options = (
        tokenizer_option,
        click.option("--reset", type=click.Choice(["soft", "hard"]), help="Of neurons in a foreign .nir file."),
        click.option("--time-step", type=float, help="dt of a foreign .nir file: 1 as norse, 1e-4 as snnTorch has it."),
        click.option("--fires", type=click.Choice([">", ">="]), help="Foreign neurons at the threshold.  [default: >]"),
        click.option("--standard-nodes", is_flag=True, help="Pass over neurotool's metadata in a .nir file."),
    )
    return with_options(command, options)


tokenizer_option = click.option(
    "--tokenizer", type=PATH, help="A .ckpt whose tokenizer and task read texts for a .nir file."
)
time_steps_option = click.option(
    "--time-steps", "-T", type=int, help="T of a foreign .nir file; another T for a checkpoint."
)


def with_options(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    """Adds them so that --help shows them in this order."""
    for option in reversed(list(options)):
        command = option(command)
    return command
