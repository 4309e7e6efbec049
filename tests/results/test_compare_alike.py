"""Cells that ran alike though other words asked for them, and cells that B was not asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from attnbench.report.comparison_words import verdict_of, verdict_sentence
from attnbench.results.compare import compare_tables
from attnbench.results.load import Results
from tests.results.test_compare import only, row, table

TILE = {"method": "sta", "settings": '{"tile":[6,8,8]}'}


def asked(found: Results, *methods: tuple[str, dict[str, Any]]) -> Results:
    """Results whose runs were asked for these methods."""
    request = {"methods": [{"method": name, "settings": settings} for name, settings in methods]}
    return replace(found, headers=tuple(each.model_copy(update={"request": request}) for each in found.headers))


@pytest.mark.parametrize(
    "words",
    [{"settings_given": '{"tile":[6,8,8]}'}, {"engine_asked": "reference"}],
    ids=["settings", "engine"],
)
def test_cells_that_ran_alike_are_one_whatever_asked_for_them(words: dict[str, Any]) -> None:
    a, b = table(row(**TILE, **words)), table(row(**TILE))
    cell = only(compare_tables(a, b, join_alike=True))
    assert (cell.change, cell.ratio, cell.is_regression) == ("same", pytest.approx(1.0), False)
    assert any(each.startswith("asked for as sta ") for each in cell.attributes)
    apart = compare_tables(a, b)  # as a gate does
    assert {each.change for each in apart.cells} == {"only in A", "only in B"}
    assert apart.exit_code == 4


@pytest.mark.parametrize("other", [{"settings": '{"tile":[4,4,4]}'}, {"engine": "sdpa"}, {"heads": 6, "kv_heads": 6}])
def test_cells_that_ran_otherwise_stay_apart(other: dict[str, Any]) -> None:
    mine = row(**TILE | {"settings_given": '{"tile":[6,8,8]}'} | other)
    found = compare_tables(table(mine), table(row(**TILE)), join_alike=True)
    assert {each.change for each in found.cells} == {"only in A", "only in B"}


def test_of_several_alike_none_is_joined() -> None:
    both = [row(**TILE, settings_given=given) for given in ('{"tile":[6,8,8]}', '{"tile":"default"}')]
    found = compare_tables(table(*both), table(row(**TILE)), join_alike=True)
    assert {each.change for each in found.cells} == {"only in A", "only in B"}


def test_a_cell_with_a_partner_of_its_own_is_told_where_its_like_is() -> None:
    a = table(row(**TILE), row(**TILE, settings_given='{"tile":[6,8,8]}'))
    b = asked(table(row(**TILE)), ("sta", {}))
    lost = next(each for each in compare_tables(a, b, join_alike=True).cells if each.change == "only in A")
    assert lost.reason == "not asked for in B, where sta at its defaults has the same settings in effect"
    assert lost.is_regression


@pytest.mark.parametrize(
    ("methods", "is_asked"), [([("sta", {})], False), ([("sta", {}), ("moba", {})], True), (None, True)]
)
def test_what_b_was_not_asked_for_is_said_and_fails_all_the_same(
    methods: list[tuple[str, dict[str, Any]]] | None, is_asked: bool
) -> None:
    a, b = table(row(), row(**TILE)), table(row(**TILE))
    b = b if methods is None else asked(b, *methods)
    for join in (False, True):
        found = compare_tables(a, b, join_alike=join)
        lost = next(each for each in found.cells if each.change == "only in A")
        assert (lost.asked, lost.is_regression, found.exit_code) == (is_asked, True, 1)
        assert verdict_of(lost) == ("only in A" if is_asked else "not asked for in B")
        said = "Lost or not comparable in B: moba" if is_asked else "Not asked for in B: moba"
        assert said in verdict_sentence(found)
        assert compare_tables(a, b, join_alike=join, allow_missing=["moba"]).exit_code == 0
