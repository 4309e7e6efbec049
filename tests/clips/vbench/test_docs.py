"""docs/vbench.md names the weights and dimensions that the code knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from attnbench.clips.vbench.dimensions import DIMENSIONS, PAPER_DIMENSIONS, Dimension

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "vbench.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


@pytest.mark.parametrize("dimension", DIMENSIONS.values(), ids=lambda dimension: dimension.name)
def test_the_page_has_every_file_of_weights_and_its_address(dimension: Dimension) -> None:
    rows = [row for row in ROWS if row[0] == f"`{dimension.name}`" and len(row) == 5]
    assert [row[1] for row in rows] == [f"`{weight.path}`" for weight in dimension.weights]
    for row, weight in zip(rows, dimension.weights, strict=True):
        assert re.findall(r"<(.*?)>", row[2]) == [weight.url.split()[0]]
        assert float(row[3]) == weight.about_mb
        assert row[4].rstrip("…") == (weight.digest[:8] or ("–" if weight.inside else "unknown"))


def test_the_page_marks_the_dimensions_of_the_paper() -> None:
    marks = {row[0].strip("`"): row[3] for row in ROWS if len(row) == 4}
    assert marks == {name: "yes" if name in PAPER_DIMENSIONS else "no" for name in DIMENSIONS}
