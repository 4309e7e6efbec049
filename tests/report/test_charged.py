"""Methods with a state are ranked by the mean of a step, and every output shows the same figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from attnbench.report.cases import cases_of
from attnbench.report.data.page import page_data, to_json
from attnbench.report.data.selections import selections_of
from attnbench.report.formats.flat import chosen_table, csv_bytes
from attnbench.report.formats.markdown import markdown_text
from attnbench.report.html.page import page_html
from attnbench.report.judge import judge
from attnbench.report.terminal.summary import summary_table
from attnbench.report.traits import charge_words
from attnbench.results.layers import means_of
from attnbench.results.load import Results
from attnbench.results.records.cells import Row
from attnbench.results.speedups import charged_ms

Maker = Callable[..., Any]


@pytest.fixture
def results(row_of: Maker, table_of: Maker) -> Results:
    """mod-dit's step between refreshes is the fastest; with a refresh in ten steps it is slower than dense."""
    found: Results = table_of(
        [
            row_of("full", engine="sdpa", density=1.0, latency_ms=100.0, approximation_error=0.0),
            row_of("mod-dit", latency_ms=50.0, refresh_ms=600.0, refresh_every=10, latency_amortised_ms=105.0, step=12),
            row_of("sta", latency_ms=80.0),
        ]
    )
    return found


def stateful(results: Results) -> Row:
    return next(row for row in results.rows if row.method == "mod-dit")


def test_the_verdict_and_the_ranking_charge_the_refresh(results: Results) -> None:
    (case,) = cases_of(results.rows)

    verdict = judge(case)

    assert verdict.leader is not None
    assert verdict.leader.method == "sta"
    assert [choice.row.method for choice in selections_of(results)[0].choices] == ["sta", "full", "mod-dit"]
    assert case.speedups[stateful(results).row_id].value == pytest.approx(100 / 105)


def test_compare_keeps_the_step_between_refreshes(results: Results) -> None:
    mean = next(mean for mean in means_of(results.rows) if mean.first.method == "mod-dit")

    assert mean.speedup is not None
    assert mean.ranked_speedup is not None
    assert mean.speedup.value == pytest.approx(2.0)
    assert mean.ranked_speedup.value == pytest.approx(100 / 105)
    assert mean.ranked_speedup.lo == pytest.approx(98 / (105 + 0.9 * 1.5))
    assert mean.ranked_speedup.hi == pytest.approx(103 / (105 - 0.9 * 1.0))


def test_every_output_shows_the_same(results: Results) -> None:
    data = page_data(results)
    for name in ("means", "cells"):
        island = next(table for table in json.loads(to_json(data))["tables"] if table["name"] == name)
        names = [column["name"] for column in island["columns"]]
        in_page = [dict(zip(names, row, strict=True)) for row in island["rows"]]
        in_csv = list(csv.DictReader(io.StringIO(csv_bytes(chosen_table(data, name)).decode())))
        for each in (next(one for one in table if one["method"] == "mod-dit") for table in (in_page, in_csv)):
            assert float(each["speedup"]) == pytest.approx(100 / 105)
            assert float(each["charged_ms"]) == pytest.approx(105)
            assert [float(each[key]) for key in ("latency_ms", "refresh_ms", "refresh_every", "step")] == [
                50, 600, 10, 12,
            ]  # fmt: skip
            assert float(each["latency_amortised_ms"]) == pytest.approx(105)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table(results.rows))
    said = "mod-dit is charged for making its state anew: 600 ms every 10 steps. Steps between take 50.0 ms."
    for text in (markdown_text(data), page_html(data), console.export_text()):
        told = " ".join(text.split())
        assert said in told
        assert "0.952×" in told
        assert "2.00×" not in told
    assert "50.0 between refreshes" in markdown_text(data)
    assert "50.0 between refreshes" in page_html(data)


def test_without_a_state_nothing_is_charged(row_of: Maker) -> None:
    (mean,) = means_of([row_of("sta", latency_ms=80.0)])

    assert mean.ranked_speedup == mean.speedup
    assert mean.charged_rounds == mean.rounds


def test_a_mean_over_layers_charges_each_layer(row_of: Maker) -> None:
    rows = [
        row_of("mod-dit", layer=0, layers_alike=1, latency_ms=50.0, refresh_ms=600.0, refresh_every=10,
               latency_amortised_ms=105.0),
        row_of("mod-dit", layer=1, layers_alike=3, latency_ms=30.0, refresh_ms=130.0, refresh_every=5,
               latency_amortised_ms=50.0),
    ]  # fmt: skip

    (mean,) = means_of(rows)

    assert mean.row.latency_ms == pytest.approx((50 + 3 * 30) / 4)
    assert mean.row.latency_amortised_ms == pytest.approx((105 + 3 * 50) / 4)
    assert mean.ranked_speedup is not None
    assert mean.ranked_speedup.value == pytest.approx(100 / mean.row.latency_amortised_ms)


def test_a_third_kind_of_steps_is_charged_as_often_as_there_is_one(row_of: Maker) -> None:
    three = {"refresh_ms": 100.0, "refresh_every": 2.5, "other_ms": 2.0, "other_every": 5.0}
    mean_step = 0.4 * 100 + 0.2 * 2 + 0.4 * 50
    row = row_of("ditfastattn", layer=0, layers_alike=1, latency_ms=50.0, latency_amortised_ms=mean_step, **three)
    assert charged_ms(row, 60.0) == pytest.approx(mean_step + 0.4 * 10)
    assert charge_words([("it", row)]) == (
        "it is charged for making its state anew: 100 ms every 2.5 steps. Steps between take 50.0 ms. One step in 5 "
        "of it is of a third kind, and takes 2.00 ms."
    )
    two = row_of("ditfastattn", layer=1, layers_alike=3, latency_ms=50.0, refresh_ms=80.0, refresh_every=5,
                 latency_amortised_ms=56.0)  # fmt: skip
    (mean,) = means_of([row, two])
    assert mean.row.latency_amortised_ms == pytest.approx((mean_step + 3 * 56) / 4)
    assert (mean.row.other_ms, mean.row.other_every) == pytest.approx((2, 20))
    assert (mean.row.refresh_ms, mean.row.refresh_every) == pytest.approx((88, 4))
    for given, words in (
        ({"other_ms": None}, "other_ms and other_every go together"), ({"other_every": 1.5}, "more than all steps"),
        ({"other_ms": 9.0}, "latency_amortised_ms is 60.4"),
    ):  # fmt: skip
        with pytest.raises(ValidationError, match=words):
            row_of("ditfastattn", latency_ms=50.0, latency_amortised_ms=mean_step, **three | given)


@pytest.mark.parametrize(
    "given", [{"latency_amortised_ms": 60.0}, {"latency_amortised_ms": None}, {"refresh_every": None}]
)
def test_a_mean_that_its_parts_do_not_make_is_refused(given: dict[str, Any], row_of: Maker) -> None:
    state = {"latency_ms": 50.0, "refresh_ms": 600.0, "refresh_every": 10, "latency_amortised_ms": 105.0}
    row_of("mod-dit", **state)
    with pytest.raises(ValidationError, match="latency_amortised_ms"):
        row_of("mod-dit", **(state | given))
