"""The fit report: hand-computed cores and bits, and rules that can be broken."""

import io
import json
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from neurotool.cli.fit import show_fit
from neurotool.errors import ConfigError, ExportError
from neurotool.export.chip import CHIPS, load_chip
from neurotool.export.fit import FitReport, fit_report
from neurotool.export.fit_rules import RULES, Finding
from neurotool.export.lower import lower
from neurotool.export.placement import chunk_bits, place, populations, weight_bits
from neurotool.graph import (
    Add,
    Concat,
    Conv1d,
    Embedding,
    Gelu,
    Graph,
    GraphBuilder,
    Input,
    LayerNorm,
    Linear,
    MatMul,
    MeanPool,
    Neuron,
    Readout,
    Scale,
    Softmax,
)
from neurotool.lava_runtime.emulator import Emulator


def lowered(build: GraphBuilder, schedule: str = "concurrent", tokens: int = 1, per_layer: bool = True) -> Graph:
    graph = build.build(time_steps=4, schedule=schedule, tokens=tokens)
    rng = np.random.default_rng(0)
    values = {name: rng.integers(0, 2, (1, tokens, graph.nodes[name].width)) for name in graph.of_type(Input)}  # type: ignore[attr-defined]
    ids = rng.integers(0, 3, (1, tokens)) if graph.of_type(Embedding) else None
    return lower(graph, Emulator(graph).run(ids, values=values, record=True).largest, per_layer=per_layer)


def dense(*widths: int, schedule: str = "concurrent", per_layer: bool = True, **neuron: Any) -> Graph:
    """Spiking input, then Linear and neurons for each further width."""
    build, rng = GraphBuilder(), np.random.default_rng(0)
    x = build.add("in", Input(widths[0], spiking=True))
    for i, (before, width) in enumerate(pairwise(widths)):
        weight = rng.uniform(-1, 1, (width, before))
        weight[0, 0] = 1  # mantissa 64 … 127: 8 bits with the sign
        x = build.add(f"{i}", Neuron(**neuron), build.add(f"{i}.linear", Linear(weight), x))
    return lowered(build, schedule, per_layer=per_layer)


def encoder_layer(width: int, wide: int, tokens: int) -> Graph:
    """The synapses of one BERT encoder layer, phased."""
    build, rng = GraphBuilder(), np.random.default_rng(0)

    def linear(name: str, rows: int, columns: int, source: str) -> str:
        return build.add(name, Linear(rng.choice([-1.0, 1.0], (rows, columns)) / columns), source)

    x = build.add("embedding", Neuron(), build.add("word", Embedding(rng.normal(size=(3, width)))))
    key = build.add("key", Neuron(), linear("key.linear", width, width, x))
    scores = build.add("scores", MatMul(2, transpose_b=True), linear("query", width, width, x), key)
    softmax = build.add("softmax", Softmax(), build.add("scale", Scale(0.25), scores))
    value = build.add("value", Neuron(), linear("value.linear", width, width, x))
    context = build.add("attention", Neuron(), build.add("context", MatMul(2), softmax, value))
    added = build.add("self_output.add", Add(), linear("self_output.linear", width, width, context), x)
    norm = build.add("self_output.norm", LayerNorm(np.ones(width), np.zeros(width)), added)
    x = build.add("self_output", Neuron(), norm)
    gelu = build.add("gelu", Gelu(), linear("intermediate.linear", wide, width, x))
    x = build.add("intermediate", Neuron(), gelu)
    build.add("output", Neuron(), linear("output.linear", width, wide, x))
    return lowered(build, "phased", tokens)


def finding(report: FitReport, rule: str) -> Finding:
    (found,) = [finding for finding in report.findings if finding.rule == rule]
    return found


def test_chunks_are_in_whole_words() -> None:
    chip = load_chip("loihi1")
    assert chunk_bits(1, 8, chip) == 64  # 18 bits
    assert chunk_bits(64, 8, chip) == 576  # 522 bits
    assert chunk_bits(65, 8, chip) == 640
    assert 1048576 * 64 // chunk_bits(64, 8, chip) == 116508  # dense 8-bit weights of a core


@pytest.mark.parametrize(("inputs", "outputs", "cores"), [(768, 768, 6), (768, 3072, 21), (3072, 768, 21)])
def test_dense_layers_take_the_cores_computed_by_hand(inputs: int, outputs: int, cores: int) -> None:
    chip = load_chip("loihi2")
    report = fit_report(dense(inputs, outputs), chip)
    assert [layer.cores for layer in report.layers] == [cores]
    assert report.copies.cores == report.turns.cores == cores


def test_synapse_bits_and_axons_by_hand() -> None:
    """100 axons with 70 weights: a chunk of 64 weights (576 bits) and one of 6 (58 -> 64 bits) each."""
    layer = fit_report(dense(100, 70, reset="hard"), load_chip("loihi1")).layers[0]
    assert (layer.neurons, layer.synapses, layer.input_axons, layer.cores) == (70, 7000, 100, 1)
    assert layer.synapse_bits == 100 * (576 + 64)
    assert layer.state_bits == 70 * (24 + 24)  # a sum and a potential
    assert layer.output_axons == 0  # nothing reads it


def pruned(weight: np.ndarray) -> Graph:
    build = GraphBuilder()
    x = build.add("in", Input(weight.shape[1], spiking=True))
    build.add("0", Neuron(reset="hard"), build.add("0.linear", Linear(weight), x))
    return lowered(build)


def test_zero_weights_take_no_memory_by_hand() -> None:
    """100 axons, 64 of 70 weights 0 in each: 6 entries of 8 + 7 bits and a header of 10 are 100 bits, 2 words; all 70
    are a chunk of 64 weights (576 bits) and one of 6 (64 bits)."""
    weight = np.zeros((70, 100))
    weight[:6] = 1.0
    weight[0] = 65 / 64  # takes 8 bits
    report = fit_report(pruned(weight), load_chip("loihi1"))
    assert report.layers[0].sparse and report.layers[0].synapse_bits == 100 * 128
    said = finding(report, "zero weights take no memory")
    assert said.status == "pass" and said.limit == "10 bits at most"
    assert "1 of 1 matrices" in said.detail and "47%" in said.detail  # 7 / (8 + 7)
    weight[1:60] = 1.0  # 10 zeros of 70: more with indices than without
    layer = fit_report(pruned(weight), load_chip("loihi1")).layers[0]
    assert not layer.sparse and layer.synapse_bits == 100 * 640


@pytest.mark.parametrize("zeros", [0.0, 0.3, 0.6, 0.9])
def test_zeros_save_cores_from_the_share_on_that_is_reported(zeros: float) -> None:
    """A core for a core: the bits of the lists are those of a loop over axons and cores."""
    rng, chip = np.random.default_rng(0), load_chip("loihi2")
    weight = rng.uniform(0.5, 1, (768, 768)) * (rng.random((768, 768)) >= zeros)
    (part,) = populations(pruned(weight), chip, 1)
    (placed,) = place([part], chip).values()
    assert (placed.cores < 6) == (zeros >= 0.6)
    connection, n = part.connections[0], placed.elements
    by_hand = [
        sum(chunk_bits(int(np.count_nonzero(column)), 8 + (n - 1).bit_length(), chip) for column in core.T)
        for core in np.split(weight, range(n, 768, n))
    ]
    assert connection.sparse_bits(n, chip) == (by_hand if zeros else [])
    dense = 768 * chunk_bits(n, 8, chip)
    assert placed.used["synapse_bits_per_core"] == (min(dense, max(by_hand)) if zeros else dense)


def test_soft_reset_takes_two_compartments_on_loihi_1_only() -> None:
    """10 inputs are 10 axons with few weights: compartments decide. 1000 neurons fit once or half."""
    for reset, chip, neurons, cores in [
        ("hard", "loihi1", 1000, 1),
        ("soft", "loihi1", 2000, 2),
        ("soft", "loihi2", 1000, 1),
    ]:
        layer = fit_report(dense(10, 1000, reset=reset), load_chip(chip)).layers[0]
        assert (layer.neurons, layer.cores) == (neurons, cores)


def test_tinybert_takes_48_cores_for_its_dense_layers() -> None:
    """Without the attention matrices, 12 cores for each of 4 layers: 4 x 1 and 2 x 4."""
    graph = encoder_layer(312, 1200, 2)
    placed = place(populations(graph, load_chip("loihi2"), 2), load_chip("loihi2"))
    with_weights = ("key", "query", "value", "self_output", "intermediate", "output")
    assert {name: placed[name].cores for name in with_weights} == {
        "key": 1, "query": 1, "value": 1, "self_output": 1, "intermediate": 4, "output": 4,
    }  # fmt: skip


def test_populations_of_an_encoder_layer() -> None:
    parts = {part.name: part for part in populations(encoder_layer(8, 12, 5), load_chip("loihi2"), 5)}
    assert {name: part.nodes for name, part in parts.items()} == {
        "embedding": ("embedding",),
        "key": ("key.linear", "key"),
        "query": ("query",),
        "softmax": ("scores", "scale", "softmax"),
        "value": ("value.linear", "value"),
        "attention": ("context", "attention"),
        "self_output": ("self_output.linear", "self_output.add", "self_output.norm", "self_output"),
        "intermediate": ("intermediate.linear", "gelu", "intermediate"),
        "output": ("output.linear", "output"),
    }
    scores = parts["softmax"]
    assert scores.elements == 2 * 5  # heads x keys, for one query token
    # A score hears 4 query elements, which its head shares, and its own 4 elements of the key.
    assert [(c.source, c.senders, c.reach) for c in scores.connections] == [("query", 4, 5), ("key", 4, 1)]
    assert scores.axons(10) == 2 * 4 + 10 * 4
    # Words: the sum and the softmax. Held: 4 elements of the key, counts of 0 … 4 in 3 bits and a sign.
    assert scores.state_bits() == 2 * 24 + 4 * 4
    assert scores.state_bits(5) == 5 * 2 * 24 + 4 * 4
    context = parts["attention"]
    assert [(c.source, c.senders, c.reach) for c in context.connections] == [("softmax", 5, 4), ("value", 5, 1)]
    residual = parts["self_output"].connections
    assert [(c.source, c.senders, c.reach) for c in residual] == [("attention", 8, 8), ("embedding", 1, 1)]


def convolutions(width: int, channels: int, *kernels: int, on_chip: bool = False) -> Graph:
    """Convolutions of several widths, their spikes joined for the host, or for a Linear."""
    build, rng = GraphBuilder(), np.random.default_rng(0)
    s = build.add("embedding", Neuron(), build.add("word", Embedding(rng.normal(size=(3, width)))))
    parts = []
    for kernel in kernels:
        x = build.add(f"{kernel}.kernel", Conv1d(rng.choice([-1.0, 1.0], (channels, width, kernel)) / width), s)
        parts.append(build.add(f"{kernel}", Neuron(), x))
    x = build.add("joined", Concat(len(parts)), *parts)
    if on_chip:
        x = build.add("last", Neuron(), build.add("linear", Linear(np.ones((2, channels * len(parts)))), x))
    build.add(
        "readout", Readout(np.ones((2, 2 if on_chip else channels * len(parts)))), build.add("pool", MeanPool(), x)
    )
    return lowered(build, tokens=9)


def test_convolutions_hear_their_neighbours() -> None:
    """8 inputs at 3 and 4 tokens are 24 and 32 axons; an input reaches the copies of 3 and 4 tokens, a core each."""
    placed = place(populations(convolutions(8, 5, 3, 4), load_chip("loihi2"), 9), load_chip("loihi2"))
    assert list(placed) == ["embedding", "3", "4"]  # joining is wiring and takes no neurons
    assert placed["3"].population.nodes == ("3.kernel", "3")
    assert [placed[name].used["input_axons_per_core"] for name in ("3", "4")] == [24, 32]
    assert placed["embedding"].used["output_axons_per_core"] == 8 * (3 + 4)
    assert placed["3"].used["output_axons_per_core"] == 0  # the host pools them


def test_what_reads_joined_layers_hears_each_of_them() -> None:
    parts = {p.name: p for p in populations(convolutions(8, 5, 1, 2, on_chip=True), load_chip("loihi2"), 9)}
    assert list(parts) == ["embedding", "1", "2", "last"]
    assert [(c.source, c.senders, c.reach) for c in parts["last"].connections] == [("1", 5, 2), ("2", 5, 2)]


def test_copies_multiply_and_turns_keep_the_state_of_all_tokens() -> None:
    graph = encoder_layer(8, 12, 5)
    report = fit_report(graph, load_chip("loihi2"))
    assert (report.tokens, report.turns.cores, report.turns.chips) == (5, 9, 1)
    assert (report.copies.cores, report.copies.chips) == (45, 1)
    loihi1 = fit_report(graph, load_chip("loihi1"))
    assert loihi1.turns.cores is None and "state of 5 tokens" in loihi1.turns.why
    assert all(layer.cores_in_turn is None for layer in loihi1.layers)
    with pytest.raises(ConfigError, match="tokens is 6: the graph takes 1 to 5"):
        fit_report(graph, load_chip("loihi2"), 6)


def test_output_axons_limit_the_neurons_of_a_core() -> None:
    """700 neurons read by 7 cores are 4900 output axons: more than 4096, so the layer takes two cores.

    A core of the second layer holds 128 + 20 of its neurons: 700 (2 x 576 + ceil64(8 r + 10)) <= 2^20 bits for r = 38.
    """
    report = fit_report(dense(20, 700, 1100, reset="hard"), load_chip("loihi1"))
    first, second = report.layers
    assert second.cores == -(-1100 // 166) == 7
    assert (first.cores, first.output_axons) == (2, 7 * 700)
    assert finding(report, "fan-out fits the axons").status == "pass"


def test_a_plain_lif_network_breaks_one_rule_of_loihi_1_at_most() -> None:
    report = fit_report(dense(10, 8, reset="hard"), load_chip("loihi1"))
    assert {f.rule for f in report.broken} <= {"thresholds fit the format"}
    graph = dense(10, 8, reset="hard")
    threshold = graph.nodes["0"].v_threshold // 64 * 64  # type: ignore[attr-defined]
    whole = Graph(**(vars(graph) | {"nodes": graph.nodes | {"0": Neuron(threshold, reset="hard")}}))
    assert fit_report(whole, load_chip("loihi1")).broken == ()


@pytest.mark.parametrize(
    ("rule", "offender"),
    [
        ("neurons are of a kind the chip has", "scores (MatMul)"),
        ("messages fit the spike", "query 1"),
        ("state fits the neuron", "softmax 64 bits"),
    ],
)
def test_attention_breaks_rules_of_loihi_1_and_none_of_loihi_2(rule: str, offender: str) -> None:
    graph = encoder_layer(8, 12, 5)
    assert fit_report(graph, load_chip("loihi2")).broken == ()
    found = finding(fit_report(graph, load_chip("loihi1")), rule)
    assert found.status == "fail" and offender in found.detail
    assert found.limit and "(documented)" in found.source


def test_ternary_spikes_need_two_bits() -> None:
    found = finding(
        fit_report(dense(4, 3, spikes="ternary", reset="hard"), load_chip("loihi1")), "messages fit the spike"
    )
    assert (found.status, found.detail) == ("fail", "0 2 bits")


def test_rows_with_different_exponents_break_a_rule_where_a_layer_has_one() -> None:
    build = GraphBuilder()
    x = build.add("in", Input(2, spiking=True))
    build.add("out", Neuron(), build.add("linear", Linear(np.array([[1.0, 1.0], [0.1, 0.1]])), x))
    rows = lowered(build, per_layer=False)
    assert finding(fit_report(rows, load_chip("loihi1")), "channels share an exponent").detail.startswith("linear 2:")
    assert finding(fit_report(rows, load_chip("loihi2")), "channels share an exponent").status == "pass"
    layer = lowered(build, per_layer=True)
    assert finding(fit_report(layer, load_chip("loihi1")), "channels share an exponent").status == "pass"


def test_a_neuron_with_too_many_inputs_breaks_axons_and_memory(tmp_path: Path) -> None:
    report = fit_report(dense(4097, 2), load_chip("loihi1"))
    found = finding(report, "fan-in fits the axons")
    assert found.status == "fail" and "0 4097" in found.detail
    small = tmp_path / "small.json"
    content = asdict(load_chip("loihi1"))
    content["limits"]["synapse_bits_per_core"]["value"] = 4096 * 64
    del content["limits"]["sparse_index_bits"]  # some weights are 0, and would take no memory
    small.write_text(json.dumps(content))
    found = finding(fit_report(dense(4097, 2), load_chip(small)), "synapses fit the core")
    assert found.status == "fail" and f"0 {4097 * 64}" in found.detail


@pytest.mark.parametrize(
    ("weights", "bits"),
    [([-64, 0, 64], 2), ([-96, 0, 64], 3), ([-128, -64, 64], 3), ([1, 0, 64], 8), ([127, 127, 127], 8), ([0, 0, 0], 1)],
)
def test_bits_of_weights_whose_lowest_are_zero_by_hand(weights: list[int], bits: int) -> None:
    assert weight_bits(np.array([weights], np.int8)) == bits


def test_weights_wider_than_the_synapse_break_a_rule(tmp_path: Path) -> None:
    chip = asdict(load_chip("loihi2"))
    chip["limits"]["weight_bits"]["value"] = 4
    path = tmp_path / "four.json"
    path.write_text(json.dumps(chip))
    found = finding(fit_report(dense(4, 3), load_chip(path)), "weights fit the format")
    assert (found.status, found.detail) == ("fail", "0.linear 8 bits")


def test_large_biases_do_not_fit_13_bits() -> None:
    build = GraphBuilder()
    x = build.add("in", Input(2, spiking=True))
    # The weights count 2^-6, so the biases 64 and 6401: odd, and above 4095.
    build.add("out", Neuron(4.0), build.add("linear", Linear(np.ones((2, 2)), np.array([1.0, 6401 / 64])), x))
    found = finding(fit_report(lowered(build), load_chip("loihi1")), "biases fit the format")
    assert (found.status, found.detail) == ("fail", "linear 1 of 2")


def test_limits_that_are_not_published_are_said_to_be_unchecked() -> None:
    report = fit_report(dense(4, 3), load_chip("loihi2"))
    assert finding(report, "fan-in fits the axons").status == "not checked"
    assert finding(report, "the host does the rest").detail == "in (Input)"


def test_busiest_core() -> None:
    """100 axons of 640 bits are 6 % of a core's synapse memory; 70 of 1024 compartments are 6.8 %."""
    core = fit_report(dense(100, 70, reset="hard"), load_chip("loihi1")).busiest_core
    assert core is not None
    assert (core.layer, core.resource, core.used, core.limit) == ("0", "neurons_per_core", 70, 1024)


def test_a_float_graph_is_refused() -> None:
    build = GraphBuilder()
    build.add("in", Input(2))
    with pytest.raises(ExportError, match="lower it to fixed point first"):
        fit_report(build.build(time_steps=1, schedule="phased"), load_chip("loihi2"))


@pytest.mark.parametrize("chip", CHIPS)
def test_report_as_json_and_as_text(chip: str) -> None:
    report = fit_report(encoder_layer(8, 12, 5), load_chip(chip))
    as_json = json.loads(json.dumps(report.to_dict()))
    assert as_json["fits"] is (chip == "loihi2")
    assert len(as_json["findings"]) == len(RULES)
    assert as_json["copies"]["cores"] == report.copies.cores
    out = io.StringIO()
    show_fit(Console(file=out, width=200), report)
    text = out.getvalue()
    assert "not verified on silicon" in text and "busiest core" in text
    assert ("FAIL" if chip == "loihi1" else "PASS: no rule is broken, 3 could not be checked") in text
    assert all(layer.name in text for layer in report.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["limits"].pop("weight_bits"), "limit weight_bits is missing"),
        (lambda c: c["limits"].update(colour=c["limits"]["weight_bits"]), "limit colour is unknown"),
        (lambda c: c["limits"]["weight_bits"].update(value=0), "weight_bits is 0"),
        (lambda c: c["limits"]["weight_bits"].update(value=8.5), "weight_bits is 8.5"),
        (lambda c: c["limits"]["weight_bits"].update(source=""), "give a source"),
        (lambda c: c["limits"]["weight_bits"].update(status="rumour"), "status 'rumour'"),
        (lambda c: c.pop("limits"), "not readable"),
    ],
)
def test_damaged_chip_files_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    content = asdict(load_chip("loihi1"))
    change(content)
    path = tmp_path / "chip.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_chip(path)


def test_chip_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="choose loihi1, loihi2 or the name of a chip file"):
        load_chip("loihi3")
