"""Verdicts on premises for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.report.premise_words import premise_words
from attnbench.results.records.analysis import PremiseRow

if TYPE_CHECKING:
    from attnbench.report.terminal.fitted import Fitted


def premise_table(rows: Sequence[PremiseRow]) -> Fitted:
    """Return a line for each premise. Narrow terminals lose the columns on the right first."""
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.fitted import Fitted

    words = premise_words(rows)
    table = Table(header_style="bold", pad_edge=False, box=None)
    for place, name in enumerate(words.header):
        table.add_column(name, justify="right" if place in words.right else "left", overflow="fold")
    for line in words.rows:
        table.add_row(*map(Text, line))
    return Fitted(table, ("what was computed", "does not", "holds", "95 % interval"))
