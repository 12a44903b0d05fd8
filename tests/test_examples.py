"""The scripts in examples/ do what they say."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.checkpoint import write_checkpoint
from neurotool.cli.main import cli
from neurotool.student.serialise import to_checkpoint
from neurotool.tasks import Task


def run(repository: Path, name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(repository / "examples" / name), run_name="__main__")


def test_every_example_is_tested(repository: Path) -> None:
    names = {"arrays.py", "nir_digits.py", "spike_patterns.py", "tour.py"}
    assert {path.name for path in (repository / "examples").glob("*.py")} == names


def test_arrays(repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(repository, "arrays.py", monkeypatch)
    shown = capsys.readouterr().out
    assert "spikes of the output neurons [" in shown and shown.endswith("as a bundle: True\n")


@pytest.mark.parametrize(("tool", "options"), [("snntorch", ["--reset", "hard"]), ("norse", [])])
def test_a_network_of_another_tool(
    tool: str,
    options: list[str],
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It spikes here as it did there: what docs/first_hour_nir.md begins with."""
    pytest.importorskip(tool)
    monkeypatch.setattr("sys.argv", ["nir_digits.py", tool, str(tmp_path), "1"])
    runpy.run_path(str(repository / "examples" / "nir_digits.py"), run_name="__main__")
    assert f"wrote {tmp_path}/digits.nir, test.npz and recorded.npz" in capsys.readouterr().out
    files = [str(tmp_path / name) for name in ("digits.nir", "recorded.npz", "test.npz")]
    result = CliRunner().invoke(cli, ["validate", *files[:2], "--from", tool, *options, "--input", files[2]])
    assert result.exit_code == 0, result.stdout + result.stderr
    assert "PASS: exactly the same spikes" in result.stdout


def test_rates_of_spike_patterns_say_nothing(repository: Path, tmp_path: Path) -> None:
    """Every channel of every recording has the same number of spikes; their times differ from class to class."""
    from neurotool.spike_data import load_spikes

    runpy.run_path(str(repository / "examples" / "spike_patterns.py"))["write"](tmp_path, 6, 2)
    data = load_spikes(tmp_path)
    assert data.train.spikes.shape == (24, 60, 16) and len(data.validation.labels) == 8
    assert (data.train.spikes.sum(1) == 6).all() and (data.validation.spikes.sum(1) == 6).all()
    early = [data.train.spikes[data.train.labels == label, :30].sum(1).mean(0) for label in range(4)]
    assert all(np.abs(early[0] - other).max() > 1 for other in early[1:])


@pytest.mark.slow
def test_spike_patterns(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(repository, "spike_patterns.py", monkeypatch, tmp_path, 1, 3)
    shown = capsys.readouterr().out
    assert "LIF      accuracy" in shown and "CubaLIF  accuracy" in shown
    assert "from the .nir file the same spikes: True" in shown and "on Lava the same spikes: True" in shown
    assert "synaptic operations" in shown


def test_tour_of_a_checkpoint(
    make_student: Callable[..., Any],
    tiny_teacher: Path,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    task = Task("tiny", ("sentence",), ("negative", "positive"), ("accuracy",))
    odd = {"v_threshold": 0.713, "v_init": 0.25}  # which sums over equal spikes do not meet exactly
    student = make_student(1, vocab_size=len(tokenizer), num_labels=2, id2label={0: "negative", 1: "positive"}, **odd)
    write_checkpoint(tmp_path / "model.ckpt", to_checkpoint(student, tokenizer, task, {}, {}))
    run(repository, "tour.py", monkeypatch, tmp_path / "model.ckpt")
    shown = capsys.readouterr().out
    assert "the same network as NIR: True" in shown and "predictions that agree in fixed point" in shown


@pytest.mark.slow
def test_tour_with_training(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path))
    run(repository, "tour.py", monkeypatch)
    shown = capsys.readouterr().out
    assert "a moving and very funny film" in shown and "the same network as NIR: True" in shown
