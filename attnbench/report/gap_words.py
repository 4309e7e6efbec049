"""Write gaps between clips in words, for the report and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from attnbench.report.words import NONE, decimals_of, number
from attnbench.results.gaps import Gap
from attnbench.results.means import Estimate
from attnbench.results.records.clips import QualityRow

ARROWS = {"higher": "↑", "lower": "↓"}
_LEAST, _NOTHING = 5e-5, 1e-12


def counted(count: int, name: str) -> str:
    """Write a count with its noun: "1 frame", "16 frames"."""
    return f"{count} {name}{'' if count == 1 else 's'}"


def value_words(value: float) -> str:
    """Write a value with three digits, as 4.0e-05 if it is small; just below 1 with more digits: 0.99987."""
    short = 1 - abs(value)
    if 5e-7 < short < 0.01:
        return f"{value:.{1 - math.floor(math.log10(short))}f}"
    if abs(value) < _NOTHING:
        return "0"
    return number(float(f"{value:.3g}")) if abs(value) >= _LEAST else f"{value:.1e}"


def difference_words(value: float) -> str:
    """Write a difference with its sign: +0.120, −0.120, 0."""
    text = value_words(abs(value))
    return text if text == "0" else f"{'+' if value > 0 else '−'}{text}"


def mean_words(estimate: Estimate | None, *, signed: bool = False) -> str:
    """Write a mean as "14.2", with ``signed`` as "+0.120", and as "–" if there is none."""
    return NONE if estimate is None else _written(estimate, estimate.mean, signed)


def _written(estimate: Estimate, value: float, signed: bool) -> str:
    """Write the mean or an end of an estimate, all three with the same decimals; tiny ones each by itself."""
    if max(abs(each or 0) for each in (estimate.mean, estimate.lo, estimate.hi)) < _LEAST:
        return difference_words(value) if signed else value_words(value)
    decimals = decimals_of(estimate.mean, estimate.lo, estimate.hi)
    if abs(value) < _NOTHING:
        return "0"
    sign = ("+" if value > 0 else "−") if signed or value < 0 else ""
    return f"{sign}{abs(value):,.{decimals}f}"


def floor_of(estimate: Estimate | None, kind: str) -> Estimate | None:
    """Return a noise floor, or None if it says nothing, like the floor of a score from a single pair of clips."""
    return None if estimate is not None and kind == "score" and estimate.lo is None else estimate


def ends_words(estimate: Estimate | None, *, signed: bool = False) -> str:
    """Write an interval as "[13.1, 15.3]", with "extremes" before it if its ends are only those; "" if there is
    none."""
    if estimate is None or estimate.lo is None or estimate.hi is None:
        return ""
    low, high = (_written(estimate, end, signed) for end in (estimate.lo, estimate.hi))
    return f"{'' if estimate.kind == 'bootstrap95' else 'extremes '}[{low}, {high}]"


def estimate_words(estimate: Estimate | None, *, signed: bool = False) -> str:
    """Write a mean with its interval, as "14.2 [13.1, 15.3]"; extremes stand in round brackets."""
    ends = ends_words(estimate, signed=signed)
    if estimate is not None and estimate.kind == "min-max":
        ends = f"({ends.removeprefix('extremes [').rstrip(']')})"
    return f"{mean_words(estimate, signed=signed)} {ends}".strip()


LEGEND = "[ ]: 95 % bootstrap interval; ( ): extremes, of fewer than six pairs; Δ: method − full attention"
"""What the brackets of ``estimate_words`` mean."""


def metric_words(gap: Gap) -> str:
    """Write a metric with its unit and an arrow in the better direction: "psnr, dB ↑"; with Δ if it is a difference."""
    unit = f", {gap.unit}" if gap.unit else ""
    return f"{'Δ ' if gap.kind == 'score' else ''}{gap.metric}{unit} {ARROWS[gap.better]}"


def skipped_words(rows: Iterable[QualityRow]) -> list[str]:
    """Return a line for each reason why metrics have no value, with the metrics that share it."""
    reasons: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.status == "skipped":
            reasons.setdefault(row.reason, {})[row.metric] = None
    return [f"{', '.join(metrics)} {reason}" for reason, metrics in reasons.items()]


def names_of(gaps: Sequence[Gap] | Sequence[QualityRow]) -> dict[tuple[str, str, str], str]:
    """Return the shortest names that distinguish methods, settings and engines."""
    from attnbench.report.words import differing_settings

    keys = list(dict.fromkeys((each.method, each.settings, each.engine) for each in gaps))
    names = {}
    for method, settings, engine in keys:
        same = [key for key in keys if key[0] == method]
        parts = [method]
        if len({key[2] for key in same}) > 1:
            parts.append(engine)
        parts += [told] if (told := differing_settings(settings, [key[1] for key in same])) else []
        names[method, settings, engine] = " · ".join(parts)
    return names
