"""Where the level of a series of noisy values changes, by significance and by size.

ruptures proposes where the level may change. Those places stay at which the levels on both sides differ by more than
the noise explains, with every place counted that a change could have been at.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from attnbench.kernels.errors import Unsupported
from attnbench.results.estimates import Estimate, difference, significant

FEWEST = 3
"""Values below which nothing is said: two may always differ."""
RATE = 0.01
"""The share of changes that may be false, over all series that are looked at together."""
_SCATTER_FROM = 4
"""Degrees of freedom from which the scatter about the levels may widen errors."""
_NEIGHBOURS_FROM = 6
"""Values from which the differences of neighbours may."""
_MUCH = 1.5
"""How much larger than known the noise must look: so few differences may look half as large again by chance."""
_MEDIAN_TO_DEVIATION = 1.4826
"""Standard deviation of a normal distribution over the median of its absolute values."""


@dataclass(frozen=True)
class ChangePoint:
    """A change of level.

    Attributes:
        index: place of the first value of the new level.
        size: the new level less the old one.
        p_value: how likely the noise alone makes such a change somewhere in the series.
    """

    index: int
    size: Estimate
    p_value: float


def find_changes(all_series: Sequence[Sequence[Estimate]], least: float) -> list[list[ChangePoint]]:
    """Return the changes of level of several series, in order.

    Args:
        all_series: values in order of time, each with its error.
        least: smaller changes of level are left out, however significant.

    Raises:
        Unsupported: without ruptures, if a series has enough values.
    """
    found = [_candidates(_as_scattered(series), least) for series in all_series]
    # A series without a candidate was looked at too: it counts with the p-value 1.
    p_values = [each.p_value for changes in found for each in changes] + [1.0 for changes in found if not changes]
    passed = iter(significant(p_values, RATE))
    return [[each for each in changes if next(passed)] for changes in found]


def _as_scattered(series: Sequence[Estimate]) -> list[Estimate]:
    """Return values with errors that are as large as neighbours differ: the noise may be larger than is known.

    The median of those differences hardly feels a few changes of level.
    """
    if len(series) < _NEIGHBOURS_FROM or not (known := _error(series)):
        return list(series)
    apart = [abs(after.value - before.value) for before, after in itertools.pairwise(series)]
    factor = _MEDIAN_TO_DEVIATION * statistics.median(apart) / math.sqrt(2) / known
    if factor < _MUCH:
        return list(series)
    return [replace(each, error=factor * each.error, freedom=min(each.freedom, len(series) - 1)) for each in series]


def _error(series: Sequence[Estimate]) -> float:
    """Return the root mean square of errors."""
    return math.sqrt(statistics.fmean(each.error**2 for each in series))


def _candidates(series: Sequence[Estimate], least: float) -> list[ChangePoint]:
    """Return changes that are large enough, and significant where this series is the only one."""
    if len(series) < FEWEST:
        return []
    places = proposed(series)
    while places:
        changes = _changes(series, places)
        worst = max(changes, key=lambda change: (abs(change.size.value) < least, change.p_value))
        if abs(worst.size.value) >= least and worst.p_value <= RATE:
            return changes
        places.remove(worst.index)  # and the levels on both of its sides become one
    return []


def proposed(series: Sequence[Estimate]) -> list[int]:
    """Return where the level may change: the places that minimise squared distances from levels and a price a place.

    The price is that of the Bayesian information criterion for a place and a level.

    Raises:
        Unsupported: without ruptures.
    """
    try:
        import ruptures
    except ImportError as error:
        raise Unsupported("change points need ruptures: pip install 'attnbench[history]'") from error
    import numpy as np

    values = np.array([each.value for each in series])
    scaled = values / max(_error(series), 1e-12)
    *places, _ = ruptures.Pelt(model="l2", min_size=1, jump=1).fit(scaled).predict(pen=2 * math.log(len(series)))
    return [int(place) for place in places]


def _changes(series: Sequence[Estimate], places: Sequence[int]) -> list[ChangePoint]:
    ends = [0, *places, len(series)]
    levels = [_level(series[begin:end]) for begin, end in itertools.pairwise(ends)]
    freedom = len(series) - len(levels)
    factor = 1.0
    if freedom >= _SCATTER_FROM:
        rests = [
            each.value - level.value
            for level, begin, end in zip(levels, ends, ends[1:], strict=False)
            for each in series[begin:end]
        ]
        expected = math.fsum(each.error**2 for each in series) / len(series) * freedom
        factor = math.sqrt(max(1.0, math.fsum(rest**2 for rest in rests) / expected)) if expected else 1.0
    if factor > 1:
        levels = [replace(each, error=factor * each.error) for each in levels]
    found = []
    for place, before, after in zip(places, levels, levels[1:], strict=False):
        size = difference(before, after)
        found.append(ChangePoint(place, size, min(1.0, size.p_value * (len(series) - 1))))
    return found


def _level(values: Sequence[Estimate]) -> Estimate:
    """Return the mean of values with its error."""
    squares = math.fsum(each.error**2 for each in values)
    below = math.fsum(each.error**4 / each.freedom for each in values)
    mean = math.fsum(each.value for each in values) / len(values)
    return Estimate(mean, math.sqrt(squares) / len(values), squares**2 / below if below > 0 else math.inf)
