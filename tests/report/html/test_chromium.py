"""The page in a real browser: a silent console, every picture, every row, and nothing cut off on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path

import pytest

from attnbench.report.html.page import make_report
from attnbench.results.load import Results

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium, chromium-browser or google-chrome on this machine"
)

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=4000",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
]

# Runs in the copy only; the report itself has no script.
PROBE = """<script>
addEventListener("load", () => {
  const seen = {
    pictures: [...document.images].map((image) => image.complete && image.naturalWidth > 1),
    rows: document.querySelectorAll("table.summary tbody tr").length,
    cells: [...document.querySelectorAll("table.summary tbody tr")].map((row) => row.innerText),
    width: document.documentElement.scrollWidth,
    window: window.innerWidth,
    styled: getComputedStyle(document.querySelector("section") || document.body).borderTopStyle,
  };
  const note = document.createElement("pre");
  note.id = "probe";
  note.textContent = JSON.stringify(seen);
  top.document.body.append(note);
});
</script>"""


@dataclass(frozen=True)
class Seen:
    """What the browser made of a page."""

    console: list[str]
    pictures: list[bool]
    rows: int
    cells: list[str]
    width: int
    window: int
    styled: str

    @property
    def problems(self) -> list[str]:
        """Console messages and pictures that did not load."""
        return self.console + [
            f"picture {place} did not load" for place, loaded in enumerate(self.pictures) if not loaded
        ]


def look(html: str, folder: Path, width: int = 1280) -> Seen:
    """Open a copy of ``html``, with a probe in it, in a frame of ``width`` pixels: a window has at least 500."""
    assert BROWSER is not None
    copy = html.replace("style-src 'unsafe-inline'", "style-src 'unsafe-inline'; script-src 'unsafe-inline'")
    assert copy != html, "the page has no policy to adapt"
    inner = escape(copy.replace("</body>", PROBE + "</body>"))
    page = folder / "page.html"
    frame = f'<iframe width="{width}" height="900" srcdoc="{inner}"></iframe>'
    page.write_text(f'<!doctype html><meta charset="utf-8"><body>{frame}</body>', encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the browser showed no page: {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(console=console, **json.loads(unescape(found[1])))


@pytest.fixture(scope="module")
def html(table: Results) -> str:
    return make_report(table).html


def test_the_report_opens_without_a_complaint(html: str, table: Results, tmp_path: Path) -> None:
    seen = look(html, tmp_path)
    assert seen.problems == []
    assert len(seen.pictures) == 2 + 6  # two charts; full, sta, moba and three layers of vmoba
    assert seen.rows == len(table.rows) + 1, "and the mean of vmoba"
    for method in {row.method for row in table.rows}:
        assert any(text.startswith(method) for text in seen.cells)
    assert any("flash4 needs a GPU" in text for text in seen.cells)
    assert seen.styled == "solid"
    assert seen.width <= seen.window


def test_on_a_phone_only_boxes_scroll_sideways(html: str, tmp_path: Path) -> None:
    seen = look(html, tmp_path, width=390)
    assert seen.window == 390
    assert seen.problems == []
    assert seen.width <= seen.window


@pytest.fixture(scope="module")
def empty_page(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page without its contents, about which the checker complains of nothing."""
    page = re.sub(r"<main>.*</main>", "<main></main>", html, flags=re.DOTALL)
    assert look(page, tmp_path_factory.mktemp("empty")).problems == []
    return page


@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("<script>console.error('boom')</script>", "boom"),
        ("<script>nothing.here()</script>", "nothing is not defined"),
        ('<img src="data:image/png;base64,AAAA" alt="">', "picture"),
        ('<img src="https://example.invalid/a.png" alt="">', "Content Security Policy"),
    ],
)
def test_the_checker_sees_what_is_broken(empty_page: str, tmp_path: Path, broken: str, complaint: str) -> None:
    seen = look(empty_page.replace("</main>", broken + "</main>"), tmp_path)
    assert any(complaint in problem for problem in seen.problems)


def test_the_checker_sees_a_page_that_is_too_wide(html: str, tmp_path: Path) -> None:
    seen = look(html.replace("</main>", '<div style="width: 2000px">wide</div></main>'), tmp_path)
    assert seen.width > seen.window
