"""The Lava bundle: what is written comes back, and what is not whole is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from random_graphs import graphs

from neurotool.errors import BundleError
from neurotool.export.lower import lower
from neurotool.graph import Embedding, Graph, GraphBuilder, Linear, MeanPool, Neuron, Readout
from neurotool.lava_runtime.bundle import Bundle, read_bundle, write_bundle


def tiny(fixed: bool = True) -> Graph:
    rng = np.random.default_rng(0)
    build = GraphBuilder()
    word = build.add("word", Embedding(rng.normal(size=(5, 3))))
    s = build.add("first", Neuron(), word)
    s = build.add("second", Neuron(), build.add("linear", Linear(rng.normal(size=(4, 3)), rng.normal(size=4)), s))
    build.add("readout", Readout(rng.normal(size=(2, 4))), build.add("pool", MeanPool(), s))
    graph = build.build(time_steps=4, schedule="phased", tokens=6, labels=("no", "yes"))
    return lower(graph, dict.fromkeys(graph.nodes, 4.0)) if fixed else graph


@pytest.fixture
def bundle() -> Bundle:
    words = {"model": {"type": "WordLevel", "vocab": {"a": 0}}, "added_tokens": []}
    tokenizer = {"tokenizer.json": json.dumps(words), "tokenizer_config.json": "{}"}
    task = {"name": "task", "text_columns": ["text"], "label_names": ["no", "yes"], "metrics": ["accuracy"]}
    return Bundle(tiny(), tokenizer, task, {"plan": {"max_length": 6}})


@pytest.mark.parametrize("fixed", [True, False])
def test_round_trip(tmp_path: Path, bundle: Bundle, fixed: bool) -> None:
    written = Bundle(tiny(fixed), bundle.tokenizer, bundle.task, bundle.record)
    write_bundle(tmp_path / "m.lava", written)
    assert read_bundle(tmp_path / "m.lava") == written
    assert written.precision == ("fixed" if fixed else "float")
    assert json.loads((tmp_path / "m.lava" / "manifest.json").read_text())["precision"] == written.precision
    assert [path.name for path in tmp_path.iterdir()] == ["m.lava"]


@settings(max_examples=30)
@given(graphs())
def test_any_graph_comes_back(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    path = tmp_path_factory.mktemp("bundles") / "m.lava"
    for written in (graph, lower(graph, dict.fromkeys(graph.nodes, 3.0))):
        write_bundle(path, Bundle(written), force=True)
        assert read_bundle(path).graph == written


def test_an_existing_bundle_is_only_replaced_when_asked(tmp_path: Path, bundle: Bundle) -> None:
    path = tmp_path / "m.lava"
    write_bundle(path, bundle)
    with pytest.raises(BundleError, match="--force"):
        write_bundle(path, bundle)
    write_bundle(path, Bundle(tiny(fixed=False)), force=True)
    assert read_bundle(path).precision == "float"
    assert list(tmp_path.iterdir()) == [path]


def test_other_folders_and_files_are_never_replaced(tmp_path: Path, bundle: Bundle) -> None:
    for name in ("folder", "file"):
        path = tmp_path / name
        (path.mkdir if name == "folder" else path.touch)()
        with pytest.raises(BundleError, match="is not a bundle"):
            write_bundle(path, bundle, force=True)


def test_nothing_is_left_where_nothing_can_be_written(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="cannot be written: No such file"):
        write_bundle(tmp_path / "missing" / "m.lava", bundle)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_keeps_the_old_bundle(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.lava"
    write_bundle(path, bundle)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(BundleError, match="No space left on device; what was there is unchanged"):
        write_bundle(path, Bundle(tiny(fixed=False)), force=True)
    monkeypatch.undo()
    assert read_bundle(path) == bundle
    assert list(tmp_path.iterdir()) == [path]


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def _version(path: Path) -> None:
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 99'))


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("weights.safetensors", _flip, "not the file that was exported"),
        ("graph.json", _flip, "not the file that was exported"),
        ("tokenizer.json", Path.unlink, "tokenizer.json is missing"),
        ("manifest.json", Path.unlink, "not a Lava bundle"),
        ("manifest.json", lambda path: path.write_text("{"), "damaged"),
        ("manifest.json", lambda path: path.write_text("[]"), "damaged"),
        ("manifest.json", _version, "format version 99"),
    ],
)
def test_damaged_bundles(tmp_path: Path, bundle: Bundle, file: str, damage: Any, message: str) -> None:
    write_bundle(tmp_path / "m.lava", bundle)
    damage(tmp_path / "m.lava" / file)
    with pytest.raises(BundleError, match=message) as error:
        read_bundle(tmp_path / "m.lava")
    assert "\n" not in str(error.value)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path, bundle: Bundle) -> None:
    write_bundle(tmp_path / "m.lava", bundle)
    (tmp_path / "secret").write_text("x")
    manifest = tmp_path / "m.lava" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"tokenizer.json"', '"../secret"'))
    with pytest.raises(BundleError, match=r"'\.\./secret', which no bundle holds"):
        read_bundle(tmp_path / "m.lava")


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder; write one with"):
        read_bundle(tmp_path / "m.lava")
