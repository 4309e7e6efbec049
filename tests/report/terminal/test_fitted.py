"""Tables in terminals of any width: whole columns go, the least needed first, and the others stay as they are."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from rich.table import Table

from attnbench.report.terminal.curves import curve_table
from attnbench.report.terminal.fitted import Fitted
from attnbench.report.terminal.flops import paper_rows, paper_table
from attnbench.report.terminal.summary import summary_table
from attnbench.results.break_even import curves
from attnbench.results.load import Results

NAMES = ("needed", "first to go", "second\nto go", "also needed")
CELLS = [("a method", "12,345.678", "9.87", "3.21 [3.20, 3.22]"), ("b", "1", "22.22", "0.5")]
LEAST = ("first to go", "second to go")


def printed(what: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def made(names: Sequence[str] = NAMES, least: tuple[str, ...] = LEAST) -> Fitted:
    table = Table(box=None, pad_edge=False)
    for name in names:
        table.add_column(name, no_wrap=True)
    for row in CELLS:
        table.add_row(*row)
    return Fitted(table, least)


@pytest.mark.parametrize("width", [36, 40, 48, 56, 64, 200])
def test_columns_go_in_order_and_no_figure_is_cut(width: int) -> None:
    text = printed(made(), width)
    assert all(len(line) <= width for line in text.splitlines())
    gone = [name for name in LEAST if name in text.partition("left out")[2].replace("\n", " ")]
    assert gone == list(LEAST[: len(gone)])
    for cells in CELLS:
        for name, cell in zip(NAMES, cells, strict=True):
            assert (cell in text) or name.replace("\n", " ") in gone
    assert "…" not in text


def test_nothing_is_said_where_all_fits_and_columns_that_are_not_there_are_not_named() -> None:
    assert "left out" not in printed(made(), 200)
    text = printed(made(least=("no such column", *LEAST)), 40)
    assert "no such column" not in text


def test_the_papers_figures_are_whole_on_80_columns() -> None:
    rows = paper_rows("vmoba")
    text = printed(paper_table(rows), 80)
    assert "…" not in text
    for row in rows:
        assert f" {row.printed.tflop:,.2f} " in text
        assert f" {row.tflop:,.2f} " in text
    assert "left out because the terminal is too narrow: factor printed, factor ours" in text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_of_sweeps_and_runs_keep_their_speedups(
    width: int, power_law: Callable[..., pd.DataFrame], table: Results
) -> None:
    (curve,) = curves(power_law(noise=0.05))
    text = printed(curve_table(curve), width)
    assert "…" not in text
    assert all(f"{point.speedup.value:.3f}"[:3] in text for point in curve.points)
    assert "…" not in printed(summary_table(table.rows), width)
