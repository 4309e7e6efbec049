"""What tests replace exists, also in tests that only a GPU runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import pytest

TESTS = Path(__file__).parent
FILES = sorted(path for path in TESTS.rglob("*.py") if ".setattr(" in path.read_text(encoding="utf-8"))


def imported(tree: ast.AST) -> dict[str, str]:
    """Return where names that a file imports come from."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.asname: each.name for each in node.names if each.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
    return found


def replaced(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and full name of what of attnbench is replaced by monkeypatch."""
    tree = ast.parse(source)
    homes = imported(tree)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setattr"):
            continue
        if any(option.arg == "raising" for option in node.keywords):
            continue
        match node.args:
            case [ast.Constant(value=str(name)), _]:
                target = name
            case [ast.Name(id=place), ast.Constant(value=str(name)), _] if place in homes:
                target = f"{homes[place]}.{name}"
            case [ast.JoinedStr() as made, *_]:
                target = ast.unparse(made)  # only a run would tell what it is, so it fails here
            case _:
                continue
        if "attnbench." in target:
            yield node.lineno, target


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_what_a_test_replaces_exists(path: Path) -> None:
    pytest.importorskip("triton")
    for line, target in replaced(path.read_text(encoding="utf-8")):
        try:
            resolve_name(target)
        except (AttributeError, ImportError, ValueError) as error:
            pytest.fail(f"line {line} replaces {target}: {error}")


def test_replaced_names_are_found() -> None:
    source = """
from attnbench.kernels.gpu import blocked as tiles
patched.setattr("attnbench.a.b", None)
patched.setattr(tiles, "c", None)
patched.setattr(f"attnbench.{place}.d", None)
patched.setattr(tiles, "e", None, raising=False)
patched.setattr(sys, "argv", [])
"""
    expected = [(3, "attnbench.a.b"), (4, "attnbench.kernels.gpu.blocked.c"), (5, "f'attnbench.{place}.d'")]
    assert list(replaced(source)) == expected
