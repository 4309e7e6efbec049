"""A comparison of two latency tables for a terminal of 80 columns, as Markdown, and as JUnit's XML."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from xml.etree import ElementTree

from attnbench.report.comparison_words import (
    BY_SPEED,
    allowed_words,
    grounds,
    names_of,
    reason_words,
    sentences,
    verdict_of,
    why_nothing,
)
from attnbench.report.terminal.fitted import left_out_words
from attnbench.report.words import NONE
from attnbench.results.compare import CellChange, Comparison

WIDTH = 80
_MOST_END = 99
"""The largest end of an interval that is written out."""
_HEAD = ("", "A ×", "B ×", "slower", "95 %", "A ms", "B ms", "verdict")
_LEAST_NEEDED = ("A ms", "B ms", "A ×", "B ×", "95 %", "slower")
_LEAST_NAME = 12
"""Characters of a name below which columns are left out for it."""


def comparison_lines(result: Comparison, width: int = WIDTH) -> list[str]:
    """Return a comparison as lines of at most ``width`` columns: a table, reasons, and what the verdicts rest on."""
    if result.refusal is not None:
        # A path in it stays one that can be copied.
        return textwrap.wrap(f"Not compared: {result.refusal}.", width, break_long_words=False, break_on_hyphens=False)
    names = names_of(result.cells)
    lines = _table(result.cells, names, width) if result.cells else []
    for cell, name in zip(result.cells, names, strict=True):
        said = [*([cell.reason] if cell.change not in BY_SPEED and cell.reason else [])]
        said += [*cell.attributes, *([allowed_words(cell)] if cell.allowed else [])]
        if said:
            lines += textwrap.wrap(f"{name}: {'; '.join(said)}", width, subsequent_indent="  ")
    for sentence in [*grounds(result.cells, names), *sentences(result)]:
        lines += textwrap.wrap(sentence, width, subsequent_indent="  ")
    return lines


def comparison_markdown(result: Comparison) -> list[str]:
    """Return a comparison as Markdown."""
    if result.refusal is not None:
        return [f"Not compared: {result.refusal}."]
    lines = [
        "| cell | speed-up A | speed-up B | B slower by | 95 % | A ms | B ms | verdict | reason |",
        "|---|--:|--:|--:|:-:|--:|--:|---|---|",
    ]
    for cell, name in zip(result.cells, names_of(result.cells), strict=True):
        verdict = f"**{verdict_of(cell)}**" if cell.is_regression else verdict_of(cell)
        parts = [name, *_figures(cell), verdict, reason_words(cell)]
        lines.append("| " + " | ".join(part.replace("|", r"\|").replace("\n", " ") for part in parts) + " |")
    return [*lines, "", *(f"{sentence}  " for sentence in sentences(result))]


SUITE_NAME = "attnbench compare"
"""Of the tests in a JUnit file: what tells that it is one of ours."""


def comparison_junit(result: Comparison, code: int) -> bytes:
    """Return a comparison as JUnit's XML: a test a cell, which fails if it is a regression.

    An ambiguous cell is skipped, or fails where the command fails for it. Where a command fails and no cell does, a
    test "comparable" has the error.

    Args:
        result: of the comparison.
        code: exit code of the command.
    """
    suite = ElementTree.Element("testsuite", name=SUITE_NAME)
    for cell, name in zip(result.cells, names_of(result.cells), strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(str(cell.cell["method"])), name=_clean(name))
        message = _clean(f"{verdict_of(cell)}: {cell.reason}")
        if cell.is_regression or (code == 3 and cell.change == "unclear"):
            ElementTree.SubElement(case, "failure", message=message)
        elif cell.change in ("unclear", "skipped"):
            ElementTree.SubElement(case, "skipped", message=message)
    if code != 0 and suite.find("*/failure") is None:
        case = ElementTree.SubElement(suite, "testcase", classname="attnbench", name="comparable")
        ElementTree.SubElement(case, "error", message=_clean(why_nothing(result)))
    suite.set("tests", str(len(suite)))
    for kind in ("failure", "error"):
        suite.set(f"{kind}s", str(len(suite.findall(f"*/{kind}"))))
    suite.set("skipped", str(len(suite.findall("*/skipped"))))
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def _table(cells: Sequence[CellChange], names: Sequence[str], width: int) -> list[str]:
    """Return the lines of the table; of columns that do not fit, the least needed are left out, and named below it."""
    rows = [[*_figures(cell), verdict_of(cell)] for cell in cells]
    widths = {
        head: max(map(len, (head, *column))) for head, column in zip(_HEAD[1:], zip(*rows, strict=True), strict=True)
    }
    least = min(_LEAST_NAME, max(map(len, names)))
    kept, left_out = list(_HEAD[1:]), []
    for head in _LEAST_NEEDED:
        if least + sum(widths[each] + 2 for each in kept) <= width:
            break
        kept.remove(head)
        left_out.append(head)
    room = max(least, min(max(map(len, names)), width - sum(widths[each] + 2 for each in kept)))

    def line(name: str, row: Sequence[str]) -> str:
        texts = dict(zip(_HEAD[1:], row, strict=True))
        *figures, verdict = (texts[each].rjust(widths[each]) if each != "verdict" else texts[each] for each in kept)
        return "  ".join([name.ljust(room), *figures, verdict]).rstrip()

    lines = [line("", _HEAD[1:])]
    for name, row in zip(names, rows, strict=True):
        first, *rest = textwrap.wrap(name, room) or [""]
        lines += [line(first, row), *(f"  {more}"[:room] for more in rest[:1])]
    return [*lines, *(textwrap.wrap(left_out_words(left_out), width) if left_out else [])]


def _figures(cell: CellChange) -> list[str]:
    """Return the speed-ups, how many times slower B is by them, with its interval, and the latencies."""
    ends = NONE if cell.lo is None or cell.hi is None else f"{_end(cell.lo)}–{_end(cell.hi)}"
    ratio = NONE if cell.ratio is None else f"{cell.ratio:.3f}"
    speedups = [NONE if each is None else f"{each:#.3g}".rstrip(".") for each in (cell.a_speedup, cell.b_speedup)]
    return [*speedups, ratio, ends, _number(cell.a_ms), _number(cell.b_ms)]


def _end(value: float) -> str:
    return f"{value:.2f}" if value <= _MOST_END else f"{_MOST_END}+"


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _clean(text: str) -> str:
    """Return text without what XML cannot hold."""
    return "".join(each if each.isprintable() else "?" for each in text)
