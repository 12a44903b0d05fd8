"""Executors are devices of one kind: same inputs, same result. And a new one is an entry in a list."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_batch

import neurotool
from neurotool.api.executors import EXECUTORS, Device
from neurotool.api.model import Model
from neurotool.checkpoint import write_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import ConfigError, DataError, GraphError
from neurotool.executor import COUNTS, PER_NODE, Run, batched
from neurotool.graph import Graph, GraphBuilder, Input, Linear, Neuron
from neurotool.graph.names import by_kind
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import Interpreter, simulate
from neurotool.student.serialise import to_checkpoint
from neurotool.tasks import Task

LAVA = pytest.param("lava", marks=pytest.mark.skipif(bool(compatibility.installation_problem()), reason="no Lava"))
TEXTS = ["good w1 w2", "bad ."]


@pytest.fixture(scope="module")
def checkpoint(make_student: Callable[..., Any], tiny_teacher: Path, tmp_path_factory: Any) -> Callable[..., Path]:
    from transformers import AutoTokenizer

    folder, tokenizer = tmp_path_factory.mktemp("models"), AutoTokenizer.from_pretrained(tiny_teacher)
    task = Task("tiny", ("sentence",), ("negative", "positive"), ("accuracy",))

    def make(**values: Any) -> Path:
        path = Path(folder / f"{'-'.join(map(str, values.values()))}.ckpt")
        labels = {0: "negative", 1: "positive"}
        student = make_student(1, vocab_size=len(tokenizer), num_labels=2, id2label=labels, time_steps=3, **values)
        write_checkpoint(path, to_checkpoint(student, tokenizer, task, {"plan": {"max_length": 12}}, {}))
        return path

    return make


def assert_same(a: Run, b: Run, kinds: tuple[str, ...] = PER_NODE) -> None:
    """Whole numbers exactly, real ones but for rounding."""
    for kind in (*COUNTS, *kinds):
        assert getattr(a, kind).keys() == getattr(b, kind).keys(), kind
        for name, array in getattr(a, kind).items():
            exact = kind not in ("rates", "potentials", "messages")
            np.testing.assert_allclose(
                array, getattr(b, kind)[name], 0 if exact else 1e-9, 0 if exact else 1e-9, str(name)
            )
    if a.logits is None or b.logits is None:
        assert a.logits is b.logits is None
    else:
        np.testing.assert_allclose(a.logits, b.logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("executor", ["torch", "emulator", LAVA])
@pytest.mark.parametrize(
    "values",
    [
        {"schedule": "phased", "spikes": "ternary"},
        {"schedule": "concurrent", "leak": 0.9},
        {"schedule": "phased", "leak": 0.8, "reset": "hard"},
        {"schedule": "phased", "feedback": True, "feedback_sweeps": 2},
        {"schedule": "concurrent", "feedback": True},
    ],
    ids=lambda values: "-".join(map(str, values.values())),
)
def test_every_executor_gives_what_the_interpreter_gives(
    checkpoint: Callable[..., Path], executor: str, values: dict[str, Any]
) -> None:
    model = neurotool.open(checkpoint(**values))
    kinds = tuple(kind for kind in PER_NODE if kind != "messages" or executor != "torch")
    reference, run = (model.run(TEXTS, name, record=model.graph.of_type(Neuron)) for name in ("interpreter", executor))
    assert all(spikes.any() for spikes in run.spikes.values()) and len(run.spikes) == 13
    assert_same(reference, run, kinds)


@given(graphs(), st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_a_batch_in_the_interpreter_is_its_inputs_and_equals_the_emulators(graph: Graph, seed: int) -> None:
    batch = random_batch(graph, seed)
    run = Interpreter(graph).run(**batch, record=True)
    rows = [{name: x[i] for name, x in batch.items() if name != "values"} for i in range(3)]
    for i, row in enumerate(rows):
        if "values" in batch:
            row["values"] = {name: x[i] for name, x in batch["values"].items()}
    assert_same(batched([simulate(graph, **row) for row in rows]), run)
    assert_same(run, Emulator(graph).run(**batch, record=True))
    assert run.one(1).events == simulate(graph, **rows[1]).events


def test_only_what_is_asked_for_is_recorded(checkpoint: Callable[..., Path]) -> None:
    model = neurotool.open(checkpoint(schedule="phased", spikes="ternary"))
    for executor in ("torch", "interpreter", "emulator"):
        run = model.run(TEXTS, executor, record=["encoder.0.key"])
        assert list(run.spikes) == list(run.rates) == list(run.potentials) == ["encoder.0.key"]
        assert run.spikes["encoder.0.key"].shape == (2, 3, 6, 16)
        nothing = model.run(TEXTS, executor, record=False)
        assert not nothing.spikes and nothing.events and nothing.logits is not None
        np.testing.assert_allclose(nothing.logits, run.logits, rtol=1e-9)
    with pytest.raises(ConfigError, match=r"--record encoder\.9: there is no such layer"):
        model.run(TEXTS, record=["encoder.9"])


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_a_part_alone_does_what_it_does_in_the_whole(checkpoint: Callable[..., Path], schedule: str) -> None:
    model = neurotool.open(checkpoint(schedule=schedule, spikes="binary"))
    whole = model.run(TEXTS, "interpreter")
    part = model.part("encoder.1")
    assert part.graph.of_type(Input) == ["encoder.0.output"] and part.reader is None
    mask = model.batch(TEXTS)["attention_mask"]
    arrays = {"encoder.0.output": whole.spikes["encoder.0.output"], "attention_mask": mask}
    for executor in ("interpreter", "emulator"):
        alone = part.run(arrays, executor)
        for name, spikes in alone.spikes.items():
            np.testing.assert_array_equal(spikes, whole.spikes[name], name)
        for port, events in alone.events.items():
            np.testing.assert_array_equal(events, whole.events[port])
    one = model.part("encoder.0.key.linear", "encoder.0.key")
    assert list(one.graph.nodes) == ["embedding", "encoder.0.key.linear", "encoder.0.key"]
    with pytest.raises(GraphError, match="comes first"):
        model.part("encoder.1", "encoder.0")
    with pytest.raises(GraphError, match="there is no such node"):
        model.part("encoder.7")
    with pytest.raises(GraphError, match=r"encoder\.0\.context reads encoder\.0\.softmax.*cut elsewhere"):
        model.part("encoder.0.context")
    with pytest.raises(ConfigError, match="executor torch runs students"):
        part.run(arrays, "torch")


def test_a_part_of_a_network_in_integers(checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    model = neurotool.open(checkpoint(schedule="phased", spikes="ternary"))
    model.export(tmp_path / "model.lava", target="lava")
    bundle = neurotool.open(tmp_path / "model.lava")
    whole = bundle.run(TEXTS)
    arrays = {
        "encoder.0.output": whole.spikes["encoder.0.output"],
        "attention_mask": bundle.batch(TEXTS)["attention_mask"],
    }
    alone = bundle.part("encoder.1").run(arrays)
    for name, spikes in alone.spikes.items():
        np.testing.assert_array_equal(spikes, whole.spikes[name], name)
    with pytest.raises(ConfigError, match="interpreter computes with real numbers"):
        bundle.run(TEXTS, "interpreter")


def test_a_new_executor_is_one_entry(checkpoint: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What docs/contributing.md says: everything that names executors takes it."""

    class Backwards(Interpreter):
        """A toy: inputs in reverse order, results put back."""

        def run(self, *, record: Any = False, values: Any = None, **batch: Any) -> Run:
            turned = {name: np.asarray(x)[::-1] for name, x in batch.items() if x is not None}
            rows = super().run(**turned, record=record)
            return batched([rows.one(i) for i in reversed(range(len(rows.logits)))])  # type: ignore[arg-type]

    monkeypatch.setitem(
        EXECUTORS, "backwards", Device(lambda graph, student, settings: Backwards(graph), "a toy", (), 4)
    )
    path = checkpoint(schedule="phased", spikes="ternary")
    model = neurotool.open(path)
    assert_same(model.run(TEXTS, "interpreter"), model.run(TEXTS, "backwards"))
    assert neurotool.compare(path, (path, "backwards"), samples=6).passed
    report, by_interpreter = (model.energy("good w1", executor=name) for name in ("backwards", "interpreter"))
    assert report.counts.nodes == by_interpreter.counts.nodes
    labels = [one["label"] for one in model.predict(TEXTS, "backwards")]
    assert labels == [one["label"] for one in model.predict(TEXTS)]


INPUT_SHAPES: list[tuple[tuple[int, ...], str]] = [
    ((2, 5, 3), "spikes has shape (2, 5, 3), wanted is (inputs, 4), or (inputs, T = 5, 4) step by step"),
    ((2, 6, 4), "spikes has shape (2, 6, 4), wanted is (inputs, 4)"),
    ((4,), "spikes has shape (4,), wanted is"),
    ((0, 5, 4), "number of inputs: spikes has 0"),
]


def small_network() -> Graph:
    build = GraphBuilder()
    x = build.add("spikes", Input(4, spiking=True))
    build.add("out", Neuron(v_threshold=1.5), build.add("dense", Linear(np.ones((2, 4))), x))
    return build.build(time_steps=5, schedule="concurrent")


def test_arrays_in_and_arrays_out(tmp_path: Path) -> None:
    """Two inputs of five steps, no text: from the command line and from Python, the same."""
    from neurotool.export.nir import write_nir

    write_nir(small_network(), tmp_path / "net.nir")
    spikes = np.random.default_rng(0).integers(0, 2, (2, 5, 4))
    np.savez(tmp_path / "in.npz", spikes=spikes)
    model = neurotool.open(tmp_path / "net.nir")
    expected = model.run(spikes).spikes["out"]
    assert expected.shape == (2, 5, 1, 2) and expected.any()
    for executor in ("interpreter", "emulator"):
        arguments = ["run", tmp_path / "net.nir", "--input", tmp_path / "in.npz", "-o", tmp_path / f"{executor}.npz"]
        result = CliRunner().invoke(cli, [*map(str, arguments), "--executor", executor])
        assert result.exit_code == 0, result.stderr
        with np.load(tmp_path / f"{executor}.npz") as arrays:
            np.testing.assert_array_equal(arrays["out.spikes"], expected)
    constant = model.run(np.ones((1, 4)))  # a drive of 4 in each step: the threshold of 1.5 is reached in every one
    assert constant.spikes["out"].all()


@pytest.mark.parametrize(("shape", "message"), INPUT_SHAPES)
def test_an_input_that_does_not_fit_is_one_line(shape: tuple[int, ...], message: str, tmp_path: Path) -> None:
    from neurotool.export.nir import write_nir

    write_nir(small_network(), tmp_path / "net.nir")
    np.save(tmp_path / "in.npy", np.zeros(shape))
    result = CliRunner().invoke(cli, ["run", str(tmp_path / "net.nir"), "--input", str(tmp_path / "in.npy")])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_inputs_that_are_no_inputs(tmp_path: Path) -> None:
    model = Model(tmp_path / "net.nir", "NIR file", small_network())
    with pytest.raises(DataError, match="spike: the network has no such input; it reads spikes"):
        model.run({"spike": np.zeros((1, 4))})
    for value in (np.nan, 1e308):
        with pytest.raises(DataError, match=r"spikes has values that are not finite, or beyond 1e\+30"):
            model.run(np.full((1, 4), value))
    with pytest.raises(ConfigError, match="holds no tokenizer"):
        model.run(["a text"])
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"bad\.npz: cannot be read as \.npz"):
        model.arrays(tmp_path / "bad.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read"):
        model.arrays(tmp_path / "objects.npy")


def test_layers_by_kind() -> None:
    names = ["embedding", "encoder.0.key", "encoder.1.key", "encoder.12.output", "conv3"]
    assert by_kind(names) == {
        "embedding": ["embedding"],
        "encoder.*.key": ["encoder.0.key", "encoder.1.key"],
        "encoder.*.output": ["encoder.12.output"],
        "conv3": ["conv3"],
    }
