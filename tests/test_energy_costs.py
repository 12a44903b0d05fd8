"""Cost models, comparisons and dense networks: constants, closed forms, hand-made sums."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from neurotool.activity import Activity, LayerActivity
from neurotool.energy.costs import FOLDER, cost_models, load_cost_model, price, quantised
from neurotool.energy.counts import Counts, count, events_of_activity
from neurotool.energy.dense import dense_counts, dense_graph, named_config, teacher_config
from neurotool.energy.formats import si
from neurotool.energy.latency import parts_by_weights, phases
from neurotool.energy.operations import OPERATIONS
from neurotool.energy.report import build_report, compare, priced, published_formula, rate_code_bits, rows
from neurotool.errors import ConfigError
from neurotool.graph import GraphBuilder, Input, Linear, MeanPool, Neuron, Readout

ARITHMETIC = load_cost_model("horowitz-45nm")
MEMORY = load_cost_model("horowitz-45nm-memory")
MEMORY_ENTRY = json.loads((FOLDER / "horowitz-45nm-memory.json").read_text("utf-8"))["memory"]


def texts(*lengths: int) -> Activity:
    return Activity(1, 1, Counter(lengths))


def two_layers(spikes: int, steps: int = 4, kind: Any = "binary") -> Counts:
    """10 tokens of 100 neurons, 100 x 50 weights, in `spikes` spikes of the first layer."""
    build = GraphBuilder()
    s = build.add("first", Neuron(spikes=kind), build.add("current", Input(100)))
    last = build.add("last", Neuron(), build.add("weights", Linear(np.ones((50, 100))), s))
    build.add("readout", Readout(np.ones((2, 50))), build.add("pool", MeanPool(), last))
    graph = build.build(time_steps=steps, schedule="phased", tokens=10)
    activity = Activity(steps, steps, Counter([10]))
    activity.layers = {"first": LayerActivity(100, spikes, 10 * spikes), "last": LayerActivity(50)}
    return count(graph, activity, events_of_activity(graph, activity))


def bert_macs(n: int, width: int, inner: int, layers: int) -> int:
    return layers * (4 * n * width**2 + 2 * n**2 * width + 2 * n * width * inner)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("bert-base", (768, 3072, 12)), ("tinybert-4", (312, 1200, 4)), ("distilbert", (768, 3072, 6))],
)
def test_dense_macs_equal_the_closed_form(name: str, shape: tuple[int, int, int]) -> None:
    width = shape[0]
    counts = dense_counts(dense_graph(named_config(name), labels=3), texts(256, 7))
    pooler_and_classifier = 2 * (width**2 + 3 * width)
    assert counts.synapses == sum(bert_macs(n, *shape) for n in (256, 7)) + pooler_and_classifier
    assert counts.total().accumulates == 0


def test_spikebert_table_2() -> None:
    """SpikeBERT (arXiv 2308.15122): BERT-base at 256 tokens is 22.95 GMAC; Table 2, 4.6 pJ a MAC."""
    counts = dense_counts(dense_graph(named_config("bert-base")), texts(256))
    encoder = sum(node.synapses for node in counts.nodes if node.name.startswith("encoder"))
    assert encoder == bert_macs(256, 768, 3072, 12) and round(encoder / 1e9, 2) == 22.95
    prices = ARITHMETIC.prices(counts.nodes[0], ARITHMETIC.format("fp32"))
    assert prices["macs"] == pytest.approx(4.6) and prices["accumulates"] == 0.9
    for giga, millijoule in ((22.46, 103.38), (22.23, 102.24)):
        assert giga * prices["macs"] == pytest.approx(millijoule, rel=1e-3)
    # E_SpikeBERT = 4.6 EMB + 0.9 (FC + SSA): every row of the table has one EMB of about 1 G operations in it.
    for giga, millijoule in ((28.47, 30.51), (27.81, 29.90), (26.94, 28.03), (27.46, 28.54), (25.92, 26.96)):
        embedding = (millijoule - prices["accumulates"] * giga) / (prices["macs"] - prices["accumulates"])
        assert 0.9 < embedding < 1.4


@pytest.mark.parametrize("length", [5, 16])
def test_dense_macs_equal_the_torch_counter(length: int) -> None:
    """Right for eager attention, whose products are matrix multiplications: on CPU it does not see those of SDPA."""
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertModel

    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = BertConfig(vocab_size=50, attn_implementation="eager", **sizes)
    model = BertModel(config, add_pooling_layer=False).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(2, length, dtype=torch.long))
    counts = dense_counts(dense_graph(config.to_dict()), texts(length, length))
    encoder = sum(node.synapses for node in counts.nodes if node.name.startswith("encoder"))
    assert counter.get_total_flops() == 2 * encoder == 2 * 2 * bert_macs(length, 32, 48, 3)


def test_a_comparison_by_hand() -> None:
    """2000 spikes in 4 steps of 10 tokens x 100 neurons: rate 1/2, 2 spikes a synapse, 100 000 accumulates."""
    counts = two_layers(2000)
    node = next(n for n in counts.nodes if n.name == "weights")
    assert (node.synapses, node.spiking.accumulates, node.rate, node.spikes_per_synapse) == (50_000, 100_000, 0.5, 2.0)
    fp32 = ARITHMETIC.format("fp32")
    assert price(ARITHMETIC, fp32, node).by_kind == {"accumulates": pytest.approx(90_000)}
    assert price(ARITHMETIC, fp32, node, "dense").by_kind == {"macs": pytest.approx(230_000)}
    spiking, dense = priced(counts, ARITHMETIC, fp32), priced(counts, ARITHMETIC, fp32, "dense")
    updates = 4 * 10 * 150 * 1.8
    pool = (9 * 50 + 3 * 500) * 0.9 + 50 * 3.7  # tokens and steps, the mean
    assert spiking.per_inference == pytest.approx(90_000 + updates + 2000 * 0.9 + pool + 100 * 4.6)
    assert dense.per_inference == pytest.approx(230_000 + 9 * 50 * 0.9 + 50 * 3.7 + 100 * 4.6)


@pytest.mark.parametrize("model", [ARITHMETIC, MEMORY])
def test_at_the_break_even_both_need_the_same(model: Any) -> None:
    comparison = compare("twin", priced(two_layers(2000), model, model.default_format),
                         priced(two_layers(2000), model, model.default_format, "dense"))  # fmt: skip
    spikes = round(comparison.break_even * 50_100 / 50)  # the readout's 100 synapses count, and carry no spikes
    there = compare("twin", priced(two_layers(spikes), model, model.default_format), comparison.dense)
    assert there.share == pytest.approx(1, abs=2e-3)
    assert comparison.break_even_rate == comparison.break_even / 4
    assert ("LOSES" in comparison.verdict()) == (comparison.share > 1)
    more = compare("twin", priced(two_layers(4000), model, model.default_format), comparison.dense)
    assert more.share > comparison.share


def test_with_memory_by_hand() -> None:
    """Lemaire et al. 2022, 32 bit: per accumulate a weight of 20 000 bytes, a potential of 2000 bytes twice, an add."""
    counts = two_layers(2000)
    node = next(n for n in counts.nodes if n.name == "weights")
    weight = (10 + 10 * (20_000 - 8192) / (32_768 - 8192)) / 2
    energy = price(MEMORY, MEMORY.format("fp32"), node)
    assert energy.by_kind["weight_reads"] == pytest.approx(100_000 * weight)
    assert energy.by_kind["state_reads"] == energy.by_kind["state_writes"] == pytest.approx(100_000 * 5)
    assert energy.by_kind["addresses"] == pytest.approx(100_000 * 0.1)
    assert energy.by_kind["value_reads"] == pytest.approx(2000 * 5)
    assert MEMORY.memory is not None
    assert [MEMORY.memory.access(size, 64) for size in (1, 8192, 32_768, 10**9)] == [10, 10, 20, 100]


def test_the_fair_rival() -> None:
    assert [rate_code_bits(two_layers(1, t)) for t in (1, 3, 4, 15, 16)] == [1, 2, 3, 4, 5]
    assert [rate_code_bits(two_layers(1, t, "ternary")) for t in (1, 4, 7)] == [2, 4, 4]
    rival = quantised(ARITHMETIC, 4)
    assert rival.constants["multiply"].value == pytest.approx(0.1) and rival.constants["add"].value == 0.1
    report = build_report("m", "", two_layers(2000), [ARITHMETIC])
    fair = report.comparisons[-1]
    assert fair.kind == "fair rival" and fair.dense.numbers.name == "int3×8"
    node = next(n for n in report.counts.nodes if n.name == "weights")
    assert price(ARITHMETIC, fair.dense.numbers, node, "dense").total == pytest.approx(50_000 * 0.175)


def test_the_published_formula() -> None:
    """rate × T × MACs is exact for weights; biases, norms and updates are what it leaves out."""
    counts = two_layers(2000)
    formula = published_formula(priced(counts, ARITHMETIC, ARITHMETIC.format("fp32")))
    assert formula.operations == 100_000 and formula.macs == 100
    assert formula.energy == pytest.approx(0.9 * 100_000 + 4.6 * 100)


def test_technologies_do_not_mix() -> None:
    loihi = load_cost_model("loihi1-silicon")
    with pytest.raises(ConfigError, match=r"14 nm.* 45 nm .*--across-technologies"):
        build_report("m", "", two_layers(10), [loihi], dense_model=ARITHMETIC)
    forced = build_report("m", "", two_layers(10), [loihi], dense_model=ARITHMETIC, force=True)
    assert forced.comparisons
    alone = build_report("m", "", two_layers(10), [loihi])
    assert alone.comparisons == () and alone.twins == ()
    assert alone.accounts[0].per_inference == pytest.approx(
        10 * 50 * 35.5 + 4 * 10 * 150 * (51.2 + 21.6) + 10 * (69.3 + 111)
    )
    assert "macs" in alone.not_counted[0] and "accumulates" not in alone.not_counted[0]


def test_one_file_does_not_mix_technologies_either() -> None:
    fp32 = ARITHMETIC.format("fp32")
    add = replace(fp32.constants["add"], node="14 nm")
    mixed = replace(ARITHMETIC, name="mixed", formats={"fp32": replace(fp32, constants=fp32.constants | {"add": add})})
    with pytest.raises(ConfigError, match=r"14 nm and 45 nm.*--across-technologies"):
        build_report("m", "", two_layers(10), [mixed])
    assert build_report("m", "", two_layers(10), [mixed], force=True).comparisons


def test_what_only_the_dense_twin_does_is_listed_too() -> None:
    counts = two_layers(10)
    weights = replace(counts, nodes=tuple(node for node in counts.nodes if node.name == "weights"))
    operations = {kind: parts for kind, parts in ARITHMETIC.operations.items() if kind != "macs"}
    no_macs = replace(ARITHMETIC, name="no_macs", operations=operations | {"lookups": {"add": 1.0}})
    published = replace(no_macs, spiking_only=True)
    assert build_report("m", "", weights, [published]).not_counted == []
    twin = priced(weights, replace(no_macs, memory=MEMORY.memory), no_macs.default_format, "dense")
    report = replace(build_report("m", "", weights, [published]), twins=(twin,))
    assert report.not_counted == ["no_macs has no price for macs"]


def test_loihi_2_has_counts_and_no_joules() -> None:
    report = build_report("m", "", two_layers(2000), [load_cost_model("loihi2")])
    assert all(row.spiking is None for row in rows(report.accounts[0], None))
    (part,) = parts_by_weights(report.counts.graph)
    assert (part.cores, part.nodes, part.busiest) == (1, ("weights", "last"), 1)
    sending, adding_up = phases(report.counts, [part])
    assert sending.loads["weights"].synaptic_operation == 100_000
    assert adding_up.loads["weights"].neuron_update == 50 * 40


def test_every_operation_is_priced_or_left_out_on_purpose() -> None:
    everything = two_layers(1).total().__class__(**dict.fromkeys(OPERATIONS, 1))
    assert ARITHMETIC.unpriced(everything) == MEMORY.unpriced(everything) == []
    for name in cost_models():
        model = load_cost_model(name)
        assert model.name == name and model.leaves_out
        for numbers in model.formats.values():
            assert all(c.source and c.node and c.status and c.voltage for c in numbers.constants.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "version 2"),
        ({"operations": {"mac": {"add": 1}}}, "'mac' is no kind of operation"),
        ({"operations": {"macs": {"multiply": 1, "sum": 1}}}, "'sum'"),
        ({"formats": {}}, "no number format"),
        ({"formats": {"fp32": {"bits": {}, "constants": {"add": {"value": 1}}}}}, "'unit'"),
        ({"name": None, "out_of_scope": 3}, "missing or wrong"),
        ({"name": "horowitz-45nm"}, "another name"),
        ({"operations": []}, "missing or wrong"),
        ({"operations": {"macs": {"add": -1}}}, "macs cost -0.9 pJ"),
        ({"operations": {"macs": {"add": "one"}}}, "missing or wrong"),
        ({"memory": MEMORY_ENTRY | {"sram": []}}, "rising sizes"),
        ({"memory": MEMORY_ENTRY | {"sram": MEMORY_ENTRY["sram"][::-1]}}, "rising sizes"),
        ({"memory": MEMORY_ENTRY | {"read_bits": 0}}, "0 bits"),
        ({"memory": MEMORY_ENTRY | {"address_add": MEMORY_ENTRY["address_add"] | {"value": -1}}}, "address is -1"),
    ],
)
def test_a_users_file_is_checked(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    import neurotool.energy.costs as costs

    data = json.loads((costs.FOLDER / "horowitz-45nm.json").read_text("utf-8")) | {"name": "mine"}
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(data))
    assert load_cost_model(str(path)) == replace(ARITHMETIC, name="mine")
    path.write_text(json.dumps(data | change))
    with pytest.raises(ConfigError, match=message) as caught:
        load_cost_model(str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_names_of_nothing() -> None:
    with pytest.raises(ConfigError, match="horowitz-45nm"):
        load_cost_model("horowitz")
    with pytest.raises(ConfigError, match="tinybert-4"):
        named_config("gpt")
    with pytest.raises(ConfigError, match="'gpt2'"):
        dense_graph({"model_type": "gpt2"})
    with pytest.raises(ConfigError, match="hidden_size"):
        dense_graph({"model_type": "bert"})
    with pytest.raises(ConfigError, match="int7"):
        ARITHMETIC.format("int7")


def test_the_teachers_shape() -> None:
    student = named_config("tinybert-4") | {"model_type": "spikingbert"}
    assert teacher_config(student, {}) is None
    old = {"teacher": {"layers": 6}, "plan": {"student": {"num_hidden_layers": 4}}}
    assert teacher_config(student, old) == named_config("tinybert-4") | {"num_hidden_layers": 6}
    narrower = {"teacher": {"layers": 6}, "plan": {"student": {"hidden_size": 128}}}
    assert teacher_config(student, narrower) is None
    recorded = {"teacher": {"layers": 6, "shape": {"hidden_size": 768}}}
    assert teacher_config(student, recorded) == {"hidden_size": 768, "model_type": "bert"}


def test_numbers_for_readers() -> None:
    assert [si(v) for v in (0.0, 12, 999.6, 3_757_422, 22.95e9, None)] == ["0", "12", "1 k", "3.76 M", "22.9 G", ""]
