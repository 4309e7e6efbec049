"""The history of cells in words: which belong together, what each is called, and what happened to it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from attnbench.report.cases import CASE_FIELDS
from attnbench.report.words import DIRECTIONS, NONE, differing_settings, grid_words, number, places, times
from attnbench.results.history import CONDITIONS, Gap, Point, Run, Series, Shift, exponentials
from attnbench.results.layers import MeanRow

_ALSO = 4
"""Other differences between two runs that a sentence names."""


@dataclass(frozen=True)
class NamedSeries:
    """A cell over time, and the shortest name that tells it from the others of its group."""

    name: str
    series: Series


@dataclass(frozen=True)
class HistoryGroup:
    """The cells that share device, shape, number format, direction and inputs.

    Attributes:
        title: what they share, without the device.
        device: where they were measured.
        members: the cells, in the order in which they were first measured.
    """

    title: str
    device: str
    members: tuple[NamedSeries, ...]


def grouped(found: Iterable[Series]) -> list[HistoryGroup]:
    """Return the cells by what they share, in order of appearance, each with its name."""
    groups: dict[tuple[object, ...], list[Series]] = {}
    for each in found:
        key = tuple(getattr(each.last, name) for name in CASE_FIELDS if name != "run_id")
        groups.setdefault(key, []).append(each)
    return [
        HistoryGroup(_title(mine[0], groups.values()), mine[0].last.device, tuple(_named(mine)))
        for mine in groups.values()
    ]


def shift_words(shift: Shift, series: Series) -> str:
    """Return a change of level in a sentence, with the commits that it lies between."""
    value, lo, hi = shift.ratio
    what = "slower" if shift.slower else "faster"
    ends = f"{percent(value)} [{percent(lo)}, {percent(hi)}] of the {series.measure}"
    before, after = shift.before.run, shift.after.run
    if before.commit == after.commit != "unknown":
        where = f"at the same commit {before.commit}"
    else:
        where = f"in {shift.commits}"
    also = list(shift.also)
    more = f", and {len(also) - _ALSO} more" if len(also) > _ALSO else ""
    told = f"; also changed: {', '.join(also[:_ALSO])}{more}" if also else ""
    return f"{what}, {ends}, {where}, between {before.date} and {after.date}{told}"


def gap_words(gap: Gap) -> str:
    """Return in a sentence why a cell has no latency any more."""
    told = f": {gap.reason}" if gap.reason else ""
    what = {"absent": "not measured any more", "other conditions": "measured under other conditions"}
    return f"{what.get(gap.what, gap.what)} from {gap.run.date} on, commit {gap.run.commit}{told}"


def value_words(point: Point, series: Series) -> str:
    """Return the followed value of a point with its interval: "2.94× [2.88, 3.00]", or latency in ms."""
    log = point.speedup if series.measure == "speed-up" and point.speedup is not None else point.latency
    value, lo, hi = exponentials(log)
    shown = times(value) if series.measure == "speed-up" else f"{number(value)} ms"
    return f"{shown} {ends_words(value, lo, hi)}".rstrip()


def latency_words(point: Point) -> str:
    """Return the latency of a point in ms, with its interval."""
    value, lo, hi = exponentials(point.latency)
    return f"{number(value)} {ends_words(value, lo, hi)}".rstrip()


def ends_words(value: float, lo: float, hi: float) -> str:
    """Return the ends of an interval with the decimals of its value; nothing where there is no interval."""
    if not (lo > 0 and hi < math.inf):
        return ""
    decimals = places(value)
    return f"[{lo:,.{decimals}f}, {hi:,.{decimals}f}]"


def percent(ratio: float) -> str:
    """Return a ratio as a change: "+2.1 %"; "–" where it is not known."""
    return f"{100 * (ratio - 1):+.1f} %" if 0 < ratio < math.inf else NONE


def last_words(series: Series) -> str:
    """Return what became of a cell, in a few words: its last change of level, or that it has no latency any more."""
    if series.ended is not None:
        return series.ended.what if series.ended.what == "other conditions" else f"lost: {series.ended.what}"
    if series.shifts:
        value, _, _ = series.shifts[-1].ratio
        return f"{'slower' if series.shifts[-1].slower else 'faster'} {percent(value)}"
    return "no change" if len(series.points) > 1 else "one run"


def records(groups: Sequence[HistoryGroup]) -> list[dict[str, Any]]:
    """Return the histories as plain values for JSON."""
    return [
        {
            "cell_id": each.series.last.cell_id, "name": each.name, "device": group.device, "group": group.title,
            "layers": each.series.last.layers if isinstance(each.series.last, MeanRow) else None,
            "measure": each.series.measure, "points": [_point(point) for point in each.series.points],
            "gaps": [{**_run(gap.run), "what": gap.what, "reason": gap.reason} for gap in each.series.gaps],
            "changes": [_shift(shift) for shift in each.series.shifts],
            "ended": None if each.series.ended is None else each.series.ended.what,
        }
        for group in groups
        for each in group.members
    ]  # fmt: skip


def _point(point: Point) -> dict[str, Any]:
    made: dict[str, Any] = {**_run(point.run), "engine": point.row.engine, "density": point.row.density}
    for name, log in (("speedup", point.speedup), ("latency_ms", point.latency)):
        ends = (None, None, None) if log is None else exponentials(log)
        finite = [None if end is None or not 0 < end < math.inf else end for end in ends]
        made |= {name: finite[0], f"{name}_lo": finite[1], f"{name}_hi": finite[2]}
    return made


def _shift(shift: Shift) -> dict[str, Any]:
    value, lo, hi = (end if end < math.inf else None for end in shift.ratio)
    return {
        "before": shift.before.run.run_id, "after": shift.after.run.run_id, "commits": shift.commits, "ratio": value,
        "ratio_lo": lo, "ratio_hi": hi, "p_value": shift.p_value, "slower": shift.slower, "also": list(shift.also),
    }  # fmt: skip


def _run(run: Run) -> dict[str, Any]:
    environment = run.environment
    return {
        "run_id": run.run_id, "started": None if environment is None else environment.started_at,
        "commit": None if environment is None else environment.git_commit,
        "dirty": None if environment is None else environment.git_dirty,
    }  # fmt: skip


def _title(of: Series, others: Iterable[Sequence[Series]]) -> str:
    row, rows = of.last, [each[0].last for each in others]
    parts = [f"{grid_words(row.grid)} tokens", row.dtype, DIRECTIONS[row.direction], f"{row.inputs} inputs"]
    told = {"heads": "heads", "batch": "sequences", "head_dim": "channels a head", "seed": "seed", "model": "model"}
    for name, word in told.items():
        if len({getattr(other, name) for other in rows}) > 1:
            value = getattr(row, name)
            parts.append(f"{word} {value}" if word in ("seed", "model") else f"{value} {word}")
    return ", ".join(parts)


def _named(group: Sequence[Series]) -> Iterable[NamedSeries]:
    for each in group:
        same = [other.last for other in group if other.last.method == each.last.method]
        row, parts = each.last, [each.last.method]
        if isinstance(row, MeanRow):
            parts.append("mean over layers")
        for name in ("layer", "step", *CONDITIONS):
            if len({getattr(other, name) for other in same}) > 1 and not (parts[1:] and name == "layer"):
                value = getattr(row, name)
                parts.append(f"{name.replace('_', ' ')} {value[:8] if isinstance(value, str) else value}")
        settings = differing_settings(row.settings, [other.settings for other in same])
        parts += [settings] if settings else []
        asked = {other.engine_asked for other in same}
        parts += [row.engine] if len(asked) > 1 else []
        yield NamedSeries(" · ".join(parts), each)
