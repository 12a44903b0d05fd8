"""`neurotool energy compare|sweep|latency`: students side by side, at several T, and on a chip."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import neurotool.cli.energy as command
from neurotool.api.measuring import Source, measure
from neurotool.api.model import open_model
from neurotool.api.timing import placed
from neurotool.cli.main import cli
from neurotool.energy.costs import load_cost_model
from neurotool.energy.latency import SWITCHES
from neurotool.energy.machine import load_machine
from neurotool.energy.report import DEFAULT_MODELS, build_report
from neurotool.energy.tables import compare_page, sweep_page
from neurotool.export.chip import load_chip
from neurotool.export.fit import fit_report
from neurotool.graph import Neuron


@pytest.fixture
def checkpoint(energy_checkpoint: Path) -> Path:
    return energy_checkpoint


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(cli, ["energy", *map(str, arguments)])


def test_compare(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ckpt"
    shutil.copy(checkpoint, other)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2} | {
        "intermediate_size": 128, "model_type": "bert"}))  # fmt: skip
    against = f"bert-base,tinybert-4,{config}"
    result = json.loads(run("compare", checkpoint, other, "--against", against, "--json").stdout)
    names = [row["network"] for row in result["rows"]]
    assert names == [str(n) for n in (checkpoint, checkpoint, other, other)] + [
        name for name in ("bert-base", "tinybert-4", str(config)) for _ in range(2)
    ]
    assert len(result["verdicts"]) == 2 * 2 * 3
    micro = {(row["network"], row["cost model"]): row["µJ"] for row in result["rows"]}
    assert micro["bert-base", "horowitz-45nm"] > micro["tinybert-4", "horowitz-45nm"]
    assert run("compare", checkpoint, checkpoint).exit_code == 2
    nothing = run("compare", checkpoint, "--against", "bert-base", "--cost-model", "loihi2")
    assert nothing.exit_code == 2 and "prices no dense network" in nothing.stderr
    assert "bert-base" in run("compare", checkpoint, "--against", "bert-base").stdout


@pytest.mark.parametrize("which", [["compare"], ["sweep", "-T", "4"]])
def test_one_line_for_each_dataflow(which: list[str], checkpoint: Path) -> None:
    """Shares and energies are those of a report in that dataflow alone."""
    memory = ["--cost-model", "horowitz-45nm-memory", "--json"]
    flows = ("batched", "output-stationary")
    result = run(*which, checkpoint, "--dataflow", ",".join(flows), *memory)
    assert result.exit_code == 0, result.stderr
    lines = json.loads(result.stdout)["rows"]
    assert [line["dataflow"] for line in lines] == list(flows)
    for line in lines:
        alone = json.loads(run("report", checkpoint, "--dataflow", line["dataflow"], *memory).stdout)
        twin, skipping = (
            [c["share"] for c in alone["comparisons"] if c["kind"] == kind] for kind in ("twin", "zero-skipping")
        )
        assert (line["of its twin"], line["int8: of zero-skipping"]) == pytest.approx((twin[0], skipping[-1]))
        assert line["µJ"] == pytest.approx(alone["accounts"][0]["picojoule_per_inference"] / 1e6)
    assert lines[0]["µJ"] > lines[1]["µJ"]


def test_compare_with_a_hybrid(checkpoint: Path) -> None:
    memory = ["--cost-model", "horowitz-45nm-memory", "--json", "--dataflow", "batched"]
    plain, hybrid = (json.loads(run("compare", checkpoint, *memory, *more).stdout) for more in ([], ["--hybrid"]))
    assert hybrid["rows"][0]["µJ"] <= plain["rows"][0]["µJ"]


def test_latency_on_a_chip(checkpoint: Path, tmp_path: Path) -> None:
    result = run("latency", checkpoint, "--json")
    assert result.exit_code == 0, result.stderr
    said = json.loads(result.stdout)
    in_turn, copied = said["arrangements"]
    assert 0 < in_turn["interval_ns"] < in_turn["latency_ns"] and copied["latency_ns"] < in_turn["latency_ns"]
    assert in_turn["energy_pJ"] == sum(in_turn[f"{part}_pJ"] for part in ("operations", "static", "transport"))
    stored = json.loads(run("report", checkpoint, "--cost-model", "loihi1-pre-silicon", "--json").stdout)
    assert in_turn["operations_pJ"] == stored["accounts"][0]["picojoule_per_inference"]
    assert all(constant["source"] and constant["status"] for constant in said["constants"].values())
    windows = {window["name"] for window in said["windows"]}
    assert "encoder.0.key" in windows and {window["steps"] for window in said["windows"]} == {4}
    graph = open_model(checkpoint).graph
    assert windows == {name for name, node in graph.nodes.items() if isinstance(node, Neuron)}
    page = tmp_path / "time.html"
    assert run("latency", checkpoint, "-o", page).exit_code == 0 and "Frady" in page.read_text("utf-8")
    for name in SWITCHES:
        assert f"{name} (switched off)" in run("latency", checkpoint, "--without", name, "--batch", "8").stdout


def test_every_command_measures_alike() -> None:
    """What a model is measured on, and by what, is asked in the same words."""
    asked = [
        "--data",
        "--samples",
        "--executor",
        "--skip-zero-weights",
        "--input",
        "--random",
        "--tokenizer",
        "--dataflow",
    ]
    for name in ("report", "audit", "compare", "sweep", "latency"):
        said = run(name, "--help").output
        assert [option for option in asked if option not in said] == [], name


def test_placement_is_that_of_the_fit_report(checkpoint: Path, tmp_path: Path) -> None:
    """The same cores as `neurotool export --chip` gives one copy, from the bundle and from the checkpoint."""
    bundle = tmp_path / "m.lava"
    open_model(checkpoint).export(bundle, "lava")
    longest = max(map(int, json.loads(run("latency", checkpoint, "--json").stdout)["lengths"]))
    fitted = fit_report(open_model(bundle).graph, load_chip("loihi2"), longest)
    cores = sum(layer.cores for layer in fitted.layers)
    for model in (checkpoint, bundle):
        placed_on = placed(open_model(model), load_machine("loihi2"), longest)
        assert sum(part.cores for part in placed_on) == cores


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--machine", "loihi3"], "machine 'loihi3' is not known"),
        (["--machine", "45nm"], "say with --on-chip how many KB of weights fit"),
        (["--on-chip", "64"], "weights that do not fit Loihi 1 take more chips"),
        (["--cost-model", "horowitz-45nm"], "energies of two technologies are not added"),
        (["--constant", "speed=3"], "'speed' is not known"),
        (["-o", "time.csv"], "time is written as"),
        (["--dataflow", "spike,batched"], "name one"),
    ],
)
def test_errors_of_latency_are_one_line(arguments: list[str], message: str, checkpoint: Path) -> None:
    result = run("latency", checkpoint, *arguments)
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1


def test_sweep(checkpoint: Path, tmp_path: Path) -> None:
    result = run("sweep", checkpoint, "-T", "2,4", "--json", "--plot", tmp_path / "plot.svg")
    assert result.exit_code == 0, result.stderr
    lines = json.loads(result.stdout)["rows"]
    assert [(line["cost model"], line["T"]) for line in lines] == [
        (model, t) for model in ("horowitz-45nm", "horowitz-45nm-memory") for t in (2, 4)
    ]
    stored = json.loads(run("report", checkpoint, "--json").stdout)
    share = next(c["share"] for c in stored["comparisons"] if c["rival"].startswith("its dense twin"))
    assert lines[1]["of its twin"] == pytest.approx(share) and lines[1]["int8: of the fair rival"] > 0
    teacher = next(c for c in stored["comparisons"] if c["rival"] == "its teacher")
    assert lines[1]["of its teacher"] == pytest.approx(teacher["share"]) and "fp32" in teacher["model"]
    assert lines[1]["accuracy"] == pytest.approx(stored["metrics"]["accuracy"])
    assert lines[1]["SOPs"] == pytest.approx(stored["synaptic_operations"] / stored["inputs"])
    assert (tmp_path / "plot.svg").read_text("utf-8").count("<svg") == 1
    assert run("sweep", checkpoint, "-T", "0").exit_code == 2
    no_accuracy = run("sweep", checkpoint, "-T", "2", "--data", "a text", "--plot", tmp_path / "none.svg")
    assert no_accuracy.exit_code == 2 and "no accuracy" in no_accuracy.stderr and "Accuracy" in no_accuracy.stdout


def test_a_narrow_terminal_breaks_no_number(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """80 columns: every line of the tables of a sweep and of a comparison is whole."""
    measured = measure(open_model(checkpoint), Source())
    report = build_report("model.ckpt", measured.measured, measured.counts, list(map(load_cost_model, DEFAULT_MODELS)),
                          metrics=measured.metrics)  # fmt: skip
    for page in (sweep_page([report]), compare_page([report], {})):
        console = command.Console(file=io.StringIO(), width=80)
        command._print_table(console, page.tables[0])
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        table = page.tables[0]
        for row in table.rows:
            cells = [cell for heading, cell in zip(table.headings, row, strict=True) if heading in table.narrow]
            assert any(all(cell in line for cell in cells) for line in shown.splitlines()), (cells, shown)
