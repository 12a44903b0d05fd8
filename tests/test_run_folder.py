"""One run, one folder: who holds it, what a stopped run goes on from, and what it refuses to go on with."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import Trainer

from neurotool.errors import ConfigError, TrainingError
from neurotool.train import pipeline, running
from neurotool.train.distiller import LossWeights
from neurotool.train.pipeline import train
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.run_folder import check_run, held, open_run
from neurotool.train.running import last_checkpoint

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
HOLD = """
import sys
from pathlib import Path
from neurotool.train.plan import StagePlan, TrainingPlan
from neurotool.train.run_folder import held
with held(TrainingPlan(Path(sys.argv[1]), run_folder=Path(sys.argv[2]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(output: Path, folder: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, str(output), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_who_is_at_it(tmp_path: Path) -> None:
    output = tmp_path / "m.ckpt"
    (tmp_path / "link.ckpt").symlink_to(output)
    with holder(output, tmp_path / "run") as process:
        who = f"process {process.pid} on {socket.gethostname()}, since "
        for name, folder in (("m.ckpt", "run"), ("m.ckpt", "other"), ("link.ckpt", "other"), ("n.ckpt", "run")):
            plan = TrainingPlan(tmp_path / name, run_folder=tmp_path / folder, resume=True)
            with pytest.raises(ConfigError, match=f"{who}.* is training it; wait for its end, or give"), held(plan):
                pytest.fail("two have it")
        with held(TrainingPlan(tmp_path / "n.ckpt", run_folder=tmp_path / "other")):
            pass
        process.kill()  # its files stay, and mean nothing
    assert (tmp_path / "run/lock").exists() and (tmp_path / ".m.ckpt.lock").exists()
    with held(TrainingPlan(output, run_folder=tmp_path / "run")):
        assert f"process {os.getpid()} on" in (tmp_path / "run/lock").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.ckpt", "run"], "locks or empty folders are left"
    assert not list((tmp_path / "run").iterdir())


def test_a_lock_that_its_holder_removes_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, flock, seen = TrainingPlan(tmp_path / "m.ckpt"), fcntl.flock, []

    def slow(file: int, how: int) -> None:
        if not seen:
            (tmp_path / ".m.ckpt.lock").unlink()
        seen.append(file)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    with held(plan):
        assert len(seen) == 3 and (tmp_path / ".m.ckpt.lock").exists() and (tmp_path / "runs/m.ckpt/lock").exists()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigError, match=r"the run's folder cannot be made .*; give another with --run-folder"),
        held(TrainingPlan(tmp_path / "m.ckpt", run_folder=tmp_path / "file/run")),
    ):
        pass


def test_force_replaces_no_file_that_the_run_reads(tmp_path: Path) -> None:
    stage = StagePlan("prediction", 1.0, 1e-3, 8, LossWeights())
    (tmp_path / "data").mkdir()
    for name in ("data/train.tsv", "corpus.txt"):
        (tmp_path / name).write_text("text")
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(tmp_path / name)
        for output in (name, "link"):
            plan = TrainingPlan(tmp_path / output, data=tmp_path / "data", corpus=str(tmp_path / "corpus.txt"),
                                stages=(stage,), force=True)  # fmt: skip
            with pytest.raises(ConfigError, match="is what the run reads"):
                plan.check()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="is no regular file"):
        TrainingPlan(tmp_path / "pipe", stages=(stage,), force=True).check()


def test_force_removes_nothing_that_no_run_made(tmp_path: Path) -> None:
    plan = TrainingPlan(tmp_path / "m.ckpt", run_folder=tmp_path, force=True)
    for name in ("plan.json", "inner.safetensors", "teacher", ".plan.json.tmp"):
        (plan.state_folder / name).parent.mkdir(exist_ok=True)
        (plan.state_folder / name).write_text("")
    check_run(plan)
    (plan.state_folder / "chapter.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds 'chapter\.txt', which no run made"):
        check_run(plan)


# --- what a resumed run reads is what it began with

BEGAN = {"train": "a" * 64, "validation": "b" * 64, "teacher": "c" * 64, "corpus": "d" * 64}


@pytest.fixture
def begun(tmp_path: Path) -> TrainingPlan:
    plan = TrainingPlan(tmp_path / "m.ckpt", student={"time_steps": 4})
    open_run(plan, BEGAN)
    return TrainingPlan(tmp_path / "m.ckpt", student={"time_steps": 4}, resume=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("train", "training texts"),
        ("teacher", "teacher is"),
        ("validation", "validation texts"),
        ("corpus", "corpus is"),
    ],
)
def test_other_texts_or_another_teacher(begun: TrainingPlan, changed: str, said: str) -> None:
    check_run(begun)
    open_run(begun, BEGAN)
    with pytest.raises(
        ConfigError, match=rf"cannot resume .*{said}.* \(sha256 [abcd]{{8}} then, 99999999 now\).*--force"
    ):
        open_run(begun, BEGAN | {changed: "9" * 64})


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"student": 3}', "[" * 100_000, "\udcff"])
def test_a_damaged_plan(begun: TrainingPlan, content: str) -> None:
    (begun.state_folder / "plan.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"plan.json is damaged; give --force in place of --resume to start over"):
        check_run(begun)


def test_a_plan_without_hashes(begun: TrainingPlan) -> None:
    record = begun.state_folder / "plan.json"
    for identity in (None, "x", {"train": 3}):
        record.write_text(json.dumps(json.loads(record.read_text()) | {"identity": identity}))
        with pytest.raises(ConfigError, match="the training texts are not what it began with"):
            open_run(begun, BEGAN)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, stage: str = "prediction") -> None:
    training_step = Trainer.training_step

    def hit(self: Trainer, *arguments: Any) -> Any:
        if Path(self.args.output_dir).name == stage and self.state.global_step == step - 1:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, *arguments)

    monkeypatch.setattr(Trainer, "training_step", hit)


@pytest.fixture
def stopped(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_data: Any) -> Path:
    """A run stopped in its third epoch, on data of its own; its state."""
    shutil.copytree(tiny_data("classes"), tmp_path / "data")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 16)
        with pytest.raises(KeyboardInterrupt):
            train(make_plan("--data", str(tmp_path / "data")), QUIET)
    return tmp_path / "runs/model.ckpt/unfinished/prediction"


def test_resumed_with_other_texts(stopped: Path, make_plan: MakePlan, tmp_path: Path, tiny_teacher: Path) -> None:
    file = tmp_path / "data/train.tsv"
    text = file.read_text()
    file.write_text(text.replace("positive", "x").replace("negative", "positive").replace("x\n", "negative\n"))
    options = ("--data", str(tmp_path / "data"))
    with pytest.raises(ConfigError, match="the training texts are not what it began with"):
        train(make_plan(*options, "--resume"), QUIET)
    file.write_text(text)
    assert stopped.exists() and train(make_plan(*options, "--resume"), QUIET).output.exists()


def test_damaged_checkpoints_are_passed_over(stopped: Path, make_plan: MakePlan, tmp_path: Path) -> None:
    """Whatever is wrong with them: the result is that of a run that was never stopped."""
    options = ("--data", str(tmp_path / "data"))
    whole = train(make_plan(*options, output="whole.ckpt"), QUIET)
    last, best = stopped / "checkpoint-16", stopped / "checkpoint-14"
    (last / "optimizer.pt").write_bytes(b"")
    (last / "model.safetensors").write_bytes(b"garbage")
    if best.exists():
        (best / "scheduler.pt").write_bytes(b"\x80garbage")
    resumed = train(make_plan(*options, "--resume"), QUIET)
    assert (resumed.student.logits == whole.student.logits).all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer_state.json", "{}"),
        ("trainer_state.json", '{"global_step": 3, "epoch": 1.0}'),
        ("trainer_state.json", "null"),
        ("optimizer.pt", ""),
        ("optimizer.pt", "garbage"),
        ("scheduler.pt", "garbage"),
        ("rng_state.pth", "garbage"),
        ("model.safetensors", "garbage"),
        ("model.safetensors", None),
        ("optimizer.pt", None),
    ],
)
def test_what_makes_a_checkpoint_unusable(
    checkpoint: tuple[Path, Any], name: str, content: str | None, tmp_path: Path
) -> None:
    good, trainer = checkpoint
    folder = Path(shutil.copytree(good.parent, tmp_path / "copy"))
    state = folder / good.name / "trainer_state.json"
    state.write_text(state.read_text().replace(str(good.parent), str(folder)))
    assert last_checkpoint(folder, trainer) == str(folder / good.name)
    if content is None:
        (folder / good.name / name).unlink()
    else:
        (folder / good.name / name).write_text(content)
    assert last_checkpoint(folder, trainer) is None


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A checkpoint of a trainer of one weight after one step, and the trainer."""
    import datasets
    from transformers import TrainingArguments

    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
            return {"loss": (self.weight * x).mean(), "logits": x}

    folder = tmp_path_factory.mktemp("trainer")
    arguments = TrainingArguments(str(folder), max_steps=1, save_strategy="epoch", eval_strategy="epoch", use_cpu=True,
                                  load_best_model_at_end=True, report_to=[], disable_tqdm=True)  # fmt: skip
    rows = datasets.Dataset.from_dict({"x": [1.0, 2.0], "labels": [1.0, 2.0]})
    trainer = Trainer(One(), arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    return folder / "checkpoint-1", trainer


# --- what happens meanwhile


def during_training(monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> None:
    run_stage = pipeline.run_stage

    def hooked(*arguments: Any) -> Any:
        act()
        return run_stage(*arguments)

    monkeypatch.setattr(pipeline, "run_stage", hooked)


def test_an_output_that_appears_meanwhile_is_kept(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_plan("--epochs", "1")
    with monkeypatch.context() as patch:
        during_training(patch, lambda: plan.output.write_text("theirs"))
        with pytest.raises(TrainingError, match=r"model.ckpt: exists; .*the trained student is kept: .* --resume"):
            train(plan, QUIET)
    assert plan.output.read_text() == "theirs"
    with pytest.raises(ConfigError, match="exists: --force replaces it"):
        train(make_plan("--epochs", "1", "--resume"), QUIET)
    monkeypatch.setattr(pipeline, "run_trainer", lambda *_: pytest.fail("trained again"))
    assert train(make_plan("--epochs", "1", "--resume", "--force"), QUIET).output.read_bytes() != b"theirs"


@pytest.mark.parametrize(
    ("module", "name", "number"),
    [
        (pipeline, "prepare_teacher", 1),  # before the teacher is fine-tuned
        (torch, "save", 1),  # while the state of an epoch is written
        (torch, "save", 3),
        (pipeline, "start_student", 1),
        (running, "save", 1),  # before the weights of a stage are kept
        (pipeline, "write_config", 1),
    ],
)
def test_a_run_folder_that_is_removed_at_some_moment(
    module: Any, name: str, number: int, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, act, calls = make_plan("--epochs", "2", "--teacher-epochs", "1"), getattr(module, name), []

    def removed(*arguments: Any, **more: Any) -> Any:
        calls.append(name)
        if len(calls) == number:
            shutil.rmtree(plan.folder)
        return act(*arguments, **more)

    monkeypatch.setattr(module, name, removed)
    with pytest.raises(TrainingError, match="the run's folder was removed while it trained; train again"):
        train(plan, QUIET)
    assert len(calls) >= number and not plan.output.exists()


def test_a_run_folder_that_is_removed_meanwhile(run_options: Callable[..., list[str]], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "neurotool", "train", *run_options("--epochs", "2000", "--compile", "off")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("prediction: step"):
                break
        shutil.rmtree(tmp_path / "runs/model.ckpt", ignore_errors=True)
        rest = process.stderr.read()
    assert process.returncode == 1 and "Traceback" not in rest and "unexpected" not in rest
    (error,) = (line for line in rest.splitlines() if line.startswith("Error:"))
    assert "the run's folder was removed while it trained; train again" in error
    assert not (tmp_path / "model.ckpt").exists() and not list(tmp_path.glob(".*.lock"))
