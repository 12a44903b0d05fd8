"""Networks that take their tokens in time, run token by token on emulator and Lava, on a chip, and on its clock."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from streaming_graphs import INPUT, streaming_graph, token_currents
from test_streaming import make

from neurotool.cli.main import cli
from neurotool.errors import GraphError
from neurotool.executor import Run
from neurotool.export.chip import load_chip
from neurotool.export.fit import fit_report
from neurotool.export.lower import lower
from neurotool.graph import Graph
from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import EmulatedStream, Emulator
from neurotool.lava_runtime.run import stream_on_lava
from neurotool.lava_runtime.worker import pieces

needs_lava = pytest.mark.skipif(
    compatibility.installation_problem() is not None, reason=f"Lava: {compatibility.installation_problem()}"
)
PIECE = 2


def network(fixed: bool, **options: Any) -> tuple[Graph, dict[str, np.ndarray], Run]:
    """A network, the currents of one text, PIECE steps a token, and what it does on them in one run."""
    graph = streaming_graph(steps=8, **options)
    currents = np.repeat(token_currents(graph)[INPUT][:, : 8 // PIECE], PIECE, 1)
    whole = Emulator(graph).run(values={INPUT: currents}, record=True, observe=True)
    if fixed:
        graph = lower(graph, whole.largest)
        whole = Emulator(graph).run(values={INPUT: currents}, record=True)
    return graph, {INPUT: currents[0]}, whole


def compare(parts: list[Run], whole: Run) -> None:
    """What pieces did, one behind another, is what the run did."""
    assert len(parts) == 8 // PIECE and any(spikes.any() for spikes in whole.spikes.values())
    for name, spikes in whole.spikes.items():
        np.testing.assert_array_equal(np.concatenate([part.spikes[name] for part in parts], 1), spikes)
    for name, values in whole.analog.items():
        np.testing.assert_array_equal(np.concatenate([part.analog[name] for part in parts], 1), values)
    for port, events in whole.events.items():
        assert sum(part.events[port] for part in parts) == events
        assert sum(part.synaptic_operations[port] for part in parts) == whole.synaptic_operations[port]


@pytest.mark.parametrize("fixed", [False, True])
def test_the_emulator_goes_on_where_it_stopped(fixed: bool) -> None:
    graph, values, whole = network(fixed, weighted=True)
    stream = EmulatedStream(graph)
    compare([stream.send({INPUT: x}, PIECE) for x in values[INPUT][::PIECE]], whole)


def test_a_network_that_answers_at_the_end_is_no_stream(make_student: Any) -> None:
    with pytest.raises(GraphError, match="takes its tokens in time"):
        EmulatedStream(make_student().to_graph())


def test_pieces_of_a_run() -> None:
    assert pieces(8, None, 0) == [8] and pieces(8, None, 2) == [10]
    assert pieces(8, 3, 0) == [3, 3, 2] and pieces(8, 2, 1) == [3, 2, 2, 2]


def tapped(fixed: bool) -> tuple[Graph, dict[str, np.ndarray], Run]:
    """As `network`, of a student whose blocks read two earlier tokens directly."""
    student = make(taps=2, time_steps=PIECE)
    graph = replace(student.to_graph(), time_steps=8)
    ids = torch.randint(1, 30, (1, 8 // PIECE), generator=torch.Generator().manual_seed(2))
    currents = student.embed(ids).detach().numpy().repeat(PIECE, 1)
    whole = Emulator(graph).run(values={INPUT: currents}, record=True, observe=True)
    if fixed:
        graph = lower(graph, whole.largest)
        whole = Emulator(graph).run(values={INPUT: currents}, record=True)
    return graph, {INPUT: currents[0]}, whole


@pytest.mark.parametrize("fixed", [False, True])
def test_taps_go_on_where_they_stopped(fixed: bool) -> None:
    graph, values, whole = tapped(fixed)
    assert whole.events["encoder.0.mixing.tap2", "x"].sum() > 0
    stream = EmulatedStream(graph)
    compare([stream.send({INPUT: x}, PIECE) for x in values[INPUT][::PIECE]], whole)


@needs_lava
def test_taps_on_lava() -> None:
    graph, values, whole = tapped(True)
    compare([run for run, _ in stream_on_lava(graph, values, PIECE, timeout=300)], whole)


@needs_lava
def test_lava_waits_after_each_token() -> None:
    graph, values, whole = network(True)
    done = stream_on_lava(graph, values, PIECE, timeout=300)
    compare([run for run, _ in done], whole)
    assert all(seconds > 0 for _, seconds in done)


def test_each_weight_is_on_the_chip_once() -> None:
    """4 blocks of 256 neurons, 1024 wide: 2.7 million weights of 8 bits, on fewer than 60 cores of Loihi 2."""
    graph = streaming_graph(256, 4, 1024, 2, 2)
    currents = token_currents(graph)
    largest = Emulator(graph).run(values=currents, observe=True).largest
    report = fit_report(lower(graph, largest), load_chip("loihi2"))
    weights = sum(layer.synapses for layer in report.layers)
    assert report.in_time and not report.broken
    assert report.copies.cores is not None and 20 < report.copies.cores < 60
    assert weights >= 256 * 256 + 4 * (256 * 256 + 2 * 256 * 1024) + 2 * 256
    assert sum(layer.synapse_bits for layer in report.layers) > 8 * weights


@pytest.fixture
def checkpoint(write_untrained: Any, tmp_path: Path) -> Path:
    """A streaming student, untrained, that is heard: 2 steps a token, and an answer one token late."""
    student = make("hard", time_steps=2, lookahead=1, vocab_size=31)
    path: Path = write_untrained(tmp_path / "stream.ckpt", student, hidden_size=16)
    return path


def neurotool(*arguments: str | Path, words: str | None = None) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=words)


def tokens(*arguments: str | Path, words: str | None = None) -> list[dict[str, Any]]:
    result = neurotool("run", *arguments, "--stream", "--json", words=words)
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_answer_after_each_token(checkpoint: Path, tmp_path: Path) -> None:
    done = tokens(checkpoint, "good w1 bad")
    assert [one["token"] for one in done] == ["[CLS]", "good", "w1", "bad", "[SEP]", ""]
    assert [one["ends"] for one in done] == [False] * 5 + [True]
    assert all(one["seconds"] > 0 for one in done) and sum(one["spikes"] for one in done) > 0
    predicted = json.loads(neurotool("predict", checkpoint, "good w1 bad", "--json").stdout)
    assert done[-1]["answer"]["probabilities"] == pytest.approx(predicted["probabilities"], abs=1e-5)
    ran = neurotool("run", checkpoint, "good w1 bad", "--executor", "emulator", "--record", "encoder.0.mixing",
                    "-o", tmp_path / "out.npz")  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert sum(one["spikes"] for one in done) >= np.load(tmp_path / "out.npz")["encoder.0.mixing.spikes"].sum()


def test_words_arrive_and_each_line_is_a_text(checkpoint: Path) -> None:
    together = tokens(checkpoint, "good w1", "bad .")
    arriving = tokens(checkpoint, words="good w1\n\nbad  .")
    told = ("token", "answer", "spikes", "events", "operations", "ends")
    assert [[one[key] for key in told] for one in arriving] == [[one[key] for key in told] for one in together]
    assert sum(one["ends"] for one in arriving) == 2
    shown = neurotool("run", checkpoint, "--stream", "good w1").output
    assert "5 tokens on emulator" in shown and "(silence)" in shown


@needs_lava
def test_a_bundle_and_a_nir_file_with_a_tokenizer(checkpoint: Path, tmp_path: Path) -> None:
    for target in ("nir", "lava"):
        made = neurotool("export", checkpoint, "--target", target, "-o", tmp_path / f"out.{target}")
        assert made.exit_code == 0, made.output
    told = ("token", "answer", "spikes", "events", "operations", "ends")
    bundle = tmp_path / "out.lava", "--tokenizer", checkpoint, "good w1"
    ours, lavas = tokens(*bundle), tokens(*bundle, "--executor", "lava")
    assert [[one[key] for key in told] for one in ours] == [[one[key] for key in told] for one in lavas]
    assert len(tokens(tmp_path / "out.nir", "--tokenizer", checkpoint, "good w1")) == len(ours) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--executor", "torch", "good"), "tokens are run one by one on emulator or lava"),
        (("--record", "encoder.0", "good"), "--stream: --record is given, too"),
        ((), "no text: give texts"),
    ],
)
def test_what_cannot_be_streamed_is_said(checkpoint: Path, arguments: tuple[str, ...], message: str) -> None:
    result = neurotool("run", checkpoint, "--stream", *arguments, words="")
    assert result.exit_code == 2 and message in result.output
    assert len(result.output) <= 300


def test_tokens_a_second_follow_from_the_times_of_a_machine(checkpoint: Path) -> None:
    asked = "energy", "latency", checkpoint, "--machine", "loihi1", "--json"
    slow = json.loads(neurotool(*asked, "--constant", "barrier=1000000").stdout)
    (one,) = slow["arrangements"]
    assert one["arrangement"] == "one copy" and one["latency_ns"] == pytest.approx(2e6 * one["tokens"])
    assert "tokens/s" in neurotool(*asked[:-1]).output


def test_the_report_says_what_a_token_costs(checkpoint: Path) -> None:
    report = json.loads(neurotool("energy", "report", checkpoint, "--json").stdout)
    shown = " ".join(neurotool("energy", "report", checkpoint).output.split())
    assert f"A token, of {report['tokens'] / report['inputs']:.3g} in a text:" in shown
    assert report["tokens"] > 5 * report["inputs"]
    width, wide, labels = 16, 24, 2
    each = 2 * (2 * width * width + 2 * width * wide) + width * labels  # two blocks: mixing, residual, there and back
    assert report["macs"] == report["tokens"] * each
