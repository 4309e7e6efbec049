"""A comparison of two latency tables in words: for a terminal of 80 columns, as Markdown, and as JUnit's XML."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from xml.etree import ElementTree

from attnbench.report.words import NONE, differing_settings
from attnbench.results.compare import REGRESSIONS, CellChange, Comparison

WIDTH = 80
VERDICTS = {"slower": "SLOW", "faster": "FAST", "same": "SAME", "unclear": "AMBIGUOUS"}
_BY_SPEED = ("slower", "faster", "same")
_FACTS = ("layers", "step", "grid", "text_tokens", "batch", "heads", "kv_heads", "head_dim", "dtype", "direction")
_MORE = ("inputs", "seed", "density_asked", "engine_asked")
_MOST_END = 99
"""The largest end of an interval that is written out."""
_HEAD = ("", "A ×", "B ×", "slower", "95 %", "A ms", "B ms", "verdict")


def names_of(cells: Sequence[CellChange]) -> list[str]:
    """Return a short name of each cell, by what tells it from the others."""
    varying = [name for name in (*_FACTS, *_MORE) if name != "layers" and _count(cells, name) > 1]
    names = []
    for cell in cells:
        same = [other.cell["settings_given"] or "{}" for other in cells if other.cell["method"] == cell.cell["method"]]
        settings = differing_settings(cell.cell["settings_given"] or "{}", same)
        facts = [_text(cell.cell[name]) for name in varying]
        names.append(" ".join(filter(None, [str(cell.cell["method"]), settings, *facts])))
    return names


def comparison_lines(result: Comparison, width: int = WIDTH) -> list[str]:
    """Return a comparison as lines of at most ``width`` columns: a table, reasons, and what the verdicts rest on."""
    if result.refusal is not None:
        return textwrap.wrap(f"Not compared: {result.refusal}.", width)
    names = names_of(result.cells)
    lines = _table(result.cells, names, width) if result.cells else []
    for cell, name in zip(result.cells, names, strict=True):
        said = [*([cell.reason] if cell.change not in _BY_SPEED and cell.reason else [])]
        said += [*cell.attributes, *([_allowed(cell)] if cell.allowed else [])]
        if said:
            lines += textwrap.wrap(f"{name}: {'; '.join(said)}", width, subsequent_indent="  ")
    for sentence in [*_grounds(result.cells, names), *_sentences(result)]:
        lines += textwrap.wrap(sentence, width, subsequent_indent="  ")
    return lines


def _grounds(cells: Sequence[CellChange], names: Sequence[str]) -> list[str]:
    """Say what the verdicts by speed rest on: a sentence for all cells of a verdict that have the same reason."""
    found: dict[tuple[str, str], list[str]] = {}
    for cell, name in zip(cells, names, strict=True):
        if cell.change in _BY_SPEED:
            found.setdefault((cell.change, cell.reason), []).append(name)
    several = Counter(change for change, _ in found)
    lines = []
    for (change, reason), mine in found.items():
        who = f" ({', '.join(mine)})" if several[change] > 1 else ""
        lines.append(f"{VERDICTS[change]}{who}: {reason}")
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
        reason = "; ".join(filter(None, [cell.reason, *cell.attributes, _allowed(cell) if cell.allowed else ""]))
        parts = [name, *_figures(cell), f"**{verdict_of(cell)}**" if cell.is_regression else verdict_of(cell), reason]
        lines.append("| " + " | ".join(part.replace("|", r"\|").replace("\n", " ") for part in parts) + " |")
    return [*lines, "", *(f"{sentence}  " for sentence in _sentences(result))]


def comparison_junit(result: Comparison) -> bytes:
    """Return a comparison as JUnit's XML: a test a cell, which fails if it is a regression, skipped if unclear."""
    suite = ElementTree.Element("testsuite", name="attnbench compare", tests=str(len(result.cells)))
    suite.set("failures", str(sum(cell.is_regression for cell in result.cells)))
    suite.set("skipped", str(sum(cell.change in ("unclear", "skipped") for cell in result.cells)))
    for cell, name in zip(result.cells, names_of(result.cells), strict=True):
        case = ElementTree.SubElement(suite, "testcase", classname=_clean(str(cell.cell["method"])), name=_clean(name))
        message = _clean(f"{verdict_of(cell)}: {cell.reason}")
        if cell.is_regression:
            ElementTree.SubElement(case, "failure", message=message)
        elif cell.change in ("unclear", "skipped"):
            ElementTree.SubElement(case, "skipped", message=message)
    if result.refusal is not None or not result.cells:
        case = ElementTree.SubElement(suite, "testcase", classname="attnbench", name="comparable")
        ElementTree.SubElement(case, "error", message=_clean(result.refusal or "no cells"))
        suite.set("errors", "1")
    return bytes(ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))


def verdict_of(cell: CellChange) -> str:
    """Return the verdict as it is shown."""
    return VERDICTS.get(cell.change, cell.change)


def _allowed(cell: CellChange) -> str:
    if cell.change in ("only in A", "not comparable"):
        return "allowed to be missing"
    return "accepted" if cell.change in REGRESSIONS else "allowed to run on another engine"


def _table(cells: Sequence[CellChange], names: Sequence[str], width: int) -> list[str]:
    rows = [[*_figures(cell), verdict_of(cell)] for cell in cells]
    widths = [max(len(row[place]) for row in [list(_HEAD[1:]), *rows]) for place in range(len(_HEAD) - 1)]
    room = max(12, min(max(map(len, names)), width - sum(widths) - 2 * len(widths)))

    def line(name: str, row: Sequence[str]) -> str:
        figures = [text.rjust(size) for text, size in zip(row[:-1], widths[:-1], strict=True)]
        return "  ".join([name.ljust(room), *figures, row[-1]]).rstrip()

    lines = [line("", _HEAD[1:])]
    for name, row in zip(names, rows, strict=True):
        first, *rest = textwrap.wrap(name, room) or [""]
        lines += [line(first, row), *(f"  {more}"[:room] for more in rest[:1])]
    return lines


def _figures(cell: CellChange) -> list[str]:
    """Return the speed-ups, how many times slower B is by them, with its interval, and the latencies."""
    ends = NONE if cell.lo is None or cell.hi is None else f"{_end(cell.lo)}–{_end(cell.hi)}"
    ratio = NONE if cell.ratio is None else f"{cell.ratio:.3f}"
    speedups = [NONE if each is None else f"{each:#.3g}".rstrip(".") for each in (cell.a_speedup, cell.b_speedup)]
    return [*speedups, ratio, ends, _number(cell.a_ms), _number(cell.b_ms)]


def _end(value: float) -> str:
    return f"{value:.2f}" if value <= _MOST_END else f"{_MOST_END}+"


def _sentences(result: Comparison) -> list[str]:
    counts = ", ".join(f"{count} {VERDICTS.get(change, change)}" for change, count in result.counts.items())
    found = [f"{counts or 'no cells'}; threshold {result.threshold:.1%}, margin {result.margin:.0%}"]
    if result.geometric_mean is not None:
        found.append(f"geometric mean of B / A: {result.geometric_mean:.3f} (above 1 is slower)")
        latency = [name for name, cell in zip(names_of(result.cells), result.cells, strict=True) if _by_latency(cell)]
        by = f"; by latency alone: {', '.join(latency)}" if latency else ""
        found.append(f"judged by the speed-up over the dense baseline of the same rounds{by}")
        found.append(f"noise: {result.noise}")
    if result.exit_code == 4:
        found.append("Not compared: the two tables have no comparable cell.")
    return [*found, *(f"differs  {change}" for change in result.environment_changes)]


def _by_latency(cell: CellChange) -> bool:
    return cell.judged_by == "latency"


def _count(cells: Sequence[CellChange], name: str) -> int:
    return len({_text(cell.cell[name]) for cell in cells})


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.4g}" if value < 1e4 else f"{value:.0f}"


def _clean(text: str) -> str:
    """Return text without what XML cannot hold."""
    return "".join(each if each.isprintable() else "?" for each in text)
