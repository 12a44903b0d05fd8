"""Who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOMS = ("train", "export", "lava_runtime", "energy")
EXCEPTIONS = {("export", "neurotool.lava_runtime.bundle")}


@pytest.mark.parametrize(
    "module", ["neurotool", "neurotool.lava_runtime", "neurotool.lava_runtime.selfcheck", "neurotool.cli.main"]
)
def test_import_is_light(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'lava'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_public_names_are_there_and_typed(repository: Path) -> None:
    """What is imported on first use, what type checkers see, and rooms that keep their names."""
    import neurotool

    stub = ast.parse((repository / "neurotool" / "__init__.pyi").read_text("utf-8"))
    seen = {alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(neurotool.PUBLIC)
    assert all(callable(getattr(neurotool, name)) or name == "EXECUTORS" for name in neurotool.PUBLIC)
    assert not set(neurotool.PUBLIC) & set(ROOMS) and set(neurotool.PUBLIC) <= set(dir(neurotool))
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        _ = neurotool.opne  # type: ignore[attr-defined]


def imported_names(source: str, package: str) -> Iterator[str]:
    """Every absolute dotted name that the source of a module in `package` imports, at any depth of nesting.

    `from a import b` yields `a.b`: b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*parents, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(owner: str, source: str, package: str) -> list[str]:
    """Imports that a file of `owner` (a room, or "core") must not have."""
    above = {"neurotool.cli", "neurotool.api"} - {f"neurotool.{owner}"}
    below = set() if owner == "api" else {f"neurotool.{room}" for room in ROOMS if room != owner} | set(ROOMS)
    forbidden = above | below

    def within(name: str, prefix: str) -> bool:
        return name == prefix or name.startswith(prefix + ".")

    return [
        name
        for name in imported_names(source, package)
        if any(within(name, prefix) for prefix in forbidden)
        and not any(room == owner and within(name, allowed) for room, allowed in EXCEPTIONS)
    ]


@pytest.mark.parametrize(
    ("owner", "package", "source", "expected"),
    [
        ("train", "neurotool.train", "import neurotool.errors", []),
        ("train", "neurotool.train", "from . import losses", []),
        ("train", "neurotool.train", "from neurotool import energy", ["neurotool.energy"]),
        ("train", "neurotool.train", "from ..energy import cost", ["neurotool.energy.cost"]),
        ("train", "neurotool.train", "def f():\n    import energy.cost", ["energy.cost"]),
        ("api", "neurotool.api", "from neurotool.energy import report", []),
        ("api", "neurotool.api", "from neurotool.cli.main import main", ["neurotool.cli.main.main"]),
        ("core", "neurotool.student", "import neurotool.api.model", ["neurotool.api.model"]),
        ("energy", "neurotool.energy", "from neurotool.cli.main import main", ["neurotool.cli.main.main"]),
        ("export", "neurotool.export", "from neurotool.lava_runtime.bundle import write", []),
        ("export", "neurotool.export", "from neurotool.lava_runtime import bundle", []),
        ("export", "neurotool.export", "import neurotool.lava_runtime", ["neurotool.lava_runtime"]),
        ("train", "neurotool.train", "import neurotool.lava_runtime.bundle", ["neurotool.lava_runtime.bundle"]),
        ("core", "neurotool.student", "from ..train.distil import Loop", ["neurotool.train.distil.Loop"]),
    ],
)
def test_rule_sees_violations(owner: str, package: str, source: str, expected: list[str]) -> None:
    assert violations(owner, source, package) == expected


def package_of(path: Path, folder: Path, base: str) -> str:
    return ".".join([base, *path.parent.relative_to(folder).parts])


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_import_each_other(room: str, repository: Path) -> None:
    folder = repository / room
    files = sorted(folder.rglob("*.py"))
    assert files
    found = {
        path.name: violations(room, path.read_text("utf-8"), package_of(path, folder, f"neurotool.{room}"))
        for path in files
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_core_imports_no_room(repository: Path) -> None:
    folder = repository / "neurotool"
    above = [*(folder / "api").rglob("*.py"), *(folder / "cli").rglob("*.py")]  # they compose
    exempt = [folder / "__main__.py", folder / "__init__.py", *above]
    files = [path for path in sorted(folder.rglob("*.py")) if path not in exempt]
    assert folder / "errors.py" in files
    found = {
        str(path): violations("core", path.read_text("utf-8"), package_of(path, folder, "neurotool")) for path in files
    }
    assert {name: names for name, names in found.items() if names} == {}


def test_what_is_above_the_rooms_knows_no_command_line(repository: Path) -> None:
    folder = repository / "neurotool" / "api"
    files = sorted(folder.rglob("*.py"))
    assert files
    found = {path.name: violations("api", path.read_text("utf-8"), "neurotool.api") for path in files}
    assert {name: names for name, names in found.items() if names} == {}


def circle(imports: dict[str, set[str]]) -> list[str]:
    """Modules that import one another in turn, the first of them again at the end; empty where none do."""
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        found = [] if module in done else next(filter(None, (follow(m, [*path, module]) for m in imports[module])), [])
        done.add(module)
        return found

    return next(filter(None, (follow(module, []) for module in imports)), [])


def test_circles_are_seen() -> None:
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_no_circle_of_imports(repository: Path) -> None:
    """At the top of modules, for type checkers only (`if TYPE_CHECKING`) too; functions import what they need late."""
    sources = {}
    for folder in ("neurotool", *ROOMS):
        base = folder if folder == "neurotool" else f"neurotool.{folder}"
        for path in sorted((repository / folder).rglob("*.py")):
            package = package_of(path, repository / folder, base)
            name = package if path.stem == "__init__" else f"{package}.{path.stem}"
            sources[name] = (package, path.read_text("utf-8"))
    imports: dict[str, set[str]] = {}
    for name, (package, source) in sources.items():
        tree = ast.parse(source)
        for function in [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]:
            function.body, function.decorator_list = [ast.Pass()], []
        named = set(imported_names(ast.unparse(tree), package))
        imports[name] = {m if m in sources else m.rpartition(".")[0] for m in named} & set(sources) - {name}
    assert len(imports) > 90
    assert circle(imports) == []
