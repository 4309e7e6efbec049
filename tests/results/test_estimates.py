"""Student's t against its integral, and whether intervals and tests keep their word on simulated runs."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from attnbench.kernels.errors import BadInput
from attnbench.results.estimates import Estimate, difference, middle, significant, t_quantile, t_tail


def integral(t: float, freedom: float) -> float:
    """P(T > t) by the trapezium rule over the density, in the angle that makes the line finite."""
    constant = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    angles = np.linspace(math.atan(t / math.sqrt(freedom)), math.pi / 2, 200_001)
    density = np.cos(angles) ** (freedom - 1) * math.sqrt(freedom) * math.exp(constant)
    return float(np.trapezoid(density, angles))


@pytest.mark.parametrize("freedom", [1, 2, 3.5, 11, 100, 3000])
@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 2.5, 8.0])
def test_the_tail_of_students_t_is_the_integral_of_its_density(t: float, freedom: float) -> None:
    assert t_tail(t, freedom) == pytest.approx(integral(t, freedom), rel=1e-6, abs=1e-12)


def test_with_all_freedom_it_is_the_normal_distribution() -> None:
    assert t_quantile(0.975, math.inf) == pytest.approx(1.959963984540054)
    assert t_quantile(0.975, 1e7) == pytest.approx(1.959963984540054, rel=1e-5)


@pytest.mark.parametrize("freedom", [1, 2, 7.5, 40])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.975, 0.9995])
def test_the_quantile_undoes_the_tail(probability: float, freedom: float) -> None:
    assert t_tail(t_quantile(probability, freedom), freedom) == pytest.approx(1 - probability, rel=1e-9)


def test_a_few_disturbed_rounds_do_not_move_the_middle() -> None:
    calm = [0.01 * number for number in range(10)]
    assert middle([*calm[:8], 5.0, 9.0]).value == pytest.approx(middle(calm).value, abs=0.01)
    assert middle([1.0, 2.0, 6.0]).value == 3.0
    assert middle([2.0]).error == math.inf
    with pytest.raises(BadInput, match="no middle"):
        middle([])


def test_one_value_says_nothing_about_the_noise() -> None:
    unsure = difference(middle([1.0]), middle([5.0, 5.1]))
    assert (unsure.value, unsure.p_value) == (pytest.approx(4.05), 1.0)
    assert unsure.interval() == (-math.inf, math.inf)


def test_benjamini_and_hochberg_take_all_up_to_the_last_that_passes() -> None:
    assert significant([0.5, 0.012, 0.029, 0.01, 0.04], 0.05) == [False, True, True, True, True]
    assert significant([0.011, 0.5, 0.6, 0.7, 0.8], 0.05) == [False] * 5
    assert significant([], 0.05) == []


RUNS = 2000


def simulated(rounds: int, between: float, within: float, shift: float = 0.0) -> list[Estimate]:
    """Differences of two runs: each run has a level of its own, and its rounds scatter around it, some of them far."""
    generator = np.random.default_rng(7)
    model = Estimate(0.0, math.sqrt(2) * between, math.inf)
    found = []
    for _ in range(RUNS):
        levels = between * generator.standard_normal(2) + [0.0, shift]
        noise = within * generator.standard_normal((2, rounds))
        noise[generator.random((2, rounds)) < 0.03] *= 5
        a, b = (middle((level + rows).tolist()) for level, rows in zip(levels, noise, strict=True))
        found.append(difference(a, b, model))
    return found


def coverage(found: list[Estimate], truth: float) -> float:
    return sum(low <= truth <= high for low, high in (each.interval() for each in found)) / len(found)


@pytest.mark.parametrize("rounds", [5, 20])
@pytest.mark.parametrize(("between", "within"), [(0.009, 0.04), (0.05, 0.01)])
def test_intervals_hold_the_truth_however_many_rounds_there_are(rounds: int, between: float, within: float) -> None:
    assert 0.93 <= coverage(simulated(rounds, between, within), 0.0) <= 0.98


def test_without_the_part_between_runs_more_rounds_would_make_intervals_lie() -> None:
    generator = np.random.default_rng(3)
    shares = []
    for rounds in (3, 20):
        levels = 0.05 * generator.standard_normal((RUNS, 2, 1))
        rows = levels + 0.05 * generator.standard_normal((RUNS, 2, rounds))
        shares.append(coverage([difference(middle(a), middle(b)) for a, b in rows.tolist()], 0.0))
    assert all(more > less for more, less in pairwise(shares))
    assert shares[-1] < 0.5


def test_false_alarms_and_power_at_the_noise_of_a_quiet_cpu() -> None:
    """Of single cells; 12 rounds, .9 % between runs and 4 % within, a threshold of 3 %."""
    alarms = [each for each in simulated(12, 0.009, 0.04) if each.p_value <= 0.05 / 7 and abs(each.value) > 0.03]
    assert len(alarms) / RUNS <= 0.01
    slower = simulated(12, 0.009, 0.04, shift=-math.log(1.1))
    found = [each for each in slower if each.p_value <= 0.05 / 7 and each.value < -0.03]
    assert len(found) / RUNS >= 0.9


@pytest.mark.parametrize("freedom", [1e6, 1e9, 1e14, 1e16, 1e18, 1e200, math.inf])
def test_very_many_degrees_of_freedom_are_the_normal_distribution(freedom: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(1.959964, rel=3e-5)
    assert t_tail(1.959964, freedom) == pytest.approx(0.025, rel=3e-5)
