"""`neurotool doctor`: what is installed, and does Lava run here."""

import json
import platform
import re
import shlex
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from neurotool import __version__
from neurotool.cli.options import json_option
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.selfcheck import check_lava

OPTIONAL = ("norse", "lava-nc", "lava-dl")


@dataclass(frozen=True)
class Diagnosis:
    """The answer of `neurotool doctor`; `--json` prints its fields."""

    neurotool: str
    python: str
    executable: str
    platform: str
    packages: dict[str, str | None]
    """Installed version of each package, None when it is missing."""
    missing: list[str]
    """Requirements of neurotool itself that are not installed."""
    missing_command: str | None
    cuda: str
    lava_usable: bool | None
    """None when the check was skipped."""
    lava_problem: str | None
    lava_command: str | None
    """What makes Lava usable, when an installation does."""


@click.command(epilog="Example: neurotool doctor --json")
@click.option("--quick", is_flag=True, help="Do not start Lava, only look at versions.")
@json_option
@click.pass_context
def doctor(ctx: click.Context, quick: bool, as_json: bool) -> None:
    """Show what is installed and whether Lava runs here.

    Lava is tried for real: a network of two neurons in a worker process (about one second). The exit code is 1 when a
    package that neurotool requires is missing; Lava is optional.
    """
    diagnosis = diagnose(quick)
    if as_json:
        click.echo(json.dumps(asdict(diagnosis), indent=2))
    else:
        _print(diagnosis)
    ctx.exit(1 if diagnosis.missing else 0)


def diagnose(quick: bool) -> Diagnosis:
    """Look at this interpreter; unless `quick`, run a tiny Lava network in a worker process."""
    requirements = _requirements()
    packages = {name: _version(name) for name in (*requirements, *OPTIONAL)}
    missing = [name for name in requirements if packages[name] is None]
    unfit = compatibility.installation_problem()
    problem = unfit or (None if quick else check_lava())
    return Diagnosis(
        neurotool=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        packages=packages,
        missing=missing,
        missing_command=_pip_install([requirements[name] for name in missing]) if missing else None,
        cuda=_cuda(),
        lava_usable=None if quick and not problem else problem is None,
        lava_problem=problem,
        lava_command=compatibility.install_command() if unfit else None,
    )


def _requirements() -> dict[str, str]:
    """Name -> requirement (`numpy` -> `numpy<2.4,>=1.24.4`) of neurotool without its extras."""
    declared = [text for text in requires("neurotool") or [] if "extra ==" not in text]
    return {re.split(r"[^\w.-]", text, maxsplit=1)[0]: text for text in declared}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _pip_install(requirements: list[str]) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *requirements])


def _cuda() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    if not torch.cuda.is_available():
        return "not available"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _print(diagnosis: Diagnosis) -> None:
    table = Table("what", "found", box=None, header_style="bold")
    table.add_row("neurotool", diagnosis.neurotool)
    table.add_row("Python", escape(f"{diagnosis.python} ({diagnosis.executable})"))
    table.add_row("platform", diagnosis.platform)
    for package, found in diagnosis.packages.items():
        absent = "[yellow]not installed (optional)" if package in OPTIONAL else "[red]missing"
        table.add_row(package, found or absent)
    table.add_row("CUDA", escape(diagnosis.cuda))
    table.add_row("Lava", _lava_verdict(diagnosis))
    console = Console(soft_wrap=True)  # commands must survive copying
    console.print(table)
    for command in filter(None, (diagnosis.missing_command, diagnosis.lava_command)):
        console.print(f"\nto repair:\n  {command}", markup=False, highlight=False)


def _lava_verdict(diagnosis: Diagnosis) -> str:
    if diagnosis.lava_usable is None:
        return "not tried (--quick)"
    if diagnosis.lava_usable:
        return "[green]usable"
    return f"[yellow]not usable: {escape(diagnosis.lava_problem or '')}"
