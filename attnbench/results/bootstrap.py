"""Bootstrap resampling: draw from what was measured with replacement, and cut off the tails of what that gives.

numpy is imported on the first draw, so that intervals of few samples, which are their extremes, load nothing heavy.
"""

from __future__ import annotations

from collections.abc import Sequence
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


def ends(resampled: Any, tail: float = TAIL) -> tuple[float, float]:
    """Return the two ends that leave out the share ``tail`` of the values, rounded down, on either side."""
    import numpy as np

    ordered = np.sort(resampled)
    left_out = int(tail * ordered.size)
    return float(ordered[left_out]), float(ordered[-1 - left_out])
