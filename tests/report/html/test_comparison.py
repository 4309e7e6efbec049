"""The page of two runs beside each other, as a reader sees it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from attnbench.report.formats.write import Asked, write_comparison
from attnbench.report.marks import mark_of
from attnbench.report.source import Source
from attnbench.results.compare import compare_tables
from tests.report.two_runs import source, two_runs


class _Texts(HTMLParser):
    """The text of each row of the table of cells, and of headings."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.headings: dict[str, str] = {}
        self.at = ""
        self.svg = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.at = "cell"
        elif tag == "h2":
            self.at = found.get("id") or ""
            self.headings[self.at] = ""
        elif tag == "svg" and self.at == "cell":
            self.rows[-1][-1] += found.get("aria-label") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "h2"):
            self.at = ""

    def handle_data(self, data: str) -> None:
        if self.at == "cell":
            self.rows[-1][-1] += f" {data.strip()}"
        elif self.at:
            self.headings[self.at] += data


def page_of(a: Source, b: Source, folder: Path) -> tuple[str, _Texts]:
    (path,) = write_comparison(a, b, folder / "page.html", Asked()).paths
    text = path.read_text("utf-8")
    read = _Texts()
    read.feed(text)
    return text, read


def test_each_cell_has_its_verdict_speedups_with_intervals_and_the_reason(tmp_path: Path) -> None:
    a, b = two_runs()
    judged = compare_tables(a.results, b.results)
    text, page = page_of(a, b, tmp_path)
    rows = page.rows[4:]
    assert len(rows) == len(judged.cells)
    shown = {"slower": "SLOW", "faster": "FAST", "same": "SAME", "unclear": "AMBIGUOUS"}
    for row, cell in zip(rows, judged.cells, strict=True):
        method, verdict, slower, drawn, before, after, _, _, why = (part.strip() for part in row)
        assert method.split()[0] == cell.cell["method"]
        assert verdict == shown.get(cell.change, cell.change)
        if cell.ratio is not None and cell.lo is not None and cell.hi is not None:
            assert float(slower.split("%")[0]) == pytest.approx(100 * (cell.ratio - 1), abs=0.06)
            low, high = (float(end) for end in slower.split("[")[1].rstrip("]").split(","))
            assert (low, high) == pytest.approx((100 * (cell.lo - 1), 100 * (cell.hi - 1)), abs=0.06)
            assert drawn.startswith("B slower by")
        for part, value in ((before, cell.a_speedup), (after, cell.b_speedup)):
            assert part == "–" if value is None else float(part.split("×")[0]) == pytest.approx(value, rel=0.01)
            assert value is None or re.search(r"\[\d+\.\d+, \d+\.\d+\]$", part)
        assert why
    told = {row[0].split()[0]: row[-1].strip() for row in rows}
    assert told["moba"] == "ok in A, incorrect in B: error 0.3"
    assert (told["nabla"], told["sliding-window"]) == ("B does not have it", "A does not have it")
    assert "tile 4×4×4" in rows[2][0] + rows[3][0]
    for word in ("settings_given", "speedup_a", "ratio_lo"):
        assert word not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_methods_have_their_colour_and_the_verdict_names_who_changed(tmp_path: Path) -> None:
    text, page = page_of(*two_runs(), tmp_path)
    assert all(mark_of(method).light in text for method in ("sta", "vmoba", "radial", "moba"))
    said = page.headings["verdict"]
    assert said.startswith("Of 5 cells that both have, 2 are slower in B (sta tile ")
    assert "1 is faster in B (vmoba by 20" in said
    assert said.endswith("Lost or not comparable in B: moba, nabla.")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"grid": "21x45x80"}, "A and B have no cell in common: grid is 21×30×52 in A, 21×45×80 in B."),
        ({"device": "Other CPU"}, "A was measured on Test CPU, B on Other CPU: not the same hardware."),
        ({method: {"threads": 8} for method in ("full", "sta", "vmoba", "moba", "radial", "nabla", "sliding_window")},
         "threads: 2 in A, 8 in B."),
    ],
)  # fmt: skip
def test_where_nothing_compares_one_sentence_says_why(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    _, page = page_of(source("a", 1), source("b", 2, **changed), tmp_path)
    assert page.headings["verdict"] == f"Nothing can be compared: {said}"
    assert ("compared-title" in page.headings) == ("device" not in changed)


def test_the_data_are_in_the_page(tmp_path: Path) -> None:
    a, b = two_runs()
    text, _ = page_of(a, b, tmp_path)
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    (table,) = (each for each in data["tables"] if each["name"] == "comparison")
    names = [column["name"] for column in table["columns"]]
    judged = compare_tables(a.results, b.results)
    for name, take in (("ratio_lo", "lo"), ("speedup_a_lo", "a_speedup_lo"), ("speedup_b_hi", "b_speedup_hi")):
        found = [row[names.index(name)] for row in table["rows"]]
        assert found == [
            None if (value := getattr(cell, take)) is None else pytest.approx(value, rel=1e-6) for cell in judged.cells
        ]


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.5, "The one cell that both have, sta, is slower in B by "),
        (0.5, "The one cell that both have, sta, is faster in B by "),
        (1.0, "B is as fast as A within 10% in the one cell that both have."),
    ],
)
def test_a_single_cell_is_told_by_name_in_every_form(factor: float, said: str, tmp_path: Path) -> None:
    def alone(run: str, seed: int, factor: float) -> Source:
        made = source(run, seed, sta={"factor": factor})
        return replace(made, results=replace(made.results, rows=made.results.rows[1:2]))

    a, b = alone("a", 1, 1.0), alone("b", 2, factor)
    _, page = page_of(a, b, tmp_path)
    assert page.headings["verdict"].startswith(said)
    for form, ending in (("markdown", "md"), ("latex", "tex")):
        (path,) = write_comparison(a, b, tmp_path / f"one.{ending}", Asked(form)).paths
        text = path.read_text("utf-8").replace("\\", "")
        assert said in text
        assert ".. " not in text
