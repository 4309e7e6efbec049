"""Means over prompts and seeds with their intervals, and what mere noise does to such means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from attnbench.kernels.errors import BadInput
from attnbench.results.bootstrap import MIN_BOOTSTRAP, RESAMPLES, drawn, ends, generator_of, picks, tail_of
from attnbench.results.records import cells as schema

Key = tuple[str, int]
"""Prompt and seed: what a value belongs to, and by what two sets of values are paired."""

Values = Mapping[Key, float]
Floats = npt.NDArray[np.float64]

_SEED = 20241


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean, or a noise floor, and how far it may be trusted.

    Attributes:
        mean: over all pairs, each with the same weight.
        lo: lower end of the interval; None where there is none.
        hi: upper end.
        kind: "bootstrap95", or "min-max", the extremes of fewer than six values; None without an interval.
        pairs: values averaged.
        resampled: "pairs", or "prompts" where whole prompts with all their seeds were drawn.
        reason: why there is no interval.
    """

    mean: float
    lo: float | None
    hi: float | None
    kind: schema.Interval | None
    pairs: int
    resampled: str = "pairs"
    reason: str = ""

    def __neg__(self) -> Estimate:
        lo, hi = (None if end is None else -end for end in (self.hi, self.lo))
        return Estimate(-self.mean, lo, hi, self.kind, self.pairs, self.resampled, self.reason)


def mean_estimate(values: Values) -> Estimate:
    """Return the mean with its 95 % interval. Equal values in any order give the same interval.

    From six values on, the interval is the percentile bootstrap, its tails widened for small samples (see ``tail_of``).
    Seeds of one prompt are not independent: with six or more prompts, of which at least one has several seeds, whole
    prompts are drawn instead of single values. Below six values the ends are the extremes; one value has no interval.

    Raises:
        BadInput: if there is no value, or one is not a finite number.
    """
    keys = sorted(values)
    numbers = _checked([values[key] for key in keys])
    mean = math.fsum(numbers) / numbers.size
    if numbers.size == 1:
        return Estimate(mean, None, None, None, 1, reason="1 pair: an interval needs at least 2")
    if numbers.size < MIN_BOOTSTRAP:
        return Estimate(mean, float(numbers.min()), float(numbers.max()), "min-max", numbers.size)
    prompts, groups = np.unique([prompt for prompt, _ in keys], return_inverse=True)
    by_prompt = MIN_BOOTSTRAP <= prompts.size < numbers.size
    units = groups if by_prompt else np.arange(numbers.size)
    sums, counts = np.bincount(units, weights=numbers), np.bincount(units).astype(np.float64)
    chosen = _places(sums.size)
    lo, hi = ends(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1), tail_of(sums.size))
    return Estimate(mean, lo, hi, "bootstrap95", numbers.size, "prompts" if by_prompt else "pairs")


@lru_cache(maxsize=4)
def _places(size: int) -> npt.NDArray[np.int64]:
    """Return the draws of every mean over so many units, [RESAMPLES, size]: they are always the same."""
    places = picks(size, generator_of(_SEED))
    places.setflags(write=False)
    return places


def paired_difference(a: Values, b: Values) -> Estimate:
    """Return the mean of a - b over the prompts and seeds that both have, with its interval.

    Raises:
        BadInput: if they have none in common, or a value is not a finite number.
    """
    common = a.keys() & b.keys()
    if not common:
        raise BadInput(f"{len(a)} and {len(b)} values have no prompt and seed in common: nothing can be paired")
    return mean_estimate({key: a[key] - b[key] for key in common})


def distance_floor(distances: Sequence[float], pairs: int) -> Estimate:
    """Return where the mean of ``pairs`` distances falls if they are noise alone, given examples of such distances.

    Raises:
        BadInput: if there is no distance, or one is not a finite number.
    """
    numbers = _checked(distances)
    mean = math.fsum(numbers) / numbers.size
    if numbers.size == 1:
        return Estimate(mean, None, None, None, 1, reason="1 pair: a floor needs at least 2")
    if numbers.size < MIN_BOOTSTRAP:
        return Estimate(mean, float(numbers.min()), float(numbers.max()), "min-max", numbers.size)
    lo, hi = ends(drawn(numbers, generator_of(_SEED), pairs).mean(axis=1), tail_of(numbers.size))
    return Estimate(mean, lo, hi, "bootstrap95", numbers.size)


def difference_floor(differences: Sequence[float], pairs: int) -> Estimate:
    """Return where the mean of ``pairs`` differences falls if they are noise alone: an interval around 0.

    Which of two exact clips is subtracted from which is arbitrary, so each difference is taken with either sign.

    Raises:
        BadInput: if there is no difference, or one is not a finite number.
    """
    numbers = _checked(differences)
    if numbers.size == 1:
        return Estimate(0.0, None, None, None, 1, reason="1 pair: a floor needs at least 2")
    if numbers.size < MIN_BOOTSTRAP:
        most = float(np.abs(numbers).max())
        return Estimate(0.0, -most, most, "min-max", numbers.size)
    generator = generator_of(_SEED)
    noise = drawn(numbers, generator, pairs)
    signs = generator.choice([-1.0, 1.0], size=(RESAMPLES, pairs))
    lo, hi = ends((noise * signs).mean(axis=1), tail_of(numbers.size))
    most = max(-lo, hi)
    return Estimate(0.0, -most, most, "bootstrap95", numbers.size)


def _checked(values: Sequence[float]) -> Floats:
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.size == 0:
        raise BadInput("no values: a mean needs at least one")
    if not np.isfinite(numbers).all():
        raise BadInput(f"values {numbers[~np.isfinite(numbers)].tolist()} must be finite numbers")
    return numbers
