"""Options that several commands share."""

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from neurotool.api.executors import EXECUTORS
from neurotool.cli.numbers import POTENTIAL, TIME_STEP, TIME_STEPS
from neurotool.errors import ConfigError, ExportError
from neurotool.export.conventions import TOOLS, Integration
from neurotool.files import check_free
from neurotool.graph.nodes import Reset
from neurotool.inputs import Given, InputKind

if TYPE_CHECKING:
    from neurotool.api.model import Model

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
    resets, membranes = get_args(Reset), get_args(Integration)
    options = (
        tokenizer_option,
        click.option(
            "--from", "tool", type=click.Choice(list(TOOLS)), help="Tool that wrote a .nir file: sets the rest."
        ),
        click.option("--reset", type=click.Choice(resets), help="Of neurons in a foreign .nir file."),
        click.option("--time-step", type=TIME_STEP, help="dt of a foreign .nir file, in the unit of its tau."),
        click.option("--fires", type=click.Choice([">", ">="]), help="Foreign neurons at the threshold.  [default: >]"),
        click.option("--spikes", type=click.Choice(["binary", "several"]), help="Of a foreign neuron in one step."),
        click.option("--membrane", type=click.Choice(membranes), help="How foreign potentials are stepped."),
        click.option("--lowest", type=POTENTIAL, help="What no foreign potential falls below."),
        click.option("--repair", is_flag=True, help="Take shapes that a foreign .nir file lacks from its weights."),
        click.option("--standard-nodes", is_flag=True, help="Pass over neurotool's metadata in a .nir file."),
    )
    return with_options(command, options)


def input_options(command: Command) -> Command:
    """--input, --input-kind, --random: what a network that reads no text is run on, as one argument `given`."""

    @functools.wraps(command)
    def with_given(*args: Any, files: tuple[str, ...], kind: Any, random: bool, **more: Any) -> Any:
        if random and files:
            raise ConfigError(f"--random: --input {files[0]} is given, too; leave out one of the two")
        return command(*args, given=Given(files, kind, random), **more)

    kinds = click.Choice(get_args(InputKind))
    options = (
        click.option(
            "--input", "files", multiple=True, metavar="[NAME=]FILE",
            help="Spikes or currents: .npz, .npy, events as .csv, NIRData as .h5; one of several Inputs as NAME=FILE.",
        ),
        click.option(
            "--input-kind", "kind", type=kinds, help="Of Inputs.  [default: the file's, else spikes if all are 0 or 1]"
        ),
        click.option("--random", is_flag=True, help="Random spikes, where a network reads no text."),
    )  # fmt: skip
    return with_options(with_given, options)  # type: ignore[return-value]


tokenizer_option = click.option(
    "--tokenizer", type=PATH, help="A .ckpt whose tokenizer and task read texts for a file without."
)
time_steps_option = click.option(
    "--time-steps", "-T", type=TIME_STEPS, help="T of a foreign .nir file; of others another than their own."
)


def with_options(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    """Adds them so that --help shows them in this order."""
    for option in reversed(list(options)):
        command = option(command)
    return command


_RESULTS = ("output", "plot", "raster")
_READ_IN_FOLDERS = (
    *("train", "validation", "dev", "valid", "validation_matched"),
    *("manifest", "graph", "weights", "tokenizer", "tokenizer_config"),
)
"""Files of a folder of examples, and of a bundle, without their endings."""


def check_result(path: Path, force: bool = False) -> None:
    """Raises ExportError where a result cannot be written (files.check_free), or is what the command reads."""
    check_free(path, force, read=_read_files())


def check_not_read(path: Path) -> None:
    """Raises ExportError for a name of a result that is what the command reads."""
    if any(os.path.exists(path) and os.path.samefile(path, file) for file in _read_files()):
        raise ExportError(f"{path}: is what the command reads; give another name for the result")


def _read_files() -> list[Path]:
    """Files that an argument or option of the running command names, or that lie in a folder that one names."""
    context = click.get_current_context(silent=True)
    found: list[str] = []
    given = {name: value for name, value in context.params.items() if name not in _RESULTS} if context else {}
    for value in given.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, str | Path):
                found += [str(one), str(one).partition("=")[2]]  # [NAME=]FILE
    files = [Path(place) for place in found if os.path.isfile(place)]
    for folder in filter(os.path.isdir, found):
        files += [Path(folder, name) for name in os.listdir(folder) if name.partition(".")[0] in _READ_IN_FOLDERS]
    return files


def open_file(path: Path, **opening: Any) -> "Model":
    """`open_model`, whose warnings are told."""
    from neurotool.api.model import open_model

    with warnings_told(path):
        return open_model(path, **opening)


@contextmanager
def warnings_told(path: Path) -> Iterator[None]:
    """What is odd about a file goes to standard error, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        click.echo(f"Warning: {path}: {warning.message}", err=True)
