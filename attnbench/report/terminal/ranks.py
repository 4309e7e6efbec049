"""What attention over several ranks gains: a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attnbench.report.judge import device_words
from attnbench.report.words import number, times, tiny
from attnbench.results.records.cells import Row

if TYPE_CHECKING:
    from rich.table import Table


def ranks_table(rows: Sequence[Row]) -> Table:
    """Return the rows of several ranks as a rich Table: one process, the ideal, and what was measured."""
    from rich.table import Table

    shown = [row for row in rows if row.gpus is not None]
    table = Table(title=device_words(shown[0]), title_justify="left", box=None, padding=(0, 2, 0, 0))
    for heading in ("method", "layer"):
        table.add_column(heading)
    for heading in (
        "one process, ms", "ideal, ms", "measured, ms", "gain", "of ideal", "imbalance", "exchange, ms", "sent, MiB",
        "error", *(["balance"] if (balanced := any(row.balance_gain is not None for row in shown)) else []),
    ):  # fmt: skip
        table.add_column(heading, justify="right")
    for row in shown:
        if row.latency_ms is None or row.one_ms is None or row.ideal_ms is None:
            table.add_row(row.method, str(row.layer), row.verdict)
            continue
        table.add_row(
            row.method, str(row.layer), number(row.one_ms), number(row.ideal_ms), number(row.latency_ms),
            times(row.one_ms / row.latency_ms), f"{row.ideal_ms / row.latency_ms:.0%}",
            "" if row.imbalance is None else times(row.imbalance),
            "" if row.exchange_ms is None else number(row.exchange_ms),
            "" if row.sent_mib is None else number(row.sent_mib),
            "" if row.parallel_error is None else tiny(row.parallel_error),
            *(["" if row.balance_gain is None else times(row.balance_gain)] if balanced else []),
        )  # fmt: skip
    return table
