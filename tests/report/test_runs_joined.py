"""Rows of different runs: what ran alike is one row, and the page says of which runs and commits its rows are."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from attnbench.report.data.page import page_data, to_json
from attnbench.report.data.selections import selections_of
from attnbench.report.formats.markdown import markdown_text
from attnbench.report.html.page import page_html
from attnbench.results.load import Results

Maker = Callable[..., Any]
TILE: dict[str, Any] = {"settings": {"tile": [6, 8, 8]}}


def two_runs(row_of: Maker, table_of: Maker, environment_of: Maker) -> Results:
    when = {
        "old": environment_of(started_at="2026-11-28T10:00:00Z", git_commit="a" * 40, git_dirty=False),
        "new": environment_of(started_at="2026-11-29T10:00:00Z", git_commit="b" * 40, git_dirty=False),
    }
    asked = row_of("sta", run_id="old", settings_given='{"tile":[6,8,8]}', latency_ms=40.0, baseline_ms=104.0, **TILE)
    plain = row_of("sta", run_id="new", settings_given="{}", latency_ms=50.0, **TILE)
    found: Results = table_of([asked, plain], **when)
    return found


def test_what_ran_alike_in_two_runs_is_one_row(row_of: Maker, table_of: Maker, environment_of: Maker) -> None:
    results = two_runs(row_of, table_of, environment_of)

    (selection,) = selections_of(results)

    (choice,) = selection.choices
    assert (choice.label, choice.row.run_id, choice.run_speedups) == ("sta", "new", (2.0, 2.6))
    assert len(selection.rows) == 2
    assert [len(mine) for _, mine in selection.histories] == [2]
    data = page_data(results)
    (means,) = (table for table in json.loads(to_json(data))["tables"] if table["name"] == "means")
    at = [column["name"] for column in means["columns"]].index("run_speedups")
    assert [row[at] for row in means["rows"]] == ["2.00, 2.60"]
    for text in (markdown_text(data), page_html(data)):
        assert "2 runs: 2.00, 2.60" in text


def test_one_run_that_asked_twice_keeps_both(row_of: Maker, table_of: Maker) -> None:
    rows = [row_of("sta", settings_given=given, **TILE) for given in ("{}", '{"tile":[6,8,8]}')]

    (selection,) = selections_of(table_of(rows))

    assert len(selection.choices) == 2
    assert {len(choice.run_speedups) for choice in selection.choices} == {1}


def test_runs_days_and_commits_are_named_with_the_baseline(
    row_of: Maker, table_of: Maker, environment_of: Maker
) -> None:
    first = two_runs(row_of, table_of, environment_of)
    other = row_of("moba", run_id="old", latency_ms=60.0, baseline_ms=104.0)
    results = table_of([*first.rows, other], **first.environments)

    (chosen,) = page_data(results).selections

    assert chosen.baselines == (
        "full/sdpa (torch 2.11.0), 100 to 104 ms, timed anew beside each method. 2 runs, 2026-11-28 and 2026-11-29, "
        "commits aaaaaaaaa and bbbbbbbbb. Among them the baseline alone differs by up to 4.0%, so smaller differences "
        "between runs say nothing."
    )
    (alone,) = page_data(table_of([row_of("sta")])).selections
    assert "Measured on 2026-01-02, commit" in alone.baselines


def test_each_row_has_the_latency_of_its_baseline(row_of: Maker, table_of: Maker) -> None:
    assert "full/sdpa 104" in page_html(page_data(table_of([row_of("sta", baseline_ms=104.0)])))
