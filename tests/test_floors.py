"""One way down: the rooms of the project, the floors they are on, and every import held against them."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Rooms by floor. An import may go down, or to another room of the same floor as long as no circle comes of it.
# docs/architecture.md has the same table.
FLOORS = {
    8: ("__main__",),
    7: ("cli", "__init__"),
    6: ("analysis", "bench", "clips", "scale"),
    5: ("models", "report"),
    4: ("cost", "mini"),
    3: ("api", "graphs", "machine"),
    2: ("results", "inputs", "parallel", "methods"),
    1: ("kernels",),
}
FLOOR = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
MAPPED = {"methods": "attnbench.methods", "kernels": "attnbench.kernels"}
LAZY = "attnbench/__init__.py"  # names its exports' homes for type checkers; at run time it imports nothing

Edge = tuple[str, str]


def module_of(file: str) -> str:
    parts = file.removesuffix(".py").split("/")
    parts[:1] = MAPPED.get(parts[0], parts[0]).split(".")
    return ".".join(parts).removesuffix(".__init__")


def room_of(module: str) -> str | None:
    """The room of a module; None for one of another distribution."""
    first, *rest = module.split(".")
    if first != "attnbench":
        return None
    return rest[0] if rest and rest[0] in FLOOR else "__init__"


def imported(source: str, module: str, *, package: bool = False) -> Iterator[str]:
    """Every module that a file imports anywhere in it, by its full name."""
    parents = module.split(".") if package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            # `from attnbench import methods` names a package only together with its last word
            yield from (f"{base}.{alias.name}" for alias in node.names)


def project_files() -> dict[str, str]:
    folders = (ROOT / name for name in ("attnbench", *MAPPED))
    paths = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def edges_between_rooms(files: dict[str, str]) -> dict[Edge, list[str]]:
    """For each pair of rooms, the imports that lead from the one to the other: "file imports module"."""
    edges = defaultdict(list)
    for file, source in files.items():
        module = module_of(file)
        here = room_of(module)
        assert here is not None
        for name in imported(source, module, package=file.endswith("/__init__.py")):
            there = room_of(name)
            if there is not None and there != here and file != LAZY:
                edges[here, there].append(f"{file} imports {name}")
    return dict(edges)


def upward(edges: dict[Edge, list[str]]) -> list[str]:
    return [line for (here, there), lines in edges.items() if FLOOR[there] > FLOOR[here] for line in lines]


def circles(edges: dict[Edge, list[str]]) -> list[set[str]]:
    """Groups of rooms that can all be reached from one another."""
    reach = {room: {room} for room in FLOOR}
    for _ in FLOOR:
        for here, there in edges:
            reach[here] |= reach[there]
    groups = [{other for other in reach[room] if room in reach[other]} for room in FLOOR]
    return [group for place, group in enumerate(groups) if len(group) > 1 and group not in groups[:place]]


def test_imports_go_down() -> None:
    assert upward(edges_between_rooms(project_files())) == []


def test_no_rooms_form_a_circle() -> None:
    edges = edges_between_rooms(project_files())
    assert circles(edges) == []
    assert len(edges) > 30, "the walk must see the project"


def test_every_thing_at_the_root_has_a_floor() -> None:
    found = {
        path.stem for path in (ROOT / "attnbench").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert found | set(MAPPED) == set(FLOOR)
    assert len(found) <= 17


def test_the_map_of_the_docs_is_this_table() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d) \| (.+?) \|", text, re.MULTILINE)
    written = {int(floor): set(re.findall(r"`(?:attnbench/)?(\w+)(?:\.py|/)`", rooms)) for floor, rooms in rows}
    assert written == {floor: set(rooms) for floor, rooms in FLOORS.items()}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("from attnbench.cli.options import x", "attnbench/results/new.py imports attnbench.cli.options.x"),
        ("import attnbench.bench.rows", "attnbench/results/new.py imports attnbench.bench.rows"),
        ("def f():\n    from attnbench import report", "attnbench/results/new.py imports attnbench.report"),
        ("from ..cost import waterfall", "attnbench/results/new.py imports attnbench.cost.waterfall"),
    ],
)
def test_an_import_upwards_is_named_with_both_files(line: str, problem: str) -> None:
    assert upward(edges_between_rooms({"attnbench/results/new.py": line})) == [problem]


def test_a_circle_on_one_floor_is_found() -> None:
    files = {"attnbench/bench/a.py": "import attnbench.clips.b", "attnbench/clips/b.py": "import attnbench.bench.a"}
    assert circles(edges_between_rooms(files)) == [{"bench", "clips"}]


def test_the_import_walk_sees_every_form() -> None:
    source = (
        "import a.b\nfrom c import d\n"
        "def f():\n    from ..schema import Row\n    from . import grid\n    from .. import methods\n"
    )
    names = {"a.b", "c.d", "attnbench.schema.Row", "attnbench.kernels.grid", "attnbench.methods"}
    assert set(imported(source, "attnbench.kernels.module")) == names
