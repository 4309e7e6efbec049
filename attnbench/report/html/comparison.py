"""The page of two runs beside each other: the verdicts of ``compare``, with intervals, in the look of the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from attnbench.report.comparison_words import (
    facts_words,
    judged_words,
    reason_words,
    slower_words,
    verdict_of,
    verdict_sentence,
)
from attnbench.report.data.compared import NAME, comparison_data
from attnbench.report.data.page import MethodMark, to_json
from attnbench.report.html.page import method_colours, security_policy
from attnbench.report.html.svg import marker_path
from attnbench.report.html.templates import resource, script, template
from attnbench.report.source import Source
from attnbench.report.words import NONE, grid_words, number, short_settings, with_interval
from attnbench.results.compare import CellChange, Comparison
from attnbench.results.load import Results

_WIDTH, _HEIGHT, _EDGE = 220, 26, 8
_LEAST, _MOST = 2.0, 60.0
"""Percent to either side of 0 that the intervals are drawn over: at least twice the margin, and at most this."""


@dataclass(frozen=True)
class Line:
    """A compared cell in words.

    Attributes:
        method: its name.
        place: number of its colour.
        key: outline of its marker.
        settings: that were asked for.
        facts: its shape and inputs, where they are not those of all.
        verdict: SAME, SLOW, and so on.
        tone: "good", "warn" or "bad".
        slower: by how many percent B is slower, and the interval.
        picture: of that, as SVG; empty where nothing is known.
        speedups, latencies: of A and B: a text and its interval.
        reason: what the verdict rests on.
    """

    method: str
    place: int
    key: str
    settings: str
    facts: str
    verdict: str
    tone: str
    slower: tuple[str, str]
    picture: str
    speedups: tuple[tuple[str, str], tuple[str, str]]
    latencies: tuple[str, str]
    reason: str


@dataclass(frozen=True)
class Side:
    """One of the two: its letter, the files, when and where they were measured, and with which code."""

    letter: str
    paths: str
    device: str
    date: str
    commit: str


def comparison_html(result: Comparison, a: Source, b: Source) -> str:
    """Return a page on two runs: one file that loads nothing, whose data are in it as JSON.

    Args:
        result: what ``compare_tables`` found.
        a, b: the runs.
    """
    data = comparison_data(result, a, b)
    css, code = resource("report.css") + resource("comparison.css") + method_colours(data.methods), script()
    lines = _lines(result, data.methods)
    html: str = template("comparison.html").render(
        data=data, json=to_json(data), css=css, code=code, policy=security_policy(css, code), table=NAME,
        sentence=verdict_sentence(result), outcome=_outcome(result), lines=lines, sides=(_side("A", a), _side("B", b)),
        shared=_shared(result.cells), judged=judged_words(result) if any(line.picture for line in lines) else [],
        changes=result.environment_changes, axis=_axis(result), margin=f"{result.margin:.0%}",
        threshold=f"{result.threshold:.0%}", drawn=any(line.picture for line in lines),
    )  # fmt: skip
    return html


def _outcome(result: Comparison) -> str:
    if any(cell.is_regression for cell in result.cells):
        return "bad"
    return "warn" if result.exit_code else "good"


def _lines(result: Comparison, methods: Sequence[MethodMark]) -> list[Line]:
    places = {mark.name: (place, marker_path(mark.marker, 5)) for place, mark in enumerate(methods)}
    made = []
    for cell, facts in zip(result.cells, facts_words(result.cells), strict=True):
        method = str(cell.cell["method"])
        place, key = places[method]
        made.append(
            Line(
                method, place, key, short_settings(cell.cell["settings_given"] or "{}") or "as by default", facts,
                verdict_of(cell), _tone(cell), slower_words(cell), _picture(result, cell, place, key),
                (_speedup(cell.a_speedup, cell.a_speedup_lo, cell.a_speedup_hi),
                 _speedup(cell.b_speedup, cell.b_speedup_lo, cell.b_speedup_hi)),
                (number(cell.a_ms), number(cell.b_ms)), reason_words(cell),
            )
        )  # fmt: skip
    return made


def _tone(cell: CellChange) -> str:
    if cell.is_regression and cell.asked:
        return "bad"
    return "good" if cell.change in ("same", "faster") else "warn"


def _speedup(value: float | None, low: float | None, high: float | None) -> tuple[str, str]:
    if value is None:
        return NONE, ""
    shown, ends = with_interval(value, low, high)
    return f"{shown}×", ends


def _reach(result: Comparison) -> float:
    """Return how many percent to either side of 0 are drawn."""
    ends = [end for cell in result.cells if cell.ratio is not None for end in (cell.ratio, cell.lo, cell.hi)]
    percents = [abs(100 * (end - 1)) for end in ends if end is not None]
    return min(_MOST, max([_LEAST, 200 * result.margin, *percents]))


def _place(result: Comparison, percent: float) -> float:
    share = max(-1.0, min(1.0, percent / _reach(result)))
    return _WIDTH / 2 + share * (_WIDTH / 2 - _EDGE)


def _picture(result: Comparison, cell: CellChange, place: int, key: str) -> str:
    """Return the interval of a cell: a band that is the margin, a line at 0, and the estimate with its ends."""
    if cell.ratio is None:
        return ""
    low, high = (_place(result, side * 100 * result.margin) for side in (-1, 1))
    at, *ends = (None if each is None else _place(result, 100 * (each - 1)) for each in (cell.ratio, cell.lo, cell.hi))
    middle, zero = _HEIGHT / 2, _WIDTH / 2
    drawn = [f'<rect class="band" x="{low:.1f}" y="0" width="{high - low:.1f}" height="{_HEIGHT}"/>']
    drawn.append(f'<path class="grid" d="M{zero:.1f},0V{_HEIGHT}"/>')
    if None not in ends:
        drawn.append(f'<path class="whisker c{place}" d="M{ends[0]:.1f},{middle}H{ends[1]:.1f}"/>')
    drawn.append(f'<path class="mark c{place}" d="{key}" transform="translate({at:.1f},{middle})"/>')
    words = " ".join(filter(None, ["B slower by", *slower_words(cell)]))
    return (
        f'<svg class="interval" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'aria-label="{words}">{"".join(drawn)}</svg>'
    )


def _axis(result: Comparison) -> list[tuple[str, str, str]]:
    """Return the marks of the axis: where each stands, its words, and to which side they are."""
    reach = _reach(result)
    return [
        (f"{_place(result, percent):.1f}", f"{percent:+.3g} %" if percent else "0", anchor)
        for percent, anchor in ((-reach, "start"), (0.0, "middle"), (reach, "end"))
    ]


def _shared(cells: Sequence[CellChange]) -> list[tuple[str, str]]:
    """Return what all cells have in common, by name."""
    names = ("device", "grid", "text_tokens", "batch", "heads", "head_dim", "dtype", "direction", "inputs")
    found = []
    for name in names:
        values = {str(cell.cell[name]) for cell in cells}
        text = values.pop() if len(values) == 1 else ""
        if text and not (name in ("text_tokens", "batch") and text in ("(0, 0)", "1")):
            found.append((name.replace("_", " "), grid_words(text) if name == "grid" else text))
    return found


def _side(letter: str, source: Source) -> Side:
    results: Results = source.results
    known = [results.environments[run] for run in results.runs if run in results.environments]
    dates = sorted(each.started_at[:10] for each in known)
    span = dates[:1] if len(set(dates)) < 2 else [f"{dates[0]} to {dates[-1]}"]
    commits = dict.fromkeys(f"{each.git_commit[:12]}{'+' * bool(each.git_dirty)}" for each in known if each.git_commit)
    return Side(
        letter, ", ".join(map(str, source.paths)), ", ".join(dict.fromkeys(row.device for row in results.rows)),
        "".join(span) or NONE, ", ".join(commits) or NONE,
    )  # fmt: skip
