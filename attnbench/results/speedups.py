"""The speed-up that samples of a method and of the dense baseline allow, and whether it can be told from 1.

The sentences of a sweep and those of a report rest on this one judge.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from attnbench.results.bootstrap import MIN_BOOTSTRAP, TAIL, ends, medians_of_resamples, resampled_medians

Floats = npt.NDArray[np.float64]
Side = Literal["faster", "slower", "unclear"]
_SEED = 20240


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio and its interval."""

    value: float
    lo: float
    hi: float

    @property
    def side(self) -> Side:
        """On which side of 1 the whole interval lies: "faster" above it, "unclear" if it holds 1."""
        return "faster" if self.lo > 1 else "slower" if self.hi < 1 else "unclear"


def is_few(series: Sequence[Floats]) -> bool:
    """Whether a series has too few samples to resample: the ends of intervals are extremes then."""
    return min(each.size for each in series) < MIN_BOOTSTRAP


def log_speedups(dense: Floats, layers: Sequence[Floats], few: bool, generator: np.random.Generator) -> Floats:
    """Return logarithms of speed-ups as they might have been: resampled, or for ``few`` samples the two extremes.

    Args:
        dense: samples of the dense baseline in ms, [N].
        layers: samples of the method, [N] a layer; its latency is the mean over layers.
        few: whether to take the extremes.
        generator: of the resampling. One draw of the baseline serves all layers, which share it.
    """
    if few:
        return _extremes(dense, layers)
    baseline = resampled_medians(dense, generator)
    found: Floats = _log_ratio(baseline, [resampled_medians(series, generator) for series in layers])
    return found


def speedup_of(
    dense: Sequence[float] | Floats, layers: Sequence[Sequence[float] | Floats], few: bool | None = None
) -> Ratio:
    """Return the speed-up of medians and its interval; arguments as for ``log_speedups``, by default by ``is_few``."""
    baseline = np.asarray(dense, dtype=np.float64)
    own = [np.asarray(series, dtype=np.float64) for series in layers]
    few = is_few([baseline, *own]) if few is None else few
    if few:
        lo, hi = _extremes(baseline, own)
    else:
        (first, *others), counts = medians_of_resamples([baseline, *own], _SEED)
        lo, hi = ends(_log_ratio(first, others), TAIL, counts)
    value = float(_log_ratio(np.median(baseline), [np.median(series) for series in own]))
    return Ratio(*(math.exp(y) for y in (value, min(value, lo), max(value, hi))))


def _extremes(dense: Floats, layers: Sequence[Floats]) -> Floats:
    low = _log_ratio(dense.min(), [series.max() for series in layers])
    high = _log_ratio(dense.max(), [series.min() for series in layers])
    return np.asarray([low, high], dtype=np.float64)


def _log_ratio(dense: Any, layers: Sequence[Any]) -> Any:
    return np.log(dense) - np.log(np.mean(np.asarray(layers), axis=0))
