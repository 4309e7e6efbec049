"""Bootstrap resampling: draw from what was measured with replacement, and cut off the tails of what that gives.

numpy is imported on the first draw, so that intervals of few samples, which are their extremes, load nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
    Counts = npt.NDArray[np.unsignedinteger[Any]]
    Number = TypeVar("Number", bound=np.generic)

RESAMPLES = 4000
MIN_BOOTSTRAP = 6  # with fewer values the resampled statistics take too few values to make percentiles of
TAIL = 0.025
"""The share of resamples outside a 95 % interval on either side."""


def generator_of(seed: int) -> np.random.Generator:
    """Return the generator of a bootstrap: equal values always give the equal interval."""
    import numpy as np

    return np.random.default_rng(seed)


def drawn(values: npt.NDArray[Number], generator: np.random.Generator, count: int | None = None) -> npt.NDArray[Number]:
    """Return values drawn with replacement, [RESAMPLES, count]; by default as many as there are.

    Args:
        values: what was measured, [N].
        generator: of the draws.
        count: how many values to draw for each resample.
    """
    return values[picks(values.size, generator, count)]


def picks(size: int, generator: np.random.Generator, count: int | None = None) -> npt.NDArray[np.int64]:
    """Return places below ``size``, drawn with replacement, [RESAMPLES, count]; by default ``size`` of them."""
    return generator.integers(0, size, size=(RESAMPLES, size if count is None else count))


def resampled_medians(samples: Sequence[float] | Floats, generator: np.random.Generator) -> Floats:
    """Return the median of each resample, [RESAMPLES]. The order of the samples does not matter."""
    import numpy as np

    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    medians: Floats = np.median(drawn(ordered, generator), axis=1)
    return medians


@lru_cache(maxsize=32)
def counts_drawn(size: int, seed: int) -> Counts:
    """Return how often each of ``size`` values is in each resample, [size, RESAMPLES].

    Equal arguments give equal draws, so a table of thousands of cells makes them once.
    """
    import numpy as np

    chosen = picks(size, generator_of(seed)) + size * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(chosen.ravel(), minlength=size * RESAMPLES).reshape(RESAMPLES, size).T
    return np.ascontiguousarray(counts, dtype=np.uint8 if size < 256 else np.uint32)


def medians_drawn(values: Floats, seed: int) -> Floats:
    """Return the median of each resample, [RESAMPLES]: of series of one size and seed, resamples are drawn together.

    Args:
        values: what was measured, [N].
        seed: of the draws.
    """
    import numpy as np

    order = np.argsort(values, kind="stable")
    rises = bool((order[1:] > order[:-1]).all())
    low, high = _middles_drawn(values.size, seed) if rises else _middles(counts_drawn(values.size, seed)[order])
    ordered = values[order]
    medians: Floats = (ordered[low] + ordered[high]) / 2
    return medians


@lru_cache(maxsize=32)
def _middles_drawn(size: int, seed: int) -> tuple[Counts, Counts]:
    """Return the places of the two middle values of each resample of values that rise."""
    return _middles(counts_drawn(size, seed).copy())


def _middles(counts: Counts) -> tuple[Counts, Counts]:
    """Return the places of the two middle values of each resample, from how often each value is in it, smallest first.

    The counts are summed up in place.
    """
    import numpy as np

    for upper, lower in zip(counts[1:], counts, strict=False):
        np.add(upper, lower, out=upper)
    size = len(counts)
    low, high = (
        np.add.reduce((counts <= middle).view(np.uint8), axis=0, dtype=counts.dtype)
        for middle in ((size - 1) // 2, size // 2)
    )
    return low, high


def ends(resampled: Any, tail: float = TAIL) -> tuple[float, float]:
    """Return the two ends that leave out the share ``tail`` of the values, rounded down, on either side."""
    import numpy as np

    values = np.asarray(resampled)
    left_out = int(tail * values.size)
    low, high = left_out, values.size - 1 - left_out
    ordered = np.partition(values, (low, high))
    return float(ordered[low]), float(ordered[high])


def tail_of(size: int) -> float:
    """Return the share of resamples to leave out on each side for a 95 % interval that rests on so many values.

    Percentiles take the spread of resamples for that of the statistic, which is too small by √(1 - 1/n), and the normal
    distribution for Student's; widened tails mend both (Hesterberg 2014, arXiv 1411.5279). The quantile of Student's
    distribution is the usual series in 1 / degrees of freedom (Abramowitz and Stegun 26.7.5).
    """
    z = -NormalDist().inv_cdf(TAIL)
    freedom = size - 1
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    student = sum(term / freedom**power for power, term in enumerate(terms))
    return NormalDist().cdf(-math.sqrt(size / freedom) * student)
