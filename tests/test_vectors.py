"""--with-inputs: inputs and the spikes of every layer travel with a .nir file and a bundle, and check it."""

from pathlib import Path

import nir
import numpy as np
import pytest
from click.testing import CliRunner
from streaming_graphs import INPUT, READOUT, streaming_graph, token_currents

from neurotool.cli.main import cli
from neurotool.export.nir import write_nir
from neurotool.graph import Neuron
from neurotool.recordings import read_recording, write_recording
from neurotool.simulate import simulate


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A network, and currents of 3 texts for it."""
    graph = streaming_graph(blocks=1)
    write_nir(graph, tmp_path / "network.nir")
    write_recording(tmp_path / "texts.npz", token_currents(graph, 3))
    return tmp_path / "network.nir", tmp_path / "texts.npz"


def neurotool(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


def test_they_hold_what_the_interpreter_sends(files: tuple[Path, Path], tmp_path: Path) -> None:
    network, texts = files
    said = neurotool("export", network, "-o", tmp_path / "out.nir", "--with-inputs", 3, "--input", texts)
    assert "3 inputs" in said and "out.expected.h5" in said
    entering, sent = nir.read_data(tmp_path / "out.inputs.h5"), nir.read_data(tmp_path / "out.expected.h5")
    graph, currents = streaming_graph(blocks=1), np.load(texts)[INPUT]
    assert np.array_equal(entering.nodes[INPUT].observables["values"].data, currents)
    for i, one in enumerate(currents):
        here = simulate(graph, values={INPUT: one})
        for name in graph.of_type(Neuron):
            spikes = sent.nodes[name].observables["spikes"]
            assert spikes.data.dtype == bool and spikes.dt == 1.0
            assert np.array_equal(spikes.data[i], here.spikes[name]) and here.spikes[name].any()
        assert np.array_equal(sent.nodes[READOUT].observables["values"].data[i], here.analog[READOUT])


@pytest.mark.parametrize("target", ["nir", "lava"])
def test_what_travels_passes_and_a_changed_spike_fails(target: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    network, texts = files
    out = tmp_path / f"out.{target}"
    neurotool("export", network, "--target", target, "-o", out, "--with-inputs", 2, "--input", texts)
    checked = "validate", out, tmp_path / "out.expected.h5", "--input", tmp_path / "out.inputs.h5"
    assert "PASS" in neurotool(*checked)
    content = read_recording(tmp_path / "out.expected.h5")
    assert isinstance(content, dict)
    wrong = {name: np.asarray(recorded.values) for name, recorded in content.items() if "spikes" in name}  # type: ignore[union-attr]
    wrong["embedded.spikes"] = wrong["embedded.spikes"].copy()
    wrong["embedded.spikes"][1, 2, 3] ^= True
    write_recording(tmp_path / "wrong.h5", wrong)
    assert "FAIL" in neurotool(*checked[:2], tmp_path / "wrong.h5", *checked[3:], code=1)


def test_those_of_a_tool_are_what_its_file_sends(files: tuple[Path, Path], tmp_path: Path) -> None:
    network, texts = files
    out = tmp_path / "norse.nir"
    neurotool("export", network, "--for", "norse", "-o", out, "--with-inputs", 2, "--input", texts)
    vectors = tmp_path / "norse.expected.h5", "--input", tmp_path / "norse.inputs.h5"
    assert "PASS" in neurotool("validate", out, *vectors, "--reset", "hard")
    spikes = nir.read_data(vectors[0]).nodes["encoder_0_mix"].observables["spikes"]
    here = simulate(streaming_graph(blocks=1), values={INPUT: np.load(texts)[INPUT][1]})
    assert np.array_equal(spikes.data[1], here.spikes["encoder.0.mix"]) and spikes.dt == 1e-3


def test_those_of_a_tool_that_has_to_be_told(files: tuple[Path, Path], tmp_path: Path) -> None:
    """The import of sinabs resets soft; what is told beside the file makes it this network."""
    network, texts = files
    out = tmp_path / "sinabs.nir"
    said = neurotool("export", network, "--for", "sinabs", "-o", out, "--with-inputs", 1, "--input", texts)
    assert "MembraneReset" in said
    vectors = tmp_path / "sinabs.expected.h5", "--input", tmp_path / "sinabs.inputs.h5"
    told = "--reset", "hard", "--spikes", "binary", "--membrane", "exponential-unit", "--from", "sinabs"
    assert "PASS" in neurotool("validate", out, *vectors, *told)
    assert "FAIL" in neurotool("validate", out, *vectors, "--from", "sinabs", code=1)


def test_what_has_none_is_said_and_nothing_is_written(files: tuple[Path, Path], tmp_path: Path) -> None:
    network, texts = files
    said = neurotool("export", network, "--target", "svg", "--with-inputs", 2, "--input", texts, code=2)
    assert "leave out --target svg" in said
    (tmp_path / "out.inputs.h5").write_text("mine")
    said = neurotool("export", network, "-o", tmp_path / "out.nir", "--with-inputs", 2, "--input", texts, code=2)
    assert "out.inputs.h5: exists" in said and not (tmp_path / "out.nir").exists()
    said = neurotool("export", network, "-o", tmp_path / "out.nir", "--with-inputs", 2, "--force", code=2)
    assert "give recordings with --input" in said
    assert (tmp_path / "out.inputs.h5").read_text() == "mine"
