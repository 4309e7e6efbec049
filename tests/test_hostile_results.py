"""Hostile journals through everything that reads them: no traceback, no hang, no half file, one sentence."""

from __future__ import annotations

import contextlib
import io
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

import attnbench
from attnbench.cli import main
from attnbench.report.html import page
from attnbench.report.terminal.console import console
from attnbench.report.terminal.phases import phase_tables
from attnbench.report.terminal.summary import summary_table
from attnbench.results.load import load_steps, read

pytestmark = pytest.mark.filterwarnings("ignore")

SECONDS = 60
"""For one reader and one journal of some 20 lines: far above what any takes."""
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800-\udfff]")
READERS: tuple[Callable[[Path], Any], ...] = (
    attnbench.load_results, attnbench.load_phases, attnbench.load_quality, attnbench.load_analysis, load_steps,
)  # fmt: skip


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Fail after SECONDS."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{what} took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def call(*words: object) -> tuple[int, str, str]:
    """Run a command; return its exit code, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setattr(sys, "argv", ["attnbench", *map(str, words)])
        with limited(" ".join(map(str, words))), pytest.raises(SystemExit) as exit_:
            main()
    code = exit_.value.code
    assert isinstance(code, int)
    return code, out.getvalue(), err.getvalue()


def check(words: list[object], what: str) -> int:
    """Run a command and check that it either does its work, or says in a sentence why it cannot."""
    code, out, err = call(*words)
    assert code in (0, 1, 2, 3, 4), (what, code)
    assert not STEERING.search(out + err), (what, words)
    assert "Traceback" not in err, (what, err)
    if code == 2:
        assert out == "", (what, out)
        said = [line for line in err.splitlines() if line.startswith("attnbench: ")]
        assert said, (what, err)
        assert len(said[-1]) < 2000, (what, said)
    return code


def try_all(seed: int, folder: Path, hostile: ModuleType, report: bool) -> None:
    what = f"seed {seed}: {hostile.write_hostile(folder / 'b', seed)}"
    for reader in READERS:
        with limited(what), contextlib.suppress(attnbench.AttnbenchError):
            reader(folder / "b")
    with contextlib.suppress(attnbench.AttnbenchError), contextlib.redirect_stdout(io.StringIO()) as shown:
        found = read(folder / "b")
        console(120).print(summary_table(found.rows))
        console(80).print(phase_tables(found.rows, found.phases))
        assert not STEERING.search(shown.getvalue()), what
    check(["compare", folder.parent / "a", folder / "b"], what)
    check(["compare", folder / "b", folder.parent / "a", "--json"], what)
    if report:
        written = folder / "page.html"
        code = check(["report", folder / "b", "--out", written], what)
        assert written.exists() == (code == 0), what
        if code == 0:
            text = written.read_text(encoding="utf-8")
            assert text.rstrip().endswith("</html>"), what
            assert not any("alert" in found or found.endswith(" x") for found in doing_in(text)), what
            written.unlink()
    assert [path.name for path in folder.rglob("*.part")] == []


@pytest.fixture
def sound(tmp_path: Path, hostile: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a sound journal in its folder a; pages come without pictures of masks, which take long."""
    monkeypatch.setattr(page, "mask_pictures", lambda methods: [])
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "journal.jsonl").write_bytes(hostile._text(hostile.journal("sound", random.Random(1))))
    return tmp_path


def test_a_sound_journal_is_read_by_all(sound: Path) -> None:
    assert len(attnbench.load_results(sound / "a")) == 3
    assert len(attnbench.load_quality(sound / "a")) == 2
    assert call("report", sound / "a", "--out", sound / "page.html")[0] == 0
    assert call("compare", sound / "a", sound / "a")[0] in (0, 3)


class _Doing(HTMLParser):
    """Collects whatever in a page does something: scripts, handlers of events, addresses that are not in the page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or (name in ("src", "href") and not (value or "").startswith(("data:", "#"))):
                self.found.append(f"{tag} {name} {value}")
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form"):
            self.found.append(tag)


def doing_in(page: str) -> list[str]:
    """Return what in a page does something."""
    parser = _Doing()
    parser.feed(page)
    return sorted(set(parser.found))


def show_as_text(text: str, folder: Path, hostile: ModuleType) -> None:
    """Put a text wherever a run has some, and look for it, and for nothing that it could do, in the page."""
    lines = hostile.journal("mutated", random.Random(2))
    for fields in lines:
        for name in ("method", "device", "inputs", "engine", "baseline", "prompt", "model", "settings_given"):
            if isinstance(fields.get(name), str) and not (name == "method" and fields["method"] == "full"):
                fields[name] = text
        if fields["kind"] == "run":
            fields["environment"] |= {"device": text, "platform": text, "command": [text]}
    (folder / "b").mkdir(parents=True)
    (folder / "b" / "journal.jsonl").write_bytes(hostile._text(hostile._renamed(lines)))
    assert check(["report", folder / "b", "--out", folder / "page.html"], text) == 0
    page = (folder / "page.html").read_text(encoding="utf-8")
    check(["report", folder.parent / "a", "--out", folder / "sound.html"], text)
    assert doing_in(page) == doing_in((folder / "sound.html").read_text(encoding="utf-8")), text
    words = " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).split())
    assert " ".join(text[:40].split()) in words, text


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "$\\frac{",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("{{ 7 * 7 }}", "\x1b]0;title\x07", "</style>")),
    ],
)
def test_a_report_of_hostile_strings_shows_them_as_text(text: str, sound: Path, hostile: ModuleType) -> None:
    show_as_text(text, sound / "hostile", hostile)


@pytest.mark.slow
def test_reports_of_all_hostile_strings_show_them_as_text(sound: Path, hostile: ModuleType) -> None:
    for number, text in enumerate(hostile.STRINGS):
        show_as_text(text, sound / str(number), hostile)


@pytest.mark.parametrize("seed", range(21))
def test_hostile_journals(seed: int, sound: Path, hostile: ModuleType) -> None:
    try_all(seed, sound / str(seed), hostile, report=seed % 3 == 0)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 1600, 50))
def test_six_hundred_hostile_journals(first: int, sound: Path, hostile: ModuleType) -> None:
    for seed in range(first, first + 50):
        try_all(seed, sound / str(seed), hostile, report=seed % 3 == 0)
