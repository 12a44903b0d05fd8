"""Files and options altered at random: refused in one line, or the same answer, or another one where what was altered
means something else. Never a traceback, never a file that says something else than its reader does."""

import copy
import hashlib
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import datasets
import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoTokenizer

from neurotool.activity import Activity
from neurotool.checkpoint import Checkpoint, write_checkpoint
from neurotool.cli.main import cli
from neurotool.errors import NeurotoolError
from neurotool.evaluation import measure, predict
from neurotool.export.nir import read_nir, write_nir
from neurotool.lava_runtime.bundle import MANIFEST, Bundle, read_bundle, write_bundle
from neurotool.lava_runtime.emulator import Emulator
from neurotool.sentences import random_inputs
from neurotool.simulate import simulate
from neurotool.student.serialise import load_student, to_checkpoint
from neurotool.tasks import Task
from neurotool.texts import longest

MEANING = {
    *("time_steps", "schedule", "spikes", "leak", "reset", "v_threshold", "learn_v_threshold", "v_init", "pooling"),
    *("feedback", "feedback_sweeps", "num_attention_heads", "layer_norm_eps", "max_length"),
}
"""Fields that say what the network does, or where its texts are cut: another value is another answer."""
ODD: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 16, 0.5, -0.5, 1e-308, 1e308, 10**20, -(10**20), 2**31, 2**63),
    *("", "x", "\ud800", "a\0b", "x" * 3000, "[/red]", "phased", "ternary", float("nan"), float("inf")),
    *([], {}, [[]], [1, 2], {"a": 1}),
]
CASES = 60


@pytest.fixture(scope="session")
def checkpoint(make_student: Callable[..., Any], tiny_teacher: Path) -> Checkpoint:
    tokenizer = AutoTokenizer.from_pretrained(tiny_teacher)
    student = make_student(vocab_size=len(tokenizer), num_hidden_layers=1)
    task = Task("reviews", ("text",), ("no", "yes"), ("accuracy",))
    texts = datasets.Dataset.from_dict(dict(tokenizer(["good w1 w2", "bad", "w3 . w4"])))
    _, activity = measure(student, texts, tokenizer)
    return to_checkpoint(student, tokenizer, task, {"plan": {"max_length": 16}}, activity.to_dict())


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from places(entry, (*path, key))


def mutate(choose: random.Random, value: Any, path: tuple[Any, ...]) -> None:
    """Alter, remove, double or rename what lies at one place."""
    for key in path[:-1]:
        value = value[key]
    kind = choose.choice(("odd", "odd", "odd", "near", "remove", "rename"))
    if kind == "remove":
        del value[path[-1]]
    elif kind == "rename" and isinstance(value, dict):
        value[choose.choice(("", "\ud800", "x", "/", "__class__"))] = value.pop(path[-1])
    elif kind == "near" and type(value[path[-1]]) in (int, float):
        value[path[-1]] += choose.choice((-1, 1, 0.5))
    else:
        value[path[-1]] = copy.deepcopy(choose.choice(ODD))


def outcome(read: Callable[[], Any]) -> Any:
    """What was answered, or None for a refusal in one line."""
    try:
        return read()
    except NeurotoolError as error:
        assert "\n" not in str(error) and error.exit_code == 2
        str(error).encode()
        return None


def same(a: Any, b: Any) -> bool:
    return a is None or np.array_equal(a, b)


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """The header of a .ckpt, without a look at what it then says."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    head = json.loads(raw[8 : 8 + size])
    header = json.loads(head["__metadata__"]["neurotool"])
    change(header)
    head["__metadata__"]["neurotool"] = json.dumps(header)
    text = json.dumps(head).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def answer_of_checkpoint(path: Path) -> np.ndarray:
    student, tokenizer, task, loaded = load_student(path)
    assert task.num_labels == 2
    counts = Activity.from_dict(loaded.activity)
    figures = [counts.mean_rate, counts.token_pairs, *(layer.spikes_times_tokens for layer in counts.layers.values())]
    length = longest(loaded.training.get("plan", {}), student.config.max_position_embeddings)
    with torch.inference_mode():
        logits, _ = predict(student, tokenizer, [("good w1 w2",), ("bad",)], length)
        return np.append(logits, figures)


def fuzz_checkpoints(checkpoint: Checkpoint, folder: Path, seeds: range) -> list[str]:
    file, bad = folder / "model.ckpt", []
    write_checkpoint(file, checkpoint)
    content, right = file.read_bytes(), answer_of_checkpoint(file)
    for seed in seeds:
        choose = random.Random(seed)
        done: list[tuple[Any, ...]] = []

        def change(header: dict[str, Any], choose: random.Random = choose, done: list[Any] = done) -> None:
            part = choose.choice(("config", "training", "activity", "tokenizer", "all"))
            inner: Any = header if part == "all" else header[part]
            name = choose.choice(("tokenizer.json", "tokenizer_config.json"))
            if part == "tokenizer":
                inner = json.loads(header["tokenizer"][name])
            known = [
                path for path in places(inner) if part != "tokenizer" or "vocab" not in path or choose.random() < 0.1
            ]
            done.append((part, *choose.choice(known)))
            mutate(choose, inner, done[0][1:])
            if part == "tokenizer":
                header["tokenizer"][name] = json.dumps(inner)

        file.write_bytes(content)
        _edit(file, change)
        try:
            found = outcome(lambda: answer_of_checkpoint(file))
        except Exception as error:
            bad.append(f"seed {seed}, {done}: {type(error).__name__} {error}")
            continue
        if not same(found, right) and done[0][0] != "tokenizer" and not MEANING & set(map(str, done[0])):
            bad.append(f"seed {seed}, {done}: another answer")
    return bad


def fuzz_nir(checkpoint: Checkpoint, folder: Path, seeds: range) -> list[str]:
    file, bad = folder / "model.nir", []
    write_checkpoint(folder / "m.ckpt", checkpoint)
    graph = load_student(folder / "m.ckpt").model.to_graph()
    write_nir(graph, file, force=True)
    (one,) = random_inputs(graph, 1)
    right = simulate(graph, **one).logits
    content = file.read_bytes()
    for seed in seeds:
        choose = random.Random(seed)
        file.write_bytes(content)
        what = _damage_hdf5(file, choose)

        def read() -> np.ndarray:
            made = read_nir(file)
            return simulate(made, **random_inputs(made, 1)[0]).logits

        try:
            found = outcome(read)
        except Exception as error:
            bad.append(f"seed {seed}, {what}: {type(error).__name__} {error}")
            continue
        if not same(found, right) and not what.startswith(("bytes", "values")):
            bad.append(f"seed {seed}, {what}: another answer")
    return bad


def _damage_hdf5(path: Path, choose: random.Random) -> str:
    kind = choose.choice(
        ("bytes", "cut", "remove", "values", "shape", "bomb", "soft", "external", "hard", "odd", "text")
    )
    if kind in ("bytes", "cut"):
        raw = bytearray(path.read_bytes())
        at = choose.randrange(len(raw))
        raw[at : at + choose.choice((1, 4, 64))] = (
            choose.randbytes(choose.choice((1, 4, 64))) if kind == "bytes" else b""
        )
        path.write_bytes(raw if kind == "bytes" else raw[:at])
        return f"{kind} at {at}"
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file["node"].visit(lambda name: names.append(f"node/{name}"))
        name = choose.choice(names)
        old = file[name]
        if kind in ("values", "shape") and not isinstance(old, h5py.Dataset):
            return "same"
        value = old[()] if isinstance(old, h5py.Dataset) else None
        if kind == "values" and not (isinstance(value, np.ndarray) and value.dtype.kind == "f"):
            return "same"
        del file[name]
        match kind:
            case "values":
                file[name] = value * 2 + 1
            case "shape":
                file[name] = np.zeros((3,) * choose.choice((0, 1, 2, 5)), choose.choice(("f4", "i8", "f2", "c8")))
            case "bomb":
                file.create_dataset(name, shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000), compression="gzip")
            case "soft":
                file[name] = h5py.SoftLink(choose.choice(("/node", "/nowhere", "/" + choose.choice(names))))
            case "external":
                file[name] = h5py.ExternalLink("other.h5", "/x")
            case "hard":
                file[name] = file["node"]
            case "odd":
                file[name] = choose.choice((1, -1.5, "text", b"bytes", np.nan, np.array([]), np.array([b"a"])))
            case "text":
                file[name] = choose.choice(("", "{", "{}", "[" * 5000, "LIF", "NIRGraph"))
    return f"{kind} {name}"


def fuzz_bundles(checkpoint: Checkpoint, folder: Path, seeds: range) -> list[str]:
    write_checkpoint(folder / "m.ckpt", checkpoint)
    graph = load_student(folder / "m.ckpt").model.to_graph()
    task = {"name": "t", "text_columns": ["text"], "label_names": ["no", "yes"], "metrics": ["accuracy"]}
    path, bad = folder / "m.lava", []
    write_bundle(path, Bundle(graph, checkpoint.tokenizer, task, {"plan": {"max_length": 16}}))
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    batch = {name: np.asarray(x)[None] for name, x in random_inputs(graph, 1)[0].items()}
    right = Emulator(graph).run(**batch).logits
    for seed in seeds:
        choose = random.Random(seed)
        for name, content in before.items():
            (path / name).write_bytes(content)
        name = choose.choice((MANIFEST, MANIFEST, "graph.json"))
        made = json.loads(before[name])
        place = choose.choice(list(places(made)))
        mutate(choose, made, place)
        (path / name).write_text(json.dumps(made))
        if name != MANIFEST:
            manifest = json.loads(before[MANIFEST])
            manifest["files"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
            (path / MANIFEST).write_text(json.dumps(manifest))
        try:
            found = outcome(lambda: Emulator(read_bundle(path).graph).run(**batch).logits)
        except Exception as error:
            bad.append(f"seed {seed}, {name} {place}: {type(error).__name__} {error}")
            continue
        if not same(found, right) and name == MANIFEST:
            bad.append(f"seed {seed}, {place}: another answer")
    return bad


NUMBERS = (
    "0",
    "-1",
    "1",
    "99999999999999999999",
    "1e308",
    "nan",
    "inf",
    "-inf",
    "x",
    "",
    "1.5",
    "9" * 5000,
    "0x10",
    "１",
)
OPTIONS = {
    "evaluate": ("--time-steps", "--batch-size"),
    "predict": ("--batch-size",),
    "export": ("--samples", "--time-step", "--time-steps"),
    "validate": ("--samples", "--tolerance", "--time-step", "-T"),
    "run": ("--samples", "--timeout"),
    "energy report": ("--samples", "-T", "--time-step"),
    "energy sweep": ("--samples", "-T"),
}


def test_every_number_has_a_range() -> None:
    """Nothing is there to run: a number is refused before, or the file is."""
    for command, options in OPTIONS.items():
        for option in options:
            for number in NUMBERS:
                texts = ["nothing.ckpt"] * (2 if command == "validate" else 1) + ["text"] * (command == "predict")
                result = CliRunner().invoke(cli, [*command.split(), *texts, f"{option}={number}"])
                lines = result.output.strip().splitlines()
                assert result.exit_code == 2 and len(lines) == 1, (command, option, number[:20], result.output[:300])
                assert lines[0].startswith("Error:") and len(lines[0]) < 400


WORDS = (
    *("0", "1", "2", "3", "1,2", "0.5", "-1", "x", "", " ", "text", "encoder.0", "encoder.0.query:readout", "none"),
    *(
        "m.ckpt",
        "m.nir",
        "m.lava",
        "data.tsv",
        ".",
        "nothing",
        "nothing/x.svg",
        "new.npz",
        "new.html",
        "new.png",
        "x=y",
    ),
    *("\udce9", "é", "x" * 300, "[/red]", "-", "--", "1" * 400, "a,b,c", "=", "@", "{", "[]", "float,int", "loihi2"),
)
"""Values for any option, the right ones of a few among them."""
READS = ("m.ckpt", "m.nir", "m.lava/manifest.json", "data.tsv", "spikes.npz")


def fuzz_options(checkpoint: Checkpoint, folder: Path, seeds: range) -> list[str]:
    """Up to four options of a command, on files that it can read: answered, or refused in one line; and the files stay
    as they are. A training is refused at last by its data; Lava is left out, as slow."""
    write_checkpoint(folder / "m.ckpt", checkpoint)
    graph = load_student(folder / "m.ckpt").model.to_graph()
    write_nir(graph, folder / "m.nir")
    task = {"name": "t", "text_columns": ["text"], "label_names": ["no", "yes"], "metrics": ["accuracy"]}
    write_bundle(folder / "m.lava", Bundle(graph, checkpoint.tokenizer, task, {"plan": {"max_length": 16}}))
    (folder / "data.tsv").write_text("text\tlabel\ngood w1 w2\tyes\nbad\tno\n")
    np.savez(folder / "spikes.npz", x=np.ones((1, 4, 16)))
    before, bad = {name: (folder / name).read_bytes() for name in READS}, []
    commands = dict(_commands(cli))
    for seed in seeds:
        choose = random.Random(seed)
        name = choose.choice(sorted(commands))
        arguments = name.split()
        for parameter in commands[name].params:
            if isinstance(parameter, click.Argument):
                several = {"texts": ["good w1"], "models": ["m.ckpt"]}.get(parameter.name or "", ["m.ckpt"])
                arguments += several if choose.random() < 0.7 else [choose.choice(("m.nir", "m.lava", "data.tsv", "."))]
        options = [option for option in commands[name].params if isinstance(option, click.Option)]
        for option in choose.sample(options, min(len(options), choose.choice((1, 1, 2, 3, 4)))):
            arguments.append(option.opts[0])
            if not option.is_flag:
                known = option.type.choices if isinstance(option.type, click.Choice) else NUMBERS
                value = choose.choice(choose.choice((known, WORDS)))
                arguments.append("emulator" if value == "lava" and "executor" in (option.name or "") else value)
        if name == "train":
            arguments += ["--data", "nothing", "-o", "new.ckpt"]
        if name == "doctor":
            arguments += ["--quick"]
        result = CliRunner().invoke(cli, arguments)
        lines = [line for line in result.output.splitlines() if line.startswith("Error:")]
        wrong = [result.exception] if not isinstance(result.exception, SystemExit | None) else []
        wrong += [line for line in lines if "unexpected " in line or len(line) > 300]
        wrong += (
            [f"exit {result.exit_code}, {len(lines)} errors"] if (result.exit_code == 2) != (len(lines) == 1) else []
        )
        wrong += [f"{name} changed" for name in READS if (folder / name).read_bytes() != before[name]]
        if wrong:
            bad.append(f"seed {seed}, {arguments}: {wrong} {result.output[-300:]!r}")
        for made in [path for path in folder.rglob("*new*") if path.is_file()]:
            made.unlink()
    return bad


def _commands(group: click.Group, name: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for part in group.list_commands(context):
        command = group.get_command(context, part)
        assert command is not None
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name}{part} ")
        else:
            yield f"{name}{part}", command


TIMES = int(os.environ.get("NEUROTOOL_FUZZ", 1))
FUZZ = {fuzz_checkpoints: 1000 * TIMES, fuzz_nir: 500 * TIMES, fuzz_bundles: 750 * TIMES, fuzz_options: 250 * TIMES}
"""Cases of each kind in the slow suite: 2,500; NEUROTOOL_FUZZ=4 makes them 10,000."""


@pytest.mark.parametrize("fuzz", FUZZ)
def test_altered_files_and_options(
    fuzz: Any, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fuzz(checkpoint, tmp_path, range(CASES)) == []


@pytest.mark.slow
@pytest.mark.parametrize("fuzz", FUZZ)
def test_thousands_of_altered_files_and_options(
    fuzz: Any, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert fuzz(checkpoint, tmp_path, range(10_000, 10_000 + FUZZ[fuzz])) == []
