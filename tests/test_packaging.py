"""The wheel holds neurotool, all of it, and nothing else."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

FOLDERS = {
    "neurotool": "neurotool",
    "train": "neurotool/train",
    "export": "neurotool/export",
    "lava_runtime": "neurotool/lava_runtime",
    "energy": "neurotool/energy",
}


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the tree (setuptools leaves `build/` beside the sources)."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in FOLDERS:
        shutil.copytree(repository / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(repository / "tests", source / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (repository / name).exists():
            shutil.copy(repository / name, source)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(built)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(source)], check=True)
    (path,) = built.glob("*.whl")
    return path


def test_wheel_holds_every_module_and_nothing_else(wheel: Path, repository: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name for name in names if name.endswith(".py")}
    assert modules == {
        f"{target}/{path.relative_to(repository / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (repository / folder).rglob("*.py")
    }
    assert {name.split("/")[0] for name in names} == {"neurotool", "neurotool-0.1.0.dist-info"}
    assert "neurotool/py.typed" in names
    assert "neurotool-0.1.0.dist-info/licenses/LICENSE" in names


def test_installed_wheel_runs_away_from_the_sources(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import neurotool, neurotool.cli.main, neurotool.lava_runtime.selfcheck, neurotool.train, neurotool.energy;"
        "from importlib.util import find_spec;"
        "print(neurotool.__version__, neurotool.energy.__file__, [find_spec(n) for n in ('train', 'energy', 'export')])"
    )
    # -P is newer than Python 3.10: a working directory without sources and the wheel first on the path do the same.
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    room = tmp_path / "neurotool" / "energy" / "__init__.py"
    assert result.stdout.strip() == f"0.1.0 {room} [None, None, None]"


def test_the_project_pins_and_ranges_agree(repository: Path) -> None:
    """Every direct dependency has a pin, and the pin lies within its range."""
    from importlib.metadata import requires

    from packaging.requirements import Requirement

    lines = [line.split(" #")[0].strip() for line in (repository / "constraints.txt").read_text("utf-8").splitlines()]
    pins = {pin.name: pin for pin in map(Requirement, filter(lambda line: line and line[0] != "#", lines))}
    for requirement in map(Requirement, requires("neurotool") or []):
        (pin,) = pins[requirement.name].specifier
        assert pin.operator == "=="
        assert requirement.specifier.contains(pin.version), f"{requirement} does not allow {pin}"
