"""docs/first_hour_nir.md: every command works as it is printed."""

import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.cli.main import cli


def test_every_command_works(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("snntorch")
    monkeypatch.chdir(tmp_path)
    text = (repository / "docs" / "first_hour_nir.md").read_text("utf-8")
    training, *commands = re.findall(r"^    ((?:python|neurotool) .*)$", text, re.MULTILINE)
    script = shlex.split(training)[1:]
    monkeypatch.setattr("sys.argv", [*script, "1"])
    runpy.run_path(str(repository / script[0]), run_name="__main__")
    shown = {}
    for command in commands:
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        shown[command] = result.output
        untold = command == "neurotool show build/digits/digits.nir"
        assert result.exit_code == (2 if untold else 0), f"{command}\n{result.output}"
        assert not untold or "--from snntorch" in result.output
    assert len(shown) == 12
    (recorded,) = (output for command, output in shown.items() if "recorded.npz" in command)
    assert "PASS: exactly the same spikes" in recorded
    folder = tmp_path / "build" / "digits"
    emulated, lava = np.load(folder / "integers.npz"), np.load(folder / "lava.npz")
    assert all(np.array_equal(emulated[f"{layer}.spikes"], lava[f"{layer}.spikes"]) for layer in ("1", "3"))
