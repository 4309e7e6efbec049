"""The tables of docs/why-sparse-is-slow.md are those of the committed profiles."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "why-sparse-is-slow.md"
OURS = ("triton",)


@pytest.fixture(scope="module")
def script() -> dict[str, Callable[..., Any]]:
    return runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))


def test_the_page_says_what_was_measured(script: dict[str, Callable[..., Any]]) -> None:
    page = PAGE.read_text().splitlines()
    steps = [line for name in script["STEPS"] for line in script["step_table"](name)]
    lines = [*script["loss_table"](), *script["layer_table"]("576p"), *steps]
    assert [line for line in lines if line not in page] == []


def test_little_of_our_engines_is_unexplained(script: dict[str, Callable[..., Any]]) -> None:
    journals = (ROOT / "results" / "h100" / "profiles").glob("*-fwd*.jsonl.gz")
    tables = [path.name.removesuffix(".jsonl.gz") for path in journals if "-step-" not in path.name]
    cells = [
        (waterfall.unexplained_share, table, row.method, row.layer)
        for table in tables
        for method in ("vmoba", "moba", "sta", "sliding-window")
        for row, waterfall in script["waterfalls"](table, method)
        if row.engine in OURS
    ]
    assert len(cells) >= 15
    assert max(cells)[0] < 0.01, max(cells)
