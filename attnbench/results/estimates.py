"""What a few noisy values say of their middle, how two middles differ, and which of many differences are significant.

Plain Python, so that what only compares results loads nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from attnbench.kernels.errors import BadInput

TRIM = 0.2
"""The share of values that is left out of the mean on either side, so that a few disturbed rounds do not move it."""

LEVEL = 0.95
"""How often an interval holds the truth."""

_MOST_LOG = 700.0
"""About the log of the largest number."""


def power_of_e(log: float) -> float:
    """Return what ``log`` is the logarithm of, above 0; infinity where no number is large enough."""
    return math.exp(max(log, -_MOST_LOG)) if log < _MOST_LOG else math.inf


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its uncertainty.

    Attributes:
        value: the estimate.
        error: its standard error; infinite where nothing is known of it.
        freedom: degrees of freedom of the error; infinite where it is known exactly.
    """

    value: float
    error: float
    freedom: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the two ends between which the truth lies with this probability, by Student's t."""
        if not math.isfinite(self.error):
            return -math.inf, math.inf
        half = t_quantile((1 + level) / 2, self.freedom) * self.error
        return self.value - half, self.value + half

    @property
    def p_value(self) -> float:
        """How likely so large a value is, to either side, if the truth is 0; 1 where nothing is known."""
        if not math.isfinite(self.error):
            return 1.0
        if self.error == 0:
            return 0.0 if self.value else 1.0
        return 2 * t_tail(abs(self.value) / self.error, self.freedom)


def middle(values: Sequence[float]) -> Estimate:
    """Return the trimmed mean of values and its error, by Winsorized variance; below five values the plain mean.

    Source: K. K. Yuen, The two-sample trimmed t for unequal population variances, Biometrika 61, 1974.

    Raises:
        BadInput: if there is no value, or one is not finite.
    """
    ordered = sorted(values)
    if not ordered or not all(map(math.isfinite, ordered)):
        raise BadInput(f"{len(ordered)} values have no middle: one or more finite ones do")
    cut = int(TRIM * len(ordered))
    kept = ordered[cut : len(ordered) - cut]
    value = math.fsum(kept) / len(kept)
    if len(kept) < 2:
        return Estimate(value, math.inf, 1)
    pulled = [kept[0]] * cut + kept + [kept[-1]] * cut
    mean = math.fsum(pulled) / len(pulled)
    squares = math.fsum((x - mean) ** 2 for x in pulled)
    return Estimate(value, math.sqrt(squares / (len(kept) * (len(kept) - 1))), len(kept) - 1)


def spread(found: Estimate | None, count: int) -> float:
    """Return the standard deviation of the single values that ``middle`` estimated from; 0 where it is not known.

    Args:
        found: their middle.
        count: how many there were.
    """
    return found.error * math.sqrt(count) if found is not None and math.isfinite(found.error) else 0.0


def difference(a: Estimate, b: Estimate, *more: Estimate) -> Estimate:
    """Return b - a; ``more`` are uncertainties that come on top, each an error with a value of 0.

    Source of the degrees of freedom: F. E. Satterthwaite, Biometrics Bulletin 2, 1946.
    """
    parts = [each for each in (a, b, *more) if each.error > 0]
    squares = math.fsum(each.error**2 for each in parts)
    if not math.isfinite(squares):
        return Estimate(b.value - a.value, math.inf, 1)
    below = math.fsum(each.error**4 / each.freedom for each in parts)
    return Estimate(b.value - a.value, math.sqrt(squares), squares**2 / below if below > 0 else math.inf)


def significant(p_values: Sequence[float], rate: float) -> list[bool]:
    """Return which of many tests are significant if at most this share of those that are may be false.

    Source: Y. Benjamini and Y. Hochberg, Controlling the false discovery rate, JRSS B 57, 1995.
    """
    ordered = sorted(p_values)
    passing = [p for number, p in enumerate(ordered, 1) if p <= rate * number / len(ordered)]
    limit = max(passing, default=-1.0)
    return [p <= limit for p in p_values]


_AS_NORMAL = 1e6
"""Degrees of freedom from which Student's t is the normal distribution to six digits; gamma functions lose theirs."""


def t_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds ``t`` >= 0."""
    if freedom > _AS_NORMAL:
        return 0.5 * math.erfc(t / math.sqrt(2))
    return 0.5 * _beta_below(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(probability: float, freedom: float) -> float:
    """Return the value that Student's t stays below with this probability, from .5 to below 1."""
    found = NormalDist().inv_cdf(probability)
    if freedom > _AS_NORMAL:
        return found
    constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    for _ in range(100):  # Newton's steps rise to it from the normal quantile, which lies below
        density = math.exp(constant - (freedom + 1) / 2 * math.log1p(found * found / freedom))
        step = (t_tail(found, freedom) - (1 - probability)) / density
        found += step
        if abs(step) <= 1e-9 * found:
            break
    return found


_TERMS = 40


def _beta_below(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b), by its continued fraction where that is quick."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_below(1 - x, b, a)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # The fraction 1 / (1 + d1 / (1 + d2 / …)), from its far end: the terms beyond change nothing in double precision.
    found = 1.0
    for m in range(_TERMS, 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        found = 1 + even / (1 + odd / found)
    first = -(a + b) * x / (a + 1)
    return math.exp(scale) / (a * (1 + first / found))
