"""Phases in the terminal: a table for each cell."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from attnbench.report.cases import parts_below
from attnbench.report.words import NONE, decimals_of, number
from attnbench.results.records.cells import PhaseRow, Row

if TYPE_CHECKING:
    from rich.table import Table

    from attnbench.report.terminal.fitted import Fitted

_PASSES = {"fwd": "forward", "bwd": "backward"}


def phase_tables(rows: Iterable[Row], phases: Sequence[PhaseRow]) -> Table:
    """Return a table of phases for every cell that has some, titled with its method, layer, engine and latency."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 0, 1, 0))
    for row in rows:
        own = parts_below([phase for phase in phases if phase.row_id == row.row_id])
        if own:
            inner = Table.grid()
            inner.add_row(Text(_heading(row), style="bold"))
            inner.add_row(_cell_table(own))
            for complaint in dict.fromkeys(phase.complaint for phase in own if phase.complaint):
                inner.add_row(Text(f"not to be trusted: {complaint}", style="yellow"))
            grid.add_row(inner)
    return grid


def shares(phases: Sequence[PhaseRow]) -> list[float | None]:
    """Return the share of each phase in the measured time of its cell; None for other provenances."""
    whole = sum(p.time_ms for p in phases if p.parent is None and p.provenance == "measured")
    return [p.time_ms / whole if p.provenance == "measured" and whole > 0 else None for p in phases]


def _cell_table(phases: Sequence[PhaseRow]) -> Fitted:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from attnbench.report.terminal.fitted import Fitted

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    several = len({phase.pass_ for phase in phases}) > 1
    for name in (["pass"] if several else []) + ["phase"]:
        table.add_column(name)
    for name in ("ms", "from", "to", "share", "kernels", "peak MiB", "TFLOP/s", "MFU", "TB/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("provenance", no_wrap=True)
    for phase, share in zip(phases, shares(phases), strict=True):
        decimals = decimals_of(phase.time_ms, phase.time_lo_ms, phase.time_hi_ms)
        name = phase.phase if phase.parent is None else f"  of {phase.parent}: {phase.phase}"
        cells = [
            *([_PASSES[phase.pass_]] if several else []),
            name,
            f"{phase.time_ms:,.{decimals}f}",
            f"{phase.time_lo_ms:,.{decimals}f}",
            f"{phase.time_hi_ms:,.{decimals}f}",
            NONE if share is None else f"{share:.1%}",
            str(phase.kernels) if phase.kernels else NONE,
            number(phase.peak_extra_mib),
            number(phase.tflops),
            NONE if phase.mfu is None else f"{phase.mfu:.0%}",
            number(phase.tbs),
            phase.provenance,
        ]
        style = "dim" if phase.parent is not None else ""
        table.add_row(*(Text(cell) for cell in cells), style=style)
    return Fitted(table, ("TB/s", "MFU", "TFLOP/s", "peak MiB", "kernels", "share"))


def _heading(row: Row) -> str:
    method = row.method if row.layer == 0 else f"{row.method} layer {row.layer}"
    latency = "" if row.latency_ms is None else f", {number(row.latency_ms)} ms unprofiled"
    return f"{method}, engine {row.engine}{latency}"
