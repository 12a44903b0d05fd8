"""Spikes and currents in and out of files, as inputs, as recordings, and compared with what another tool recorded."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import nir
import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.api.comparing import compare_with_recorded
from neurotool.api.model import Model, open_model
from neurotool.cli.main import cli
from neurotool.errors import ConfigError, DataError, ExportError, GraphError, NeurotoolWarning
from neurotool.inputs import Given, fitted
from neurotool.recordings import Events, Gridded, is_recording, on_grid, read_recording, write_recording


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """in (3) -> 5 IF -> 2 IF -> out, of another tool."""
    rng = np.random.default_rng(0)

    def neurons(n: int) -> nir.IF:
        return nir.IF(r=np.ones(n), v_threshold=np.ones(n), v_reset=np.zeros(n))

    nodes = {
        "in": nir.Input(np.array([3])),
        "w1": nir.Linear(rng.normal(0.3, 1, size=(5, 3))),
        "l1": neurons(5),
        "w2": nir.Linear(rng.normal(0.3, 1, size=(2, 5))),
        "l2": neurons(2),
        "out": nir.Output(np.array([2])),
    }
    names = list(nodes)
    path = tmp_path / "net.nir"
    nir.write(path, nir.NIRGraph(nodes, list(pairwise(names))))
    return path


@pytest.fixture
def spikes(tmp_path: Path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, **{"in": np.random.default_rng(1).integers(0, 2, (4, 20, 3))})
    return path


FROM = ("--reset", "soft", "--time-step", 1)


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def test_events_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("sample,time,node,neuron,value\n0,0,a,1,1\n1,2,a,0,2\n0,1,b,0,1\n")
    content = read_recording(path)
    assert isinstance(content, dict) and set(content) == {"a", "b"}
    a = np.zeros((2, 3, 2))
    a[0, 0, 1], a[1, 2, 0] = 1, 2
    assert np.array_equal(on_grid("a", content["a"], 3, 2, None), a)
    with pytest.raises(DataError, match=r"a has an event at time step 2: the network's are 0 … 1 \(--time-steps 3"):
        on_grid("a", content["a"], 2, 2, None)
    for time in ("1e300", "-1"):
        path.write_text(f"time,neuron\n{time},0\n")
        with pytest.raises(DataError, match=r"an event at time step .*: the network's are 0 … 1$"):
            on_grid("a", read_recording(path), 2, 2, None)
    with pytest.raises(DataError, match="a has an event at neuron 1: the network's are 0 … 0"):
        on_grid("a", content["a"], 3, 1, None)


def test_times_of_events_become_steps_without_rounding_down() -> None:
    """3 * 1e-4 / 1e-4 is 2.9999999999999996."""
    zero = np.zeros(10, int)
    events = Events(zero, np.arange(10) * 1e-4, zero, np.ones(10), 1, in_steps=False)
    assert np.array_equal(events.gridded("x", 10, 1, 1e-4), np.ones((1, 10, 1)))
    with pytest.raises(DataError, match="how long a time step is is not known"):
        events.gridded("x", 10, 1, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time\n1\n", "column neuron is missing; there are time"),
        ("time,neuron,weight\n1,1,1\n", "column weight is not known"),
        ("time,neuron\n1,x\n", "line 2: neuron is 'x': a whole number"),
        ("time,neuron\n1,-1\n", "line 2: neuron is '-1'"),
        ("time,neuron\nnan,1\n", "line 2: time is 'nan': a number is wanted"),
        ("", "column neuron is missing; there are none"),
        (
            "time,neuron,sample\n1,1,2147483648\n",
            "line 2: sample is '2147483648': a whole number, from 0 to",
        ),
        ("time,neuron\n1,1" + "0" * 400 + "\n", "neuron is '1000"),
        ("time,neuron\n1,\0\n", "neuron is|NUL"),
        ("time,neuron,neuron\n1,1,1\n", "a column occurs twice in time, neuron, neuron; rename one"),
        ("time,neuron\n1,1,1\n", "line 2: more fields than the header's 2"),
    ],
)
def test_tables_that_are_no_events(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_recording(tmp_path / "x.csv")


def test_a_small_file_that_declares_much(tmp_path: Path) -> None:
    """A sample of a high number; and an array that is no numbers."""
    (tmp_path / "x.csv").write_text("sample,time,neuron\n2000000000,0,0\n")
    events = read_recording(tmp_path / "x.csv")
    with pytest.raises(DataError, match="x: 2000000001 samples of 10 steps and 5 neurons are more than 8 GB"):
        on_grid("x", events, 10, 5, None)
    np.savez(tmp_path / "z.npz", x=np.array(["a"]))
    with pytest.raises(DataError, match="x has type <U1: numbers are wanted"):
        on_grid("x", read_recording(tmp_path / "z.npz")["x"], 1, 1, None)  # type: ignore[index]


@pytest.mark.parametrize("how", ["external", "soft", "outside", "bomb"])
def test_nirdata_reaches_nothing_outside_of_the_file(tmp_path: Path, how: str) -> None:
    grid = nir.TimeGriddedData(np.ones((1, 2, 3), bool), 1e-3)
    nir.write_data(str(tmp_path / "x.h5"), nir.NIRGraphData({"a": nir.NIRNodeData({"spikes": grid})}))
    with h5py.File(tmp_path / "x.h5", "r+") as file:
        group = file["nodes/a/observables/spikes"]
        del group["data"]
        if how == "external":
            group["data"] = h5py.ExternalLink("other.h5", "/x")
        elif how == "soft":
            group["data"] = h5py.SoftLink("/nodes")
        elif how == "outside":
            group.create_dataset("data", (1, 2, 3), "f4", external=[("/etc/passwd", 0, 24)])
        else:
            group.create_dataset("data", (10**4, 10**4, 10**4), "f4", chunks=(10, 10, 10), compression="gzip")
    with pytest.raises(GraphError, match=r"/nodes/a/observables/spikes/data (is a link|lies in another file|declares)"):
        read_recording(tmp_path / "x.h5")


def test_nirdata_as_stock_nir_writes_and_reads_it(tmp_path: Path) -> None:
    grid = np.random.default_rng(0).integers(0, 2, (2, 8, 3)).astype(bool)
    gridded = nir.TimeGriddedData(grid, 1e-3)
    data = {"a": nir.NIRNodeData({"spikes": gridded}), "b": nir.NIRNodeData({"spikes": gridded.to_event(24)})}
    nir.write_data(str(tmp_path / "x.h5"), nir.NIRGraphData({f"sub.{name}": node for name, node in data.items()}))
    content = read_recording(tmp_path / "x.h5")
    assert isinstance(content, dict)
    for name in ("sub.a.spikes", "sub.b.spikes"):
        assert np.array_equal(on_grid(name, content[name], 8, 3, 1e-3), grid)
    assert isinstance(content["sub.a.spikes"], Gridded)
    with pytest.warns(
        NeurotoolWarning, match="a has a time step of 0.001, the network one of 0.0001: it is taken step"
    ):
        on_grid("a", content["sub.a.spikes"], 8, 3, 1e-4)

    write_recording(tmp_path / "y.h5", {"n.spikes": grid, "n.potentials": grid[:, 0] / 2}, 1e-3)
    found = nir.read_data(str(tmp_path / "y.h5")).nodes["n"].observables
    assert set(found) == {"spikes"} and found["spikes"].dt == 1e-3
    assert found["spikes"].data.dtype == bool and np.array_equal(found["spikes"].data, grid)


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".csv", ".h5"])
def test_what_is_recorded_can_be_given(file: Path, spikes: Path, tmp_path: Path, suffix: str) -> None:
    """The spikes of the first layer, recorded, are those of a network of the second alone: the same comes out."""
    out = tmp_path / f"out{suffix}"
    record = ("--record", "l1") if suffix != ".npy" else ()
    if suffix == ".npy":
        x = np.load(spikes)["in"]
        np.save(out, open_model(file, reset="soft", time_step=1, time_steps=20).run(x).spikes["l1"])
    else:
        result = run("run", file, *FROM, "--input", spikes, *record, "-o", out)
        assert result.exit_code == 0, result.stderr
    assert is_recording(out)
    whole = open_model(file, reset="soft", time_step=1, time_steps=20)
    second = whole.part("w2", "l2")
    expected = whole.run(np.load(spikes)["in"]).spikes["l2"]
    content = read_recording(out)
    given: Any = (
        content if not isinstance(content, dict) else {"l1": content["l1" if suffix == ".csv" else "l1.spikes"]}
    )
    batch = fitted(second.graph, given)
    assert np.array_equal(second.executor().run(**batch, record=True).spikes["l2"], expected)


def test_time_steps_are_those_of_the_input(file: Path, spikes: Path) -> None:
    result = run("run", file, *FROM, "--input", spikes, "--json")
    assert result.exit_code == 0, result.stderr
    assert open_model(file, reset="soft", time_step=1, given=Given((str(spikes),))).graph.time_steps == 20


def test_binary_inputs_are_spikes_and_their_operations_accumulates(file: Path, spikes: Path) -> None:
    """Every spike of an input costs a synaptic operation for each of 5 targets; a current costs none."""
    x = np.load(spikes)["in"]
    model = open_model(file, reset="soft", time_step=1, time_steps=20)
    assert model.run(x).synaptic_operations["w1", "x"].tolist() == (5 * x.sum((1, 2))).tolist()
    assert ("w1", "x") not in model.run(x, input_kind="currents").events
    assert ("w1", "x") not in model.run(x * 0.5).events
    with pytest.raises(DataError, match=r"in has values such as 0\.5: spikes are 0 and 1"):
        model.run(x * 0.5, input_kind="spikes")
    for options, expected in (((), 5), (("--input-kind", "currents"), 0)):
        result = run("energy", "report", file, *FROM, "--input", spikes, "--json", *options)
        assert result.exit_code == 0, result.stderr
        report = json.loads(result.stdout)
        of_first = sum(node["synaptic_operations"] for node in report["nodes"] if node["name"] == "w1")
        assert of_first == expected * x.sum()
        assert report["measured"].startswith(f"4 inputs: {spikes}")


def test_several_inputs_by_name(tmp_path: Path) -> None:
    nodes = {
        "a": nir.Input(np.array([2])),
        "b": nir.Input(np.array([2])),
        "n": nir.IF(r=np.ones(2), v_threshold=np.ones(2), v_reset=np.zeros(2)),
        "out": nir.Output(np.array([2])),
    }
    nir.write(tmp_path / "net.nir", nir.NIRGraph(nodes, [("a", "n"), ("b", "n"), ("n", "out")]))
    x = np.random.default_rng(0).random((2, 6, 2))
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "b.npz", any=1.5 - x)
    files = ("--input", f"a={tmp_path / 'a.npy'}", "--input", f"b={tmp_path / 'b.npz'}")
    out = tmp_path / "out.npz"
    result = run("run", tmp_path / "net.nir", *FROM, *files, "-o", out)
    assert result.exit_code == 0, result.stderr
    assert np.load(out)["n.spikes"].sum() == 2 * 6 * 2  # a + b = 1.5 in every step
    result = run("run", tmp_path / "net.nir", *FROM, "--input", tmp_path / "a.npy")
    assert result.exit_code == 2 and "one array is given, and the network reads a, b" in result.stderr
    result = run("run", tmp_path / "net.nir", *FROM, *files[:2])
    assert result.exit_code == 2 and "b is missing, wanted is (inputs, 2)" in result.stderr


def test_random_inputs_only_if_asked_for(file: Path, tmp_path: Path) -> None:
    told = (*FROM, "-T", 5)
    for command in (
        ("run", file, *told),
        ("validate", file, file, *told),
        ("energy", "report", file, *told),
        ("export", file, *told, "--target", "lava", "-o", tmp_path / "x.lava"),
    ):
        result = run(*command)
        assert result.exit_code == 2
        assert "reads no text: give recordings with --input, or random inputs with --random" in result.stderr
        result = run(*command, "--random")
        assert result.exit_code == 0, result.stderr
        assert "random inputs" in result.stdout
    with pytest.raises(ConfigError, match="reads no text"):
        open_model(file, reset="soft", time_step=1, time_steps=5).samples()


def test_calibration_on_given_inputs(file: Path, spikes: Path, tmp_path: Path) -> None:
    result = run("export", file, *FROM, "--target", "lava", "--input", spikes, "-o", tmp_path / "x.lava")
    assert result.exit_code == 0, result.stderr
    assert f"calibrated on 4 inputs: {spikes}" in result.stdout
    result = run("export", file, *FROM, "-T", 20, "--target", "nir", "--input", spikes, "-o", tmp_path / "y.nir")
    assert result.exit_code == 2 and "--input" in result.stderr


def recorded(file: Path, spikes: Path) -> dict[str, np.ndarray]:
    return open_model(file, reset="soft", time_step=1, time_steps=20).run(np.load(spikes)["in"]).spikes


def test_validate_against_what_another_tool_recorded(file: Path, spikes: Path, tmp_path: Path) -> None:
    sent = recorded(file, spikes)
    path = tmp_path / "recorded.h5"
    write_recording(path, {f"{name}.spikes": x for name, x in sent.items()})
    result = run("validate", file, path, *FROM, "--input", spikes)
    assert result.exit_code == 0, result.stderr
    assert "PASS: exactly the same spikes" in result.stdout

    flipped = sent["l2"].copy()
    flipped.reshape(4, 20, 2)[1, 7, 1] ^= 1
    write_recording(path, {"l1.spikes": sent["l1"], "out.spikes": flipped}, force=True)
    result = run("validate", file, path, *FROM, "--input", spikes, "--json")
    assert result.exit_code == 1
    first = json.loads(result.stdout)["first_difference"]
    place = {"layer": "l2", "input": 1, "step": 7, "token": 0, "neuron": 1}
    assert place.items() <= first.items()
    assert (first["a"], first["b"]) == (
        int(sent["l2"].reshape(4, 20, 2)[1, 7, 1]),
        int(flipped.reshape(4, 20, 2)[1, 7, 1]),
    )


def test_analog_outputs_are_compared_with_what_is_recorded(file: Path, spikes: Path, tmp_path: Path) -> None:
    """By the name of the node or of the Output, in single precision, one step late; one percent off is not the same."""
    content = nir.read(file)
    nodes = content.nodes | {"l2": nir.LI(tau=np.full(2, 4.0), r=np.ones(2), v_leak=np.zeros(2))}
    nir.write(file, nir.NIRGraph(nodes, content.edges), compression=None)
    model, path = open_model(file, reset="soft", time_step=1, time_steps=20), tmp_path / "recorded.npz"
    run, given = model.run(np.load(spikes)["in"]), Given((str(spikes),))
    values = run.analog["l2"]
    late = np.pad(values, ((0, 0), (1, 0), (0, 0)))[:, :20]
    for name, found, passed in (
        ("l2.values", values.astype(np.float32), True), ("out", late, True), ("l2", values * 1.01, False),
        ("l2", np.full_like(values, np.nan), False),
    ):  # fmt: skip
        np.savez(path, **{"l1": run.spikes["l1"], name: found})
        compared = compare_with_recorded(model, path, given=given)
        assert compared.passed == passed and list(compared.result.outputs) == ["l2"], name
    np.savez(path, l1=run.spikes["l1"][:, :5])
    with pytest.warns(NeurotoolWarning, match="l1 is recorded for 5 steps, and T is 20"):
        assert compare_with_recorded(model, path, given=given).passed


def test_constant_inputs_of_several_axes_say_no_steps(tmp_path: Path) -> None:
    nodes = {
        "in": nir.Input(np.array([5, 4])),
        "conv": nir.Conv1d(4, np.ones((3, 5, 3)), 1, 1, 1, 1, np.zeros(3)),
        "n": nir.IF(np.ones((3, 4)), np.ones((3, 4))),
    }
    file, x = tmp_path / "line.nir", tmp_path / "x.npy"
    nir.write(file, nir.NIRGraph(nodes, [("in", "conv"), ("conv", "n")], type_check=False))
    for shape, steps in (((2, 7, 5, 4), 7), ((2, 7, 20), 7), ((2, 5, 4), None), ((2, 20), None)):
        np.save(x, np.ones(shape))
        given = Given((str(x),))
        if steps is None:
            with pytest.raises(GraphError, match="does not say how long to run"):
                open_model(file, tool="norse", given=given)
        else:
            assert open_model(file, tool="norse", given=given).time_steps == steps
        model = open_model(file, tool="norse", given=given, time_steps=steps or 5)
        assert model.arrays(x).inputs[0]["values"]["in"].shape[-3:] == (5, 1, 4)
    with pytest.raises(DataError, match=r"it has 7 steps, and T is another; with T = 7 \(-T 7\), or without -T"):
        np.save(x, np.ones((2, 7, 5, 4)))
        open_model(file, tool="norse", time_steps=6).arrays(x)


def test_a_layer_that_is_sent_late_is_compared_in_step(file: Path, spikes: Path, tmp_path: Path) -> None:
    """As Lava does it: one step for each layer."""
    sent = recorded(file, spikes)
    late = {}
    for steps, (name, x) in enumerate(sent.items(), start=1):
        flat = x.reshape(4, 20, -1)
        late[f"{name}.spikes"] = np.concatenate([np.zeros_like(flat[:, :steps]), flat[:, :-steps]], 1)
    path = tmp_path / "recorded.npz"
    write_recording(path, late)
    result = run("validate", file, path, *FROM, "--input", spikes)
    assert result.exit_code == 0, result.stdout + result.stderr
    assert "l1: B is 1 step late, and compared so" in result.stdout
    assert "l2: B is 2 steps late, and compared so" in result.stdout


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"l3.spikes": np.zeros((4, 20, 5))}, "nothing is recorded of l1, l2: there is l3.spikes"),
        ({"l1.spikes": np.zeros((4, 20, 6))}, r"l1 is recorded as \(4, 20, 6\): \(inputs = 4, steps, 5 neurons\)"),
        ({"l1.spikes": np.zeros((3, 20, 5))}, r"l1 is recorded as \(3, 20, 5\)"),
    ],
)
def test_recordings_of_something_else(
    file: Path, spikes: Path, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = tmp_path / "recorded.npz"
    write_recording(path, arrays)
    model = open_model(file, reset="soft", time_step=1, time_steps=20)
    with pytest.raises(DataError, match=message):
        compare_with_recorded(model, path, given=Given((str(spikes),)))
    with pytest.raises(ConfigError, match="holds spikes, but not what the network was given"):
        compare_with_recorded(model, path)


def test_a_part_is_a_file_of_its_own(file: Path, spikes: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.nir"
    result = run("export", file, *FROM, "-T", 20, "--from-node", "w2", "--to-node", "l2", "-o", part)
    assert result.exit_code == 0, result.stderr
    assert "- NIR alone does not carry: reset soft (l2)" in result.stdout
    sent = recorded(file, spikes)
    model = open_model(part)
    assert np.array_equal(model.run(sent["l1"]).spikes["l2"], sent["l2"])
    assert set(nir.read(part).nodes) >= {"l1", "w2", "l2"}
    result = run("export", file, *FROM, "-T", 20, "--from-node", "nowhere", "-o", part, "--force")
    assert result.exit_code == 2 and "nowhere: there is no such node" in result.stderr


def test_names_that_are_no_recordings(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"recordings are written as \.npz, \.npy, \.csv, \.h5 or \.hdf5"):
        write_recording(tmp_path / "x.txt", {})
    with pytest.raises(ExportError, match="holds one array, and there are 2"):
        write_recording(tmp_path / "x.npy", {"a": np.zeros(1), "b": np.zeros(1)})
    with pytest.raises(DataError, match="no such file"):
        read_recording(tmp_path / "x.npz")
    assert not list(tmp_path.iterdir())


def test_a_model_in_hdf5_is_no_recording(file: Path) -> None:
    named = file.with_suffix(".h5")
    file.rename(named)
    assert not is_recording(named)
    assert isinstance(open_model(named, reset="soft", time_step=1, time_steps=2), Model)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_files_that_unpack_to_far_more_than_they_are(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("neurotool.recordings.FREE_BYTES", 2**20)
    path, x = tmp_path / f"x{suffix}", np.zeros((1, 2**22), np.uint8)
    if suffix == ".npz":
        np.savez_compressed(path, x=x)
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("node/data", x.shape, x.dtype, data=x, compression="gzip")
    with pytest.raises(DataError, match=r"unpacks to 0\.00419 GB, and 0\.00\d+ GB are the limit") as refused:
        read_recording(path)
    assert len(str(refused.value).replace(str(path), "")) < 300
    np.savez(path.with_suffix(".npz"), x=np.ones_like(x))  # as large, and not packed
    assert read_recording(path.with_suffix(".npz"))["x"].sum() == x.size  # type: ignore[index]
