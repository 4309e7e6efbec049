"""A table as data: its columns with their meaning, and its rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Value = str | int | float | bool | None
Record = Mapping[str, Value]


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: as in files, with the unit in it where it has one: latency_ms.
        meaning: what it says, in a few words.
        unit: of its values; empty for plain numbers and texts.
    """

    name: str
    meaning: str
    unit: str = ""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: a word for links and files.
        title: its heading.
        columns: in order.
        rows: a value a column each; None where there is none.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]

    def records(self) -> Iterator[dict[str, Value]]:
        """Yield each row by the names of the columns."""
        names = [column.name for column in self.columns]
        return (dict(zip(names, row, strict=True)) for row in self.rows)


def csv_text(table: Table) -> str:
    """Return a table as CSV (RFC 4180) with a line of names; what is missing is empty.

    Text that a spreadsheet would take for a formula gets a quotation mark in front.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([column.name for column in table.columns])
    writer.writerows([[_cell(value) for value in row] for row in table.rows])
    return buffer.getvalue()


def _cell(value: Value) -> Value:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
