"""`neurotool energy`: every format, errors, and the page as a browser sees it."""

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from transformers import AutoTokenizer

from neurotool.checkpoint import read_checkpoint, write_checkpoint
from neurotool.cli.main import cli
from neurotool.energy.costs import load_cost_model
from neurotool.energy.counts import count
from neurotool.energy.measure import measure
from neurotool.energy.page import model_notes, notes
from neurotool.energy.report import build_report
from neurotool.evaluation import evaluate
from neurotool.export.nir import write_nir
from neurotool.graph import Embedding, Graph, GraphBuilder, Input, Linear, Neuron
from neurotool.student import SpikingBertConfig, SpikingBertForSequenceClassification
from neurotool.student.serialise import to_checkpoint
from neurotool.tasks import load_data, tokenise

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def checkpoint(energy_checkpoint: Path) -> Path:
    return energy_checkpoint


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["energy", *map(str, arguments)])


@pytest.mark.parametrize("name", ["report", "audit", "compare", "sweep", "latency"])
def test_every_help_has_an_example(name: str) -> None:
    assert f"neurotool energy {name} " in run(name, "--help").output.split("Examples:")[1]


def test_stored_and_measured_activity_give_the_same_counts(checkpoint: Path, tiny_data: Callable[[str], Path]) -> None:
    stored = json.loads(run("report", checkpoint, "--json").stdout)
    measured = json.loads(run("report", checkpoint, "--json", "--data", tiny_data("classes")).stdout)
    assert stored["nodes"] == measured["nodes"] and stored["comparisons"] == measured["comparisons"]
    assert stored["inputs"] == 40 and stored["synaptic_operations"] > 0
    assert stored["not_counted"] == []
    assert stored["teacher_metrics"] == {"accuracy": 0.9}


def test_json_adds_up(checkpoint: Path) -> None:
    """Totals are the sums of the nodes, and every rival is there under both models."""
    report = json.loads(run("report", checkpoint, "--format", "json").stdout)
    nodes = report["nodes"]
    assert sum(node["macs"] for node in nodes) == report["macs"]
    assert sum(node["spiking"].get("accumulates", 0) for node in nodes) == report["synaptic_operations"]
    for account in report["accounts"]:
        total = sum(node["picojoule"][account["label"]] for node in nodes)
        assert total / report["inputs"] == pytest.approx(account["picojoule_per_inference"])
    pairs = report["comparisons"]
    assert len({(pair["model"], pair["rival"]) for pair in pairs}) == len(pairs)
    for memory in (False, True):
        flows = {"spike", "batched", "graded", "output-stationary"} if memory else {"spike", "graded"}
        of_model = [pair for pair in pairs if ("memory" in pair["model"].split(",")[0]) == memory]
        for kind in ("twin", "fair rival", "zero-skipping", "teacher", *(["reuse"] if memory else [])):
            there = {pair["dataflow"].split(",")[0] for pair in of_model if pair["kind"] == kind}
            assert there == flows, (kind, there)
        assert sum(not pair["matched"] for pair in of_model) == (4 if memory else 0)
    assert sum("4-bit" in pair["rival"] for pair in pairs if pair["kind"] == "fair rival") == 6
    assert report["published_formula"]["operations"] == pytest.approx(report["synaptic_operations"], rel=0.1)


def test_table_and_verdict(checkpoint: Path) -> None:
    result = run("report", checkpoint, "--layers")
    assert result.exit_code == 0, result.stderr
    for text in ("encoder.1.output", "Neuron", "total", "arithmetic only, 45 nm", "with memory, 45 nm", "fair rival"):
        assert text in result.stdout
    said = [line for line in result.stdout.splitlines() if line.startswith("- ")]
    assert said[0].startswith("- With memory, 45 nm, int8 against int4×8, output-stationary: the spiking network")
    assert len(re.findall("the spiking network (?:needs|LOSES)", " ".join(result.stdout.split()))) == 4
    assert "Padding is left out" in result.stdout and "Not counted: nothing" in result.stdout


def test_csv_has_a_line_per_node_and_latex_a_table(checkpoint: Path, tmp_path: Path) -> None:
    report = json.loads(run("report", checkpoint, "--json").stdout)
    lines = list(csv.DictReader(io.StringIO(run("report", checkpoint, "--format", "csv").stdout)))
    assert [line["node"] for line in lines] == [node["name"] for node in report["nodes"]]
    accumulates = [node["spiking"].get("accumulates", 0) for node in report["nodes"]]
    assert [int(line["spiking_accumulates"]) for line in lines] == accumulates
    assert run("report", checkpoint, "-o", tmp_path / "table.tex").exit_code == 0
    latex = (tmp_path / "table.tex").read_text("utf-8")
    assert r"encoder.0.self\_output" in latex and latex.count(r"\\") > 15 and r"\end{tabular}" in latex
    assert not re.search(r"(?<!\\)_", "\n".join(line for line in latex.splitlines() if not line.startswith("%")))


def test_regression(tiny_teacher: Path, tiny_data: Callable[[str], Path], tmp_path: Path) -> None:
    """No accuracy: the first metric of the task takes its place."""
    data, tokenizer = load_data(tiny_data("scores")), AutoTokenizer.from_pretrained(tiny_teacher)
    config = SpikingBertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=24, initializer_range=0.3, num_labels=1, problem_type="regression",
    )  # fmt: skip
    student = SpikingBertForSequenceClassification(config).eval()
    result = evaluate(student, tokenise(data.validation, tokenizer, 24)[0], tokenizer, data.task)
    training = {"metrics": result.metrics, "plan": {"data": str(tiny_data("scores"))}}
    path = tmp_path / "scores.ckpt"
    write_checkpoint(path, to_checkpoint(student, tokenizer, data.task, training, result.activity.to_dict()))
    metric = next(iter(result.metrics))
    lines = json.loads(run("compare", path, "--json").stdout)["rows"]
    assert lines[0][metric] == pytest.approx(result.metrics[metric]) and "accuracy" not in lines[0]
    swept = run("sweep", path, "-T", "2", "--json", "--plot", tmp_path / "plot.svg")
    assert swept.exit_code == 0 and metric in json.loads(swept.stdout)["rows"][0]
    assert metric in (tmp_path / "plot.svg").read_text("utf-8")


def test_samples_are_measured(checkpoint: Path) -> None:
    """What the checkpoint stores is of all texts: fewer are run again."""
    assert json.loads(run("report", checkpoint, "--samples", 5, "--json").stdout)["inputs"] == 5


def test_the_order_of_cost_models_does_not_matter_to_the_published_formula(checkpoint: Path) -> None:
    turned = run("report", checkpoint, "--cost-model", "horowitz-45nm-memory", "--cost-model", "horowitz-45nm").stdout
    said = [re.search(r"Published formula.*?account", " ".join(text.split())) for text in (
        run("report", checkpoint).stdout, turned)]  # fmt: skip
    assert said[0] and said[1] and said[0].group() == said[1].group()


def test_one_text(checkpoint: Path) -> None:
    report = json.loads(run("report", checkpoint, "--json", "--data", "good w1 w2").stdout)
    assert report["inputs"] == 1 and report["tokens"] == 5 and report["metrics"] == {}
    assert report["padding_left_out"] == {"tokens": 0, "spikes": 0}


def test_a_nir_file_counts_the_same_as_its_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Two independent counts on one text: the torch student, and the interpreter on the exported graph."""
    from neurotool.student.serialise import load_student

    path = tmp_path / "model.nir"
    write_nir(load_student(checkpoint).model.to_graph(), path)
    data = ("--json", "--data", "poor w3 w4 w5 .")
    fast = json.loads(run("report", checkpoint, *data).stdout)
    slow = json.loads(run("report", path, *data, "--tokenizer", checkpoint).stdout)
    differing = [name for name in ("macs", "synaptic_operations") if fast[name] != slow[name]]
    assert differing == [] and fast["nodes"] == slow["nodes"]
    assert slow["padding_left_out"]["tokens"] == 1
    alone = run("report", path, "--samples", 2, "--random")
    assert alone.exit_code == 0 and "random inputs" in alone.stdout


def test_strict(checkpoint: Path, tmp_path: Path) -> None:
    assert run("report", checkpoint, "--strict").exit_code == 0
    result = run("report", checkpoint, "--strict", "--cost-model", "loihi1-pre-silicon")
    assert result.exit_code == 1 and "exponentials" in result.stderr and result.stderr.count("\n") == 1
    assert "total" in result.stdout


def test_an_old_checkpoint_names_the_way_out(
    checkpoint: Path, tmp_path: Path, tiny_data: Callable[[str], Path]
) -> None:
    old = read_checkpoint(checkpoint)
    activity = {"time_steps": 4, "inputs": 40, "layers": {"embedding": {"spikes": 2.0, "rate": 0.1}}}
    path = tmp_path / "old.ckpt"
    write_checkpoint(path, type(old)(**vars(old) | {"activity": activity}))
    result = run("report", path)
    assert result.exit_code == 2 and "--data" in result.stderr and result.stderr.count("\n") == 1
    assert run("report", path, "--data", tiny_data("classes")).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing/here.tsv"], "no such file"),
        (["--cost-model", "intel"], "horowitz-45nm"),
        (["--cost-model", "loihi1-silicon", "--dense-cost-model", "horowitz-45nm"], "--across-technologies"),
        (["--json", "--format", "csv"], "contradict"),
        (["-o", "no/such/folder/x.html"], "cannot be written: No such file"),
        (["--reset", "soft"], "foreign .nir"),
        (["--data", " "], "empty"),
        (["--data", "two\ttexts"], "has 2 part(s)"),
        (["--tokenizer", "x.ckpt"], "for files without one"),
        (["--cost-model", "loihi2", "--cost-model", "loihi2"], "twice"),
        (["--cost-model", "loihi2", "--dense-cost-model", "horowitz-45nm", "--across-technologies"], "no energy"),
        (["--cost-model", "loihi2", "--numbers", "fp32"], "int8"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, checkpoint: Path) -> None:
    result = run("report", checkpoint, *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


class Page(HTMLParser):
    """Tags that are not closed in order, links out of the page, and how often each tag occurs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.outside: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        links = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        self.outside += [link for link in links if not link.startswith(("#", "data:"))]
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    result = run("report", checkpoint, "-o", path)
    assert result.exit_code == 0 and result.stdout == f"wrote {path}\n"
    return path


def test_the_page_is_whole_and_needs_nothing_else(page: Path) -> None:
    text = page.read_text("utf-8")
    parsed = Page(text)
    assert parsed.open == [] and parsed.outside == [] and "script" not in parsed.tags
    assert parsed.tags.count("svg") == parsed.tags.count("figure") == 2
    assert text.index("zero-skipping network") < text.index('class="switch"') < text.index("Where this comes from")
    assert (
        parsed.tags.count("section") == 4
        and 'name="account" id="account1" checked><label for="account1">with memory' in text
    )
    for said in ("sha256", "prefers-color-scheme: dark", ">leak<", ">command<", 'class="even"'):
        assert said in text, said
    parted = re.search(r".{20}\d %.{20}", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL))
    assert parted is None, parted
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "width=device-width" in text and "@media print" in text


def test_every_number_can_be_traced(page: Path, checkpoint: Path) -> None:
    """Counts of each node with the price, and the constants with their sources."""
    text = page.read_text("utf-8")
    report = json.loads(run("report", checkpoint, "--json").stdout)
    node = next(node for node in report["nodes"] if node["name"] == "encoder.1.output.linear")
    row = f"<td>encoder.1.output.linear</td><td>accumulates</td><td>{node['spiking']['accumulates']:,}</td><td>0.9</td>"
    assert row in text
    assert "<td>3.7\u00a0pJ</td>" in text and "Horowitz" in text and "Lemaire" in text


def test_the_page_in_a_browser(page: Path, tmp_path: Path) -> None:
    """Headless Chromium: no console message, no request but the file itself, two figures of a size, fits a phone."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"no browser on PATH ({', '.join(BROWSERS)})")
    probe = tmp_path / "probe.html"
    # The page measures itself; a script of the test's own, in a copy of the page.
    script = (
        "<script>addEventListener('load', () => { document.body.dataset.seen = JSON.stringify({"
        "figures: [...document.querySelectorAll('figure svg')].map(f => f.getBoundingClientRect().height),"
        "overflow: document.documentElement.scrollWidth - innerWidth,"
        "fetched: performance.getEntriesByType('resource').map(e => e.name)}) })</script>"
    )
    probe.write_text(page.read_text("utf-8").replace("</body>", f"{script}</body>"), encoding="utf-8")
    log = tmp_path / "net.json"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    options += ["--window-size=500,900", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr"]
    options += [f"--log-net-log={log}", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000"]
    command = [browser, *options, "--dump-dom", probe.as_uri()]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{browser} did not answer within two minutes")
    if not result.stdout:
        pytest.skip(f"{browser} does not start here: {result.stderr.splitlines()[-1:]}")
    assert "CONSOLE" not in result.stderr
    seen = re.search(r'data-seen="([^"]*)"', result.stdout)
    assert seen is not None
    measured = json.loads(seen.group(1).replace("&quot;", '"'))
    assert len(measured["figures"]) == 2 and min(measured["figures"]) > 100
    assert measured["overflow"] <= 0
    assert [name for name in measured["fetched"] if not name.startswith("data:")] == []
    assert requests_of_pages(log) == set()


def requests_of_pages(net_log: Path) -> set[str]:
    """What pages asked for, by Chromium's own log, which also has what the browser asks for by itself."""
    urls = set()
    for line in net_log.read_text("utf-8", errors="replace").splitlines():
        try:
            parameters = json.loads(line.rstrip(","))["params"]
        except (ValueError, KeyError, TypeError):
            continue
        if parameters.get("initiator", "not an origin") != "not an origin":
            urls.add(parameters.get("url", ""))
    return urls


@pytest.mark.parametrize("options", [[], ["--hybrid"], ["--numbers", "int8", "--dataflow", "graded"]])
def test_the_audit_sums_to_the_printed_figures(checkpoint: Path, tmp_path: Path, options: list[str]) -> None:
    """To the last digit, as decimals; and every line is its count times its price."""
    report = json.loads(run("report", checkpoint, "--json", *options).stdout)
    result = run("audit", checkpoint, "-o", tmp_path / "audit.csv", *options)
    assert result.exit_code == 0, result.stderr
    sums: dict[str, Decimal] = {}
    with (tmp_path / "audit.csv").open(encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            if not line["pJ"]:
                assert line["source"] == "left out of this model" and int(line["count"])
                continue
            assert Decimal(line["pJ"]) == int(line["count"]) * Decimal(line["pJ_each"])
            assert line["rule"] and line["source"] and line["node"]
            sums[line["account"]] = sums.get(line["account"], Decimal(0)) + Decimal(line["pJ"])
    printed = {account["label"]: Decimal(account["picojoule"]) for account in report["accounts"]}
    assert len(printed) > 3 and all(sums[label] == total for label, total in printed.items())
    assert any(label.startswith("its teacher") for label in sums) and sum("×8" in label for label in printed) > 0
    for pair in report["comparisons"]:
        assert pair["spiking_picojoule"] == pytest.approx(float(printed[pair["spiking"]] / report["inputs"]))
        assert pair["rival_picojoule"] == pytest.approx(float(sums[pair["dense"]] / report["inputs"]))
    if "--hybrid" in options:
        hybrids = [account for account in report["accounts"] if account["network"] == "hybrid"]
        assert hybrids and all(set(each["schedule"].values()) <= {"dense", "spiking"} for each in hybrids)
        assert {"dense", "spiking"} == {mode for each in hybrids for mode in each["schedule"].values()}
        assert "encoder.0.key.linear" in hybrids[0]["schedule"] and "readout" not in hybrids[0]["schedule"]


def test_the_fair_rival_is_in_every_table(checkpoint: Path) -> None:
    """Its counts, its energy at every node, and its smaller multiplier: 4 bits of 8 in 0.2 pJ."""
    report = json.loads(run("report", checkpoint, "--json").stdout)
    fair = [account for account in report["accounts"] if account["numbers"] == "int4×8"]
    assert {account["network"] for account in fair} == {"dense twin", "zero-skipping"}
    assert all(account["constants"]["multiply"]["value"] == pytest.approx(0.1) for account in fair)
    assert all(account["operations"]["macs"] > 0 for account in fair)
    names = {account["label"] for account in fair}
    assert names <= set(report["nodes"][0]["picojoule"])
    header = run("report", checkpoint, "--format", "csv").stdout.splitlines()[0]
    assert all(f"pJ {name}" in header for name in names)


def test_nothing_priced_is_said(checkpoint: Path) -> None:
    result = run("report", checkpoint, "--cost-model", "loihi1-silicon", "--layers")
    softmax = next(line for line in result.stdout.splitlines() if "Softmax" in line)
    assert "not priced" in softmax
    nodes = json.loads(run("report", checkpoint, "--cost-model", "loihi1-silicon", "--json").stdout)["nodes"]
    priced = {node["kind"]: list(node["picojoule"].values()) for node in nodes}
    assert priced["Softmax"] == [None] and priced["Linear"][0] > 0


def test_notes_speak_of_what_there_is() -> None:
    """A network of one matrix has no norms, no softmax and no biases to leave out."""
    build = GraphBuilder()
    s = build.add("s", Neuron(0.5), build.add("word", Embedding(np.ones((9, 4)))))
    build.add("last", Neuron(), build.add("linear", Linear(np.ones((3, 4))), s))
    graph = build.build(time_steps=4, schedule="phased", tokens=6)
    counts = count(graph, *measure(graph, [{"input_ids": np.array([1, 5])}]))
    said = " ".join(notes(build_report("m", "", counts, [load_cost_model("horowitz-45nm")])))
    assert "neuron updates too" in said
    assert not [word for word in ("norm", "softmax", "GELU", "biases") if word in said]


def test_memories_are_sized_for_texts_where_there_are_texts() -> None:
    def said(graph: Graph, of_one: dict[str, Any]) -> str:
        counts = count(graph, *measure(graph, [of_one]))
        return " ".join(model_notes(build_report("m", "", counts, [load_cost_model("horowitz-45nm-memory")])))

    build = GraphBuilder()
    build.add("s", Neuron(0.5), build.add("word", Embedding(np.ones((9, 4)))))
    graph = build.build(time_steps=4, schedule="phased", tokens=6)
    assert "the longest text, 2 tokens" in said(graph, {"input_ids": np.array([1, 5])})

    build = GraphBuilder()
    build.add("s", Neuron(0.5), build.add("linear", Linear(np.ones((3, 4))), build.add("in", Input((4,)))))
    told = said(build.build(time_steps=4, schedule="concurrent"), {"values": {"in": np.ones((4,))}})
    assert told.endswith("Its memories of activations hold one input.")
