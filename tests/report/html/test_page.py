from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from attnbench.kernels.errors import BadInput
from attnbench.report.html.page import make_report
from attnbench.results.layers import mean_rows
from attnbench.results.load import Results

Maker = Callable[..., Any]

HOSTILE = """<script>alert("x")</script><img src=x onerror='alert(1)'>&amp;{{ 7 * 7 }}"""


class Page(HTMLParser):
    """Every tag with its attributes, and the text of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.style = tag == "style"

    def handle_data(self, data: str) -> None:
        self.words += "" if self.style else data + " "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def quick_masks() -> Iterator[None]:
    """Leave the mask pictures out: they have their own test, and take a second each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("attnbench.report.html.page.mask_pictures", lambda methods: [])
        yield


@pytest.fixture
def page(table: Results, quick_masks: None) -> Page:
    return Page(make_report(table).html)


def test_every_row_is_in_the_table_with_its_verdict(page: Page, table: Results) -> None:
    rows = [attributes["data-row"] for attributes in page.all("tr") if "data-row" in attributes]
    (mean,) = (mean.row_id for mean in mean_rows(table) if mean.method == "vmoba")
    assert sorted(rows) == sorted([mean, *(row.row_id for row in table.rows)])
    assert "unsupported" in page.words
    assert "flash4 needs a GPU" in page.words


def test_the_figures_of_a_row_are_on_the_page(page: Page) -> None:
    for figure in ("34.5", "[33.8, 35.5] 95 %", "2.90×", "0.190", "1.3e-07", "0.310", "0.870", "12.5"):
        assert figure in page.words


def test_the_header_says_what_was_measured(page: Page) -> None:
    for fact in (
        "Test CPU", "2026-01-02 03:04 UTC", "21×30×52 = 32,760 video tokens", "bfloat16", "forward", "video, seed 0",
        "full/sdpa (torch 2.11.0), 100 ms",
    ):  # fmt: skip
        assert fact in page.words
    assert "At 480p on Test CPU, sta (reference) is 2.90×" in page.words


def test_nothing_is_loaded_from_outside(page: Page) -> None:
    links = [
        attributes[name]
        for _, attributes in page.tags
        for name in ("src", "href", "srcset", "action")
        if name in attributes
    ]
    assert links
    assert all(link is not None and link.startswith(("data:", "#")) for link in links)
    assert "url(" not in str(page.tags)
    policy = next(tag["content"] for tag in page.all("meta") if tag.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "script" not in policy
    assert not page.all("script")


def test_every_picture_is_told_in_words(page: Page) -> None:
    assert len(page.all("img")) == 2
    assert all(len(attributes["alt"] or "") > 20 for attributes in page.all("img"))


def test_hostile_text_stays_text(row_of: Maker, table_of: Maker, environment_of: Maker, quick_masks: None) -> None:
    rows = [
        row_of("sta", inputs=HOSTILE, device=HOSTILE, settings={"a": HOSTILE}),
        row_of("<u>", inputs=HOSTILE, device=HOSTILE, verdict="error", reason=HOSTILE, engine_version=HOSTILE),
    ]
    html = make_report(table_of(rows, **{rows[0].run_id: environment_of(command=[HOSTILE], driver=HOSTILE)})).html
    page = Page(html)
    assert not page.all("script")
    assert not page.all("u")
    assert all(attributes["src"].startswith("data:") for attributes in page.all("img") if attributes["src"])
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert page.words.count('<script>alert("x")</script>') >= 4
    assert "{{ 7 * 7 }}" in page.words


def test_several_runs_get_a_section_each_and_their_own_environment(
    row_of: Maker, table_of: Maker, environment_of: Maker, quick_masks: None
) -> None:
    rows = [row_of(run_id="one"), row_of(run_id="two", device="Other GPU", grid="9x30x52", tokens=14040)]
    page = Page(make_report(table_of(rows, two=environment_of(device="Other GPU", driver="570.1"))).html)
    sections = [attributes["id"] for attributes in page.all("section") if "id" in attributes]
    assert sections == ["case-1", "case-2"]
    assert {"#case-1", "#case-2"} <= {attributes["href"] for attributes in page.all("a")}
    assert "570.1" in page.words
    assert "9×30×52" in page.words


def test_a_run_without_a_single_latency_still_makes_a_page(row_of: Maker, table_of: Maker, quick_masks: None) -> None:
    page = Page(make_report(table_of([row_of("moba", verdict="oom", density=None, reason="needs 90 GiB")])).html)
    assert "needs 90 GiB" in page.words
    assert not page.all("img")


def test_columns_that_no_row_fills_are_left_out(row_of: Maker, table_of: Maker, quick_masks: None) -> None:
    without = row_of(latency_warm_ms=None, host_ms=None)
    for row, shown in ((without, False), (without.model_copy(update={"host_ms": 0.5}), True)):
        text = make_report(table_of([row])).html
        assert ("enqueued in, ms" in text) == shown
        assert "warm, ms" not in text
        assert "samples" in text


def test_an_environment_that_is_not_recorded_is_said_so(row_of: Maker, table_of: Maker, quick_masks: None) -> None:
    table = replace(table_of([row_of()]), headers=())
    assert "not recorded" in Page(make_report(table).html).words


def test_an_empty_table_is_bad_input(table_of: Maker) -> None:
    with pytest.raises(BadInput, match="no rows"):
        make_report(table_of([]))


def test_the_contents_tell_runs_apart_by_what_was_measured(row_of: Maker, table_of: Maker, quick_masks: None) -> None:
    rows = [
        row_of("full", engine="flash4", density=1.0, run_id="a"), row_of("vmoba", engine="two-call", run_id="a"),
        row_of("moba", engine="two-call", run_id="a"), row_of("sta", engine="triton", run_id="a"),
        row_of("full", engine="unfused", density=1.0, run_id="b"),
    ]  # fmt: skip
    page = Page(make_report(table_of(rows)).html)
    words = " ".join(page.words.split())
    assert "– run a vmoba and moba on two-call, sta on triton" in words
    assert "– run b full on unfused" in words


def test_figures_are_written_by_one_macro(table: Results, quick_masks: None) -> None:
    html = make_report(table).html
    assert html.count("<figure>") == html.count("<figcaption>") == html.count('<div class="pane"><img ') == 2
