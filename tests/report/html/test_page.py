"""The page as text: what it holds without a script, what its data say, and that no text of a user is ever a tag."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.report.data.figure import Axis, Figure, Point, Series
from attnbench.report.data.page import PageData, page_data, to_json
from attnbench.report.data.table import Column, Table
from attnbench.report.flag_words import FLAG_WORDS
from attnbench.report.html.page import SECTIONS, make_report, method_colours, page_html
from attnbench.report.html.steps import COLUMNS
from attnbench.report.html.svg import HATCHED, svg_of
from attnbench.report.html.templates import resource, script
from attnbench.report.marks import PART_COLOURS
from attnbench.results.load import Results, read

Maker = Callable[..., Any]

HOSTILE = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;{{ 7 * 7 }}"""
CLIPS = Path(__file__).parents[3] / "results/h100/clips/vmoba-query"
PROFILES = Path(__file__).parents[3] / "results/h100/profiles"


class Page(HTMLParser):
    """Every tag with its attributes, and the text of the page without style and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.raw: dict[str, list[str]] = {}
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag if tag in ("style", "script") else self.inside

    def handle_endtag(self, tag: str) -> None:
        self.inside = "" if tag == self.inside else self.inside

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw.setdefault(self.inside, []).append(data)
        else:
            self.words += data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module", autouse=True)
def quick_masks() -> Iterator[None]:
    """Leave the mask pictures out: they have their own test, and take a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])
        yield


@pytest.fixture
def page(table: Results) -> Page:
    return Page(make_report(table).html)


@pytest.fixture(scope="module")
def profiled() -> str:
    return make_report(read(PROFILES), source=["results/h100/profiles"]).html


def policy_of(page: Page) -> dict[str, str]:
    (content,) = (tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert content is not None
    return {name: rest for name, _, rest in (part.strip().partition(" ") for part in content.split(";"))}


def test_the_policy_lets_the_pages_own_style_and_script_through_and_nothing_else(page: Page) -> None:
    policy = policy_of(page)
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in str(policy)
    for name, place in (("style", 0), ("script", -1)):
        digest = base64.b64encode(hashlib.sha256(page.raw[name][place].encode()).digest()).decode()
        assert policy[f"{name}-src"] == f"'sha256-{digest}'"
    assert not any("style" in attributes for _, attributes in page.tags), "the policy forbids inline styles"


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    links = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "href", "srcset", "action")
        if name in attributes
    ]
    assert links
    assert all(link is not None and link.startswith(("data:", "#")) for link in links)
    assert "url(#hatch)" in "".join(page.raw["script"])


def test_the_data_on_the_page_are_those_of_every_format(table: Results) -> None:
    made = make_report(table, source=["x"])
    data, _ = Page(made.html).raw["script"]
    assert data == to_json(page_data(table, source=["x"])) == to_json(made.data)
    assert json.loads(data)["schema"] == 1


def test_the_first_rows_and_the_verdict_stand_there_without_a_script(page: Page) -> None:
    for words in (
        "sta (reference) is 2.90×", "34.5", "[33.8, 35.5]", "0.190", "0.310", "0.870", "full/sdpa",
        "unsupported flash4 needs a GPU", "bfloat16", "480p, 12 heads of 128, 21×30×52 = 32,760 tokens",
    ):  # fmt: skip
        assert words in page.words, words
    rows = page.words[page.words.index(" baseline ") :]
    places = [rows.index(f" {method} ") for method in ("sta", "vmoba", "full", "moba")]
    assert places == sorted(places)


def test_sections_without_anything_to_show_are_absent(page: Page, profiled: str) -> None:
    there = [attributes["id"] for attributes in page.all("section") if "id" in attributes]
    assert there == ["answer", "memory", "density", "cells", "environments", "terms"]
    more = [attributes["id"] for attributes in Page(profiled).all("section")]
    assert set(more) == {*there, "break-even", "phases", "waterfall", "roofline", "steps", "history"} - {"history"}
    links = [attributes["href"] for attributes in page.all("a")]
    assert links == [f"#{name}" for name in SECTIONS if name in there]


def test_hostile_text_stays_text(row_of: Maker, table_of: Maker, environment_of: Maker) -> None:
    rows = [
        row_of("sta", inputs=HOSTILE, device=HOSTILE, settings={"a": HOSTILE}),
        row_of("<u>", inputs=HOSTILE, device=HOSTILE, verdict="error", reason=HOSTILE, engine_version=HOSTILE),
    ]
    html = make_report(table_of(rows, **{rows[0].run_id: environment_of(command=[HOSTILE], driver=HOSTILE)})).html
    page = Page(html)
    assert len(page.all("script")) == 2
    assert not page.all("u")
    assert not page.all("img")
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words.count('<script>alert("x")</script>') >= 4
    assert "{{ 7 * 7 }}" in page.words


def test_a_run_without_a_single_latency_still_makes_a_page(row_of: Maker, table_of: Maker) -> None:
    page = Page(make_report(table_of([row_of("moba", verdict="oom", density=None, reason="needs 90 GiB")])).html)
    assert "needs 90 GiB" in page.words
    assert "No cell of this run has a latency" in page.words


def test_environments_are_differences_from_the_first(row_of: Maker, table_of: Maker, environment_of: Maker) -> None:
    rows = [row_of(run_id="one"), row_of(run_id="two", device="Other GPU")]
    table = table_of(rows, two=environment_of(device="Other GPU", driver="570.1"))
    page = Page(make_report(table).html)
    assert page.words.count("3.11.9") == 1, "Python is the same"
    assert "570.1" in page.words
    assert "not recorded" in Page(make_report(replace(table, headers=())).html).words


def test_an_empty_table_is_bad_input(table_of: Maker) -> None:
    with pytest.raises(BadInput, match="no rows"):
        make_report(table_of([]))


def test_parts_say_what_is_shown(table: Results) -> None:
    (part,) = make_report(table).parts
    assert (part.kind, part.anchor) == ("case", "answer")
    assert part.finding[0].startswith("At 480p on Test CPU, sta")
    assert sorted(part.row_ids) == sorted(row.row_id for row in table.rows)
    assert part.facts["Dense baseline"].startswith("full/sdpa (torch 2.11.0), 100 ms")


def test_static_pictures_are_well_formed_and_show_every_point_and_bar(profiled: str) -> None:
    data = page_data(read(PROFILES))
    for figure in data.figures:
        root = ET.fromstring(svg_of(figure, data.methods))
        marks = [each for each in root.iter("path") if each.get("class", "").startswith("mark")]
        drawn = [point for each in figure.series if each.look in ("points", "line") for point in each.points]
        assert len(marks) == len(drawn)
        if figure.kind == "bars" and len({bar.line for bar in figure.bars}) <= 40:
            assert len([each for each in root.iter("rect") if "bar" in each.get("class", "")]) == len(figure.bars)
        assert root.get("aria-label")
        assert not any(each.get("style") for each in root.iter())


def test_script_and_python_draw_the_same_parts() -> None:
    code = script()
    (names,) = re.findall(r"const PARTS = \[(.*?)\]", code)
    assert tuple(json.loads(f"[{names}]")) == tuple(PART_COLOURS)
    (hatched,) = re.findall(r"\[([^\]]*)\]\.includes\(bar\.provenance\)", code)
    assert tuple(json.loads(f"[{hatched}]")) == HATCHED
    css = resource("report.css") + method_colours(())
    assert all(f".p-{part}" in css for part in PART_COLOURS)


def test_the_table_of_the_script_stays_small() -> None:
    lines = (Path(__file__).parents[3] / "attnbench/report/html/script/2-table.js").read_text().splitlines()
    assert len([line for line in lines if line.strip() and not line.strip().startswith("//")]) <= 130


def test_tables_and_figures_of_other_kinds_are_shown_as_they_are() -> None:
    column = Column("speed-up", "B over A")
    figure = Figure(
        "ratios", "comparison", "xy", "A against B", "", "", Axis("cell"), Axis("ratio"),
        series=(Series("sta", (Point(1, 1.5),), "sta"),),
    )  # fmt: skip
    tables = (Table("comparison", "Every cell", (column,), ((1.25,), (None,))),)
    data = PageData(1, "A against B", ("GPU",), ("a", "b"), (), (), tables, (figure,))
    page = Page(page_html(data))
    words = " ".join(page.words.split())
    assert "Every cell" in words
    assert "speed-up 1.25 –" in words
    assert [attributes["id"] for attributes in page.all("section")] == ["comparison"]


def test_the_page_says_why_no_clip_can_be_played() -> None:
    made = make_report(read(CLIPS))
    words = Page(made.html).words
    told = "The clips cannot be played here: for 60 clips of methods the runs wrote no players."
    assert f"{told} attnbench clips writes them beside the journal, unless it is given --players 0." in words
    assert "<video" not in made.html


def test_the_words_of_the_page_have_every_badge_and_columns_differ(page: Page) -> None:
    for flag in FLAG_WORDS:
        assert f"{flag.badge} : {flag.meaning}." in page.words, flag.name
    assert len(set(COLUMNS)) == len(COLUMNS)
