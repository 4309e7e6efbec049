"""Verdicts on premises: bounds in both directions, intervals over heads, and what is too little to judge."""

from __future__ import annotations

from typing import Any

import pytest

from attnbench.results.premises import STATISTICS, Premise, judge, judge_one, premises
from attnbench.results.records.analysis import AnalysisRow

UP = Premise("up", "c", "s", ("entropy",), "median", 2.0, 1.0)
DOWN = Premise("down", "c", "s", ("entropy",), "median", 1.0, 2.0)


def rows(values: list[float], measure: str = "entropy", **changes: Any) -> list[AnalysisRow]:
    fields: dict[str, Any] = {"run_id": "r", "model": "mini", "grid": "2x4x4", "tokens": 32, "queries": 32, "layer": 0,
                              "step": 0, "measure": measure}  # fmt: skip
    return [AnalysisRow(**{**fields, "head": head, "value": value, **changes}) for head, value in enumerate(values)]


@pytest.mark.parametrize(
    ("premise", "values", "verdict"),
    [
        (UP, [3.0] * 8, "holds"), (UP, [0.5] * 8, "does not hold"), (UP, [1.5] * 8, "undecided"),
        (UP, [0.5, 3.0] * 4, "undecided"), (DOWN, [3.0] * 8, "does not hold"), (DOWN, [0.5] * 8, "holds"),
        (DOWN, [1.5] * 8, "undecided"), (UP, [2.0] * 8, "holds"), (UP, [1.0] * 8, "does not hold"),
    ],
)  # fmt: skip
def test_a_premise_is_judged_by_the_whole_interval(premise: Premise, values: list[float], verdict: str) -> None:
    row = judge_one(premise, rows(values), "r")
    assert row.verdict == verdict
    assert row.value is not None
    assert row.lo is not None
    assert row.hi is not None
    assert row.lo <= row.value <= row.hi
    assert bool(row.reason) == (verdict == "undecided")


def test_few_heads_decide_nothing() -> None:
    row = judge_one(UP, rows([9.0] * 5), "r")
    assert (row.verdict, row.value, row.lo) == ("undecided", 9.0, None)
    assert row.reason == "5 heads are too few for an interval: 6 are needed"


def test_a_skipped_measure_gives_its_reason() -> None:
    skipped = rows([0.0], value=None, status="skipped", reason="there is no earlier step")
    row = judge_one(UP, skipped, "r")
    assert (row.verdict, row.value, row.reason) == ("undecided", None, "there is no earlier step")


def test_a_head_counts_once_whatever_its_steps() -> None:
    some = [*rows([4.0] * 8), *rows([0.0] * 8, step=1)]
    row = judge_one(UP, some, "r")
    assert row.value == 2.0
    assert row.tested_on == "mini: 1 layer, 8 heads, 2 steps, 1 prompt, 32 of 32 queries"


def test_a_head_counts_once_whatever_its_densities_and_methods() -> None:
    """Five heads stay five, though each was measured at two densities and for two methods."""
    some = [
        *rows([4.0] * 5, settings='{"density":0.25}'), *rows([0.0] * 5, settings='{"density":0.5}'),
        *rows([2.0] * 5, method="sta"),
    ]  # fmt: skip
    row = judge_one(UP, some, "r")
    assert (row.verdict, row.value, row.lo) == ("undecided", 2.0, None)
    assert row.reason == "5 heads are too few for an interval: 6 are needed"


def test_a_layer_is_the_mean_of_its_heads() -> None:
    premise = Premise("p", "c", "s", ("entropy",), "median", 2.0, 1.0, unit="layer")
    some = [row for layer in range(7) for row in rows([layer - 1.0, layer + 1.0], layer=layer)]
    row = judge_one(premise, some, "r")
    assert (row.value, row.statistic) == (3.0, "median of entropy, over layers")
    assert judge_one(UP, some, "r").statistic == "median of entropy"
    few = judge_one(premise, some[:10], "r")
    assert few.reason == "5 layers are too few for an interval: 6 are needed"


def test_what_was_tested_names_methods_and_densities() -> None:
    some = [*rows([4.0], settings='{"density":0.5}'), *rows([0.0], settings='{"density":0.25}')]
    assert judge_one(UP, some, "r").tested_on.endswith("32 of 32 queries; density 0.25, 0.5")
    ours = rows([2.0], method="vmoba", settings='{"density":0.1}')
    assert judge_one(UP, ours, "r").tested_on.endswith("32 of 32 queries; vmoba")


def test_each_statistic_by_hand() -> None:
    first, second = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], [2.0, 1.0, 1.0, 9.0, 1.0, 1.0, 1.0]
    both = [*rows(first, "a"), *rows(second, "b")]
    wanted = {"median": 4.0, "median-of-largest": 5.0, "median-difference": 2.0, "decile-ratio": 6.4 / 1.6,
              "decile-range": 6.4 - 1.6}  # fmt: skip
    assert wanted.keys() == STATISTICS.keys()
    for name, value in wanted.items():
        premise = Premise("p", "c", "s", ("a", "b"), name, 2.0, 1.0)
        assert judge_one(premise, both, "r").value == pytest.approx(value, rel=1e-3), name


def test_the_committed_premises_can_be_judged_and_differ() -> None:
    committed = premises()
    assert len({each.name for each in committed}) == len(committed) >= 8
    for each in committed:
        assert each.statistic in STATISTICS
        assert each.holds != each.fails
        assert each.claim.endswith(".")
    assert {row.verdict for row in judge(rows([1.0]), "r")} == {"undecided"}
