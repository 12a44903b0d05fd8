"""docs/first_hour_nir.md: every command works as it is printed."""

import os
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.cli.main import cli

TOLD = {
    "snntorch": ("--from snntorch --reset hard", "--for norse"),
    "norse": ("--from norse", "--for norse"),
    "sinabs": ("--from sinabs --spikes binary", "--for sinabs"),
}
"""What the page says to put in the place of what is printed, and the tool that the network goes back to."""


@pytest.mark.parametrize(
    "tool", ["snntorch", pytest.param("norse", marks=pytest.mark.slow), pytest.param("sinabs", marks=pytest.mark.slow)]
)
def test_every_command_works(tool: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (repository / "docs" / "first_hour_nir.md").read_text("utf-8")
    training, *commands = re.findall(r"^    ((?:python|neurotool) .*)$", text, re.MULTILINE)
    _train(tool, training.replace("snntorch", tool), repository, monkeypatch)
    told, back = TOLD[tool]
    shown = {}
    for printed in commands:
        command = printed.replace(TOLD["snntorch"][0], told).replace("--for norse", back)
        result = CliRunner().invoke(cli, shlex.split(command)[1:])
        shown[command] = result.output
        untold = command == "neurotool show build/digits/digits.nir"
        assert result.exit_code == (2 if untold else 0), f"{command}\n{result.output}"
        assert not untold or ("--from " in result.output and tool in result.output)
    assert len(shown) == 12
    (recorded,) = (output for command, output in shown.items() if "recorded.npz" in command)
    assert "PASS: exactly the same spikes" in recorded
    folder = tmp_path / "build" / "digits"
    emulated, lava = np.load(folder / "integers.npz"), np.load(folder / "lava.npz")
    assert all(np.array_equal(emulated[f"{layer}.spikes"], lava[f"{layer}.spikes"]) for layer in ("1", "3"))


def _train(tool: str, command: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For one epoch; sinabs in the environment of `make nir-tools`."""
    script = [str(repository / "examples" / "nir_digits.py"), *shlex.split(command)[2:], "1"]
    if tool != "sinabs":
        pytest.importorskip(tool)
        monkeypatch.setattr("sys.argv", script)
        runpy.run_path(script[0], run_name="__main__")
        return
    python = Path(os.environ.get("NEUROTOOL_NIRTOOLS", repository / "build" / "nirtools")) / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {python}: make nir-tools installs it, or NEUROTOOL_NIRTOOLS names another environment")
    subprocess.run([python, *script], check=True, capture_output=True)
