"""What other programs may import is listed in docs/python.md: the names are there, and the docs import nothing else."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import attnbench

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def listed() -> dict[str, set[str]]:
    """The public names of each module; a module whose row lists no names has all of its ``__all__``, or any name."""
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    table = text.partition("<!-- begin: public names -->")[2].partition("<!-- end -->")[0]
    found: dict[str, set[str]] = {}
    for modules, names, _ in re.findall(r"^\| (`attnbench.*?) \| (.*?) \| (.*?) \|$", table, re.MULTILINE):
        given = set(re.findall(r"`(\w+)`", names)) - {"__all__"}
        for module in re.findall(r"`([\w.]+)`", modules):
            found[module] = given
    return found


PUBLIC = listed()


def imports(page: Path) -> list[tuple[str, str]]:
    found = []
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("attnbench"):
                found += [(str(node.module), alias.name) for alias in node.names]
    return found


def test_the_page_lists_what_the_package_exports() -> None:
    assert PUBLIC["attnbench"] == set(attnbench.__all__)


@pytest.mark.parametrize("module", sorted(PUBLIC))
def test_listed_modules_and_names_are_there(module: str) -> None:
    loaded = importlib.import_module(module)
    names = PUBLIC[module] or set(getattr(loaded, "__all__", ()))
    shared = [other for other, given in PUBLIC.items() if given == PUBLIC[module]]
    for name in names:  # one row may name several modules, each of which has some of the names
        assert any(hasattr(importlib.import_module(other), name) for other in shared), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_import_public_names_only(page: Path) -> None:
    for module, name in imports(page):
        assert module in PUBLIC, f"{page.name} imports {module}, which docs/python.md does not list"
        allowed = PUBLIC[module] or set(getattr(importlib.import_module(module), "__all__", ())) or {name}
        assert name in allowed, f"{page.name} imports {name} of {module}, which docs/python.md does not list"


def test_the_walk_sees_imports() -> None:
    assert sum(len(imports(page)) for page in PAGES) > 10
