"""The command group: errors on one line, exit codes, lazy commands."""

import click
import pytest
from click.testing import CliRunner, Result

from neurotool import __version__
from neurotool.cli.main import COMMANDS, NeurotoolGroup, cli
from neurotool.errors import DataError, TrainingError


def run_raising(error: BaseException, *options: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    """Run a command that raises `error`."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(NeurotoolGroup, "get_command", lambda self, ctx, name: failing)
    return CliRunner().invoke(cli, [*options, "failing"])


@pytest.mark.parametrize(
    ("error", "exit_code", "message"),
    [
        (DataError("train.tsv: no column 'label'\n  add one"), 2, "Error: train.tsv: no column 'label' add one\n"),
        (TrainingError("loss is NaN at step 3"), 1, "Error: loss is NaN at step 3\n"),
        (OSError(28, "No space left on device", "m.ckpt"), 1, "Error: [Errno 28] No space left on device: 'm.ckpt'\n"),
        (KeyboardInterrupt(), 130, "Error: interrupted\n"),
        (KeyboardInterrupt("stopped at step 5, go on with --resume"), 130, None),
        (click.UsageError("no such thing"), 2, None),
        (click.exceptions.Exit(7), 7, ""),
    ],
)
def test_errors_are_one_line(
    error: BaseException, exit_code: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run_raising(error, monkeypatch=monkeypatch)
    assert result.exit_code == exit_code
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    if message is not None:
        assert result.stderr == message


def test_a_bug_is_one_line_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_raising(ZeroDivisionError("by zero"), monkeypatch=monkeypatch)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unexpected ZeroDivisionError at ")
    assert result.stderr.endswith("by zero; `neurotool --debug …` shows the traceback\n")
    assert result.stderr.count("\n") == 1


def test_debug_shows_the_traceback_and_keeps_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_raising(DataError("empty file"), "--debug", monkeypatch=monkeypatch)
    assert result.exit_code == 2
    assert "Traceback (most recent call last)" in result.stderr
    assert result.stderr.endswith("Error: empty file\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_listed_help_is_the_help_of_the_command(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == COMMANDS[name].help
    assert "Example" in CliRunner().invoke(cli, [name, "--help"]).output


def test_help_lists_every_command_and_version_is_shown() -> None:
    text = CliRunner().invoke(cli, ["--help"]).output
    assert all(name in text for name in COMMANDS)
    assert CliRunner().invoke(cli, ["--version"]).output == f"neurotool, version {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "problem", "hint"),
    [
        (["dostor"], "No such command 'dostor'", "neurotool"),
        (["--debig"], "No such option '--debig'", "neurotool"),
        (["train", "--epoch-count"], "No such option '--epoch-count'", "neurotool train"),
        (["train", "-T", "few"], "'few' is not a valid integer", "neurotool train"),
        (["predict"], "Missing argument 'MODEL'", "neurotool predict"),
    ],
)
def test_usage_errors_are_one_line_with_the_way_to_help(arguments: list[str], problem: str, hint: str) -> None:
    result = CliRunner().invoke(cli, arguments, prog_name="neurotool")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("Error: ") and problem in result.stderr and result.stderr.count("\n") == 1
    assert result.stderr.endswith(f" See `{hint} --help`\n")


def test_no_command_shows_the_help() -> None:
    assert "Commands:" in CliRunner().invoke(cli, []).output


def test_an_error_is_no_longer_than_a_person_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends stay: the thing that is wrong, and the way out."""
    for error in (DataError("train.tsv: " + "x" * 200_000 + "; the way out"), ValueError("y" * 9999)):
        line = run_raising(error, monkeypatch=monkeypatch).stderr
        assert len(line) <= 300 and line.count("\n") == 1
    line = run_raising(DataError("train.tsv: " + "x" * 200_000 + "; the way out"), monkeypatch=monkeypatch).stderr
    assert line.startswith("Error: train.tsv: xxx") and line.endswith("xxx; the way out\n")
    monkeypatch.undo()
    line = CliRunner().invoke(cli, ["train", "--layers", "9" + "x" * 100_000]).stderr
    assert len(line) <= 300 and line.endswith("train --help`\n")


def test_a_nul_character_is_no_argument() -> None:
    for arguments in (["predict", "a\0b.ckpt", "x"], ["train", "--data", "a\0b"], ["train", "-o", "\0"]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2 and "has a NUL character" in result.stderr and result.stderr.count("\n") == 1
