"""The same results with Lava as it was released: on Python 3.10, with its own pins, in an environment of its own.

The environment is made once, in build/lava310 (about 300 MB), and found again. Without a Python 3.10 tests are skipped.
"""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_lava_run import TIMEOUT, assert_same, student_cases
from test_stock import chain

from neurotool.lava_runtime import compatibility
from neurotool.lava_runtime.emulator import Emulator
from neurotool.lava_runtime.entering import entering
from neurotool.lava_runtime.job import Job
from neurotool.lava_runtime.run import run_jobs

pytestmark = pytest.mark.slow


def python310() -> str | None:
    """A Python 3.10: `python3.10`, else one of pyenv's."""
    found = [shutil.which("python3.10")]
    if shutil.which("pyenv"):
        root = subprocess.run(["pyenv", "root"], capture_output=True, text=True).stdout.strip()
        found += [str(path) for path in Path(root).glob("versions/3.10*/bin/python")]
    for python in filter(None, found):
        if subprocess.run([python, "-c", "import venv"], capture_output=True).returncode == 0:  # pyenv's may be a shim
            return python
    return None


@pytest.fixture(scope="session")
def lava310(repository: Path) -> str:
    """Interpreter of an environment with lava-nc, scipy, safetensors and neurotool without its other requirements."""
    folder = repository / "build" / "lava310"
    python, made = folder / "bin" / "python", folder / "made"
    if not made.exists():
        base = python310()
        if base is None:
            pytest.skip("no Python 3.10: neither python3.10 on the PATH nor one of pyenv's")
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([base, "-m", "venv", str(folder)], check=True)
        packages = [f"lava-nc=={compatibility.LAVA_NC}", "scipy", "safetensors"]
        for arguments in (packages, ["--no-deps", "-e", str(repository)]):
            command = [str(python), "-m", "pip", "install", "-q", *arguments]
            installed = subprocess.run(command, capture_output=True, text=True)
            if installed.returncode:
                pytest.skip(f"Lava cannot be installed on Python 3.10: {installed.stderr.strip().splitlines()[-1]}")
        made.touch()
    return str(python)


def test_released_lava_gives_the_same_integers(lava310: str, make_student: Any) -> None:
    says = "import json, sys, numpy; print(json.dumps([*sys.version_info[:2], numpy.__version__]))"
    said = subprocess.run([lava310, "-c", says], capture_output=True, text=True, check=True)
    major, minor, numpy = json.loads(said.stdout)
    assert (major, minor) == (3, 10) and int(numpy.split(".")[0]) < 2
    jobs, expected = student_cases(make_student)
    for lava, emulator in zip(run_jobs(jobs, TIMEOUT, python=lava310), expected, strict=True):
        assert_same(lava, emulator)


def test_released_stock_layers_give_the_same_integers(lava310: str) -> None:
    graph, record = chain(3, leak=0.75), ("n1", "n2", "n3")
    values = {"x": np.random.default_rng(3).integers(0, 2, (3, 6, 1, 3))}
    (lava,) = run_jobs([Job(graph, entering(graph, None, None, None, values), record)], TIMEOUT, python=lava310)
    emulator = Emulator(graph).run(values=values, record=True)
    for name in record:
        np.testing.assert_array_equal(lava.spikes[name], emulator.spikes[name])
        np.testing.assert_array_equal(lava.potentials[name], emulator.potentials[name])
    np.testing.assert_array_equal(lava.logits, emulator.logits)


def test_the_worker_needs_neither_torch_nor_transformers(lava310: str) -> None:
    code = "import neurotool.lava_runtime.worker, neurotool.lava_runtime.processes; import torch"
    result = subprocess.run([lava310, "-c", code], capture_output=True, text=True)
    assert result.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'torch'"
