"""Curves with a break-even that is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.kernels.errors import BadInput
from attnbench.results.break_even import Curve, curves
from attnbench.results.crossings import crossings

PowerLaw = Callable[..., pd.DataFrame]


def one(table: pd.DataFrame, axis: str = "tokens") -> Curve:
    return curves(table, axis)[0]  # type: ignore[arg-type]  # one of the two


@given(st.floats(2100, 31000), st.floats(-3, 3).filter(lambda power: abs(power) > 0.01))
def test_a_power_law_passes_1_where_it_says(power_law: PowerLaw, at: float, power: float) -> None:
    found = one(power_law(at=at, power=power, samples=1)).break_even
    assert found.outcome == "crosses"
    assert found.at == pytest.approx(at, rel=1e-6)
    assert found.faster == ("above" if power > 0 else "below")


@pytest.mark.parametrize(
    ("samples", "layers", "trials"),
    [
        (6, 1, 12),
        (7, 3, 6),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [(6, 1, 40), (7, 3, 40), (20, 1, 80)]),
    ],
)
def test_the_interval_covers_the_truth_as_often_as_it_says(
    power_law: PowerLaw, samples: int, layers: int, trials: int
) -> None:
    truth = 9000.0
    found = [
        one(power_law(at=truth, noise=0.05, samples=samples, layers=layers, seed=seed)).break_even
        for seed in range(trials)
    ]
    assert {b.interval for b in found} == {"bootstrap95"}
    covered = sum((b.lo or 0) <= truth <= (b.hi or math.inf) for b in found)
    assert covered / trials > 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / trials)
    closed = [(b.lo, b.hi) for b in found if b.lo is not None and b.hi is not None]
    assert max(hi / lo for lo, hi in closed) < 2  # so wide an interval would cover anything
    assert len(closed) == trials


def test_more_noise_makes_a_wider_interval(power_law: PowerLaw) -> None:
    found = [one(power_law(noise=noise, samples=12, seed=5)).break_even for noise in (0.01, 0.04, 0.16)]
    widths = [math.log((b.hi or math.inf) / (b.lo or 0.001)) for b in found]
    assert all(narrow < wide for narrow, wide in pairwise(widths))


@pytest.mark.parametrize(("at", "outcome"), [(1000.0, "faster"), (90000.0, "slower")])
def test_a_curve_on_one_side_says_so_and_has_no_interval(power_law: PowerLaw, at: float, outcome: str) -> None:
    found = one(power_law(at=at, noise=0.01)).break_even
    assert (found.outcome, found.at, found.lo, found.hi, found.crossings) == (outcome, None, None, None, ())


def test_beyond_the_last_point_an_interval_is_open(power_law: PowerLaw) -> None:
    found = one(power_law(at=31500.0, power=0.1, noise=0.02, samples=8, seed=1)).break_even
    seeds = (one(power_law(at=30500.0, power=0.1, noise=0.02, seed=seed)).break_even for seed in range(20))
    crossing = next(b for b in (found, *seeds) if b.outcome == "crosses")
    assert crossing.hi is None
    assert crossing.lo is not None


def test_one_point_has_a_side_and_none_has_nothing(power_law: PowerLaw) -> None:
    assert one(power_law(tokens=(4000,))).break_even.outcome == "slower"
    assert one(power_law(tokens=(16000,))).break_even.outcome == "faster"
    table = power_law(tokens=(4000,)).assign(verdict="oom", samples_ms=None, baseline_ms=math.nan)
    curve = one(table)
    assert (curve.break_even.outcome, curve.points) == ("none", ())


def test_several_crossings_are_all_named(power_law: PowerLaw) -> None:
    table = power_law(samples=1)
    wanted = [0.5, 2.0, 0.5, 2.0, 2.0]
    table["samples_ms"] = [[dense / ratio] for dense, ratio in zip(table["baseline_ms"].tolist(), wanted, strict=True)]
    found = one(table).break_even
    assert found.outcome == "several"
    assert found.at is None
    halfway = [math.sqrt(2000 * 4000), math.sqrt(4000 * 8000), math.sqrt(8000 * 16000)]
    assert found.crossings == pytest.approx(halfway)


def test_few_samples_give_the_band_of_their_extremes() -> None:
    rows = []
    for place, (tokens, ms) in enumerate([(1000, 4.0), (4000, 1.0)]):
        rows.append(
            {
                "method": "sta", "run_id": str(place), "layer": 0, "verdict": "ok", "tokens": tokens, "grid": "1x1x1",
                "density": 0.5, "samples_ms": [ms * 0.9, ms, ms * 1.1], "baseline": "full/sdpa", "baseline_ms": 2.0,
                "baseline_samples_ms": [2.0, 2.0, 2.0],
            }
        )  # fmt: skip
    curve = one(pd.DataFrame(rows))
    found = curve.break_even
    assert (found.interval, curve.points[0].interval) == ("band", "min-max")
    assert found.at == pytest.approx(2000)
    assert curve.points[0].speedup.lo == pytest.approx(2.0 / 4.4)
    assert curve.points[0].speedup.hi == pytest.approx(2.0 / 3.6)
    # the speed-up is 2 * tokens / 4000 throughout, so the ends of the band pass 1 at 0.9 and 1.1 times the place
    assert (found.lo, found.hi) == (pytest.approx(1800), pytest.approx(2200))


def test_cells_without_a_latency_are_left_out_and_told(power_law: PowerLaw) -> None:
    table = power_law()
    whole = one(table).break_even.at
    table.loc[0, "verdict"], table.loc[0, "reason"] = "unsupported", "too small"
    table.at[0, "samples_ms"] = []
    table.loc[0, ["density", "baseline_ms"]] = math.nan
    curve = one(table)
    assert [point.tokens for point in curve.points] == [4000, 8000, 16000, 32000]
    assert curve.break_even.at == pytest.approx(whole)
    assert curve.left_out == ("layer 0 at 2,000 tokens: unsupported: too small",)


def test_a_mean_needs_all_layers_and_is_over_latencies(power_law: PowerLaw) -> None:
    table = power_law(layers=3)
    table.loc[0, "verdict"] = "oom"
    for place, ms in ((3, 10.0), (4, 20.0), (5, 60.0)):
        table.at[place, "samples_ms"] = [ms] * 8
    table.loc[[3, 4, 5], "density"] = [0.1, 0.2, 0.6]
    mean, *single = curves(table)
    assert (mean.layer, [curve.layer for curve in single]) == (None, [0, 1, 2])
    assert [len(curve.points) for curve in (mean, *single)] == [4, 4, 5, 5]
    point = mean.points[0]
    assert point.latency_ms == pytest.approx(30.0)
    assert point.speedup.value == pytest.approx(16.0 / 30.0)
    assert point.translation.value == pytest.approx(16.0 / 30.0 * 0.3)


def test_translation_is_speedup_times_density_with_its_interval(power_law: PowerLaw) -> None:
    for point in one(power_law(noise=0.1)).points:
        for name in ("value", "lo", "hi"):
            assert getattr(point.translation, name) == pytest.approx(0.25 * getattr(point.speedup, name))
        assert point.speedup.lo < point.speedup.value < point.speedup.hi


def test_over_density_a_method_is_faster_below(power_law: PowerLaw) -> None:
    table = power_law(at=9000, power=-1.0)
    table["density"] = table["tokens"] / 32000
    table["grid"] = "8x20x50"
    found = one(table, "density").break_even
    assert found.at == pytest.approx(9000 / 32000)
    assert found.faster == "below"


def test_without_dense_samples_the_interval_says_that_it_leaves_them_out(power_law: PowerLaw) -> None:
    table = power_law(noise=0.1)
    known, unknown = one(table), one(table.drop(columns="baseline_samples_ms"))
    assert {point.dense_samples for point in known.points} == {8}
    assert {point.dense_samples for point in unknown.points} == {0}
    dense = table.assign(method="full", engine="sdpa", samples_ms=table["baseline_samples_ms"], density=1.0)
    both = pd.concat([table, dense], ignore_index=True).drop(columns="baseline_samples_ms")
    for row, paired, half in zip(one(both).points, known.points, unknown.points, strict=True):
        assert row.dense_samples == 8
        assert row.speedup.value == paired.speedup.value == half.speedup.value
        assert row.speedup.hi - row.speedup.lo > half.speedup.hi - half.speedup.lo
    assert [curve.method for curve in curves(both)] == ["sta"]


def test_the_order_of_rows_and_samples_does_not_matter(power_law: PowerLaw) -> None:
    table = power_law(noise=0.1)
    mixed = table.iloc[::-1].reset_index(drop=True)
    for name in ("samples_ms", "baseline_samples_ms"):
        mixed[name] = [samples[::-1] for samples in mixed[name]]
    assert one(mixed) == one(table)


def test_rows_that_do_not_belong_together_are_refused(power_law: PowerLaw) -> None:
    table = power_law()
    other = table.assign(device="Another CPU", run_id="later")
    with pytest.raises(BadInput, match="a curve needs one device, and the rows have 'Test CPU', 'Another CPU'"):
        curves(pd.concat([table, other], ignore_index=True))
    with pytest.raises(BadInput, match="run run0 has two cells of sta layer 0"):
        curves(pd.concat([table, table], ignore_index=True))
    with pytest.raises(BadInput, match="one grid"):
        curves(table, "density")
    with pytest.raises(BadInput, match="no column density"):
        curves(table.drop(columns="density"))
    with pytest.raises(BadInput, match="'speed'"):
        curves(table, "speed")  # type: ignore[arg-type]  # what is tested


def test_crossings_are_those_of_straight_lines_between_logarithms() -> None:
    assert crossings([1.0, 100.0], [0.1, 10.0]) == pytest.approx((10.0,))
    assert crossings([1.0, 10.0, 100.0], [0.5, 1.0, 2.0]) == pytest.approx((10.0,))
    assert crossings(np.asarray([1.0, 2.0]), np.asarray([3.0, 4.0])) == ()
    with pytest.raises(BadInput, match="must be finite numbers above 0"):
        crossings([1.0, 2.0], [0.0, 1.0])
    with pytest.raises(BadInput, match="as many"):
        crossings([1.0], [1.0, 2.0])


@pytest.mark.parametrize("layers", [1, 3])
def test_by_wall_clock_there_is_a_break_even_of_its_own(power_law: PowerLaw, layers: int) -> None:
    curve = one(power_law(at=5000.0, eager_at=12000.0, layers=layers))
    assert curve.break_even.at == pytest.approx(5000)
    found = curve.break_even_eager
    assert (found.outcome, found.faster, found.lo, found.hi, found.interval) == ("crosses", "above", None, None, None)
    assert found.at == pytest.approx(12000)
    for point in curve.points:
        assert point.speedup_eager == pytest.approx((point.tokens / 12000) ** 0.4)
        assert point.latency_eager_ms == pytest.approx(point.baseline_eager_ms / point.speedup_eager)


def test_what_was_not_measured_by_wall_clock_is_left_out(power_law: PowerLaw) -> None:
    nothing = one(power_law())
    assert nothing.break_even_eager.outcome == "none"
    assert {point.speedup_eager for point in nothing.points} == {None}
    cpu = power_law(eager_at=12000.0).assign(timer="wall")
    assert one(cpu).break_even_eager.outcome == "none", "there, latencies are of the wall clock already"
    some = power_law(eager_at=12000.0)
    some.loc[some["tokens"] == 16000, "latency_eager_ms"] = math.nan
    curve = one(some)
    assert [point.speedup_eager is None for point in curve.points] == [False, False, False, True, False]
    assert curve.break_even_eager.at == pytest.approx(12000)
    two = power_law(eager_at=12000.0, layers=2)
    two.loc[two["layer"] == 1, "latency_eager_ms"] = math.nan
    mean, first, second = curves(two)
    assert [each.break_even_eager.outcome for each in (mean, first, second)] == ["none", "crosses", "none"]


@pytest.mark.parametrize(("eager_at", "outcome"), [(1000.0, "faster"), (90000.0, "slower")])
def test_by_wall_clock_a_curve_may_lie_on_one_side(power_law: PowerLaw, eager_at: float, outcome: str) -> None:
    assert one(power_law(eager_at=eager_at)).break_even_eager.outcome == outcome
