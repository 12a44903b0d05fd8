"""Stock Lava processes: our account of Dense and LIF against lava-nc, and the defects that make us use our own."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neurotool.graph import FixedPoint, Graph, GraphBuilder, Input, Linear, MeanPool, Neuron, Readout
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.entering import entering
from neurotool.lava_runtime.job import Job
from neurotool.lava_runtime.network import Network
from neurotool.lava_runtime.run import run_jobs
from neurotool.lava_runtime.session import run_in_own_session
from neurotool.lava_runtime.stock import DenseLif, dense_weights, stock_parameters

lava_installed = pytest.mark.skipif(
    compatibility.installation_problem() is not None, reason=f"Lava: {compatibility.installation_problem()}"
)


@pytest.fixture(scope="session")
def on_lava(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Runs cases of tests/stock_on_lava.py in one worker."""

    def run(cases: list[dict[str, Any]]) -> list[Any]:
        path = tmp_path_factory.mktemp("stock") / "cases.json"
        path.write_text(json.dumps(cases))
        script = Path(__file__).parent / "stock_on_lava.py"
        exit_code, output = run_in_own_session([sys.executable, str(script), str(path)], timeout=120)
        assert exit_code == 0, output
        # What Lava says of the process that fails may come after it.
        lines = [line for line in output.splitlines() if line.startswith("[")]
        results: list[Any] = json.loads(lines[-1])
        return results

    return run


def stepped(case: dict[str, Any]) -> dict[str, Any]:
    dense, lif = case["dense"], case["lif"]
    bits = dense.get("num_weight_bits", 8)
    model = DenseLif(np.array(dense["weights"]), dense.get("weight_exp", 0), bits, **lif)
    result: dict[str, Any] = {"u": [], "v": [], "spikes": []}
    for s_in in case["inputs"]:
        result["spikes"].append(model.step(np.array(s_in)).astype(int).tolist())
        result["u"].append(model.u.tolist())
        result["v"].append(model.v.tolist())
    return result


@st.composite
def dense_lif_cases(draw: Any) -> dict[str, Any]:
    """Weights of one sign or both, decays over their whole range, drives that wrap u and clip v."""
    low, high = draw(st.sampled_from([(-300, 300), (0, 300), (-300, 0), (-20, 20)]))
    weight = st.integers(low, high)
    weights = draw(st.lists(st.lists(weight, min_size=3, max_size=3), min_size=2, max_size=2))
    spike = st.integers(0, 1)
    return {
        "process": "dense_lif",
        "dense": {
            "weights": weights,
            "weight_exp": draw(st.integers(-3, 10)),
            "num_weight_bits": draw(st.sampled_from([8, 8, 6, 4])),
        },
        "lif": {
            "du": draw(st.sampled_from([0, 1, 2047, 4095]) | st.integers(0, 4095)),
            "dv": draw(st.sampled_from([0, 2048, 4095]) | st.integers(0, 4095)),
            "bias_mant": draw(st.sampled_from([0, 0, 7, -4096, 4095])),
            "bias_exp": draw(st.integers(0, 7)),
            "vth": draw(st.sampled_from([0, 10, 131071]) | st.integers(0, 4000)),
        },
        "inputs": draw(st.lists(st.lists(spike, min_size=3, max_size=3), min_size=12, max_size=12)),
    }


@lava_installed
@pytest.mark.slow
@settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.lists(dense_lif_cases(), min_size=6, max_size=6))
def test_dense_and_lif_are_what_lava_computes(on_lava: Any, cases: list[dict[str, Any]]) -> None:
    for case, lava in zip(cases, on_lava(json.loads(json.dumps(cases))), strict=True):
        assert stepped(case) == lava, case


def lif(steps: int, impulse: int = 0, **arguments: int) -> dict[str, Any]:
    """One neuron; `impulse` arrives from a Dense in the second step. (Lava's own tests send it without a Dense.)"""
    case = {
        "dense": {"weights": [[impulse]]},
        "lif": {"vth": 131071} | arguments,
        "inputs": [[1]] + [[0]] * (steps - 1),
    }
    return stepped(case)


def test_a_bias_of_128_reaches_512_after_four_steps_and_must_exceed_it() -> None:
    spikes = lif(10, bias_mant=2, bias_exp=6, vth=8)["spikes"]
    assert [s[0] for s in spikes] == [0, 0, 0, 0, 1] * 2  # 5 * 128 > 512 = 8 << 6


def test_half_the_current_decays_in_a_step() -> None:
    u = lif(9, 128, du=2047)["u"]
    assert [x[0] for x in u] == [0] + [128 * 64 >> k for k in range(8)]  # the chip adds 1 to du


def test_the_voltage_integrates_a_current_that_decays_by_1_of_4096() -> None:
    """By hand: u = 8192, 8190, 8188 (8190 * 4095 / 4096 is 8188.0005), …; v halves and adds u."""
    result = lif(5, 128, du=0, dv=2048)
    assert [x[0] for x in result["u"]] == [0, 8192, 8190, 8188, 8186]
    assert [x[0] for x in result["v"]] == [0, 8192, 4096 + 8190, 6143 + 8188, 7165 + 8186]


@pytest.mark.parametrize(
    ("weights", "bits", "expected"),
    [
        ([[3, 5]], 8, [[3, 5]]),
        ([[3, -5]], 8, [[2, -6]]),
        ([[-3, -5]], 8, [[-3, -5]]),
        ([[300, 1]], 8, [[255, 1]]),
        ([[300, -300]], 8, [[254, -256]]),
        ([[7, 200]], 6, [[4, 200]]),
        ([[-7, -200]], 6, [[-4, -200]]),
        ([[7, -7]], 6, [[0, -8]]),
        ([[0, 0]], 8, [[0, 0]]),
    ],
)
def test_weights(weights: list[list[int]], bits: int, expected: list[list[int]]) -> None:
    assert dense_weights(np.array(weights), bits).tolist() == expected


def test_current_wraps_and_voltage_clips() -> None:
    m = 2**23
    model = DenseLif(np.array([[128]]), weight_exp=10, vth=131071)
    model.step(np.array([1]))
    model.step(np.array([0]))
    assert model.u.tolist() == [m]  # 128 << 10 << 6: the largest that stays
    assert model.v.tolist() == [0]  # it exceeds the largest threshold, fires and is reset
    model = DenseLif(np.array([[129]]), weight_exp=10, vth=131071)
    model.step(np.array([1]))
    model.step(np.array([0]))
    assert model.u.tolist() == [(129 << 16) - 2 * m]
    assert model.v.tolist() == [(129 << 16) - 2 * m]
    model.step(np.array([0]))
    assert model.v.tolist() == [-m + 1]  # clipped, not wrapped


@lava_installed
def test_defects_of_stock_processes(on_lava: Any) -> None:
    """If one of these fails, Lava was repaired, and it may be time to use its process."""
    big, four = 2**16, [[[4]], [[4]]]
    results = on_lava(
        [
            {"process": "product", "vth": 1, "exp": 0, "inputs": [[[big]], [[big]]]},
            {"process": "product", "vth": 1, "exp": 0, "inputs": four},
            {"process": "graded", "vth": 1, "exp": 0, "inputs": [[[100]]]},
            {"process": "graded", "vth": 1, "exp": 4, "inputs": [[[100]]]},
            {"process": "inverse_root", "fp_base": 12, "inputs": [[[16384]]]},
            {"process": "inverse_root", "fp_base": 8, "inputs": [[[16384]]]},
            {"process": "failing_lif", "dv": 0.0},
        ]
    )
    wrapped, right, plain, scaled, at_12, at_8, failed = results
    assert right == [[16]]
    assert wrapped == [[0]]  # 2^32 in 32 bits
    assert plain == scaled == [[100]]  # exp is ignored: 100 * 2^-4 or 100 * 2^4 was asked for
    # 16384 with 12 fraction bits is 4, so 1/2 = 2048 of 4096; with 8 bits it is 64, so 1/8 = 32 of 256.
    assert abs(at_12[0][0] - 2048) <= 4
    assert at_8 == at_12  # fp_base is ignored
    assert failed == "TypeError"  # dv is 0.0 and not 0


def chain(seed: int = 0, **changes: Any) -> Graph:
    """Three layers of neurons with Linears between them, one token; `changes`: of the second and third layer."""
    rng, build, fixed = np.random.default_rng(seed), GraphBuilder(), {}
    x = build.add("x", Input(3, spiking=True))
    fixed[x] = FixedPoint(1.0, 1)
    widths = (3, 5, 4, 4)
    for i in (1, 2, 3):
        weight = rng.integers(-127, 128, (widths[i], widths[i - 1])).astype(np.int8)
        y = build.add(f"y{i}", Linear(weight), x)
        exponents = np.full(widths[i], i - 1, np.int8)
        fixed[y] = FixedPoint(1.0, widths[i - 1] * 127 << (i - 1), ((1, 0),), exponents)
        neuron = Neuron(**{"v_threshold": 64 * 90 + 1, "reset": "hard"} | (changes if i > 1 else {}))
        x = build.add(f"n{i}", neuron, y)
        fixed[x] = FixedPoint(1.0, 1, ((64, 0),))
    build.add("readout", Readout(rng.integers(-127, 128, (2, 4)).astype(np.int8)), build.add("pool", MeanPool(), x))
    fixed["pool"] = FixedPoint(1.0, 2**20, ((1, 0),))
    fixed["readout"] = FixedPoint(1.0, 2**40, ((1, 10),), np.zeros(2, np.int8))
    return build.build(time_steps=6, schedule="concurrent", fixed_point=fixed)


@lava_installed
def test_stock_layers_give_the_emulators_integers() -> None:
    jobs, expected = [], []
    for seed, leak in enumerate((1.0, 2047 / 4096, 0.75)):
        graph = chain(seed, leak=leak)
        values = {"x": np.random.default_rng(seed).integers(0, 2, (3, 6, 1, 3))}
        record = ("n1", "n2", "n3")
        network = Network(graph, record)
        assert list(network.stock) == ["n2", "n3"]
        assert [network.delays[name] for name in ("n1", "n2", "n3", "readout")] == [0, 1, 2, 2]
        jobs.append(Job(graph, entering(graph, None, None, None, values), record))
        expected.append(Emulator(graph).run(values=values, record=True))
    for lava, emulator in zip(run_jobs(jobs, timeout=120), expected, strict=True):
        np.testing.assert_array_equal(lava.logits, emulator.logits)
        for kind in ("spikes", "potentials", "messages"):
            for name in ("n1", "n2", "n3"):
                np.testing.assert_array_equal(getattr(lava, kind)[name], getattr(emulator, kind)[name])
    assert all(emulator.spikes["n3"].any() for emulator in expected)


@pytest.mark.parametrize(
    "changes",
    [
        {"reset": "soft"},
        {"spikes": "ternary"},
        {"v_init": 0.25},
        {"leak": 0.0},
        {"v_threshold": 64 * 90, "leak": 0.5},  # potentials between the multiples of 64 matter
        {"v_threshold": 64 * 2**17 + 1},
        {"v_threshold": np.array([65, 129, 65, 129], np.int32)},
        {"leak": np.array([0.5, 0.25, 0.5, 0.25])},
    ],
)
def test_other_neurons_are_our_own(changes: dict[str, Any]) -> None:
    assert Network(chain(**changes)).stock == {}


def test_what_stock_parameters_say() -> None:
    parameters = stock_parameters(chain(v_threshold=64 * 90 + 17), "n2")
    assert parameters is not None
    assert (parameters.weight_exp, parameters.dv, parameters.vth) == (0, 0, 90)
    synapse = chain().nodes["y2"]
    assert isinstance(synapse, Linear)
    np.testing.assert_array_equal(parameters.weights, 2 * synapse.weight.astype(int))
    assert stock_parameters(chain(), "n1") is None  # an Input may send -1
    assert Network(chain(), ("y2",)).stock.keys() == {"n3"}  # a Dense does not show its sums
    assert stock_parameters(replace(chain(), time_steps=400), "n2") is None  # v might be clipped
    assert stock_parameters(replace(chain(), schedule="phased"), "n2") is None
    assert stock_parameters(replace(chain(), tokens=2), "n2") is None
