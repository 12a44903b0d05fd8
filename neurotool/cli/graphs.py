"""From any model file to a layer graph, for all commands that work on graphs."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, get_args

import click

from neurotool.errors import ConfigError, GraphError
from neurotool.export.conventions import TOOLS, Integration
from neurotool.graph import Graph
from neurotool.graph.nodes import Reset
from neurotool.lava_runtime.bundle import is_bundle, read_bundle

if TYPE_CHECKING:
    from neurotool.lava_runtime.bundle import Bundle
    from neurotool.student.serialise import LoadedStudent

_HDF5 = b"\x89HDF\r\n\x1a\n"
Command = TypeVar("Command", bound=Callable[..., Any])


class Conventions(TypedDict, total=False):
    """What a .nir file of another tool may leave open; the keyword arguments of `read_nir`."""

    tool: str | None
    reset: Any
    time_step: float | None
    time_steps: int | None
    fires: Any
    spikes: Any
    membrane: Any
    lowest: float | None
    standard_nodes: bool


def nir_options(command: Command) -> Command:
    """Adds the options of `Conventions`."""
    resets, membranes = get_args(Reset), get_args(Integration)
    options = (
        click.option(
            "--from", "tool", type=click.Choice(list(TOOLS)), help="Tool that wrote a .nir file: sets the rest."
        ),
        click.option("--reset", type=click.Choice(resets), help="Of neurons in a foreign .nir file."),
        click.option("--time-step", type=float, help="dt of a foreign .nir file, in the unit of its tau."),
        click.option("--time-steps", "-T", type=int, help="T of a foreign .nir file; another T for a checkpoint."),
        click.option("--fires", type=click.Choice([">", ">="]), help="Foreign neurons at the threshold.  [default: >]"),
        click.option("--spikes", type=click.Choice(["binary", "several"]), help="Of a foreign neuron in one step."),
        click.option("--membrane", type=click.Choice(membranes), help="How foreign potentials are stepped."),
        click.option("--lowest", type=float, help="What no foreign potential falls below."),
        click.option("--standard-nodes", is_flag=True, help="Pass over neurotool's metadata in a .nir file."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def is_nir(path: Path) -> bool:
    """A .nir file by its first bytes, or by its name where it is too damaged to have them."""
    try:
        with path.open("rb") as file:
            return file.read(8) == _HDF5 or path.suffix == ".nir"
    except OSError:
        return path.suffix == ".nir"


def load_graph(path: Path, conventions: Conventions) -> Graph:
    """The layer graph of a .ckpt, .nir or Lava bundle. Raises CheckpointError or GraphError for anything else."""
    if path.is_dir():
        if not is_bundle(path):
            raise GraphError(f"{path}: is a folder, but not a Lava bundle; give a .ckpt or .nir file or a bundle")
        return bundle_graph(path, read_bundle(path), conventions)
    if is_nir(path):
        from neurotool.export.nir import read_nir

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            graph = read_nir(path, **conventions)
        for warning in caught:
            click.echo(f"Warning: {path}: {warning.message}", err=True)
        return graph
    from neurotool.student.serialise import load_student

    return student_graph(path, load_student(path), conventions)


def bundle_graph(path: Path, bundle: "Bundle", conventions: Conventions) -> Graph:
    """The graph of a bundle, with another T where one is given and parameters are real. Raises ConfigError."""
    refuse_conventions(path, conventions)
    graph, time_steps = bundle.graph, conventions["time_steps"]
    if time_steps in (None, graph.time_steps):
        return graph
    if graph.fixed_point:
        raise ConfigError(
            f"-T {time_steps}: {path} holds integers made for T = {graph.time_steps}; export the checkpoint with -T"
        )
    return replace(graph, time_steps=time_steps)


def student_graph(path: Path, student: "LoadedStudent", conventions: Conventions) -> Graph:
    """The graph of a checkpoint's student, with another T where one is given. Raises ConfigError."""
    from neurotool.student.student import check_time_steps

    refuse_conventions(path, conventions)
    check_time_steps(student.model, conventions["time_steps"])
    graph = student.model.to_graph()
    return graph if conventions["time_steps"] is None else replace(graph, time_steps=conventions["time_steps"])


def refuse_conventions(path: Path, conventions: Conventions) -> None:
    """Raises ConfigError where options for foreign .nir files, but for another T, are given for another file."""
    given = [
        "--from" if name == "tool" else f"--{name.replace('_', '-')}"
        for name, value in conventions.items()
        if value not in (None, False) and name != "time_steps"
    ]
    if given:
        raise ConfigError(f"{path}: {given[0]} is for foreign .nir files; this file says it itself, leave it out")
