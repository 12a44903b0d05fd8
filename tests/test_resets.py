"""How other tools reset, fire and bias: by hand, in the emulator as in the interpreter, and refused in integers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from neurotool.errors import ExportError
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.graph import Graph, Input, Neuron
from neurotool.lava_runtime.emulator import Emulator
from neurotool.simulate import simulate


def alone(neuron: Neuron, width: int, time_steps: int) -> Graph:
    return Graph({"in": Input(width), "layer": neuron}, {"in": (), "layer": ("in",)}, time_steps, "concurrent")


BY_HAND: dict[str, tuple[Neuron, list[float], list[int], float]] = {
    # .75 1.5 2.25 3: potentials stay
    "none": (Neuron(reset="none"), [0.75] * 4, [0, 1, 1, 1], 3.0),
    # leak 1/2: .75 1.125 -> .5625 + .75 - 1 = .3125, .90625, 1.203125; at once it would be 0 1 0 1
    "soft-late": (Neuron(leak=0.5, reset="soft-late"), [0.75] * 5, [0, 1, 0, 0, 1], 1.203125),
    # 0.75 1.5 | 0 | .75 1.5: the input of the step after a spike is lost
    "hard-late": (Neuron(reset="hard-late"), [0.75] * 5, [0, 1, 0, 0, 1], 1.5),
    # 2.5>1.5; 1.75 is below 2 and stays; 2>1 (1.75 + .25); 1.25 < 2; 1.5 < 2
    "soft-once": (Neuron(reset="soft-once"), [2.5, 0.25, 0.25, 0.25, 0.25], [1, 0, 1, 0, 0], 1.5),
    # 2.5 > .5, 1 > 0, -1, 2.5 > .5
    "several": (Neuron(spikes="several"), [2.5, 0.5, -1.0, 3.5], [2, 1, 0, 2], 0.5),
    "several, hard": (Neuron(spikes="several", reset="hard"), [2.5, 0.5, 1.0], [2, 0, 1], 0.0),
    # (.5 + .25) / .5 = 1.5 > .5, 2 > 1, 2.5 > 1.5
    "bias": (Neuron(0.5, bias=0.25), [0.5] * 3, [1, 1, 1], 1.5),
    # thresholds of 2: .75 1.5 > -.5, .25, 1 > -.5
    "v_reset": (Neuron(2.0, reset="hard", v_reset=-1.0), [1.5] * 4, [0, 1, 0, 1], -0.5),
    # -2 is cut to -1 (half of 2), then 1.5 > .5
    "v_min": (Neuron(2.0, v_min=-2.0), [-4.0, 5.0], [0, 1], 0.5),
    "v_init above the threshold": (Neuron(leak=0.5, v_init=3.0), [0.0, 0.0], [1, 0], 0.25),
}


@pytest.mark.parametrize("kind", BY_HAND)
def test_by_hand(kind: str) -> None:
    neuron, currents, spikes, potential = BY_HAND[kind]
    values = {"in": np.array(currents)[:, None, None]}
    result = simulate(alone(neuron, 1, len(currents)), values=values)
    assert result.spikes["layer"].ravel().tolist() == spikes
    assert result.potentials["layer"].item() == potential


@st.composite
def neurons(draw: Any) -> Neuron:
    """Three neurons, with numbers that are exact in binary, so that thresholds are met."""

    def some(*values: float) -> Any:
        return draw(st.one_of(st.sampled_from(values), st.lists(st.sampled_from(values), min_size=3, max_size=3)))

    def number(*values: float) -> Any:
        value = some(*values)
        return np.array(value) if isinstance(value, list) else value

    reset = draw(st.sampled_from(["soft", "hard", "none", "soft-late", "hard-late", "soft-once"]))
    several = reset in ("soft", "hard", "none") and draw(st.booleans())
    return Neuron(
        number(0.5, 1.0, 2.0), number(0.0, 0.5, 0.75, 1.0), reset, "several" if several else "binary",
        v_init=number(-1.0, 0.0, 0.5, 1.5), bias=number(0.0, 0.25, -0.5),
        v_reset=number(0.0, -0.5, 0.25) if reset == "hard" else 0.0,
        v_min=draw(st.one_of(st.none(), st.just(number(-1.0, 0.0)))),
    )  # fmt: skip


@given(neurons(), st.integers(0, 99))
def test_the_emulator_equals_the_interpreter(neuron: Neuron, seed: int) -> None:
    graph = alone(neuron, 3, 12)
    x = np.random.default_rng(seed).integers(-4, 9, size=(2, 12, 1, 3)) / 4
    emulated = Emulator(graph).run(values={"in": x}, record=True)
    for i, one in enumerate(x):
        result = simulate(graph, values={"in": one})
        assert np.array_equal(emulated.spikes["layer"][i], result.spikes["layer"])
        assert emulated.spikes["layer"].dtype == result.spikes["layer"].dtype
        assert np.array_equal(emulated.potentials["layer"][i], result.potentials["layer"])


@given(neurons())
def test_nir_keeps_them(tmp_path_factory: pytest.TempPathFactory, neuron: Neuron) -> None:
    """Whole, and as standard nodes alone."""
    path = tmp_path_factory.mktemp("nir") / "model.nir"
    graph = alone(neuron, 3, 12)
    write_nir(graph, path)
    assert read_nir(path) == graph
    standard = read_nir(path, standard_nodes=True)
    x = np.random.default_rng(0).integers(-4, 9, size=(12, 3)) / 4
    a = simulate(graph, values={"in": x[:, None]}).spikes["layer"][:, 0]
    assert np.array_equal(a, simulate(standard, values={"in": x}).spikes["layer"])


@pytest.mark.parametrize(
    ("neuron", "what"),
    [
        (Neuron(reset="none"), "reset none"),
        (Neuron(reset="soft-late"), "reset soft-late"),
        (Neuron(bias=0.5), "a bias"),
        (Neuron(reset="hard", v_reset=-1.0), "a v_reset"),
    ],
)
def test_integers_have_no_form_of_it(neuron: Neuron, what: str) -> None:
    with pytest.raises(ExportError, match=rf"node layer \(Neuron\): {what} has no fixed-point form"):
        lower(alone(neuron, 2, 4), {"in": 1.0, "layer": 1.0})


def test_a_description_from_before_these_parameters_is_read() -> None:
    graph = alone(Neuron(0.5, 0.75, "hard"), 2, 3)
    description, arrays = graph.to_arrays()
    assert set(description["nodes"][1]["parameters"]) == {"v_threshold", "leak", "reset", "spikes", "v_init"}
    assert Graph.from_arrays(description, arrays) == graph
