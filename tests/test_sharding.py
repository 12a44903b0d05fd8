"""Two gloo processes that share out a student (FSDP), and what they prepare once for both."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from two_processes import run

from neurotool.checkpoint import read_checkpoint
from neurotool.errors import ConfigError
from neurotool.student.serialise import load_student
from neurotool.train.pipeline import train

RunOptions = Callable[..., list[str]]
QUIET = Console(quiet=True)
SMALL_STEPS = ("--learning-rate", "1e-7")
"""Because spikes that flip by rounding would drive two long trainings apart."""
KINDS = {
    "spikingbert": ("--inner-epochs", "4"),
    "parts": ("--accumulate", "2", "--ema", "0.9", "--layer-decay", "0.8"),
    "concurrent": ("--schedule", "concurrent", "--attention-weight", "0"),
    "ann": ("--student", "ann", "--cache-teacher"),
    "spikebert": ("--student", "spikebert", "--cache-teacher"),
    "textcnn": ("--student", "snn-textcnn", "--time-steps", "4"),
}


@pytest.fixture
def data(tmp_path: Path, tiny_data: Callable[[str], Path]) -> Path:
    """96 texts, so that no batch is filled up."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_data("classes"), folder)
    lines = (folder / "train.tsv").read_text().splitlines()
    (folder / "train.tsv").write_text("\n".join(lines[:97]) + "\n")
    return folder


@pytest.fixture
def two_processes(tmp_path: Path) -> Callable[..., list[list[dict[str, Any]]]]:
    """Runs trainings (options, or options and where to stop) under torchrun; what each process saw of each."""

    def start(*runs: list[str], stop: tuple[str, int] | None = None) -> list[list[dict[str, Any]]]:
        what = tmp_path / "runs.json"
        what.write_text(json.dumps([{"options": options, "stop": stop} for options in runs]))
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
        script = Path(__file__).with_name("two_processes.py")
        environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "datasets")}
        done = subprocess.run(
            [*launch, str(script), str(what), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=900,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]

    return start


def logged(path: Path) -> list[dict[str, float]]:
    stages = read_checkpoint(path).training["stages"]
    return [entry for stage in stages for entry in stage["history"] if "loss" in entry]


@pytest.mark.slow
def test_sharing_changes_no_loss(
    run_options: RunOptions, two_processes: Callable[..., Any], data: Path, tmp_path: Path
) -> None:
    """Every kind as in one process; each of two holds half of what is trained, and of the optimiser's averages."""

    def options(name: str, processes: int, *further: str) -> list[str]:
        asked = ("--data", str(data), "--epochs", "4", *SMALL_STEPS, *KINDS[name], *further)
        given = run_options(*asked, output=f"{name}.{processes}")
        layers = given.index("--layers")
        return given[:layers] + given[layers + 2 :] if name == "textcnn" else given

    seen = two_processes(*(options(name, 2, "--fsdp") for name in KINDS))
    for number, name in enumerate(KINDS):
        run(options(name, 1), None)
        one, two = (read_checkpoint(tmp_path / f"{name}.{processes}") for processes in (1, 2))
        histories = [logged(tmp_path / f"{name}.{processes}") for processes in (1, 2)]
        assert histories[0] and len(histories[0]) == len(histories[1]), name
        for ours, theirs in zip(*histories, strict=True):
            assert ours["step"] == theirs["step"] == 20
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5), name
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-4), name
        assert one.training["metrics"] == pytest.approx(two.training["metrics"]), name
        for tensor, value in one.tensors.items():
            np.testing.assert_allclose(two.tensors[tensor], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} {tensor}")
        load_student(tmp_path / f"{name}.2")
        for held in zip(*(rank[number]["held"].values() for rank in seen), strict=True):
            parameters, averages = zip(*held, strict=True)
            assert max(parameters) < 0.55 * sum(parameters), name
            for trained, averaged in zip(parameters, averages, strict=True):  # but of what no loss reaches
                assert 0.9 * trained < averaged <= trained, name


@pytest.mark.slow
def test_a_stopped_run_goes_on_alone_and_shared_out(
    run_options: RunOptions,
    make_plan: Callable[..., Any],
    two_processes: Callable[..., Any],
    data: Path,
    tmp_path: Path,
) -> None:
    """The state of a run does not depend on how it is shared out, and holds weights, averages and optimiser."""
    options = ("--data", str(data), "--epochs", "4", *SMALL_STEPS, "--ema", "0.9")
    train(make_plan(*options, output="whole.ckpt"), QUIET)
    (seen, _) = two_processes(run_options(*options, "--fsdp", output="a.ckpt"), stop=("prediction", 9))
    assert seen[0]["stopped"] and not (tmp_path / "a.ckpt").exists()
    copied = tmp_path / "runs" / "b.ckpt"
    shutil.copytree(tmp_path / "runs" / "a.ckpt", copied)
    train(make_plan(*options, "--resume", output="a.ckpt"), QUIET)
    two_processes(run_options(*options, "--fsdp", "--resume", output="b.ckpt"))
    whole = read_checkpoint(tmp_path / "whole.ckpt").tensors
    for resumed in ("a.ckpt", "b.ckpt"):
        [entry] = logged(tmp_path / resumed)
        [wanted] = logged(tmp_path / "whole.ckpt")
        assert entry["step"] == wanted["step"] == 20
        assert entry["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-4)
        for name, value in read_checkpoint(tmp_path / resumed).tensors.items():
            np.testing.assert_allclose(value, whole[name], rtol=1e-5, atol=2e-7, err_msg=f"{resumed} {name}")


@pytest.mark.slow
def test_every_text_is_tokenised_once(
    run_options: RunOptions, two_processes: Callable[..., Any], data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    """Of training, validation, corpus and variants; the second process finds them in the cache."""
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"passage w{i} w{i % 7} good\n" for i in range(32)))
    options = ("--data", str(data), "--epochs", "1", "--teacher-epochs", "1", "--corpus", str(corpus), "--augment", "1")
    first, second = (rank[0]["texts"] for rank in two_processes(run_options(*options)))
    passages = corpus.read_text().splitlines()
    given = [line.split("\t")[0] for line in (data / "train.tsv").read_text().splitlines()[1:]] + passages
    assert set(given) <= set(first) and len(first) > len(given)
    assert all(first.count(passage) == 1 for passage in passages)
    assert set(second) <= {"a", "☃ b"}, "more than a look at the tokenizer"


@pytest.mark.parametrize(
    ("processes", "options", "message"),
    [
        (1, (), "--fsdp: one process has none to share with"),
        (2, ("--prune", "0.5"), "--fsdp: does not go with --prune"),
        (2, ("--weight-bits", "4"), "--fsdp: does not go with --weight-bits"),
        (2, ("--integer-aware",), "--fsdp: does not go with --weight-bits or --integer-aware"),
        (2, ("--event-target", "0.2"), "--fsdp: does not go with --event-target"),
        (2, ("--feedback",), "--fsdp: does not go with --feedback"),
        (2, ("--compile", "on"), "--fsdp: does not go with --compile on"),
        (2, ("--student", "streaming"), "--fsdp: does not go with --student streaming"),
    ],
)
def test_what_does_not_go_with_it(
    make_plan: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(ConfigError, match=f"{message}.*leave (it out|out one)"):
        make_plan("--fsdp", *options).check()
