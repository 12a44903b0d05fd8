"""`neurotool validate`: equal models pass, and every mutation is caught."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_input

from neurotool.checkpoint import write_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import ConfigError
from neurotool.executor import Executor, Run, stacked
from neurotool.export.nir import read_nir, write_nir
from neurotool.graph import (
    Add,
    Conv1d,
    Embedding,
    Graph,
    GraphBuilder,
    Input,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Node,
    Readout,
)
from neurotool.sentences import random_inputs, tokenised
from neurotool.simulate import Interpreter
from neurotool.student.serialise import to_checkpoint
from neurotool.student.tracing import RoundedToFloat32, TorchExecutor
from neurotool.tasks import Task
from neurotool.validate import Comparison, compare

SCHEDULES = ("phased", "concurrent")
MakeStudent = Callable[..., Any]


@pytest.fixture
def student(make_student: MakeStudent) -> MakeStudent:
    """Random biases and norms; thresholds that a softmax over equal spikes, which may sum to 1 - eps, misses."""

    @torch.no_grad()
    def make(**values: Any) -> Any:
        model = make_student(**{"v_threshold": 0.713, "v_init": 0.25, "time_steps": 4} | values)
        noise = torch.Generator().manual_seed(2)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.1)
        return model

    return make


def conv_graph(schedule: Any = "phased", time_steps: int = 4, **neuron: Any) -> Graph:
    """Embedding -> LIF -> Conv1d -> LIF -> Linear -> LIF (+ residual) -> Readout, of width 6."""
    rng = np.random.default_rng(0)

    def neurons() -> Neuron:
        return Neuron(**{"v_threshold": 0.713, "leak": 0.9, "v_init": 0.25} | neuron)

    build = GraphBuilder()
    word = build.add("word", Embedding(rng.normal(0.4, 0.5, (20, 6))))
    x = build.add("embedding", neurons(), word)
    wide = build.add("conv.kernel", Conv1d(rng.normal(0, 0.6, (6, 6, 3)), rng.normal(0.2, 0.3, 6)), x)
    x = build.add("conv", neurons(), wide)
    y = build.add("dense.linear", Linear(rng.normal(0, 0.6, (6, 6)), rng.normal(0.2, 0.3, 6)), x)
    x = build.add("dense", neurons(), build.add("residual", Add(), y, x))
    pool = build.add("pool", MeanPool(), x)
    build.add("readout", Readout(rng.normal(size=(3, 6)), rng.normal(size=3)), pool)
    return build.build(time_steps=time_steps, schedule=schedule, tokens=9)


def changed(graph: Graph, **nodes: Node) -> Graph:
    """With other nodes; `__` in a keyword stands for a dot."""
    return dataclasses.replace(graph, nodes=graph.nodes | {name.replace("__", "."): n for name, n in nodes.items()})


def altered(graph: Graph, name: str, **parameters: Any) -> Graph:
    return dataclasses.replace(graph, nodes=graph.nodes | {name: dataclasses.replace(graph.nodes[name], **parameters)})


def check(a: Executor | Graph, b: Executor | Graph, count: int = 6, **options: Any) -> Comparison:
    a, b = (Interpreter(m) if isinstance(m, Graph) else m for m in (a, b))
    return compare(a, b, random_inputs(a.graph, count), **options)


OPTIONS: list[dict[str, Any]] = [
    {"schedule": "phased"},
    {"schedule": "concurrent"},
    {"schedule": "phased", "spikes": "ternary", "v_init": 0.0},
    {"schedule": "concurrent", "spikes": "ternary", "v_init": 0.0, "leak": 0.9},
    {"schedule": "phased", "reset": "hard", "leak": 0.8},
    {"schedule": "phased", "feedback": True, "feedback_sweeps": 3},
    {"schedule": "concurrent", "feedback": True},
    {"schedule": "phased", "learn_v_threshold": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(map(str, options.values())))
def test_a_student_its_graph_and_its_nir_file_agree(
    student: MakeStudent, options: dict[str, Any], tmp_path: Path
) -> None:
    model = student(**options)
    write_nir(model.to_graph(), tmp_path / "model.nir")
    read = read_nir(tmp_path / "model.nir")
    for dtype, rounding in ((np.float64, 1e-9), (np.float32, 1e-6)):
        wrapped = TorchExecutor(model, getattr(torch, dtype.__name__))
        result = check(wrapped, Interpreter(read, dtype), 8, rounding=rounding)
        assert result.problems == []
        assert result.inputs == 8
        assert result.predictions_agreeing == 8
        assert all(0 < layer.spikes_a < layer.compared for layer in result.layers.values())
        assert list(result.layers) == list(model.neuron_layers)


def test_float32_is_rounded_after_every_operation() -> None:
    """float64 would keep the 1 that float32 loses beside 2^24; an exact sum finds it again where float32's may not."""
    big = torch.tensor([2.0**24, 1.0, 1.0], dtype=torch.float64)
    with RoundedToFloat32():
        assert (big[0] + big[1] - big[0]).item() == 0
        assert big.sum().item() == 2**24 + 2
        assert (big / 3).tolist() == (big.float() / 3).tolist()
        big += 1
    assert big[0] == 2**24 and big[1] == 2
    assert (big[0] + 1).item() == 2**24 + 1


def test_the_student_model_is_the_student(student: MakeStudent) -> None:
    """As used: logits and rates of `forward`."""
    for schedule in SCHEDULES:
        model = student(schedule=schedule, feedback=True)
        wrapped = TorchExecutor(model, as_used=True)
        (one,) = random_inputs(wrapped.graph, 1)
        output = model(**{name: torch.as_tensor(value)[None] for name, value in one.items()})
        run = wrapped.run(**stacked([one]), record=True).one(0)
        assert np.allclose(run.logits, output.logits[0].detach().numpy(), atol=1e-6)
        assert all(np.array_equal(run.rates[name], rate[0].detach().numpy()) for name, rate in output.rates.items())


@given(graphs(), st.integers(0, 99))
@settings(max_examples=25)
def test_every_graph_equals_itself(graph: Graph, seed: int) -> None:
    inputs = [random_input(graph, seed) | {"attention_mask": [1, 1, 1, 1, 0]}]
    result = compare(Interpreter(graph), Interpreter(graph), inputs)
    assert result.problems == ([] if result.decided else ["nothing fired: no verdict"])
    assert result.decided == any(layer.spikes_a for layer in result.layers.values())


# Mutations of a student's graph: name of the mutation -> the layer whose spikes give it away first, and the change.
def _no_bias(graph: Graph) -> Graph:
    return altered(graph, "encoder.0.value.linear", bias=None)


def _transposed(graph: Graph) -> Graph:
    return altered(graph, "encoder.1.key.linear", weight=graph.nodes["encoder.1.key.linear"].weight.T)  # type: ignore[attr-defined]


def _layers_swapped(graph: Graph) -> Graph:
    """The weights of encoder 0 and 1 change places."""

    def other(name: str) -> str:
        a, b = "encoder.0.", "encoder.1."
        return name.replace(a, b) if name.startswith(a) else name.replace(b, a)

    return dataclasses.replace(graph, nodes={name: graph.nodes[other(name)] for name in graph.nodes})


def _other_heads(graph: Graph) -> Graph:
    return changed(graph, encoder__0__scores=MatMul(4, transpose_b=True), encoder__0__context=MatMul(4))


STUDENT_MUTATIONS: dict[str, tuple[str, Callable[[Graph], Graph]]] = {
    "dropped bias": ("encoder.0.value", _no_bias),
    "transposed kernel": ("encoder.1.key", _transposed),
    "layers swapped": ("encoder.0.key", _layers_swapped),
    "hard reset": ("encoder.0.attention", lambda g: altered(g, "encoder.0.attention", reset="hard")),
    "leak": ("encoder.1.output", lambda g: altered(g, "encoder.1.output", leak=0.9)),
    "threshold": ("encoder.0.value", lambda g: altered(g, "encoder.0.value", v_threshold=0.75)),
    "v_init": ("embedding", lambda g: altered(g, "embedding", v_init=0.0)),
    "spikes": ("encoder.0.intermediate", lambda g: altered(g, "encoder.0.intermediate", spikes="ternary")),
    "attention scale": ("encoder.0.attention", lambda g: altered(g, "encoder.0.scores.scale", factor=1.0)),
    "heads": ("encoder.0.attention", _other_heads),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", STUDENT_MUTATIONS)
def test_a_mutated_student_is_caught(student: MakeStudent, name: str, schedule: str) -> None:
    layer, mutate = STUDENT_MUTATIONS[name]
    model = TorchExecutor(student(schedule=schedule, num_hidden_layers=2))
    mutant = mutate(model.graph)
    result = check(model, mutant)
    assert not result.passed
    if name == "spikes":  # v_init 0.25 fits both; a ternary neuron fires earlier
        assert "encoder.0.intermediate" in " ".join(result.problems)
        return
    assert result.first_difference is not None
    assert result.first_difference.layer == layer


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("delta", [-1, 1])
def test_time_steps_off_by_one(student: MakeStudent, schedule: str, delta: int) -> None:
    model = TorchExecutor(student(schedule=schedule))
    result = check(model, dataclasses.replace(model.graph, time_steps=4 + delta))
    assert f"time_steps is 4 in A, {4 + delta} in B" in result.problems
    assert any("rates differ" in problem or "spikes differ" in problem for problem in result.problems)


class MaskForgotten(Interpreter):
    def run(self, **batch: Any) -> Run:
        return super().run(**batch | {"attention_mask": np.ones_like(batch["attention_mask"])})


class MaskShifted(Interpreter):
    def run(self, **batch: Any) -> Run:
        return super().run(**batch | {"attention_mask": np.roll(batch["attention_mask"], 1, axis=1)})


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("wrong", [MaskForgotten, MaskShifted])
def test_a_wrong_mask_is_caught(student: MakeStudent, schedule: Any, wrong: type[Interpreter]) -> None:
    model = TorchExecutor(student(schedule=schedule))
    assert not check(model, wrong(model.graph)).passed
    graph = conv_graph(schedule)
    assert not check(graph, wrong(graph)).passed


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_mutations_of_a_convolution(schedule: Any) -> None:
    graph = conv_graph(schedule)
    kernel = graph.nodes["conv.kernel"]
    assert isinstance(kernel, Conv1d)
    assert check(graph, conv_graph(schedule)).passed
    for weight in (kernel.weight[:, :, ::-1], kernel.weight.transpose(1, 0, 2), np.roll(kernel.weight, 1, axis=2)):
        result = check(graph, altered(graph, "conv.kernel", weight=weight))
        assert result.first_difference is not None
        assert result.first_difference.layer == "conv"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_constants_scaled_on_the_way_through_nir(schedule: Any, tmp_path: Path) -> None:
    """The same file read with dt 1 and with a wrong dt; and with tau doubled."""
    import nir

    graph = conv_graph("concurrent", reset="soft", v_init=0.0)
    write_nir(graph, tmp_path / "model.nir")

    def neurons_of(path: Path, dt: float) -> dict[str, Node]:
        read = read_nir(path, standard_nodes=True, time_step=dt, fires=">=")
        return {name: read.nodes[name] for name in graph.of_type(Neuron)}

    right = dataclasses.replace(graph, nodes=graph.nodes | neurons_of(tmp_path / "model.nir", 1.0))
    assert check(graph, right, rounding=1e-6).problems == []
    for dt in (0.5, 2.0):
        wrong = dataclasses.replace(graph, nodes=graph.nodes | neurons_of(tmp_path / "model.nir", dt))
        assert not check(graph, wrong, tolerance=1e-3).passed
    content = nir.read(tmp_path / "model.nir")
    content.nodes["dense"].tau *= 2
    nir.write(tmp_path / "model.nir", content)
    wrong = dataclasses.replace(graph, nodes=graph.nodes | neurons_of(tmp_path / "model.nir", 1.0))
    result = check(graph, wrong)
    assert result.first_difference is not None
    assert result.first_difference.layer == "dense"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_greater_than_instead_of_at_least_on_a_drive_at_the_threshold(schedule: Any) -> None:
    """Drives of 1/4 and 1/2 reach the threshold 1 exactly; above it in B means the next number a float32 would hold."""
    build = GraphBuilder()
    word = build.add("word", Embedding(np.array([[0.25, 0.5], [1.0, 0.125]])))
    build.add("neurons", Neuron(), word)
    graph = build.build(time_steps=4, schedule=schedule, tokens=4)
    strict = altered(graph, "neurons", v_threshold=1 + 2.0**-40)
    result = check(graph, strict)
    # token 0 sends at step 3 and 1, 3; token 1 at every step: B misses the last of each. First: 1.0 at step 0.
    assert result.first_difference is not None
    assert (result.first_difference.layer, result.first_difference.step) == ("neurons", 0)
    assert (result.first_difference.a, result.first_difference.b) == (1, 0)


@pytest.mark.parametrize("options", [{}, {"schedule": "concurrent", "leak": 0.9}, {"spikes": "ternary", "v_init": 0.0}])
def test_greater_than_instead_of_at_least_where_no_sentence_meets_the_threshold(
    student: MakeStudent, options: dict[str, Any]
) -> None:
    model = TorchExecutor(student(**options))
    neurons = model.graph.nodes["encoder.1.self_output"]
    assert isinstance(neurons, Neuron)
    strict = altered(model.graph, "encoder.1.self_output", v_threshold=neurons.v_threshold * (1 + 2.0**-40))
    result = check(model, strict)
    assert result.first_difference is None
    (problem,) = result.problems
    assert problem.startswith("encoder.1.self_output: neuron 0 under a current of ")
    assert check(model, strict, tolerance=1e-6).passed


def test_another_order_of_emission_is_reported(student: MakeStudent) -> None:
    graph = student().to_graph()
    order = list(graph.nodes)
    key, value = (order.index(f"encoder.0.{part}") for part in ("key", "value"))
    order[key], order[value] = order[value], order[key]
    order.remove("encoder.0.value.linear")
    order.insert(order.index("encoder.0.value"), "encoder.0.value.linear")
    for name in ("encoder.0.scores", "encoder.0.scores.scale", "encoder.0.softmax"):
        order.remove(name)
        order.insert(order.index("encoder.0.context"), name)
    swapped = dataclasses.replace(graph, nodes={name: graph.nodes[name] for name in order})
    result = check(graph, swapped)
    assert result.problems == ["neuron layers emit in another order: encoder.0.key in A where encoder.0.value is in B"]
    assert result.first_difference is None


def test_tolerance_and_report_by_hand() -> None:
    """One neuron, T = 4: A fires at drive 0.5 in steps 1 and 3; a threshold of 1.01 delays both by a step."""

    def one(v_threshold: float) -> Graph:
        build = GraphBuilder()
        build.add("n", Neuron(v_threshold), build.add("word", Embedding(np.array([[0.5]]))))
        return build.build(time_steps=4, schedule="concurrent", tokens=2)

    inputs = [{"input_ids": [0, 0], "attention_mask": [1, 0]}]
    a, b = Interpreter(one(1.0)), Interpreter(one(1.01))
    result = compare(a, b, inputs)
    layer = result.layers["n"]
    # A: 0 1 0 1; B: 0 0 1 0 (potentials .495, .99, 1.485 -> .485, .98)
    assert (layer.spikes_a, layer.spikes_b, layer.compared, layer.differing) == (2, 1, 4, 3)
    assert layer.agreement == 0.25
    assert layer.max_rate_difference == 0.25
    report = result.to_dict()
    assert report["first_difference"] == {"layer": "n", "input": 0, "step": 1, "token": 0, "neuron": 0, "a": 1, "b": 0}
    assert report["passed"] is False
    assert compare(a, b, inputs, tolerance=0.75).passed
    assert not compare(a, b, inputs, tolerance=0.74).passed
    with pytest.raises(ConfigError, match="tolerance is 1"):
        compare(a, b, inputs, tolerance=1.0)
    with pytest.raises(ConfigError, match="no inputs"):
        compare(a, b, [])


def test_readouts_are_compared() -> None:
    graph = conv_graph()
    readout = graph.nodes["readout"]
    assert isinstance(readout, Readout)
    assert readout.bias is not None
    shifted = altered(graph, "readout", bias=readout.bias + np.array([0, 0, 1e-6]))
    result = check(graph, shifted)
    assert result.problems == ["logits differ by up to 1e-06"]
    assert check(graph, shifted, tolerance=1e-5).passed
    fewer = altered(graph, "readout", weight=readout.weight[:2], bias=None)
    assert check(graph, fewer).problems == ["the readout has 3 outputs in A, 2 in B"]


def test_layers_that_only_one_model_has() -> None:
    a = conv_graph()
    b = dataclasses.replace(
        a,
        nodes={("other" if name == "dense" else name): node for name, node in a.nodes.items()},
        inputs={
            ("other" if name == "dense" else name): tuple("other" if s == "dense" else s for s in sources)
            for name, sources in a.inputs.items()
        },
    )
    assert check(a, b).problems == ["neuron layers only in A: dense", "neuron layers only in B: other"]


def test_different_networks_are_called_so(student: MakeStudent) -> None:
    """One sentence, and nothing is run: token ids of one may not even exist in the other."""
    small, wide = student().to_graph(), student(hidden_size=8, intermediate_size=8, num_hidden_layers=1).to_graph()
    for other, layers in ((conv_graph(), 3), (wide, 7)):
        result = check(small, other)
        assert result.problems == [
            f"different networks: none of A's 13 neuron layers has the name and shape of one of B's {layers}"
        ]
        assert not result.passed and result.inputs == 0 and result.layers == {}
    build = GraphBuilder()
    build.add("embedding", conv_graph().nodes["embedding"], build.add("x", Input(6)))
    other = build.build(time_steps=4, schedule="phased", tokens=9)
    assert check(conv_graph(), other).problems == ["different networks: A reads tokens, B reads values of x (6)"]


def test_many_layers_of_one_model_are_one_line(student: MakeStudent) -> None:
    deep, flat = student().to_graph(), student(num_hidden_layers=1).to_graph()
    listed = "encoder.1.key, encoder.1.value, encoder.1.attention, … (6 in all)"
    assert f"neuron layers only in A: {listed}" in check(deep, flat).problems
    narrow = student(intermediate_size=8).to_graph()
    assert check(deep, narrow).problems[0] == (
        "neuron layers of another shape: encoder.0.intermediate (tokens x 24 in A, tokens x 8 in B), "
        "encoder.1.intermediate (tokens x 24 in A, tokens x 8 in B)"
    )


# The command


@pytest.fixture
def checkpoint(student: MakeStudent, tiny_teacher: Path, tmp_path: Path) -> Path:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    task = Task("tiny", ("sentence",), ("negative", "positive"), ("accuracy",))
    model = student(vocab_size=len(tokenizer), num_labels=2, id2label={0: "negative", 1: "positive"})
    write_checkpoint(tmp_path / "model.ckpt", to_checkpoint(model, tokenizer, task, {}, {}))
    return tmp_path / "model.ckpt"


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "80"})


def test_the_commands_on_a_checkpoint(checkpoint: Path, tiny_data: Callable[[str], Path], tmp_path: Path) -> None:
    assert run("export", checkpoint).exit_code == 0
    nir_file = tmp_path / "model.nir"
    result = run("validate", checkpoint, nir_file, "--data", tiny_data("classes"), "--samples", 5)
    assert result.exit_code == 0
    assert "5 inputs, T = 4" in result.stdout
    assert result.stdout.endswith("PASS: exactly the same spikes\n")
    assert max(map(len, result.stdout.splitlines()[2:-4])) <= 80
    standard = run("validate", checkpoint, nir_file, "--standard-nodes")
    assert standard.exit_code == 2 and "cannot be run beside a checkpoint or bundle; leave" in standard.stderr
    graph = read_nir(nir_file)
    write_nir(altered(graph, "encoder.0.key.linear", bias=None), tmp_path / "mutant.nir")
    result = run("validate", checkpoint, tmp_path / "mutant.nir")
    assert result.exit_code == 1
    assert "built-in sentences" in result.stdout
    assert "first difference: layer encoder.0.key, input 0, step" in result.stdout
    assert "FAIL" in result.stdout
    result = run("validate", nir_file, tmp_path / "mutant.nir", "--json", "--samples", 3, "--random")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["first_difference"]["layer"] == "encoder.0.key"
    assert report["source"].startswith("random inputs")
    for option, precision in (("--float32", "float32"), ("--as-used", "as used")):
        result = run("validate", checkpoint, nir_file, option, "--tolerance", 0.01, "--json")
        assert (result.exit_code, json.loads(result.stdout)["precision"]) == (0, precision)
    assert "neither file is a checkpoint" in run("validate", nir_file, nir_file, "--as-used").stderr
    result = run("validate", nir_file, nir_file, "--data", tiny_data("classes"))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "which hold a tokenizer" in result.stderr


def test_texts_are_padded_to_one_length(tiny_teacher: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    inputs, cut = tokenised(tokenizer, [("!", "!"), ("!",) * 2], 12)
    assert cut == 0
    assert all(len(values) == 6 for one in inputs for values in one.values())  # [CLS] ! [SEP] ! [SEP] and padding
    assert inputs[0]["attention_mask"].tolist() == [1, 1, 1, 1, 1, 0]
    inputs, cut = tokenised(tokenizer, [("! ! ! !",), ("!",)], 5)
    assert cut == 1
    assert [one["attention_mask"].sum() for one in inputs] == [5, 3]
