"""`neurotool doctor` and the worker in which it tries Lava."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from neurotool.cli import doctor as doctor_module
from neurotool.cli.main import cli
from neurotool.errors import ConfigError
from neurotool.lava_runtime import compatibility, selfcheck

lava_installed = pytest.mark.skipif(
    compatibility.installation_problem() is not None, reason=f"Lava: {compatibility.installation_problem()}"
)
# Two children that ignore polite signals, as Lava's actors survive their parent; their ids go to the file argv[1].
FAMILY = """
import os, signal, sys, time
for _ in range(2):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with open(sys.argv[1], "a") as file: file.write(f"{os.getpid()}\\n")
        time.sleep(300)
while len(open(sys.argv[1]).readlines() if os.path.exists(sys.argv[1]) else []) < 2: time.sleep(0.01)
print("both started", flush=True)
"""


def soon(condition: Callable[[], bool], patience: float = 10.0) -> bool:
    """Whether the condition comes true: a killed process takes a moment to go."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def alive(process_id: int) -> bool:
    try:
        return psutil.Process(process_id).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def marked_processes(mark: str) -> list[int]:
    """Ids of the living processes whose environment carries the mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("NEUROTOOL_TEST_MARK") == mark:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def pretend_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Make some packages appear with another version, or not installed (None)."""

    def version(name: str) -> str:
        pretended = versions.get(name.replace("-", "_"), "")
        if pretended is None:
            raise metadata.PackageNotFoundError(name)
        return pretended or metadata.version(name)

    monkeypatch.setattr(compatibility, "version", version)
    monkeypatch.setattr(doctor_module, "version", version)


@pytest.mark.parametrize(("ending", "timeout", "exit_code"), [("sys.exit(3)", 30, 3), ("time.sleep(300)", 1.5, None)])
def test_own_session_leaves_no_process(ending: str, timeout: float, exit_code: int | None, tmp_path: Path) -> None:
    ids = tmp_path / "ids"
    command = [sys.executable, "-c", FAMILY + ending, str(ids)]
    assert selfcheck.run_in_own_session(command, timeout) == (exit_code, "both started\n")
    children = [int(line) for line in ids.read_text().split()]
    assert len(children) == 2
    assert soon(lambda: not any(map(alive, children)))


@lava_installed
def test_doctor_really_runs_lava_and_leaves_no_process() -> None:
    mark = uuid.uuid4().hex
    result = subprocess.run(
        [sys.executable, "-m", "neurotool", "doctor", "--json"],
        env={**os.environ, "NEUROTOOL_TEST_MARK": mark},
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(result.stdout)
    assert answer["lava_usable"] is True
    assert answer["lava_problem"] is None
    assert answer["packages"]["numpy"] == metadata.version("numpy")
    assert answer["missing"] == []
    assert soon(lambda: marked_processes(mark) == [])


def test_quick_does_not_start_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "check_lava", lambda: pytest.fail("Lava was started"))
    result = CliRunner().invoke(cli, ["doctor", "--quick"])
    assert result.exit_code == 0
    assert "torch" in result.stdout
    assert metadata.version("numpy") in result.stdout


def test_without_lava_the_exact_command_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, lava_nc=None)
    command = (
        f"{sys.executable} -m pip install --no-deps --ignore-requires-python lava-nc==0.10.0 lava-dl==0.6.0 'numpy<2.4'"
    )
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 0
    assert "not usable: lava-nc is not installed" in result.stdout
    assert f"  {command}\n" in result.stdout
    with pytest.raises(ConfigError, match="lava-nc is not installed") as error:
        compatibility.prepare()
    assert str(error.value).endswith(command)


def test_missing_requirement_exits_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, nir=None)
    result = CliRunner().invoke(cli, ["doctor", "--quick", "--json"])
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["missing"] == ["nir"]
    assert answer["missing_command"].endswith("-m pip install 'nir>=1.0.6'")


@pytest.mark.parametrize(
    ("numpy", "problem"),
    [
        ("1.26.4", None),
        ("2.3.5", None),
        ("2.4.0", "numpy 2.4.0 is installed, Lava needs numpy < 2.4"),
        ("2.10.1", "numpy 2.10.1 is installed, Lava needs numpy < 2.4"),
        ("3.0.0", "numpy 3.0.0 is installed, Lava needs numpy < 2.4"),
    ],
)
def test_numpy_limit(numpy: str, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, numpy=numpy, lava_nc="0.10.0")
    assert compatibility.installation_problem() == problem


@pytest.mark.parametrize(
    ("worker", "reason"),
    [
        (lambda command, timeout: (None, ""), "no answer from the Lava worker within 5 s"),
        (lambda command, timeout: (1, "Traceback …\nImportError: no asteval\n"), "ImportError: no asteval"),
        (lambda command, timeout: (-9, ""), "the Lava worker ended with exit code -9"),
        (lambda command, timeout: (0, "a warning"), None),
    ],
)
def test_reasons(worker: Callable[..., object], reason: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_versions(monkeypatch, lava_nc="0.10.0")
    monkeypatch.setattr(selfcheck, "run_in_own_session", worker)
    assert selfcheck.check_lava(timeout=5) == reason


@lava_installed
def test_prepare_restores_dataclass_and_gives_each_object_its_own_default() -> None:
    code = """
import dataclasses
before = dataclasses.dataclass
from neurotool.lava_runtime.compatibility import prepare
prepare(); prepare()
assert dataclasses.dataclass is before
from lava.magma.compiler.var_model import CoreEncoder
one, two = CoreEncoder(), CoreEncoder()
one.x.base = 5
print(one.x.base, two.x.base, CoreEncoder().y.base)
"""
    if sys.version_info < (3, 11):
        pytest.skip("stock dataclasses share the default before Python 3.11")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["5", "0", "0"]


@lava_installed
def test_slayer_imports_without_torchvision() -> None:
    pytest.importorskip("torch")
    code = (
        "from neurotool.lava_runtime.compatibility import prepare; prepare();"
        "import lava.lib.dl.slayer as slayer; print(slayer.block.cuba.Dense.__name__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "Dense"
