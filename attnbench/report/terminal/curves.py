"""The results of a sweep: a table for each method, and plain records."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attnbench.report.curve_words import label, sentence
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
    for name in ("tokens", "grid", "density", "dense, ms", "latency, ms", "speed-up", "translation"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in curve.points:
        table.add_row(*_cells(point))
    return Fitted(table, ("translation", "dense, ms", "grid", "density"))


def records(curves: Sequence[Curve], over: str) -> list[dict[str, Any]]:
    """Return the curves as plain records for JSON, each with its sentence."""
    return [{"label": label(curve), "sentence": sentence(curve, over), **dataclasses.asdict(curve)} for curve in curves]


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
