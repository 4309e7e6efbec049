"""Bootstrap resampling: draw from what was measured with replacement, and cut off the tails of what that gives.

numpy is imported on the first draw, so that intervals of few samples, which are their extremes, load nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]
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


@lru_cache(maxsize=128)
def _middles(seed: int, sizes: tuple[int, ...]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct places of the two middle values of each series' resample, and how often each was drawn.

    They depend on the sizes alone, so a table of thousands of cells draws them once.

    Returns:
        Places in rising order of the values, [distinct, series, 2], and counts, [distinct].
    """
    import numpy as np

    generator, found = generator_of(seed), []
    for size in sizes:
        ordered = np.sort(picks(size, generator), axis=1)
        found += [ordered[:, (size - 1) // 2], ordered[:, size // 2]]
    places, counts = np.unique(np.stack(found, axis=1), axis=0, return_counts=True)
    return places.reshape(-1, len(sizes), 2), counts


def medians_of_resamples(series: Sequence[Floats], seed: int) -> tuple[list[Floats], npt.NDArray[np.int64]]:
    """Return the distinct medians of the resamples of several series, [distinct] each, and how often they were drawn.

    They are those of ``resampled_medians``, called for one series after the other with one generator of ``seed``.
    """
    import numpy as np

    places, counts = _middles(seed, tuple(each.size for each in series))
    values = [np.sort(each)[places[:, at]] for at, each in enumerate(series)]
    return [(each[:, 0] + each[:, 1]) / 2 for each in values], counts


def ends(resampled: Any, tail: float = TAIL, counts: Any = None) -> tuple[float, float]:
    """Return the two ends that leave out the share ``tail`` of the values, rounded down, on either side.

    Args:
        resampled: values.
        tail: share that is left out on either side.
        counts: how often each value was drawn; by default once.
    """
    import numpy as np

    values = np.asarray(resampled)
    if counts is None:
        left_out = int(tail * values.size)
        ordered = np.sort(values)
        return float(ordered[left_out]), float(ordered[-1 - left_out])
    order = np.argsort(values)
    below = np.cumsum(np.asarray(counts)[order])
    left_out = int(tail * below[-1])
    low, high = np.searchsorted(below, (left_out, below[-1] - 1 - left_out), side="right")
    return float(values[order[low]]), float(values[order[high]])
