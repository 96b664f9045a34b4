"""Imports between the rooms (top-level modules and folders) of the package run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import edge_af

PACKAGE = Path(edge_af.__file__).parent

FLOORS = (
    ("__version__", "cache", "console", "documents", "errors", "metrics", "typed"),
    ("files", "git", "options", "prefetch", "protobuf", "subprocesses"),
    ("artifacts", "data", "packages"),
    ("bundle", "machine", "models"),
    ("records", "runtime"),
    ("api", "bench", "report"),
    ("doctor", "emulation", "export", "features"),
    ("__init__", "compare", "targets", "train", "video_cost"),
    ("cli",),
    ("__main__",),
)
"""Rooms by floor, lowest first. A room imports from lower floors only."""


def imported_modules(path: Path) -> list[str]:
    """Return the modules of this package that a file imports, lazy imports included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            whole = node.module == "edge_af"
            found += [f"edge_af.{name.name}" for name in node.names] if whole else [node.module]
    return [name for name in found if name.split(".")[0] == "edge_af"]


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_imports_run_one_way():
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    upward = []
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE)
        room = relative.parts[0].removesuffix(".py")
        for module in imported_modules(path):
            other = room_of(module)
            if other != room and floor_of[other] >= floor_of[room]:
                upward.append(f"{relative} imports {module}")
    assert not upward


def test_every_room_has_a_floor():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert rooms == {room for floor in FLOORS for room in floor}


def test_no_two_classes_share_a_name():
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_no_function_takes_more_than_six_parameters():
    long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names = [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([name for name in names if name not in ("self", "cls")]) > 6:
                    long.append(f"{path.relative_to(PACKAGE)}: {node.name}")
    assert not long


def test_no_test_imports_a_test():
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").split(".")[-1].startswith("test_"), path
