"""A table whose cells are words, for a terminal, a document and a page alike."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WordTable:
    """A table of words.

    Attributes:
        header: the name of each column.
        rows: the cells of each row; one beginning with "*" is emphasised, as in Markdown.
        right: the columns, by number, that are aligned to the right.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()

    def markdown(self) -> list[str]:
        """Return the lines of the table in Markdown."""
        rule = ("---:" if column in self.right else "---" for column in range(len(self.header)))
        return [f"| {' | '.join(cells)} |" for cells in (self.header, tuple(rule), *self.rows)]

    def plain(self) -> dict[str, list[str] | list[list[str]]]:
        """Return header and rows as plain lists."""
        return {"header": list(self.header), "rows": [list(row) for row in self.rows]}
