"""The page about what attention looks like says what its committed run gives."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_tables_of_the_page_are_those_of_its_journal() -> None:
    written = runpy.run_path(str(ROOT / "scripts" / "write_docs.py"))["written"]
    text = (ROOT / "docs" / "analysis.md").read_text("utf-8")
    assert written("analysis.md") == text
    assert text.count("| locality |") == 1
