"""The student in examples/small: small, readable, and of use as it is."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import neurotool
from neurotool.checkpoint import read_checkpoint
from neurotool.cli.main import cli

TEXTS = ["a moving and very funny film", "a dull and lifeless mess with no laughs"]


@pytest.fixture
def small(repository: Path) -> Path:
    return repository / "examples" / "small"


def asked(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_is_small(small: Path) -> None:
    assert sum(file.stat().st_size for file in small.rglob("*") if file.is_file()) < 10e6


@pytest.mark.parametrize("name", ["film.ckpt", "film.lava"])
def test_it_answers(small: Path, name: str) -> None:
    answers = [json.loads(line) for line in asked("predict", small / name, *TEXTS, "--json").splitlines()]
    answers = answers[0] if isinstance(answers[0], list) else answers
    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def test_the_bundle_is_the_checkpoint(small: Path) -> None:
    result = neurotool.compare(small / "film.ckpt", small / "film.lava", samples=4).result
    assert result.predictions_agreeing >= result.inputs - 1


def test_it_accounts_for_its_energy(small: Path) -> None:
    assert "zero-skipping" in asked("energy", "report", small / "film.ckpt")


def test_the_card_is_of_this_checkpoint(small: Path) -> None:
    card = (small / "README.md").read_text("utf-8")
    record = read_checkpoint(small / "film.ckpt").training
    stated = re.search(r"student, float32 \| ([\d.]+) %", card)
    assert stated is not None and float(stated[1]) == pytest.approx(100 * record["metrics"]["accuracy"], abs=0.05)
    assert f"{record['data']['train_size']} training sentences" in card and f"seed {record['seed']}" in card
