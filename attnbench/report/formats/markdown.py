"""A report as Markdown, as for a pull request: the same verdicts and ranked tables as on the page."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attnbench.report.data.page import Chosen, PageData
from attnbench.report.formats.ranking import badge_words, clips, comparison, ranking, runs, selection_words, steps
from attnbench.report.word_table import WordTable

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def markdown_text(data: PageData, tables: Sequence[WordTable] = (), lead: Sequence[str] = ()) -> str:
    """Return a report as Markdown.

    Args:
        data: of the report.
        tables: of its training runs, in words.
        lead: sentences below the title.
    """
    lines = [f"# {_plain(data.title)}", ""]
    lines += [*(f"- {_plain(each)}" for each in lead), ""] if lead else []
    if (table := comparison(data)) is not None:
        lines += [*_table(table), ""]
    for each in data.selections:
        lines += [*_selection(data, each), ""]
    for title, table in (("Clips", clips(data)), ("Whole steps", steps(data))):
        lines += [f"## {title}", "", *_table(table), ""] if table is not None else []
    if tables:
        lines += ["## Training", ""]
        for table in tables:
            lines += [*_table(table), ""]
    if (table := runs(data)) is not None:
        lines += ["## Runs", "", *_table(table), ""]
    return "\n".join(lines)


def _selection(data: PageData, chosen: Chosen) -> list[str]:
    told = [
        *chosen.caveats,
        *chosen.remarks,
        chosen.density,
        chosen.quality,
        chosen.errors,
        chosen.trust,
        badge_words(data, chosen.place),
    ]
    return [
        f"## {_plain(selection_words(chosen))}", "", f"**{_plain(chosen.sentence)}**", "",
        *_table(ranking(data, chosen.place)), "", f"Dense baseline: {_plain(chosen.baselines)} "
        + _plain(" ".join(filter(None, told))),
    ]  # fmt: skip


def _table(table: WordTable) -> list[str]:
    rows = tuple(tuple(map(_plain, row)) for row in table.rows)
    return WordTable(tuple(map(_plain, table.header)), rows, table.right).markdown()


def _plain(text: str) -> str:
    """Return text so that Markdown shows it as text, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
