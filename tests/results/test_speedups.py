"""The speed-up and its interval: how often it holds the truth, what pairing gains, and that all show the same."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnbench.bench.sweep.session import sweep_table
from attnbench.report.cases import cases_of
from attnbench.report.data.page import page_data
from attnbench.report.formats.flat import chosen_table
from attnbench.report.formats.markdown import markdown_text
from attnbench.report.judge import judge, speedup_words
from attnbench.results.break_even import curves
from attnbench.results.compare import compare_tables
from attnbench.results.layers import means_of
from attnbench.results.load import read
from attnbench.results.speedups import Ratio, Timings, same_rounds

RESULTS = Path(__file__).resolve().parents[2] / "results"
TRUTH = 2.0
times = st.floats(1e-3, 1e6)
rounds = st.lists(st.tuples(times, times), min_size=1, max_size=30)


def noisy(size: int, shared: float, own: float, dense: float, generator: np.random.Generator) -> Timings:
    """Rounds whose true speed-up is 2, with noise that both sides share and noise of their own."""
    both = generator.normal(0, shared, size)
    mine, base = (np.exp(both + generator.normal(0, each, size)) for each in (own, dense))
    return Timings((10 * mine).tolist(), (10 * TRUTH * base).tolist())


@pytest.mark.parametrize("size", [6, 7, 15])
@pytest.mark.parametrize("noise", [(0.03, 0.003, 0.003), (0.0, 0.01, 0.01), (0.0, 0.01, 1e-5)])
def test_it_holds_the_truth_as_often_as_it_says(size: int, noise: tuple[float, float, float]) -> None:
    generator, trials = np.random.default_rng(7), 250
    found = [noisy(size, *noise, generator).speedup() for _ in range(trials)]
    covered = sum(each.lo <= TRUTH <= each.hi for each in found) / trials
    assert covered > 0.95 - 3.5 * math.sqrt(0.95 * 0.05 / trials)


def test_what_rounds_share_cancels_and_what_they_do_not_share_stays() -> None:
    generator = np.random.default_rng(8)

    def widths(shared: float, own: float) -> list[float]:
        drawn = [noisy(12, shared, own, own, generator) for _ in range(40)]
        apart = [Timings(each.own, each.dense, paired=False) for each in drawn]
        logs = [[math.log(each.speedup().hi / each.speedup().lo) for each in side] for side in (drawn, apart)]
        return [statistics.median(each) for each in logs]

    together, each_by_itself = widths(0.03, 0.003)
    assert together < 0.3 * each_by_itself
    together, each_by_itself = widths(0.0, 0.01)
    assert together == pytest.approx(each_by_itself, rel=0.2)


@given(rounds, st.randoms(use_true_random=False))
def test_it_holds_the_ratio_of_medians_whatever_the_order_of_rounds(
    pairs: list[tuple[float, float]], random: np.random.Generator
) -> None:
    found = Timings(*zip(*pairs, strict=True)).speedup()
    own, dense = map(statistics.median, zip(*pairs, strict=True))
    assert found.value == dense / own
    assert found.lo <= found.value <= found.hi
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert Timings(*zip(*shuffled, strict=True)).speedup() == found


def test_few_rounds_give_the_ratios_of_their_extremes() -> None:
    few = Timings([2.0, 4.0], [6.0, 8.0])
    assert (few.kind, few.speedup()) == ("min-max", Ratio(7 / 3, pytest.approx(1.5), pytest.approx(4.0)))  # type: ignore[arg-type]
    alone = Timings([2.0, 4.0], [6.0], paired=False).speedup()
    assert (alone.lo, alone.hi) == pytest.approx((1.5, 3.0))


def test_the_baseline_is_exactly_as_fast_as_itself() -> None:
    samples = [10.0, 11.0, 9.5, 10.2, 10.4, 10.1, 9.9]
    assert Timings(samples, samples).speedup() == Ratio(1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    "table",
    [
        "h100/480p-video-fwd.jsonl.gz",
        "h200/480p-video-fwd.jsonl.gz",
        "h100/480p-gaussian-fwd-triton.jsonl.gz",  # without a row of the baseline
        "intel-xeon-2-cores/720p.jsonl",  # three rounds
    ],
)
def test_whatever_shows_a_speedup_shows_the_same_interval(table: str) -> None:
    """Page, CSV, Markdown, terminal, compare and sweep, of the same rows."""
    results = read(RESULTS / table)
    known = {mean.row.row_id: mean.speedup for mean in means_of(results.rows, results.samples)}
    data = page_data(results)

    def shown(name: str) -> dict[str, Ratio]:
        records = [each for each in chosen_table(data, name).records() if each["speedup"] is not None]
        ends = [[float(each[f"speedup{end}"] or 0) for end in ("", "_lo", "_hi")] for each in records]
        return {str(each["row_id"]): Ratio(*values) for each, values in zip(records, ends, strict=True)}

    assert shown("means") == known
    assert {row: ratio for row, ratio in shown("cells").items() if row in known} == {
        row: ratio for row, ratio in known.items() if row in {each.row_id for each in results.rows}
    }
    markdown = markdown_text(data).replace("\\", "")
    for row in known:
        assert speedup_words(known[row]) in markdown  # type: ignore[arg-type]  # all were timed beside a baseline

    (case,) = cases_of(results.rows, results.samples)
    assert judge(case).sentence == data.selections[0].sentence
    assert {row.row_id: case.speedups[row.row_id] for row in case.means} == known

    compared = {cell.cell_id: cell for cell in compare_tables(results, results).cells}
    for mean in means_of(results.rows, results.samples):
        cell, ratio = compared[mean.cell_id], known[mean.row.row_id]
        for side in ("a", "b"):
            ends = [getattr(cell, f"{side}_speedup{end}") for end in ("", "_lo", "_hi")]
            assert Ratio(*ends) == ratio

    by_method = {mean.first.method: known[mean.row.row_id] for mean in means_of(results.rows, results.samples)}
    swept = sweep_table(results)
    kept = swept[~swept.duplicated(["method", "layer"], keep="last")]  # a curve has one setting of a method
    for curve in curves(kept):
        if curve.layer is None or len(curve.layers) == 1:
            found, wanted = curve.points[0].speedup, by_method[curve.method]
            assert wanted is not None
            assert (found.value, found.lo, found.hi) == pytest.approx((wanted.value, wanted.lo, wanted.hi), rel=1e-9)


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_baseline_over_itself_is_one_whatever_a_round_took(size: int) -> None:
    rounds = [8.73, 5.15, 5.16, 5.17, 5.14, 5.15, 5.16][:size]
    found = Timings(rounds, list(rounds)).speedup()
    assert (found.lo, found.value, found.hi) == (1, 1, 1)


def test_rounds_that_two_methods_share_say_how_many_times_slower_one_is() -> None:
    own, other = {("a", 0): 2.0, ("a", 1): 2.1, ("b", 0): 9.0}, {("a", 1): 4.2, ("a", 0): 4.0, ("c", 0): 1.0}
    found = same_rounds(own, other)
    assert found == Timings([2.0, 2.1], [4.0, 4.2])
    assert found.speedup().lo == pytest.approx(4.0 / 2.1)
    assert same_rounds(own, {("c", 0): 1.0}) is same_rounds({}, other) is None
