"""The house: who may import whom, and what stays light."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = [
    "errors",
    "numerals",
    "store",
    "places",
    "types",
    "spool",
    "memory",
    "compiled",
    "plugins",
    "seeds",
    "pace",
    "device",
    "stats",
    "cohort",
    "nuclei",
    "slides",
    "run",
    "segment",
    "bags",
    "matrix",
    "mil",
    "rank",
    "image_model",
    "models",
    "tables",
    "pipeline",
    "export",
    "phantom",
    "doctor",
    "viewer",
    "figures",
    "notebook",
    "cli",
]
HEAVY = ("tensorflow", "torch", "matplotlib")


def modules() -> list[tuple[str, Path]]:
    library = [
        (path.relative_to(ROOT / "morphomil").parts[0].removesuffix(".py"), path)
        for path in (ROOT / "morphomil").rglob("*.py")
    ]
    outside = [
        (folder, path) for folder in ("figures", "cli") for path in (ROOT / folder).rglob("*.py")
    ]
    return [(name, path) for name, path in library + outside if name != "__init__"]


def full_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def imported(path: Path) -> set[str]:
    return {name.split(".")[1] for name in full_names(path) if name.startswith("morphomil.")}


@pytest.mark.parametrize(
    ("name", "path"),
    modules(),
    ids=lambda value: str(value) if isinstance(value, str) else value.name,
)
def test_modules_import_only_from_those_above(name: str, path: Path) -> None:
    above = {*ORDER[: ORDER.index(name) + 1], "__version__"}
    assert imported(path) <= above


@pytest.mark.parametrize(
    "path",
    [path for name, path in modules() if name not in {"cli", "figures"}],
    ids=lambda path: path.name,
)
def test_the_library_never_prints(path: Path) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert not [
        call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]


def joins_below_a_run(path: Path) -> list[int]:
    lines = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            base: ast.expr = node.left
        elif isinstance(node, ast.Attribute) and node.attr in ("glob", "rglob", "joinpath"):
            base = node.value
        else:
            continue
        if isinstance(base, ast.Attribute) and base.attr == "path":
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "path",
    [path for name, path in modules() if name != "run"],
    ids=lambda path: f"{path.parent.name}/{path.name}",
)
def test_only_the_run_knows_where_its_results_lie(path: Path) -> None:
    assert joins_below_a_run(path) == []


COMPUTING = ("scipy", "statsmodels", "morphomil.stats")
DRAWING = ("scipy.ndimage",)
"""The outlines of labels are drawn with it."""


@pytest.mark.parametrize(
    "path", [path for name, path in modules() if name == "figures"], ids=lambda path: path.name
)
def test_figures_compute_nothing(path: Path) -> None:
    def within(name: str, packages: tuple[str, ...]) -> bool:
        return any(f"{name}.".startswith(f"{package}.") for package in packages)

    names = full_names(path)
    assert not [name for name in names if within(name, COMPUTING) and not within(name, DRAWING)]


def loads(code: str) -> str:
    report = f"import sys; {code}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    return subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import morphomil",
        "import morphomil.cli.app",
        "import morphomil.pipeline",
        "import morphomil.rank",
    ],
)
def test_heavy_libraries_wait_until_needed(code: str) -> None:
    assert loads(code) == ""


SCIENTIFIC = ("numpy", "pandas", "scipy", "skimage", "zarr", "PIL", "numba", "pydantic")


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"]])
def test_import_and_help_are_quick(words: list[str]) -> None:
    """What takes time is what is loaded, which no other work on the machine changes."""
    program = f"import sys; sys.argv = {['morphomil', *words]!r}; import morphomil"
    if words:
        program = (
            f"{program}.cli.app\ntry: morphomil.cli.app.start()\nexcept SystemExit: pass\nprint()"
        )
    report = f"{program}\nprint(len(sys.modules), *set(sys.modules) & set({SCIENTIFIC!r}))"
    printed = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, check=True
    ).stdout
    number, *scientific = printed.splitlines()[-1].split()
    assert scientific == []
    assert int(number) < (500 if words else 150)


def lines_of_code(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """A function's lines without those of its docstring."""
    docstring = ast.get_docstring(function, clean=False)
    described = docstring.count("\n") + 1 if docstring else 0
    return (function.end_lineno or function.lineno) - function.lineno + 1 - described


@pytest.mark.parametrize("path", [path for _, path in modules()], ids=lambda path: path.name)
def test_files_and_functions_stay_readable(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert source.count("\n") <= 500
    functions = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert not [f.name for f in functions if lines_of_code(f) > 60]


def module_name(path: Path) -> str:
    """The dotted name under which a file is imported."""
    inside = path.relative_to(ROOT)
    parts = [*inside.parts[:-1], *([] if inside.stem == "__init__" else [inside.stem])]
    return ".".join(parts if parts[0] == "morphomil" else ["morphomil", *parts])


def test_imports_go_in_no_circle() -> None:
    files = [path for top in ("morphomil", "figures", "cli") for path in (ROOT / top).rglob("*.py")]
    names = {module_name(path) for path in files}
    graph = {}
    for path in files:
        if path.stem == "__init__":  # a package hands on what its modules have
            continue
        wanted = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & names
                wanted |= inside or ({node.module} & names)
        graph[module_name(path)] = wanted - {module_name(path)}
    assert len(graph) > 150
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules
