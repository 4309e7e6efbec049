"""Intervals of 95 %: of a share by Wilson, of a mean by its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence

from attnbench.kernels.errors import BadInput

_Z = 1.959963984540054


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of ``hits`` in ``count``.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22, 1927.

    Raises:
        BadInput: if there is nothing to count, or more hits than trials.
    """
    if not 0 <= hits <= count or count < 1:
        raise BadInput(f"{hits} hits of {count} are no share")
    share, z2 = hits / count, _Z * _Z
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + z2 / (4 * count * count)) / (1 + z2 / count)
    # At the ends the formula is exact, and rounding is not.
    return 0.0 if hits == 0 else middle - half, 1.0 if hits == count else middle + half


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval by the normal approximation: for some dozens of values or more.

    Raises:
        BadInput: if there are fewer than two values, or one is not finite.
    """
    if len(values) < 2 or not all(map(math.isfinite, values)):
        raise BadInput(f"{len(values)} values make no interval: two or more finite ones do")
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = _Z * spread / math.sqrt(len(values))
    return mean, mean - half, mean + half
