"""Networks on real Lava, in worker processes: the same numbers as the emulator, errors, and nothing left behind."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_graphs import graphs, random_batch

from neurotool.errors import DataError, ExportError, LavaError, OverflowingError
from neurotool.executor import Run
from neurotool.export.lower import lower
from neurotool.graph import FixedPoint, Graph, GraphBuilder, Input, Linear, MeanPool, Neuron, Readout
from neurotool.graph.graded import graded
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.entering import entering
from neurotool.lava_runtime.job import Job
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.run import run_jobs, run_on_lava

pytestmark = pytest.mark.skipif(
    compatibility.installation_problem() is not None, reason=f"Lava: {compatibility.installation_problem()}"
)
TIMEOUT = 120.0


def job(graph: Graph, batch: dict[str, Any], overflow: Any = "error") -> Job:
    inputs = entering(graph, batch.get("input_ids"), batch.get("attention_mask"), None, batch.get("values", {}))
    return Job(graph, inputs, tuple(graph.nodes), overflow)


def lowered(graph: Graph, batch: dict[str, Any]) -> Graph:
    return lower(graph, Emulator(graph).run(**batch, observe=True).largest)


def assert_same(lava: Run, emulator: Run, tolerance: float = 0) -> None:
    """Logits, spikes, potentials and messages of every node."""
    np.testing.assert_allclose(lava.logits, emulator.logits, rtol=0, atol=tolerance)
    for kind in ("spikes", "potentials", "messages"):
        assert getattr(lava, kind).keys() == getattr(emulator, kind).keys()
        for name, array in getattr(lava, kind).items():
            np.testing.assert_allclose(
                array, getattr(emulator, kind)[name], rtol=0, atol=tolerance, err_msg=f"{kind} {name}"
            )


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(graphs(), st.integers(0, 1000)), min_size=4, max_size=4), st.sampled_from(["wrap", "clip"]))
def test_random_networks_give_the_same_integers(drawn: list[tuple[Graph, int]], overflow: Any) -> None:
    jobs, expected = [], []
    for graph, seed in drawn:
        batch = random_batch(graph, seed, inputs=2)
        try:
            fixed = lowered(graph, batch)
        except ExportError:
            continue
        jobs.append(job(fixed, batch, overflow))
        expected.append(Emulator(fixed, overflow).run(**batch, record=True))
    for lava, emulator in zip(run_jobs(jobs, TIMEOUT), expected, strict=True):
        assert_same(lava, emulator)


@pytest.mark.slow
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(st.tuples(graphs(), st.integers(0, 1000)), min_size=4, max_size=4))
def test_random_networks_give_the_same_floats(drawn: list[tuple[Graph, int]]) -> None:
    batches = [random_batch(graph, seed, inputs=2) for graph, seed in drawn]
    results = run_jobs([job(graph, batch) for (graph, _), batch in zip(drawn, batches, strict=True)], TIMEOUT)
    for (graph, _), batch, lava in zip(drawn, batches, results, strict=True):
        assert_same(lava, Emulator(graph).run(**batch, record=True), tolerance=1e-9)


def student_cases(make_student: Any) -> tuple[list[Job], list[Run]]:
    """One-layer students, both schedules, over time steps, spikes and seeds, in integers."""
    jobs, expected = [], []
    for seed, (schedule, time_steps, spikes) in enumerate(
        (schedule, time_steps, spikes)
        for schedule in ("phased", "concurrent")
        for time_steps, spikes in ((1, "binary"), (4, "binary"), (7, "ternary"))
    ):
        graph = make_student(
            seed, num_hidden_layers=1, schedule=schedule, time_steps=time_steps, spikes=spikes
        ).to_graph()
        rng = np.random.default_rng(seed)
        mask = np.array([[1] * 9, [1] * 6 + [0] * 3])
        batch = {"input_ids": rng.integers(0, 30, (2, 9)), "attention_mask": mask}
        fixed = lowered(graph, batch)
        jobs.append(job(fixed, batch))
        expected.append(Emulator(fixed).run(**batch, record=True))
        assert expected[-1].spikes["encoder.0.output"].any()
    return jobs, expected


def test_students_give_the_same_integers(make_student: Any) -> None:
    jobs, expected = student_cases(make_student)
    for lava, emulator in zip(run_jobs(jobs, TIMEOUT), expected, strict=True):
        assert_same(lava, emulator)


@pytest.mark.parametrize("schedule", ["phased", "concurrent"])
def test_a_float_student_gives_the_same_spikes(make_student: Any, schedule: str) -> None:
    graph = make_student(5, schedule=schedule, time_steps=4).to_graph()
    batch = {"input_ids": np.random.default_rng(5).integers(0, 30, (2, 8))}
    lava = run_on_lava(graph, **batch, record=tuple(graph.nodes), timeout=TIMEOUT)
    emulator = Emulator(graph).run(**batch, record=True)
    assert_same(lava, emulator, tolerance=1e-9)
    assert all(np.array_equal(lava.spikes[name], emulator.spikes[name]) for name in emulator.spikes)


def test_graded_students_give_the_same_integers_in_fewer_steps(make_student: Any) -> None:
    """One step a window; with no dead zone the logits of the windows of four."""
    rng = np.random.default_rng(3)
    batch = {"input_ids": rng.integers(0, 30, (2, 9)), "attention_mask": np.array([[1] * 9, [1] * 6 + [0] * 3])}
    jobs, expected = [], []
    for spikes, dead_zone in (("ternary", 0.0), ("binary", 0.0), ("ternary", 1.25)):
        spiking = make_student(3, num_hidden_layers=1, time_steps=4, spikes=spikes).to_graph()
        graph, seen = graded(spiking, dead_zone), Emulator(spiking).run(**batch, observe=True).largest
        fixed = lower(graph, seen)
        jobs.append(job(fixed, batch))
        expected.append(Emulator(fixed).run(**batch, record=True))
        assert np.abs(expected[-1].spikes["encoder.0.output"]).max() > 1
        steps = [Network(network).time_line.steps for network in (lower(spiking, seen), fixed)]
        assert steps[0] == 4 * steps[1]
        if not dead_zone:
            assert np.array_equal(expected[-1].logits, Emulator(lower(spiking, seen)).run(**batch).logits)
    for lava, emulator in zip(run_jobs(jobs, TIMEOUT), expected, strict=True):
        assert_same(lava, emulator)


def test_a_graded_student_gives_the_same_floats(make_student: Any) -> None:
    graph = make_student(5, spikes="graded", time_steps=4, dead_zone=0.75, num_hidden_layers=1).to_graph()
    batch = {"input_ids": np.random.default_rng(5).integers(0, 30, (2, 8))}
    lava = run_on_lava(graph, **batch, record=tuple(graph.nodes), timeout=TIMEOUT)
    emulator = Emulator(graph).run(**batch, record=True)
    assert_same(lava, emulator, tolerance=1e-9)
    assert all(np.array_equal(lava.spikes[name], emulator.spikes[name]) for name in emulator.spikes)


def small(bound: int = 2**12, exponent: int = 0) -> Graph:
    build = GraphBuilder()
    x = build.add("x", Input(2, spiking=True))
    n = build.add("n", Neuron(v_threshold=10), build.add("y", Linear(np.array([[3, -2]], np.int8)), x))
    build.add("readout", Readout(np.array([[1]], np.int8)), build.add("pool", MeanPool(), n))
    rescales = {"x": (), "y": ((1, 0),), "n": ((1, 0),), "pool": ((1, 0),), "readout": ((1, 0),)}
    exponents = {"y": np.array([exponent], np.int8), "readout": np.zeros(1, np.int8)}
    fixed = {name: FixedPoint(1.0, bound, scale, exponents.get(name)) for name, scale in rescales.items()}
    return build.build(time_steps=3, schedule="phased", fixed_point=fixed)


SPIKES = {"x": np.array([[[[1, 0]], [[1, 1]], [[1, 0]]]])}


def test_only_what_is_asked_for_is_recorded() -> None:
    result = run_on_lava(small(), values=SPIKES, record=("n",), timeout=TIMEOUT)
    assert list(result.spikes) == list(result.potentials) == list(result.messages) == ["n"]
    # Sums 3, 1, 3: a drive of 7 in each of three steps, potentials 7, 14 - 10, 11 - 10.
    assert result.spikes["n"].dtype == np.int8
    assert result.spikes["n"][0, :, 0, 0].tolist() == [0, 1, 1]
    assert result.potentials["n"].item() == 1
    assert result.messages["n"].item() == 2


def test_overflow_on_lava_is_the_emulators_error() -> None:
    graph = small(bound=2**40, exponent=23)
    with pytest.raises(OverflowingError) as expected:
        Emulator(graph).run(values=SPIKES)
    start = time.monotonic()
    with pytest.raises(OverflowingError) as error:
        run_on_lava(graph, values=SPIKES, timeout=TIMEOUT)
    assert time.monotonic() - start < TIMEOUT / 2  # Lava itself would wait for ever
    assert str(error.value) == str(expected.value)


def test_inputs_are_checked_before_lava_starts() -> None:
    with pytest.raises(DataError, match="values for Input x are missing"):
        run_on_lava(small())


# The process of the readout fails in its first step.
FAILING = """
import sys
from neurotool.lava_runtime import worker
from neurotool.lava_runtime.program import Program
act = Program.act
def failing(self):
    if self.part.kind == "readout":
        {failure}
    return act(self)
Program.act = failing
worker.main(sys.argv[3:])
"""


def broken_python(folder: Path, failure: str) -> str:
    """An interpreter whose worker misbehaves in one process."""
    script, program = folder / "failing.py", folder / "python"
    script.write_text(FAILING.format(failure=failure))
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
    program.chmod(0o755)
    return str(program)


def marked(mark: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("NEUROTOOL_TEST_MARK") == mark:
                found.append(process.pid)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            pass
    return found


def gone(mark: str) -> bool:
    end = time.monotonic() + 5
    while marked(mark):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("failure", "message", "traceback"),
    [
        ("raise ZeroDivisionError('by hand')", "ZeroDivisionError: by hand", "in failing"),
        ("import os; os._exit(7)", "ended with exit code 7", ""),
    ],
)
def test_an_error_in_a_process_is_raised_with_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: str, message: str, traceback: str
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("NEUROTOOL_TEST_MARK", mark)
    with pytest.raises(LavaError, match=message) as error:
        run_on_lava(small(), values=SPIKES, timeout=TIMEOUT, python=broken_python(tmp_path, failure))
    assert traceback in str(error.value.__cause__)
    assert "\n" not in str(error.value)
    assert gone(mark)


def shared_memory() -> set[str]:
    folder = Path("/dev/shm")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_timeout_leaves_no_process_and_no_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, before = uuid.uuid4().hex, shared_memory()
    monkeypatch.setenv("NEUROTOOL_TEST_MARK", mark)
    python = broken_python(tmp_path, "import time; time.sleep(600)")
    with pytest.raises(LavaError, match="has not finished within 6 s"):
        run_on_lava(small(), values=SPIKES, timeout=6, python=python)
    assert gone(mark)
    assert not shared_memory() - before


INTERRUPTED = """
import sys
sys.path.insert(0, {tests!r})
from test_lava_run import SPIKES, small
from neurotool.lava_runtime.run import run_on_lava
run_on_lava(small(), values=SPIKES, python={python!r})
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_killed_parent_leave_no_process_and_no_job(tmp_path: Path, sent: signal.Signals) -> None:
    mark = uuid.uuid4().hex
    python = broken_python(tmp_path, "import time; time.sleep(600)")
    code = INTERRUPTED.format(tests=str(Path(__file__).parent), python=python)
    folder = tmp_path / "t"  # the path of a socket below it must stay short
    folder.mkdir()
    environment = {**os.environ, "NEUROTOOL_TEST_MARK": mark, "TMPDIR": str(folder)}
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while len(marked(mark)) < 6 and time.monotonic() < end:  # parent, worker, four parts and Lava's own
        time.sleep(0.1)
    assert len(marked(mark)) >= 6
    parent.send_signal(sent)
    parent.wait(10)
    assert gone(mark)
    assert not list(folder.glob("neurotool-lava-*"))
