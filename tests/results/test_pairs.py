"""Rows of committed journals, paired by round with the dense baseline."""

from __future__ import annotations

from pathlib import Path

from attnbench.results.load import read
from attnbench.results.pairs import paired

RESULTS = Path(__file__).resolve().parents[2] / "results"


def test_only_the_baseline_is_its_own_baseline() -> None:
    found = read(RESULTS / "h100")
    others = 0
    for row in found.rows:
        itself = f"{row.method}/{row.engine}" == row.baseline
        others += row.method == "full" and not itself and row.baseline is not None
        for own, dense in paired(row, found.samples[row.run_id]).values():
            assert (own is dense) == itself, row
    assert others > 0
