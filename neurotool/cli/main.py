"""The `neurotool` command group: lazy commands, one-line errors, exit codes."""

import codecs
import errno
import importlib
import io
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import click

from neurotool import __version__
from neurotool.errors import NeurotoolError, NeurotoolWarning

LONGEST_ERROR, LONGEST_USAGE_ERROR = 290, 250
"""Characters: errors quote what was given, which may be anything. With what is put around it a line has at most 300."""


class LazyCommand(NamedTuple):
    """A command that is imported when it is run, not when it is listed: importing torch takes seconds."""

    target: str
    """module:attribute"""
    help: str
    """The line shown by `neurotool --help`; equal to the command's own short help (tested)."""


COMMANDS = {
    "train": LazyCommand(
        "neurotool.cli.train:train", "Distil a BERT teacher into a spiking student, or into its rival without spikes."
    ),
    "evaluate": LazyCommand("neurotool.cli.evaluate:evaluate", "Measure a student on labelled text."),
    "predict": LazyCommand("neurotool.cli.predict:predict", "Classify or score texts."),
    "export": LazyCommand(
        "neurotool.cli.export:export", "Write a model as NIR or as a Lava bundle, or draw its layer graph."
    ),
    "validate": LazyCommand("neurotool.cli.validate:validate", "Compare two models spike by spike on real sentences."),
    "run": LazyCommand(
        "neurotool.cli.run:run", "Run a model on any executor: texts or arrays in, predictions and spikes out."
    ),
    "show": LazyCommand(
        "neurotool.cli.show:show", "Say what a model file is: student, layers, spikes, task, metrics, versions."
    ),
    "energy": LazyCommand("neurotool.cli.energy:energy", "Count operations and energy, beside dense networks."),
    "doctor": LazyCommand("neurotool.cli.doctor:doctor", "Show what is installed and whether Lava runs here."),
}


class NeurotoolGroup(click.Group):
    """Imports commands on demand and turns exceptions into one line on stderr and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name].target.split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> click.Context:
        with _usage_errors_on_one_line():
            for number, argument in enumerate(args, start=1):
                if "\0" in argument:
                    raise click.UsageError(f"Argument {number} has a NUL character, which no name and no text has")
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _usage_errors_on_one_line():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of a pipe has gone: click ends quietly
            if ctx.params["debug"]:
                traceback.print_exc()
            raise click.exceptions.Exit(_say_error(error)) from error


class _UsageError(click.ClickException):
    exit_code = 2


@contextmanager
def _usage_errors_on_one_line() -> Iterator[None]:
    """click would print the usage and a hint on lines of their own."""
    try:
        yield
    except click.UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # click >= 8.2: not an error, prints the help
            raise
        command = error.ctx.command_path if error.ctx else "neurotool"
        message = _line(error.format_message(), LONGEST_USAGE_ERROR)
        stop = "" if message.endswith((".", "?")) else "."
        raise _UsageError(f"{message}{stop} See `{command} --help`") from error


def _say_error(error: BaseException) -> int:
    """Prints the one line; returns the exit code."""
    exit_code, message = _explain(error)
    with suppress(OSError):  # standard error, too, may be a file on a full disk
        click.echo(f"Error: {_line(message)}", err=True)
    return exit_code


def _line(message: str, longest: int = LONGEST_ERROR) -> str:
    """The message on one line of at most so many characters; what is left out is the middle."""
    message = " ".join(message.split())
    if len(message) <= longest:
        return message
    half = longest // 2 - 2
    return f"{message[:half]} … {message[-half:]}"


@contextmanager
def _warnings_on_one_line() -> Iterator[None]:
    """Our own, each once; those of libraries stay as they are."""
    said: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def say(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, NeurotoolWarning):
                if str(message) not in said:
                    click.echo(f"Warning: {_line(str(message))}", err=True)
                said.add(str(message))
            else:
                show(message, category, *where, **more)

        warnings.showwarning = say
        warnings.simplefilter("always", NeurotoolWarning)
        yield


def _explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for the user."""
    if isinstance(error, KeyboardInterrupt):
        return 130, str(error) or "interrupted"
    if isinstance(error, NeurotoolError):
        return error.exit_code, str(error)
    if isinstance(error, OSError):
        return _explain_system(error)
    if "No space left on device" in str(error) or "unexpected pos" in str(error):  # tokenizers; torch
        return (
            1,
            "the disk is full: make room (temporary files: TMPDIR); a training goes on with --resume",
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return 1, "there is not enough memory; take smaller batches, fewer samples or shorter texts"
    return 1, f"{_describe_bug(error)}; `neurotool --debug …` shows the traceback"


def _explain_system(error: OSError) -> tuple[int, str]:
    """A full disk may be that of temporary files; a name that cannot be is bad input."""
    temporary = os.environ.get("TMPDIR") or "/tmp"
    if error.errno in (errno.ENOSPC, errno.EDQUOT) and str(error.filename or temporary).startswith(temporary):
        return 1, f"{error}: make room; the folder of temporary files is the one that TMPDIR names"
    bad_name = error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)
    return (2 if bad_name else 1), str(error)


def _describe_bug(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"unexpected {type(error).__name__} at {last.filename}:{last.lineno}: {error}"


@click.group(
    cls=NeurotoolGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: neurotool doctor",
)
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(__version__, prog_name="neurotool")
def cli(debug: bool) -> None:
    """Distil a BERT teacher into a spiking student, export it, run it, account for its energy."""
    click.get_current_context().with_resource(_warnings_on_one_line())
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its retries without a network end in one error of ours
    if not os.environ.get("XDG_CACHE_HOME", "unset"):  # empty means unset, but not to every library
        del os.environ["XDG_CACHE_HOME"]


def open_streams() -> None:
    """Standard streams that can be used: a closed one is empty, and letters that a terminal lacks are replaced."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        stream = getattr(sys, name)
        if stream is None:  # else the next file that is opened takes its number, and with it what is printed
            try:
                opened = os.open(os.devnull, os.O_RDWR)
            except OSError:  # a place without devices, or with none for this user
                setattr(sys, name, io.TextIOWrapper(io.BytesIO(), "utf-8", errors="replace"))
                continue
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, open(number, mode, encoding="utf-8", errors="replace"))  # noqa: SIM115
        elif mode == "w" and isinstance(stream, io.TextIOWrapper):
            encoding, lines = stream.encoding, stream.line_buffering
            if ascii_only := codecs.lookup(encoding).name == "ascii":
                encoding = "latin-1"  # since click takes ASCII for a mistake, and writes UTF-8
            output = _Output(stream.detach(), encoding, "replace", line_buffering=lines)
            output.called, output.ascii_only = f"standard {'output' if number == 1 else 'error'}", ascii_only
            setattr(sys, name, output)


class _Output(io.TextIOWrapper):
    """A standard stream that says which it is where it cannot be written to."""

    called, ascii_only = "", False

    def write(self, text: str) -> int:
        with self._named():
            return super().write(text.encode("ascii", "replace").decode() if self.ascii_only else text)

    def flush(self) -> None:
        with self._named():
            super().flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            error.filename = self.called
            raise


def main() -> None:
    """Entry point of the script `neurotool`."""
    open_streams()
    try:
        cli(prog_name="neurotool")
    except OSError as error:  # of what click prints by itself: help, version, wrong usage
        sys.exit(_say_error(error))
