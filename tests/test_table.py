"""benchmarks/table.py: a small table from end to end, and what it does not train again."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from click import ClickException
from click.testing import CliRunner, Result

from neurotool.errors import NeurotoolError
from neurotool.tasks import _HUB_TASKS, load_data

CONFIG = {
    "options": "--teacher scratch --max-length 16 --teacher-epochs 1 --epochs 1",
    "students": {
        "ann": "--student ann --layers 1",
        "snn-textcnn": "--student snn-textcnn -T 2",
        "ann-2": "--student ann --layers 2",
    },
    "data": {"small": "", "large": ""},
    "seeds": {"small": [1, 2]},
    "only": {"snn-textcnn": ["large"], "ann-2": ["small"]},
}


@pytest.fixture(scope="module")
def table(repository: Path) -> ModuleType:
    sys.path.insert(0, str(repository / "benchmarks"))
    specification = importlib.util.spec_from_file_location("table", repository / "benchmarks" / "table.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, count in [("small", 30), ("large", 40)]:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        rows = [
            f"a {word} film {number}\t{label}" for number in range(count) for word, label in [("good", 1), ("bad", 0)]
        ]
        for split in ("train", "validation"):
            (folder / f"{split}.tsv").write_text("\n".join(["sentence\tlabel", *rows]) + "\n", encoding="utf-8")
    return tmp_path / "data"


def run(table: ModuleType, *arguments: object) -> Result:
    return CliRunner().invoke(table.main, [str(argument) for argument in arguments])


def test_cells_are_the_seeds_and_students_of_each_data_set(table: ModuleType) -> None:
    cells = table.cells(CONFIG, list(CONFIG["students"]), ["small", "large"])
    assert [cell.name for cell in cells] == [
        "small-ann-1",
        "small-ann-2-1",
        "small-ann-2",
        "large-ann-42",
        "large-snn-textcnn-42",
    ]


def test_a_row_is_the_mean_of_its_seeds(table: ModuleType) -> None:
    results = [table.Result("accuracy", 0.9, student, 0.2, 0.4, 0.1, 3.0) for student in (0.8, 0.82, 0.84)]
    assert table.row("mr", "spikebert", results) == (
        "| mr | accuracy | spikebert | 90.0 | 82.0 ± 2.0 | 91.1 % | 0.200 | 40.0 % | 10.0 % | 3.0 | 3 |"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"seeds": {"small": 1}},
        {"seeds": {"tiny": [1]}},
        {"seeds": {"ann": [1]}},
        {"only": {"ann": ["tiny"]}},
        {"only": {"small": ["small"]}},
        {"students": ["ann"]},
    ],
)
def test_a_wrong_config_is_one_line(table: ModuleType, tmp_path: Path, wrong: dict[str, object]) -> None:
    config = tmp_path / "table.json"
    config.write_text(json.dumps(CONFIG | wrong), encoding="utf-8")
    refused = run(table, tmp_path, tmp_path / "cells", "--config", config)
    assert refused.exit_code == 1 and refused.stderr.startswith(f"Error: {config}: not a config (")
    assert refused.stderr.count("\n") == 1 and not (tmp_path / "cells").exists()


def test_a_checkpoint_of_other_options_is_not_measured(table: ModuleType, tmp_path: Path) -> None:
    cell = table.Cell("ann", "small", 1, "--layers 2")
    (tmp_path / "small-ann-1.ckpt").write_bytes(b"")
    (tmp_path / "small-ann-1.json").write_text(json.dumps({"options": "--layers 1"}), encoding="utf-8")
    with pytest.raises(NeurotoolError, match="its options were '--layers 1' and are now '--layers 2'; delete"):
        table.result(cell, tmp_path, tmp_path)


def test_only_the_seeds_that_are_named(
    table: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "table.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    asked: list[int] = []
    monkeypatch.setattr(table, "fill", lambda wanted, *_: asked.extend(cell.seed for cell in wanted) or {})
    run(table, data, tmp_path / "cells", "--config", config, "--seeds", "2")
    assert set(asked) == {2}
    refused = run(table, data, tmp_path / "cells", "--config", config, "--seeds", "7")
    assert refused.exit_code == 2 and "'7' is not in the config: 1, 2" in " ".join(refused.output.split())


@pytest.mark.slow
@pytest.mark.parametrize("by", ["Ctrl-C", "kill"])
def test_what_stops_the_table(by: str, data: Path, tmp_path: Path, repository: Path) -> None:
    config = tmp_path / "table.json"
    config.write_text(json.dumps(CONFIG | {"options": CONFIG["options"] + " --epochs 500"}), encoding="utf-8")
    command = [sys.executable, repository / "benchmarks" / "table.py", data, tmp_path / "cells", "--config", config]
    command += ["--jobs", "1"]
    environment = os.environ | {"NEUROTOOL_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
    log = tmp_path / "cells" / "small-ann-1.log"
    deadline = time.monotonic() + 300
    while not (log.exists() and "prediction: step" in log.read_text(encoding="utf-8")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    if by == "kill":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert errors == "stopped; the same command goes on\n"
    assert (tmp_path / "cells" / "runs" / "small-ann-1" / "unfinished").is_dir()
    assert not list((tmp_path / "cells").glob("small-ann-2*"))


@pytest.mark.slow
def test_a_table_is_trained_written_and_not_trained_again(
    table: ModuleType, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEUROTOOL_CACHE", str(tmp_path / "cache"))
    config, folder, page = tmp_path / "table.json", tmp_path / "cells", tmp_path / "page.md"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    page.write_text("before\n<!-- table.py: begin -->\nold\n<!-- table.py: end -->\nafter\n", encoding="utf-8")
    arguments = [data, folder, "--config", config, "--write", page]

    first = run(table, *arguments)
    assert first.exit_code == 0, first.output
    lines = page.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    rows = [
        [part.strip() for part in line.split("|")[1:-1]] for line in lines if line.startswith(("| small", "| large"))
    ]
    assert [(row[0], row[2], row[-1]) for row in rows] == [
        ("small", "ann", "2"), ("small", "ann-2", "1"), ("large", "ann", "1"), ("large", "snn-textcnn", "1"),
    ]  # fmt: skip
    figures = json.loads((folder / "large-snn-textcnn-42.json").read_text(encoding="utf-8"))["figures"]
    assert 0 < figures["rate"] < 1 and figures["of_twin"] > 0 and figures["minutes"] > 0
    assert json.loads((folder / "large-ann-42.json").read_text(encoding="utf-8"))["figures"]["rate"] is None

    for checkpoint in folder.glob("*.ckpt"):
        checkpoint.unlink()
    assert run(table, *arguments).output == first.output
    assert not list(folder.glob("*.ckpt"))

    config.write_text(json.dumps(CONFIG | {"data": {"small": "", "large": "--batch-size 0"}}), encoding="utf-8")
    (folder / "large-ann-42.json").unlink()
    changed = run(table, *arguments)
    assert changed.exit_code == 1
    assert "failed: large-ann-42: --batch-size 0" in changed.stderr
    assert "failed: large-snn-textcnn-42: its options were" in changed.stderr and "delete" in changed.stderr
    assert "| small" in changed.stdout and "| large" not in changed.stdout


# --- students that start from others ---------------------------------------------------------------------------------


def test_a_student_starts_from_the_checkpoint_of_the_same_data_and_seed(table: ModuleType, tmp_path: Path) -> None:
    cell = table.Cell("sparse", "sst2", 7, "--start-from {dense one} --prune 0.5")
    start = cell.starts_from
    assert start is not None and start.name == "sst2-dense one-7"
    path = str(tmp_path / "sst2-dense one-7.ckpt")
    assert cell.command(tmp_path) == ["--start-from", path, "--prune", "0.5", "--seed", "7"]
    assert table.Cell("dense", "sst2", 7, "--epochs 2").starts_from is None


def test_cells_begin_row_by_row_or_seed_by_seed(table: ModuleType) -> None:
    cells = [table.Cell(student, data, seed, "") for data in "xy" for seed in (7, 8) for student in "ab"]
    by_row = [f"{student}{data}{seed}" for student in "ab" for data in "xy" for seed in (7, 8)]
    by_seed = [f"{student}{data}{seed}" for seed in (7, 8) for student in "ab" for data in "xy"]
    for seed_by_seed, expected in ((False, by_row), (True, by_seed)):
        assert [f"{c.student}{c.data}{c.seed}" for c in table.in_turn(cells, seed_by_seed)] == expected


def test_a_student_can_start_only_from_one_before_it(table: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    for start in ("b", "c"):
        file.write_text(json.dumps({"students": {"a": f"--start-from {{{start}}}", "b": ""}, "data": {"d": ""}}))
        with pytest.raises(ClickException, match=f"'a' starts from '{start}', which is no student before it"):
            table.load_config(file)
    file.write_text(json.dumps({"students": {"b": "", "a": "--start-from {b}"}, "data": {"d": ""}}))
    assert table.load_config(file)["students"]["a"] == "--start-from {b}"


def test_the_front_is_a_config(table: ModuleType, repository: Path) -> None:
    config = table.load_config(repository / "benchmarks" / "front.json")
    students = list(config["students"])
    assert len(table.cells(config, students, list(config["data"]))) == 6 * len(students)


@pytest.mark.slow
def test_a_chain_is_trained_in_its_order(table: ModuleType, data: Path, tmp_path: Path) -> None:
    config, folder = tmp_path / "chain.json", tmp_path / "out"
    students = {
        "first": "--student snn-textcnn -T 2",
        "second": "--student snn-textcnn --start-from {first} --prune 0.5",
    }
    config.write_text(json.dumps(CONFIG | {"students": students, "only": {}, "data": {"small": ""}}))
    result = run(table, data, folder, "--config", config, "--jobs", 2)
    assert result.exit_code == 0, result.output
    assert (folder / "small-second-1.ckpt").exists() and (folder / "small-second-2.ckpt").exists()
    (folder / "small-first-1.ckpt").unlink()
    (folder / "small-second-1.ckpt").unlink()
    (folder / "small-second-1.json").unlink()
    result = run(table, data, folder, "--config", config, "--students", "second")
    assert (
        result.exit_code == 1 and "failed: small-second-1: " in result.stderr and "small-first-1.ckpt" in result.stderr
    )


# --- GLUE ------------------------------------------------------------------------------------------------------------


def test_the_table_as_latex(table: ModuleType) -> None:
    text = table.table({table.Cell("best_4", "sst2", 1, ""): table.Result("f1", 0.9, 0.81, 0.25, 0.2, None, 3.0)})
    assert table.latex(text).splitlines()[-3:] == [
        r"sst2 & f1 & best\_4 & 90.0 & 81.0 & 90.0 \% & 0.250 & 20.0 \% &  & 3.0 & 1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_glue_is_all_its_tasks_with_their_metrics(table: ModuleType, repository: Path) -> None:
    """As the hub's tasks have them; WNLI is left out, as everywhere."""
    config = table.load_config(repository / "benchmarks" / "glue.json")
    tasks = {name: source.metrics[0] for name, source in _HUB_TASKS.items() if source.path == "nyu-mll/glue"}
    given = {name: options.partition("--metric ")[2] or "accuracy" for name, options in config["data"].items()}
    assert given == tasks
    assert config["seeds"] == {name: [42, 1, 2] for name in tasks}


@pytest.mark.parametrize("columns", ["sentence", "question\tsentence", "question1\tquestion2", "premise\thypothesis"])
def test_files_in_glue_s_form_are_read(tmp_path: Path, columns: str) -> None:
    """Columns of the hub's files, with their idx; MNLI's validation is the matched one."""
    width = columns.count("\t") + 1
    for name in ("train", "validation_matched" if "premise" in columns else "validation"):
        rows = [f"{number}\t" + "\t".join(f"text {number} {i}" for i in range(width)) for number in range(4)]
        lines = [f"idx\t{columns}\tlabel", *(f"{row}\t{number % 2}" for number, row in enumerate(rows))]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = load_data(tmp_path)
    assert data.task.text_columns == tuple(columns.split("\t")) and len(data.validation) == 4
    assert [name for name in data.train.column_names if name != "label"] == ["sentence1", "sentence2"][:width]
    assert data.train[1][f"sentence{width}"] == f"text 1 {width - 1}"
