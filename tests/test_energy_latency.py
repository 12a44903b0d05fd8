"""Time, and energy beyond operations: hand-made sums, and steps run one by one."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.costs import cost_models, load_cost_model
from neurotool.energy.counts import Counts, count, events_of_activity
from neurotool.energy.dataflow import OUTPUT_STATIONARY, SPIKE
from neurotool.energy.latency import Beyond, Load, Part, parts_by_weights, phases
from neurotool.energy.latency_page import Line, Timed, as_dict, check_technology, latency_page
from neurotool.energy.machine import FOLDER, UNITS, Machine, Mesh, load_machine, machines
from neurotool.energy.measure import measure
from neurotool.energy.report import build_report
from neurotool.errors import ConfigError
from neurotool.graph import Embedding, Graph, GraphBuilder, Input, Linear, MeanPool, Neuron, Readout
from neurotool.simulate import simulate

INT8 = load_cost_model("loihi1-pre-silicon").default_format
LOIHI = load_machine("loihi1").giving(
    ["synaptic_operation=2", "neuron_update=3", "barrier=100", "static_power=100", "message=0"]
)


def two_layers(spikes: int = 2000, schedule: Any = "phased") -> Counts:
    """10 tokens of 100 neurons, 100 x 50 weights, T = 4, in `spikes` spikes of the first layer, 300 of the second."""
    build = GraphBuilder()
    s = build.add("first", Neuron(), build.add("current", Input(100)))
    last = build.add("last", Neuron(), build.add("weights", Linear(np.ones((50, 100))), s))
    build.add("readout", Readout(np.ones((2, 50))), build.add("pool", MeanPool(), last))
    graph = build.build(time_steps=4, schedule=schedule, tokens=10)
    activity = Activity(4, 4, Counter([10]))
    active = LayerActivity(100, spikes // 2, 5 * spikes)
    activity.layers = {
        "first": LayerActivity(100, spikes, 10 * spikes, active=active),
        "last": LayerActivity(50, 300, 3000, active=LayerActivity(50, 200, 2000)),
    }
    return count(graph, activity, events_of_activity(graph, activity), dataflow=SPIKE)


def beyond(counts: Counts, machine: Machine = LOIHI, **options: Any) -> Beyond:
    return Beyond(counts, tuple(parts_by_weights(counts.graph)), machine, INT8, **options)


def test_two_windows_by_hand() -> None:
    """2000 x 50 additions take 200 µs, 50 neurons 4 x 10 times 6 µs; no step takes less than 100 ns."""
    in_turn, copied = beyond(two_layers()).arrangements
    assert (in_turn.latency, in_turn.interval) == (206_000, 200_000)
    assert in_turn.binds == (("weights", "synaptic_operation"), ("weights", "neuron_update"))
    assert (copied.latency, copied.interval, copied.cores) == (20_600, 20_000, 10)
    assert (in_turn.cores, in_turn.chips, copied.chips) == (1, 1, 1)


def test_the_barrier_binds_where_there_is_little_to_do() -> None:
    in_turn = beyond(two_layers(), LOIHI.giving(["barrier=20000"])).arrangements[0]
    assert in_turn.latency == 2 * 40 * 20_000 and in_turn.interval == 40 * 20_000
    assert [what for _, what in in_turn.binds] == ["barrier", "barrier"]


def test_all_layers_step_together_in_a_concurrent_run() -> None:
    in_turn = beyond(two_layers(schedule="concurrent")).arrangements[0]
    assert in_turn.latency == in_turn.interval == 200_000  # the same core's additions; updates run beside them


def test_work_is_spread_over_cores() -> None:
    """50 outputs on 3 cores: 17 of them on the busiest."""
    counts = two_layers()
    part = replace(parts_by_weights(counts.graph)[0], cores=3)
    sending = phases(counts, [part])[0].loads["weights"]
    assert sending == Load(synaptic_operation=pytest.approx(2000 * 17), memory_read=pytest.approx(2000 * 17))
    placed = Beyond(counts, (part,), LOIHI, INT8)
    assert placed.messages == 2000 * 3
    assert placed.arrangements[0].latency == pytest.approx(2000 * 17 * 2 + 40 * 100)  # 17 x 40 updates take 2 µs


def test_batches_and_static_power() -> None:
    one, four = beyond(two_layers()), beyond(two_layers(), batch=4)
    assert one.static(one.arrangements[0]) == 100 * 206_000
    assert four.static(four.arrangements[0]) == 100 * (206_000 + 3 * 200_000) / 4


def test_transport_by_the_mean_distance_of_two_tiles() -> None:
    """Every pair of an 8 x 4 mesh; every spike goes to one core. Batched, every active neuron sends once."""
    pairs = [(abs(a - b), abs(c - d)) for a in range(8) for b in range(8) for c in range(4) for d in range(4)]
    east, north = np.mean(pairs, axis=0)
    mesh = LOIHI.mesh
    assert mesh is not None and mesh.mean_hops(1) == pytest.approx((east, north))
    assert beyond(two_layers()).transport(1) == pytest.approx(2000 * (3 * east + 4 * north))
    assert beyond(two_layers().under(OUTPUT_STATIONARY)).transport(1) == pytest.approx(1000 * (3 * east + 4 * north))
    assert mesh.mean_hops(2)[0] == pytest.approx(np.mean([abs(a - b) for a in range(16) for b in range(16)]))


def test_weights_off_the_chip() -> None:
    """5,100 weights of 8 bits, 4,100 of them outside: 1,300 pJ for 64 bits."""
    counts, machine = two_layers(), load_machine("45nm")
    outside = beyond(counts, machine, on_chip=1000)
    assert outside.off_chip(counts, INT8) == pytest.approx(4100 / 8 * 1300)
    assert beyond(counts, machine, on_chip=1000, batch=10).off_chip(counts, INT8) == pytest.approx(410 / 8 * 1300)
    assert beyond(counts, machine, on_chip=10_000).off_chip(counts, INT8) == 0
    assert beyond(counts, machine).off_chip(counts, INT8) is None
    stepping = two_layers(schedule="concurrent")
    assert outside.off_chip(stepping, INT8) == pytest.approx(4 * 4100 / 8 * 1300)
    assert outside.off_chip(stepping, INT8, "dense") == pytest.approx(4100 / 8 * 1300)


def test_every_switch_is_listed_when_off() -> None:
    counts = two_layers()
    on = beyond(counts)
    off = beyond(counts, without=frozenset({"latency", "static", "transport", "off-chip"}))
    for name in ("latency", "static", "transport", "off-chip"):
        assert f"{name} (switched off)" in off.off and f"{name} (switched off)" not in on.off
    arrangement = off.arrangements[0]
    assert arrangement.latency is None and off.static(arrangement) is None and off.transport(1) is None
    assert "off-chip (weights that do not fit take more chips)" in on.off


def stepped_graph() -> Graph:
    rng = np.random.default_rng(3)
    build = GraphBuilder()
    s = build.add("s", Neuron(0.4), build.add("word", Embedding(rng.normal(size=(9, 6)))))
    last = build.add("last", Neuron(0.5), build.add("linear", Linear(rng.normal(size=(4, 6))), s))
    build.add("readout", Readout(np.ones((2, 4))), build.add("pool", MeanPool(), last))
    return build.build(time_steps=4, schedule="phased", tokens=6)


@pytest.mark.parametrize(("barrier", "update"), [(0.0, 0.0), (1.0, 0.0), (5.0, 2.0), (30.0, 4.0)])
def test_a_lower_bound_of_steps_that_run_one_by_one(barrier: float, update: float) -> None:
    """Where nothing but additions takes time, it is exact."""
    graph, text = stepped_graph(), {"input_ids": np.array([1, 5, 2, 7, 3])}
    spikes = simulate(graph, **text).spikes["s"]
    window_s = sum(max(barrier, 2.0 * 4 * np.count_nonzero(step)) for tokens in spikes for step in tokens)
    window_last = sum(max(barrier, update * 4) for _ in range(4 * 5))
    machine = Machine("m", "m", "t", (), {}, (), "loihi1", Mesh(8, 4, 4, "", "")).giving(
        ["synaptic_operation=2", f"neuron_update={update}", f"barrier={barrier}"]
    )
    in_turn = beyond(count(graph, *measure(graph, [text]), dataflow=SPIKE), machine).arrangements[0]
    assert in_turn.latency is not None and in_turn.latency <= window_s + window_last
    if not barrier:
        assert in_turn.latency == pytest.approx(window_s + window_last)
    assert in_turn.latency >= 4 * 5 * 2 * barrier


def test_energies_of_two_technologies_are_not_added() -> None:
    loihi = load_machine("loihi1")
    check_technology(loihi, load_cost_model("loihi1-silicon"))
    with pytest.raises(ConfigError, match="energies of two technologies are not added; choose one of loihi1-pre"):
        check_technology(loihi, load_cost_model("horowitz-45nm"))


def first_line(counts: Counts, name: str, **options: Any) -> Line:
    report = build_report("m", "on nothing", counts, [load_cost_model(name)], chosen=[SPIKE])
    return Timed(report, beyond(counts, **options)).lines[0]


def test_the_sum_names_its_parts() -> None:
    counts = two_layers()
    line = first_line(counts, "loihi1-pre-silicon")
    # 23.6 pJ for each of 100,000 operations, 52 for each of 6,000 updates, 81 - 52 + 1.7 for each of 2,300 spikes.
    assert line.operations == pytest.approx(100_000 * 23.6 + 6_000 * 52 + 2_300 * 30.7)
    assert line.energy == pytest.approx(line.operations + 100 * 206_000 + (line.transport or 0))
    assert line.energy_delay == pytest.approx((line.energy or 0) * 1e-12 * 206_000e-9)
    quiet = first_line(counts, "loihi1-pre-silicon", without=frozenset({"static", "transport"}))
    assert quiet.energy == line.operations and quiet.data["static_pJ"] is None
    assert first_line(counts, "loihi2").energy is None


def test_loihi_2_needs_times_of_the_users() -> None:
    counts, loihi2 = two_layers(), load_machine("loihi2")
    bare = beyond(counts, loihi2)
    assert bare.arrangements[0].latency is None and any("give them with --constant" in why for why in bare.off)
    given = beyond(counts, loihi2.giving(["synaptic_operation=0.5", "memory_read=2"]))
    assert given.arrangements[0].latency == 2000 * 50 * 2  # reads bind; neurons take no time that is known
    assert given.arrangements[0].binds[0] == ("weights", "memory_read")


def test_a_page_of_pairs_with_weights_outside() -> None:
    counts, machine = two_layers(), load_machine("45nm")
    memory = load_cost_model("horowitz-45nm-memory")
    report = build_report("m", "on nothing", counts, [memory])
    outside = beyond(counts, machine, on_chip=1000)
    timed = Timed(report, outside)
    page = latency_page(timed)
    assert page.tables[-1].caption == "Constants of 45 nm"
    shares = {row[0]: row[-2:] for row in page.tables[-2].rows}
    pair = timed.pairs[0]
    ours, theirs = (outside.off_chip(side.counts, side.numbers, side.network) for side in (pair.spiking, pair.dense))
    assert ours == theirs == (5100 * 32 - 8000) / 64 * 1300
    before, after = shares[f"{pair.spiking.numbers.name}: {pair.rival}"]
    assert before != after and as_dict(timed)["off_chip"][0]["rival_pJ"] == theirs
    assert "latency (it is no chip with cores)" in page.notes[-1]


@pytest.mark.parametrize("name", machines())
def test_every_constant_has_its_source(name: str) -> None:
    machine = load_machine(name)
    assert machine.name == name and machine.leaves_out
    assert all(c.source and c.node and c.voltage and c.status for c in machine.constants.values())
    for model in machine.cost_models:
        assert model in cost_models() and load_cost_model(model).technology == machine.technology


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("speed=3", "'speed' is not known; choose from synaptic_operation"),
        ("barrier=fast", "'fast' must be a number of ns, 0 or more"),
        ("barrier=-1", "'-1' must be a number of ns, 0 or more"),
        ("barrier", "'' must be a number of ns"),
        ("static_power=inf", "'inf' must be a number of mW"),
    ],
)
def test_constants_are_checked(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_machine("loihi2").giving([given])
    assert message in str(error.value) and str(error.value).startswith(f"--constant {given}:")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 9}, "machine format version 9"),
        ({"constants": {"barrier": {"value": 1}}}, "entry 'unit' is missing or wrong"),
        ({"mesh": {"columns": 3}}, "is missing or wrong"),
        ({"technology": None, "name": 3, "constants": {"speed": {"value": 1, "unit": "ns", "node": "", "voltage": "",
          "source": "", "status": ""}}}, "constant speed is 1 ns: known are"),
    ],
)  # fmt: skip
def test_a_users_machine_is_checked(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(json.loads((FOLDER / "loihi1.json").read_text("utf-8")) | change), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_machine(str(path))
    with pytest.raises(ConfigError, match="machine 'loihi9' is not known: choose one of 45nm, loihi1, loihi2"):
        load_machine("loihi9")


def test_units_are_named_for_every_constant() -> None:
    assert set(UNITS.values()) == {"ns", "pJ", "mW"}
    assert Part("p", ("a",), 50, 3).busiest == 17 / 50
