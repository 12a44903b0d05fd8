"""The pipeline end to end on tiny data: every kind of student learns, stops and resumes, and bad input is refused."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import Trainer

from neurotool.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from neurotool.errors import ConfigError, TrainingError
from neurotool.evaluation import evaluate
from neurotool.student.encoder import Attention
from neurotool.student.serialise import load_student
from neurotool.tasks import load_data, tokenise
from neurotool.train import pipeline
from neurotool.train.distiller import Distiller, LossWeights
from neurotool.train.pipeline import TrainingResult, train
from neurotool.train.plan import TrainingPlan
from neurotool.train.running import last_checkpoint, warn_of_bfloat16
from neurotool.train.starting import check_settings
from neurotool.train.teacher import NOTHING_TAUGHT, TeacherOutput
from neurotool.train.trainer import DistillationTrainer, EpochOrder

MakePlan = Callable[..., TrainingPlan]
QUIET = Console(quiet=True)
SMALL = ("--init", "random", "--hidden-size", "24", "--heads", "4", "--layers", "1")
WELL = ("--epochs", "8", "--time-steps", "8")
THROUGH_TIME = ("--epochs", "12", "--student")


def weights(result: TrainingResult) -> dict[str, Any]:
    return read_checkpoint(result.output).tensors


def assert_same_weights(a: TrainingResult, b: TrainingResult) -> None:
    ours, theirs = weights(a), weights(b)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()]
    assert not different


# --- end to end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options", "least"),
    [
        ("classes", WELL, 0.8),
        ("classes", (*WELL, "--spikes", "ternary", "--time-steps", "2"), 0.8),
        ("classes", (*WELL, "--leak", "0.9"), 0.75),
        ("classes", (*WELL, "--reset", "hard", "--pooling", "cls"), 0.75),
        ("classes", (*WELL, "--v-threshold", "1.0"), 0.75),
        ("classes", (*WELL, "--schedule", "concurrent", "--spikes", "ternary", "--epochs", "12"), 0.75),
        ("classes", (*WELL, "--feedback", "--spikes", "ternary"), 0.75),
        ("classes", (*WELL, "--bf16"), 0.75),
        ("classes", (*WELL, "--ema", "0.9", "--relation-weight", "1", "--attention-weight", "0"), 0.75),
        ("classes", (*SMALL, "--attention-weight", "0", "--epochs", "20"), 0.75),
        ("pairs", (*WELL, "--epochs", "20", "--spikes", "ternary"), 0.75),
        ("scores", WELL, 0.8),
        ("classes", (*THROUGH_TIME, "spikebert"), 0.75),
        ("classes", (*THROUGH_TIME, "spikebert", "--gradient-checkpointing", "--positions", "none"), 0.75),
        ("pairs", (*THROUGH_TIME, "spikformer", "--epochs", "20"), 0.75),
        ("scores", (*THROUGH_TIME, "spikebert", "--spikes", "ternary"), 0.7),
    ],
    ids=lambda value: " ".join(part for part in value if part not in WELL) if isinstance(value, tuple) else None,
)
def test_a_student_learns(make_plan: MakePlan, kind: str, options: tuple[str, ...], least: float) -> None:
    """Main metric (accuracy of two equally likely classes, or Pearson's correlation) on validation."""
    result = train(make_plan(*options, kind=kind), QUIET)
    main = "pearson" if kind == "scores" else "accuracy"
    assert next(iter(result.student.metrics)) == main
    assert result.teacher[main] > 0.9
    assert result.student.metrics[main] >= least
    assert 0 < result.student.activity.mean_rate < 1
    loaded = load_student(result.output)
    assert loaded.checkpoint.training["metrics"] == result.student.metrics


def test_all_stages(make_plan: MakePlan, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"w{i % 20} w{i % 7} good w{i % 3}\n" for i in range(50)))
    plan = make_plan("--corpus", str(corpus), "--inner-epochs", "1", "--max-texts", "40")
    result = train(plan, QUIET)
    record = read_checkpoint(result.output).training
    assert [(s["name"], s["texts"], s["steps"]) for s in record["stages"]] == [
        ("general", 40, 3),
        ("inner", 100, 7),
        ("prediction", 100, 21),
    ]
    general, inner, _ = (stage["weights"] for stage in record["stages"])
    assert general["hard"] == inner["soft"] == inner["hard"] == 0 and general["soft"] == inner["hidden"] == 1
    assert record["seed"] == 42 and record["layer_map"] == [0, 1, 2] and len(record["data"]["hashes"]["train"]) == 64
    assert json.loads(json.dumps(record["plan"]))["corpus"] == str(corpus)
    assert not plan.state_folder.exists()
    logged = {folder.name for folder in (plan.folder / "tensorboard").iterdir()}
    assert logged - {"teacher"} == {"general", "inner", "prediction"}  # the teacher may be cached


@pytest.mark.parametrize(
    ("options", "scale", "v_threshold"),
    [
        ((), None, None),
        (("--attention-softmax",), 0.5, 0.5),
        (("--attention-softmax", "--attention-scale", "2"), 2, 0.5),
        (("--attention-softmax", "--schedule", "phased"), 1, 0.93),
    ],
)
def test_what_a_softmax_reads_has_a_scale_of_its_own(
    make_plan: MakePlan, options: tuple[str, ...], scale: float | None, v_threshold: float | None
) -> None:
    student = make_plan("--student", "spikebert", *options).student
    assert (student.get("attention_scale"), student.get("attention_v_threshold")) == (scale, v_threshold)
    assert student.get("attention_softmax") is (True if options else None)
    assert student["leak"] == (1.0 if "phased" in options else 0.9)


def test_the_two_stages_of_spikebert(make_plan: MakePlan, tmp_path: Path) -> None:
    """Unlabelled text teaches features only, the task features, logits and labels, by the weights of the paper; one MLP
    for each layer that is taught, thrown away at the end."""
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("".join(f"w{i % 20} w{i % 7} good w{i % 3}\n" for i in range(50)))
    options = ("--student", "spikebert", "--layers", "4", "--epochs", "1", "--corpus", str(corpus))
    result = train(make_plan(*options), QUIET)
    record = read_checkpoint(result.output).training
    assert record["layer_map"] == [0, None, 1, 2, 2]  # of the teacher's two layers
    assert record["plan"]["weight_decay"] == 5e-3
    general, prediction = (stage["weights"] for stage in record["stages"])
    weights_of = ("embedding", "hidden", "attention", "soft", "hard")
    assert [general[name] for name in weights_of] == [1, 1, 0, 0, 0]
    assert [prediction[name] for name in weights_of] == [0.1, 0.1, 0, 1, 0.1]
    assert not [name for name in weights(result) if "fit" in name]


def test_a_spikformer_knows_nothing_of_the_teacher(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its weights nor its logits: teachers of other seeds make no difference, and are not asked."""
    taught = []
    forward = Distiller.forward

    def spy(self: Distiller, batch: Any, output: TeacherOutput, labels: Any) -> Any:
        taught.append(output)
        return forward(self, batch, output, labels)

    monkeypatch.setattr(Distiller, "forward", spy)
    options = ("--student", "spikformer", "--epochs", "1")
    a = train(make_plan(*options, output="a.ckpt"), QUIET)
    b = train(make_plan(*options, "--teacher-epochs", "1", output="b.ckpt"), QUIET)
    assert a.teacher != b.teacher and all(output is NOTHING_TAUGHT for output in taught)
    assert_same_weights(a, b)


def test_the_best_epoch_is_chosen_on_validation(make_plan: MakePlan, tiny_data: Callable[[str], Path]) -> None:
    """What is written is the state of the best epoch, measured again on the loaded file."""
    plan = make_plan("--epochs", "6", "--learning-rate", "1e-2")
    result = train(plan, QUIET)
    history = read_checkpoint(plan.output).training["stages"][0]["history"]
    accuracies = [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]
    assert len(accuracies) == 6 and len(set(accuracies)) > 1, "nothing to choose"
    assert result.student.metrics["accuracy"] == max(accuracies)
    student, tokenizer, task, loaded = load_student(plan.output)
    validation, _ = tokenise(load_data(tiny_data("classes")).validation, tokenizer, 24)
    again = evaluate(student, validation, tokenizer, task)
    assert again.metrics == result.student.metrics == loaded.training["metrics"]
    assert (again.logits == result.student.logits).all()
    assert loaded.activity["layers"].keys() == student.neuron_layers.keys()


def test_what_is_logged(make_plan: MakePlan) -> None:
    plan = make_plan("--rate-penalty", "0.1")
    train(plan, QUIET)
    history = read_checkpoint(plan.output).training["stages"][0]["history"]
    step = next(entry for entry in history if "loss" in entry)
    assert {"hidden", "attention", "soft", "hard", "rate", "spiking_rate"} <= step.keys()
    assert all("eval_spiking_rate" in entry for entry in history if "eval_accuracy" in entry)


def test_long_texts_are_cut_and_counted(
    make_plan: MakePlan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher has 24 positions, fewer than --max-length."""
    for split in ("train", "validation"):
        rows = "".join(f"{'w1 ' * (40 if i < 3 else 4)}{('bad', 'good')[i % 2]}\t{i % 2}\n" for i in range(20))
        (tmp_path / f"{split}.tsv").write_text(f"sentence\tlabel\n{rows}")
    train(make_plan("--data", str(tmp_path), "--max-length", "128", "--teacher-epochs", "1"), Console())
    assert "train: 3 of 20 texts are longer than 24 tokens: cut" in capsys.readouterr().out


# --- interrupting and resuming ---------------------------------------------------------------------------------------

DROPOUT = ("--dropout", "0.2", "--inner-epochs", "1")


def interrupt_at(monkeypatch: pytest.MonkeyPatch, stage: str, step: int) -> None:
    """Ctrl-C during the given step of a stage."""
    training_step = Trainer.training_step

    def hit(self: Trainer, *arguments: Any) -> Any:
        if Path(self.args.output_dir).name == stage and self.state.global_step == step - 1:
            signal.raise_signal(signal.SIGINT)
        return training_step(self, *arguments)

    monkeypatch.setattr(Trainer, "training_step", hit)


@pytest.fixture
def uninterrupted(make_plan: MakePlan) -> TrainingResult:
    return train(make_plan(*DROPOUT, output="whole.ckpt"), QUIET)


@pytest.mark.parametrize(
    ("stage", "step"),
    [("inner", 3), ("prediction", 3), ("prediction", 10), ("prediction", 14), ("prediction", 21)],
    ids=["first stage", "first epoch", "second epoch", "end of an epoch", "last step"],
)
def test_resuming_gives_the_same_student(
    make_plan: MakePlan, uninterrupted: TrainingResult, monkeypatch: pytest.MonkeyPatch, stage: str, step: int
) -> None:
    with monkeypatch.context() as patch:
        interrupt_at(patch, stage, step)
        with pytest.raises(KeyboardInterrupt, match=f"stopped in stage {stage} at step {step}; .* --resume goes on"):
            train(make_plan(*DROPOUT), QUIET)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    plan = make_plan(*DROPOUT)
    assert not plan.output.exists() and (plan.state_folder / stage / f"checkpoint-{step}").is_dir()
    resumed = train(make_plan(*DROPOUT, "--resume"), QUIET)
    assert_same_weights(resumed, uninterrupted)
    assert not plan.state_folder.exists()


BF16 = ("--bf16",)
SPARSE = ("--event-target", "0.3", "--prune", "0.5", "--weight-bits", "4", "--v-threshold", "learned-per-channel")
SPARSE += ("--ema", "0.9")


@pytest.mark.parametrize(("stage", "step"), [("inner", 5), ("prediction", 3)])
def test_resuming_a_sparse_student_gives_the_same_one(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, stage: str, step: int
) -> None:
    """Masks, exponents, the weight of the penalty and the averaged weights are part of its state."""
    whole = train(make_plan(*DROPOUT, *SPARSE, output="whole.ckpt"), QUIET)
    with monkeypatch.context() as patch:
        interrupt_at(patch, stage, step)
        with pytest.raises(KeyboardInterrupt):
            train(make_plan(*DROPOUT, *SPARSE), QUIET)
    assert_same_weights(train(make_plan(*DROPOUT, *SPARSE, "--resume"), QUIET), whole)


@pytest.mark.parametrize(("options", "supported", "warned"), [((), False, 0), (BF16, True, 0), (BF16, False, 1)])
def test_a_processor_without_bfloat16_is_said(
    make_plan: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    supported: bool,
    warned: int,
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    warn_of_bfloat16(make_plan(*options), torch.device("cpu"), Console())
    assert capsys.readouterr().out.count("leave out --bf16") == warned


@pytest.mark.parametrize(("options", "fused"), [((), True), (BF16, False)])
def test_attention_in_bfloat16_is_not_fused_on_a_processor(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], fused: bool
) -> None:
    """There its backward pass takes ten times what the single products do (docs/results.md, "Attention")."""
    asked: set[bool] = set()
    step = Trainer.training_step

    def watch(*arguments: Any, **others: Any) -> Any:
        asked.add(torch.backends.cuda.flash_sdp_enabled())
        return step(*arguments, **others)

    monkeypatch.setattr(Trainer, "training_step", watch)
    train(make_plan(*options, "--epochs", "1"), QUIET)
    assert asked == {fused} and torch.backends.cuda.flash_sdp_enabled()


def test_resuming_the_teacher_gives_the_same_student(
    make_plan: MakePlan, uninterrupted: TrainingResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, "teacher", 10)
        with pytest.raises(KeyboardInterrupt, match="stopped in stage teacher at step 10"):
            train(make_plan(*DROPOUT), QUIET)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    assert_same_weights(train(make_plan(*DROPOUT, "--resume"), QUIET), uninterrupted)


def test_resuming_between_stages_gives_the_same_student(
    make_plan: MakePlan, uninterrupted: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_stage = pipeline.run_stage

    def stop(plan: TrainingPlan, stage: Any, *arguments: Any) -> Any:
        if stage.name == "prediction":
            raise KeyboardInterrupt
        return run_stage(plan, stage, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "run_stage", stop)
        with pytest.raises(KeyboardInterrupt):
            train(make_plan(*DROPOUT), QUIET)
    assert_same_weights(train(make_plan(*DROPOUT, "--resume"), QUIET), uninterrupted)


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path / "none") is None
    for step, state in ((9, "{}"), (10, "{}"), (100, '{"epoch": 1'), (101, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_ctrl_c_on_the_command_line(run_options: Callable[..., list[str]], make_plan: MakePlan) -> None:
    options = ("--epochs", "2000", "--compile", "off")
    command = [sys.executable, "-m", "neurotool", "train", *run_options(*options)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr and process.stdout
        shown = ""
        for line in process.stderr:
            shown += line
            if line.startswith("prediction: step"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.stdout.read() == ""
    assert process.returncode == 130, shown + rest
    assert "Error: stopped in stage prediction at step" in rest and "--resume goes on" in rest
    assert "Traceback" not in rest
    plan = make_plan(*options)
    assert not plan.output.exists() and last_checkpoint(plan.state_folder / "prediction")


def test_outputs_of_one_name_have_run_folders_of_their_own(tmp_path: Path) -> None:
    names = ("a/model.ckpt", "b/model.ckpt", "a/model.2.ckpt", "a/model")
    assert len({TrainingPlan(tmp_path / name).folder for name in names}) == len(names)
    assert TrainingPlan(Path("model.ckpt")).folder == Path("runs/model.ckpt")
    assert TrainingPlan(Path("model.ckpt"), run_folder=tmp_path).folder == tmp_path


def test_nothing_is_lost_by_mistake(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"nothing to resume in .*: leave out --resume to start"):
        train(make_plan("--resume"), QUIET)
    with monkeypatch.context() as patch:
        interrupt_at(patch, "prediction", 3)
        with pytest.raises(KeyboardInterrupt):
            train(make_plan(), QUIET)
    with pytest.raises(ConfigError, match=r"holds an unfinished run: --resume goes on with it, --force starts over"):
        train(make_plan(), QUIET)
    for options, named in {
        ("--spikes", "ternary"): "spikes was 'binary' and is now 'ternary'",
        ("--seed", "1"): "seed was 42 and is now 1",
        ("--learning-rate", "1e-4"): "stages was",
        ("--max-length", "9"): "max_length was 128 and is now 9",
    }.items():
        with pytest.raises(ConfigError, match=f"cannot resume .*: {named}"):
            train(make_plan("--resume", *options), QUIET)
    result = train(make_plan("--resume"), QUIET)
    before = result.output.read_bytes()
    with pytest.raises(ConfigError, match=r"model.ckpt exists: --force replaces it, -o FILE writes another"):
        train(make_plan(), QUIET)
    assert result.output.read_bytes() == before
    assert_same_weights(train(make_plan("--force"), QUIET), result)


def test_starting_over_forgets_the_unfinished_run(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages and checkpoints of the first run must not be taken for those of the second when that is resumed."""
    stages = ("--inner-epochs", "1")
    for options, stage, step in ((stages, "prediction", 20), ((*stages, "--seed", "7", "--force"), "inner", 2)):
        with monkeypatch.context() as patch:
            interrupt_at(patch, stage, step)
            with pytest.raises(KeyboardInterrupt):
                train(make_plan(*options), QUIET)
    resumed = train(make_plan(*stages, "--seed", "7", "--resume"), QUIET)
    assert_same_weights(resumed, train(make_plan(*stages, "--seed", "7", output="whole.ckpt"), QUIET))


def test_a_run_folder_keeps_what_is_not_ours(make_plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    plan = make_plan("--run-folder", str(tmp_path), "--epochs", "1")
    train(plan, QUIET)
    assert (tmp_path / "thesis" / "chapter.txt").exists()
    assert not plan.state_folder.exists() and plan.output.exists()


# --- the order of the texts, and several processes -------------------------------------------------------------------


def test_the_order_depends_on_seed_and_epoch_alone(tiny_teacher: Path, tiny_data: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    dataset, _ = tokenise(load_data(tiny_data("classes")).train, AutoTokenizer.from_pretrained(tiny_teacher), 24)
    epoch = 0
    order = EpochOrder(dataset, 10, 42, lambda: epoch)
    first = list(order)
    torch.rand(5)
    assert list(order) == first != list(range(100)) and sorted(first) == list(range(100)) and len(order) == 100
    epoch = 1
    assert sorted(order) == sorted(first) and list(order) != first
    lengths = [len(dataset[i]["input_ids"]) for i in first]
    spreads = [max(lengths[i : i + 10]) - min(lengths[i : i + 10]) for i in range(0, 100, 10)]
    assert sum(spreads) < 0.5 * 10 * (max(lengths) - min(lengths))


@pytest.mark.slow
def test_two_processes_see_the_losses_of_one(
    run_options: Callable[..., list[str]], make_plan: MakePlan, tmp_path: Path, tiny_data: Callable[[str], Path]
) -> None:
    """Same global batches, same mean over them. 96 texts, so that no batch is filled up; tiny steps, because spikes
    that flip by rounding would drive two long trainings apart."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_data("classes"), folder)
    lines = (folder / "train.tsv").read_text().splitlines()
    (folder / "train.tsv").write_text("\n".join(lines[:97]) + "\n")
    options = ("--data", str(folder), "--epochs", "4", "--inner-epochs", "4", "--learning-rate", "1e-7")
    one = train(make_plan(*options, output="one.ckpt"), QUIET)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, "-m", "neurotool", "train", "--json", *run_options(*options, output="two.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["student"] == pytest.approx(one.student.metrics)
    assert done.stderr.count("prediction: epoch 4") == 1, "every process prints"
    assert "find_unused_parameters" not in done.stderr
    records = (read_checkpoint(tmp_path / name).training["stages"] for name in ("one.ckpt", "two.ckpt"))
    for ours, theirs in zip(*records, strict=True):
        logged = [[entry for entry in stage["history"] if "loss" in entry] for stage in (ours, theirs)]
        assert [entry["step"] for entry in logged[0]] == [20] == [entry["step"] for entry in logged[1]]
        for name, tolerance in (("loss", 1e-5), ("grad_norm", 1e-4)):
            assert logged[1][0][name] == pytest.approx(logged[0][0][name], rel=tolerance)


def test_a_batch_worked_off_in_parts_has_the_losses_of_the_whole(
    make_plan: MakePlan, tmp_path: Path, tiny_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher is fine-tuned in the same parts. Tiny steps and 96 texts as above, so that every part is full."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_data("classes"), folder)
    lines = (folder / "train.tsv").read_text().splitlines()
    (folder / "train.tsv").write_text("\n".join(lines[:97]) + "\n")
    records = []
    for number, parts in enumerate((1, 4)):
        monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / str(number)))
        options = ("--data", str(folder), "--epochs", "4", "--learning-rate", "1e-7", "--accumulate", str(parts))
        options += ("--teacher-learning-rate", "1e-6", "--teacher-epochs", "1")
        output = train(make_plan(*options, output=f"{number}.ckpt"), QUIET).output
        records.append(read_checkpoint(output).training)
    assert records[0]["teacher"]["metrics"] == pytest.approx(records[1]["teacher"]["metrics"])
    whole, parted = ([e for e in record["stages"][-1]["history"] if "loss" in e] for record in records)
    assert [entry["step"] for entry in whole] == [entry["step"] for entry in parted] == [20]
    for name, tolerance in (("loss", 1e-3), ("grad_norm", 1e-2)):  # the teachers differ in their last digits
        assert parted[0][name] == pytest.approx(whole[0][name], rel=tolerance), name


@pytest.mark.parametrize(
    "weights", [(1, 1, 1, 1), (1, 0, 0, 1), (1, 0, 1, 0), (0, 0, 1, 1), (1, 1, 0, 0), (0, 1, 0, 0)]
)
def test_which_losses_reach_every_parameter(make_student: Callable[..., Any], weights: tuple[float, ...]) -> None:
    """DistributedDataParallel has to be told when one is left out."""
    student = make_student(learn_v_threshold=True)
    distiller = Distiller(student, 16, (0, 1, 2), LossWeights(weights[0], *weights))
    batch = {"input_ids": torch.randint(1, 30, (3, 7)), "attention_mask": torch.ones(3, 7, dtype=torch.long)}
    hidden = tuple(torch.randn(3, 3, 7, 16)) if weights[0] else ()
    attention = tuple(Attention(*torch.randn(3, 3, 2, 7, 8)) for _ in range(2)) if weights[1] else ()
    distiller(batch, TeacherOutput(torch.randn(3, 2), hidden, attention), torch.tensor([0, 1, 1]))["loss"].backward()
    reached = [parameter.grad is not None for parameter in distiller.parameters() if parameter.requires_grad]
    assert all(reached) == distiller.weights.reach_every_parameter


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_loss_that_is_nan(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    compute_loss = DistillationTrainer.compute_loss

    def poisoned(self: DistillationTrainer, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == 9:
            with torch.no_grad():
                self.distiller.student.classifier.bias.fill_(math.nan)
        return compute_loss(self, model, inputs, *arguments, **options)

    plan = make_plan()
    monkeypatch.setattr(DistillationTrainer, "compute_loss", poisoned)
    with pytest.raises(
        TrainingError,
        match=r"loss is nan at step 10: training stopped; start over with --force and a --learning-rate below 0.003 .*"
        r"prediction keeps what was saved before",
    ):
        train(plan, QUIET)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    kept = last_checkpoint(plan.state_folder / "prediction")
    assert kept and kept.endswith("checkpoint-7") and not plan.output.exists()
    assert all(torch.isfinite(tensor).all() for tensor in load_file(f"{kept}/model.safetensors").values())


def test_weights_that_are_nan_are_not_saved(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finite loss with an infinite gradient in the last step of an epoch."""
    training_step = DistillationTrainer.training_step

    def poisoned(self: DistillationTrainer, *arguments: Any) -> Any:
        loss = training_step(self, *arguments)
        if self.state.global_step == 13:
            self.distiller.student.classifier.bias.grad.fill_(math.inf)
        return loss

    plan = make_plan()
    monkeypatch.setattr(DistillationTrainer, "training_step", poisoned)
    with pytest.raises(TrainingError, match="is not finite after step 14: training stopped"):
        train(plan, QUIET)
    kept = last_checkpoint(plan.state_folder / "prediction")
    assert kept and kept.endswith("checkpoint-7")


def test_a_full_disk_at_the_end(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The trained student is not lost: the message says how to write it to a disk that has room."""
    with monkeypatch.context() as patch:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        def write_to_full_disk(path: Path, checkpoint: Checkpoint, force: bool) -> None:
            patch.setattr(os, "fsync", full)
            write_checkpoint(path, checkpoint, force)

        patch.setattr(pipeline, "write_checkpoint", write_to_full_disk)
        with pytest.raises(
            TrainingError, match=r"model.ckpt: cannot be written: No space .*; the trained student is kept: .* --resume"
        ) as caught:
            train(make_plan(), QUIET)
    way_out = str(caught.value).split("with --resume ")[-1].removesuffix(" elsewhere")
    plan = make_plan("--resume", *way_out.replace("OTHER", str(tmp_path / "other.ckpt")).split())
    assert plan.output.name == "other.ckpt" and not list(tmp_path.glob("*.ckpt")) + list(tmp_path.glob(".*ckpt*"))
    monkeypatch.setattr(pipeline, "run_trainer", lambda *_: pytest.fail("trained again"))
    assert train(plan, QUIET).student.metrics["accuracy"] > 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--time-steps", "0"), "--time-steps 0: it must be 1 to 65536"),
        (("--v-threshold", "0"), "--v-threshold 0.0: it must be 1e-06 to 1e"),
        (("--v-threshold", "-1"), "--v-threshold -1.0: it must"),
        (("--leak", "1.5"), "--leak 1.5: it must be above 0 to 1"),
        (("--v-init", "2"), "--v-init 2.0: it must be in"),
        (("--layers", "0"), "--layers 0: it must be 1 to 256"),
        (("--init", "random", "--hidden-size", "30", "--heads", "4"), "--hidden-size 30 is not divisible by --heads 4"),
        (("--init", "teacher", "--hidden-size", "48"), "--hidden-size 48: the teacher's is 32; use --init random"),
        (SMALL, "--heads 4: the teacher has 2, so their attention scores cannot be compared"),
        (("--layer-map", "0,1"), "--layer-map 0,1: give 3 numbers .* between 0 and 2"),
        (("--layer-map", "0,1,3"), "--layer-map 0,1,3: give 3 numbers .* between 0 and 2"),
        (("--epochs", "0"), "nothing to train: every stage has 0 epochs"),
        (("--epochs", "-1"), "--epochs -1.0: it must be 0 to 10000"),
        (("--batch-size", "0"), "--batch-size 0: it must be 1 to 65536"),
        (("--learning-rate", "0"), "--learning-rate 0.0"),
        (("--learning-rate", "nan"), "--learning-rate nan"),
        (("--temperature", "0"), "--temperature 0.0: it"),
        (("--hard-weight", "-1"), "--hard-weight -1.0: it must be 0 to"),
        (("--soft-weight", "0", "--hard-weight", "0", "--inner-share", "0"), "stage prediction has no loss"),
        (("--teacher-epochs", "0"), "--teacher-epochs 0.0"),
        (("--max-length", "2"), "--max-length 2: it must be 4 to 16384"),
        (("--corpus-length", "2"), "--corpus-length 2: it must be 3 to 16384"),
        (("--max-shift", "1"), "--max-shift 1.0: it must be 0 to below 1"),
        (("--warmup", "1"), "--warmup 1.0: it must be 0 to below 1"),
        (("--dropout", "1"), "--dropout 1.0: it"),
        (("-o", "/nowhere/model.ckpt"), "/nowhere/model.ckpt: its folder does not exist"),
        (("-o", "/"), "/: is a folder"),
        (("--task", "sst2"), "--task sst2 and --data .*: give one of them"),
        (("--metric", "bleu"), "unknown metric 'bleu'"),
        (("--gradient-checkpointing",), "--gradient-checkpointing: student spikingbert is not trained through time"),
        (("--student", "streaming", "--schedule", "phased"), "--schedule 'phased': choose one of concurrent"),
        (
            ("--student", "spikebert", "--attention-weight", "1"),
            "student spikebert hands on no attention to compare",
        ),
        (
            ("--student", "spikebert", "--attention-norm", "--attention-softmax"),
            "--attention-norm and --attention-softmax: .*; choose one of them",
        ),
        (("--attention-softmax",), "--attention-softmax: student spikingbert has no such setting"),
        (("--student", "spikformer", "--corpus", "demo"), "stage general has no loss: .*; give one, or no --corpus"),
        (("--time-steps", "1" + "0" * 20), "--time-steps 10+: it must be 1 to 65536"),
        (("--layers", "1" + "0" * 20), "--layers 10+: it must be 1 to 256"),
        (("--hidden-size", "1" + "0" * 20), "--hidden-size 10+: it must be 1 to 16384"),
        (("--hidden-size", "0"), "--hidden-size 0: it must be 1 to 16384"),
        (("--intermediate-size", "-1"), "--intermediate-size -1: it must be 1 to 65536"),
        (("--heads", "1" + "0" * 20), "--heads 10+: it must be 1 to 1024"),
        (("--batch-size", "1" + "0" * 20), "--batch-size 10+: it must be 1 to 65536"),
        (("--max-length", "1" + "0" * 20), "--max-length 10+: it must be 4 to 16384"),
        (("--augment", "1" + "0" * 20), "--augment 10+: it must be 0 to 1000"),
        (("--v-threshold", "1e308"), r"--v-threshold 1e\+308: it must be 1e-06 to 1e\+06"),
        (("--v-threshold", "1e-308"), "--v-threshold 1e-308: it must be"),
        (("--epochs", "1e308"), r"--epochs 1e\+308: it must be 0 to 10000"),
        (("--epochs", "inf"), "--epochs inf: it"),
        (("--teacher-epochs", "1e308"), r"--teacher-epochs 1e\+308"),
        (("--temperature", "1e308"), r"--temperature 1e\+308: it must be 0.01 to 1000"),
        (("--weight-decay", "nan"), "--weight-decay nan: it must be 0 to 100"),
        (("--soft-weight", "1e308"), "--soft-weight 1e.308: it must be"),
        (("--seed", "-1"), r"--seed -1: it must be 0 to below 2\^32"),
        (("--text-columns", "a,b,c"), "--text-columns a, b, c: give one column, or two different ones"),
        (("--positions", "none"), "--positions none: student spikingbert has no such setting"),
        (("--weight-bits", "0"), "--weight-bits 0: it must be 8, 4, 2 or 1"),
        (("--integer-aware", "--weight-bits", "0"), "--weight-bits 0: it must be 8, 4, 2 or 1"),
        (("--prune", "1"), "--prune 1.0: it must be above 0 and below 1"),
        (("--prune-scope", "global"), "--prune-scope global: is for --prune; give that, or leave it out"),
        (("--prune", "0.5", "--weight-penalty", "0.6"), "--prune, --weight-penalty: both make weights 0; give one"),
        (("--dead-zone", "65537"), "--dead-zone 65537.0: it must be 0 to 65536"),
        (("--inner-share", "-1"), "--inner-share -1.0: it must be 0 to"),
        (("--hidden-size", "16", "--intermediate-size", "0"), "--intermediate-size 0: it must be 1 to 65536"),
        (("--student", "spikebert", "--spikes", "graded"), r"--spikes graded: .*; give --schedule phased"),
        (("--student", "spikebert", "--layers", "70"), "--layers 70: it must be at most 63"),
        (("--compile", "on", "--schedule", "concurrent"), "--compile on, --schedule concurrent: only phased windows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_options_are_refused_before_training(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("the teacher was fine-tuned first"))
    with pytest.raises(ConfigError, match=message) as caught:
        train(make_plan(*options), QUIET)
    assert "\n" not in str(caught.value)


def test_messages_need_windows() -> None:
    plan = TrainingPlan(Path("model.ckpt"), model_type="snn-textcnn", student={"spikes": "graded"})
    with pytest.raises(ConfigError, match=r"--spikes graded: needs phased windows .*; give --student spikingbert, or"):
        check_settings(plan)


def test_the_average_of_the_weights_is_kept(make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """After step n of a stage the average is (1 - d) of the weights and d of what it was, d = min(ema, n / (9 + n));
    the first step's is its weights. What the stage leaves is what was measured."""
    seen: list[dict[str, torch.Tensor]] = []
    update = torch.optim.swa_utils.AveragedModel.update_parameters

    def note(self: Any, student: Any) -> None:
        update(self, student)
        seen.append({name: value.detach().double().clone() for name, value in student.named_parameters()})

    monkeypatch.setattr(torch.optim.swa_utils.AveragedModel, "update_parameters", note)
    result = train(make_plan("--ema", "0.5", "--epochs", "1"), QUIET)
    wanted = seen[0]
    for step, now in enumerate(seen[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = {name: decay * value + (1 - decay) * now[name] for name, value in wanted.items()}
    assert len(seen) == 7
    kept = weights(result)
    for name, value in wanted.items():
        torch.testing.assert_close(torch.as_tensor(kept[name]).double(), value, atol=1e-5, rtol=1e-4)
    record = read_checkpoint(result.output).training
    assert record["plan"]["ema"] == 0.5
    assert record["stages"][-1]["history"][-2]["eval_accuracy"] == record["metrics"]["accuracy"]
