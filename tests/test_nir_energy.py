"""A network of another tool on binary inputs: what `energy report` shows is what loops over its spikes count."""

import json
from pathlib import Path

import nir
import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.cli.main import cli
from neurotool.export.nir import read_nir
from neurotool.simulate import simulate

INPUTS, STEPS = 3, 20


@pytest.fixture
def digits(tmp_path: Path) -> tuple[Path, Path]:
    """784-100-10 neurons, as snnTorch would export them, and inputs of 0 and 1, (inputs, steps, 784)."""
    rng = np.random.default_rng(0)
    dt, tau = 1e-4, 1e-3

    def affine(inputs: int, outputs: int) -> nir.Affine:
        weight = rng.normal(0.5, 1, (outputs, inputs)) / np.sqrt(inputs)
        return nir.Affine(weight.astype(np.float32), rng.normal(0, 0.05, outputs).astype(np.float32))

    def lif(n: int) -> nir.LIF:
        ones = np.ones(n)
        return nir.LIF(tau=tau * ones, r=tau / dt * ones, v_leak=0 * ones, v_threshold=ones)

    nodes = affine(784, 100), lif(100), affine(100, 10), lif(10)
    nir.write(tmp_path / "digits.nir", nir.NIRGraph.from_list(*nodes))
    x = (rng.random((INPUTS, STEPS, 784)) < 0.13).astype(np.float32)
    np.savez(tmp_path / "x.npz", input=x)
    return tmp_path / "digits.nir", tmp_path / "x.npz"


def reported(*options: str) -> dict:
    result = CliRunner().invoke(cli, ["energy", "report", *options, "--format", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_synaptic_operations_equal_a_count_by_hand(digits: tuple[Path, Path]) -> None:
    """Spikes that come in x 100, and hidden ones x 10."""
    path, given = digits
    graph = read_nir(path, tool="snntorch", time_steps=STEPS)
    first, hidden, second, _ = [name for name in graph.nodes if name != "input"]
    per_layer = {first: 0, second: 0}
    for one in np.load(given)["input"]:
        for step in one:
            for pixel in step:
                per_layer[first] += 100 * int(pixel)
        for step in simulate(graph, values={"input": one}).spikes[hidden]:
            for spike in step:
                per_layer[second] += 10 * int(spike)
    by_hand = sum(per_layer.values())
    assert per_layer[second] > 1000 and abs(per_layer[first] / (INPUTS * STEPS * 784 * 13) - 1) < 0.05
    report = reported(str(path), "--from", "snntorch", "--input", str(given))
    nodes = {node["name"]: node for node in report["nodes"]}
    assert report["synaptic_operations"] == by_hand
    for name, operations in per_layer.items():
        assert nodes[name]["synaptic_operations"] == nodes[name]["spiking"]["accumulates"] == operations
        assert "macs" not in nodes[name]["spiking"]
    # As currents, each of their 784 values is multiplied in every step.
    currents = reported(str(path), "--from", "snntorch", "--input", str(given), "--input-kind", "currents")
    nodes = {node["name"]: node for node in currents["nodes"]}
    assert nodes[first]["spiking"]["macs"] == INPUTS * STEPS * 784 * 100
    assert currents["synaptic_operations"] == per_layer[second]
