from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.errors import BadInput
from attnbench.results.intervals import MIN_BOOTSTRAP, geometric_mean, median_interval

latency = st.floats(1e-3, 1e6)
latencies = st.lists(latency, min_size=1, max_size=40)


@given(latencies)
def test_median_lies_within_its_interval(samples: list[float]) -> None:
    interval = median_interval(samples)
    assert interval.median == statistics.median(samples)
    assert min(samples) <= interval.lo <= interval.median <= interval.hi <= max(samples)


@given(latencies, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(samples: list[float], random: np.random.Generator) -> None:
    shuffled = list(samples)
    random.shuffle(shuffled)
    assert median_interval(shuffled) == median_interval(samples)


@given(latencies, st.integers(-8, 8))
def test_scaling_the_samples_scales_the_interval(samples: list[float], power: int) -> None:
    factor = 2.0**power  # exact in floating point, so the comparison can be exact too
    plain, scaled = median_interval(samples), median_interval([factor * sample for sample in samples])
    assert (scaled.median, scaled.lo, scaled.hi) == (factor * plain.median, factor * plain.lo, factor * plain.hi)


@pytest.mark.parametrize("count", range(1, MIN_BOOTSTRAP))
def test_few_samples_give_their_extremes(count: int) -> None:
    samples = [float(sample) for sample in range(count, 0, -1)]
    interval = median_interval(samples)
    assert (interval.lo, interval.hi, interval.kind) == (1.0, count, "min-max")


def test_one_outlier_does_not_move_a_bootstrap_interval() -> None:
    steady = [10.0 + 0.01 * step for step in range(20)]
    disturbed = [*steady, 500.0]
    interval = median_interval(disturbed)
    assert interval.kind == "bootstrap95"
    assert interval.hi < 10.2


def assert_covers(covered: int, trials: int) -> None:
    """Hold if a 95 % interval may cover so often: no less than chance allows, and not so often that it says nothing."""
    assert covered / trials > 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / trials)
    assert covered < trials


@pytest.mark.parametrize("size", [6, 7, 15, 40])
def test_interval_covers_the_true_median_as_often_as_it_says(size: int) -> None:
    generator = np.random.default_rng(7)
    trials = 500
    truth = math.log(2)  # the median of the exponential distribution
    intervals = [median_interval(generator.exponential(size=size)) for _ in range(trials)]
    assert_covers(sum(interval.lo <= truth <= interval.hi for interval in intervals), trials)


def test_interval_narrows_with_more_samples() -> None:
    generator = np.random.default_rng(9)
    widths = [
        interval.hi - interval.lo
        for size in (8, 80, 800)
        for interval in [median_interval(generator.normal(10, 1, size))]
    ]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_samples_that_have_no_median_are_refused(samples: list[float]) -> None:
    with pytest.raises(BadInput):
        median_interval(samples)


def test_geometric_mean() -> None:
    assert geometric_mean([0.5, 2.0]) == pytest.approx(1.0)
    assert geometric_mean([1.0, 8.0, 27.0]) == pytest.approx(6.0)
    assert geometric_mean([]) is None
