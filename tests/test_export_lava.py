"""`neurotool export --target lava`, and bundles in `neurotool validate`."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nir
import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.checkpoint import write_checkpoint
from neurotool.cli.main import cli
from neurotool.export.lower import lower
from neurotool.lava_runtime.bundle import Bundle, read_bundle, write_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.sentences import random_inputs
from neurotool.student.serialise import to_checkpoint
from neurotool.student.tracing import TorchExecutor
from neurotool.tasks import Task
from neurotool.validate import compare


@pytest.fixture
def checkpoint(make_student: Callable[..., Any], tiny_teacher: Path, tmp_path: Path) -> Path:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    task = Task("tiny", ("sentence",), ("negative", "positive"), ("accuracy",))
    labels = {0: "negative", 1: "positive"}
    model = make_student(vocab_size=len(tokenizer), num_labels=2, id2label=labels, time_steps=16, v_init=0.4375)
    write_checkpoint(tmp_path / "model.ckpt", to_checkpoint(model, tokenizer, task, {}, {}))
    return tmp_path / "model.ckpt"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_export_and_validate(checkpoint: Path, tiny_data: Callable[[str], Path], tmp_path: Path) -> None:
    data = tiny_data("classes")
    result = run("export", checkpoint, "--target", "lava", "--data", data, "--samples", 20, "--layers")
    assert result.exit_code == 0, result.stderr
    assert "calibrated on 20 inputs" in result.stdout
    assert "in fixed point" in result.stdout
    assert max(map(len, result.stdout.splitlines()[:30])) <= 80
    bundle = read_bundle(tmp_path / "model.lava")
    assert bundle.precision == "fixed"
    assert bundle.graph.nodes["encoder.0.key.linear"].weight.dtype == np.int8  # type: ignore[attr-defined]
    assert set(bundle.record["calibration"]) == {"source", "inputs", "before", "after"}
    assert run("validate", checkpoint, tmp_path / "model.lava", "--data", data, "--samples", 10).exit_code == 0
    assert "--force" in run("export", checkpoint, "--target", "lava").stderr
    integers = run("export", tmp_path / "model.lava", "--target", "nir")
    assert integers.exit_code == 2 and "which NIR cannot say: export the checkpoint" in integers.stderr
    assert not (tmp_path / "model.nir").exists()

    float_bundle = tmp_path / "float.lava"
    result = run("export", checkpoint, "--target", "lava", "--precision", "float", "-o", float_bundle, "--json")
    assert json.loads(result.stdout)["precision"] == "float"
    result = run("validate", checkpoint, float_bundle, "--data", data, "--samples", 10)
    assert result.stdout.endswith("PASS: exactly the same spikes\n")
    result = run("validate", float_bundle, tmp_path / "model.lava", "--json", "--samples", 4, "--tolerance", 0)
    report = json.loads(result.stdout)
    assert (result.exit_code, report["quantised"], report["passed"]) == (1, True, False)


def test_another_number_of_steps(checkpoint: Path, tmp_path: Path) -> None:
    """validate runs the checkpoint with T, too; a float bundle can still take another T, integers are made for one."""
    real, fixed = tmp_path / "float.lava", tmp_path / "fixed.lava"
    assert run("export", checkpoint, "--target", "lava", "--precision", "float", "-o", real, "-T", 5).exit_code == 0
    assert run("validate", checkpoint, real, "--samples", 4).exit_code == 1
    assert run("validate", checkpoint, real, "--samples", 4, "-T", 5).exit_code == 0
    assert run("export", real, "--target", "lava", "-o", fixed, "-T", 3).exit_code == 0
    assert read_bundle(fixed).graph.time_steps == 3


@pytest.mark.parametrize("options", [("-T", 5), ("--softmax", "shift"), ("--per-layer",), ("--precision", "float")])
def test_a_bundle_in_integers_stays_as_it_is(checkpoint: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    fixed, copy = tmp_path / "fixed.lava", tmp_path / "copy.lava"
    assert run("export", checkpoint, "--target", "lava", "-o", fixed).exit_code == 0
    result = run("export", fixed, "--target", "lava", "-o", copy, *options)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {' '.join(map(str, options))}: {fixed} holds integers")
    assert not copy.exists()


def test_a_bundle_differs_from_its_mutation(checkpoint: Path, tmp_path: Path) -> None:
    run("export", checkpoint, "--target", "lava", "-T", "4")
    bundle = read_bundle(tmp_path / "model.lava")
    assert bundle.graph.time_steps == 4
    neuron: Any = bundle.graph.nodes["encoder.1.key"]
    nodes = bundle.graph.nodes | {"encoder.1.key": replace(neuron, v_threshold=neuron.v_threshold + 1)}
    write_bundle(tmp_path / "mutant.lava", Bundle(replace(bundle.graph, nodes=nodes), bundle.tokenizer, bundle.task))
    assert run("validate", tmp_path / "model.lava", tmp_path / "model.lava").exit_code == 0
    result = run("validate", tmp_path / "model.lava", tmp_path / "mutant.lava")
    assert result.exit_code == 1
    assert "encoder.1.key: neuron" in result.stdout


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
@pytest.mark.parametrize("mutation", ["bias", "mask", "swap"])
def test_mutations_of_a_float_bundle_are_caught(make_student: Callable[..., Any], schedule: str, mutation: str) -> None:
    student = make_student(schedule=schedule, time_steps=5, v_threshold=0.713, v_init=0.25)
    graph, reference = student.to_graph(), TorchExecutor(student)
    inputs = random_inputs(graph, 4)
    assert compare(reference, Emulator(graph), inputs).passed
    linear: Any = graph.nodes["encoder.0.key.linear"]
    other: Any = graph.nodes["encoder.1.key.linear"]
    changes = {
        "bias": {"encoder.0.key.linear": replace(linear, bias=linear.bias + 0.05)},
        "swap": {"encoder.0.key.linear": other, "encoder.1.key.linear": linear},
        "mask": {},
    }[mutation]
    mutant: Any = Emulator(replace(graph, nodes=graph.nodes | changes))
    if mutation == "mask":
        run_unmasked = mutant.run
        mutant.run = lambda **one: run_unmasked(**one | {"attention_mask": np.ones_like(one["attention_mask"])})
    assert not compare(reference, mutant, inputs).passed


def test_fixed_point_comes_closer_with_more_steps(make_student: Callable[..., Any]) -> None:
    """The rounding of the rates to 1/T hides behind the error of the weights."""
    errors = []
    for time_steps in (4, 64):
        student = make_student(time_steps=time_steps, v_init=0.4375)
        graph = student.to_graph()
        inputs = random_inputs(graph, 4)
        reference = Emulator(graph)
        result = compare(reference, Emulator(lower(graph, dict.fromkeys(graph.nodes, 30.0))), inputs)
        assert result.passed, result.problems
        errors.append(max(layer.mean_rate_difference for layer in result.layers.values()))
    assert errors[1] < errors[0] < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target", "nir", "--per-layer"], "are for --target lava or netx"),
        (["--target", "nir", "--softmax", "shift"], "are for --target lava or netx"),
        (["--target", "netx", "--softmax", "shift"], "netx holds no softmax"),
        (["--target", "lava", "--precision", "float", "--per-layer"], "are about integers"),
        (["--target", "lava", "-o", "no_folder/x.lava"], "no_folder/x.lava: cannot be written: No such file"),
        (["--target", "lava", "--part", "encoder.0"], "only drawings have parts"),
        (["--target", "lava", "--data", "missing.tsv"], "missing.tsv: no such file"),
        (["--target", "lava", "-T", "0"], "0 is not in the range 1<=x<=1000000"),
    ],
)
def test_bad_options(checkpoint: Path, tmp_path: Path, options: list[str], message: str) -> None:
    result = run("export", checkpoint, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert sorted(tmp_path.iterdir()) == [checkpoint]


def test_a_foreign_nir_file_becomes_a_bundle(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lif = nir.LIF(np.full(6, 2.0), np.full(6, 2.0), np.zeros(6), np.full(6, 0.5), np.zeros(6))
    nodes = {
        "input": nir.Input(np.array([4])),
        "dense": nir.Affine(rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=6).astype(np.float32)),
        "lif": lif,
        "output": nir.Output(np.array([6])),
    }
    nir.write(tmp_path / "other.nir", nir.NIRGraph(nodes, [("input", "dense"), ("dense", "lif"), ("lif", "output")]))
    known = ("--target", "lava", "--reset", "hard", "--time-step", 1, "-T", 20, "--samples", 8, "--random")
    result = run("export", tmp_path / "other.nir", *known)
    assert result.exit_code == 0, result.stderr
    assert "calibrated on 8 inputs: random inputs" in result.stdout
    bundle = read_bundle(tmp_path / "other.lava")
    assert (bundle.graph.schedule, bundle.graph.time_steps, bundle.tokenizer) == ("concurrent", 20, {})
    (rates,) = (row for row in bundle.record["quantisation"]["layers"] if "rate_error" in row)
    assert rates["rate"] > 0.1 and rates["rate_error"] < 0.01
