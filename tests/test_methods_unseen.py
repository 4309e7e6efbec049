"""What measures never knows which method it measures: it names none, and reads none of its settings."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from attnbench.methods.registry import BUILT_IN

ROOT = Path(__file__).resolve().parents[1]

MEASURES = ("attnbench/bench", "attnbench/cost", "kernels")
SPARSE = {name for name in BUILT_IN if name != "full"}  # full is the dense baseline of every measurement


def sources() -> list[Path]:
    return [path for room in MEASURES for path in sorted((ROOT / room).rglob("*.py"))]


def of_a_method(source: str) -> Iterator[str]:
    """Yield what a source knows of methods: their names, their modules, and their settings one by one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and node.value in SPARSE:
            yield f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.ImportFrom) and is_module_of_a_method(node.module or ""):
            yield f"line {node.lineno}: {node.module}"
        elif (isinstance(node, ast.Attribute) and is_settings(node.value)) or reads_one_setting(node):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def is_module_of_a_method(module: str) -> bool:
    room, _, name = module.rpartition(".")
    return room == "attnbench.methods" and name.replace("_", "-") in SPARSE


def reads_one_setting(node: ast.AST) -> bool:
    """Whether this is ``getattr(settings, "...")``. A loop over the names of all settings is not."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) != "getattr":
        return False
    return is_settings(node.args[0]) and isinstance(node.args[1], ast.Constant)


def is_settings(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] == "settings"


def test_no_measurement_names_a_method_or_reads_its_settings() -> None:
    found = [
        f"{path.relative_to(ROOT)} {each}"
        for path in sources()
        for each in of_a_method(path.read_text(encoding="utf-8"))
    ]
    assert found == []
    assert len(sources()) > 60


@pytest.mark.parametrize(
    "source",
    [
        'scope = getattr(job.settings, "scope", "query")',
        "scope = settings.scope",
        "if trial.job.settings.tile: pass",
        'slow = method.name == "vmoba"',
        "from attnbench.methods.sliding_window import plan",
    ],
)
def test_what_would_be_found(source: str) -> None:
    assert len(list(of_a_method(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "given = {field.name: getattr(job.settings, field.name) for field in fields}",
        'dense = get_method("full")',
        "text = canonical_json(asdict(job.settings))",
        "name = job.method.name",
    ],
)
def test_what_serves_every_method_alike_is_not(source: str) -> None:
    assert list(of_a_method(source)) == []
