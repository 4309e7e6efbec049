"""Tables for narrow terminals: whole columns are left out, the least needed first, and none is cut."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Fitted:
    """A table that shows as many columns as fit, and below it the names of those left out.

    Attributes:
        table: with all columns.
        least_needed: headings of columns that may be left out, in that order; a line break counts as a space.
    """

    table: Table
    least_needed: tuple[str, ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table, left_out = fit(self.table, self.least_needed, console, options)
        yield table
        if left_out:
            yield Text(left_out_words(left_out))

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self.table)


def fit(
    table: Table, least_needed: tuple[str, ...], console: Console, options: ConsoleOptions
) -> tuple[Table, list[str]]:
    """Return a table with as many columns as fit, and the headings that were left out; see ``Fitted``."""
    left_out: list[str] = []
    kept = table
    for name in least_needed:
        if Measurement.get(console, options.update(width=10_000), kept).maximum <= options.max_width:
            break
        if any(_heading(column.header) == name for column in kept.columns):
            left_out.append(name)
            kept = _without(kept, name)
    return kept, left_out


def left_out_words(names: list[str]) -> str:
    """Return the line that names the columns left out."""
    return f"left out because the terminal is too narrow: {', '.join(names)}"


def _without(table: Table, name: str) -> Table:
    smaller = copy.copy(table)
    columns = [column for column in table.columns if _heading(column.header) != name]
    smaller.columns = [dataclasses.replace(column, _index=index) for index, column in enumerate(columns)]
    return smaller


def _heading(header: object) -> str:
    return str(header).replace("\n", " ")
