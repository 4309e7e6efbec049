"""Maps over frames of what cells kept: which there are, what they hold, and that tables and pictures hold the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from attnbench.report.data import frame_maps as module
from attnbench.report.data.figure import Figure, table_of
from attnbench.report.data.page import page_data, to_json
from attnbench.report.html.page import make_report
from attnbench.report.html.svg import svg_of

Maker = Callable[..., Any]
GRID = {"grid": "3x4x5", "tokens": 60}
MAP = [[1000, 250, 0], [500, 1000, 250], [500, 125, 1000]]


@pytest.fixture
def figures(row_of: Maker, table_of: Maker) -> list[Figure]:
    rows = [
        row_of("full", engine="sdpa", density=1.0, kept_by_frame=json.dumps([[1000] * 3] * 3), **GRID),
        *(row_of("sta", layer=layer, kept_by_frame=json.dumps(MAP), latency_ms=20.0, **GRID) for layer in (0, 1)),
        row_of("moba", **GRID),
    ]
    return [each for each in page_data(table_of(rows)).figures if each.section == "masks"]


def test_each_sparse_method_and_layer_that_has_a_map_shows_it(figures: list[Figure]) -> None:
    assert [each.option for each in figures] == ["sta, layer 0", "sta, layer 1"]
    assert figures[0].words == "sta, layer 0: 0.514 of all pairs, 1.00 within a frame, 0.667 with the first frame."


def test_the_table_and_the_picture_hold_every_value(figures: list[Figure]) -> None:
    values = [value / 1000 for line in MAP for value in line]
    rows = table_of(figures[0]).rows
    assert [row[2] for row in rows] == values
    assert rows[1] == ("query 0", "key 1", 0.25)
    drawn = [each for each in ET.fromstring(svg_of(figures[0], ())).iter("rect") if each.get("class") == "heat"]
    assert [float(each.get("fill-opacity", "")) for each in drawn] == [
        round(0.06 + 0.84 * value, 3) for value in values
    ]


def test_a_page_without_maps_has_none_and_one_with_too_many_shows_the_first(
    row_of: Maker, table_of: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert '"masks"' not in to_json(page_data(table_of([row_of("sta")])))
    rows = [row_of("sta", layer=layer, kept_by_frame=json.dumps(MAP), **GRID) for layer in range(4)]
    monkeypatch.setattr(module, "MOST_VALUES", 20)
    made = make_report(table_of(rows))
    assert [each.option for each in made.data.figures if each.section == "masks"] == ["sta, layer 0", "sta, layer 1"]
    assert "What sta, layer 0 kept when it was measured" in made.html
