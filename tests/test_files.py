"""What is written, and over what: never over what is not ours, never without --force, whole or not at all."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from neurotool.cli.main import cli
from neurotool.errors import BundleError, ExportError, GraphError
from neurotool.export.lower import lower
from neurotool.export.nir import read_nir, write_nir
from neurotool.files import check_free, replacing, write_bytes
from neurotool.graph import Graph, GraphBuilder, Input, Linear, Neuron
from neurotool.lava_runtime import worker
from neurotool.lava_runtime.bundle import Bundle, read_bundle, write_bundle
from neurotool.texts import check_expression


def network(weight: float = 1.0, dtype: Any = np.float32) -> Graph:
    build = GraphBuilder()
    x = build.add("in", Input(2))
    s = build.add("s", Neuron(), build.add("l", Linear(np.full((3, 2), weight, dtype)), x))
    build.add("out", Linear(np.full((2, 3), weight, dtype)), s)
    return build.build(time_steps=4, schedule="concurrent")


def test_only_regular_files_are_replaced_and_only_when_told(tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text("old")
    os.mkfifo(pipe)
    with pytest.raises(ExportError, match=r"exists; choose another name, or --force"):
        write_bytes(file, b"new")
    for target, force, message in (
        (pipe, True, "a device, a pipe or a socket"),
        (tmp_path, True, "is a folder"),
        (Path("a\0b"), True, "no file has such a name"),
        (tmp_path / ("x" * 300), True, "too many"),
        (tmp_path / "no" / "such", True, "No such file or directory"),
    ):
        with pytest.raises(ExportError, match=message):
            write_bytes(target, b"new", force)
    with pytest.raises(ExportError, match="is what the command reads"):
        check_free(file, force=True, read=[tmp_path / "." / "file"])
    assert file.read_text() == "old" and pipe.is_fifo()
    file.chmod(0o640)
    write_bytes(file, b"new", force=True)
    assert file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o640
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


@pytest.mark.parametrize(
    "command",
    [
        "run net.nir --input in.npz -o in.npz",
        "run net.nir --input in=events.csv -o events.csv",
        "run net.nir --data data.csv --record s -o data.csv",
        "energy report net.nir --data data -o data/validation.csv",
        "energy report net.nir --cost-model mine.json -o mine.json",
        "energy compare net.nir other.nir -o other.nir",
        "energy sweep net.nir -T 1 --data plot.svg --plot plot.svg",
        "energy audit net.nir --data data.csv -o link.csv",
        "evaluate net.nir --data data --convergence -o data/validation.csv",
        "export net.nir --target svg --tokenizer other.nir -o other.nir",
        "export net.nir --target netx --input in.npz -o in.npz",
        "run net.nir x --record s --tokenizer plot.svg --raster plot.svg",
    ],
)
def test_no_result_takes_the_place_of_what_is_read(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever option names it: a file, one of NAME=FILE, one in a folder of examples, one that a link stands for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("net.nir", "other.nir"):
        write_nir(network(), tmp_path / name)
    for name in ("in.npz", "events.csv", "data.csv", "data/validation.csv", "mine.json", "plot.svg"):
        (tmp_path / name).write_text("years of work")
    (tmp_path / "link.csv").symlink_to("data.csv")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    result = CliRunner().invoke(cli, [*command.split(), "--force"])
    assert result.exit_code == 2 and "is what the command reads; give another name for the result" in result.output
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_a_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(ExportError, match="appeared meanwhile"), replacing(file) as temporary:
        temporary.write_text("ours")
        file.write_text("somebody else's")
    assert file.read_text() == "somebody else's" and list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("command", ["energy report", "energy compare", "energy sweep", "energy audit"])
@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_energy_report_replaces_neither_its_model_nor_its_data(
    command: str, force: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m.ckpt", "data.tsv", "other.txt"):
        Path(name).write_text(name)
    for output in ("m.ckpt", "data.tsv") if force else ("m.ckpt", "data.tsv", "other.txt"):
        result = CliRunner().invoke(cli, [*command.split(), "m.ckpt", "--data", "data.tsv", "-o", output, *force])
        assert result.exit_code == 2 and result.output.startswith(f"Error: {output}: "), result.output
        assert Path(output).read_text() == output


class Killed(BaseException):
    """No `except OSError`, and no tidying up, comes after a kill."""


@pytest.mark.parametrize("moment", range(12))
def test_a_bundle_whose_replacement_is_killed_is_the_old_or_the_new(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, old, new, last = tmp_path / "m.lava", *(Bundle(network(weight)) for weight in (1.0, 2.0, 3.0))
    write_bundle(path, old)
    calls = 0

    def until(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > moment:
                raise Killed
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", until(os.replace))
        patch.setattr(Path, "write_bytes", until(Path.write_bytes))
        patch.setattr(Path, "unlink", until(Path.unlink))
        try:
            write_bundle(path, new, force=True)
            finished = True
        except Killed:
            finished = False
    assert read_bundle(path) in ((new,) if finished else (old, new))
    write_bundle(path, last, force=True)
    assert read_bundle(path) == last
    assert sorted(file.name for file in path.iterdir()) == ["graph.json", "manifest.json", "weights.safetensors"]


def test_what_is_not_the_bundles_is_never_removed(tmp_path: Path) -> None:
    path, website = tmp_path / "m.lava", tmp_path / "website"
    write_bundle(path, Bundle(network()))
    (path / "notes.txt").write_text("precious")
    website.mkdir()
    (website / "manifest.json").write_text('{"name": "a web page"}')
    (website / "thesis.tex").write_text("precious")
    for folder, message in ((path, "holds notes.txt"), (website, "not that of a bundle")):
        with pytest.raises(BundleError, match=message):
            write_bundle(folder, Bundle(network()), force=True)
    assert (path / "notes.txt").exists() and (website / "thesis.tex").exists()


def _external(file: h5py.File, name: str) -> None:
    file[name] = h5py.ExternalLink("pipe", "/w")  # opening it would wait for ever


def _circle(file: h5py.File, name: str) -> None:
    file[name] = file["node"]


def _bomb(file: h5py.File, name: str) -> None:
    file.create_dataset(name, shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000), compression="gzip")


def _packed(file: h5py.File, name: str) -> None:
    file.create_dataset(name, data=np.zeros(80_000_000, "i1"), compression="gzip", chunks=(4_000_000,))


def _elsewhere(file: h5py.File, name: str) -> None:
    file.create_dataset(name, shape=(4,), dtype="f4", external=[("secret", 0, 16)])


def _virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("secret", "x", (4,))
    file.create_virtual_dataset(name, layout)


def _soft(file: h5py.File, name: str) -> None:
    file[name] = h5py.SoftLink("/node")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_external, "is a link to 'pipe'"),
        (_soft, "is a link to '/node'"),
        (_circle, "is the same object as another name"),
        (_bomb, "declares 4 TB, which the file does not hold"),
        (_packed, r"brings what the file declares to 80 MB: \d+ MB is the limit"),
        (_elsewhere, "lies in another file"),
        (_virtual, "lies in another file"),
    ],
)
def test_a_nir_file_holds_what_it_says(damage: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.nir"
    write_nir(network(), path)
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(path, "r+") as file:
        damage(file, "node/nodes/more")
    with pytest.raises(GraphError, match=message):
        read_nir(path)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.longdouble, np.int8, np.int64, ">f4", ">i2"])
def test_parameters_of_every_type_become_the_same_integers(dtype: Any) -> None:
    made = [lower(network(2.0, kind), dict.fromkeys(("in", "l", "s", "out"), 6.0)) for kind in (np.float32, dtype)]
    assert made[0] == made[1]
    half = GraphBuilder()
    half.add("l", Linear(np.ones((1, 1), np.float16), np.full(1, 60000, np.float16)), half.add("in", Input(1)))
    fixed = lower(half.build(time_steps=1, schedule="concurrent"), {"in": 1.0, "l": 60001.0})
    bias = fixed.nodes["l"].bias * fixed.fixed_point["l"].scale  # type: ignore[attr-defined]
    assert abs(bias[0] - 60000) < 1


@pytest.mark.parametrize(
    "expression", [r"(a+)+$", r"(a|a)*b", r"(?:\w\s?){20}", "a*a*a*b", r"(a)\1", "(?x)(a+ ) *", r"(a*|b)(a*|b)(a*|b)"]
)
def test_an_expression_that_could_go_on_for_ever_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="could go on for ever"):
        check_expression(expression)


@pytest.mark.parametrize(
    "expression",
    [
        r"\s+",
        r"[^\r\n\p{L}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}]+[\r\n]*|\s+(?!\S)|\s+",
        "(?i:'s|'t|'re)|x",
        r"\)+\(*",
        "[)+*(]+",
    ],
)
def test_plain_expressions_are_not(expression: str) -> None:
    refused = False
    try:
        check_expression(expression)
    except ValueError:
        refused = True
    assert not refused


@pytest.mark.parametrize("dying", ["actor", "manager"])
def test_lava_is_watched_from_before_its_first_process(
    dying: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    done = threading.Event()

    def fail(_: Path, error: BaseException, __: str) -> None:
        said.append(str(error))
        done.set()

    monkeypatch.setattr(worker, "_fail", fail)
    dead = SimpleNamespace(exitcode=-signal.SIGKILL, pid=7, exception=None)
    alive = SimpleNamespace(exitcode=None, pid=8, exception=None)
    manager, actors = (alive, [dead]) if dying == "actor" else (dead, [alive])
    first = SimpleNamespace(runtime=None)
    watch = threading.Thread(target=worker._watch, args=(first, tmp_path, done), daemon=True)
    watch.start()
    infrastructure = SimpleNamespace(smm=SimpleNamespace(_process=manager), actors=actors)
    first.runtime = SimpleNamespace(_messaging_infrastructure=infrastructure)
    watch.join(10)
    assert said == ["process 7 ended with exit code -9; perhaps memory ran out"]


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", b"a ? ?"), ("latin-1", b"a \xe9 ?"), ("utf-8", "a é Ж".encode())]
)
def test_letters_that_a_terminal_lacks_are_replaced(encoding: str, printed: bytes) -> None:
    program = "import click; from neurotool.cli.main import open_streams; open_streams(); click.echo('a é Ж')"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert done.stdout.strip() == printed


def test_closed_streams_are_empty(tmp_path: Path) -> None:
    program = (
        "import os, sys; from neurotool.cli.main import open_streams; open_streams();"
        "print('lost'); print('lost', file=sys.stderr); file = open('x', 'w'); os.write(1, b'lost');"
        "file.write(repr((sys.stdin.read(), file.fileno() > 2)))"
    )
    command = f"'{sys.executable}' -c \"{program}\" <&- >&- 2>&-"
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "x").read_text() == "('', True)"


@pytest.mark.parametrize("command", ["--version", "--help", "show --help"])
def test_standard_output_on_a_full_disk(command: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    program = f"{sys.executable} -m neurotool {command}"
    done = subprocess.run(["bash", "-c", f"{program} >/dev/full"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "Error: [Errno 28] No space left on device: 'standard output'\n"
    assert subprocess.run(["bash", "-c", f"{program} >/dev/full 2>/dev/full"]).returncode == 1


def test_closed_streams_without_devices() -> None:
    """Another process may not open /dev/null either."""
    program = (
        "import os; real = os.open\ndef none(path, *more):\n    if path == os.devnull: raise PermissionError(13, '')\n"
        "    return real(path, *more)\nos.open = none\nfrom neurotool.cli.main import open_streams\nopen_streams()\n"
        "import sys; print('lost'); print('lost', file=sys.stderr); assert sys.stdin.read() == ''"
    )
    command = f"'{sys.executable}' -c \"$PROGRAM\" <&- >&- 2>&-"
    subprocess.run(["bash", "-c", command], env={**os.environ, "PROGRAM": program}, check=True)


def test_a_nul_in_an_argument() -> None:
    for arguments in (["predict", "a\0b", "x"], ["energy", "report", "m.ckpt", "--data", "a\0"]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2 and "has a NUL character" in result.output
        assert result.output.count("\n") == 1


def test_numbers_of_a_list() -> None:
    result = CliRunner().invoke(cli, ["evaluate", "m.ckpt", "-T", "1,2,1000001"])
    assert result.exit_code == 2 and "1000001: every T must be at least 1 and at most 1000000" in result.output
