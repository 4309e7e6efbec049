"""The results of a sweep: a table for each method, and plain records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnbench.report.curve_words import label, sentence, wall_clock_sentence
from attnbench.report.words import grid_words, number, with_interval
from attnbench.results.break_even import Curve, CurvePoint
from attnbench.results.speedups import Ratio

if TYPE_CHECKING:
    from attnbench.report.terminal.fitted import Fitted


def curve_table(curve: Curve) -> Fitted:
    """Return the points of one curve as a table of rich."""
    from rich import box
    from rich.table import Table

    from attnbench.report.terminal.fitted import Fitted

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title=label(curve), title_justify="left")
    by_wall_clock = curve.break_even_eager.outcome != "none"
    names = ("tokens", "grid", "density", "dense, ms", "latency, ms", "speed-up", "translation")
    for name in (*names, *(("by wall clock",) if by_wall_clock else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for point in curve.points:
        eager = "" if point.speedup_eager is None else f"{number(point.speedup_eager)}×"
        table.add_row(*_cells(point), *([eager] if by_wall_clock else []))
    return Fitted(table, ("translation", "dense, ms", "grid", "density"))


def records(curves: Sequence[Curve], over: str) -> list[dict[str, Any]]:
    """Return the curves as plain records for JSON, each with its sentences."""
    return [
        {
            "label": label(curve),
            "sentence": sentence(curve, over),
            "wall_clock_sentence": wall_clock_sentence(curve, over),
            **dataclasses.asdict(curve),
        }
        for curve in curves
    ]


def _cells(point: CurvePoint) -> list[str]:
    return [
        f"{point.tokens:,}",
        grid_words(point.grid),
        number(point.density),
        number(point.baseline_ms),
        number(point.latency_ms),
        _ratio(point.speedup, "×"),
        _ratio(point.translation),
    ]


def _ratio(ratio: Ratio, unit: str = "") -> str:
    value, ends = with_interval(ratio.value, ratio.lo, ratio.hi)
    return f"{value}{unit} {ends}"
