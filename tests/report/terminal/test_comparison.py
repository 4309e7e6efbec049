"""The table of a comparison in a narrow terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from attnbench.report.terminal.comparison import comparison_lines
from attnbench.results.compare import compare_tables
from attnbench.results.load import read

H100 = Path(__file__).resolve().parents[3] / "results" / "h100"


@pytest.mark.parametrize("width", [80, 70, 60, 50, 40, 30])
def test_columns_that_do_not_fit_are_left_out_whole_and_named(width: int) -> None:
    found = compare_tables(read(H100 / "720p-video-fwd.jsonl.gz"), read(H100 / "profiles" / "720p-fwd.jsonl.gz"))
    lines = comparison_lines(found, width)
    assert max(map(len, lines)) <= width
    said = " ".join(lines).partition("left out because the terminal is too narrow: ")[2]
    left_out = [name for name in ("A ms", "B ms", "A ×", "B ×", "95 %", "slower") if name not in lines[0]]
    assert said.startswith(", ".join(left_out))
    assert bool(said) == bool(left_out)
    assert "verdict" in lines[0]
    assert "SAME" in lines[1]
    assert bool(left_out) == (width < 70)
