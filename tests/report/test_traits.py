"""What limits an error is told wherever the row is shown: terminal, page, Markdown, CSV and the data of the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from attnbench.report.data.page import PageData, page_data, to_json
from attnbench.report.formats.flat import chosen_table, csv_bytes
from attnbench.report.formats.markdown import markdown_text
from attnbench.report.html.page import page_html
from attnbench.report.terminal.summary import summary_table
from attnbench.report.traits import error_words, traits_of
from attnbench.results.load import Results
from attnbench.results.records.cells import Row

Maker = Callable[..., Any]
_STATE = {"refresh_ms": 90.0, "refresh_every": 10, "latency_amortised_ms": 45.0}


@pytest.fixture
def results(row_of: Maker, table_of: Maker) -> Results:
    """Dense attention, a method with a state, one without training, and one of which nothing is to be said."""
    found: Results = table_of(
        [
            row_of("full", engine="sdpa", density=1.0, latency_ms=100.0, approximation_error=0.0),
            row_of("svg2", latency_ms=40.0, approximation_error=0.067, **_STATE),
            row_of("vsa", latency_ms=50.0, approximation_error=1.13),
            row_of("sta", latency_ms=60.0),
        ]
    )
    return found


@pytest.fixture
def data(results: Results) -> PageData:
    return page_data(results)


@pytest.mark.parametrize(
    ("method", "more", "traits"),
    [
        ("svg2", _STATE, "state"),
        ("svg2", {}, ""),
        ("vsa", {}, "untrained"),
        ("sla", {"inputs": "capture:mini.safetensors"}, "untrained"),
        ("moba", {}, "untrained"),
        ("moba", {"inputs": "capture:mini.safetensors"}, ""),
        ("vmoba", {"settings": {"scope": "head", "threshold": 0.25}}, "untrained"),
        ("vmoba", {"settings": {"scope": "query", "select": "topk", "topk": [2, 6, 18]}}, ""),
        ("sta", {}, ""),
        ("full", {}, ""),
        ("of-a-package-that-is-not-here", {}, ""),
    ],
)
def test_a_row_is_marked_by_what_limits_its_error(
    method: str, more: dict[str, Any], traits: str, row_of: Maker
) -> None:
    assert traits_of(row_of(method, **more)) == traits


def test_the_words_say_why(row_of: Maker) -> None:
    exact: Row = row_of("ditfastattn", approximation_error=0.001, numerical_tolerance=0.009, density=0.5, **_STATE)
    rows = {"svg2": row_of("svg2", **_STATE), "ditfastattn": exact, "vsa": row_of("vsa"), "moba": row_of("moba")}

    said = error_words(rows.items())

    assert said == (
        "svg2 and ditfastattn: the states were made on the very inputs that are measured, so their errors are lower "
        "bounds. That of ditfastattn is rounding alone: the state repairs the output exactly. vsa and moba are meant "
        "for models that were trained with them, and these inputs are not of such: their errors are not those of "
        "trained models. vsa: its gate is 1, the value without training."
    )
    assert error_words([("sta", row_of("sta"))]) == ""


def test_every_format_shows_it(results: Results, data: PageData) -> None:
    told = {"svg2": "state", "vsa": "untrained", "sta": "", "full": ""}
    for name in ("means", "cells"):
        island = next(table for table in json.loads(to_json(data))["tables"] if table["name"] == name)
        names = [column["name"] for column in island["columns"]]
        records = [dict(zip(names, row, strict=True)) for row in island["rows"]]
        assert {each["method"]: each["traits"] for each in records} == told
        lines = csv.DictReader(io.StringIO(csv_bytes(chosen_table(data, name)).decode()))
        assert {each["method"]: each["traits"] for each in lines} == told
    markdown, page = markdown_text(data), page_html(data)
    assert "| ok, state |" in markdown
    assert "| ok, untrained |" in markdown
    for text in (markdown, page):
        assert "its gate is 1, the value without training" in text
        assert "the state was made on the very inputs that are measured" in text
    assert "verified state" in page
    assert "verified untrained" in page


def test_the_terminal_says_it_below_the_table(results: Results) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(summary_table(results.rows))

    text = " ".join(console.export_text().split())

    assert "svg2: the state was made on the very inputs that are measured" in text
    assert "vsa: its gate is 1, the value without training" in text
