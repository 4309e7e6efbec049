"""Table of docs/sweep.md: from how many tokens on methods beat dense attention. scripts/write_docs.py writes it."""

from __future__ import annotations

import dataclasses

from attnbench.bench.sweep.session import sweep_table
from attnbench.report.word_table import WordTable
from attnbench.report.words import short_settings
from attnbench.results.break_even import Curve, curves
from attnbench.results.crossings import BreakEven
from attnbench.results.load import Results

NONE_YET = "No points are committed yet, so there are no figures here."
TITLES = ("method", "heads", "faster in GPU time", "faster by the wall clock")


def table(found: Results) -> str:
    """Return a line for each method, setting and number of heads; methods whose layers differ have the mean over them.

    Args:
        found: runs of the points, each of one number of tokens and heads.
    """
    lines: list[tuple[str, ...]] = []
    most = max((row.tokens for row in found.rows), default=0)
    methods = dict.fromkeys((row.method, row.settings_given or "{}") for row in found.rows if row.method != "full")
    for method, settings in methods:
        name = " ".join(filter(None, (f"`{method}`", _quoted(short_settings(settings)))))
        for heads in sorted({row.heads for row in found.rows}):
            rows = tuple(
                row
                for row in found.rows
                if (row.method, row.settings_given or "{}", row.heads) == (method, settings, heads)
            )
            if rows:
                own = curves(sweep_table(dataclasses.replace(found, rows=rows)))
                lines.append(_line(name, heads, next((c for c in own if c.layer is None), own[0]), most))
    if not lines:
        return NONE_YET
    header = (*TITLES, f"speed-up at {most:,} tokens", "by the wall clock")
    return "\n".join(WordTable(header, tuple(lines), frozenset(range(1, len(header)))).markdown())


def _quoted(settings: str) -> str:
    return f"`{settings}`" if settings else ""


def _line(name: str, heads: int, curve: Curve, most: int) -> tuple[str, ...]:
    last = next((point for point in curve.points if point.tokens == most), None)
    gpu = f"{last.speedup.value:.2f}×" if last is not None else "–"
    eager = f"{last.speedup_eager:.2f}×" if last is not None and last.speedup_eager is not None else "–"
    place = _place(curve.break_even, clearly=all(point.speedup.lo > 1 for point in curve.points))
    return name, str(heads), place, _place(curve.break_even_eager), gpu, eager


def _place(found: BreakEven, *, clearly: bool = True) -> str:
    """Return from how many tokens on a method is faster; to three digits where that has no interval.

    Args:
        found: the break-even.
        clearly: whether no interval of a speed-up holds 1, where the method is faster at all points.
    """
    if found.outcome == "none":
        return "–"
    if found.outcome in ("faster", "slower"):
        return ("everywhere" if clearly else "about everywhere") if found.outcome == "faster" else "nowhere"
    if found.at is None:
        return f"no one place: {' and '.join(map(_three_digits, found.crossings))}"
    side = "from" if found.faster == "above" else "up to"
    if found.lo is None or found.hi is None:
        return f"{side} about {_three_digits(found.at)}"
    return f"{side} {found.at:,.0f} ({found.lo:,.0f} to {found.hi:,.0f})"


def _three_digits(number: float) -> str:
    return f"{float(f'{number:.3g}'):,.0f}"
